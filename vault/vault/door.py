"""What every part of the door stands on: database, seals, egress, catalogue, pepper."""

from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from vault import bearer
from vault.database import Database
from vault.egress import Egress
from vault.errors import Conflict, NotFound
from vault.keyring import Keyring
from vault.providers import Catalogue
from vault.secret import Secret
from vault.store import Store

T = TypeVar("T")

WRITE_TRIES: Final = 5


class Door:
    """The base of the door's parts."""

    def __init__(
        self,
        database: Database,
        keyring: Keyring,
        egress: Egress,
        catalogue: Catalogue,
        *,
        deployment_id: str,
        pepper: bytes,
    ) -> None:
        self.deployment_id = deployment_id
        self._database = database
        self._keyring = keyring
        self._egress = egress
        self._catalogue = catalogue
        self._pepper = pepper
        self._store = Store(database, keyring)

    def fingerprint(self, text: str | Secret | bytes) -> bytes:
        """A hash that only this deployment can make."""
        held = text.decode("latin-1") if isinstance(text, bytes) else text
        return bearer.fingerprint(self._pepper, held)


async def written(attempt: Callable[[], Awaitable[T | None]]) -> T:
    """Try a compare-and-set until it holds, within reason."""
    for _ in range(WRITE_TRIES):
        outcome = await attempt()
        if outcome is not None:
            return outcome
    raise Conflict("This is being written by many at once.")


def found(thing: T | None) -> T:
    """Return it, or say that there is no such thing."""
    if thing is None:
        raise NotFound
    return thing
