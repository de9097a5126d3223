"""Red lights: why a replica should get no requests now, each in one sentence.

* ``/readyz`` and ``keyturn doctor`` ask here, and so say the same in the same words.
* One cause is one sentence: while the database is away, what is in it is not asked about.
* They are read without a key: no sentence names a workspace, a user or a value of a setting.
"""

import asyncio
from collections.abc import Awaitable
from typing import Final, Literal

from msgspec import Struct

from broker.migrations import PARTS
from vault.errors import VaultError
from vault.keyring import Degraded
from vault.vault import Vault

Name = Literal[
    "database",
    "connections",
    "roles",
    "schema",
    "refreshing",
    "root_key",
    "scheduler",
    "draining",
]

CHECK_SECONDS: Final = 3.0
# A tick comes every second; a replica whose ticks are so late keeps nothing alive.
MAX_LATE: Final = 60.0

LATE: Final = "What is done in the background is not done."
STOPS: Final = "The replica stops."
SLOW: Final = "It did not answer in time."


class Light(Struct, frozen=True):
    """One thing that was looked at; red ones have a reason.

    ``bearable``: it is red, and the replica is still of more use than none.
    """

    name: Name
    reason: str | None = None
    bearable: bool = False

    @property
    def ok(self) -> bool:
        return self.reason is None


async def of_vault(vault: Vault) -> list[Light]:
    """Look at everything that a vault stands on."""
    root_key, rest = await asyncio.gather(
        _look("root_key", vault.check_root_key()), _of_database(vault)
    )
    return [*rest, root_key]


async def _of_database(vault: Vault) -> list[Light]:
    found = [await _look("database", vault.check_database())]
    if found[-1].ok:
        found.append(await _look("connections", vault.check_connections()))
    if not found[-1].ok:
        names: tuple[Name, ...] = ("connections", "roles", "schema", "refreshing")
        return found + [_unknown(one, found[-1]) for one in names[len(found) - 1 :]]
    found += await asyncio.gather(
        _look("roles", vault.check_roles()),
        _look("schema", vault.check_schema(PARTS)),
        _look("refreshing", vault.check_refreshing()),
    )
    return found


def of_process(late_by: float | None, *, draining: bool) -> list[Light]:
    """Tell how this process fares; ``None``: it does nothing in the background."""
    found = [] if late_by is None else [Light("scheduler", LATE if late_by > MAX_LATE else None)]
    return [*found, Light("draining", STOPS if draining else None)]


def _unknown(name: Name, cause: Light) -> Light:
    return Light(name, f"It cannot be asked while the light '{cause.name}' is red.")


async def _look(name: Name, question: Awaitable[None]) -> Light:
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            await question
    except VaultError as error:
        return Light(name, error.message, bearable=isinstance(error, Degraded))
    except TimeoutError:
        return Light(name, SLOW)
    return Light(name)
