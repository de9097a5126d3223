"""HTTP/1.1 on one connection: a request goes out in one piece, and its answer is read whole.

* Answers are read by llhttp, strictly, and by a new parser each. Beyond that headers are bounded in
  number and in size, the body in size, and so is what is neither, such as the ends of chunks.
* A connection carries one exchange at a time. One that says anything unasked, whose answer did not
  end where it said, or came before all of the request was sent, is never used again.
* Nothing is decided here: where a connection leads, how long an exchange may take and whether it
  may be tried again is for those who call.

Why there is a client of our own beside aiohttp: docs/decisions/0022-own-http-client.md.
"""

import asyncio
import ssl
from collections.abc import Callable
from typing import Final, cast

import httptools

from vault.egress.address import Address
from vault.egress.deadline import Deadline
from vault.egress.messages import MAX_HEADER, MAX_HEADERS, Headers, Outgoing, Reply, as_text
from vault.egress.unpacking import Unpacking
from vault.errors import VaultError

MAX_HEAD: Final = 1 << 17  # bytes, interim answers included
# A byte of the body may come with so many that are none: one that is a chunk comes with five.
FRAMING: Final = 8
OK: Final = 200
# They say how an answer is framed. Most others differ from them in length already.
FRAMING_HEADERS: Final = frozenset({b"content-encoding", b"content-length", b"transfer-encoding"})
AS_LONG: Final = frozenset(map(len, FRAMING_HEADERS))


class NotHttp(Exception):
    """What came is not an answer that can be read."""


class Overflow(Exception):
    """The body is larger than it may be."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.limit = limit


class Lost(Exception):
    """The connection ended before the answer did. ``heard``: but after it had begun."""

    def __init__(self, *, heard: bool) -> None:
        super().__init__()
        self.heard = heard


class Exchange:
    """One answer as it comes; llhttp calls the methods that begin with ``on_``.

    ``done``: all of it came, or ``error`` says why no more of it is waited for.
    """

    __slots__ = (
        "_deadline",
        "_ends_with_connection",
        "_framing",
        "_head_ended",
        "_headers",
        "_line",
        "_outgoing",
        "_packed",
        "_parser",
        "_pieces",
        "_received",
        "_status",
        "_stays",
        "_unpacking",
        "done",
        "error",
        "heard",
        "reusable",
    )

    _status: int
    _stays: bool
    # Those of this answer, or of the interim one before it; and what they say of the framing.
    _headers: list[tuple[bytes, bytes]]
    _framing: dict[bytes, bytes]

    def __init__(self, outgoing: Outgoing, deadline: Deadline) -> None:
        self.done = False
        self.error: Exception | None = None
        self.heard = False
        self.reusable = False
        self._outgoing = outgoing
        self._deadline = deadline
        self._parser = httptools.HttpResponseParser(self)
        self._received = 0
        self._line = 0
        self._head_ended = False  # that of an interim answer does not count
        self._pieces: list[bytes] = []
        self._packed = 0  # bytes of the body that came
        self._unpacking: Unpacking | None = None  # where it is packed
        self._ends_with_connection = False

    def reply(self) -> Reply:
        """What came, once all of it has."""
        headers = Headers(self._headers)
        return Reply(status=self._status, headers=headers, body=b"".join(self._pieces))

    def feed(self, data: bytes) -> None:
        """A piece of the answer came."""
        self.heard = True
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            # What one of the methods below raised; the parser's error leads to it.
            reason = error.__context__
            self.fail(reason if isinstance(reason, Exception) else NotHttp())
        if not self.done:
            self._more_follows(data)

    def _more_follows(self, data: bytes) -> None:
        """The parser tells of what is whole only; what never gets whole is met here."""
        self._deadline.heard()
        self._received += len(data)
        most = MAX_HEAD
        if self._head_ended:
            most += FRAMING * self._packed
        else:
            last = data.rfind(b"\n")
            self._line = len(data) - last - 1 if last >= 0 else self._line + len(data)
        if self._received > most or self._line > MAX_HEADER:
            self.fail(NotHttp())

    def ended(self) -> None:
        """The other side closed the connection in good order: of some answers that is the end."""
        if self._ends_with_connection:
            try:
                self.on_message_complete()
            except VaultError as error:
                self.fail(error)
        self.fail(Lost(heard=self.heard))

    def fail(self, error: Exception) -> None:
        """No more is expected; unless all has come already, this is why."""
        self.reusable = False
        if not self.done:
            self.done, self.error = True, error

    def over(self) -> None:
        """Nobody waits any more. (The parser knows us, and we it; Python would look for that.)"""
        del self._parser

    # Called by the parser

    def on_message_begin(self) -> None:
        if self.done:
            raise NotHttp  # a second answer, to what nobody asked
        self._headers, self._framing = [], {}

    def on_status(self, reason: bytes) -> None:
        if len(reason) > MAX_HEADER:
            raise NotHttp

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._head_ended:
            return  # a trailer, which nobody wants
        length = len(name)
        if length + len(value) > MAX_HEADER or len(self._headers) == MAX_HEADERS:
            raise NotHttp
        self._headers.append((name, value))
        if length in AS_LONG and (lower := name.lower()) in FRAMING_HEADERS:
            if lower in self._framing:
                raise NotHttp  # which of the two others believe, nobody knows
            self._framing[lower] = value

    def on_headers_complete(self) -> None:
        self._status = self._parser.get_status_code()
        if self._status < OK:
            return  # interim: the answer follows
        self._head_ended = True
        framing, limit = self._framing, self._outgoing.max_bytes
        if (packing := framing.get(b"content-encoding")) is not None:
            self._unpacking = Unpacking(as_text(packing), limit)
        if self._outgoing.method == "HEAD":
            # The parser cannot know that no body follows, whatever is announced.
            self.done = True
            return
        self._stays = self._parser.should_keep_alive()
        length, coding = framing.get(b"content-length"), framing.get(b"transfer-encoding")
        if coding is not None and coding.lower() != b"chunked":
            raise NotHttp  # nobody asked for it (RFC 9112 section 6.1)
        self._ends_with_connection = length is None and coding is None
        if length is not None and int(length) > limit:
            raise Overflow(limit)

    def on_body(self, data: bytes) -> None:
        if not self._head_ended or self.done:
            return
        self._packed += len(data)
        piece = data if self._unpacking is None else self._unpacking.add(data)
        if piece is None or self._packed > self._outgoing.max_bytes:
            raise Overflow(self._outgoing.max_bytes)
        self._pieces.append(piece)

    def on_message_complete(self) -> None:
        if not self._head_ended or self.done:
            return
        if self._unpacking is not None:
            self._unpacking.end()
        self.reusable = self._stays
        self.done = True


class Connection(asyncio.Protocol):
    """One connection to one address."""

    __slots__ = ("_ended", "_exchange", "_loop", "_transport", "address", "idle_since", "open")

    def __init__(self, loop: asyncio.AbstractEventLoop, address: Address) -> None:
        self._loop = loop
        self.address = address
        self.open = False
        self.idle_since = 0.0
        self._transport: asyncio.Transport | None = None
        self._exchange: Exchange | None = None
        self._ended: Callable[[Exchange], None] | None = None

    def send(
        self, outgoing: Outgoing, deadline: Deadline, ended: Callable[[Exchange], None]
    ) -> None:
        """Send, and tell of the answer as soon as it is ``done``; not of one that is given up."""
        assert self._transport is not None
        self._exchange, self._ended = Exchange(outgoing, deadline), ended
        try:
            self._transport.write(outgoing.data)
        except BaseException:
            self.give_up()
            raise

    async def exchange(self, outgoing: Outgoing, deadline: Deadline) -> Exchange:
        """Send, and read the answer; raises ``Lost``, ``NotHttp`` or ``Overflow`` among others."""
        answered: asyncio.Future[Exchange] = self._loop.create_future()

        def ended(exchange: Exchange) -> None:
            if not answered.done():
                answered.set_result(exchange)

        self.send(outgoing, deadline, ended)
        try:
            exchange = await answered
        except BaseException:
            self.give_up()
            raise
        if exchange.error is not None:
            raise exchange.error
        return exchange

    def give_up(self, error: Exception | None = None) -> None:
        """Wait for the answer no longer; with an ``error`` it is told that this is why."""
        if self._exchange is None:
            self.close()
        elif error is not None:
            self._exchange.fail(error)
            self._settle(self._exchange)
        else:
            self._exchange.over()
            self._exchange = self._ended = None
            self.close()

    def _settle(self, exchange: Exchange) -> None:
        """No more of it is to come: say so; the connection is free, or closed."""
        assert self._transport is not None
        ended = self._ended
        self._exchange = self._ended = None
        exchange.over()
        if not exchange.reusable or self._transport.get_write_buffer_size():
            self.close()
        if ended is not None:
            ended(exchange)

    def close(self) -> None:
        """Let nobody use it any more; what is under way ends."""
        self.open = False
        if self._transport is not None:
            self._transport.abort()

    # Called by the loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's are no subclass of it
        self.open = True

    def data_received(self, data: bytes) -> None:
        exchange = self._exchange
        if exchange is None:
            self.close()  # nobody can say what that would be the answer to
            return
        exchange.feed(data)
        if exchange.done:
            self._settle(exchange)

    def eof_received(self) -> None:
        self.open = False
        if self._exchange is not None:
            self._exchange.ended()
            self._settle(self._exchange)

    def connection_lost(self, error: Exception | None) -> None:
        self.open = False
        if self._exchange is None:
            return
        if error is None:
            self._exchange.ended()
        elif isinstance(error, ssl.SSLError):
            self._exchange.fail(error)
        else:
            self._exchange.fail(Lost(heard=self._exchange.heard))
        self._settle(self._exchange)
