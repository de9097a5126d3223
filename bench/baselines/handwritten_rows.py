"""The table of the pattern that is written by hand: a row a connection, sealed with Fernet."""

from datetime import datetime
from typing import Any, Final

import msgspec
from cryptography.fernet import Fernet

from bench.baselines import provider
from bench.refreshers import Settings

SCHEMA: Final = """
create schema handwritten;
create table handwritten.connections (
    id text primary key,
    sealed bytea not null,
    expires_at timestamptz not null
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
