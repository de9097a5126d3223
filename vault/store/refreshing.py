"""Rows of connections' lives and of token endpoints, as what they mean, and back.

* A batch is one statement: what is due together is locked, written and noted together.
* What was learned of an endpoint is no secret and is stored as it is.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Final, Literal, NamedTuple

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from vault.consent import State
from vault.database import Database, Transaction
from vault.lifecycle.clocks import Clocks
from vault.lifecycle.endpoint import Endpoint
from vault.lifecycle.life import Claim, Life, Suspicion, Verdict
from vault.lifecycle.schedule import Policy, Use
from vault.model import WorkspaceId
from vault.oauth.replies import Outcome
from vault.sql import Nothing, Query


class LifeRow(Struct, frozen=True):
    """A connection's life as its row has it; ``held_until``: a conversation holds its tokens."""

    connection_id: str
    integration: str
    environment: str
    state: State
    generation: int
    fence: int
    saved: int
    consented: int
    lease_owner: str | None
    lease_attempt: str | None
    lease_generation: int | None
    lease_at: datetime | None
    lease_until: datetime | None
    doubt_since: datetime | None
    suspect_since: datetime | None
    suspect_lost: bool
    orphan: int | None
    failures: int
    last_failure: Outcome | None
    next_try_at: datetime | None
    verdict: Verdict | None
    told: bool
    issued_at: datetime | None
    consented_at: datetime | None
    access_ends: datetime | None
    idle_ends: datetime | None
    consent_ends: datetime | None
    renewable: bool
    policy: Policy
    noticed: int | None
    used_at: datetime | None
    expected_at: datetime | None
    promised: int
    due_at: datetime | None
    user_ref: str
    held_until: datetime | None

    def life(self) -> Life:
        """What the machine knows of it."""
        return Life(
            generation=self.generation,
            fence=self.fence,
            saved=self.saved,
            consented=self.consented,
            claim=self._claim(),
            doubt=self.doubt_since,
            suspicion=Suspicion(since=self.suspect_since, lost=self.suspect_lost)
            if self.suspect_since
            else None,
            orphan=self.orphan,
            failures=self.failures,
            last_failure=self.last_failure,
            next_try_at=self.next_try_at,
            verdict=self.verdict,
            told=self.told,
        )

    def clocks(self) -> Clocks | None:
        """When what ends; ``None`` before the first consent."""
        return clocks_of(self)

    def use(self) -> Use:
        """Who needs it."""
        return Use(
            used_at=self.used_at,
            hold_until=self.held_until,
            expected_at=self.expected_at,
            promise=timedelta(seconds=self.promised),
        )

    def after(self, life: Life, clocks: Clocks | None = None) -> "LifeRow":
        """The same connection, with another life; with new ``clocks`` its tokens are new."""
        claim = life.claim
        row = replace(
            self,
            state=life.state,
            generation=life.generation,
            fence=life.fence,
            saved=life.saved,
            consented=life.consented,
            lease_owner=claim.owner if claim else None,
            lease_attempt=claim.attempt if claim else None,
            lease_generation=claim.generation if claim else None,
            lease_at=claim.at if claim else None,
            lease_until=claim.until if claim else None,
            doubt_since=life.doubt,
            suspect_since=life.suspicion.since if life.suspicion else None,
            suspect_lost=life.suspicion.lost if life.suspicion else False,
            orphan=life.orphan,
            failures=life.failures,
            last_failure=life.last_failure,
            next_try_at=life.next_try_at,
            verdict=life.verdict,
            told=life.told,
        )
        if clocks is None:
            return row
        return replace(
            row,
            issued_at=clocks.issued_at,
            consented_at=clocks.consented_at,
            access_ends=clocks.access_ends,
            idle_ends=clocks.idle_ends,
            consent_ends=clocks.consent_ends,
            renewable=clocks.renewable,
            held_until=None,  # what is held is an older generation
        )

    @property
    def looked_at(self) -> datetime | None:
        """When next; whoever claims it leaves ``due_at`` as it was."""
        if self.due_at is None or self.lease_until is None:
            return self.due_at
        return max(self.due_at, self.lease_until)

    @property
    def rests(self) -> bool:
        """Nobody is at it, and there is no trouble."""
        return (
            self.state == "active"
            and self.next_try_at is None
            and self.last_failure is None
            and not self.told
        )

    def _claim(self) -> Claim | None:
        if self.lease_owner is None or self.lease_at is None or self.lease_until is None:
            return None
        return Claim(
            fence=self.fence,  # a new claim or consent ends the one before
            generation=self.lease_generation or 0,
            owner=self.lease_owner,
            attempt=self.lease_attempt or "",
            at=self.lease_at,
            until=self.lease_until,
        )


class Due(Struct, frozen=True):
    """A connection to look at, of any workspace."""

    workspace_id: WorkspaceId
    connection_id: str
    integration: str
    environment: str
    used_at: datetime | None
    access_ends: datetime | None
    due_at: datetime | None

    @property
    def key(self) -> tuple[str, str]:
        """Which one it is, among all workspaces'."""
        return self.workspace_id, self.connection_id


class Turn(Struct, frozen=True):
    """The same, or a workspace of which nothing is due."""

    workspace_id: WorkspaceId
    connection_id: str | None
    integration: str | None
    environment: str | None
    used_at: datetime | None
    access_ends: datetime | None
    due_at: datetime | None

    def due(self) -> Due | None:
        if self.connection_id is None or self.integration is None or self.environment is None:
            return None
        return Due(
            self.workspace_id,
            self.connection_id,
            self.integration,
            self.environment,
            self.used_at,
            self.access_ends,
            self.due_at,
        )


class ReadRow(Struct, frozen=True):
    """All that handing one connection's tokens out takes, as one moment has it."""

    connection_id: str
    user_id: str
    integration: str
    environment: str
    provider: str
    refresh_by: Literal["keyturn", "caller"]
    asked_scopes: list[str]
    scopes: list[str] | None
    state: State
    generation: int
    lease_generation: int | None
    lease_until: datetime | None
    doubt_since: datetime | None
    suspect_since: datetime | None
    verdict: Verdict | None
    failures: int
    last_failure: Outcome | None
    next_try_at: datetime | None
    issued_at: datetime | None
    consented_at: datetime | None
    access_ends: datetime | None
    idle_ends: datetime | None
    consent_ends: datetime | None
    renewable: bool
    tokens_generation: int | None
    sealed_tokens: bytes | None
    user_key: bytes
    sure: bool
    now: datetime
    others_hold_until: datetime | None
    standing: Literal["open", "held", "paused"]

    def life(self) -> Life:
        """As much of it as handing out asks for."""
        claim = None
        if self.lease_until is not None:
            generation = self.lease_generation or 0
            claim = Claim(
                fence=0,
                generation=generation,
                owner="",
                attempt="",
                at=self.now,
                until=self.lease_until,
            )
        return Life(
            generation=self.generation,
            claim=claim,
            doubt=self.doubt_since,
            suspicion=Suspicion(since=self.suspect_since) if self.suspect_since else None,
            failures=self.failures,
            last_failure=self.last_failure,
            next_try_at=self.next_try_at,
            verdict=self.verdict,
        )

    def clocks(self) -> Clocks | None:
        return clocks_of(self)


class Expected(Struct, frozen=True):
    """A connection that somebody will need."""

    connection_id: str
    environment: str
    user_ref: str


class EndpointRow(Struct, frozen=True):
    standing: Literal["open", "held", "paused"]
    learned: bytes
    now: datetime
    heard: bool


class LockedEndpoint(NamedTuple):
    """Ours until the transaction ends. ``heard``: does anybody want to hear of its refreshes?"""

    endpoint: Endpoint
    now: datetime
    heard: bool


class EndpointOf(Struct, frozen=True):
    """How an integration stands in one environment."""

    environment: str
    standing: Literal["open", "held", "paused"]
    resting_until: datetime | None
    learned: bytes


_insert: Final = Query("lives", "insert", Nothing)
_lock: Final = Query("lives", "lock", LifeRow)
_lock_due: Final = Query("lives", "lock_due", LifeRow)
_write: Final = Query("lives", "write", Nothing)
_expect: Final = Query("lives", "expect", Expected)
_put_off: Final = Query("lives", "put_off", Nothing)
_set_policy: Final = Query("lives", "set_policy", Nothing)
_due: Final = Query("lives", "due", Due)
_due_in_turn: Final = Query("lives", "due_in_turn", Turn)
_left: Final = Query("lives", "left", Due)
_set_scopes: Final = Query("connections", "set_scopes", Nothing)
_read: Final = Query("tokens", "read", ReadRow)
_endpoint_lock: Final = Query("endpoints", "lock", EndpointRow)
_endpoint_begin: Final = Query("endpoints", "begin", Nothing)
_endpoint_write: Final = Query("endpoints", "write", Nothing)
_endpoint_of: Final = Query("endpoints", "of_integration", EndpointOf)

_endpoint_bytes: Final = msgspec.msgpack.Encoder().encode
endpoint_from: Final = msgspec.msgpack.Decoder(Endpoint).decode


def clocks_of(row: LifeRow | ReadRow) -> Clocks | None:
    if row.issued_at is None or row.consented_at is None:
        return None
    return Clocks(
        issued_at=row.issued_at,
        consented_at=row.consented_at,
        access_ends=row.access_ends,
        idle_ends=row.idle_ends,
        consent_ends=row.consent_ends,
        renewable=row.renewable,
    )


# Lives


async def begin_life(
    tx: Transaction, connection_id: str, integration: str, environment: str, user_ref: str
) -> None:
    """Make sure that a connection has one; nobody has consented yet."""
    await _insert.run(
        tx,
        workspace_id=tx.workspace,
        connection_id=connection_id,
        integration=integration,
        environment=environment,
        user_ref=user_ref,
    )


async def lock_lives(tx: Transaction, connection_ids: Sequence[str]) -> dict[str, LifeRow]:
    """Lock these, in one order."""
    rows = await _lock.all(tx, workspace_id=tx.workspace, connection_ids=list(connection_ids))
    return {row.connection_id: row for row in rows}


async def lock_due(tx: Transaction, connection_ids: Sequence[str]) -> dict[str, LifeRow]:
    """Lock those that are still due and that nobody else is just looking at."""
    rows = await _lock_due.all(tx, workspace_id=tx.workspace, connection_ids=list(connection_ids))
    return {row.connection_id: row for row in rows}


async def write_lives(tx: Transaction, rows: Sequence[LifeRow]) -> None:
    if rows:
        await _write.run(tx, workspace_id=tx.workspace, **_write.columns(rows))


async def expect(
    tx: Transaction, connection_ids: Sequence[str], at: datetime, environments: Sequence[str]
) -> list[Expected]:
    """Somebody will need these then; look at them now, to be fresh in time."""
    return await _expect.all(
        tx,
        workspace_id=tx.workspace,
        connection_ids=list(connection_ids),
        at=at,
        environments=list(environments),
    )


async def put_off(tx: Transaction, connection_ids: Sequence[str], seconds: int) -> None:
    """Look at these later, although they are due."""
    await _put_off.run(
        tx, workspace_id=tx.workspace, connection_ids=list(connection_ids), seconds=seconds
    )


async def set_policy(tx: Transaction, integration: str, policy: Policy) -> None:
    await _set_policy.run(tx, workspace_id=tx.workspace, integration=integration, policy=policy)


async def due(worker: Database, limit: int) -> list[Due]:
    """What is due in all workspaces; asked with the worker's login."""
    return await _due.lookup_all(worker, limit=limit)


async def due_in_turn(
    worker: Database, after: str, workspaces: int, each: int
) -> tuple[list[Due], str]:
    """What is due first of each of the next workspaces ``after`` one; and where to go on."""
    rows = await _due_in_turn.lookup_all(worker, after=after, workspaces=workspaces, each=each)
    found = [one for row in rows if (one := row.due()) is not None]
    return found, rows[-1].workspace_id if rows else ""


async def left_by_the_dead(worker: Database, living: Sequence[str], limit: int) -> list[Due]:
    """What a replica was at that does not live any more; with the worker's login, too."""
    return await _left.lookup_all(worker, alive=list(living), limit=limit)


# Tokens


async def set_scopes(tx: Transaction, connection_id: str, scopes: Sequence[str] | None) -> None:
    await _set_scopes.run(
        tx,
        workspace_id=tx.workspace,
        connection_id=connection_id,
        scopes=None if scopes is None else list(scopes),
    )


async def read(tx: Transaction, **arguments: Any) -> list[ReadRow]:  # noqa: ANN401 - the statement's
    """Read tokens, with a line in the record for each that is surely good."""
    return await _read.all(tx, workspace_id=tx.workspace, **arguments)


# Token endpoints


async def lock_endpoint(
    tx: Transaction, integration: str, environment: str, provider: str, fresh: Endpoint
) -> LockedEndpoint:
    """Lock it, and tell the time; ``fresh``: what it is if nobody has called it yet."""
    place = {"workspace_id": tx.workspace, "integration": integration, "environment": environment}
    row = await _endpoint_lock.maybe(tx, **place)
    if row is None:
        # Two that found nothing and locked nothing would each forget what the other has learned.
        await _endpoint_begin.run(tx, provider=provider, learned=_endpoint_bytes(fresh), **place)
        row = await _endpoint_lock.one(tx, **place)
    return LockedEndpoint(endpoint_from(row.learned), row.now, row.heard)


async def write_endpoint(
    tx: Transaction, integration: str, environment: str, provider: str, endpoint: Endpoint
) -> None:
    resting = [endpoint.rate.rest_until, endpoint.breaker.rest_until]
    await _endpoint_write.run(
        tx,
        workspace_id=tx.workspace,
        integration=integration,
        environment=environment,
        provider=provider,
        standing=endpoint.standing.why or "open",
        broken=endpoint.breaker.opened_at is not None,
        resting_until=max((at for at in resting if at is not None), default=None),
        learned=_endpoint_bytes(endpoint),
    )


async def endpoints_of(tx: Transaction, integration: str) -> list[EndpointOf]:
    """How an integration stands in each environment; locked."""
    return await _endpoint_of.all(tx, workspace_id=tx.workspace, integration=integration)
