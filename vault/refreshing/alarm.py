"""Waiting for something, but not for ever: one timer for all who do.

* Almost everybody hears in time. So nobody sets a timer of their own and takes it back again; the
  one that there is rings when the first of those who still wait has waited long enough.
"""

import asyncio
import time
from heapq import heappop, heappush
from itertools import count
from typing import Any


class Alarm:
    """Who waits, and until when."""

    def __init__(self) -> None:
        self._waits: list[tuple[float, int, asyncio.Future[None]]] = []
        self._numbers = count()  # of two that end together the first is the less
        self._timer: asyncio.TimerHandle | None = None

    async def done_or_late(self, future: asyncio.Future[Any], until: float) -> None:
        """Wait for it, ``until`` then at the most, by the monotonic clock."""
        over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def wake(_: object) -> None:
            if not over.done():
                over.set_result(None)

        future.add_done_callback(wake)
        heappush(self._waits, (until, next(self._numbers), over))
        if self._waits[0][2] is over:
            self._set()
        try:
            await over
        finally:
            future.remove_done_callback(wake)

    def _set(self) -> None:
        """Ring for the first one, and not before."""
        if self._timer is not None:
            self._timer.cancel()
        seconds = max(0.0, self._waits[0][0] - time.monotonic())
        self._timer = asyncio.get_running_loop().call_later(seconds, self._ring)

    def _ring(self) -> None:
        self._timer, now = None, time.monotonic()
        while self._waits and (self._waits[0][2].done() or self._waits[0][0] <= now):
            over = heappop(self._waits)[2]
            if not over.done():
                over.set_result(None)
        if self._waits:
            self._set()
