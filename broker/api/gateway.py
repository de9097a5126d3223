"""ANY /gateway/{integration}/{path}: an API, called with a credential that the caller never sees.

* What is called is read from the request line as it came: a framework's idea of the path has
  been decoded, and a decoded slash is a slash.
* The answer goes back while it comes in. Where it breaks off half-way the connection is closed, so
  that nobody takes a part for the whole.
"""

from collections.abc import AsyncIterator
from typing import Any, Final

import structlog
from litestar import Request, Router, route
from litestar.di import NamedDependency
from litestar.enums import HttpMethod, ScopeType
from litestar.params import FromPath
from litestar.types import ASGIApp, HTTPScope, Receive, Scope, Send

from broker.api.requests import RUNTIME_KEY, header_of, held_of
from broker.broker import Broker
from broker.conversation import Held
from broker.gateway.calls import Call
from vault.errors import NotFound, Unreachable, VaultError

PREFIX: Final = b"/gateway/"
METHODS: Final = [
    HttpMethod.GET,
    HttpMethod.HEAD,
    HttpMethod.POST,
    HttpMethod.PUT,
    HttpMethod.PATCH,
    HttpMethod.DELETE,
]

_log = structlog.get_logger("keyturn.gateway")


@route(
    ["/gateway/{integration:str}", "/gateway/{integration:str}/{path:path}"],
    http_method=METHODS,
    include_in_schema=False,  # what it takes and answers is the provider's
)
async def gateway(
    integration: FromPath[str], request: Request[Any, Any, Any], broker: NamedDependency[Broker]
) -> ASGIApp:
    held = await held_of(request, broker, header_of(request, RUNTIME_KEY))
    return _PassedOn(broker, held, integration)


class _PassedOn:
    """Answers with what the provider answers, in the task that asked."""

    def __init__(self, broker: Broker, held: Held, integration: str) -> None:
        self._broker = broker
        self._held = held
        self._integration = integration

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.HTTP:
            raise NotFound("There is no such address.")
        call = _call(scope, receive, self._integration)
        started = False
        try:
            async with self._broker.gateway.open(self._held, self._integration, call) as passed:
                pieces = passed.pieces()
                first = await anext(pieces, b"")  # so that what fails at once is said in a status
                await send(
                    {
                        "type": "http.response.start",
                        "status": passed.status,
                        "headers": [
                            (name.encode("latin-1"), value.encode("latin-1"))
                            for name, value in passed.headers
                        ],
                    }
                )
                started = True
                await send({"type": "http.response.body", "body": first, "more_body": True})
                async for piece in pieces:
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        except VaultError as error:
            if not started:
                raise
            # The server closes what an application leaves unfinished.
            _log.warning("gateway_answer_broke_off", code=error.code, detail=error.message)


def _call(scope: HTTPScope, receive: Receive, integration: str) -> Call:
    raw = bytes(scope.get("raw_path") or b"")
    named, slash, rest = raw.removeprefix(PREFIX).partition(b"/")
    if not raw.startswith(PREFIX) or named != integration.encode():
        raise NotFound("There is no such address.")
    headers = [(bytes(name), bytes(value)) for name, value in scope["headers"]]
    sizes = [value for name, value in headers if name == b"content-length"]
    return Call(
        method=str(scope["method"]),
        path=(slash or b"/") + rest,
        query=bytes(scope.get("query_string") or b""),
        headers=headers,
        body=_body(receive),
        size=int(sizes[0]) if len(sizes) == 1 and sizes[0].isdigit() else None,
    )


async def _body(receive: Receive) -> AsyncIterator[bytes]:
    more = True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            raise Unreachable("Whoever called went away.", sent=False)
        if piece := message["body"]:
            yield piece
        more = message["more_body"]


router = Router("/", route_handlers=[gateway])
