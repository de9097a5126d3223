"""Which client asks: by its secret, or by what it signed."""

import base64
import binascii
import hmac
import json
import time
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import unquote_plus

from broker.sandbox.knobs import Client
from broker.sandbox.state import Sandbox
from vault.errors import Invalid
from vault.oauth import JWT_CLIENT, verified_claims

MAX_ASSERTION_LIFETIME: Final = 86_400 + 60
MAX_SECRET_LIFETIME: Final = 183 * 86_400  # of a signed secret, which may be used again
LEEWAY: Final = 60


class Refused(Exception):
    """An OAuth error; ``reason`` is for the history alone."""

    def __init__(self, error: str, status: int = 400, reason: str = "") -> None:
        super().__init__(error)
        self.error = error
        self.status = status
        self.reason = reason or error


def authenticated(
    sandbox: Sandbox, form: Mapping[str, str], authorization: str, *, public: bool = False
) -> str:
    """The client that asks, or ``Refused``. ``public``: one without a secret is welcome, too."""
    if "client_assertion" in form:
        if form.get("client_assertion_type") != JWT_CLIENT or authorization:
            raise Refused("invalid_request")
        client_id = asserted(sandbox, form["client_assertion"], "invalid_client", 401)
        if form.get("client_id", client_id) != client_id:
            raise Refused("invalid_client", 401)
        return client_id
    if authorization and "client_secret" in form:
        raise Refused("invalid_request")  # RFC 6749 section 2.3: one method a request
    client_id, secret = form.get("client_id", ""), form.get("client_secret", "")
    if authorization:
        client_id, secret = _basic(authorization)
    client = sandbox.clients.get(client_id)
    if client is not None and client.public and public and not secret:
        return client_id
    if client is None or not has_secret(client, secret):
        raise Refused("invalid_client", 401)
    return client_id


def has_secret(client: Client, secret: str) -> bool:
    return client.secret is not None and equal(client.secret, secret)


def equal(one: str, other: str) -> bool:
    return hmac.compare_digest(
        one.encode("utf-8", "surrogatepass"), other.encode("utf-8", "surrogatepass")
    )


def asserted(sandbox: Sandbox, assertion: str, error: str, status: int) -> str:
    """Whose assertion this is. The claim says who; the keys registered for them say if."""
    client_id = str(_unverified_claims(assertion).get("iss", ""))
    client = sandbox.clients.get(client_id)
    claims = _claims(client, assertion) if client else None
    if claims is None or not _in_time(claims, MAX_ASSERTION_LIFETIME):
        raise Refused(error, status)
    if not claims.get("aud") or not claims.get("sub") or not isinstance(claims.get("jti"), str):
        raise Refused(error, status)
    if not sandbox.first_use(claims["jti"]):
        raise Refused(error, status)
    return client_id


def signed_secret(client: Client, client_id: str, secret: str) -> bool:
    """Is this a client's secret of the kind that is signed anew, as Apple's is?"""
    claims = _claims(client, secret)
    return (
        claims is not None
        and claims.get("sub") == client_id
        and bool(claims.get("iss"))
        and bool(claims.get("aud"))
        and _in_time(claims, MAX_SECRET_LIFETIME)
    )


def _basic(authorization: str) -> tuple[str, str]:
    scheme, _, encoded = authorization.partition(" ")
    try:
        if scheme.lower() != "basic":
            raise Refused("invalid_client", 401)
        pair = base64.b64decode(encoded, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        raise Refused("invalid_client", 401) from None
    client_id, _, secret = pair.partition(":")
    return unquote_plus(client_id), unquote_plus(secret)


def _claims(client: Client, assertion: str) -> Mapping[str, Any] | None:
    keys = list(client.keys)
    for key in keys:
        try:
            return verified_claims(assertion, key.key, [key.algorithm])
        except Invalid:
            continue
    if client.secret is None:
        return None
    try:  # client_secret_jwt (OpenID Connect Core 9)
        return verified_claims(assertion, client.secret, ["HS256"])
    except Invalid:
        return None


def _in_time(claims: Mapping[str, Any], longest: int) -> bool:
    now, issued, expires = time.time(), claims.get("iat"), claims.get("exp")
    if not isinstance(issued, int) or not isinstance(expires, int):
        return False
    return issued <= now + LEEWAY and now < expires <= issued + longest


def _unverified_claims(assertion: str) -> Mapping[str, Any]:
    parts = assertion.split(".")
    try:
        padded = parts[1] + "=" * (-len(parts[1]) % 4)
        found = json.loads(base64.urlsafe_b64decode(padded))
    except (ValueError, IndexError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
