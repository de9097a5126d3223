"""Connections that are kept, for one purpose: so many at a time, in all and to one place.

* A connection is made to an address that was vetted for the call which makes it. A kept one is used
  only by calls for which its address was vetted, too, and for ``KEEP_ALIVE`` seconds.
* Several addresses are tried side by side, one after another after a quarter of a second
  (RFC 8305), as a browser does it.
* A request is sent again, once and over a new connection, if its method may be repeated (RFC 9110
  section 9.2.2) and a kept connection turned out to be closed: nothing came back. No other is.
"""

import asyncio
import socket
import ssl
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from aiohappyeyeballs import start_connection
from msgspec import Struct

from vault.egress.address import Address, read_address
from vault.egress.journey import Journey
from vault.egress.messages import Outgoing
from vault.egress.names import family_of
from vault.egress.wire import Connection, Exchange, Lost

# Shorter than the 5 s after which Node closes an idle connection: a POST written into a connection
# that the other side is just closing is one of which we cannot say whether it was acted upon.
KEEP_ALIVE: Final = 4.0
NEXT_ADDRESS: Final = 0.25
REPEATABLE: Final = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE"})


# Where to: the host, the port, and with which TLS, if any.
Place = tuple[str, int, ssl.SSLContext | None]


class Gate:
    """So many are in at a time; first come, first served. Where one is free, nobody waits."""

    __slots__ = ("_line", "free")

    def __init__(self, most: int) -> None:
        self.free = most
        self._line: deque[asyncio.Future[None]] = deque()

    async def enter(self) -> None:
        if self.free:
            self.free -= 1
            return
        turn = asyncio.get_running_loop().create_future()
        self._line.append(turn)
        try:
            await turn
        except BaseException:
            if turn.cancelled():
                with suppress(ValueError):
                    self._line.remove(turn)
            else:
                self.leave()  # it was its turn in the same moment
            raise

    def leave(self) -> None:
        while self._line:
            turn = self._line.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self.free += 1


class Host(Gate):
    """One place: who is there or waits for it, and what is kept."""

    __slots__ = ("_most", "callers", "idle", "place")

    def __init__(self, place: Place, most: int) -> None:
        super().__init__(most)
        self._most = most
        self.place = place
        self.callers = 0  # of ``exchange``; who has a loan only takes up room
        self.idle: list[Connection] = []

    @property
    def forgettable(self) -> bool:
        """Is nobody there, and nothing kept?"""
        return not self.idle and not self.callers and self.free == self._most


class Loan(Struct, frozen=True):
    """A connection that somebody has for himself, until he gives it back."""

    pool: "Pool"
    host: Host
    connection: Connection


class Pool:
    """Connections of one purpose; none of them ever serves another."""

    def __init__(self, max_connections: int, max_per_host: int) -> None:
        self.loop = asyncio.get_running_loop()
        self._room = Gate(max_connections)
        self._max_per_host = max_per_host
        self._hosts: dict[Place, Host] = {}
        self._tidying: asyncio.TimerHandle | None = None

    async def exchange(self, place: Place, outgoing: Outgoing, journey: Journey) -> Exchange:
        """Send a request to one of the journey's addresses, and read the answer."""
        host = self._hosts.get(place)
        if host is None:
            host = self._hosts[place] = Host(place, self._max_per_host)
        host.callers += 1
        until = self.loop.time() + journey.limits.wait
        try:
            if host.free and self._room.free:
                await self._enter(host)
            else:
                async with asyncio.timeout_at(until):
                    await self._enter(host)
            try:
                return await self._exchanged(host, outgoing, journey, until)
            finally:
                self._room.leave()
                host.leave()
        finally:
            host.callers -= 1
            self._forget(host)

    def take(self, place: Place, addresses: Sequence[Address], now: float) -> Loan | None:
        """A connection that is kept for one of these addresses, if it and room for it are there."""
        host = self._hosts.get(place)
        if host is None or not host.free or not self._room.free:
            return None
        connection = _kept(host, addresses, now)
        if connection is None:
            return None
        host.free -= 1
        self._room.free -= 1
        return Loan(self, host, connection)

    def give_back(self, loan: Loan) -> None:
        """What was taken is of use to others again, if it is open."""
        self._room.leave()
        loan.host.leave()
        if loan.connection.open:
            self._keep(loan.connection, loan.host)
        else:
            self._forget(loan.host)

    def _forget(self, host: Host) -> None:
        if host.forgettable:
            del self._hosts[host.place]

    async def _enter(self, host: Host) -> None:
        """Take a place among the host's, and then one among all; first come, first served."""
        await host.enter()
        try:
            await self._room.enter()
        except BaseException:
            host.leave()
            raise

    async def _exchanged(
        self, host: Host, outgoing: Outgoing, journey: Journey, until: float
    ) -> Exchange:
        connection = _kept(host, journey.addresses, self.loop.time())
        if connection is not None:
            try:
                return await self._over(connection, host, outgoing, journey)
            except Lost as lost:
                if lost.heard or outgoing.method not in REPEATABLE:
                    raise
        async with asyncio.timeout_at(min(until, self.loop.time() + journey.limits.connect)):
            connection = await _connected(self.loop, host.place, journey.addresses)
        return await self._over(connection, host, outgoing, journey)

    async def _over(
        self, connection: Connection, host: Host, outgoing: Outgoing, journey: Journey
    ) -> Exchange:
        if not connection.open:
            raise Lost(heard=False)
        journey.leaves()
        exchange = await connection.exchange(outgoing, journey.deadline)
        if connection.open:
            self._keep(connection, host)
        return exchange

    def _keep(self, connection: Connection, host: Host) -> None:
        connection.idle_since = self.loop.time()
        host.idle.append(connection)
        if self._tidying is None:
            self._tidying = self.loop.call_later(KEEP_ALIVE, self._tidy)

    def _tidy(self) -> None:
        """Close what nobody has used for a while."""
        since = self.loop.time() - KEEP_ALIVE
        for host in list(self._hosts.values()):
            for connection in host.idle:
                if connection.idle_since <= since:
                    connection.close()
            host.idle = [connection for connection in host.idle if connection.open]
            self._forget(host)
        left = any(host.idle for host in self._hosts.values())
        self._tidying = self.loop.call_later(KEEP_ALIVE / 4, self._tidy) if left else None

    def close(self) -> None:
        """Close what is kept. Those under way have to be ended by who began them."""
        if self._tidying is not None:
            self._tidying.cancel()
        for host in self._hosts.values():
            for connection in host.idle:
                connection.close()
            host.idle.clear()


def _kept(host: Host, addresses: Sequence[Address], now: float) -> Connection | None:
    while host.idle:
        connection = host.idle.pop()
        fresh = connection.open and connection.idle_since > now - KEEP_ALIVE
        if fresh and connection.address in addresses:
            return connection
        connection.close()
    return None


async def _connected(
    loop: asyncio.AbstractEventLoop, place: Place, addresses: Sequence[Address]
) -> Connection:
    host, port, tls = place
    if len(addresses) == 1:
        return await _connected_to(loop, place, addresses[0])
    infos = [
        (family_of(one), socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (str(one), port))
        for one in addresses
    ]
    found = await start_connection(infos, happy_eyeballs_delay=NEXT_ADDRESS, loop=loop)
    try:
        found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        address = read_address(found.getpeername()[0])
        _, connection = await loop.create_connection(
            lambda: Connection(loop, address),
            sock=found,
            ssl=tls,
            server_hostname=host if tls else None,
        )
    except BaseException:
        found.close()
        raise
    return connection


async def _connected_to(
    loop: asyncio.AbstractEventLoop, place: Place, address: Address
) -> Connection:
    """The same where there is nothing to choose, which the loop does by itself."""
    host, port, tls = place
    _, connection = await loop.create_connection(
        lambda: Connection(loop, address),
        str(address),
        port,
        ssl=tls,
        server_hostname=host if tls else None,
    )
    return connection
