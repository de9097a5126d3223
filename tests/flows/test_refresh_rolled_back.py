"""A database that is restored in place: an older state of it is never refreshed on.

Its refresh tokens may have been used up since, and a second use would end the grants.
"""

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import pytest
from msgspec import Struct
from support.alive import Alive, Replicas, address, replicas, workspace_in
from support.api import Api, running
from support.sandbox import Provider
from support.wire import wired

from broker.doctor import examine
from broker.settings import Settings
from vault.embedded import Embedded
from vault.errors import VaultError
from vault.kms import folder_of
from vault.kms.file import create as create_root_key
from vault.refreshing.replica import RolledBack
from vault.secret import Secret

OLDER = "older than what this deployment has done"


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
                "select pg_terminate_backend(pid) from pg_stat_activity where datname = $1", self.of
            )
            for statement in statements:
                await admin.execute(statement)
            await admin.execute(f'alter database "{self.of}" allow_connections true')
        finally:
            await admin.close()


@pytest.fixture
async def over(
    migrated: Embedded, fresh_database: Secret, tmp_path: Path
) -> AsyncIterator[Replicas]:
    keys = tmp_path / "keys"
    keys.mkdir(mode=0o700)
    create_root_key(keys / "root.key")
    async with replicas(migrated, fresh_database, keys / "root.key", tmp_path) as found:
        yield found


@asynccontextmanager
async def living_in(over: Replicas, provider: Provider) -> AsyncIterator[Alive]:
    caller = await workspace_in(over, "rolled back")
    async with wired(provider.base) as wire:
        alive = Alive(over, caller, provider, wire)
        await alive.integrate()
        yield alive


async def refreshed(alive: Alive, connection: str) -> None:
    """Refresh, and let the mark grow."""
    assert not (await alive.token(connection, rejected=True)).degraded
    await asyncio.sleep(1.5)


async def reachable(alive: Alive) -> None:
    """The pools connect again."""
    async with asyncio.timeout(20):
        while True:
            try:
                await alive.left.check_database()
                return await alive.right.check_database()
            except VaultError:
                await asyncio.sleep(0.1)


async def test_a_process_that_runs_while_its_database_is_restored_makes_no_call(
    over: Replicas, provider: Provider, settings: Settings
) -> None:
    async with (
        living_in(over, provider) as alive,
        running(over.left, settings) as service,
        aiohttp.ClientSession() as session,
    ):
        ada = await alive.connect()
        await refreshed(alive, ada)
        backup = await Backup.taken(over)
        await reachable(alive)
        await refreshed(alive, ada)
        calls = alive.calls
        await backup.restore()
        await reachable(alive)
        for vault in (over.left, over.right):
            found = await alive.token(ada, at=vault, rejected=True, wait=2)
            assert (found.degraded, found.generation) == (True, 2), "what lives is handed out"
            with pytest.raises(RolledBack):
                await vault.refresh_due()
        assert alive.calls == calls
        ready = await Api(session, service.base).get("/readyz")
    assert ready.status == 503
    [reason] = [one["reason"] for one in ready.json["checks"] if not one["ok"]]
    assert OLDER in reason
    assert alive.well()


async def test_a_process_that_starts_on_a_restored_database_makes_no_call(
    over: Replicas, provider: Provider, tmp_path: Path
) -> None:
    """It knows by the mark beside the root key alone: its spool is a new one."""
    async with living_in(over, provider) as alive, marking(over) as marked:
        ada = await alive.connect()
        await refreshed_at(alive, ada, marked)
        backup = await Backup.taken(over)
        await reachable(alive)
        await refreshed_at(alive, ada, marked)
        calls = alive.calls
        await backup.restore()
        await reachable(alive)
        environ = {
            "KEYTURN_MODE": "development",
            "KEYTURN_DATABASE_URL": over.address("keyturn_app"),
            "KEYTURN_KEK": over.root_key_file.as_uri(),
            "KEYTURN_SPOOL_DIR": str(tmp_path / "another-spool"),
        }
        findings = {one.name: one for one in await examine(environ)}
        assert not findings["refreshing"].ok
        assert OLDER in findings["refreshing"].text
        assert str(over.root_key_file.parent) in findings["high-water mark"].text
        async with marking(over, tmp_path / "a-third-spool") as started:
            with pytest.raises(RolledBack):
                await started.refresh_due()
            found = await alive.token(ada, at=started, rejected=True, wait=2)
            assert found.degraded
        assert alive.calls == calls


async def test_an_older_database_stays_one_whatever_others_do_with_it(
    over: Replicas, provider: Provider, tmp_path: Path
) -> None:
    """One that has heard of nothing brings its mark up again."""
    async with living_in(over, provider) as alive, marking(over) as marked:
        ada = await alive.connect()
        await refreshed_at(alive, ada, marked)
        admin = await asyncpg.connect(address(over.postgres, over.name).reveal())
        before = await admin.fetchval("update vault.high_water set mark = mark - 1 returning mark")
        with pytest.raises(RolledBack):
            await marked.check_refreshing()
        await admin.execute("update vault.high_water set mark = mark + 1000")
        assert await admin.fetchval("select mark from vault.high_water") == before + 1000
        await admin.close()
        with pytest.raises(RolledBack):
            await marked.check_refreshing()
        [file] = over.root_key_file.parent.glob("high-water-*.json")
        assert json.loads(file.read_text())["behind"]
        async with marking(over, tmp_path / "a-third-spool") as started:
            with pytest.raises(RolledBack):
                await started.check_refreshing()


async def test_many_claims_beside_a_growing_mark_are_no_older_database(
    over: Replicas, provider: Provider
) -> None:
    """Whoever reads the mark just before it grows has not read an older one."""
    async with living_in(over, provider) as alive:
        people = await alive.people(10)
        for _ in range(6):
            await asyncio.gather(
                *(
                    alive.token(one, at=vault, rejected=True)
                    for one in people
                    for vault in (over.left, over.right)
                )
            )
            await asyncio.gather(*(vault.refresh_due() for vault in (over.left, over.right)))
            await asyncio.sleep(0.25)
        await over.left.check_refreshing()
        await over.right.check_refreshing()


def test_the_mark_is_beside_a_root_key_only_where_nobody_else_can_write(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    assert folder_of((tmp_path / "root.key").as_uri()) == tmp_path
    tmp_path.chmod(0o777)
    assert folder_of((tmp_path / "root.key").as_uri()) is None
    assert folder_of((tmp_path / "nowhere" / "root.key").as_uri()) is None
    assert folder_of("aws-kms://key") is None
    tmp_path.chmod(0o700)
    several = f"transit://bao.example/t/k {(tmp_path / 'old.key').as_uri()} file:///nowhere/k"
    assert folder_of(several) == tmp_path


@asynccontextmanager
async def marking(over: Replicas, spool: Path | None = None) -> AsyncIterator[Any]:
    """A replica that keeps the mark beside its root key, too."""
    async with over.another(spool=spool, key_dir=over.root_key_file.parent) as found:
        yield found


async def refreshed_at(alive: Alive, connection: str, at: Any) -> None:
    assert not (await alive.token(connection, at=at, rejected=True)).degraded
    await asyncio.sleep(1.5)
