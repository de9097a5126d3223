"""This process among its like: who lives, who is dead, and has the database been rolled back?

* A replica holds a session advisory lock and writes a line every second. Dead is who does neither:
  a connection that broke is no death, a process that sleeps is none either.
* Where the database keeps no such locks nobody is believed dead; leases end by time there.
* A database that fails over or restarts, or a network that breaks, takes all locks along, and keeps
  all beats away. Whoever was cut off himself believes nobody dead until the others, too, have had
  the time to come back.
* The deployment has a mark that grows with its refreshes, within a second. A database that says
  less than this process or a file outside of it has seen is an older state: no refresh is made on
  it, since its refresh tokens may have been used up. Only ``keyturn restore`` moves on: it begins
  another epoch, and whoever waited for that goes on without a restart.
* A database knows where it is: in which cluster, as which tables, in which folder. One that finds
  itself elsewhere is a copy, even where no mark has grown since it was made.
* Where another server answers than before, or the same one after a restart, what others have
  written down outside is read first: this process may have seen less of the deployment than they.
* What a standby loses is often less than a second. So each process remembers, too, how many claims
  it has seen at each token endpoint; one that is missing is known at the next claim there.
"""

import asyncio
import secrets
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Final, TypeVar

import structlog
from msgspec import Struct

from vault.database import Database, SessionLock, Transaction
from vault.errors import NotReady, VaultError
from vault.lifecycle.endpoint import Endpoint
from vault.model import new_id
from vault.refreshing.folder import Folder
from vault.refreshing.marks import Level, Mark, Marks
from vault.sql import Query

BEAT_SECONDS: Final = 1.0
# Three beats in a row are missed by nobody who is well.
SILENCE: Final = timedelta(seconds=3)
# Whoever is back from an outage judges nobody for so long: the others take a while, too.
RETURN_SECONDS: Final = 15.0
# Token endpoints of which the last claim is remembered: some megabytes at most.
MAX_PLACES: Final = 10_000

_log = structlog.get_logger("keyturn.replica")


class RolledBack(NotReady):
    """This database is older than what this deployment has done, so nothing is refreshed."""


class Copied(RolledBack):
    """This database is a copy, or came back past 'keyturn restore', so nothing is refreshed."""


class Moment(Struct, frozen=True):
    """What one transaction sees: its time, since when the server runs, how far the deployment has
    come; where the database is said to be, and where it is.
    """

    now: datetime
    server_started_at: datetime
    mark: int
    epoch: int
    place: str | None
    folder: str | None
    here: str

    @property
    def level(self) -> Level:
        return Level(self.epoch, self.mark)


# A moment, or none where there is no mark to read.
M = TypeVar("M", bound=Moment | None)


class Peers(Struct, frozen=True):
    """Replicas by what is known of them: who may live, and who surely does."""

    living: frozenset[str]
    seen: frozenset[str]


NOBODY: Final = Peers(frozenset(), frozenset())


class _Replica(Struct, frozen=True):
    replica_id: str
    lock_key: int
    locked: bool
    heard: bool


class _Id(Struct, frozen=True):
    id: str


class _Mark(Struct, frozen=True):
    mark: int
    epoch: int


moment: Final = Query("replicas", "moment", Moment)
_join: Final = Query("replicas", "join", _Id)
_beat: Final = Query("replicas", "beat", _Id)
_leave: Final = Query("replicas", "leave", _Id)
_forget_old: Final = Query("replicas", "forget_old", _Id)
_list: Final = Query("replicas", "list", _Replica)
_advance: Final = Query("replicas", "advance", _Mark)
_settle: Final = Query("replicas", "settle", _Mark)


class Replica:
    """This process. ``marks``: where the mark is kept outside of the database.

    ``on_beat`` is called with our id after each beat, and must not wait. ``folder``: where an
    embedded database lies.
    """

    def __init__(
        self,
        database: Database,
        deployment: str,
        marks: Marks,
        on_beat: Callable[[str], None] | None = None,
        folder: Folder | None = None,
    ) -> None:
        self.id = new_id("rep")
        self._folder = folder
        self._database = database
        self._deployment = deployment
        self._marks = marks
        self._on_beat = on_beat
        self._key = 0
        self._lock: SessionLock | None = None
        self._beat_at = self._judges_from = time.monotonic()
        self._task: asyncio.Task[None] | None = None
        found = marks.read()
        self._seen, self._behind = found.level, found.behind
        self._server: datetime | None = None  # since when the one runs that was asked last
        self._claims: OrderedDict[tuple[str, str, str], Endpoint] = OrderedDict()
        self._moved = False
        self._joining = asyncio.Lock()

    @property
    def joined(self) -> bool:
        return self._task is not None

    async def join(self) -> None:
        """Be seen by the others; at the first refresh, or before."""
        if self.joined:
            return
        async with self._joining:
            if self._task is not None:
                return
            await self._take_lock()
            await _join.lookup(
                self._database,
                replica_id=self.id,
                lock_key=self._key,
                locked=self._lock is not None,
            )
            await self._settle()
            self._beat_at = time.monotonic()
            self._task = asyncio.create_task(self._beating())

    async def leave(self) -> None:
        """Be gone, in order: nothing of ours is under way any more."""
        if self._task is None:
            return
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        with suppress(VaultError):
            await self._advance_mark()
            await _leave.lookup(self._database, replica_id=self.id)
        if self._lock is not None:
            await self._lock.close()

    async def living(self) -> list[str]:
        """The ids of all replicas that live, as far as can be known."""
        held = await self._database.session_locks()
        every = await _list.lookup_all(self._database, silence=SILENCE)
        return list(self._judged(every, held).living)

    async def peers_in(self, tx: Transaction) -> Peers:
        """Who lives, within a transaction: as of after it has locked what it asks for."""
        held = await tx.session_locks()
        return self._judged(await _list.all(tx, silence=SILENCE), held)

    # The mark

    def _check(self, found: Moment, seen: Level) -> None:
        """Refuse a database that is behind what had been ``seen`` when it was asked, or a copy.

        Once behind, it stays so in its epoch: others may bring its mark up again, and it is no
        less old for it.
        """
        if found.epoch > self._seen.epoch:
            self._behind = False
            self._claims.clear()
        if found.level < seen:
            self._falls_behind()
        if self._behind:
            raise RolledBack(_explained(RolledBack))
        if self._is_elsewhere(found):
            raise Copied(_explained(Copied))
        self._seen = max(self._seen, found.level)

    def _is_elsewhere(self, found: Moment) -> bool:
        if found.place not in (None, found.here):
            return True
        return bool(self._folder and found.folder and not self._folder.is_at(found.folder))

    async def _settle(self) -> None:
        """Note where the database is, if nobody has done so yet."""
        found = await moment.lookup(self._database)
        if found is not None and found.place is None:
            folder = str(self._folder) if self._folder else None
            await _settle.lookup(self._database, place=found.here, folder=folder)

    def check_place(self, place: tuple[str, str, str], found: Endpoint) -> None:
        """Refuse a token endpoint's row that has forgotten what was claimed there."""
        known = self._claims.get(place)
        if known is None or known.born != found.born or known.claims <= found.claims:
            return
        self._falls_behind()
        raise RolledBack(_explained(RolledBack))

    async def check_database(self) -> None:
        """Raise if this database is behind, or a copy."""
        await self._checked(lambda: moment.lookup(self._database))

    async def moment_in(self, tx: Transaction) -> Moment:
        """What a transaction sees of a database that is neither behind nor a copy."""
        return await self._checked(lambda: moment.one(tx))

    async def _checked(self, ask: Callable[[], Awaitable[M]]) -> M:
        seen, found = self._seen, await ask()
        if found is not None and found.server_started_at != self._server:
            self._learn(await asyncio.to_thread(self._marks.read))
            self._server = found.server_started_at
            # Asked once more, after that: meanwhile both may have grown.
            seen, found = self._seen, await ask()
        if found is not None:
            self._check(found, seen)
        return found

    def check_marks(self) -> None:
        """Raise if what was done is written down nowhere. No reason to let tokens end, though."""
        if self._marks.failed:
            raise NotReady("The high-water mark cannot be written.")

    def moves(self, place: tuple[str, str, str], found: Endpoint) -> None:
        """Claims were committed: the mark has to grow."""
        self._moved = True
        self._claims[place] = found
        self._claims.move_to_end(place)
        if len(self._claims) > MAX_PLACES:
            self._claims.popitem(last=False)

    async def _advance_mark(self) -> None:
        if self._marks.failed:
            await asyncio.to_thread(self._write)
        if not self._moved:
            return
        self._moved = False
        await self.check_database()
        advanced = await _advance.lookup(self._database)
        if advanced is not None:
            self._seen = max(self._seen, Level(advanced.epoch, advanced.mark))
            await asyncio.to_thread(self._write)

    def _learn(self, outside: Mark) -> None:
        if outside.epoch > self._seen.epoch:
            self._behind = outside.behind
            self._claims.clear()
        elif outside.epoch == self._seen.epoch:
            self._behind = self._behind or outside.behind
        self._seen = max(self._seen, outside.level)

    def _falls_behind(self) -> None:
        if not self._behind:
            self._behind = True
            self._write()  # a few bytes, once: whoever starts next has to know

    def _write(self) -> None:
        """Write down what is known here, and learn what others who share a file have written."""
        others = self._marks.read()
        moved = others.epoch > self._seen.epoch  # somebody has gone on with another database
        if others.epoch == self._seen.epoch:
            self._behind = self._behind or others.behind
        behind = others.behind if moved else self._behind
        self._behind = self._behind or moved
        level = max(self._seen, others.level)
        self._marks.write(Mark(self._deployment, level.mark, behind, level.epoch))

    # The beat

    async def _beating(self) -> None:
        while True:
            await asyncio.sleep(BEAT_SECONDS)
            try:
                await self._one_beat()
            except RolledBack as error:
                _log.error("database_rolled_back", reason=error.message)
            except VaultError:
                self._was_cut_off()  # the database is away; whoever can, goes on

    async def _one_beat(self) -> None:
        if self._lock is not None and not await self._lock.holds():
            self._was_cut_off()
            await self._lock.close()
            self._lock = None
        if self._lock is None:
            await self._take_lock()
        if self._lock is not None:
            self._beat_at = time.monotonic()
        arguments = {
            "replica_id": self.id,
            "lock_key": self._key,
            "locked": self._lock is not None,
        }
        if await _beat.lookup(self._database, **arguments) is None:
            await _join.lookup(self._database, **arguments)
            await _forget_old.lookup(self._database)
        self._beat_at = time.monotonic()
        if self._on_beat is not None:
            self._on_beat(self.id)
        await self._advance_mark()

    def _was_cut_off(self) -> None:
        self._judges_from = time.monotonic() + RETURN_SECONDS

    def _judged(self, every: list[_Replica], held: set[int]) -> Peers:
        """Who lives. All do, for who cannot tell: his own beat may be as late as theirs."""
        now = time.monotonic()
        if now - self._beat_at > SILENCE.total_seconds():
            self._was_cut_off()
        unknown = {one.replica_id for one in every if not one.locked or now < self._judges_from}
        heard = {one.replica_id for one in every if one.heard}
        seen = heard | {one.replica_id for one in every if one.locked and one.lock_key in held}
        return Peers(living=frozenset(seen | unknown), seen=frozenset(seen))

    async def _take_lock(self) -> None:
        key = secrets.randbits(31)
        try:
            self._lock = await self._database.session_lock(key)
        except NotReady:
            return
        self._key = key


def _explained(kind: type[RolledBack]) -> str:
    return f"{kind.__doc__} 'keyturn restore --accept' goes on from it."
