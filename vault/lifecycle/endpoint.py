"""A token endpoint as one app registration reaches it: may a call begin, and what did it teach.

* One for all replicas; whoever asks holds its row's lock.
* A call that one part refuses has cost the other parts nothing.
"""

from datetime import datetime, timedelta
from typing import Final, NamedTuple

from msgspec import Struct
from msgspec.structs import replace

from vault.lifecycle import breaker, rate, retries, standing
from vault.lifecycle.breaker import Breaker
from vault.lifecycle.intents import Experience
from vault.lifecycle.rate import CEILING, Rate
from vault.lifecycle.retries import Retries
from vault.lifecycle.standing import Alert, Standing
from vault.oauth.replies import Outcome

# When a retry is looked at again for which there is no budget.
NO_RETRY: Final = timedelta(seconds=10)


class Endpoint(Struct, frozen=True, kw_only=True):
    """All that is known of it.

    ``claims`` counts the transactions in which calls were admitted, since it was ``born``: who
    remembers more of them than there are looks at an older state of the database.
    """

    standing: Standing
    rate: Rate
    breaker: Breaker
    retries: Retries
    born: datetime | None = None
    claims: int = 0


class Admitted(NamedTuple):
    """``until`` None: the call may begin. Else: not before then."""

    endpoint: Endpoint
    until: datetime | None = None


class Heard(NamedTuple):
    """What it is now, and what the operator should hear."""

    endpoint: Endpoint
    alert: Alert | None = None


def begun(now: datetime, *, ceiling: float = CEILING) -> Endpoint:
    """One that nobody has called yet."""
    return Endpoint(
        standing=standing.begun(now),
        rate=rate.begun(now, ceiling=ceiling),
        breaker=breaker.closed(now),
        retries=retries.begun(now),
        born=now,
    )


def admit(
    endpoint: Endpoint, now: datetime, *, again: bool = False, waiting: bool = False
) -> Admitted:
    """Ask for one call. ``again``: a retry; who is ``waiting`` for it needs no budget."""
    stands, until = standing.admit(endpoint.standing, now)
    if until is not None:
        return Admitted(endpoint, until)
    breaks, until = breaker.admit(endpoint.breaker, now)
    if until is not None:
        return Admitted(endpoint, until)
    budget, allowed = (
        retries.spend(endpoint.retries, now)
        if again and not waiting
        else (retries.earn(endpoint.retries, now), True)
    )
    if not allowed:
        return Admitted(endpoint, now + NO_RETRY)
    taken = rate.take(endpoint.rate, now)
    if not taken.granted:
        return Admitted(replace(endpoint, rate=taken.rate), taken.more_at)
    return Admitted(
        replace(endpoint, standing=stands, rate=taken.rate, breaker=breaks, retries=budget), None
    )


def room(endpoint: Endpoint, now: datetime) -> int:
    """For how many calls there surely is room, if none of them is a retry; 0 where that depends on
    more than the rate.
    """
    if endpoint.standing.why is not None or endpoint.breaker.opened_at is not None:
        return 0
    return rate.room(endpoint.rate, now)


def admit_all(endpoint: Endpoint, now: datetime, calls: int) -> Endpoint:
    """Let so many calls begin at once, for which there is ``room``."""
    taken = rate.take(endpoint.rate, now, calls)
    budget = retries.earn(endpoint.retries, now, calls)
    return replace(endpoint, rate=taken.rate, retries=budget)


def is_probing(endpoint: Endpoint, now: datetime) -> bool:
    """Is one call under way that may end the waiting of all others at any moment?"""
    probes = (endpoint.standing.probing_until, endpoint.breaker.probing_until)
    return any(until is not None and now < until for until in probes)


def heard(
    endpoint: Endpoint,
    now: datetime,
    *,
    sent_at: datetime,
    outcome: Outcome | None,
    retry_after: int | None = None,
) -> Endpoint:
    """A call has ended; ``outcome`` None: with tokens."""
    good = breaker.is_good(outcome)
    breaks = breaker.heard(endpoint.breaker, now, sent_at=sent_at, good=good)
    paced = endpoint.rate
    if outcome == "throttled" or (retry_after is not None and outcome is not None):
        paced = rate.throttled(paced, now, sent_at=sent_at, retry_after=retry_after)
    elif good:
        paced = rate.succeeded(paced, now)
    return replace(endpoint, breaker=breaks, rate=paced)


def only_counts(endpoint: Endpoint, now: datetime) -> bool:
    """Is it open, so that calls which end with tokens change no more than counts?"""
    return endpoint.standing.why is None and breaker.stays_closed(endpoint.breaker, now)


def all_fine(endpoint: Endpoint, now: datetime, calls: int) -> Endpoint:
    """So many calls have ended with tokens, where it ``only_counts`` them."""
    return replace(
        endpoint,
        standing=standing.all_fine(endpoint.standing, now, calls),
        rate=rate.succeeded(endpoint.rate, now, calls),
        breaker=breaker.all_good(endpoint.breaker, now, calls),
    )


def learned(endpoint: Endpoint, what: Experience, now: datetime, *, sent_at: datetime) -> Heard:
    """What a call told of the app registration."""
    stands, alert = standing.learn(endpoint.standing, what, now, sent_at=sent_at)
    return Heard(replace(endpoint, standing=stands), alert)


def unused(endpoint: Endpoint) -> Endpoint:
    """A call that was admitted, and not made."""
    return replace(endpoint, rate=rate.give_back(endpoint.rate, 1))


def mended(endpoint: Endpoint, now: datetime) -> Heard:
    """The registration was changed."""
    stands, alert = standing.mended(endpoint.standing, now)
    return Heard(replace(endpoint, standing=stands), alert)
