"""Locks that last as long as a connection, and so no longer than the process that made it.

A transaction pooler hands a connection on to others between two transactions, and a session's lock
with it. So behind a pooler the lock is held by a transaction that stays open: the pooler leaves the
connection to us, and lets go of it when we are gone. Such a transaction keeps nothing that it has
read, and never rests for longer than a beat.
"""

from typing import Any, Final, Self

import asyncpg

from vault.database.reaching import GONE, Away, Server

LOCK_CLASS: Final = 0x4B54  # of our advisory locks: two numbers of 32 bits name one
STATEMENT_SECONDS: Final = 2.0


class SessionLock:
    """A lock on a connection of its own, by which others see that this process lives."""

    def __init__(self, connection: Any, key: int) -> None:
        self._connection = connection
        self._key = key

    @classmethod
    async def take(cls, server: Server, key: int, *, seconds: float) -> Self:
        """Take it; raises ``Away`` where somebody has it, or the server keeps none."""
        connection = await server.connect(
            timeout=seconds, command_timeout=STATEMENT_SECONDS, statement_cache_size=0
        )
        lock = cls(connection, key)
        try:
            # A pooler makes up the process that it names when a connection begins.
            pooled = connection.get_server_pid() != await connection.fetchval(_PID)
            if pooled:
                await connection.execute("begin")
            taken = await connection.fetchval(
                _FOR_THE_TRANSACTION if pooled else _FOR_THE_SESSION, LOCK_CLASS, key
            )
            if taken and await lock.holds():
                return lock
        except BaseException:
            await lock.close()
            raise
        await lock.close()
        raise Away

    async def holds(self) -> bool:
        """Is it still ours?"""
        try:
            held = await self._connection.fetchval(_IS_MINE, LOCK_CLASS, self._key)
        except (*GONE, asyncpg.PostgresError):
            return False
        return bool(held)

    async def close(self) -> None:
        self._connection.terminate()


HELD: Final = """
select objid::bigint
  from pg_catalog.pg_locks
 where locktype = 'advisory' and granted and objsubid = 2 and classid::bigint = $1
   and database = (select oid from pg_catalog.pg_database where datname = current_database())
"""
_PID: Final = "select pg_backend_pid()"
_FOR_THE_SESSION: Final = "select pg_try_advisory_lock($1, $2)"
_FOR_THE_TRANSACTION: Final = "select pg_try_advisory_xact_lock($1, $2)"
_IS_MINE: Final = """
select exists (select from pg_catalog.pg_locks
                where locktype = 'advisory' and granted and objsubid = 2
                  and classid::bigint = $1 and objid::bigint = $2 and pid = pg_backend_pid())
"""
