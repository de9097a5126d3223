"""How a call ended, until it is durable: with the batch, or by asking again, or in the spool."""

import asyncio
import time
from collections.abc import Callable, Sequence
from contextvars import copy_context
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from vault.errors import IntegrityError, NotReady
from vault.lifecycle.terms import terms_of
from vault.model import WorkspaceId
from vault.oauth.app import App, TokenSet
from vault.providers import Catalogue
from vault.refreshing import keeping
from vault.refreshing.batches import Batches
from vault.refreshing.keeping import Keeper, Kept
from vault.refreshing.lane import Lane
from vault.refreshing.page import Ending, Outlet, Place, Settled
from vault.refreshing.spool import Spool
from vault.seal import Keyed, SealingKey
from vault.secret import Secret
from vault.store import WorkspaceSeal
from vault.store.answers import Attempt

WORKSPACE = WorkspaceId("ws_1")
DEPLOYMENT = "dep_1"
NOW = datetime(2026, 1, 1, tzinfo=UTC)


class Desk:
    """A lane whose database does as ``answer`` says, and whoever waits in front of it."""

    def __init__(self, folder: Path) -> None:
        key = SealingKey.from_workspace_key(b"k" * 16, b"w" * 32)
        app = App(provider=Catalogue().get("oauth2"))
        sealing = WorkspaceSeal(WORKSPACE, key, Keyed(b"i" * 32))
        self.outlet = Outlet(app, terms_of(app.provider), sealing)
        nothing: Any = None  # what stores is the desk's
        self.lane = Lane(Place(WORKSPACE, "acme", "production"), nothing, nothing, nothing)
        self.lane.endings = Batches(self._store)
        self.folder = folder
        self.keeper = Keeper(Spool(folder), DEPLOYMENT)
        self.answer: Callable[[Ending], Exception | None] = lambda _: None
        self.open = asyncio.Event()
        self.open.set()
        self.tries = 0
        self.told: dict[str, list[Settled | BaseException]] = {}

    async def _store(self, ended: Sequence[Ending]) -> list[Settled]:
        self.tries += 1
        await self.open.wait()
        for one in ended:
            if (error := self.answer(one)) is not None:
                raise error
        return [Settled(2)] * len(ended)

    def keep(self, name: str, *, tokens: bool = True) -> Kept:
        told = self.told.setdefault(name, [])
        return self.keeper.keep(
            self.lane,
            self.ending(name, tokens=tokens),
            told.append,
            context=copy_context(),
            hurry=True,
        )

    def ending(self, name: str, *, tokens: bool = True) -> Ending:
        return Ending(
            connection_id=name,
            user_id="ada",
            fence=1,
            attempt=Attempt(
                connection_id=name, fence=1, owner="", attempt="", began_at=NOW, outcome=""
            ),
            outlet=self.outlet,
            tokens=TokenSet(access_token=Secret("new"), obtained_at=NOW) if tokens else None,
        )

    @property
    def spooled(self) -> list[str]:
        return sorted(file.name.split(".")[0] for file in self.folder.glob("*.answer"))

    async def until(self, done: Callable[[], bool]) -> None:
        async with asyncio.timeout(60):
            while not done():  # noqa: ASYNC110 - it tells nobody
                await asyncio.sleep(0.002)

    async def spooled_after(self, name: str, since: float) -> float:
        """Wait until it is in the spool; how long after that moment that was."""
        await self.until(lambda: name in self.spooled)
        return time.monotonic() - since


SPOOL_AFTER = 0.2


@pytest.fixture
async def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    monkeypatch.setattr(keeping, "SPOOL_AFTER", SPOOL_AFTER)
    return Desk(tmp_path / "spool")


async def test_mostly_it_is_stored_and_told_and_no_task_waits_for_it(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeping, "SPOOL_AFTER", 60)
    kept = [desk.keep(f"c{number}") for number in range(5)]
    await desk.until(lambda: all(desk.told.values()))
    assert all(told == [Settled(2)] for told in desk.told.values())
    assert desk.tries == 1
    assert all(one.task is None for one in kept)
    monkeypatch.setattr(keeping, "SPOOL_AFTER", 0)
    desk.keeper._ring()  # noqa: SLF001 - now they would have waited for long enough
    assert all(one.task is None for one in kept)
    assert desk.spooled == []


async def test_what_the_database_does_not_take_in_time_is_in_the_spool_until_it_has(
    desk: Desk,
) -> None:
    desk.open.clear()
    first = time.monotonic()
    desk.keep("c1")
    await asyncio.sleep(0.1)
    second = time.monotonic()
    desk.keep("c2")
    desk.keep("c3", tokens=False)
    assert await desk.spooled_after("c1", first) >= SPOOL_AFTER
    assert await desk.spooled_after("c2", second) >= SPOOL_AFTER, "each has its own time"
    assert desk.spooled == ["c1", "c2"]
    assert not any(desk.told.values())
    desk.open.set()
    await desk.until(lambda: all(desk.told.values()))
    assert all(told == [Settled(2)] for told in desk.told.values())
    assert desk.spooled == []


async def test_one_that_was_stored_before_does_not_spare_the_others_the_spool(desk: Desk) -> None:
    desk.keep("c1")
    await desk.until(lambda: bool(desk.told["c1"]))
    desk.open.clear()
    began = time.monotonic()
    desk.keep("c2")
    assert await desk.spooled_after("c2", began) >= SPOOL_AFTER
    desk.open.set()
    await desk.until(lambda: bool(desk.told["c2"]))


async def test_the_database_is_asked_until_it_is_there_and_soon_after_it_fails(desk: Desk) -> None:
    desk.answer = lambda _: NotReady("away") if desk.tries < 4 else None
    desk.keep("c1")
    desk.keep("c2", tokens=False)
    await desk.until(lambda: all(desk.told.values()))
    assert desk.told == {"c1": [Settled(2)], "c2": [Settled(2)]}
    assert desk.spooled == []


async def test_what_no_second_try_would_mend_stays_in_the_spool_and_is_told(desk: Desk) -> None:
    desk.answer = lambda one: IntegrityError("odd") if one.connection_id == "c1" else None
    desk.keep("c1")
    desk.keep("c2")
    await desk.until(lambda: all(desk.told.values()))
    assert [type(one) for one in desk.told["c1"]] == [IntegrityError]
    assert desk.told["c2"] == [Settled(2)]
    assert desk.spooled == ["c1"]


@pytest.mark.parametrize("after", [0, 0.1, 0.3], ids=["at once", "soon", "when it is spooled"])
async def test_who_is_cancelled_leaves_the_answer_in_the_spool(desk: Desk, after: float) -> None:
    desk.open.clear()
    kept, other = desk.keep("c1"), desk.keep("c2", tokens=False)
    if after:
        await asyncio.sleep(after)
    for one in (kept, other):
        desk.keeper.cancel(one)
    await desk.until(lambda: all(desk.told.values()))
    assert [type(one) for told in desk.told.values() for one in told] == [
        asyncio.CancelledError
    ] * 2
    assert desk.spooled == ["c1"]
    desk.open.set()
    await desk.until(lambda: desk.lane.endings.idle)
    assert [len(told) for told in desk.told.values()] == [1, 1], "it is told once"


async def test_whoever_waits_for_it_hears_the_same(desk: Desk) -> None:
    assert await desk.keeper.kept(desk.lane, desk.ending("c1")) == Settled(2)
    desk.answer = lambda _: IntegrityError("odd")
    with pytest.raises(IntegrityError):
        await desk.keeper.kept(desk.lane, desk.ending("c2"))
    desk.open.clear()
    waits = asyncio.create_task(desk.keeper.kept(desk.lane, desk.ending("c3")))
    await asyncio.sleep(0.01)
    waits.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waits
    assert desk.spooled == ["c2", "c3"]
