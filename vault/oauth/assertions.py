"""JWTs that we sign for a provider: grants, app tokens, signed secrets, clients' proofs. Pure.

* What a JWT says comes from the provider's file and the app; what a secret variable holds never
  stands in one.
* A claim whose optional variable is empty is left out; a compulsory one that is empty is an error.
* Times come from the caller's clock, which is the database's. ``exp`` counts from ``iat``, so that
  setting ``iat`` back never asks for more than the provider allows.
* A key is PEM, or a private JWK, which then says its own ``kid`` and ``alg``.
* A key that does not fit is refused without a word of the library's, which quotes the key.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final, NamedTuple

from joserfc import jwt

from vault.errors import Invalid
from vault.oauth.app import App
from vault.oauth.filling import asked_scopes, filling
from vault.oauth.keys import key_errors, signing_key
from vault.secret import Secret

CLIENT_LIFETIME: Final = 120  # seconds; SMART on FHIR allows 300, and nobody known to us less


class Signing(NamedTuple):
    """How to sign; ``algorithm`` None: as the key says or allows."""

    algorithm: str | None
    kid: str | None
    pointer: str


def provider_assertion(app: App, *, now: datetime, jti: str) -> Secret:
    """Sign what the provider's file calls ``assertion``."""
    asked = app.provider.assertion
    if asked is None:
        raise Invalid("This provider takes no signed JWT.")
    key = app.values.get(asked.key)
    if not isinstance(key, Secret) or not key:
        raise Invalid("The private key is missing.", pointer=f"/variables/{asked.key}")
    issued = int(now.timestamp()) - asked.age_seconds
    claims: dict[str, Any] = {
        "iss": _filled(app, asked.issuer),
        "sub": _filled(app, asked.subject),
        "aud": _filled(app, asked.audience) or _default_audience(app),
        "scope": " ".join(asked_scopes(app)) or None if asked.scope_claim else None,
        "iat": issued,
        "exp": issued + asked.lifetime_seconds,
        # Who sees the same grant twice refuses it; a bearer or a secret may be used again.
        "jti": jti if asked.sent_as == "assertion" else None,
    }
    kid = _filled(app, asked.key_id)
    return _signed(claims, key, Signing(asked.algorithm, kid, f"/variables/{asked.key}"))


def client_assertion(
    app: App, client_secret: Secret, *, audience: str, now: datetime, jti: str
) -> Secret:
    """Sign that we are the client (RFC 7523 section 3, OpenID Connect Core section 9).

    ``client_secret``: for ``private_key_jwt`` the private key, for ``client_secret_jwt`` what is
    shared. ``audience``: the token endpoint, or the issuer where a server insists on it.
    """
    issued = int(now.timestamp())
    claims = {
        "iss": app.client_id,
        "sub": app.client_id,
        "aud": audience,
        "iat": issued,
        "exp": issued + CLIENT_LIFETIME,
        "jti": jti,
    }
    shared = (app.client_auth or app.provider.client.auth) == "client_secret_jwt"
    kid = app.values.get("key_id")
    named = kid if isinstance(kid, str) and kid and not shared else None
    signing = Signing("HS256" if shared else None, named, "/client_secret")
    return _signed(claims, client_secret, signing)


def _default_audience(app: App) -> str | None:
    """RFC 7523 section 3: the token endpoint may be named. An app's own token names nobody."""
    asked, token = app.provider.assertion, app.provider.token
    if asked is None or asked.sent_as != "assertion":
        return None
    if app.endpoints is not None and app.endpoints.token_url:
        return app.endpoints.token_url
    return filling(app).url(token.url) if token and token.url else None


def _filled(app: App, text: str | None) -> str | None:
    found = filling(app).text(text) if text is not None else None
    if isinstance(found, Secret):
        raise Invalid("A secret cannot stand in a signed JWT.")
    return found


def _signed(claims: Mapping[str, Any], secret: Secret, signing: Signing) -> Secret:
    # Without an error of decoding, whose text holds the value; what is no text fits no algorithm.
    text = secret.reveal_bytes().decode("utf-8", "surrogateescape")
    key, own_name, algorithm = signing_key(text, signing.algorithm, signing.pointer)
    header: dict[str, Any] = {"typ": "JWT", "alg": algorithm}
    if kid := signing.kid or own_name:
        header["kid"] = kid
    present = {name: value for name, value in claims.items() if value is not None}
    with key_errors(algorithm, signing.pointer):
        return Secret(jwt.encode(header, present, key, algorithms=[algorithm]))
