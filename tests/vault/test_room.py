"""Room for calls: fair between workspaces, and first for those who are waited for."""

import asyncio
from collections import Counter
from contextlib import AsyncExitStack

import pytest

from vault.refreshing import room
from vault.refreshing.room import Room


class Crowd:
    """Calls that stay in the room until they are told to go."""

    def __init__(self) -> None:
        self.room = Room()
        self.order: list[str] = []
        self.tasks: dict[str, asyncio.Task[None]] = {}

    async def come(self, *names: str, waited_for: bool = False) -> None:
        """Names begin with their workspace's letter."""
        for name in names:
            self.tasks[name] = asyncio.create_task(self._stay(name, waited_for=waited_for))
        await asyncio.sleep(0)

    async def go(self, *names: str) -> None:
        for name in names:
            task = self.tasks.pop(name)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        for _ in range(3):
            await asyncio.sleep(0)

    async def _stay(self, name: str, *, waited_for: bool) -> None:
        async with self.room.place(name[0], name, waited_for=waited_for):
            self.order.append(name)
            try:
                await asyncio.Event().wait()
            finally:
                self.order.remove(name)

    @property
    def by_workspace(self) -> dict[str, int]:
        return dict(Counter(name[0] for name in self.order))


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "SLOTS", 8)
    monkeypatch.setattr(room, "FOR_DUE", 6)
    monkeypatch.setattr(room, "ALONE", {"waited_for": 3, "due": 4})
    monkeypatch.setattr(room, "SHARED", {"waited_for": 3, "due": 2})


async def test_a_workspace_alone_does_not_take_all() -> None:
    crowd = Crowd()
    await crowd.come(*(f"a{number}" for number in range(20)))
    assert crowd.by_workspace == {"a": 4}
    await crowd.come("b1", "b2")
    assert crowd.by_workspace == {"a": 4, "b": 2}, "another one finds room at once"


async def test_while_others_wait_a_workspace_has_its_share_and_no_more() -> None:
    crowd = Crowd()
    await crowd.come(*(f"a{number}" for number in range(20)))
    await crowd.come("b1", "b2", "c1")
    assert crowd.by_workspace == {"a": 4, "b": 2}
    await crowd.go("a0")
    assert crowd.by_workspace == {"a": 3, "b": 2, "c": 1}, "it is not a's turn"
    await crowd.go("a1")
    assert crowd.by_workspace == {"a": 3, "b": 2, "c": 1}, "now nobody else waits"


async def test_who_is_waited_for_goes_first_and_finds_room() -> None:
    crowd = Crowd()
    await crowd.come(*(f"{letter}{number}" for letter in "abc" for number in range(9)))
    assert len(crowd.order) == 6, "what is due leaves a part of the room"
    await crowd.come("d1", "e1", "f1", waited_for=True)
    assert crowd.by_workspace | {"d": 1, "e": 1} == crowd.by_workspace
    assert "f1" not in crowd.order, "it is full"
    await crowd.go("a0")
    assert "f1" in crowd.order
    assert sum(name[0] in "abc" for name in crowd.order) == 5


async def test_who_begins_to_be_waited_for_moves_to_the_front() -> None:
    crowd = Crowd()
    await crowd.come(*(f"a{number}" for number in range(20)))
    assert "a19" not in crowd.order
    crowd.room.hurry("a", "a19")
    await asyncio.sleep(0)
    assert "a19" in crowd.order
    crowd.room.hurry("a", "a19")
    crowd.room.hurry("a", "nobody")
    assert len(crowd.order) == 5


async def test_who_goes_away_leaves_no_hole() -> None:
    crowd = Crowd()
    await crowd.come(*(f"a{number}" for number in range(10)))
    await crowd.go(*(f"a{number}" for number in range(4, 9)))
    await crowd.go("a0", "a1", "a2", "a3")
    assert crowd.order == ["a9"]
    await crowd.go("a9")
    await crowd.come(*(f"a{number}" for number in range(10)))
    assert len(crowd.order) == 4, "all of the room is there again"


async def test_whoever_is_let_in_and_cancelled_in_one_moment_gives_the_place_back() -> None:
    crowd = Crowd()
    await crowd.come("a0", "a1", "a2", "a3", "a4")
    waiting = crowd.tasks["a4"]
    crowd.tasks["a0"].cancel()
    waiting.cancel()
    await asyncio.gather(waiting, crowd.tasks["a0"], return_exceptions=True)
    await crowd.come("a5", "a6")
    assert sorted(crowd.order) == ["a1", "a2", "a3", "a5"]


async def test_turns_go_round() -> None:
    served: list[str] = []
    fair = Room()

    async def one(workspace: str, number: int) -> None:
        async with fair.place(workspace, f"{workspace}{number}", waited_for=False):
            served.append(workspace)
            await asyncio.sleep(0)

    async with AsyncExitStack() as stack:
        for number in range(4):
            await stack.enter_async_context(fair.place("z", f"z{number}", waited_for=False))
        await stack.enter_async_context(fair.place("y", "y0", waited_for=False))
        await stack.enter_async_context(fair.place("y", "y1", waited_for=False))
        every = [asyncio.create_task(one("a", number)) for number in range(10)]
        every += [asyncio.create_task(one("b", number)) for number in range(3)]
        await asyncio.sleep(0)
        assert served == []
    await asyncio.gather(*every)
    assert served.index("b") < 4
    assert max(place for place, name in enumerate(served) if name == "b") < 8
