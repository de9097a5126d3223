"""Waiting, but not for ever: everybody has his own end, and all share a timer."""

import asyncio
import time

import pytest

from vault.refreshing.alarm import Alarm


async def ends(alarm: Alarm, future: asyncio.Future[None], seconds: float) -> float:
    """After how long a wait of so many seconds ended."""
    began = time.monotonic()
    await alarm.done_or_late(future, began + seconds)
    return time.monotonic() - began


def nothing() -> asyncio.Future[None]:
    return asyncio.get_running_loop().create_future()


async def test_who_hears_in_time_goes_on_at_once() -> None:
    alarm, heard = Alarm(), nothing()
    waits = asyncio.create_task(ends(alarm, heard, 60))
    await asyncio.sleep(0)
    heard.set_result(None)
    assert await waits < 30


async def test_what_is_there_already_is_not_waited_for() -> None:
    heard = nothing()
    heard.set_exception(OSError("read by whoever awaits it"))
    assert await ends(Alarm(), heard, 60) < 30
    assert isinstance(heard.exception(), OSError)


async def test_who_hears_nothing_waits_so_long_and_leaves_it_as_it_is() -> None:
    silence = nothing()
    assert 0.04 <= await ends(Alarm(), silence, 0.05) < 30
    assert not silence.done()


async def test_each_end_is_its_own_in_whatever_order_they_came() -> None:
    alarm, silence = Alarm(), nothing()
    order: list[float] = []

    async def one(seconds: float) -> None:
        await ends(alarm, silence, seconds)
        order.append(seconds)

    async with asyncio.TaskGroup() as group:
        for seconds in (0.2, 0.1, 0.3, 0.0):
            group.create_task(one(seconds))
            await asyncio.sleep(0)
    assert order == [0.0, 0.1, 0.2, 0.3]


async def test_who_was_first_and_heard_does_not_keep_the_others_waiting() -> None:
    alarm, heard, silence = Alarm(), nothing(), nothing()
    first = asyncio.create_task(ends(alarm, heard, 0.05))
    second = asyncio.create_task(ends(alarm, silence, 0.1))
    await asyncio.sleep(0)
    heard.set_result(None)
    assert await first < 30
    assert 0.09 <= await second < 30


async def test_who_goes_away_is_rung_for_no_more() -> None:
    alarm, silence = Alarm(), nothing()
    gone = asyncio.create_task(ends(alarm, silence, 0.02))
    await asyncio.sleep(0)
    gone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gone
    assert not silence.done()
    assert 0.04 <= await ends(alarm, silence, 0.05) < 30


async def test_a_short_wait_does_not_last_as_long_as_a_longer_one_before_it() -> None:
    alarm, heard = Alarm(), nothing()
    long = asyncio.create_task(ends(alarm, heard, 60))
    await asyncio.sleep(0)
    assert await ends(alarm, nothing(), 0.05) < 30
    heard.set_result(None)
    await long
