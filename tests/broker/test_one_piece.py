"""An answer leaves in one piece, and nothing that is written waits long, is lost or overtaken."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import pytest
import uvicorn
from hypothesis import given
from hypothesis import strategies as st
from litestar.types import Receive, Scope, Send

from broker.server import BoundedProtocol, OnePiece

GO_ON = asyncio.Event()


class Line(asyncio.Transport):
    """The other end: notes what is written, a piece for each write."""

    def __init__(self) -> None:
        super().__init__()
        self.pieces: list[bytes] = []
        self.closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.closed
        self.pieces.append(bytes(data))

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True


@given(st.lists(st.sampled_from([b"", b"head", b"body", b"more", "a turn"]), max_size=12))
def test_whatever_is_written_arrives_in_its_order(steps: list[bytes | str]) -> None:
    async def run() -> Line:
        line = Line()
        way = OnePiece(line, asyncio.get_running_loop())
        for step in steps:
            if isinstance(step, bytes):
                way.write(step)
            else:
                await asyncio.sleep(0)
        way.close()
        await asyncio.sleep(0)
        return line

    line = asyncio.run(run())
    assert line.closed
    assert b"".join(line.pieces) == b"".join(one for one in steps if isinstance(one, bytes))


async def test_a_head_and_its_body_are_one_piece_and_a_head_alone_waits_for_one_turn() -> None:
    line = Line()
    way = OnePiece(line, asyncio.get_running_loop())
    way.write(b"head")
    assert line.pieces == []
    way.write(b"body")
    assert line.pieces == [b"headbody"]
    way.write(b"another head")
    await asyncio.sleep(0)
    assert line.pieces == [b"headbody", b"another head"]


async def test_what_waits_for_a_line_that_is_gone_is_dropped() -> None:
    line = Line()
    way = OnePiece(line, asyncio.get_running_loop())
    way.write(b"head")
    line.closed = True
    await asyncio.sleep(0)
    way.close()
    assert line.pieces == []


async def slow(scope: Scope, receive: Receive, send: Send) -> None:
    """Says how it begins, and goes on when it is told to."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    if scope["path"] == "/slow":
        await GO_ON.wait()
    await send({"type": "http.response.body", "body": scope["path"].encode(), "more_body": False})


@pytest.fixture
async def port() -> AsyncIterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(
            slow, loop="none", http=BoundedProtocol, log_config=None, lifespan="off"
        )
        server = uvicorn.Server(config)
        server.capture_signals = contextlib.nullcontext  # type: ignore[assignment] # the run has its own
        task = asyncio.create_task(server.serve([listener]))
        while not server.started:  # noqa: ASYNC110 - uvicorn tells nobody
            await asyncio.sleep(0.01)
        yield listener.getsockname()[1]
        server.should_exit = True
        await task


async def test_a_head_is_there_before_a_body_that_takes_its_time(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    GO_ON.clear()
    writer.write(b"GET /slow HTTP/1.1\r\nhost: x\r\n\r\n")
    async with asyncio.timeout(5):
        head = await reader.readuntil(b"\r\n\r\n")
        GO_ON.set()
        body = await reader.readuntil(b"0\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200")
    assert b"/slow" in body
    writer.close()


async def said_to(port: int, *requests: bytes) -> bytes:
    """All that a server says to requests that come in one packet, the last of which ends it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"".join(requests))
    async with asyncio.timeout(5):
        said = await reader.read()
    writer.close()
    return said


async def test_requests_that_come_together_are_answered_in_their_order(port: int) -> None:
    every = [b"HEAD /a", b"GET /b", b"HEAD /c", b"GET /d"]
    heads = [one + b" HTTP/1.1\r\nhost: x\r\n" for one in every]
    ends = [b"\r\n", b"\r\n", b"\r\n", b"connection: close\r\n\r\n"]
    said = await said_to(port, *(head + end for head, end in zip(heads, ends, strict=True)))
    assert said.count(b"HTTP/1.1 200") == len(every)
    assert said.index(b"/b") < said.index(b"/d")
    assert b"/a" not in said
    assert said.endswith(b"0\r\n\r\n")


async def test_what_is_no_request_is_told_so(port: int) -> None:
    assert (await said_to(port, b"what is no request\r\n\r\n")).startswith(b"HTTP/1.1 400")
