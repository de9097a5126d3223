"""When things run: ticks. The only user of apscheduler, which decides nothing.

* Each replica ticks. What is due, and for whom, is the database's to say; two that tick at once
  find different things.
* A tick that is late is made up for once and not repeated. One that fails says so in the log, by
  the error's class, and the next one comes as ever.
* At the end, what runs has a few seconds to finish; cut short, it says so, and that is no error.
* apscheduler goes by the wall clock, and sleeps for an hour if that goes back by one. A watch that
  goes by the monotonic clock wakes it.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, Final, Literal

import structlog
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from msgspec import Struct

WATCH_SECONDS: Final = 1.0
# A tick that is later than so many of its intervals has been forgotten.
LATE_TICKS: Final = 3
# As long as a tick has at the end to finish what it began.
STOP_SECONDS: Final = 5.0

Outcome = Literal["done", "failed", "cut_short", "asleep"]

_log = structlog.get_logger("keyturn.scheduler")


class Job(Struct, frozen=True):
    """What is done again and again. ``work`` says how much there was to do."""

    name: str
    seconds: float
    work: Callable[[], Awaitable[int]]


class Ticks:
    """The ticks of this process."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        self._scheduler = AsyncIOScheduler(timezone=UTC)
        self._jobs = {job.name: job for job in jobs}
        self._last = dict.fromkeys(self._jobs, time.monotonic())
        self._running: dict[str, asyncio.Task[Any]] = {}
        self.observe: Callable[[str, Outcome], None] = lambda _job, _outcome: None

    @property
    def late_by(self) -> float:
        """Seconds by which the latest job is later than its interval says."""
        now = time.monotonic()
        return max(now - self._last[name] - job.seconds for name, job in self._jobs.items())

    @property
    def ages(self) -> dict[str, float]:
        """Seconds since each job was last done."""
        now = time.monotonic()
        return {name: now - last for name, last in self._last.items()}

    def start(self) -> None:
        for job in self._jobs.values():
            self._scheduler.add_job(
                self._tick,
                "interval",
                id=job.name,
                args=[job],
                seconds=job.seconds,
                max_instances=1,
                coalesce=True,
                misfire_grace_time=None,
                next_run_time=datetime.now(UTC),
            )
        self._scheduler.start()

    async def stop(self) -> None:
        """Tick no more, and let what runs end; what takes too long is cut short."""
        self._scheduler.pause()
        if tasks := set(self._running.values()):
            await asyncio.wait(tasks, timeout=STOP_SECONDS)
        self._scheduler.shutdown(wait=False)

    async def watch(self) -> None:
        """Wake what the wall clock has put to sleep."""
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            now = time.monotonic()
            for name, job in self._jobs.items():
                late = now - self._last[name] > LATE_TICKS * max(job.seconds, WATCH_SECONDS)
                if late and name not in self._running:
                    self.observe(name, "asleep")
                    _log.warning("tick_was_asleep", job=name)
                    self.entry(name).modify(next_run_time=datetime.now(UTC))

    def entry(self, name: str) -> Any:  # noqa: ANN401 - apscheduler has no types
        """What apscheduler knows of a job."""
        return self._scheduler.get_job(name)

    async def _tick(self, job: Job) -> None:
        if task := asyncio.current_task():
            self._running[job.name] = task
        outcome: Outcome = "failed"
        try:
            done = await job.work()
        except asyncio.CancelledError:  # apscheduler would call it an error
            outcome = "cut_short"
            _log.warning("tick_cut_short", job=job.name)
        except Exception as error:  # noqa: BLE001 - apscheduler would log its text, which may hold anything
            _log.warning("tick_failed", job=job.name, error=type(error).__name__)
        else:
            outcome = "done"
            if done:
                _log.info("tick", job=job.name, number=done)
        finally:
            self._running.pop(job.name, None)
            self._last[job.name] = time.monotonic()
            self.observe(job.name, outcome)


@asynccontextmanager
async def ticking(jobs: Sequence[Job]) -> AsyncIterator[Ticks]:
    """Tick for as long as this is open."""
    ticks = Ticks(jobs)
    ticks.start()
    watch = asyncio.create_task(ticks.watch())
    try:
        yield ticks
    finally:
        watch.cancel()
        await asyncio.gather(watch, return_exceptions=True)
        await ticks.stop()
