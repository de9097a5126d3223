"""Rows of connect sessions and of the tries in them, and what is sealed in a try."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final, Literal

import msgspec
from msgspec import Struct

from vault.consent import Begun, Flow, NewSession, Received, Session
from vault.database import Database, Transaction
from vault.model import Caller, Page, WorkspaceId
from vault.seal import Context
from vault.sql import Nothing, Query
from vault.store.connections import Due, hidden


class FoundBearer(Struct, frozen=True):
    """Whose link or state it is."""

    workspace_id: WorkspaceId
    id: str
    hash: bytes


class _Times(Struct, frozen=True):
    created_at: datetime
    expires_at: datetime


class _Id(Struct, frozen=True):
    id: str


_connect_lookup: Final = Query("connect", "lookup", FoundBearer)
_session_insert: Final = Query("connect", "insert", _Times)
_session_insert_many: Final = Query("connect", "insert_many", _Id)
_session_get: Final = Query("connect", "get", Session)
_session_list: Final = Query("connect", "list", Session)
_session_delete: Final = Query("connect", "delete", _Id)
_session_wait: Final = Query("connect", "wait", Nothing)
_session_abandoned: Final = Query("connect", "abandoned", Due)
_session_settle: Final = Query("connect", "settle", Nothing)
_session_forget_old: Final = Query("connect", "forget_old", Nothing)
_flow_list: Final = Query("connect", "flows", Flow)
_flow_get: Final = Query("connect", "flow", Flow)
_flow_give_up: Final = Query("connect", "give_up", Nothing)
_flow_begin: Final = Query("connect", "begin", _Id)
_flow_consume: Final = Query("connect", "consume", _Id)
_flow_advance: Final = Query("connect", "advance", _Id)

begun_from: Final = msgspec.msgpack.Decoder(Begun, dec_hook=hidden).decode
received_from: Final = msgspec.msgpack.Decoder(Received, dec_hook=hidden).decode


def flow_context(workspace: str, flow_id: str, generation: int, environment: str) -> Context:
    return Context(
        workspace=workspace,
        table="connect_flows",
        row=flow_id,
        field="sealed",
        generation=generation,
        environment=environment,
    )


async def look_up(database: Database, hashed: bytes, kind: str) -> FoundBearer | None:
    """Whose link (``connect``) or state (``state``) this is."""
    return await _connect_lookup.lookup(database, hash=hashed, kind=kind)


async def insert_session(
    tx: Transaction,
    session_id: str,
    hashed: bytes,
    new: NewSession,
    *,
    confirm: Literal["page", "backend"],
    created_by: str,
    lifetime: int,
) -> Session:
    await _session_forget_old.run(tx, workspace_id=tx.workspace)
    times = await _session_insert.one(
        tx,
        workspace_id=tx.workspace,
        session_id=session_id,
        hash=hashed,
        user_id=new.user_id,
        environment=new.environment,
        integrations=list(new.integrations),
        return_url=new.return_url,
        confirm=confirm,
        replace_account=new.replace_account,
        created_by=created_by,
        lifetime=lifetime,
    )
    return Session(
        session_id=session_id,
        user_id=new.user_id,
        environment=new.environment,
        integrations=list(new.integrations),
        return_url=new.return_url,
        confirm=confirm,
        replace_account=new.replace_account,
        created_at=times.created_at,
        expires_at=times.expires_at,
        expired=False,
    )


class NewInvitation(Struct, frozen=True, kw_only=True):
    """One of many invitations that are made together."""

    user_id: str
    session_id: str
    hash: bytes
    integrations: tuple[str, ...]
    event_id: str
    user_ref: str


async def insert_sessions(
    tx: Transaction,
    caller: Caller,
    new: Sequence[NewInvitation],
    *,
    environment: str,
    lifetime: int,
) -> list[str]:
    """Make many, with their lines in the record; returns the ids of those whose user is there."""
    await _session_forget_old.run(tx, workspace_id=tx.workspace)
    made = await _session_insert_many.all(
        tx,
        workspace_id=tx.workspace,
        session_ids=[one.session_id for one in new],
        hashes=[one.hash for one in new],
        user_ids=[one.user_id for one in new],
        integrations=[",".join(one.integrations) for one in new],
        event_ids=[one.event_id for one in new],
        user_refs=[one.user_ref for one in new],
        environment=environment,
        lifetime=lifetime,
        actor_kind=caller.kind,
        actor_id=caller.actor_id,
        request_id=caller.request_id,
    )
    return [one.id for one in made]


async def get_session(tx: Transaction, session_id: str) -> Session | None:
    return await _session_get.maybe(tx, workspace_id=tx.workspace, session_id=session_id)


async def list_sessions(
    tx: Transaction, page: Page, *, user_id: str = "", environments: Sequence[str] = ()
) -> list[Session]:
    return await _session_list.all(
        tx,
        workspace_id=tx.workspace,
        after=page.after,
        limit=page.limit,
        user_id=user_id,
        environments=list(environments),
    )


async def delete_session(tx: Transaction, session_id: str) -> bool:
    """Delete an invitation, and with it every try that is under way."""
    gone = await _session_delete.maybe(tx, workspace_id=tx.workspace, session_id=session_id)
    return gone is not None


async def session_waits(tx: Transaction, session_id: str) -> None:
    """Something in it waits for somebody."""
    await _session_wait.run(tx, workspace_id=tx.workspace, session_id=session_id)


async def abandoned_sessions(worker: Database, limit: int) -> list[Due]:
    """Those in which something has waited in vain; asked with the worker's login."""
    return await _session_abandoned.lookup_all(worker, limit=limit)


async def settle_session(tx: Transaction, session_id: str) -> None:
    """Nothing in it waits any more."""
    await _session_settle.run(tx, workspace_id=tx.workspace, session_id=session_id)


async def list_flows(tx: Transaction, session_id: str) -> list[Flow]:
    return await _flow_list.all(tx, workspace_id=tx.workspace, session_id=session_id)


async def get_flow(tx: Transaction, flow_id: str) -> Flow | None:
    return await _flow_get.maybe(tx, workspace_id=tx.workspace, flow_id=flow_id)


async def begin_flow(
    tx: Transaction,
    flow_id: str,
    session_id: str,
    integration: str,
    *,
    state_hash: bytes,
    browser_hash: bytes,
    sealed: bytes,
    lifetime: int,
) -> bool:
    """Begin a try; ``False`` where another browser has one under way, or one has succeeded."""
    # Twice: what the same browser began at the same moment is seen, and given up, only now.
    for _ in range(2):
        await _flow_give_up.run(
            tx,
            workspace_id=tx.workspace,
            session_id=session_id,
            integration=integration,
            browser_hash=browser_hash,
        )
        begun = await _flow_begin.maybe(
            tx,
            workspace_id=tx.workspace,
            flow_id=flow_id,
            session_id=session_id,
            integration=integration,
            state_hash=state_hash,
            browser_hash=browser_hash,
            sealed=sealed,
            lifetime=lifetime,
        )
        if begun is not None:
            return True
    return False


async def consume_flow(tx: Transaction, flow: Flow, browser_hash: bytes) -> Flow | None:
    """Take a try's way back: once, in the browser that began it, while it is fresh."""
    consumed = await _flow_consume.maybe(
        tx, workspace_id=tx.workspace, flow_id=flow.flow_id, browser_hash=browser_hash
    )
    return msgspec.structs.replace(flow, status="exchanging") if consumed else None


async def advance_flow(
    tx: Transaction,
    flow: Flow,
    status: str,
    *,
    outcome: str = "",
    sealed: bytes | None = None,
    code_hash: bytes | None = None,
    lifetime: int,
) -> bool:
    """Move a try on; ``False`` if somebody else moved it first."""
    moved = await _flow_advance.maybe(
        tx,
        workspace_id=tx.workspace,
        flow_id=flow.flow_id,
        before=flow.status,
        status=status,
        outcome=outcome,
        sealed=sealed,
        generation=flow.generation + 1,
        code_hash=code_hash,
        lifetime=lifetime,
    )
    return moved is not None
