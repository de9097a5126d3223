"""OAuth 1.0a: requests signed with two shared secrets (RFC 5849). Pure.

* The temporary token comes only with ``oauth_callback_confirmed=true``: without it anybody could
  send a person to consent to a token that they hold.
* A callback is for the temporary token of its own flow.
* Every request has its own nonce, and the caller's time, which is the database's.
* The token's secret is kept beside it in ``TokenSet.values`` as ``token_secret``, and sealed.
* A reply that is no token raises ``NoToken``; nothing of it goes into a message.

authlib signs with the machine's clock and its own nonce, undoes the escaping of protocol
parameters twice (a callback with ``%2F`` in it gets a signature that no server agrees with), and
quotes the query in its errors; the tests ask it as a second opinion.
"""

import hashlib
import hmac
from base64 import b64encode
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final, Literal
from urllib.parse import parse_qsl, quote, urlsplit

from msgspec import Struct

from vault.egress import Reply, Request
from vault.oauth import TIMEOUTS
from vault.oauth.app import TokenSet
from vault.oauth.filling import with_query
from vault.oauth.replies import MAX_TOKEN, NoToken, classify
from vault.oauth.signatures import CallbackRefused, Pairs, single
from vault.secret import Secret

Signature = Literal["HMAC-SHA1", "HMAC-SHA256"]

MAX_FIELDS: Final = 50
OK: Final = 200

_HASHES: Final[Mapping[Signature, Callable[..., Any]]] = {
    "HMAC-SHA1": hashlib.sha1,
    "HMAC-SHA256": hashlib.sha256,
}
_PORTS: Final = {"http": ":80", "https": ":443"}


class Consumer(Struct, frozen=True, kw_only=True):
    """The app, as OAuth 1.0a calls it, and how it signs."""

    key: str
    secret: Secret
    signature: Signature = "HMAC-SHA1"

    def __repr__(self) -> str:
        return "Consumer(***)"


class Pair(Struct, frozen=True):
    """A token and its secret; the temporary ones live from the first request to the callback."""

    token: Secret
    secret: Secret

    def __repr__(self) -> str:
        return "Pair(***)"


class Once(Struct, frozen=True):
    """What makes a request unlike any other: when it is made, and a random text."""

    now: datetime
    nonce: str


# The three requests


def temporary_request(url: str, consumer: Consumer, *, redirect_uri: str, once: Once) -> Request:
    """Ask for the temporary token (section 2.1)."""
    return _request(url, consumer, None, once, {"oauth_callback": redirect_uri})


def authorize_url(url: str, temporary: Pair, params: Mapping[str, str | Secret]) -> str:
    """Build the address to which the person's browser is sent (section 2.2)."""
    return with_query(url, {**params, "oauth_token": temporary.token})


def access_request(
    url: str, consumer: Consumer, temporary: Pair, *, verifier: str, once: Once
) -> Request:
    """Ask for the token (section 2.3)."""
    return _request(url, consumer, temporary, once, {"oauth_verifier": verifier})


def _request(
    url: str, consumer: Consumer, pair: Pair | None, once: Once, more: Mapping[str, str]
) -> Request:
    header = authorization("POST", url, consumer, pair, once, more=more)
    headers = (("Authorization", header), ("Accept", "application/x-www-form-urlencoded, */*"))
    return Request(method="POST", url=url, headers=headers, body=b"", timeout=TIMEOUTS)


# What comes back


def temporary(reply: Reply, *, now: datetime) -> Pair:
    """Read the temporary token."""
    fields = _fields(reply, now)
    if fields.get("oauth_callback_confirmed") != "true":
        raise NoToken(classify(reply, now=now))
    return _pair(reply, fields, now)


def verifier_in(unverified: Pairs, issued: Pair) -> str:
    """The verifier in a callback, which has to be for this temporary token."""
    fields = single(unverified)
    token, verifier = fields.get("oauth_token", ""), fields.get("oauth_verifier", "")
    if Secret(token.encode("utf-8", "surrogatepass")) != issued.token:
        raise CallbackRefused("The answer belongs to another sign-in.")
    if not verifier or not verifier.isascii() or not verifier.isprintable():
        raise CallbackRefused("The answer holds no verifier.")
    return verifier


def access(reply: Reply, *, capture: Mapping[str, str], now: datetime) -> TokenSet:
    """Read the token; it lives until it is revoked. ``capture``: extras by the reply's names."""
    fields = _fields(reply, now)
    pair = _pair(reply, fields, now)
    return TokenSet(
        access_token=pair.token,
        obtained_at=now,
        token_type="OAuth",  # noqa: S106 - the scheme's name
        extras={name: fields[said] for name, said in capture.items() if said in fields},
        values={"token_secret": pair.secret},
    )


def _fields(reply: Reply, now: datetime) -> dict[str, str]:
    try:
        pairs = parse_qsl(
            reply.body.decode("ascii").strip(), strict_parsing=True, max_num_fields=MAX_FIELDS
        )
        fields = single(pairs)
    except (ValueError, CallbackRefused):
        fields = {}
    if reply.status != OK or not fields:
        raise NoToken(classify(reply, now=now))
    return fields


def _pair(reply: Reply, fields: Mapping[str, str], now: datetime) -> Pair:
    both = [fields.get("oauth_token", ""), fields.get("oauth_token_secret", "")]
    if not all(
        one and len(one) <= MAX_TOKEN and one.isascii() and one.isprintable() and " " not in one
        for one in both
    ):
        raise NoToken(classify(reply, now=now))
    return Pair(Secret(both[0]), Secret(both[1]))


# Signing


def authorization(
    method: str,
    url: str,
    consumer: Consumer,
    pair: Pair | None,
    once: Once,
    *,
    more: Mapping[str, str] | None = None,
    form: Pairs = (),
) -> Secret:
    """The Authorization header of a request; ``form`` is its body, if that is a form."""
    protocol = {
        "oauth_consumer_key": consumer.key,
        "oauth_nonce": once.nonce,
        "oauth_signature_method": consumer.signature,
        "oauth_timestamp": str(int(once.now.timestamp())),
        "oauth_version": "1.0",
        **(more or {}),
    }
    if pair is not None:
        protocol["oauth_token"] = pair.token.reveal()
    signed = base_string(method, url, [*protocol.items(), *form])
    protocol["oauth_signature"] = _signature(signed, consumer, pair)
    fields = ", ".join(f'{_escaped(name)}="{_escaped(value)}"' for name, value in protocol.items())
    return Secret(f"OAuth {fields}")


def base_string(method: str, url: str, params: Pairs) -> str:
    """What is signed (section 3.4.1); ``params`` are all that do not stand in the URL."""
    parts = urlsplit(url)
    place = parts.netloc.lower().removesuffix(_PORTS.get(parts.scheme, ""))
    query = parse_qsl(parts.query, keep_blank_values=True, max_num_fields=MAX_FIELDS)
    # Sorted once they are escaped (section 3.4.1.3.2), by name and then by value.
    pairs = sorted((_escaped(name), _escaped(value)) for name, value in [*query, *params])
    normal = "&".join(f"{name}={value}" for name, value in pairs)
    address = f"{parts.scheme}://{place}{parts.path or '/'}"
    return "&".join(_escaped(one) for one in (method.upper(), address, normal))


def _signature(signed: str, consumer: Consumer, pair: Pair | None) -> str:
    secrets = (consumer.secret.reveal(), pair.secret.reveal() if pair else "")
    key = "&".join(_escaped(one) for one in secrets).encode()
    return b64encode(hmac.new(key, signed.encode(), _HASHES[consumer.signature]).digest()).decode()


def _escaped(text: str) -> str:
    return quote(text, safe="~")
