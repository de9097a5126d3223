"""Rows of conversations, as what they mean, and back. Nothing is opened or sealed here.

* A bearer is found by its keyed hash and its kind, across workspaces, by the authentication role;
  what was found is compared once more, and from then on worked on as its workspace.
"""

import hmac
from collections.abc import Sequence
from datetime import datetime
from typing import Final, Literal

import msgspec
from msgspec import Struct

from broker.conversation import BearerKind, Channel, Conversation, Delivery, Kept
from broker.profile import Runtime
from vault.database import Transaction
from vault.model import Caller, Page, WorkspaceId, new_id
from vault.seal import Context
from vault.sql import Query
from vault.vault import Vault

Lookup = Literal["grant", "handle", "ticket"]


class Bearers(Struct, frozen=True, kw_only=True):
    """Keyed hashes of what opens a conversation."""

    kind: BearerKind | None = None
    bearer: bytes | None = None
    ticket: bytes | None = None


class NewConversation(Struct, frozen=True, kw_only=True):
    """A conversation, ready to be written; ``handed``: whose tokens go out with its answer."""

    conversation_id: str
    agent_id: str
    user_id: str
    environment: str
    runtime: Runtime
    channel: Channel
    delivery: Delivery
    branch_id: str
    key_id: str
    connection_ids: list[str]
    handed: list[str]
    kept: bytes
    armed: bool
    upstream_id: str | None
    lasts: int


class Times(Struct, frozen=True):
    created_at: datetime
    start_by: datetime
    expires_at: datetime


class KeptRow(Struct, frozen=True):
    """A conversation that lives, with what is sealed of it, and the user's sealed key."""

    conversation_id: str
    agent_id: str
    user_id: str
    environment: str
    runtime: Runtime
    channel: Channel
    delivery: Delivery
    branch_id: str
    key_id: str
    state: Literal["prepared", "started", "ended"]
    armed: bool
    upstream_id: str | None
    created_at: datetime
    start_by: datetime
    started_at: datetime | None
    expires_at: datetime
    ended_at: datetime | None
    expired: bool
    connection_ids: list[str]
    kept: bytes
    user_key: bytes

    def conversation(self) -> Conversation:
        return Conversation(*(getattr(self, name) for name in Conversation.__struct_fields__))


class Ended(Struct, frozen=True):
    """Whose it was, and what it held."""

    user_id: str
    environment: str
    connection_ids: list[str]


class _Found(Struct, frozen=True):
    workspace_id: WorkspaceId
    conversation_id: str
    hash: bytes


class _Place(Struct, frozen=True):
    workspace_id: WorkspaceId


class _Id(Struct, frozen=True):
    id: str


class _Left(Struct, frozen=True):
    seconds_left: float


_insert: Final = Query("conversations", "insert", Times, package="broker")
_reissue: Final = Query("conversations", "reissue", Times, package="broker")
_lookup: Final = Query("conversations", "lookup", _Found, package="broker")
_get: Final = Query("conversations", "get", Conversation, package="broker")
_find: Final = Query("conversations", "find", Conversation, package="broker")
_list: Final = Query("conversations", "list", Conversation, package="broker")
_kept: Final = Query("conversations", "kept", KeptRow, package="broker")
_use_ticket: Final = Query("conversations", "use_ticket", _Id, package="broker")
_left: Final = Query("conversations", "left", _Left, package="broker")
_began: Final = Query("conversations", "began", _Id, package="broker")
_finish: Final = Query("conversations", "finish", Ended, package="broker")
_old: Final = Query("conversations", "old", _Place, package="broker")
_forget: Final = Query("conversations", "forget", _Id, package="broker")
_arm: Final = Query("conversations", "arm", Ended, package="broker")


packed: Final = msgspec.msgpack.Encoder().encode
kept_from: Final = msgspec.msgpack.Decoder(Kept).decode


def context(workspace: str, conversation_id: str) -> Context:
    """What binds the seal of a conversation to it."""
    return Context(
        workspace=workspace,
        table="broker.conversations",
        row=conversation_id,
        field="kept",
        generation=1,
    )


async def insert(
    tx: Transaction,
    caller: Caller,
    new: NewConversation,
    bearers: Bearers,
    *,
    user_ref: str,
    start_within: int,
) -> Times:
    """Write a conversation, and who made it."""
    return await _insert.one(
        tx,
        workspace_id=tx.workspace,
        event_id=new_id("evt"),
        actor_kind=caller.kind,
        actor_id=caller.actor_id,
        user_ref=user_ref,
        request_id=caller.request_id,
        conversation_id=new.conversation_id,
        agent_id=new.agent_id,
        user_id=new.user_id,
        environment=new.environment,
        runtime=new.runtime,
        channel=new.channel,
        delivery=new.delivery,
        branch_id=new.branch_id,
        key_id=new.key_id,
        connection_ids=new.connection_ids,
        handed=new.handed,
        kept=new.kept,
        armed=new.armed,
        upstream_id=new.upstream_id,
        bearer_kind=bearers.kind,
        bearer_hash=bearers.bearer,
        ticket_hash=bearers.ticket,
        start_within=start_within,
        lasts=new.lasts,
    )


async def reissue(
    tx: Transaction, caller: Caller, new: NewConversation, bearers: Bearers, user_ref: str
) -> Times | None:
    """Put new bearers in the place of unused ones; ``None`` where somebody has used them."""
    return await _reissue.maybe(
        tx,
        workspace_id=tx.workspace,
        event_id=new_id("evt"),
        actor_kind=caller.kind,
        actor_id=caller.actor_id,
        user_ref=user_ref,
        environment=new.environment,
        request_id=caller.request_id,
        handed=new.handed,
        conversation_id=new.conversation_id,
        bearer_kind=bearers.kind,
        bearer_hash=bearers.bearer,
        ticket_hash=bearers.ticket,
        upstream_id=new.upstream_id,
        connection_ids=new.connection_ids,
        kept=new.kept,
    )


async def look_up(vault: Vault, hashed: bytes, kind: Lookup) -> tuple[WorkspaceId, str] | None:
    """Whose bearer this is: a workspace and a conversation that lives."""
    found = await vault.look_up(_lookup, hash=hashed, kind=kind)
    if found is None or not hmac.compare_digest(found.hash, hashed):
        return None
    return found.workspace_id, found.conversation_id


async def get(tx: Transaction, conversation_id: str) -> Conversation | None:
    return await _get.maybe(tx, workspace_id=tx.workspace, conversation_id=conversation_id)


async def find(tx: Transaction, upstream_id: str) -> Conversation | None:
    """The newest that its runtime calls so."""
    return await _find.maybe(tx, workspace_id=tx.workspace, upstream_id=upstream_id)


async def listed(
    tx: Transaction,
    page: Page,
    *,
    environments: Sequence[str] = (),
    user_id: str = "",
    agent_id: str = "",
) -> list[Conversation]:
    """Newest first."""
    return await _list.all(
        tx,
        workspace_id=tx.workspace,
        before=page.after,
        limit=page.limit,
        environments=list(environments),
        user_id=user_id,
        agent_id=agent_id,
    )


async def kept(tx: Transaction, conversation_id: str) -> KeptRow | None:
    """One that lives."""
    return await _kept.maybe(tx, workspace_id=tx.workspace, conversation_id=conversation_id)


async def use_ticket(
    tx: Transaction, conversation_id: str, hashed: bytes, bearers: Bearers
) -> float | None:
    """Use a ticket up, and store the grant that it gives: the seconds that the conversation has.

    ``None``: somebody was faster.
    """
    used = await _use_ticket.maybe(
        tx,
        workspace_id=tx.workspace,
        conversation_id=conversation_id,
        hash=hashed,
        bearer_kind=bearers.kind,
        bearer_hash=bearers.bearer,
    )
    if used is None:
        return None
    left = await _left.one(tx, workspace_id=tx.workspace, conversation_id=conversation_id)
    return left.seconds_left


async def began(tx: Transaction, conversation_id: str, upstream_id: str | None) -> bool:
    """It runs; ``None``: nobody knows what its runtime calls it."""
    row = await _began.maybe(
        tx, workspace_id=tx.workspace, conversation_id=conversation_id, upstream_id=upstream_id
    )
    return row is not None


async def finish(tx: Transaction, conversation_id: str) -> Ended | None:
    """End it; ``None`` where it has ended already, or never was."""
    return await _finish.maybe(tx, workspace_id=tx.workspace, conversation_id=conversation_id)


async def arm(tx: Transaction, conversation_id: str) -> Ended | None:
    return await _arm.maybe(tx, workspace_id=tx.workspace, conversation_id=conversation_id)


async def with_old(vault: Vault, days: int, limit: int) -> list[WorkspaceId]:
    """Where there are some that were made before so many days; asked as the worker."""
    rows = await vault.look_up_as_worker(_old, days=days, limit=limit)
    return list(dict.fromkeys(row.workspace_id for row in rows))


async def forget(tx: Transaction, days: int, limit: int) -> int:
    """Delete the oldest that are over, and were made before so many days; returns how many."""
    return len(await _forget.all(tx, workspace_id=tx.workspace, days=days, limit=limit))
