"""The device flow: a code that the person types into a page elsewhere (RFC 8628). Pure.

* What is shown to a person is plain: a code of few printable characters, and an ``https`` address.
* We ask no more often than we were told to; ``slow_down`` slows us for good, and so does silence.
* The provider's answers are four: not yet, no, too late, and a token, which is read elsewhere.
  Anything else is what ``replies.classify`` makes of it.
"""

import json
import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Final, Literal

from msgspec import Struct

from vault.egress import Reply
from vault.oauth.replies import Failure, NoToken, classify
from vault.secret import Secret

INTERVAL: Final = 5  # seconds, where nothing is said (section 3.2)
SLOWER: Final = 5  # seconds more after each slow_down (section 3.5)
MAX_INTERVAL: Final = 60
MAX_LIFETIME: Final = 3_600

State = Literal["granted", "waiting", "denied", "expired", "failed"]

_ANSWERS: Final[Mapping[str, State]] = {
    "authorization_pending": "waiting",
    "slow_down": "waiting",
    "access_denied": "denied",
    "expired_token": "expired",
}
_CODE: Final = re.compile(r"[\x21-\x7e]{1,4096}", re.ASCII)
_USER_CODE: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9 -]{0,38}[A-Za-z0-9])?", re.ASCII)
_ADDRESS: Final = re.compile(
    r"https?://[A-Za-z0-9][^\x00-\x20\x7f-\uffff\\@\"'<>]{0,1999}", re.ASCII
)
_SUCCESS: Final = range(200, 300)


class Started(Struct, frozen=True, kw_only=True):
    """A device flow under way. ``address_with_code`` spares the person the typing."""

    device_code: Secret
    user_code: str
    address: str
    address_with_code: str | None
    expires_at: datetime
    interval: int  # seconds between two questions

    def __repr__(self) -> str:
        return "Started(***)"


class Polled(Struct, frozen=True, kw_only=True):
    """What came of a question. ``granted``: the reply holds a token."""

    state: State
    interval: int
    failure: Failure | None = None


def started(reply: Reply, *, now: datetime, plain: bool = False) -> Started:
    """Read the codes. ``plain``: the provider itself is called without https."""
    fields = _fields(reply)
    code, user_code = fields.get("device_code"), fields.get("user_code")
    address = fields.get("verification_uri", fields.get("verification_url"))  # Google's name
    lifetime = _seconds(fields.get("expires_in"), MAX_LIFETIME)
    refused = reply.status not in _SUCCESS or bool(fields.get("error"))
    if (
        refused
        or lifetime is None
        or not _is(code, _CODE)
        or not _is(user_code, _USER_CODE)
        or not _is_address(address, plain=plain)
    ):
        raise NoToken(classify(reply, now=now))
    whole = fields.get("verification_uri_complete")
    return Started(
        device_code=Secret(str(code)),
        user_code=str(user_code),
        address=str(address),
        address_with_code=str(whole) if _is_address(whole, plain=plain) else None,
        expires_at=now + timedelta(seconds=lifetime),
        interval=_seconds(fields.get("interval"), MAX_INTERVAL) or INTERVAL,
    )


def polled(reply: Reply, started: Started, *, interval: int, now: datetime) -> Polled:
    """What came of asking for the token; ``interval`` is the one so far."""
    fields = _fields(reply)
    error = fields.get("error")
    if reply.status in _SUCCESS and not error:
        return Polled(state="granted", interval=interval)
    if now >= started.expires_at:
        return Polled(state="expired", interval=interval)
    state = _ANSWERS.get(error) if isinstance(error, str) else None
    if state is None:
        return _unexpected(reply, interval, now)
    if error == "slow_down":
        said = _seconds(fields.get("interval"), MAX_INTERVAL) or 0  # GitHub says the new one
        interval = min(max(interval + SLOWER, said), MAX_INTERVAL)
    return Polled(state=state, interval=interval)


def _unexpected(reply: Reply, interval: int, now: datetime) -> Polled:
    failure = classify(reply, now=now)
    if failure.outcome not in ("throttled", "ambiguous"):
        return Polled(state="failed", interval=interval, failure=failure)
    wait = max(after_silence(interval), min(failure.retry_after or 0, MAX_INTERVAL))
    return Polled(state="waiting", interval=wait, failure=failure)


def after_silence(interval: int) -> int:
    """How long to wait once nobody answered (section 3.5: twice as long)."""
    return min(2 * interval, MAX_INTERVAL)


def _fields(reply: Reply) -> dict[str, Any]:
    try:
        found = json.loads(reply.body)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _is(value: object, pattern: re.Pattern[str]) -> bool:
    return isinstance(value, str) and pattern.fullmatch(value) is not None


def _is_address(value: object, *, plain: bool) -> bool:
    return _is(value, _ADDRESS) and (plain or str(value).startswith("https://"))


def _seconds(value: object, most: int) -> int | None:
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 10:  # noqa: PLR2004 - before int()
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 2**53:
        return None
    return max(1, min(int(value), most))
