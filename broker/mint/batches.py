"""What many ask for at once is asked for together: one statement and one commit for all of them.

* While a batch is under way the next one collects; with nothing under way a batch is of one, and
  begins at once.
* A second batch goes beside the first where it is worth it: ``ENOUGH`` wait, or somebody has waited
  for ``HURRY``. Two halves cost more than the whole, and still a stuck statement stops nobody.
* Where a crowd came together, it does so again before long: with ``gather``, the first of the next
  one waits for as many as the last time, and no longer than that: one batch for all costs less than
  one for the first and one for the others. Who comes alone, or with few, waits for nobody.
* No group takes more than a quarter of a batch while others wait.
* One that makes a batch fail fails alone: a failed batch is asked for again one by one.
* Whoever waits for longer than ``PATIENCE``, or comes when too many wait, is told so.
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Sequence
from datetime import datetime
from typing import Final, Generic, Protocol, TypeVar

from msgspec import Struct

from vault.errors import NotReady
from vault.model import Caller, KeyId, Scope, WorkspaceId

LANES: Final = 2  # batches that are under way at a time
ENOUGH: Final = 32
HURRY: Final = 0.02  # seconds
PATIENCE: Final = 5.0  # seconds
CROWD: Final = 4  # so many in one batch are one
MOST_WAITING: Final = 64  # batches' worth
SHARE: Final = 4  # a group gets one of so many parts while others wait
MAX_HOMES: Final = 10_000

Q = TypeVar("Q")
A = TypeVar("A")


class _Waiting(Struct, Generic[Q, A]):
    question: Q
    answer: "asyncio.Future[A]"
    since: float


class Batches(Generic[Q, A]):
    """Asks in batches of at most ``cap``; ``run`` answers a batch, in its order. ``gather``: for so
    many seconds the first of a crowd waits for the others.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Q]], Awaitable[Sequence[A]]],
        cap: int,
        *,
        gather: float = 0.0,
    ) -> None:
        self._run = run
        self._gather = gather
        self._last = 0  # how many the last batch was of
        self._all_here = asyncio.Event()
        self._cap = cap
        self._enough = min(ENOUGH, cap)
        self._groups: dict[Hashable, deque[_Waiting[Q, A]]] = {}
        self._waiting = 0
        self._lanes = 0
        self._hurry: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def ask(self, group: Hashable, question: Q) -> A:
        """The answer to one question; ``group``: on whose behalf it is asked."""
        if self._waiting >= self._cap * MOST_WAITING:
            raise NotReady("Too many wait for the database.")
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[A] = loop.create_future()
        queue = self._groups.get(group)
        if queue is None:
            queue = self._groups[group] = deque()
        queue.append(_Waiting(question, answer, time.monotonic()))
        self._waiting += 1
        if self._waiting == self._last:
            self._all_here.set()
        if self._lanes == 0 or self._waiting >= self._enough:
            self._open_lane()
        elif self._hurry is None:
            self._hurry = loop.call_later(HURRY, self._hasten)
        return await answer

    def _open_lane(self) -> None:
        if self._lanes < LANES:
            self._lanes += 1
            # It begins after whoever else is ready to ask in this turn of the loop.
            task = asyncio.create_task(self._drain())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _hasten(self) -> None:
        """Somebody may have waited for long; who came later only gains by it."""
        self._hurry = None
        if self._waiting:
            self._open_lane()

    async def _drain(self) -> None:
        try:
            await self._gathered()
            while batch := self._taken():
                self._last = len(batch)
                await self._answered(batch)
        finally:
            # In the same step as the last look at who waits: whoever asks next begins a lane.
            self._lanes -= 1

    async def _gathered(self) -> None:
        """Wait until they are here who came together the last time; not for long, and no few."""
        if self._gather and self._last >= CROWD and self._waiting < self._last:
            self._all_here.clear()
            late = asyncio.get_running_loop().call_later(self._gather, self._all_here.set)
            await self._all_here.wait()
            late.cancel()

    def _taken(self) -> list[_Waiting[Q, A]]:
        """Take the next batch: the groups in turn, each with its share."""
        share = self._cap if len(self._groups) == 1 else max(self._cap // SHARE, 1)
        oldest = time.monotonic() - PATIENCE
        taken: list[_Waiting[Q, A]] = []
        for group in list(self._groups):
            room = min(share, self._cap - len(taken))
            if room == 0:
                break
            queue = self._groups.pop(group)
            while queue and room:
                one = queue.popleft()
                self._waiting -= 1
                if one.answer.done():
                    continue  # whoever asked has gone away
                if one.since < oldest:
                    one.answer.set_exception(NotReady("The database is too busy."))
                    continue
                taken.append(one)
                room -= 1
            if queue:
                self._groups[group] = queue  # at the end: others come first now
        return taken

    async def _answered(self, batch: Sequence[_Waiting[Q, A]]) -> None:
        try:
            answers = await self._run([one.question for one in batch])
        except asyncio.CancelledError:
            for one in batch:
                one.answer.cancel()
            raise
        except Exception as error:  # noqa: BLE001 - a mistake of ours is told to those who wait
            # A database that is away is so for each of them.
            if len(batch) == 1 or isinstance(error, NotReady):
                _fail(batch, error)
                return
            for one in batch:
                await self._answered([one])
        else:
            for one, answer in zip(batch, answers, strict=True):
                if not one.answer.done():
                    one.answer.set_result(answer)


def _fail(batch: Sequence[_Waiting[Q, A]], error: Exception) -> None:
    for one in batch:
        if not one.answer.done():
            one.answer.set_exception(error)


class KeyRow(Struct, frozen=True):
    """How the answer to one question begins: which one it is, and whose living key asked it."""

    place: int
    workspace_id: WorkspaceId
    api_key_id: KeyId
    hash: bytes
    scopes: list[Scope]
    key_environments: list[str]
    key_expires_at: datetime | None

    def caller(self, request_id: str) -> Caller:
        return Caller(
            kind="key",
            actor_id=self.api_key_id,
            workspace=self.workspace_id,
            scopes=frozenset(self.scopes),
            environments=tuple(self.key_environments),
            expires_at=self.key_expires_at,
            request_id=request_id,
        )


class Placed(Protocol):
    """A row that says which question it answers, from 1 on."""

    @property
    def place(self) -> int:
        """Which one."""
        ...


R = TypeVar("R", bound=Placed)


def by_place(rows: Sequence[R], count: int) -> list[R | None]:
    """The answers in the order of the questions; ``None`` where a question found nothing."""
    answers: list[R | None] = [None] * count
    for row in rows:
        answers[row.place - 1] = row
    return answers


class Homes:
    """By a key's hash the workspace that it was found in: a hint for who waits for whom."""

    def __init__(self) -> None:
        self._found: dict[bytes, WorkspaceId] = {}

    def of(self, key_hash: bytes) -> Hashable:
        """The group of this key: its workspace's, or one of its own before that is known."""
        return self._found.get(key_hash, key_hash)

    def remember(self, key_hash: bytes, workspace: WorkspaceId) -> None:
        if key_hash not in self._found:
            if len(self._found) >= MAX_HOMES:
                self._found.clear()
            self._found[key_hash] = workspace
