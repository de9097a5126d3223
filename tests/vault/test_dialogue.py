"""Whole conversations with a provider, over real sockets and the real egress."""

import asyncio
import hashlib
import hmac
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from joserfc import jwt
from joserfc.jwk import RSAKey
from msgspec.structs import replace
from support.engine import CATALOGUE, NOW, RSA, app_of, tokens_of
from support.loopback import Listener, assert_hides, calling, listening

from vault.dialogue import Dialogue
from vault.dialogue.metadata import Metadata
from vault.errors import CredentialRefused, Invalid, Unreachable, UpstreamFailed
from vault.oauth.app import App, Endpoints, TokenSet
from vault.oauth.id_token import IdTokenRefused
from vault.oauth.renewing import can_refresh, further_tokens
from vault.oauth.replies import NoToken
from vault.providers.schema import Identity, MoreTokens, Oidc, Step, Variable
from vault.secret import Secret

Json = Any
TOKENS = {"access_token": "at-1", "refresh_token": "rt-1", "expires_in": 3600, "scope": "a"}
KEY = RSAKey.import_key(RSA)
NONCE = "n" * 22


class Server:
    """A provider that answers what it was told to, in turn."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self.url = f"http://127.0.0.1:{listener.port}"
        self.answers: list[bytes | None] = []

    def will_say(self, body: Json = None, status: int = 200, *, raw: bytes | None = None) -> None:
        content = json.dumps(body).encode() if raw is None else raw
        head = f"HTTP/1.1 {status} X\r\nContent-Length: {len(content)}\r\n\r\n"
        self.answers.append(head.encode() + content)

    def will_hang_up(self) -> None:
        self.answers.append(None)

    @property
    def lines(self) -> list[str]:
        return [one.split(b"\r\n")[0].decode().removesuffix(" HTTP/1.1") for one in self._heard]

    @property
    def _heard(self) -> list[bytes]:
        return self._listener.heard

    def form(self, number: int = -1) -> dict[str, str]:
        return dict(parse_qsl(self._heard[number].partition(b"\r\n\r\n")[2].decode()))

    def header(self, name: str, number: int = -1) -> str | None:
        for line in self._heard[number].decode().split("\r\n\r\n")[0].split("\r\n")[1:]:
            if line.lower().startswith(name.lower() + ":"):
                return line.partition(":")[2].strip()
        return None

    def endpoints(self, **more: Any) -> Endpoints:
        found: dict[str, Any] = {
            "issuer": self.url,
            "authorize_url": f"{self.url}/authorize",
            "token_url": f"{self.url}/token",
            "revoke_url": f"{self.url}/revoke",
            "userinfo_url": f"{self.url}/userinfo",
        }
        return Endpoints(**found | more)


@asynccontextmanager
async def talking() -> AsyncIterator[tuple[Dialogue, Server]]:
    server: Server | None = None

    async def answer(writer: asyncio.StreamWriter) -> None:
        said = server.answers.pop(0) if server and server.answers else None
        if said is None:
            writer.close()
        else:
            writer.write(said)

    async with listening(answer) as listener, calling() as egress:
        server = Server(listener)
        yield Dialogue(egress, Metadata(egress)), server


def app_at(server: Server, name: str = "oauth2", **changes: Any) -> App:
    values = {"api_base_url": server.url}
    return app_of(name, **{"endpoints": server.endpoints(), "values": values} | changes)


async def exchanged(dialogue: Dialogue, app: App, **options: Any) -> Any:
    given: dict[str, Any] = {
        "code": Secret("c0de"),
        "verifier": Secret("v" * 43),
        "nonce": None,
        "callback": {},
        "now": NOW,
    }
    return await dialogue.exchange(app, **given | options)


def id_token(issuer: str, key: RSAKey = KEY, **claims: Any) -> str:
    said = {
        "iss": issuer,
        "aud": "client-1",
        "sub": "ann",
        "iat": int(NOW.timestamp()),
        "exp": int(NOW.timestamp()) + 600,
        "nonce": NONCE,
    }
    return jwt.encode({"alg": "RS256", "kid": "k1"}, said | claims, key)


def jwks(key: RSAKey = KEY) -> Json:
    return {"keys": [{**key.as_dict(private=False), "kid": "k1"}]}


# A person is asked


async def consenting(dialogue: Dialogue, app: App) -> str:
    return await dialogue.consent_url(app, state="s", challenge="c", nonce="n", now=NOW)


async def test_a_server_that_takes_no_request_from_a_browser_hears_it_from_us() -> None:
    async with talking() as (dialogue, server):
        pushing = {"push_url": f"{server.url}/par", "pushed_only": True}
        app = app_at(server, endpoints=server.endpoints(**pushing), scopes=("a",))
        name = "urn:ietf:params:oauth:request_uri:6esc_11ACC5b"
        server.will_say({"error": "invalid_client"}, status=401)
        server.will_say({"request_uri": name, "expires_in": 60}, status=201)
        app = replace(app, client_secrets=(Secret("new"), Secret("old")))
        url = urlsplit(await consenting(dialogue, app))
        assert url.path == "/authorize"
        assert dict(parse_qsl(url.query)) == {"client_id": app.client_id, "request_uri": name}
        assert server.lines == ["POST /par"] * 2
        asked = server.form()
        assert (asked["state"], asked["code_challenge"], asked["nonce"]) == ("s", "c", "n")
        assert (asked["scope"], asked["redirect_uri"]) == ("a", app.redirect_uri)
        assert asked["client_secret"] == "old"


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (400, {"error": "invalid_request", "request_uri": "urn:x"}),
        (201, {"request_uri": "urn:x y"}),
        (201, {"request_uri": ["urn:x"]}),
        (201, {}),
        (201, []),
    ],
)
async def test_a_request_that_was_not_taken_sends_nobody_anywhere(status: int, body: Json) -> None:
    async with talking() as (dialogue, server):
        pushing = {"push_url": f"{server.url}/par", "pushed_only": True}
        server.will_say(body, status=status)
        with pytest.raises(NoToken):
            await consenting(dialogue, app_at(server, endpoints=server.endpoints(**pushing)))


async def test_a_server_that_only_offers_to_be_told_is_asked_by_the_browser() -> None:
    async with talking() as (dialogue, server):
        app = app_at(server, endpoints=server.endpoints(push_url=f"{server.url}/par"))
        query = dict(parse_qsl(urlsplit(await consenting(dialogue, app)).query))
        assert (query["state"], query["code_challenge_method"]) == ("s", "S256")
        assert server.lines == []


# Codes for tokens


async def test_a_code_becomes_tokens_and_an_account() -> None:
    async with talking() as (dialogue, server):
        server.will_say(TOKENS)
        server.will_say({"sub": "u-1", "email": "ann@example.com", "name": "Ann"})
        got = await exchanged(dialogue, app_at(server))
        assert server.lines == ["POST /token", "GET /userinfo"]
        assert server.form(0) == {
            "client_id": "client-1",
            "client_secret": "s3cret",
            "code": "c0de",
            "code_verifier": "v" * 43,
            "grant_type": "authorization_code",
            "redirect_uri": "https://keyturn.example/oauth/x/callback",
        }
        assert server.header("Authorization") == "Bearer at-1"
        assert got.tokens.access_token == Secret("at-1")
        assert got.tokens.expires_at == NOW + timedelta(hours=1)
        assert (got.account.id, got.account.email, got.account.label) == (
            "u-1",
            "ann@example.com",
            "Ann",
        )
        assert got.choices == ()


async def test_the_next_client_secret_is_tried_where_one_is_refused_and_nowhere_else() -> None:
    secrets = (Secret("new"), Secret("old"), Secret("older"))
    async with talking() as (dialogue, server):
        app = app_at(server, client_secrets=secrets)
        server.will_say({"error": "invalid_client"}, 401)
        server.will_say({"error": "invalid_client"}, 400)
        server.will_say(TOKENS)
        server.will_say({"sub": "u"})
        await exchanged(dialogue, app)
        assert [server.form(number)["client_secret"] for number in range(3)] == [
            "new",
            "old",
            "older",
        ]
        for error in ("invalid_grant", "unauthorized_client", "invalid_scope", "server_error"):
            before = len(server.lines)
            server.will_say({"error": error}, 400)
            with pytest.raises(NoToken):
                await exchanged(dialogue, app)
            assert len(server.lines) == before + 1
        for _ in secrets:
            server.will_say({"error": "invalid_client"}, 401)
        with pytest.raises(NoToken) as caught:
            await exchanged(dialogue, app)
        assert caught.value.failure.outcome == "client"


async def test_a_code_is_sent_once_whatever_becomes_of_it() -> None:
    async with talking() as (dialogue, server):
        server.will_hang_up()
        server.will_say(TOKENS)
        with pytest.raises(Unreachable) as caught:
            await exchanged(dialogue, app_at(server))
        assert caught.value.sent
        assert server.lines == ["POST /token"]
        assert_hides("c0de", caught.value)
        server.answers.clear()
        server.will_say({"error": "server_error"}, 503)
        with pytest.raises(NoToken) as refused:
            await exchanged(dialogue, app_at(server))
        assert len(server.lines) == 2
        assert_hides("c0de", refused.value)


async def test_nobody_who_may_be_asked_is_no_account_and_nobody_answering_is_an_error() -> None:
    async with talking() as (dialogue, server):
        for status in (401, 403, 404):
            server.will_say(TOKENS)
            server.will_say({}, status)
            assert (await exchanged(dialogue, app_at(server))).account is None
        server.will_say(TOKENS)
        server.will_hang_up()
        server.will_say({"sub": "u"})
        assert (await exchanged(dialogue, app_at(server))).account.id == "u"
        server.will_say(TOKENS)
        server.will_say({}, 500)
        server.will_say({}, 500)
        with pytest.raises(UpstreamFailed):
            await exchanged(dialogue, app_at(server))


async def test_a_forged_callback_reaches_nobody() -> None:
    async with talking() as (dialogue, server):
        cases: list[tuple[App, Mapping[str, str]]] = [
            (app_at(server), {"iss": "https://evil.example"}),
            (app_at(server, "zoho", values={}), {"accounts-server": "evil.example"}),
            (app_at(server, "shopify", values={"shop": "acme"}), {"shop": "acme.myshopify.com"}),
            (app_at(server, endpoints=server.endpoints(iss_in_callback=True)), {}),
        ]
        for app, callback in cases:
            with pytest.raises(Invalid):
                await exchanged(dialogue, app, callback=callback)
        assert server.lines == []


async def test_what_the_callback_fills_is_used_and_what_it_tells_is_kept() -> None:
    async with talking() as (dialogue, server):
        server.will_say(TOKENS | {"context": "stores/real", "account_uuid": "u"})
        app = app_at(server, "bigcommerce", values={})
        callback = {"code": "c0de", "context": "stores/told", "scope": "a b"}
        got = await exchanged(dialogue, app, callback=callback)
        # What the token endpoint says counts more than what a browser brought.
        assert got.tokens.extras["context"] == "stores/real"
        assert got.tokens.extras["granted_scope"] == "a b"
        assert got.account.id == "stores/real"
        server.will_say(TOKENS)
        server.will_say({"ZUID": 7, "Email": "ann@example.com"})
        app = app_at(server, "zoho", values={})
        callback = {"accounts-server": "accounts.zoho.eu", "location": "eu"}
        got = await exchanged(dialogue, app, callback=callback)
        assert got.tokens.extras["accounts_host"] == "accounts.zoho.eu"
        assert server.header("Authorization") == "Zoho-oauthtoken at-1"


async def test_quickbooks_company_stands_in_the_callback_alone() -> None:
    async with talking() as (dialogue, server):
        server.will_say(TOKENS)
        app = app_at(server, "quickbooks", values={}, scopes=("accounting",))
        got = await exchanged(dialogue, app, callback={"realmId": "4620816365"})
        assert (got.account.id, got.tokens.extras["realm_id"]) == ("4620816365", "4620816365")


# Further requests


def stepping(server: Server, *steps: Step, **changes: Any) -> App:
    """A provider with these steps, all on loopback."""
    provider = replace(CATALOGUE.get("oauth2"), steps=list(steps), identity=None, **changes)
    return app_at(server, provider=provider)


async def test_a_short_token_is_traded_for_a_long_one_and_the_rest_stays() -> None:
    step = Step(
        name="long_lived",
        gives="tokens",
        url="{api_base_url}/long",
        params={"access_token": "{access_token}", "client_secret": "{client_secret}"},
    )
    async with talking() as (dialogue, server):
        server.will_say(TOKENS)
        server.will_say({"access_token": "long", "expires_in": 5_184_000})
        got = await exchanged(dialogue, stepping(server, step))
        assert server.lines[1] == "GET /long?access_token=at-1&client_secret=s3cret"
        assert server.header("Authorization") is None
        assert got.tokens.access_token == Secret("long")
        assert got.tokens.refresh_token == Secret("rt-1")
        server.will_say(TOKENS)
        server.will_say({"error": "x"}, 400)
        with pytest.raises(NoToken):
            await exchanged(dialogue, stepping(server, step))


async def test_one_site_is_taken_and_of_several_the_person_takes_one() -> None:
    step = Step(
        name="site",
        gives="choices",
        url="{api_base_url}/sites",
        fields={"site_id": "id"},
        label="name",
    )
    async with talking() as (dialogue, server):
        app = stepping(server, step)
        server.will_say(TOKENS)
        server.will_say([{"id": 1, "name": "One"}, {"id": 2, "name": "Two"}])
        got = await exchanged(dialogue, app)
        assert [(one.id, one.label) for one in got.choices] == [("1", "One"), ("2", "Two")]
        assert "site_id" not in got.tokens.extras
        assert server.header("Authorization") == "Bearer at-1"
        server.will_say(TOKENS)
        server.will_say([{"id": 1, "name": "One"}])
        got = await exchanged(dialogue, app)
        assert (got.choices, got.tokens.extras) == ((), {"site_id": "1"})
        server.will_say(TOKENS)
        server.will_say([])
        with pytest.raises(UpstreamFailed):
            await exchanged(dialogue, app)


async def test_extras_that_are_asked_for_are_there_or_nothing_is() -> None:
    step = Step(name="dc", gives="extras", url="{api_base_url}/me", fields={"dc": "dc"})
    async with talking() as (dialogue, server):
        server.will_say(TOKENS)
        server.will_say({"dc": "us6"})
        got = await exchanged(dialogue, stepping(server, step))
        assert got.tokens.extras == {"dc": "us6"}
        server.will_say(TOKENS)
        server.will_say({}, 403)
        with pytest.raises(NoToken):
            await exchanged(dialogue, stepping(server, step))


async def test_a_second_resource_is_asked_for_and_waits_where_it_fails() -> None:
    provider = CATALOGUE.get("oauth2")
    more = MoreTokens(name="second", scope="https://{host}/.default")
    host = Variable(filled_by="person", optional=True)
    provider = replace(
        provider,
        reply=replace(provider.reply, more=[more]),
        variables={**provider.variables, "host": host},
        identity=None,
    )
    async with talking() as (dialogue, server):
        values = {"api_base_url": server.url, "host": "b.example"}
        app = app_at(server, provider=provider, values=values)
        server.will_say(TOKENS)
        server.will_say({"access_token": "second-1", "refresh_token": "rt-2"})
        got = await exchanged(dialogue, app)
        assert server.form()["scope"] == "https://b.example/.default"
        assert got.tokens.more["second"].access_token == Secret("second-1")
        assert got.tokens.refresh_token == Secret("rt-2")
        server.will_say(TOKENS)
        server.will_say({"error": "invalid_scope"}, 400)
        tokens = (await exchanged(dialogue, app)).tokens
        assert tokens.more == {}
        assert further_tokens(app, tokens) == ("second",)
        server.will_say({"access_token": "second-2"})
        tokens = await dialogue.refresh(app, tokens, now=NOW, name="second")
        assert tokens.more["second"].access_token == Secret("second-2")
        assert tokens.access_token == Secret("at-1")
        assert further_tokens(app_at(server, provider=provider), tokens) == ()


# ID tokens


def signing_in(server: Server, **changes: Any) -> App:
    oidc = Oidc(issuer="https://unused.example")
    identity = Identity(source="id_token", account=["sub"], email="email")
    provider = replace(CATALOGUE.get("oauth2"), oidc=oidc, identity=identity)
    endpoints = server.endpoints(jwks_url=f"{server.url}/jwks")
    return app_at(server, provider=provider, endpoints=endpoints, scopes=("openid",), **changes)


async def test_an_id_token_that_holds_says_who_it_is() -> None:
    async with talking() as (dialogue, server):
        server.will_say(TOKENS | {"id_token": id_token(server.url, email="ann@example.com")})
        server.will_say(jwks())
        got = await exchanged(dialogue, signing_in(server), nonce=NONCE)
        assert (got.account.id, got.account.email) == ("ann", "ann@example.com")
        assert server.lines == ["POST /token", "GET /jwks"]


@pytest.mark.parametrize(
    "claims",
    [
        {"iss": "https://evil.example"},
        {"aud": "client-2"},
        {"nonce": "other"},
        {"nonce": None},
        {"exp": int(NOW.timestamp()) - 120},
        {"at_hash": "AAAA"},
    ],
    ids=str,
)
async def test_an_id_token_that_does_not_hold_costs_the_tokens(claims: dict[str, Any]) -> None:
    async with talking() as (dialogue, server):
        server.will_say(TOKENS | {"id_token": id_token(server.url, **claims)})
        server.will_say(jwks())
        with pytest.raises(IdTokenRefused):
            await exchanged(dialogue, signing_in(server), nonce=NONCE)


async def test_an_id_token_of_another_key_is_refused_and_so_is_none_at_all() -> None:
    forged = RSAKey.generate_key(2048)
    async with talking() as (dialogue, server):
        server.will_say(TOKENS | {"id_token": id_token(server.url, forged)})
        server.will_say(jwks())
        with pytest.raises(IdTokenRefused):
            await exchanged(dialogue, signing_in(server), nonce=NONCE)
        server.will_say(TOKENS)
        with pytest.raises(IdTokenRefused):
            await exchanged(dialogue, signing_in(server), nonce=NONCE)


async def test_an_id_token_is_verified_also_where_another_source_names_the_account() -> None:
    async with talking() as (dialogue, server):
        app = signing_in(server)
        identity = Identity(source="userinfo", account=["sub"])
        app = replace(app, provider=replace(app.provider, identity=identity))
        server.will_say(TOKENS | {"id_token": id_token(server.url, sub="ann")})
        server.will_say(jwks())
        server.will_say({"sub": "bob"})
        with pytest.raises(IdTokenRefused):  # the answer is about somebody else
            await exchanged(dialogue, app, nonce=NONCE)
        server.will_say(TOKENS | {"id_token": id_token(server.url, nonce="other")})
        with pytest.raises(IdTokenRefused):
            await exchanged(dialogue, app, nonce=NONCE)
        server.will_say(TOKENS | {"id_token": id_token(server.url, sub="ann")})
        server.will_say({}, 403)
        assert (await exchanged(dialogue, app, nonce=NONCE)).account.id == "ann"


# Renewing


async def test_a_refresh_keeps_what_it_does_not_say_and_needs_no_database() -> None:
    async with talking() as (dialogue, server):
        app = app_at(server)
        former = tokens_of(app.provider, scopes=("a",), extras={"x": "y"})
        server.will_say({"access_token": "at-2", "expires_in": 60})
        got = await dialogue.refresh(app, former, now=NOW)
        assert server.form() == {
            "client_id": "client-1",
            "client_secret": "s3cret",
            "grant_type": "refresh_token",
            "refresh_token": "rt-1",
        }
        assert got.access_token == Secret("at-2")
        assert (got.refresh_token, got.scopes, got.extras) == (Secret("rt-1"), ("a",), {"x": "y"})


async def test_a_refresh_is_never_repeated_by_itself() -> None:
    async with talking() as (dialogue, server):
        app = app_at(server)
        former = tokens_of(app.provider)
        server.will_hang_up()
        with pytest.raises(Unreachable):
            await dialogue.refresh(app, former, now=NOW)
        for status in (500, 502, 503, 429):
            server.will_say({}, status)
            with pytest.raises(NoToken):
                await dialogue.refresh(app, former, now=NOW)
        assert server.lines == ["POST /token"] * 5


async def test_a_refresh_tries_the_next_secret() -> None:
    async with talking() as (dialogue, server):
        app = app_at(server, client_secrets=(Secret("new"), Secret("old")))
        server.will_say({"error": "invalid_client"}, 401)
        server.will_say({"access_token": "at-2"})
        got = await dialogue.refresh(app, tokens_of(app.provider), now=NOW)
        assert got.access_token == Secret("at-2")
        assert server.form()["client_secret"] == "old"


async def test_a_token_too_young_is_not_sent() -> None:
    async with talking() as (dialogue, server):
        app = app_at(server, "facebook", values={})
        former = TokenSet(access_token=Secret("at"), obtained_at=NOW - timedelta(hours=23))
        with pytest.raises(NoToken) as caught:
            await dialogue.refresh(app, former, now=NOW)
        assert caught.value.failure.outcome == "not_sent"
        assert caught.value.failure.retry_after == 3600
        assert server.lines == []
        server.will_say({"access_token": "newer", "expires_in": 5_184_000})
        got = await dialogue.refresh(app, former, now=NOW + timedelta(hours=2))
        assert got.access_token == Secret("newer")
        assert server.lines[0].startswith("GET /token?grant_type=fb_exchange_token") or (
            "fb_exchange_token=at" in server.lines[0]
        )


async def test_an_app_asks_anew_in_its_own_name() -> None:
    async with talking() as (dialogue, server):
        app = app_at(server, "github-app-installation", **with_key(installation_id="9"))
        server.will_say({"token": "ghs_1", "expires_at": "2026-11-21T13:00:00Z"}, 201)
        got = await dialogue.client_grant(app, now=NOW)
        assert got.tokens.access_token == Secret("ghs_1")
        assert got.tokens.expires_at == NOW + timedelta(hours=1)
        assert (server.header("Authorization") or "").startswith("Bearer ey")
        assert can_refresh(app.provider, got.tokens)
        server.will_say({"token": "ghs_2"}, 201)
        again = await dialogue.refresh(app, got.tokens, now=NOW)
        assert again.access_token == Secret("ghs_2")
        server.will_say({"message": "suspended"}, 403)
        with pytest.raises(NoToken) as caught:
            await dialogue.refresh(app, got.tokens, now=NOW)
        assert caught.value.failure.outcome == "dead"


def with_key(**values: str) -> dict[str, Any]:
    key: dict[str, Any] = {"private_key_pem": Secret(RSA), "app_client_id": "Iv1.abc"}
    return {"values": key | values}


async def test_an_installation_that_only_the_callback_named_is_remembered() -> None:
    async with talking() as (dialogue, server):
        app = app_at(server, "github-app-installation", endpoints=None, **with_key())
        url = "{api_base_url}/{installation_id}"
        token = app.provider.token
        assert token is not None
        base = CATALOGUE.get("oauth2").variables["api_base_url"]
        provider = replace(
            app.provider,
            token=replace(token, url=url),
            variables={**app.provider.variables, "api_base_url": base},
        )
        values = {**app.values, "api_base_url": server.url}
        app = replace(app, provider=provider, values=values)
        server.will_say({"token": "ghs_1"}, 201)
        got = await dialogue.client_grant(app, now=NOW, callback={"installation_id": "77"})
        server.will_say({"token": "ghs_2"}, 201)
        await dialogue.refresh(app, got.tokens, now=NOW)
        assert server.lines == ["POST /77", "POST /77"]
        with pytest.raises(Invalid):
            await dialogue.client_grant(app, now=NOW, callback={"installation_id": "../x"})


# Giving back


async def test_each_token_is_given_back_and_each_outcome_told() -> None:
    async with talking() as (dialogue, server):
        app = app_at(server, "notion", values={})
        tokens = tokens_of(app.provider)
        server.will_say({})
        server.will_say({"error": "invalid_client"}, 401)
        got = await dialogue.revoke(app, tokens, now=NOW)
        assert [(one.token, one.outcome) for one in got] == [
            ("access_token", "revoked"),
            ("refresh_token", "failed"),
        ]
        assert got[1].failure is not None
        assert got[1].failure.outcome == "client"
        server.will_hang_up()
        server.will_hang_up()
        got = await dialogue.revoke(app, tokens, now=NOW)
        assert {one.outcome for one in got} == {"failed"}
        app = app_at(server, client_secrets=(Secret("new"), Secret("old")))
        server.will_say({"error": "invalid_client"}, 401)
        server.will_say(raw=b"")
        [one] = await dialogue.revoke(app, tokens, now=NOW)
        assert (one.token, one.outcome) == ("refresh_token", "revoked")


async def test_what_cannot_be_given_back_is_said_and_does_not_raise() -> None:
    async with talking() as (dialogue, server):
        figma = app_at(server, "figma", values={})
        assert await dialogue.revoke(figma, tokens_of(figma.provider), now=NOW) == ()
        zendesk = app_of("zendesk", values={})
        [one] = await dialogue.revoke(zendesk, tokens_of(zendesk.provider), now=NOW)
        assert one.outcome == "failed"
        assert server.lines == []


# Typed credentials


def typing(server: Server, name: str = "api-key", **values: str | Secret) -> App:
    identity = Identity(source="userinfo", url="{api_base_url}/me", account=["id"])
    provider = replace(CATALOGUE.get(name), identity=identity)
    return app_of(name, provider=provider, values={"api_base_url": server.url, **values})


async def test_a_typed_key_is_tried() -> None:
    async with talking() as (dialogue, server):
        server.will_say({"id": 7})
        got = await dialogue.typed(typing(server), {"api_key": "k3y"}, now=NOW)
        assert server.header("Authorization") == "Bearer k3y"
        assert got.account is not None
        assert got.account.id == "7"
        assert got.tokens.access_token == Secret("k3y")
        assert got.tokens.values == {"api_key": Secret("k3y")}
        server.will_say({}, 401)
        with pytest.raises(CredentialRefused) as caught:
            await dialogue.typed(typing(server), {"api_key": "k3y"}, now=NOW)
        assert_hides("k3y", caught.value)
        server.will_say({"username": 1, "id": 8})
        typed: dict[str, str | Secret] = {"username": "ann", "password": Secret("p:w")}
        got = await dialogue.typed(typing(server, "basic"), typed, now=NOW)
        assert server.header("Authorization") == "Basic YW5uOnA6dw=="
        assert got.tokens.access_token is None
        typed = {"header_name": "X-Key", "header_value": Secret("v")}
        server.will_say({"id": 9})
        await dialogue.typed(typing(server, "custom-header"), typed, now=NOW)
        assert server.header("X-Key") == "v"


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("api-key", {}),
        ("api-key", {"api_key": ""}),
        ("api-key", {"api_key": "a\r\nX: y"}),
        ("api-key", {"api_key": "naïve"}),
        ("api-key", {"api_key": Secret(b"\xff")}),
        ("api-key", {"api_key": "\ud800"}),
        ("api-key", {"api_key": "k" * 32_769}),
        ("api-key", {"api_key": "k", "other": "x"}),
        ("basic", {"username": "a:b", "password": "p"}),
        ("basic", {"username": "a"}),
        ("custom-header", {"header_name": "Host", "header_value": "v"}),
        ("custom-header", {"header_name": "X Y", "header_value": "v"}),
        ("telegram-bot", {"api_key": "not a bot's"}),
        ("google", {"api_key": "k"}),
    ],
)
async def test_what_cannot_be_a_credential_is_refused_when_it_is_typed(
    name: str, values: dict[str, str | Secret]
) -> None:
    async with talking() as (dialogue, server):
        with pytest.raises(Invalid) as caught:
            await dialogue.typed(app_of(name, values={}), values, now=NOW)
        assert_hides("X: y", caught.value)
        assert server.lines == []


# Devices


async def test_a_device_waits_until_the_person_has_typed_the_code() -> None:
    async with talking() as (dialogue, server):
        endpoints = server.endpoints(device_url=f"{server.url}/device")
        app = app_at(server, "oauth2-device", endpoints=endpoints, scopes=("a",))
        server.will_say(
            {
                "device_code": "dc",
                "user_code": "WDJB-MJHT",
                "verification_uri": f"{server.url}/activate",
                "expires_in": 900,
            }
        )
        started = await dialogue.device_code(app, now=NOW)
        assert server.form() == {"client_id": "client-1", "scope": "a"}
        server.will_say({"error": "authorization_pending"}, 400)
        polled, granted = await dialogue.device_poll(app, started, interval=5, now=NOW)
        assert (polled.state, granted) == ("waiting", None)
        server.will_hang_up()
        polled, _ = await dialogue.device_poll(app, started, interval=5, now=NOW)
        assert (polled.state, polled.interval) == ("waiting", 10)
        server.will_say(TOKENS)
        server.will_say({"sub": "ada"})
        polled, granted = await dialogue.device_poll(app, started, interval=5, now=NOW)
        assert polled.state == "granted"
        assert granted is not None
        assert granted.tokens.access_token == Secret("at-1")
        assert granted.account is not None
        assert granted.account.id == "ada"
        assert server.lines[-2:] == ["POST /token", "GET /userinfo"]
        assert server.form(-2)["device_code"] == "dc"


# OAuth 1.0a


async def test_oauth1_from_the_temporary_token_to_the_last() -> None:
    async with talking() as (dialogue, server):
        app = app_at(server, "trello", values={"app_name": "Acme"})
        declared = app.provider.oauth1
        assert declared is not None
        variables = {**app.provider.variables, **CATALOGUE.get("oauth2").variables}
        provider = replace(
            app.provider,
            oauth1=replace(declared, request_url="{api_base_url}/request"),
            variables=variables,
        )
        values = {"app_name": "Acme", "api_base_url": server.url}
        app = replace(app, provider=provider, values=values)
        server.will_say(raw=b"oauth_token=tt&oauth_token_secret=ts&oauth_callback_confirmed=true")
        temporary, url = await dialogue.oauth1_begin(app, now=NOW)
        asked = dict(parse_qsl(url.partition("?")[2]))
        assert url.startswith("https://trello.com/1/OAuthAuthorizeToken?")
        assert asked == {
            "expiration": "never",
            "name": "Acme",
            "oauth_token": "tt",
            "scope": "read,write,account",
        }
        server.will_say(raw=b"oauth_token=at&oauth_token_secret=as")
        server.will_say({"id": "t-1", "username": "ann"})
        callback = {"oauth_token": "tt", "oauth_verifier": "v"}
        got = await dialogue.oauth1_finish(app, temporary, callback=callback, now=NOW)
        assert got.account is not None
        assert got.account.id == "t-1"
        assert got.tokens.values == {"token_secret": Secret("as")}
        with pytest.raises(Invalid):
            await dialogue.oauth1_finish(
                app, temporary, callback=callback | {"oauth_token": "other"}, now=NOW
            )


# Signed callbacks


async def test_the_telegram_widget_signs_in_and_gives_no_token() -> None:
    fields = {"id": "42", "first_name": "Ann", "username": "ann"}
    fields |= {"auth_date": str(int(NOW.timestamp()))}
    async with talking() as (dialogue, server):
        app = app_of("telegram-login-widget")
        bot = app.values["bot_token"]
        assert isinstance(bot, Secret)
        lines = "\n".join(f"{name}={value}" for name, value in sorted(fields.items()))
        key = hashlib.sha256(bot.reveal_bytes()).digest()
        signed = fields | {"hash": hmac.new(key, lines.encode(), hashlib.sha256).hexdigest()}
        got = await dialogue.signed_in(app, callback=signed, now=NOW)
        assert (got.tokens.access_token, got.account and got.account.id) == (None, "42")
        with pytest.raises(Invalid):
            await dialogue.signed_in(app, callback=signed | {"id": "43"}, now=NOW)
        assert server.lines == []
