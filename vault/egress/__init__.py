"""Guarded outbound HTTP: the only module that imports aiohttp's client.

* Where a call may go is decided by ``address``; its bullets are promised here too.
* A name is looked up once a call (and remembered for a few seconds). If **any** of its addresses
  may not be called, none is. A socket opens only towards an address that was vetted for the very
  call that opens it; a literal address, for which aiohttp asks no resolver, meets the same check.
* The database, the root-key services and our own listening address (``forbidden``) are out of
  reach, whatever ``EGRESS_ALLOW`` says; they are compared as addresses, at the time of the call.
* Each purpose has its own connections and look-ups: what a rule opened for ``tool`` never carries
  a ``provider``'s call, and a tool's slow name server does not hold up a refresh.
* No redirect is followed, no cookie kept, no proxy variable or ``.netrc`` read.
* An answer is bounded: its headers, its body (counted unpacked, while it arrives), and the time
  that all of it may take, from the look-up to the last byte.
* A POST or PATCH is sent at most once. (aiohttp repeats GET, HEAD, OPTIONS, PUT and DELETE, once,
  when a kept connection turns out to be closed; RFC 9110 section 9.2.2.)
* Failures are ``EgressDenied``, ``Unreachable``, ``TooLarge`` and ``UpstreamFailed``; none holds,
  as text or as cause, a path, a query, a header's value or a body. ``Unreachable.sent`` is
  ``False`` only when no byte of the request was written.
"""

import asyncio
import errno
import re
import socket
import ssl
import zlib
from collections.abc import Collection, Sequence
from contextvars import ContextVar
from ipaddress import ip_address
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from msgspec import Struct
from multidict import CIMultiDict

from vault.egress.address import (
    Address,
    AllowRule,
    Purpose,
    VettedUrl,
    parse_allow,
    permits,
    vet,
)
from vault.egress.deadline import Deadline
from vault.egress.names import Endpoint, Names, OwnServices, Resolver, family_of
from vault.errors import (
    EgressDenied,
    Misconfigured,
    TooLarge,
    Unreachable,
    UpstreamFailed,
    VaultError,
)
from vault.secret import Secret

__all__ = [
    "AllowRule",
    "Egress",
    "Endpoint",
    "Purpose",
    "Reply",
    "Request",
    "Resolver",
    "Timeouts",
    "VettedUrl",
    "parse_allow",
]

MAX_REPLY: Final = 1 << 20  # bytes
MAX_REQUEST: Final = 1 << 20  # bytes
MAX_HEADER: Final = 8_190  # bytes, each
MAX_HEADERS: Final = 128
# Shorter than the 5 s after which Node closes an idle connection: a POST written into a connection
# that the other side is just closing is one of which we cannot say whether it was acted upon.
KEEP_ALIVE: Final = 4.0

METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
HEADER_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", re.ASCII)
HEADER_VALUE: Final = re.compile(rb"[\x21-\x7e]([\t\x20-\x7e]*[\x21-\x7e])?|")
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

    def __repr__(self) -> str:
        return f"Request({self.method})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("method", self.method)]


class Reply(Struct, frozen=True, kw_only=True):
    """What came back, whatever its status. Its repr shows the status only."""

    status: int
    headers: tuple[tuple[str, str], ...]
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


class _Journey:
    """One call under way: where it may connect, and whether it may have been heard."""

    __slots__ = ("addresses", "deadline", "sent")

    def __init__(self, deadline: Deadline) -> None:
        self.addresses: tuple[Address, ...] = ()
        self.deadline = deadline
        self.sent = False


# aiohttp creates sockets and asks its resolver inside the calling task (or one that inherits its
# context), which is how the vetted addresses reach them without passing through a shared cache.
_journey: ContextVar[_Journey | None] = ContextVar("egress_journey", default=None)


class Egress:
    """Outbound calls. Make one a process; the connections open with the first call."""

    def __init__(
        self,
        *,
        allow: Sequence[AllowRule],
        forbidden: Collection[Endpoint] = (),
        ca_file: Path | None = None,
        resolver: Resolver | None = None,
        max_connections: int = 256,
        max_per_host: int = 192,
    ) -> None:
        self._allow = tuple(allow)
        self._resolver = resolver
        self._ca_file = ca_file
        self._tls = self.tls_context()
        self._limits = (max_connections, max_per_host)
        self._own = OwnServices(forbidden, Names(resolver))
        self._lanes: dict[Purpose, _Lane] = {}
        self._deadlines: set[Deadline] = set()
        self._closed = False

    def vet_url(self, purpose: Purpose, url: str) -> VettedUrl:
        """Refuse a URL that could never be called; for when one is stored. Looks nothing up."""
        return vet(self._allow, purpose, url)

    def tls_context(self) -> ssl.SSLContext:
        """Make a context that trusts what we trust, to load a client certificate into."""
        context = ssl.create_default_context()
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        if self._ca_file is not None:
            try:
                context.load_verify_locations(self._ca_file)
            except OSError:  # ssl.SSLError is one
                raise Misconfigured(
                    "KEYTURN_EGRESS_CA_FILE is not a readable PEM file of certificates."
                ) from None
        return context

    async def call(self, purpose: Purpose, request: Request) -> Reply:
        """Send one request, and return the answer whatever its status is."""
        url = self.vet_url(purpose, request.url)
        headers, body = _outgoing(request)
        deadline = Deadline(total=request.timeout.total, read=request.timeout.read)
        journey = _Journey(deadline)
        failure: VaultError
        token = _journey.set(journey)
        self._deadlines.add(deadline)
        try:
            async with deadline:
                lane = self._lane(purpose)
                async with asyncio.timeout(request.timeout.connect):
                    journey.addresses = await self._vetted(lane, purpose, url)
                return await lane.exchange(request, url, headers, body, deadline)
        except VaultError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, its text may hold the request
            failure = _explained(error, url, sent=journey.sent)
        finally:
            self._deadlines.discard(deadline)
            _journey.reset(token)
        # Raised out here so that not even its context leads to aiohttp's error, which keeps the
        # request's headers.
        raise failure

    async def aclose(self) -> None:
        """Close every connection. Calls that are under way fail as ``Unreachable``."""
        self._closed = True
        # aiohttp would leave some of them waiting for a connection that never comes. Those who are
        # under way meet their deadline now.
        for deadline in self._deadlines:
            deadline.end()
        await asyncio.sleep(0)
        for lane in self._lanes.values():
            await lane.aclose()
        self._own.close()

    def _lane(self, purpose: Purpose) -> "_Lane":
        if self._closed:
            raise Unreachable("The service is shutting down.", sent=False)
        if purpose not in self._lanes:
            self._lanes[purpose] = _Lane(self._tls, Names(self._resolver), *self._limits)
        return self._lanes[purpose]

    async def _vetted(self, lane: "_Lane", purpose: Purpose, url: VettedUrl) -> tuple[Address, ...]:
        literal = url.address
        addresses = (literal,) if literal else await lane.names.addresses(url.host)
        if not addresses:
            raise Unreachable(f"{url.place}: this host name has no address.", sent=False)
        if not all(permits(self._allow, purpose, url, address) for address in addresses):
            raise EgressDenied(
                f"{url.place}: this address is not public, or not open for calls of this kind."
            )
        if await self._own.are_at(url, addresses):
            raise EgressDenied(f"{url.place}: this address may not be called.")
        return addresses


class _Lane:
    """One purpose's connections and look-ups; nothing in it ever serves another purpose."""

    def __init__(
        self, tls: ssl.SSLContext, names: "Names", max_connections: int, max_per_host: int
    ) -> None:
        self.names = names
        trace = aiohttp.TraceConfig()
        trace.on_connection_create_end.append(_mark_sent)
        trace.on_connection_reuseconn.append(_mark_sent)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                ssl=tls,
                resolver=_JourneyResolver(),
                use_dns_cache=False,  # it would hand out addresses vetted for another call
                socket_factory=open_socket,
                limit=max_connections,
                limit_per_host=max_per_host,
                keepalive_timeout=KEEP_ALIVE,
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            auto_decompress=False,
            max_line_size=MAX_HEADER,
            max_field_size=MAX_HEADER,
            max_headers=MAX_HEADERS,
            skip_auto_headers=["Content-Type"],
            headers={"User-Agent": "Keyturn", "Accept-Encoding": "identity"},
            trace_configs=[trace],
        )

    async def exchange(
        self,
        request: Request,
        url: VettedUrl,
        headers: CIMultiDict[str],
        body: bytes | None,
        deadline: Deadline,
    ) -> Reply:
        timeout = aiohttp.ClientTimeout(
            total=None,  # the deadline keeps it, from before the look-up
            connect=request.timeout.wait,
            sock_connect=request.timeout.connect,
            sock_read=None,  # so does it this, for those who sleep
        )
        async with self._session.request(
            request.method,
            url.url,
            headers=headers,
            data=body,
            allow_redirects=False,
            timeout=timeout,
            ssl=request.tls or True,
        ) as response:
            deadline.heard()
            content = await _content(response, request, url, deadline)
            return Reply(
                status=response.status, headers=tuple(response.headers.items()), body=content
            )

    async def aclose(self) -> None:
        self.names.close()
        await self._session.close()


async def _mark_sent(_session: object, _context: SimpleNamespace, _params: object) -> None:
    """From here on bytes may be on their way: a connection is there, new or kept."""
    if (journey := _journey.get()) is not None:
        journey.sent = True
        journey.deadline.heard()


class _JourneyResolver(AbstractResolver):
    """Answers with what was vetted for this call; looks nothing up."""

    async def resolve(
        self,
        host: str,
        port: int = 0,
        family: socket.AddressFamily = socket.AF_UNSPEC,  # noqa: ARG002 - we ask for no family
    ) -> list[ResolveResult]:
        journey = _journey.get()
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
    journey = _journey.get()
    if journey is None or ip_address(str(target[0])) not in journey.addresses:
        raise PermissionError(errno.EACCES, "not vetted for this call")
    return socket.socket(family, kind, protocol)


def _outgoing(request: Request) -> tuple[CIMultiDict[str], bytes | None]:
    """Check what the caller wants to send, before anything moves."""
    if request.method not in METHODS:
        raise EgressDenied(f"The method must be one of {', '.join(sorted(METHODS))}.")
    tls = request.tls
    if tls is not None and not (tls.verify_mode is ssl.CERT_REQUIRED and tls.check_hostname):
        raise EgressDenied("The TLS context must verify the other side.")
    headers: CIMultiDict[str] = CIMultiDict()
    for name, value in request.headers:
        if HEADER_NAME.fullmatch(name) is None:
            raise EgressDenied("A header's name holds a character that none may hold.")
        if name.lower() in OURS:
            raise EgressDenied(f"The header {name} cannot be chosen.")
        headers.add(name, _header_value(name, value))
    body = request.body.reveal_bytes() if isinstance(request.body, Secret) else request.body
    if body is not None and len(body) > MAX_REQUEST:
        raise TooLarge(f"The request's body is larger than {MAX_REQUEST} bytes.")
    return headers, body


def _header_value(name: str, value: str | Secret) -> str:
    # As bytes, and without an encoding that can fail: such a failure's text holds the value.
    data = value.reveal_bytes() if isinstance(value, Secret) else _encoded(value)
    if HEADER_VALUE.fullmatch(data) is None:
        raise EgressDenied(f"The value of the header {name} holds what a header cannot carry.")
    return data.decode("ascii")


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


async def _content(
    response: aiohttp.ClientResponse, request: Request, url: VettedUrl, deadline: Deadline
) -> bytes:
    """Read the body piece by piece, and stop at the limit."""
    pieces = _Pieces(response.headers.get("Content-Encoding", ""), request.max_bytes)
    announced = response.content_length or 0
    fits = request.method == "HEAD" or announced <= request.max_bytes
    while fits and (piece := await response.content.readany()):
        deadline.heard()
        fits = pieces.add(piece)
    if not fits:
        response.close()
        raise TooLarge(f"{url.place}: the answer is larger than {request.max_bytes} bytes.")
    return pieces.whole()


class _Pieces:
    """A body under construction, unpacked as far as the limit and not a byte further."""

    def __init__(self, encoding: str, limit: int) -> None:
        self._limit = limit
        self._packed = 0
        self._unpacked = bytearray()
        # We asked for `identity`; some servers pack all the same.
        name = encoding.strip().lower()
        if name not in ("", "identity", "gzip", "x-gzip", "deflate"):
            raise UpstreamFailed("The answer is packed in a way that was not asked for.")
        either = zlib.MAX_WBITS | 32  # gzip or zlib, by their first bytes
        self._inflate = None if name in ("", "identity") else zlib.decompressobj(either)

    def add(self, piece: bytes) -> bool:
        """Take a piece; ``False`` when it is too much."""
        self._packed += len(piece)
        if self._packed > self._limit:  # gzip can also go on for ever without yielding a byte
            return False
        if self._inflate is not None:
            piece = self._inflate.decompress(piece, self._limit - len(self._unpacked) + 1)
        self._unpacked += piece
        return len(self._unpacked) <= self._limit

    def whole(self) -> bytes:
        inflate = self._inflate
        if inflate is not None and self._packed and (not inflate.eof or inflate.unused_data):
            raise UpstreamFailed("The answer's packing is damaged.")
        return bytes(self._unpacked)


def _explained(error: Exception, url: VettedUrl, *, sent: bool) -> VaultError:
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
