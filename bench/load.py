"""A load generator that is honest about waiting, and cheap enough not to be what is measured.

* **Closed loop**: each connection sends its next request when the answer to the last one is there.
  Good for CPU time per request; its latencies flatter a server that stalls, which is asked nothing
  while it stands still ("coordinated omission").
* **Open loop**: requests are due at a fixed rate, whatever the server does. A latency counts from
  the moment at which the request was *due*, so a stall is felt by everyone who came in it.
* Every answer is read to its end and checked: a status other than 2xx, a body without what it
  must hold, and a lost connection are counted apart, and ``Answers.refuse_any_wrong`` raises.
* HTTP/1.1 with keep-alive and ``Content-Length``, which is all that our servers speak. Linux only:
  the open loop is paced by a timerfd, because event loops round their timers to a millisecond.
"""

import asyncio
import ctypes
import os
import re
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Final, cast

from msgspec import Struct

HOST: Final = "127.0.0.1"
PATIENCE: Final = 30.0  # seconds after the planned end until a run is given up
MAX_OPEN: Final = 64  # connections of an open loop; more due requests wait, and the wait counts

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)
_END_OF_HEAD = b"\r\n\r\n"
_STATUS = slice(9, 12)
_NANOSECONDS = 1_000_000_000


class WrongAnswers(Exception):
    """The server gave answers that do not count; the run is void."""


class Request(Struct, frozen=True):
    """Bytes to send, and bytes that the body of the answer must hold."""

    wire: bytes
    expected: bytes


class Answers(Struct):
    """What came back in one run. Latencies are seconds, of right answers only."""

    refused: int = 0
    mismatched: int = 0
    lost: int = 0
    seconds: float = 0.0
    latencies: list[float] = []
    example: bytes = b""

    @property
    def right(self) -> int:
        """How many answers were as expected."""
        return len(self.latencies)

    @property
    def rate(self) -> float:
        """Right answers a second."""
        return self.right / self.seconds if self.seconds else 0.0

    def percentile(self, percent: float) -> float:
        """The latency in milliseconds that so many percent did not exceed (nearest rank)."""
        ordered = sorted(self.latencies)
        rank = -(-len(ordered) * percent // 100)
        return ordered[max(int(rank), 1) - 1] * 1000

    def refuse_any_wrong(self, what: str) -> None:
        """Raise unless all answers were right, and there were any."""
        if self.refused or self.mismatched or self.lost or not self.right:
            raise WrongAnswers(
                f"{what}: {self.right} right answers, {self.refused} not 2xx, "
                f"{self.mismatched} with another body, {self.lost} lost. "
                f"One of them began: {self.example[:300]!r}"
            )


def request(
    method: str, path: str, *, expected: bytes, body: bytes = b"", bearer: str = ""
) -> Request:
    """Write a request down once; it is sent as it is, however often."""
    lines = [f"{method} {path} HTTP/1.1", f"Host: {HOST}"]
    if bearer:
        lines.append(f"Authorization: Bearer {bearer}")
    if body:
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    return Request("\r\n".join([*lines, "", ""]).encode() + body, expected)


async def closed_loop(
    port: int, requests: Iterator[Request], *, connections: int, seconds: float
) -> Answers:
    """Keep so many connections busy for so long, or until there are no more requests."""
    answers = Answers()
    end = time.perf_counter() + seconds

    def go_on(connection: "_Connection") -> None:
        now = time.perf_counter()
        upcoming = next(requests, None) if now < end else None
        if upcoming is None:
            connection.close()
        else:
            connection.send(upcoming, now)

    async with asyncio.timeout(seconds + PATIENCE):
        every = await _connect(port, connections, answers, go_on)
        started = time.perf_counter()
        end = started + seconds
        for connection in every:
            go_on(connection)
        await asyncio.gather(*(connection.gone for connection in every))
    answers.seconds = time.perf_counter() - started
    return answers


async def open_loop(
    port: int, requests: Iterator[Request], *, rate: float, seconds: float, connections: int
) -> Answers:
    """Send ``rate`` requests a second for so long; latencies count from when each was due."""
    answers = Answers()
    plan = _Plan(requests, rate, seconds)
    async with asyncio.timeout(seconds + PATIENCE):
        every = await _connect(port, connections, answers, plan.free)
        plan.begin(every)
        with _Ticker(1 / rate, plan.send_what_is_due):
            await asyncio.gather(*(connection.gone for connection in every))
    answers.seconds = time.perf_counter() - plan.started
    return answers


async def answers_now(port: int, probe: Request) -> bool:
    """Is there a server that gives this request a right answer?"""
    try:
        answers = await closed_loop(port, iter([probe]), connections=1, seconds=1)
    except (OSError, TimeoutError):
        return False
    return answers.right == 1


class _Plan:
    """Which requests are due, and which connection may send them."""

    def __init__(self, requests: Iterator[Request], rate: float, seconds: float) -> None:
        self.started = 0.0
        self._requests = requests
        self._interval = 1 / rate
        self._planned = max(int(rate * seconds), 1)
        self._due = 0
        self._idle: deque[_Connection] = deque()
        self._waiting: deque[tuple[Request, float]] = deque()

    def begin(self, every: "list[_Connection]") -> None:
        self._idle.extend(every)
        self.started = time.perf_counter()

    def send_what_is_due(self) -> None:
        now = time.perf_counter()
        while self._due < self._planned and self.started + self._due * self._interval <= now:
            due_at = self.started + self._due * self._interval
            self._due += 1
            self._waiting.append((next(self._requests), due_at))
        while self._waiting and self._idle:
            self._idle.popleft().send(*self._waiting.popleft())
        self._end_if_over()

    def free(self, connection: "_Connection") -> None:
        if self._waiting:
            connection.send(*self._waiting.popleft())
            return
        self._idle.append(connection)
        self._end_if_over()

    def _end_if_over(self) -> None:
        if self._due >= self._planned and not self._waiting:
            while self._idle:
                self._idle.popleft().close()


class _Connection(asyncio.Protocol):
    """One kept-alive connection with at most one request on it."""

    def __init__(self, answers: Answers, free: "Callable[[_Connection], None]") -> None:
        self.gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._answers = answers
        self._free = free
        self._transport: asyncio.Transport | None = None
        self._request: Request | None = None
        self._since = 0.0
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Not isinstance: uvloop's transports are no subclasses.
        self._transport = cast("asyncio.Transport", transport)

    def send(self, upcoming: Request, since: float) -> None:
        """Send; the latency will count from ``since``."""
        self._request, self._since = upcoming, since
        if self.gone.done() or self._transport is None:
            self._answers.lost += 1
            return
        self._transport.write(upcoming.wire)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def data_received(self, data: bytes) -> None:
        received = self._received + data if self._received else data
        head = received.find(_END_OF_HEAD)
        length = _LENGTH.search(received, 0, head + 2) if head >= 0 else None
        if head >= 0 and length is None:
            self._answers.example = received
            self.close()  # counted as lost: a body without a length ends nowhere
            return
        body = head + len(_END_OF_HEAD)
        if length is None or len(received) < body + int(length[1]):
            self._received = received
            return
        self._received = b""
        self._count(received, received[body:])
        self._request = None
        self._free(self)

    def _count(self, received: bytes, body: bytes) -> None:
        answers = self._answers
        if not received[_STATUS].startswith(b"2"):
            answers.refused += 1
            answers.example = received
        elif self._request is None or self._request.expected not in body:
            answers.mismatched += 1
            answers.example = received
        else:
            answers.latencies.append(time.perf_counter() - self._since)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        if self._request is not None:
            self._answers.lost += 1
        if not self.gone.done():
            self.gone.set_result(None)


async def _connect(
    port: int, connections: int, answers: Answers, free: Callable[[_Connection], None]
) -> list[_Connection]:
    loop = asyncio.get_running_loop()
    every = []
    for _ in range(connections):
        _, connection = await loop.create_connection(lambda: _Connection(answers, free), HOST, port)
        every.append(connection)
    return every


class _Timerspec(ctypes.Structure):
    _fields_ = (
        ("interval_s", ctypes.c_long),
        ("interval_ns", ctypes.c_long),
        ("first_s", ctypes.c_long),
        ("first_ns", ctypes.c_long),
    )


class _Ticker:
    """Calls back at a fixed rate, to the microsecond, for as long as it is open."""

    _MONOTONIC = 1
    _NONBLOCK_CLOEXEC = os.O_NONBLOCK | os.O_CLOEXEC

    def __init__(self, interval: float, call: Callable[[], None]) -> None:
        self._interval = max(int(interval * _NANOSECONDS), 1)
        self._call = call
        self._descriptor = -1

    def __enter__(self) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._descriptor = libc.timerfd_create(self._MONOTONIC, self._NONBLOCK_CLOEXEC)
        if self._descriptor < 0:
            raise OSError(ctypes.get_errno(), "no timer")
        parts = divmod(self._interval, _NANOSECONDS)
        spec = _Timerspec(*parts, *parts)
        libc.timerfd_settime(self._descriptor, 0, ctypes.byref(spec), None)
        asyncio.get_running_loop().add_reader(self._descriptor, self._tick)

    def __exit__(self, *_: object) -> None:
        asyncio.get_running_loop().remove_reader(self._descriptor)
        os.close(self._descriptor)

    def _tick(self) -> None:
        os.read(self._descriptor, 8)
        self._call()
