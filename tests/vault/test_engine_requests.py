"""What is sent to each provider, as its file says; and what a file or a value cannot bring in."""

from base64 import b64decode, b64encode
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from support.engine import (
    ACTIVE,
    CATALOGUE,
    NOW,
    REDIRECT,
    RSA,
    app_of,
    attempt,
    endpoints_of,
    fields,
    said,
    shown,
    tokens_of,
)

from vault.egress import HEADER_VALUE, Request, is_header_value
from vault.egress.address import read
from vault.errors import Invalid, Misconfigured, Unresolved
from vault.oauth import authorize, header, requests
from vault.oauth.app import App
from vault.oauth.filling import asked_scopes, filling
from vault.providers.schema import Revoke, Token, Variable
from vault.secret import Secret

# Telegram's login says who somebody is, and opens nothing.
WITH_CREDENTIAL = [one for one in ACTIVE if CATALOGUE.get(one).mode != "telegram_login"]
CODE_FLOWS = [one for one in ACTIVE if CATALOGUE.get(one).mode == "authorization_code"]
OWN_GRANTS = [
    one for one in ACTIVE if CATALOGUE.get(one).mode in ("client_credentials", "jwt_bearer")
]
# Who signs anew each time sends another request each time.
RENEWED = [
    one
    for one in CODE_FLOWS
    if CATALOGUE.get(one).refresh.sends == "refresh_token"
    and CATALOGUE.get(one).client.auth != "signed_secret"
]
VERIFIER = Secret("v" * 43)


def sound(request: Request) -> Request:
    """A request that leaves nothing open and that egress would take."""
    read(request.url)
    assert "{" not in request.url
    for _, value in request.headers:
        assert HEADER_VALUE.fullmatch(shown(value).encode())
        assert "{" not in shown(value)
    for name, value in fields(request).items():
        assert value, name
        assert name == "query" or "{" not in str(value), name  # GraphQL has braces of its own
    return request


@given(st.binary(max_size=6) | st.text("a \t\n~", max_size=6).map(str.encode))
def test_both_ways_to_ask_whether_a_header_can_carry_something_agree(data: bytes) -> None:
    assert is_header_value(data) == bool(HEADER_VALUE.fullmatch(data))


def query(url: str) -> dict[str, str]:
    pairs = parse_qsl(urlsplit(url).query, strict_parsing=True)
    assert len(dict(pairs)) == len(pairs)
    return dict(pairs)


def exchange(app: App, **options: Any) -> Request:
    given: dict[str, Any] = {"code": Secret("c0de"), "verifier": VERIFIER} | options
    return requests.exchange_request(app, attempt(), **given)


def header_of(name: str, **changes: Any) -> tuple[str, str]:
    app = app_of(name)
    found = header.rendered(app.provider, tokens_of(app.provider, **changes), header.values_of(app))
    assert found is not None
    return found[0], found[1].reveal()


# Every provider


@pytest.mark.parametrize("name", CODE_FLOWS)
def test_every_code_flow_builds_all_its_requests(name: str) -> None:
    app = app_of(name)
    provider = app.provider
    url = authorize.authorize_url(app, state="s" * 43, challenge="c" * 43, nonce="n" * 22)
    asked = query(url)
    read(url)
    assert "{" not in url
    rename = provider.authorize.rename if provider.authorize else {}
    omit = provider.authorize.omit if provider.authorize else []
    for standard, value in (
        ("client_id", "client-1"),
        ("redirect_uri", REDIRECT),
        ("response_type", "code"),
        ("state", "s" * 43),
    ):
        assert asked.get(rename.get(standard, standard)) == (None if standard in omit else value)
    forbidden = provider.authorize is not None and provider.authorize.pkce == "forbidden"
    assert asked.get("code_challenge_method") == (None if forbidden else "S256")
    tokens = tokens_of(provider)
    app = replace(app, values={**app.values, **tokens.extras, **app.values})
    sent = fields(sound(exchange(app, verifier=None if forbidden else VERIFIER)))
    assert sent["code"] == "c0de"
    assert sent.get("code_verifier") == (None if forbidden else "v" * 43)
    if provider.refresh.issued != "never" or provider.refresh.sends == "access_token":
        sound(requests.refresh_request(app, attempt(), tokens))
    for more in provider.reply.more:
        sound(requests.refresh_request(app, attempt(), tokens, name=more.name))
    given_back = requests.revoke_requests(app, attempt(), tokens)
    assert bool(given_back) == (provider.revoke is not None)
    for one in given_back:
        sound(one.request)
    for step in provider.steps:
        sound(requests.step_request(app, attempt(), step, tokens))
    if provider.identity and provider.identity.source in ("userinfo", "introspect"):
        asking = requests.identity_request(app, attempt(), provider.identity, tokens)
        assert asking is not None
        sound(asking)


@pytest.mark.parametrize("name", RENEWED)
def test_what_is_made_once_for_all_connections_is_each_ones_own_request(name: str) -> None:
    secrets = (Secret("new"), Secret("o l+d"))
    app = app_of(name, client_secrets=secrets)
    provider = app.provider
    for secret in secrets:
        for value in ("rt-1", "r/t=2 &+%~", "0000000000"):
            whole = tokens_of(
                provider, refresh_token=Secret(value), access_token=Secret(value[::-1])
            )
            for tokens in (whole, replace(whole, extras={})):
                # What a person typed may fill anything: there nothing is shared.
                own = replace(tokens, values={"nobody_asks_for": Secret("it")})
                how = requests.Attempt(now=NOW, secret=secret)
                alike, alone = (requests.refresh_request(app, how, one) for one in (tokens, own))
                assert alike == alone
                assert value in fields(alike).values()


@pytest.mark.parametrize(
    ("part", "changes"),
    [
        ("token", {"url": "https://server.example/{region}/token"}),
        ("token", {"headers": {"X-Region": "{region}"}}),
        ("refresh", {"url": "https://server.example/{base64({region}:)}/token"}),
        ("refresh", {"params": {"where": "{region}"}}),
        ("scopes", {"default": ["read.{region}"]}),
    ],
)
def test_what_was_told_of_one_connection_is_sent_for_it_alone(
    part: str, changes: dict[str, Any]
) -> None:
    file = CATALOGUE.get("oauth2")
    file = replace(
        file,
        variables={**file.variables, "region": Variable(filled_by="callback", default="north")},
        reply=replace(file.reply, capture={"region": "region"}),
        refresh=replace(file.refresh, params={"scope": "{scope}"}),
        scopes=replace(file.scopes, default=["read"]),
    )
    file = replace(file, **{part: replace(getattr(file, part), **changes)})
    app = app_of("oauth2", provider=file)
    for region in ("north", "south", "east", "north"):
        tokens = tokens_of(file, extras={"region": region} if region != "north" else {})
        request = requests.refresh_request(app, attempt(), tokens)
        sent = f"{request.url} {fields(request)} {said(request, 'X-Region')}"
        told = (region, b64encode(f"{region}:".encode()).decode())
        assert any(one in sent for one in told), sent


@pytest.mark.parametrize("name", OWN_GRANTS)
def test_every_grant_without_a_person_is_built(name: str) -> None:
    request = sound(requests.client_grant_request(app_of(name), attempt()))
    if name != "github-app-installation":
        assert fields(request)["grant_type"]


@pytest.mark.parametrize("name", WITH_CREDENTIAL)
def test_every_credential_is_rendered_and_every_base_url_is_filled(name: str) -> None:
    app, values = app_of(name), {"username": "ann", "password": Secret("pw")}
    values |= {"header_name": "X-Key", "header_value": Secret("hv"), "api_key": Secret("k")}
    values |= {one: app.values[one] for one in values.keys() & app.values.keys()}
    tokens = tokens_of(app.provider, values=values)
    for one, value in header.headers(app.provider, tokens, header.values_of(app)):
        assert HEADER_VALUE.fullmatch(value.reveal_bytes()), one
        assert "{" not in value.reveal()
    base = header.base_url(app.provider, tokens, header.values_of(app))
    assert (base is None) == (app.provider.api.base_url is None)
    if base is not None:
        read(shown(base))
        assert "{" not in shown(base)


def test_the_credential_travels_as_each_api_takes_it() -> None:
    assert header_of("google") == ("Authorization", "Bearer at-1")
    assert header_of("zoho") == ("Authorization", "Zoho-oauthtoken at-1")
    assert header_of("shopify") == ("X-Shopify-Access-Token", "at-1")
    assert header_of("monday") == ("Authorization", "at-1")
    trello = 'OAuth oauth_consumer_key="client-1", oauth_token="at-1"'
    assert header_of("trello") == ("Authorization", trello)
    typed = {"username": "ann", "password": Secret("p:w")}
    assert header_of("basic", values=typed) == ("Authorization", "Basic YW5uOnA6dw==")
    typed = {"header_name": "X-Key", "header_value": Secret("v")}
    assert header_of("custom-header", values=typed) == ("X-Key", "v")


def test_a_credential_in_the_url_is_no_header_and_its_url_is_a_secret() -> None:
    app = app_of("telegram-bot")
    tokens = tokens_of(app.provider)
    assert header.rendered(app.provider, tokens, header.values_of(app)) is None
    base = header.base_url(app.provider, tokens, header.values_of(app))
    assert isinstance(base, Secret)
    assert base.reveal() == f"https://api.telegram.org/bot1234567:{'a' * 35}"


def test_an_optional_header_is_left_out_and_a_choice_that_is_missing_is_said() -> None:
    app = app_of("google-ads")
    values = {one: value for one, value in app.values.items() if one != "login_customer_id"}
    names = [one for one, _ in header.headers(app.provider, tokens_of(app.provider), values)]
    assert names == ["Authorization", "developer-token"]
    xero = app_of("xero").provider
    with pytest.raises(Unresolved, match="tenant_id"):
        header.headers(xero, tokens_of(xero, extras={}), {})


# Consent


def test_pkce_goes_wherever_it_is_not_forbidden() -> None:
    for name, sent in (("zoho", True), ("google", True), ("square", False), ("slack", False)):
        assert authorize.uses_pkce(CATALOGUE.get(name)) is sent
        url = authorize.authorize_url(app_of(name), state="s", challenge="x")
        assert ("code_challenge" in query(url)) is sent
    with pytest.raises(Misconfigured):
        authorize.authorize_url(app_of("x"), state="s")


def test_a_challenge_is_the_one_of_rfc_7636() -> None:
    verifier = Secret("dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk")
    assert authorize.challenge(verifier) == "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"
    made = {authorize.make_verifier().reveal() for _ in range(50)}
    assert len(made) == 50
    assert all(len(one) == 43 for one in made)


def test_a_state_that_the_provider_would_not_carry_is_refused() -> None:
    authorize.authorize_url(app_of("telegram-oidc"), state="s" * 256, challenge="c")
    with pytest.raises(Misconfigured):
        authorize.authorize_url(app_of("telegram-oidc"), state="s" * 257, challenge="c")


def test_scopes_are_written_as_the_provider_reads_them() -> None:
    app = app_of("slack", scopes=("a", "b"), authorize_params={"user_scope": "search:read x,y"})
    asked = query(authorize.authorize_url(app, state="s"))
    assert (asked["scope"], asked["user_scope"]) == ("a,b", "search:read,x,y")
    asked = query(authorize.authorize_url(app_of("slack-user", scopes=("a",)), state="s"))
    assert asked["user_scope"] == "a"
    assert "scope" not in asked
    assert asked_scopes(app_of("xero", scopes=("a",))) == ("a", "offline_access")
    environment = "https://value.crm.dynamics.com"
    app = app_of("dynamics-365", values={"environment_host": "value.crm.dynamics.com"})
    assert any(one.startswith(environment) for one in asked_scopes(app))


@pytest.mark.parametrize(
    "name", ["state", "redirect_uri", "client_id", "response_mode", "code_challenge", "STATE"]
)
def test_a_workspace_cannot_replace_what_protects_the_flow(name: str) -> None:
    app = app_of("google", authorize_params={name: "evil"})
    with pytest.raises(Invalid):
        authorize.authorize_url(app, state="s", challenge="c")


def test_a_workspace_can_replace_what_is_only_a_preference() -> None:
    app = app_of("google", authorize_params={"prompt": "select_account", "hd": "acme.com"})
    asked = query(authorize.authorize_url(app, state="s", challenge="c"))
    assert (asked["prompt"], asked["hd"]) == ("select_account", "acme.com")
    with pytest.raises(Invalid):  # as TikTok calls the client's id
        authorize.check_params(app_of("tiktok", authorize_params={"client_key": "evil"}))


def test_the_telegram_widget_brings_the_state_in_the_address_to_return_to() -> None:
    asked = query(authorize.authorize_url(app_of("telegram-login-widget"), state="s&x"))
    assert asked["return_to"] == f"{REDIRECT}?state=s%26x"
    assert asked["origin"] == "https://keyturn.example"
    assert asked.keys() == {"bot_id", "origin", "return_to", "request_access", "embed"}


def test_a_nonce_is_for_those_who_send_an_id_token() -> None:
    assert authorize.uses_nonce(app_of("google"))
    assert not authorize.uses_nonce(app_of("google", scopes=("calendar",)))
    assert not authorize.uses_nonce(app_of("slack"))


# The token endpoint


def test_the_client_shows_who_it_is_in_the_declared_way() -> None:
    odd = Secret("s ec:ret+%")
    shown_as: dict[str, tuple[str | None, bool]] = {
        "basic": ("client-1:s+ec%3Aret%2B%25", False),
        "basic_raw": ("client-1:s ec:ret+%", False),
        "secret_as_user": ("s ec:ret+%:", False),
        "post": (None, True),
    }
    for auth, (pair, in_body) in shown_as.items():
        app = app_of("google", client_auth=auth)
        request = requests.exchange_request(
            app, replace(attempt(), secret=odd), code=Secret("c"), verifier=None
        )
        basic = said(request, "Authorization")
        assert (b64decode(basic[6:]).decode() if basic else None) == pair
        assert (fields(request).get("client_secret") == odd.reveal()) is in_body
        assert ("client_id" in fields(request)) is in_body


def test_a_client_without_a_secret_names_itself_and_one_that_needs_one_says_so() -> None:
    app = app_of("google", client_secrets=())
    request = requests.exchange_request(app, attempt(None), code=Secret("c"), verifier=VERIFIER)
    assert fields(request)["client_id"] == "client-1"
    assert "client_secret" not in fields(request)
    with pytest.raises(Unresolved):
        requests.exchange_request(
            app_of("stripe-apps"), attempt(None), code=Secret("c"), verifier=None
        )


@pytest.mark.parametrize("auth", ["private_key_jwt", "client_secret_jwt"])
def test_a_signed_proof_stands_in_the_secrets_place(auth: str) -> None:
    key = RSA if auth == "private_key_jwt" else "x" * 32
    app = app_of("google", client_auth=auth, client_secrets=(Secret(key),))
    sent = fields(requests.exchange_request(app, attempt(key), code=Secret("c"), verifier=VERIFIER))
    assert sent["client_assertion"].count(".") == 2
    assert sent["client_assertion_type"].endswith(":jwt-bearer")
    assert "client_secret" not in sent


def test_discovery_says_how_the_client_authenticates() -> None:
    found = endpoints_of(CATALOGUE.get("oidc"))
    assert found is not None

    def by(*offered: str, **changes: Any) -> str:
        app = app_of("oidc", endpoints=replace(found, client_auth=offered), **changes)
        return requests.client_auth(app)

    assert by() == "basic"  # RFC 8414: where nothing is said
    assert by("client_secret_post", "client_secret_basic") == "post"
    assert by("client_secret_basic") == "basic"
    assert by("tls_client_auth", "client_secret_jwt") == "client_secret_jwt"
    assert by("client_secret_basic", client_secrets=()) == "none"
    assert by("client_secret_basic", client_auth="post") == "post"


def test_endpoints_that_were_found_come_before_those_of_the_file() -> None:
    found = endpoints_of(CATALOGUE.get("oidc"))
    assert found is not None
    found = replace(found, resource="https://api.example/mcp")
    app = app_of("google", endpoints=found)
    tokens = tokens_of(app.provider)
    assert authorize.authorize_url(app, state="s", challenge="c").startswith(
        found.authorize_url or "-"
    )
    for request in (exchange(app), requests.refresh_request(app, attempt(), tokens)):
        assert request.url == found.token_url
        assert fields(request)["resource"] == found.resource
    assert requests.revoke_requests(app, attempt(), tokens)[0].request.url == found.revoke_url
    identity = app.provider.identity
    assert identity is not None
    asking = requests.identity_request(app, attempt(), identity, tokens)
    assert asking is not None
    assert asking.url == found.userinfo_url


def test_json_query_and_renamed_parameters() -> None:
    assert said(exchange(app_of("square")), "Content-Type") == "application/json"
    assert said(exchange(app_of("square")), "Square-Version") == "2026-01-22"
    gong = exchange(app_of("gong"))
    assert "code=c0de" in gong.url
    assert gong.body is None
    tiktok = fields(exchange(app_of("tiktok")))
    assert tiktok["client_key"] == "client-1"
    assert "client_id" not in tiktok
    github = exchange(app_of("github-oauth-app"))
    assert said(github, "Accept") == "application/json"


def test_what_shopify_leaves_out_of_the_exchange_stands_in_a_refresh() -> None:
    app = app_of("shopify")
    assert fields(exchange(app, verifier=None)) == {
        "client_id": "client-1",
        "client_secret": "s3cret",
        "code": "c0de",
        "expiring": "1",
    }
    sent = fields(requests.refresh_request(app, attempt(), tokens_of(app.provider)))
    assert sent["grant_type"] == "refresh_token"
    assert "expiring" not in sent


def test_a_refresh_is_as_odd_as_its_provider() -> None:
    def refresh(name: str, which: str | None = None, **changes: Any) -> Request:
        app = app_of(name, **changes)
        return requests.refresh_request(app, attempt(), tokens_of(app.provider), name=which)

    assert fields(refresh("basecamp")) == {
        "client_id": "client-1",
        "client_secret": "s3cret",
        "refresh_token": "rt-1",
        "type": "refresh",
    }
    meta = refresh("facebook")
    assert (meta.method, meta.body) == ("GET", None)
    assert fields(meta) == {
        "client_id": "client-1",
        "client_secret": "s3cret",
        "fb_exchange_token": "at-1",
        "grant_type": "fb_exchange_token",
    }
    instagram = refresh("instagram")
    assert fields(instagram) == {"access_token": "at-1", "grant_type": "ig_refresh_token"}
    assert refresh("figma").url == "https://api.figma.com/v1/oauth/refresh"
    assert fields(refresh("outreach"))["redirect_uri"] == REDIRECT
    assert fields(refresh("ebay", scopes=("a", "b")))["scope"] == "a b"
    assert "scope" not in fields(refresh("google"))
    assert "client_id" not in fields(refresh("stripe-connect"))
    assert fields(refresh("slack", "user"))["refresh_token"] == "xrt-1"
    sharepoint = fields(refresh("sharepoint", "sharepoint"))
    assert sharepoint["scope"] == "https://contoso.sharepoint.com/.default"
    assert sharepoint["refresh_token"] == "rt-1"


def test_grants_without_a_person() -> None:
    zoom = requests.client_grant_request(app_of("zoom-s2s"), attempt())
    assert fields(zoom) == {"grant_type": "account_credentials", "account_id": "abc"}
    github = requests.client_grant_request(app_of("github-app-installation"), attempt())
    assert github.url.endswith("/app/installations/123/access_tokens")
    assert (said(github, "Authorization") or "").startswith("Bearer ey")
    assert fields(github) == {}
    google = fields(requests.client_grant_request(app_of("google-service-account"), attempt()))
    assert google["grant_type"].endswith("jwt-bearer")
    assert "scope" not in google  # it stands in the assertion
    apple = fields(exchange(app_of("apple"), verifier=None))
    assert apple["client_secret"].count(".") == 2


# Giving back


def test_a_renewal_goes_where_the_callback_said_that_the_account_is() -> None:
    app = app_of("zoho", values={})
    tokens = tokens_of(app.provider, extras={"accounts_host": "accounts.zoho.eu"})
    request = requests.refresh_request(app, attempt(), tokens)
    assert request.url == "https://accounts.zoho.eu/oauth/v2/token"
    forged = tokens_of(app.provider, extras={"accounts_host": "evil.example"})
    with pytest.raises(Invalid):
        requests.refresh_request(app, attempt(), forged)


def test_tokens_are_given_back_as_each_provider_wants_it() -> None:
    def back(name: str, **changes: Any) -> list[tuple[str, Request]]:
        app = app_of(name)
        tokens = tokens_of(app.provider, **changes)
        return [
            (one.token, one.request) for one in requests.revoke_requests(app, attempt(), tokens)
        ]

    [(kind, google)] = back("google")
    assert (kind, fields(google)) == ("refresh_token", {"token": "rt-1"})
    [(kind, google)] = back("google", refresh_token=None)
    assert (kind, fields(google)) == ("access_token", {"token": "at-1"})
    [(_, github)] = back("github-oauth-app")
    assert github.method == "DELETE"
    assert github.url == "https://api.github.com/applications/client-1/token"
    assert said(github, "Authorization") == "Basic Y2xpZW50LTE6czNjcmV0"
    assert fields(github) == {"access_token": "at-1"}
    kinds = [kind for kind, _ in back("slack")]
    assert kinds == ["access_token", "user"]
    assert [said(one, "Authorization") for _, one in back("slack")] == [
        "Bearer at-1",
        "Bearer xat-1",
    ]
    [(_, square)] = back("square")
    assert said(square, "Authorization") == "Client s3cret"
    assert fields(square) == {"client_id": "client-1", "access_token": "at-1"}
    [(_, zoho)] = back("zoho")
    assert "token=rt-1" in zoho.url
    [(_, trello)] = back("trello")
    assert trello.url == "https://api.trello.com/1/tokens/at-1?key=client-1&token=at-1"
    [(_, stripe)] = back("stripe-connect")
    assert fields(stripe) == {
        "client_id": "client-1",
        "client_secret": "s3cret",
        "stripe_user_id": "extra",
    }
    [(_, meta)] = back("facebook")
    assert (meta.method, said(meta, "Authorization")) == ("DELETE", "Bearer at-1")
    assert [kind for kind, _ in back("notion")] == ["access_token", "refresh_token"]
    assert back("figma") == []


def test_an_optional_revocation_address_that_is_empty_is_none() -> None:
    app = app_of("oauth2")
    app = replace(app, values={one: app.values[one] for one in ("authorize_url", "token_url")})
    assert requests.revoke_requests(app, attempt(), tokens_of(app.provider)) == ()


# Asking


def test_the_apis_own_headers_go_nowhere_else() -> None:
    def asking(name: str) -> Request:
        app = app_of(name)
        assert app.provider.identity is not None
        found = requests.identity_request(
            app, attempt(), app.provider.identity, tokens_of(app.provider)
        )
        assert found is not None
        return found

    assert said(asking("klaviyo"), "revision") == "2026-01-15"
    assert said(asking("google-ads"), "developer-token") is None
    assert said(asking("shopify"), "X-Shopify-Access-Token") == "at-1"
    assert said(asking("twitch"), "Authorization") == "OAuth at-1"
    linear = asking("linear")
    assert linear.method == "POST"
    assert "viewer" in fields(linear)["query"]
    hubspot = asking("hubspot")
    assert (hubspot.method, fields(hubspot)["token"]) == ("POST", "at-1")


# What a value cannot bring in


def oauth2(**values: str) -> App:
    app = app_of("oauth2")
    return replace(app, values={**app.values, **values})


@pytest.mark.parametrize(
    "url",
    [
        "ftp://server.example/token",
        "https://user@server.example/token",
        "https://server.example\\@evil.example/",
        "https://server.example/token#x",
        "https://server.example/token?x=1",
        "https://server.example/ token",
        "https://server.example/token\n",
        "//server.example/token",
        "javascript:alert(1)",
        "https://",
    ],
)
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(Invalid):
        exchange(oauth2(token_url=url))


def test_plain_http_that_somebody_typed_is_left_to_egress() -> None:
    assert exchange(oauth2(token_url="http://127.0.0.1:9/token")).url.startswith("http://127")


@pytest.mark.parametrize(
    "shop",
    [
        "evil.example/",
        "evil.example#",
        "a.b",
        "acme@evil",
        "acme\n",
        "-acme",
        "ACME",
        "a/../b",
        "%2e",
    ],
)
def test_a_shop_is_one_label_and_nothing_else(shop: str) -> None:
    app = app_of("shopify", values={"shop": shop})
    for build in (
        lambda: exchange(app),
        lambda: authorize.authorize_url(app, state="s"),
        lambda: header.base_url(app.provider, tokens_of(app.provider), app.values),
    ):
        with pytest.raises(Invalid):
            build()


@pytest.mark.parametrize(
    "base",
    ["fhir.example/../../x", "fhir.example/./x", "user@fhir.example", "fhir.example?x", ".."],
)
def test_a_host_with_a_path_goes_nowhere_else(base: str) -> None:
    app = app_of("epic-smart", values={"fhir_base": base})
    with pytest.raises(Invalid):
        header.base_url(app.provider, tokens_of(app.provider), app.values)


@pytest.mark.parametrize(
    "told",
    [
        "https://evil.example",
        "https://salesforce.com.evil.example",
        "https://evilsalesforce.com",
        "https://x.salesforce.com@evil.example",
        "https://evil.example/x.salesforce.com",
        "https://evil.example?x.salesforce.com",
        "http://x.salesforce.com",
        "https://x.salesforce.com:8443/",
        "https://x.salesforce.com/../y",
        "x.salesforce.com",
    ],
)
def test_an_instance_that_the_provider_names_is_its_own(told: str) -> None:
    app = app_of("salesforce")
    tokens = tokens_of(app.provider, extras={"instance_url": told})
    with pytest.raises(Invalid):
        header.base_url(app.provider, tokens, app.values)


def test_a_data_centre_is_a_label_of_the_providers_own_host() -> None:
    app = app_of("mailchimp")
    good = tokens_of(app.provider, extras={"dc": "us1"})
    assert header.base_url(app.provider, good, {}) == "https://us1.api.mailchimp.com/3.0"
    for dc in ("evil.example/", "evil.example#", "us1/..", "@evil.example", "evil.example?"):
        with pytest.raises(Invalid):
            header.base_url(app.provider, tokens_of(app.provider, extras={"dc": dc}), {})


@pytest.mark.parametrize("context", ["..", "stores/../x", "stores//x", "stores/", "a\r\nb"])
def test_a_captured_path_stays_below_where_it_stands(context: str) -> None:
    app = app_of("bigcommerce")
    good = tokens_of(app.provider, extras={"context": "stores/ab?c"})
    assert header.base_url(app.provider, good, {}) == "https://api.bigcommerce.com/stores/ab%3Fc"
    with pytest.raises(Invalid):
        header.base_url(app.provider, tokens_of(app.provider, extras={"context": context}), {})


@pytest.mark.parametrize("evil", ["a\r\nX-Evil: 1", "a\nb", "a\x00b", "a\x7fb", "naïve", "a "])
def test_no_value_ends_a_header_early(evil: str) -> None:
    with pytest.raises(Invalid):
        header_of("api-key", values={"api_key": Secret(evil)})
    with pytest.raises(Invalid):
        header_of("custom-header", values={"header_name": evil, "header_value": Secret("v")})


@pytest.mark.parametrize("name", ["Host", "content-length", "Transfer-Encoding", "a b", "", "a:b"])
def test_a_header_that_frames_the_message_cannot_be_chosen(name: str) -> None:
    with pytest.raises((Invalid, Unresolved)):
        header_of("custom-header", values={"header_name": name, "header_value": Secret("v")})


def test_what_was_filled_in_is_not_filled_again() -> None:
    app = app_of("reddit", values={"app_user_agent": "{client_secret}{base64(x)}"})
    assert said(exchange(app), "User-Agent") == "{client_secret}{base64(x)}"
    assert header_of("api-key", values={"api_key": Secret("{{secret__x}}")})[1].endswith(
        "{{secret__x}}"
    )


def test_a_name_that_nothing_fills_is_an_error_and_not_an_empty_text() -> None:
    provider = replace(CATALOGUE.get("google"), token=Token(url="https://{typo}.example/"))
    with pytest.raises(Misconfigured):
        exchange(app_of("google", provider=provider))
    provider = replace(
        CATALOGUE.get("google"), token=Token(url="https://a.example/", params={"x": "{typo}"})
    )
    with pytest.raises(Misconfigured, match="typo"):
        exchange(app_of("google", provider=provider))
    with pytest.raises(Unresolved, match="shop"):
        exchange(app_of("shopify", values={}))


def test_a_text_is_no_host_whatever_a_file_says() -> None:
    provider = replace(
        CATALOGUE.get("google"),
        variables={"x": Variable(filled_by="person")},
        token=Token(url="https://{x}.example/"),
        revoke=Revoke(url="https://{client_id}.example/"),
    )
    app = app_of("google", provider=provider, values={"x": "a"})
    with pytest.raises(Misconfigured):
        exchange(app)
    with pytest.raises(Misconfigured):
        requests.revoke_requests(app, attempt(), tokens_of(provider))


def test_nothing_of_a_secret_shows() -> None:
    app = app_of("zoho")
    texts = [
        repr(filling(app)),
        repr(attempt()),
        repr(exchange(app)),
        repr(tokens_of(app.provider)),
    ]
    assert not any("s3cret" in one or "c0de" in one or "at-1" in one for one in texts)
    assert NOW.tzinfo is not None
