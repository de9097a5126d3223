"""The short way of an ordinary refresh: a connection at rest is claimed, its call brings tokens.

* It is short for ``vault.lifecycle.machine``, whose word on such a life is known: a lease with the
  next fence; then the next generation, and rest again. A property test holds the two together.
* It steps aside where anything is out of the ordinary, and leaves a connection to the long way in
  the same transaction. At a claim: somebody waits, there is trouble, a notice is due, there may be
  no room at the endpoint. At an ending: no tokens, other scopes, nothing to renew them with, or
  anything that has changed since the claim.
* What it reckons with is read under the claim's lock. When tokens are written, fence, owner,
  generation and use are compared with it once more, in the statement that sets them.
"""

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from functools import lru_cache
from operator import attrgetter
from typing import Final

from msgspec.structs import replace

from vault.database import Transaction
from vault.events import News, body_of
from vault.lifecycle import endpoint as endpoints
from vault.lifecycle.clocks import Clocks, clocks
from vault.lifecycle.schedule import Look, Use, is_surely_due, resting_look
from vault.lifecycle.takeover import leased
from vault.lifecycle.terms import Terms
from vault.model import new_ids
from vault.oauth.renewing import can_refresh
from vault.refreshing.page import Ending, Granted, Page, Settled, Wanted, luck_of
from vault.seal import seal
from vault.store import calls
from vault.store.calls import Renewed, Rested
from vault.store.connections import packed, tokens_context

_id_of: Final = attrgetter("connection_id")


# Claims


async def claim(
    tx: Transaction, page: Page, wanted: Sequence[Wanted], owner: str
) -> dict[str, Granted]:
    """Claim those that rest, by connection; who is missing has still to be looked at."""
    swept = [one for one in wanted if not (one.waiting or one.left)]
    # Who is waited for comes first.
    room = endpoints.room(page.endpoint, page.now) - (len(wanted) - len(swept))
    asked = {one.connection_id: one.outlet.terms for one in swept[: max(0, room)]}
    if not asked:
        return {}
    rested = await calls.rested(tx, list(asked))
    due = [row for row in rested if is_due(row, asked[row.connection_id], page.now)]
    if not due:
        return {}
    page.endpoint = endpoints.admit_all(page.endpoint, page.now, len(due))
    return {row.connection_id: _granted(page, row, owner) for row in due}


def _granted(page: Page, row: Rested, owner: str) -> Granted:
    claim = leased(
        row.fence + 1, row.generation, owner=owner, attempt=next(page.attempt_ids), at=page.now
    )
    page.claims[row.connection_id] = claim
    return Granted(begun=page.begun, claim=claim, due_at=row.due_at, refreshable=row, rested=row)


def is_due(row: Rested, terms: Terms, now: datetime) -> bool:
    """Is it a refresh that is to be seen to now, and neither a notice nor nothing at all?"""
    issued_at, access_ends = row.issued_at, row.access_ends
    if issued_at is None or row.consented_at is None:
        return False
    if access_ends is not None and row.consent_ends is None and row.held_until is None:
        luck, promise = luck_of(row.connection_id, row.generation), _seconds(row.promised)
        if is_surely_due(
            issued_at, access_ends, terms, row.policy, row.used_at, promise, now=now, luck=luck
        ):
            return True
    times = Clocks(
        issued_at=issued_at,
        consented_at=row.consented_at,
        access_ends=access_ends,
        idle_ends=row.idle_ends,
        consent_ends=row.consent_ends,
    )
    look = _look(row, row.generation, times, terms, now, held_until=row.held_until)
    return look is not None and look.at <= now and look.why != "notice"


# Endings


async def end(
    tx: Transaction, page: Page, ended: Sequence[Ending], owner: str
) -> dict[str, Settled]:
    """Write the tokens of those that rested and that nobody has touched since, by connection."""
    by_id = {one.connection_id: one for one in sorted(ended, key=_id_of)}
    if len(by_id) < len(ended) or not endpoints.only_counts(page.endpoint, page.now):
        return {}
    event_ids: Iterator[str] = iter(new_ids("evt", len(ended)) if page.heard else ())
    renewed = [new for one in by_id.values() if (new := _renewed(page, one, event_ids))]
    if not renewed:
        return {}
    done = await calls.renew_rested(tx, owner, renewed)
    if not done:
        return {}
    page.endpoint = endpoints.all_fine(page.endpoint, page.now, len(done))
    taken = [new for new in renewed if new.connection_id in done]
    for new in taken:
        page.tidy(by_id[new.connection_id])
    return {new.connection_id: Settled(new.generation) for new in taken}


def _renewed(page: Page, one: Ending, event_ids: Iterator[str]) -> Renewed | None:
    """What a connection becomes by its new tokens, if they are of the ordinary kind."""
    rested, tokens, held, owner_key = one.rested, one.tokens, one.held, one.owner_key
    if rested is None or tokens is None or held is None or owner_key is None:
        return None
    terms, provider = one.outlet.terms, one.outlet.app.provider
    if tokens.scopes != held.tokens.scopes or not can_refresh(provider, tokens):
        return None
    if tokens.obtained_at != one.attempt.began_at:
        return None
    generation = rested.generation + 1
    place = page.place
    context = tokens_context(place.workspace, one.connection_id, generation, place.environment)
    times = clocks(
        terms,
        issued_at=tokens.obtained_at,
        consented_at=rested.consented_at or tokens.obtained_at,
        access_ends=tokens.expires_at,
        refresh_ends=tokens.refresh_expires_at,
    )
    look = _look(rested, generation, times, terms, page.now)
    return Renewed(
        connection_id=one.connection_id,
        sealed=seal(owner_key, context, packed(replace(held, tokens=tokens))),
        generation=generation,
        fence=one.fence,
        access_ends=times.access_ends,
        idle_ends=times.idle_ends,
        consent_ends=times.consent_ends,
        policy=rested.policy,
        used_at=rested.used_at,
        expected_at=rested.expected_at,
        promised=rested.promised,
        due_at=look.at if look is not None else None,
        attempt=one.attempt.attempt,
        event_id=next(event_ids, None),
        body=body_of(_refreshed(page, one, generation)) if page.heard else None,
    )


def _refreshed(page: Page, one: Ending, generation: int) -> News:
    return News(
        type="connection.refreshed",
        integration=page.place.integration,
        environment=page.place.environment,
        connection_id=one.connection_id,
        user_id=one.user_id,
        generation=generation,
    )


def _look(
    row: Rested,
    generation: int,
    times: Clocks,
    terms: Terms,
    now: datetime,
    held_until: datetime | None = None,
) -> Look | None:
    use = Use(
        used_at=row.used_at,
        hold_until=held_until,
        expected_at=row.expected_at,
        promise=_seconds(row.promised),
    )
    return resting_look(
        times,
        terms,
        use,
        row.policy,
        now=now,
        luck=luck_of(row.connection_id, generation),
        noticed=_seconds(row.noticed) if row.noticed is not None else None,
    )


@lru_cache
def _seconds(number: int) -> timedelta:
    return timedelta(seconds=number)
