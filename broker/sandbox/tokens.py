"""The sandbox's token endpoint: who asks, and what they get."""

import base64
import binascii
import hmac
import json
import secrets
import time
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import unquote_plus

from msgspec import UNSET

from broker.sandbox.state import Client, Sandbox
from vault.errors import Invalid
from vault.oauth import JWT_CLIENT, JWT_GRANT, verified_claims

MAX_ASSERTION_LIFETIME: Final = 86_400 + 60
LEEWAY: Final = 60


class Refused(Exception):
    """An OAuth error."""

    def __init__(self, error: str, status: int = 400) -> None:
        super().__init__(error)
        self.error = error
        self.status = status


def answer(sandbox: Sandbox, form: Mapping[str, str], authorization: str) -> dict[str, Any]:
    """Give a token, or raise ``Refused``."""
    grant = form.get("grant_type")
    if grant == "client_credentials":
        client_id = _authenticated(sandbox, form, authorization)
    elif grant == JWT_GRANT:
        client_id = _asserted(sandbox, form.get("assertion", ""), "invalid_grant", 400)
    else:
        raise Refused("unsupported_grant_type")
    return _issued(sandbox, client_id, form.get("scope", ""))


def _authenticated(sandbox: Sandbox, form: Mapping[str, str], authorization: str) -> str:
    if "client_assertion" in form:
        if form.get("client_assertion_type") != JWT_CLIENT or authorization:
            raise Refused("invalid_request")
        client_id = _asserted(sandbox, form["client_assertion"], "invalid_client", 401)
        if form.get("client_id", client_id) != client_id:
            raise Refused("invalid_client", 401)
        return client_id
    if authorization and "client_secret" in form:
        raise Refused("invalid_request")  # RFC 6749 section 2.3: one method a request
    client_id, secret = form.get("client_id", ""), form.get("client_secret", "")
    if authorization:
        client_id, secret = _basic(authorization)
    client = sandbox.clients.get(client_id)
    if client is None or client.secret is None or not _equal(client.secret, secret):
        raise Refused("invalid_client", 401)
    return client_id


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


def _asserted(sandbox: Sandbox, assertion: str, error: str, status: int) -> str:
    """Whose assertion this is. The claim says who; the keys registered for them say if."""
    client_id = _unverified_issuer(assertion)
    client = sandbox.clients.get(client_id)
    claims = _claims(client, assertion) if client else None
    if claims is None or not _in_time(claims) or not isinstance(claims.get("jti"), str):
        raise Refused(error, status)
    if not claims.get("aud") or not claims.get("sub") or not sandbox.first_use(claims["jti"]):
        raise Refused(error, status)
    return client_id


def _claims(client: Client, assertion: str) -> Mapping[str, Any] | None:
    for key in client.keys:
        try:
            return verified_claims(assertion, key.key, [key.algorithm])
        except Invalid:
            continue
    return None


def _in_time(claims: Mapping[str, Any]) -> bool:
    now, issued, expires = time.time(), claims.get("iat"), claims.get("exp")
    if not isinstance(issued, int) or not isinstance(expires, int):
        return False
    return issued <= now + LEEWAY and now < expires <= issued + MAX_ASSERTION_LIFETIME


def _unverified_issuer(assertion: str) -> str:
    parts = assertion.split(".")
    try:
        padded = parts[1] + "=" * (-len(parts[1]) % 4)
        return str(json.loads(base64.urlsafe_b64decode(padded))["iss"])
    except (ValueError, IndexError, KeyError, TypeError, RecursionError):
        return ""


def _issued(sandbox: Sandbox, client_id: str, scope: str) -> dict[str, Any]:
    client = sandbox.clients[client_id]
    if client.scopes is not None and not set(scope.split()) <= set(client.scopes):
        raise Refused("invalid_scope")
    issuing = sandbox.issuing
    made: dict[str, Any] = {"token_type": "Bearer", "expires_in": int(issuing.lifetime)}
    for field in ("access_token", "id_token"):
        made[field] = "sandbox_" + secrets.token_urlsafe(32)
        sandbox.issue(made[field], client_id, scope)
    if scope:
        made["scope"] = scope
    if issuing.expires_in is not UNSET:
        made["expires_in"] = issuing.expires_in
    return {
        name: value
        for name, value in (made | issuing.fields).items()
        if not (name == "expires_in" and value is None)
    }


def _equal(one: str, other: str) -> bool:
    return hmac.compare_digest(one.encode(), other.encode("utf-8", "surrogatepass"))
