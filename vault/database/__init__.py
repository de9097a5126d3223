"""PostgreSQL: one pool, and transactions that each belong to one workspace.

* The only way to a workspace's rows is ``Database.run(workspace, work)``: it opens a transaction,
  names the workspace to row-level security for that transaction only, and commits.
* Until COMMIT is sent a lost connection means that nothing happened, so ``work`` is run again;
  likewise when the server picked us to resolve a conflict. A COMMIT whose answer is lost is
  reported as ``NotReady``: the caller's Idempotency-Key settles it.
* Whoever asks while the server restarts or fails over waits for it, until ``FAILOVER_SECONDS``
  after it went away. From then on it is really away, and who asks is told so within seconds.
* Where all connections are busy, workspaces take turns (``line``), and no wait is endless.
* No pooled connection keeps session state, so nothing is reset between two uses (a round trip
  saved), and a transaction pooler in front changes nothing but the statement cache.
* No error text of the driver goes further: it quotes values. Only its SQLSTATE and the
  constraint's name do.
* The service refuses a role that could look past row-level security.
"""

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, Final, Self, TypeVar

import asyncpg

from vault.database.faults import AWAY, READ_ONLY, cannot_connect, translated
from vault.database.line import Full, Line
from vault.database.locks import HELD, LOCK_CLASS, SessionLock
from vault.database.reaching import GONE, Away, Server
from vault.errors import Misconfigured, NotReady, VaultError
from vault.secret import Secret

__all__ = ["Busy", "Database", "SessionLock", "Transaction"]

T = TypeVar("T")
Row = Sequence[Any]
Watch = Callable[[str, float, str | None], None]

CONNECT_SECONDS: Final = 5.0
PROBE_SECONDS: Final = 2.0
STATEMENT_SECONDS: Final = 15.0
# What a failover takes, with the time until somebody notices; Patroni's took 9.2 in measurements.
FAILOVER_SECONDS: Final = 15.0
# So long is tried while the server is away for longer than that.
AWAY_SECONDS: Final = 1.0
ROLLBACK_SECONDS: Final = 2.0
MIN_SERVER_VERSION: Final = 150000
CONFLICT_TRIES: Final = 5

_SCOPE = re.compile(r"ws_[0-9a-z]{26}|operator")
_UNSURE = "The database went away while it committed; ask again to see the outcome."
_BUSY = "All database connections are busy."
_TRY_AGAIN = {"40001", "40P01"}  # serialization failure, deadlock: the server asks for it


class Busy(VaultError):
    """Another transaction holds the row, and we did not want to wait."""

    code = "conflict"
    action = "retry"


class _Lost(Exception):
    """The connection went away before COMMIT was sent: nothing happened."""

    def __init__(self, reason: str = "The database cannot be reached.") -> None:
        super().__init__()
        self.reason = reason


class Transaction:
    """Statements of one transaction. ``vault.sql`` runs its queries through it."""

    def __init__(self, connection: Any, workspace: str) -> None:
        self._connection = connection
        self.workspace = workspace

    async def fetch(self, sql: str, values: Sequence[object]) -> Sequence[Row]:
        try:
            rows: Sequence[Row] = await self._connection.fetch(sql, *values)
        except asyncpg.LockNotAvailableError:
            raise Busy from None
        return rows

    async def session_locks(self) -> set[int]:
        """The keys of all session locks of ours that are held now."""
        return {int(row[0]) for row in await self.fetch(HELD, (LOCK_CLASS,))}

    async def enter(self, workspace: str) -> None:
        """Go on as another workspace; the operator's creation of one does this, nobody else."""
        await self._connection.execute(_as_workspace(workspace))
        self.workspace = workspace


class Database:
    """The application's way to PostgreSQL. ``size``: connections that the pool may open."""

    def __init__(self, pool: Any, server: Server, size: int, setting: str) -> None:
        self._pool = pool
        self._server = server
        self._setting = setting
        self._line = Line(size)
        self._away_since = self._lost_at = -FAILOVER_SECONDS

    @classmethod
    async def open(
        cls,
        dsn: Secret,
        *,
        size: int,
        statement_cache: int,
        setting: str = "KEYTURN_DATABASE_URL",
        watch: Watch | None = None,
    ) -> Self:
        """Connect, and refuse a server or a role that the vault must not run on.

        ``setting``: where the address stands, for who has to mend it. ``watch`` is told of each
        statement that has ended: its text, how long it took, and the SQLSTATE if it failed.
        """
        server = Server(dsn)
        try:
            pool = await asyncpg.create_pool(
                connect=server.connect,
                min_size=1,
                max_size=size,
                timeout=CONNECT_SECONDS,
                command_timeout=STATEMENT_SECONDS,
                statement_cache_size=statement_cache,
                reset=_keep_nothing,
                init=None if watch is None else _watched(watch),
            )
        except (Away, *GONE, asyncpg.PostgresError, ValueError) as error:
            raise cannot_connect(error) from None
        database = cls(pool, server, size, setting)
        try:
            await database.refuse_privileged_role()
        except BaseException:
            await database.close()
            raise
        return database

    async def run(
        self,
        workspace: str,
        work: Callable[[Transaction], Awaitable[T]],
        *,
        planned_once: bool = False,
        durable_later: bool = False,
        ahead: bool = False,
    ) -> T:
        """Run ``work`` in one transaction as ``workspace``. It may run more than once.

        ``planned_once``: the server keeps the plan of each statement, whatever the values are. It
        is for what is found by its key, again and again: there planning costs more than running.
        (A filter that is mostly empty is better planned for the values at hand.)
        ``durable_later``: do not wait for the disk; the caller's next transaction does, and with
        it everything before it is durable, too. Nothing of this may leave before that.
        ``ahead``: of the requests that wait for a connection, since tokens die of waiting.
        """
        begin = f"begin; {_as_workspace(workspace)}"
        if planned_once:
            begin += "; set local plan_cache_mode = force_generic_plan"
        if durable_later:
            begin += "; set local synchronous_commit = off"
        return await self._retrying(lambda: self._once(begin, workspace, work, ahead=ahead))

    async def lookup(self, sql: str, values: Sequence[object]) -> Sequence[Row]:
        """Run one read that belongs to no workspace: a global table, or a bearer's hash."""
        return await self._retrying(lambda: self._read(sql, values))

    async def deed(self, sql: str, values: Sequence[object]) -> Sequence[Row]:
        """Run one statement that writes, and commits by itself: once, since nobody can tell what
        has become of it when its answer is lost.
        """
        return await self._retrying(lambda: self._read(sql, values, once=True))

    async def probe(self) -> None:
        """Is the server there? On a connection of its own: a busy pool is not a dead server."""
        try:
            connection = await self._server.connect(
                timeout=PROBE_SECONDS, command_timeout=PROBE_SECONDS, statement_cache_size=0
            )
            try:
                await connection.execute("select 1")
            finally:
                connection.terminate()
        except (Away, *GONE, asyncpg.PostgresError):
            raise NotReady("The database cannot be reached.") from None

    async def probe_pool(self) -> None:
        """Is a connection free for one more who comes, or will one be in a moment?"""
        try:
            async with asyncio.timeout(PROBE_SECONDS):
                connection = await self._acquire("")
        except _Lost:
            raise NotReady("The database cannot be reached.") from None
        except TimeoutError:
            raise NotReady(_BUSY) from None
        await self._release(connection)

    async def session_lock(self, key: int) -> SessionLock:
        """Take a lock that lasts as long as its connection, and so no longer than this process."""
        try:
            return await SessionLock.take(self._server, key, seconds=CONNECT_SECONDS)
        except (Away, *GONE, asyncpg.PostgresError):
            raise NotReady("The database keeps no lock for us, or cannot be reached.") from None

    async def session_locks(self) -> set[int]:
        """The keys of all such locks that are held now."""
        return {int(row[0]) for row in await self.lookup(HELD, (LOCK_CLASS,))}

    async def refuse_privileged_role(self) -> None:
        """Row-level security binds neither superusers nor owners; so we are neither."""
        [row] = await self.lookup(_WHO_AM_I, ())
        version, *powers = row
        if version < MIN_SERVER_VERSION:
            raise Misconfigured("PostgreSQL 15 or newer is needed.")
        for has_it, what in zip(powers, _POWERS, strict=True):
            if has_it:
                raise Misconfigured(
                    f"{self._setting} logs in as {what}: row-level security does not hold "
                    "that back. Use the application role: 'keyturn migrate' makes it."
                )

    async def refuse_other_role(self, role: str) -> None:
        """Without the rights of this role the login sees nothing of what it is there for."""
        [row] = await self.lookup(_HAS_ROLE, (role,))
        if not row[0]:
            raise Misconfigured(
                f"{self._setting} logs in without the role {role}: 'keyturn migrate' grants it."
            )

    async def refuse_other_schema(self) -> None:
        """Without our schema nothing here works; whoever starts us has to know."""
        [row] = await self.lookup("select to_regclass('vault.schema_migrations') is not null", ())
        if not row[0]:
            raise Misconfigured("This database has no Keyturn schema yet: run 'keyturn migrate'.")

    async def close(self) -> None:
        try:
            await asyncio.wait_for(self._pool.close(), CONNECT_SECONDS)
        except TimeoutError:
            self._pool.terminate()

    @property
    def idle_connections(self) -> int:
        return int(self._pool.get_idle_size())

    @property
    def open_connections(self) -> int:
        return int(self._pool.get_size())

    async def _retrying(self, attempt: Callable[[], Awaitable[T]]) -> T:
        began = time.monotonic()
        tries = 0
        while True:
            tries += 1
            try:
                return await attempt()
            except _Lost as lost:
                now = time.monotonic()
                if now - self._lost_at > FAILOVER_SECONDS:
                    self._away_since = now
                self._lost_at = now
                # Others may get through meanwhile: nobody waits for longer than a failover takes.
                since = min(self._away_since, began)
                if now > max(since + FAILOVER_SECONDS, began + AWAY_SECONDS):
                    raise NotReady(lost.reason, retry_after=2) from None
                await asyncio.sleep(min(0.05 * 2**tries, 0.5))
            except asyncpg.PostgresError as error:
                if error.sqlstate not in _TRY_AGAIN or tries >= CONFLICT_TRIES:
                    raise translated(error) from None
                await asyncio.sleep(0.005 * 2**tries)

    async def _once(
        self,
        begin: str,
        workspace: str,
        work: Callable[[Transaction], Awaitable[T]],
        *,
        ahead: bool,
    ) -> T:
        connection = await self._acquire(workspace, ahead=ahead)
        try:
            try:
                await connection.execute(begin)
                result = await work(Transaction(connection, workspace))
            except Exception as error:
                _tell_apart(error, connection)
                raise
            try:
                ended: str = await connection.execute("commit")
            except GONE:
                raise NotReady(_UNSURE) from None
            if ended != "COMMIT":
                # A statement failed and its error was swallowed: PostgreSQL took it all back.
                raise VaultError("The change was not made.")
            self._lost_at = -FAILOVER_SECONDS
            return result
        finally:
            await self._release(connection, ahead=ahead)

    async def _read(
        self, sql: str, values: Sequence[object], *, once: bool = False
    ) -> Sequence[Row]:
        # Whoever asks with one key again and again waits in that key's line.
        whose = next((repr(value) for value in values if isinstance(value, bytes)), "")
        connection = await self._acquire(whose)
        try:
            try:
                rows: Sequence[Row] = await connection.fetch(sql, *values)
            except Exception as error:
                _tell_apart(error, connection)
                raise
        except _Lost:
            if once:
                raise NotReady(_UNSURE) from None
            raise
        finally:
            await self._release(connection)
        self._lost_at = -FAILOVER_SECONDS
        return rows

    async def _acquire(self, whose: str, *, ahead: bool = False) -> Any:
        try:
            await self._line.enter(whose, ahead=ahead)
        except Full:
            raise NotReady(_BUSY) from None
        try:
            return await self._pool.acquire()
        except BaseException as error:
            self._line.leave(ahead=ahead)
            if isinstance(error, (Away, *GONE)):
                raise _Lost from None
            if isinstance(error, asyncpg.PostgresError):
                raise translated(error) from None
            raise

    async def _release(self, connection: Any, *, ahead: bool = False) -> None:
        try:
            at_rest = not connection.is_in_transaction()
        except asyncpg.InterfaceError:
            at_rest = False  # the driver has taken it back
        if at_rest:
            # The pool takes it back by itself, whatever becomes of the caller.
            await self._to_pool(connection, ahead=ahead)
        else:
            # Shielded: a caller that goes away must not leave a transaction open behind it.
            await asyncio.shield(self._give_back(connection, ahead=ahead))

    async def _give_back(self, connection: Any, *, ahead: bool) -> None:
        try:
            if connection.is_in_transaction():
                await connection.execute("rollback", timeout=ROLLBACK_SECONDS)
        except (*GONE, asyncpg.PostgresError):
            # A cancelled statement still runs, or nobody answers, or the driver took it back.
            _hang_up(connection)
        await self._to_pool(connection, ahead=ahead)

    async def _to_pool(self, connection: Any, *, ahead: bool) -> None:
        try:
            # What the pool cannot get back it has closed, and replaces; no affair of the answer's.
            with suppress(*GONE, asyncpg.PostgresError):
                await self._pool.release(connection, timeout=ROLLBACK_SECONDS)
        finally:
            self._line.leave(ahead=ahead)


def _tell_apart(error: Exception, connection: Any) -> None:
    """Raise ``_Lost`` for a lost connection, and hang up; what has an SQLSTATE may go on."""
    told: Exception | None = None
    if isinstance(error, asyncpg.PostgresError):
        if error.sqlstate == READ_ONLY:  # a standby; or one that is just being promoted
            told = _Lost(AWAY[READ_ONLY])
        elif (error.sqlstate or "").startswith("57P") or isinstance(error, GONE):
            told = _Lost()
    elif isinstance(error, asyncpg.DataError):
        # Its text quotes the value, so only the fact goes on: a bug of ours.
        told = VaultError("A value could not be sent to the database.")
    elif isinstance(error, TimeoutError):
        told = NotReady("The database took too long.")
    elif isinstance(error, GONE):
        told = _Lost()
    if isinstance(told or error, _Lost):
        _hang_up(connection)
    if told is not None:
        raise told from None


def _watched(watch: Watch) -> Callable[[Any], Awaitable[None]]:
    def ended(record: Any) -> None:
        # The values that were sent stand in the record, too, and stay there.
        error = record.exception
        sqlstate = error and (sqlstate_of(error) or type(error).__name__)
        watch(record.query, record.elapsed, sqlstate)

    async def begin(connection: Any) -> None:
        connection.add_query_logger(ended)

    return begin


def _hang_up(connection: Any) -> None:
    with suppress(asyncpg.InterfaceError):  # the driver has already taken it back
        connection.terminate()


async def _keep_nothing(_connection: Any) -> None:
    """Give a connection back without a reset: no session state is ever made."""


def _as_workspace(workspace: str) -> str:
    # The one value that is written into SQL; it is ours, and its form is checked all the same.
    if not _SCOPE.fullmatch(workspace):
        raise VaultError("A transaction was opened for something that is no workspace.")
    return f"set local keyturn.workspace = '{workspace}'"


_POWERS: Final = (
    "a superuser",
    "a role with BYPASSRLS",
    "the owner",
    "a role that can make itself stronger",
)
_HAS_ROLE: Final = """
select exists (select from pg_roles
                where rolname = $1 and pg_has_role(session_user, oid, 'member'))
"""
_WHO_AM_I: Final = """
select current_setting('server_version_num')::int,
       bool_or(r.rolsuper),
       bool_or(r.rolbypassrls),
       bool_or(r.rolname = 'keyturn_owner' or exists (
           select from pg_class c join pg_namespace n on n.oid = c.relnamespace
            where n.nspname = 'vault' and c.relowner = r.oid)),
       bool_or(r.rolcreaterole or r.rolreplication or r.rolname = any (array[
           'keyturn_auth', 'keyturn_mint', 'pg_read_all_data', 'pg_write_all_data',
           'pg_read_server_files', 'pg_write_server_files', 'pg_execute_server_program']))
  from pg_roles r
 where pg_has_role(session_user, r.oid, 'member')
"""


# --- For migrations: the owner's connection, and roles with passwords ---

DriverError: type[Exception] = asyncpg.PostgresError


async def connect_as_owner(dsn: Secret) -> Any:
    """One connection that may change the schema."""
    try:
        return await Server(dsn).connect(timeout=CONNECT_SECONDS, statement_cache_size=0)
    except (Away, *GONE, asyncpg.PostgresError, ValueError) as error:
        raise cannot_connect(error) from None


def sqlstate_of(error: BaseException) -> str | None:
    """The SQLSTATE of a driver's error; ``None`` for anything else."""
    return error.sqlstate if isinstance(error, asyncpg.PostgresError) else None
