"""Before anything new is written with: can every replica open it?

* A rotation asks a question, by a number in the database. Each replica answers it within seconds:
  it unwraps a probe that the new root key wrapped, and the staged keys of all workspaces whose keys
  it has cached, so that what it could open without the key service it can open without it again.
* Who asks waits for the answer of every replica that lives: one that was heard of a moment ago, or
  holds its lock.
* A replica that cannot open what is written by now is not ready, and ``/readyz`` says so.
"""

import asyncio
from datetime import timedelta
from typing import Final

import structlog
from msgspec import Struct

from vault.database import Database
from vault.errors import Conflict, Misconfigured, VaultError
from vault.keyring import Keyring, StoredKey
from vault.kms import Wrapped
from vault.model import WorkspaceId
from vault.sql import Query

PROBE: Final = "rotation-probe"
SILENCE: Final = timedelta(seconds=15)
"""Who was not heard of for so long, and holds no lock, is dead."""
ASK_AGAIN: Final = 0.5
"""Seconds between two looks at who has answered."""

_log = structlog.get_logger("keyturn.rekeying")


class Question(Struct, frozen=True):
    """What every replica should be able to open by now."""

    announced: int
    root_key_id: str
    probe: bytes
    kind: str
    switched: bool
    finished: bool


class NotEverybodyReady(Conflict):
    """A replica cannot open what would be written, so nothing was changed."""

    action = "fix_configuration"


class _Number(Struct, frozen=True):
    number: int


class _Id(Struct, frozen=True):
    id: str


class _Behind(Struct, frozen=True):
    replica_id: str
    lock_key: int
    locked: bool
    heard: bool
    refuses: str | None


class _Staged(Struct, frozen=True):
    key_id: bytes
    version: int
    wrapped: bytes
    root_key_id: str


_question: Final = Query("rotations", "question", Question)
_last_announced: Final = Query("rotations", "last_announced", _Number)
_announce: Final = Query("rotations", "announce", _Number)
_answer: Final = Query("rotations", "answer", _Id)
_behind: Final = Query("rotations", "behind", _Behind)
_staged: Final = Query("workspace_keys", "staged", _Staged)


class Announcements:
    """A replica's side: it hears what is announced, and answers."""

    def __init__(self, database: Database, keyring: Keyring) -> None:
        self._database = database
        self._keyring = keyring
        self._answered = 0
        self._warmed: set[str] = set()
        self._problem: VaultError | None = None
        self._task: asyncio.Task[None] | None = None

    def check(self) -> None:
        """Raise if this replica cannot open what others write by now."""
        if self._problem is not None:
            raise Misconfigured(
                "This replica cannot open what the deployment's root key wraps by now: is "
                "KEYTURN_KEK older here than elsewhere?"
            )

    def listen(self, replica_id: str) -> None:
        """Look for a question, behind a heartbeat; one look at a time."""
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._look(replica_id))

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _look(self, replica_id: str) -> None:
        try:
            question = await _question.lookup(self._database)
            if question is None or (question.announced == self._answered and question.finished):
                return
            if question.announced > self._answered:
                self._warmed.clear()
            problem = await self._tried(question)
            self._problem = problem if question.switched else None
            await _answer.lookup(
                self._database,
                replica_id=replica_id,
                announced=question.announced,
                refuses=problem.message if problem else None,
            )
            if problem is None:
                self._answered = question.announced
        except VaultError as error:
            _log.warning("rotation_not_answered", reason=error.message)

    async def _tried(self, question: Question) -> VaultError | None:
        try:
            if question.announced != self._answered:
                wrapped = Wrapped(question.probe, question.root_key_id)
                await self._keyring.unwrap_deployment_secret(PROBE, wrapped)
            if question.kind == "workspaces" and not question.finished:
                await self._warm()
        except VaultError as error:
            return error
        return None

    async def _warm(self) -> None:
        """Have the staged keys of all workspaces at hand whose present ones are."""
        for name in self._keyring.cached_workspaces():
            if name in self._warmed:
                continue
            workspace = WorkspaceId(name)
            for one in await self._database.run(
                workspace, lambda tx: _staged.all(tx, workspace_id=tx.workspace)
            ):
                stored = StoredKey(one.key_id, one.version, one.wrapped, one.root_key_id)
                await self._keyring.sealing_key(workspace, stored)
            self._warmed.add(name)


async def announce(database: Database, rotation: int) -> int:
    """Ask all replicas; return the question's number."""
    last = await _last_announced.lookup(database)
    number = (last.number if last else 0) + 1
    if await _announce.lookup(database, rotation=rotation, announced=number) is None:
        raise Conflict("This rotation was ended by somebody else.")
    return number


async def everybody_ready(database: Database, announced: int, wait: float) -> None:
    """Return when every replica that lives has answered; name those that do not in time."""
    until = asyncio.get_running_loop().time() + wait
    while late := await _late(database, announced):
        if asyncio.get_running_loop().time() >= until:
            reasons = "; ".join(f"{one.replica_id}: {one.refuses or 'no answer'}" for one in late)
            raise NotEverybodyReady(
                f"Nothing was changed: not every replica can open what would be written. {reasons}"
            )
        await asyncio.sleep(ASK_AGAIN)


async def _late(database: Database, announced: int) -> list[_Behind]:
    behind = await _behind.lookup_all(database, announced=announced, silence=SILENCE)
    held = await database.session_locks() if behind else set()
    return [one for one in behind if one.heard or (one.locked and one.lock_key in held)]
