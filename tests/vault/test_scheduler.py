"""Ticks come whatever the clock does and however the last one ended."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from vault import scheduler
from vault.scheduler import Job, ticking


class Work:
    """Counts how often it was done; every second time it fails."""

    def __init__(self) -> None:
        self.done = 0

    async def __call__(self) -> int:
        self.done += 1
        if self.done % 2 == 0:
            raise ValueError("canary")
        return 0

    async def reaches(self, number: int) -> None:
        async with asyncio.timeout(60):
            while self.done < number:  # noqa: ASYNC110 - it tells nobody
                await asyncio.sleep(0.02)


async def test_a_tick_that_fails_is_followed_by_the_next() -> None:
    work = Work()
    seen: list[tuple[str, str]] = []
    async with ticking([Job("work", 0.05, work)]) as ticks:
        ticks.observe = lambda job, outcome: seen.append((job, outcome))
        await work.reaches(4)
    done = work.done
    assert set(seen) == {("work", "done"), ("work", "failed")}
    await asyncio.sleep(0.2)
    assert work.done == done, "who stops ticks no more"


async def test_a_clock_that_goes_back_puts_nothing_to_sleep() -> None:
    work = Work()
    async with ticking([Job("work", 0.05, work)]) as ticks:
        await work.reaches(1)
        seen: list[str] = []
        ticks.observe = lambda _, outcome: seen.append(outcome)
        # What apscheduler makes of a clock that has gone back by an hour.
        ticks.entry("work").modify(next_run_time=datetime.now(UTC) + timedelta(hours=1))
        done = work.done
        await asyncio.sleep(0.3)
        assert work.done <= done + 1
        assert ticks.late_by > 0
        await work.reaches(done + 3)
        assert "asleep" in seen


async def test_no_tick_begins_before_the_last_has_ended() -> None:
    running, most = 0, 0

    async def slow() -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.2)
        running -= 1
        return 1

    async with ticking([Job("slow", 0.05, slow)]):
        await asyncio.sleep(0.7)
    assert most == 1


async def test_a_tick_that_runs_at_the_end_is_finished(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduler, "STOP_SECONDS", 60)
    ended: list[str] = []
    began = asyncio.Event()

    async def slow() -> int:
        began.set()
        await asyncio.sleep(0.3)
        ended.append("finished")
        return 0

    async with ticking([Job("slow", 60, slow)]):
        await began.wait()
        assert ended == []
    assert ended == ["finished"]


async def test_a_tick_that_would_never_end_is_cut_short_without_an_error(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(scheduler, "STOP_SECONDS", 0.1)
    began = asyncio.Event()

    async def endless() -> int:
        began.set()
        await asyncio.sleep(3600)
        return 0

    async with ticking([Job("endless", 60, endless)]):
        await began.wait()
    await asyncio.sleep(0.05)
    assert [one.getMessage() for one in caplog.records if one.levelname == "ERROR"] == []
