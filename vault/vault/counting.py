"""The door's part for numbers: how the whole deployment fares. They name no workspace and no user.

* Counting never takes more than a hundredth of the time: what took long is counted seldom.
* Nobody who asks waits for it; what was counted last is what there is.
"""

import time
from functools import cached_property
from typing import Final

from msgspec import Struct

from vault.database import Database
from vault.store import counts
from vault.store.counts import ConnectionCount, EndpointCount
from vault.vault.chaining import Chained, Chaining
from vault.vault.refreshing import Refreshing

COUNT_SECONDS: Final = 60.0
SHARE: Final = 100
# After a count that did not come to its end.
LONG_SECONDS: Final = 600.0


class Counts(Struct, frozen=True, kw_only=True):
    """The deployment in numbers. ``spool_writable`` is ``None`` where there is no spool."""

    connections: list[ConnectionCount]
    endpoints: list[EndpointCount]
    oldest_due: float
    spooled: int
    spool_writable: bool | None
    chain: Chained


class _Tally:
    """What was counted last of what takes long, and when to count it again."""

    def __init__(self) -> None:
        self.connections: list[ConnectionCount] = []
        self.again_at = 0.0


class Counting(Refreshing, Chaining):
    """Numbers for whoever watches."""

    @cached_property
    def _tally(self) -> _Tally:
        return _Tally()

    async def count(self) -> Counts | None:
        """Count; ``None`` without the worker's login, which sees all workspaces."""
        if self._worker is None:
            return None
        spooled, writable = await self._refresher.spool_state()
        return Counts(
            connections=await self._connections_counted(self._worker),
            endpoints=await counts.endpoints(self._worker),
            oldest_due=await counts.oldest_due(self._worker),
            spooled=spooled,
            spool_writable=writable,
            chain=await self.chain_state(),
        )

    async def _connections_counted(self, worker: Database) -> list[ConnectionCount]:
        tally, began = self._tally, time.monotonic()
        if began >= tally.again_at:
            tally.again_at = began + LONG_SECONDS
            tally.connections = await counts.connections(worker)
            took = time.monotonic() - began
            tally.again_at = began + max(COUNT_SECONDS, SHARE * took)
        return tally.connections
