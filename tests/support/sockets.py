"""WebSocket servers on loopback: whoever answers a socket that we open, well or badly."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from websockets.asyncio.server import ServerConnection, serve

from support.loopback import calling
from vault.egress import Dial, Egress, Purpose, Socket
from vault.secret import Secret

Handler = Callable[[ServerConnection], Awaitable[None]]


class Answerer:
    """A WebSocket server: who came, and how each left."""

    def __init__(self) -> None:
        self.port = 0
        self.came: list[ServerConnection] = []
        self.left = asyncio.Event()

    def url(self, path: str = "/?signature=sentinel") -> str:
        return f"ws://127.0.0.1:{self.port}{path}"

    @property
    def closes(self) -> list[int | None]:
        return [one.close_code for one in self.came]


@contextlib.asynccontextmanager
async def answering(
    handler: Handler, *, tls: ssl.SSLContext | None = None, **options: Any
) -> AsyncIterator[Answerer]:
    """Answer every socket with `handler`."""
    server = Answerer()

    async def handle(connection: ServerConnection) -> None:
        server.came.append(connection)
        try:
            await handler(connection)
            await connection.wait_closed()
        finally:
            server.left.set()

    options = {"compression": None, "ping_interval": None, "close_timeout": 1, **options}
    async with serve(handle, "127.0.0.1", 0, ssl=tls, **options) as found:
        server.port = next(iter(found.sockets)).getsockname()[1]
        yield server
        for one in server.came:
            one.transport.abort()


async def echo(connection: ServerConnection) -> None:
    """Say back what is said."""
    async for message in connection:
        await connection.send(message)


async def nothing(_connection: ServerConnection) -> None:
    """Neither read nor write."""


@contextlib.asynccontextmanager
async def opened(
    url: str, egress: Egress | None = None, purpose: Purpose = "upstream", **dial: Any
) -> AsyncIterator[Socket]:
    """Open a socket, with an Egress of its own unless one is given."""
    async with contextlib.AsyncExitStack() as stack:
        if egress is None:
            egress = await stack.enter_async_context(calling())
        socket = await egress.socket(purpose, Dial(url=Secret(url), **dial))
        try:
            yield socket
        finally:
            await socket.close()
