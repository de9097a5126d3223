"""What one writes by hand to hand out a token: who asks, read the row, open it, note it, answer.

A typed Litestar handler on Keyturn's own server, with asyncpg's pool and Fernet. It checks the key
in the database and notes each read durably, as ours does; it knows no scopes, no row-level
security, no state but "expired", and nobody who holds a token.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import asyncpg
import msgspec
from cryptography.fernet import Fernet
from litestar import Litestar, Request, post
from litestar.datastructures import State
from litestar.exceptions import NotAuthorizedException, NotFoundException
from litestar.params import FromPath
from msgspec import Struct

from bench.baselines.handwritten_rows import DSN, FERNET_KEY, hash_of
from bench.baselines.provider import Tokens

_decode = msgspec.json.Decoder(Tokens).decode


class Given(Struct, frozen=True):
    """The answer; what ours says besides is always the same for a token that lives."""

    active: bool
    access_token: str
    token_type: str
    expires_at: str
    expires_in: int


@asynccontextmanager
async def _open(app: Litestar) -> AsyncIterator[None]:
    app.state.fernet = Fernet(os.environ[FERNET_KEY])
    async with asyncpg.create_pool(os.environ[DSN], min_size=1, max_size=10) as pool:
        app.state.pool = pool
        yield


@post("/v1/connections/{connection_id:str}/token", status_code=200)
async def token(request: Request[Any, Any, State], connection_id: FromPath[str]) -> Given:
    """Hand it out."""
    pool, fernet = request.app.state.pool, request.app.state.fernet
    key = request.headers.get("authorization", "").removeprefix("Bearer ")
    workspace = await pool.fetchval(
        "select workspace from handwritten.keys where hash = $1", hash_of(key)
    )
    if workspace is None:
        raise NotAuthorizedException
    row = await pool.fetchrow(
        "select sealed, expires_at from handwritten.live where workspace = $1 and id = $2",
        workspace,
        connection_id,
    )
    now = datetime.now(UTC)
    if row is None or row["expires_at"] <= now:
        raise NotFoundException
    await pool.execute(
        "insert into handwritten.reads (workspace, id) values ($1, $2)", workspace, connection_id
    )
    tokens = _decode(fernet.decrypt(row["sealed"]))
    ends = row["expires_at"].astimezone(UTC)
    return Given(
        active=True,
        access_token=tokens.access_token,
        token_type=tokens.token_type,
        expires_at=ends.isoformat().replace("+00:00", "Z"),
        expires_in=int((ends - now).total_seconds()),
    )


app = Litestar([token], lifespan=[_open], openapi_config=None, logging_config=None, debug=False)
