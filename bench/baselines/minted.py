"""A mint as one writes it by hand: a pool, a query a table, Fernet, one row after the other.

The pattern is the one that integration guides print: find the key, find the user, find each token,
decrypt it, read the variables, note the conversation. Served by a typed Litestar handler on our own
server, over the same PostgreSQL, with the same durability.
"""

import asyncio
import hashlib
import os
import secrets
from typing import Any, Final

import asyncpg
import msgspec
from cryptography.fernet import Fernet
from litestar import Litestar, Request, post
from litestar.exceptions import NotAuthorizedException, NotFoundException
from litestar.params import JSONBody
from msgspec import Struct

DSN: Final = "BENCH_MINT_DSN"
FERNET: Final = "BENCH_MINT_FERNET"
POOL: Final = 10


class Wanted(Struct, frozen=True):
    """The same body as ours; what it does not know it passes over."""

    agent_id: str
    user_id: str
    dynamic_variables: dict[str, str]
    environment: str = "production"


class Shown(Struct, frozen=True):
    """What a client starts with."""

    id: str
    agent_id: str
    user_id: str
    environment: str
    dynamic_variables: dict[str, str]


class _State:
    pool: Any = None
    fernet: Fernet | None = None


_state = _State()
_lock = asyncio.Lock()


async def _opened() -> tuple[Any, Fernet]:
    async with _lock:
        if _state.pool is None or _state.fernet is None:
            _state.fernet = Fernet(os.environ[FERNET])
            _state.pool = await asyncpg.create_pool(os.environ[DSN], min_size=POOL, max_size=POOL)
    return _state.pool, _state.fernet


@post("/v1/conversations", status_code=201)
async def mint(data: JSONBody[Wanted], request: Request[Any, Any, Any]) -> Shown:
    """Find everything, one after the other."""
    pool, fernet = await _opened()
    offered = request.headers.get("authorization", "").removeprefix("Bearer ")
    hashed = hashlib.sha256(offered.encode()).digest()
    tenant = await pool.fetchval("select tenant from byhand.keys where hash = $1", hashed)
    if tenant is None:
        raise NotAuthorizedException
    user = await pool.fetchrow(
        "select profile from byhand.users where tenant = $1 and id = $2", tenant, data.user_id
    )
    if user is None:
        raise NotFoundException
    profile = msgspec.json.decode(fernet.decrypt(user["profile"]))
    variables = {"user_id": data.user_id, "user_name": profile["name"], **data.dynamic_variables}
    places = await pool.fetch(
        "select provider from byhand.tokens where tenant = $1 and user_id = $2 order by provider",
        tenant,
        data.user_id,
    )
    for place in places:
        name = place["provider"]
        row = await pool.fetchrow(
            "select sealed, generation, expires_at > now() as lives from byhand.tokens"
            " where tenant = $1 and user_id = $2 and provider = $3",
            tenant,
            data.user_id,
            name,
        )
        if not row["lives"]:
            continue
        token = fernet.decrypt(row["sealed"]).decode()
        variables[f"secret__user_{name}_token"] = token
        variables[f"secret__user_{name}_authorization"] = f"Bearer {token}"
        variables[f"user_{name}_generation"] = row["generation"]
    conversation, grant = f"c_{secrets.token_hex(13)}", secrets.token_urlsafe(32)
    variables["keyturn_conversation_id"] = conversation
    variables["secret__keyturn_authorization"] = f"Bearer {grant}"
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute(
            "insert into byhand.conversations (id, tenant, user_id, agent_id, grant_hash)"
            " values ($1, $2, $3, $4, $5)",
            conversation,
            tenant,
            data.user_id,
            data.agent_id,
            hashlib.sha256(grant.encode()).digest(),
        )
        await connection.execute(
            "insert into byhand.audit (tenant, action, target) values ($1, $2, $3)",
            tenant,
            "mint",
            conversation,
        )
    return Shown(conversation, data.agent_id, data.user_id, data.environment, variables)


app = Litestar([mint], openapi_config=None, logging_config=None, debug=False)
