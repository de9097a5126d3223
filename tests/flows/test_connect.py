"""A person connects an account: by the service's own pages, at a real server, over real sockets."""

from collections.abc import AsyncIterator

import pytest
from conftest import Tenant
from support.api import Running
from support.connecting import integrate, invite
from support.sandbox import Provider, providing
from support.visitor import Visitor, visiting

from broker.sandbox import Consent


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


async def test_a_person_connects_and_confirms_on_the_page(
    tenant: Tenant, service: Running, provider: Provider, ada: Visitor
) -> None:
    await integrate(tenant.api, provider, callback(service))
    session = await invite(tenant.api)
    page = await ada.get(session["url"])
    assert page.status == 200
    at_provider = await ada.submit(page)
    back = await ada.follow(at_provider)
    confirmation = await ada.follow(back)
    assert "Is this you?" in confirmation.title
    assert "ada@example.com" in confirmation.text
    pending = (await tenant.api.get("/v1/users/ada/connections")).json["data"]
    assert [one["state"] for one in pending] == ["pending"]
    end = await ada.submit(confirmation, _answer="yes")
    assert end.title == "Your account is connected"
    [connection] = (await tenant.api.get("/v1/users/ada/connections")).json["data"]
    assert connection["state"] == "active"
    assert connection["generation"] == 1
    assert connection["environment"] == "production"
    assert set(connection["scopes"]) == {"openid", "email", "offline_access"}


async def test_the_platform_completes_with_the_code_that_the_browser_brought_back(
    tenant: Tenant, service: Running, provider: Provider, ada: Visitor
) -> None:
    await integrate(tenant.api, provider, callback(service))
    session = await invite(tenant.api, return_url="http://127.0.0.1:9/back?tab=1")
    assert session["confirm"] == "backend"
    page = await ada.get(session["url"])
    home = await ada.follow(await ada.follow(await ada.submit(page)))
    assert home.status == 303
    assert home.location.startswith("http://127.0.0.1:9/back?tab=1&")
    assert home.query["status"] == "pending"
    code = home.query["code"]
    path = f"/v1/connect-sessions/{session['id']}/complete"
    done = await tenant.api.post(path, {"code": code, "user_id": "ada"})
    assert done.status == 200, done.body
    assert done.json["state"] == "active"
    again = await tenant.api.post(path, {"code": code, "user_id": "ada"})
    assert again.status in (404, 409)


async def test_a_person_who_says_no_connects_nothing(
    tenant: Tenant, service: Running, provider: Provider, ada: Visitor
) -> None:
    await integrate(tenant.api, provider, callback(service))
    provider.state.consent = Consent(auto="deny")
    session = await invite(tenant.api)
    page = await ada.get(session["url"])
    end = await ada.follow(await ada.follow(await ada.submit(page)))
    assert end.title == "Nothing was connected"
    assert (await tenant.api.get("/v1/users/ada/connections")).json["data"] == []
