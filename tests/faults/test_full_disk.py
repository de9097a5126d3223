"""The database's disk fills up during load: clean answers, and all of it works again after."""

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest
from faults.load import Answer, Load, Wire
from support.process import Deployment, Replica, deployment, has_died, postmaster
from support.small_disk import fill, small_disk

from vault.database import FAILOVER_SECONDS

# A replica waits between two tries, and connects; the machine may be busy.
COMES_BACK = 15.0
SIZE = 140 * 1024 * 1024
SMALL = {"fsync": "off", "max_wal_size": "32MB", "min_wal_size": "32MB"}


@pytest.fixture
def disk() -> Iterator[Path]:
    with small_disk(SIZE) as found:
        yield found


@pytest.fixture
def made(disk: Path) -> Iterator[Deployment]:
    with deployment(SMALL, root=disk / "pg") as one:
        yield one


def writers(replica: Replica, key: str, told: set[str]) -> Load:
    load = Load()
    for number in range(8):
        count = 0

        async def work(wire: Wire, number: int = number) -> Answer:
            nonlocal count
            count += 1
            user, value = f"user{number}-{count}", "x" * 900
            body = {"attributes": {f"a{index}": value for index in range(20)}}
            answer = await wire.call("PUT", f"/v1/users/{user}", body)
            if answer.ok:
                told.add(user)
            return answer

        load.add(Wire(replica.port, key), work, pause=0.01)
    return load


@pytest.mark.parametrize("full", ["tables", "log"])
async def test_a_full_disk_is_answered_cleanly_and_recovered_from(
    made: Deployment, disk: Path, full: str
) -> None:
    replica, key = await made.one_replica()
    told: set[str] = set()
    server = postmaster(made.postgres.data)
    load = writers(replica, key, told)
    await load.until(50)
    ballast = fill(disk, 1024 * 1024 if full == "tables" else 0)
    if full == "log":
        await switch_log(made)
    refused = await first_refusal(load)
    assert refused.is_clean_refusal
    await load.until(len(load.answers) + 8)
    assert has_died(server) == (full == "log"), "PostgreSQL ends when its log cannot grow"
    ballast.unlink()
    await asyncio.to_thread(made.postgres.start)
    at = time.monotonic()
    await recovered(load, at)
    answers = await load.stop()
    assert [one.body for one in answers if not (one.ok or one.is_clean_refusal)] == []
    assert max(one.ended - one.begun for one in answers) < FAILOVER_SECONDS + COMES_BACK
    wire = Wire(replica.port, key)
    lost = [user for user in told if (await wire.call("GET", f"/v1/users/{user}")).status != 200]
    assert lost == []
    assert (await wire.call("GET", "/readyz")).status == 200
    wire.close()


async def switch_log(made: Deployment) -> None:
    """Make the server need a new segment of its log, which it cannot have: it panics."""
    admin = await asyncpg.connect(made.postgres.dsn().reveal())
    try:
        for _ in range(8):
            await admin.execute("select pg_switch_wal()")
            await admin.execute("create table if not exists vault.filler (it text)")
            await admin.execute("drop table vault.filler")
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
        return
    finally:
        admin.terminate()


async def first_refusal(load: Load) -> Answer:
    for _ in range(3000):
        for answer in load.answers:
            if not answer.ok:
                return answer
        await asyncio.sleep(0.01)
    raise AssertionError("the disk never filled up")


async def recovered(load: Load, at: float) -> None:
    """Wait until writes work again, and none fails any more."""
    for _ in range(3000):
        if [one for one in load.answers if one.ok and one.begun > at]:
            break
        await asyncio.sleep(0.01)
    back = time.monotonic()
    assert back - at < COMES_BACK
    await load.until(len(load.answers) + 100)
    assert [
        one.status for one in load.answers if one.begun > back + COMES_BACK and not one.ok
    ] == []
