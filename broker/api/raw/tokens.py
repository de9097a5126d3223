"""The other hot route without its framework: a token that is good as it is, plainly asked for.

* As ``broker.api.raw``: only what is plainly right is answered here, with the typed route's own
  struct and the same encoder; everything else goes to the typed route with the body that was read.
* ``tests/broker/test_raw_token.py`` holds the two against each other.
"""

import re
from typing import Final, NamedTuple

import msgspec
from litestar.types import ASGIApp, HTTPScope, Receive, Scope, Send

from broker.api.raw import (
    HTTP,
    Headers,
    Received,
    answered,
    length_of,
    plain,
    received,
    replayed,
    whole,
)
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


class _Asked(NamedTuple):
    connection_id: str
    headers: Headers
    length: int


class RawToken:
    """Stands between the gate and the application."""

    def __init__(self, broker: Broker, door: Door) -> None:
        self._broker = broker
        self._door = door

    def before(self, app: ASGIApp) -> ASGIApp:
        """Return the application with the hot route in front of it."""

        async def raw(scope: Scope, receive: Receive, send: Send) -> None:
            asked = _asked(scope) if scope["type"] == HTTP else None
            if asked is None:
                await app(scope, receive, send)
                return
            messages = await received(receive) if asked.length else []
            answer = await self._answer(scope, asked, messages)
            if answer is None:
                again = replayed(messages, receive) if messages else receive
                await app(scope, again, send)
                return
            await answered(send, 200, answer)

        return raw

    async def _answer(self, scope: Scope, asked: _Asked, messages: list[Received]) -> bytes | None:
        """The whole body of a 200; ``None`` where the typed route has to see to it."""
        wanted = _wanted(messages)
        key_hash = self._door.key_hash(asked.headers)
        if wanted is None or wanted.rejected or key_hash is None:
            return None
        request_id = scope["state"]["request_id"]
        try:
            done = await self._broker.reads.read(
                key_hash, request_id, asked.connection_id, wanted.min_ttl
            )
        except VaultError:
            return None
        if done is None:
            return None
        scope["path_template"] = TEMPLATE
        scope["state"]["caller"] = done[0]
        return _encode(TokenOut.of_handed_out(done[1]))


def _asked(scope: HTTPScope) -> _Asked | None:
    """What is asked for, if it is plainly a token."""
    found = _PATH.fullmatch(scope["path"])
    if found is None or scope["method"] != "POST" or scope["query_string"]:
        return None
    headers = plain(scope)
    if headers is None:
        return None
    length = length_of(headers)
    return _Asked(found[1], headers, length) if 0 <= length <= MAX_BODY else None


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
