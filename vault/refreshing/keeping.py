"""How a call ended is durable before anything else is done with it.

* It goes into the database with a batch, and mostly that is all: whoever keeps it is told then.
* Where that fails, the database is asked again and again. What it has not taken after two seconds
  is in the spool as well, until it has; one timer looks after all that might get there.
* Who is cancelled meanwhile, or meets what no second try mends, leaves the answer in the spool.
"""

import asyncio
import time
from collections.abc import Callable
from contextvars import Context, copy_context
from pathlib import Path
from typing import Final, final

import structlog

from vault.errors import NotReady
from vault.refreshing.batches import done_or_late
from vault.refreshing.lane import Lane, to_spool
from vault.refreshing.page import Ending, Place, Settled
from vault.refreshing.spool import Spool

# So long the database alone is tried with an answer; then it is spooled as well.
SPOOL_AFTER: Final = 2.0
RETRY_SECONDS: Final = (0.05, 0.5)

_log: Final = structlog.get_logger("keyturn.refreshing")

Then = Callable[[Settled | BaseException], None]


@final
class Kept:
    """One ending, until it is durable. ``began``: by the monotonic clock."""

    __slots__ = ("began", "context", "ending", "lane", "stored", "task", "then")

    def __init__(self, lane: Lane, ending: Ending, context: Context, then: Then) -> None:
        self.began = time.monotonic()
        self.lane = lane
        self.ending = ending
        self.context = context
        self.then = then
        self.stored: asyncio.Future[Settled] | None = None  # whoever awaits it: the long way
        self.task: asyncio.Task[None] | None = None


class Keeper:
    """All endings of this process that are not durable yet."""

    def __init__(self, spool: Spool | None, deployment: str) -> None:
        self._spool = spool
        self._deployment = deployment
        self._answers: dict[Kept, None] = {}  # on the short way, the oldest first
        self._timer: asyncio.TimerHandle | None = None

    def keep(
        self, lane: Lane, ending: Ending, then: Then, *, context: Context, hurry: bool
    ) -> Kept:
        """Store it; ``then`` is told what became of it, or why nothing could."""
        kept = Kept(lane, ending, context, then)
        if ending.tokens is not None:
            self._answers[kept] = None
            if self._timer is None:
                self._timer = asyncio.get_running_loop().call_later(SPOOL_AFTER, self._ring)
        lane.endings.add(ending, lambda result: self._heard(kept, result), hurry=hurry)
        return kept

    async def kept(self, lane: Lane, ending: Ending) -> Settled:
        """The same, for whoever waits for it."""
        told: asyncio.Future[Settled | BaseException] = asyncio.get_running_loop().create_future()
        one = self.keep(lane, ending, told.set_result, context=copy_context(), hurry=True)
        try:
            found = await asyncio.shield(told)
        except asyncio.CancelledError:
            self.cancel(one)
            await told
            raise
        if isinstance(found, BaseException):
            raise found
        return found

    def cancel(self, kept: Kept) -> None:
        """Nobody waits any longer; an answer that is not durable yet stays in the spool."""
        self._take_care(kept)
        if kept.task is not None:  # once it has begun, so that it can see to the answer
            asyncio.get_running_loop().call_soon(kept.task.cancel)

    def _heard(self, kept: Kept, result: Settled | Exception) -> None:
        """The database has it, or has not taken it at the first try."""
        self._answers.pop(kept, None)
        if kept.stored is None and isinstance(result, Settled):
            kept.then(result)
            return
        stored = self._take_care(kept)
        if stored.done():
            return
        if isinstance(result, Settled):
            stored.set_result(result)
        else:
            stored.set_exception(result)

    def _ring(self) -> None:
        """The oldest may have waited for long enough."""
        self._timer, now = None, time.monotonic()
        while self._answers:
            kept = next(iter(self._answers))
            left = kept.began + SPOOL_AFTER - now
            if left > 0:
                self._timer = asyncio.get_running_loop().call_later(left, self._ring)
                return
            self._take_care(kept)

    def _take_care(self, kept: Kept) -> "asyncio.Future[Settled]":
        """From here on the long way: a task that stays with it to the end."""
        self._answers.pop(kept, None)
        if kept.stored is None:
            loop = asyncio.get_running_loop()
            kept.stored = loop.create_future()
            kept.task = loop.create_task(self._cared_for(kept, kept.stored), context=kept.context)
        return kept.stored

    async def _cared_for(self, kept: Kept, stored: "asyncio.Future[Settled]") -> None:
        on_disk: list[Path] = []
        end: Settled | BaseException
        try:
            end = await self._stored(kept, stored, on_disk)
            for file in on_disk:
                file.unlink(missing_ok=True)
        except BaseException as error:  # noqa: BLE001 - it is told
            # Cancelled at any point, or what no second try would mend: the answer itself stays.
            await self._spooled_once(kept, on_disk)
            end = error
        kept.then(end)

    async def _stored(
        self, kept: Kept, stored: "asyncio.Future[Settled]", on_disk: list[Path]
    ) -> Settled:
        """Store it, also when the database has to come back first."""
        pause, longest = RETRY_SECONDS
        spooled_at = kept.began + SPOOL_AFTER
        while True:
            if kept.ending.tokens is not None and not on_disk:
                await done_or_late(stored, spooled_at - time.monotonic())
                if not stored.done():
                    await self._spooled_once(kept, on_disk)
            try:
                return await stored
            except NotReady:
                if time.monotonic() >= spooled_at:
                    await self._spooled_once(kept, on_disk)
            await asyncio.sleep(pause)
            pause = min(2 * pause, longest)
            stored = kept.lane.endings.put(kept.ending)

    async def _spooled_once(self, kept: Kept, on_disk: list[Path]) -> None:
        if not on_disk and (file := await self._spooled(kept.lane.place, kept.ending)) is not None:
            on_disk.append(file)

    async def _spooled(self, place: Place, ending: Ending) -> Path | None:
        if self._spool is None or ending.tokens is None:
            return None
        try:
            file = await asyncio.to_thread(
                self._spool.keep, to_spool(self._deployment, place, ending, ending.tokens)
            )
        except NotReady as error:
            _log.error("answer_not_spooled", reason=error.message)
            return None
        _log.warning("answer_spooled", connection=ending.connection_id)
        return file
