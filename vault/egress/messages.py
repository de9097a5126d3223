"""What goes out and what comes back; and a request's check, before anything moves. Pure.

* Whoever calls chooses no header that says how a message is framed or where it goes.
* A header's value is printable ASCII, so that it cannot end early and begin another.
* No message of an error holds a value.
"""

import re
import ssl
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property, lru_cache
from typing import Any, Final

from msgspec import Struct

from vault.egress.address import VettedUrl
from vault.errors import EgressDenied, TooLarge
from vault.secret import Secret

MAX_REPLY: Final = 1 << 20  # bytes
MAX_REQUEST: Final = 1 << 20  # bytes
MAX_HEADER: Final = 8_190  # bytes, each of an answer's
MAX_HEADERS: Final = 128

METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
# Of these alone it is understood that without a length there is no body.
WITHOUT_BODY: Final = frozenset({"GET", "HEAD", "OPTIONS"})
HEADER_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", re.ASCII)
HEADER_VALUE: Final = re.compile(rb"[\x21-\x7e]([\t\x20-\x7e]*[\x21-\x7e])?|")
_IN_HEADER_VALUE: Final = bytes([0x09, *range(0x20, 0x7F)])
# These say how a message is framed or where it goes; whoever chose them could smuggle a second one.
OURS: Final = frozenset(
    {
        "accept-encoding",
        "connection",
        "content-length",
        "expect",
        "host",
        "keep-alive",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
# What every request says, unless its caller says it otherwise.
UNLESS_GIVEN: Final = {
    "user-agent": b"User-Agent: Keyturn\r\n",
    "accept": b"Accept: */*\r\n",
    "accept-encoding": b"Accept-Encoding: identity\r\n",
}


class Timeouts(Struct, frozen=True, kw_only=True):
    """Seconds."""

    connect: float = 5.0  # a look-up; and then a connection with its TLS handshake
    wait: float = 10.0  # a free place among the connections, connecting included
    read: float = 30.0  # between two pieces of the answer
    total: float = 30.0  # everything


DEFAULT: Final = Timeouts()


class Request(Struct, frozen=True, kw_only=True):
    """What to send. Its repr shows the method only."""

    method: str
    url: str
    headers: tuple[tuple[str, str | Secret], ...] = ()
    body: bytes | Secret | None = None
    timeout: Timeouts = DEFAULT
    max_bytes: int = MAX_REPLY
    tls: ssl.SSLContext | None = None  # for a client certificate: from Egress.tls_context()
    peer: str = ""  # the provider as the catalogue calls it: for traces

    def __repr__(self) -> str:
        return f"Request({self.method})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("method", self.method)]


class Headers(Struct, frozen=True, dict=True):
    """An answer's headers, in order; they become text when somebody reads them. Mostly nobody does.

    What is no text is kept, and nothing fails for it.
    """

    raw: Sequence[tuple[bytes, bytes]]

    @cached_property
    def _pairs(self) -> tuple[tuple[str, str], ...]:
        return tuple([(name.decode("ascii"), as_text(value)) for name, value in self.raw])

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(self._pairs)

    def __repr__(self) -> str:
        return "Headers(***)"

    def __rich_repr__(self) -> list[Any]:
        return ["***"]


class Reply(Struct, frozen=True, kw_only=True):
    """What came back, whatever its status. Its repr shows the status only."""

    status: int
    headers: Iterable[tuple[str, str]]
    body: bytes

    def get(self, name: str) -> str | None:
        """Return the first header of this name; case does not matter."""
        return next(iter(self.get_all(name)), None)

    def get_all(self, name: str) -> tuple[str, ...]:
        """Return every header of this name, in order."""
        return tuple(value for key, value in self.headers if key.lower() == name.lower())

    def __repr__(self) -> str:
        return f"Reply({self.status})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("status", self.status)]


class Outgoing(Struct, frozen=True):
    """A request as it is written, and how much may come back."""

    method: str
    data: bytes
    max_bytes: int

    def __repr__(self) -> str:
        return f"Outgoing({self.method})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("method", self.method)]


def as_text(value: bytes) -> str:
    return value.decode("utf-8", "surrogateescape")


def written(request: Request, url: VettedUrl, *, often: bool = False) -> Outgoing:
    """Check a request, and write it down; ``often``: there will be more with this very head."""
    body = _allowed(request)
    write = _kept_head if often and not _may_be_secret(request, url) else _head
    head = write(request.method, url.head, request.headers)
    if body is None and request.method in WITHOUT_BODY:
        data = head + b"\r\n"
    else:
        body = body or b""
        data = b"%bContent-Length: %d\r\n\r\n%b" % (head, len(body), body)
    return Outgoing(request.method, data, request.max_bytes)


def _may_be_secret(request: Request, url: VettedUrl) -> bool:
    """May there be something in its head that nobody keeps?"""
    for _, value in request.headers:
        if isinstance(value, Secret):
            return True
    return url.has_query


def _head(method: str, start: bytes, headers: tuple[tuple[str, str | Secret], ...]) -> bytes:
    """All that comes before the length of the body."""
    parts = [method.encode(), b" ", start]
    given = set()
    for name, value in headers:
        lower, line = _header_name(name)
        given.add(lower)
        parts += (line, _header_value(name, value), b"\r\n")
    parts += [line for name, line in UNLESS_GIVEN.items() if name not in given]
    return b"".join(parts)


_kept_head: Final = lru_cache(256)(_head)


def checked(request: Request) -> tuple[list[tuple[str, bytes]], bytes | None]:
    """Return the headers and the body that the caller wants to send, if he may."""
    body = _allowed(request)
    headers = []
    for name, value in request.headers:
        _header_name(name)
        headers.append((name, _header_value(name, value)))
    return headers, body


def _allowed(request: Request) -> bytes | None:
    """The body, if everything but the headers is as it may be."""
    if request.method not in METHODS:
        raise EgressDenied(f"The method must be one of {', '.join(sorted(METHODS))}.")
    tls = request.tls
    if tls is not None and not (tls.verify_mode is ssl.CERT_REQUIRED and tls.check_hostname):
        raise EgressDenied("The TLS context must verify the other side.")
    body = request.body.reveal_bytes() if isinstance(request.body, Secret) else request.body
    if body is not None and len(body) > MAX_REQUEST:
        raise TooLarge(f"The request's body is larger than {MAX_REQUEST} bytes.")
    return body


@lru_cache(256)
def _header_name(name: str) -> tuple[str, bytes]:
    """A name that a caller may choose: in lower case, and as its line begins."""
    if HEADER_NAME.fullmatch(name) is None:
        raise EgressDenied("A header's name holds a character that none may hold.")
    lower = name.lower()
    if lower in OURS:
        raise EgressDenied(f"The header {name} cannot be chosen.")
    return lower, name.encode("ascii") + b": "


def is_header_value(data: bytes) -> bool:
    """Does ``HEADER_VALUE`` match all of it? Five times faster for a long token."""
    return not data.translate(None, _IN_HEADER_VALUE) and data == data.strip(b"\t ")


def _header_value(name: str, value: str | Secret) -> bytes:
    # As bytes, and without an encoding that can fail: such a failure's text holds the value.
    data = value.reveal_bytes() if isinstance(value, Secret) else _encoded(value)
    if not is_header_value(data):
        raise EgressDenied(f"The value of the header {name} holds what a header cannot carry.")
    return data


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
