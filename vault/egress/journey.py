"""One call under way: what was vetted for it, and how it went."""

import asyncio
from types import TracebackType
from typing import Self

from vault.egress.address import Address
from vault.egress.deadline import Deadline, Deadlines
from vault.egress.messages import Timeouts


class _OfTask(Deadline):
    """Ends what a task does."""

    __slots__ = ("timeout",)

    def __init__(self, loop: asyncio.AbstractEventLoop, limits: Timeouts) -> None:
        super().__init__(loop, total=limits.total, read=limits.read)
        self.timeout = asyncio.timeout(None)

    def end(self) -> None:
        if not self.timeout.expired():
            self.timeout.reschedule(0)


class Journey:
    """One call under way: where it may connect, and whether it may have been heard.

    Within it the call has its time, after which it is a ``TimeoutError``; ``deadlines``: those of
    all that are under way.
    """

    __slots__ = ("_deadlines", "addresses", "deadline", "limits", "loop", "sent")

    def __init__(self, limits: Timeouts, deadlines: Deadlines) -> None:
        self.addresses: tuple[Address, ...] = ()
        self.limits = limits
        self.loop = asyncio.get_running_loop()
        self.deadline = _OfTask(self.loop, limits)
        self.sent = False
        self._deadlines = deadlines

    def leaves(self) -> None:
        """A connection is there: from here on bytes may be on their way, and an answer is due."""
        self.sent = True
        self.deadline.heard()

    async def __aenter__(self) -> Self:
        self._deadlines.add(self.deadline)
        await self.deadline.timeout.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            await self.deadline.timeout.__aexit__(kind, error, trace)
        finally:
            self._deadlines.discard(self.deadline)
