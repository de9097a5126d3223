"""Outbound WebSockets: what stays out of reach, what flows, how fast, and how they end."""

import asyncio
import os
import tracemalloc
from pathlib import Path

import pytest
from support.loopback import (
    OK,
    Authority,
    ask,
    assert_hides,
    calling,
    listening,
    saying,
    until,
)
from support.sockets import answering, echo, nothing, opened
from websockets.asyncio.server import ServerConnection

from vault.egress import Closed, Dial, Endpoint, Timeouts
from vault.errors import EgressDenied, Unreachable, UpstreamFailed
from vault.secret import Secret

MIB = 1 << 20
SHORT = Timeouts(connect=0.5, wait=0.5, read=0.5, total=0.5)


async def test_frames_go_both_ways_byte_for_byte_and_in_order() -> None:
    frames: list[str | bytes] = [
        "",
        "ä\u2028\x00😀",
        b"",
        b"\x00\xff{",
        os.urandom(300_000),
        "x" * 70_000,
    ]
    async with answering(echo) as server, opened(server.url()) as socket:
        for frame in frames:
            await socket.send(frame)
        assert [await socket.receive() for _ in frames] == frames


async def test_a_secret_leaves_as_text() -> None:
    async with answering(echo) as server, opened(server.url()) as socket:
        await socket.send(Secret('{"a":"ä"}'))
        assert await socket.receive() == '{"a":"ä"}'


async def test_the_handshake_goes_to_the_path_and_query_as_given_and_offers_no_compression() -> (
    None
):
    async with answering(echo) as server, opened(server.url("/a/b?c=%2B&d=1")):
        request = server.came[0].request
        assert request is not None
        assert request.path == "/a/b?c=%2B&d=1"
        assert "Sec-WebSocket-Extensions" not in request.headers
        assert "Origin" not in request.headers


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1/", "https://127.0.0.1/", "127.0.0.1", "ftp://a/", ""]
)
async def test_only_a_sockets_url_is_opened(url: str) -> None:
    async with calling() as egress:
        with pytest.raises(EgressDenied):
            await egress.socket("upstream", Dial(url=Secret(url)))


@pytest.mark.parametrize(
    "url",
    [
        "wss://169.254.169.254/?s=sentinel",
        "ws://[::ffff:169.254.169.254]/?s=sentinel",
        "wss://10.0.0.1/?s=sentinel",
        "wss://rebound.example.com/?s=sentinel",
        "ws://public.example.com/?s=sentinel",
        "wss://user:word@public.example.com/?s=sentinel",
        "wss://public.example.com:6379/?s=sentinel",
    ],
)
async def test_an_address_that_no_call_may_reach_no_socket_reaches(url: str) -> None:
    table = {"rebound.example.com": ["1.1.1.1", "127.0.0.1"], "public.example.com": ["1.1.1.1"]}
    async with calling("192.0.2.1", table) as egress:
        with pytest.raises(EgressDenied) as caught:
            await egress.socket("upstream", Dial(url=Secret(url)))
        assert_hides("sentinel", caught.value)


async def test_what_is_open_for_tools_is_not_for_an_upstreams_socket() -> None:
    async with answering(echo) as server, calling("tool=127.0.0.1") as egress:
        with pytest.raises(EgressDenied):
            await egress.socket("upstream", Dial(url=Secret(server.url())))
        async with opened(server.url(), egress, "tool"):
            pass
        assert len(server.came) == 1


async def test_our_own_services_are_out_of_a_sockets_reach() -> None:
    async with answering(echo) as ours:
        own = [Endpoint("0.0.0.0", ours.port)]  # noqa: S104 - what we listen on
        async with calling("127.0.0.0/8", forbidden=own) as egress:
            with pytest.raises(EgressDenied):
                await egress.socket("upstream", Dial(url=Secret(ours.url())))
        assert ours.came == []


async def test_a_certificate_is_verified(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    table = {"api.example.com": ["127.0.0.1"]}
    tls = authority.server("api.example.com")
    async with answering(echo, tls=tls) as server:
        url = f"wss://api.example.com:{server.port}/"
        async with calling("api.example.com", table) as suspicious:
            with pytest.raises(Unreachable, match="TLS"):
                await suspicious.socket("upstream", Dial(url=Secret(url)))
        assert server.came == []
        async with (
            calling("api.example.com", table, ca_file=authority.file) as egress,
            opened(url, egress) as socket,
        ):
            await socket.send("safe")
            assert await socket.receive() == "safe"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_handshake_that_is_answered_with_a_redirect_goes_nowhere_else(status: int) -> None:
    async with answering(echo) as target:
        head = f"HTTP/1.1 {status} Go\r\nLocation: http://127.0.0.1:{target.port}/\r\n"
        async with (
            listening(saying(f"{head}Content-Length: 0\r\n\r\n".encode())) as server,
            calling() as egress,
        ):
            with pytest.raises(UpstreamFailed, match="redirect") as caught:
                await egress.socket(
                    "upstream", Dial(url=Secret(f"ws://127.0.0.1:{server.port}/?s=sentinel"))
                )
            assert_hides("sentinel", caught.value)
            assert len(server.heard) == 1
        assert target.came == []


SWITCHING = b"HTTP/1.1 101 Yes\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (OK, "200"),
        (b"HTTP/1.1 401 No\r\nContent-Length: 8\r\n\r\nsentinel", "401"),
        (b"HTTP/1.1 503 No\r\nContent-Length: 8\r\n\r\nsentinel", "503"),
        (SWITCHING + b"Sec-WebSocket-Accept: sentinel\r\n\r\n", "101"),
        (b"HTTP/1.1 101 Yes\r\n\r\n", "101"),
        (b"sentinel sentinel\r\n\r\n", "HTTP"),
    ],
)
async def test_whoever_does_not_speak_websocket_is_not_spoken_to(answer: bytes, said: str) -> None:
    async with listening(saying(answer)) as server, calling() as egress:
        url = Secret(f"ws://127.0.0.1:{server.port}/?s=sentinel")
        with pytest.raises(UpstreamFailed, match=said) as caught:
            await egress.socket("upstream", Dial(url=url))
        assert_hides("sentinel", caught.value)
        assert len(server.heard) == 1


async def test_a_handshake_that_gets_no_answer_ends_in_time_and_is_not_repeated() -> None:
    async with listening(saying(OK, after=60)) as slow, calling() as egress:
        with pytest.raises(Unreachable, match="no answer in time") as caught:
            await egress.socket(
                "upstream",
                Dial(url=Secret(f"ws://127.0.0.1:{slow.port}/"), timeout=Timeouts(read=0.5)),
            )
        assert caught.value.sent
        await until(lambda: slow.heard)
        assert len(slow.heard) == 1
    async with listening(saying(b"")) as rude, calling() as egress:
        with pytest.raises(Unreachable):
            await egress.socket("upstream", Dial(url=Secret(f"ws://127.0.0.1:{rude.port}/")))
        assert len(rude.heard) == 1


async def test_a_socket_never_takes_over_a_connection_that_a_call_used() -> None:
    async with listening(saying(OK)) as server, calling() as egress:
        assert (await ask(egress, f"http://127.0.0.1:{server.port}/", "upstream")).status == 200
        with pytest.raises(UpstreamFailed):
            await egress.socket("upstream", Dial(url=Secret(f"ws://127.0.0.1:{server.port}/")))
        assert server.accepted == 2


async def test_open_sockets_are_counted_and_take_no_place_of_a_call() -> None:
    async with (
        answering(echo) as server,
        listening(saying(OK)) as web,
        calling(max_sockets=1, max_connections=1) as egress,
        opened(server.url(), egress) as socket,
    ):
        with pytest.raises(Unreachable):
            await egress.socket("upstream", Dial(url=Secret(server.url()), timeout=SHORT))
        assert (await ask(egress, f"http://127.0.0.1:{web.port}/", "upstream")).status == 200
        await socket.close()
        async with opened(server.url(), egress) as next_one:
            await next_one.send("there")
            assert await next_one.receive() == "there"


async def test_a_message_that_is_too_long_closes_with_1009() -> None:
    async def long(connection: ServerConnection) -> None:
        await connection.send("x" * 2_001)

    async with answering(long) as server, opened(server.url(), max_bytes=2_000) as socket:
        assert await socket.receive() == Closed(1009, ours=True)
        await server.left.wait()
        assert server.closes == [1009]


async def test_a_message_in_pieces_is_measured_whole() -> None:
    async def pieces(connection: ServerConnection) -> None:
        await connection.send("x" * 500 for _ in range(5))

    async with answering(pieces) as server, opened(server.url(), max_bytes=2_000) as socket:
        assert await socket.receive() == Closed(1009, ours=True)


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (b"\xc1\x01x", 1002),  # compressed, though nobody agreed to that
        (b"\x83\x01x", 1002),  # an opcode that means nothing
        (b"\x80\x01x", 1002),  # the rest of nothing
        (b"\x81\x01\xff", 1007),  # text that is no text
        (b"\x89\x7e\x00\x7e" + b"x" * 126, 1002),  # a ping that is too long
    ],
)
async def test_whoever_breaks_the_protocol_is_told_so(frame: bytes, code: int) -> None:
    async def broken(connection: ServerConnection) -> None:
        connection.transport.write(frame)

    async with answering(broken) as server, opened(server.url()) as socket:
        assert await socket.receive() == Closed(code, ours=True)
        await server.left.wait()
        assert server.closes == [code]


@pytest.mark.parametrize("code", [1000, 1001, 1008, 1011, 1013, 3000, 4999])
async def test_the_other_sides_goodbye_arrives_with_its_code_and_reason(code: int) -> None:
    async def leave(connection: ServerConnection) -> None:
        await connection.send("last words")
        await connection.close(code, "because ä")

    async with answering(leave) as server, opened(server.url()) as socket:
        assert await socket.receive() == "last words"
        assert await socket.receive() == Closed(code, "because ä")


async def test_a_goodbye_without_a_code_and_a_lost_connection_are_told_apart() -> None:
    async def bare(connection: ServerConnection) -> None:
        connection.transport.write(b"\x88\x00")

    async def lost(connection: ServerConnection) -> None:
        connection.transport.abort()

    async def ended(connection: ServerConnection) -> None:
        connection.transport.write_eof()

    for handler, code in ((bare, 1005), (lost, 1006), (ended, 1006)):
        async with answering(handler) as server, opened(server.url()) as socket:
            assert await socket.receive() == Closed(code)
            assert isinstance(await socket.receive(), Closed)
            await asyncio.sleep(0.05)
            with pytest.raises(Unreachable):
                await socket.send("anybody?")


async def test_our_goodbye_arrives_with_its_code_and_a_reason_that_fits() -> None:
    async with answering(echo) as server, opened(server.url()) as socket:
        await socket.close(4001, "ä" * 100)
        await socket.close(1000)
        await server.left.wait()
        assert server.closes == [4001]
        assert server.came[0].close_reason == "ä" * 61


async def test_whoever_does_not_answer_a_goodbye_is_left_in_time() -> None:
    async def chattering(connection: ServerConnection) -> None:
        connection.transport.pause_reading()
        while not connection.transport.is_closing():
            connection.transport.write(b"\x81\x01x")
            await asyncio.sleep(0.01)

    async with answering(chattering) as server, opened(server.url(), goodbye=0.3) as socket:
        async with asyncio.timeout(4):  # less than it would be if nobody said how long
            await socket.close()


async def test_pings_are_answered_while_someone_receives() -> None:
    async def pinging(connection: ServerConnection) -> None:
        await (await connection.ping("alive?"))
        await connection.send("alive")

    async with answering(pinging) as server, opened(server.url()) as socket:
        assert await socket.receive() == "alive"


async def test_whoever_answers_no_ping_is_gone() -> None:
    async def deaf(connection: ServerConnection) -> None:
        connection.transport.pause_reading()

    async with answering(deaf) as server, opened(server.url(), heartbeat=0.2) as socket:
        async with asyncio.timeout(20):  # less than it would be if nobody said how long
            assert await socket.receive() == Closed(1006)


async def test_whoever_does_not_receive_stops_the_other_side_within_bounds() -> None:
    sent = 0

    async def flood(connection: ServerConnection) -> None:
        nonlocal sent
        while sent < 64 * MIB:
            await connection.send(bytes(64 * 1024))
            sent += 64 * 1024

    async with answering(flood) as server, opened(server.url()) as socket:
        assert await socket.receive() == bytes(64 * 1024)
        tracemalloc.start()
        before = -1
        while sent != before:
            before = sent
            await asyncio.sleep(0.3)
        held, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert sent < 24 * MIB  # what two kernels' buffers hold
        assert held < 2 * MIB
        received = 1
        while received * 64 * 1024 < 64 * MIB:
            assert len(await socket.receive()) == 64 * 1024  # type: ignore[arg-type]
            received += 1
    assert sent == 64 * MIB


async def test_sending_to_whoever_does_not_read_waits() -> None:
    async def deaf(connection: ServerConnection) -> None:
        connection.transport.pause_reading()

    async with answering(deaf) as server, opened(server.url(), goodbye=0.2) as socket:
        tracemalloc.start()

        async def talk() -> None:
            for _ in range(1_000):
                await socket.send(bytes(64 * 1024))

        with pytest.raises(TimeoutError):
            await asyncio.wait_for(talk(), 2)
        held, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert held < 2 * MIB


async def test_open_sockets_end_when_everything_closes() -> None:
    async with answering(echo) as server, calling() as egress:
        socket = await egress.socket("upstream", Dial(url=Secret(server.url())))
        waiting = asyncio.create_task(socket.receive())
        await asyncio.sleep(0.05)
        await egress.aclose()
        assert await waiting == Closed(1006)
        with pytest.raises(Unreachable, match="shutting down"):
            await egress.socket("upstream", Dial(url=Secret(server.url())))


async def test_nothing_of_a_url_stands_in_a_repr() -> None:
    async with answering(nothing) as server, opened(server.url()) as socket:
        assert "sentinel" not in repr(socket)
        assert repr(Dial(url=Secret(server.url()))) == "Dial()"
