"""More wait for the database than it has connections: fair, bounded, and over when it is over."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import asyncpg
import pytest
from conftest import MakeTenant, Tenant

from vault import database
from vault.database import Database, Transaction, line
from vault.embedded import Embedded
from vault.errors import NotReady

FLOOD = 150
SLOWLY = "select pg_sleep(0.01)"


@pytest.fixture
async def two_connections(migrated: Embedded) -> AsyncIterator[Database]:
    opened = await Database.open(migrated.dsn("keyturn_app"), size=2, statement_cache=0)
    yield opened
    await opened.close()


@pytest.fixture
async def one_connection(migrated: Embedded) -> AsyncIterator[Database]:
    opened = await Database.open(migrated.dsn("keyturn_app"), size=1, statement_cache=0)
    yield opened
    await opened.close()


def noting(
    done: list[str], name: str, sql: str = SLOWLY
) -> Callable[[Transaction], Awaitable[Any]]:
    async def work(tx: Transaction) -> None:
        await tx.fetch(sql, ())
        done.append(name)

    return work


async def test_a_workspace_that_floods_the_pool_waits_for_itself_and_not_its_neighbour(
    two_connections: Database, make_tenant: MakeTenant
) -> None:
    noisy, quiet = await make_tenant(), await make_tenant()
    done: list[str] = []
    flood = [
        asyncio.create_task(two_connections.run(noisy.id, noting(done, "noisy")))
        for _ in range(FLOOD)
    ]
    await asyncio.sleep(0)
    for _ in range(10):
        await two_connections.run(quiet.id, noting(done, "quiet"))
    before = done[: len(done) - done[::-1].index("quiet")].count("noisy")
    assert before < FLOOD / 3, "ten in turn are through while most of the flood still waits"
    await asyncio.gather(*flood)
    assert done.count("noisy") == FLOOD, "and nobody of it was refused: the line moved"


async def test_what_one_key_asks_for_again_and_again_keeps_no_other_key_waiting(
    two_connections: Database,
) -> None:
    done: list[str] = []

    async def look(key: bytes) -> None:
        await two_connections.lookup("select pg_sleep(0.01), $1::bytea", (key,))
        done.append(key.decode())

    flood = [asyncio.create_task(look(b"noisy")) for _ in range(FLOOD)]
    await asyncio.sleep(0)
    await look(b"quiet")
    assert done.index("quiet") < FLOOD / 10
    await asyncio.gather(*flood)


async def test_what_keeps_tokens_alive_goes_ahead_and_leaves_the_others_a_place(
    two_connections: Database, tenant: Tenant
) -> None:
    done: list[str] = []
    run = two_connections.run
    flood = [asyncio.create_task(run(tenant.id, noting(done, "request"))) for _ in range(100)]
    await asyncio.sleep(0)
    ahead = [
        asyncio.create_task(run(tenant.id, noting(done, "refresh"), ahead=True)) for _ in range(20)
    ]
    await asyncio.gather(*ahead)
    seen = done.count("request")
    assert 0 < seen < 60, "neither stands still for the other"
    await asyncio.gather(*flood)


async def test_nobody_waits_for_a_pool_that_stands_still(
    one_connection: Database, tenant: Tenant, migrated: Embedded
) -> None:
    done: list[str] = []
    lock = "select pg_advisory_lock(4711)"
    holder = await asyncpg.connect(migrated.dsn().reveal())
    await holder.execute(lock)
    held = asyncio.create_task(one_connection.run(tenant.id, noting(done, "held", lock)))
    async with asyncio.timeout(10):
        waiting = "select count(*) from pg_locks where locktype = 'advisory' and not granted"
        while not await holder.fetchval(waiting):  # noqa: ASYNC110 - who waits tells nobody
            await asyncio.sleep(0.05)
    refused = await asyncio.gather(
        *(one_connection.run(tenant.id, noting(done, "waits")) for _ in range(50)),
        return_exceptions=True,
    )
    assert all(isinstance(one, NotReady) for one in refused)
    assert {str(one) for one in refused} == {"All database connections are busy."}
    assert done == [], "they were told while it was still held"
    await holder.close()
    await held
    await one_connection.run(tenant.id, noting(done, "after"))
    assert done == ["held", "after"]


async def test_who_goes_away_leaves_the_line_and_no_place_is_lost(
    one_connection: Database, tenant: Tenant
) -> None:
    done: list[str] = []
    tasks = [
        asyncio.create_task(one_connection.run(tenant.id, noting(done, str(number))))
        for number in range(60)
    ]
    for number, task in enumerate(tasks):
        if number % 2:
            await asyncio.sleep(0.003 * (number % 3))
            task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert {str(number) for number in range(0, 60, 2)} <= set(done)
    for _ in range(3):
        await one_connection.run(tenant.id, noting(done, "after"))
    assert one_connection.open_connections <= 1


async def test_who_loses_connection_after_connection_gives_up_though_others_get_through(
    two_connections: Database, tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "FAILOVER_SECONDS", 2.0)
    done: list[str] = []
    ends = noting(done, "never", "select pg_terminate_backend(pg_backend_pid())")
    lost = asyncio.create_task(two_connections.run(tenant.id, ends))
    async with asyncio.timeout(60):
        while not lost.done():
            await two_connections.run(tenant.id, noting(done, "well"))
    with pytest.raises(NotReady, match="cannot be reached"):
        await lost
    assert set(done) == {"well"}


async def test_a_process_that_itself_stood_still_waits_on(
    one_connection: Database, tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(line, "STILL_SECONDS", 1.0)
    done: list[str] = []
    release = asyncio.Event()

    async def hold(tx: Transaction) -> None:
        await tx.fetch("select 1", ())
        done.append("holds")
        await release.wait()

    held = asyncio.create_task(one_connection.run(tenant.id, hold))
    waits = asyncio.create_task(one_connection.run(tenant.id, noting(done, "waited")))
    while not done:  # noqa: ASYNC110 - nobody is told
        await asyncio.sleep(0)
    time.sleep(1.0 + line.ASLEEP + 0.5)  # noqa: ASYNC251 - as by SIGSTOP
    asyncio.get_running_loop().call_later(0.2, release.set)
    await asyncio.gather(held, waits)
    assert done == ["holds", "waited"]
