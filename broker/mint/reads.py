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
from datetime import datetime
from typing import Final

from msgspec import Struct

from broker.mint.batches import Batches, Homes, KeyRow, by_place
from vault.model import Caller, new_ids
from vault.sql import Query, lines
from vault.store.connections import BareTokens
from vault.vault import Vault
from vault.vault.surveys import SealedTokens


class Question(Struct, frozen=True):
    """What the statement is asked, beside the ids of the lines in the record."""

    hashes: str  # as PostgreSQL writes bytes
    connection_ids: str
    min_ttls: int  # seconds
    request_ids: str


class HandedOut(Struct, frozen=True):
    """What is said of a token that is good as it is; in clear, and to be sent off at once."""

    access_token: str | None
    token_type: str | None
    expires_at: datetime | None
    expires_in: int | None
    generation: int
    refresh_required: bool
    scopes: list[str] | None
    missing_scopes: list[str]

    def __repr__(self) -> str:
        return "HandedOut(***)"


class SettledRow(KeyRow, frozen=True):
    """A connection that is settled, and the key that asked for it, as one moment has them."""

    user_id: str
    environment: str
    asked_scopes: list[str]
    given_scopes: list[str] | None
    generation: int
    access_ends: datetime | None
    token_generation: int
    sealed: bytes
    user_key: bytes
    now: datetime

    def handed_out(self, tokens: BareTokens, min_ttl: int) -> HandedOut:
        ends, given = self.access_ends, self.given_scopes
        left = None if ends is None else (ends - self.now).total_seconds()
        missing = set(self.asked_scopes).difference(given) if given is not None else ()
        return HandedOut(
            access_token=tokens.access_token,
            token_type=tokens.token_type,
            expires_at=ends,
            expires_in=None if left is None else int(left),
            generation=self.generation,
            refresh_required=left is not None and left < min_ttl,
            scopes=given,
            missing_scopes=sorted(missing),
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
    ) -> tuple[Caller, HandedOut] | None:
        """A token for the holder of this key, which lasts ``min_ttl`` seconds or half of its life;
        ``None``: that takes the long way.
        """
        asked = Question(rf"\x{key_hash.hex()}", connection_id, min_ttl, request_id)
        row = await self._batches.ask(self._homes.of(key_hash), asked)
        if row is None or not hmac.compare_digest(row.hash, key_hash):
            return None
        self._homes.remember(key_hash, row.workspace_id)
        caller = row.caller(request_id)
        sealed = SealedTokens(connection_id, row.token_generation, row.environment, row.sealed)
        tokens = await self._vault.settled_token(caller, row.user_id, row.user_key, sealed)
        return caller, row.handed_out(tokens, min_ttl)

    async def _read(self, questions: Sequence[Question]) -> list[SettledRow | None]:
        count = len(questions)
        rows = await self._vault.write_for_guest(
            _settled,
            event_ids=lines(new_ids("evt", count)),
            **_settled.columns(questions),
        )
        return by_place(rows, count)
