"""Rows of event endpoints and deliveries, and what is sealed in them.

* An address may hold a key, as those of chat services do: it is sealed beside the secrets.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Final

import msgspec
from msgspec import Struct

from vault.database import Database, Transaction
from vault.events.deliveries import (
    Attempted,
    Delivery,
    DisabledWhy,
    EventEndpoint,
    Former,
    Health,
    Settled,
    State,
    Turn,
    Waiting,
)
from vault.model import Page, WorkspaceId
from vault.seal import Context
from vault.secret import Secret
from vault.sql import Nothing, Query


class EndpointRow(Struct, frozen=True):
    """An endpoint as its rows have it; the address and the secrets are sealed."""

    endpoint_id: str
    types: list[str]
    failures: int
    failing_since: datetime | None
    rest_until: datetime | None
    delivered_at: datetime | None
    disabled_at: datetime | None
    disabled_why: DisabledWhy | None
    created_at: datetime
    created_by: str
    generation: int
    sealed: bytes
    updated_at: datetime


class Target(Struct, frozen=True):
    """What is sealed of an endpoint: where it is, and what signs for it."""

    url: str
    secret: Secret
    formers: tuple[Former, ...] = ()

    def __repr__(self) -> str:
        return "Target(***)"

    def still(self, now: datetime) -> tuple[Former, ...]:
        """The former secrets that sign now."""
        return tuple(one for one in self.formers if now < one.until)

    def signs(self, now: datetime) -> tuple[Secret, ...]:
        """What signs now, the newest first."""
        return (self.secret, *(one.secret for one in self.still(now)))


class ClaimRow(Struct, frozen=True):
    """A turn that was got."""

    claim: int
    claimed_until: datetime | None
    failures: int
    failing_since: datetime | None


class _Packed(Struct, frozen=True, array_like=True):
    url: str
    secret: str
    formers: list[tuple[str, datetime]]


class _Id(Struct, frozen=True):
    id: str


class _Number(Struct, frozen=True):
    number: int


class _Workspace(Struct, frozen=True):
    workspace_id: WorkspaceId


_insert: Final = Query("event_endpoints", "insert", Nothing)
_insert_secrets: Final = Query("event_endpoints", "insert_secrets", Nothing)
_number: Final = Query("event_endpoints", "number", _Number)
_get: Final = Query("event_endpoints", "get", EndpointRow)
_list: Final = Query("event_endpoints", "list", EndpointRow)
_set: Final = Query("event_endpoints", "set", _Id)
_set_secrets: Final = Query("event_endpoints", "set_secrets", _Id)
_delete: Final = Query("event_endpoints", "delete", _Id)
_claim: Final = Query("event_endpoints", "claim", ClaimRow)
_settle: Final = Query("event_endpoints", "settle", _Id)
_release: Final = Query("event_endpoints", "release", Nothing)
_due: Final = Query("event_deliveries", "due", Waiting)
_waiting: Final = Query("event_deliveries", "waiting", Delivery)
_settle_deliveries: Final = Query("event_deliveries", "settle", Nothing)
_hurry: Final = Query("event_deliveries", "hurry", Nothing)
_give_up: Final = Query("event_deliveries", "give_up", Nothing)
_queue: Final = Query("event_deliveries", "queue", Nothing)
_deliveries: Final = Query("event_deliveries", "list", Attempted)
_replayable: Final = Query("outbox", "replayable", _Id)
_has: Final = Query("outbox", "has", _Id)
_old: Final = Query("outbox", "old", _Workspace)
_forget: Final = Query("outbox", "forget", _Id)

_bytes: Final = msgspec.msgpack.Encoder().encode
_unpack: Final = msgspec.msgpack.Decoder(_Packed).decode


# What is sealed


def target_context(workspace: WorkspaceId, endpoint_id: str, generation: int) -> Context:
    return Context(
        workspace=workspace,
        table="event_endpoint_secrets",
        row=endpoint_id,
        field="sealed",
        generation=generation,
    )


def packed(target: Target) -> bytes:
    formers = [(one.secret.reveal(), one.until) for one in target.formers]
    return _bytes(_Packed(target.url, target.secret.reveal(), formers))


def target_from(opened: bytes) -> Target:
    found = _unpack(opened)
    formers = tuple(Former(Secret(secret), until) for secret, until in found.formers)
    return Target(found.url, Secret(found.secret), formers)


def endpoint_of(row: EndpointRow, target: Target, now: datetime) -> EventEndpoint:
    """What a row means to whoever asks."""
    return EventEndpoint(
        endpoint_id=row.endpoint_id,
        url=target.url,
        types=row.types,  # type: ignore[arg-type] # they were types when they were written
        former_signs_until=max((one.until for one in target.still(now)), default=None),
        failures=row.failures,
        failing_since=row.failing_since,
        rest_until=row.rest_until,
        delivered_at=row.delivered_at,
        disabled_at=row.disabled_at,
        disabled_why=row.disabled_why,
        created_at=row.created_at,
        updated_at=row.updated_at,
        created_by=row.created_by,
    )


# Endpoints


async def insert_endpoint(
    tx: Transaction, endpoint_id: str, types: Sequence[str], sealed: bytes, created_by: str
) -> None:
    mine = {"workspace_id": tx.workspace, "endpoint_id": endpoint_id}
    await _insert.run(tx, **mine, types=list(types), created_by=created_by)
    await _insert_secrets.run(tx, **mine, sealed=sealed)


async def count_endpoints(tx: Transaction) -> int:
    return (await _number.one(tx, workspace_id=tx.workspace)).number


async def get_endpoint(tx: Transaction, endpoint_id: str) -> EndpointRow | None:
    return await _get.maybe(tx, workspace_id=tx.workspace, endpoint_id=endpoint_id)


async def list_endpoints(tx: Transaction, page: Page) -> list[EndpointRow]:
    return await _list.all(tx, workspace_id=tx.workspace, after=page.after, limit=page.limit)


async def set_endpoint(
    tx: Transaction, endpoint_id: str, types: Sequence[str], *, enabled: bool
) -> None:
    await _set.run(
        tx,
        workspace_id=tx.workspace,
        endpoint_id=endpoint_id,
        types=list(types),
        enabled=enabled,
    )


async def set_target(tx: Transaction, endpoint_id: str, generation: int, sealed: bytes) -> bool:
    """Replace what is sealed, as the generation after this; ``False``: somebody else did."""
    done = await _set_secrets.maybe(
        tx,
        workspace_id=tx.workspace,
        endpoint_id=endpoint_id,
        generation=generation,
        sealed=sealed,
    )
    return done is not None


async def delete_endpoint(tx: Transaction, endpoint_id: str) -> bool:
    done = await _delete.maybe(tx, workspace_id=tx.workspace, endpoint_id=endpoint_id)
    return done is not None


# Turns


async def waiting_endpoints(worker: Database, limit: int) -> list[Waiting]:
    """Who has something to get, in all workspaces; asked with the worker's login."""
    return await _due.lookup_all(worker, limit=limit)


async def claim(tx: Transaction, endpoint_id: str, seconds: int) -> ClaimRow | None:
    return await _claim.maybe(
        tx, workspace_id=tx.workspace, endpoint_id=endpoint_id, seconds=seconds
    )


async def waiting(tx: Transaction, endpoint_id: str, limit: int) -> list[Delivery]:
    return await _waiting.all(tx, workspace_id=tx.workspace, endpoint_id=endpoint_id, limit=limit)


async def settle_deliveries(tx: Transaction, endpoint_id: str, every: Sequence[Settled]) -> None:
    if not every:
        return
    await _settle_deliveries.run(
        tx,
        workspace_id=tx.workspace,
        endpoint_id=endpoint_id,
        event_ids=[one.event_id for one in every],
        states=[one.state for one in every],
        due_at=[one.due_at for one in every],
        statuses=[one.status for one in every],
        problems=[one.problem for one in every],
    )


async def settle_turn(tx: Transaction, turn: Turn, health: Health, now: datetime) -> bool:
    """Write how the endpoint fares, and end the turn; ``False``: it is not ours to say."""
    mine = {"workspace_id": tx.workspace, "endpoint_id": turn.endpoint_id}
    done = await _settle.maybe(
        tx,
        **mine,
        claim=turn.claim,
        failures=health.failures,
        failing_since=health.failing_since,
        rest_until=health.rest_until,
        delivered_at=health.delivered_at,
        disabled_at=now if health.disabled_why else None,
        disabled_why=health.disabled_why,
    )
    if done is None:
        await _release.run(tx, **mine, claimed_until=turn.until)
    return done is not None


async def hurry(tx: Transaction, endpoint_id: str) -> None:
    """What waits for its next try waits no longer."""
    await _hurry.run(tx, workspace_id=tx.workspace, endpoint_id=endpoint_id)


async def give_up(tx: Transaction, endpoint_id: str, problem: str) -> None:
    """Nothing more is sent to this endpoint."""
    await _give_up.run(tx, workspace_id=tx.workspace, endpoint_id=endpoint_id, problem=problem)


# Deliveries and events


async def list_deliveries(
    tx: Transaction, endpoint_id: str, page: Page, state: State | None
) -> list[Attempted]:
    return await _deliveries.all(
        tx,
        workspace_id=tx.workspace,
        endpoint_id=endpoint_id,
        before=page.after,
        state=state or "",
        limit=page.limit,
    )


async def replayable(
    tx: Transaction, endpoint_id: str, since: datetime | None, from_event: str, limit: int
) -> list[str]:
    """The ids of the events that this endpoint would hear once more, oldest first."""
    rows = await _replayable.all(
        tx,
        workspace_id=tx.workspace,
        endpoint_id=endpoint_id,
        since=since,
        from_event=from_event,
        limit=limit,
    )
    return [row.id for row in rows]


async def queue(tx: Transaction, endpoint_id: str, event_ids: Sequence[str]) -> None:
    await _queue.run(
        tx, workspace_id=tx.workspace, endpoint_id=endpoint_id, event_ids=list(event_ids)
    )


async def has_event(tx: Transaction, event_id: str) -> bool:
    return await _has.maybe(tx, workspace_id=tx.workspace, event_id=event_id) is not None


async def with_old_events(worker: Database, seconds: int, limit: int) -> list[WorkspaceId]:
    """Where events are older than is kept; asked with the worker's login."""
    rows = await _old.lookup_all(worker, seconds=seconds, limit=limit)
    return list(dict.fromkeys(row.workspace_id for row in rows))


async def forget_events(tx: Transaction, seconds: int, limit: int) -> int:
    """Delete the oldest events with their deliveries; returns how many."""
    rows = await _forget.all(tx, workspace_id=tx.workspace, seconds=seconds, limit=limit)
    return len(rows)
