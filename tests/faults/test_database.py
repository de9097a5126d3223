"""The database restarts, hangs, or is busy: clean answers meanwhile, and nothing lost after."""

import asyncio
import contextlib
import itertools
import os
import signal
import time
from collections.abc import Iterator

import asyncpg
import pytest
from faults.ledger import Ledger, assert_bounded, full_load
from faults.load import Wire
from support.process import Deployment, backends, deployment, has_died, postmaster

from vault.database import FAILOVER_SECONDS
from vault.database.line import STILL_SECONDS

# A crash of the server, unlike one of the machine, loses no write that reached the kernel.
DURABLE = {"fsync": "off"}
# A replica waits between two tries, and connects; the machine may be busy.
COMES_BACK = 10.0


@pytest.fixture
def made() -> Iterator[Deployment]:
    with deployment(DURABLE) as one:
        yield one


async def gone(pid: int) -> None:
    for _ in range(1000):
        if has_died(pid):
            return
        await asyncio.sleep(0.01)
    raise AssertionError("the server does not end")


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT], ids=["fast", "immediate"])
async def test_a_restart_of_the_database_under_load_loses_nothing(
    made: Deployment, how: signal.Signals
) -> None:
    replica, key = await made.one_replica()
    ledger = Ledger()
    load = full_load(ledger, replica, key)
    await load.until(100)
    server, back = postmaster(made.postgres.data), 0.0
    for _ in range(2):
        os.kill(server, how)
        await gone(server)
        await asyncio.sleep(0.5)
        await asyncio.to_thread(made.postgres.start)
        server, back = postmaster(made.postgres.data), time.monotonic()
        await load.until(len(load.answers) + 150)
    answers = await load.stop()
    assert ledger.unclean == []
    assert load.refused == 0
    assert_bounded(answers, FAILOVER_SECONDS + COMES_BACK)
    late = [one for one in answers if one.begun > back + COMES_BACK]
    assert [one for one in answers if one.ok and back < one.ended < back + COMES_BACK]
    assert [one.status for one in late if one.status == 503] == []
    wire = Wire(replica.port, key)
    await ledger.compare(wire)
    assert (await wire.call("GET", "/readyz")).status == 200
    wire.close()


async def test_a_long_absence_of_the_database_is_answered_cleanly_and_in_time(
    made: Deployment,
) -> None:
    replica, key = await made.one_replica()
    server = postmaster(made.postgres.data)
    os.kill(server, signal.SIGINT)
    await gone(server)
    wires = [Wire(replica.port, key) for _ in range(20)]
    answers = await asyncio.gather(*[wire.call("GET", "/v1/users") for wire in wires])
    assert all(answer.is_clean_refusal for answer in answers)
    assert_bounded(list(answers), FAILOVER_SECONDS + 10)
    again = await asyncio.gather(*[wire.call("GET", "/v1/users") for wire in wires])
    assert all(answer.is_clean_refusal for answer in again)
    assert_bounded(list(again), FAILOVER_SECONDS)  # it is known to be away: nobody waits for it
    readiness = await wires[0].call("GET", "/readyz")
    assert readiness.status == 503
    assert readiness.ended - readiness.begun < FAILOVER_SECONDS, "it waits for nobody"
    assert (await wires[0].call("GET", "/livez")).status == 200
    await asyncio.to_thread(made.postgres.start)
    assert (await wires[1].call("GET", "/v1/users")).status == 200
    assert await replica.readiness() == 200
    for wire in wires:
        wire.close()


async def test_a_busy_pool_refuses_in_time_and_is_well_again_afterwards(made: Deployment) -> None:
    replica, key = await made.one_replica(database_pool=2)
    admin = await asyncpg.connect(made.postgres.dsn().reveal())
    wires = [Wire(replica.port, key) for _ in range(8)]
    async with admin.transaction():
        await admin.execute("lock table vault.api_keys in access exclusive mode")
        calls = [asyncio.create_task(wire.call("GET", "/v1/users")) for wire in wires]
        async with asyncio.timeout(10):
            held = "select count(*) from pg_locks where not granted"
            while await admin.fetchval(held) < 2:  # noqa: ASYNC110 - who waits tells nobody
                await asyncio.sleep(0.05)
        alive = Wire(replica.port, key)
        livez = await alive.call("GET", "/livez")
        assert (livez.status, livez.ended - livez.begun < STILL_SECONDS) == (200, True)
        readyz = await alive.call("GET", "/readyz")
        checks = {one["name"]: one["ok"] for one in readyz.json["checks"]}
        # The server is there, and says so, although the pool has nothing left to ask it with.
        assert (readyz.status, checks["database"]) == (503, True)
        soon = itertools.islice(asyncio.as_completed(calls, timeout=60), 6)
        refused = [await one for one in soon]
        waiting = [one for one in calls if not one.done()]
        assert len(waiting) == 2, "two hold the pool's connections"
        assert {one.json["detail"] for one in refused} == {"All database connections are busy."}
        assert all(one.is_clean_refusal for one in refused)
    for one in waiting:
        assert (await one).status == 200
    assert (await wires[0].call("GET", "/v1/users")).status == 200
    await admin.close()
    for wire in (alive, *wires):
        wire.close()


@contextlib.contextmanager
def hung(server: int) -> Iterator[None]:
    """Stop a server's processes as a dead disk would: they are there, and do nothing."""
    pids = [server, *backends(server)]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


@pytest.mark.soak
async def test_a_database_that_hangs_does_not_hang_us(made: Deployment) -> None:
    replica, key = await made.one_replica(database_pool=4)
    wires = [Wire(replica.port, key) for _ in range(12)]
    warm = await asyncio.gather(*[wire.call("GET", "/v1/users") for wire in wires])
    assert {one.status for one in warm} == {200}
    alive = Wire(replica.port, key)
    with hung(postmaster(made.postgres.data)):
        calls = [asyncio.create_task(wire.call("GET", "/v1/users")) for wire in wires]
        await asyncio.sleep(0.2)
        livez, readyz = [await alive.call("GET", path) for path in ("/livez", "/readyz")]
        assert (livez.status, readyz.status) == (200, 503)
        assert readyz.ended - readyz.begun < 4
        answers = await asyncio.gather(*calls)
    assert [one.body for one in answers if not one.is_clean_refusal] == []
    assert_bounded(answers, 30)
    again = await asyncio.gather(*[wire.call("GET", "/v1/users") for wire in wires])
    assert {one.status for one in again} == {200}
    assert await replica.readiness() == 200
    assert "Traceback" not in replica.stderr
    for wire in (alive, *wires):
        wire.close()
