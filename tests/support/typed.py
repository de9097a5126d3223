"""The same service with its typed routes alone, to hold what goes in front of them against them."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from typing import Any

import uvicorn

from support.api import Api, Reply, Running


@contextlib.asynccontextmanager
async def typed_alone(service: Running, anyone: Api) -> AsyncIterator[Api]:
    """A client of the service without what stands in front of the application."""
    app = service.service.gate.before(service.service.app)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(
            app,
            loop="none",
            http="httptools",
            log_config=None,
            lifespan="off",
            # Longer than any client keeps it: what is posted into one that just ended is lost.
            timeout_keep_alive=75,
        )
        server = uvicorn.Server(config)
        server.capture_signals = contextlib.nullcontext  # type: ignore[assignment] # the run has its own

        task = asyncio.create_task(server.serve([listener]))
        while not server.started:  # noqa: ASYNC110 - uvicorn tells nobody
            await asyncio.sleep(0.01)
        yield anyone.at(f"http://127.0.0.1:{listener.getsockname()[1]}")
        server.should_exit = True
        await task


def same(raw: Reply, typed: Reply, told: Callable[[Any], Any]) -> None:
    """Both answered the same; ``told`` takes away what differs from one answer to the next."""
    assert raw.status == typed.status
    left, right = raw.json, typed.json
    for one in (left, right):
        one.pop("request_id", None)
    assert told(left) == told(right)
    assert list(left) == list(right)
    names = {name.lower() for name in raw.headers} - {"date", "server"}
    assert names == {name.lower() for name in typed.headers} - {"date", "server"}
    for name in ("Content-Type", "Cache-Control", "X-Content-Type-Options", "Referrer-Policy"):
        assert raw.headers.get(name) == typed.headers.get(name)
