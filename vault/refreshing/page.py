"""What one transaction of a lane finds out, and what it has still to write.

* Nouns of a call, from the wish to its end; and the page on which a transaction collects lives,
  tokens, news and lines of the timeline, to write each kind in one statement.
"""

import random
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Final, NamedTuple
from zlib import crc32

import structlog
from msgspec import Struct
from msgspec.structs import replace

from vault import events
from vault.consent import Held
from vault.database import Transaction
from vault.events import News
from vault.lifecycle import endpoint as endpoints
from vault.lifecycle.clocks import Clocks
from vault.lifecycle.endpoint import Endpoint
from vault.lifecycle.intents import Announce, AnyIntent, Call, TellIntegration
from vault.lifecycle.life import Claim, Life
from vault.lifecycle.rate import ceiling_of
from vault.lifecycle.schedule import Look, next_look, notice_due
from vault.lifecycle.standing import Alert
from vault.lifecycle.terms import Terms, terms_of
from vault.model import WorkspaceId
from vault.oauth.app import App, TokenSet
from vault.oauth.replies import Failure
from vault.seal import SealingKey
from vault.secret import Secret
from vault.store import WorkspaceSeal, answers, calls
from vault.store import refreshing as rows
from vault.store.answers import Attempt
from vault.store.calls import Refreshable, Rested
from vault.store.refreshing import LifeRow

# What there was no room for comes back over so long a time, and not in one instant.
SPREAD: Final = timedelta(seconds=5)
# Old lines of a timeline go with every so manieth call.
TIDY_EVERY: Final = 50
_ALERTS: Final[dict[Alert, events.Type]] = {
    "held": "integration.held",
    "paused": "integration.paused",
    "resumed": "integration.resumed",
    "refusals_confirmed": "integration.refusals_confirmed",
}
_log = structlog.get_logger("keyturn.refreshing")


class Place(NamedTuple):
    """Which app registration, in which environment."""

    workspace: WorkspaceId
    integration: str
    environment: str


class Outlet(Struct, frozen=True):
    """An app registration that is ready to be called with, and what seals its answers."""

    app: App
    terms: Terms
    sealing: WorkspaceSeal

    @classmethod
    def of(cls, app: App, sealing: WorkspaceSeal) -> "Outlet":
        return cls(app, terms_of(app.provider), sealing)

    @property
    def ceiling(self) -> float:
        return ceiling_of(self.app.provider)

    def __repr__(self) -> str:
        return f"Outlet({self.app.provider.id})"


class Wanted(Struct, frozen=True, kw_only=True):
    """Somebody wants a refresh. ``waiting``: now; else only if it is due, or ``left`` by the dead.

    ``generation``: of the tokens that are not good enough; newer ones may be.
    """

    connection_id: str
    outlet: Outlet
    waiting: bool
    left: bool = False
    generation: int | None = None


class Granted(Struct, frozen=True, kw_only=True):
    """The right to make one call. ``begun``: by the monotonic clock, before the claim was made.

    ``rested``: what was read of a connection at rest, where the short way claimed it.
    """

    begun: float
    claim: Claim
    due_at: datetime | None
    refreshable: Refreshable | Rested
    rested: Rested | None = None


class Refused(Struct, frozen=True, kw_only=True):
    """There will be no call now. ``until``: nor before then. ``seconds``: how long there is surely
    no room.
    """

    why: str
    until: datetime | None = None
    seconds: float = 0.0


class Ending(Struct, frozen=True, kw_only=True):
    """How a call ended: with ``tokens``, with a ``failure``, or, with neither, unused.

    ``held``: what was stored before it. ``owner_key``: what seals for its user.
    ``unread``: a yes that we could not read, and in which a new token may be.
    ``rested``: what the connection was when it was claimed, if it was at rest.
    """

    connection_id: str
    user_id: str
    fence: int
    attempt: Attempt
    outlet: Outlet
    held: Held | None = None
    owner_key: SealingKey | None = None
    tokens: TokenSet | None = None
    failure: Failure | None = None
    unread: Secret | None = None
    rested: Rested | None = None

    def __repr__(self) -> str:
        return f"Ending({self.connection_id}, {self.fence})"


class Settled(Struct, frozen=True):
    """What became of it: the generation that the tokens became, or 0."""

    generation: int


class Outcome(Struct, frozen=True, kw_only=True):
    """How a wish for a refresh ended.

    ``generation``: of the tokens that there are now, if newer ones came; ``why`` there are none,
    and ``until`` when that is so.
    """

    generation: int | None = None
    why: str | None = None
    failure: Failure | None = None
    until: datetime | None = None


class Page:
    """What one transaction has found out and has still to write. ``heard``: does anybody want to
    hear of refreshes?
    """

    def __init__(
        self,
        place: Place,
        outlet: Outlet,
        now: datetime,
        *,
        begun: float = 0.0,
        heard: bool = False,
    ) -> None:
        self.place = place
        self.now = now
        self.heard = heard
        self.begun = begun
        self._provider = outlet.app.provider.id
        self.endpoint: Endpoint = endpoints.begun(now, ceiling=outlet.ceiling)
        self.changed: dict[str, LifeRow] = {}
        self.claims: dict[str, Claim] = {}
        self.doubts: dict[str, datetime] = {}
        self.tokens: dict[str, bytes] = {}
        self.attempts: list[Attempt] = []
        self.news: list[News] = []
        self.tidied: list[str] = []
        self.attempt_ids: Iterator[str] = iter(())

    def put(self, row: LifeRow) -> None:
        self.changed[row.connection_id] = row

    def without(self, row: LifeRow | None, *, waiting: bool) -> Refused:
        """A connection without a life that is to be had now, or without tokens."""
        if row is None:
            return Refused(why="gone" if waiting else "busy")
        self.put(replace(row, due_at=None))
        return Refused(why="pending")

    def admit(self, call: Call, row: LifeRow, *, waiting: bool) -> Refused | None:
        """Is there room for this call at the endpoint?"""
        admitted = endpoints.admit(self.endpoint, self.now, again=call.again, waiting=waiting)
        self.endpoint = admitted.endpoint
        if admitted.until is None:
            return None
        if not waiting:
            spread = random.random() * SPREAD  # noqa: S311 - spreads load, hides nothing
            self.put(replace(row, due_at=admitted.until + spread))
        probing = endpoints.is_probing(self.endpoint, self.now)
        seconds = 0.0 if probing else (admitted.until - self.now).total_seconds()
        return Refused(why="no_room", until=admitted.until, seconds=seconds)

    def not_due(
        self, row: LifeRow, life: Life, stored: Refreshable, outlet: Outlet
    ) -> Refused | None:
        """Is there nothing to refresh after all? Then see to what there is instead."""
        times = row.clocks()
        if times is None:
            self.put(replace(row, due_at=None))
            return Refused(why="pending")
        look = _look(row, life, times, outlet.terms, self.now)
        if look is not None and look.at <= self.now and look.why != "notice":
            return None
        if look is not None and look.at <= self.now:
            before = timedelta(seconds=row.noticed) if row.noticed is not None else None
            ahead = notice_due(times, self.now, before)
            if ahead is not None:
                row = replace(row, noticed=int(ahead.total_seconds()))
                self.news.append(self._news("connection.expiring", row, stored.user_id, None))
        self.put(scheduled(row, life, outlet.terms, self.now))
        return Refused(why="not_due")

    def hear(self, one: Ending) -> None:
        """Let the endpoint learn how a call went."""
        if one.tokens is None and one.failure is None:
            self.endpoint = endpoints.unused(self.endpoint)
            return
        failure = one.failure
        self.endpoint = endpoints.heard(
            self.endpoint,
            self.now,
            sent_at=one.attempt.began_at,
            outcome=failure.outcome if failure else None,
            retry_after=failure.retry_after if failure else None,
        )

    def learn(self, intent: TellIntegration, one: Ending) -> None:
        heard = endpoints.learned(
            self.endpoint, intent.what, self.now, sent_at=one.attempt.began_at
        )
        self.endpoint = heard.endpoint
        if heard.alert is not None:
            _log.warning(
                "integration_" + heard.alert,
                workspace=self.place.workspace,
                integration=self.place.integration,
                environment=self.place.environment,
            )
            self.news.append(
                News(
                    type=_ALERTS[heard.alert],
                    integration=self.place.integration,
                    environment=self.place.environment,
                    reason=one.failure.error if one.failure else None,
                )
            )

    def announce(self, intents: Sequence[AnyIntent], row: LifeRow, user_id: str) -> None:
        for intent in intents:
            if isinstance(intent, Announce):
                kind = events.OF_CONNECTION[intent.news]
                self.news.append(self._news(kind, row, user_id, intent.reason))

    def scope_reduced(self, row: LifeRow, user_id: str) -> None:
        """Less was granted than before."""
        self.news.append(self._news("connection.scope_reduced", row, user_id, None))

    def grant(self, row: LifeRow, claim: Claim, doubt: datetime | None) -> None:
        self.claims[row.connection_id] = claim
        if doubt is not None:
            self.doubts[row.connection_id] = doubt

    def note_ended(self, one: Ending, generation: int) -> None:
        self.attempts.append(_ended_attempt(one, generation))
        self.tidy(one)

    def tidy(self, one: Ending) -> None:
        """Lines of the timeline that are too old go now and then."""
        if one.fence % TIDY_EVERY == 0:
            self.tidied.append(one.connection_id)

    def _news(self, kind: events.Type, row: LifeRow, user_id: str, reason: str | None) -> News:
        return News(
            type=kind,
            integration=row.integration,
            environment=row.environment,
            connection_id=row.connection_id,
            user_id=user_id,
            generation=row.generation,
            reason=reason,
        )

    async def write(self, tx: Transaction) -> None:
        await calls.write_claims(tx, self.claims, self.doubts)
        await calls.write_changes(tx, list(self.changed.values()), self.tokens)
        await answers.note_attempts(tx, self.attempts)
        _, integration, environment = self.place
        await rows.write_endpoint(tx, integration, environment, self._provider, self.endpoint)
        await events.record(tx, self.news)
        if self.tidied:
            await answers.forget_attempts(tx, self.tidied)


def scheduled(row: LifeRow, life: Life, terms: Terms, now: datetime) -> LifeRow:
    """The row of this life, to be looked at when there is next something to do."""
    times = row.clocks()
    look = _look(row, life, times, terms, now) if times is not None else None
    return replace(row, due_at=look.at if look else None)


def _look(row: LifeRow, life: Life, times: Clocks, terms: Terms, now: datetime) -> Look | None:
    return next_look(
        life,
        times,
        terms,
        row.use(),
        row.policy,
        now=now,
        luck=luck_of(row.connection_id, row.generation),
        noticed=timedelta(seconds=row.noticed) if row.noticed is not None else None,
    )


def luck_of(connection_id: str, generation: int) -> float:
    """Chance that is the same for one token set however often it is looked at: else each look
    would find that the time has not quite come.
    """
    return crc32(f"{connection_id}/{generation}".encode()) / 2**32


def attempt_of(connection_id: str, claim: Claim, outcome: str = "") -> Attempt:
    """A line of the timeline."""
    return Attempt(
        connection_id=connection_id,
        fence=claim.fence,
        owner=claim.owner,
        attempt=claim.attempt,
        began_at=claim.at,
        outcome=outcome,
    )


def unused(
    granted: Granted,
    outlet: Outlet,
    held: Held | None = None,
    owner_key: SealingKey | None = None,
) -> Ending:
    """How a call ends that is not made."""
    stored = granted.refreshable
    return Ending(
        connection_id=stored.connection_id,
        user_id=stored.user_id,
        fence=granted.claim.fence,
        attempt=attempt_of(stored.connection_id, granted.claim),
        outlet=outlet,
        held=held,
        owner_key=owner_key,
        rested=granted.rested,
    )


def _ended_attempt(one: Ending, generation: int) -> Attempt:
    if one.failure is not None:
        return replace(
            one.attempt,
            outcome=one.failure.outcome,
            detail=one.failure.detail,
            http_status=one.failure.status,
        )
    if one.tokens is None:
        return replace(one.attempt, outcome="unused")
    return replace(
        one.attempt, outcome="refreshed" if generation else "orphan", generation=generation or None
    )
