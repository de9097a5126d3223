"""A person types a code in elsewhere; meanwhile we ask no more often than we were told to."""

import asyncio
import re
from collections.abc import AsyncIterator
from datetime import datetime, timedelta

import pytest
from conftest import Tenant
from support.connecting import SECRET, invite
from support.sandbox import Provider, providing
from support.visitor import Shown, Visitor, visiting

from broker.sandbox import Consent
from broker.sandbox.device import Waiting
from vault.vault import Vault

CODE = re.compile(r"\b[A-Z]{4}-[A-Z]{4}\b")
INTERVAL = 50


@pytest.fixture
async def provider() -> AsyncIterator[Provider]:
    async with providing() as found:
        yield found


@pytest.fixture
async def ada() -> AsyncIterator[Visitor]:
    async with visiting() as found:
        yield found


async def begun(tenant: Tenant, provider: Provider, ada: Visitor) -> tuple[Shown, Waiting]:
    """The page with the code, and what the provider knows of it."""
    addresses = {
        "device_url": f"{provider.base}/oauth/device",
        "token_url": provider.token_url,
        "userinfo_url": f"{provider.base}/oauth/userinfo",
    }
    provider.register("app", secret=SECRET)
    body = {
        "provider": "oauth2-device",
        "client_id": "app",
        "client_secret": SECRET,
        "client_auth": "post",
        "scopes": ["openid", "email"],
        "variables": addresses,
    }
    made = await tenant.api.put("/v1/integrations/acme", body)
    assert made.status == 201, made.body
    provider.state.consent = Consent(device_interval=INTERVAL)
    session = await invite(tenant.api)
    shown = await ada.submit(await ada.get(session["url"]))
    code = CODE.search(shown.text)
    assert code
    waiting = provider.state.devices.by_user_code(code[0])
    assert waiting
    return shown, waiting


class Later:
    """Lets time pass for us and for the provider, who each measure it."""

    def __init__(self, vault: Vault, monkeypatch: pytest.MonkeyPatch) -> None:
        self._passed = timedelta()
        now = vault._time  # noqa: SLF001 - what is remembered of a way is sealed

        async def later() -> datetime:
            return await now() + self._passed

        monkeypatch.setattr(vault, "_time", later)

    def passes(self, waiting: Waiting, seconds: float) -> None:
        self._passed += timedelta(seconds=seconds)
        waiting.polled -= seconds


@pytest.fixture
def later(vault: Vault, monkeypatch: pytest.MonkeyPatch) -> Later:
    return Later(vault, monkeypatch)


async def test_who_reloads_the_page_does_not_make_us_ask_more_often(
    tenant: Tenant, provider: Provider, ada: Visitor, later: Later
) -> None:
    shown, waiting = await begun(tenant, provider, ada)
    seconds, again = shown.refresh
    assert seconds == INTERVAL
    pages = await asyncio.gather(*(ada.get(again) for _ in range(5)))
    assert {page.title for page in pages} == {shown.title}
    assert len(provider.token_calls) == 1
    waiting.decided, waiting.account = "allow", "ada"
    assert (await ada.get(again)).title == shown.title
    assert len(provider.token_calls) == 1
    later.passes(waiting, INTERVAL)
    confirmation = await ada.get(again)
    assert "ada@example.com" in confirmation.text
    end = await ada.submit(confirmation, _answer="yes")
    assert end.title == "Your account is connected"
    assert len(provider.token_calls) == 2
    [connection] = (await tenant.api.get("/v1/users/ada/connections")).json["data"]
    assert connection["state"] == "active"


async def test_who_is_told_to_slow_down_stays_slower(
    tenant: Tenant, provider: Provider, ada: Visitor, later: Later
) -> None:
    shown, waiting = await begun(tenant, provider, ada)
    _, again = shown.refresh
    assert (await ada.get(again)).refresh == (INTERVAL, again)
    waiting.interval = 10 * INTERVAL  # the provider has changed its mind
    later.passes(waiting, INTERVAL)
    assert (await ada.get(again)).refresh == (INTERVAL + 5, again)
    later.passes(waiting, 1)
    assert (await ada.get(again)).refresh == (INTERVAL + 5, again)
    assert len(provider.token_calls) == 2


async def test_a_no_on_the_other_device_is_a_no_here(
    tenant: Tenant, provider: Provider, ada: Visitor
) -> None:
    shown, waiting = await begun(tenant, provider, ada)
    waiting.decided = "deny"
    assert (await ada.get(shown.refresh[1])).title == "Nothing was connected"
    assert (await tenant.api.get("/v1/users/ada/connections")).json["data"] == []


async def test_another_browser_learns_nothing_of_the_code(
    tenant: Tenant, provider: Provider, ada: Visitor
) -> None:
    shown, waiting = await begun(tenant, provider, ada)
    waiting.decided, waiting.account = "allow", "ada"
    async with visiting() as other:
        page = await other.get(shown.refresh[1])
        assert waiting.user_code not in page.text
        assert provider.token_calls == []
