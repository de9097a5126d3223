"""The gate: what every request passes on its way in and out.

* Gives each request an id, or keeps the one that came with it if it has a harmless form.
* Writes one access line: method, route template, status, time. No path, no query, no address.
* Counts and times it under the route's template, so that ids never become labels.
* Adds the headers that every answer has, and ``Connection: close`` while the replica drains.
"""

import logging
import re
import time
from collections.abc import Awaitable, Iterable
from typing import Any, Final

import structlog
from litestar.enums import ScopeType
from litestar.types import ASGIApp, Message, Receive, ReceiveMessage, Scope, Send

from broker.logs import clean
from broker.metrics import Metrics
from vault.model import chance_id

HEADERS: Final = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
)
NO_STORE: Final = (b"cache-control", b"no-store")

_HTTP: Final = ScopeType.HTTP
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{8,64}")

_log = structlog.get_logger("keyturn.access")
_lines = logging.getLogger("keyturn.access")  # which says whether anybody wants its lines


class Gate:
    """Stands before the application, and so sees also what matches no route."""

    def __init__(self, metrics: Metrics) -> None:
        self.draining = False
        self._passing = 0
        self._count = metrics.requests.ended
        metrics.in_flight.set_function(lambda: self._passing)

    def before(self, app: ASGIApp) -> ASGIApp:
        """Return the application with the gate in front of it."""

        async def gated(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != _HTTP:
                await app(scope, receive, send)
                return
            started, status = time.perf_counter(), 500
            request_id = _request_id(scope)
            scope.setdefault("state", {})["request_id"] = request_id

            async def noticing_who_leaves() -> ReceiveMessage:
                message = await receive()
                if message["type"] == "http.disconnect":
                    scope["state"]["hung_up"] = True
                return message

            def send_with_headers(message: Message) -> Awaitable[None]:
                nonlocal status
                if message["type"] == "http.response.start":
                    status = message["status"]
                    message["headers"] = self._with_ours(message["headers"], request_id)
                return send(message)

            self._passing += 1
            try:
                await app(scope, noticing_who_leaves, send_with_headers)
            finally:
                self._passing -= 1
                self._record(scope, status, time.perf_counter() - started, request_id)

        return gated

    def _with_ours(
        self, given: Iterable[tuple[bytes, bytes]], request_id: str
    ) -> list[tuple[bytes, bytes]]:
        headers = [*given, *HEADERS, (b"x-request-id", request_id.encode())]
        # Whatever does not say that it may be kept may not: no list of paths to keep right.
        if NO_STORE not in headers and NO_STORE[0] not in [name.lower() for name, _ in headers]:
            headers.append(NO_STORE)
        if self.draining:
            headers.append((b"connection", b"close"))
        return headers

    def _record(self, scope: Scope, status: int, seconds: float, request_id: str) -> None:
        route, method = route_of(scope), method_of(scope)
        self._count(route, method, status, seconds)
        if not _lines.isEnabledFor(logging.INFO):
            return
        caller: Any = scope["state"].get("caller")
        _log.info(
            "request",
            method=method,
            route=route,
            status=status,
            ms=round(seconds * 1000, 2),
            request_id=request_id,
            workspace=caller.workspace if caller else None,
            actor=caller.actor_id if caller else None,
        )


def _request_id(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _REQUEST_ID.fullmatch(value):
            given = value.decode()
            # It is logged, stored and sent back: what looks like a key is not taken.
            if clean(given) == given:
                return given
    return chance_id("req")


def route_of(scope: Scope) -> str:
    """The route's template; what matches no route is one thing, or labels would never end."""
    return str(scope.get("path_template") or "unknown")


def method_of(scope: Scope) -> str:
    """The method, if it is one of the usual ones."""
    method = str(scope.get("method", ""))
    return method if method in _METHODS else "other"


_METHODS: Final = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
