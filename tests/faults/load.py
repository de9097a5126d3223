"""Load, and what a careful client sees of it: every request that was sent is accounted for.

The client is written on bare sockets: libraries repeat a request behind one's back when a
connection breaks, and just that must not stay unseen here.
"""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from msgspec import Struct

ANSWER_SECONDS = 60.0


class Answer(Struct, frozen=True):
    """One whole answer, and when it was asked for and came."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    begun: float
    ended: float

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def ok(self) -> bool:
        return 200 <= self.status < 300

    @property
    def is_clean_refusal(self) -> bool:
        """503 as we promise it: a problem that says when to try again."""
        if self.status != 503 or self.headers["content-type"] != "application/problem+json":
            return False
        told = self.json["retry_after"]
        return (
            self.json["code"] == "not_ready"
            and self.json["action"] == "retry"
            and 1 <= told <= 10
            and self.headers["retry-after"] == str(told)
        )


class Dropped(Exception):
    """The request was sent, and no whole answer came."""


class Refused(Exception):
    """Nobody took the connection; nothing was sent."""


class Wire:
    """One kept-alive connection at a time, opened again after ``Connection: close``."""

    def __init__(self, port: int, key: str) -> None:
        self._port = port
        self._key = key
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    @property
    def connected(self) -> bool:
        return self._streams is not None

    async def call(self, method: str, path: str, body: object = None, **headers: str) -> Answer:
        begun = time.monotonic()
        reader, writer = await self._connection()
        content = b"" if body is None else json.dumps(body).encode()
        writer.write(self._head(method, path, content, headers) + content)
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                answer = await _read(reader, begun)
        except (OSError, asyncio.IncompleteReadError, TimeoutError) as error:
            self.close()
            raise Dropped(f"{method} {path}: {type(error).__name__}") from None
        if answer.headers.get("connection", "").lower() == "close":
            self.close()
        return answer

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None

    async def _connection(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._streams is None:
            try:
                self._streams = await asyncio.open_connection("127.0.0.1", self._port)
            except OSError:
                raise Refused from None
        return self._streams

    def _head(self, method: str, path: str, content: bytes, headers: Mapping[str, str]) -> bytes:
        lines = [
            f"{method} {path} HTTP/1.1",
            "Host: 127.0.0.1",
            f"Authorization: Bearer {self._key}",
            f"Content-Length: {len(content)}",
            *(["Content-Type: application/json"] if content else []),
            *[f"{name.replace('_', '-')}: {value}" for name, value in headers.items()],
        ]
        return "\r\n".join([*lines, "", ""]).encode()


class Load:
    """Workers that each do one thing over and over until they are told to stop.

    One that finds nobody to connect to has sent nothing, and ends; ``refused`` counts those.
    """

    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self.refused = 0
        self._tasks: list[asyncio.Task[None]] = []
        self._over = asyncio.Event()

    def add(self, wire: Wire, work: Callable[[Wire], Awaitable[Answer]], pause: float = 0) -> None:
        """Add one worker."""
        self._tasks.append(asyncio.create_task(self._repeat(wire, work, pause)))

    async def until(self, enough: int, seconds: float = 120) -> None:
        """Wait until so many answers came."""
        deadline = time.monotonic() + seconds
        while len(self.answers) < enough:
            assert time.monotonic() < deadline, f"only {len(self.answers)} answers"
            for task in self._tasks:
                if task.done():
                    task.result()
            await asyncio.sleep(0.01)

    async def stop(self) -> list[Answer]:
        """Let every worker end what it does; what one of them raised is raised here."""
        self._over.set()
        for outcome in await asyncio.gather(*self._tasks, return_exceptions=True):
            if outcome is not None:
                raise outcome
        return self.answers

    async def _repeat(
        self, wire: Wire, work: Callable[[Wire], Awaitable[Answer]], pause: float
    ) -> None:
        try:
            while not self._over.is_set():
                self.answers.append(await work(wire))
                await asyncio.sleep(pause)
        except Refused:
            self.refused += 1
        finally:
            wire.close()


async def _read(reader: asyncio.StreamReader, begun: float) -> Answer:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head.split("\r\n")[:-2]
    headers = {}
    for line in lines:
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    status = int(first.split()[1])
    length = 0 if status == 204 else int(headers["content-length"])
    body = await reader.readexactly(length)
    return Answer(status, headers, body, begun, time.monotonic())
