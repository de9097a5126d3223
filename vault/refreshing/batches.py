"""What comes together is done together: while one batch runs, the next gathers.

* Alone, a piece of work waits for nobody. Under load a transaction carries many.
* A batch that fails is done again piece by piece, so that one cannot spoil the others.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Generic, TypeVar

I = TypeVar("I")  # noqa: E741 - what goes in
O = TypeVar("O")  # noqa: E741 - what comes out

MOST: Final = 100


class Batches(Generic[I, O]):
    """One kind of work, one batch at a time. ``work`` gives a result for each item, in order."""

    def __init__(self, work: Callable[[Sequence[I]], Awaitable[Sequence[O]]]) -> None:
        self._work = work
        self._waiting: deque[tuple[I, asyncio.Future[O]]] = deque()
        self._running: asyncio.Task[None] | None = None

    @property
    def idle(self) -> bool:
        return self._running is None

    def put(self, item: I) -> asyncio.Future[O]:
        """Have this done with the next batch. Who cancels what is returned just does not hear."""
        done: asyncio.Future[O] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, done))
        if self._running is None:
            self._running = asyncio.create_task(self._run())
        return done

    async def do(self, item: I) -> O:
        """The same, and wait for it."""
        return await self.put(item)

    async def _run(self) -> None:
        try:
            while self._waiting:
                batch = [self._waiting.popleft() for _ in range(min(MOST, len(self._waiting)))]
                await self._one(batch)
        finally:
            self._running = None

    async def _one(self, batch: list[tuple[I, asyncio.Future[O]]]) -> None:
        try:
            results = await self._work([item for item, _ in batch])
        except Exception as error:  # noqa: BLE001 - it belongs to those who wait
            if len(batch) == 1:
                _fail(batch[0][1], error)
                return
            for one in batch:
                await self._one([one])
            return
        for (_, done), result in zip(batch, results, strict=True):
            if not done.done():
                done.set_result(result)


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


def _fail(done: asyncio.Future[O], error: Exception) -> None:
    if not done.done():
        done.set_exception(error)
