"""What a claim and an ending write of a life: what is read afterwards is what the machine said."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest
from msgspec.structs import replace
from support.alive import Alive
from support.databases import address

from vault.database import Database
from vault.lifecycle.clocks import Clocks
from vault.lifecycle.events import Answered, AnyEvent, Claimed, Failed
from vault.lifecycle.intents import Call, Save
from vault.lifecycle.life import Claim, Life
from vault.lifecycle.machine import step
from vault.lifecycle.terms import Terms
from vault.store import calls
from vault.store.refreshing import LifeRow, lock_lives, write_lives

AT = datetime(2026, 1, 1, tzinfo=UTC)
LATER = AT + timedelta(days=1)


@pytest.fixture
async def database(alive: Alive) -> AsyncIterator[Database]:
    application = address(alive.over.postgres, alive.over.name, "keyturn_app")
    opened = await Database.open(application, size=1, statement_cache=20)
    yield opened
    await opened.close()


@pytest.fixture
async def row(alive: Alive, database: Database) -> LifeRow:
    """A connection that has been through much, and whose last call nobody heard of again."""
    await alive.integrate()
    ada = await alive.connect()
    claim = Claim(fence=9, generation=3, owner="rep", attempt="try", at=AT, until=LATER)
    troubled = Life(
        generation=3,
        fence=9,
        saved=2,
        consented=1,
        claim=claim,
        doubt=AT,
        orphan=1,
        failures=4,
        last_failure="ambiguous",
        next_try_at=AT,
        told=True,
    )
    [found] = await _locked(alive, database, ada)
    row = replace(found.after(troubled), noticed=86_400, due_at=AT)
    await database.run(alive.caller.workspace, lambda tx: write_lives(tx, [row]))
    assert await _locked(alive, database, ada) == [row]
    return row


async def test_a_claim_is_written_as_it_was_granted(
    alive: Alive, database: Database, row: LifeRow
) -> None:
    row = replace(row, doubt_since=None)
    await database.run(alive.caller.workspace, lambda tx: write_lives(tx, [row]))
    event = Claimed(at=LATER, owner="other", attempt="again", holder_alive=False)
    after, [call] = step(row.life(), event, Terms(rotation="none"))
    assert after.claim is not None
    assert after.claim.owner == "other"
    assert after.doubt is not None
    claims, doubts = {row.connection_id: after.claim}, {row.connection_id: after.doubt}
    await database.run(alive.caller.workspace, lambda tx: calls.write_claims(tx, claims, doubts))
    assert isinstance(call, Call)
    assert call.fence == 10
    assert await _locked(alive, database, row.connection_id) == [
        replace(row.after(after), due_at=after.claim.until)
    ]


ENDINGS: dict[str, tuple[AnyEvent, bool]] = {
    "an answer": (Answered(at=LATER, fence=9), True),
    "a late answer, while another calls": (Answered(at=LATER, fence=8), False),
    "an answer put aside, in trouble": (Failed(at=LATER, fence=9, outcome="dead", luck=0), False),
}


@pytest.mark.parametrize("ending", ENDINGS)
async def test_new_tokens_are_written_with_all_that_they_change(
    alive: Alive, database: Database, row: LifeRow, ending: str
) -> None:
    event, rests = ENDINGS[ending]
    after, [save, *_] = step(row.life(), event, Terms())
    assert isinstance(save, Save)
    times = Clocks(
        issued_at=AT + timedelta(hours=1),
        consented_at=AT + timedelta(hours=2),
        access_ends=AT + timedelta(hours=3),
        idle_ends=AT + timedelta(hours=4),
        consent_ends=AT + timedelta(hours=5),
        renewable=False,
    )
    expected = replace(row.after(after, times), due_at=AT + timedelta(hours=6))
    assert expected.rests == rests
    sealed = {row.connection_id: b"sealed anew"}
    workspace = alive.caller.workspace
    await database.run(workspace, lambda tx: calls.write_changes(tx, [expected], sealed))
    assert await _locked(alive, database, row.connection_id) == [expected]
    found = await database.run(workspace, lambda tx: calls.refreshable(tx, list(sealed)))
    assert [(one.generation, one.sealed) for one in found.values()] == [(4, b"sealed anew")]


async def _locked(alive: Alive, database: Database, connection_id: str) -> list[LifeRow]:
    found = await database.run(alive.caller.workspace, lambda tx: lock_lives(tx, [connection_id]))
    return list(found.values())
