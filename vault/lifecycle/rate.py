"""How fast a token endpoint is called: a token bucket whose rate learns (AIMD). One for all
replicas.

* It grows by a little with each success, and is halved when the endpoint says "too many".
* A burst of refusals to what was sent together is one refusal.
* ``Retry-After`` stops everybody, not only the connection that was told.
* A replica may take many at once, so that it asks the shared row seldom.
"""

from datetime import datetime, timedelta
from typing import Final, NamedTuple

from msgspec import Struct
from msgspec.structs import replace

from vault.providers.schema import Provider

# Unknown endpoints are met politely; a backlog after an outage teaches it more within a minute.
START: Final = 20.0
# A million tokens of an hour at one endpoint are 278 in a second.
CEILING: Final = 400.0
# However often it says no, one call in ten seconds finds out whether it still does.
FLOOR: Final = 0.1
# What may go out in one instant, in seconds of the rate.
BURST: Final = 1.0
CUT: Final = 0.5
# For a rate of n in a second this is about one more in a second, each second.
GROWTH: Final = 1.0
# Without a time from the endpoint.
REST: Final = timedelta(seconds=1)


class Rate(Struct, frozen=True, kw_only=True):
    """``level``: calls that may begin now; ``at``: when that was true."""

    per_second: float
    ceiling: float
    level: float
    at: datetime
    cut_at: datetime | None = None
    rest_until: datetime | None = None


class Taken(NamedTuple):
    """``granted`` calls may begin now; for more, come back at ``more_at``."""

    rate: Rate
    granted: int
    more_at: datetime


def begun(now: datetime, *, ceiling: float = CEILING) -> Rate:
    """The rate of an endpoint that nobody has called yet."""
    per_second = min(START, ceiling) if ceiling <= CEILING else ceiling
    return Rate(per_second=per_second, ceiling=ceiling, level=_burst(per_second), at=now)


def ceiling_of(provider: Provider) -> float:
    """What the provider says that one client may do, or else ours. More is begun with at once."""
    budget = provider.token.budget if provider.token else None
    if budget is None or budget.per != "client":
        return CEILING
    return budget.requests / budget.seconds


def take(rate: Rate, now: datetime, wanted: int = 1) -> Taken:
    """Take up to ``wanted`` calls."""
    filled = _filled(rate, now)
    if rate.rest_until is not None and now < rate.rest_until:
        return Taken(filled, 0, rate.rest_until)
    granted = min(wanted, int(filled.level))
    left = replace(filled, level=filled.level - granted)
    missing = max(0.0, 1.0 - left.level)
    return Taken(left, granted, left.at + timedelta(seconds=missing / left.per_second))


def room(rate: Rate, now: datetime) -> int:
    """How many may begin at once."""
    if rate.rest_until is not None and now < rate.rest_until:
        return 0
    return int(_filled(rate, now).level)


def give_back(rate: Rate, unused: int) -> Rate:
    """Calls that were taken and not made."""
    return replace(rate, level=min(_burst(rate.per_second), rate.level + unused))


def succeeded(rate: Rate, now: datetime, answers: int = 1) -> Rate:
    """The endpoint answered."""
    filled = _filled(rate, now)
    grown = filled.per_second
    for _ in range(answers):
        grown += GROWTH / max(grown, 1.0)
        if grown >= rate.ceiling:  # there it stays
            grown = rate.ceiling
            break
    return replace(filled, per_second=grown)


def throttled(
    rate: Rate, now: datetime, *, sent_at: datetime, retry_after: int | None = None
) -> Rate:
    """The endpoint said "too many", or its breaker opened."""
    filled = _filled(rate, now)
    rest = timedelta(seconds=retry_after) if retry_after is not None else REST
    until = now + rest if rate.rest_until is None else max(rate.rest_until, now + rest)
    if rate.cut_at is not None and sent_at < rate.cut_at:
        return replace(filled, rest_until=until)
    slower = max(min(FLOOR, rate.ceiling), filled.per_second * CUT)
    return replace(
        filled,
        per_second=slower,
        level=min(filled.level, _burst(slower)),
        cut_at=now,
        rest_until=until,
    )


def _filled(rate: Rate, now: datetime) -> Rate:
    """The same at ``now``. A clock that goes back fills nothing."""
    passed = (now - rate.at).total_seconds()
    if passed <= 0:
        return rate
    level = min(_burst(rate.per_second), rate.level + passed * rate.per_second)
    return replace(rate, level=level, at=now)


def _burst(per_second: float) -> float:
    return max(1.0, per_second * BURST)
