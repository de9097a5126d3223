"""A backup comes back whole, without what was deleted since, or not at all."""

import asyncio
import json
import shutil
import uuid
import zipfile
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

import aiohttp
import pytest
from msgspec.structs import replace
from support.api import Api, running
from support.backups import OPERATOR, Elsewhere, back_up, elsewhere
from support.databases import address
from support.rekeying import NAMES, Tenancy, tenancy

from broker.cli import restoring
from broker.cli.restoring import Deletions
from broker.migrations import PARTS
from broker.settings import Settings
from vault.backup import Damaged
from vault.backup.archive import MANIFEST, Reader, Writer
from vault.embedded import Embedded
from vault.errors import Conflict, Misconfigured
from vault.keyring.rotations import untold
from vault.kms.file import create
from vault.model import Page, Profile, UserId
from vault.secret import Secret


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    folder = tmp_path / "keys"
    folder.mkdir(mode=0o700)
    create(folder / "root.key")
    return folder / "root.key"


@pytest.fixture
async def here(
    migrated: Embedded, fresh_database: Secret, keys: Path, tmp_path: Path, settings: Settings
) -> AsyncIterator[Tenancy]:
    folder = tmp_path / "replicas"
    folder.mkdir()
    async with tenancy(migrated, fresh_database, keys, folder, settings) as found:
        yield found


@pytest.fixture
async def there(migrated: Embedded, keys: Path, tmp_path: Path) -> AsyncIterator[Elsewhere]:
    async with elsewhere(migrated, keys, tmp_path / "there") as found:
        yield found


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "backups" / "one.backup"


async def test_everything_that_was_backed_up_comes_back_and_opens(
    here: Tenancy, there: Elsewhere, file: Path, settings: Settings
) -> None:
    await here.fill()
    manifest = await back_up(here.over, file)
    done = await there.restore(file)
    assert done.manifest == manifest
    passing = {"revocations", "revocation_tokens", "shreddings"}
    for table in manifest.tables:
        count = await there.count(table.name)
        # The record goes on: that it was restored stands there, sealed and anchored.
        goes_on = table.name.startswith("audit_") and count > table.rows
        assert count == table.rows or goes_on or table.name in passing, table.name
    async with (
        there.opened() as vault,
        running(vault, settings) as service,
        aiohttp.ClientSession() as session,
    ):
        report = await vault.verify_keys(OPERATOR)
        assert report.is_well
        assert report.rows > 20
        again = Tenancy(here.over, Api(session, service.base, here.key), here.workspace, here.key)
        await again.assert_all_is_there()
        [ada] = (await again.api.get("/v1/users/ada/connections")).json["data"]
        token = await again.api.post(f"/v1/connections/{ada['id']}/token", {})
        assert token.json["access_token"] == "key-of-ada"


async def test_what_holds_the_application_back_holds_it_after_a_restore(
    here: Tenancy, there: Elsewhere, file: Path
) -> None:
    await back_up(here.over, file)
    await there.restore(file)
    query = (
        "select c.relname, c.relrowsecurity, c.relforcerowsecurity, c.relowner::regrole::text"
        " from pg_class c where relnamespace = 'vault'::regnamespace and relkind = 'r' order by 1"
    )
    assert await there.admin.fetch(query) == await here.over.admin.fetch(query)


async def test_what_was_deleted_after_the_backup_does_not_come_back(
    here: Tenancy, there: Elsewhere, file: Path
) -> None:
    await here.fill()
    vault, caller = here.vault, await here.vault.authenticate(here.key)
    other = await vault.create_workspace(OPERATOR, "gone")
    spare = (await here.api.post("/v1/keys", {"name": "spare", "scopes": ["mint"]})).json
    await back_up(here.over, file)
    await vault.delete_user(caller, UserId("ada"))
    await vault.delete_workspace(OPERATOR, other.workspace.workspace_id)
    assert (await here.api.delete(f"/v1/keys/{spare['id']}")).status == 204
    spool = there.folder / "spool"
    spool.mkdir()
    for ledger in here.over.spool.glob("shredded-*"):
        shutil.copy(ledger, spool)
    done = await there.restore(file)
    moved = done.moved
    assert (moved.shredded_users, moved.shredded_workspaces, moved.revoked_keys) == (1, 1, 1)
    async with there.opened() as restored:
        caller = await restored.authenticate(here.key)
        assert [one.user_id for one in await restored.list_users(caller, Page(10))] == ["bob"]
        assert [one.name for one in await restored.list_workspaces(OPERATOR, Page(10))] == ["first"]
        assert (await restored.verify_keys(OPERATOR)).is_well
    leftovers = await there.admin.fetchval(
        "select (select count(*) from vault.user_keys where user_id = 'ada')"
        " + (select count(*) from vault.connections where user_id = 'ada')"
        " + (select count(*) from vault.refresh_answers)"
        " + (select count(*) from vault.workspace_keys where workspace_id = $1)",
        other.workspace.workspace_id,
    )
    assert leftovers == 0


async def test_who_came_back_under_the_same_id_is_somebody_else(
    here: Tenancy, there: Elsewhere, file: Path
) -> None:
    caller = await here.vault.authenticate(here.key)
    ada = UserId("ada")
    await here.vault.put_user(caller, ada, Profile(name="The first"))
    await here.vault.delete_user(caller, ada)
    await here.vault.put_user(caller, ada, Profile(name="The second"))
    await back_up(here.over, file)
    assert (await there.restore(file)).moved.shredded_users == 0
    async with there.opened() as restored:
        caller = await restored.authenticate(here.key)
        assert (await restored.get_user(caller, ada)).profile.name == "The second"


async def test_an_older_backup_obeys_the_list_that_a_newer_one_left_beside_it(
    here: Tenancy, there: Elsewhere, file: Path
) -> None:
    """On another machine, where nothing is but the backups' folder and the root key."""
    caller = await here.vault.authenticate(here.key)
    await here.vault.put_user(caller, UserId("ada"), Profile())
    await back_up(here.over, file)
    await here.vault.delete_user(caller, UserId("ada"))
    await back_up(here.over, file.with_name("two.backup"))
    assert (await there.restore(file)).moved.shredded_users == 1
    assert await there.count("users") == 0


async def test_without_any_list_nothing_is_restored_unless_somebody_says_so(
    here: Tenancy, there: Elsewhere, file: Path
) -> None:
    await back_up(here.over, file)
    for ledger in file.parent.glob("shredded-*"):
        ledger.unlink()
    with pytest.raises(Misconfigured, match="deleted users would come back"):
        await there.restore(file)
    await there.restore(file, without_ledger=True)


async def test_a_backup_is_of_one_moment_whoever_writes_meanwhile(
    here: Tenancy, there: Elsewhere, file: Path
) -> None:
    """Each writes two rows that need each other; a restore would refuse one without the other."""
    caller = await here.vault.authenticate(here.key)
    written = 0
    over = asyncio.Event()

    async def writing(name: str) -> None:
        nonlocal written
        number = 0
        while not over.is_set():
            number += 1
            user = UserId(f"{name}{number}")
            await here.vault.put_user(caller, user, Profile(name="Somebody"))
            if number % 3 == 0:
                await here.vault.delete_user(caller, user)
            written += 1

    writers = [asyncio.create_task(writing(name)) for name in "abc"]
    while written < 30:  # noqa: ASYNC110 - they tell nobody
        await asyncio.sleep(0.01)
    before = written
    manifest = await back_up(here.over, file)
    assert written > before, "nobody waited for the backup"
    over.set()
    await asyncio.gather(*writers)
    rows = {table.name: table.rows for table in manifest.tables}
    assert rows["users"] == rows["user_keys"] >= 20
    done = await there.restore(file)
    assert await there.count("users") == rows["users"] - done.moved.shredded_users
    async with there.opened() as restored:
        assert (await restored.verify_keys(OPERATOR)).is_well


async def test_a_backup_replaces_no_file_and_holds_no_key(here: Tenancy, file: Path) -> None:
    await here.fill()
    await back_up(here.over, file)
    before = _bytes_of(file)
    assert _mode_of(file) == 0o600
    with pytest.raises(Conflict, match="not written over"):
        await back_up(here.over, file)
    assert _bytes_of(file) == before
    assert sorted(one.suffix for one in file.parent.iterdir()) == [".backup", ".txt"]
    with zipfile.ZipFile(file) as opened:
        everything = b"".join(opened.read(name) for name in opened.namelist())
    root = here.over.root_key_file.read_text().split()[0].encode()
    for secret in (root, here.key.encode(), b"key-of-ada", b"value-of-one", NAMES["bob"].encode()):
        assert secret not in everything


def test_a_backup_that_ends_badly_leaves_nothing_and_what_a_killed_one_left_goes(
    tmp_path: Path,
) -> None:
    place = tmp_path / "one.backup"
    left = tmp_path / ".zero.backup.0123.unfinished"
    left.write_bytes(b"half of one")
    with suppress(RuntimeError), Writer.at(place) as writer, writer.member("a") as member:
        member.write(b"half of a line")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


async def _refused(there: Elsewhere, file: Path, kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words):
        await there.restore(file)
    if await there.admin.fetchval("select to_regclass('vault.deployment') is not null"):
        assert await there.count("deployment") == await there.count("audit_events") == 0


def _bytes_of(file: Path) -> bytes:
    return file.read_bytes()


def _mode_of(file: Path) -> int:
    return file.stat().st_mode & 0o777


def _overwrite(file: Path, content: bytes) -> None:
    file.write_bytes(content)


def _with_member(file: Path, name: str, change: Callable[[bytes], bytes]) -> None:
    """Write the file again with one member changed, as somebody would who knows ZIP."""
    with zipfile.ZipFile(file) as opened:
        members = {one: opened.read(one) for one in opened.namelist()}
    members[name] = change(members[name])
    with zipfile.ZipFile(file, "w") as rewritten:
        for one, content in members.items():
            rewritten.writestr(one, content)


async def test_a_file_that_is_not_a_whole_backup_is_refused(
    here: Tenancy, there: Elsewhere, file: Path
) -> None:
    await back_up(here.over, file)
    whole = _bytes_of(file)
    for length in (0, 10, len(whole) // 2, len(whole) - 1):
        _overwrite(file, whole[:length])
        await _refused(there, file, Damaged, "only a part of one")
    place = whole.index(b"tables/audit_events.txt") + 60
    _overwrite(file, whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    await _refused(there, file, Damaged, "damaged")
    _overwrite(file, whole)
    _with_member(file, "tables/api_keys.txt", lambda text: text.replace(b"mint", b"MINT"))
    await _refused(there, file, Damaged, "api_keys is not what was backed up")
    _overwrite(file, whole)
    await there.restore(file)


async def test_a_manifest_that_was_changed_is_refused(
    here: Tenancy, there: Elsewhere, file: Path
) -> None:
    await back_up(here.over, file)
    whole = _bytes_of(file)
    _with_member(file, MANIFEST, lambda text: text.replace(b'"epoch": 0', b'"epoch": 7'))
    await _refused(there, file, Damaged, "changed after it was written")
    _overwrite(file, whole)
    _with_member(file, MANIFEST, lambda text: text.replace(b'"format": 1', b'"format": 2'))
    await _refused(there, file, Misconfigured, "newer Keyturn")
    _overwrite(file, whole)
    _with_member(file, MANIFEST, lambda _: b"{}")
    await _refused(there, file, Damaged, "no backup of ours")


async def test_a_missing_root_key_is_named(
    here: Tenancy, migrated: Embedded, file: Path, tmp_path: Path
) -> None:
    manifest = await back_up(here.over, file)
    [needed] = manifest.root_keys
    (tmp_path / "others").mkdir(mode=0o700)
    create(tmp_path / "others" / "root.key")
    async with elsewhere(migrated, tmp_path / "others" / "root.key", tmp_path / "x") as there:
        await _refused(there, file, Misconfigured, needed)


async def test_a_backup_of_another_deployment_or_a_newer_schema_is_refused(
    here: Tenancy, there: Elsewhere, file: Path
) -> None:
    await back_up(here.over, file)
    with Reader.of(file) as reader:
        other = Settings(deployment_id="somebody-elses")
        with pytest.raises(Misconfigured, match="somebody-elses"):
            restoring.refuse_other(other, reader.manifest)
    admin = here.over.admin
    later = "insert into vault.schema_migrations values ('vault', 9999, 'later', '', '9.9')"
    await admin.execute(later)
    with pytest.raises(Misconfigured, match="keyturn migrate"):
        await back_up(here.over, file.with_name("two.backup"))
    await there.restore(file)
    await there.admin.execute(later)
    with pytest.raises(Conflict, match="never migrated"):
        await there.restore(file)


async def test_a_database_that_holds_something_is_left_alone(
    here: Tenancy, there: Elsewhere, file: Path
) -> None:
    await back_up(here.over, file)
    await there.restore(file)
    before = await there.count("audit_events")
    with pytest.raises(Conflict, match="not empty"):
        await there.restore(file)
    assert await there.count("audit_events") == before


async def test_a_rehearsal_opens_everything_and_changes_nothing(
    here: Tenancy, there: Elsewhere, file: Path
) -> None:
    await here.fill()
    await back_up(here.over, file)
    with Reader.of(file) as reader:
        deletions = Deletions.of(
            there.settings, reader.manifest.deployment_id, [file.parent], none=False
        )
        found = await restoring.rehearsed(there.settings, reader, deletions, untold)
    assert found.report.is_well
    assert found.report.rows > 20
    assert await there.admin.fetchval("select to_regnamespace('vault') is null")
    assert not list(there.folder.glob("spool/*"))
    before = [one.name for one in here.over.root_key_file.parent.iterdir()]
    assert before == ["root.key"], "nothing is noted of a rehearsal"


async def test_the_record_says_who_took_and_who_restored_a_backup(
    here: Tenancy, there: Elsewhere, file: Path
) -> None:
    manifest = await back_up(here.over, file)
    await there.restore(file)
    rows = await there.admin.fetch(
        "select action, actor_kind, target_id from vault.audit_events"
        " where workspace_id = 'operator' and action like 'backup.%' order by event_id"
    )
    assert [tuple(row) for row in rows] == [
        ("backup.take", "operator", manifest.deployment_id),
        ("backup.restore", "operator", manifest.deployment_id),
    ]
    with zipfile.ZipFile(file) as opened:
        assert json.loads(opened.read(MANIFEST))["deployment_id"] == manifest.deployment_id


async def test_a_login_that_migrates_without_being_a_superuser_backs_up_and_restores(
    here: Tenancy, there: Elsewhere, migrated: Embedded, file: Path
) -> None:
    login, admin = f"migrator_{uuid.uuid4().hex}", here.over.admin
    await admin.execute(f"create role {login} login password 'x'; grant keyturn_owner to {login}")

    def as_login(name: str) -> Secret:
        superuser = migrated.password().reveal()
        whole = address(migrated, name).reveal()
        return Secret(whole.replace(f"postgres:{quote(superuser, safe='')}@", f"{login}:x@"))

    try:
        await asyncio.to_thread(file.parent.mkdir)
        taking = (OPERATOR, as_login(here.over.name), file, PARTS)
        with pytest.raises(Misconfigured, match="grant keyturn_backup"):
            await here.vault.back_up(*taking)
        await admin.execute(f"grant keyturn_backup to {login}")
        await here.vault.back_up(*taking)
        await admin.execute(f'grant create on database "{there.name}" to keyturn_owner')
        owner = replace(there.settings, owner_database_url=as_login(there.name))
        with Reader.of(file) as reader:
            deployment = reader.manifest.deployment_id
            deletions = Deletions.of(owner, deployment, [file.parent], none=False)
            done = await restoring.restored(owner, reader, deletions, untold)
        assert done.moved.workspaces == 1
        async with there.opened() as restored:
            assert (await restored.verify_keys(OPERATOR)).is_well
    finally:
        await admin.execute(f"drop role {login}")
