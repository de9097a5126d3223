"""Refreshes in several real processes, with one fault at a time: none is lost, none is made twice.

* Providers here end a consent at the first replay. ``strict`` ones give no second chance at all;
  ``graceful`` ones take the refresh token before once more, for a while.
* Every run has clients of two workspaces asking all the time; tokens live for four seconds.
"""

import asyncio
from collections.abc import AsyncIterator

import pytest
from faults.refreshing import Run, Site, SiteRun, a_run, a_site
from msgspec.structs import replace
from support.refresh_history import NONE, Findings

from broker.sandbox import Faults
from vault.lifecycle.takeover import LEASE

TOLD = """
select type from vault.outbox
 where body::json ->> 'connection_id' = $1 and type = 'connection.needs_reauth'"""

HERE, THERE = "here", "there"
ENOUGH = 12  # refreshes, before and after each fault


@pytest.fixture(scope="module")
async def site(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    async with a_site(tmp_path_factory.mktemp("site"), HERE, THERE) as found:
        yield found


def assert_nothing_happened(found: Findings) -> None:
    assert found.faults == NONE, found
    assert found.refreshes >= 2 * ENOUGH, "else nothing was tried"
    assert found.handed >= 2 * ENOUGH


async def test_without_a_fault_there_is_none(site: Site) -> None:
    async with a_run(site) as run:
        run.begin()
        await run.until(2 * ENOUGH)
        assert set(await run.pry()) == {404}, "another workspace's connections are not there"
        assert_nothing_happened(await run.verdict())


async def test_replicas_that_are_told_to_stop_under_load(site: Site) -> None:
    async with a_run(site, faults=Faults(hold=0.5)) as run:
        run.begin()
        for _ in range(2):
            await asyncio.gather(site.grow(3), run.until(ENOUGH))
            assert await site.terminate(await site.busy()) == 0
        await run.until(ENOUGH)
        assert_nothing_happened(await run.verdict())


async def test_replicas_that_are_killed_where_the_provider_has_a_grace(site: Site) -> None:
    async with a_run(site, kind="graceful", faults=Faults(hold=0.5)) as run:
        run.begin()
        held = 0
        for _ in range(3):
            await asyncio.gather(site.grow(3), run.until(ENOUGH))
            killed = await site.kill(await site.caught())
            run.record.killed.append(killed)
            held += len(killed.held)
        await run.until(ENOUGH)
        assert held, "something was in flight"
        assert_nothing_happened(await run.verdict())


async def test_replicas_that_are_killed_where_the_provider_has_none(site: Site) -> None:
    """Nobody can do anything about what the provider has replaced and we have never heard of."""
    in_flight: set[str] = set()
    for _ in range(2):
        async with a_run(site, faults=Faults(hold=0.5)) as run:
            run.begin()
            await run.until(ENOUGH)
            killed = await site.kill(await site.caught())
            run.record.killed.append(killed)
            found = await run.verdict()
            assert set(found.lost) <= killed.held, "at most what was in flight in that replica"
            assert found.faults == NONE | {"lost": len(found.lost)}
            in_flight |= killed.held
    assert in_flight


@pytest.mark.parametrize("point", ["claim", "response", "save"])
async def test_a_database_that_crashes_around_a_refresh(site: Site, point: str) -> None:
    slow = Faults(hold=1.0) if point == "response" else Faults(latency=0.5)
    async with a_run(site, faults=slow) as run:
        run.begin()
        for _ in range(2):
            await run.until(ENOUGH)
            if point == "claim":
                await site.busy()
            else:
                await run.until(1, "used" if point == "response" else "answered")
            await site.crash_database(down=0.5)
        await run.until(ENOUGH)
        assert_nothing_happened(await run.verdict())


async def test_a_database_that_is_away_for_longer_than_answers_wait(site: Site) -> None:
    """They go to the spool, and come back from there."""
    async with a_run(site, faults=Faults(hold=0.5)) as run:
        run.begin()
        await run.until(ENOUGH)
        await run.until(1)
        await site.crash_database(down=4)
        await run.until(ENOUGH)
        assert_nothing_happened(await run.verdict())
        assert any("answer_spooled" in one.replica.stderr for one in site.members)
        assert list(site.spool.glob("*.answer")) == []


async def test_a_replica_that_sleeps_past_its_lease(site: Site) -> None:
    async with a_run(site, faults=Faults(hold=1.0)) as run:
        run.begin()
        await run.until(ENOUGH)
        member = await site.caught()
        with site.asleep(member):
            assert await site.held(member)
            await site.let_leases_end(member)
            await run.until(ENOUGH)
            await asyncio.sleep(2)
        await run.until(ENOUGH)
        assert_nothing_happened(await run.verdict())


@pytest.mark.soak
async def test_a_replica_that_really_sleeps_past_its_lease(site: Site) -> None:
    """Past the deadline of its call, too: it wakes up with the answer in its socket."""
    async with a_run(site, faults=Faults(hold=1.0)) as run:
        run.begin()
        await run.until(ENOUGH)
        member = await site.caught()
        with site.asleep(member):
            assert await site.held(member)
            await asyncio.sleep(LEASE.total_seconds() + 15)
        await run.until(ENOUGH)
        assert_nothing_happened(await run.verdict())


async def test_a_provider_that_takes_longer_than_tokens_have_left(site: Site) -> None:
    async with a_run(site, faults=Faults(hold=2.5)) as run:
        run.begin()
        await run.until(3 * ENOUGH)
        assert_nothing_happened(await run.verdict())


async def test_a_provider_slower_than_any_lock_is_called_once_by_two_processes(site: Site) -> None:
    """Nango's published failure, with a lock of ten seconds, lost the connection."""
    async with a_run(site, users=1, size=2, faults=Faults(hold=11, times=2)) as run:
        run.provider.state.issuing = replace(run.provider.state.issuing, lifetime=3600)
        run.begin(clients=4)
        await run.until(2)
        await run.until(2, "answered")
        events = run.provider.state.history.events()
        used = {one.request: one.at for one in events if one.what == "used"}
        took = [one.at - used[one.request] for one in events if one.what == "answered"]
        assert min(took) > 10
        told = len(run.record.handed)
        await run.told(told + 2 * ENOUGH)
        assert run.refreshes == 2, "one call for each connection"
        found = await run.verdict()
        assert found.faults == NONE, found


async def test_callers_that_hang_up(site: Site) -> None:
    async with a_run(site, faults=Faults(latency=0.5)) as run:
        run.begin(impatient=True)
        await run.until(2 * ENOUGH)
        run.begin(clients=1)  # beside them, somebody who waits for his answer
        await run.told(2 * ENOUGH)
        assert_nothing_happened(await run.verdict())


async def test_a_dead_grant_gets_one_verdict_from_all_processes_and_no_storm(site: Site) -> None:
    async with a_run(site, users=1) as run:
        dead, _ = run.record.connected
        [family] = [one for one in run.provider.state.ledger.families() if one.id == dead.family]
        run.provider.state.ledger.end_consent(family, "withdrawn")
        run.begin(clients=4, rejected=True)
        await run.until(ENOUGH)
        assert uses(run, dead.family) == 1, "a suspicion is not tried again and again"
        await site.ask(
            "update vault.connection_lives"
            "   set suspect_since = suspect_since - interval '2 minutes',"
            "       next_try_at = now(), due_at = now()"
            " where connection_id = $1",
            dead.connection,
        )
        await site.until(TOLD, ["connection.needs_reauth"], dead.connection)
        await run.until(ENOUGH)
        assert uses(run, dead.family) == 1, "a rotated token is not sent again to make sure"
        found = await run.verdict()
        assert found.faults == NONE | {"lost": 1}
        assert found.lost == (dead.connection,)
        assert len(await site.ask(TOLD, dead.connection)) == 1


def uses(run: Run | SiteRun, family: str) -> int:
    """How often a refresh token of this consent was presented."""
    events = run.provider.state.history.events()
    return sum(one.what == "used" and one.family == family for one in events)
