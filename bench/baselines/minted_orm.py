"""The mint that is written by hand, with an ORM: SQLAlchemy's async session, an entity a table.

The same tables, statements in the same order and the same Fernet as in ``minted``; what is read
becomes objects, and what is written is added to a session and committed.
"""

import asyncio
import hashlib
import os
import secrets
from datetime import datetime
from typing import Any

import msgspec
from cryptography.fernet import Fernet
from litestar import Litestar, Request, post
from litestar.exceptions import NotAuthorizedException, NotFoundException
from litestar.params import JSONBody
from sqlalchemy import BigInteger, DateTime, Identity, select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from bench.baselines.minted import DSN, FERNET, POOL, Shown, Wanted


class Base(DeclarativeBase):
    """Of the tables in ``minted_rows``."""

    __table_args__ = {"schema": "byhand"}  # noqa: RUF012 - as SQLAlchemy wants it


class Key(Base):
    __tablename__ = "keys"
    hash: Mapped[bytes] = mapped_column(primary_key=True)
    tenant: Mapped[str]


class User(Base):
    __tablename__ = "users"
    tenant: Mapped[str] = mapped_column(primary_key=True)
    id: Mapped[str] = mapped_column(primary_key=True)
    profile: Mapped[bytes]


class Token(Base):
    __tablename__ = "tokens"
    tenant: Mapped[str] = mapped_column(primary_key=True)
    user_id: Mapped[str] = mapped_column(primary_key=True)
    provider: Mapped[str] = mapped_column(primary_key=True)
    generation: Mapped[int] = mapped_column(BigInteger)
    sealed: Mapped[bytes]
    expires_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))


class Conversation(Base):
    __tablename__ = "conversations"
    id: Mapped[str] = mapped_column(primary_key=True)
    tenant: Mapped[str]
    user_id: Mapped[str]
    agent_id: Mapped[str]
    grant_hash: Mapped[bytes]


class Audit(Base):
    __tablename__ = "audit"
    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    tenant: Mapped[str]
    action: Mapped[str]
    target: Mapped[str]


class _State:
    sessions: async_sessionmaker[AsyncSession] | None = None
    fernet: Fernet | None = None


_state = _State()
_lock = asyncio.Lock()


async def _opened() -> tuple[async_sessionmaker[AsyncSession], Fernet]:
    async with _lock:
        if _state.sessions is None or _state.fernet is None:
            _state.fernet = Fernet(os.environ[FERNET])
            address = os.environ[DSN].replace("postgresql://", "postgresql+asyncpg://", 1)
            engine = create_async_engine(address, pool_size=POOL, max_overflow=0)
            _state.sessions = async_sessionmaker(engine, expire_on_commit=False)
    return _state.sessions, _state.fernet


@post("/v1/conversations", status_code=201)
async def mint(data: JSONBody[Wanted], request: Request[Any, Any, Any]) -> Shown:
    """Find everything, one after the other."""
    sessions, fernet = await _opened()
    offered = request.headers.get("authorization", "").removeprefix("Bearer ")
    async with sessions() as session:
        key = await session.scalar(
            select(Key).where(Key.hash == hashlib.sha256(offered.encode()).digest())
        )
        if key is None:
            raise NotAuthorizedException
        user = await session.scalar(
            select(User).where(User.tenant == key.tenant, User.id == data.user_id)
        )
        if user is None:
            raise NotFoundException
        variables = await _variables(session, fernet, user, data)
        conversation, grant = f"c_{secrets.token_hex(13)}", secrets.token_urlsafe(32)
        variables["keyturn_conversation_id"] = conversation
        variables["secret__keyturn_authorization"] = f"Bearer {grant}"
        session.add(
            Conversation(
                id=conversation,
                tenant=user.tenant,
                user_id=user.id,
                agent_id=data.agent_id,
                grant_hash=hashlib.sha256(grant.encode()).digest(),
            )
        )
        session.add(Audit(tenant=user.tenant, action="mint", target=conversation))
        await session.commit()
    return Shown(conversation, data.agent_id, data.user_id, data.environment, variables)


async def _variables(
    session: AsyncSession, fernet: Fernet, user: User, data: Wanted
) -> dict[str, Any]:
    profile = msgspec.json.decode(fernet.decrypt(user.profile))
    variables = {"user_id": user.id, "user_name": profile["name"], **data.dynamic_variables}
    providers = await session.scalars(
        select(Token.provider)
        .where(Token.tenant == user.tenant, Token.user_id == user.id)
        .order_by(Token.provider)
    )
    for name in providers.all():
        row = await session.scalar(
            select(Token).where(
                Token.tenant == user.tenant, Token.user_id == user.id, Token.provider == name
            )
        )
        if row is None or row.expires_at <= datetime.now(row.expires_at.tzinfo):
            continue
        token = fernet.decrypt(row.sealed).decode()
        variables[f"secret__user_{name}_token"] = token
        variables[f"secret__user_{name}_authorization"] = f"Bearer {token}"
        variables[f"user_{name}_generation"] = row.generation
    return variables


app = Litestar([mint], openapi_config=None, logging_config=None, debug=False)
