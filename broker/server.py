"""uvicorn, and a stop that drops nothing.

On SIGTERM or SIGINT:

1. ``/readyz`` turns 503 and every answer says ``Connection: close``, while requests are still
   taken: load balancers look away, kept-alive connections end after an answer, not before one.
2. After ``KEYTURN_DRAIN_SECONDS`` the socket closes; what is still running gets
   ``STOP_SECONDS`` to end.
3. Then egress, vault and database close, and the process exits with 0.

A second signal skips the waiting.
"""

import time
from types import FrameType
from typing import Any, Final

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from broker.api.gate import Gate
from broker.app import Service
from broker.settings import Settings

KEEP_ALIVE_SECONDS: Final = 75  # longer than the idle time of the usual load balancers
STOP_SECONDS: Final = 30
BACKLOG: Final = 2048
# A request's line and headers, and what came in the same piece; no key of ours is near it.
MAX_HEAD: Final = 256 * 1024


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's protocol with a limit that it lacks: what is no body has to end.

    That is the head, and what may follow a chunked body. The body has its own limit.
    """

    def __init__(self, *args: Any, **more: Any) -> None:  # noqa: ANN401 - uvicorn's
        super().__init__(*args, **more)
        self._beside_body = 0

    def data_received(self, data: bytes) -> None:
        self._beside_body += len(data)
        super().data_received(data)
        if self._beside_body > MAX_HEAD:
            self.transport.close()

    def on_message_begin(self) -> None:
        self._beside_body = 0
        super().on_message_begin()

    def on_body(self, body: bytes) -> None:
        self._beside_body -= len(body)
        super().on_body(body)


class Server(uvicorn.Server):
    """A uvicorn server that drains before it stops."""

    def __init__(self, config: uvicorn.Config, gate: Gate, drain_seconds: float) -> None:
        super().__init__(config)
        self._gate = gate
        self._drain_seconds = drain_seconds
        self._stop_at = 0.0

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - uvicorn's
        """Begin to drain. Called between two bytecodes, so it only takes notes."""
        if self._gate.draining:
            self.should_exit = self.force_exit = True
        self._gate.draining = True
        self._stop_at = time.monotonic() + self._drain_seconds

    async def on_tick(self, counter: int) -> bool:
        """Stop when the time to drain is over; uvicorn asks ten times a second."""
        if self._gate.draining and time.monotonic() >= self._stop_at:
            return True
        return await super().on_tick(counter)


async def run(service: Service, settings: Settings) -> None:
    """Serve until a signal comes."""
    config = uvicorn.Config(
        service.asgi,
        host=settings.host,
        port=settings.port,
        loop="none",
        http=BoundedProtocol,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=True,
        forwarded_allow_ips=settings.trusted_proxies,
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=STOP_SECONDS,
    )
    server = Server(config, service.gate, settings.seconds_to_drain)
    await server.serve()
