"""The leak detector: a ``secret__`` value that turns up where others see it is written down.

* ``secret__`` variables belong into the headers of tool calls, and nowhere else. Everything that
  the sandbox sends to a model, a transcript, a client, or into an address or a body is searched.
* A value is found as it is, percent-encoded, in base64, and escaped in JSON; of ``Bearer abc...``
  the credential alone is found, too. Too short a value proves nothing and is not looked for:
  8 characters with a digit among them, or 16 without.
* A configuration that *names* a ``secret__`` variable in such a place is a leak, whatever the
  value is.
* The sandbox assumes the worst of ElevenLabs: what might show a secret there is a leak here.
* A record holds no value, but its fingerprint. What else a leak does, ``Behaviour.on_leak`` says.
"""

import base64
import json
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Final, Literal
from urllib.parse import quote, quote_plus

from msgspec import Struct

MAX_LEAKS: Final = 1_000
LONG: Final = 16
SHORT: Final = 8

Where = Literal[
    "request",  # a request to ElevenLabs, outside its own secret__ variables
    "variable",  # the value of a variable that is not secret
    "prompt",
    "first_message",
    "transcript",
    "event",  # a frame for the client
    "url",
    "parameter",
    "body",
    "tool_result",  # what the model sees of a tool's answer
    "webhook",
]

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{1,30} +(?P<credential>\S.*)")


class Leak(Struct, frozen=True, kw_only=True):
    """A secret where it does not belong."""

    at: float
    where: Where
    name: str
    conversation_id: str | None
    tool: str | None
    fingerprint: str | None  # None: only the name stood there


class LeakDetector:
    """Looks for secrets, and remembers what it found."""

    def __init__(self, fingerprint: Callable[[str], str], now: Callable[[], float]) -> None:
        self.found: list[Leak] = []
        self.watched: dict[str, str] = {}  # name -> a value that may be in no such place at all
        self._fingerprint = fingerprint
        self._now = now

    def look(
        self,
        where: Where,
        text: str,
        secrets: Iterable[tuple[str, str]],
        *,
        conversation_id: str | None = None,
        tool: str | None = None,
    ) -> list[str]:
        """Search a text for these secrets, and for what is watched; return the names found."""
        found = []
        for name, value in (*secrets, *self.watched.items()):
            if any(form in text for form in forms(value)):
                self._record(where, name, conversation_id, tool, self._fingerprint(value))
                found.append(name)
        return found

    def named(
        self,
        where: Where,
        names: Iterable[str],
        *,
        conversation_id: str | None = None,
        tool: str | None = None,
    ) -> None:
        """Note the secret variables that a configuration names at this place."""
        for name in names:
            self._record(where, name, conversation_id, tool, None)

    def _record(
        self,
        where: Where,
        name: str,
        conversation_id: str | None,
        tool: str | None,
        fingerprint: str | None,
    ) -> None:
        if len(self.found) < MAX_LEAKS:
            self.found.append(
                Leak(
                    at=self._now(),
                    where=where,
                    name=name,
                    conversation_id=conversation_id,
                    tool=tool,
                    fingerprint=fingerprint,
                )
            )


def forms(value: str) -> Iterator[str]:
    """How a value may be written down; nothing for one that is too short to tell."""
    pieces = {value}
    if scheme := _SCHEME.fullmatch(value):
        pieces.add(scheme["credential"])
    for piece in pieces:
        if len(piece) < SHORT or (len(piece) < LONG and not any(one.isdigit() for one in piece)):
            continue
        data = piece.encode("utf-8", "surrogatepass")
        yield piece
        yield quote(data, safe="")
        yield quote_plus(data)
        yield json.dumps(piece)[1:-1]
        yield base64.b64encode(data).decode().rstrip("=")
        yield base64.urlsafe_b64encode(data).decode().rstrip("=")
