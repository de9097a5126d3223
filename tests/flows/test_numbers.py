"""Numbers of the deployment: of all workspaces, by provider, and naming none of them."""

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from support.alive import Alive, leave_nothing_due, workspace_in
from support.api import Api, Running, running
from support.losing import full, until_spooled

from broker import boot
from broker.metrics import Metrics
from broker.sandbox import Faults
from broker.settings import Settings
from vault.vault import Vault, counting

Numbers = dict[str, float]


@pytest.fixture
def counts_each_time(alive: Alive, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits a minute for the next count, nor for the one that another test has begun."""
    monkeypatch.setattr(counting, "COUNT_SECONDS", 0.0)
    monkeypatch.setattr(counting, "SHARE", 0)
    for one in (alive.left, alive.right):
        vars(one).pop("_tally", None)


@pytest.fixture
async def other(alive: Alive) -> AsyncIterator[Alive]:
    """Another workspace at the same provider."""
    caller = await workspace_in(alive.over, "another")
    yield Alive(alive.over, caller, alive.sandbox, alive.wire)
    await leave_nothing_due(alive.over, [caller])


def numbers(text: str, *names: str) -> Numbers:
    line = re.compile(r"^(\w+)(\{[^}]*\})? ([\d.e+-]+)$", re.MULTILINE)
    return {
        name + labels: float(value) for name, labels, value in line.findall(text) if name in names
    }


async def counted(vault: Vault, *names: str) -> Numbers:
    metrics = Metrics()
    assert await boot.counting(vault, metrics).work() == 0
    return numbers(metrics.text().decode(), *names)


@pytest.mark.usefixtures("counts_each_time")
async def test_connections_are_counted_by_provider_and_state_over_all_workspaces(
    alive: Alive, other: Alive
) -> None:
    async def found() -> Numbers:
        return await counted(alive.left, "keyturn_connections")

    await alive.integrate("strict")
    await other.integrate("steady")
    ada, _ = await alive.people(2)
    await other.connect()
    assert await found() == {
        'keyturn_connections{provider="strict",state="active"}': 2,
        'keyturn_connections{provider="steady",state="active"}': 1,
    }
    alive.sandbox.misbehave(Faults(status=400, body='{"error": "invalid_grant"}', times=1))
    await alive.token(ada, rejected=True)
    await other.left.delete_connection(other.caller, (await other.connect("bob")))
    assert await found() == {
        'keyturn_connections{provider="strict",state="active"}': 1,
        'keyturn_connections{provider="strict",state="suspect"}': 1,
        'keyturn_connections{provider="steady",state="active"}': 1,
    }


@pytest.mark.usefixtures("counts_each_time")
async def test_endpoints_are_counted_by_standing_and_open_circuits(alive: Alive) -> None:
    names = ("keyturn_token_endpoints", "keyturn_token_endpoints_broken")
    await alive.integrate("steady")
    people = await alive.people(22)
    await alive.token(people[0], rejected=True)
    fine = {
        'keyturn_token_endpoints{provider="steady",standing="open"}': 1,
        'keyturn_token_endpoints_broken{provider="steady"}': 0,
    }
    assert await counted(alive.left, *names) == fine
    alive.sandbox.misbehave(Faults(status=503))
    for one in people:
        await alive.token(one, rejected=True, wait=2)
        await alive.settled()
    broken = await counted(alive.right, *names)
    assert broken == fine | {'keyturn_token_endpoints_broken{provider="steady"}': 1}
    alive.sandbox.misbehave(None)
    await alive.passes(minutes=3)
    await alive.token(people[-1], rejected=True)
    assert await counted(alive.left, *names) == fine


async def test_how_long_the_oldest_has_waited_is_known(alive: Alive) -> None:
    name = "keyturn_refresh_oldest_due_seconds"
    await alive.integrate()
    ada = await alive.connect()
    await alive.sweep()
    assert await counted(alive.left, name) == {name: 0}
    await alive.over.admin.execute(
        "update vault.connection_lives set due_at = now() - interval '5 minutes'"
        " where connection_id = $1",
        ada,
    )
    assert 300 <= (await counted(alive.left, name))[name] < 400


async def test_what_waits_in_the_spool_and_whether_there_is_room_is_known(alive: Alive) -> None:
    names = ("keyturn_spool_answers", "keyturn_spool_writable")
    await alive.integrate()
    ada = await alive.connect()
    assert await counted(alive.left, *names) == dict(zip(names, (0, 1), strict=True))
    async with full(alive, "connection_tokens"):
        asked = asyncio.create_task(alive.token(ada, rejected=True, wait=1))
        await until_spooled(alive)
        assert await counted(alive.right, *names) == dict(zip(names, (1, 1), strict=True))
        await asked
    await alive.settled()
    assert await counted(alive.left, *names) == dict(zip(names, (0, 1), strict=True))


async def test_a_spool_that_is_gone_is_known_before_an_answer_needs_it(
    alive: Alive, tmp_path: Path
) -> None:
    spool = tmp_path / "spool"
    async with alive.over.another(spool=spool) as replica:
        assert replica.refreshes_under_way == 0
        spool.rmdir()
        assert await counted(replica, "keyturn_spool_writable") == {"keyturn_spool_writable": 0}
        spool.mkdir()
        assert await counted(replica, "keyturn_spool_writable") == {"keyturn_spool_writable": 1}


async def test_connections_are_not_counted_again_within_a_minute(
    alive: Alive, monkeypatch: pytest.MonkeyPatch
) -> None:
    await alive.integrate()
    async with alive.over.another() as replica:
        assert await counted(replica, "keyturn_connections") == {}
        await alive.connect()
        assert await counted(replica, "keyturn_connections") == {}
        assert await counted(alive.left) == {}
    monkeypatch.setattr(counting, "COUNT_SECONDS", 0.0)
    monkeypatch.setattr(counting, "SHARE", 10**9)
    async with alive.over.another() as replica:
        await counted(replica)
        await alive.connect("grace")
        found = await counted(replica, "keyturn_connections")
        assert sum(found.values()) < 2, "what took long is counted seldom"


@pytest.fixture
async def shown(alive: Alive, settings: Settings) -> AsyncIterator[Running]:
    async with running(alive.left, settings) as service:
        yield service


@pytest.mark.usefixtures("counts_each_time")
async def test_the_numbers_name_no_workspace_no_user_and_no_integration(
    alive: Alive, shown: Running
) -> None:
    await alive.integrate("strict")
    ada = await alive.connect("canary-user")
    await alive.token(ada, rejected=True)
    await boot.counting(alive.left, shown.service.metrics).work()
    async with aiohttp.ClientSession() as session:
        text = (await Api(session, shown.base).get("/metrics")).body.decode()
    assert 'keyturn_connections{provider="strict",state="active"} 1.0' in text
    assert 'keyturn_refresh_lag_seconds_count{provider="strict"}' in text
    for name in (alive.caller.workspace, "canary-user", ada, "acme", alive.caller.actor_id):
        assert name not in text
