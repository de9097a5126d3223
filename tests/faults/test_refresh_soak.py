"""Ten minutes of everything, one fault after the other, at a strict and at a graceful provider."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from faults.refreshing import Site, SiteRun, a_run, a_site
from support.refresh_history import NONE, Killed

from broker.sandbox import Faults

SECONDS = 600
ENOUGH = 20  # refreshes, after each fault
CALM = Faults(hold=0.2)

Runs = tuple[SiteRun, SiteRun]
Fault = Callable[[Site, Runs], Awaitable[None]]


async def stop_one(site: Site, _: Runs) -> None:
    assert await site.terminate(await site.busy()) == 0


async def kill_one(site: Site, runs: Runs) -> None:
    killed = await site.kill(await site.busy())
    for run in runs:
        run.record.killed.append(killed)


async def crash_the_database(site: Site, _: Runs) -> None:
    await site.busy()
    await site.crash_database(down=0.5)


async def lose_the_database_for_a_while(site: Site, _: Runs) -> None:
    await site.busy()
    await site.crash_database(down=4)


async def send_one_to_sleep(site: Site, runs: Runs) -> None:
    """Within its grace a provider is asked again; a strict one never."""
    member = await site.busy()
    with site.asleep(member):
        _, graceful = runs
        held = frozenset(await site.held(member))
        graceful.record.killed.append(Killed(at=time.monotonic(), held=held))
        await site.let_leases_end(member)
        await asyncio.sleep(5)


async def slow_down(_: Site, runs: Runs) -> None:
    for run in runs:
        run.provider.misbehave(Faults(hold=3))
    await asyncio.sleep(8)


async def have_a_bad_minute(_: Site, runs: Runs) -> None:
    for run in runs:
        run.provider.misbehave(Faults(status=503, retry_after=2, times=3))
    await asyncio.sleep(5)


FAULTS: tuple[Fault, ...] = (
    stop_one,
    kill_one,
    crash_the_database,
    lose_the_database_for_a_while,
    send_one_to_sleep,
    slow_down,
    have_a_bad_minute,
)


@pytest.fixture
async def site(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    async with a_site(tmp_path_factory.mktemp("site"), "here", "there") as found:
        yield found


@pytest.mark.soak
async def test_ten_minutes_of_faults(site: Site) -> None:
    async with a_run(site, kind="strict") as strict, a_run(site, kind="graceful") as graceful:
        runs = (strict, graceful)
        for run in runs:
            run.begin()
            run.begin(clients=1, impatient=True)
        ends = time.monotonic() + SECONDS
        while time.monotonic() < ends:
            for fault in random.sample(FAULTS, len(FAULTS)):
                for run in runs:
                    run.provider.misbehave(CALM)
                # What is lost at the strict one is refreshed no more: the other one counts.
                await asyncio.gather(site.grow(3), graceful.until(ENOUGH))
                await fault(site, runs)
        found = await graceful.verdict()
        assert found.faults == NONE, found
        found = await strict.verdict()
        in_flight = set().union(*(one.held for one in strict.record.killed))
        assert set(found.lost) <= in_flight
        assert found.faults == NONE | {"lost": len(found.lost)}, found
