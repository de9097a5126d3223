"""The tables of the patterns that are written by hand: a row a connection, sealed with Fernet."""

import hashlib
from datetime import datetime
from typing import Any, Final

import msgspec
from cryptography.fernet import Fernet

from bench.baselines import provider
from bench.refreshers import Settings

# Where ``handwritten_read`` finds its database and its key.
DSN: Final = "HANDWRITTEN_DSN"
FERNET_KEY: Final = "HANDWRITTEN_FERNET_KEY"

SCHEMA: Final = """
create schema handwritten;
create table handwritten.connections (
    id text primary key,
    sealed bytea not null,
    expires_at timestamptz not null
);
"""

READ_SCHEMA: Final = """
create table handwritten.keys (hash bytea primary key, workspace text not null);
create table handwritten.live (
    workspace text not null,
    id text not null,
    sealed bytea not null,
    expires_at timestamptz not null,
    primary key (workspace, id)
);
create table handwritten.reads (
    number bigint generated always as identity primary key,
    at timestamptz not null default now(),
    workspace text not null,
    id text not null
);
"""


def row_of(name: str) -> str:
    """Its row, and so its grant at the provider, is another than that of our connection."""
    return f"{name}-by-hand"


async def write(admin: Any, given: Settings, ends: datetime) -> None:  # noqa: ANN401 - the driver has no types
    """Make the table, with a row for each name."""
    await admin.execute(SCHEMA)
    fernet, names = Fernet(given.fernet_key), [row_of(name) for name in given.names]
    records = [
        (name, fernet.encrypt(msgspec.json.encode(provider.tokens(name, 0))), ends)
        for name in names
    ]
    await admin.copy_records_to_table("connections", schema_name="handwritten", records=records)


async def write_live(
    admin: Any,  # noqa: ANN401 - the driver has no types
    given: Settings,
    workspace: str,
    key: str,
    ends: datetime,
) -> None:
    """Make the tables of a read, with the same tokens that ours has, and the same key."""
    await admin.execute(READ_SCHEMA)
    await admin.execute("insert into handwritten.keys values ($1, $2)", hash_of(key), workspace)
    fernet = Fernet(given.fernet_key)
    records = [
        (workspace, name, fernet.encrypt(msgspec.json.encode(provider.tokens(name, 0))), ends)
        for name in given.names
    ]
    await admin.copy_records_to_table("live", schema_name="handwritten", records=records)
    await admin.execute("vacuum analyze handwritten.live")


def hash_of(key: str) -> bytes:
    """How a key is looked up."""
    return hashlib.sha256(key.encode()).digest()
