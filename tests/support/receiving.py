"""A platform's own server: it receives events, and answers as a test wants."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from msgspec import Struct
from standardwebhooks import Webhook

from support.loopback import Listener, listening


class Received(Struct, frozen=True):
    """One request."""

    headers: dict[str, str]
    body: bytes

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def signatures(self) -> list[str]:
        return self.headers["webhook-signature"].split(" ")

    def verified(self, secret: str) -> dict[str, Any]:
        """What it says, if this secret signed it; checked by the specification's own library."""
        found: dict[str, Any] = Webhook(secret).verify(self.body, self.headers)
        return found


class Receiver:
    """Its knobs, and what has come."""

    def __init__(self) -> None:
        self.status = 200
        self.seconds = 0.0
        self.extra = b""
        self.busy = self.busiest = 0
        self.listener: Listener | None = None

    @property
    def url(self) -> str:
        assert self.listener is not None
        return f"http://127.0.0.1:{self.listener.port}/hook?token=of-the-address"

    @property
    def received(self) -> list[Received]:
        assert self.listener is not None
        return [_received(one) for one in self.listener.heard]

    @property
    def types(self) -> list[str]:
        return [json.loads(one.body)["type"] for one in self.received]

    async def answer(self, writer: asyncio.StreamWriter) -> None:
        self.busy += 1
        self.busiest = max(self.busy, self.busiest)
        try:
            status = self.status
            await asyncio.sleep(self.seconds)
            writer.write(b"HTTP/1.1 %d X\r\nContent-Length: 0\r\n%s\r\n" % (status, self.extra))
        finally:
            self.busy -= 1


@asynccontextmanager
async def receiving() -> AsyncIterator[Receiver]:
    """Be there for as long as this is open."""
    receiver = Receiver()
    async with listening(receiver.answer) as listener:
        receiver.listener = listener
        yield receiver


def _received(heard: bytes) -> Received:
    head, _, body = heard.partition(b"\r\n\r\n")
    lines = [line.decode().partition(": ") for line in head.split(b"\r\n")[1:]]
    return Received({name.lower(): value for name, _, value in lines}, body)
