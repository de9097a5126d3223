"""uvicorn, and a stop that drops nothing.

On SIGTERM or SIGINT:

1. ``/readyz`` turns 503 and every answer says ``Connection: close``, while requests are still
   taken: load balancers look away, kept-alive connections end after an answer, not before one.
2. Conversations in the relay go on for ``KEYTURN_RELAY_DRAIN`` seconds, and requests with them:
   a live conversation's tools may call here. New ones are refused with 1012.
3. When ``KEYTURN_DRAIN_SECONDS`` are over and no conversation is left, or its time is over too, the
   socket closes. Conversations end with 1012; what is still running gets ``STOP_SECONDS`` to end.
4. Then egress, vault and database close, and the process exits with 0.

A second signal skips the waiting.
"""

import asyncio
import contextlib
import gc
import socket
import time
from collections.abc import AsyncIterator, Iterator
from types import FrameType
from typing import Any, Final

import uvicorn
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Frame

from broker.app import Service
from broker.settings import Settings

KEEP_ALIVE_SECONDS: Final = 75  # longer than the idle time of the usual load balancers
STOP_SECONDS: Final = 30
BACKLOG: Final = 2048
# A request's line and headers, and what came in the same piece; no key of ours is near it.
MAX_HEAD: Final = 256 * 1024
MAX_SAID: Final = 1 << 20  # bytes of one WebSocket message from a client
MAX_FRAGMENTS: Final = 1_024
PING_SECONDS: Final = 20.0
PONG_SECONDS: Final = 30.0
GOODBYE_SECONDS: Final = 5.0
# A request makes objects by the hundred, and nearly none in circles: Python's collector, which by
# default looks after every 700 of them, would take a tenth of the time and find nothing.
GARBAGE: Final = (20_000, 20, 10)


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


class BoundedSocket(WebSocketsSansIOProtocol):
    """uvicorn's WebSocket with the limits that it lacks.

    * Who does not read gets no pongs either: they would pile up in memory.
    * A message comes in ``MAX_FRAGMENTS`` pieces at most, the empty ones included.
    * A connection that is lost is 1006, as RFC 6455 section 7.1.5 has it.
    * What cannot be written to the end in ``GOODBYE_SECONDS`` is not waited for.
    """

    def handle_ping(self) -> None:
        output = self.conn.data_to_send()
        if self.writable.is_set():
            self.transport.write(b"".join(output))

    def handle_cont(self, event: Frame) -> None:
        if len(self.frames) >= MAX_FRAGMENTS:
            self.conn.fail(1009, "too many fragments")
            self.handle_parser_exception()
            return
        super().handle_cont(event)

    def connection_lost(self, exc: Exception | None) -> None:
        self.queue.put_nowait({"type": "websocket.disconnect", "code": 1006})
        super().connection_lost(exc)

    def keepalive_timeout(self) -> None:
        super().keepalive_timeout()
        self.loop.call_later(GOODBYE_SECONDS, self.transport.abort)

    async def run_asgi(self) -> None:
        await super().run_asgi()
        self.loop.call_later(GOODBYE_SECONDS, self.transport.abort)


class Server(uvicorn.Server):
    """A uvicorn server that drains before it stops."""

    def __init__(self, service: Service, settings: Settings) -> None:
        super().__init__(configured(service, settings))
        self._gate = service.gate
        self._relay = service.relay
        self._drain_seconds = settings.seconds_to_drain
        self._conversation_seconds = settings.seconds_for_conversations
        self._stop_at = 0.0
        self._cut_at = 0.0

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - uvicorn's
        """Begin to drain. Called between two bytecodes, so it only takes notes."""
        if self._gate.draining:
            self.should_exit = self.force_exit = True
        self._gate.draining = self._relay.draining = True
        now = time.monotonic()
        self._stop_at = now + self._drain_seconds
        self._cut_at = now + self._conversation_seconds

    async def on_tick(self, counter: int) -> bool:
        """Stop when the time to drain is over; uvicorn asks ten times a second."""
        now = time.monotonic()
        talking = self._relay.open > 0 and now < self._cut_at
        if self._gate.draining and now >= self._stop_at and not talking:
            return True
        return await super().on_tick(counter)


def configured(service: Service, settings: Settings) -> uvicorn.Config:
    """What uvicorn is told, all of it."""
    # Neither gate nor hot routes look at where a request comes from: proxies are asked behind them.
    app: Any = service.app  # of which Litestar and uvicorn have a type each
    typed: Any = ProxyHeadersMiddleware(app, settings.trusted_proxies)
    return uvicorn.Config(
        service.before(typed),
        host=settings.host,
        port=settings.port,
        loop="none",
        http=BoundedProtocol,
        ws=BoundedSocket,
        ws_max_size=MAX_SAID,
        ws_ping_interval=PING_SECONDS,
        ws_ping_timeout=PONG_SECONDS,
        ws_per_message_deflate=False,
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=STOP_SECONDS,
    )


async def run(service: Service, settings: Settings) -> None:
    """Serve until a signal comes."""
    gc.collect()
    gc.freeze()  # what was there at the start stays
    gc.set_threshold(*GARBAGE)
    await Server(service, settings).serve()


class Guest(Server):
    """A server within a program that has its own signals."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave them alone."""
        yield


@contextlib.asynccontextmanager
async def embedded(
    service: Service, settings: Settings, listener: socket.socket
) -> AsyncIterator[None]:
    """Serve within a program that goes on with something else, and stop with it."""
    guest = Guest(service, settings)
    task = asyncio.create_task(guest.serve([listener]))
    try:
        while not (guest.started or task.done()):  # noqa: ASYNC110 - uvicorn's flag is all
            await asyncio.sleep(0.01)
        yield
    finally:
        guest.should_exit = True
        await task
