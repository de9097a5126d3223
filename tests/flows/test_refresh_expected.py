"""What is about to be needed is fresh by then, and nothing else is refreshed for it."""

from datetime import timedelta

import msgspec
import pytest
from support.alive import Alive, leave_nothing_due, workspace_in

from vault.errors import Forbidden, Invalid
from vault.vault.refreshing import MAX_AHEAD


async def test_what_is_expected_soon_is_fresh_by_then(alive: Alive) -> None:
    await alive.integrate()
    ada, grace = await alive.people(2)
    await alive.passes(hours=3)
    await alive.sweep()
    assert alive.calls == 0, "nobody uses them"
    at = await alive.now() + timedelta(minutes=30)
    assert await alive.left.expect(alive.caller, [ada, "conn_nobodys"], at) == [ada]
    await alive.sweep()
    assert alive.calls == 0, "it is early"
    due_at = await alive.column(ada, "due_at")
    assert timedelta(minutes=5) <= at - due_at <= timedelta(minutes=10)
    await alive.comes(ada, "due_at")
    await alive.sweep()
    assert [await alive.generation(one) for one in (ada, grace)] == [2, 1]
    assert alive.calls == 1


async def test_what_is_expected_in_a_moment_is_refreshed_now(alive: Alive) -> None:
    await alive.integrate()
    ada = await alive.connect()
    await alive.passes(hours=3)
    await alive.left.expect(alive.caller, [ada], await alive.now() + timedelta(minutes=1))
    await alive.sweep()
    assert await alive.generation(ada) == 2


async def test_the_nearest_of_two_conversations_counts_until_it_is_over(alive: Alive) -> None:
    await alive.integrate()
    ada = await alive.connect()
    now = await alive.now()
    for minutes in (60, 20, 40):
        await alive.left.expect(alive.caller, [ada], now + timedelta(minutes=minutes))
    assert await alive.column(ada, "expected_at") == now + timedelta(minutes=20)
    await alive.passes(minutes=21)
    later = await alive.now() + timedelta(minutes=40)
    await alive.left.expect(alive.caller, [ada], later)
    assert await alive.column(ada, "expected_at") == later


async def test_a_lazy_one_waits_until_it_is_asked_for(alive: Alive) -> None:
    await alive.integrate(refresh_policy="lazy")
    ada = await alive.connect()
    await alive.passes(hours=3)
    await alive.left.expect(alive.caller, [ada], await alive.now() + timedelta(minutes=1))
    await alive.sweep()
    assert alive.calls == 0


async def test_a_call_under_way_is_not_disturbed(alive: Alive) -> None:
    await alive.integrate()
    ada = await alive.connect()
    await alive.over.admin.execute(
        "update vault.connection_lives set lease_owner = 'somebody',"
        " due_at = now() + interval '80 seconds' where connection_id = $1",
        ada,
    )
    before = await alive.column(ada, "due_at")
    await alive.left.expect(alive.caller, [ada], await alive.now() + timedelta(minutes=1))
    assert await alive.column(ada, "due_at") == before


async def test_who_may_announce_what(alive: Alive) -> None:
    await alive.integrate()
    ada = await alive.connect()
    at = await alive.now() + timedelta(minutes=30)
    stranger = await workspace_in(alive.over, "a stranger")
    elsewhere = msgspec.structs.replace(alive.caller, environments=("staging",))
    for caller in (stranger, elsewhere):
        assert await alive.left.expect(caller, [ada], at) == []
    assert await alive.column(ada, "expected_at") is None
    reader = msgspec.structs.replace(alive.caller, scopes=frozenset({"tokens:read"}))
    with pytest.raises(Forbidden):
        await alive.left.expect(reader, [ada], at)
    with pytest.raises(Invalid):
        await alive.left.expect(alive.caller, [ada], at + MAX_AHEAD)
    await leave_nothing_due(alive.over, [stranger])
