"""One call under way: what was vetted for it, and how it went. Beside aiohttp, and never after it.

* aiohttp asks its resolver and makes its sockets inside the calling task, or one that inherits the
  task's context. That is how the vetted addresses reach them without passing through a shared
  cache: ``under_way`` holds the journey, and both look nowhere else.
* ``explained`` says what happened without repeating a word of what aiohttp's error says.
"""

import errno
import socket
import ssl
import zlib
from contextvars import ContextVar
from ipaddress import ip_address
from types import SimpleNamespace, TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from msgspec import Struct

from vault.egress.address import Address, VettedUrl
from vault.egress.deadline import Deadline
from vault.egress.names import family_of
from vault.errors import Unreachable, UpstreamFailed, VaultError

if TYPE_CHECKING:
    from aiohttp.connector import Connection
    from aiohttp.tracing import Trace

MAX_HEADER: Final = 8_190  # bytes, each
MAX_HEADERS: Final = 128


class Timeouts(Struct, frozen=True, kw_only=True):
    """Seconds."""

    connect: float = 5.0  # a look-up; and then a connection with its TLS handshake
    wait: float = 10.0  # a free place among the connections, connecting included
    read: float = 30.0  # between two pieces of the answer
    total: float = 30.0  # everything


class Journey:
    """One call under way: where it may connect, and whether it may have been heard.

    Within it the call has its time, and ``deadlines`` those of all that are under way.
    """

    __slots__ = ("_deadlines", "_token", "addresses", "deadline", "sent")

    def __init__(self, limits: Timeouts, deadlines: set[Deadline]) -> None:
        self.addresses: tuple[Address, ...] = ()
        self.deadline = Deadline(total=limits.total, read=limits.read)
        self.sent = False
        self._deadlines = deadlines

    async def __aenter__(self) -> Self:
        self._token = under_way.set(self)
        self._deadlines.add(self.deadline)
        await self.deadline.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            await self.deadline.__aexit__(kind, error, trace)
        finally:
            self._deadlines.discard(self.deadline)
            under_way.reset(self._token)


under_way: ContextVar[Journey | None] = ContextVar("egress_journey", default=None)


class _Connector(aiohttp.TCPConnector):
    """Makes connections only to where the journey under way may go, and tells it of them.

    (aiohttp's traces would tell, too, and cost a call more than they say.)
    """

    async def connect(
        self,
        req: aiohttp.ClientRequest,
        traces: "list[Trace]",
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109 - aiohttp calls it with one
    ) -> "Connection":
        connection = await super().connect(req, traces, timeout)
        # From here on bytes may be on their way: a connection is there, new or kept.
        if (journey := under_way.get()) is not None:
            journey.sent = True
            journey.deadline.heard()
        return connection


class JourneyResolver(AbstractResolver):
    """Answers with what was vetted for this call; looks nothing up."""

    async def resolve(
        self,
        host: str,
        port: int = 0,
        family: socket.AddressFamily = socket.AF_UNSPEC,  # noqa: ARG002 - we ask for no family
    ) -> list[ResolveResult]:
        journey = under_way.get()
        addresses = journey.addresses if journey else ()
        return [
            ResolveResult(
                hostname=host,
                host=str(address),
                port=port,
                family=family_of(address),
                proto=socket.IPPROTO_TCP,
                flags=socket.AI_NUMERICHOST,
            )
            for address in addresses
        ]

    async def close(self) -> None:
        """Nothing is held."""


def open_socket(info: aiohttp.AddrInfoType) -> socket.socket:
    """Make the socket for a connection, if its address was vetted for the call under way."""
    family, kind, protocol, _, target = info
    journey = under_way.get()
    if journey is None or ip_address(str(target[0])) not in journey.addresses:
        raise PermissionError(errno.EACCES, "not vetted for this call")
    return socket.socket(family, kind, protocol)


async def _only_once(_session: object, _context: SimpleNamespace, _params: object) -> None:
    """Let no GET be repeated after a lost connection, as aiohttp does: a URL may work just once."""
    if (journey := under_way.get()) is not None and journey.sent:
        raise Unreachable("The connection was lost before the answer.", sent=True)


async def _refuse_redirect(_session: object, _context: SimpleNamespace, _params: object) -> None:
    """Ordinary calls never come here; a handshake does, and cannot be told to follow none."""
    raise UpstreamFailed("The handshake was answered with a redirect, which is not followed.")


def guarded_session(
    tls: ssl.SSLContext,
    *,
    repeats: bool,
    **connector: Any,  # noqa: ANN401 - the connector's own options
) -> aiohttp.ClientSession:
    """Make a session that goes only where the journey under way may go, and keeps nothing.

    ``repeats``: it is for ordinary calls, which follow no redirect by themselves; else for
    handshakes, of which each is made once.
    """
    return aiohttp.ClientSession(
        connector=_Connector(
            ssl=tls,
            resolver=JourneyResolver(),
            use_dns_cache=False,  # it would hand out addresses vetted for another call
            socket_factory=open_socket,
            **connector,
        ),
        timeout=aiohttp.ClientTimeout(total=None),  # the deadline keeps it, from the look-up on
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,
        auto_decompress=False,
        max_line_size=MAX_HEADER,
        max_field_size=MAX_HEADER,
        max_headers=MAX_HEADERS,
        skip_auto_headers=["Content-Type"],
        headers={"User-Agent": "Keyturn", "Accept-Encoding": "identity"},
        trace_configs=[] if repeats else [_handshakes()],
    )


def _handshakes() -> aiohttp.TraceConfig:
    trace = aiohttp.TraceConfig()
    trace.on_connection_create_start.append(_only_once)
    trace.on_request_redirect.append(_refuse_redirect)
    return trace


def explained(error: Exception, url: VettedUrl, *, sent: bool) -> VaultError:
    """Say what happened without repeating a word of what the error says."""
    if isinstance(error, aiohttp.ClientSSLError | ssl.SSLError):
        return Unreachable(f"{url.place}: no trusted TLS connection.", sent=sent)
    if isinstance(error, TimeoutError):
        return Unreachable(f"{url.place}: no answer in time.", sent=sent)
    if isinstance(error, aiohttp.ClientResponseError | zlib.error):
        return UpstreamFailed(f"{url.place}: the answer is not HTTP that can be read.")
    if isinstance(error, aiohttp.ClientPayloadError):
        return Unreachable(f"{url.place}: the answer broke off.", sent=True)
    if not sent:
        return Unreachable(f"{url.place}: no connection.", sent=False)
    return Unreachable(f"{url.place}: the connection was lost before the answer.", sent=True)
