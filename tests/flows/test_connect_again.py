"""Connecting what is connected already, twice at once, and giving back what is left behind."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from conftest import Tenant
from support.api import Running
from support.connecting import SECRET, integrate, invite
from support.journeys import Clock
from support.sandbox import Provider, providing
from support.visitor import Shown, Visitor, visiting

from broker.sandbox import Consent
from vault.secret import Secret
from vault.vault import Vault


@pytest.fixture
async def provider() -> AsyncIterator[Provider]:
    async with providing() as found:
        yield found


@pytest.fixture
async def ada() -> AsyncIterator[Visitor]:
    async with visiting() as found:
        yield found


def callback(service: Running, name: str = "acme") -> str:
    return f"{service.base}/oauth/oidc/{name}/callback"


async def connect(tenant: Tenant, ada: Visitor, **more: bool) -> Shown:
    """All the way to the last page."""
    session = await invite(tenant.api, "ada", **more)
    page = await ada.get(session["url"])
    shown = await ada.follow(await ada.follow(await ada.submit(page)))
    return await ada.submit(shown, _answer="yes") if "Is this you?" in shown.title else shown


def given_back(provider: Provider) -> int:
    return sum(one.path == "/oauth/revoke" for one in provider.state.requests)


async def test_another_account_takes_the_place_only_where_the_platform_says_so(
    tenant: Tenant, service: Running, provider: Provider, ada: Visitor
) -> None:
    await integrate(tenant.api, provider, callback(service))
    assert (await connect(tenant, ada)).title == "Your account is connected"
    provider.state.consent = Consent(auto="grace")
    refused = await connect(tenant, ada)
    assert "account" in refused.title
    [connection] = (await tenant.api.get("/v1/connections")).json["data"]
    assert connection["generation"] == 1
    assert given_back(provider) == 1, "what was refused, not what was there"
    assert (await connect(tenant, ada, replace_account=True)).title == "Your account is connected"
    [connection] = (await tenant.api.get("/v1/connections")).json["data"]
    assert connection["generation"] == 2
    events = (await tenant.api.get("/v1/audit-events?action=connection.revoke")).json["data"]
    assert [one["outcome"] for one in events] == ["revoked"]
    assert given_back(provider) > 1


async def test_the_same_account_connects_again_and_nothing_is_given_back(
    tenant: Tenant, service: Running, provider: Provider, ada: Visitor
) -> None:
    await integrate(tenant.api, provider, callback(service))
    for generation in (1, 2):
        assert (await connect(tenant, ada)).title == "Your account is connected"
        [connection] = (await tenant.api.get("/v1/connections")).json["data"]
        assert connection["generation"] == generation
    assert given_back(provider) == 0


async def test_what_the_provider_does_not_take_back_at_once_is_tried_again(
    tenant: Tenant, service: Running, provider: Provider, ada: Visitor, clock: Clock
) -> None:
    await integrate(tenant.api, provider, callback(service))
    await connect(tenant, ada)
    provider.state.clients["app"] = type(provider.state.clients["app"])(secret="another")
    [connection] = (await tenant.api.get("/v1/connections")).json["data"]
    gone = await tenant.api.delete(f"/v1/connections/{connection['id']}")
    assert (gone.status, gone.json["revoked"]) == (200, "retrying")
    assert (await tenant.api.get(f"/v1/connections/{connection['id']}")).status == 404
    later = await clock.do(
        "select attempts, due_at > now() from vault.revocations where workspace_id = $1", tenant.id
    )
    assert [tuple(one) for one in later] == [(0, True)]


async def test_a_provider_without_an_address_for_it_takes_nothing_back(tenant: Tenant) -> None:
    variables = {"authorize_url": "https://a.example/a", "token_url": "https://a.example/t"}
    app = {"provider": "oauth2", "client_id": "x", "client_secret": SECRET, "variables": variables}
    assert (await tenant.api.put("/v1/integrations/acme", app)).status == 201
    made = await tenant.api.put(
        "/v1/users/ada/connections/acme", {"access_token": "t", "expires_in": 3600}
    )
    assert made.status == 200, made.body
    gone = await tenant.api.delete(f"/v1/connections/{made.json['id']}")
    assert (gone.status, gone.json["revoked"]) == (200, "not_supported")


async def test_one_browser_that_begins_many_times_at_once_is_never_told_that_the_link_is_used(
    tenant: Tenant, service: Running, provider: Provider, vault: Vault
) -> None:
    await integrate(tenant.api, provider, callback(service))
    link = (await invite(tenant.api))["url"].rpartition("/")[2]
    browser = Secret("b" * 43)
    for _ in range(3):
        stages = await asyncio.gather(
            *(vault.begin(link, "acme", browser, {}) for _ in range(2)), return_exceptions=True
        )
        assert [getattr(one, "status", one) for one in stages] == ["go", "go"]
    assert await vault.begin(link, "acme", Secret("c" * 43), {}) == "wrong_browser"
