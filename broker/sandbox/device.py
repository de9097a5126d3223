"""Devices without a browser (RFC 8628): who waits for whose answer."""

import secrets
import time
from typing import Final, Literal

from msgspec import Struct

ALPHABET: Final = "BCDFGHJKLMNPQRSTVWXZ"  # RFC 8628 section 6.1
MAX_WAITING: Final = 10_000
SLOWER: Final = 5.0  # seconds added for who asks too often

State = Literal["authorization_pending", "slow_down", "expired_token", "access_denied", "allowed"]


class Waiting(Struct, kw_only=True):
    """One device. ``decided`` None: nobody has said anything yet."""

    client_id: str
    scopes: tuple[str, ...]
    user_code: str
    until: float
    interval: float
    decided: Literal["allow", "deny"] | None = None
    account: str = ""
    polled: float = 0


class Devices:
    """The devices of one sandbox."""

    def __init__(self) -> None:
        self._waiting: dict[str, Waiting] = {}

    def begin(
        self, client_id: str, scopes: tuple[str, ...], lifetime: float, interval: float
    ) -> tuple[str, Waiting]:
        """The device's code, and what is kept under it."""
        while len(self._waiting) >= MAX_WAITING:
            del self._waiting[next(iter(self._waiting))]
        word = "".join(secrets.choice(ALPHABET) for _ in range(8))
        waiting = Waiting(
            client_id=client_id,
            scopes=scopes,
            user_code=f"{word[:4]}-{word[4:]}",
            until=time.monotonic() + lifetime,
            interval=interval,
        )
        code = secrets.token_urlsafe(32)
        self._waiting[code] = waiting
        return code, waiting

    def by_user_code(self, text: str) -> Waiting | None:
        """A device that still waits, by what a person typed."""
        typed = "".join(letter for letter in text.upper() if letter in ALPHABET)
        for one in self._waiting.values():
            if one.user_code.replace("-", "") == typed and one.decided is None:
                return one if time.monotonic() < one.until else None
        return None

    def poll(self, code: str, client_id: str) -> tuple[State, Waiting] | None:
        """What a device hears; an end is told once."""
        waiting = self._waiting.get(code)
        if waiting is None or waiting.client_id != client_id:
            return None
        now, early = time.monotonic(), waiting.polled + waiting.interval
        hasty = bool(waiting.polled) and now < early
        waiting.polled = now
        if now >= waiting.until:
            del self._waiting[code]
            return "expired_token", waiting
        if hasty:
            waiting.interval += SLOWER
            return "slow_down", waiting
        if waiting.decided is None:
            return "authorization_pending", waiting
        del self._waiting[code]
        return ("allowed" if waiting.decided == "allow" else "access_denied"), waiting
