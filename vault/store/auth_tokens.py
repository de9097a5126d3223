"""The tokens that auth connections fetch, and the leases for fetching them.

* Every time is the database's: who is late, what is expired and when to try again are decided in
  the statements.
* A lease is a row's fence: whoever holds an older one writes nothing any more.
"""

from datetime import datetime, timedelta
from typing import Final

import msgspec
from msgspec import Struct

from vault.database import Transaction
from vault.model import AuthStatus, WorkspaceId
from vault.seal import Context
from vault.sql import Nothing, Query


class InUse(Struct, frozen=True):
    """An auth connection and the state of its token, as one moment has them."""

    generation: int
    sealed: bytes
    allowed_hosts: list[str]
    status: AuthStatus
    status_detail: str | None
    sealed_token: bytes | None
    token_generation: int
    seconds_left: float  # of the token's life
    fresh: bool
    leased: bool
    pause_left: int  # seconds until the next try after a failure
    last_failure: str | None  # an ``oauth.Outcome``
    now: datetime


class Claim(Struct, frozen=True):
    """The right to make one call."""

    fence: int
    attempts: int
    lease_at: datetime


class SealedToken(Struct, frozen=True, kw_only=True):
    """A token that is ready to be written."""

    sealed: bytes
    refresh_after: timedelta  # from the beginning of the lease, which is when it was asked for
    lifetime: timedelta


class TokenContent(Struct, frozen=True, array_like=True):
    """What is sealed: the token, and the configuration that fetched it."""

    token: bytes
    config_generation: int

    def __repr__(self) -> str:
        return "TokenContent(***)"


class _Generation(Struct, frozen=True):
    generation: int


_in_use: Final = Query("auth_tokens", "in_use", InUse)
_claim: Final = Query("auth_tokens", "claim", Claim)
_save: Final = Query("auth_tokens", "save", _Generation)
_fail: Final = Query("auth_tokens", "fail", _Generation)
_release: Final = Query("auth_tokens", "release", Nothing)
_drop: Final = Query("auth_tokens", "drop", _Generation)

content_bytes: Final = msgspec.msgpack.Encoder().encode
content_from: Final = msgspec.msgpack.Decoder(TokenContent).decode


def token_context(workspace: WorkspaceId, auth_connection_id: str, generation: int) -> Context:
    return Context(
        workspace=workspace,
        table="auth_connection_tokens",
        row=auth_connection_id,
        field="sealed_token",
        generation=generation,
    )


async def in_use(tx: Transaction, auth_connection_id: str) -> InUse | None:
    return await _in_use.maybe(tx, workspace_id=tx.workspace, auth_connection_id=auth_connection_id)


async def claim(
    tx: Transaction,
    auth_connection_id: str,
    config_generation: int,
    *,
    owner: str,
    lease: timedelta,
) -> Claim | None:
    """Take the lease; ``None`` where there is nothing to do, or it is not ours to do."""
    return await _claim.maybe(
        tx,
        workspace_id=tx.workspace,
        auth_connection_id=auth_connection_id,
        config_generation=config_generation,
        owner=owner,
        lease=lease,
    )


async def save(
    tx: Transaction,
    auth_connection_id: str,
    config_generation: int,
    fence: int,
    token: SealedToken,
) -> bool:
    """Write the token and end the lease; ``False`` if the lease or the configuration is gone."""
    saved = await _save.maybe(
        tx,
        workspace_id=tx.workspace,
        auth_connection_id=auth_connection_id,
        config_generation=config_generation,
        fence=fence,
        sealed_token=token.sealed,
        refresh_after=token.refresh_after,
        lifetime=token.lifetime,
    )
    return saved is not None


async def fail(
    tx: Transaction,
    auth_connection_id: str,
    config_generation: int,
    fence: int,
    *,
    outcome: str,
    pause: timedelta,
) -> bool:
    """End the lease, and let nobody try again for a while."""
    failed = await _fail.maybe(
        tx,
        workspace_id=tx.workspace,
        auth_connection_id=auth_connection_id,
        config_generation=config_generation,
        fence=fence,
        outcome=outcome,
        pause=pause,
    )
    return failed is not None


async def release(tx: Transaction, auth_connection_id: str, fence: int) -> None:
    await _release.run(
        tx, workspace_id=tx.workspace, auth_connection_id=auth_connection_id, fence=fence
    )


async def drop(
    tx: Transaction, auth_connection_id: str, config_generation: int, token_generation: int
) -> bool:
    """Forget a token that was refused; ``False`` if it is not there, or came after a refusal."""
    dropped = await _drop.maybe(
        tx,
        workspace_id=tx.workspace,
        auth_connection_id=auth_connection_id,
        config_generation=config_generation,
        token_generation=token_generation,
    )
    return dropped is not None
