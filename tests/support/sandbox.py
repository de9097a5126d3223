"""The sandbox behind a real port, with its state at hand."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from broker.sandbox import Client, ClientKey, Faults, Sandbox, create_sandbox
from broker.sandbox.server import listen, server
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
        running = server(create_sandbox(state), embedded=True)
        task = asyncio.create_task(running.serve([listener]))
        while not running.started:  # noqa: ASYNC110 - uvicorn tells it by this flag alone
            await asyncio.sleep(0.01)
        try:
            yield Provider(state, f"http://127.0.0.1:{listener.getsockname()[1]}")
        finally:
            running.should_exit = running.force_exit = True
            await task
            await state.aclose()
