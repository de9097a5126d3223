"""Guarded outbound HTTP and WebSocket: the only way out, and the only folder with a client in it.

Three kinds of call share what is promised here. ``call`` reads an answer whole, by ``wire`` and
``pool``; ``open`` gives it while it arrives, and ``socket`` talks, both by aiohttp (``sessions``).

* Where a call may go is decided by ``address``; its bullets are promised here too.
* A name is looked up once a call (and remembered for a few seconds). If **any** of its addresses
  may not be called, none is. A socket opens only towards an address that was vetted for the very
  call that opens it; a literal address meets the same check.
* The database, the root-key services and our own listening address (``forbidden``) are out of
  reach, whatever ``EGRESS_ALLOW`` says; they are compared as addresses, at the time of the call.
* Each purpose has its own connections and look-ups: what a rule opened for ``tool`` never carries
  a ``provider``'s call, and a tool's slow name server does not hold up a refresh.
* No redirect is followed, no cookie kept, no proxy variable or ``.netrc`` read.
* An answer is bounded: its headers, its body (counted unpacked, while it arrives), and the time
  that all of it may take, from the look-up to the last byte.
* A POST or PATCH is sent at most once. (GET, HEAD, OPTIONS, PUT and DELETE are repeated, once, when
  a kept connection turns out to be closed; RFC 9110 section 9.2.2.)
* Failures are ``EgressDenied``, ``Unreachable``, ``UpstreamFailed``, ``AnswerTooLarge``, and
  ``TooLarge`` of a request; none holds, as text or as cause, a path, a query, a header's value or a
  body. ``Unreachable.sent`` is ``False`` only when no byte of the request was written.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from functools import lru_cache, partial
from pathlib import Path
from typing import Final

from vault.egress.address import (
    Address,
    AllowRule,
    Purpose,
    VettedUrl,
    parse_allow,
    permits,
    vet,
)
from vault.egress.deadline import Deadlines
from vault.egress.errand import Errand, Then
from vault.egress.failures import explained
from vault.egress.journey import Journey
from vault.egress.messages import (
    HEADER_NAME,
    HEADER_VALUE,
    MAX_HEADERS,
    MAX_REQUEST,
    OURS,
    Reply,
    Request,
    Timeouts,
    is_header_value,
    written,
)
from vault.egress.names import Endpoint, Names, OwnServices, Resolver
from vault.egress.pool import REPEATABLE, Place, Pool
from vault.egress.sessions import steering
from vault.egress.sockets import Closed, Dial, Socket, SocketLane
from vault.egress.streams import Answer, StreamLane, Upload, outbound
from vault.errors import EgressDenied, Misconfigured, Unreachable, VaultError
from vault.tracing import UNTRACED, Tracing

__all__ = [
    "HEADER_NAME",
    "HEADER_VALUE",
    "MAX_HEADERS",
    "MAX_REQUEST",
    "OURS",
    "AllowRule",
    "Answer",
    "Closed",
    "Dial",
    "Egress",
    "Endpoint",
    "Errand",
    "Purpose",
    "Reply",
    "Request",
    "Resolver",
    "Socket",
    "Then",
    "Timeouts",
    "Upload",
    "VettedUrl",
    "is_header_value",
    "parse_allow",
]

# So many URLs that may be called are remembered.
MAX_KEPT: Final = 256


class Egress:
    """Outbound calls. Make one a process; the connections open with the first call."""

    def __init__(
        self,
        *,
        allow: Sequence[AllowRule],
        forbidden: Collection[Endpoint] = (),
        ca_file: Path | None = None,
        resolver: Resolver | None = None,
        max_connections: int = 448,
        max_per_host: int = 352,
        max_sockets: int = 4_096,
        tracing: Tracing = UNTRACED,
    ) -> None:
        self.tracing = tracing
        self._allow = tuple(allow)
        self._resolver = resolver
        self._ca_file = ca_file
        self._tls = _kept_context(ca_file)
        self._limits = (max_connections, max_per_host, max_sockets)
        self._own = OwnServices(forbidden, Names(resolver))
        self._lanes: dict[Purpose, _Lane] = {}
        self._vet = lru_cache(MAX_KEPT)(partial(vet, self._allow))
        self._kept_route = lru_cache(MAX_KEPT)(self._new_route)
        self._deadlines = Deadlines()
        self._closed = False

    def vet_url(self, purpose: Purpose, url: str) -> VettedUrl:
        """Refuse a URL that could never be called; for when one is stored. Looks nothing up."""
        # What is behind a question mark may be a secret, and nobody's twice.
        return vet(self._allow, purpose, url) if "?" in url else self._vet(purpose, url)

    def tls_context(self) -> ssl.SSLContext:
        """Make a context that trusts what we trust, to load a client certificate into."""
        return _context(self._ca_file)

    async def call(self, purpose: Purpose, request: Request) -> Reply:
        """Send one request, and return the answer whatever its status is."""
        if self.tracing is UNTRACED:
            return await self._called(purpose, request)
        with self.tracing.span(f"call {purpose}", purpose=purpose, provider=request.peer) as span:
            reply = await self._called(purpose, request)
            span.note("status", reply.status)
            return reply

    def begin(self, purpose: Purpose, request: Request, then: Then) -> Errand | None:
        """Send one request over a connection that is at hand, and let ``then`` hear how it ends.

        The short way of ``call``, for what is never sent twice: no task, no wait but the one for
        the answer. ``None``: nothing was sent, since something would have to be waited for (a
        look-up, a connection, room), or raised. Then ``call`` is the way.
        """
        lane = self._lanes.get(purpose)
        if lane is None or self._closed or request.method in REPEATABLE:
            return None
        try:
            route = self._route(purpose, request.url)
            outgoing = written(request, route.url, often=purpose == "provider")
        except VaultError:
            return None
        now = lane.pool.loop.time()
        addresses = self._known(lane, route, now)
        if addresses is None:
            return None
        loan = lane.pool.take(route.place(request.tls), addresses, now)
        if loan is None:
            return None
        errand = Errand(route.url, loan, request.timeout, self._deadlines, then)
        errand.send(outgoing)
        return errand

    async def _called(self, purpose: Purpose, request: Request) -> Reply:
        heard: asyncio.Future[Reply | VaultError] = asyncio.get_running_loop().create_future()

        def then(end: Reply | VaultError) -> None:
            if not heard.done():
                heard.set_result(end)

        errand = self.begin(purpose, request, then)
        if errand is None:
            return await self._travelled(purpose, request)
        try:
            end = await heard
        except BaseException:
            errand.give_up()
            raise
        if isinstance(end, VaultError):
            raise end
        return end

    async def _travelled(self, purpose: Purpose, request: Request) -> Reply:
        """The long way: whatever has to be looked up, connected or waited for."""
        route = self._route(purpose, request.url)
        outgoing = written(request, route.url, often=purpose == "provider")
        journey = Journey(request.timeout, self._deadlines)
        failure: VaultError
        try:
            async with journey:
                lane = await self._lane_to(route, journey)
                answer = await lane.pool.exchange(route.place(request.tls), outgoing, journey)
                return answer.reply()
        except VaultError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, its text may hold the request
            failure = explained(error, route.url, sent=journey.sent)
        raise failure  # out here: not even its context leads to what went wrong

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
        route = self._route(purpose, request.url)
        leaving = outbound(request, upload)
        journey = Journey(request.timeout, self._deadlines)
        failure: VaultError
        opened = False
        try:
            async with journey:
                lane = await self._lane_to(route, journey)
                with steering(journey):
                    async with lane.streams.exchange(request, route.url, leaving) as response:
                        answer = Answer(response, request, route.url, journey.deadline)
                        opened = True
                        yield answer
                        return
        except VaultError:
            raise
        except Exception as error:  # whatever it is, its text may hold the request
            if opened and not isinstance(error, TimeoutError):
                raise  # it is of whoever reads the answer
            failure = explained(error, route.url, sent=journey.sent)
        raise failure  # out here, as in ``call``

    async def socket(self, purpose: Purpose, dial: Dial) -> Socket:
        """Open a WebSocket; ``sockets`` says what it keeps to. Whoever opened it closes it."""
        route = self._route(purpose, dial.http_url())
        journey = Journey(dial.timeout, self._deadlines)
        failure: VaultError
        try:
            async with journey:
                lane = await self._lane_to(route, journey)
                with steering(journey):
                    return await lane.sockets.open(route.url, dial)
        except VaultError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, its text may hold the URL
            failure = explained(error, route.url, sent=journey.sent)
        raise failure

    async def _lane_to(self, route: "_Route", journey: Journey) -> "_Lane":
        """Vet where the URL leads to; only there the journey may go."""
        lane = self._lane(route.purpose)
        until = journey.loop.time() + journey.limits.connect
        journey.addresses = await self._vetted(lane, route, until)
        return lane

    async def aclose(self) -> None:
        """Close every connection. Calls that are under way fail as ``Unreachable``."""
        self._closed = True
        # Those who are under way meet their deadline now. (aiohttp would leave some of them waiting
        # for a connection that never comes.)
        self._deadlines.end()
        await asyncio.sleep(0)
        for lane in self._lanes.values():
            await lane.aclose()
        self._own.close()

    def _route(self, purpose: Purpose, url: str) -> "_Route":
        # As in ``vet_url``.
        return self._new_route(purpose, url) if "?" in url else self._kept_route(purpose, url)

    def _new_route(self, purpose: Purpose, url: str) -> "_Route":
        vetted = self.vet_url(purpose, url)
        return _Route(purpose, vetted, self._tls, may_be_ours=self._own.may_be_on(vetted.port))

    def _lane(self, purpose: Purpose) -> "_Lane":
        if self._closed:
            raise Unreachable("The service is shutting down.", sent=False)
        if purpose not in self._lanes:
            self._lanes[purpose] = _Lane(self._tls, Names(self._resolver), *self._limits)
        return self._lanes[purpose]

    async def _vetted(self, lane: "_Lane", route: "_Route", until: float) -> tuple[Address, ...]:
        url = route.url
        addresses = route.literal or await lane.names.addresses(url.host, until)
        if not addresses:
            raise Unreachable(f"{url.place}: this host name has no address.", sent=False)
        if not self._permitted(route, addresses):
            raise EgressDenied(
                f"{url.place}: this address is not public, or not open for calls of this kind."
            )
        if await self._own.are_at(url, addresses, until):
            raise EgressDenied(f"{url.place}: this address may not be called.")
        return addresses

    def _known(self, lane: "_Lane", route: "_Route", now: float) -> tuple[Address, ...] | None:
        """The same at once; ``None`` where something has to be looked up, or is refused."""
        addresses = route.literal or lane.names.known(route.url.host, now)
        if addresses is None or not self._permitted(route, addresses):
            return None
        if route.may_be_ours and not self._own.are_surely_elsewhere(route.url, addresses, now):
            return None
        return addresses

    def _permitted(self, route: "_Route", addresses: tuple[Address, ...]) -> bool:
        """May all of them be called? The rules never change, so a yes is remembered: it is for
        these very addresses.
        """
        if route.passed == addresses:
            return True
        if not all(permits(self._allow, route.purpose, route.url, one) for one in addresses):
            return False
        route.passed = addresses
        return True


def _context(ca_file: Path | None) -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    if ca_file is not None:
        try:
            context.load_verify_locations(ca_file)
        except OSError:  # ssl.SSLError is one
            raise Misconfigured(
                "KEYTURN_EGRESS_CA_FILE is not a readable PEM file of certificates."
            ) from None
    return context


# Of one that nobody loads anything into, a process needs no second: to read what a machine trusts
# takes as long as a hundred calls.
_kept_context: Final = lru_cache(8)(_context)


class _Route:
    """A URL that may be called for one purpose, and what is the same whenever it is called.

    Where its name leads, and whether a service of our own is there, never is.
    """

    __slots__ = ("_place", "literal", "may_be_ours", "passed", "purpose", "url")

    def __init__(
        self, purpose: Purpose, url: VettedUrl, tls: ssl.SSLContext, *, may_be_ours: bool
    ) -> None:
        self.purpose = purpose
        self.url = url
        self.literal = (url.address,) if url.address else None
        self.may_be_ours = may_be_ours  # one of them is on its port
        self.passed: tuple[Address, ...] | None = None  # the last ones that all may be called
        self._place: Place = (url.host, url.port, None if url.plain else tls)

    def place(self, tls: ssl.SSLContext | None) -> Place:
        """Where it leads, with this TLS or else with ours."""
        if tls is None or self.url.plain:
            return self._place
        return self.url.host, self.url.port, tls


class _Lane:
    """One purpose's connections and look-ups; nothing in it ever serves another purpose."""

    def __init__(
        self,
        tls: ssl.SSLContext,
        names: Names,
        max_connections: int,
        max_per_host: int,
        max_sockets: int,
    ) -> None:
        self.names = names
        self.pool = Pool(max_connections, max_per_host)
        self.streams = StreamLane(tls, max_connections, max_per_host)
        self.sockets = SocketLane(tls, max_sockets)

    async def aclose(self) -> None:
        self.names.close()
        self.pool.close()
        await self.streams.aclose()
        await self.sockets.aclose()
