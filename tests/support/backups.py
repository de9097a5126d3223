"""A deployment that is backed up, and empty databases that it is restored into."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import asyncpg
from msgspec import Struct

from broker.cli import restoring
from broker.cli.restoring import Deletions
from broker.migrations import PARTS
from broker.settings import Settings
from support.alive import Replicas, opened
from support.databases import address
from vault.backup import Manifest
from vault.backup.archive import Reader
from vault.backup.restoring import Restored
from vault.embedded import Embedded
from vault.keyring.rotations import untold
from vault.model import Caller
from vault.secret import Secret
from vault.vault import Vault

OPERATOR: Final = Caller.operator("tests")


class Elsewhere(Struct, frozen=True):
    """An empty database, with a spool of its own, and the root key that is at hand there."""

    postgres: Embedded
    name: str
    folder: Path
    root_key_file: Path
    admin: Any

    @property
    def settings(self) -> Settings:
        return Settings(
            mode="development",
            database_url=address(self.postgres, self.name, "keyturn_app"),
            worker_database_url=address(self.postgres, self.name, "keyturn_worker"),
            owner_database_url=address(self.postgres, self.name),
            kek=Secret(self.root_key_file.as_uri()),
            spool_dir=self.folder / "spool",
        )

    async def restore(self, file: Path, *, without_ledger: bool = False) -> Restored:
        """As ``keyturn restore`` does it."""
        with Reader.of(file) as reader:
            manifest = reader.manifest
            restoring.refuse_other(self.settings, manifest)
            deletions = Deletions.of(
                self.settings, manifest.deployment_id, [file.parent], none=without_ledger
            )
            done = await restoring.restored(self.settings, reader, deletions, untold)
        async with self.opened() as vault:
            await vault.restored(OPERATOR, done.level)
        return done

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Vault]:
        """A vault on what is there now."""
        vault = await opened(
            self.postgres,
            self.name,
            self.root_key_file,
            self.folder,
            key_dir=self.root_key_file.parent,
        )
        try:
            yield vault
        finally:
            await vault.close()

    async def count(self, table: str) -> int:
        found: int = await self.admin.fetchval(f"select count(*) from vault.{table}")  # noqa: S608 - a test's own
        return found


@asynccontextmanager
async def elsewhere(
    postgres: Embedded, root_key_file: Path, folder: Path
) -> AsyncIterator[Elsewhere]:
    """One more empty database."""
    name = f"elsewhere_{uuid.uuid4().hex}"
    server = await asyncpg.connect(postgres.dsn().reveal())
    await server.execute(f'create database "{name}"')
    await asyncio.to_thread((folder / "providers").mkdir, parents=True, exist_ok=True)
    admin = await asyncpg.connect(address(postgres, name).reveal())
    try:
        yield Elsewhere(postgres, name, folder, root_key_file, admin)
    finally:
        await admin.close()
        await server.execute(f'drop database "{name}" with (force)')
        await server.close()


async def back_up(over: Replicas, file: Path) -> Manifest:
    """As ``keyturn backup`` does it."""
    await asyncio.to_thread(file.parent.mkdir, exist_ok=True)
    owner = address(over.postgres, over.name)
    return await over.left.back_up(OPERATOR, owner, file, PARTS)
