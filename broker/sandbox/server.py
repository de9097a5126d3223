"""uvicorn for the sandbox, HTTP and WebSocket: it lends the faults a way to cut the connection."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator
from typing import Any

import uvicorn
from litestar.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from broker.sandbox import Sandbox, create_sandbox
from broker.sandbox.faults import EXTENSION


class _Protocol(HttpToolsProtocol):
    def on_message_begin(self) -> None:
        super().on_message_begin()
        extensions: dict[Any, Any] = {EXTENSION: {"abort": self._abort}}
        self.scope["extensions"] = extensions

    async def _abort(self) -> None:
        self.transport.abort()
        # uvicorn would take our silence for a bug of the application, unless nobody listens.
        self.cycle.disconnected = True
        self.cycle.response_complete = True


class _SocketProtocol(WebSocketsSansIOProtocol):
    async def run_asgi(self) -> None:
        extensions: dict[Any, Any] = {**self.scope["extensions"], EXTENSION: {"abort": self._abort}}
        self.scope["extensions"] = extensions
        await super().run_asgi()

    async def _abort(self) -> None:
        self.transport.abort()


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield  # whoever embeds us has their own


def server(app: ASGIApp, *, embedded: bool = False) -> uvicorn.Server:
    """Make a server for ``serve([socket])``; an ``embedded`` one leaves the signals alone."""
    config = uvicorn.Config(
        app,
        loop="none",
        http=_Protocol,
        ws=_SocketProtocol,
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=1,
        # Longer than any client keeps it: who writes to a connection that just ended hears nothing.
        timeout_keep_alive=75,
    )
    return _Server(config) if embedded else uvicorn.Server(config)


async def run(listener: socket.socket) -> None:
    """Serve a sandbox until a signal comes."""
    sandbox = Sandbox()
    try:
        await server(create_sandbox(sandbox)).serve([listener])
    finally:
        await sandbox.aclose()


@contextlib.asynccontextmanager
async def embedded(sandbox: Sandbox, listener: socket.socket) -> AsyncIterator[None]:
    """Serve a sandbox within a program that goes on with something else."""
    running = server(create_sandbox(sandbox), embedded=True)
    task = asyncio.create_task(running.serve([listener]))
    try:
        while not (running.started or task.done()):  # noqa: ASYNC110 - uvicorn's flag is all
            await asyncio.sleep(0.01)
        yield
    finally:
        running.should_exit = running.force_exit = True
        await task
        await sandbox.aclose()


def listen(host: str, port: int) -> socket.socket:
    """Open the listening socket; port 0 takes a free one."""
    listener = socket.create_server((host, port), backlog=1_024)
    # asyncio leaves this off for a socket that it did not make: 40 ms for every answer.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener
