"""The hot route without its framework: a mint whose request is as it should be.

* Only what is plainly right is answered here: a POST to ``/v1/conversations`` with one JSON body of
  a stated length, and no query. Everything else, every refusal and every error goes to the typed
  route, with the body that was read, so that there is one place that says no.
* What is answered is the typed route's own struct, encoded by the same encoder;
  ``tests/broker/test_raw.py`` holds the two against each other.
* Nothing has happened when it is passed on: a mint that fails has made nothing.
"""

import re
from typing import Any, Final

import msgspec
from litestar.connection import ASGIConnection
from litestar.enums import ScopeType
from litestar.types import ASGIApp, HTTPScope, Receive, Scope, Send

from broker.api.conversation_messages import ConversationIn, ConversationMade
from broker.api.requests import Door
from broker.broker import Broker
from broker.conversation import Minted, Wanted
from vault.errors import VaultError
from vault.model import Caller, Once
from vault.vault import Vault

HTTP: Final = ScopeType.HTTP
PATH: Final = "/v1/conversations"
MAX_BODY: Final = 64 * 1024
IDEMPOTENCY_KEY: Final = b"idempotency-key"

_KEY: Final = re.compile(rb"[!-~]{1,255}")
JSON: Final = re.compile(rb"(?i)application/json(;|$)")
_HEADERS: Final = ((b"content-type", b"application/json"), (b"cache-control", b"no-store"))

# What a server says of a request; Litestar's own types are of what an application says.
Received = dict[str, Any]
Headers = dict[bytes, bytes]

_decode: Final = msgspec.json.Decoder(ConversationIn).decode
_encode: Final = msgspec.json.Encoder().encode


class RawMint:
    """Stands between the gate and the application."""

    def __init__(self, vault: Vault, broker: Broker, door: Door) -> None:
        self._vault = vault
        self._broker = broker
        self._door = door

    def before(self, app: ASGIApp) -> ASGIApp:
        """Return the application with the hot route in front of it."""

        async def raw(scope: Scope, receive: Receive, send: Send) -> None:
            headers = _asked(scope) if scope["type"] == HTTP else None
            if headers is None:
                await app(scope, receive, send)
                return
            messages = await received(receive)
            answer = await self._answer(scope, headers, messages)
            if answer is None:
                await app(scope, replayed(messages, receive), send)
                return
            await answered(send, 201, answer)

        return raw

    async def _answer(
        self, scope: Scope, headers: Headers, messages: list[Received]
    ) -> bytes | None:
        """The whole body of a 201; ``None`` where the typed route has to see to it."""
        body = whole(messages)
        if body is None:
            return None
        try:
            wanted = _decode(body).wanted()
            once = self._once(headers, body) if IDEMPOTENCY_KEY in headers else None
            done = None if once else await self._quickly(scope, headers, wanted)
            if done is None:
                caller = await self._door.caller(ASGIConnection[Any, Any, Any, Any](scope))
                done = caller, _written(await self._broker.minting.mint(caller, wanted, once))
        except (VaultError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return None
        scope["path_template"] = PATH
        scope["state"]["caller"] = done[0]
        return done[1]

    async def _quickly(
        self, scope: Scope, headers: Headers, wanted: Wanted
    ) -> tuple[Caller, bytes] | None:
        """What the short way makes of it; ``None`` where it is not for it."""
        key_hash = self._door.key_hash(headers)
        if key_hash is None:
            return None
        request_id = scope["state"]["request_id"]
        return await self._broker.quick.answer(key_hash, request_id, wanted, _written)

    def _once(self, headers: Headers, body: bytes) -> Once:
        key, place = headers[IDEMPOTENCY_KEY].decode(), f"POST {PATH}"
        return Once(
            key_hash=self._vault.fingerprint(f"{place}\n{key}"),
            fingerprint=self._vault.fingerprint(place.encode() + b"\n" + body),
        )


def _written(made: Minted) -> bytes:
    return _encode(ConversationMade.of(made))


def _asked(scope: HTTPScope) -> Headers | None:
    """The headers, if this is plainly a mint."""
    if scope["path"] != PATH or scope["method"] != "POST" or scope["query_string"]:
        return None
    headers = plain(scope)
    if headers is None or not 0 < length_of(headers) <= MAX_BODY:
        return None
    key = headers.get(IDEMPOTENCY_KEY)
    return headers if key is None or _KEY.fullmatch(key) else None


def plain(scope: HTTPScope) -> Headers | None:
    """The headers by their names; ``None`` where one is there twice, or a body comes in pieces."""
    every = list(scope["headers"])
    headers = dict(every)
    if len(headers) != len(every) or b"transfer-encoding" in headers:
        return None
    return headers


def length_of(headers: Headers) -> int:
    """How long the body is; -1 where that is not plain, or it is not called JSON."""
    length = headers.get(b"content-length", b"0")
    if length == b"0":
        return 0
    said = headers.get(b"content-type", b"")
    is_json = said == b"application/json" or JSON.match(said)
    return int(length) if is_json and length.isdigit() else -1


async def answered(send: Send, status: int, answer: bytes) -> None:
    """Send a whole answer as the typed routes do."""
    start: Any = {
        "type": "http.response.start",
        "status": status,
        "headers": [*_HEADERS, (b"content-length", b"%d" % len(answer))],
    }
    body: Any = {"type": "http.response.body", "body": answer, "more_body": False}
    await send(start)
    await send(body)


async def received(receive: Receive) -> list[Received]:
    """Everything of the request, as it came."""
    messages: list[Received] = []
    while True:
        message: Any = await receive()
        messages.append(message)
        if message["type"] != "http.request" or not message.get("more_body", False):
            return messages


def whole(messages: list[Received]) -> bytes | None:
    """The body; ``None`` where the client went away."""
    if messages[-1]["type"] != "http.request":
        return None
    if len(messages) == 1:
        body: bytes = messages[0].get("body", b"")
        return body
    return b"".join([one.get("body", b"") for one in messages])


def replayed(messages: list[Received], receive: Receive) -> Receive:
    """Say it all once more to whoever asks."""
    left = list(messages)

    async def again() -> Any:  # noqa: ANN401 - as a server says it
        return left.pop(0) if left else await receive()

    return again
