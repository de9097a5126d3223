"""The tables of the mint that is written by hand, with the same people and tokens as ours."""

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import msgspec
from cryptography.fernet import Fernet

SCHEMA: Final = """
create schema byhand;
create table byhand.keys (hash bytea primary key, tenant text not null);
create table byhand.users (
    tenant text, id text, profile bytea not null, primary key (tenant, id)
);
create table byhand.tokens (
    tenant text, user_id text, provider text, generation bigint not null, sealed bytea not null,
    expires_at timestamptz not null, primary key (tenant, user_id, provider)
);
create table byhand.conversations (
    id text primary key, tenant text not null, user_id text not null, agent_id text not null,
    grant_hash bytea not null, created_at timestamptz not null default now()
);
create table byhand.audit (
    id bigint generated always as identity primary key, at timestamptz not null default now(),
    tenant text not null, action text not null, target text not null
);
"""
TENANT: Final = "t_1"
LONG: Final = timedelta(hours=12)


async def write(
    admin: Any,  # noqa: ANN401 - the driver has no types
    fernet_key: str,
    key: str,
    people: Mapping[str, Mapping[str, str]],
) -> None:
    """Make and fill them. ``people``: by user the tokens, by integration."""
    await admin.execute(SCHEMA)
    fernet, ends = Fernet(fernet_key), datetime.now(UTC) + LONG
    await admin.execute(
        "insert into byhand.keys values ($1, $2)", hashlib.sha256(key.encode()).digest(), TENANT
    )
    users = [
        (TENANT, user, fernet.encrypt(msgspec.json.encode({"name": user.title()})))
        for user in people
    ]
    tokens = [
        (TENANT, user, name, 1, fernet.encrypt(token.encode()), ends)
        for user, held in people.items()
        for name, token in held.items()
    ]
    await admin.copy_records_to_table("users", schema_name="byhand", records=users)
    await admin.copy_records_to_table("tokens", schema_name="byhand", records=tokens)
    await admin.execute("vacuum analyze")
