"""Callbacks that a provider signs: Shopify's, and the Telegram login widget's. Pure.

* A parameter that comes twice is refused, signed or not: two readers could take one each.
* Signatures are compared in constant time, and before anything they cover is believed.
* A signed callback is ``MAX_AGE`` seconds old at most, where the file does not say, and not from
  the future.
* Telegram's signed text joins its lines with line feeds, so a value that holds one could pass for
  two fields: no control character is taken.
* Shopify's callback names the shop; it has to be the one that the flow began with.
"""

import hashlib
import hmac
import json
import re
from base64 import urlsafe_b64decode
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Final

from vault.errors import Invalid
from vault.oauth.app import App
from vault.secret import Secret

MAX_AGE: Final = 300  # seconds
LEEWAY: Final = 60
MAX_PARAMETERS: Final = 50
MAX_LENGTH: Final = 8_192  # characters, all of it

Pairs = Sequence[tuple[str, str]]

_SHOP: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,61}\.myshopify\.com", re.ASCII)
_SECONDS: Final = re.compile(r"[0-9]{1,12}", re.ASCII)
_FIELD: Final = re.compile(r"[a-z][a-z0-9_]{0,31}", re.ASCII)
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_ID: Final = re.compile(r"[1-9][0-9]{0,18}", re.ASCII)


class CallbackRefused(Invalid):
    """What came back cannot be believed."""


def verified(app: App, unverified: Pairs, *, now: datetime) -> Mapping[str, str]:
    """A callback's parameters, once each; checked as the provider's file says they are signed."""
    fields = single(unverified)
    max_age = app.provider.callback.max_age_seconds or MAX_AGE
    match app.provider.callback.signature:
        case "shopify_hmac":
            _check_shopify(fields, app)
            _check_age(fields.get("timestamp", ""), now, max_age)
        case "telegram_login_hmac":
            _check_telegram(fields, app)
            _check_age(fields.get("auth_date", ""), now, max_age)
        case None:
            pass
    return fields


def single(unverified: Pairs) -> dict[str, str]:
    """Refuse a parameter that comes twice."""
    fields = dict(unverified)
    if len(fields) != len(unverified):
        raise CallbackRefused("A parameter came twice.")
    size = sum(len(name) + len(value) for name, value in unverified)
    if len(fields) > MAX_PARAMETERS or size > MAX_LENGTH:
        raise CallbackRefused("What came back is too large.")
    return fields


def telegram_pairs(auth_result: str) -> Pairs:
    """The fields in ``tgAuthResult``, which the widget leaves in the URL's fragment."""
    if len(auth_result) > MAX_LENGTH:
        raise CallbackRefused("What came back is too large.")
    try:
        plain = auth_result.strip().rstrip("=").replace("+", "-").replace("/", "_").encode("ascii")
        found = json.loads(
            urlsafe_b64decode(plain + b"=" * (-len(plain) % 4)), object_pairs_hook=_Object
        )
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, _Object):
        raise CallbackRefused("What came back is not what Telegram sends.")
    return [(name, _text(value)) for name, value in found]


class _Object(list[tuple[str, object]]):
    """A JSON object with every field that was written, also one that was written twice."""


def _text(value: object) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise CallbackRefused("What came back is not what Telegram sends.")


# Shopify


def _check_shopify(fields: Mapping[str, str], app: App) -> None:
    signed = (
        "&".join(
            f"{_escaped(name).replace('=', '%3D')}={_escaped(value)}"
            for name, value in sorted(fields.items())
            if name not in ("hmac", "signature")
        )
    ).encode("utf-8", "surrogatepass")
    secrets = (secret.reveal_bytes() for secret in app.client_secrets)
    _check_digest(fields.get("hmac", ""), (_digest(secret, signed) for secret in secrets))
    shop, asked = fields.get("shop", ""), app.values.get("shop")
    if _SHOP.fullmatch(shop) is None or shop.removesuffix(".myshopify.com") != asked:
        raise CallbackRefused("The answer is about another shop.")


def _escaped(text: str) -> str:
    return text.replace("%", "%25").replace("&", "%26")


# Telegram


def _check_telegram(fields: Mapping[str, str], app: App) -> None:
    token = app.values.get("bot_token")
    if not isinstance(token, Secret):
        raise CallbackRefused("The bot token is missing.")
    if any(_CONTROL.search(value) for value in fields.values()) or not all(
        _FIELD.fullmatch(name) for name in fields
    ):
        raise CallbackRefused("What came back is not what Telegram sends.")
    lines = (f"{name}={value}" for name, value in sorted(fields.items()) if name != "hash")
    signed = "\n".join(lines).encode("utf-8", "surrogatepass")
    key = hashlib.sha256(token.reveal_bytes()).digest()
    _check_digest(fields.get("hash", ""), (_digest(key, signed),))
    if _ID.fullmatch(fields.get("id", "")) is None:
        raise CallbackRefused("The answer does not say who it is about.")


# Both


def _digest(key: bytes, signed: bytes) -> str:
    return hmac.new(key, signed, hashlib.sha256).hexdigest()


def _check_digest(said: str, digests: Iterable[str]) -> None:
    # All of them are made and compared, so that the time does not tell which one it was.
    fits = [hmac.compare_digest(one.encode(), said.encode("utf-8", "replace")) for one in digests]
    if not any(fits):
        raise CallbackRefused("The signature of what came back does not hold.")


def _check_age(said: str, now: datetime, max_age: int) -> None:
    if _SECONDS.fullmatch(said) is None:
        raise CallbackRefused("What came back does not say when it was made.")
    age = now.timestamp() - int(said)
    if age > max_age:
        raise CallbackRefused("What came back is too old: begin again.")
    if age < -LEEWAY:
        raise CallbackRefused("What came back is from the future: the clocks differ.")
