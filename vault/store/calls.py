"""What a call for a connection reads and leaves in its rows: its claim, and how it ended.

* What changes with nearly every call has statements of its own, which write no more than that.
"""

from collections.abc import Mapping, Sequence
from typing import Final, Literal

from msgspec import Struct

from vault.database import Transaction
from vault.lifecycle.life import Life
from vault.lifecycle.schedule import claimed_look
from vault.sql import Nothing, Query, column
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


_refreshable: Final = Query("connections", "refreshable", Refreshable)
_claim: Final = Query("lives", "claim", Nothing)
_renew: Final = Query("lives", "renew", Nothing)
_replace_tokens: Final = Query("connections", "replace_tokens", Nothing)
_forget_holds: Final = Query("lives", "forget_holds", Nothing)


async def refreshable(tx: Transaction, connection_ids: Sequence[str]) -> dict[str, Refreshable]:
    rows = await _refreshable.all(
        tx, workspace_id=tx.workspace, connection_ids=list(connection_ids)
    )
    return {row.connection_id: row for row in rows}


async def write_claims(tx: Transaction, granted: Mapping[str, Life]) -> None:
    """Write the claims that one transaction has granted; by connection."""
    claims = [life.claim for life in granted.values() if life.claim is not None]
    if not claims:
        return
    one = claims[0]  # all are of one owner and of one moment
    await _claim.run(
        tx,
        workspace_id=tx.workspace,
        owner=one.owner,
        at=one.at,
        until=one.until,
        due_at=claimed_look(one, one.at).at,
        connection_id=list(granted),
        fence=[claim.fence for claim in claims],
        attempt=[claim.attempt for claim in claims],
        doubt_since=column([life.doubt for life in granted.values()]),
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
