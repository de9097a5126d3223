"""What was deleted for good stays deleted, also when an older state of the database comes back.

* A deleted user, workspace or API key leaves a keyed hash: in the database, in the transaction of
  the deed, and soon after in files outside of it (``ledger``). The key is the deployment's own
  secret, so a hash leads to nobody; it is only known again by who has the deleted thing at hand.
* A user is hashed together with the time of its making: one who comes back under the same id is
  somebody else, and lives.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final, Literal

import msgspec
from msgspec import Struct

from vault import bearer
from vault.database import Database, Transaction
from vault.sql import Nothing, Query

Kind = Literal["workspace", "user", "key"]
PAGE: Final = 1000

_text = msgspec.json.Encoder().encode


class Entry(Struct, frozen=True):
    """Something was deleted then."""

    hash: bytes
    at: datetime


_insert: Final = Query("shreddings", "insert", Nothing)
_merge: Final = Query("shreddings", "merge", Nothing)
_since: Final = Query("shreddings", "since", Entry)
_known: Final = Query("shreddings", "known", Entry)


def hash_of(pepper: bytes, kind: Kind, *names: str) -> bytes:
    """The hash that stands for a deleted thing; ``pepper`` is the deployment's secret."""
    return bearer.fingerprint(pepper, _text(["keyturn/shredded/1", kind, *names]).decode())


def user_hash(pepper: bytes, workspace: str, user_id: str, made_at: datetime) -> bytes:
    """The hash of one life of a user."""
    return hash_of(pepper, "user", workspace, user_id, made_at.astimezone(UTC).isoformat())


async def record(tx: Transaction, hashed: bytes) -> None:
    """Note in the transaction of the deed that something is deleted."""
    await _insert.run(tx, hash=hashed)


async def merge(tx: Transaction, entries: Sequence[Entry]) -> None:
    """Add what stands outside of the database."""
    await _merge.run(tx, hashes=[one.hash for one in entries], times=[one.at for one in entries])


async def known(tx: Transaction, hashes: Sequence[bytes]) -> set[bytes]:
    """Which of these were deleted."""
    return {one.hash for one in await _known.all(tx, hashes=list(hashes))}


async def since(database: Database, after: Entry) -> list[Entry]:
    """The next page of what was deleted, in the order of the times."""
    return await _since.lookup_all(database, since=after.at, after=after.hash, limit=PAGE)
