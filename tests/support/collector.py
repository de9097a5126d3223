"""An OpenTelemetry collector: it takes OTLP over HTTP, keeps each body as it came, and reads it."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from typing import Any, Final

from msgspec import Struct

INSTALLED: Final = find_spec("opentelemetry") is not None and bool(find_spec("opentelemetry.sdk"))


class Span(Struct, frozen=True):
    """One span, as far as tests look at it."""

    name: str
    kind: int
    trace: bytes
    id: bytes
    parent: bytes
    attributes: dict[str, Any]
    links: list[bytes]
    events: int
    status: str
    text: str


class Collector:
    """Where it is, and what has come."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.bodies: list[bytes] = []

    @property
    def environ(self) -> dict[str, str]:
        """What a process is told, so that its spans come here; nothing, without the extra."""
        if not INSTALLED:
            return {}
        return {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{self.port}",
            "OTEL_BSP_SCHEDULE_DELAY": "200",
            "OTEL_BSP_MAX_QUEUE_SIZE": "200000",
        }

    @property
    def spans(self) -> list[Span]:
        return [
            _read(span)
            for resource in self._resources()
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    @property
    def resources(self) -> list[dict[str, Any]]:
        return [_attributes(one.resource.attributes) for one in self._resources()]

    def _resources(self) -> Iterator[Any]:
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
            ExportTraceServiceRequest,
        )

        for body in list(self.bodies):
            yield from ExportTraceServiceRequest.FromString(body).resource_spans


def _read(span: Any) -> Span:
    return Span(
        name=span.name,
        kind=span.kind,
        trace=span.trace_id,
        id=span.span_id,
        parent=span.parent_span_id,
        attributes=_attributes(span.attributes),
        links=[one.trace_id for one in span.links],
        events=len(span.events),
        status={0: "unset", 1: "ok", 2: "error"}[span.status.code],
        text=span.status.message,
    )


def _attributes(every: Any) -> dict[str, Any]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in every}


@contextmanager
def collecting() -> Iterator[Collector]:
    """Collect in a thread of its own, whatever the test does meanwhile."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            collector.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    collector = Collector(server.server_address[1])
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield collector
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
