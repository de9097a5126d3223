"""What handlers take from a request beside its body: who asks, which page, which key."""

import base64
import binascii
import hmac
import re
from collections.abc import Mapping
from typing import Annotated, Any, Final

from litestar.connection import ASGIConnection, Request
from litestar.di import NamedDependency
from litestar.handlers import BaseRouteHandler
from litestar.params import HeaderParameter, QueryParameter
from litestar.types import Guard

from broker.api.problems import OtherMedia
from broker.broker import Broker
from broker.conversation import Held
from vault import access, bearer
from vault.errors import Forbidden, Invalid, Unauthenticated
from vault.model import Caller, Once, Page
from vault.secret import Secret
from vault.vault import Vault

DEFAULT_LIMIT: Final = 50
MAX_LIMIT: Final = 100
MAX_CURSOR: Final = 400

Limit = Annotated[
    int,
    QueryParameter(ge=1, le=MAX_LIMIT, description="At most so many things in one answer."),
]
Cursor = Annotated[
    str | None,
    QueryParameter(
        pattern=rf"^[A-Za-z0-9_-]{{1,{MAX_CURSOR}}}$",
        description="The `next_cursor` of the answer before this one.",
    ),
]
IdempotencyKey = Annotated[
    str | None,
    HeaderParameter(
        name="Idempotency-Key",
        pattern=r"^[!-~]{1,255}$",
        description="The same request with the same key, within 24 hours, is done once.",
    ),
]
RUNTIME_KEY: Final = "X-Keyturn-Runtime"
RuntimeKey = Annotated[
    str | None,
    HeaderParameter(
        name=RUNTIME_KEY,
        description="A key of scope `runtime`; without it a handle buys nothing.",
    ),
]

JSON: Final = "application/json"
LINES: Final = "application/x-ndjson"
# By what a caller is told to send: what is read as that.
_MEDIA: Final = {
    JSON: re.compile(r"(?i)application/(\w+\+)?json\b"),
    LINES: re.compile(r"(?i)application/(x-ndjson|ndjson|jsonl|json-lines)\b"),
}
_SPACE = " \t"  # what HTTP calls white space; a no-break space is part of what was sent
_CURSOR = re.compile(r"[ -~]{1,255}")


class Door:
    """Authentication: which ``Caller`` a request's headers belong to."""

    def __init__(self, vault: Vault, broker: Broker, operator_keys: tuple[Secret, ...]) -> None:
        self._vault = vault
        self._broker = broker
        self._operator_keys = operator_keys

    async def caller(self, connection: ASGIConnection[Any, Any, Any, Any]) -> Caller:
        unverified = _unverified_bearer(connection)
        request_id = connection.scope["state"].get("request_id", "")
        if unverified.startswith(bearer.PREFIXES["operator"]):
            return self._operator(unverified, request_id)
        return await self._vault.authenticate(unverified, request_id=request_id)

    async def conversation(self, request: ASGIConnection[Any, Any, Any, Any]) -> Held | None:
        """The conversation that asks; ``None`` where no bearer of one is there."""
        if bearer.kind_of(_unverified_bearer(request)) not in ("grant", "handle"):
            return None
        return await held_of(request, self._broker, header_of(request, RUNTIME_KEY))

    def key_hash(self, headers: Mapping[bytes, bytes]) -> bytes | None:
        """The keyed hash of the one API key that is plainly there; who it is, nobody knows yet."""
        offered, key = headers.get(b"authorization"), headers.get(b"xi-api-key")
        if offered is not None:
            if key is not None or offered[:7].lower() != b"bearer ":
                return None
            key = offered[7:]
        if key is None:
            return None
        text = key.decode("latin-1").strip(_SPACE)
        return self._vault.fingerprint(text) if bearer.kind_of(text) == "api_key" else None

    def refuse_without_operator(self) -> None:
        if not self._operator_keys:
            raise Forbidden("This deployment has no operator key, so nobody is its operator.")

    def _operator(self, unverified: str, request_id: str) -> Caller:
        self.refuse_without_operator()
        offered = unverified.encode()
        # Every key is compared, whatever the first comparison says.
        matches = [hmac.compare_digest(offered, key.reveal_bytes()) for key in self._operator_keys]
        if not any(matches):
            raise Unauthenticated
        return Caller.operator(self._vault.operator_id(unverified), request_id=request_id)


def requires(action: access.Action) -> list[Guard]:
    """Let only those pass who may do this; runs before the body is read."""
    return _requires(action, JSON)


def requires_lines(action: access.Action) -> list[Guard]:
    """The same for a body of JSON objects, one a line."""
    return _requires(action, LINES)


def requires_or_held(action: access.Action) -> list[Guard]:
    """The same; and a conversation passes by its grant or handle."""
    return _requires(action, JSON, or_held=True)


def _requires(action: access.Action, media: str, *, or_held: bool = False) -> list[Guard]:
    async def guard(
        connection: ASGIConnection[Any, Any, Any, Any], _handler: BaseRouteHandler
    ) -> None:
        door: Door = connection.app.state.door
        rule = access.RULES[action]
        if rule.scope is None and rule.operator:
            door.refuse_without_operator()
        held = await door.conversation(connection) if or_held else None
        caller = held.caller if held else await door.caller(connection)
        access.permit(caller, action)
        connection.scope["state"].update(caller=caller, held=held)
        _refuse_keys_in_address(connection)
        _refuse_other_media(connection, media)

    guard.action = action  # type: ignore[attr-defined] # the tests read the route table
    return [guard]


async def caller_of(
    request: Request[Any, Any, Any],
    vault: NamedDependency[Vault],  # noqa: ARG001 - see below
) -> Caller:
    """Who asks, as the guard found out.

    It wants the vault for the order's sake: Litestar resolves what depends on nothing side by side,
    in a task group, which costs more than either value; one after the other they are just called.
    """
    caller: Caller = request.scope["state"]["caller"]
    return caller


async def held_of(
    request: ASGIConnection[Any, Any, Any, Any],
    broker: Broker,
    runtime_key: str | None,
) -> Held:
    """What the grant or handle of this request opens; it alone decides whose that is."""
    held = await broker.held(
        _unverified_bearer(request),
        runtime_key,
        request_id=request.scope["state"].get("request_id", ""),
    )
    request.scope["state"]["caller"] = held.caller
    return held


def held_by(request: Request[Any, Any, Any]) -> Held | None:
    """The conversation that asks, as the guard found out; ``None`` where a key does."""
    held: Held | None = request.scope["state"].get("held")
    return held


def header_of(request: ASGIConnection[Any, Any, Any, Any], name: str) -> str | None:
    """A header that is there once; twice is as good as none."""
    values = request.headers.getall(name, [])
    return values[0].strip(_SPACE) if len(values) == 1 else None


def page_of(limit: int, cursor: str | None) -> Page:
    """Read a cursor. It holds where to go on, and nothing that it could be trusted with."""
    if cursor is None:
        return Page(limit + 1)
    try:
        after = base64.urlsafe_b64decode(cursor.encode("ascii") + b"==").decode("ascii")
    except (ValueError, binascii.Error):
        after = ""
    if not _CURSOR.fullmatch(after):
        raise Invalid("This cursor is not one of ours.", pointer="/cursor")
    return Page(limit + 1, after)


def next_cursor(ids: list[str], limit: int) -> str | None:
    """The cursor after this page; ``None`` on the last. One more than ``limit`` was asked for."""
    if len(ids) <= limit:
        return None
    return base64.urlsafe_b64encode(ids[limit - 1].encode()).decode().rstrip("=")


async def once_of(
    request: Request[Any, Any, Any], vault: Vault, idempotency_key: str | None, also: str = ""
) -> Once | None:
    """Read an Idempotency-Key; it holds for this method, this path and this body.

    ``also``: what the request says beside them, where that counts.
    """
    if idempotency_key is None:
        return None
    place = f"{request.method} {request.scope['path']}"
    asked = f"{place}?{also}" if also else place
    return Once(
        key_hash=vault.fingerprint(f"{place}\n{idempotency_key}"),
        fingerprint=vault.fingerprint(asked.encode() + b"\n" + await request.body()),
    )


def _refuse_keys_in_address(connection: ASGIConnection[Any, Any, Any, Any]) -> None:
    """An address is logged on its way, and an id is looked up: a key belongs in neither."""
    parts = [*connection.path_params.values(), *connection.query_params.values()]
    if any(bearer.kind_of(str(part)) for part in parts):
        raise Invalid("A key does not belong in an address.")


def _refuse_other_media(connection: ASGIConnection[Any, Any, Any, Any], media: str) -> None:
    """A body that is not called JSON is not read as JSON."""
    headers = connection.headers
    media_type = headers.get("content-type")
    sent = headers.get("content-length", "0") != "0" or "transfer-encoding" in headers
    if sent and media_type and not _MEDIA[media].match(media_type):
        raise OtherMedia(media)


def _unverified_bearer(connection: ASGIConnection[Any, Any, Any, Any]) -> str:
    offered = []
    for value in connection.headers.getall("authorization", []):
        scheme, _, rest = value.partition(" ")
        if scheme.lower() != "bearer":
            raise Unauthenticated
        offered.append(rest.strip(_SPACE))
    offered += [value.strip(_SPACE) for value in connection.headers.getall("xi-api-key", [])]
    # Two different keys in one request: which of them is meant is not for us to guess.
    if len(set(offered)) != 1:
        raise Unauthenticated
    return offered[0]
