"""How the sandbox misbehaves: one set of knobs, in front of the application.

* A fault takes the requests whose path it names, ``times`` of them or all.
* ``drop: "before"`` closes the connection before the request is worked on; ``"after"`` when the
  work is done and the answer is not sent: the other side cannot tell one from the other.
* ``latency`` passes before the work, ``hold`` between the work and the answer: then what was issued
  is issued, and whoever stops waiting has lost it.
* ``twist`` is what no honest provider does to a reply; see ``evil``.
* It needs the server of ``broker.sandbox.server``, which lends it the connection; on another
  server a drop is an answer that breaks off.
"""

import asyncio
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from itertools import count
from typing import Annotated, Any, Final, Literal

from litestar.enums import ScopeType
from litestar.types import ASGIApp, Message, Receive, Scope, Send
from msgspec import Meta, Struct

from broker.sandbox.evil import Twist, twisted
from broker.sandbox.history import History

HUGE: Final = 20_000_000  # bytes
SLOW_PAUSE: Final = 0.25  # seconds between two bytes
EXTENSION: Final = "keyturn.sandbox.abort"
NUMBER: Final = "keyturn.sandbox.number"  # of the request, for the history


class Faults(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What goes wrong; by default nothing does."""

    latency: Annotated[float, Meta(ge=0, le=600)] = 0  # seconds before the work
    hold: Annotated[float, Meta(ge=0, le=600)] = 0  # seconds after it
    status: Annotated[int, Meta(ge=200, le=599)] | None = None  # answer this, work on nothing
    body: str = ""
    content_type: str = "application/json"
    retry_after: Annotated[int, Meta(ge=0)] | str | None = None  # seconds; "+17": as a date
    drop: Literal["before", "after"] | None = None
    answer: Literal["whole", "truncated", "slow", "huge"] = "whole"
    twist: Twist | None = None
    path: str = "/oauth/token"
    times: Annotated[int, Meta(ge=1)] | None = None  # None: until healed


def number_of(scope: Mapping[str, Any]) -> int:
    """The number of a request; 0 where nobody counts."""
    lent: Mapping[str, int] = (scope.get("extensions") or {}).get(NUMBER) or {}
    return lent.get("number", 0)


class Misbehaving:
    """An ASGI application with faults in front of it, which counts its requests."""

    def __init__(
        self, app: ASGIApp, take: Callable[[str], Faults | None], history: History
    ) -> None:
        self._app = app
        self._take = take
        self._history = history
        self._numbers = count(1)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.HTTP:
            await self._app(scope, receive, send)
            return
        number = next(self._numbers)
        extensions: dict[Any, Any] = {**(scope.get("extensions") or {}), NUMBER: {"number": number}}
        scope["extensions"] = extensions
        faults, sent = self._take(str(scope["path"])), False
        try:
            if faults is None:
                await self._app(scope, receive, send)
                sent = True
            else:
                sent = await self._misbehave(faults, scope, receive, send)
        finally:
            self._history.close(number, sent=sent)

    async def _misbehave(self, faults: Faults, scope: Scope, receive: Receive, send: Send) -> bool:
        """Do as the faults say; did a whole answer leave?"""
        await asyncio.sleep(faults.latency)
        if faults.drop == "before":
            await _drop(scope, send)
            return False
        answered = _Answer()
        if faults.status is None:
            await self._app(scope, receive, answered.take)
        else:
            answered.make(faults)
        await asyncio.sleep(faults.hold)
        if faults.drop == "after":
            await _drop(scope, send)
            return False
        if (retry_after := faults.retry_after) is not None:
            answered.headers.append((b"retry-after", _retry_after(retry_after).encode()))
        if faults.twist is not None:
            answered.twist(faults.twist)
        await answered.give(scope, send, faults.answer)
        return faults.answer != "truncated"


class _Answer:
    """An answer that is held back."""

    def __init__(self) -> None:
        self.status = 200
        self.headers: list[tuple[bytes, bytes]] = []
        self.body = b""

    async def take(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = list(message["headers"])
        elif message["type"] == "http.response.body":
            self.body += message["body"]

    def make(self, faults: Faults) -> None:
        self.status = faults.status or 200
        self.body = faults.body.encode()
        self.headers = [(b"content-type", faults.content_type.encode("latin-1"))]

    def twist(self, how: Twist) -> None:
        self.body, kind = twisted(self.body, how)
        if kind is not None:
            self.status = 200
            others = [pair for pair in self.headers if pair[0] != b"content-type"]
            self.headers = [*others, (b"content-type", kind.encode())]

    async def give(
        self,
        scope: Scope,
        send: Send,
        how: Literal["whole", "truncated", "slow", "huge"],
    ) -> None:
        body = self.body + b" " * HUGE if how == "huge" else self.body
        headers = [pair for pair in self.headers if pair[0] != b"content-length"]
        headers.append((b"content-length", str(len(body)).encode()))
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        if how == "truncated":
            await _say(send, body[: len(body) // 2], more=True)
            await _drop(scope, send)
        elif how == "slow":
            for at in range(len(body)):
                await _say(send, body[at : at + 1], more=at + 1 < len(body))
                await asyncio.sleep(SLOW_PAUSE)
        else:
            await _say(send, body, more=False)


async def _say(send: Send, body: bytes, *, more: bool) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": more})


async def _drop(scope: Scope, send: Send) -> None:
    lent: Any = (scope.get("extensions") or {}).get(EXTENSION)
    if lent is not None:
        await lent["abort"]()
        return
    start: Any = {
        "type": "http.response.start",
        "status": 200,
        "headers": [(b"content-length", b"1")],
    }
    await send(start)


def _retry_after(wanted: int | str) -> str:
    if isinstance(wanted, str) and wanted.startswith("+") and wanted[1:].isdecimal():
        return format_datetime(datetime.now(UTC) + timedelta(seconds=int(wanted[1:])), usegmt=True)
    return str(wanted)
