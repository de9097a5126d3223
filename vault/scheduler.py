"""When things run: ticks. The only user of apscheduler, which decides nothing.

* Each replica ticks. What is due, and for whom, is the database's to say; two that tick at once
  find different things.
* A tick that is late, or was missed while the clock jumped, is made up for once and not repeated.
* One that fails says so in the log, by the error's class, and the next one comes as ever.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final

import structlog
from apscheduler.schedulers.asyncio import AsyncIOScheduler

REVOCATION_SECONDS: Final = 30

_log = structlog.get_logger("keyturn.scheduler")


@asynccontextmanager
async def ticking(retry_revocations: Callable[[], Awaitable[int]]) -> AsyncIterator[None]:
    """Tick for as long as this is open; what runs at its end is finished by its own deadline."""
    scheduler = AsyncIOScheduler()
    scheduler.add_job(
        _told,
        "interval",
        args=[retry_revocations],
        seconds=REVOCATION_SECONDS,
        max_instances=1,
        coalesce=True,
        misfire_grace_time=None,
    )
    scheduler.start()
    try:
        yield
    finally:
        scheduler.shutdown(wait=False)


async def _told(work: Callable[[], Awaitable[int]]) -> None:
    try:
        done = await work()
    except Exception as error:  # noqa: BLE001 - apscheduler would log its text, which may hold anything
        _log.warning("tick_failed", error=type(error).__name__)
        return
    if done:
        _log.info("revocations_tried", number=done)
