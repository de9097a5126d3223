"""An answer that is read while it arrives, and a body that is sent while it comes in."""

import asyncio
import gzip
from collections.abc import AsyncIterator

import pytest
from support.loopback import PATIENCE, calling, listening, saying

from vault.egress import Egress, Request, Timeouts, Upload
from vault.errors import AnswerTooLarge, Unreachable, UpstreamFailed

HEAD = b"HTTP/1.1 200 OK\r\n"


def asked(port: int, **more: object) -> Request:
    values = {"method": "GET", "url": f"http://127.0.0.1:{port}/", **more}
    return Request(**values)  # type: ignore[arg-type] # as the test says


async def test_pieces_arrive_before_the_answer_has_ended() -> None:
    read_one = asyncio.Event()

    async def in_two(writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD + b"Content-Length: 4\r\n\r\nab")
        await read_one.wait()
        writer.write(b"cd")

    async with (
        listening(in_two) as server,
        calling() as egress,
        egress.open("provider", asked(server.port)) as answer,
    ):
        stream = answer.pieces()
        assert answer.status == 200
        assert await asyncio.wait_for(anext(stream), PATIENCE) == b"ab"
        read_one.set()
        assert await anext(stream) == b"cd"
        assert await anext(stream, None) is None


async def read(egress: Egress, request: Request, seen: list[bytes] | None = None) -> None:
    async with egress.open("provider", request) as answer:
        async for piece in answer.pieces():
            if seen is not None:
                seen.append(piece)


async def test_it_ends_at_its_limit() -> None:
    announced = HEAD + b"Content-Length: 50\r\n\r\n" + b"x" * 50
    unannounced = HEAD + b"Connection: close\r\n\r\n" + b"x" * 50
    for text in (announced, unannounced):
        async with listening(saying(text, b"")) as server, calling() as egress:
            with pytest.raises(AnswerTooLarge):
                await read(egress, asked(server.port, max_bytes=49))


async def test_a_bomb_does_not_unpack() -> None:
    bomb = gzip.compress(b"0" * 1_000_000)
    head = HEAD + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(bomb)
    seen: list[bytes] = []
    async with listening(saying(head + bomb)) as server, calling() as egress:
        with pytest.raises(AnswerTooLarge):
            await read(egress, asked(server.port, max_bytes=10_000), seen)
    assert len(b"".join(seen)) <= 10_000


async def test_what_is_cut_short_is_an_error() -> None:
    packed = gzip.compress(b"hello world" * 100)[:-8]
    head = HEAD + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(packed)
    async with listening(saying(head + packed)) as server, calling() as egress:
        with pytest.raises(UpstreamFailed):
            await read(egress, asked(server.port))
    half = HEAD + b"Content-Length: 9\r\n\r\nab"
    async with listening(saying(half, b"")) as server, calling() as egress:
        with pytest.raises(Unreachable):
            await read(egress, asked(server.port))


async def test_its_time_runs_on_until_it_is_closed() -> None:
    slow = saying(HEAD + b"Content-Length: 100\r\n\r\n", *[b"x"] * 99, pause=0.05)
    limit = Timeouts(read=10, total=0.5)
    async with listening(slow) as server, calling() as egress:
        with pytest.raises(Unreachable):
            await read(egress, asked(server.port, timeout=limit))


async def test_what_goes_wrong_with_the_reader_is_the_readers() -> None:
    async def trip(egress: Egress, port: int) -> None:
        async with egress.open("provider", asked(port)):
            raise KeyError("mine")

    ok = saying(HEAD + b"Content-Length: 2\r\n\r\nok")
    async with listening(ok) as server, calling() as egress:
        with pytest.raises(KeyError, match="mine"):
            await trip(egress, server.port)


async def test_a_body_is_sent_while_it_comes_in_and_its_length_is_said() -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield b"ab"
        yield b"cd"

    ok = saying(HEAD + b"Content-Length: 2\r\n\r\nok")
    async with listening(ok) as server, calling() as egress:
        request = asked(server.port, method="POST")
        async with egress.open("provider", request, Upload(pieces(), 4)) as answer:
            assert [piece async for piece in answer.pieces()] == [b"ok"]
    [heard] = server.heard
    assert heard.endswith(b"\r\n\r\nabcd")
    assert b"Content-Length: 4\r\n" in heard
