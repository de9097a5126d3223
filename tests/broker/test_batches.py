"""Batches: what is asked for together, who gets how much of one, and who fails alone."""

import asyncio
from collections.abc import Sequence

import pytest

from broker.mint.batches import CROWD, ENOUGH, LANES, MOST_WAITING, Batches
from broker.mint.looking import Question, look
from broker.mint.writing import write
from vault.errors import Conflict, NotReady

FOR_EVER = 3_600.0


class Place:
    """Answers batches when it is let to, and remembers them."""

    def __init__(self) -> None:
        self.seen: list[list[str]] = []
        self.open = asyncio.Event()
        self.refused = ""

    async def run(self, questions: Sequence[str]) -> list[str]:
        self.seen.append(list(questions))
        await self.open.wait()
        if self.refused in questions:
            raise Conflict("No.")
        if "away" in questions:
            raise NotReady("Nobody is there.")
        return [one.upper() for one in questions]


@pytest.fixture
def place() -> Place:
    return Place()


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is told that he waited too long unless a test is about that."""
    monkeypatch.setattr("broker.mint.batches.PATIENCE", FOR_EVER)


def asking(batches: Batches[str, str], *every: str) -> list[asyncio.Task[str]]:
    """Ask for each; the group is what stands before the dash."""
    return [asyncio.create_task(batches.ask(one.split("-")[0], one)) for one in every]


async def until(place: Place, begun: int) -> None:
    """Wait until so many batches have begun."""
    async with asyncio.timeout(60):
        while len(place.seen) < begun:  # noqa: ASYNC110 - nobody is told
            await asyncio.sleep(0.001)


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def busy(place: Place, batches: Batches[str, str]) -> list[asyncio.Task[str]]:
    """Keep every lane at work, so that whoever comes now waits."""
    tasks = []
    for number in range(LANES):
        tasks += asking(batches, f"z-{number}")
        await until(place, number + 1)
    assert len(place.seen) == LANES
    return tasks


async def test_a_second_batch_begins_when_enough_wait(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("broker.mint.batches.HURRY", FOR_EVER)
    batches = Batches(place.run, 2 * ENOUGH)
    tasks = asking(batches, "a-0")
    await settled()
    tasks += asking(batches, *(f"b-{n}" for n in range(ENOUGH - 1)))
    await settled()
    assert len(place.seen) == 1
    tasks += asking(batches, "b-last")
    await settled()
    assert [len(one) for one in place.seen] == [1, ENOUGH]
    place.open.set()
    await asyncio.gather(*tasks)


async def test_a_statement_that_is_stuck_stops_nobody(place: Place) -> None:
    batches = Batches(place.run, 8)
    stuck = asking(batches, "a-0")
    await settled()
    other = asking(batches, "b-0")
    await until(place, 2)
    assert place.seen == [["a-0"], ["b-0"]]
    place.open.set()
    await asyncio.gather(*stuck, *other)


async def test_who_comes_alone_is_asked_for_at_once(place: Place) -> None:
    batches = Batches(place.run, 8)
    place.open.set()
    assert await batches.ask("a", "x") == "X"
    assert place.seen == [["x"]]


async def test_what_waits_goes_together_and_each_gets_its_own_answer(place: Place) -> None:
    batches = Batches(place.run, 8)
    first = await busy(place, batches)
    tasks = asking(batches, *(f"a-{n}" for n in range(5)))
    await settled()
    place.open.set()
    assert await asyncio.gather(*tasks) == [f"A-{n}" for n in range(5)]
    await asyncio.gather(*first)
    assert place.seen[LANES:] == [[f"a-{n}" for n in range(5)]]


async def test_a_batch_is_never_larger_than_its_cap(place: Place) -> None:
    batches = Batches(place.run, 4)
    first = await busy(place, batches)
    tasks = asking(batches, *(f"a-{n}" for n in range(10)))
    await settled()
    place.open.set()
    await asyncio.gather(*first, *tasks)
    assert [len(one) for one in place.seen[LANES:]] == [4, 4, 2]


async def test_nobody_takes_more_than_a_quarter_while_others_wait(place: Place) -> None:
    batches = Batches(place.run, 8)
    first = await busy(place, batches)
    tasks = asking(batches, *(f"a-{n}" for n in range(20)), "b-0", "c-0")
    await settled()
    place.open.set()
    await asyncio.gather(*first, *tasks)
    [next_batch, after, *_] = place.seen[LANES:]
    assert next_batch == ["a-0", "a-1", "b-0", "c-0"]
    assert after == [f"a-{n}" for n in range(2, 10)]  # alone again, with all the room there is


async def test_everybody_has_a_turn_before_anybody_has_two(place: Place) -> None:
    batches = Batches(place.run, 4)
    first = await busy(place, batches)
    tasks = asking(batches, *(f"{group}-{n}" for group in "abcdef" for n in range(2)))
    await settled()
    place.open.set()
    await asyncio.gather(*first, *tasks)
    groups = [one.split("-")[0] for batch in place.seen[LANES:] for one in batch]
    assert sorted(groups[:6]) == list("abcdef")


async def test_one_that_fails_fails_alone(place: Place) -> None:
    place.refused = "a-1"
    batches = Batches(place.run, 8)
    first = await busy(place, batches)
    tasks = asking(batches, "a-0", "a-1", "b-0")
    await settled()
    place.open.set()
    zero, one, other = await asyncio.gather(*tasks, return_exceptions=True)
    assert (zero, other) == ("A-0", "B-0")
    assert isinstance(one, Conflict)
    await asyncio.gather(*first)


async def test_a_database_that_is_away_is_not_asked_again_for_each(place: Place) -> None:
    batches = Batches(place.run, 8)
    first = await busy(place, batches)
    tasks = asking(batches, "a-0", "away", "b-0")
    await settled()
    place.open.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(one, NotReady) for one in results)
    assert len(place.seen) == LANES + 1
    await asyncio.gather(*first)


async def test_who_goes_away_is_not_asked_for(place: Place) -> None:
    batches = Batches(place.run, 8)
    first = await busy(place, batches)
    gone, stays = asking(batches, "a-0", "a-1")
    await settled()
    gone.cancel()
    await settled()
    place.open.set()
    assert await stays == "A-1"
    await asyncio.gather(*first)
    assert place.seen[LANES:] == [["a-1"]]


async def test_who_waits_too_long_is_told(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    batches = Batches(place.run, 8)
    first = await busy(place, batches)
    monkeypatch.setattr("broker.mint.batches.PATIENCE", 0.01)
    [late] = asking(batches, "a-0")
    await asyncio.sleep(0.05)
    place.open.set()
    with pytest.raises(NotReady):
        await late
    await asyncio.gather(*first)
    assert place.seen[LANES:] == []


async def test_there_is_an_end_to_how_many_wait(place: Place) -> None:
    batches = Batches(place.run, 1)
    first = await busy(place, batches)
    tasks = asking(batches, *(f"a-{n}" for n in range(MOST_WAITING)))
    await settled()
    with pytest.raises(NotReady):
        await batches.ask("b", "b-0")
    place.open.set()
    await asyncio.gather(*first, *tasks)


async def test_who_asks_just_as_the_last_batch_ends_is_answered(place: Place) -> None:
    batches = Batches(place.run, 8)
    place.open.set()

    async def again_and_again() -> None:
        for _ in range(50):
            assert await batches.ask("a", "x") == "X"

    async with asyncio.timeout(60):
        await asyncio.gather(*(again_and_again() for _ in range(LANES + 1)))


async def test_a_mistake_of_ours_is_told_and_the_rest_goes_on(place: Place) -> None:
    async def mistaken(questions: Sequence[str]) -> list[str]:
        if "bad" in questions:
            raise TypeError("a mistake")
        return await place.run(questions)

    batches = Batches(mistaken, 1)
    place.open.set()
    bad, good = asking(batches, "bad", "a-0")
    with pytest.raises(TypeError):
        await bad
    assert await good == "A-0"


# Whoever comes together again

SHORT = 0.01


async def crowded(
    place: Place, count: int = CROWD, *, gather: float = FOR_EVER
) -> Batches[str, str]:
    """Where a crowd has just been, and nothing is under way."""
    batches = Batches(place.run, 8, gather=gather)
    place.open.set()
    await asyncio.gather(*asking(batches, *(f"a-{n}" for n in range(count))))
    await settled()
    assert [len(one) for one in place.seen] == [count]
    return batches


async def test_the_first_of_a_crowd_waits_for_the_others(place: Place) -> None:
    batches = await crowded(place)
    tasks = asking(batches, "b-0")
    await settled()
    assert len(place.seen) == 1
    tasks += asking(batches, *(f"b-{n}" for n in range(1, CROWD)))
    await settled()
    assert [len(one) for one in place.seen] == [CROWD, CROWD], "it begins once they are there"
    await asyncio.gather(*tasks)


async def test_who_waits_for_a_crowd_does_not_wait_for_ever(place: Place) -> None:
    batches = await crowded(place, gather=SHORT)
    assert await batches.ask("b", "x") == "X"
    assert place.seen[1:] == [["x"]]


async def test_few_wait_for_nobody(place: Place) -> None:
    batches = await crowded(place, CROWD - 1)
    async with asyncio.timeout(60):
        assert await batches.ask("b", "x") == "X"


async def test_who_goes_away_while_a_crowd_is_waited_for_is_not_asked_for(place: Place) -> None:
    batches = await crowded(place, gather=SHORT)
    [gone] = asking(batches, "b-0")
    await settled()
    gone.cancel()
    assert await batches.ask("b", "x") == "X"
    assert place.seen[1:] == [["x"]]


# How a batch is sent


def test_what_the_statement_cuts_apart_goes_as_lines_and_the_rest_in_arrays() -> None:
    sent = look.columns([Question(b"1", "ada", "", "a"), Question(b"2", "bob", "", "b")])
    assert sent == {
        "hashes": [b"1", b"2"],
        "user_ids": "ada\nbob\n",
        "environments": "\n\n",
        "agent_ids": "a\nb\n",
    }


def test_what_is_no_text_or_may_hold_a_line_break_is_not_cut_apart() -> None:
    whole = {
        name
        for number, name in enumerate(write.parameters, 1)
        if f"string_to_array(${number}," not in write.sql
    }
    assert whole == {"hashes", "branch_ids", "kept", "bearer_hashes", "ticket_hashes"}
