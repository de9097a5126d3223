"""Who owns the database changes the record: it shows, and the first bad batch is named."""

from pathlib import Path
from typing import Final

import pytest
from support.recording import INSERT, OPERATOR, Record

from vault.chain import Chains
from vault.chain.anchors import Anchor, Anchors
from vault.chain.sealing import Sealer
from vault.errors import Misconfigured, VaultError
from vault.model import OPERATOR as OPERATORS_PLACE

CHANGED: Final = "A line of batch 3 was changed, or another took its place."
REMADE: Final = "Batch 3 is not as it was made, or was made with another key."
_LINE: Final = "update vault.audit_events set {} where event_id = '{{line3}}'"
_BATCH: Final = (
    "update vault.audit_batches set {} where workspace_id = '{{workspace}}' and number = 3"
)
# What is done to a chain of batches with 2, 2, 3 and 2 lines, and what is said then.
DEEDS: Final[dict[str, tuple[str, int, str]]] = {
    "who": (_LINE.format("actor_id = 'key_other'"), 3, CHANGED),
    "what": (_LINE.format("action = 'key.read'"), 3, CHANGED),
    "when": (_LINE.format("at = at + interval '1 microsecond'"), 3, CHANGED),
    "outcome": (_LINE.format("outcome = 'refused'"), 3, CHANGED),
    "user": (_LINE.format("user_ref = 'usr_other'"), 3, CHANGED),
    "whose tokens": (_LINE.format("connection_ids = '{{conn_1}}'"), 3, CHANGED),
    "id": (_LINE.format("event_id = event_id || '0'"), 3, CHANGED),
    "columns that read the same together": (
        _LINE.format("target_id = target_kind || target_id, target_kind = ''"),
        *(3, CHANGED),
    ),
    "a line is removed": (
        "delete from vault.audit_events where event_id = '{line3}'",
        *(3, "1 of the lines were removed from batch 3."),
    ),
    "a line is put in": (
        (
            "insert into vault.audit_events select workspace_id, event_id || '0', at, actor_kind,"
            " actor_id, action, target_kind, target_id, user_ref, environment, outcome, request_id,"
            " xact from vault.audit_events where event_id = '{line3}'"
        ),
        *(3, "1 of the lines were put into batch 3."),
    ),
    "two lines change places": (
        (
            "update vault.audit_events e set xact = o.xact from vault.audit_events o"
            " where (e.event_id, o.event_id) in (('{line2}', '{line3}'), ('{line3}', '{line2}'))"
        ),
        *(2, "A line of batch 2 was changed, or another took its place."),
    ),
    "how many": (_BATCH.format("lines = lines + 1"), 3, REMADE),
    "sealed when": (_BATCH.format("sealed_at = sealed_at + interval '1 hour'"), 3, REMADE),
    "MAC": (_BATCH.format("mac = hash"), 3, REMADE),
    "digest": (_BATCH.format("digest = hash"), 3, REMADE),
    "up to where": (_BATCH.format("to_xact = to_xact + 1"), 3, REMADE),
    "for another seal": (_BATCH.format("seal = seal + 1"), 3, REMADE),
    "a batch is removed": (
        "delete from vault.audit_batches where workspace_id = '{workspace}' and number = 2",
        *(2, "Batch 2 is missing."),
    ),
    "the batch of another": (
        (
            "update vault.audit_batches b set digest = o.digest, hash = o.hash, mac = o.mac,"
            " previous = o.previous from vault.audit_batches o where b.workspace_id = '{workspace}'"
            " and o.workspace_id = '{other}' and b.number = 3 and o.number = 3"
        ),
        *(3, REMADE),
    ),
}


async def test_whatever_is_done_to_a_chain_is_noticed_at_its_first_bad_batch(
    record: Record,
) -> None:
    chains = {name: await record.another_workspace() for name in DEEDS}
    await record.seal()
    for size in (2, 3, 2):
        for one in (*chains.values(), record.caller):
            await record.write(size, one)
        await record.seal()
    assert await record.problems() == []
    for name, (sql, _, _) in DEEDS.items():
        workspace = chains[name].workspace
        done = sql.format(
            workspace=workspace,
            other=record.workspace,
            line2=await record.event(2, workspace),
            line3=await record.event(3, workspace),
        )
        await record.execute(done)
    expected: dict[str, tuple[str, int, str]] = {
        chains[name].workspace: (name, batch, text) for name, (_, batch, text) in DEEDS.items()
    }
    found = {
        str(one.workspace): (expected[str(one.workspace)][0], one.batch, one.text)
        for one in (await record.verify()).problems
    }
    assert found == expected
    # One alone says the same, and the others are well.
    for name, one in chains.items():
        [problem] = (await record.verify(one.workspace)).problems
        assert (name, problem.batch, problem.text) == expected[one.workspace]
    assert await record.problems(record.workspace) == []


@pytest.mark.parametrize("others", ["{}", "{conn_1}", "{conn_1conn_2}", "{conn_2,conn_1}"])
async def test_a_line_that_names_connections_is_sealed_with_them(
    record: Record, others: str
) -> None:
    line = "evt_00000000000000000000000001"
    await record.admin.execute(INSERT, record.workspace, line)
    change = "update vault.audit_events set connection_ids = $2::text::text[] where event_id = $1"
    await record.admin.execute(change, line, "{conn_1,conn_2}")
    await record.batches_of(1)
    assert await record.problems() == []
    await record.admin.execute(change, line, others)
    [problem] = (await record.verify()).problems
    assert problem.text.startswith("A line of batch")


async def test_a_line_behind_a_chain_that_has_rested_is_noticed(record: Record) -> None:
    """It is put in behind the workspace's last batch, where nobody looks for new lines any more."""
    await record.batches_of(2)
    other = await record.another_workspace()
    await record.seal()
    end = await record.admin.fetchval(
        "select to_xact from vault.audit_batches where workspace_id = $1 and number = 2",
        record.workspace,
    )
    await record.admin.execute(INSERT, record.workspace, "evt_planted")
    await record.execute(
        "update vault.audit_events set xact = $1 where event_id = 'evt_planted'", end
    )
    await record.seal()
    [problem] = (await record.verify()).problems
    assert (problem.workspace, problem.batch) == (record.workspace, None)
    assert "in no batch" in problem.text
    assert await record.problems(other.workspace) == []


async def test_a_line_that_moved_to_another_workspace_is_noticed_in_both(record: Record) -> None:
    other = await record.another_workspace()
    await record.batches_of(2)
    await record.write(2, other)
    await record.write(2)
    await record.seal()
    event = await record.event(2)
    await record.execute(
        "update vault.audit_events set workspace_id = $2 where event_id = $1",
        *(event, other.workspace),
    )
    assert sorted(await record.problems()) == sorted([(record.workspace, 2), (other.workspace, 2)])


async def test_lines_of_a_workspace_that_there_cannot_be_are_noticed(record: Record) -> None:
    await record.batches_of(2)
    event = await record.event(2)
    await record.execute(
        "update vault.audit_events set workspace_id = 'elsewhere' where event_id = $1", event
    )
    await record.write(1)
    assert await record.seal() == 1
    assert await record.problems() == [("elsewhere", None), (record.workspace, 2)]


async def cut(record: Record, batch: int) -> None:
    """Remove a workspace's batches from one on, with their lines."""
    start = await record.admin.fetchval(
        "select from_xact from vault.audit_batches where workspace_id = $1 and number = $2",
        *(record.workspace, batch),
    )
    await record.execute(
        "delete from vault.audit_events where workspace_id = $1 and xact >= $2",
        *(record.workspace, start),
    )
    await record.execute(
        "delete from vault.audit_batches where workspace_id = $1 and number >= $2",
        *(record.workspace, batch),
    )


async def test_a_tail_that_was_cut_off_is_noticed_and_cannot_be_grown_over(
    record: Record,
) -> None:
    await record.batches_of(2, 3, 2)
    await cut(record, 3)
    [problem] = (await record.verify()).problems
    assert (problem.workspace, problem.batch) == (record.workspace, 3)
    assert problem.text == "Batch 3 is gone: seal 3 was made with it."
    await record.write(4)
    await record.seal()
    [problem] = (await record.verify()).problems
    assert problem.text == "Batch 3 is gone: seal 3 was made with it."


async def test_a_chain_of_which_nothing_is_left_is_noticed(record: Record) -> None:
    await record.batches_of(2)
    await cut(record, 1)
    assert await record.problems() == [(record.workspace, 1)]


async def test_a_chain_whose_end_is_not_ours_is_not_built_upon(record: Record) -> None:
    other = await record.another_workspace()
    await record.batches_of(2)
    await record.execute(
        "update vault.audit_batches set mac = hash where workspace_id = $1 and number = 2",
        record.workspace,
    )
    await record.write(2)
    await record.write(3, other)
    assert await record.seal() == 3
    assert await record.problems() == [(record.workspace, 2)]


# Seals and anchors


async def test_altered_and_removed_seals_are_noticed(record: Record) -> None:
    await record.batches_of(2, 2)
    await record.execute("update vault.audit_seals set batches = '' where number = 2")
    [problem] = (await record.verify()).problems
    assert "Seal 2 is not as it was made" in problem.text
    await record.execute("delete from vault.audit_seals where number = 2")
    assert [one.text for one in (await record.verify()).problems] == ["Seal 2 is missing."]


async def cut_all(record: Record, seal: int) -> None:
    """Cut the whole record off at a seal, and leave no trace of it in the database."""
    start = await record.admin.fetchval(
        "select min(from_xact) from vault.audit_batches where seal >= $1", seal
    )
    await record.execute("delete from vault.audit_events where xact >= $1", start)
    await record.execute("delete from vault.audit_batches where seal >= $1", seal)
    await record.execute("delete from vault.audit_seals where number >= $1", seal)
    await record.execute("update vault.audit_sealing set seal = $1, sealed_to = $2", *(seal, start))


async def test_an_end_that_was_cut_off_without_a_trace_is_missed_outside(record: Record) -> None:
    await record.batches_of(2, 2, 2)
    assert record.anchor()["seal"] == 4
    await cut_all(record, 3)
    [problem] = (await record.verify()).problems
    assert problem.text.startswith("The chain ends with seal 2, and seal 4 was written down in ")
    # Growing over it does not help: the file goes on naming what is gone.
    for _ in range(3):
        await record.write(1)
        await record.seal()
        await record.seal(record.over.right)
    assert record.anchor()["seal"] == 4
    assert (await record.vault.chain_state()).anchored is False
    [problem] = (await record.verify()).problems
    assert problem.text.startswith("Seal 4 is another one than was written down in ")
    with pytest.raises(VaultError, match="lacks seal 4"):
        await record.vault.check_chain()


async def test_a_restore_that_was_meant_is_anchored_anew_and_on_the_record(record: Record) -> None:
    await record.batches_of(2, 2)
    await cut_all(record, 3)
    assert not (await record.verify()).is_well
    last = await record.vault.anchor_audit(OPERATOR)
    assert last is not None
    assert (record.anchor()["seal"], record.anchor()["hash"]) == (last.number, last.hash.hex())
    assert await record.problems() == []
    assert (await record.vault.chain_state()).anchored is True
    operators = await record.admin.fetch(
        "select action from vault.audit_events where workspace_id = 'operator' order by event_id"
    )
    assert [row[0] for row in operators][-1] == "chain.anchor"


async def test_whoever_accepts_an_older_database_has_its_record_anchored(record: Record) -> None:
    await record.batches_of(2, 2)
    await cut_all(record, 3)
    assert not (await record.verify()).is_well
    await record.settled()
    await record.vault.go_on(OPERATOR, [])
    assert await record.problems() == []
    operators = await record.admin.fetch(
        "select action from vault.audit_events where workspace_id = 'operator' order by event_id"
    )
    assert [row[0] for row in operators][-2:] == ["backup.restore", "chain.anchor"]


async def test_what_is_accepted_stays_accepted_where_its_record_cannot_be_sealed(
    record: Record,
) -> None:
    await record.batches_of(2, 2)
    await cut_all(record, 3)
    await record.execute("update vault.audit_sealing set server = 'another'")
    await record.vault.go_on(OPERATOR, [])
    await record.vault.check_refreshing()
    with pytest.raises(VaultError, match="keyturn migrate"):
        await record.vault.check_chain()


async def test_a_seal_that_was_written_down_elsewhere_has_to_be_there(record: Record) -> None:
    await record.batches_of(2)
    end = (await record.verify()).end
    assert end is not None
    await record.write(2)
    await record.seal()
    assert (await record.vault.verify_audit(OPERATOR, known=[end])).is_well
    other = Anchor("", end.seal, "0" * 64)
    [problem] = (await record.vault.verify_audit(OPERATOR, known=[other])).problems
    assert problem.text == f"Seal {end.seal} is another one than was written down as it was given."


async def test_an_anchor_that_cannot_be_read_is_no_anchor_that_fits(record: Record) -> None:
    await record.batches_of(2)
    record.anchor_file.write_text("{}")
    with pytest.raises(Misconfigured, match="cannot be read as an anchor"):
        await record.verify()


async def test_who_has_the_database_and_not_the_key_cannot_make_a_batch_anew(
    record: Record, tmp_path: Path
) -> None:
    """The attacker knows this program, and seals the changed record with a key of his own."""
    await record.batches_of(2, 2)
    await record.execute(
        "update vault.audit_events set actor_id = 'key_other' where event_id = $1",
        await record.event(2),
    )
    for table in ("audit_batches", "audit_seals"):
        await record.execute(f"delete from vault.{table}")  # noqa: S608 - names of ours
    await record.execute("update vault.audit_sealing set seal = 1, sealed_to = 0")
    database, worker = await record.logins()
    chains = Chains(record.vault.deployment_id, b"a pepper of his own")
    assert await Sealer(database, worker, chains, Anchors([tmp_path], "dep")).seal() == 7
    await database.close()
    await worker.close()
    found = await record.verify()
    assert {(one.workspace, one.batch) for one in found.problems} >= {
        (OPERATORS_PLACE, 1),
        (record.workspace, 1),
    }
