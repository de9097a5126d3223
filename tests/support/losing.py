"""What takes the ground from under an answer: a table without room, and waiting for the spool."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Final

from support.alive import Alive

FULL: Final = "53100"  # disk_full


@contextlib.asynccontextmanager
async def full(alive: Alive, table: str) -> AsyncIterator[None]:
    """No room for what is written to this table."""
    admin = alive.over.admin
    await admin.execute(
        f"create function vault.full() returns trigger language plpgsql as"
        f" $$ begin raise exception 'no space' using errcode = '{FULL}'; end $$"
    )
    await admin.execute(
        f"create trigger full_disk before insert or update on vault.{table}"
        f" for each row execute function vault.full()"
    )
    try:
        yield
    finally:
        await admin.execute("drop function vault.full() cascade")


async def until_spooled(alive: Alive) -> None:
    async with asyncio.timeout(60):
        while not alive.over.spooled():  # noqa: ASYNC110 - a folder tells nobody
            await asyncio.sleep(0.05)
