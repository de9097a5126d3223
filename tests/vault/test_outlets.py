"""App registrations at hand: resolved anew beside those who use them, and never used too old."""

import asyncio
from typing import Any

import pytest

from vault.errors import Invalid
from vault.lifecycle.terms import terms_of
from vault.model import WorkspaceId
from vault.oauth.app import App
from vault.providers import Catalogue
from vault.refreshing import outlets
from vault.refreshing.outlets import Outlets
from vault.refreshing.page import Outlet, Place
from vault.seal import Keyed, SealingKey
from vault.store import WorkspaceSeal

WORKSPACE = WorkspaceId("ws_1")
PLACE = Place(WORKSPACE, "acme", "production")


class Registry:
    """Where registrations are looked up: each time another version, when the gate is open."""

    def __init__(self) -> None:
        self.now = 0.0
        self.version = 0
        self.fails = False
        self.gate = asyncio.Event()
        self.gate.set()
        store: Any = self  # of a store no more is asked than what seals
        self.outlets = Outlets(self.app_of, store)

    def monotonic(self) -> float:
        return self.now

    async def app_of(self, _: Place) -> App:
        self.version += 1
        app = App(provider=Catalogue().get("oauth2"), client_id=f"v{self.version}")
        await self.gate.wait()
        if self.fails:
            raise Invalid("It cannot be used.")
        return app

    async def seal_of(self, workspace: WorkspaceId) -> WorkspaceSeal:
        key = SealingKey.from_workspace_key(b"k" * 16, b"w" * 32)
        return WorkspaceSeal(workspace, key, Keyed(b"i" * 32))

    def at_hand(self) -> str | None:
        return version_of(self.outlets.at_hand(PLACE))

    async def of(self) -> str | None:
        return version_of(await self.outlets.of(PLACE))

    async def settle(self) -> None:
        """Let everything run that can."""
        for _ in range(20):
            await asyncio.sleep(0)


def version_of(outlet: Outlet | None) -> str | None:
    if outlet is None:
        return None
    assert outlet.terms == terms_of(outlet.app.provider)
    return outlet.app.client_id


@pytest.fixture
async def registry(monkeypatch: pytest.MonkeyPatch) -> Registry:
    made = Registry()
    monkeypatch.setattr(outlets, "time", made)
    return made


async def test_one_that_was_just_resolved_is_at_hand_and_not_resolved_again(
    registry: Registry,
) -> None:
    assert registry.at_hand() is None
    assert await registry.of() == "v1"
    registry.now = 2.4
    assert registry.at_hand() == "v1"
    assert await registry.of() == "v1"
    await registry.settle()
    assert registry.version == 1


async def test_whoever_goes_on_using_one_never_waits_and_never_gets_one_that_is_too_old(
    registry: Registry,
) -> None:
    await registry.of()
    for second in range(1, 30):
        registry.now = float(second)
        seen = registry.at_hand()
        await registry.settle()
        assert seen is not None
    assert registry.version > 8
    assert registry.at_hand() == f"v{registry.version}"


async def test_one_that_is_too_old_is_not_at_hand_also_while_another_is_under_way(
    registry: Registry,
) -> None:
    await registry.of()
    registry.gate.clear()
    registry.now = 4.9
    assert registry.at_hand() == "v1"
    registry.now = 5.1
    assert registry.at_hand() is None
    registry.gate.set()
    assert await registry.of() == "v3"


async def test_what_is_being_resolved_when_it_is_changed_is_not_used(registry: Registry) -> None:
    await registry.of()
    registry.gate.clear()
    registry.now = 3.0
    assert registry.at_hand() == "v1"
    registry.outlets.forget(WORKSPACE, "acme")
    registry.gate.set()
    await registry.settle()
    assert registry.at_hand() is None
    assert await registry.of() == "v3"


async def test_if_it_cannot_be_resolved_anew_it_is_used_until_it_is_too_old_and_then_says_why(
    registry: Registry,
) -> None:
    await registry.of()
    registry.fails = True
    for at in (3.0, 3.5, 4.9):
        registry.now = at
        assert registry.at_hand() == "v1"
        await registry.settle()
    assert registry.version == 2
    registry.now = 5.1
    assert registry.at_hand() is None
    with pytest.raises(Invalid, match="cannot be used"):
        await registry.of()


async def test_nothing_is_kept_of_a_place_that_nobody_uses_any_more(registry: Registry) -> None:
    await registry.of()
    other = Place(WORKSPACE, "other", "production")
    await registry.outlets.of(other)
    for second in range(1, 12):
        registry.now = float(second)
        registry.outlets.at_hand(other)
        await registry.settle()
    assert list(registry.outlets._known) == [other]  # noqa: SLF001 - what is kept is the point
