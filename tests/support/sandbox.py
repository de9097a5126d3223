"""The sandbox behind a real port, with its state at hand."""

import contextlib
import socket
from collections.abc import AsyncIterator

from broker.sandbox import Client, ClientKey, Faults, Sandbox
from broker.sandbox.server import embedded, listen
from broker.sandbox.state import Seen

_had: set[int] = set()


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
    with _listening() as listener:
        async with embedded(state, listener):
            yield Provider(state, f"http://127.0.0.1:{listener.getsockname()[1]}")
