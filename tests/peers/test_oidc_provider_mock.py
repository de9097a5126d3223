"""PyPI's oidc-provider-mock, and the whole product: a server that is as plain as servers get.

It says little about itself, names no issuer in its callbacks, keeps a refresh token for good, knows
no revocation, and shows a person its own page for what it does not like.
"""

import json
from collections.abc import AsyncIterator
from datetime import timedelta
from importlib.util import find_spec
from typing import Any, Final

import aiohttp
import pytest
from conftest import Tenant
from msgspec.structs import replace
from support.api import Api, Running
from support.connecting import invite
from support.peers import Kept, mocked
from support.visitor import Shown, Visitor, visiting

from vault.errors import Unresolved
from vault.oauth.renewing import can_refresh
from vault.oauth.replies import NoToken
from vault.secret import Secret
from vault.vault import Vault

pytestmark = pytest.mark.skipif(
    find_spec("oidc_provider_mock") is None,
    reason="needs oidc-provider-mock, which requirements-dev.lock installs",
)

LIFETIME: Final = 300
ADA: Final = {"sub": "ada", "email": "ada@example.com", "name": "Ada Lovelace"}
STRICT: Final = ("--require-registration", "--require-nonce", "--token-max-age", str(LIFETIME))


@pytest.fixture(scope="module")
async def issuer() -> AsyncIterator[str]:
    async with mocked(*STRICT, "--user-claims", json.dumps(ADA)) as base:
        yield base


@pytest.fixture
async def ada() -> AsyncIterator[Visitor]:
    async with visiting() as found:
        yield found


@pytest.fixture
def kept(vault: Vault, tenant: Tenant) -> Kept:
    return Kept(vault, tenant.caller)


async def register(issuer: str, redirect_uri: str, method: str) -> Any:
    """Have a client made there."""
    asked = {"redirect_uris": [redirect_uri], "token_endpoint_auth_method": method}
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{issuer}/oauth2/clients", json=asked) as reply,
    ):
        assert reply.status == 201
        return await reply.json()


async def integrate(
    api: Api, issuer: str, service: Running, *, auth: str = "basic", **more: Any
) -> None:
    callback = f"{service.base}/oauth/oidc/acme/callback"
    client = await register(issuer, callback, f"client_secret_{auth}")
    body = {
        "provider": "oidc",
        "client_id": client["client_id"],
        "client_secret": client["client_secret"],
        "scopes": ["openid", "email", "profile"],
        "variables": {"issuer": issuer},
    }
    reply = await api.put("/v1/integrations/acme", {**body, **more})
    assert reply.status in (200, 201), reply.body


async def asked(api: Api, ada: Visitor) -> Shown:
    """The page on which the other side asks."""
    session = await invite(api)
    return await ada.follow(await ada.submit(await ada.get(session["url"])))


async def connected(api: Api, ada: Visitor, login: str = "ada") -> Any:
    page = await asked(api, ada)
    back = await ada.post(page.url, {"sub": login})
    end = await ada.submit(await ada.follow(back), _answer="yes")
    assert end.title == "Your account is connected", end.text
    [connection] = (await api.get("/v1/users/ada/connections")).json["data"]
    return connection


async def told(ada: Visitor, issuer: str, token: Secret) -> Shown:
    return await ada.get(f"{issuer}/userinfo", Authorization=f"Bearer {token.reveal()}")


@pytest.mark.parametrize("auth", ["basic", "post"])
async def test_an_account_is_connected_and_known_by_its_claims(
    tenant: Tenant, service: Running, issuer: str, ada: Visitor, kept: Kept, auth: str
) -> None:
    # Nothing is said there of how a client shows who it is, so Basic is taken, or what is told us.
    more = {"client_auth": auth} if auth != "basic" else {}
    await integrate(tenant.api, issuer, service, auth=auth, **more)
    connection = await connected(tenant.api, ada)
    assert connection["state"] == "active"
    assert set(connection["scopes"]) == {"openid", "email", "profile"}
    held = await kept.held()
    assert held.account is not None
    account = (held.account.id, held.account.email, held.account.label)
    assert account == ("ada", "ada@example.com", "Ada Lovelace")
    tokens = held.tokens
    assert tokens.expires_at == tokens.obtained_at + timedelta(seconds=LIFETIME)
    assert tokens.access_token
    reply = await told(ada, issuer, tokens.access_token)
    assert json.loads(reply.text)["email"] == "ada@example.com"


async def test_a_refresh_that_brings_no_refresh_token_keeps_the_old_one(
    tenant: Tenant, service: Running, issuer: str, ada: Visitor, kept: Kept
) -> None:
    await integrate(tenant.api, issuer, service)
    await connected(tenant.api, ada)
    app, first = await kept.app(), await kept.tokens()
    now = first.obtained_at + timedelta(seconds=1)
    second = await kept.dialogue.refresh(app, first, now=now)
    third = await kept.dialogue.refresh(app, second, now=now)
    assert first.refresh_token == second.refresh_token == third.refresh_token
    assert first.access_token
    assert third.access_token
    assert third.access_token not in (first.access_token, second.access_token)
    assert third.obtained_at == now
    assert (await told(ada, issuer, third.access_token)).status == 200
    assert (await told(ada, issuer, first.access_token)).status != 200  # replaced by the refresh


async def test_what_the_account_s_owner_took_back_is_the_end_of_the_grant(
    tenant: Tenant, service: Running, issuer: str, ada: Visitor, kept: Kept
) -> None:
    await integrate(tenant.api, issuer, service)
    await connected(tenant.api, ada, "carol")
    app, tokens = await kept.app(), await kept.tokens()
    assert (await ada.post(f"{issuer}/users/carol/revoke-tokens", {})).status == 204
    with pytest.raises(NoToken) as caught:
        await kept.dialogue.refresh(app, tokens, now=tokens.obtained_at)
    assert caught.value.failure.outcome == "dead"


async def test_a_connection_can_be_deleted_where_nothing_can_be_given_back(
    tenant: Tenant, service: Running, issuer: str, ada: Visitor
) -> None:
    await integrate(tenant.api, issuer, service)
    connection = await connected(tenant.api, ada)
    gone = await tenant.api.delete(f"/v1/connections/{connection['id']}")
    assert gone.json["revoked"] == "not_supported"
    assert (await tenant.api.get("/v1/users/ada/connections")).json["data"] == []


async def test_who_says_no_connects_nothing(
    tenant: Tenant, service: Running, issuer: str, ada: Visitor
) -> None:
    await integrate(tenant.api, issuer, service)
    page = await asked(tenant.api, ada)
    back = await ada.post(page.url, {"action": "deny"})
    assert (back.query["error"], back.query.get("state")) == ("access_denied", None)
    # This server forgets our state when somebody says no: nobody can tell whose no it was.
    assert (await ada.follow(back)).title == "This link no longer works"
    assert (await tenant.api.get("/v1/users/ada/connections")).json["data"] == []


# What it does not like


async def test_a_client_that_is_not_known_ends_on_the_server_s_own_page(
    tenant: Tenant, service: Running, issuer: str, ada: Visitor
) -> None:
    await integrate(tenant.api, issuer, service, client_id="nobody")
    page = await asked(tenant.api, ada)
    assert (page.status, page.url.startswith(issuer)) == (400, True)
    assert (await tenant.api.get("/v1/users/ada/connections")).json["data"] == []


async def test_a_wrong_secret_is_the_workspace_s_mistake_and_not_the_person_s(
    tenant: Tenant, service: Running, issuer: str, ada: Visitor
) -> None:
    await integrate(tenant.api, issuer, service, client_secret="wrong")
    check = await tenant.api.post("/v1/integrations/acme/check", {})
    assert ("client", False) in [(one["what"], one["ok"]) for one in check.json["findings"]]
    page = await asked(tenant.api, ada)
    end = await ada.follow(await ada.post(page.url, {"sub": "ada"}))
    assert end.title == "This cannot be connected now"
    assert (await tenant.api.get("/v1/users/ada/connections")).json["data"] == []


async def test_a_refused_client_and_a_made_up_token_are_told_apart(
    tenant: Tenant, service: Running, issuer: str, ada: Visitor, kept: Kept
) -> None:
    await integrate(tenant.api, issuer, service)
    await connected(tenant.api, ada)
    app, tokens = await kept.app(), await kept.tokens()
    wrong = replace(app, client_secrets=(Secret("wrong"),))
    made_up = replace(tokens, refresh_token=Secret("made-up"))
    for client, sent, outcome in ((wrong, tokens, "client"), (app, made_up, "dead")):
        with pytest.raises(NoToken) as caught:
            await kept.dialogue.refresh(client, sent, now=tokens.obtained_at)
        assert caught.value.failure.outcome == outcome


async def test_a_code_counts_once(
    tenant: Tenant, service: Running, issuer: str, ada: Visitor
) -> None:
    await integrate(tenant.api, issuer, service)
    page = await asked(tenant.api, ada)
    back = await ada.post(page.url, {"sub": "ada"})
    assert (await ada.follow(back)).title == "Is this you?"
    assert (await ada.follow(back)).title != "Is this you?"


async def test_a_server_without_refresh_tokens_gives_a_connection_that_ends(
    tenant: Tenant, service: Running, ada: Visitor, kept: Kept
) -> None:
    async with mocked("--no-refresh-token") as issuer:
        await integrate(tenant.api, issuer, service)
        await connected(tenant.api, ada)
        app, tokens = await kept.app(), await kept.tokens()
        assert tokens.refresh_token is None
        assert tokens.expires_at is not None
        assert not can_refresh(app.provider, tokens)
        with pytest.raises(Unresolved):
            await kept.dialogue.refresh(app, tokens, now=tokens.obtained_at)
