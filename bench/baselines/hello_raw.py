"""The least that a Python service can cost here: ASGI, one decode, one encode."""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import msgspec

from bench.baselines import Greeting, Hello, greet

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_decode = msgspec.json.Decoder(Hello).decode
_encode = msgspec.json.Encoder().encode


async def app(scope: Message, receive: Receive, send: Send) -> None:
    """Answer every request alike."""
    if scope["type"] == "lifespan":
        await _live(receive, send)
        return
    try:
        status, body = 200, _encode(_answer(await _body(receive)))
    except msgspec.ValidationError:
        status, body = 400, b"{}"
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})


def _answer(body: bytes) -> Greeting:
    return greet(_decode(body))


async def _body(receive: Receive) -> bytes:
    parts = []
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return b""
        parts.append(message["body"])
        if not message["more_body"]:
            return b"".join(parts)


async def _live(receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await send({"type": "lifespan.shutdown.complete"})
