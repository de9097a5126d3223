"""When a call has to be over: all of it, and each wait for the next piece of the answer.

* A process that was stopped, or held up, meets its deadlines before it sees what came meanwhile:
  after SIGCONT the loop runs its timers first. A token that is given once may lie in the socket, so
  a deadline that is met much too late leaves a while to read. aiohttp's own timers do not.
"""

import asyncio
from types import TracebackType
from typing import Final, Self

# Who meets a deadline so much too late was not awake for it; then he has so long to read.
ASLEEP: Final = 1.0
READ_AFTER_SLEEP: Final = 5.0


class Deadline:
    """The end of one call, in seconds from its making. Within it a late call is ``TimeoutError``.

    ``read``: how long the answer, or its next piece, may take from ``heard`` on.
    """

    def __init__(self, *, total: float, read: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._timeout = asyncio.timeout(None)
        self._read = read
        now = self._loop.time()
        self._due = self._total_at = now + total
        # One timer for all: it rings before the end can come, and then looks when that is by now.
        # Mostly it never rings.
        self._timer = self._loop.call_at(now + min(total, read), self._look)

    def heard(self) -> None:
        """The request is on its way, or a piece of the answer came: the next wait begins."""
        self._due = min(self._total_at, self._loop.time() + self._read)

    def end(self) -> None:
        """Let it be over now."""
        if not self._timeout.expired():
            self._timeout.reschedule(0)

    async def __aenter__(self) -> Self:
        await self._timeout.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._timer.cancel()
        await self._timeout.__aexit__(kind, error, trace)

    def _look(self) -> None:
        now = self._loop.time()
        if now < self._due:
            self._timer = self._loop.call_at(self._due, self._look)
        elif self._timeout.when() is None:  # else it is about to be over
            late = now - self._due > ASLEEP
            self._timeout.reschedule(now + READ_AFTER_SLEEP if late else now)
