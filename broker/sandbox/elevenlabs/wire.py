"""ElevenLabs' HTTP: how a request is read, how an answer and an error look.

* An error is ``{"detail": {"type", "code", "status", "message", "request_id", "param"}}``; a body
  or a parameter that breaks the schema is 422 with ``{"detail": [{"loc", "msg", "type"}]}``; an
  address that nobody serves is 404 with ``{"detail": "Not Found"}``.
* Unknown fields are ignored, as they are there.
* Nothing is ever answered with a redirect: the Python SDK would carry its key along.
"""

import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Final, TypeVar
from urllib.parse import parse_qsl

import msgspec
from litestar.enums import ScopeType
from litestar.types import Receive, Scope
from msgspec import Struct

from broker.sandbox.elevenlabs.account import Account, World

MAX_BODY: Final = 16 << 20  # bytes
MAX_PAGE: Final = 100
DEFAULT_PAGE: Final = 30

T = TypeVar("T")

_AT = re.compile(r"^(?P<what>.*?)(?: - at `(?:\w+)? ?\$(?P<path>.*)`)?(?!\n)$", re.DOTALL)
_MISSING = re.compile(r"missing required field `(?P<name>[^`]+)`")
_STEP = re.compile(r"\.([^.\[\]]+)|\[(\d+|\.\.\.)\]")


class Refused(Exception):
    """A request that ElevenLabs would refuse."""

    def __init__(self, status: int, code: str, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.param = param

    def body(self, request_id: str) -> dict[str, Any]:
        return {
            "detail": {
                "type": _TYPES.get(self.status, "validation_error"),
                "code": self.code,
                "status": self.code,
                "message": self.message,
                "request_id": request_id,
                "param": self.param,
            }
        }


class Unprocessable(Refused):
    """A request that breaks the schema."""

    def __init__(self, loc: Iterable[str | int], message: str, kind: str = "value_error") -> None:
        super().__init__(422, "unprocessable", message)
        self.problem = {"loc": list(loc), "msg": message, "type": kind}

    def body(self, request_id: str) -> dict[str, Any]:
        del request_id  # FastAPI's own errors carry none
        return {"detail": [self.problem]}


_TYPES: Final = {
    401: "authentication_error",
    403: "authorization_error",
    404: "not_found",
    409: "conflict",
    429: "rate_limit_error",
}


def not_found(what: str, name: str) -> Refused:
    return Refused(404, f"{what}_not_found", f"No {what.replace('_', ' ')} has the id '{name}'.")


class Answer(Struct, frozen=True):
    """What goes back; ``content`` is JSON unless it is bytes."""

    content: Any = None
    status: int = 200
    content_type: str = "application/json"

    @property
    def body(self) -> bytes:
        if self.status == 204:  # noqa: PLR2004 - HTTP: no content
            return b""
        if isinstance(self.content, bytes):
            return self.content
        return msgspec.json.encode(self.content)


class Request:
    """One request, read to its end; ``account`` is the workspace that asks."""

    account: Account

    def __init__(self, world: World, scope: Scope, body: bytes, prefix: str, path: str) -> None:
        self.world = world
        self.method = scope["method"] if scope["type"] == ScopeType.HTTP else "GET"
        self.path = path
        self.prefix = prefix
        self.body = body
        self.query = query_of(scope)
        self.headers = headers_of(scope)
        self.secure: bool = scope.get("scheme") in ("https", "wss")
        self.params: dict[str, str] = {}

    def one(self, name: str) -> str | None:
        """Return a query parameter, the last of its name, if it says anything."""
        return dict(self.query).get(name) or None

    def needed(self, name: str) -> str:
        if (value := self.one(name)) is None:
            raise Unprocessable(["query", name], "Field required", "missing")
        return value

    def flag(self, name: str) -> bool:
        return (self.one(name) or "").lower() in ("true", "1")

    def whole(self, name: str, *, least: int, most: int) -> int | None:
        """Return a query parameter that is a whole number."""
        if (text := self.one(name)) is None:
            return None
        if not text.isascii() or not text.isdecimal() or not least <= int(text) <= most:
            problem = f"Input should be a whole number from {least} to {most}"
            raise Unprocessable(["query", name], problem, "int_parsing")
        return int(text)

    def read(self, kind: type[T]) -> T:
        """Read the JSON body."""
        try:
            return msgspec.json.decode(self.body, type=kind)
        except msgspec.ValidationError as error:
            raise unprocessable(str(error)) from None
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise Unprocessable(["body"], "JSON decode error", "json_invalid") from None

    def socket_base(self) -> str:
        """Where the other side reaches our WebSocket: as it reached us."""
        return f"{'wss' if self.secure else 'ws'}://{self.headers.get('host', '')}{self.prefix}"


Handler = Callable[[Request], Awaitable[Answer]]


class Route(Struct, frozen=True):
    method: str
    pattern: str
    handler: Handler


class Routes:
    """A table of routes; ``{name}`` in a pattern is one segment."""

    def __init__(self, *tables: Iterable[Route]) -> None:
        self.table = [one for table in tables for one in table]
        self._patterns = [
            (re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", one.pattern) + r"(?!\n)$"), one)
            for one in self.table
        ]

    def find(self, request: Request) -> Handler:
        """Find who answers, and write down what stands in the path."""
        known = False
        for pattern, one in self._patterns:
            if (found := pattern.match(request.path)) is None:
                continue
            known = True
            if one.method == request.method:
                request.params = found.groupdict()
                return one.handler
        status, text = (405, "Method Not Allowed") if known else (404, "Not Found")
        raise Plain(status, text)


class Plain(Refused):
    """An error of the framework itself."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(status, "not_found", text)

    def body(self, request_id: str) -> dict[str, Any]:
        del request_id
        return {"detail": self.message}


def page(
    request: Request, found: list[T], key: Callable[[T], str], *, default: int | None = DEFAULT_PAGE
) -> tuple[list[T], str | None]:
    """Cut one page; ``default=None`` gives everything when no size is asked for."""
    size = request.whole("page_size", least=1, most=MAX_PAGE) or default
    cursor = request.one("cursor")
    if cursor is not None:
        keys = [key(one) for one in found]
        if cursor not in keys:
            raise Refused(400, "invalid_cursor", "This cursor is of no list.", param="cursor")
        found = found[keys.index(cursor) + 1 :]
    if size is None or len(found) <= size:
        return found, None
    return found[:size], key(found[size - 1])


async def read_body(receive: Receive) -> bytes:
    """Read a body whole."""
    pieces: list[bytes] = []
    length = 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return b"".join(pieces)
        pieces.append(message["body"])
        length += len(message["body"])
        if length > MAX_BODY:
            raise Refused(413, "request_too_large", "The body is too large.")
        if not message["more_body"]:
            return b"".join(pieces)


def headers_of(scope: Scope) -> dict[str, str]:
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}


def query_of(scope: Scope) -> list[tuple[str, str]]:
    return parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)


def merged(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Lay a partial object over a whole one."""
    made = dict(old)
    for name, value in new.items():
        before = made.get(name)
        if isinstance(before, dict) and isinstance(value, dict):
            made[name] = merged(before, value)
        else:
            made[name] = value
    return made


def unprocessable(said: str, *where: str) -> Unprocessable:
    """Word a msgspec error as FastAPI does; ``where`` in the body it was found."""
    found = _AT.match(said)
    what, path = (found["what"], found["path"] or "") if found else (said, "")
    loc: list[str | int] = ["body", *where]
    for name, index in _STEP.findall(path):
        loc.append(int(index) if index.isdecimal() else name or index)
    if missing := _MISSING.search(what):
        return Unprocessable([*loc, missing["name"]], "Field required", "missing")
    return Unprocessable(loc, what)
