"""The stand-in's WebSocket: who is let in, how a conversation begins, goes on and ends."""

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import aiohttp
import pytest
from support.eleven import AGENT, INITIATION, METADATA, SOCKET, WAIT, Eleven, Talk, pretending

LOCKED = {"auth": {"enable_auth": True}}


@pytest.fixture
async def eleven() -> AsyncIterator[Eleven]:
    async with pretending() as found:
        yield found


async def initiated(talk: Talk, **frame: Any) -> tuple[Any, tuple[int | None, str]]:
    """Begin a conversation that cannot be: the error event, if one came, and the close."""
    await talk.send({"type": INITIATION, **frame})
    message = await talk.socket.receive(WAIT)
    if message.type is not aiohttp.WSMsgType.TEXT:
        return None, (talk.socket.close_code, str(message.extra or ""))
    frame = json.loads(message.data)
    assert frame["type"] == "error", frame
    return frame["error_event"], await talk.closed()


async def test_a_signed_url_holds_the_conversations_id_and_works_once(eleven: Eleven) -> None:
    await eleven.agent(platform=LOCKED)
    url = await eleven.signed_url("&include_conversation_id=true")
    query = parse_qs(urlsplit(url).query)
    assert query.keys() == {"agent_id", "conversation_signature", "conversation_id"}
    used = (1008, "Invalid or expired signature")
    async with eleven.socket(url) as first, eleven.socket(url) as second:
        assert await second.closed() == used  # though the first has not said a word yet
        await first.send({"type": INITIATION})
        hello = (await first.frame())[f"{METADATA}_event"]
        assert [hello["conversation_id"]] == query["conversation_id"]
    async with eleven.socket(url) as late:
        assert await late.closed() == used


async def test_a_signed_url_without_an_id_may_be_used_again(eleven: Eleven) -> None:
    await eleven.agent(platform=LOCKED)
    url = await eleven.signed_url()
    assert "conversation_id" not in url
    async with eleven.talking(url) as first, eleven.talking(url) as second:
        assert first.conversation_id != second.conversation_id


async def test_a_signed_url_is_good_for_fifteen_minutes(eleven: Eleven) -> None:
    await eleven.agent(platform=LOCKED)
    url = await eleven.signed_url()
    await eleven.knob("POST", "/elevenlabs/clock", {"seconds": 840})
    async with eleven.talking(url):
        pass
    await eleven.knob("POST", "/elevenlabs/clock", {"seconds": 60})
    async with eleven.socket(url) as talk:
        assert (await talk.closed())[0] == 1008


async def test_a_locked_agent_wants_a_signature_or_the_key(eleven: Eleven) -> None:
    await eleven.agent(platform=LOCKED)
    url = f"{eleven.base}{SOCKET}?agent_id={AGENT}"
    for wrong in (url, url + "&conversation_signature=guess", url.replace(AGENT, "agent_x")):
        async with eleven.socket(wrong) as talk:
            assert (await talk.closed())[0] == 1008
    other = await eleven.signed_url()
    await eleven.agent(agent_id="agent_other", platform=LOCKED)
    async with eleven.socket(other.replace(AGENT, "agent_other")) as talk:
        assert await talk.closed() == (1008, "Invalid or expired signature")
    async with eleven.socket(url, headers={"xi-api-key": eleven.key}) as talk:
        await talk.send({"type": INITIATION})
        assert (await talk.frame())["type"] == METADATA
    async with eleven.socket(url, protocols=("convai", f"bearer.{eleven.key}")) as talk:
        await talk.send({"type": INITIATION})
        assert (await talk.frame())["type"] == METADATA


@pytest.mark.parametrize(
    ("offered", "selected"),
    [((), None), (("convai",), "convai"), (("convai", "bearer.x"), "convai"), (("other",), None)],
)
async def test_the_subprotocol_is_selected_only_where_it_is_offered(
    eleven: Eleven, offered: tuple[str, ...], selected: str | None
) -> None:
    await eleven.agent()
    async with eleven.socket(protocols=offered) as talk:
        assert talk.socket.protocol == selected


async def test_the_first_frame_must_be_the_initiation(eleven: Eleven) -> None:
    await eleven.agent()
    await eleven.knob("PUT", "/elevenlabs/behaviour", {"initiation_timeout": 0.2})
    for sent in ('{"type":"user_message","text":"hi"}', "{", "[]", '"text"', ""):
        async with eleven.socket() as talk:
            if sent:
                await talk.socket.send_str(sent)
            assert (await talk.closed())[0] == 1008
    nested: dict[str, Any] = {"conversation_initiation_client_data": {"dynamic_variables": {}}}
    async with eleven.socket() as talk:
        await talk.send(nested)
        assert (await talk.closed())[0] == 1008


async def test_a_frame_that_is_no_object_ends_a_conversation(eleven: Eleven) -> None:
    await eleven.agent()
    for sent in ("{", "[]", ""):
        async with eleven.talking() as talk:
            await talk.socket.send_str(sent)
            assert await talk.closed() == (1008, "Invalid message received")
        assert (await eleven.shown(talk.conversation_id))["status"] == "failed"
    async with eleven.talking() as talk:
        await talk.send({"type": "something_new", "text": ["x"]})
        await talk.say("still there?")
        assert await talk.response() == "You said: still there?"


async def test_reserved_names_and_values_that_are_not_plain_are_refused(eleven: Eleven) -> None:
    await eleven.agent()
    for variables in ({"system__agent_id": "x"}, {"a": ["x"]}, {"a": {"b": "c"}}, ["a"]):
        async with eleven.socket() as talk:
            error, (code, reason) = await initiated(talk, dynamic_variables=variables)
            assert (error["code"], code) == (1008, 1008)
            assert error["message"] == error["reason"] == reason


async def test_a_missing_variable_ends_it_before_a_word_is_said(eleven: Eleven) -> None:
    tool_id = await eleven.tool(
        api_schema={
            "url": "https://{{system__env_host}}/{{order}}",
            "request_headers": {"Authorization": {"variable_name": "secret__x"}},
            "request_body_schema": {
                "type": "object",
                "properties": {
                    "conversation": {"dynamic_variable": "system__conversation_id"},
                    "user": {"dynamic_variable": "user_id"},
                },
            },
        }
    )
    await eleven.agent(prompt={"tool_ids": [tool_id]}, first="Hi {{name}}")
    for given, reason in (
        ({}, "tools: {'order', 'secret__x', 'user_id'}"),
        ({"order": "1", "user_id": "u"}, "tools: {'secret__x'}"),
        ({"order": "1", "user_id": "u", "secret__x": "s"}, "first message: {'name'}"),
    ):
        async with eleven.socket() as talk:
            error, closed = await initiated(talk, dynamic_variables=given)
            assert closed == (1008, f"Missing required dynamic variables in {reason}")
            assert error["error_type"] == "missing_dynamic_variable"
    whole = {"order": "1", "user_id": "u", "secret__x": "s", "name": "Ada"}
    async with eleven.talking(variables=whole) as talk:
        assert await talk.response() == "Hi Ada"


async def test_the_metadata_comes_first_then_pings_and_an_echo(eleven: Eleven) -> None:
    await eleven.agent(first="Hello.")
    await eleven.knob("PUT", "/elevenlabs/behaviour", {"ping_interval": 0.1})
    async with eleven.socket() as talk:
        await talk.send({"type": INITIATION})
        hello = (await talk.frame())[f"{METADATA}_event"]
        assert hello.pop("conversation_id").startswith("conv_")
        assert hello == {
            "agent_output_audio_format": "pcm_16000",
            "user_input_audio_format": "pcm_16000",
        }
        assert await talk.response() == "Hello."
        first = (await talk.next("ping"))["ping_event"]
        await talk.send({"type": "pong", "event_id": first["event_id"]})
        await asyncio.sleep(0.15)
        assert (await talk.next("ping"))["ping_event"]["event_id"] > first["event_id"]
        await talk.say("one {two}")
        assert await talk.response() == "You said: one (two}"


async def test_audio_goes_both_ways(eleven: Eleven) -> None:
    await eleven.agent()
    await eleven.knob("PUT", "/elevenlabs/behaviour", {"echo_audio": True})
    chunk = base64.b64encode(bytes(range(256)) * 10).decode()
    async with eleven.talking() as talk:
        await talk.send({"user_audio_chunk": chunk})
        assert (await talk.next("audio"))["audio_event"]["audio_base_64"] == chunk
        assert (await eleven.inside(talk.conversation_id))["heard_audio"] == 2560
        await talk.send({"user_audio_chunk": "no base64"})
        assert await talk.closed() == (1008, "Invalid audio chunk")


async def test_a_text_only_conversation_has_no_audio(eleven: Eleven) -> None:
    await eleven.agent(first="Hello.")
    await eleven.knob("PUT", "/elevenlabs/behaviour", {"ping_interval": 600})
    async with eleven.talking(conversation_config_override={"text_only": True}) as talk:
        assert (await talk.frame())["type"] == "agent_response"
        await talk.say("x")
        assert (await talk.frame())["type"] == "agent_response"


async def test_a_second_initiation_changes_nothing_and_is_counted(eleven: Eleven) -> None:
    await eleven.agent(first="Hello.")
    await eleven.knob(
        "PUT", f"/elevenlabs/agents/{AGENT}/script", [{"when": "who", "do": [{"say": "{{name}}"}]}]
    )
    async with eleven.talking(variables={"name": "Ada"}, environment="staging") as talk:
        forged = {"dynamic_variables": {"name": "Eve"}, "environment": "production"}
        await talk.send({"type": INITIATION, **forged})
        await talk.say("who?")
        assert [await talk.response(), await talk.response()] == ["Hello.", "Ada"]
        inside = await eleven.inside(talk.conversation_id)
        assert (inside["initiations"], inside["environment"]) == (2, "staging")


async def test_an_override_needs_the_agents_leave(eleven: Eleven) -> None:
    override = {"agent": {"first_message": "Hi there."}}
    await eleven.agent(first="Hello.")
    async with eleven.socket() as talk:
        error, closed = await initiated(talk, conversation_config_override=override)
        assert error["error_type"] == "override_error"
        assert closed == (1008, "Override for field 'first_message' is not allowed by config.")
    opened = {"conversation_config_override": {"agent": {"first_message": True}}}
    await eleven.agent(first="Hello.", platform={"overrides": opened})
    async with eleven.talking(conversation_config_override=override) as talk:
        assert await talk.response() == "Hi there."


@pytest.mark.parametrize(
    ("signed", "asked", "chooses", "found"),
    [
        ("", "", False, "production"),
        ("", "&environment=staging", False, "staging"),
        ("&environment=staging", "", False, "staging"),
        ("&environment=staging", "&environment=production", False, "staging"),
        ("&environment=staging", "&environment=production", True, "production"),
    ],
)
async def test_the_environment_is_what_was_signed_unless_told_otherwise(
    eleven: Eleven, signed: str, asked: str, *, chooses: bool, found: str
) -> None:
    await eleven.agent(platform=LOCKED)
    behaviour = {"client_chooses_environment": chooses}
    await eleven.knob("PUT", "/elevenlabs/behaviour", behaviour)
    async with eleven.talking(await eleven.signed_url(signed) + asked) as talk:
        assert (await eleven.inside(talk.conversation_id))["environment"] == found


async def test_webrtc_reaches_the_signalling_with_its_room_and_no_further(eleven: Eleven) -> None:
    await eleven.agent()
    path = f"{SOCKET}/token?agent_id={AGENT}&environment=staging"
    minted = (await eleven.get(path)).json
    for place in ("/rtc", "/rtc/v1"):
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            async with eleven.socket(f"{eleven.base}{place}?access_token=guess"):
                pass
        assert refused.value.status == 401
    assert (await eleven.inside(minted["conversation_id"]))["joined"] is False
    async with eleven.socket(f"{eleven.base}/rtc/v1?access_token={minted['token']}") as talk:
        assert (await talk.closed())[0] == 1000
    inside = await eleven.inside(minted["conversation_id"])
    assert (inside["joined"], inside["environment"]) == (True, "staging")
    assert inside["room"] == f"room_{AGENT}_{minted['conversation_id']}"
    validate = f"/rtc/validate?access_token={minted['token']}"
    assert (await eleven.get(validate, key=None)).body == b"success"
    await eleven.knob("POST", "/elevenlabs/clock", {"seconds": 1000})
    assert (await eleven.get(validate, key=None)).status == 401


async def test_a_script_lets_the_agent_speak_and_hang_up(eleven: Eleven) -> None:
    await eleven.agent()
    rules = [
        {"when": "(?i)bye", "do": [{"say": "Bye, {{name}}."}, {"end": True}]},
        {"when": "", "do": [{"say": "Go on."}]},
    ]
    await eleven.knob("PUT", f"/elevenlabs/agents/{AGENT}/script", rules)
    async with eleven.talking(variables={"name": "Ada"}) as talk:
        await talk.say("hello")
        assert await talk.response() == "Go on."
        await talk.say("Bye")
        assert await talk.response() == "Bye, Ada."
        assert await talk.closed() == (1000, "The agent ended the call")
    shown = await eleven.shown(talk.conversation_id)
    assert shown["status"] == "done"
    said = [(one["role"], one["message"]) for one in shown["transcript"]]
    assert said == [
        ("user", "hello"),
        ("agent", "Go on."),
        ("user", "Bye"),
        ("agent", "Bye, Ada."),
    ]


async def test_the_socket_misbehaves_as_it_is_told(eleven: Eleven) -> None:
    await eleven.agent(first="Hello.")

    async def fault(**found: Any) -> None:
        await eleven.knob("PUT", "/elevenlabs/socket-faults", {"times": 1, **found})

    await fault(refuse=503)
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        async with eleven.socket():
            pass
    assert refused.value.status == 503
    await fault(close=1011, reason="overloaded")
    async with eleven.socket() as talk:
        await talk.send({"type": INITIATION})
        assert await talk.closed() == (1011, "overloaded")
    await fault(drop=True, at="message")
    async with eleven.talking() as talk:
        await talk.say("hello")
        assert (await talk.closed())[0] == 1006
    await fault(garbled=True)
    async with eleven.socket() as talk:
        await talk.send({"type": INITIATION})
        assert (await talk.socket.receive()).data == "{garbled"
    await fault(silent=True)
    async with eleven.socket() as talk:
        await talk.send({"type": INITIATION})
        assert (await talk.frame())["type"] == "ping"
    await fault(latency=0.3)
    began = time.monotonic()
    async with eleven.talking():
        assert time.monotonic() - began > 0.3
    async with eleven.talking() as talk:
        assert await talk.response() == "Hello."


async def test_a_conversation_lasts_as_long_as_its_agent_allows(eleven: Eleven) -> None:
    config = {"conversation": {"max_duration_seconds": 60}}
    await eleven.knob("PUT", f"/elevenlabs/agents/{AGENT}", {"conversation_config": config})
    await eleven.knob("PUT", "/elevenlabs/behaviour", {"ping_interval": 0.05})
    async with eleven.talking() as talk:
        await eleven.knob("POST", "/elevenlabs/clock", {"seconds": 61})
        assert await talk.closed() == (1000, "Max conversation duration reached")
    assert (await eleven.shown(talk.conversation_id))["metadata"]["call_duration_secs"] >= 61
