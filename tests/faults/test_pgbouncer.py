"""The whole service behind PgBouncer in transaction mode: every transaction on another connection.

The pool behind it is far smaller than what asks for it, so that each connection of the server is
handed from one workspace to the other all the time.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from faults.ledger import Ledger, assert_bounded, full_load
from faults.load import Answer, Load, Wire
from faults.refreshing import DURABLE, Site, a_run, a_site
from faults.test_refresh_faults import assert_nothing_happened
from support.bouncer import Bouncer, bounced, is_there
from support.process import Deployment, Replica, deployment
from support.refresh_history import NONE

from broker.sandbox import Faults
from vault.bearer import generate
from vault.database import FAILOVER_SECONDS
from vault.lifecycle.takeover import LEASE

HERE, THERE = "here", "there"
OPERATOR = generate("operator").reveal()
ENOUGH = 12
SERVER_CONNECTIONS = 4  # two replicas keep one each, for their locks
COMES_BACK = 10.0

pytestmark = pytest.mark.skipif(
    not is_there(), reason="there is no pgbouncer (.ci/run installs it)"
)


@contextlib.contextmanager
def behind(found: list[Bouncer], **settings: Any) -> Iterator[Deployment]:
    """A deployment whose replicas come through a pooler."""
    with (
        deployment(DURABLE, **settings) as made,
        bounced(made, size=SERVER_CONNECTIONS) as bouncer,
    ):
        found.append(bouncer)
        made.env.update(
            {f"KEYTURN_{name.upper()}": value for name, value in bouncer.settings.items()}
        )
        yield made


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[tuple[Site, Bouncer]]:
    found: list[Bouncer] = []
    async with a_site(tmp_path, HERE, THERE, on=partial(behind, found)) as made:
        yield made, found[0]


@pytest.fixture
def made() -> Iterator[tuple[Deployment, Bouncer]]:
    found: list[Bouncer] = []
    with behind(found) as one:
        yield one, found[0]


async def test_refreshes_token_reads_and_takeovers_work_and_nothing_leaks(
    site: tuple[Site, Bouncer],
) -> None:
    here, _ = site
    async with a_run(here, kind="graceful", size=2, faults=Faults(hold=0.5)) as run:
        run.begin()
        await run.until(ENOUGH)
        assert set(await run.pry()) == {404}, "another workspace's connections are not there"
        killed = await here.kill(await here.caught())
        run.record.killed.append(killed)
        begun = time.monotonic()
        await run.until(ENOUGH)
        assert_nothing_happened(await run.verdict())
        assert killed.held
        lasted = time.monotonic() - begun
        assert lasted < LEASE.total_seconds(), "its lock is known to be gone; no lease had to end"


class Workspace:
    """Clients of a workspace, who know what is theirs. Its users' ids are the other one's, too."""

    def __init__(self, replica: Replica, key: str, name: str) -> None:
        self.port = replica.port
        self.key = key
        self.name = name
        self.minted: set[str] = set()

    def names(self, user: str) -> str:
        return f"{user} of {self.name}"

    async def begin(self, load: Load) -> None:
        wire = Wire(self.port, self.key)
        for user in ("ada", "grace", "mary"):
            answer = await wire.call("PUT", f"/v1/users/{user}", {"name": self.names(user)})
            assert answer.ok
            for work in (self.read, self.mint):
                load.add(Wire(self.port, self.key), partial(work, user))
        wire.close()

    async def read(self, user: str, wire: Wire) -> Answer:
        answer = await wire.call("GET", f"/v1/users/{user}")
        assert answer.json["name"] == self.names(user)
        return answer

    async def mint(self, user: str, wire: Wire) -> Answer:
        wanted = {"agent_id": "a", "user_id": user, "runtime": "sealed", "delivery": "inline"}
        answer = await wire.call("POST", "/v1/conversations", wanted)
        assert answer.json["dynamic_variables"]["user_name"] == self.names(user)
        self.minted.add(answer.json["id"])
        return answer


async def test_two_workspaces_interleaved_over_few_connections_see_only_their_own(
    made: tuple[Deployment, Bouncer],
) -> None:
    deployed, _ = made
    replica, key = await deployed.one_replica(operator_key=OPERATOR)
    operator = Wire(replica.port, OPERATOR)
    other = (await operator.call("POST", "/v1/workspaces", {"name": THERE})).json["api_key"]
    here, there = Workspace(replica, key, HERE), Workspace(replica, other, THERE)
    load = Load()
    for one in (here, there):
        await one.begin(load)
    await load.until(600)
    answers = await load.stop()
    assert {one.status for one in answers} == {200, 201}
    for mine, theirs in ((here, there), (there, here)):
        wire, foreign = Wire(replica.port, mine.key), Wire(replica.port, theirs.key)
        for conversation in list(mine.minted)[:20]:
            assert (await wire.call("GET", f"/v1/conversations/{conversation}")).status == 200
            assert (await foreign.call("GET", f"/v1/conversations/{conversation}")).status == 404
        wire.close()
        foreign.close()
    operator.close()
    assert "Traceback" not in replica.stderr


async def test_a_pooler_that_dies_and_comes_back_loses_nothing(
    made: tuple[Deployment, Bouncer],
) -> None:
    deployed, bouncer = made
    replica, key = await deployed.one_replica()
    ledger = Ledger()
    load = full_load(ledger, replica, key)
    await load.until(100)
    bouncer.stop()
    await asyncio.sleep(1)
    await asyncio.to_thread(bouncer.start)
    back = time.monotonic()
    await load.until(len(load.answers) + 150)
    answers = await load.stop()
    assert ledger.unclean == []
    assert_bounded(answers, FAILOVER_SECONDS + COMES_BACK)
    assert [one.status for one in answers if one.begun > back + COMES_BACK and not one.ok] == []
    wire = Wire(replica.port, key)
    await ledger.compare(wire)
    assert (await wire.call("GET", "/readyz")).status == 200
    wire.close()


async def test_refreshes_under_way_while_the_pooler_is_gone_are_not_made_twice(
    site: tuple[Site, Bouncer],
) -> None:
    """With it go everybody's locks, while the server runs on: no sign that anybody is dead."""
    here, bouncer = site
    async with a_run(here, size=2, faults=Faults(hold=2.0)) as run:
        run.begin()
        await run.until(ENOUGH)
        await here.busy()
        bouncer.stop()
        await asyncio.sleep(4)
        await asyncio.to_thread(bouncer.start)
        await run.until(ENOUGH)
        found = await run.verdict()
        assert found.faults == NONE, found
