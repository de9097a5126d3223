"""Answers of providers that were put aside, and how calls ended: a connection's timeline.

* An answer is sealed under the workspace's key: its user may be gone when it is read.
* Answers are kept for a day, lines of a timeline for a month.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Final, Literal

from msgspec import Struct

from vault.database import Transaction
from vault.seal import Context
from vault.sql import Nothing, Query


class Attempt(Struct, frozen=True, kw_only=True):
    """How one call ended, for the connection's timeline."""

    connection_id: str
    fence: int
    owner: str
    attempt: str
    began_at: datetime
    outcome: str
    detail: str = ""
    http_status: int | None = None
    generation: int | None = None


class AttemptRow(Struct, frozen=True):
    """The same, as it is told."""

    fence: int
    owner: str
    attempt: str
    began_at: datetime
    ended_at: datetime
    outcome: str
    detail: str
    http_status: int | None
    generation: int | None


class _Sealed(Struct, frozen=True):
    sealed: bytes


_answer_keep: Final = Query("answers", "keep", Nothing)
_answer_get: Final = Query("answers", "get", _Sealed)
_answer_forget: Final = Query("answers", "forget", Nothing)
_answer_forget_old: Final = Query("answers", "forget_old", Nothing)
_attempt_note: Final = Query("answers", "note", Nothing)
_attempt_list: Final = Query("answers", "attempts", AttemptRow)
_attempt_forget: Final = Query("answers", "forget_attempts", Nothing)


def answer_context(workspace: str, connection_id: str, fence: int, environment: str) -> Context:
    """Of an answer in the journal or in the spool, under the workspace's key."""
    return Context(
        workspace=workspace,
        table="refresh_answers",
        row=connection_id,
        field="sealed",
        generation=fence,
        environment=environment,
    )


async def keep_answer(
    tx: Transaction, connection_id: str, fence: int, kind: Literal["tokens", "raw"], sealed: bytes
) -> None:
    await _answer_keep.run(
        tx,
        workspace_id=tx.workspace,
        connection_id=connection_id,
        fence=fence,
        kind=kind,
        sealed=sealed,
    )


async def kept_answer(tx: Transaction, connection_id: str, fence: int) -> bytes | None:
    row = await _answer_get.maybe(
        tx, workspace_id=tx.workspace, connection_id=connection_id, fence=fence
    )
    return row.sealed if row else None


async def forget_answer(tx: Transaction, connection_id: str, fence: int) -> None:
    await _answer_forget.run(
        tx, workspace_id=tx.workspace, connection_id=connection_id, fence=fence
    )
    await _answer_forget_old.run(tx, workspace_id=tx.workspace)


async def note_attempts(tx: Transaction, attempts: Sequence[Attempt]) -> None:
    if attempts:
        columns = _attempt_note.columns(attempts)
        await _attempt_note.run(tx, workspace_id=tx.workspace, **columns)


async def attempts(tx: Transaction, connection_id: str, limit: int) -> list[AttemptRow]:
    """How calls ended, newest first."""
    return await _attempt_list.all(
        tx, workspace_id=tx.workspace, connection_id=connection_id, limit=limit
    )


async def forget_attempts(tx: Transaction, connection_ids: Sequence[str]) -> None:
    await _attempt_forget.run(tx, workspace_id=tx.workspace, connection_ids=list(connection_ids))
