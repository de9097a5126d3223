"""The relay, between a client and the stand-in for ElevenLabs, through the real server."""

import asyncio
import base64
import json
import os
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from support.eleven import INITIATION, Eleven, pretending
from support.relaying import VARIABLES, Relaying, relaying

from broker import relay as relay_module
from broker.sandbox.elevenlabs.conversations import Conversation
from vault.errors import Forbidden, NotReady, Unauthenticated, UpstreamFailed
from vault.model import Caller, WorkspaceId
from vault.secret import Secret
from vault.vault import Vault


@pytest.fixture
async def eleven() -> AsyncIterator[Eleven]:
    async with pretending() as found:
        await found.agent()
        yield found


@pytest.fixture
async def relays(vault: Vault, eleven: Eleven) -> AsyncIterator[Relaying]:
    async with relaying(vault, eleven) as found:
        yield found


async def soon(true: Any) -> None:
    async with asyncio.timeout(60):
        while not true():  # noqa: ASYNC110 - nobody is told
            await asyncio.sleep(0.01)


async def test_the_values_reach_the_upstream_and_never_the_client(
    relays: Relaying, eleven: Eleven
) -> None:
    said: dict[str, Any] = {
        "dynamic_variables": {"topic": "weather", "secret__user_google_token": "forged"},
        "user_id": "bob",
        "environment": "production",
    }
    async with relays.talking(**said) as talk:
        inside = await eleven.inside(talk.conversation_id)
        accounts = eleven.world.accounts.values()
        (held,) = [one.conversations[talk.conversation_id] for one in accounts]
        assert isinstance(held, Conversation)
        found = {name: held.variables[name] for name in VARIABLES}
        assert found == {**VARIABLES, "topic": "weather"}
        assert inside["environment"] == "staging"
        assert inside["user_id"] == "ada"
        await talk.say("hello")
        assert await talk.response()
        await soon(lambda: relays.door.began)
        assert relays.door.began == [("kcv_1", talk.conversation_id)]
        assert relays.door.ended == []
    await soon(lambda: relays.door.ended)
    assert relays.door.ended == ["kcv_1"]


async def test_audio_arrives_byte_for_byte_and_in_order_both_ways(
    relays: Relaying, eleven: Eleven
) -> None:
    await eleven.knob("PUT", "/elevenlabs/behaviour", {"echo_audio": True})
    chunks = [os.urandom(size) for size in (1, 8_000, 32_000, 0, 100_000) for _ in range(8)]
    async with relays.talking() as talk:
        for chunk in chunks:
            await talk.send({"user_audio_chunk": base64.b64encode(chunk).decode()})
        heard = []
        for _ in chunks:
            event = (await talk.next("audio"))["audio_event"]
            heard.append(base64.b64decode(event["audio_base_64"]))
    assert heard == chunks


async def test_a_ticket_opens_one_socket_once(relays: Relaying) -> None:
    url = relays.url()
    async with relays.talking(url):
        assert await relays.closed(url) == (1008, "unauthenticated")
    assert await relays.closed(url) == (1008, "unauthenticated")
    await soon(lambda: relays.door.ended == ["kcv_1"])


@pytest.mark.parametrize(
    "query",
    [
        "",
        "?conversation_signature=",
        "?agent_id=agent_desk",
        "?conversation_signature=a&conversation_signature=b",
        f"?conversation_signature={'x' * 201}",
    ],
)
async def test_without_one_ticket_nobody_asks_the_doorkeeper(relays: Relaying, query: str) -> None:
    base = relays.run.base.replace("http", "ws")
    closed = await relays.closed(f"{base}/v1/convai/conversation{query}")
    assert closed == (1008, "A ticket is missing")
    assert relays.door.admits == 0


async def test_a_ticket_that_never_was_is_refused_like_one_that_is_used(relays: Relaying) -> None:
    assert await relays.closed(relays.url(Secret("nothing"))) == (1008, "unauthenticated")
    refused = relays.metric("keyturn_relay_closed_total", by="refused", code="1008")
    assert refused == 1


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Unauthenticated(), 1008),
        (Forbidden("sentinel"), 1008),
        (NotReady("sentinel"), 1013),
        (UpstreamFailed("sentinel"), 1011),
    ],
)
async def test_why_nobody_is_admitted_is_a_code_and_no_text(
    relays: Relaying, error: Any, code: int
) -> None:
    relays.door.fails = error
    assert await relays.closed(relays.url()) == (code, error.code)


async def test_the_subprotocol_is_taken_where_it_is_offered(relays: Relaying) -> None:
    async with relays.socket(protocols=("bearer.x", "convai")) as talk:
        assert talk.socket.protocol == "convai"
    async with relays.socket() as talk:
        assert talk.socket.protocol is None


async def test_a_second_first_frame_ends_it(relays: Relaying, eleven: Eleven) -> None:
    for text in (
        json.dumps({"type": INITIATION, "dynamic_variables": {"secret__user_google_token": "x"}}),
        '{"type":"conversation_initiation_client\\u005fdata"}',
    ):
        async with relays.talking() as talk:
            await talk.socket.send_str(text)
            assert await talk.closed() == (1008, "A conversation is initiated once")
            shown = await eleven.inside(talk.conversation_id)
            assert shown["initiations"] == 1
    async with relays.talking() as talk:
        await talk.socket.send_bytes(json.dumps({"type": INITIATION}).encode())
        assert (await talk.closed())[0] == 1008


async def test_other_frames_pass_untouched(relays: Relaying, eleven: Eleven) -> None:
    async with relays.talking() as talk:
        await talk.send({"type": "contextual_update", "text": INITIATION})
        await talk.send({"type": "pong", "event_id": 1})
        await talk.say("still here")
        assert await talk.response()


@pytest.mark.parametrize("code", [1000, 1008, 1011, 3000, 4999])
async def test_the_upstreams_close_code_and_reason_go_through(
    relays: Relaying, eleven: Eleven, code: int
) -> None:
    faults = {"close": code, "reason": "their reason", "at": "message"}
    await eleven.knob("PUT", "/elevenlabs/socket-faults", faults)
    async with relays.talking() as talk:
        await talk.say("go")
        assert await talk.closed() == (code, "their reason")


async def test_an_upstream_that_is_killed_is_1011(relays: Relaying, eleven: Eleven) -> None:
    faults = {"drop": True, "at": "message"}
    await eleven.knob("PUT", "/elevenlabs/socket-faults", faults)
    async with relays.talking() as talk:
        await talk.say("go")
        assert await talk.closed() == (1011, "The upstream's connection was lost")
    await soon(lambda: relays.door.ended == ["kcv_1"])


async def test_an_upstream_that_refuses_the_handshake_is_1011(
    relays: Relaying, eleven: Eleven
) -> None:
    await eleven.knob("PUT", "/elevenlabs/socket-faults", {"refuse": 503})
    closed = await relays.closed(relays.url(), {"type": INITIATION})
    assert closed == (1011, "The upstream cannot be reached")
    await soon(lambda: relays.door.ended == ["kcv_1"])


async def test_a_conversation_ends_when_its_time_is_over(relays: Relaying) -> None:
    closed = await relays.closed(relays.url(seconds_left=0.5), {"type": INITIATION})
    assert closed == (1000, "The conversation's time is over")
    await soon(lambda: relays.door.ended == ["kcv_1"])


async def test_a_message_that_is_too_long_is_1009(relays: Relaying) -> None:
    async with relays.talking() as talk:
        await talk.socket.send_str("x" * (1 << 20) + "x")
        assert (await talk.closed())[0] == 1009
    await soon(lambda: relays.door.ended == ["kcv_1"])


async def test_a_client_that_says_nothing_is_left(
    relays: Relaying, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay_module, "FIRST_FRAME", 0.2)
    assert await relays.closed(relays.url()) == (1008, "The first frame did not come in time")


async def test_a_conversation_in_which_nobody_says_anything_ends(
    relays: Relaying, eleven: Eleven, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay_module, "IDLE", 0.3)
    await eleven.knob("PUT", "/elevenlabs/behaviour", {"ping_interval": 60})
    closed = await relays.closed(relays.url(), {"type": INITIATION})
    assert closed == (1001, "Nobody says anything")


async def test_while_nobody_can_say_whether_it_was_ended_a_conversation_goes_on(
    relays: Relaying, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay_module, "LOOK", 0.05)
    async with relays.talking() as talk:
        relays.door.over.add("kcv_1")
        relays.door.fails = NotReady()
        before = relays.door.looks
        await soon(lambda: relays.door.looks >= before + 3)
        await talk.say("still here")
        assert await talk.response()
        relays.door.fails = None
        assert await talk.closed() == (1000, "The conversation was ended")


async def test_a_workspace_takes_no_more_places_than_it_has(vault: Vault, eleven: Eleven) -> None:
    async with relaying(vault, eleven, relay_workspace_sockets=1) as relays, relays.talking():
        full = (1013, "Too many conversations; try again later")
        assert await relays.closed(relays.url()) == full
        other = Caller(kind="key", actor_id="kcv_3", workspace=WorkspaceId("wsp_other"))
        url = relays.url(conversation_id="kcv_3", caller=other)
        async with relays.talking(url) as talk:
            assert talk.conversation_id


async def test_a_ticket_is_not_used_up_where_the_process_is_full(
    vault: Vault, eleven: Eleven
) -> None:
    async with relaying(vault, eleven, relay_sockets=1) as relays:
        async with relays.talking():
            url = relays.url()
            assert (await relays.closed(url))[0] == 1013
        await soon(lambda: relays.run.service.relay.open == 0)
        async with relays.talking(url) as talk:
            assert talk.conversation_id


async def test_what_is_counted(relays: Relaying) -> None:
    async with relays.talking() as talk:
        assert relays.metric("keyturn_relay_sockets_open") == 1
        await talk.say("hello")
        await talk.response()
        assert relays.metric("keyturn_relay_bytes_total", direction="up") > 10
        assert relays.metric("keyturn_relay_bytes_total", direction="down") > 10
        await talk.socket.close(code=4001)
    await soon(lambda: relays.door.ended)
    await soon(lambda: relays.metric("keyturn_relay_closed_total", by="client", code="private"))
    assert relays.metric("keyturn_relay_sockets_open") == 0
    assert relays.metric("keyturn_relay_conversations_total") == 1
    assert relays.metric("keyturn_relay_start_duration_seconds_count") == 1


async def test_a_plain_get_is_not_served(relays: Relaying) -> None:
    async with aiohttp.ClientSession() as session:
        async with session.get(relays.url().replace("ws", "http", 1)) as reply:
            assert reply.status == 405
        with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
            await session.ws_connect(relays.run.base + "/v1/elsewhere")
        assert caught.value.status == 403
