"""A call over a connection that is at hand: it is sent at once, and no task waits for its answer.

* What may be sent, and where to, was decided before; here it goes, and is answered, or is over.
* Whoever sent it hears of its end once, from the loop: the answer, or why there is none. Who gives
  it up hears no more, and its connection is closed.
"""

import asyncio
from collections.abc import Callable
from typing import NamedTuple, final

from vault.egress.address import VettedUrl
from vault.egress.deadline import Deadline, Deadlines
from vault.egress.failures import ended_as, explained
from vault.egress.messages import Outgoing, Reply, Timeouts
from vault.egress.pool import Host, Pool
from vault.egress.wire import Connection, Exchange
from vault.errors import VaultError

Then = Callable[[Reply | VaultError], None]


class Way(NamedTuple):
    """Where an errand goes: over a connection that was taken from this pool."""

    url: VettedUrl
    pool: Pool
    host: Host
    connection: Connection


@final
class Errand(Deadline):
    """One such call, from its sending on; and its time."""

    __slots__ = ("_deadlines", "_then", "_way")

    def __init__(self, way: Way, limits: Timeouts, deadlines: Deadlines, then: Then) -> None:
        super().__init__(asyncio.get_running_loop(), total=limits.total, read=limits.read)
        self._way: Way | None = way
        self._deadlines = deadlines
        self._then = then

    def send(self, outgoing: Outgoing) -> None:
        """Send it; from now on it may have been heard, and ``then`` hears how it ends."""
        assert self._way is not None
        self._deadlines.add(self)
        try:
            self._way.connection.send(outgoing, self, self._ended)
        except Exception as error:  # noqa: BLE001 - it is told, as if it had come later
            self._loop.call_soon(self._broke, error)

    def give_up(self) -> None:
        """Nobody wants to hear of it any more."""
        if (way := self._left()) is not None:
            way.connection.give_up()
            way.pool.give_back(way.host, way.connection)

    def end(self) -> None:
        """It took too long."""
        if self._way is not None:
            self._way.connection.give_up(TimeoutError())

    def _broke(self, error: Exception) -> None:
        if (way := self._left()) is not None:
            way.pool.give_back(way.host, way.connection)
            self._then(explained(error, way.url, sent=True))

    def _ended(self, exchange: Exchange) -> None:
        if (way := self._left()) is not None:
            way.pool.give_back(way.host, way.connection)
            self._then(ended_as(exchange, way.url))

    def _left(self) -> Way | None:
        """Where it was, if it was not over yet; it is now."""
        way, self._way = self._way, None
        self._deadlines.discard(self)
        return way
