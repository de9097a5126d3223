"""What a call for a connection reads and leaves in its rows: its claim, and how it ended.

* What changes with nearly every call has statements of its own, which write no more than that.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final, Literal

from msgspec import Struct

from vault.database import Transaction
from vault.lifecycle.life import Claim
from vault.lifecycle.schedule import Policy
from vault.sql import Nothing, Query, lines
from vault.store.refreshing import LifeRow, write_lives


class Refreshable(Struct, frozen=True):
    """What a refresh needs beside the life. Sealed as it is stored."""

    connection_id: str
    user_id: str
    refresh_by: Literal["keyturn", "caller"]
    scopes: list[str] | None
    generation: int
    sealed: bytes
    user_key: bytes


class Rested(Struct, frozen=True):
    """A connection at rest, with what a call for it takes, and what its next look follows from."""

    connection_id: str
    user_id: str
    generation: int
    sealed: bytes
    user_key: bytes
    fence: int
    due_at: datetime | None
    issued_at: datetime | None
    consented_at: datetime | None
    access_ends: datetime | None
    idle_ends: datetime | None
    consent_ends: datetime | None
    policy: Policy
    noticed: int | None
    used_at: datetime | None
    expected_at: datetime | None
    promised: int
    held_until: datetime | None


class Renewed(Struct, frozen=True):
    """The same, when its call brought tokens: what it becomes, the use that it has to have still,
    and what is told of it, if anybody hears it.
    """

    connection_id: str
    sealed: bytes
    generation: int
    fence: int
    access_ends: datetime | None
    idle_ends: datetime | None
    consent_ends: datetime | None
    policy: Policy
    used_at: datetime | None
    expected_at: datetime | None
    promised: int
    due_at: datetime | None
    attempt: str
    event_id: str | None
    body: str | None


class _Id(Struct, frozen=True):
    id: str


_refreshable: Final = Query("connections", "refreshable", Refreshable)
_rested: Final = Query("lives", "rested", Rested)
_renew_rested: Final = Query("lives", "renew_rested", _Id)
_claim: Final = Query("lives", "claim", Nothing)
_renew: Final = Query("lives", "renew", Nothing)
_replace_tokens: Final = Query("connections", "replace_tokens", Nothing)
_forget_holds: Final = Query("lives", "forget_holds", Nothing)


async def refreshable(tx: Transaction, connection_ids: Sequence[str]) -> dict[str, Refreshable]:
    rows = await _refreshable.all(
        tx, workspace_id=tx.workspace, connection_ids=list(connection_ids)
    )
    return {row.connection_id: row for row in rows}


async def rested(tx: Transaction, connection_ids: Sequence[str]) -> list[Rested]:
    """Lock those that are due and at rest, and that nobody else is just looking at."""
    return await _rested.all(tx, workspace_id=tx.workspace, connection_ids=list(connection_ids))


async def renew_rested(tx: Transaction, owner: str, renewed: Sequence[Renewed]) -> set[str]:
    """Write new tokens of those which the ``owner`` has claimed and nobody has touched since, and
    tell of it; returns which these are.
    """
    columns = _renew_rested.columns(renewed)
    found = await _renew_rested.all(tx, workspace_id=tx.workspace, owner=owner, **columns)
    return {one.id for one in found}


async def write_claims(
    tx: Transaction, granted: Mapping[str, Claim], doubts: Mapping[str, datetime]
) -> None:
    """Write the claims that one transaction has granted, and since when there is a doubt; by
    connection.
    """
    if not granted:
        return
    claims = granted.values()
    one = next(iter(claims))  # all are of one owner and of one moment
    await _claim.run(
        tx,
        workspace_id=tx.workspace,
        owner=one.owner,
        at=one.at,
        until=one.until,
        connection_id=lines(list(granted)),
        fence=lines([claim.fence for claim in claims]),
        attempt=lines([claim.attempt for claim in claims]),
        doubt_since=[doubts.get(one) for one in granted] if doubts else [],
    )


async def write_changes(
    tx: Transaction, rows: Sequence[LifeRow], sealed: Mapping[str, bytes]
) -> None:
    """Write how lives are now, and what is ``sealed`` of their new tokens; by connection."""
    resting: list[LifeRow] = []
    others: list[LifeRow] = []
    for row in rows:
        renewed = row.rests and row.connection_id in sealed
        (resting if renewed else others).append(row)
    if resting:
        tokens = [sealed[row.connection_id] for row in resting]
        columns = _renew.columns(resting)
        await _renew.run(tx, workspace_id=tx.workspace, sealed=tokens, **columns)
    await _put_tokens(tx, [row for row in others if row.connection_id in sealed], sealed)
    await write_lives(tx, others)
    if sealed:
        await _forget_holds.run(tx, workspace_id=tx.workspace, connection_ids=list(sealed))


async def _put_tokens(
    tx: Transaction, rows: Sequence[LifeRow], sealed: Mapping[str, bytes]
) -> None:
    """Put token sets in the place of older generations."""
    if rows:
        await _replace_tokens.run(
            tx,
            workspace_id=tx.workspace,
            connection_ids=[row.connection_id for row in rows],
            generations=[row.generation for row in rows],
            sealed=[sealed[row.connection_id] for row in rows],
        )
