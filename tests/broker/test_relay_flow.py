"""The relay between a client and an upstream of the test's own: how fast, how much, how it ends."""

import asyncio
import json
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from support.eleven import INITIATION, METADATA
from support.relaying import FRAME, TOKEN, Relaying, relaying
from support.sockets import Answerer, Handler, answering, echo
from websockets.asyncio.server import ServerConnection

from broker import relay as relay_module
from vault.vault import Vault

MIB = 1 << 20
PIECE = 64 * 1024
PATIENCE = 60.0  # seconds, for what comes at once but on a machine that stands still
HELLO = json.dumps({"type": METADATA, f"{METADATA}_event": {"conversation_id": "conv_1"}})


@asynccontextmanager
async def between(
    vault: Vault, handler: Handler, **settings: Any
) -> AsyncIterator[tuple[Relaying, Answerer]]:
    """Run a relay to an upstream that greets, and then does as `handler` does."""

    async def greeting(connection: ServerConnection) -> None:
        connection.first = await connection.recv()  # type: ignore[attr-defined]
        await connection.send(HELLO)
        await handler(connection)

    async with answering(greeting) as server:

        async def where() -> str:
            return server.url("/?conversation_signature=upstream_sentinel")

        async with relaying(vault, where, **settings) as relays:
            yield relays, server


async def soon(true: Any) -> None:
    async with asyncio.timeout(PATIENCE):
        while not true():  # noqa: ASYNC110 - nobody is told
            await asyncio.sleep(0.01)


async def test_the_upstream_hears_the_mints_frame_first_and_no_word_of_the_client(
    vault: Vault,
) -> None:
    said: dict[str, Any] = {"source_info": {"source": "js_sdk"}, "user_id": "bob"}
    async with between(vault, echo) as (relays, server), relays.talking(**said):
        assert json.loads(server.came[0].first) == FRAME  # type: ignore[attr-defined]
        request = server.came[0].request
        assert request is not None
        assert "Origin" not in request.headers
        assert "Cookie" not in request.headers


async def test_text_and_bytes_pass_as_they_are(vault: Vault) -> None:
    frames: list[Any] = ['{"a": 1,  "b":"\\u00e4ä"}', "", b"", bytes(range(256)), "no json", b"{}"]
    async with between(vault, echo) as (relays, _), relays.talking() as talk:
        for frame in frames:
            if isinstance(frame, str):
                await talk.socket.send_str(frame)
            else:
                await talk.socket.send_bytes(frame)
        assert [(await talk.socket.receive(PATIENCE)).data for _ in frames] == frames


async def test_a_secret_that_the_upstream_repeats_does_not_reach_the_client(vault: Vault) -> None:
    async def repeats(connection: ServerConnection) -> None:
        await connection.send(f'{{"type":"agent_response","text":"{TOKEN}"}}')
        await connection.send(f"Bearer {TOKEN}".encode())

    async with between(vault, repeats) as (relays, _), relays.talking() as talk:
        assert (await talk.frame())["text"] == "<REDACTED>"
        assert (await talk.socket.receive(PATIENCE)).data == b"<REDACTED>"


@pytest.mark.parametrize(
    ("code", "heard"), [(1000, 1000), (1001, 1001), (1008, 1008), (3000, 3000), (4999, 4999)]
)
async def test_the_clients_close_code_and_reason_go_through(
    vault: Vault, code: int, heard: int
) -> None:
    async with between(vault, echo) as (relays, server):
        async with relays.talking() as talk:
            await talk.socket.close(code=code, message=b"my reason")
        await asyncio.wait_for(server.left.wait(), PATIENCE)
        assert server.closes == [heard]
        assert server.came[0].close_reason == "my reason"


async def test_a_client_that_vanishes_leaves_the_upstream_with_1001(vault: Vault) -> None:
    async with between(vault, echo) as (relays, server):
        async with relays.talking() as talk:
            transport = talk.socket._response.connection.transport  # type: ignore[union-attr]  # noqa: SLF001 - to cut it
            transport.abort()  # type: ignore[union-attr]
            await asyncio.wait_for(server.left.wait(), PATIENCE)
        assert server.closes == [1001]
        await soon(lambda: relays.door.ended == ["kcv_1"])


async def test_a_wrong_first_frame_never_gets_as_far_as_the_upstream(vault: Vault) -> None:
    async with between(vault, echo) as (relays, server):
        for frame in (
            {"type": "user_message", "text": "hi"},
            {"type": INITIATION, "dynamic_variables": {"topic": {"nested": 1}}},
        ):
            assert (await relays.closed(relays.url(), frame))[0] == 1008
        await soon(lambda: relays.door.ended == ["kcv_1", "kcv_2"])
        assert server.came == []


async def test_what_we_find_fault_with_is_not_the_upstreams_business(vault: Vault) -> None:
    async with between(vault, echo) as (relays, server):
        async with relays.talking() as talk:
            await talk.send({"type": INITIATION})
            assert (await talk.closed())[0] == 1008
        await asyncio.wait_for(server.left.wait(), PATIENCE)
        assert server.closes == [1001]
        assert server.came[0].close_reason == ""


async def test_what_somebody_ended_the_upstream_leaves_with_1000(
    vault: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay_module, "LOOK", 0.05)
    async with between(vault, echo) as (relays, server):
        async with relays.talking() as talk:
            relays.door.over.add("kcv_1")
            assert await talk.closed() == (1000, "The conversation was ended")
        await asyncio.wait_for(server.left.wait(), PATIENCE)
        assert server.closes == [1000]
        assert server.came[0].close_reason == ""
        await soon(lambda: relays.metric("keyturn_relay_closed_total", by="us", code="1000"))
        assert relays.door.ended == ["kcv_1"]


async def test_an_upstreams_frame_that_is_too_long_ends_it(vault: Vault) -> None:
    async def long(connection: ServerConnection) -> None:
        await connection.send("x" * (relay_module.MAX_HEARD + 1))

    async with between(vault, long) as (relays, server):
        async with relays.talking() as talk:
            assert (await talk.closed())[0] == 1009
        await asyncio.wait_for(server.left.wait(), PATIENCE)
        assert server.closes == [1009]


async def test_a_slow_client_holds_the_upstream_up_and_memory_stays(vault: Vault) -> None:
    sent = 0

    async def flood(connection: ServerConnection) -> None:
        nonlocal sent
        while sent < 64 * MIB:
            await connection.send(bytes(PIECE))
            sent += PIECE

    async with between(vault, flood) as (relays, _), relays.talking() as talk:
        tracemalloc.start()
        before = -1
        while sent != before:
            before = sent
            await asyncio.sleep(0.5)
        held, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert sent < 32 * MIB  # what four kernels' buffers hold
        assert held < 3 * MIB, held  # the test's own client and upstream included
        got = 0
        while got < 64 * MIB:
            got += len((await talk.socket.receive(PATIENCE)).data)
        assert got == 64 * MIB


async def test_a_slow_upstream_holds_the_client_up_and_memory_stays(vault: Vault) -> None:
    wanted = asyncio.Event()

    async def later(connection: ServerConnection) -> None:
        connection.transport.pause_reading()
        await wanted.wait()
        connection.transport.resume_reading()
        got = 0
        while got < 64 * MIB:
            got += len(await connection.recv())
        await connection.send("all of it")

    sent = 0
    async with between(vault, later) as (relays, _), relays.talking() as talk:

        async def flood() -> None:
            nonlocal sent
            while sent < 64 * MIB:
                await talk.socket.send_bytes(bytes(PIECE))
                sent += PIECE

        tracemalloc.start()
        flooding = asyncio.create_task(flood())
        before = -1
        while sent != before:
            before = sent
            await asyncio.sleep(0.5)
        held, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert sent < 32 * MIB
        assert held < 3 * MIB, held
        wanted.set()
        await flooding
        assert (await talk.socket.receive(PATIENCE)).data == "all of it"


async def test_a_client_that_takes_nothing_is_left(
    vault: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay_module, "STALLED", 0.5)
    monkeypatch.setattr(relay_module, "GOODBYE", 0.2)

    async def flood(connection: ServerConnection) -> None:
        while True:
            await connection.send(bytes(PIECE))

    async with between(vault, flood) as (relays, server), relays.talking():
        await asyncio.wait_for(server.left.wait(), PATIENCE)
        assert server.closes == [1001]
        await soon(lambda: relays.door.ended == ["kcv_1"])
        await soon(lambda: relays.run.service.relay.open == 0)
        assert relays.metric("keyturn_relay_closed_total", by="us", code="1008") == 1


async def test_an_upstream_that_takes_nothing_is_left(
    vault: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay_module, "STALLED", 0.5)

    async def deaf(connection: ServerConnection) -> None:
        connection.transport.pause_reading()

    async with between(vault, deaf) as (relays, _), relays.talking() as talk:

        async def flood() -> None:
            while True:
                await talk.socket.send_bytes(bytes(PIECE))

        flooding = asyncio.create_task(flood())
        async with asyncio.timeout(PATIENCE):
            while not talk.socket.closed and (await talk.socket.receive()).type.name != "CLOSE":
                pass
        assert talk.socket.close_code == 1011
        flooding.cancel()
        await asyncio.gather(flooding, return_exceptions=True)


async def test_pings_of_a_client_that_does_not_read_pile_nothing_up(vault: Vault) -> None:
    sent = 0

    async def flood(connection: ServerConnection) -> None:
        nonlocal sent
        while True:
            await connection.send(bytes(PIECE))
            sent += PIECE

    async with between(vault, flood) as (relays, _), relays.talking() as talk:
        before = -1
        while sent != before:  # what it does not read piles up elsewhere first
            before = sent
            await asyncio.sleep(0.5)
        tracemalloc.start()
        for _ in range(600):
            for _ in range(100):
                await talk.socket.ping(b"x" * 125)
            await asyncio.sleep(0)
        await asyncio.sleep(0.5)
        held, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert held < 2 * MIB


async def test_a_message_in_endless_empty_pieces_is_refused(vault: Vault) -> None:
    async with between(vault, echo) as (relays, _), relays.talking() as talk:
        connection = talk.socket._response.connection  # noqa: SLF001 - no client sends this
        assert connection is not None
        assert connection.transport is not None
        connection.transport.write(b"\x01\x80\0\0\0\0" + b"\x00\x80\0\0\0\0" * 5_000)
        assert (await talk.closed())[0] == 1009


async def test_requests_are_taken_while_a_conversation_goes_on_after_the_signal(
    vault: Vault,
) -> None:
    async with between(vault, echo, drain_seconds=0, relay_drain=30) as (relays, server):
        async with relays.talking() as talk:
            relays.run.server.handle_exit(15, None)
            restarting = (1012, "This replica is stopping; try again")
            url = relays.url()
            assert await relays.closed(url) == restarting
            await asyncio.sleep(0.5)
            await talk.socket.send_str("still here")
            assert (await talk.socket.receive(PATIENCE)).data == "still here"
            await talk.socket.close()
        await asyncio.wait_for(relays.run.task, PATIENCE)
        assert server.closes == [1000]
        assert relays.door.ended == ["kcv_1"]


async def test_conversations_that_go_on_too_long_after_the_signal_are_cut(vault: Vault) -> None:
    async with between(vault, echo, drain_seconds=0, relay_drain=0.5) as (relays, server):
        async with relays.talking() as talk:
            relays.run.server.handle_exit(15, None)
            assert (await talk.closed())[0] == 1012
        await asyncio.wait_for(relays.run.task, PATIENCE)
        assert server.closes == [1012]
        assert relays.door.ended == ["kcv_1"]
