"""A request that is still under way, for one that comes with the same Idempotency-Key."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
from conftest import Tenant

from vault.embedded import Embedded


@asynccontextmanager
async def still_running(server: Embedded, tenant: Tenant, claim: bytes) -> AsyncIterator[None]:
    """Hold just what the first request holds while it runs: its claim, not yet committed."""
    connection = await asyncpg.connect(server.dsn().reveal())
    running = connection.transaction()
    await running.start()
    await connection.execute(
        "insert into vault.idempotency values ($1, $2, $3, '', '')",
        *(tenant.id, tenant.caller.actor_id, claim),
    )
    yield
    await running.rollback()
    await connection.close()
