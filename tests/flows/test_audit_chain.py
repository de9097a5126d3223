"""The record is sealed behind everybody's back: each line once, whoever else is at work."""

import asyncio
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from support.recording import INSERT, OPERATOR, Record

from broker.migrations import PARTS
from vault.chain import Chains, rows
from vault.chain.anchors import Anchors
from vault.chain.sealing import MAX_LINES, Sealer
from vault.errors import Misconfigured, VaultError
from vault.kms.file import new_line
from vault.migrations import migrate
from vault.model import Caller, NewKey, Profile, UserId, WorkspaceId
from vault.secret import Secret
from vault.vault import Vault


async def test_what_is_written_is_sealed_once_and_verifies(record: Record) -> None:
    await record.batches_of(3, 2)
    assert await record.seal() == 0
    found = await record.verify()
    assert found.problems == []
    # The workspace's two first lines, five more, and the operator's own.
    assert (found.chains, found.batches, found.lines, found.unsealed) == (2, 4, 8, 0)
    assert found.seals == 3
    await record.write(4)
    assert (await record.verify()).unsealed == 4
    assert (await record.vault.chain_state()).waiting.lines == 4


async def test_the_replica_that_has_no_turn_seals_nothing_and_misses_nothing(
    record: Record,
) -> None:
    await record.write(1)
    await record.execute(
        "update vault.audit_sealing set turn_owner = 'somebody',"
        " turn_until = now() + interval '1 minute'"
    )
    assert await record.seal() == 0
    await record.execute("update vault.audit_sealing set turn_until = now()")
    assert await record.seal(record.over.right) == 4
    assert await record.problems() == []


async def test_a_version_that_knows_no_connections_in_lines_gets_no_turn(record: Record) -> None:
    """Its statement, as vault 0009 had it: it would leave them out of what it seals."""
    taking = (
        "update vault.audit_sealing set lease_owner = 'older',"
        " lease_until = now() + interval '1 minute'"
        " where lease_until is null or lease_until <= now() or lease_owner = 'older' returning seal"
    )
    assert await record.admin.fetch(taking) == []
    await record.write(1)
    assert await record.seal() == 4
    assert await record.admin.fetch(taking) == []


async def test_lines_that_were_there_before_chains_were_are_sealed_first(record: Record) -> None:
    """As after an update: they stand in no transaction that anybody knows."""
    many = MAX_LINES * 2 + 10
    await record.execute("update vault.audit_events set xact = 0")
    await record.admin.executemany(
        INSERT, [(record.workspace, f"evt_{number:026}") for number in range(many)]
    )
    await record.execute("update vault.audit_events set xact = 0 where request_id = 'req_1'")
    await record.write(1)
    assert await record.seal() == many + 4
    found = await record.verify()
    assert (found.problems, found.lines) == ([], many + 4)


async def test_a_turn_that_takes_long_goes_on_where_it_stopped(record: Record) -> None:
    """What there is to seal at first may be years of lines, and a tick must not hang."""
    for _ in range(3):
        await record.another_workspace()
    many = MAX_LINES * 2 + 1
    await record.admin.executemany(
        INSERT, [(record.workspace, f"evt_{number:026}") for number in range(many)]
    )
    database, worker = await record.logins()
    chains = Chains(record.vault.deployment_id, b"a pepper")
    sealer = Sealer(database, worker, chains, Anchors([], "dep"), work_seconds=0)
    await record.settled()
    made = [await sealer.seal() for _ in range(8)]
    await database.close()
    await worker.close()
    # One batch a turn: three of the long chain, one for each of the others and the operator.
    assert sorted(made) == sorted([MAX_LINES, MAX_LINES, 3, 2, 2, 2, 4, 0])
    assert await record.admin.fetchval("select count(*) from vault.audit_seals") == 1
    assert (await record.vault.chain_state()).waiting.lines == 0


async def test_who_commits_late_is_sealed_later_and_not_missed(record: Record) -> None:
    late = await asyncpg.connect(record.over.address("keyturn_app"))
    begun = late.transaction()
    await begun.start()
    await late.execute("select set_config('keyturn.workspace', $1, true)", record.workspace)
    await late.execute(INSERT, record.workspace, "evt_00000000000000000000000000")
    # Others write and commit meanwhile; nothing after the open transaction is sealed.
    assert await record.seal() == 3
    await record.write(3)
    assert await record.vault.seal_audit() == 0
    assert (await record.verify()).unsealed == 3
    await begun.commit()
    assert await record.seal() == 4
    await late.close()
    found = await record.verify()
    assert (found.problems, found.lines, found.unsealed) == ([], 7, 0)


async def test_many_writers_and_sealers_at_once_leave_each_line_in_one_batch(
    record: Record,
) -> None:
    others = [await record.another_workspace() for _ in range(3)]
    over = asyncio.Event()
    sealed = []

    async def sealing(vault: Vault) -> None:
        while not over.is_set():
            sealed.append(await vault.seal_audit())

    async def writing(caller: Caller, vault: Vault) -> None:
        for _ in range(25):
            await vault.create_key(caller, NewKey(name="k", scopes=("mint",)))

    async with record.over.another() as third:
        vaults = (record.over.left, record.over.right, third)
        tasks = [asyncio.create_task(sealing(vault)) for vault in vaults]
        await asyncio.gather(
            *(writing(one, vault) for one in (record.caller, *others) for vault in vaults)
        )
        over.set()
        await asyncio.gather(*tasks)
        sealed.append(await record.seal(third))
    there = await record.admin.fetchval("select count(*) from vault.audit_events")
    found = await record.verify()
    assert (found.problems, found.unsealed) == ([], 0)
    assert found.lines == sum(sealed) == there == 4 * (75 + 2) + 4
    assert found.seals > 1


async def test_a_sealer_that_dies_before_its_seal_leaves_it_to_the_next(
    record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has made its batches, and has let nobody else make any for the same seal."""

    async def dies(*_: object) -> Any:
        raise Misconfigured("dead")

    with monkeypatch.context() as patch:
        patch.setattr(rows, "made_for", dies)
        with pytest.raises(Misconfigured):
            await record.seal()
    assert await record.admin.fetchval("select count(*) from vault.audit_seals") == 0
    assert await record.seal(record.over.right) == 0
    found = await record.verify()
    assert (found.problems, found.seals, found.batches) == ([], 1, 2)


async def test_a_sealer_that_slept_adds_nothing_to_a_seal_of_others(
    record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another replica takes over between two of its batches."""
    await record.another_workspace()
    asleep = rows.hold
    others: list[int] = []

    async def hold(tx: Any, owner: str, seal: int) -> Any:
        if not others:
            others.append(0)
            await record.execute("update vault.audit_sealing set turn_until = now()")
            others.append(await record.seal(record.over.right))
        return await asleep(tx, owner, seal)

    monkeypatch.setattr(rows, "hold", hold)
    assert await record.seal() == 0
    assert others == [0, 6]
    assert await record.problems() == []


async def test_deleted_users_and_workspaces_leave_a_record_that_verifies(record: Record) -> None:
    await record.vault.put_user(record.caller, UserId("ada"), Profile(name="Ada"))
    await record.batches_of(2)
    await record.vault.delete_user(record.caller, UserId("ada"))
    await record.vault.delete_workspace(OPERATOR, WorkspaceId(record.workspace))
    await record.seal()
    found = await record.verify()
    assert (found.problems, found.unsealed) == ([], 0)
    assert (await record.verify(record.workspace)).lines == 7


async def test_rotating_keys_leaves_the_chain_as_it_is(record: Record, tmp_path: Path) -> None:
    await record.batches_of(2)
    file = tmp_path / "root.key"
    file.write_text(f"{new_line()}\n{file.read_text()}")
    await record.vault.rotate_root_key(OPERATOR)
    await record.vault.rotate_workspace_keys(OPERATOR, settle=0)
    await record.seal()
    file.write_text(file.read_text().splitlines()[0] + "\n")
    async with record.over.another() as late:  # it knows the new root key alone
        await late.create_key(record.caller, NewKey(name="k", scopes=("mint",)))
        await record.seal(late)
        found = await late.verify_audit(OPERATOR)
        assert (found.problems, found.unsealed) == ([], 0)


async def counted_from(record: Record, shift: int) -> None:
    """Let lines be counted from there on."""
    await record.admin.execute(
        "alter table vault.audit_events alter column xact"
        f" set default {shift} + pg_current_xact_id()::text::bigint"
    )
    await record.execute("update vault.audit_sealing set shift = $1", shift)


async def test_on_a_server_that_counts_from_the_beginning_it_goes_on_after_migrating(
    record: Record,
) -> None:
    """As after a dump was loaded there: its transactions have smaller numbers."""
    await counted_from(record, 1 << 33)
    await record.batches_of(2)
    await record.write(2)  # not sealed yet when the dump is made
    await counted_from(record, 0)
    await record.execute("update vault.audit_sealing set server = 'another'")
    with pytest.raises(VaultError, match="run 'keyturn migrate'"):
        await record.vault.seal_audit()
    with pytest.raises(VaultError, match="run 'keyturn migrate'"):
        await record.vault.check_chain()
    await migrate(Secret(record.over.address("")), [], parts=PARTS)
    await record.write(3)
    assert await record.seal() == 5
    found = await record.verify()
    assert (found.problems, found.unsealed) == ([], 0)
    # Nothing moves the second time.
    shift = "select shift from vault.audit_sealing"
    before = await record.admin.fetchval(shift)
    await migrate(Secret(record.over.address("")), [], parts=PARTS)
    assert await record.admin.fetchval(shift) == before > 1 << 40


async def test_whoever_is_not_the_operator_neither_verifies_nor_exports(record: Record) -> None:
    for call in (record.vault.verify_audit, record.vault.anchor_audit):
        with pytest.raises(VaultError, match="Inside a workspace"):
            await call(record.caller)
    with pytest.raises(VaultError, match="Inside a workspace"):
        await anext(record.vault.export_audit(record.caller))
