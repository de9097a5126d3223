"""What a token endpoint answers: a token, or a failure of a known class. Pure.

* A reply is a token only if it is a 2xx, says no error, and holds a non-empty printable token.
  Anything else is ``NoToken``, whose ``Failure`` says what may be done about it.
* What the other side says about itself is never trusted to be well-formed: a lifetime may be text,
  a float, a negative or nonsense, and a good token is not lost for it.
* The class of a failure follows the status first, then the error code. What nobody knows is
  ``transient``: it delays, it never condemns.
* No text of a reply goes into any message: of error codes only those in the lists below do.
"""

import json
import math
import re
from base64 import urlsafe_b64decode
from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any, Final, Literal
from urllib.parse import parse_qsl

import msgspec
from msgspec import Struct

from vault.egress import Reply
from vault.egress.waits import retry_after, skew_of
from vault.errors import EgressDenied, Invalid, Unreachable, UpstreamFailed, VaultError
from vault.providers.derived import REFRESH_LIFETIMES
from vault.secret import Secret

Outcome = Literal["not_sent", "ambiguous", "throttled", "transient", "dead", "client"]

MAX_TOKEN: Final = 32_768
MAX_LIFETIME: Final = 400 * 86_400  # seconds
SHORT_LIFETIME: Final = 60  # seconds; what a lifetime of zero or less is taken for
MAX_RETRY_AFTER: Final = 3_600
MAX_SKEW: Final = 30  # seconds between their clock and ours, before an assertion is in doubt

# Error codes by what they mean: RFC 6749 section 5.2, and the dialects of GitHub and Slack.
DEAD: Final = frozenset(
    {"invalid_grant", "bad_refresh_token", "invalid_refresh_token", "token_revoked"}
)
CLIENT: Final = frozenset(
    {
        "invalid_client",
        "unauthorized_client",
        "invalid_scope",
        "unsupported_grant_type",
        "incorrect_client_credentials",
        "invalid_client_id",
        "bad_client_secret",
    }
)
THROTTLED: Final = frozenset({"slow_down", "ratelimited", "rate_limited"})
TRANSIENT: Final = frozenset({"temporarily_unavailable", "server_error", "invalid_request"})
_BY_CODE: Final[dict[str, Outcome]] = {
    **dict.fromkeys(CLIENT, "client"),
    **dict.fromkeys(THROTTLED, "throttled"),
    **dict.fromkeys(TRANSIENT, "transient"),
}

OK: Final = 200
REDIRECT: Final = 300
UNAUTHORIZED: Final = 401
REQUEST_TIMEOUT: Final = 408
TOO_MANY: Final = 429
SERVER_ERROR: Final = 500
UNAVAILABLE: Final = 503

_PRINTABLE: Final = bytes(range(0x20, 0x7F))
_NUMBER: Final = re.compile(r"\s*[+-]?[0-9]{1,18}(\.[0-9]{1,18})?\s*", re.ASCII)
_strictly: Final = msgspec.json.Decoder().decode
_NOT_EXTRA: Final = re.compile(r"(?i)token|secret|assertion|^(expires_in|scope|error.*)$")


class Failure(Struct, frozen=True, kw_only=True):
    """Why there is no token, as data. ``detail`` may be shown to anybody."""

    outcome: Outcome
    detail: str
    error: str | None = None  # a code that we know, else nothing
    status: int | None = None
    retry_after: int | None = None  # seconds, where the other side named a time


class NoToken(UpstreamFailed):
    """The token endpoint gave no token.

    ``unread``: what it said with a yes that we could not read; a new token may be in it.
    """

    def __init__(self, failure: Failure, *, unread: Secret | None = None) -> None:
        super().__init__(failure.detail)
        self.failure = failure
        self.unread = unread


class TokenReply(Struct, frozen=True, kw_only=True):
    """What a token endpoint gave. Its repr shows nothing of it."""

    access_token: Secret
    token_type: str | None
    expires_in: int | None  # seconds, clamped; None where nothing usable was said
    odd_lifetime: bool  # it was said, but not as RFC 6749 has it
    refresh_token: Secret | None  # None: keep the one you have
    refresh_expires_in: int | None
    id_token: Secret | None
    scopes: tuple[str, ...] | None  # None: those that were asked for
    extra: Mapping[str, str | int | float | bool]  # other plain fields, such as instance_url

    def __repr__(self) -> str:
        return "TokenReply(***)"


def parse_token_reply(
    reply: Reply,
    *,
    now: datetime,
    token_field: str = "access_token",  # noqa: S107 - a name
    inside: tuple[str, ...] = (),
    dead: Collection[str] = DEAD,
    asserted: bool = False,
) -> TokenReply:
    """Read a token reply, or raise ``NoToken``.

    ``inside`` leads to the object that holds the tokens where a provider nests it; ``dead`` are
    the provider's codes for "never again"; ``asserted`` as in ``classify``.
    """
    fields = fields_of(reply) if succeeded(reply.status) else None
    refused = fields is None or says_error(fields)
    for name in inside:
        within = (fields or {}).get(name)
        fields = within if isinstance(within, dict) else None
    token = token_of((fields or {}).get(token_field))
    if refused or fields is None or token is None or says_error(fields):
        raise NoToken(classify(reply, now=now, dead=dead, asserted=asserted))
    # What a reply says of the lifetime is about the access token; another token knows its own.
    said, odd = seconds_of(fields.get("expires_in"))
    own = unverified_lifetime(token) if said is None or token_field != "access_token" else None  # noqa: S105 - a name
    return _token_reply(fields, token, own or said, odd_lifetime=odd)


def _token_reply(
    fields: Mapping[str, Any], token: Secret, lifetime: int | None, *, odd_lifetime: bool
) -> TokenReply:
    kind = fields.get("token_type")
    return TokenReply(
        access_token=token,
        token_type=kind if isinstance(kind, str) else None,
        expires_in=lifetime,
        odd_lifetime=odd_lifetime,
        refresh_token=token_of(fields.get("refresh_token")),
        refresh_expires_in=next(
            (found for name in REFRESH_LIFETIMES if (found := seconds_of(fields.get(name))[0])),
            None,
        ),
        id_token=token_of(fields.get("id_token")),
        scopes=_scopes(fields.get("scope")),
        extra={
            name: value
            for name, value in fields.items()
            if isinstance(value, str | int | float | bool) and not _NOT_EXTRA.search(name)
        },
    )


def fields_of(reply: Reply) -> dict[str, Any] | None:
    """The reply as an object: JSON, or the form that old servers answer with."""
    try:
        found = _strictly(reply.body)
    except (ValueError, RecursionError):
        return _leniently(reply.body)
    return found if isinstance(found, dict) else None


def _leniently(body: bytes) -> dict[str, Any] | None:
    """What the strict and fast reader does not take, some servers call JSON, too; or a form."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return _form(body)
    return found if isinstance(found, dict) else None


def _form(body: bytes) -> dict[str, Any] | None:
    try:
        pairs = parse_qsl(body.decode("ascii"), strict_parsing=True, max_num_fields=100)
    except ValueError:
        return None
    return dict(pairs) or None


def token_of(value: object) -> Secret | None:
    """A token, if that is what it is: printable ASCII, and not endless."""
    if not isinstance(value, str) or not value.isascii() or len(value) > MAX_TOKEN:
        return None
    plain = value.encode()
    if not plain or plain.translate(None, _PRINTABLE) or plain.strip(b" ") != plain:
        return None
    return Secret(plain)


def seconds_of(value: object, longest: int = MAX_LIFETIME) -> tuple[int | None, bool]:
    """A lifetime in seconds, and whether what was said makes no sense."""
    if value is None:
        return None, False
    if type(value) is int and 0 < value <= longest:  # as most say it
        return value, False
    seconds = math.nan
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        seconds = float(value)
    elif isinstance(value, int) and not isinstance(value, bool):
        seconds = float(max(min(value, longest + 1), -1))  # before float(): it may overflow
    elif isinstance(value, float):
        seconds = value
    if math.isnan(seconds):
        return None, True
    if seconds <= 0:
        return SHORT_LIFETIME, True
    return max(1, int(min(seconds, longest))), seconds > longest


def unverified_lifetime(token: Secret) -> int | None:
    """How long a JWT says it lives; a hint, for where the reply says nothing."""
    try:
        middle = token.reveal().split(".")[1]
        claims = json.loads(urlsafe_b64decode(middle + "=" * (-len(middle) % 4)))
        return seconds_of(claims["exp"] - claims["iat"])[0]
    except (ValueError, IndexError, KeyError, TypeError, OverflowError, RecursionError):
        return None


def _scopes(value: object) -> tuple[str, ...] | None:
    if isinstance(value, str):
        return tuple(re.split(r"[\s,]+", value.strip())) if value.strip() else ()
    if isinstance(value, list) and all(isinstance(one, str) for one in value):
        return tuple(value)
    return None


# Failures


def failure_of(error: VaultError) -> Failure:
    """The class of a call that brought no reply."""
    if isinstance(error, NoToken):
        return error.failure
    if isinstance(error, EgressDenied):
        return Failure(outcome="not_sent", detail="The token endpoint may not be called.")
    if isinstance(error, Unreachable) and not error.sent:
        return Failure(outcome="not_sent", detail="The token endpoint cannot be reached.")
    if isinstance(error, Unreachable):
        return Failure(outcome="ambiguous", detail="The token endpoint did not answer.")
    if isinstance(error, Invalid):
        return Failure(outcome="client", detail=error.message)
    return Failure(outcome="ambiguous", detail="The token endpoint's answer cannot be read.")


def classify(
    reply: Reply, *, now: datetime, dead: Collection[str] = DEAD, asserted: bool = False
) -> Failure:
    """What a reply without a token means: the status first, then the code.

    ``asserted``: we sent an assertion, which a server whose clock differs refuses as dead.
    """
    code = code_of(fields_of(reply) or {})
    wait = retry_after(reply, now=now, at_most=MAX_RETRY_AFTER)
    outcome, detail = _meaning(reply, code, wait, dead)
    if outcome == "dead" and asserted and (skew := skew_of(reply, now)) > MAX_SKEW:
        outcome = "transient"
        detail = f"The token endpoint refused the grant, and its clock is {skew} s from ours."
    known = code if code in _BY_CODE or code in dead else None
    return Failure(
        outcome=outcome, detail=detail, error=known, status=reply.status, retry_after=wait
    )


def _meaning(
    reply: Reply, code: str, wait: int | None, dead: Collection[str]
) -> tuple[Outcome, str]:
    status = reply.status
    answered = f"The token endpoint answered {status}"
    if status == TOO_MANY or (status == UNAVAILABLE and wait):
        return "throttled", f"{answered}: too many requests."
    if status == REQUEST_TIMEOUT or status >= SERVER_ERROR:
        return "ambiguous", f"{answered}."
    if code in dead or code in _BY_CODE:
        return "dead" if code in dead else _BY_CODE[code], f"{answered} with {code}."
    if status == UNAUTHORIZED and (not reply.body.strip() or reply.get("WWW-Authenticate")):
        return "client", f"{answered}: it does not accept the client."
    if code:
        return "transient", f"{answered} with an error that is not known."
    answered_yes = succeeded(status)
    return "ambiguous" if answered_yes else "transient", f"{answered}, without a token."


def succeeded(status: int) -> bool:
    """Is it a 2xx?"""
    return OK <= status < REDIRECT


def says_error(fields: Mapping[str, Any]) -> bool:
    """Does a reply say no, whatever its status?"""
    return bool(fields.get("error")) or fields.get("ok") is False


def code_of(fields: Mapping[str, Any]) -> str:
    """The error code, also where it stands inside an object; lower case."""
    error = fields.get("error")
    if isinstance(error, dict):
        named = (error.get(name) for name in ("code", "type", "error", "status"))
        error = next((one for one in named if isinstance(one, str)), "unknown")
    if isinstance(error, str) and error:
        return error.lower()
    return "unknown" if says_error(fields) else ""
