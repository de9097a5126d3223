"""The other hot route without its framework: a token that is good as it is, plainly asked for.

* As ``broker.api.raw``: only what is plainly right is answered here, with the typed route's own
  struct and the same encoder; everything else goes to the typed route with the body that was read.
* ``tests/broker/test_raw_token.py`` holds the two against each other.
"""

import re
from typing import Final

import msgspec
from litestar.enums import ScopeType
from litestar.types import ASGIApp, HTTPScope, Receive, Scope, Send

from broker.api.raw import JSON, Received, answered, received, replayed, whole
from broker.api.requests import Door
from broker.api.token_messages import TokenIn, TokenOut
from broker.broker import Broker
from vault.errors import VaultError

TEMPLATE: Final = "/v1/connections/{connection_id}/token"
MAX_BODY: Final = 1024

# An id as we make them: what else there may be in an address is for the typed route to refuse.
_PATH: Final = re.compile(r"/v1/connections/(conn_[0-9a-z]{26})/token")
_USUAL: Final = TokenIn()

_decode: Final = msgspec.json.Decoder(TokenIn | None).decode
_encode: Final = msgspec.json.Encoder().encode


class RawToken:
    """Stands between the gate and the application."""

    def __init__(self, broker: Broker, door: Door) -> None:
        self._broker = broker
        self._door = door

    def before(self, app: ASGIApp) -> ASGIApp:
        """Return the application with the hot route in front of it."""

        async def raw(scope: Scope, receive: Receive, send: Send) -> None:
            connection_id = _asked_for(scope) if scope["type"] == ScopeType.HTTP else None
            length = None if connection_id is None else _plain_length(scope)
            if connection_id is None or length is None:
                await app(scope, receive, send)
                return
            messages = await received(receive) if length else []
            answer = await self._answer(scope, connection_id, messages)
            if answer is None:
                again = replayed(messages, receive) if messages else receive
                await app(scope, again, send)
                return
            await answered(send, 200, answer)

        return raw

    async def _answer(
        self, scope: Scope, connection_id: str, messages: list[Received]
    ) -> bytes | None:
        """The whole body of a 200; ``None`` where the typed route has to see to it."""
        wanted = _wanted(messages)
        key_hash = self._door.key_hash(scope["headers"])
        if wanted is None or wanted.rejected or key_hash is None:
            return None
        request_id = scope["state"]["request_id"]
        try:
            done = await self._broker.reads.read(
                key_hash, request_id, connection_id, wanted.min_ttl
            )
        except VaultError:
            return None
        if done is None:
            return None
        scope["path_template"] = TEMPLATE
        scope["state"]["caller"] = done[0]
        return _encode(TokenOut.of(done[1]))


def _asked_for(scope: HTTPScope) -> str | None:
    if scope["method"] != "POST" or scope["query_string"]:
        return None
    found = _PATH.fullmatch(scope["path"])
    return found[1] if found else None


def _plain_length(scope: Scope) -> int | None:
    """How long the body is, if it is JSON, or none at all."""
    length, media = b"0", b""
    for name, value in scope["headers"]:
        if name == b"content-length":
            length = value
        elif name == b"content-type":
            media = value
        elif name == b"transfer-encoding":
            return None
    if not length.isdigit():
        return None
    size = int(length)
    return size if size == 0 or (size <= MAX_BODY and JSON.match(media)) else None


def _wanted(messages: list[Received]) -> TokenIn | None:
    """What is asked for; ``None`` where that is not plain, or the client went away."""
    if not messages:
        return _USUAL
    body = whole(messages)
    if not body:
        return None
    try:
        return _decode(body) or _USUAL
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
