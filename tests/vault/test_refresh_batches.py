"""Batches of claims and endings: who is told what, when, and how often."""

import asyncio
from collections.abc import Sequence

import pytest

from vault.errors import Conflict
from vault.refreshing import batches
from vault.refreshing.batches import GATHER, MOST, Batches


class Place:
    """Does batches when it is let to, and remembers them."""

    def __init__(self, most: int = MOST) -> None:
        self.seen: list[list[str]] = []
        self.open = asyncio.Event()
        self.batches: Batches[str, str] = Batches(self.run, most)
        self.told: list[str | Exception] = []

    async def run(self, items: Sequence[str]) -> list[str]:
        self.seen.append(list(items))
        await self.open.wait()
        if "bad" in items:
            raise Conflict("No.")
        return [one.upper() for one in items]

    def add(self, *items: str, hurry: bool = True) -> None:
        for one in items:
            self.batches.add(one, self.told.append, hurry=hurry)

    async def idle(self) -> None:
        async with asyncio.timeout(60):
            while not self.batches.idle:  # noqa: ASYNC110 - it tells nobody
                await asyncio.sleep(0.001)


async def test_while_one_runs_the_next_gathers_and_none_is_too_large() -> None:
    place = Place()
    place.add("first")
    await asyncio.sleep(0)
    place.add(*(f"{number}" for number in range(MOST + 1)))
    place.open.set()
    await place.idle()
    assert [len(one) for one in place.seen] == [1, MOST, 1]
    assert place.told == ["FIRST", *(f"{number}" for number in range(MOST + 1))]


async def test_a_kind_of_work_may_go_by_smaller_batches() -> None:
    place = Place(most=3)
    place.open.set()
    place.add(*"abcdefg", hurry=False)  # three are enough to begin at once
    await place.idle()
    assert [len(one) for one in place.seen] == [3, 3, 1]


async def test_what_is_in_no_hurry_waits_for_others_and_goes_with_one_that_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(batches, "GATHER", 60)
    place = Place()
    place.open.set()
    place.add("a", "b", hurry=False)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert place.seen == []
    place.add("c")
    await place.idle()
    assert place.seen == [["a", "b", "c"]]
    monkeypatch.undo()
    began = asyncio.get_running_loop().time()
    place.add("d", hurry=False)
    await place.idle()
    assert place.seen[1:] == [["d"]]
    assert asyncio.get_running_loop().time() - began >= GATHER


async def test_one_that_fails_fails_alone_and_each_is_told_once() -> None:
    place = Place()
    place.open.set()
    place.add("a", "bad", "b")
    waits = place.batches.put("c")
    await place.idle()
    assert await waits == "C"
    [a, bad, b] = place.told
    assert (a, b) == ("A", "B")
    assert isinstance(bad, Conflict)
    with pytest.raises(Conflict):
        await place.batches.do("bad")


async def test_who_does_not_want_to_hear_any_more_is_not_told() -> None:
    place = Place()
    gone = place.batches.put("a")
    await asyncio.sleep(0)
    gone.cancel()
    place.open.set()
    await place.idle()
    assert gone.cancelled()


async def test_whoever_is_told_last_finds_nothing_under_way() -> None:
    place = Place()
    place.open.set()
    idle: list[bool] = []
    for one in ("a", "b"):
        place.batches.add(one, lambda _: idle.append(place.batches.idle))
    await place.idle()
    assert idle == [False, True]


async def test_whoever_is_told_may_add_more_and_none_keeps_the_others_from_hearing() -> None:
    place = Place()
    place.open.set()

    def breaks(_: str | Exception) -> None:
        raise RuntimeError("a mistake")

    place.batches.add("a", breaks)
    place.batches.add("b", lambda _: place.add("c"))
    place.add("d")
    await place.idle()
    assert place.told == ["D", "C"]
    assert place.seen == [["a", "b", "d"], ["c"]]
