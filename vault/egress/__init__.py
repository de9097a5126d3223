"""Guarded outbound HTTP and WebSocket: aiohttp's client is imported in this folder alone.

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
import re
import ssl
from collections.abc import AsyncIterable, AsyncIterator, Collection, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Final

import aiohttp
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
from vault.egress.journey import (
    MAX_HEADERS,
    Journey,
    Timeouts,
    explained,
    guarded_session,
)
from vault.egress.names import Endpoint, Names, OwnServices, Resolver
from vault.egress.sockets import Closed, Dial, Socket, SocketLane
from vault.egress.unpacking import Unpacking
from vault.errors import (
    EgressDenied,
    Misconfigured,
    TooLarge,
    Unreachable,
    VaultError,
)
from vault.secret import Secret
from vault.tracing import UNTRACED, Tracing

__all__ = [
    "MAX_HEADERS",
    "AllowRule",
    "Answer",
    "Closed",
    "Dial",
    "Egress",
    "Endpoint",
    "Purpose",
    "Reply",
    "Request",
    "Resolver",
    "Socket",
    "Timeouts",
    "Upload",
    "VettedUrl",
    "parse_allow",
]

MAX_REPLY: Final = 1 << 20  # bytes
MAX_REQUEST: Final = 1 << 20  # bytes
# Shorter than the 5 s after which Node closes an idle connection: a POST written into a connection
# that the other side is just closing is one of which we cannot say whether it was acted upon.
KEEP_ALIVE: Final = 4.0
# So many places and URLs that were found to be open are remembered.
MAX_PASSED: Final = 256

METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
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


class Upload(Struct, frozen=True):
    """A body that is sent while it comes in; ``size`` is ``None`` where nobody has said it."""

    pieces: AsyncIterable[bytes]
    size: int | None

    def __repr__(self) -> str:
        return "Upload(***)"


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
        max_sockets: int = 4_096,
        tracing: Tracing = UNTRACED,
    ) -> None:
        self.tracing = tracing
        self._allow = tuple(allow)
        self._resolver = resolver
        self._ca_file = ca_file
        self._tls = self.tls_context()
        self._limits = (max_connections, max_per_host, max_sockets)
        self._own = OwnServices(forbidden, Names(resolver))
        self._lanes: dict[Purpose, _Lane] = {}
        self._passed: dict[tuple[Purpose, str, int, bool], tuple[Address, ...]] = {}
        self._vet = lru_cache(MAX_PASSED)(partial(vet, self._allow))
        self._deadlines: set[Deadline] = set()
        self._closed = False

    def vet_url(self, purpose: Purpose, url: str) -> VettedUrl:
        """Refuse a URL that could never be called; for when one is stored. Looks nothing up."""
        # What is behind a question mark may be a secret, and nobody's twice.
        return vet(self._allow, purpose, url) if "?" in url else self._vet(purpose, url)

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
        with self.tracing.span(f"call {purpose}", purpose=purpose, provider=request.peer) as span:
            reply = await self._called(purpose, request)
            span.note("status", reply.status)
            return reply

    async def _called(self, purpose: Purpose, request: Request) -> Reply:
        url = self.vet_url(purpose, request.url)
        headers, body = _outgoing(request)
        journey = Journey(request.timeout, self._deadlines)
        failure: VaultError
        try:
            async with journey:
                lane = await self._lane_to(purpose, url, journey, request.timeout)
                async with lane.exchange(request, url, headers, body) as response:
                    answer = Answer(response, request, url, journey.deadline)
                    return Reply(
                        status=answer.status, headers=answer.headers, body=await answer.whole()
                    )
        except VaultError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, its text may hold the request
            failure = explained(error, url, sent=journey.sent)
        # Raised out here so that not even its context leads to aiohttp's error, which keeps the
        # request's headers.
        raise failure

    @asynccontextmanager
    async def open(
        self, purpose: Purpose, request: Request, upload: Upload | None = None
    ) -> AsyncIterator["Answer"]:
        """Send one request, and give the answer as it arrives; ``upload`` instead of a body.

        Whoever opens it closes it, in the same task: its time runs on until then.
        """
        with self.tracing.span(f"call {purpose}", purpose=purpose, provider=request.peer) as span:
            async with self._opened(purpose, request, upload) as answer:
                span.note("status", answer.status)
                yield answer

    @asynccontextmanager
    async def _opened(
        self, purpose: Purpose, request: Request, upload: Upload | None
    ) -> AsyncIterator["Answer"]:
        url = self.vet_url(purpose, request.url)
        headers, body = _outgoing(request)
        content = body if upload is None else _announced(upload, headers)
        journey = Journey(request.timeout, self._deadlines)
        failure: VaultError
        opened = False
        try:
            async with journey:
                lane = await self._lane_to(purpose, url, journey, request.timeout)
                async with lane.exchange(request, url, headers, content) as response:
                    answer = Answer(response, request, url, journey.deadline)
                    opened = True
                    yield answer
                    return
        except VaultError:
            raise
        except Exception as error:  # whatever it is, its text may hold the request
            if opened and not isinstance(error, TimeoutError):
                raise  # it is of whoever reads the answer
            failure = explained(error, url, sent=journey.sent)
        raise failure  # out here, as in ``call``

    async def socket(self, purpose: Purpose, dial: Dial) -> Socket:
        """Open a WebSocket; ``sockets`` says what it keeps to. Whoever opened it closes it."""
        url = self.vet_url(purpose, dial.http_url())
        journey = Journey(dial.timeout, self._deadlines)
        failure: VaultError
        try:
            async with journey:
                lane = await self._lane_to(purpose, url, journey, dial.timeout)
                return await lane.sockets.open(url, dial)
        except VaultError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, its text may hold the URL
            failure = explained(error, url, sent=journey.sent)
        raise failure

    async def _lane_to(
        self, purpose: Purpose, url: VettedUrl, journey: Journey, limits: Timeouts
    ) -> "_Lane":
        """Vet where the URL leads to; only there the journey may go."""
        lane = self._lane(purpose)
        until = asyncio.get_running_loop().time() + limits.connect
        journey.addresses = await self._vetted(lane, purpose, url, until)
        return lane

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

    async def _vetted(
        self, lane: "_Lane", purpose: Purpose, url: VettedUrl, until: float
    ) -> tuple[Address, ...]:
        literal = url.address
        addresses = (literal,) if literal else await lane.names.addresses(url.host, until)
        if not addresses:
            raise Unreachable(f"{url.place}: this host name has no address.", sent=False)
        if not self._permitted(purpose, url, addresses):
            raise EgressDenied(
                f"{url.place}: this address is not public, or not open for calls of this kind."
            )
        if await self._own.are_at(url, addresses, until):
            raise EgressDenied(f"{url.place}: this address may not be called.")
        return addresses

    def _permitted(self, purpose: Purpose, url: VettedUrl, addresses: tuple[Address, ...]) -> bool:
        """May all of them be called? The rules never change, so a yes is remembered: it is for
        these very addresses, of this host, at this port.
        """
        place = (purpose, url.host, url.port, url.plain)
        if self._passed.get(place) == addresses:
            return True
        if not all(permits(self._allow, purpose, url, address) for address in addresses):
            return False
        if len(self._passed) >= MAX_PASSED:
            self._passed.clear()
        self._passed[place] = addresses
        return True


class Answer:
    """An answer that has begun: its status and headers are there, its body arrives."""

    def __init__(
        self, response: aiohttp.ClientResponse, request: Request, url: VettedUrl, deadline: Deadline
    ) -> None:
        self.status = response.status
        self.headers: tuple[tuple[str, str], ...] = tuple(response.headers.items())
        self._response = response
        self._request = request
        self._url = url
        self._deadline = deadline
        deadline.heard()

    async def whole(self) -> bytes:
        """Read all of the body; ``TooLarge`` at the limit."""
        return b"".join([piece async for piece in self.pieces()])

    async def pieces(self) -> AsyncIterator[bytes]:
        """Read the body piece by piece; ``TooLarge`` at the limit."""
        limit = self._request.max_bytes
        unpacking = Unpacking(self._response.headers.get("Content-Encoding", ""), limit)
        announced = self._response.content_length or 0
        fits = self._request.method == "HEAD" or announced <= limit
        while fits and (packed := await self._next()):
            self._deadline.heard()
            piece = unpacking.add(packed)
            fits = piece is not None
            if piece:
                yield piece
        if not fits:
            self._response.close()
            raise TooLarge(f"{self._url.place}: the answer is larger than {limit} bytes.")
        unpacking.end()

    async def _next(self) -> bytes:
        failure: VaultError
        try:
            piece: bytes = await self._response.content.readany()
        except Exception as error:  # noqa: BLE001 - whatever it is, its text may hold the request
            failure = explained(error, self._url, sent=True)
        else:
            return piece
        raise failure


class _Lane:
    """One purpose's connections and look-ups; nothing in it ever serves another purpose."""

    def __init__(
        self,
        tls: ssl.SSLContext,
        names: "Names",
        max_connections: int,
        max_per_host: int,
        max_sockets: int,
    ) -> None:
        self.names = names
        self._session = guarded_session(
            tls,
            repeats=True,
            limit=max_connections,
            limit_per_host=max_per_host,
            keepalive_timeout=KEEP_ALIVE,
        )
        self.sockets = SocketLane(tls, max_sockets)

    def exchange(
        self,
        request: Request,
        url: VettedUrl,
        headers: CIMultiDict[str],
        body: bytes | AsyncIterable[bytes] | None,
    ) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        return self._session.request(
            request.method,
            url.url,
            headers=headers,
            data=body,
            allow_redirects=False,
            timeout=_of_aiohttp(request.timeout),
            ssl=request.tls or True,
        )

    async def aclose(self) -> None:
        self.names.close()
        await self._session.close()
        await self.sockets.aclose()


@lru_cache(64)
def _of_aiohttp(limits: Timeouts) -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(
        total=None,  # the deadline keeps it, from before the look-up
        connect=limits.wait,
        sock_connect=limits.connect,
        sock_read=None,  # so does it this, for those who sleep
    )


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


def _announced(upload: Upload, headers: CIMultiDict[str]) -> AsyncIterable[bytes]:
    """Say how long it will be, where that is known; many servers take nothing else."""
    if upload.size is not None:
        headers["Content-Length"] = str(upload.size)
    return upload.pieces


def is_header_value(data: bytes) -> bool:
    """Does ``HEADER_VALUE`` match all of it? Five times faster for a long token."""
    return not data.translate(None, _IN_HEADER_VALUE) and data == data.strip(b"\t ")


def _header_value(name: str, value: str | Secret) -> str:
    # As bytes, and without an encoding that can fail: such a failure's text holds the value.
    data = value.reveal_bytes() if isinstance(value, Secret) else _encoded(value)
    if HEADER_VALUE.fullmatch(data) is None:
        raise EgressDenied(f"The value of the header {name} holds what a header cannot carry.")
    return data.decode("ascii")


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
