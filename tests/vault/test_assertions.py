"""JWTs that we sign for a provider: what they say, and what they are never talked into."""

import json
from base64 import urlsafe_b64decode
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from joserfc import jwt
from joserfc.jwk import ECKey, OctKey, RSAKey
from support.id_tokens import ED25519, K256, NOW, P256, P384, P521, RSA, SHORT_RSA, encoded
from support.jwts import parts, pem, public_pem

from vault.errors import Invalid, Unresolved
from vault.oauth.app import App, Endpoints
from vault.oauth.assertions import CLIENT_LIFETIME, client_assertion, provider_assertion
from vault.providers import Catalogue
from vault.secret import Secret

OURS = Catalogue()
AT = int(NOW.timestamp())
RSA_PEM, EC_PEM = Secret(pem(RSA)), Secret(pem(P256))
TOKEN_URL = "https://auth.example.com/token"
GOOGLE: dict[str, Any] = {"client_email": "svc@x.iam", "private_key_pem": RSA_PEM}


def app(provider: str, client_id: str = "", **fields: Any) -> App:
    return App(provider=OURS.get(provider), client_id=client_id, **fields)


def asserted(one: App) -> tuple[dict[str, Any], dict[str, Any]]:
    return parts(provider_assertion(one, now=NOW, jti="j-1").reveal())


# What the catalogue asks for


def test_apples_client_secret_is_an_es256_jwt_of_the_app() -> None:
    values = {"team_id": "A1B2C3D4E5", "key_id": "Z9Y8X7W6V5", "private_key_pem": EC_PEM}
    one = app("apple", "com.example.app", values=values)
    header, says = asserted(one)
    assert header == {"typ": "JWT", "alg": "ES256", "kid": "Z9Y8X7W6V5"}
    assert says == {
        "iss": "A1B2C3D4E5",
        "sub": "com.example.app",
        "aud": "https://appleid.apple.com",
        "iat": AT,
        "exp": AT + 3_600,
    }
    token = provider_assertion(one, now=NOW, jti="j-1").reveal()
    assert jwt.decode(token, ECKey.import_key(public_pem(P256)), ["ES256"]).claims == says


def test_googles_grant_names_its_scopes_and_whom_it_acts_for() -> None:
    values = GOOGLE | {"subject": "user@customer.com"}
    header, says = asserted(app("google-service-account", values=values, scopes=("a", "b")))
    assert header == {"typ": "JWT", "alg": "RS256"}
    assert says == {
        "iss": "svc@x.iam",
        "sub": "user@customer.com",
        "aud": "https://oauth2.googleapis.com/token",
        "scope": "a b",
        "iat": AT,
        "exp": AT + 3_600,
        "jti": "j-1",
    }


def test_an_optional_variable_that_is_empty_leaves_its_claim_out() -> None:
    for empty in ({}, {"subject": ""}):
        assert "sub" not in asserted(app("google-service-account", values=GOOGLE | empty))[1]


def test_githubs_app_token_is_dated_back_and_ends_within_ten_minutes() -> None:
    values = {"app_client_id": "Iv1.abc", "installation_id": "1", "private_key_pem": RSA_PEM}
    header, says = asserted(app("github-app-installation", values=values))
    assert says == {"iss": "Iv1.abc", "iat": AT - 60, "exp": AT - 60 + 540}
    assert says["exp"] - AT <= 600
    assert header == {"typ": "JWT", "alg": "RS256"}


def test_salesforce_names_the_host_that_one_logs_in_at() -> None:
    values = {"username": "u@org.com", "private_key_pem": RSA_PEM}
    says = asserted(app("salesforce-jwt", "consumer", values=values))[1]
    assert (says["iss"], says["sub"]) == ("consumer", "u@org.com")
    assert (says["aud"], says["exp"]) == ("https://login.salesforce.com", AT + 180)


def test_without_an_audience_a_grant_names_the_token_endpoint() -> None:
    values = {"token_url": TOKEN_URL, "jwt_issuer": "me", "private_key_pem": RSA_PEM}
    one = app("jwt-bearer", values=values)
    header, says = asserted(one)
    assert (says["aud"], says["iss"]) == (TOKEN_URL, "me")
    assert "kid" not in header
    named = app("jwt-bearer", values=values | {"audience": "https://a.example", "key_id": "k"})
    header, says = asserted(named)
    assert (says["aud"], header["kid"]) == ("https://a.example", "k")
    found = Endpoints(issuer="https://i.example", token_url="https://i.example/token")
    elsewhere = app("jwt-bearer", values=values, endpoints=found)
    assert asserted(elsewhere)[1]["aud"] == "https://i.example/token"


# What is refused


def test_a_provider_without_an_assertion_gets_none() -> None:
    with pytest.raises(Invalid, match="no signed JWT"):
        provider_assertion(app("slack"), now=NOW, jti="j")


def test_a_missing_value_is_an_error_and_never_an_empty_claim() -> None:
    with pytest.raises(Unresolved, match="client_email"):
        asserted(app("google-service-account", values={"private_key_pem": RSA_PEM}))
    with pytest.raises(Invalid, match="private key is missing"):
        asserted(app("google-service-account", values={"client_email": "a"}))
    plain = GOOGLE | {"private_key_pem": RSA_PEM.reveal()}
    with pytest.raises(Invalid, match="private key is missing"):
        asserted(app("google-service-account", values=plain))


def test_a_secret_never_stands_in_a_claim() -> None:
    with pytest.raises(Invalid, match="secret cannot stand"):
        asserted(app("google-service-account", values=GOOGLE | {"client_email": Secret("s3nt")}))


@pytest.mark.parametrize(
    "key",
    [
        EC_PEM,
        Secret(pem(SHORT_RSA)),
        Secret(public_pem(RSA)),
        Secret(pem(RSA, passphrase=b"x")),
        Secret("s3ntinel"),
        Secret("{}"),
        Secret('{"kty": "RSA", "n": "s3ntinel"}'),
        Secret("[" * 100_000),
        Secret(b"\xff"),
    ],
)
def test_a_key_that_does_not_fit_is_refused_without_quoting_it(key: Secret) -> None:
    with pytest.raises(Invalid) as caught:
        asserted(app("google-service-account", values=GOOGLE | {"private_key_pem": key}))
    assert caught.value.pointer == "/variables/private_key_pem"
    assert "RSA key of at least 2048 bits" in caught.value.message
    assert caught.value.__cause__ is None
    assert "s3ntinel" not in repr(vars(caught.value))


# The client's own proof


def proved(one: App, key: Secret) -> tuple[dict[str, Any], dict[str, Any], str]:
    token = client_assertion(one, key, audience=TOKEN_URL, now=NOW, jti="j-1").reveal()
    return *parts(token), token


def test_a_client_shows_who_it_is_by_its_private_key() -> None:
    header, says, token = proved(app("okta", "c-1", client_auth="private_key_jwt"), RSA_PEM)
    assert header == {"typ": "JWT", "alg": "RS256"}
    assert says == {
        "iss": "c-1",
        "sub": "c-1",
        "aud": TOKEN_URL,
        "iat": AT,
        "exp": AT + CLIENT_LIFETIME,
        "jti": "j-1",
    }
    assert jwt.decode(token, RSAKey.import_key(public_pem(RSA)), ["RS256"]).claims == says


@pytest.mark.parametrize(
    ("key", "algorithm"), [(P256, "ES256"), (P384, "ES384"), (P521, "ES512"), (RSA, "RS256")]
)
def test_the_key_decides_the_algorithm(key: Any, algorithm: str) -> None:
    header, _, token = proved(app("okta", "c", client_auth="private_key_jwt"), Secret(pem(key)))
    assert header["alg"] == algorithm
    public = (RSAKey if key is RSA else ECKey).import_key(public_pem(key))
    assert jwt.decode(token, public, [algorithm]).claims["sub"] == "c"


def test_an_ed25519_key_signs_as_eddsa() -> None:
    text = ED25519.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    header, _, token = proved(app("okta", "c", client_auth="private_key_jwt"), Secret(text))
    assert header["alg"] == "EdDSA"
    data, _, signature = token.rpartition(".")
    ED25519.public_key().verify(urlsafe_b64decode(signature + "=="), data.encode())


def test_a_jwk_says_its_own_name_and_algorithm() -> None:
    key = RSAKey.import_key(pem(RSA)).as_dict(private=True)
    jwk = key | {"kid": "k-7", "alg": "RS384", "use": "sig", "key_ops": ["sign"]}
    one = app("epic-smart", "c", client_auth="private_key_jwt")
    header, _, token = proved(one, Secret(json.dumps(jwk)))
    assert header == {"typ": "JWT", "alg": "RS384", "kid": "k-7"}
    assert jwt.decode(token, RSAKey.import_key(public_pem(RSA)), ["RS384"]).claims["sub"] == "c"
    named = app("okta", "c", client_auth="private_key_jwt", values={"key_id": "k-8"})
    assert proved(named, Secret(json.dumps(jwk)))[0]["kid"] == "k-8"


def test_a_client_shows_who_it_is_by_its_shared_secret() -> None:
    one = app("okta", "c", client_auth="client_secret_jwt", values={"key_id": "k"})
    header, _, token = proved(one, Secret("a shared secret of usual length"))
    assert header == {"typ": "JWT", "alg": "HS256"}
    assert (
        jwt.decode(token, OctKey.import_key(b"a shared secret of usual length"), ["HS256"]).claims[
            "sub"
        ]
        == "c"
    )


@pytest.mark.parametrize(
    ("client_auth", "key"),
    [
        ("private_key_jwt", Secret("a shared secret")),
        ("private_key_jwt", Secret(pem(K256))),
        ("private_key_jwt", Secret(public_pem(RSA))),
        ("private_key_jwt", Secret(public_pem(P256))),
        ("private_key_jwt", Secret(json.dumps({"kty": "oct", "k": encoded(b"x" * 32)}))),
        ("client_secret_jwt", RSA_PEM),
        ("client_secret_jwt", Secret(b"\xff" * 32)),
        ("client_secret_jwt", Secret(public_pem(RSA))),
    ],
)
def test_one_kind_of_proof_is_never_made_with_the_key_of_another(
    client_auth: Any, key: Secret
) -> None:
    with pytest.raises(Invalid) as caught:
        proved(app("okta", "c", client_auth=client_auth), key)
    assert caught.value.pointer == "/client_secret"
