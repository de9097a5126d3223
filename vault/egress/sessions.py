"""aiohttp, guarded: for answers that are read while they arrive, and for WebSockets.

* aiohttp asks its resolver and makes its sockets inside the calling task, or one that inherits the
  task's context. That is how the vetted addresses reach them without passing through a shared
  cache: ``under_way`` holds the journey, and both look nowhere else.
"""

import errno
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from ipaddress import ip_address
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from vault.egress.journey import Journey
from vault.egress.messages import MAX_HEADER, MAX_HEADERS
from vault.egress.names import family_of
from vault.errors import Unreachable, UpstreamFailed

if TYPE_CHECKING:
    from aiohttp.connector import Connection
    from aiohttp.tracing import Trace

under_way: ContextVar[Journey | None] = ContextVar("egress_journey", default=None)


@contextmanager
def steering(journey: Journey) -> Iterator[None]:
    """Within it aiohttp goes where the journey may, and nowhere else."""
    token = under_way.set(journey)
    try:
        yield
    finally:
        under_way.reset(token)


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
            journey.leaves()
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
