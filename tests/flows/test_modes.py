"""Every other way to connect, by the generic files: what is typed, codes for devices, clients."""

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from support.abroad import Abroad
from support.api import Api
from support.connecting import SECRET, invite
from support.journeys import connection, connections, left, made, returned
from support.visitor import Shown, Visitor

from broker.sandbox import Client, ClientKey, Consent

RSA = rsa.generate_private_key(65_537, 2_048)
PRIVATE = RSA.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
PUBLIC = RSA.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


@pytest.fixture
async def api(abroad: Abroad) -> Api:
    return await abroad.workspace()


@pytest.fixture
async def ada(abroad: Abroad) -> AsyncIterator[Visitor]:
    async with abroad.visiting() as found:
        yield found


async def integrated(api: Api, provider: str, **body: Any) -> None:
    made(await api.put("/v1/integrations/acme", {"provider": provider, **body}))


async def typed(api: Api, ada: Visitor, **values: str) -> Shown:
    """Type into the page's form, and say yes at its end."""
    confirmation = await left(ada, await invite(api), **values)
    assert confirmation.title == "Is this you?", confirmation.text
    return await ada.submit(confirmation, _answer="yes")


@pytest.mark.parametrize(
    ("provider", "values"),
    [
        ("api-key", {"api_key": "sentinel-key"}),
        ("basic", {"username": "ada", "password": "sentinel:pass"}),
        ("custom-header", {"header_name": "X-Key", "header_value": "sentinel-value"}),
    ],
)
async def test_what_a_person_types_becomes_a_connection(
    api: Api, ada: Visitor, provider: str, values: dict[str, str]
) -> None:
    await integrated(api, provider)
    page = await ada.get((await invite(api))["url"])
    assert all(f'name="{name}"' in page.text for name in values)
    end = await typed(api, ada, **values)
    assert end.title == "Your account is connected"
    found = await connection(api)
    assert (found["state"], found["expires_at"], found["refresh_expires_at"]) == (
        "active",
        None,
        None,
    )
    for shown in (end.text, str(found)):
        assert "sentinel" not in shown


@pytest.mark.parametrize(
    ("provider", "values", "sentence"),
    [
        ("api-key", {}, "missing"),
        ("basic", {"username": "ada:x", "password": "p"}, "colon"),
        ("basic", {"username": "ada"}, "missing"),
        ("custom-header", {"header_name": "Host", "header_value": "evil"}, "cannot be chosen"),
        ("custom-header", {"header_name": "X-Key", "header_value": "a\r\nX: y"}, "cannot be sent"),
        ("api-key", {"api_key": "k", "api_base_url": "https://evil.example"}, "asks nobody"),
    ],
)
async def test_what_cannot_be_used_is_asked_for_again_on_the_same_page(
    api: Api, ada: Visitor, provider: str, values: dict[str, str], sentence: str
) -> None:
    await integrated(api, provider)
    session = await invite(api)
    again = await left(ada, session, **values)
    assert again.title == "Connect Acme"
    assert sentence in again.text
    assert await connections(api) == []
    right = {
        "api_key": "k",
        "username": "u",
        "password": "p",
        "header_name": "X",
        "header_value": "v",
    }
    fields = {name: value for name, value in right.items() if f'name="{name}"' in again.text}
    assert (await ada.submit(again, **fields)).title == "Is this you?"


async def test_a_bots_token_is_tried_and_a_wrong_one_is_asked_for_again(
    api: Api, ada: Visitor
) -> None:
    await integrated(api, "telegram-bot")
    session = await invite(api)
    wrong = await left(ada, session, api_key="7654321:" + "b" * 35)
    assert wrong.title == "Connect Telegram bot"
    assert "does not accept" in wrong.text
    assert "bbbb" not in wrong.text
    no_form = await left(ada, session, api_key="not a token")
    assert no_form.title == "Connect Telegram bot"
    confirmation = await left(ada, session, api_key="1234567:" + "a" * 35)
    assert "acme_bot" in confirmation.text
    await ada.submit(confirmation, _answer="yes")
    found = await connection(api)
    assert found["account"] == {"id": "1234567", "email": None, "label": "acme_bot"}


async def device(api: Api, abroad: Abroad, interval: int = 1, **consent: Any) -> None:
    abroad.outside.state.clients["tv"] = Client()
    abroad.outside.state.consent = Consent(device_interval=interval, **consent)
    base = abroad.outside.base
    await integrated(
        api,
        "oauth2-device",
        client_id="tv",
        scopes=["openid"],
        variables={
            "device_url": f"{base}/oauth/device",
            "token_url": f"{base}/oauth/token",
            "revoke_url": f"{base}/oauth/revoke",
        },
    )


def place_of(page: Shown) -> str:
    """Where the page looks again by itself."""
    seconds, _, path = page.headers["Refresh"].partition(";url=")
    assert int(seconds) >= 1
    return page.url.split("/connect/")[0] + path


async def looked(ada: Visitor, page: Shown) -> Shown:
    """Look again when the page would."""
    await asyncio.sleep(int(page.headers["Refresh"].partition(";")[0]) + 0.1)
    return await ada.get(place_of(page))


async def test_a_code_is_typed_in_elsewhere_while_the_page_waits(
    api: Api, abroad: Abroad, ada: Visitor
) -> None:
    await device(api, abroad)
    page = await left(ada, await invite(api))
    assert page.title == "Enter this code at Acme"
    found = re.search(r"[B-Z]{4}-[B-Z]{4}", page.text)
    assert found is not None
    page = await looked(ada, page)
    assert page.title == "Enter this code at Acme"
    async with abroad.visiting() as telephone:
        consent = await telephone.post(f"{abroad.outside.base}/device", {"user_code": found[0]})
        ticket = consent.fields["ticket"]
        answer = {"ticket": ticket, "account": "ada", "decision": "allow"}
        await telephone.post(f"{abroad.outside.base}/consent", answer)
    confirmation = await looked(ada, page)
    assert confirmation.title == "Is this you?"
    await ada.submit(confirmation, _answer="yes")
    assert (await connection(api))["state"] == "active"


async def test_a_page_that_is_loaded_again_and_again_asks_the_provider_no_more_often(
    api: Api, abroad: Abroad, ada: Visitor
) -> None:
    await device(api, abroad, interval=60)
    page = await left(ada, await invite(api))
    for _ in range(5):
        page = await ada.get(place_of(page))
    polls = [one for one in abroad.outside.state.requests if one.path == "/oauth/token"]
    assert len(polls) == 1
    assert page.title == "Enter this code at Acme"


@pytest.mark.parametrize(
    ("consent", "title"),
    [
        ({"auto": "deny"}, "Nothing was connected"),
        ({"device_lifetime": 1}, "This link no longer works"),
    ],
)
async def test_a_code_that_is_refused_or_too_old_ends(
    api: Api, abroad: Abroad, ada: Visitor, consent: dict[str, Any], title: str
) -> None:
    await device(api, abroad, **consent)
    page = await left(ada, await invite(api))
    assert (await looked(ada, page)).title == title
    assert await connections(api) == []


async def test_a_device_page_in_another_browser_shows_nothing(
    api: Api, abroad: Abroad, ada: Visitor
) -> None:
    await device(api, abroad)
    page = await left(ada, await invite(api))
    async with abroad.visiting() as somebody:
        assert "Is this you?" not in (await somebody.get(place_of(page))).text


async def test_a_client_connects_for_itself(api: Api, abroad: Abroad, ada: Visitor) -> None:
    abroad.outside.state.clients["app"] = Client(secret=SECRET)
    await integrated(
        api,
        "oauth2-client-credentials",
        client_id="app",
        client_secret=SECRET,
        scopes=["read"],
        variables={"token_url": f"{abroad.outside.base}/oauth/token"},
    )
    check = made(await api.post("/v1/integrations/acme/check", {}))
    assert check["ok"], check
    end = await typed(api, ada)
    assert end.title == "Your account is connected"
    found = await connection(api)
    assert (found["state"], found["scopes"]) == ("active", ["read"])
    abroad.outside.state.clients["app"] = Client(secret="another")
    again = await left(ada, await invite(api))
    assert again.title == "This cannot be connected now"
    assert not made(await api.post("/v1/integrations/acme/check", {}))["ok"]


async def test_a_signed_assertion_connects(api: Api, abroad: Abroad, ada: Visitor) -> None:
    keys = [ClientKey(algorithm="RS256", key=PUBLIC)]
    abroad.outside.state.clients["robot"] = Client(keys=keys)
    url = f"{abroad.outside.base}/oauth/token"
    await integrated(
        api,
        "jwt-bearer",
        scopes=["read"],
        variables={
            "token_url": url,
            "jwt_issuer": "robot",
            "audience": url,
            "private_key_pem": PRIVATE,
        },
    )
    shown = made(await api.get("/v1/integrations/acme"))
    assert shown["variables"]["private_key_pem"] is None
    end = await typed(api, ada, subject="ada@example.com")
    assert end.title == "Your account is connected"
    assert (await connection(api))["state"] == "active"


async def test_any_oauth_server_by_its_addresses(api: Api, abroad: Abroad, ada: Visitor) -> None:
    base, state = abroad.outside.base, abroad.outside.state
    callback = f"{abroad.base}/oauth/oauth2/acme/callback"
    state.clients["app"] = Client(secret=SECRET, redirect_uris=[callback])
    state.consent = Consent(auto="allow")
    addresses = {"authorize_url": "authorize", "token_url": "token", "revoke_url": "revoke"}
    variables = {name: f"{base}/oauth/{last}" for name, last in addresses.items()}
    await integrated(
        api,
        "oauth2",
        client_id="app",
        client_secret=SECRET,
        scopes=["openid", "email"],
        variables={**variables, "userinfo_url": f"{base}/oauth/userinfo"},
    )
    confirmation = await returned(ada, await invite(api))
    await ada.submit(confirmation, _answer="yes")
    found = await connection(api)
    assert found["account"]["id"] == "ada"
    gone = made(await api.delete(f"/v1/connections/{found['id']}"))
    assert gone["revoked"] == "revoked"
    assert [one.ended for one in state.ledger.rows()][-1] == "revoked"


@pytest.mark.parametrize("registers", ["us", "the workspace"])
async def test_an_mcp_server_is_found_by_its_address_and_makes_us_a_client(
    api: Api, abroad: Abroad, ada: Visitor, registers: str
) -> None:
    state, base = abroad.outside.state, abroad.outside.base
    state.consent = Consent(auto="allow")
    callback = f"{abroad.base}/oauth/mcp/acme/callback"
    more = {}
    if registers == "the workspace":
        state.clients["own"] = Client(redirect_uris=[callback])
        more = {"client_id": "own"}
    await integrated(api, "mcp", **more)
    session = await invite(api)
    nowhere = await left(ada, session)
    assert nowhere.title == "Connect Acme"  # its address is missing
    confirmation = await returned(ada, session, mcp_server_url=f"{base}/mcp")
    await ada.submit(confirmation, _answer="yes")
    found = await connection(api)
    assert found["state"] == "active"
    family = [one for one in state.ledger.families() if not one.ended][-1]
    assert family.asked["resource"] == f"{base}/mcp"
    assert (
        family.client_id == "own"
        if registers == "the workspace"
        else "client_" in str(family.client_id)
    )
    # The client is the connection's: with it, what it was given goes back.
    assert made(await api.delete(f"/v1/connections/{found['id']}"))["revoked"] == "revoked"
    assert family.ended == "revoked"
