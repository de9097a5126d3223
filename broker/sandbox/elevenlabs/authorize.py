"""Auth connections at work: the header that a tool call gets; and the sandbox's own tokens.

* A token for ``oauth2_client_credentials`` and ``oauth2_jwt`` is really fetched, kept until it
  expires, and its failure is the connection's ``refresh_failed``.
* ``private_key_jwt`` is signed with HS256 only, and ``mtls`` is not spoken.
"""

import base64
import binascii
import hashlib
import hmac
import json
import secrets
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import urlencode

import msgspec
from msgspec.structs import replace

from broker.sandbox.elevenlabs.account import AuthConnection, World
from broker.sandbox.elevenlabs.templates import Unconfigured
from vault.auth_kinds import OAuth2Jwt
from vault.egress import Request, Timeouts
from vault.errors import VaultError
from vault.oauth import basic, jwt_request
from vault.secret import Secret

OK: Final = 200
DEFAULT_LIFETIME: Final = 3_600.0
TIMEOUT: Final = Timeouts(connect=5, read=10, total=15)

Header = tuple[str, str]


async def authorization(world: World, connection: AuthConnection) -> Header:
    """Return the header that this connection adds."""
    config = connection.config
    match config["auth_type"]:
        case "bearer_auth":
            return "Authorization", f"Bearer {config['token']}"
        case "basic_auth":
            pair = f"{config['username']}:{config['password']}"
            return "Authorization", "Basic " + base64.b64encode(pair.encode()).decode()
        case "custom_header_auth":
            return str(config["header_name"]), str(config["token"])
        case "private_key_jwt":
            return "Authorization", "Bearer " + _own_assertion(world, config)
        case "oauth2_client_credentials" | "oauth2_jwt":
            return "Authorization", "Bearer " + await _fetched(world, connection)
        case kind:
            raise Unconfigured(f"The sandbox does not speak '{kind}'.")


def signed(claims: Mapping[str, Any], key: bytes) -> str:
    """Write a JWT, HS256."""
    head = _encoded(json.dumps({"alg": "HS256", "typ": "JWT"}).encode())
    body = f"{head}.{_encoded(json.dumps(claims).encode())}"
    return f"{body}.{_encoded(hmac.digest(key, body.encode(), hashlib.sha256))}"


def verified(token: str, key: bytes) -> dict[str, Any] | None:
    """Read a JWT that ``signed`` wrote with this key; None for any other."""
    body, _, signature = token.rpartition(".")
    expected = _encoded(hmac.digest(key, body.encode(), hashlib.sha256))
    if not hmac.compare_digest(expected.encode(), signature.encode("utf-8", "surrogatepass")):
        return None
    try:
        claims: dict[str, Any] = json.loads(_decoded(body.partition(".")[2]))
    except (ValueError, binascii.Error):
        return None
    return claims


async def _fetched(world: World, connection: AuthConnection) -> str:
    if connection.token is not None and world.now() < connection.token_until:
        return connection.token
    request = _token_request(world, connection.config)
    connection.status = "refresh_failed"
    try:
        url = world.rerouted(request.url)
        reply = await world.egress.call("provider", replace(request, url=url, timeout=TIMEOUT))
        fields = msgspec.json.decode(reply.body)
        token = fields[connection.config.get("token_response_field", "access_token")]
        lifetime = float(fields.get("expires_in", DEFAULT_LIFETIME))
    except (VaultError, msgspec.DecodeError, LookupError, TypeError, ValueError, AttributeError):
        raise Unconfigured("The auth connection's token could not be fetched.") from None
    if reply.status != OK or not isinstance(token, str):
        raise Unconfigured("The auth connection's token could not be fetched.")
    connection.status, connection.token = "active", token
    connection.token_until = world.now() + lifetime
    return token


def _token_request(world: World, config: Mapping[str, Any]) -> Request:
    if config["auth_type"] == "oauth2_jwt":
        known = {name: value for name, value in config.items() if value is not None}
        made = msgspec.convert(known, OAuth2Jwt)
        now = datetime.fromtimestamp(world.now(), UTC)
        return jwt_request(made, now=now, jti=secrets.token_hex(16))
    form = {**(config.get("extra_params") or {}), "grant_type": "client_credentials"}
    if scopes := config.get("scopes"):
        form["scope"] = " ".join(scopes)
    headers: list[tuple[str, str | Secret]] = [
        ("Content-Type", "application/x-www-form-urlencoded"),
        *(config.get("custom_headers") or {}).items(),
    ]
    if config.get("basic_auth_in_header"):
        headers.append(("Authorization", basic(config["client_id"], config["client_secret"])))
    else:
        form |= {"client_id": config["client_id"], "client_secret": config["client_secret"]}
    return Request(
        method="POST",
        url=config["token_url"],
        headers=tuple(headers),
        body=urlencode(form).encode(),
    )


def _own_assertion(world: World, config: Mapping[str, Any]) -> str:
    if config.get("algorithm", "HS256") != "HS256":
        raise Unconfigured("The sandbox signs with HS256 only.")
    issued = world.seconds()
    claims = {
        **(config.get("extra_params") or {}),
        "iss": config["issuer"],
        "aud": config["audience"],
        "sub": config["subject"],
        "iat": issued,
        "exp": issued + int(config.get("expiration_seconds") or DEFAULT_LIFETIME),
    }
    return signed(claims, config["secret_key"].encode())


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _decoded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
