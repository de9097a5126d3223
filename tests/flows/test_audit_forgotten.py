"""Old lines come to an end, and what is left of the record still proves what it proved."""

import asyncio
from typing import Any, Final

import asyncpg
import pytest
from support.recording import OPERATOR, Record, sealed_long_ago

from vault.chain import Place, forgetting, rows
from vault.chain.anchors import Anchor
from vault.chain.exporting import BatchOut, LineOut
from vault.database import Database, Transaction
from vault.errors import NotReady
from vault.model import WorkspaceId

KEPT: Final = 400  # days
LINES: Final = "select count(*) from vault.audit_events"


async def sealed_now(record: Record, size: int) -> None:
    await record.write(size)
    assert await record.seal() >= size


async def test_what_is_older_than_the_setting_is_deleted_and_the_rest_verifies(
    record: Record,
) -> None:
    await sealed_long_ago(record, 3, 2)
    await sealed_now(record, 4)
    before = await record.verify()
    assert await record.vault.forget_audit(KEPT) == 3 + 5
    found = await record.verify()
    assert found.problems == []
    assert (found.forgotten, found.lines) == (8, before.lines - 8)
    assert found.end == before.end
    # What is left: four lines, those of another batch, and the operator's on what was deleted.
    assert await record.admin.fetchval(LINES) == found.lines + found.unsealed
    [told] = await record.admin.fetch(
        "select actor_id, outcome from vault.audit_events where action = 'chain.forget'"
    )
    assert tuple(told) == ("retention", "ok")
    assert await record.vault.forget_audit(KEPT) == 0


async def test_lines_that_are_young_enough_stay(record: Record) -> None:
    await sealed_long_ago(record, 3, days=KEPT - 1)
    await sealed_now(record, 1)
    assert await record.vault.forget_audit(KEPT) == 0
    assert (await record.verify()).forgotten == 0


async def test_for_ever_means_for_ever(record: Record) -> None:
    await sealed_long_ago(record, 3, days=36_500)
    await sealed_now(record, 1)
    assert await record.vault.forget_audit(0) == 0


async def test_whoever_asks_for_less_than_thirty_days_gets_no_young_line_deleted(
    record: Record,
) -> None:
    """It is the database that says so, to the worker's login too."""
    await sealed_long_ago(record, 3, days=20)
    await sealed_now(record, 1)
    before = await record.admin.fetchval(LINES)
    assert await record.vault.forget_audit(10) == 0
    worker = await asyncpg.connect(record.over.address("keyturn_worker"))
    for table in ("audit_events", "audit_batches", "audit_seals"):
        assert await worker.execute(f"delete from vault.{table}") == "DELETE 0"  # noqa: S608 - ours
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await worker.execute("delete from vault.audit_notes")
    await worker.close()
    assert await record.admin.fetchval(LINES) == before + 1  # the operator's


async def test_a_chain_of_which_all_is_gone_goes_on_behind_its_note(record: Record) -> None:
    other = await record.another_workspace()
    await sealed_long_ago(record, 3)
    await sealed_now(record, 2)
    await record.vault.forget_audit(KEPT)
    one = WorkspaceId(other.workspace)
    assert (await record.verify(one)).batches == 0
    await record.write(2, other)
    assert await record.seal() == 3  # and the operator's on what was deleted
    found = await record.verify(one)
    assert (found.problems, found.batches, found.lines, found.forgotten) == ([], 1, 2, 2)
    [first] = await record.admin.fetch(
        "select number, first from vault.audit_batches where workspace_id = $1", one
    )
    assert tuple(first) == (2, 2)


async def test_what_is_not_sealed_is_never_deleted(record: Record) -> None:
    await sealed_long_ago(record, 1)
    await sealed_now(record, 1)
    await record.write(2)
    await record.admin.execute(
        "update vault.audit_events set at = at - interval '500 days'"
        " where xact >= (select sealed_to from vault.audit_sealing)"
    )
    await record.vault.forget_audit(KEPT)
    assert (await record.verify()).unsealed == 3


async def test_the_last_seal_stays_however_old_it_is(record: Record) -> None:
    await sealed_long_ago(record, 2, 2)
    await record.vault.forget_audit(KEPT)
    found = await record.verify()
    assert (found.problems, found.seals) == ([], 2)
    await sealed_now(record, 1)
    assert await record.problems() == []


async def test_a_deletion_that_was_cut_short_is_no_fault_and_is_gone_on_with(
    record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    await sealed_long_ago(record, 5)
    await sealed_now(record, 1)
    whole = await record.admin.fetchval(LINES)
    forget = rows.forget_lines
    gone: list[int] = []

    async def dies(worker: Database, workspace: str, end: Place, limit: int) -> int:
        if sum(gone) > 1:
            raise NotReady("The process ends.")
        gone.append(await forget(worker, workspace, end, limit))
        return gone[-1]

    with monkeypatch.context() as patch:
        patch.setattr(forgetting, "WORK_SECONDS", 0.0)
        assert await record.vault.forget_audit(KEPT) == 0
        assert await record.problems() == []
        patch.undo()
        patch.setattr(forgetting, "MAX_LINES", 2)
        patch.setattr(rows, "forget_lines", dies)
        with pytest.raises(NotReady):
            await record.vault.forget_audit(KEPT)
    assert await record.problems() == []
    left = whole - await record.admin.fetchval(LINES)
    assert left == sum(gone) == 3
    out = [one async for one in record.vault.export_audit(OPERATOR)]
    whole_batches = sum(one.lines for one in out if isinstance(one, BatchOut))
    assert whole_batches == sum(1 for one in out if isinstance(one, LineOut) and one.batch)
    assert await record.vault.forget_audit(KEPT) == 8 - left
    found = await record.verify()
    assert (found.problems, found.forgotten) == ([], 8)


async def test_replicas_that_delete_at_once_leave_one_record(record: Record) -> None:
    await sealed_long_ago(record, 5, 5, 5)
    await sealed_now(record, 1)
    done = await asyncio.gather(
        record.vault.forget_audit(KEPT), record.over.right.forget_audit(KEPT)
    )
    assert sum(done) == 18
    assert await record.problems() == []


async def test_a_replica_that_comes_late_takes_no_seal_for_an_old_one(
    record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another one has deleted everything between two of its steps."""
    await sealed_long_ago(record, 3)
    await sealed_now(record, 1)
    made_up_to = rows.made_up_to
    others: list[int] = []

    async def late(worker: Database, seal: int) -> list[str]:
        if not others:
            others.append(0)
            others.append(await record.over.right.forget_audit(KEPT))
        return await made_up_to(worker, seal)

    monkeypatch.setattr(rows, "made_up_to", late)
    assert await record.vault.forget_audit(KEPT) == 0
    assert others == [0, 6]
    assert await record.problems() == []


async def test_a_chain_that_was_changed_keeps_its_old_lines_as_evidence(record: Record) -> None:
    await sealed_long_ago(record, 3)
    await sealed_now(record, 1)
    before = await record.admin.fetchval(LINES)
    await record.execute(
        "update vault.audit_batches set lines = lines + 1 where workspace_id = $1 and number = 1",
        record.workspace,
    )
    await record.vault.forget_audit(KEPT)
    assert await record.problems() == [(record.workspace, 1)]
    kept = "select count(*) from vault.audit_events where workspace_id = $1"
    assert await record.admin.fetchval(kept, record.workspace) == before - 1
    # Nor are the seals, by which it shows.
    assert await record.admin.fetchval("select min(number) from vault.audit_seals") == 1


TAMPERING: Final = {
    "the note goes back": "update vault.audit_notes set number = 1 where workspace_id = '{}'",
    "the note goes on": (
        "update vault.audit_notes set number = 3, mac = hash where workspace_id = '{}'"
    ),
    "the note is gone": "delete from vault.audit_notes where workspace_id = '{}'",
    "a note of another's": (
        "update vault.audit_notes n set number = o.number, hash = o.hash, mac = o.mac,"
        " last = o.last, lines = o.lines from vault.audit_notes o"
        " where n.workspace_id = '{}' and o.workspace_id = 'operator' and o.chain = 'batches'"
    ),
    "a young line is gone": (
        "delete from vault.audit_events where workspace_id = '{}'"
        " and at > now() - interval '1 day'"
        " and xact < (select sealed_to from vault.audit_sealing)"
    ),
    "a young batch is gone": (
        "delete from vault.audit_batches where workspace_id = '{}' and number = 3"
    ),
}


@pytest.mark.parametrize("deed", TAMPERING.values(), ids=TAMPERING)
async def test_behind_a_note_as_before_it_what_is_changed_shows(record: Record, deed: str) -> None:
    await sealed_long_ago(record, 3, 2)
    await sealed_now(record, 4)
    await record.vault.forget_audit(KEPT)
    await record.execute(deed.format(record.workspace))
    assert {one for one, _ in await record.problems()} == {record.workspace}
    assert {one for one, _ in await record.problems(record.workspace)} == {record.workspace}


async def test_a_note_that_somebody_made_hides_no_workspace(record: Record) -> None:
    """Nothing else is left of it but what the seals list."""
    await record.another_workspace()
    await sealed_now(record, 3)
    await record.execute("delete from vault.audit_events where workspace_id = $1", record.workspace)
    await record.execute(
        "delete from vault.audit_batches where workspace_id = $1", record.workspace
    )
    await record.execute(
        "insert into vault.audit_notes select $1, 'batches', 99, 0, '', 0, now(), '', '', ''",
        record.workspace,
    )
    assert await record.problems() == [(record.workspace, None)]


async def test_nothing_is_sealed_behind_a_note_that_is_not_ours(record: Record) -> None:
    other = await record.another_workspace()
    await sealed_long_ago(record, 3)
    await sealed_now(record, 1)
    await record.vault.forget_audit(KEPT)
    await record.execute(
        "update vault.audit_notes set number = 7 where workspace_id = $1", other.workspace
    )
    await record.write(2, other)
    assert await record.seal() == 1  # the operator's
    assert {one for one, _ in await record.problems()} == {other.workspace}


async def test_seals_that_are_gone_are_vouched_for_by_a_note_of_ours(record: Record) -> None:
    await sealed_long_ago(record, 3, 2)
    await sealed_now(record, 4)
    await record.vault.forget_audit(KEPT)
    await record.execute("update vault.audit_notes set last = hash where chain = 'seals'")
    assert await record.problems() == [(None, None)]


async def test_a_seal_from_before_is_said_to_be_gone_and_not_to_be_cut_off(record: Record) -> None:
    await sealed_long_ago(record, 3)
    first = (await record.verify()).end
    await sealed_now(record, 1)
    await record.vault.forget_audit(KEPT)
    assert isinstance(first, Anchor)
    found = await record.vault.verify_audit(OPERATOR, known=[first])
    assert [one.text for one in found.problems] == [
        "Seal 1, written down as it was given, is one of those deleted for their age."
    ]


async def test_who_looks_while_old_lines_go_sees_no_fault(
    record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    await sealed_long_ago(record, 3, 2)
    await sealed_now(record, 4)
    look = rows.batches
    deleted: list[int] = []

    async def batches(tx: Transaction, after: int, limit: int) -> Any:
        if tx.workspace == record.workspace and not deleted:
            deleted.append(0)
            deleted.append(await record.over.right.forget_audit(KEPT))
        return await look(tx, after, limit)

    monkeypatch.setattr(rows, "batches", batches)
    assert await record.problems() == []
    assert deleted == [0, 8]
