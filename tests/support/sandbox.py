"""The sandbox behind a real port, with its state at hand, and a door that a test can shut."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from typing import Final

from litestar.types import ASGIApp, Message, Receive, Scope, Send

from broker.sandbox import Client, ClientKey, Faults, Sandbox, create_sandbox
from broker.sandbox.server import listen, server
from broker.sandbox.state import Seen

TOKENS: Final = "/oauth/token"
PATIENCE: Final = 60.0

_had: set[int] = set()


class Kept:
    """Requests for tokens that have come and wait until a test lets them go on."""

    def __init__(self, times: int | None, *, unheard: bool) -> None:
        self.unheard = unheard
        self.number = 0
        self.over = asyncio.Event()
        self._left = times

    def takes(self) -> bool:
        """Does the next one wait, too?"""
        if self._left is None:
            return True
        self._left -= 1
        return self._left >= 0

    async def wait(self) -> None:
        self.number += 1
        await self.over.wait()

    async def come(self, number: int = 1) -> None:
        """Until so many wait."""
        async with asyncio.timeout(PATIENCE):
            while self.number < number:  # noqa: ASYNC110 - who waits tells nobody
                await asyncio.sleep(0.005)


class Door:
    """The sandbox, behind a door for requests for tokens."""

    def __init__(self, app: ASGIApp) -> None:
        self.kept: Kept | None = None
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kept = self.kept if scope.get("path") == TOKENS else None
        if kept is None or not kept.takes():
            await self._app(scope, receive, send)
            return
        if kept.unheard:
            await kept.wait()

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start" and not kept.unheard:
                await kept.wait()
            await send(message)

        await self._app(scope, receive, answer)


class Provider:
    """A sandbox that answers at ``base``."""

    def __init__(self, state: Sandbox, base: str, door: Door | None = None) -> None:
        self.state = state
        self.base = base
        self._door = door

    @property
    def token_url(self) -> str:
        return f"{self.base}{TOKENS}"

    @property
    def token_calls(self) -> list[Seen]:
        return [one for one in self.state.requests if one.path == TOKENS]

    def register(
        self, client_id: str, *, secret: str | None = None, keys: list[ClientKey] | None = None
    ) -> None:
        self.state.clients[client_id] = Client(secret=secret, keys=keys or [])

    def misbehave(self, faults: Faults | None) -> None:
        self.state.faults = faults

    @contextlib.asynccontextmanager
    async def keeping(
        self, *, unheard: bool = False, times: int | None = None
    ) -> AsyncIterator[Kept]:
        """Requests for tokens wait until this is over: the work is done, and the answer is not
        sent; or, ``unheard``, nothing is done yet. ``times``: only the next so many do.

        Whoever wants something to happen meanwhile need not guess how long it takes.
        """
        assert self._door is not None
        kept = self._door.kept = Kept(times, unheard=unheard)
        try:
            yield kept
        finally:
            self._door.kept = None
            kept.over.set()


def _listening() -> socket.socket:
    """On a port that no sandbox of this process had. The system gives a port of its choice again
    soon, and a vault remembers what was there: metadata, keys, and whose account it was.
    """
    while True:
        listener = listen("127.0.0.1", 0)
        port = listener.getsockname()[1]
        if port not in _had:
            _had.add(port)
            return listener
        listener.close()


@contextlib.asynccontextmanager
async def providing(state: Sandbox | None = None) -> AsyncIterator[Provider]:
    """Run a sandbox of one's own."""
    state = state or Sandbox()
    door = Door(create_sandbox(state))
    with _listening() as listener:
        running = server(door, embedded=True)
        task = asyncio.create_task(running.serve([listener]))
        while not (running.started or task.done()):  # noqa: ASYNC110 - uvicorn's flag is all
            await asyncio.sleep(0.01)
        try:
            yield Provider(state, f"http://127.0.0.1:{listener.getsockname()[1]}", door)
        finally:
            running.should_exit = running.force_exit = True
            await task
            await state.aclose()
