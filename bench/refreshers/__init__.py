"""Processes that refresh on command, so that what refreshing costs can be read from the kernel.

``python -m bench.refreshers NAME`` reads its settings as a line of JSON from its standard input,
says that it is ready, and then refreshes as many as each further line asks for.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from msgspec import Struct

CLIENT_ID: Final = "bench"
CLIENT_SECRET: Final = "a-client-secret-of-the-benchmark"  # noqa: S105 - of nobody else
# What one workspace has under way at the most (``vault.refreshing.room``); a test compares them.
IN_FLIGHT: Final = 200

Refresh = Callable[[Sequence[str]], Awaitable[int]]
"""Refresh these, or as many of one's own choice; returns how many that were."""


class Settings(Struct, frozen=True):
    """What a refresher needs: where the provider and the database are, and the names of rows."""

    token_url: str
    dsn: str
    fernet_key: str
    names: list[str]


class Task(Struct, frozen=True):
    """What is to be done: from which name on, and how many."""

    first: int
    count: int


class Done(Struct, frozen=True):
    """What was done."""

    count: int


async def side_by_side(
    names: Sequence[str], work: Callable[[str], Awaitable[None]], concurrency: int
) -> None:
    """Do all of it, so many at a time."""
    waiting = iter(names)

    async def one_after_another() -> None:
        for name in waiting:
            await work(name)

    await asyncio.gather(*(one_after_another() for _ in range(concurrency)))
