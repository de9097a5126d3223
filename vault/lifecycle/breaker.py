"""A token endpoint that does not answer is left alone for a while. One for all replicas.

* Closed, it counts; half of the last 30 seconds' calls failing, and at least twenty calls, open it.
* Open, it lets nobody through until its time is up; then one probe, and nobody else until that is
  heard of. A probe that never comes back is given up.
* Only what was sent after it opened can close it: answers of before say nothing about now.
* Good is any answer that the endpoint gave on purpose, a refusal included.
"""

from datetime import datetime, timedelta
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from vault.lifecycle.window import Window
from vault.oauth.replies import Outcome

WINDOW: Final = timedelta(seconds=30)
# Fewer calls than that say more about chance than about the endpoint.
FEWEST: Final = 20
BAD_SHARE: Final = 0.5
# Restarts of a server take seconds; longer than two minutes would waste tokens that live five.
FIRST_REST: Final = timedelta(seconds=5)
LONGEST_REST: Final = timedelta(minutes=2)
# As long as a call may take at all.
PROBE: Final = timedelta(seconds=90)
BAD: Final[frozenset[Outcome]] = frozenset({"not_sent", "ambiguous", "transient"})


class Breaker(Struct, frozen=True, kw_only=True):
    """``opened_at`` is ``None`` while it is closed; ``rests`` counts how often it opened on end."""

    window: Window
    opened_at: datetime | None = None
    rest_until: datetime | None = None
    probing_until: datetime | None = None
    rests: int = 0


def closed(now: datetime) -> Breaker:
    """A breaker that knows nothing yet."""
    return Breaker(window=Window(began=now))


def admit(breaker: Breaker, now: datetime) -> tuple[Breaker, datetime | None]:
    """May one call begin? ``None``: yes. Else: not before then."""
    if breaker.opened_at is None or breaker.rest_until is None:
        return breaker, None
    if now < breaker.rest_until:
        return breaker, breaker.rest_until
    if breaker.probing_until is not None and now < breaker.probing_until:
        return breaker, breaker.probing_until
    return replace(breaker, probing_until=now + PROBE), None


def heard(breaker: Breaker, now: datetime, *, sent_at: datetime, good: bool) -> Breaker:
    """A call that was sent at ``sent_at`` has ended."""
    if breaker.opened_at is None:
        window = breaker.window.counted(now, WINDOW, good=good)
        counts = window.counts(now, WINDOW)
        counted = replace(breaker, window=window)
        if counts.good + counts.bad < FEWEST or counts.bad_share < BAD_SHARE:
            return counted
        return _opened(counted, now)
    if sent_at < breaker.opened_at or breaker.probing_until is None:
        return breaker
    return closed(now) if good else _opened(breaker, now)


def stays_closed(breaker: Breaker, now: datetime) -> bool:
    """Is it closed, and will no good answer open it? (Where there were hardly any, and most of
    those bad, a good one more may be the one that makes them enough.)
    """
    if breaker.opened_at is not None:
        return False
    window = breaker.window.counted(now, WINDOW, good=True)
    return window.counts(now, WINDOW).bad_share < BAD_SHARE


def all_good(breaker: Breaker, now: datetime, calls: int) -> Breaker:
    """So many good calls have ended, while it ``stays_closed``."""
    return replace(breaker, window=breaker.window.counted(now, WINDOW, good=True, calls=calls))


def is_good(outcome: Outcome | None) -> bool:
    """Does this outcome (``None``: tokens) speak for the endpoint?"""
    return outcome not in BAD


def _opened(breaker: Breaker, now: datetime) -> Breaker:
    rests = breaker.rests + 1
    rest = min(LONGEST_REST, FIRST_REST * (1 << min(rests - 1, 10)))
    return Breaker(window=Window(began=now), opened_at=now, rest_until=now + rest, rests=rests)
