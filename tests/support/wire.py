"""A wire between us and a provider, which can be cut at any point of a request.

* A connection is kept for the next request, as providers do it, unless ``keeps`` says otherwise.
* ``cut`` says where. Before ``not_answered`` the provider has never seen the request; from there on
  it has done what was asked for, and we cannot know.
"""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from typing import Final, Literal
from urllib.parse import urlsplit

from support.ports import free_port

Cut = Literal[
    "refused",  # nobody listens
    "reset_at_once",  # somebody does, and hangs up
    "lost_on_the_way",  # the request is read, and gets no further
    "not_answered",  # it gets there, and nothing comes back
    "in_the_head",  # half of a status line comes back
    "in_the_body",  # half of a body
]
# Did the provider see the request, and do as it says?
SEEN: Final[dict[Cut, bool]] = {
    "refused": False,
    "reset_at_once": False,
    "lost_on_the_way": False,
    "not_answered": True,
    "in_the_head": True,
    "in_the_body": True,
}
# In which of ten requests a provider is down that is so in ``down`` of them; spread, so that no run
# of them is all good.
_FLAPS: Final = (0, 5, 9, 1, 6, 2, 4, 7, 3, 8)
_LENGTH: Final = re.compile(rb"(?i)\r\ncontent-length: (\d+)")
_CLOSE: Final = re.compile(rb"(?i)\r\nconnection: [^\r]*")
_DOWN: Final = b"HTTP/1.1 503 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class Wire:
    """Listens at ``base``, and passes on to a provider's address."""

    def __init__(self, to: str) -> None:
        self.heard: list[bytes] = []
        address = urlsplit(to)
        assert address.hostname is not None
        assert address.port is not None
        self._to = (address.hostname, address.port)
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = free_port()  # which nobody else gets while the wire is cut
        self.asked = 0  # for tokens
        self.cut: Cut | None = None
        self.down = 0  # in so many of ten requests for tokens
        self.keeps = True

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def put(self, cut: Cut | None) -> None:
        """Cut the wire there, or mend it."""
        self.cut = cut
        if cut == "refused":
            await self.close()
        elif self._server is None:
            await self.open()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._handle(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(asyncio.IncompleteReadError, OSError):
                while await self._one(reader, writer):
                    pass
        finally:
            writer.transport.abort()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Pass on one request; will there be more on this connection?"""
        if self._is_cut("reset_at_once"):
            return False
        request = await _request(reader)
        if self._is_cut("reset_at_once"):  # meanwhile
            return False
        self.asked += request.startswith(b"POST /oauth/token")
        if self._is_cut("lost_on_the_way"):
            return False
        stays = False
        if _FLAPS[self.asked % len(_FLAPS)] < self.down:
            writer.write(_DOWN)
        else:
            answer = await self._passed_on(request)
            if self.keeps and self._is_cut(None) and _LENGTH.search(answer):
                stays, answer = True, _CLOSE.sub(b"", answer, count=1)
            head = answer.index(b"\r\n\r\n") + 4
            said = {"not_answered": 0, "in_the_head": 12, "in_the_body": (head + len(answer)) // 2}
            writer.write(answer[: said.get(self.cut or "", len(answer))])
        await writer.drain()
        if not stays:
            writer.close()
            await writer.wait_closed()
        return stays

    def _is_cut(self, cut: Cut | None) -> bool:
        return self.cut == cut

    async def _passed_on(self, request: bytes) -> bytes:
        self.heard.append(request)
        reader, writer = await asyncio.open_connection(*self._to)
        try:
            writer.write(request)
            return await reader.read()
        finally:
            writer.close()


async def _request(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    length = _LENGTH.search(head)
    body = await reader.readexactly(int(length[1]) if length else 0)
    kept = _CLOSE.sub(b"", head)
    return kept[:-2] + b"Connection: close\r\n\r\n" + body


@contextlib.asynccontextmanager
async def wired(to: str) -> AsyncIterator[Wire]:
    wire = Wire(to)
    await wire.open()
    try:
        yield wire
    finally:
        await wire.close()
