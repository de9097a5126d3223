"""What a claim and an ending write of a life: what is read afterwards is what the machine said."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest
from msgspec.structs import replace
from support.alive import Alive
from support.databases import address

from vault.database import Database, Transaction
from vault.lifecycle.clocks import Clocks
from vault.lifecycle.events import Answered, AnyEvent, Claimed, Failed
from vault.lifecycle.intents import Call, Save
from vault.lifecycle.life import Claim, Life
from vault.lifecycle.machine import step
from vault.lifecycle.takeover import leased
from vault.lifecycle.terms import Terms
from vault.store import calls
from vault.store.refreshing import LifeRow, due, left_by_the_dead, lock_lives, write_lives

AT = datetime(2026, 1, 1, tzinfo=UTC)
LATER = AT + timedelta(days=1)
FAR = AT + timedelta(days=30_000)
HOT_UPDATES = "select pg_stat_get_xact_tuples_hot_updated('vault.connection_lives'::regclass)"


@pytest.fixture
async def database(alive: Alive) -> AsyncIterator[Database]:
    application = address(alive.over.postgres, alive.over.name, "keyturn_app")
    opened = await Database.open(application, size=1, statement_cache=20)
    yield opened
    await opened.close()


@pytest.fixture
async def worker(alive: Alive) -> AsyncIterator[Database]:
    login = address(alive.over.postgres, alive.over.name, "keyturn_worker")
    opened = await Database.open(login, size=1, statement_cache=20)
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
    assert await _locked(alive, database, row.connection_id) == [row.after(after)]


@pytest.mark.parametrize("due_at", [None, FAR])
async def test_what_is_claimed_before_its_time_is_due_when_its_lease_ends(
    alive: Alive, database: Database, row: LifeRow, due_at: datetime | None
) -> None:
    row = replace(row, due_at=due_at)
    await database.run(alive.caller.workspace, lambda tx: write_lives(tx, [row]))
    claim = leased(10, 3, owner="other", attempt="again", at=LATER)
    await _claim(alive, database, {row.connection_id: claim})
    [found] = await _locked(alive, database, row.connection_id)
    assert found.due_at == LATER
    assert found.looked_at == claim.until


async def test_a_claim_of_what_is_due_writes_to_no_index(
    alive: Alive, database: Database, row: LifeRow
) -> None:
    claims = {row.connection_id: leased(10, 3, owner="other", attempt="again", at=LATER)}

    async def work(tx: Transaction) -> list[int]:
        await calls.write_claims(tx, claims, {})
        return [int(row[0]) for row in await tx.fetch(HOT_UPDATES, [])]

    assert await database.run(alive.caller.workspace, work) == [1]


async def test_what_the_dead_have_claimed_is_found_until_its_lease_ends(
    alive: Alive, database: Database, worker: Database, row: LifeRow
) -> None:
    name, now = row.connection_id, await alive.now()

    async def left(*living: str) -> list[str]:
        return [one.connection_id for one in await left_by_the_dead(worker, living, 10)]

    async def are_due() -> list[str]:
        return [one.connection_id for one in await due(worker, 10)]

    await _claim(alive, database, {name: leased(10, 3, owner="other", attempt="try", at=now)})
    assert await left("mine") == [name]
    assert await left("mine", "other") == []
    assert await are_due() == [], "its lease lasts"
    await alive.passes(seconds=91)
    assert await are_due() == [name]
    await alive.passes(seconds=30)
    assert await left("mine") == [], "it is due anyway"
    await _claim(alive, database, {name: leased(11, 3, owner="mine", attempt="new", at=now)})
    kept = "select attempt from vault.claims where workspace_id = $1"
    found = await alive.over.admin.fetch(kept, alive.caller.workspace)
    assert [one["attempt"] for one in found] == ["new"], "and what is over is forgotten"
    await _claim(alive, database, {name: leased(12, 3, owner="third", attempt="newer", at=now)})
    assert await left("third") == [], "others have claimed it since"


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


async def _claim(alive: Alive, database: Database, claims: dict[str, Claim]) -> None:
    await database.run(alive.caller.workspace, lambda tx: calls.write_claims(tx, claims, {}))


async def _locked(alive: Alive, database: Database, connection_id: str) -> list[LifeRow]:
    found = await database.run(alive.caller.workspace, lambda tx: lock_lives(tx, [connection_id]))
    return list(found.values())
