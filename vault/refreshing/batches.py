"""What comes together is done together: while one batch runs, the next gathers.

* Alone, a piece of work waits for nobody. Under load a transaction carries many, which costs each a
  part of what it would cost alone. What is in no hurry waits ``GATHER`` for others to come.
* A batch that fails is done again piece by piece, so that one cannot spoil the others.
* Whoever has added something is told what came of it, as soon as that is known, and exactly once.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Generic, TypeVar

import structlog

I = TypeVar("I")  # noqa: E741 - what goes in
O = TypeVar("O")  # noqa: E741 - what comes out

MOST: Final = 200
# Seconds. An answer is no later for it than a slow disk would make it.
GATHER: Final = 0.025

_log: Final = structlog.get_logger("keyturn.refreshing")


class Batches(Generic[I, O]):
    """One kind of work, one batch at a time, of at most so many. ``work`` gives a result for each
    item, in order.
    """

    def __init__(
        self, work: Callable[[Sequence[I]], Awaitable[Sequence[O]]], most: int = MOST
    ) -> None:
        self._work = work
        self._most = most
        self._waiting: deque[tuple[I, Callable[[O | Exception], None]]] = deque()
        self._untold = 0
        self._running: asyncio.Task[None] | None = None
        self._hurry = False
        self._enough: asyncio.Future[None] | None = None

    @property
    def idle(self) -> bool:
        """Has everybody been told?"""
        return not self._untold

    def add(self, item: I, heard: Callable[[O | Exception], None], *, hurry: bool = True) -> None:
        """Have this done with the next batch; ``heard`` is told the result, or why there is none.

        One that is in a ``hurry`` takes along all that has gathered.
        """
        self._untold += 1
        self._waiting.append((item, heard))
        if hurry or len(self._waiting) >= self._most:
            self._hurry = True
        if self._running is None:
            self._running = asyncio.get_running_loop().create_task(self._run())
        elif self._hurry and self._enough is not None and not self._enough.done():
            self._enough.set_result(None)

    def put(self, item: I, *, hurry: bool = True) -> asyncio.Future[O]:
        """The same, for whoever awaits. Who cancels what is returned just does not hear."""
        done: asyncio.Future[O] = asyncio.get_running_loop().create_future()

        def heard(result: O | Exception) -> None:
            if done.done():
                return
            if isinstance(result, Exception):
                done.set_exception(result)
            else:
                done.set_result(result)

        self.add(item, heard, hurry=hurry)
        return done

    async def do(self, item: I) -> O:
        """The same, and wait for it."""
        return await self.put(item)

    async def _run(self) -> None:
        try:
            while self._waiting:
                if not self._hurry:
                    self._enough = asyncio.get_running_loop().create_future()
                    await done_or_late(self._enough, GATHER)
                batch = [
                    self._waiting.popleft() for _ in range(min(self._most, len(self._waiting)))
                ]
                self._hurry = bool(self._waiting)  # they have waited long enough
                await self._one(batch)
        finally:
            self._running = None

    async def _one(self, batch: list[tuple[I, Callable[[O | Exception], None]]]) -> None:
        try:
            results = await self._work([item for item, _ in batch])
        except Exception as error:  # noqa: BLE001 - it belongs to those who wait
            if len(batch) == 1:
                self._tell(batch, [error])
                return
            for one in batch:
                await self._one([one])
            return
        self._tell(batch, results)

    def _tell(
        self,
        batch: list[tuple[I, Callable[[O | Exception], None]]],
        results: Sequence[O | Exception],
    ) -> None:
        for (_, heard), result in zip(batch, results, strict=True):
            self._untold -= 1
            try:
                heard(result)
            except Exception as error:  # noqa: BLE001 - whose it is, the others are told all the same
                _log.error("refresh_broke", exc_info=error)


async def done_or_late(future: asyncio.Future[O], seconds: float) -> None:
    """Wait for it, but so long at the most; mostly one timer that never rings is all it costs."""
    loop = asyncio.get_running_loop()
    over = loop.create_future()

    def wake(_: object = None) -> None:
        if not over.done():
            over.set_result(None)

    timer = loop.call_later(max(seconds, 0), wake)
    future.add_done_callback(wake)
    try:
        await over
    finally:
        timer.cancel()
        future.remove_done_callback(wake)
