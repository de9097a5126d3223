"""The sandbox behind a real port, with its state at hand."""

import contextlib
from collections.abc import AsyncIterator
from contextvars import ContextVar
from typing import Any

from litestar import Litestar
from litestar.di import Provide
from litestar.types import ASGIApp, Receive, Scope, Send

from broker.sandbox import Client, ClientKey, Faults, Sandbox
from broker.sandbox.server import embedded, listen
from broker.sandbox.state import Seen


class Provider:
    """A sandbox that answers at ``base``."""

    def __init__(self, state: Sandbox, base: str) -> None:
        self.state = state
        self.base = base

    @property
    def token_url(self) -> str:
        return f"{self.base}/oauth/token"

    @property
    def token_calls(self) -> list[Seen]:
        return [one for one in self.state.requests if one.path == "/oauth/token"]

    def register(
        self, client_id: str, *, secret: str | None = None, keys: list[ClientKey] | None = None
    ) -> None:
        self.state.clients[client_id] = Client(secret=secret, keys=keys or [])

    def misbehave(self, faults: Faults | None) -> None:
        self.state.faults = faults


@contextlib.asynccontextmanager
async def providing(state: Sandbox | None = None) -> AsyncIterator[Provider]:
    """Run a sandbox of one's own."""
    state = state or Sandbox()
    with listen("127.0.0.1", 0) as listener:
        async with embedded(state, listener):
            yield Provider(state, f"http://127.0.0.1:{listener.getsockname()[1]}")


class Routes:
    """Stands where a sandbox makes its routes, and makes them once for all sandboxes.

    It takes 50 ms, two thousand tests have a sandbox of their own, and the routes of two sandboxes
    differ by nothing but the state that they ask for.
    """

    def __init__(self) -> None:
        self._of_all: Litestar | None = None
        self._asked: ContextVar[Provide] = ContextVar("asked")

    def __call__(self, *, dependencies: dict[str, Provide], **more: Any) -> ASGIApp:
        if self._of_all is None:
            self._of_all = Litestar(dependencies={"sandbox": Provide(self._state)}, **more)
        routes, own = self._of_all, dependencies["sandbox"]

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            self._asked.set(own)  # a request is a task, and so has a context, of its own
            await routes(scope, receive, send)

        return app

    async def _state(self) -> Sandbox:
        found: Sandbox = await self._asked.get()()
        return found
