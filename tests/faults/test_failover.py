"""The database's machine is lost, and its standby takes over: real servers, replicated for real.

An address that names both servers is all that Keyturn needs to find the one that takes writes.
"""

import asyncio
import contextlib
import json
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from faults.ledger import Ledger, assert_bounded, full_load
from faults.load import Answer, Load, Wire
from faults.refreshing import Member, Site, SiteRun, a_run, a_site
from support.api import Api
from support.process import Deployment, short_folder
from support.refresh_history import NONE
from support.standby import Pair, a_pair, programs

from broker.sandbox import Faults
from vault.database import FAILOVER_SECONDS

FOUND = programs()
HERE, THERE = "here", "there"
ENOUGH = 12
# A replica waits between two tries, and connects; the machine may be busy.
COMES_BACK = 10.0
BEHIND = "older than what this deployment has done"

pytestmark = pytest.mark.skipif(
    FOUND is None, reason="there is no pg_basebackup (.ci/run installs it)"
)


@pytest.fixture
def pair() -> Iterator[Pair]:
    assert FOUND is not None
    with a_pair(FOUND) as found:
        yield found


@contextlib.contextmanager
def on(pair: Pair, **settings: Any) -> Iterator[Deployment]:
    """A deployment whose database is the pair."""
    with short_folder() as folder:
        made = Deployment(folder, pair, **settings)  # type: ignore[arg-type] # its addresses are all that is asked for
        try:
            yield made
        finally:
            made.close()


@pytest.fixture
async def made(pair: Pair) -> AsyncIterator[Deployment]:
    await pair.open(synchronous=True)
    with on(pair) as found:
        yield found


@contextlib.asynccontextmanager
async def site_on(pair: Pair, folder: Path, *, synchronous: bool) -> AsyncIterator[Site]:
    await pair.open(synchronous=synchronous)
    async with a_site(folder, HERE, THERE, on=partial(on, pair)) as site:
        yield site


def mints(load: Load, port: int, key: str, told: set[str]) -> None:
    """Somebody who mints, again and again."""
    wanted = {"agent_id": "a", "user_id": "user0", "runtime": "sealed", "delivery": "inline"}

    async def mint(wire: Wire) -> Answer:
        answer = await wire.call("POST", "/v1/conversations", wanted)
        if answer.ok:
            told.add(answer.json["id"])
        return answer

    for _ in range(3):
        load.add(Wire(port, key), mint, pause=0.01)


async def test_what_was_answered_is_there_after_a_failover_and_all_goes_on_by_itself(
    made: Deployment, pair: Pair
) -> None:
    replica, key = await made.one_replica()
    ledger, minted = Ledger(), set[str]()
    load = full_load(ledger, replica, key)
    await load.until(50)
    mints(load, replica.port, key, minted)
    await load.until(150)
    pair.primary.kill()
    await asyncio.sleep(1)
    assert await replica.readiness() == 503, "it says so at once"
    await pair.promote()
    promoted = time.monotonic()
    await load.until(len(load.answers) + 300)
    answers = await load.stop()
    assert [one.body for one in answers if not (one.ok or one.is_clean_refusal)] == []
    assert ledger.unclean == []
    assert_bounded(answers, FAILOVER_SECONDS + COMES_BACK)
    late = [one for one in answers if one.begun > promoted + COMES_BACK]
    assert [one.status for one in late if not one.ok] == []
    assert [one for one in answers if one.ok and promoted < one.ended < promoted + COMES_BACK]
    wire = Wire(replica.port, key)
    await ledger.compare(wire)
    lost = [one for one in minted if not (await wire.call("GET", f"/v1/conversations/{one}")).ok]
    assert minted
    assert lost == []
    assert (await wire.call("GET", "/readyz")).status == 200
    wire.close()


async def test_who_asks_during_a_failover_of_ten_seconds_is_answered_after_it(
    made: Deployment, pair: Pair
) -> None:
    replica, key = await made.one_replica()
    wires = [Wire(replica.port, key) for _ in range(8)]
    written = [
        await wires[0].call("PUT", f"/v1/users/user{number}", {"name": "Ada"})
        for number in range(8)
    ]
    assert {one.status for one in written} == {200}
    pair.primary.kill()
    asked = [
        asyncio.create_task(wire.call("GET", f"/v1/users/user{number}"))
        for number, wire in enumerate(wires)
    ]
    await asyncio.sleep(10)
    assert not any(one.done() for one in asked), "they wait"
    await pair.promote()
    assert {one.status for one in await asyncio.gather(*asked)} == {200}
    for wire in wires:
        wire.close()


async def test_nobody_waits_for_a_standby_that_is_not_promoted(
    made: Deployment, pair: Pair
) -> None:
    replica, key = await made.one_replica()
    wires = [Wire(replica.port, key) for _ in range(8)]
    assert (await wires[0].call("PUT", "/v1/users/ada", {"name": "Ada"})).ok
    pair.primary.kill()
    first = await asyncio.gather(*(wire.call("GET", "/v1/users/ada") for wire in wires))
    assert [one.body for one in first if not one.is_clean_refusal] == []
    assert_bounded(list(first), FAILOVER_SECONDS + COMES_BACK)
    then = await asyncio.gather(*(wire.call("GET", "/v1/users/ada") for wire in wires))
    assert [one.body for one in then if not one.is_clean_refusal] == []
    assert_bounded(list(then), FAILOVER_SECONDS)
    assert (await wires[0].call("GET", "/livez")).status == 200
    await pair.promote()
    await replica.ready()
    assert (await wires[0].call("GET", "/v1/users/ada")).json["name"] == "Ada"
    for wire in wires:
        wire.close()


async def test_refreshes_under_way_in_a_failover_are_neither_lost_nor_made_twice(
    pair: Pair, tmp_path: Path
) -> None:
    """A standby knows nobody's lock, and has run for long: no replica may take the others for dead
    while they are still on their way to it.
    """
    async with (
        site_on(pair, tmp_path, synchronous=True) as site,
        a_run(site, faults=Faults(hold=1.0)) as run,
    ):
        run.begin()
        await run.until(ENOUGH)
        await site.busy()
        pair.primary.kill()
        await asyncio.sleep(4)
        await pair.promote()
        await run.until(ENOUGH)
        found = await run.verdict()
        assert found.faults == NONE, found
        assert found.refreshes >= 2 * ENOUGH


def _written(site: Site) -> int:
    """The mark outside of the database."""
    [file] = site.spool.glob("high-water-*.json")
    return int(json.loads(file.read_text())["mark"])


@contextlib.asynccontextmanager
async def _run_beside_a_standby(pair: Pair, folder: Path) -> AsyncIterator[tuple[Site, SiteRun]]:
    """Two replicas that refresh; the standby is not waited for."""
    async with (
        site_on(pair, folder, synchronous=False) as site,
        a_run(site, users=1, size=2) as run,
    ):
        run.begin(clients=1)
        await run.until(4)
        yield site, run


async def _failed_over_to_what_is_behind(site: Site, pair: Pair) -> None:
    await pair.leave_behind()
    [behind] = await site.ask("select mark from vault.high_water")
    async with asyncio.timeout(60):  # the mark grows once a second
        while _written(site) <= int(behind):  # noqa: ASYNC110 - a file tells nobody
            await asyncio.sleep(0.1)
    pair.primary.kill()
    await pair.promote()


async def _told_behind(api: Api) -> None:
    async with asyncio.timeout(60):
        while BEHIND not in (await api.get("/readyz")).body.decode():  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0.1)


async def test_a_standby_that_was_behind_refreshes_nothing_and_says_so(
    pair: Pair, tmp_path: Path
) -> None:
    async with _run_beside_a_standby(pair, tmp_path) as (site, run):
        await _failed_over_to_what_is_behind(site, pair)
        await _told_behind(site.api(site.keys[HERE]))
        used = run.refreshes
        [one] = [each for each in run.record.connected if each.workspace == HERE]
        for _ in range(3):
            answer = await run.call(HERE, "POST", f"/v1/connections/{one.connection}/refresh", None)
            assert answer is not None
            assert answer.is_clean_refusal or answer.status == 503
        await asyncio.sleep(2)
        assert run.refreshes == used, "no refresh token of an older state is used"
        await run.end()


async def test_who_slept_through_it_knows_by_what_the_others_have_written_down(
    pair: Pair, tmp_path: Path
) -> None:
    async with _run_beside_a_standby(pair, tmp_path) as (site, run):
        awake, sleeper = site.members
        await _put_to_sleep(site, sleeper)
        await _failed_over_to_what_is_behind(site, pair)
        await _told_behind(site.api(site.keys[HERE], awake))
        used = run.refreshes
        os.kill(sleeper.replica.process.pid, signal.SIGCONT)
        [one] = [each for each in run.record.connected if each.workspace == HERE]
        api = site.api(site.keys[HERE], sleeper)
        for _ in range(20):
            answer = await api.post(f"/v1/connections/{one.connection}/refresh")
            assert answer.status == 503
        await _told_behind(api)
        assert run.refreshes == used, "no refresh token of an older state is used"
        await run.end()


async def _put_to_sleep(site: Site, member: Member) -> None:
    """Stop it with nothing in hand."""
    async with asyncio.timeout(60):
        while True:
            os.kill(member.replica.process.pid, signal.SIGSTOP)
            if not await site.held(member):
                return
            os.kill(member.replica.process.pid, signal.SIGCONT)
            await asyncio.sleep(0.05)
