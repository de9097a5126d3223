"""What may be handed out of a connection now.

* ``ready``: it lasts as long as was asked for.
* ``wait``: it does not, or it will not be good for long; a refresh brings a better one. Wait for
  that, and where it fails or takes too long, do what ``otherwise`` says.
* ``degraded``: it lives, but what should be done for it cannot be done now.
* ``stale``: it lives and is not as fresh as asked for, on purpose: a fresher one would kill the
  token that another live conversation holds.
* ``expired``: nothing may be handed out. A token past its end by the database's clock never is,
  nor one of a connection that has ended.
"""

from datetime import datetime, timedelta
from typing import Final, Literal

from msgspec import Struct

from vault.lifecycle.clocks import Clocks
from vault.lifecycle.life import Life
from vault.lifecycle.schedule import LAST_MINUTE
from vault.lifecycle.terms import Terms

Kind = Literal["ready", "wait", "degraded", "stale", "expired"]
Fallback = Literal["degraded", "expired"]

# What is asked for beyond half of what the provider gives would refresh at every second mint.
MOST_OF_LIFETIME: Final = 0.5


class Handout(Struct, frozen=True, kw_only=True):
    """What to do for one who asks.

    ``otherwise``: what a ``wait`` ends in, if the refresh does not succeed in time.
    ``begin_refresh``: start one, or join the one that is under way; for ``degraded`` never.
    ``refresh_required``: it ends before the time that was asked for, because the provider's tokens
    do not live that long: whoever takes it has to come back for the next.
    """

    kind: Kind
    otherwise: Fallback | None = None
    refresh_required: bool = False

    @property
    def begin_refresh(self) -> bool:
        return self.kind == "wait"


class Ask(Struct, frozen=True, kw_only=True):
    """Who asks for what. ``rejected``: the provider's API did not take the present token.

    ``held_until``: another live conversation holds the present token until then.
    """

    min_ttl: timedelta
    rejected: bool = False
    held_until: datetime | None = None


def hand_out(life: Life, clocks: Clocks, terms: Terms, ask: Ask, *, now: datetime) -> Handout:
    """Decide what ``ask`` gets now."""
    if life.generation == 0 or life.gone:
        return Handout(kind="expired")
    left = None if clocks.access_ends is None else clocks.access_ends - now
    alive = left is None or left > timedelta()
    required = left is not None and left < ask.min_ttl
    if alive and not _wants_refresh(life, clocks, terms, ask, left):
        return Handout(kind="ready", refresh_required=required)
    if alive and _would_hurt(life, terms, ask, left, now):
        return Handout(kind="stale", refresh_required=required)
    if _can_refresh(life, clocks, terms, now):
        return Handout(
            kind="wait", otherwise="degraded" if alive else "expired", refresh_required=required
        )
    return Handout(kind="degraded" if alive else "expired", refresh_required=required)


def wanted_ttl(clocks: Clocks, min_ttl: timedelta) -> timedelta:
    """What a token has to last to be handed out as it is: never over half of its whole life."""
    if clocks.lifetime is None:
        return min_ttl
    return min(min_ttl, clocks.lifetime * MOST_OF_LIFETIME)


def _wants_refresh(
    life: Life, clocks: Clocks, terms: Terms, ask: Ask, left: timedelta | None
) -> bool:
    if ask.rejected:
        return True
    if terms.kills_old_access and (life.claim is not None or life.doubt is not None):
        return True  # a refresh that is under way, or may have been, ends this token
    if life.verdict is not None or life.suspicion is not None:
        return True  # the provider called the grant dead; its token may be, too
    return left is not None and left < wanted_ttl(clocks, ask.min_ttl)


def _would_hurt(life: Life, terms: Terms, ask: Ask, left: timedelta | None, now: datetime) -> bool:
    """Would a refresh take the token out of the hands of somebody who is still talking?"""
    if not terms.kills_old_access or ask.held_until is None or ask.held_until <= now:
        return False
    if ask.rejected or life.claim is not None or life.doubt is not None:
        return False  # it is of no use to him either, or soon will not be
    return left is None or left >= LAST_MINUTE


def _can_refresh(life: Life, clocks: Clocks, terms: Terms, now: datetime) -> bool:
    """Is there a refresh to wait for, or may one begin now? The claim has the last word."""
    if not clocks.renewable or life.verdict is not None:
        return False
    if life.claim is not None:
        return True
    if life.next_try_at is not None and now < life.next_try_at:
        return False
    if clocks.consent_ends is not None and clocks.consent_ends <= now:
        return False
    return now >= clocks.issued_at + terms.min_age
