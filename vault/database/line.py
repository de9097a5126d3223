"""Whose turn it is, where there are fewer connections than there is work for them.

* Each workspace has a line of its own, and the lines take turns: who asks for a thousand things at
  once waits for them himself, and a neighbour with one goes in between.
* What may not wait behind requests goes ahead of all of them. It never takes the last place, so
  that the others go on, too.
* A line that moves is worth waiting in, for ``WAIT_SECONDS`` at the most; one that has not moved
  for ``STILL_SECONDS`` is not, since then something is wrong behind it. Either way it is ``Full``.
* A process that itself stood still has seen nothing of the line: who waits in it begins anew.
"""

import asyncio
import time
from collections import OrderedDict, deque
from typing import Final

WAIT_SECONDS: Final = 10.0
STILL_SECONDS: Final = 5.0
ASLEEP: Final = 1.0  # who wakes so much too late was not awake


class Full(Exception):
    """Nobody made room in time."""


class Line:
    """The places, and who waits for one."""

    def __init__(self, places: int) -> None:
        self._places = places
        self._inside = 0
        self._inside_ahead = 0
        self._ahead: deque[asyncio.Future[None]] = deque()
        self._lines: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()
        self._moved_at = time.monotonic()

    async def enter(self, whose: str, *, ahead: bool = False) -> None:
        """Take a place, as soon as there is one; ``leave`` gives it back."""
        if not self._lines and not self._ahead and self._has_room(ahead=ahead):
            self._take(ahead=ahead)
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        line = self._ahead if ahead else self._lines.setdefault(whose, deque())
        line.append(turn)
        self._let_in()
        try:
            await self._in_time(turn)
        except BaseException:
            if turn.done() and not turn.cancelled():
                self.leave(ahead=ahead)  # let in at the very moment of going away
            else:
                self._go_away(whose, line, turn)
            raise

    def leave(self, *, ahead: bool = False) -> None:
        """Give the place to whoever is next."""
        self._inside -= 1
        self._inside_ahead -= ahead
        self._moved_at = time.monotonic()
        self._let_in()

    async def _in_time(self, turn: asyncio.Future[None]) -> None:
        began = time.monotonic()
        while not turn.done():
            still = max(began, self._moved_at) + STILL_SECONDS
            left = min(began + WAIT_SECONDS, still) - time.monotonic()
            if left <= 0:
                raise Full
            due = time.monotonic() + left
            await asyncio.wait({turn}, timeout=left)
            if time.monotonic() - due > ASLEEP:
                began = time.monotonic()

    def _go_away(
        self, whose: str, line: deque[asyncio.Future[None]], turn: asyncio.Future[None]
    ) -> None:
        line.remove(turn)
        if not line and line is not self._ahead:
            del self._lines[whose]
        self._let_in()

    def _let_in(self) -> None:
        while self._ahead and self._has_room(ahead=True):
            self._take(ahead=True)
            self._ahead.popleft().set_result(None)
        while self._lines and self._has_room(ahead=False):
            whose, line = next(iter(self._lines.items()))
            self._take(ahead=False)
            line.popleft().set_result(None)
            if line:
                self._lines.move_to_end(whose)
            else:
                del self._lines[whose]

    def _has_room(self, *, ahead: bool) -> bool:
        most_ahead = max(1, self._places - 1)
        return self._inside < self._places and not (ahead and self._inside_ahead >= most_ahead)

    def _take(self, *, ahead: bool) -> None:
        self._inside += 1
        self._inside_ahead += ahead
