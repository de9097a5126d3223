"""What tries our refreshing can see: the naive design, tried the same way, loses everything."""

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest
from faults.load import Refused, Wire
from faults.refreshing import LIFETIME, Run, a_consent, a_provider
from support.connecting import SECRET
from support.naive import TABLE
from support.ports import free_port
from support.process import CHECKOUT, PATIENCE
from support.sandbox import Provider

from vault.secret import Secret

WORKSPACES = ("here", "there")
CONNECTIONS = 6  # of each


@pytest.fixture
async def table(fresh_database: Secret) -> AsyncIterator[Any]:
    """The naive design's table, as its superuser sees it."""
    admin = await asyncpg.connect(fresh_database.reveal())
    await admin.execute(TABLE)
    yield admin
    await admin.close()


@pytest.fixture
def ports(table: Any, fresh_database: Secret, provider: Provider) -> Iterator[list[int]]:
    """Two processes of the naive design."""
    found = [free_port() for _ in range(2)]
    environment = {
        "PATH": "/usr/bin:/bin",
        "PYTHONPATH": f"{CHECKOUT}:{CHECKOUT / 'tests'}",
        "NAIVE_DATABASE": fresh_database.reveal(),
        "NAIVE_CLIENT_SECRET": SECRET,
    }
    with contextlib.ExitStack() as stack:
        for port in found:
            words = [sys.executable, "-m", "support.naive", str(port), provider.token_url]
            process = subprocess.Popen(words, env=environment, cwd="/")
            stack.callback(process.wait, PATIENCE)
            stack.callback(process.kill)
        yield found


@pytest.fixture
async def provider() -> AsyncIterator[Provider]:
    async with a_provider("strict") as found:
        yield found


async def connect(run: Run, table: Any) -> None:
    """Rows as an import would write them."""
    for workspace in WORKSPACES:
        run.provider.register(workspace, secret=SECRET)
        for number in range(CONNECTIONS):
            family, pair = a_consent(run.provider, workspace)
            ends_at = datetime.now(UTC) + timedelta(seconds=LIFETIME)
            await table.execute(
                "insert into connections (connection, workspace, access, refresh, ends_at)"
                " values ($1, $2, $3, $4, $5)",
                f"{workspace}-{number}",
                workspace,
                pair.access,
                pair.refresh,
                ends_at,
            )
            run.connected(f"{workspace}-{number}", workspace, family)


async def listening(ports: list[int]) -> None:
    for port in ports:
        async with asyncio.timeout(PATIENCE):
            while True:
                with contextlib.suppress(Refused):
                    wire = Wire(port, "nobody")
                    await wire.call("POST", "/v1/connections/none/token")
                    wire.close()
                    break
                await asyncio.sleep(0.05)


async def test_the_naive_design_loses_what_it_is_given(
    ports: list[int], provider: Provider, table: Any
) -> None:
    run = Run(provider, {name: name for name in WORKSPACES}, lambda: ports)
    await connect(run, table)
    await listening(ports)
    run.begin()
    ended = len(WORKSPACES) * CONNECTIONS // 2
    await run.until(ended, "ended")
    found = await run.verdict()
    assert len(found.lost) >= ended
    assert len(found.double) >= ended
    assert found.wrong == (), "that much it does right"
