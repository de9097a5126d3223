"""RFC 7591: a client registers itself."""

from typing import Any
from urllib.parse import urlsplit

import msgspec
from msgspec import UNSET, Struct, UnsetType

from broker.sandbox.clients import Refused
from broker.sandbox.knobs import Client
from broker.sandbox.pages import Answer, told
from broker.sandbox.provider import CLIENT_AUTH
from broker.sandbox.state import Sandbox

SECRETS = ("client_secret_basic", "client_secret_post", "client_secret_jwt")


class Metadata(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is read of a registration; the rest is ignored (RFC 7591 section 2)."""

    redirect_uris: list[str] = []
    token_endpoint_auth_method: str = "client_secret_basic"  # noqa: S105 - the name of a method
    grant_types: tuple[str, ...] = ("authorization_code",)
    response_types: tuple[str, ...] = ("code",)
    client_name: str | UnsetType = UNSET
    client_uri: str | UnsetType = UNSET
    scope: str | UnsetType = UNSET


def register(sandbox: Sandbox, body: bytes, now: int) -> Answer:
    """A new client, with all that the server made of its wishes."""
    try:
        wanted = msgspec.json.decode(body, type=Metadata)
    except msgspec.DecodeError:
        raise Refused("invalid_client_metadata") from None
    method = wanted.token_endpoint_auth_method
    if method not in CLIENT_AUTH or method == "private_key_jwt":
        raise Refused("invalid_client_metadata", reason="token_endpoint_auth_method")
    if not wanted.redirect_uris or not all(map(_absolute, wanted.redirect_uris)):
        raise Refused("invalid_redirect_uri")
    client_id, secret = "client_" + sandbox.random(), None
    found: dict[str, Any] = msgspec.to_builtins(wanted) | {
        "redirect_uris": wanted.redirect_uris,
        "token_endpoint_auth_method": method,
        "client_id": client_id,
        "client_id_issued_at": now,
    }
    if method in SECRETS:
        secret = sandbox.random()
        found |= {"client_secret": secret, "client_secret_expires_at": 0}
    sandbox.clients[client_id] = Client(
        secret=secret,
        redirect_uris=wanted.redirect_uris,
        name=wanted.client_name or "",
    )
    return told(found, 201)


def _absolute(address: str) -> bool:
    try:
        parts = urlsplit(address)
    except ValueError:
        return False
    return bool(parts.scheme and parts.netloc) and not parts.fragment
