"""One workspace's slow provider holds up nobody else: through the door, over two workspaces.

Who was held up shows in the order of things, not in seconds: a provider that has not answered yet,
while others have been served.
"""

import asyncio
import itertools
from collections.abc import AsyncIterator

import pytest
from support.alive import Alive, leave_nothing_due, workspace_in
from support.sandbox import providing
from support.wire import wired

from broker.sandbox import Faults
from vault import refreshing
from vault.refreshing import room

SLOW = 120.0  # nobody waits for that: the wire is cut first


@pytest.fixture
async def neighbour(alive: Alive) -> AsyncIterator[Alive]:
    """Another workspace, at a provider of its own."""
    caller = await workspace_in(alive.over, "a neighbour")
    async with providing() as sandbox, wired(sandbox.base) as wire:
        found = Alive(alive.over, caller, sandbox, wire)
        yield found
        await found.settled()
    await leave_nothing_due(alive.over, [caller])


@pytest.fixture(autouse=True)
def little_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refreshing, "MAX_FLIGHTS", 16)
    monkeypatch.setattr(room, "SLOTS", 8)
    monkeypatch.setattr(room, "FOR_DUE", 6)
    monkeypatch.setattr(room, "ALONE", {"waited_for": 2, "due": 4})
    monkeypatch.setattr(room, "SHARED", {"waited_for": 2, "due": 2})


async def until_asked(alive: Alive, number: int) -> None:
    """With a tick now and then: what was claimed too late for its call has been given back."""
    async with asyncio.timeout(60):
        for turn in itertools.count(1):
            if alive.calls >= number:
                return
            await asyncio.sleep(0.02)
            if turn % 50 == 0:
                await alive.left.refresh_due()


def answers(alive: Alive) -> int:
    """How many calls its provider has answered."""
    return sum(one.what == "answered" for one in alive.sandbox.state.history.events())


async def test_a_workspace_with_a_slow_provider_does_not_hold_up_another(
    alive: Alive, neighbour: Alive
) -> None:
    await alive.integrate(refresh_policy="eager")
    await neighbour.integrate(refresh_policy="eager")
    slow, quick = await alive.people(20), await neighbour.people(3)
    alive.sandbox.misbehave(Faults(hold=SLOW))
    await alive.end_access(*slow)
    assert await alive.left.refresh_due() == 8, "half of what can be under way"
    await until_asked(alive, 4)
    await asyncio.sleep(0.3)
    assert alive.calls == 4, "so many at once"
    await neighbour.end_access(*quick[:2])
    await alive.left.refresh_due()
    read = await neighbour.token(quick[2], rejected=True, wait=60)
    assert read.generation == 2
    await until_asked(neighbour, 3)
    assert answers(alive) == 0, "nobody waits for the slow one"
    await alive.wire.put("refused")


async def test_who_is_waited_for_goes_ahead_of_what_is_due_in_the_same_workspace(
    alive: Alive,
) -> None:
    await alive.integrate(refresh_policy="eager")
    people = await alive.people(8)
    alive.sandbox.misbehave(Faults(hold=SLOW, times=4))
    await alive.end_access(*people)
    assert await alive.left.refresh_due() == 8
    await until_asked(alive, 4)
    waiting = [one for one in people if await alive.state(one) != "refreshing"][-1]
    assert (await alive.token(waiting, wait=60)).generation == 2
    assert answers(alive) == 1, "all who were before it still wait"
    await alive.wire.put("refused")


async def test_what_one_workspace_has_learned_of_an_endpoint_is_nothing_to_another(
    alive: Alive,
) -> None:
    """The same address and the same client: still nobody can stop a neighbour's refreshes."""
    caller = await workspace_in(alive.over, "a neighbour")
    neighbour = Alive(alive.over, caller, alive.sandbox, alive.wire)
    for one in (alive, neighbour):
        await one.integrate("steady")
    people, ada = await alive.people(21), await neighbour.connect()
    alive.sandbox.misbehave(Faults(status=503))
    for each in people[:20]:
        await alive.token(each, rejected=True, wait=2)
        await alive.settled()
    alive.sandbox.misbehave(None)
    calls = alive.calls
    assert (await alive.token(people[20], rejected=True, wait=0.5)).degraded
    assert alive.calls == calls, "its circuit is open"
    assert (await neighbour.token(ada, rejected=True)).generation == 2
    await neighbour.settled()
    await leave_nothing_due(alive.over, [caller])
