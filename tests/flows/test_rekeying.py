"""Keys are rotated: everything opens afterwards, under the new ones, and not before its time."""

import asyncio
import base64
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from pathlib import Path

import pytest
from support.rekeying import COLUMNS, OPERATOR, Tenancy, tenancy

from broker.sealed_rows import SEALED
from broker.settings import Settings
from vault.embedded import Embedded
from vault.errors import Forbidden, Misconfigured, NotReady
from vault.keyring.announcing import NotEverybodyReady
from vault.keyring.rotations import Step
from vault.keyring.verifying import Left
from vault.kms import WrapContext, Wrapped, open_root_key
from vault.kms.file import FileRootKey, create, key_id, new_line
from vault.model import NewKey, Page, UserId, WorkspaceId
from vault.secret import Secret
from vault.store.sealed_rows import KINDS


@pytest.fixture
def own_root_key(tmp_path: Path) -> Path:
    file = tmp_path / "root.key"
    create(file)
    return file


@pytest.fixture
async def here(
    postgres: Embedded,
    fresh_database: Secret,
    own_root_key: Path,
    tmp_path: Path,
    settings: Settings,
) -> AsyncIterator[Tenancy]:
    folder = tmp_path / "replicas"
    folder.mkdir()
    async with tenancy(postgres, fresh_database, own_root_key, folder, settings) as found:
        yield found


def ids_in(file: Path) -> list[str]:
    lines = [line for line in file.read_text().splitlines() if line and not line.startswith("#")]
    return [key_id(base64.b64decode(line)) for line in lines]


def keep_first(file: Path) -> None:
    file.write_text(file.read_text().splitlines()[0] + "\n")


def bring_up_to_date(copy: Path, file: Path) -> None:
    copy.write_text(file.read_text())
    copy.chmod(0o600)


async def soon(question: Callable[[], Awaitable[None]]) -> None:
    """Ask until something is raised; a replica looks once a second."""
    for _ in range(600):
        await question()
        await asyncio.sleep(0.1)


def put_first(file: Path) -> str:
    """Put a new root key before the others; return its id."""
    file.write_text(f"{new_line()}\n{file.read_text()}")
    return ids_in(file)[0]


async def test_every_sealed_column_of_the_schema_is_known(here: Tenancy) -> None:
    rows = await here.over.admin.fetch(
        "select table_name, column_name from information_schema.columns"
        " where table_schema = 'vault' and data_type = 'bytea'"
    )
    not_sealed = {"hash", "state_hash", "browser_hash", "code_hash", "key_hash", "fingerprint"}
    not_sealed |= {"result", "learned", "account", "key_id", "wrapped", "pepper", "probe"}
    not_sealed |= {"bearer_hash", "ticket_hash", "claim_hash"}
    not_sealed |= {"number_hash"}  # by the key of the indexes, which stays
    not_sealed |= {"digest", "previous", "last", "mac"}  # of the audit record's chain
    there = {(row[0], row[1]) for row in rows if row[1] not in not_sealed}
    assert there == set(COLUMNS)
    kinds = (*KINDS, *SEALED["broker"])
    assert [kind.name for kind in kinds] == [table for table, _ in COLUMNS]


async def test_new_workspace_keys_take_everything_along(here: Tenancy) -> None:
    await here.fill()
    old = await here.newest()
    assert all(keys == {old} for keys in (await here.sealed()).values())
    told: list[Step] = []
    done = await here.vault.rotate_workspace_keys(OPERATOR, settle=0, tell=told.append)
    new = await here.newest()
    assert new != old
    assert all(keys == {new} for keys in (await here.sealed()).values()), await here.sealed()
    assert [(version, state) for version, state, _ in await here.keys()] == [
        (1, "retired"),
        (2, "active"),
    ]
    report = done.report
    assert report is not None
    assert (report.is_well, report.under_older, report.rows) == (True, 0, done.resealed)
    assert (report.states, done.retired) == ({"active": 1, "retired": 1}, 1)
    assert report.left == []
    assert {step.what for step in told} >= {"making keys", "sealing rows", "opening everything"}
    assert all(step.done <= step.total for step in told)
    await here.assert_all_is_there()


async def test_a_value_is_found_again_by_its_index(here: Tenancy) -> None:
    """The audit's pseudonyms outlive the workspace's key."""
    await here.fill()
    before = (await here.api.get("/v1/audit-events?user_id=ada")).json["data"]
    await here.vault.rotate_workspace_keys(OPERATOR, settle=0)
    after = (await here.api.get("/v1/audit-events?user_id=ada")).json["data"]
    assert before
    assert [one["id"] for one in before] == [one["id"] for one in after]


async def test_another_rotation_follows_and_the_oldest_key_can_be_destroyed(here: Tenancy) -> None:
    await here.fill()
    for _ in range(2):
        await here.vault.rotate_workspace_keys(OPERATOR, settle=0)
    assert [state for _, state, _ in await here.keys()] == ["retired", "retired", "active"]
    day = timedelta(days=1)
    assert await here.vault.destroy_retired_keys(OPERATOR, retired_for=day) == 0
    await here.over.admin.execute(
        "update vault.workspace_keys set retired_at = now() - interval '2 days' where version = 1"
    )
    assert await here.vault.destroy_retired_keys(OPERATOR, retired_for=day) == 1
    assert [version for version, _, _ in await here.keys()] == [2, 3]
    await here.assert_all_is_there()


async def test_a_new_root_key_wraps_everything_and_the_old_one_can_go(
    here: Tenancy, own_root_key: Path
) -> None:
    await here.fill()
    [old] = ids_in(own_root_key)
    new = put_first(own_root_key)
    done = await here.vault.rotate_root_key(OPERATOR)
    assert done.rewrapped == 1
    report = await here.vault.verify_keys(OPERATOR)
    assert (report.is_well, report.root_keys, report.wraps) == (True, {new: 1}, new)
    keep_first(own_root_key)
    assert ids_in(own_root_key) == [new] != [old]
    async with here.over.another() as late:  # a start with the new root key alone
        assert (await late.verify_keys(OPERATOR)).is_well
    await here.assert_all_is_there()


async def test_retired_keys_are_wrapped_again_too(here: Tenancy, own_root_key: Path) -> None:
    await here.fill()
    await here.vault.rotate_workspace_keys(OPERATOR, settle=0)
    new = put_first(own_root_key)
    assert (await here.vault.rotate_root_key(OPERATOR)).rewrapped == 2
    assert {root for _, _, root in await here.keys()} == {new}


async def test_until_it_is_rotated_the_root_key_that_everybody_has_wraps_what_is_new(
    here: Tenancy, own_root_key: Path
) -> None:
    [old] = ids_in(own_root_key)
    put_first(own_root_key)
    async with here.over.another() as newer:  # its settings name the new one first
        made = await newer.create_workspace(
            OPERATOR, "second", first_key=NewKey(name="k", scopes=("manage",))
        )
    there = Tenancy(here.over, here.api, made.workspace.workspace_id)
    assert await there.keys() == [(1, "active", old)]


async def test_a_replica_that_cannot_open_the_new_root_key_holds_the_rotation_up(
    here: Tenancy, own_root_key: Path, tmp_path: Path
) -> None:
    """It has another copy of the file, which nobody has brought up to date."""
    [old] = ids_in(own_root_key)
    behind = tmp_path / "behind.key"
    bring_up_to_date(behind, own_root_key)
    async with here.over.another(root=open_root_key(behind.as_uri())) as late:
        await late.join()
        put_first(own_root_key)
        with pytest.raises(NotEverybodyReady, match="not configured here") as caught:
            await here.vault.rotate_root_key(OPERATOR, wait=10)
        assert "rep_" in str(caught.value)
        assert {root for _, _, root in await here.keys()} == {old}
        await late.check_root_key()  # nothing is written that it cannot open

        bring_up_to_date(behind, own_root_key)
        assert (await here.vault.rotate_root_key(OPERATOR, wait=60)).rewrapped == 1
        await late.check_root_key()


async def test_a_replica_that_was_left_behind_says_that_it_is_not_ready(
    here: Tenancy, own_root_key: Path, tmp_path: Path
) -> None:
    """It came between the question and the switch, with an older file."""
    behind = tmp_path / "behind.key"
    bring_up_to_date(behind, own_root_key)
    async with here.over.another(root=open_root_key(behind.as_uri())) as late:
        put_first(own_root_key)
        await here.vault.rotate_root_key(OPERATOR)
        await late.join()
        with pytest.raises(Misconfigured, match="older here than elsewhere"):
            await soon(late.check_root_key)


async def test_a_dead_replica_holds_nothing_up(here: Tenancy) -> None:
    await here.over.admin.execute(
        "insert into vault.replicas (replica_id, lock_key, locked, seen_at)"
        " values ('rep_dead', 1, true, now() - interval '1 minute')"
    )
    await here.vault.rotate_workspace_keys(OPERATOR, wait=0, settle=0)


class Away(FileRootKey):
    """A root key whose service can be away."""

    away = False

    async def unwrap(self, wrapped: Wrapped, context: WrapContext) -> bytes:
        if self.away:
            raise NotReady("The root key service does not answer.")
        return await super().unwrap(wrapped, context)


async def test_replicas_have_the_new_keys_at_hand_before_anything_is_written_with_them(
    here: Tenancy, own_root_key: Path
) -> None:
    """So that a key service which is away just then takes nothing from anybody."""
    await here.fill()
    root = Away(own_root_key)
    async with here.over.another(root=root) as other:
        await other.join()
        caller = OPERATOR.within(WorkspaceId(here.workspace))
        assert (await other.get_user(caller, UserId("ada"))).profile.name == "Ada"
        await here.vault.rotate_workspace_keys(OPERATOR, settle=0)
        root.away = True
        assert (await other.get_user(caller, UserId("ada"))).profile.name == "Ada"


async def test_nobody_rotates_who_does_not_know_what_others_keep_there(here: Tenancy) -> None:
    """A vault that was opened without the broker's kinds would leave its rows without a key."""
    await here.fill()
    async with here.over.another(sealed_by_guests={}) as stranger:
        for call in (stranger.rotate_workspace_keys, stranger.verify_keys):
            with pytest.raises(Misconfigured, match="rows of broker"):
                await call(OPERATOR)
        with pytest.raises(Misconfigured, match="rows of broker"):
            await stranger.destroy_retired_keys(OPERATOR, retired_for=timedelta(0))
    assert [state for _, state, _ in await here.keys()] == ["active"]


async def test_a_broker_s_row_in_another_s_place_is_named(here: Tenancy) -> None:
    await here.fill()
    await here.over.admin.execute(
        "update vault.upstreams set base_url = 'http://127.0.0.1:2'"
        " where workspace_id = $1 and kind = 'elevenlabs'",
        here.workspace,
    )
    await here.over.admin.execute(
        "update vault.conversations c set kept = o.kept from vault.conversations o"
        " where c.workspace_id = $1 and o.workspace_id = $1 and c.kept < o.kept",
        here.workspace,
    )
    done = await here.vault.rotate_workspace_keys(OPERATOR, settle=0)
    assert done.report is not None
    assert [one.kind for one in done.report.unopened] == ["upstreams", "conversations"]
    assert done.retired == 0


async def test_of_several_active_keys_the_newest_seals_a_conversation(here: Tenancy) -> None:
    await here.fill()
    await here.over.admin.execute(
        "update vault.users u set profile = o.profile from vault.users o"
        " where u.user_id = 'bob' and o.user_id = 'ada'"
    )
    minted = []
    for _ in range(4):  # bob's row keeps the first key from being retired
        await here.vault.rotate_workspace_keys(OPERATOR, settle=0)
        asked = {"agent_id": "agent_1", "user_id": "ada", "runtime": "sealed"}
        reply = await here.api.post("/v1/conversations", asked)
        assert reply.status == 201, reply.body
        under = await here.over.admin.fetchval(
            "select substring(kept from 2 for 16) from vault.conversations"
            " where conversation_id = $1",
            reply.json["id"],
        )
        minted.append(under == await here.newest())
    assert minted == [True] * 4


async def test_a_row_that_somebody_holds_keeps_its_key_until_the_next_time(here: Tenancy) -> None:
    await here.fill()
    async with here.over.admin.transaction():
        await here.over.admin.execute("select 1 from vault.agents for update")
        done = await here.vault.rotate_workspace_keys(OPERATOR, settle=0)
        assert done.report is not None
        assert done.report.left == [Left(here.workspace, 1, "active", 1)]
        assert (done.report.is_well, done.retired) == (True, 0)
    assert (await here.vault.rotate_workspace_keys(OPERATOR, settle=0)).retired == 2


async def test_old_keys_are_retired_only_when_nobody_begins_with_them_any_more(
    here: Tenancy,
) -> None:
    await here.vault.rotate_workspace_keys(OPERATOR, settle=1.5)
    waited = await here.over.admin.fetchval(
        "select min(k.retired_at - e.at) >= interval '1.5 seconds'"
        " from vault.workspace_keys k join vault.audit_events e using (workspace_id)"
        " where k.state = 'retired' and e.action = 'rotation.run'"
    )
    assert waited is True


async def test_a_row_that_does_not_open_is_named_and_its_key_stays(here: Tenancy) -> None:
    await here.fill()
    await here.over.admin.execute(
        "update vault.users u set profile = o.profile from vault.users o"
        " where u.user_id = 'bob' and o.user_id = 'ada'"
    )
    old = await here.newest()
    done = await here.vault.rotate_workspace_keys(OPERATOR, settle=0)
    assert done.report is not None
    assert [(one.kind, one.id) for one in done.report.unopened] == [("users", "bob")]
    assert (done.report.under_older, done.retired) == (1, 0)
    assert done.report.left == [Left(here.workspace, 1, "active", 1)]
    assert [state for _, state, _ in await here.keys()] == ["active", "active"]
    assert (await here.sealed())["users"] == {old, await here.newest()}
    assert (await here.api.get("/v1/users/ada")).json["name"] == "Ada"


async def test_a_wrapped_key_that_was_swapped_is_named(here: Tenancy) -> None:
    await here.fill()
    await here.over.admin.execute(
        "update vault.workspace_keys set wrapped = wrapped || '\\x00' where workspace_id = $1",
        here.workspace,
    )
    report = await here.vault.verify_keys(OPERATOR)
    assert ("workspace_keys", here.workspace) in {
        (one.kind, one.workspace) for one in report.unopened
    }


async def test_a_workspace_that_is_deleted_meanwhile_is_left_out(here: Tenancy) -> None:
    for number in range(12):
        await here.vault.create_workspace(OPERATOR, f"w{number}")
    every = {one.workspace_id for one in await here.vault.list_workspaces(OPERATOR, Page(1000))}
    gone = (every - {here.workspace}).pop()
    told: list[str] = []

    def tell(step: Step) -> None:
        told.append(step.what)

    async def delete() -> None:
        while "sealing rows" not in told:  # noqa: ASYNC110 - it is told in steps alone
            await asyncio.sleep(0)
        await here.vault.delete_workspace(OPERATOR, gone)

    await asyncio.gather(here.vault.rotate_workspace_keys(OPERATOR, settle=0, tell=tell), delete())
    assert (await here.vault.verify_keys(OPERATOR)).workspaces == len(every) - 1


async def test_the_record_shows_it_and_only_the_operator_may(here: Tenancy) -> None:
    await here.vault.rotate_workspace_keys(OPERATOR, settle=0)
    events = (await here.api.get("/v1/audit-events?action=rotation.run")).json["data"]
    assert [one["action"] for one in events] == ["rotation.run"]
    key = await here.vault.authenticate(here.key)
    for call in (here.vault.rotate_root_key, here.vault.rotate_workspace_keys):
        with pytest.raises(Forbidden):
            await call(key)
    with pytest.raises(Forbidden):
        await here.vault.verify_keys(key)
