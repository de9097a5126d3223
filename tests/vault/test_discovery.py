"""Metadata documents: whose they are, and where they try to lead us."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from msgspec.structs import replace

from vault.egress import Reply
from vault.errors import UpstreamFailed
from vault.oauth import discovery
from vault.oauth.app import Endpoints
from vault.oauth.discovery import Kind, MetadataRefused
from vault.secret import Secret

ISSUER = "https://idp.example.com"
URL = f"{ISSUER}/.well-known/openid-configuration"
SERVER = "https://mcp.example.com/v1/mcp"
REDIRECT = "https://keyturn.example/callback/x"
DOCUMENT: dict[str, Any] = {
    "issuer": ISSUER,
    "authorization_endpoint": f"{ISSUER}/authorize",
    "token_endpoint": f"{ISSUER}/token",
    "revocation_endpoint": f"{ISSUER}/revoke",
    "userinfo_endpoint": f"{ISSUER}/me",
    "introspection_endpoint": f"{ISSUER}/introspect",
    "jwks_uri": f"{ISSUER}/jwks",
    "device_authorization_endpoint": f"{ISSUER}/device",
    "registration_endpoint": f"{ISSUER}/register",
    "token_endpoint_auth_methods_supported": ["client_secret_basic", "none"],
    "code_challenge_methods_supported": ["S256"],
    "id_token_signing_alg_values_supported": ["RS256", "ES256"],
    "authorization_response_iss_parameter_supported": True,
}


def document(**changed: Any) -> bytes:
    fields = DOCUMENT | changed
    return json.dumps({name: one for name, one in fields.items() if one is not None}).encode()


def read(body: bytes, kind: Kind = "openid", url: str = URL, issuer: str = ISSUER) -> Endpoints:
    return discovery.endpoints_in(body, kind=kind, url=url, issuer=issuer)


def refused(body: bytes, **asked: Any) -> str:
    with pytest.raises(MetadataRefused) as caught:
        read(body, **asked)
    assert caught.value.__cause__ is None
    return caught.value.message


# Where to look


@pytest.mark.parametrize(
    ("kind", "of", "expected"),
    [
        ("openid", "https://i.example", ["https://i.example/.well-known/openid-configuration"]),
        ("openid", "https://i.example/", ["https://i.example/.well-known/openid-configuration"]),
        ("openid", "https://i.example/t", ["https://i.example/t/.well-known/openid-configuration"]),
        ("smart", "https://f.example/r4", ["https://f.example/r4/.well-known/smart-configuration"]),
        (
            "mcp",
            "https://i.example",
            [
                "https://i.example/.well-known/oauth-authorization-server",
                "https://i.example/.well-known/openid-configuration",
            ],
        ),
        (
            "mcp",
            "https://i.example/t",
            [
                "https://i.example/.well-known/oauth-authorization-server/t",
                "https://i.example/.well-known/openid-configuration/t",
                "https://i.example/t/.well-known/openid-configuration",
            ],
        ),
    ],
)
def test_where_metadata_stands(kind: Kind, of: str, expected: list[str]) -> None:
    assert list(discovery.document_urls(kind, of)) == expected


def test_where_a_resources_metadata_stands() -> None:
    assert discovery.resource_urls(SERVER) == (
        "https://mcp.example.com/.well-known/oauth-protected-resource/v1/mcp",
        "https://mcp.example.com/.well-known/oauth-protected-resource",
    )
    only = "https://m.example/.well-known/oauth-protected-resource"
    assert discovery.resource_urls("https://m.example/") == (only,)


@pytest.mark.parametrize(
    ("challenge", "expected"),
    [
        ('Bearer resource_metadata="https://m.example/x"', "https://m.example/x"),
        (
            'Bearer realm="a", resource_metadata="https://m.example/x", scope="y"',
            "https://m.example/x",
        ),
        ("bearer Resource_Metadata=https://m.example/x", "https://m.example/x"),
        ('Bearer error="invalid_token"', None),
        ('Bearer not_resource_metadata="https://m.example/x"', None),
    ],
)
def test_a_refusal_may_say_where_the_metadata_stands(challenge: str, expected: str | None) -> None:
    reply = Reply(status=401, headers=(("www-authenticate", challenge),), body=b"")
    assert discovery.resource_url_in(reply, server_url=SERVER) == expected


@pytest.mark.parametrize(
    "evil",
    [
        "javascript:alert(1)",
        "https://a@m.example/x",
        "https://[::1",
        "",
        "http://mcp.example.com/x",
    ],
)
def test_attack_a_refusal_that_leads_elsewhere(evil: str) -> None:
    headers = (("WWW-Authenticate", f'Bearer resource_metadata="{evil}"'),)
    reply = Reply(status=401, headers=headers, body=b"")
    with pytest.raises(MetadataRefused):
        discovery.resource_url_in(reply, server_url=SERVER)
    plain = evil.startswith("http://") and discovery.resource_url_in(
        reply, server_url="http://127.0.0.1/mcp"
    )
    assert plain == (evil if evil.startswith("http://") else False)


def test_a_refusal_without_a_challenge_says_nothing() -> None:
    silent = Reply(status=401, headers=(), body=b"")
    assert discovery.resource_url_in(silent, server_url=SERVER) is None


# Whose document it is


def test_a_document_gives_every_endpoint() -> None:
    assert read(document()) == Endpoints(
        issuer=ISSUER,
        authorize_url=f"{ISSUER}/authorize",
        token_url=f"{ISSUER}/token",
        revoke_url=f"{ISSUER}/revoke",
        userinfo_url=f"{ISSUER}/me",
        introspect_url=f"{ISSUER}/introspect",
        jwks_url=f"{ISSUER}/jwks",
        device_url=f"{ISSUER}/device",
        registration_url=f"{ISSUER}/register",
        client_auth=("client_secret_basic", "none"),
        pkce=("S256",),
        algorithms=("RS256", "ES256"),
        iss_in_callback=True,
    )
    called = list(discovery.called(read(document())))
    assert f"{ISSUER}/authorize" not in called  # a browser goes there, not we
    assert len(called) == 7


@pytest.mark.parametrize("kind", ["openid", "mcp"])
@pytest.mark.parametrize(
    "issuer",
    [
        None,
        "",
        5,
        [ISSUER],
        "https://evil.example",
        "https://IDP.example.com",
        "https://idp.example.com:443",
        "http://idp.example.com",
        "https://idp.example.com/x",
        "https://idp.example.com//",
        "https://idp.example.com\n",
    ],
)
def test_attack_a_document_that_speaks_for_another_issuer(kind: Kind, issuer: Any) -> None:
    # ASVS 10.5.3, RFC 8414 section 3.3.
    assert "another issuer" in refused(document(issuer=issuer), kind=kind)


def test_a_slash_at_the_end_is_a_difference_but_for_a_bare_host_of_mcp() -> None:
    assert "slash" in refused(document(issuer=ISSUER + "/"))
    assert "slash" in refused(document(), issuer=ISSUER + "/")
    for said, asked in ((ISSUER, ISSUER + "/"), (ISSUER + "/", ISSUER)):
        assert read(document(issuer=said), "mcp", issuer=asked).issuer == said
    tenant = f"{ISSUER}/t"
    assert "slash" in refused(document(issuer=tenant + "/"), kind="mcp", issuer=tenant)


def test_smarts_issuer_is_that_of_its_id_tokens() -> None:
    base = "https://fhir.example/r4"
    assert read(document(), "smart", issuer=base).issuer == ISSUER
    assert read(document(issuer=None), "smart", issuer=base).issuer == base
    assert refused(document(issuer="http://idp.example.com"), kind="smart", issuer=base)
    assert refused(document(issuer=5), kind="smart", issuer=base)


# Where it leads


ENDPOINTS = [name for name, value in DOCUMENT.items() if name.endswith(("_endpoint", "_uri"))]


@pytest.mark.parametrize("name", ENDPOINTS)
def test_attack_an_endpoint_without_https_in_a_document_with_it(name: str) -> None:
    for evil in ("http://idp.example.com/x", "http://127.0.0.1/x"):
        assert "without https" in refused(document(**{name: evil}))


@pytest.mark.parametrize("name", ENDPOINTS)
@pytest.mark.parametrize(
    "evil",
    [
        "",
        "/token",
        "//evil.example/x",
        "javascript:alert(1)",
        "file:///etc/passwd",
        "https:///x",
        "https://",
        "https://user@evil.example/x",
        "https://evil.example/x#y",
        "https://evil.example/a b",
        "https://evil.example/\n",
        "https://evil.example\\@idp.example.com/",
        "https://evil.example/{client_secret}",
        "https://evil.example/" + "x" * 2_000,
        "https://[::1",
        5,
        ["https://idp.example.com/x"],
        {},
    ],
)
def test_attack_an_endpoint_that_is_no_address(name: str, evil: Any) -> None:
    assert "address that is none" in refused(document(**{name: evil}))


def test_endpoints_may_stand_on_another_host() -> None:
    found = read(document(token_endpoint="https://tokens.example.net/t"))
    assert found.token_url == "https://tokens.example.net/t"


def test_what_came_without_https_may_lead_without_it() -> None:
    # Egress let us fetch it, and decides about each of the endpoints, too.
    local = "http://127.0.0.1:8421"
    fields = {name: f"{local}/{name}" for name in ENDPOINTS}
    found = read(document(issuer=local, **fields), url=f"{local}/x", issuer=local)
    assert found.token_url == f"{local}/token_endpoint"


@pytest.mark.parametrize(
    "missing",
    [
        {"token_endpoint": None},
        {"authorization_endpoint": None, "device_authorization_endpoint": None},
    ],
)
def test_a_document_lacks_nothing_that_is_needed(missing: dict[str, None]) -> None:
    assert "lacks" in refused(document(**missing))
    assert read(document(authorization_endpoint=None)).authorize_url is None


@pytest.mark.parametrize("pkce", [None, [], ["plain"], "S256", ["s256"]])
def test_attack_an_mcp_server_without_pkce(pkce: Any) -> None:
    body = document(code_challenge_methods_supported=pkce)
    assert "PKCE" in refused(body, kind="mcp")
    assert read(body).token_url


@pytest.mark.parametrize("body", [b"", b"[]", b"null", b"{", b"\xff", b"<html>", b"[" * 100_000])
def test_a_document_that_is_none(body: bytes) -> None:
    assert "not a JSON object" in refused(body)
    assert not discovery.is_document(body)


def test_lists_are_taken_with_a_grain_of_salt() -> None:
    odd = {
        "token_endpoint_auth_methods_supported": ["none", 5, None, "x" * 3_000, {}],
        "id_token_signing_alg_values_supported": "RS256",
        "authorization_response_iss_parameter_supported": "yes",
        "code_challenge_methods_supported": ["S256"] * 1_000,
    }
    found = read(document(**odd))
    assert found.client_auth == ("none",)
    assert found.algorithms == ()
    assert found.iss_in_callback is False
    assert len(found.pkce) == 64


# A protected resource (RFC 9728)


def resource(said: Any, servers: Any = (ISSUER,), server_url: str = SERVER) -> discovery.Resource:
    body = json.dumps({"resource": said, "authorization_servers": servers}).encode()
    return discovery.resource_in(body, server_url=server_url)


@pytest.mark.parametrize(
    "said",
    [
        SERVER,
        SERVER + "/",
        "https://mcp.example.com/v1",
        "https://mcp.example.com/",
        "https://mcp.example.com",
        "https://MCP.example.com:443/v1/mcp",
    ],
)
def test_a_resource_is_the_server_that_was_asked_or_what_it_lies_in(said: str) -> None:
    assert resource(said) == discovery.Resource(said, (ISSUER,))


@pytest.mark.parametrize(
    "said",
    [
        None,
        5,
        "",
        "mcp",
        "https://other.example/v1/mcp",
        "https://mcp.example.com.evil.example/v1/mcp",
        "https://mcp.example.com@evil.example/v1/mcp",
        "https://mcp.example.com:8443/v1/mcp",
        "http://mcp.example.com/v1/mcp",
        "https://mcp.example.com/v1/mc",
        "https://mcp.example.com/v1/mcp/more",
        "https://mcp.example.com/v2",
        "https://mcp.example.com/v1/../v1/mcp",
        "https://mcp.example.com/v1?x=1",
    ],
)
def test_attack_a_resource_that_is_not_the_server_that_was_asked(said: Any) -> None:
    with pytest.raises(MetadataRefused, match="another server"):
        resource(said)


def test_attack_a_server_that_is_not_where_its_address_seems_to_be() -> None:
    for server_url in ("https://mcp.example.com/v1/../v2", "https://mcp.example.com/v1/./x"):
        with pytest.raises(MetadataRefused, match="another server"):
            resource("https://mcp.example.com/v1", server_url=server_url)


@pytest.mark.parametrize("servers", [None, [], "x", [5], ["http://idp.example.com"], ["idp"]])
def test_attack_authorization_servers_that_are_none(servers: Any) -> None:
    with pytest.raises(MetadataRefused):
        resource(SERVER, servers)


def test_only_the_first_few_authorization_servers_are_tried() -> None:
    many = [f"https://s{number}.example" for number in range(9)]
    assert resource(SERVER, many).servers == tuple(many[:3])


# Registration (RFC 7591)


def registered(status: int = 201, **changed: Any) -> discovery.Registered:
    fields = {"client_id": "c-1", "client_secret": "s3nt", "redirect_uris": [REDIRECT]} | changed
    body = json.dumps({name: one for name, one in fields.items() if one is not None}).encode()
    reply = Reply(status=status, headers=(), body=body)
    return discovery.registered(reply, redirect_uri=REDIRECT)


def test_a_registration_asks_for_what_we_will_do() -> None:
    found = read(document())
    request = discovery.registration_request(
        found, redirect_uri=REDIRECT, client_name="Keyturn", scopes=("a", "b")
    )
    assert isinstance(request.body, bytes)
    assert json.loads(request.body) == {
        "client_name": "Keyturn",
        "redirect_uris": [REDIRECT],
        "grant_types": ["authorization_code", "refresh_token"],
        "response_types": ["code"],
        "token_endpoint_auth_method": "client_secret_basic",
        "scope": "a b",
    }
    assert (request.method, request.url) == ("POST", f"{ISSUER}/register")


@pytest.mark.parametrize(
    ("offered", "asked"),
    [
        ((), "client_secret_basic"),
        (("none",), "none"),
        (("none", "client_secret_post"), "client_secret_post"),
        (("private_key_jwt",), "none"),
    ],
)
def test_a_registration_asks_for_the_best_that_is_offered(
    offered: tuple[str, ...], asked: str
) -> None:
    found = replace(read(document()), client_auth=offered)
    request = discovery.registration_request(found, redirect_uri=REDIRECT, client_name="K")
    assert isinstance(request.body, bytes)
    made = json.loads(request.body)
    assert made["token_endpoint_auth_method"] == asked
    assert "scope" not in made


def test_a_server_that_registers_nobody() -> None:
    with pytest.raises(MetadataRefused, match="register one there yourself"):
        discovery.registration_request(
            read(document(registration_endpoint=None)), redirect_uri=REDIRECT, client_name="K"
        )


def test_a_registered_client_proves_itself_as_the_server_says() -> None:
    made = registered(client_secret_expires_at=1_800_000_000)
    assert (made.client_id, made.client_auth) == ("c-1", "basic")
    assert made.client_secret == Secret("s3nt")
    assert made.secret_expires_at == datetime.fromtimestamp(1_800_000_000, UTC)
    assert "s3nt" not in repr(made)
    assert registered(token_endpoint_auth_method="client_secret_post").client_auth == "post"
    public = registered(status=200, client_secret=None, redirect_uris=None)
    assert (public.client_auth, public.client_secret) == ("none", None)
    unneeded = registered(token_endpoint_auth_method="none")
    assert (unneeded.client_auth, unneeded.client_secret) == ("none", None)
    for never in (0, None, "x", True, -1, 10**30):
        assert registered(client_secret_expires_at=never).secret_expires_at is None


@pytest.mark.parametrize(
    "changed",
    [
        {"client_id": None},
        {"client_id": ""},
        {"client_id": "a\nb"},
        {"client_id": "c" * 2_049},
        {"client_id": 5},
        {"redirect_uris": []},
        {"redirect_uris": ["https://evil.example"]},
        {"redirect_uris": REDIRECT},
        {"token_endpoint_auth_method": "private_key_jwt"},
        {"token_endpoint_auth_method": ["none"]},
        {"token_endpoint_auth_method": "client_secret_post", "client_secret": None},
        {"token_endpoint_auth_method": "client_secret_post", "client_secret": "a\r\nb"},
        {"status": 302},
        {"status": 400},
    ],
)
def test_attack_a_registration_that_is_none(changed: dict[str, Any]) -> None:
    with pytest.raises(MetadataRefused):
        registered(**changed)


def test_a_refused_registration_says_why_in_a_word_that_is_known() -> None:
    for code, shown in (("invalid_redirect_uri", True), ("s3ntinel", False)):
        body = json.dumps({"error": code, "error_description": "s3ntinel"}).encode()
        with pytest.raises(UpstreamFailed) as caught:
            discovery.registered(Reply(status=400, headers=(), body=body), redirect_uri=REDIRECT)
        assert (code in caught.value.message) is shown
        assert "s3ntinel" not in caught.value.message
