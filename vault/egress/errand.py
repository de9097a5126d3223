"""A call over a connection that is at hand: it is sent at once, and no task waits for its answer.

* What may be sent, and where to, was decided before; here it goes, and is answered, or is over.
* Whoever sent it hears of its end once, from the loop: the answer, or why there is none. Who gives
  it up hears no more, and its connection is closed.
"""

from collections.abc import Callable
from typing import final

from vault.egress.address import VettedUrl
from vault.egress.deadline import Deadline, Deadlines
from vault.egress.failures import ended_as, explained
from vault.egress.messages import Outgoing, Reply, Timeouts
from vault.egress.pool import Loan
from vault.egress.wire import Exchange
from vault.errors import VaultError

Then = Callable[[Reply | VaultError], None]


@final
class Errand(Deadline):
    """One such call, from its sending on; and its time."""

    __slots__ = ("_deadlines", "_loan", "_then", "_url")

    def __init__(
        self, url: VettedUrl, loan: Loan, limits: Timeouts, deadlines: Deadlines, then: Then
    ) -> None:
        super().__init__(loan.pool.loop, total=limits.total, read=limits.read)
        self._url = url
        self._loan: Loan | None = loan
        self._deadlines = deadlines
        self._then = then

    def send(self, outgoing: Outgoing) -> None:
        """Send it; from now on it may have been heard, and ``then`` hears how it ends."""
        assert self._loan is not None
        self._deadlines.add(self)
        try:
            self._loan.connection.send(outgoing, self, self._ended)
        except Exception as error:  # noqa: BLE001 - it is told, as if it had come later
            self._loop.call_soon(self._broke, error)

    def give_up(self) -> None:
        """Nobody wants to hear of it any more."""
        if (loan := self._left()) is not None:
            loan.connection.give_up()
            loan.pool.give_back(loan)

    def end(self) -> None:
        """It took too long."""
        if self._loan is not None:
            self._loan.connection.give_up(TimeoutError())

    def _broke(self, error: Exception) -> None:
        if (loan := self._left()) is not None:
            loan.pool.give_back(loan)
            self._then(explained(error, self._url, sent=True))

    def _ended(self, exchange: Exchange) -> None:
        if (loan := self._left()) is not None:
            loan.pool.give_back(loan)
            self._then(ended_as(exchange, self._url))

    def _left(self) -> Loan | None:
        """What it went over, if it was not over yet; it is now."""
        loan, self._loan = self._loan, None
        self._deadlines.discard(self)
        return loan
