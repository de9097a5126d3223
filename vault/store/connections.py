"""Rows of integrations, connections and revocations, and what is sealed in them.

Nothing is sealed or opened while a transaction is open: a flow prepares what it writes, and opens
what it read, outside (``vault.store``).
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final, Literal

import msgspec
from msgspec import Struct

from vault.consent import Connection, Held, Registration, Session
from vault.database import Database, Transaction
from vault.model import Page, WorkspaceId
from vault.seal import Context
from vault.secret import Secret
from vault.sql import Nothing, Query

MAX_DELAY: Final = 60 * 60  # between two tries to give something back


class IntegrationRow(Struct, frozen=True):
    integration: str
    provider: str
    generation: int
    sealed: bytes
    share_connections: bool
    created_at: datetime
    updated_at: datetime
    created_by: str


class TokensRow(Struct, frozen=True):
    generation: int
    sealed: bytes


class Sibling(Struct, frozen=True):
    """Another connection of an account."""

    connection_id: str
    integration: str
    environment: str


class Due(Struct, frozen=True):
    """What is to be done, and in which workspace."""

    workspace_id: WorkspaceId
    id: str


class RevocationRow(Struct, frozen=True):
    connection_id: str
    integration: str
    environment: str
    attempts: int
    too_late: bool


class _Id(Struct, frozen=True):
    id: str


class _Number(Struct, frozen=True):
    number: int


class _Sealed(Struct, frozen=True):
    sealed: bytes


_integration_put: Final = Query("integrations", "put", IntegrationRow)
_integration_get: Final = Query("integrations", "get", IntegrationRow)
_integration_list: Final = Query("integrations", "list", IntegrationRow)
_integration_delete: Final = Query("integrations", "delete", _Id)
_integration_using_secret: Final = Query("integrations", "using_secret", _Id)
_integration_connected: Final = Query("integrations", "connected", _Number)
_connection_list: Final = Query("connections", "list", Connection)
_connection_get: Final = Query("connections", "get", Connection)
_connection_find: Final = Query("connections", "find", Connection)
_connection_await: Final = Query("connections", "await", _Id)
_connection_put: Final = Query("connections", "put", _Id)
_connection_put_tokens: Final = Query("connections", "put_tokens", Nothing)
_connection_tokens: Final = Query("connections", "tokens", TokensRow)
_connection_siblings: Final = Query("connections", "siblings", Sibling)
_connection_delete: Final = Query("connections", "delete", _Id)
_connection_forget_pending: Final = Query("connections", "forget_pending", Nothing)
_revocation_insert: Final = Query("revocations", "insert", Nothing)
_revocation_insert_tokens: Final = Query("revocations", "insert_tokens", Nothing)
_revocation_due: Final = Query("revocations", "due", Due)
_revocation_get: Final = Query("revocations", "get", RevocationRow)
_revocation_claim: Final = Query("revocations", "claim", _Id)
_revocation_sealed: Final = Query("revocations", "sealed", _Sealed)
_revocation_delete: Final = Query("revocations", "delete", Nothing)


# What is sealed


def _revealed(value: object) -> object:
    if isinstance(value, Secret):
        return value.reveal()
    raise TypeError(f"{type(value).__name__} is not sealed here")


def hidden(kind: type, value: str) -> object:
    if kind is Secret:
        return Secret(value)
    raise TypeError(f"{kind.__name__} is not sealed here")


packed: Final = msgspec.msgpack.Encoder(enc_hook=_revealed).encode
registration_from: Final = msgspec.msgpack.Decoder(Registration).decode
held_from: Final = msgspec.msgpack.Decoder(Held, dec_hook=hidden).decode


class BareTokens(Struct, frozen=True):
    """Of a token set what goes to who asks, in clear: for who sends it off at once."""

    access_token: str | None
    token_type: str | None = None
    extras: dict[str, str] = {}

    def __repr__(self) -> str:
        return "BareTokens(***)"


class _Bare(Struct, frozen=True):
    tokens: BareTokens

    def __repr__(self) -> str:
        return "_Bare(***)"


bare_from: Final = msgspec.msgpack.Decoder(_Bare).decode


def registration_context(workspace: str, integration: str, generation: int) -> Context:
    return Context(
        workspace=workspace,
        table="integrations",
        row=integration,
        field="sealed",
        generation=generation,
    )


def tokens_context(
    workspace: str, connection_id: str, generation: int, environment: str
) -> Context:
    return Context(
        workspace=workspace,
        table="connection_tokens",
        row=connection_id,
        field="sealed",
        generation=generation,
        environment=environment,
    )


def revocation_context(workspace: str, revocation_id: str) -> Context:
    return Context(
        workspace=workspace,
        table="revocation_tokens",
        row=revocation_id,
        field="sealed",
        generation=1,
    )


# Integrations


async def put_integration(
    tx: Transaction,
    integration: str,
    generation: int,
    registration: Registration,
    sealed: bytes,
    created_by: str,
) -> IntegrationRow | None:
    """Write; ``None`` if somebody else wrote first."""
    return await _integration_put.maybe(
        tx,
        workspace_id=tx.workspace,
        integration=integration,
        provider=registration.provider,
        generation=generation,
        sealed=sealed,
        secret_ids=sorted(registration.secret_ids()),
        share_connections=registration.share_connections,
        refresh_policy=registration.refresh_policy,
        created_by=created_by,
    )


async def get_integration(tx: Transaction, integration: str) -> IntegrationRow | None:
    return await _integration_get.maybe(tx, workspace_id=tx.workspace, integration=integration)


async def list_integrations(tx: Transaction, page: Page) -> list[IntegrationRow]:
    return await _integration_list.all(
        tx, workspace_id=tx.workspace, after=page.after, limit=page.limit
    )


async def delete_integration(tx: Transaction, integration: str) -> bool:
    gone = await _integration_delete.maybe(tx, workspace_id=tx.workspace, integration=integration)
    return gone is not None


async def integrations_using_secret(tx: Transaction, secret_id: str) -> list[str]:
    rows = await _integration_using_secret.all(tx, workspace_id=tx.workspace, secret_id=secret_id)
    return [row.id for row in rows]


async def connected(tx: Transaction, integration: str) -> int:
    """How many connections an integration has."""
    row = await _integration_connected.one(tx, workspace_id=tx.workspace, integration=integration)
    return row.number


# Connections


async def list_connections(
    tx: Transaction,
    page: Page,
    *,
    user_id: str = "",
    integration: str = "",
    state: str = "",
    accounts: Sequence[bytes] = (),
    environments: Sequence[str] = (),
) -> list[Connection]:
    return await _connection_list.all(
        tx,
        workspace_id=tx.workspace,
        after=page.after,
        limit=page.limit,
        user_id=user_id,
        integration=integration,
        state=state,
        accounts=list(accounts),
        environments=list(environments),
    )


async def get_connection(tx: Transaction, connection_id: str) -> Connection | None:
    return await _connection_get.maybe(tx, workspace_id=tx.workspace, connection_id=connection_id)


async def find_connection(
    tx: Transaction, user_id: str, integration: str, environment: str
) -> Connection | None:
    return await _connection_find.maybe(
        tx,
        workspace_id=tx.workspace,
        user_id=user_id,
        integration=integration,
        environment=environment,
    )


async def await_connection(
    tx: Transaction,
    connection_id: str,
    session: Session,
    integration: str,
    provider: str,
    needs: Literal["confirm", "choice"],
    asked_scopes: Sequence[str],
) -> str | None:
    """Show that a consent waits, unless there is a connection that goes on meanwhile."""
    row = await _connection_await.maybe(
        tx,
        workspace_id=tx.workspace,
        connection_id=connection_id,
        user_id=session.user_id,
        integration=integration,
        environment=session.environment,
        provider=provider,
        needs=needs,
        asked_scopes=list(asked_scopes),
    )
    return row.id if row else None


class NewTokens(Struct, frozen=True, kw_only=True):
    """A connection's tokens, ready to be written, with what the row says of them."""

    connection_id: str
    user_id: str
    integration: str
    environment: str
    provider: str
    refresh_by: Literal["keyturn", "caller"]
    generation: int
    account: bytes | None
    asked_scopes: list[str]
    scopes: list[str] | None
    sealed: bytes


async def put_connection(tx: Transaction, new: NewTokens) -> bool:
    """Write; ``False`` where another connection stands in its place. Its life is the caller's."""
    values: Mapping[str, Any] = msgspec.structs.asdict(new)
    row = await _connection_put.maybe(
        tx,
        workspace_id=tx.workspace,
        **{name: value for name, value in values.items() if name not in ("sealed", "generation")},
    )
    if row is None:
        return False
    await _connection_put_tokens.run(
        tx,
        workspace_id=tx.workspace,
        connection_id=new.connection_id,
        generation=new.generation,
        sealed=new.sealed,
    )
    return True


async def tokens_row(tx: Transaction, connection_id: str) -> TokensRow | None:
    return await _connection_tokens.maybe(
        tx, workspace_id=tx.workspace, connection_id=connection_id
    )


async def siblings(tx: Transaction, account: bytes) -> list[Sibling]:
    """Where this account is connected."""
    return await _connection_siblings.all(tx, workspace_id=tx.workspace, account=account)


async def delete_connection(tx: Transaction, connection_id: str, generation: int) -> bool:
    """Delete; ``False`` if it is gone, or was written meanwhile."""
    gone = await _connection_delete.maybe(
        tx, workspace_id=tx.workspace, connection_id=connection_id, generation=generation
    )
    return gone is not None


async def forget_pending(tx: Transaction, session: Session, integration: str) -> None:
    await _connection_forget_pending.run(
        tx,
        workspace_id=tx.workspace,
        user_id=session.user_id,
        integration=integration,
        environment=session.environment,
    )


# Revocations that are still to be made


async def insert_revocation(
    tx: Transaction,
    revocation_id: str,
    connection_id: str,
    integration: str,
    environment: str,
    sealed: bytes,
) -> None:
    await _revocation_insert.run(
        tx,
        workspace_id=tx.workspace,
        revocation_id=revocation_id,
        connection_id=connection_id,
        integration=integration,
        environment=environment,
    )
    await _revocation_insert_tokens.run(
        tx, workspace_id=tx.workspace, revocation_id=revocation_id, sealed=sealed
    )


async def due_revocations(worker: Database, limit: int) -> list[Due]:
    """What is due in all workspaces; asked with the worker's login."""
    return await _revocation_due.lookup_all(worker, limit=limit)


async def claim_revocation(tx: Transaction, revocation_id: str) -> RevocationRow | None:
    """Take what is due, and put the next try off; ``None`` where somebody else took it."""
    row = await _revocation_get.maybe(tx, workspace_id=tx.workspace, revocation_id=revocation_id)
    if row is None:
        return None
    claimed = await _revocation_claim.maybe(
        tx,
        workspace_id=tx.workspace,
        revocation_id=revocation_id,
        attempts=row.attempts,
        delay=min(60 * 2**row.attempts, MAX_DELAY),
    )
    return row if claimed else None


async def revocation_sealed(tx: Transaction, revocation_id: str) -> bytes | None:
    row = await _revocation_sealed.maybe(tx, workspace_id=tx.workspace, revocation_id=revocation_id)
    return row.sealed if row else None


async def delete_revocation(tx: Transaction, revocation_id: str) -> None:
    await _revocation_delete.run(tx, workspace_id=tx.workspace, revocation_id=revocation_id)
