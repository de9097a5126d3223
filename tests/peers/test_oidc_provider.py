"""The certified OpenID provider of npm, and the whole product: people connect accounts there.

The provider insists on PKCE, names itself in what it answers, replaces each refresh token, and ends
the whole grant where an old one comes back.
"""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode, urlsplit

import pytest
from conftest import Tenant
from joserfc.jwk import ECKey, RSAKey
from msgspec.structs import replace
from support.api import Api, Running
from support.connecting import invite
from support.engine import EC, RSA
from support.peers import CERTIFIED_REASON, Kept, certified, has_certified, through
from support.visitor import Shown, Visitor, visiting

from vault.oauth import authorize
from vault.oauth.replies import NoToken
from vault.secret import Secret
from vault.vault import Vault

pytestmark = pytest.mark.skipif(not has_certified(), reason=CERTIFIED_REASON)

# A client of each kind is known by the name of how it shows who it is. Characters that mean
# something in a form, a header or a URL have to arrive as they are.
SHARED: Final = "a+secret %of/the:app&with=its?traps"
AUTH: Final[Mapping[str, str]] = {
    "basic": "client_secret_basic",
    "post": "client_secret_post",
    "client_secret_jwt": "client_secret_jwt",
    "private_key_jwt": "private_key_jwt",
    "elliptic": "private_key_jwt",
    "none": "none",
}
OURS: Final = {"client_secret_basic": "basic", "client_secret_post": "post"}
KEYS: Final[Mapping[str, str]] = {"private_key_jwt": RSA, "elliptic": EC}
JWKS: Final = {
    "private_key_jwt": RSAKey.import_key(RSA).as_dict(private=False),
    "elliptic": ECKey.import_key(EC).as_dict(private=False),
}
SCOPES: Final = ["openid", "email", "offline_access"]
CODE: Final = re.compile(r"\b[A-Z]{4}-[A-Z]{4}\b")
DEVICE: Final = "urn:ietf:params:oauth:grant-type:device_code"


def clients(callback: str) -> list[dict[str, Any]]:
    """As they are registered there."""
    made = []
    for name, method in AUTH.items():
        client: dict[str, Any] = {
            "client_id": name,
            "token_endpoint_auth_method": method,
            "grant_types": ["authorization_code", "refresh_token", DEVICE],
            "redirect_uris": [callback],
        }
        if name in JWKS:
            client["jwks"] = {"keys": [JWKS[name]]}
        elif method != "none":
            client["client_secret"] = SHARED
        made.append(client)
    return made


@pytest.fixture(scope="module")
async def issuer(service: Running) -> AsyncIterator[str]:
    async with certified(clients(f"{service.base}/oauth/oidc/acme/callback")) as base:
        yield base


@pytest.fixture(scope="module")
async def pushed_only(service: Running) -> AsyncIterator[str]:
    """Another one, which takes no request from a browser."""
    registered = clients(f"{service.base}/oauth/oidc/acme/callback")
    async with certified(registered, pushed_only=True) as base:
        yield base


@pytest.fixture
async def ada() -> AsyncIterator[Visitor]:
    async with visiting() as found:
        yield found


@pytest.fixture
def kept(vault: Vault, tenant: Tenant) -> Kept:
    return Kept(vault, tenant.caller)


async def integrate(api: Api, issuer: str, client: str = "basic", **more: Any) -> None:
    """An app registration here, for a client that is known there."""
    body: dict[str, Any] = {
        "provider": "oidc",
        "client_id": client,
        "client_auth": OURS.get(AUTH[client], AUTH[client]),
        "scopes": SCOPES,
        "variables": {"issuer": issuer},
        "authorize_params": {"prompt": "consent"},
    }
    if AUTH[client] != "none":
        body["client_secret"] = KEYS.get(client, SHARED)
    reply = await api.put("/v1/integrations/acme", {**body, **more})
    assert reply.status in (200, 201), reply.body


async def begun(api: Api, ada: Visitor) -> Shown:
    """The button of our own page was pressed."""
    session = await invite(api)
    return await ada.submit(await ada.get(session["url"]))


async def consented(api: Api, ada: Visitor, service: Running, *, login: str = "ada") -> Shown:
    """The answer of the other side, that leads back to us."""
    away = await begun(api, ada)
    return await through(ada, away, until=service.base, login=login, password="any")


async def connected(api: Api, ada: Visitor, service: Running, *, login: str = "ada") -> Any:
    """All of it; the connection as the platform sees it."""
    page = await ada.follow(await consented(api, ada, service, login=login))
    assert f"{login}@example.com" in page.text
    end = await ada.submit(page, _answer="yes")
    assert end.title == "Your account is connected", end.text
    [connection] = (await api.get("/v1/users/ada/connections")).json["data"]
    return connection


async def lives(ada: Visitor, issuer: str, token: Secret | None) -> bool:
    """Does the server still serve who brings this access token?"""
    assert token
    reply = await ada.get(f"{issuer}/me", Authorization=f"Bearer {token.reveal()}")
    assert reply.status in (200, 401)
    return reply.status == 200


async def is_active(ada: Visitor, issuer: str, token: Secret) -> bool:
    """What the server says of a token when it is asked about it."""
    asked = {"token": token.reveal(), "client_id": "post", "client_secret": SHARED}
    reply = await ada.post(f"{issuer}/token/introspection", asked)
    assert reply.status == 200, reply.text
    return bool(json.loads(reply.text)["active"])


def with_query(url: str, **changed: str | None) -> str:
    """The same address with other parameters; ``None`` takes one away."""
    parts = urlsplit(url)
    query = {**dict(parse_qsl(parts.query)), **changed}
    left = {name: value for name, value in query.items() if value is not None}
    return parts._replace(query=urlencode(left)).geturl()


@pytest.mark.parametrize("client", AUTH)
async def test_each_way_to_show_who_the_client_is(
    tenant: Tenant, service: Running, issuer: str, ada: Visitor, kept: Kept, client: str
) -> None:
    await integrate(tenant.api, issuer, client)
    connection = await connected(tenant.api, ada, service)
    assert connection["state"] == "active"
    assert set(connection["scopes"]) == set(SCOPES)
    held = await kept.held()
    assert held.account is not None
    assert (held.account.id, held.account.email) == ("ada", "ada@example.com")
    before = held.tokens
    assert before.refresh_token
    assert before.expires_at
    assert await lives(ada, issuer, before.access_token)
    app = await kept.app()
    after = await kept.dialogue.refresh(app, before, now=before.obtained_at)
    assert await lives(ada, issuer, after.access_token)
    assert after.refresh_token != before.refresh_token
    assert set(after.scopes or ()) == set(SCOPES)
    [given_back] = await kept.dialogue.revoke(app, after, now=before.obtained_at)
    assert given_back.outcome == "revoked"
    assert not await lives(ada, issuer, after.access_token)


async def test_a_check_of_the_integration_tells_a_good_client_from_a_bad_one(
    tenant: Tenant, issuer: str
) -> None:
    await integrate(tenant.api, issuer, "post")
    good = await tenant.api.post("/v1/integrations/acme/check", {})
    assert [(one["what"], one["ok"]) for one in good.json["findings"]] == [
        ("values", True),
        ("discovery", True),
        ("token_endpoint", True),
        ("client", True),
    ]
    await integrate(tenant.api, issuer, "post", client_secret="wrong")
    bad = await tenant.api.post("/v1/integrations/acme/check", {})
    assert ("client", False) in [(one["what"], one["ok"]) for one in bad.json["findings"]]


async def test_an_old_refresh_token_ends_the_grant_and_the_newest_with_it(
    tenant: Tenant, service: Running, issuer: str, ada: Visitor, kept: Kept
) -> None:
    await integrate(tenant.api, issuer)
    await connected(tenant.api, ada, service)
    app, first = await kept.app(), await kept.tokens()
    now = first.obtained_at
    second = await kept.dialogue.refresh(app, first, now=now)
    third = await kept.dialogue.refresh(app, second, now=now)
    assert await lives(ada, issuer, third.access_token)
    for tokens in (first, third):
        with pytest.raises(NoToken) as caught:
            await kept.dialogue.refresh(app, tokens, now=now)
        assert caught.value.failure.outcome == "dead"
        assert caught.value.failure.error == "invalid_grant"
    assert not await lives(ada, issuer, third.access_token)


async def test_a_refused_client_condemns_no_connection_and_the_next_secret_is_tried(
    tenant: Tenant, service: Running, issuer: str, ada: Visitor, kept: Kept
) -> None:
    await integrate(tenant.api, issuer)
    await connected(tenant.api, ada, service)
    app, tokens = await kept.app(), await kept.tokens()
    wrong = replace(app, client_secrets=(Secret("wrong"),))
    with pytest.raises(NoToken) as caught:
        await kept.dialogue.refresh(wrong, tokens, now=tokens.obtained_at)
    assert caught.value.failure.outcome == "client"
    rotating = replace(app, client_secrets=(Secret("wrong"), *app.client_secrets))
    again = await kept.dialogue.refresh(rotating, tokens, now=tokens.obtained_at)
    assert await lives(ada, issuer, again.access_token)


async def test_deleting_a_connection_kills_its_tokens_there(
    tenant: Tenant, service: Running, issuer: str, ada: Visitor, kept: Kept
) -> None:
    await integrate(tenant.api, issuer, "post")
    connection = await connected(tenant.api, ada, service)
    tokens = await kept.tokens()
    assert tokens.access_token
    assert tokens.refresh_token
    every = (tokens.access_token, tokens.refresh_token)
    assert [await is_active(ada, issuer, one) for one in every] == [True, True]
    gone = await tenant.api.delete(f"/v1/connections/{connection['id']}")
    assert gone.json["revoked"] == "revoked"
    assert [await is_active(ada, issuer, one) for one in every] == [False, False]
    assert not await lives(ada, issuer, tokens.access_token)


async def test_without_consent_to_stay_there_is_no_refresh_token_and_it_is_said(
    tenant: Tenant, service: Running, issuer: str, ada: Visitor, kept: Kept
) -> None:
    await integrate(tenant.api, issuer, authorize_params={})
    page = await ada.follow(await consented(tenant.api, ada, service))
    end = await ada.submit(page, _answer="yes")
    assert end.title == "Connected, with less access"
    tokens = await kept.tokens()
    assert tokens.refresh_token is None
    assert tokens.expires_at is not None
    assert set(tokens.scopes or ()) == {"openid", "email"}


async def test_who_says_no_connects_nothing(
    tenant: Tenant, service: Running, issuer: str, ada: Visitor
) -> None:
    await integrate(tenant.api, issuer)
    away = await begun(tenant.api, ada)
    asked = await ada.follow(await ada.follow(away))
    assert asked.status == 200
    refusal = await ada.get(f"{asked.url}/abort")
    back = await through(ada, refusal, until=service.base)
    assert back.query["error"] == "access_denied"
    assert (await ada.follow(back)).title == "Nothing was connected"
    assert (await tenant.api.get("/v1/users/ada/connections")).json["data"] == []


async def test_another_account_does_not_take_the_place_of_the_one_that_is_known(
    tenant: Tenant, service: Running, issuer: str, ada: Visitor, kept: Kept
) -> None:
    await integrate(tenant.api, issuer)
    await connected(tenant.api, ada, service)
    before = await kept.tokens()
    async with visiting() as other:
        end = await other.follow(await consented(tenant.api, other, service, login="bob"))
    assert end.title == "That is another account"
    assert await kept.tokens() == before
    assert await lives(ada, issuer, before.access_token)


# PKCE


async def test_the_challenge_is_what_this_server_asks_for(
    tenant: Tenant, service: Running, issuer: str, ada: Visitor
) -> None:
    await integrate(tenant.api, issuer)
    away = await begun(tenant.api, ada)
    assert away.query["code_challenge_method"] == "S256"
    bare = with_query(away.location, code_challenge=None, code_challenge_method=None)
    back = await through(ada, await ada.get(bare), until=service.base)
    assert back.query["error"] == "invalid_request"
    assert (await ada.follow(back)).title == "That did not work"


async def test_a_code_is_worth_nothing_without_its_verifier(
    tenant: Tenant, service: Running, issuer: str, ada: Visitor, kept: Kept
) -> None:
    await integrate(tenant.api, issuer)
    back = await consented(tenant.api, ada, service)
    now = await kept.now()
    with pytest.raises(NoToken) as caught:
        await kept.dialogue.exchange(
            await kept.app(),
            code=Secret(back.query["code"]),
            verifier=authorize.make_verifier(),
            nonce=None,
            callback=back.query,
            now=now,
        )
    assert caught.value.failure.outcome == "dead"


# Who answered


@pytest.mark.parametrize("said", ["https://somebody.example", "", None])
async def test_an_answer_that_another_server_gave_brings_its_code_to_nobody(
    tenant: Tenant, service: Running, issuer: str, ada: Visitor, kept: Kept, said: str | None
) -> None:
    await integrate(tenant.api, issuer)
    back = await consented(tenant.api, ada, service)
    assert back.query["iss"] == issuer
    end = await ada.get(with_query(back.location, iss=said))
    assert end.title == "That did not work"
    # The code was not sent anywhere, and this try is over.
    assert (await ada.follow(back)).title != "Is this you?"
    assert (await tenant.api.get("/v1/users/ada/connections")).json["data"] == []


async def test_a_server_that_is_called_otherwise_than_it_calls_itself_is_refused(
    tenant: Tenant, service: Running, ada: Visitor
) -> None:
    registered = clients(f"{service.base}/oauth/oidc/acme/callback")
    async with certified(registered, host="127.0.0.1") as issuer:
        await integrate(tenant.api, issuer.replace("127.0.0.1", "localhost"))
        check = await tenant.api.post("/v1/integrations/acme/check", {})
        [finding] = check.json["findings"]
        assert (finding["what"], finding["ok"]) == ("discovery", False)
        assert "another issuer" in finding["detail"]
        assert (await begun(tenant.api, ada)).title == "That did not work"


async def test_the_id_token_belongs_to_this_sign_in(
    tenant: Tenant, service: Running, issuer: str, ada: Visitor
) -> None:
    await integrate(tenant.api, issuer)
    away = await begun(tenant.api, ada)
    other = with_query(away.location, nonce="of-another-sign-in")
    back = await through(ada, await ada.get(other), until=service.base, login="ada", password="any")
    assert (await ada.follow(back)).title == "That did not work"


# Pushed requests


@pytest.mark.parametrize("client", AUTH)
async def test_a_server_that_takes_requests_from_us_alone(
    tenant: Tenant, service: Running, pushed_only: str, ada: Visitor, client: str
) -> None:
    await integrate(tenant.api, pushed_only, client)
    away = await begun(tenant.api, ada)
    assert away.query.keys() == {"client_id", "request_uri"}
    back = await through(ada, away, until=service.base, login="ada", password="any")
    end = await ada.submit(await ada.follow(back), _answer="yes")
    assert end.title == "Your account is connected"


async def test_a_request_that_is_not_taken_ends_on_our_page(
    tenant: Tenant, pushed_only: str, ada: Visitor
) -> None:
    await integrate(tenant.api, pushed_only, client_secret="wrong")
    assert (await begun(tenant.api, ada)).title == "That did not work"
    assert (await tenant.api.get("/v1/users/ada/connections")).json["data"] == []


# The device flow


async def test_a_person_types_a_code_in_elsewhere(
    tenant: Tenant, issuer: str, ada: Visitor, kept: Kept
) -> None:
    await by_device(tenant.api, issuer)
    shown = await begun(tenant.api, ada)
    waiting = await ada.get(shown.refresh[1])  # nobody has typed it in yet
    async with visiting() as phone:
        entered = await phone.submit(await phone.get(f"{issuer}/device"), user_code=_code(shown))
        assert _code(shown) in entered.text
        done = await phone.submit(entered)
        while "Sign-in Success" not in done.text:
            if done.status == 200:
                done = await phone.submit(done, login="ada", password="any")
            else:
                done = await phone.follow(done)
        assert "Sign-in Success" in done.text
    seconds, again = waiting.refresh
    await asyncio.sleep(seconds)
    confirmation = await ada.get(again)
    assert "ada@example.com" in confirmation.text
    end = await ada.submit(confirmation, _answer="yes")
    assert end.title == "Your account is connected"
    tokens = await kept.tokens()
    assert await lives(ada, issuer, tokens.access_token)


async def test_a_person_refuses_on_the_other_device(
    tenant: Tenant, issuer: str, ada: Visitor
) -> None:
    await by_device(tenant.api, issuer)
    shown = await begun(tenant.api, ada)
    async with visiting() as phone:
        entered = await phone.submit(await phone.get(f"{issuer}/device"), user_code=_code(shown))
        await phone.submit(entered, abort="yes")
    end = await ada.get(shown.refresh[1])
    assert end.title == "Nothing was connected"
    assert (await tenant.api.get("/v1/users/ada/connections")).json["data"] == []


async def by_device(api: Api, issuer: str) -> None:
    addresses = {
        "device_url": f"{issuer}/device/auth",
        "token_url": f"{issuer}/token",
        "revoke_url": f"{issuer}/token/revocation",
        "userinfo_url": f"{issuer}/me",
    }
    body = {
        "provider": "oauth2-device",
        "client_id": "none",
        "scopes": SCOPES,
        "variables": addresses,
    }
    reply = await api.put("/v1/integrations/acme", body)
    assert reply.status in (200, 201), reply.body


def _code(shown: Shown) -> str:
    found = CODE.search(shown.text)
    assert found, shown.text
    return found[0]
