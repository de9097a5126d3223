"""A database that is restored in place: an older state of it is never refreshed on.

Its refresh tokens may have been used up since, and a second use would end the grants.
"""

import asyncio
import json
from pathlib import Path

import aiohttp
import asyncpg
import pytest
from support.alive import Replicas
from support.api import Api, running
from support.databases import address
from support.rolled_back import Backup, living_in, marking, reachable, refreshed, refreshed_at
from support.sandbox import Provider

from broker.doctor import examine
from broker.settings import Settings
from vault.kms import folder_of
from vault.refreshing.replica import RolledBack

OLDER = "older than what this deployment has done"


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
