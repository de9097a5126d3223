"""Databases that go back to an older state of themselves, while a deployment lives on them."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
from msgspec import Struct

from support.alive import Alive, Replicas, workspace_in
from support.sandbox import Provider
from support.wire import wired
from vault.embedded import Embedded
from vault.errors import VaultError


class Backup(Struct, frozen=True):
    """A copy of the replicas' database, made when ``taken`` was."""

    postgres: Embedded
    of: str
    name: str

    @classmethod
    async def taken(cls, over: Replicas) -> "Backup":
        backup = cls(over.postgres, over.name, f"backup_{uuid.uuid4().hex}")
        await backup._swap(f'create database "{backup.name}" template "{over.name}"')
        return backup

    async def restore(self) -> None:
        """In place: under the feet of whoever has it open."""
        await self._swap(
            f'drop database "{self.of}" with (force)',
            f'alter database "{self.name}" rename to "{self.of}"',
        )

    async def _swap(self, *statements: str) -> None:
        admin = await asyncpg.connect(self.postgres.dsn().reveal())
        try:
            # Those who would connect again have to wait for a moment.
            await admin.execute(f'alter database "{self.of}" allow_connections false')
            await admin.execute(
                # Gone when this is answered: a database that somebody is in is no template.
                "select pg_terminate_backend(pid, 60_000) from pg_stat_activity where datname = $1",
                self.of,
            )
            for statement in statements:
                await admin.execute(statement)
            await admin.execute(f'alter database "{self.of}" allow_connections true')
        finally:
            await admin.close()


@asynccontextmanager
async def living_in(over: Replicas, provider: Provider) -> AsyncIterator[Alive]:
    caller = await workspace_in(over, "rolled back")
    async with wired(provider.base) as wire:
        alive = Alive(over, caller, provider, wire)
        await alive.integrate()
        yield alive


async def refreshed(alive: Alive, connection: str) -> None:
    """Refresh, and let the mark grow."""
    await refreshed_at(alive, connection, alive.left)


async def reachable(alive: Alive) -> None:
    """The pools connect again."""
    async with asyncio.timeout(60):
        while True:
            try:
                await alive.left.check_database()
                return await alive.right.check_database()
            except VaultError:
                await asyncio.sleep(0.1)


@asynccontextmanager
async def marking(over: Replicas, spool: Path | None = None) -> AsyncIterator[Any]:
    """A replica that keeps the mark beside its root key, too."""
    async with over.another(spool=spool, key_dir=over.root_key_file.parent) as found:
        yield found


async def refreshed_at(alive: Alive, connection: str, at: Any) -> None:
    """Refresh there, and wait until the mark has grown and is written down."""
    marks = at._refresher.replica._marks  # noqa: SLF001 - a beat tells nobody
    before = marks.read().mark
    assert not (await alive.token(connection, at=at, rejected=True)).degraded
    async with asyncio.timeout(60):
        while marks.read().mark <= before:  # noqa: ASYNC110 - nor does a file
            await asyncio.sleep(0.05)
