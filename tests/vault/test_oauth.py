"""Token requests as they go out, and what signs them."""

from base64 import b64decode
from datetime import UTC, datetime
from typing import Any, get_args
from urllib.parse import parse_qs

import pytest
from support.jwts import (
    EC_KEYS,
    RSA_1024,
    RSA_2048,
    keys,
    own_jwt,
    parts,
    pem,
    public_pem,
    traded_jwt,
)

from vault import oauth
from vault.auth_kinds import Algorithm, ClientCredentials
from vault.egress import Request
from vault.errors import Invalid
from vault.secret import Secret

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
SENTINEL = "s3ntinel-value"
LIVES_900_S = "e30.eyJpYXQiOiAxMDAwLCAiZXhwIjogMTkwMH0.x"  # by its claims iat and exp
Json = Any


def form_of(request: Request) -> dict[str, str]:
    assert isinstance(request.body, Secret)
    fields = parse_qs(request.body.reveal(), strict_parsing=True, keep_blank_values=True)
    assert all(len(values) == 1 for values in fields.values())
    return {name: values[0] for name, values in fields.items()}


def header_of(request: Request, name: str) -> str | None:
    for key, value in request.headers:
        if key.lower() == name.lower():
            return value.reveal() if isinstance(value, Secret) else value
    return None


def client(**fields: Any) -> ClientCredentials:
    return ClientCredentials(
        **{
            "provider": "p",
            "client_id": "id:1",
            "client_secret": "s ec:ret+%",
            "token_url": "https://auth.example.com/token",
            **fields,
        }
    )


def test_a_client_proves_itself_in_the_body_or_in_the_header_never_in_both() -> None:
    in_body = oauth.client_credentials(client(scopes=["a", "b"], extra_params={"audience": "x y"}))
    assert form_of(in_body) == {
        "grant_type": "client_credentials",
        "client_id": "id:1",
        "client_secret": "s ec:ret+%",
        "scope": "a b",
        "audience": "x y",
    }
    assert header_of(in_body, "Authorization") is None
    in_header = oauth.client_credentials(client(basic_auth_in_header=True))
    assert form_of(in_header) == {"grant_type": "client_credentials"}
    scheme, _, encoded = (header_of(in_header, "Authorization") or "").partition(" ")
    assert scheme == "Basic"
    # RFC 6749 section 2.3.1: both parts form-encoded, so that the colon is the only one.
    assert b64decode(encoded).decode() == "id%3A1:s+ec%3Aret%2B%25"
    assert header_of(in_header, "Content-Type") == "application/x-www-form-urlencoded"
    assert header_of(in_header, "Accept") == "application/json"


def test_custom_headers_go_along() -> None:
    made = oauth.client_credentials(client(custom_headers={"X-Tenant": "t", "Accept": "*/*"}))
    assert header_of(made, "X-Tenant") == "t"
    assert [name for name, _ in made.headers].count("Accept") == 1


def test_nothing_of_a_request_shows_in_its_repr() -> None:
    assert "ec:ret" not in repr(oauth.client_credentials(client(custom_headers={"X": SENTINEL})))


@pytest.mark.parametrize(
    "fields",
    [
        {"extra_params": {"grant_type": "password"}},
        {"extra_params": {"Client_ID": "other"}},
        {"extra_params": {"client_secret": "x"}},
        {"extra_params": {"client_assertion": "x"}},
        {"extra_params": {"assertion": "x"}},
        {"custom_headers": {"Host": "x"}},
        {"custom_headers": {"content-type": "text/plain"}},
        {"custom_headers": {"Content-Length": "0"}},
        {"custom_headers": {"Authorization": "x"}, "basic_auth_in_header": True},
        {"custom_headers": {"X-A": "a\r\nX-B: b"}},
        {"custom_headers": {"X A": "a"}},
    ],
)
def test_what_a_workspace_adds_cannot_replace_what_is_ours(fields: dict[str, Any]) -> None:
    with pytest.raises(Invalid):
        oauth.check_config(client(**fields))


def test_a_usual_client_passes_the_check() -> None:
    oauth.check_config(client(extra_params={"audience": "a"}, custom_headers={"X-A": "b"}))


# Assertions


@pytest.mark.parametrize("algorithm", get_args(Algorithm))
def test_every_algorithm_signs_what_its_public_key_verifies(algorithm: Algorithm) -> None:
    private, public = keys(algorithm)
    config = own_jwt(algorithm=algorithm, secret_key=private, key_id="k1")
    oauth.check_config(config)
    token = oauth.signed_jwt(config, now=NOW, jti="j").reveal()
    assert dict(oauth.verified_claims(token, public, [algorithm])) == {
        "iss": "iss",
        "aud": "https://aud.example",
        "sub": "sub",
        "iat": int(NOW.timestamp()),
        "exp": int(NOW.timestamp()) + 3600,
        "jti": "j",
    }
    assert parts(token)[0] == {"alg": algorithm, "kid": "k1", "typ": "JWT"}
    head, claims, signature = token.split(".")
    for forged in (f"{head}.{claims}.", f"{head}.e30.{signature}", "", "a.b.c"):
        with pytest.raises(Invalid):
            oauth.verified_claims(forged, public, [algorithm])


def test_an_unsigned_jwt_and_a_public_key_as_secret_are_not_believed() -> None:
    none = "eyJhbGciOiJub25lIn0.eyJpc3MiOiJ4In0."
    public = public_pem(RSA_2048)
    for algorithms in (["RS256"], ["HS256"], ["HS256", "RS256"]):
        with pytest.raises(Invalid):
            oauth.verified_claims(none, public, algorithms)


@pytest.mark.parametrize(
    ("algorithm", "key"),
    [
        ("HS256", pem(RSA_2048)),
        ("HS256", public_pem(RSA_2048)),
        ("RS256", "no pem"),
        ("RS256", public_pem(RSA_2048)),
        ("RS256", pem(RSA_1024)),
        ("RS256", pem(RSA_2048, b"passphrase")),
        ("PS512", pem(RSA_1024)),
        ("RS256", pem(EC_KEYS["ES256"])),
        ("ES256", pem(EC_KEYS["ES384"])),
        ("ES384", pem(RSA_2048)),
        ("ES256", public_pem(EC_KEYS["ES256"])),
        ("RS256", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----"),
        ("RS256", "\ud800"),
        ("HS256", "\ud800"),
    ],
)
def test_a_key_that_does_not_fit_is_refused_in_words_that_hold_nothing_of_it(
    algorithm: Algorithm, key: str
) -> None:
    with pytest.raises(Invalid) as caught:
        oauth.check_config(own_jwt(algorithm=algorithm, secret_key=key))
    assert algorithm in caught.value.message
    assert caught.value.pointer == "/secret_key"
    assert "PRIVATE" not in repr(caught.value)
    assert caught.value.__cause__ is None


def test_extras_are_claims_and_header_fields() -> None:
    config = own_jwt(extra_params={"tenant": "t"}, extra_headers={"x5t": "thumb"})
    header, claims = parts(oauth.signed_jwt(config, now=NOW, jti="j").reveal())
    assert header["x5t"] == "thumb"
    assert claims["tenant"] == "t"


@pytest.mark.parametrize(
    "fields",
    [
        {"extra_params": {"iss": "x"}},
        {"extra_params": {"exp": "9999999999"}},
        {"extra_params": {"nbf": "0"}},
        {"extra_headers": {"alg": "none"}},
        {"extra_headers": {"kid": "x"}},
        {"extra_headers": {"crit": "x"}},
    ],
)
def test_extras_replace_nothing(fields: dict[str, Any]) -> None:
    for config in (own_jwt(**fields), traded_jwt(**fields)):
        with pytest.raises(Invalid):
            oauth.check_config(config)


def test_an_assertion_is_the_grant_or_the_clients_proof() -> None:
    grant = oauth.jwt_request(traded_jwt(scopes=["a", "b"]), now=NOW, jti="j")
    form = form_of(grant)
    assert form.pop("assertion").count(".") == 2
    assert form == {"grant_type": oauth.JWT_GRANT, "scope": "a b"}
    assert parts(form_of(grant)["assertion"])[1]["scope"] == "a b"  # as Google reads it
    config = traded_jwt(scopes=["a"], jwt_usage="client_authentication")
    proof = form_of(oauth.jwt_request(config, now=NOW, jti="j"))
    assert "scope" not in parts(proof.pop("client_assertion"))[1]
    assert proof == {
        "grant_type": "client_credentials",
        "client_id": "sub",
        "client_assertion_type": oauth.JWT_CLIENT,
        "scope": "a",
    }
