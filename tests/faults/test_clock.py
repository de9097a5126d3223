"""A machine's clock is set back an hour, or forward, under a running service: nothing comes of it.

The processes are real, and so is their wrong clock (libfaketime); only what counts seconds since
some moment goes on as ever, as it does when somebody sets a machine's clock.
"""

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest
from faults.load import Wire
from faults.refreshing import DURABLE, Site, SiteRun, a_run, a_site
from faults.test_refresh_faults import assert_nothing_happened
from msgspec.structs import replace
from support.process import Deployment, deployment
from support.refresh_history import Connected

from broker.sandbox import Faults

LIBRARY: Final = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)
HERE, THERE = "here", "there"
ENOUGH = 12
WRITTEN: Final = re.compile(r'"at": ?"([^"]+)"')
TICKED: Final = re.compile(r'keyturn_tick_age_seconds\{job="refresh"\} ([0-9.e+-]+)')

pytestmark = pytest.mark.skipif(
    LIBRARY is None, reason="there is no libfaketime (.ci/run installs it)"
)


class Clock:
    """The wall clock of every process that was told to look at this file."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.show("+0")

    def show(self, shift: str) -> None:
        """Be wrong by so much from now on, as in ``-1h``."""
        fresh = self._file.with_suffix(".new")
        fresh.write_text(f"{shift}\n")
        fresh.rename(self._file)

    @property
    def environment(self) -> dict[str, str]:
        return {
            "LD_PRELOAD": str(LIBRARY),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_CACHE_DURATION": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }


@contextlib.contextmanager
def wrong(file: Path, **settings: Any) -> Iterator[Deployment]:
    """A deployment whose replicas have such a clock. The database has the right one."""
    with deployment(DURABLE, **settings) as made:
        made.env.update(Clock(file).environment)
        yield made


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with a_site(tmp_path, HERE, THERE, on=partial(wrong, tmp_path / "clock")) as made:
        yield made


async def shifted(site: Site, clock: Clock, shift: str) -> None:
    """Set the clock, and wait until every replica's is wrong, as its log says."""
    clock.show(shift)
    wanted = timedelta(hours=1 if shift.startswith("+") else -1)
    for member in site.members:
        wire = Wire(member.replica.port, site.keys[HERE])
        async with asyncio.timeout(60):
            while True:
                await wire.call("GET", "/v1/users")
                said = datetime.fromisoformat(WRITTEN.findall(member.replica.stderr)[-1])
                if abs(said - datetime.now(UTC) - wanted) < timedelta(minutes=5):
                    break
                await asyncio.sleep(0.2)
        wire.close()


async def ticks_go_on(site: Site) -> None:
    """Each replica has ticked since this began."""
    began = time.monotonic()
    for port in site.ports:
        wire = Wire(port, site.keys[HERE])
        async with asyncio.timeout(60):
            while True:
                found = TICKED.search((await wire.call("GET", "/metrics")).body.decode())
                if found and float(found[1]) < time.monotonic() - began:
                    break
                await asyncio.sleep(0.2)
        wire.close()


@pytest.mark.parametrize("shift", ["-1h", pytest.param("+1h", marks=pytest.mark.soak)])
async def test_refreshes_are_made_in_their_time_whatever_the_machines_clock_says(
    site: Site, tmp_path: Path, shift: str
) -> None:
    clock = Clock(tmp_path / "clock")
    async with a_run(site, size=2, faults=Faults(hold=0.3)) as run:
        run.begin()
        await run.until(ENOUGH)
        await shifted(site, clock, shift)
        await ticks_go_on(site)
        await run.until(ENOUGH)
        assert_nothing_happened(await run.verdict())


async def refreshed_for_an_hour(run: SiteRun, one: Connected) -> None:
    """A refresh that was under way before may have brought a token that ends soon."""
    left = 0
    while left < 1800:
        path = f"/v1/connections/{one.connection}/refresh"
        answer = await run.call(one.workspace, "POST", path, None)
        assert answer is not None
        assert answer.ok
        token = await run.ask(one, {})
        assert token is not None
        left = token.json["expires_in"]


@pytest.mark.parametrize("shift", ["-1h", pytest.param("+1h", marks=pytest.mark.soak)])
async def test_no_storm_and_no_key_that_lives_longer_or_less_than_promised(
    site: Site, tmp_path: Path, shift: str
) -> None:
    clock = Clock(tmp_path / "clock")
    async with a_run(site, size=2) as run:
        run.provider.state.issuing = replace(run.provider.state.issuing, lifetime=3600)
        for one in run.record.connected:
            await refreshed_for_an_hour(run, one)
        made = run.refreshes
        wire = Wire(site.ports[0], site.keys[HERE])
        ends = {"short": timedelta(seconds=20), "long": timedelta(minutes=30)}
        begun = datetime.now(UTC)
        keys = {}
        for name, lasts in ends.items():
            body = {"name": name, "scopes": ["manage"], "expires_at": (begun + lasts).isoformat()}
            keys[name] = (await wire.call("POST", "/v1/keys", body)).json["key"]
        await shifted(site, clock, shift)
        await ticks_go_on(site)
        run.begin(clients=1)
        await run.told(3 * len(run.record.connected))
        await run.end()
        assert run.refreshes == made, "each has an hour left, by the database's clock"
        left = (begun + ends["short"] - datetime.now(UTC)).total_seconds()
        await asyncio.sleep(max(0, left) + 1)
        for port in site.ports:
            short, long = Wire(port, keys["short"]), Wire(port, keys["long"])
            assert (await short.call("GET", "/v1/users")).status == 401
            assert (await long.call("GET", "/v1/users")).status == 200
            short.close()
            long.close()
        soon = (datetime.now(UTC) + timedelta(minutes=5)).isoformat()
        past = (datetime.now(UTC) - timedelta(minutes=5)).isoformat()
        for at, status in ((soon, 201), (past, 422)):
            body = {"name": "k", "scopes": ["manage"], "expires_at": at}
            assert (await wire.call("POST", "/v1/keys", body)).status == status
        wire.close()
