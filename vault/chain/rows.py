"""Rows of the sealed chain: batches, seals, notes, whose turn it is, lines between two places."""

import re
from datetime import datetime
from typing import Final

from msgspec import Struct

from vault.chain import Batch, Chained, Line, Made, Note, Place, Seal
from vault.database import Database, Transaction
from vault.errors import NotReady
from vault.model import OPERATOR
from vault.sql import Nothing, Query

WORKSPACE: Final = re.compile(r"ws_[0-9a-z]{26}|operator")
"""Whose lines there can be. Any other is nobody's, and not of our writing."""


class ServerMoved(NotReady):
    """The database has moved to a server that counts otherwise: run 'keyturn migrate' on it."""


class Position(Struct, frozen=True):
    """How far the record is sealed (``sealed_to``), and how far it can be (``horizon``).

    ``seal`` is the one that batches are being made for; ``here`` is the server that answers.
    """

    seal: int
    sealed_to: int
    server: str
    here: str
    horizon: int


class Held(Struct, frozen=True):
    """The turn was ours at this moment, and is until the transaction ends."""

    seal: int
    now: datetime


class Waiting(Struct, frozen=True):
    """Lines that are in no batch yet, and for how many seconds the oldest has been there."""

    lines: int
    seconds: float


class _Turn(Struct, frozen=True):
    seal: int


class _Workspace(Struct, frozen=True):
    workspace_id: str


class _Sealed(Struct, frozen=True):
    seal: int
    workspace_id: str
    number: int
    hash: bytes


class _Number(Struct, frozen=True):
    number: int


class _Noted(Struct, frozen=True):
    workspace_id: str
    number: int


class _Line(Struct, frozen=True):
    event_id: str


class _Now(Struct, frozen=True):
    now: datetime


_position: Final = Query("audit_chain", "position", Position)
_take: Final = Query("audit_chain", "take", _Turn)
_finish: Final = Query("audit_chain", "finish", _Turn)
_release: Final = Query("audit_chain", "release", _Turn)
_hold: Final = Query("audit_chain", "hold", Held)
_waiting: Final = Query("audit_chain", "waiting", _Workspace)
_everybody: Final = Query("audit_chain", "everybody", _Workspace)
_everybody_sealed: Final = Query("audit_chain", "everybody_sealed", _Workspace)
_unsealed: Final = Query("audit_chain", "unsealed", Waiting)
_made_for: Final = Query("audit_chain", "made_for", _Sealed)
_old_seal: Final = Query("audit_chain", "old_seal", _Number)
_made_up_to: Final = Query("audit_chain", "made_up_to", _Workspace)
_last_batch_up_to: Final = Query("audit_chain", "last_batch_up_to", Batch)
_note: Final = Query("audit_chain", "note", Note)
_noted: Final = Query("audit_chain", "noted", _Noted)
_write_note: Final = Query("audit_chain", "write_note", Nothing)
_forget_lines: Final = Query("audit_chain", "forget_lines", _Line)
_forget_batches: Final = Query("audit_chain", "forget_batches", _Number)
_forget_seals: Final = Query("audit_chain", "forget_seals", _Number)
_last_batch: Final = Query("audit_chain", "last_batch", Batch)
_batches: Final = Query("audit_chain", "batches", Batch)
_lines: Final = Query("audit_chain", "lines", Line)
_insert_batch: Final = Query("audit_chain", "insert_batch", Nothing)
_last_seal: Final = Query("audit_chain", "last_seal", Seal)
_seals: Final = Query("audit_chain", "seals", Seal)
_insert_seal: Final = Query("audit_chain", "insert_seal", Nothing)
_now: Final = Query("deployment", "now", _Now)


# Whose turn it is


async def position(database: Database) -> Position:
    found = await _position.lookup(database)
    if found is None:
        raise NotReady("The database lost how far the audit record is sealed.")
    return found


async def take(database: Database, owner: str, seconds: int) -> bool:
    """Take the turn, or keep it for longer, unless somebody else has it."""
    return bool(await _take.deed(database, owner=owner, seconds=seconds))


async def finish(database: Database, owner: str, seal: int, sealed_to: int) -> bool:
    """From now on batches are made for the next seal; was the turn still ours?"""
    return bool(await _finish.deed(database, owner=owner, seal=seal, sealed_to=sealed_to))


async def release(database: Database, owner: str) -> None:
    await _release.deed(database, owner=owner)


async def hold(tx: Transaction, owner: str, seal: int) -> Held | None:
    """Keep the turn for as long as this transaction lasts."""
    return await _hold.maybe(tx, owner=owner, seal=seal)


# Across workspaces, as the worker


async def waiting(worker: Database, since: Position) -> list[str]:
    """Who has lines that can be sealed now."""
    if since.sealed_to == 0:  # all that there ever was: a look at each workspace, not at each line
        return [one.workspace_id for one in await _everybody.lookup_all(worker)]
    rows = await _waiting.lookup_all(worker, sealed_to=since.sealed_to, horizon=since.horizon)
    return sorted(one.workspace_id for one in rows)


async def everybody(worker: Database) -> list[str]:
    """Everybody who has lines, or a chain, or what is left of one."""
    lines = await _everybody.lookup_all(worker)
    chains = await _everybody_sealed.lookup_all(worker)
    return sorted({one.workspace_id for one in (*lines, *chains)} | set(await noted(worker)))


async def unsealed(worker: Database, sealed_to: int) -> Waiting:
    found = await _unsealed.lookup(worker, sealed_to=sealed_to)
    return found or Waiting(0, 0.0)


async def made_for(worker: Database, first: int, last: int) -> dict[int, list[Made]]:
    """The batches that were made for these seals."""
    made: dict[int, list[Made]] = {}
    for one in await _made_for.lookup_all(worker, first=first, last=last):
        made.setdefault(one.seal, []).append(Made(one.workspace_id, one.number, one.hash))
    return made


async def made_up_to(worker: Database, seal: int) -> list[str]:
    """Who has batches that were made for this seal or an earlier one."""
    return sorted(one.workspace_id for one in await _made_up_to.lookup_all(worker, seal=seal))


async def noted(worker: Database) -> dict[str, int]:
    """By workspace the last batch that is gone, as its note says."""
    return {one.workspace_id: one.number for one in await _noted.lookup_all(worker)}


async def forget_lines(worker: Database, workspace: str, end: Place, limit: int) -> int:
    """Delete lines before a place; returns how many. The worker may delete no young ones."""
    gone = await _forget_lines.deed(
        worker, workspace_id=workspace, to_xact=end.xact, to_event=end.event_id, limit=limit
    )
    return len(gone)


async def forget_batches(worker: Database, workspace: str, number: int) -> None:
    await _forget_batches.deed(worker, workspace_id=workspace, number=number)


async def forget_seals(worker: Database, number: int) -> None:
    await _forget_seals.deed(worker, workspace_id=OPERATOR, number=number)


# Within a workspace


async def last_batch(tx: Transaction) -> Batch | None:
    return await _last_batch.maybe(tx, workspace_id=tx.workspace)


async def last_batch_up_to(tx: Transaction, seal: int) -> Batch | None:
    """The last one that was made for this seal or an earlier one."""
    return await _last_batch_up_to.maybe(tx, workspace_id=tx.workspace, seal=seal)


async def note(tx: Transaction, chain: Chained) -> Note | None:
    """What is gone from the beginning of this chain."""
    return await _note.maybe(tx, workspace_id=tx.workspace, chain=chain)


async def write_note(tx: Transaction, one: Note) -> None:
    """Write it in the place of an earlier one."""
    fields = {name: getattr(one, name) for name in one.__struct_fields__}
    await _write_note.run(tx, workspace_id=tx.workspace, **fields)


async def batches(tx: Transaction, after: int, limit: int) -> list[Batch]:
    return await _batches.all(tx, workspace_id=tx.workspace, after=after, limit=limit)


async def lines(tx: Transaction, start: Place, end: Place, limit: int) -> list[Line]:
    """Lines from one place up to, and without, another, in order."""
    return await _lines.all(
        tx,
        workspace_id=tx.workspace,
        from_xact=start.xact,
        from_event=start.event_id,
        to_xact=end.xact,
        to_event=end.event_id,
        limit=limit,
    )


async def insert_batch(tx: Transaction, batch: Batch) -> None:
    fields = {name: getattr(batch, name) for name in batch.__struct_fields__}
    await _insert_batch.run(tx, workspace_id=tx.workspace, **fields)


# Seals: the operator's


async def last_seal(database: Database) -> Seal | None:
    return await database.run(OPERATOR, lambda tx: _last_seal.maybe(tx, workspace_id=tx.workspace))


async def old_seal(tx: Transaction, days: int) -> int | None:
    """The newest seal that is so old, and is not the last."""
    found = await _old_seal.maybe(tx, workspace_id=tx.workspace, days=days)
    return found.number if found else None


async def seals(database: Database, after: int, limit: int) -> list[Seal]:
    return await database.run(OPERATOR, lambda tx: seals_in(tx, after, limit))


async def seals_in(tx: Transaction, after: int, limit: int) -> list[Seal]:
    return await _seals.all(tx, workspace_id=tx.workspace, after=after, limit=limit)


async def now(tx: Transaction) -> datetime:
    return (await _now.one(tx)).now


async def write_seal(tx: Transaction, seal: Seal) -> Seal:
    """Write it, unless somebody else has just done so; returns the one that is there."""
    fields = {name: getattr(seal, name) for name in seal.__struct_fields__}
    await _insert_seal.run(tx, workspace_id=tx.workspace, **fields)
    [there] = await seals_in(tx, seal.number - 1, 1)
    return there
