"""Handing out tokens that are good as they are: many at once, in one statement and one commit.

* A read brings the hash of its key, and the statement hands out only what that living key may
  reach: it has the scope ``tokens:read``, the connection is of its workspace, and in one of its
  environments. The line in the record is durable before anything is opened.
* ``None`` is no refusal. What has to be refreshed, waited for or called degraded, and whoever is
  not let in, goes the long way, ``Vault.fresh_tokens``, which has the last word. Nothing has been
  handed out by then; at most, where the database went away just so, a line says that it was.
* ``tests/flows/test_reads.py`` holds the two ways against each other.
"""

import hmac
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

from msgspec import Struct

from broker.mint.batches import Batches, Homes, KeyRow, by_place
from vault.model import Caller, new_ids
from vault.sql import Query, lines
from vault.vault import Vault
from vault.vault.looks import Settled
from vault.vault.refreshing import Fresh


class Question(Struct, frozen=True):
    """What the statement is asked, beside the ids of the lines in the record."""

    hashes: bytes
    connection_ids: str
    min_ttls: int  # seconds
    request_ids: str


class SettledRow(KeyRow, frozen=True):
    """A connection that is settled, and the key that asked for it, as one moment has them."""

    user_id: str
    integration: str
    environment: str
    provider: str
    asked_scopes: list[str]
    given_scopes: list[str] | None
    generation: int
    issued_at: datetime
    access_ends: datetime | None
    token_generation: int
    sealed: bytes
    user_key: bytes
    now: datetime

    def tokens_of(self, connection_id: str) -> Settled:
        given = self.given_scopes
        missing = set(self.asked_scopes).difference(given) if given is not None else ()
        return Settled(
            connection_id=connection_id,
            integration=self.integration,
            environment=self.environment,
            provider=self.provider,
            scopes=given,
            generation=self.generation,
            issued_at=self.issued_at,
            access_ends=self.access_ends,
            tokens_generation=self.token_generation,
            sealed=self.sealed,
            missing_scopes=tuple(sorted(missing)),
        )


_settled: Final = Query("reads", "settled", SettledRow, package="broker")


class Reads:
    """The short way to a token."""

    def __init__(self, vault: Vault, *, batch: int) -> None:
        self._vault = vault
        self._batches = Batches(self._read, batch)
        self._homes = Homes()

    async def read(
        self, key_hash: bytes, request_id: str, connection_id: str, min_ttl: int
    ) -> tuple[Caller, Fresh] | None:
        """A token for the holder of this key, which lasts ``min_ttl`` seconds or half of its life;
        ``None``: that takes the long way.
        """
        asked = Question(key_hash, connection_id, min_ttl, request_id)
        row = await self._batches.ask(self._homes.of(key_hash), asked)
        if row is None or not hmac.compare_digest(row.hash, key_hash):
            return None
        self._homes.remember(key_hash, row.workspace_id)
        caller = row.caller(request_id)
        fresh = await self._vault.settled_token(
            caller,
            row.user_id,
            row.user_key,
            row.tokens_of(connection_id),
            now=row.now,
            min_ttl=timedelta(seconds=min_ttl),
        )
        return caller, fresh

    async def _read(self, questions: Sequence[Question]) -> list[SettledRow | None]:
        count = len(questions)
        rows = await self._vault.write_for_guest(
            _settled,
            event_ids=lines(new_ids("evt", count)),
            **_settled.columns(questions),
        )
        return by_place(rows, count)
