"""When a token ends, in all the ways in which providers say so. Pure.

* What the reply says comes first, then what a JWT says of itself or the file reckons, whichever is
  sooner. A token that can be renewed and of which nothing is known is renewed after an hour; one
  that cannot lives until somebody finds it dead.
* Nonsense, the past and the very far future are bounded: a token is not lost for an odd number.
"""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from vault.oauth.paths import at
from vault.oauth.replies import (
    MAX_LIFETIME,
    SHORT_LIFETIME,
    seconds_of,
    unverified_lifetime,
)
from vault.providers.derived import REFRESH_LIFETIMES
from vault.providers.schema import Reply
from vault.secret import Secret

DEFAULT_LIFETIME: Final = 3_600  # seconds
MAX_REFRESH_LIFETIME: Final = 10 * 366 * 86_400
_MS: Final = 1_000


def access_end(
    says: Reply, root: Mapping[str, Any], token: Secret | None, now: datetime, *, renewable: bool
) -> datetime | None:
    """When the access token ends; ``None``: never, as far as anybody knows."""
    if says.expires_at is not None:
        found = _moment(at(root, says.expires_at), says.expires_at_format, now, MAX_LIFETIME)
        if found is not None:
            return found
    said = at(root, says.expires_in)
    if says.expires_in_zero == "never" and _is_zero(said):
        return None
    seconds, _ = seconds_of(said)
    if seconds is None:
        hint = unverified_lifetime(token) if token is not None else None
        seconds = min(filter(None, (says.lifetime_seconds, hint)), default=None)
    if seconds is None and renewable and not says.never_expires:
        seconds = DEFAULT_LIFETIME
    return None if seconds is None else now + timedelta(seconds=seconds)


def refresh_end(says: Reply, root: Mapping[str, Any], now: datetime) -> datetime | None:
    """When the refresh token ends, as far as the reply says so."""
    if says.refresh_expires_at is not None:
        said = at(root, says.refresh_expires_at)
        found = _moment(said, says.expires_at_format, now, MAX_REFRESH_LIFETIME)
        if found is not None:
            return found
    names = (says.refresh_expires_in,) if says.refresh_expires_in else REFRESH_LIFETIMES
    for name in names:
        if (said := at(root, name)) is None:
            continue
        if says.refresh_expires_in_zero == "never" and _is_zero(said):
            return None
        seconds, _ = seconds_of(said, MAX_REFRESH_LIFETIME)
        if seconds is not None:
            return now + timedelta(seconds=seconds)
    return None


def _is_zero(said: object) -> bool:
    if isinstance(said, str):
        return said.strip() in ("0", "0.0")
    return isinstance(said, int | float) and not isinstance(said, bool) and said == 0


def _moment(said: object, written: str | None, now: datetime, longest: int) -> datetime | None:
    """A time that a reply names, no further away than is sensible; ``None``: it makes no sense."""
    try:
        left = _left(said, written or "iso8601", now)
    except (ValueError, OverflowError):
        return None
    if left is None or left != left:  # noqa: PLR0124 - it is how NaN shows
        return None
    return now + timedelta(seconds=min(left, longest) if left > 0 else SHORT_LIFETIME)


def _left(said: object, written: str, now: datetime) -> float | None:
    """Seconds from now until then."""
    if written == "iso8601":
        if not isinstance(said, str):
            return None
        then = datetime.fromisoformat(said.strip())
        then = then if then.tzinfo else then.replace(tzinfo=UTC)
        return (then - now).total_seconds()
    if isinstance(said, bool) or not isinstance(said, int | float | str):
        return None
    return float(said) / (_MS if written == "epoch_ms" else 1) - now.timestamp()
