"""The spool's disk is full, just when the database takes no answer either: a real small disk."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.alive import Alive
from support.losing import full
from support.small_disk import fill, small_disk

from vault.errors import NotReady
from vault.refreshing.spool import PROBED_SECONDS

SIZE = 2 * 1024 * 1024


@pytest.fixture
def disk() -> Iterator[Path]:
    with small_disk(SIZE) as found:
        yield found


async def test_an_answer_that_no_disk_takes_is_kept_and_nothing_comes_of_it_before_one_does(
    alive: Alive, disk: Path
) -> None:
    await alive.integrate()
    ada = await alive.connect()
    async with alive.over.another(spool=disk / "spool") as here:
        ballast = fill(disk, 0)
        async with full(alive, "connection_tokens"):
            found = await alive.token(ada, at=here, rejected=True, wait=4)
            assert (found.degraded, found.generation) == (True, 1)
            assert alive.calls == 1, "the provider has answered"
            with pytest.raises(NotReady, match="spool cannot be written: No space left"):
                await here.check_refreshing()
            ballast.unlink()
            async with asyncio.timeout(20):
                while not list((disk / "spool").glob("*.answer")):  # noqa: ASYNC110 - a folder tells nobody
                    await asyncio.sleep(0.05)
        await alive.settled(here)
        assert list((disk / "spool").glob("*.answer")) == []
        found = await alive.token(ada, at=here)
        assert (found.generation, found.degraded) == (2, False)
        assert alive.calls == 1
        assert alive.well()


async def test_a_full_spool_alone_stops_no_refresh_and_is_told(alive: Alive, disk: Path) -> None:
    """The database takes the answer; but the next one might have nowhere to go."""
    await alive.integrate()
    ada = await alive.connect()
    async with alive.over.another(spool=disk / "spool") as here:
        fill(disk, 0)
        assert (await alive.token(ada, at=here, rejected=True)).generation == 2
        await asyncio.sleep(PROBED_SECONDS)  # what was found out is believed for so long
        with pytest.raises(NotReady, match="spool cannot be written: No space left"):
            await here.check_refreshing()
        assert alive.well()
