"""What servers publish about themselves, read with suspicion. Pure.

* A document speaks for the issuer that was asked and for no other: its ``issuer`` is that one,
  character for character (RFC 8414 section 3.3, OpenID Connect Discovery section 4.3). For MCP
  alone a bare host may end in a slash or not. SMART's documents are the exception: their issuer
  signs ID tokens and is not the server that was asked.
* Endpoints may stand on other hosts. They are ``https`` wherever the document came by ``https``.
* A resource's metadata is believed only about the server that was asked, or a part of that very
  origin that it lies in (RFC 9728 section 3.3).
* An MCP server that does not say that it knows PKCE is refused, as its specification has it.
* A registration that is not for our redirect, or lacks the secret that it says to use, is none.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, Literal
from urllib.parse import SplitResult, urlsplit

from msgspec import Struct

from vault.egress import Reply, Request, Timeouts
from vault.errors import UpstreamFailed
from vault.oauth.app import ClientAuth, Endpoints
from vault.secret import Secret

Kind = Literal["openid", "smart", "mcp"]

TIMEOUTS: Final = Timeouts(connect=5, read=10, total=15)
MAX_DOCUMENT: Final = 262_144  # bytes
MAX_URL: Final = 2_000
MAX_LIST: Final = 64
MAX_SERVERS: Final = 3  # authorization servers of one resource that are tried

# What a registration asks for, the best first: whoever steals a refresh token cannot use it
# without the secret, and servers need not replace it at each use.
REGISTERED_AS: Final[dict[str, ClientAuth]] = {
    "client_secret_basic": "basic",
    "client_secret_post": "post",
    "none": "none",
}

_OPENID: Final = "/.well-known/openid-configuration"
_OAUTH: Final = "/.well-known/oauth-authorization-server"
_SMART: Final = "/.well-known/smart-configuration"
_RESOURCE: Final = "/.well-known/oauth-protected-resource"
_URL: Final = re.compile(r"https?://[^\x00-\x20\x7f#{}\\@]+", re.ASCII)
_VISIBLE: Final = re.compile(r"[\x20-\x7e]{1,2048}", re.ASCII)  # RFC 6749 appendix A
_CHALLENGE: Final = re.compile(r'(?i)(?:^|[\s,])resource_metadata\s*=\s*(?:"([^"\\]*)"|([^\s",]+))')
_REFUSALS: Final = frozenset(
    {
        "invalid_redirect_uri",
        "invalid_client_metadata",
        "invalid_software_statement",
        "unapproved_software_statement",
        "access_denied",
    }
)
_CREATED: Final = (200, 201)


class MetadataRefused(UpstreamFailed):
    """What this server publishes about itself cannot be used."""


class Resource(Struct, frozen=True):
    """A protected resource, and the servers that give tokens for it."""

    resource: str
    servers: tuple[str, ...]


class Registered(Struct, frozen=True, kw_only=True):
    """A client that a server made for us."""

    client_id: str
    client_secret: Secret | None
    client_auth: ClientAuth
    secret_expires_at: datetime | None  # None: never

    def __repr__(self) -> str:
        return "Registered(***)"


# Where to look


def document_request(url: str) -> Request:
    """Ask for a document."""
    accept = (("Accept", "application/json"),)
    return Request(method="GET", url=url, headers=accept, timeout=TIMEOUTS, max_bytes=MAX_DOCUMENT)


def document_urls(kind: Kind, of: str) -> tuple[str, ...]:
    """Where the metadata of this server may stand; the first that is there counts."""
    base = of.rstrip("/")
    if kind != "mcp":
        return (base + (_OPENID if kind == "openid" else _SMART),)
    origin, path = _split(base)
    inserted = (f"{origin}{_OAUTH}{path}", f"{origin}{_OPENID}{path}", f"{origin}{path}{_OPENID}")
    return tuple(dict.fromkeys(inserted))


def resource_urls(server_url: str) -> tuple[str, ...]:
    """Where the metadata of this resource may stand, if it does not say so itself."""
    origin, path = _split(server_url.rstrip("/"))
    return tuple(dict.fromkeys((f"{origin}{_RESOURCE}{path}", f"{origin}{_RESOURCE}")))


def resource_url_in(reply: Reply, *, server_url: str) -> str | None:
    """Where a refusal says that the resource's metadata stands (RFC 9728 section 5.1)."""
    for challenge in reply.get_all("WWW-Authenticate"):
        if found := _CHALLENGE.search(challenge):
            url = found[1] if found[1] is not None else found[2]
            return _checked(url, server_url)
    return None


def origin_of(url: str) -> str:
    """The scheme, host and port."""
    return _split(url)[0]


def _split(url: str) -> tuple[str, str]:
    parts = _parts(url)
    return f"{parts.scheme}://{parts.netloc}", parts.path


# What stands there


def endpoints_in(
    body: bytes, *, kind: Kind, url: str, issuer: str, resource: str | None = None
) -> Endpoints:
    """Read the document that stood at ``url``, for the ``issuer`` that was asked."""
    document = _document(body)
    said = document.get("issuer")
    if kind == "smart" and said is None:
        said = issuer
    if not isinstance(said, str) or not (kind == "smart" or _is_issuer(kind, said, issuer)):
        raise MetadataRefused(
            "The document names another issuer than the one that was asked."
            " Mind a slash at the end: the two have to be the same."
        )
    found = Endpoints(
        issuer=_checked(said, url),
        authorize_url=_endpoint(document, "authorization_endpoint", url),
        token_url=_endpoint(document, "token_endpoint", url),
        revoke_url=_endpoint(document, "revocation_endpoint", url),
        userinfo_url=_endpoint(document, "userinfo_endpoint", url),
        introspect_url=_endpoint(document, "introspection_endpoint", url),
        jwks_url=_endpoint(document, "jwks_uri", url),
        device_url=_endpoint(document, "device_authorization_endpoint", url),
        registration_url=_endpoint(document, "registration_endpoint", url),
        resource=resource,
        client_auth=_texts(document, "token_endpoint_auth_methods_supported"),
        pkce=_texts(document, "code_challenge_methods_supported"),
        algorithms=_texts(document, "id_token_signing_alg_values_supported"),
        iss_in_callback=document.get("authorization_response_iss_parameter_supported") is True,
    )
    if found.token_url is None or not (found.authorize_url or found.device_url):
        raise MetadataRefused("The document lacks an endpoint that is needed.")
    if kind == "mcp" and "S256" not in found.pkce:
        raise MetadataRefused("This server does not say that it knows PKCE with S256.")
    return found


def _is_issuer(kind: Kind, said: str, asked: str) -> bool:
    if kind == "mcp" and not _split(asked)[1].strip("/"):
        # Libraries put a slash behind a bare host, on one side and not on the other.
        return said.removesuffix("/") == asked.removesuffix("/")
    return said == asked


def called(endpoints: Endpoints) -> Iterator[str]:
    """Every address that we would call ourselves."""
    for url in (
        endpoints.token_url,
        endpoints.revoke_url,
        endpoints.userinfo_url,
        endpoints.introspect_url,
        endpoints.jwks_url,
        endpoints.device_url,
        endpoints.registration_url,
    ):
        if url is not None:
            yield url


def resource_in(body: bytes, *, server_url: str) -> Resource:
    """Read a protected resource's metadata (RFC 9728), for the server that was asked."""
    document = _document(body)
    said = document.get("resource")
    if not isinstance(said, str) or not _is_url(said) or not _covers(said, server_url):
        raise MetadataRefused("The resource's metadata is about another server.")
    servers = _texts(document, "authorization_servers")[:MAX_SERVERS]
    if not servers:
        raise MetadataRefused("The resource's metadata names no authorization server.")
    return Resource(said, tuple(_checked(one, server_url) for one in servers))


def _covers(resource: str, server_url: str) -> bool:
    """Is this the server that was asked, or a part of its origin that it lies in?"""
    one, other = _parts(resource), _parts(server_url)
    if (one.scheme, _place(one)) != (other.scheme, _place(other)) or one.query:
        return False
    outer = [part for part in one.path.split("/") if part]
    inner = [part for part in other.path.split("/") if part]
    return inner[: len(outer)] == outer and not {".", ".."} & {*inner, *outer}


def _place(parts: SplitResult) -> str:
    default = {"https": ":443", "http": ":80"}[parts.scheme]
    return parts.netloc.lower().removesuffix(default)


# Registration (RFC 7591)


def registration_request(
    endpoints: Endpoints, *, redirect_uri: str, client_name: str, scopes: Sequence[str] = ()
) -> Request:
    """Ask a server to make a client for us."""
    if endpoints.registration_url is None:
        raise MetadataRefused("This server makes no clients: register one there yourself.")
    offered = endpoints.client_auth or ("client_secret_basic",)  # RFC 8414 section 2
    asked: dict[str, Any] = {
        "client_name": client_name,
        "redirect_uris": [redirect_uri],
        "grant_types": ["authorization_code", "refresh_token"],
        "response_types": ["code"],
        "token_endpoint_auth_method": next(
            (one for one in REGISTERED_AS if one in offered), "none"
        ),
    }
    if scopes:
        asked["scope"] = " ".join(scopes)
    return Request(
        method="POST",
        url=endpoints.registration_url,
        headers=(("Content-Type", "application/json"), ("Accept", "application/json")),
        body=json.dumps(asked).encode(),
        timeout=TIMEOUTS,
        max_bytes=MAX_DOCUMENT,
    )


def registered(reply: Reply, *, redirect_uri: str) -> Registered:
    """Read the answer to a registration."""
    if reply.status not in _CREATED:
        raise MetadataRefused(_refusal(reply))
    document = _document(reply.body)
    client_id, secret = document.get("client_id"), document.get("client_secret")
    if not isinstance(client_id, str) or _VISIBLE.fullmatch(client_id) is None:
        raise MetadataRefused("The server made no client that can be used.")
    redirects = document.get("redirect_uris", [redirect_uri])
    if not isinstance(redirects, list) or redirect_uri not in redirects:
        raise MetadataRefused("The server made a client for another redirect than ours.")
    usable = isinstance(secret, str) and _VISIBLE.fullmatch(secret) is not None
    method = document.get("token_endpoint_auth_method")
    if method is None:
        method = "client_secret_basic" if usable else "none"
    if (
        not isinstance(method, str)
        or method not in REGISTERED_AS
        or (method != "none" and not usable)
    ):
        raise MetadataRefused("The server made a client that proves itself in an unknown way.")
    return Registered(
        client_id=client_id,
        client_secret=Secret(str(secret)) if method != "none" else None,
        client_auth=REGISTERED_AS[method],
        secret_expires_at=_epoch(document.get("client_secret_expires_at")),
    )


def _refusal(reply: Reply) -> str:
    code = (_object(reply.body) or {}).get("error")
    known = f" with {code}" if isinstance(code, str) and code in _REFUSALS else ""
    return f"The server answered the registration with {reply.status}{known}."


def _epoch(value: object) -> datetime | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 2**33:
        return None
    return datetime.fromtimestamp(value, UTC)


# Reading


def is_document(body: bytes) -> bool:
    """Is this a JSON object, and not, say, a page for people?"""
    return _object(body) is not None


def _document(body: bytes) -> Mapping[str, Any]:
    found = _object(body)
    if found is None:
        raise MetadataRefused("The document is not a JSON object.")
    return found


def _object(body: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _endpoint(document: Mapping[str, Any], name: str, url: str) -> str | None:
    value = document.get(name)
    if value is None:
        return None
    if not isinstance(value, str):
        raise MetadataRefused("This server names an address that is none.")
    return _checked(value, url)


def _checked(value: str, url: str) -> str:
    """An address in the document at ``url``, which may not be less safe than that."""
    if not _is_url(value):
        raise MetadataRefused("This server names an address that is none.")
    if url.startswith("https://") and not value.startswith("https://"):
        raise MetadataRefused("This server names an address without https.")
    return value


def _is_url(text: str) -> bool:
    if len(text) > MAX_URL or _URL.fullmatch(text) is None:
        return False
    try:
        return bool(urlsplit(text).hostname)
    except ValueError:
        return False


def _parts(url: str) -> SplitResult:
    if not _is_url(url):
        raise MetadataRefused("This is not an address of a server.")
    return urlsplit(url)


def _texts(document: Mapping[str, Any], name: str) -> tuple[str, ...]:
    value = document.get(name)
    if not isinstance(value, list):
        return ()
    return tuple(one for one in value[:MAX_LIST] if isinstance(one, str) and len(one) <= MAX_URL)
