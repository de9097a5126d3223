"""When to look at a connection next, and why: the one ``due_at`` of its row.

* Ahead of its end an access token is refreshed where the policy says so; the refresh token is kept
  alive whatever the policy says.
* A refresh that would kill the access token which a live conversation holds waits for the
  conversation's end, unless under a minute is left.
* Nothing is refreshed sooner than the provider allows, or after only the person can help.
* Everything is spread, so that what was connected together is not refreshed together.
"""

from datetime import datetime, timedelta
from functools import lru_cache
from typing import Final, Literal

from msgspec import Struct

from vault.lifecycle.clocks import Clocks
from vault.lifecycle.life import Claim, Life
from vault.lifecycle.terms import Terms

# eager: always fresh. active: fresh while it is used, or about to be. lazy: refreshed when it is
# asked for.
Policy = Literal["eager", "active", "lazy"]
Why = Literal["retry", "access", "keep_alive", "notice"]

# A conversation should not have to refresh in its first minutes.
MARGIN: Final = timedelta(minutes=5)
# Parts of a span are whole ones: a span times a fraction is far dearer than one by a number.
# A margin above half of the lifetime would refresh what has just come.
LIFETIME_BY: Final = 2
SPREAD_BY: Final = 10
# How finely chance is dealt out.
GRAINS: Final = 65_536
MOST_SPREAD: Final = timedelta(minutes=5)
# Somebody who talked to an agent yesterday at this hour is likely to do so today.
USED_LATELY: Final = timedelta(hours=25)
# Three tries at a third of the time each may fail before an unused refresh token dies.
KEEP_ALIVE_BY: Final = 3
# A kept token that ends within a minute would end in the middle of the next request.
LAST_MINUTE: Final = timedelta(seconds=60)
# A claim whose lease has ended stands in nobody's way meanwhile.
ASLEEP_LOOK: Final = timedelta(seconds=10)
# So many providers' lifetimes are at hand, divided.
SPANS: Final = 1_024
# Time for a person to read it, to forget it, and to be asked again.
NOTICES: Final = (timedelta(days=14), timedelta(days=3), timedelta(days=1))


class Use(Struct, frozen=True, kw_only=True):
    """Who needs the tokens. ``hold_until``: until then a live conversation holds this generation.

    ``expected_at``: a conversation was announced for then. ``promise``: how long a token has to
    last at the least, when it is handed out.
    """

    used_at: datetime | None = None
    hold_until: datetime | None = None
    expected_at: datetime | None = None
    promise: timedelta = timedelta()


class Look(Struct, frozen=True, kw_only=True):
    """When, and what for."""

    at: datetime
    why: Why


def next_look(
    life: Life,
    clocks: Clocks,
    terms: Terms,
    use: Use,
    policy: Policy,
    *,
    now: datetime,
    luck: float,
    noticed: timedelta | None = None,
) -> Look | None:
    """The next time that there is something to do; ``None``: only an event can change anything.

    ``noticed``: the last of ``NOTICES`` that was given for the present consent.
    """
    if life.claim is not None:
        return claimed_look(life.claim, now)
    if not life.generation or life.verdict is not None or life.gone:
        return None
    refresh = refresh_at(life, clocks, terms, use, policy, now=now, luck=luck)
    return _or_notice(refresh, clocks, noticed)


def resting_look(
    clocks: Clocks,
    terms: Terms,
    use: Use,
    policy: Policy,
    *,
    now: datetime,
    luck: float,
    noticed: timedelta | None = None,
) -> Look | None:
    """The same of a connection at rest: of its life there is no more to know."""
    refresh = _refresh_at_rest(clocks, terms, use, policy, now=now, luck=luck)
    return _or_notice(refresh, clocks, noticed)


def claimed_look(claim: Claim, now: datetime) -> Look:
    """When the lease ends, in case its holder does not come back; and then now and again, while he
    sleeps.
    """
    return Look(at=claim.until if now < claim.until else now + ASLEEP_LOOK, why="retry")


def refresh_at(
    life: Life,
    clocks: Clocks,
    terms: Terms,
    use: Use,
    policy: Policy,
    *,
    now: datetime,
    luck: float,
) -> Look | None:
    """When to refresh in the background, as things are."""
    if life.suspicion is not None or life.doubt is not None:
        # A question is open, which is settled before anybody waits for it.
        return Look(at=life.next_try_at or now, why="retry")
    refresh = _refresh_at_rest(clocks, terms, use, policy, now=now, luck=luck)
    if refresh is None or life.next_try_at is None:
        return refresh
    at = max(refresh.at, life.next_try_at)
    return Look(at=at, why="retry" if life.failures and at == life.next_try_at else refresh.why)


def is_surely_due(
    issued_at: datetime,
    access_ends: datetime,
    terms: Terms,
    policy: Policy,
    used_at: datetime | None,
    promise: timedelta,
    *,
    now: datetime,
    luck: float,
) -> bool:
    """Is a refresh to be seen to now, whatever else is known of a connection at rest that is ours
    to renew, whose consent has no known end, and whose tokens nobody holds?

    ``resting_look`` says the same of each for which this is true, and takes several times as long.
    """
    if not _is_in_use(policy, used_at, now) or now < issued_at + terms.min_age:
        return False
    return _replaced_at(issued_at, access_ends, terms, promise, luck, now) <= now


def is_expiring(clocks: Clocks, now: datetime) -> bool:
    """Will only the person be able to help before long? The derived state ``expiring``."""
    points = notice_points(clocks)
    end = clocks.person_needed_at
    return end is not None and bool(points) and end - points[0] <= now < end


def notice_due(clocks: Clocks, now: datetime, noticed: timedelta | None) -> timedelta | None:
    """The notice to give now, if any: the latest that is due, and that one once.

    So a scheduler that was away does not send three at a time.
    """
    end = clocks.person_needed_at
    if end is None:
        return None
    due = [ahead for ahead in notice_points(clocks) if end - ahead <= now]
    if not due or (noticed is not None and due[-1] >= noticed):
        return None
    return due[-1]


def notice_points(clocks: Clocks) -> tuple[timedelta, ...]:
    """The notices ahead of the end; none in the first half of the time, and so none for what lasts
    under two days, such as a token of an hour that nobody can refresh.
    """
    end = clocks.person_needed_at
    if end is None:
        return ()
    begin = clocks.consented_at if clocks.renewable else clocks.issued_at
    return tuple(ahead for ahead in NOTICES if ahead <= (end - begin) / 2)


def _refresh_at_rest(
    clocks: Clocks, terms: Terms, use: Use, policy: Policy, *, now: datetime, luck: float
) -> Look | None:
    consent_ends = clocks.consent_ends
    if not clocks.renewable or (consent_ends is not None and consent_ends <= now):
        return None
    issued_at, access_ends = clocks.issued_at, clocks.access_ends
    why: Why = "keep_alive"
    at = _kept_alive_at(clocks, terms, luck)
    needed_at = _needed_at(policy, use, now)
    if access_ends is not None and needed_at is not None:
        replaced_at = _replaced_at(issued_at, access_ends, terms, use.promise, luck, needed_at)
        if at is None or replaced_at < at:
            at, why = replaced_at, "access"
    if at is None:
        return None
    at = max(at, issued_at + terms.min_age)
    if use.hold_until is not None and terms.kills_old_access:
        at = max(at, _held_off(clocks, use.hold_until))
    return Look(at=at, why=why)


def _needed_at(policy: Policy, use: Use, now: datetime) -> datetime | None:
    """From when on the access token is to be fresh; ``None``: only when somebody asks for it."""
    if _is_in_use(policy, use.used_at, now):
        return now
    if policy != "active":
        return None
    if use.hold_until is not None and now < use.hold_until:
        return now
    return use.expected_at if use.expected_at is not None and now < use.expected_at else None


def _is_in_use(policy: Policy, used_at: datetime | None, now: datetime) -> bool:
    """Is the access token to be fresh already, whoever holds or expects it?"""
    if policy == "active":
        return used_at is not None and now - used_at < USED_LATELY
    return policy == "eager"


def _replaced_at(
    issued_at: datetime,
    access_ends: datetime,
    terms: Terms,
    promise: timedelta,
    luck: float,
    needed_at: datetime,
) -> datetime:
    """When an access token is to be replaced, ahead of its end."""
    margin, spread = _access_spans(access_ends - issued_at, terms.margin or MARGIN, promise)
    return max(access_ends, needed_at) - (margin + _drawn(spread, luck))


# To divide spans is dear, and a provider has few of them.
@lru_cache(maxsize=SPANS)
def _access_spans(
    lifetime: timedelta, margin: timedelta, promise: timedelta
) -> tuple[timedelta, timedelta]:
    """How long before its end at the least, and how much sooner than that at the most."""
    at_least = min(max(margin, promise), lifetime // LIFETIME_BY)
    return at_least, min(lifetime // SPREAD_BY, MOST_SPREAD)


def _kept_alive_at(clocks: Clocks, terms: Terms, luck: float) -> datetime | None:
    if clocks.idle_ends is None:
        return None
    wait, spread = _idle_spans(clocks.idle_ends - clocks.issued_at, terms.keep_alive)
    return clocks.issued_at + wait - _drawn(spread, luck)


@lru_cache(maxsize=SPANS)
def _idle_spans(idle: timedelta, keep_alive: timedelta | None) -> tuple[timedelta, timedelta]:
    """How long a refresh token is left unused at the most, and how much less than that."""
    wait = idle // KEEP_ALIVE_BY
    if keep_alive is not None:
        wait = min(wait, keep_alive)
    return wait, wait // SPREAD_BY


def _held_off(clocks: Clocks, hold_until: datetime) -> datetime:
    """Until when a refresh would take a token out of a live conversation's hands for nothing."""
    if clocks.access_ends is None:
        return hold_until
    return min(hold_until, clocks.access_ends - LAST_MINUTE)


def _or_notice(refresh: Look | None, clocks: Clocks, noticed: timedelta | None) -> Look | None:
    """This refresh, unless a notice comes first."""
    end = clocks.person_needed_at
    if end is None:
        return refresh
    ahead = [one for one in notice_points(clocks) if noticed is None or one < noticed]
    if not ahead or (refresh is not None and refresh.at <= end - ahead[0]):
        return refresh
    return Look(at=end - ahead[0], why="notice")


def _drawn(span: timedelta, luck: float) -> timedelta:
    """So much of it as chance will have."""
    return span * int(luck * GRAINS) // GRAINS
