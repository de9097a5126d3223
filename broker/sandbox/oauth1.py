"""OAuth 1.0a (RFC 5849), the server's side, written out by hand.

* ``POST /oauth1/request_token``, ``GET /oauth1/authorize``, ``POST /oauth1/access_token``, and
  ``GET /oauth1/whoami`` for whoever signs with a token.
* The signature covers method, address, query, form and every ``oauth_`` parameter; a nonce counts
  once, and only for five minutes.
"""

import base64
import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Mapping, Sequence
from typing import Final
from urllib.parse import parse_qsl, quote, unquote, urlencode

from msgspec import Struct

from broker.sandbox import pages
from broker.sandbox.clients import equal
from broker.sandbox.consent import Question
from broker.sandbox.pages import Answer, told
from broker.sandbox.state import Held, Sandbox

WINDOW: Final = 300  # seconds
_HASHES: Final = {"HMAC-SHA1": hashlib.sha1, "HMAC-SHA256": hashlib.sha256}
_PART: Final = re.compile(r'\s*([a-zA-Z0-9_.~%-]+)="([^"]*)"\s*')
_NEEDED: Final = ("oauth_consumer_key", "oauth_signature", "oauth_timestamp", "oauth_nonce")


class Wrong(Exception):
    """A request whose signature does not hold, or that lacks something."""


class Signed(Struct, frozen=True, kw_only=True):
    """A request. ``url``: without its query."""

    method: str
    url: str
    query: str
    authorization: str
    body: bytes = b""
    is_form: bool = False


def request_token(sandbox: Sandbox, signed: Signed) -> Answer:
    """RFC 5849 section 2.1."""
    given, _ = _verified(sandbox, signed, needs_token=False)
    consumer, callback = given["oauth_consumer_key"], given.get("oauth_callback", "")
    if callback != "oob" and callback not in sandbox.clients[consumer].redirect_uris:
        raise Wrong("oauth_callback: not registered")
    token, held = _made(sandbox, Held(consumer=consumer, callback=callback))
    return _form(oauth_token=token, oauth_token_secret=held.secret, oauth_callback_confirmed="true")


def authorize(sandbox: Sandbox, given: Mapping[str, str]) -> Answer:
    """RFC 5849 section 2.2."""
    token = given.get("oauth_token", "")
    held = sandbox.held.get(token)
    if held is None or held.lasting or held.account:
        return pages.said("This request is not right", "oauth_token: unknown", status=400)

    def decide(account: str | None) -> Answer:
        if account is None:
            sandbox.held.pop(token, None)
            values = {"denied": token}
        else:
            held.account, held.verifier = account, secrets.token_urlsafe(16)
            values = {"oauth_token": token, "oauth_verifier": held.verifier}
        if held.callback == "oob":
            return pages.said("Done", f"Your code: {held.verifier}" if account else "Denied.")
        return pages.sent_to(held.callback, values)

    client = sandbox.clients[held.consumer]
    scopes = tuple(given.get("scope", "").split(",")) if given.get("scope") else ()
    question = Question(client=client.name or held.consumer, scopes=scopes, decide=decide)
    return sandbox.questions.ask(question, sandbox.consent, sandbox.people)


def access_token(sandbox: Sandbox, signed: Signed) -> Answer:
    """RFC 5849 section 2.3: a temporary credential works once."""
    given, held = _verified(sandbox, signed, needs_token=True)
    if held is None or held.lasting or not held.verifier:
        raise Wrong("oauth_token: no consent")
    if not equal(held.verifier, given.get("oauth_verifier", "")):
        raise Wrong("oauth_verifier: wrong")
    del sandbox.held[given["oauth_token"]]
    lasting = Held(consumer=held.consumer, account=held.account, lasting=True)
    token, made = _made(sandbox, lasting)
    return _form(oauth_token=token, oauth_token_secret=made.secret, user_id=held.account)


def whoami(sandbox: Sandbox, signed: Signed) -> Answer:
    """Who signed this?"""
    _, held = _verified(sandbox, signed, needs_token=True)
    if held is None or not held.lasting:
        raise Wrong("oauth_token: not a lasting one")
    return told({"client_id": held.consumer, "account": held.account})


def _verified(
    sandbox: Sandbox, signed: Signed, *, needs_token: bool
) -> tuple[dict[str, str], Held | None]:
    given = _parts(signed.authorization)
    client = sandbox.clients.get(given.get("oauth_consumer_key", ""))
    if any(name not in given for name in _NEEDED) or given.get("oauth_version", "1.0") != "1.0":
        raise Wrong("an oauth parameter is missing")
    if client is None or client.secret is None:
        raise Wrong("oauth_consumer_key: not registered")
    held = sandbox.held.get(given.get("oauth_token", ""))
    if needs_token and (held is None or held.consumer != given["oauth_consumer_key"]):
        raise Wrong("oauth_token: unknown")
    key = f"{_quoted(client.secret)}&{_quoted(held.secret if held else '')}"
    expected = _signature(signed, given, key)
    if expected is None or not equal(expected, given["oauth_signature"]):
        raise Wrong("oauth_signature: does not hold")
    stamp = given["oauth_timestamp"]
    if not stamp.isdecimal() or abs(time.time() - int(stamp)) > WINDOW:
        raise Wrong("oauth_timestamp: not now")
    if not sandbox.first_use("oauth1 " + "\0".join(given[name] for name in _NEEDED[2:])):
        raise Wrong("oauth_nonce: used before")
    return given, held


def _signature(signed: Signed, given: Mapping[str, str], key: str) -> str | None:
    """RFC 5849 section 3.4."""
    hashing = _HASHES.get(given.get("oauth_signature_method", ""))
    if hashing is None:
        return None
    pairs = [*parse_qsl(signed.query, keep_blank_values=True), *given.items()]
    if signed.is_form:
        pairs += parse_qsl(signed.body.decode(), keep_blank_values=True)
    base = "&".join(map(_quoted, (signed.method, signed.url, _normalized(pairs))))
    return base64.b64encode(hmac.digest(key.encode(), base.encode(), hashing)).decode()


def _normalized(pairs: Sequence[tuple[str, str]]) -> str:
    kept = [(name, value) for name, value in pairs if name not in ("oauth_signature", "realm")]
    quoted = sorted((_quoted(name), _quoted(value)) for name, value in kept)
    return "&".join(f"{name}={value}" for name, value in quoted)


def _parts(authorization: str) -> dict[str, str]:
    scheme, _, rest = authorization.partition(" ")
    if scheme.lower() != "oauth":
        raise Wrong("Authorization: OAuth is expected")
    found: dict[str, str] = {}
    for part in rest.split(","):
        pair = _PART.fullmatch(part)
        if pair is None or unquote(pair[1]) in found:
            raise Wrong("Authorization: malformed")
        found[unquote(pair[1])] = unquote(pair[2])
    return found


def _made(sandbox: Sandbox, held: Held) -> tuple[str, Held]:
    token, held.secret = secrets.token_urlsafe(24), secrets.token_urlsafe(24)
    sandbox.held[token] = held
    return token, held


def _form(**values: str) -> Answer:
    return Answer(
        content_type="application/x-www-form-urlencoded",
        headers=pages.NO_STORE,
        body=urlencode(values).encode(),
    )


def _quoted(text: str) -> str:
    return quote(text, safe="~")
