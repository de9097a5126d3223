"""What follows from what: ``step`` takes a life and an event, and gives the life and the intents.

* ``generation`` grows by one with each ``Save``, ``fence`` by one with each ``Call``.
* There is at most one claim, and no ``Call`` without a claim that was stored first.
* ``needs_reauth`` comes only from a provider's word that the grant is dead; never from an error,
  a timeout, or something that nobody knows.
* An answer is never dropped: it is saved, kept as an orphan, or given back to the provider.
* What is gone stays gone: an answer that comes for it is given back.
* The caller reads the life and stores it in one transaction with the row locked: that reading is
  the second look at the generation that ``invalid_grant`` asks for.
"""

from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple

from msgspec.structs import replace

from vault.lifecycle import backoff, takeover
from vault.lifecycle.events import (
    Answered,
    AnyEvent,
    Claimed,
    Connected,
    Failed,
    Released,
)
from vault.lifecycle.intents import (
    Announce,
    AnyIntent,
    Call,
    GiveBack,
    KeepOrphan,
    NotNow,
    Save,
    TellIntegration,
    Why,
)
from vault.lifecycle.life import NEW, Claim, Life, Suspicion, Verdict
from vault.lifecycle.terms import Terms

# The second look at a dead grant: long enough for a provider's hiccup to pass, and for a mass of
# refusals to show.
CONFIRM: Final = timedelta(seconds=60)
# All the refusals of one bad minute are not looked at again in one second.
CONFIRM_SPREAD: Final = timedelta(seconds=15)
# While its integration is refused as a client, a connection is not what is wrong, and waits.
CLIENT_PAUSE: Final = timedelta(seconds=60)
# One failure in a row is weather; the third is news.
NEWS_AFTER: Final = 3


class Step(NamedTuple):
    """What the connection is now, and what has to be done."""

    life: Life
    intents: tuple[AnyIntent, ...] = ()


def step(life: Life, event: AnyEvent, terms: Terms) -> Step:
    """What follows from ``event``. The same arguments always give the same result."""
    return _STEPS[type(event)](life, event, terms)


def replay(events: Iterable[AnyEvent], terms: Terms, life: Life = NEW) -> Life:
    """The life after all these events."""
    for event in events:
        life = step(life, event, terms).life
    return life


# Consent


def _connected(life: Life, event: Connected, _: Terms) -> Step:
    if life.gone:
        return _not_now(life, "gone")  # whoever consents anew begins another connection
    if life.generation and not event.same_account:
        return _not_now(life, "other_account")
    # Answers to calls with the former consent's tokens are older than this fence.
    fence = life.fence + 1
    fresh = Life(generation=life.generation + 1, fence=fence, saved=fence, consented=fence)
    news: list[AnyIntent] = [Announce(news="connected")]
    if life.told:
        news.append(Announce(news="recovered"))
    return Step(fresh, tuple(news))


# Claims


def _claimed(life: Life, event: Claimed, terms: Terms) -> Step:
    if why := _closed(life):
        return _not_now(life, why)
    if life.claim is not None:
        if event.holder_alive and takeover.belongs_to_holder(
            life.claim,
            life.doubt or life.claim.at,
            terms,
            now=event.at,
            seen=event.holder_seen,
        ):
            return _not_now(life, "busy", life.claim.until)
        life = _presumed_lost(life, life.claim, event, terms)
    if life.next_try_at is not None and event.at < life.next_try_at:
        return _not_now(life, "waiting", life.next_try_at)
    if life.suspicion is not None and not _may_look_again(life.suspicion, event, terms):
        return _condemned(life, life.suspicion)
    return _calling(life, event)


def _closed(life: Life) -> Why | None:
    if life.gone:
        return "gone"
    if life.generation == 0:
        return "pending"
    return "needs_reauth" if life.verdict is not None else None


def _presumed_lost(life: Life, claim: Claim, event: Claimed, terms: Terms) -> Life:
    """The holder of ``claim`` will not tell how its call ended."""
    if claim.generation != life.generation:
        return replace(life, claim=None)  # an older answer came meanwhile: its tokens are unused
    doubt = life.doubt or claim.at
    again = takeover.repeat_at(
        claim,
        doubt,
        terms,
        now=event.at,
        dead=not event.holder_alive,
        database_started_at=event.database_started_at,
    )
    return replace(life, claim=None, doubt=doubt, next_try_at=_later(life.next_try_at, again))


def _may_look_again(suspicion: Suspicion, event: Claimed, terms: Terms) -> bool:
    """May the provider be asked a second time about a grant that it called dead?

    A rotated token is not sent again to make sure: its verdict only waits, whether others follow.
    If they did, the refusal may have been the provider's own trouble, and one more try is owed.
    """
    held_since = event.held_until is not None and event.held_until >= suspicion.since
    return terms.repeatable or held_since


def _calling(life: Life, event: Claimed) -> Step:
    claim = takeover.leased(
        life.fence + 1, life.generation, owner=event.owner, attempt=event.attempt, at=event.at
    )
    again = bool(life.failures or life.doubt or life.suspicion)
    call = Call(
        fence=claim.fence,
        generation=claim.generation,
        attempt=claim.attempt,
        send_by=event.at + takeover.SEND_WITHIN,
        until=claim.until,
        again=again,
    )
    return Step(replace(life, fence=claim.fence, claim=claim, next_try_at=None), (call,))


def _released(life: Life, event: Released, _: Terms) -> Step:
    if life.claim is None or life.claim.fence != event.fence:
        return Step(life)
    return Step(replace(life, claim=None))


# Answers with tokens


def _answered(life: Life, event: Answered, _: Terms) -> Step:
    if life.gone:
        return Step(life, (GiveBack(fence=event.fence),))
    if event.fence == life.saved:
        return Step(life)  # a journal that is replayed brings it again
    if event.fence < life.saved:
        return _orphaned(life, event.fence)
    return _saved(life, event.fence)


def _saved(life: Life, fence: int) -> Step:
    """Calls with a higher fence left later, so theirs are the newer tokens."""
    own = life.claim if life.claim is not None and life.claim.fence == fence else None
    # Another answer was saved while this call was under way: one of the two is the current one.
    orphan = life.saved if own is not None and own.generation != life.generation else None
    fresh = Life(
        generation=life.generation + 1,
        # A database that lost its last second may have forgotten this call: no other takes its
        # number, or that one's answer would look like this one again.
        fence=max(life.fence, fence),
        saved=fence,
        consented=life.consented,
        claim=None if own is not None else life.claim,
        orphan=orphan,
    )
    save = Save(fence=fence, generation=fresh.generation, source="answer" if own else "late")
    news: list[AnyIntent] = [Announce(news="refreshed")]
    if life.told:
        news.append(Announce(news="recovered"))
    return Step(fresh, (save, TellIntegration(what="fine"), *news))


def _orphaned(life: Life, fence: int) -> Step:
    keep = KeepOrphan(fence=fence)
    if fence < life.consented:
        return Step(life, (keep,))  # of a consent that another has replaced
    return Step(replace(life, orphan=max(fence, life.orphan or 0)), (keep,))


# Answers without


def _failed(life: Life, event: Failed, terms: Terms) -> Step:
    claim = life.claim
    if claim is None or claim.fence != event.fence:
        return Step(life)  # it was given up, and whoever took over will learn for himself
    freed = replace(life, claim=None)
    if claim.generation != life.generation:
        return Step(freed)  # its tokens have been replaced meanwhile: it says nothing of the new
    return _judged(freed, event, terms, claim)


def _judged(life: Life, event: Failed, terms: Terms, claim: Claim) -> Step:
    if event.outcome == "dead":
        return _refused(life, event, terms)
    if event.outcome == "client":
        waiting = replace(life, last_failure="client", next_try_at=event.at + CLIENT_PAUSE)
        return Step(waiting, (TellIntegration(what="client"),))
    failures = life.failures + 1
    again = event.at + backoff.pause(failures, event.luck, retry_after=event.retry_after)
    doubt = life.doubt
    if event.outcome == "ambiguous":
        doubt = doubt or claim.at
        safe = takeover.repeat_at(
            claim, doubt, terms, now=event.at, dead=False, database_started_at=None
        )
        again = max(again, safe)
    troubled = replace(
        life,
        doubt=doubt,
        failures=failures,
        last_failure=event.outcome,
        next_try_at=again,
    )
    return _told(troubled, event.outcome) if failures >= NEWS_AFTER else Step(troubled)


def _refused(life: Life, event: Failed, terms: Terms) -> Step:
    """The provider calls the grant dead, and nobody has replaced the tokens meanwhile."""
    if life.orphan is not None:
        return _orphan_saved(life, life.orphan)
    before = life.suspicion
    lost = not terms.repeatable and life.doubt is not None
    if before is not None and not event.held and event.at - before.since >= CONFIRM:
        return _condemned(life, before)
    since = before.since if before is not None and not event.held else event.at
    look_at = since + CONFIRM + event.luck * CONFIRM_SPREAD
    suspect = replace(
        life,
        suspicion=Suspicion(since=since, lost=lost),
        last_failure="dead",
        next_try_at=look_at,
    )
    counted = (TellIntegration(what="dead"),) if before is None or event.held else ()
    told = _told(suspect, "dead")
    return Step(told.life, (*counted, *told.intents))


def _orphan_saved(life: Life, orphan: int) -> Step:
    """What we took for the newer answer is dead; the other one may be the one that lives."""
    fresh = Life(
        generation=life.generation + 1,
        fence=life.fence,
        saved=life.fence,
        consented=life.consented,
        told=life.told,
    )
    return Step(fresh, (Save(fence=orphan, generation=fresh.generation, source="orphan"),))


def _condemned(life: Life, suspicion: Suspicion) -> Step:
    verdict: Verdict = "lost_rotation" if suspicion.lost else "refused"
    dead = Life(
        generation=life.generation,
        fence=life.fence,
        saved=life.saved,
        consented=life.consented,
        last_failure="dead",
        verdict=verdict,
        told=True,
    )
    return Step(dead, (Announce(news="needs_reauth", reason=verdict),))


# Small things


def _not_now(life: Life, why: Why, until: datetime | None = None) -> Step:
    return Step(life, (NotNow(why=why, until=until),))


def _told(life: Life, reason: str) -> Step:
    if life.told:
        return Step(life)
    return Step(replace(life, told=True), (Announce(news="degraded", reason=reason),))


def _later(one: datetime | None, other: datetime) -> datetime:
    return other if one is None else max(one, other)


_STEPS: Final[dict[type, Callable[[Life, Any, Terms], Step]]] = {
    Connected: _connected,
    Claimed: _claimed,
    Released: _released,
    Answered: _answered,
    Failed: _failed,
}
