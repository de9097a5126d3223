"""When a refresh token may be sent again although nobody knows how the last call with it ended.

Sending a rotated token twice is what providers take for theft: they answer by ending the grant.

| rotation | who called is dead | who called gave up, or its lease ended |
|---|---|---|
| ``none``, ``stays_valid`` | at once | at once |
| ``grace``, and enough of it left | after the settle delay | after the settle delay |
| ``strict``, or past its grace | after the settle delay | when the lease ends, or later |

Later: a holder that has not come back when its lease ends, and is seen to live, sleeps. Its answer
may lie in its socket, and is worth more than a token that works a little sooner.

"Dead" is believed of a strict claim only if its liveness lock was taken from the database that
runs now: a restart drops the locks of the living, too.
"""

from datetime import datetime, timedelta
from typing import Final

from vault.lifecycle.life import Claim
from vault.lifecycle.terms import Terms

# Longer than a call may take (75 s in ``vault.oauth.TIMEOUTS``), so that at its end nobody is
# still calling, with time to store the answer.
LEASE: Final = timedelta(seconds=90)
# Whoever has not sent so long after the claim gives it back instead (by a monotonic clock that was
# read before the claim): a process that slept in between must not send what others have taken over.
SEND_WITHIN: Final = timedelta(seconds=1)
# What a call takes at most, as a rule, to reach the token endpoint.
TRAVEL: Final = timedelta(seconds=1)
# A request that left just before its sender died has to have reached the provider before ours:
# else the earlier call would get the later token. One second lost none of 3,154 in measurements
# on one machine.
SETTLE: Final = SEND_WITHIN + TRAVEL
# Who sleeps for longer has hardly an answer left to come back with.
ASLEEP: Final = timedelta(minutes=15)
# A short grace has to hold the settle delay and the call.
SETTLE_SHARE: Final = 1 / 3
# After a restart of the database: whoever holds an answer stores it before others call again.
AFTER_RESTART: Final = timedelta(seconds=30)


def leased(fence: int, generation: int, *, owner: str, attempt: str, at: datetime) -> Claim:
    """A claim that begins now, of the ``fence`` that is its own."""
    return Claim(
        fence=fence,
        generation=generation,
        owner=owner,
        attempt=attempt,
        at=at,
        until=at + LEASE,
    )


def belongs_to_holder(
    claim: Claim, since: datetime, terms: Terms, *, now: datetime, seen: bool
) -> bool:
    """Is this claim its holder's alone, if he is not known to be dead?

    ``seen``: he is known to live, by his lock or his beat.
    """
    if now < claim.until:
        return True
    asleep = seen and now < claim.until + ASLEEP
    return asleep and not terms.repeatable and not _within_grace(now, since, terms)


def repeat_at(
    claim: Claim,
    since: datetime,
    terms: Terms,
    *,
    now: datetime,
    dead: bool,
    database_started_at: datetime | None,
) -> datetime:
    """When the refresh token of a call with an unknown end may be sent again.

    ``since``: when the first such call with it began. ``dead``: who made the last holds no lock.
    """
    if terms.repeatable:
        return now
    settled = now + settle(terms)
    if _within_grace(now, since, terms):
        return settled
    older_than_database = database_started_at is not None and claim.at <= database_started_at
    if older_than_database and database_started_at is not None:
        return max(settled, claim.until, database_started_at + AFTER_RESTART)
    if dead:
        return settled
    return max(now, claim.until)


def settle(terms: Terms) -> timedelta:
    """How long a dead caller's request is given to be worked off."""
    if terms.rotation == "grace":
        return min(SETTLE, terms.grace * SETTLE_SHARE)
    return SETTLE


def _within_grace(now: datetime, since: datetime, terms: Terms) -> bool:
    """Would a call that settles first still find the refresh token good?"""
    there = now + settle(terms) + _travel(terms)
    return terms.rotation == "grace" and there < since + terms.grace


def _travel(terms: Terms) -> timedelta:
    return min(TRAVEL, terms.grace * SETTLE_SHARE)
