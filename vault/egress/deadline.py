"""When a call has to be over: all of it, and each wait for the next piece of the answer.

* A process that was stopped, or held up, meets its deadlines before it sees what came meanwhile:
  after SIGCONT the loop runs its timers first. A token that is given once may lie in the socket, so
  a deadline that is met much too late leaves a while to read. aiohttp's own timers do not.
* One timer serves all calls that are under way. It rings when the first of them could be over,
  which is mostly long after it has ended; a call itself sets none.
"""

import asyncio
from abc import ABC, abstractmethod
from typing import Final

# Who meets a deadline so much too late was not awake for it; then he has so long to read.
ASLEEP: Final = 1.0
READ_AFTER_SLEEP: Final = 5.0
# However many deadlines follow one another closely, all are looked at no more often than this.
RING_EVERY: Final = 0.01


class Deadlines:
    """Those of all calls under way."""

    def __init__(self) -> None:
        self._under_way: set[Deadline] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._rings_at = 0.0

    def add(self, deadline: "Deadline") -> None:
        """It counts from now on."""
        self._under_way.add(deadline)
        if self._timer is None or deadline.next_look < self._rings_at:
            self._ring_at(deadline.next_look)

    def discard(self, deadline: "Deadline") -> None:
        """It counts no more."""
        self._under_way.discard(deadline)

    def end(self) -> None:
        """Let everything be over now."""
        for deadline in tuple(self._under_way):  # who is over may be gone from it at once
            deadline.end()
        if self._timer is not None:
            self._timer.cancel()

    def _ring_at(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._rings_at = when
        self._timer = asyncio.get_running_loop().call_at(when, self._ring)

    def _ring(self) -> None:
        self._timer = None
        now = asyncio.get_running_loop().time()
        for deadline in tuple(self._under_way):
            deadline.look(now)
        if self._under_way:
            soonest = min(deadline.next_look for deadline in self._under_way)
            self._ring_at(max(soonest, now + RING_EVERY))


class Deadline(ABC):
    """The end of one call, in seconds from its making; whose it is says what is done then.

    ``read``: how long the answer, or its next piece, may take from ``heard`` on.
    ``next_look``: before then it need not be looked at.
    """

    __slots__ = ("_due", "_loop", "_read", "_slept", "_total_at", "next_look")

    def __init__(self, loop: asyncio.AbstractEventLoop, *, total: float, read: float) -> None:
        self._loop = loop
        self._read = read
        now = loop.time()
        self._due = self._total_at = now + total
        self.next_look = now + read if read < total else self._due
        self._slept = False

    def heard(self) -> None:
        """The request is on its way, or a piece of the answer came: the next wait begins."""
        self._due = min(self._total_at, self._loop.time() + self._read)

    def look(self, now: float) -> None:
        """Be over if it is time."""
        if now >= self._due:
            if self._slept or now - self._due <= ASLEEP:
                self.end()
            else:
                self._slept = True
                self._due = self._total_at = now + READ_AFTER_SLEEP
        self.next_look = min(self._due, now + self._read)

    @abstractmethod
    def end(self) -> None:
        """Let it be over now; it may be already."""
