"""A rolling upgrade: the schema moves first, and the version before goes on running on it.

The code of ``previous.txt`` comes out of git and migrates an empty database to its schema. Under
load on two of its replicas the schema is brought to today's; two of today's join, the older two
leave. No request fails at any time, and no token is used twice.
"""

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import aiohttp
import asyncpg
import pytest
from faults.load import Answer, Dropped, Load, Wire
from flows.test_refreshing_processes import GRACE, House
from msgspec import Struct
from support.api import Api
from support.earlier import archive, migrate_as, replica_of, unpacked
from support.process import CHECKOUT, Deployment, Replica, deployment
from support.provider_file import graceful, write_providers
from support.sandbox import Provider, providing

from broker.sandbox.history import tally

PREVIOUS: Final = Path(__file__).with_name("previous.txt")
PAUSE = 0.02
ENOUGH = 60
# An access token that ends soon: replicas of both versions refresh in the background.
LIFETIME = 10


def previous() -> str:
    lines = [one.strip() for one in PREVIOUS.read_text().splitlines()]
    return [one for one in lines if one and not one.startswith("#")][-1]


@pytest.fixture(scope="module")
def older(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the code of the version before."""
    return unpacked(previous(), tmp_path_factory)


class Roll(Struct, frozen=True):
    """Two versions of the product on one database, and what is asked of them."""

    made: Deployment
    older: Path
    load: Load
    house: House
    connection: str

    def ask(self, replica: Replica) -> None:
        """Put every kind of load on a replica."""
        for work in self._kinds():
            self.load.add(Wire(replica.port, self.house.key), work, PAUSE)

    def _kinds(self) -> list[Callable[[Wire], Awaitable[Answer]]]:
        connection = f"/v1/connections/{self.connection}"
        wanted = {"agent_id": "agent_1", "user_id": "ada", "runtime": "sealed"}
        return [
            _taking_turns(
                *(("PUT", f"/v1/users/user-{n}", {"name": f"name {n}"}) for n in range(7)),
                ("GET", "/v1/users"),
                ("GET", "/v1/audit-events?limit=5"),
            ),
            _taking_turns(
                ("GET", "/v1/convai/environment-variables"), ("GET", "/v1/integrations/acme")
            ),
            _taking_turns(("POST", "/v1/conversations", wanted)),
            _taking_turns(("POST", f"{connection}/token", {}), ("GET", connection)),
        ]


def _taking_turns(*requests: tuple[Any, ...]) -> Callable[[Wire], Awaitable[Answer]]:
    every = itertools.cycle(requests)

    async def work(wire: Wire) -> Answer:
        request = next(every)
        try:
            return await wire.call(*request)
        except Dropped:
            # A kept connection was closed at the very moment: whoever meets that asks once more,
            # on a new one. All of this may be asked twice.
            return await wire.call(*request)

    return work


async def versions(made: Deployment) -> dict[str, int]:
    admin = await asyncpg.connect(made.owner.reveal())
    rows = await admin.fetch("select part, max(version) from vault.schema_migrations group by part")
    await admin.close()
    return dict(rows)


@pytest.fixture
async def roll(older: Path, tmp_path: Path) -> AsyncIterator[tuple[Roll, list[Replica]]]:
    catalogue = write_providers(tmp_path / "providers", {"graceful": graceful(GRACE)})
    with deployment(
        providers_dir=catalogue, spool_dir=tmp_path / "spool", egress_allow="127.0.0.1"
    ) as made:
        migrate_as(made, older)
        first, second = replicas = [replica_of(made, older) for _ in range(2)]
        try:
            await asyncio.gather(first.ready(), second.ready())
            [key] = [one.first_key for one in replicas if one.first_key]
            async with providing() as provider, aiohttp.ClientSession() as session:
                house = House(made, provider, session, key)
                connection = await house.connect(first, lifetime=LIFETIME)
                _forget_lifetime(provider)
                yield Roll(made, older, Load(), house, connection), replicas
        finally:
            for one in replicas:
                one.kill()


def _forget_lifetime(provider: Provider) -> None:
    """Every token that is given from now on ends as soon."""
    issuing = provider.state.issuing
    provider.state.issuing = type(issuing)(
        lifetime=LIFETIME, rotation="grace", grace=30, replay_revokes=True
    )


async def test_the_version_before_runs_beside_this_one_on_todays_schema(
    roll: tuple[Roll, list[Replica]],
) -> None:
    here, old = roll
    load = here.load
    before = await versions(here.made)
    for one in old:
        here.ask(one)
    await load.until(ENOUGH)
    await here.made.migrate()
    assert await versions(here.made) != before, "name a version whose schema is older"
    await load.until(len(load.answers) + ENOUGH)
    new = [here.made.start(drain_seconds=1) for _ in range(2)]
    await asyncio.gather(*(one.ready() for one in new))
    for one in new:
        here.ask(one)
    await load.until(len(load.answers) + 2 * ENOUGH)
    await both_ways(here.house.api(old[0]), here.house.api(new[0]))
    for one in old:
        assert await one.stop() == 0
    await load.until(len(load.answers) + ENOUGH)
    answers = await load.stop()
    wrong = {(one.status, one.body[:300]) for one in answers if not one.ok}
    assert wrong == set()
    # Those whose replica had gone sent nothing: four kinds of load on each.
    assert load.refused <= 8
    assert not tally(here.house.provider.state.history.events()).ended_by_replay
    connection = await here.house.read(new[0], here.connection)
    assert connection["state"] == "active"
    assert connection["generation"] > 1, "it was refreshed meanwhile"


async def both_ways(old: Api, new: Api) -> None:
    """What one version wrote the other one opens."""
    for writes, reads, name in ((old, new, "before"), (new, old, "after")):
        assert (await writes.put("/v1/users/grace", {"name": name})).status in (200, 201)
        assert (await reads.get("/v1/users/grace")).json["name"] == name


def test_the_version_before_is_named_once_and_its_files_are_unchanged(older: Path) -> None:
    """A migration that was applied somewhere is never edited."""
    lines = [one for one in PREVIOUS.read_text().splitlines() if one and not one.startswith("#")]
    assert len(lines) == 1
    files = [one for part in ("vault", "broker") for one in older.glob(f"{part}/migrations/0*.sql")]
    assert files
    for file in files:
        today = CHECKOUT / file.relative_to(older)
        assert today.read_bytes() == file.read_bytes(), file.name


async def test_a_revision_that_git_does_not_have_is_told(older: Path) -> None:
    assert await asyncio.to_thread(archive, "0" * 40) is None
