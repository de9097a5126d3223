"""How often one conversation may ask. In memory: each replica counts for itself. Pure.

* A bucket for each conversation: so many at once, so many a second from then on.
* The buckets that nobody took from for longest go first; one that was forgotten is full again.
"""

import math
from collections import OrderedDict
from typing import Final

from msgspec import Struct

from vault.errors import RateLimited

MAX_BUCKETS: Final = 50_000


class Rate(Struct, frozen=True, kw_only=True):
    """``burst`` at once, and ``per_second`` from then on."""

    burst: int
    per_second: float


class Limits:
    """Buckets of one rate."""

    def __init__(self, rate: Rate) -> None:
        self._rate = rate
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, who: str, now: float) -> None:
        """Take one; ``RateLimited`` says when there is the next. ``now``: any clock that grows."""
        level, at = self._buckets.pop(who, (float(self._rate.burst), now))
        level = min(level + (now - at) * self._rate.per_second, self._rate.burst)
        self._buckets[who] = (level - 1 if level >= 1 else level, now)
        if len(self._buckets) > MAX_BUCKETS:
            self._buckets.popitem(last=False)
        if level < 1:
            raise RateLimited(retry_after=math.ceil((1 - level) / self._rate.per_second))
