"""A database that came back by anything but us makes no call, until somebody says that it may."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import pytest
from support.alive import Replicas, opened
from support.api import Api, running
from support.backups import OPERATOR, back_up, elsewhere
from support.databases import address
from support.process import environment, keyturn, short_folder
from support.rolled_back import Backup, living_in, marking, reachable, refreshed, refreshed_at
from support.sandbox import Provider

from broker.doctor import examine
from broker.settings import Settings
from vault.kms.file import create as create_root_key
from vault.refreshing.folder import Folder
from vault.refreshing.marks import Level, Mark, Marks
from vault.refreshing.replica import Copied, RolledBack
from vault.secret import Secret
from vault.vault import Vault


@asynccontextmanager
async def on(over: Replicas, name: str, folder: Path) -> AsyncIterator[Vault]:
    """A replica on another database, with the same root key."""
    (folder / "providers").mkdir(parents=True)
    for file in (over.folder / "providers").iterdir():
        shutil.copy(file, folder / "providers")
    keys = over.root_key_file
    found = await opened(over.postgres, name, keys, folder, key_dir=keys.parent)
    try:
        yield found
    finally:
        await found.close()


async def test_a_copy_makes_no_call_although_no_mark_has_grown(
    over: Replicas, provider: Provider, settings: Settings, tmp_path: Path
) -> None:
    async with living_in(over, provider) as alive, marking(over) as marked:
        ada = await alive.connect()
        await refreshed_at(alive, ada, marked)
        copy = await Backup.taken(over)
        await reachable(alive)
        calls = alive.calls
        async with on(over, copy.name, tmp_path / "copy") as copied:
            with pytest.raises(Copied):
                await copied.refresh_due()
            found = await alive.token(ada, at=copied, rejected=True, wait=2)
            assert (found.degraded, found.tokens is not None) == (True, True)
            async with running(copied, settings) as service, aiohttp.ClientSession() as session:
                ready = await Api(session, service.base).get("/readyz")
        assert alive.calls == calls
        assert ready.status == 503
        [reason] = [one["reason"] for one in ready.json["checks"] if not one["ok"]]
        assert "a copy" in reason
        assert "keyturn restore" in reason
        findings = {one.name: one for one in await examine(_environ(over, copy.name, tmp_path))}
        assert "a copy" in findings["refreshing"].text
        assert not findings["refreshing"].ok
        await alive.left.check_refreshing()
    await _drop(over, copy.name)


async def test_whoever_accepts_the_copy_goes_on_with_it_and_the_original_stops(
    over: Replicas, provider: Provider, tmp_path: Path
) -> None:
    async with living_in(over, provider) as alive, marking(over) as marked:
        ada = await alive.connect()
        await refreshed_at(alive, ada, marked)
        copy = await Backup.taken(over)
        await reachable(alive)
        async with on(over, copy.name, tmp_path / "copy") as copied:
            with pytest.raises(Copied):
                await copied.check_refreshing()
            await copied.go_on(OPERATOR, [])
            await copied.check_refreshing()
            assert not (await alive.token(ada, at=copied, rejected=True)).degraded
        calls = alive.calls
        async with marking(over, tmp_path / "another-spool") as original:
            with pytest.raises(RolledBack):
                await original.check_refreshing()
            assert (await alive.token(ada, at=original, rejected=True, wait=2)).degraded
        assert alive.calls == calls
    await _drop(over, copy.name)


async def test_processes_that_run_go_on_when_an_older_database_is_accepted(
    over: Replicas, provider: Provider
) -> None:
    """What was refreshed since is gone: it is tried once, and then said to be lost."""
    async with living_in(over, provider) as alive:
        ada, bob = await alive.connect("ada"), await alive.connect("bob")
        await refreshed(alive, ada)
        backup = await Backup.taken(over)
        await reachable(alive)
        await refreshed(alive, ada)
        await backup.restore()
        await reachable(alive)
        with pytest.raises(RolledBack):
            await over.left.refresh_due()
        admin = await asyncpg.connect(address(over.postgres, over.name).reveal())
        due = "update vault.connection_lives set due_at = now() where connection_id = $1"
        await admin.execute(due, ada)
        before = await admin.fetchval("select max(fence) from vault.connection_lives")
        moved = await over.left.go_on(OPERATOR, [])
        assert (moved.workspaces, moved.in_doubt) == (1, 1)
        states = dict(await admin.fetch("select connection_id, state from vault.connection_lives"))
        assert states == {ada: "uncertain", bob: "active"}
        assert await admin.fetchval("select min(fence) from vault.connection_lives") > before
        for vault in (over.left, over.right):
            await vault.check_refreshing()
        calls = alive.calls
        assert (await alive.token(ada, rejected=True)).degraded, "its refresh token is used up"
        assert not (await alive.token(bob, rejected=True)).degraded
        await admin.execute(
            "update vault.connection_lives set suspect_since = suspect_since - interval '5 min',"
            " next_try_at = now(), due_at = now() where connection_id = $1",
            ada,
        )
        await alive.sweep()
        verdict = "select verdict from vault.connection_lives where connection_id = $1"
        assert await admin.fetchval(verdict, ada) == "lost_rotation"
        assert alive.calls == calls + 2, "the used-up one was sent once"
        await admin.close()


async def test_a_backup_that_is_restored_is_refreshed_and_what_it_replaced_is_not(
    over: Replicas, provider: Provider, tmp_path: Path
) -> None:
    async with living_in(over, provider) as alive, marking(over) as marked:
        ada = await alive.connect()
        await refreshed_at(alive, ada, marked)
        await back_up(over, tmp_path / "backups" / "one.backup")
        keys = over.root_key_file
        async with elsewhere(over.postgres, keys, tmp_path / "there") as there:
            done = await there.restore(tmp_path / "backups" / "one.backup")
            assert done.level.epoch == 1
            async with on(over, there.name, tmp_path / "restored") as restored:
                assert not (await alive.token(ada, at=restored, rejected=True)).degraded
                await restored.check_refreshing()
        async with marking(over, tmp_path / "another-spool") as original:
            with pytest.raises(RolledBack):
                await original.check_refreshing()


def test_of_two_states_the_one_of_the_later_epoch_is_the_newer(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    for folder in (one, two):
        folder.mkdir()
    Marks([one], "dep").write(Mark("dep", 900, behind=True))
    assert b"epoch" not in next(one.iterdir()).read_bytes(), "an older Keyturn reads it, too"
    Marks([two], "dep").write(Mark("dep", 3, epoch=1))
    found = Marks([one, two], "dep").read()
    assert (found.level, found.behind) == (Level(1, 3), False)


def test_a_folder_that_was_moved_is_the_same_and_a_copy_is_another(tmp_path: Path) -> None:
    first = tmp_path / "first"
    first.mkdir()
    noted = str(Folder.of(first))
    assert Folder.of(first).is_at(noted)
    moved = first.rename(tmp_path / "second")
    assert Folder.of(moved).is_at(noted)
    shutil.copytree(moved, first)
    assert not Folder.of(first).is_at(noted)
    again = Folder.of(moved)
    other_disk = Folder(again.device + 1, again.number, again.path)
    assert not other_disk.is_at(noted), "elsewhere and on another disk"
    assert other_disk.is_at(str(again)), "the same place after the machine started again"


@pytest.fixture
def short() -> Iterator[Path]:
    with short_folder() as folder:
        yield folder


def test_a_data_folder_that_was_copied_says_so_until_it_is_accepted(short: Path) -> None:
    """The commands as they are, and the embedded PostgreSQL; nothing else of the machine."""
    (short / "keys").mkdir(mode=0o700)
    create_root_key(short / "keys" / "root.key")

    def run(folder: str, *words: str, code: int = 0) -> str:
        env = environment(
            mode="development",
            data_dir=short / folder,
            kek=(short / "keys" / "root.key").as_uri(),
        )
        done = keyturn(*words, env=env)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout

    # Open to PostgreSQL's own account: else root's database lies elsewhere, and is not copied.
    (short / "one").mkdir()
    (short / "one").chmod(0o711)
    run("one", "workspace", "create", "acme")
    _joined(short / "one", short)
    assert "BAD" not in run("one", "doctor")
    copied = asyncio.run(asyncio.to_thread(_copied, short / "one", short / "two"))
    assert "this database is a copy" in run(copied, "doctor", code=3).lower()
    run(copied, "restore", "--accept")
    assert "BAD" not in run(copied, "doctor")
    assert "older than what this deployment has done" in run("one", "doctor", code=3)


def _joined(folder: Path, short: Path) -> None:
    """Let a process note where the database is, as each that serves does."""

    async def join() -> None:
        from broker import boot

        settings = Settings(
            mode="development",
            data_dir=folder,
            kek=Secret((short / "keys" / "root.key").as_uri()),
        )
        async with boot.house(settings) as house:
            await house.vault.join()

    asyncio.run(join())


def _copied(one: Path, two: Path) -> str:
    """Copy a data folder as root would: owners and modes too, and nothing but the files."""
    two.mkdir(mode=0o711)
    two.chmod(one.stat().st_mode & 0o777)
    shutil.copytree(one, two, dirs_exist_ok=True, symlinks=True, copy_function=_copy)
    for source in one.rglob("*"):
        if source.is_dir():
            _own(source, two / source.relative_to(one))
    return two.name


def _copy(source: str, target: str) -> str:
    if not Path(source).is_socket():
        shutil.copy2(source, target)
        _own(Path(source), Path(target))
    return target


def _own(source: Path, target: Path) -> None:
    shutil.chown(target, source.stat().st_uid, source.stat().st_gid)


def _environ(over: Replicas, name: str, tmp_path: Path) -> dict[str, Any]:
    return {
        "KEYTURN_MODE": "development",
        "KEYTURN_DATABASE_URL": address(over.postgres, name, "keyturn_app").reveal(),
        "KEYTURN_KEK": over.root_key_file.as_uri(),
        "KEYTURN_SPOOL_DIR": str(tmp_path / "a-new-spool"),
    }


async def _drop(over: Replicas, name: str) -> None:
    server = await asyncpg.connect(over.postgres.dsn().reveal())
    await server.execute(f'drop database "{name}" with (force)')
    await server.close()
