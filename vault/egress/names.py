"""Names to addresses, and which addresses are our own.

* A name is looked up once however many ask, and remembered for ``NAMES_LAST`` seconds.
* Look-ups have threads of their own: a name server that never answers uses up nobody else's.
* Our own services are compared as addresses, not as names, with every address that a packet may
  end at. While one of them cannot be found, nothing on its port is called.
"""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from ipaddress import IPv6Address
from typing import Final

from msgspec import Struct

from vault.egress.address import Address, VettedUrl, faces, read_address
from vault.errors import Unreachable

Resolver = Callable[[str], Awaitable[Sequence[str]]]

NAMES_LAST: Final = 10.0  # seconds
MAX_NAMES: Final = 1_000
LOOKUP_THREADS: Final = 32
WILDCARDS: Final = frozenset({"", "0.0.0.0", "::"})  # noqa: S104 - compared, never bound


class Endpoint(Struct, frozen=True):
    """A service of our own. ``None`` stands for every port; ``0.0.0.0`` for every local address."""

    host: str
    port: int | None = None


class Names:
    """Names to addresses: each looked up once however many ask, and remembered for a while."""

    def __init__(self, resolver: Resolver | None) -> None:
        self._threads = ThreadPoolExecutor(LOOKUP_THREADS, thread_name_prefix="egress-names")
        self._resolver = resolver or self._ask_system
        self._known: dict[str, tuple[float, asyncio.Task[tuple[Address, ...]]]] = {}

    async def addresses(self, host: str, until: float) -> tuple[Address, ...]:
        """Return the addresses of ``host``; none if there are none.

        ``TimeoutError`` if they are not known by then, by the loop's clock.
        """
        now = asyncio.get_running_loop().time()
        if known := self.known(host, now):
            return known
        expires, task = self._known.get(host, (now, None))
        if task is None or expires <= now:
            task = asyncio.create_task(self._look_up(host))
            self._known.pop(host, None)
            self._known[host] = (now + NAMES_LAST, task)
            while len(self._known) > MAX_NAMES:
                del self._known[next(iter(self._known))]
        if not task.done():
            # Not awaited itself: others wait for it too, and who gives up must not cancel it.
            await asyncio.wait({task}, timeout=max(0.0, until - now))
            if not task.done():
                raise TimeoutError
        found = () if task.cancelled() else task.result()
        if not found and self._known.get(host, (0, None))[1] is task:
            del self._known[host]
        return found

    def known(self, host: str, now: float) -> tuple[Address, ...] | None:
        """Its addresses, where they need not be looked up; ``now`` by the loop's clock."""
        expires, task = self._known.get(host, (now, None))
        if task is None or expires <= now or not task.done() or task.cancelled():
            return None
        return task.result() or None

    async def _look_up(self, host: str) -> tuple[Address, ...]:
        try:
            texts = await self._resolver(host)
            return tuple(dict.fromkeys(read_address(text) for text in texts))
        except (OSError, ValueError):
            return ()

    async def _ask_system(self, host: str) -> Sequence[str]:
        def ask() -> list[str]:
            found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
            return [str(info[4][0]) for info in found]

        return await asyncio.get_running_loop().run_in_executor(self._threads, ask)

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
        for _, task in self._known.values():
            task.cancel()


class OwnServices:
    """What no URL reaches: the database, the root-key services, our own listening address."""

    def __init__(self, endpoints: Collection[Endpoint], names: Names) -> None:
        self._endpoints = tuple(
            Endpoint(endpoint.host.strip("[]").rstrip(".").lower(), endpoint.port)
            for endpoint in endpoints
        )
        self._names = names
        self._last: dict[str, frozenset[Address]] = {}

    def may_be_on(self, port: int) -> bool:
        """Is one of ours on this port? If none is, nobody has to ask where they are."""
        return any(endpoint.port in (None, port) for endpoint in self._endpoints)

    async def are_at(self, url: VettedUrl, addresses: Sequence[Address], until: float) -> bool:
        """Is one of ours at one of these addresses, on this URL's port?"""
        wanted: frozenset[Address] = frozenset()
        for endpoint in self._endpoints:
            if endpoint.port not in (None, url.port):
                continue
            if endpoint.host == url.host:
                return True
            wanted = wanted or frozenset().union(*map(faces, addresses))
            if endpoint.host in WILDCARDS:
                if any(map(is_local, wanted)):
                    return True
            elif wanted & await self._where(endpoint.host, until):
                return True
        return False

    def are_surely_elsewhere(
        self, url: VettedUrl, addresses: Sequence[Address], now: float
    ) -> bool:
        """Is none of ours there? Said at once, or not said: then ``are_at`` has to be asked."""
        for endpoint in self._endpoints:
            if endpoint.port not in (None, url.port):
                continue
            if endpoint.host == url.host or endpoint.host in WILDCARDS:
                return False
            literal = _as_address(endpoint.host)
            found = (literal,) if literal else self._names.known(endpoint.host, now)
            if found is None or any(
                not faces(ours).isdisjoint(faces(theirs)) for ours in found for theirs in addresses
            ):
                return False
        return True

    async def _where(self, host: str, until: float) -> frozenset[Address]:
        if (literal := _as_address(host)) is not None:
            return faces(literal)
        found = await self._names.addresses(host, until)
        if found:
            self._last[host] = frozenset().union(*map(faces, found))
        if host not in self._last:
            raise Unreachable(
                "One of our own services cannot be found, so no call is safe from reaching it.",
                sent=False,
            )
        return self._last[host]

    def close(self) -> None:
        self._names.close()


@lru_cache(256)
def _as_address(text: str) -> Address | None:
    try:
        return read_address(text)
    except ValueError:
        return None


def is_local(address: Address) -> bool:
    """Does this address belong to this machine? Only then a socket can be bound to it."""
    try:
        with socket.socket(family_of(address), socket.SOCK_DGRAM) as probe:
            probe.bind((str(address), 0))
    except OSError:
        return False
    return True


def family_of(address: Address) -> socket.AddressFamily:
    return socket.AF_INET6 if isinstance(address, IPv6Address) else socket.AF_INET
