"""The stand-in's telephone and webhooks: calls out, calls in, and what follows a conversation."""

import asyncio
import contextlib
import hashlib
import hmac
import json
import re
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from support.eleven import AGENT, Eleven, Outside, outside, pretending

NUMBERS = "/v1/convai/phone-numbers"
SETTINGS = "/v1/convai/settings"
WEBHOOKS = "/v1/workspace/webhooks"
TOKEN = "Bearer ya29.ada-000111"
ASKS_FIRST = {"overrides": {"enable_conversation_initiation_client_data_from_webhook": True}}


@pytest.fixture
async def eleven() -> AsyncIterator[Eleven]:
    async with pretending() as found:
        # A webhook that is not meant to be slow has time, on any machine.
        await found.knob("PUT", "/elevenlabs/behaviour", {"webhook_timeout": 60})
        yield found


@pytest.fixture
async def server() -> AsyncIterator[Outside]:
    async with outside() as found:
        yield found


async def number(eleven: Eleven, provider: str = "twilio", **changed: Any) -> str:
    body = {"phone_number": "+15550001", "label": "Desk", "provider": provider}
    made = await eleven.made(NUMBERS, body)
    assigned = {"agent_id": AGENT, **changed}
    reply = await eleven.call("PATCH", f"{NUMBERS}/{made['phone_number_id']}", assigned)
    assert reply.status == 200, reply.body
    return str(made["phone_number_id"])


@pytest.mark.parametrize(
    ("path", "provider", "field"),
    [
        ("twilio", "twilio", "callSid"),
        ("sip-trunk", "sip_trunk", "sip_call_id"),
        ("exotel", "exotel", "callSid"),
    ],
)
async def test_a_call_out_keeps_what_it_was_started_with(
    eleven: Eleven, path: str, provider: str, field: str
) -> None:
    await eleven.agent(first="Hello {{name}}, this is {{system__called_number}}.")
    body = {
        "agent_id": AGENT,
        "agent_phone_number_id": await number(eleven, provider),
        "to_number": "+15559999",
        "conversation_initiation_client_data": {
            "dynamic_variables": {"name": "Ada", "secret__auth": TOKEN},
            "user_id": "u1",
            "environment": "staging",
            "branch_id": "b1",
        },
    }
    called = await eleven.made(f"/v1/convai/{path}/outbound-call", body)
    assert called["success"] is True
    assert called[field]
    inside = await eleven.inside(called["conversation_id"])
    assert (inside["environment"], inside["branch_id"]) == ("staging", "b1")
    known = (await eleven.knob("POST", "/fingerprint", {"text": TOKEN})).json["fingerprint"]
    assert inside["variables"].keys() == {"name", "secret__auth"}
    assert inside["variables"]["secret__auth"] == known
    shown = await eleven.shown(called["conversation_id"])
    assert shown["transcript"][0]["message"] == "Hello Ada, this is +15559999."
    phone = shown["metadata"]["phone_call"]
    assert (phone["direction"], phone["external_number"]) == ("outbound", "+15559999")
    assert (shown["user_id"], shown["status"]) == ("u1", "in-progress")
    assert TOKEN not in json.dumps(shown)
    wrong = {**body, "agent_phone_number_id": "phnum_x"}
    assert (await eleven.post(f"/v1/convai/{path}/outbound-call", wrong)).status == 404


async def test_an_environment_beside_the_initiation_data_counts_for_nothing(
    eleven: Eleven,
) -> None:
    await eleven.agent()
    body = {
        "agent_id": AGENT,
        "agent_phone_number_id": await number(eleven, environment="qa"),
        "to_number": "+1",
        "environment": "staging",
    }
    called = await eleven.made("/v1/convai/twilio/outbound-call", body)
    assert (await eleven.inside(called["conversation_id"]))["environment"] == "qa"


async def test_whatsapp_calls_and_writes(eleven: Eleven) -> None:
    await eleven.agent()
    who = {"whatsapp_phone_number_id": "w1", "whatsapp_user_id": "u9", "agent_id": AGENT}
    data = {"conversation_initiation_client_data": {"environment": "staging"}}
    template = "whatsapp_call_permission_request_template"
    call = {**who, f"{template}_name": "t", f"{template}_language_code": "en", **data}
    called = await eleven.made("/v1/convai/whatsapp/outbound-call", call)
    assert (await eleven.inside(called["conversation_id"]))["environment"] == "staging"
    message = {**who, "template_name": "t", "template_language_code": "en", "template_params": []}
    written = await eleven.made("/v1/convai/whatsapp/outbound-message", message)
    assert (await eleven.inside(written["conversation_id"]))["environment"] == "production"


async def test_a_registered_call_is_twiml(eleven: Eleven) -> None:
    await eleven.agent()
    body = {"agent_id": AGENT, "from_number": "+1", "to_number": "+2", "direction": "outbound"}
    reply = await eleven.post("/v1/convai/twilio/register-call", body)
    assert reply.headers["content-type"].startswith("text/html")
    stream = re.search(r'<Connect><Stream url="(wss?://[^"]+)">', reply.body.decode())
    assert stream is not None
    conversation = re.search(r"conv_[a-z0-9]+", reply.body.decode())
    assert conversation is not None
    phone = (await eleven.shown(conversation[0]))["metadata"]["phone_call"]
    assert (phone["external_number"], phone["agent_number"]) == ("+2", "+1")


async def test_a_batch_that_is_scheduled_keeps_its_variables_until_then(eleven: Eleven) -> None:
    await eleven.agent()
    recipients = [
        {
            "phone_number": f"+1555000{index}",
            "conversation_initiation_client_data": {"dynamic_variables": {"n": str(index)}},
        }
        for index in range(3)
    ]
    body = {
        "call_name": "Round",
        "agent_id": AGENT,
        "recipients": recipients,
        "agent_phone_number_id": await number(eleven),
        "environment": "staging",
    }
    made = await eleven.made("/v1/convai/batch-calling/submit", body)
    assert (made["status"], made["total_calls_dispatched"]) == ("in_progress", 3)
    later = await eleven.made(
        "/v1/convai/batch-calling/submit", {**body, "scheduled_time_unix": int(time.time()) + 600}
    )
    assert (later["status"], later["total_calls_dispatched"]) == ("pending", 0)
    assert len(await conversations(eleven)) == 3
    await eleven.knob("POST", "/elevenlabs/clock", {"seconds": 601})
    found = await conversations(eleven)
    assert len(found) == 6
    for one in found:
        assert (await eleven.inside(one["conversation_id"]))["environment"] == "staging"


async def conversations(eleven: Eleven) -> list[Any]:
    found: list[Any] = (await eleven.get("/v1/convai/conversations")).json["conversations"]
    return found


async def inbound(eleven: Eleven, **call: str) -> Any:
    asked = {"caller_id": "+15557777", "called_number": "+15550001", **call}
    return (await eleven.knob("POST", "/elevenlabs/inbound", asked)).json


async def pre_call(eleven: Eleven, url: str, **headers: Any) -> None:
    hook = {"url": url, "request_headers": headers}
    body = {"conversation_initiation_client_data_webhook": hook}
    assert (await eleven.call("PATCH", SETTINGS, body)).status == 200


async def test_the_pre_call_webhook_is_asked_who_calls(eleven: Eleven, server: Outside) -> None:
    await eleven.agent(platform=ASKS_FIRST, first="Hello {{name}}.")
    await number(eleven)
    secret = await eleven.made(
        "/v1/convai/secrets", {"type": "new", "name": "n", "value": "hook-key"}
    )
    reference = {"secret_id": secret["secret_id"]}
    await pre_call(eleven, server.base + "/hook", **{"X-Key": reference, "X-Plain": "p"})
    server.will(
        {
            "type": "conversation_initiation_client_data",
            "dynamic_variables": {"name": "Ada"},
            "user_id": "u1",
            "environment": "staging",
        }
    )
    answered = await inbound(eleven, call_sid="CA1")
    [heard] = server.heard
    assert (heard.method, heard.path) == ("POST", "/hook")
    assert heard.json == {
        "caller_id": "+15557777",
        "agent_id": AGENT,
        "called_number": "+15550001",
        "call_sid": "CA1",
    }
    assert (heard.headers["x-key"], heard.headers["x-plain"]) == ("hook-key", "p")
    assert "elevenlabs-signature" not in heard.headers
    assert (answered["status"], answered["environment"]) == ("in-progress", "staging")
    assert answered["webhook"]["status"] == 200
    shown = await eleven.shown(answered["conversation_id"])
    assert shown["transcript"][0]["message"] == "Hello Ada."
    assert shown["metadata"]["phone_call"]["direction"] == "inbound"


@pytest.mark.parametrize(
    ("said", "pinned", "found"),
    [
        ({"environment": "staging"}, {"environment": "qa"}, "staging"),
        ({}, {"environment": "qa"}, "qa"),
        ({}, {}, "production"),
    ],
)
async def test_the_webhook_decides_before_the_number_and_the_number_before_production(
    eleven: Eleven, server: Outside, said: dict[str, str], pinned: dict[str, str], found: str
) -> None:
    await eleven.agent(platform=ASKS_FIRST)
    await number(eleven, **pinned, branch_id="b1")
    await pre_call(eleven, server.base)
    server.will({"type": "conversation_initiation_client_data", **said})
    answered = await inbound(eleven)
    assert answered["environment"] == found
    assert (await eleven.inside(answered["conversation_id"]))["branch_id"] == "b1"


async def test_a_webhook_that_is_slow_wrong_or_away_leaves_the_call_without_variables(
    eleven: Eleven, server: Outside
) -> None:
    await eleven.agent(platform=ASKS_FIRST, first="Hello {{name}}.")
    await number(eleven)
    await pre_call(eleven, server.base)
    server.will({}, after=600)
    await eleven.knob("PUT", "/elevenlabs/behaviour", {})
    began = time.monotonic()
    slow = await inbound(eleven)
    assert 1.8 < time.monotonic() - began < 300
    assert (slow["status"], slow["webhook"]["status"]) == ("failed", None)
    await eleven.knob("PUT", "/elevenlabs/behaviour", {"webhook_timeout": 60})
    server.answers.clear()
    for content, status in (({}, 200), ([], 200), (b"nonsense", 200), ({}, 500)):
        server.answers.clear()
        server.will(content, status)
        wrong = await inbound(eleven)
        assert (wrong["status"], wrong["webhook"]["status"]) == ("failed", status)
        assert wrong["webhook"]["problem"]
    await pre_call(eleven, "http://127.0.0.1:1/")
    assert (await inbound(eleven))["status"] == "failed"


async def test_only_an_agent_that_is_set_to_asks_the_webhook(
    eleven: Eleven, server: Outside
) -> None:
    await eleven.agent(first="Hello.")
    await number(eleven)
    await pre_call(eleven, server.base)
    assert (await inbound(eleven))["webhook"] is None
    asked = {"caller_id": "+1", "called_number": "+4"}
    unknown = await eleven.call("POST", "/_sandbox/elevenlabs/inbound", asked)
    assert unknown.status == 404
    hook = {"url": server.base + "/own", "request_headers": {}}
    own = {"conversation_initiation_client_data_webhook": hook}
    await eleven.agent(platform={**ASKS_FIRST, "workspace_overrides": own})
    await inbound(eleven)
    assert [one.path for one in server.heard] == ["/own"]


async def hooked(eleven: Eleven, url: str, *events: str) -> str:
    """Have a webhook told what is over; its secret."""
    settings = {"auth_type": "hmac", "name": "n", "webhook_url": url}
    made = await eleven.made(WEBHOOKS, {"settings": settings})
    chosen = {"post_call_webhook_id": made["webhook_id"]}
    if events:
        chosen["events"] = [*events]
    assert (await eleven.call("PATCH", SETTINGS, {"webhooks": chosen})).status == 200
    return str(made["webhook_secret"])


def mac(secret: str, at: str, body: bytes) -> str:
    return hmac.new(secret.encode(), at.encode() + b"." + body, hashlib.sha256).hexdigest()


def signature(header: str) -> tuple[str, str]:
    found = re.fullmatch(r"t=(\d+),v0=([0-9a-f]{64})", header)
    assert found is not None
    return found[1], found[2]


async def test_the_end_of_a_conversation_is_told_and_signed(
    eleven: Eleven, server: Outside
) -> None:
    secret = await hooked(eleven, server.base + "/post")
    await eleven.agent()
    given = {"name": "Ada", "secret__auth": TOKEN}
    began = int(time.time())
    async with eleven.talking(variables=given, user_id="u1", environment="staging") as talk:
        await talk.say("hello")
        await talk.response()
    await eleven.knob("POST", "/elevenlabs/settle")
    [heard] = server.heard
    at, hashed = signature(heard.headers["elevenlabs-signature"])
    assert began <= int(at) <= time.time()
    assert hashed == mac(secret, at, heard.body)
    assert heard.json.keys() == {"type", "event_timestamp", "data"}
    assert heard.json["type"] == "post_call_transcription"
    assert heard.json["data"] == await eleven.shown(talk.conversation_id)
    variables = heard.json["data"]["conversation_initiation_client_data"]["dynamic_variables"]
    assert (variables["name"], variables["secret__auth"]) == ("Ada", "<REDACTED>")
    assert await eleven.leaks() == []


async def ended(eleven: Eleven, server: Outside, **how: Any) -> list[Any]:
    async with eleven.talking() as talk:
        asked = {"conversation_id": talk.conversation_id, "webhook": how}
        reply = await eleven.knob("POST", "/elevenlabs/end", asked)
    delivered: list[Any] = reply.json["delivered"]
    assert len(delivered) == how.get("copies", 1)
    return server.heard[-len(delivered) :]


async def test_a_webhook_may_be_stale_forged_unsigned_or_repeated(
    eleven: Eleven, server: Outside
) -> None:
    secret = await hooked(eleven, server.base)
    await eleven.agent()
    [stale] = await ended(eleven, server, age=3600)
    at, hashed = signature(stale.headers["elevenlabs-signature"])
    assert int(at) <= time.time() - 3600
    assert hashed == mac(secret, at, stale.body)
    began = int(time.time())
    [future] = await ended(eleven, server, age=-600)
    assert int(signature(future.headers["elevenlabs-signature"])[0]) >= began + 600
    [forged] = await ended(eleven, server, forged=True)
    at, hashed = signature(forged.headers["elevenlabs-signature"])
    assert hashed != mac(secret, at, forged.body)
    [unsigned] = await ended(eleven, server, unsigned=True)
    assert "elevenlabs-signature" not in unsigned.headers
    first, second = await ended(eleven, server, copies=2)
    assert first.body == second.body


async def test_audio_comes_in_chunks_and_is_signed_as_a_whole(eleven: Eleven) -> None:
    await eleven.agent()
    async with receiving_chunks() as (url, heard):
        secret = await hooked(eleven, url + "/audio?x=1", "audio")
        async with eleven.talking() as talk:
            asked = {"conversation_id": talk.conversation_id}
            reply = await eleven.knob("POST", "/elevenlabs/end", asked)
    assert reply.json["delivered"] == [{"type": "post_call_audio", "status": 200}]
    [(head, chunks)] = heard
    assert head.startswith("POST /audio?x=1 HTTP/1.1\r\n")
    assert "content-length" not in head.lower()
    assert len(chunks) > 1
    signed = re.search(r"ElevenLabs-Signature: t=(\d+),v0=(\w+)", head)
    assert signed is not None
    assert signed[2] == mac(secret, signed[1], b"".join(chunks))
    assert json.loads(b"".join(chunks))["data"].keys() == {
        "agent_id",
        "conversation_id",
        "full_audio",
    }


@contextlib.asynccontextmanager
async def receiving_chunks() -> AsyncIterator[tuple[str, list[tuple[str, list[bytes]]]]]:
    heard: list[tuple[str, list[bytes]]] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        chunks = []
        while size := int(await reader.readline(), 16):
            chunks.append((await reader.readexactly(size + 2))[:-2])
        heard.append((head, chunks))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", heard


async def test_a_call_that_cannot_start_is_told_as_such(eleven: Eleven, server: Outside) -> None:
    await hooked(eleven, server.base, "transcript", "call_initiation_failure")
    await eleven.agent(first="Hello {{name}}.")
    called = {
        "agent_id": AGENT,
        "agent_phone_number_id": await number(eleven),
        "to_number": "+1",
    }
    made = await eleven.made("/v1/convai/twilio/outbound-call", called)
    await eleven.knob("POST", "/elevenlabs/settle")
    [heard] = server.heard
    assert heard.json["type"] == "call_initiation_failure"
    assert heard.json["data"]["conversation_id"] == made["conversation_id"]
    assert "name" in heard.json["data"]["failure_reason"]


async def test_ten_failures_in_a_row_disable_a_webhook(eleven: Eleven, server: Outside) -> None:
    await hooked(eleven, server.base)
    await eleven.agent()
    server.will({}, 500)
    await ended(eleven, server, copies=9)
    [webhook] = (await eleven.get(WEBHOOKS)).json["webhooks"]
    assert (webhook["is_disabled"], webhook["most_recent_failure_error_code"]) == (False, 500)
    await ended(eleven, server)
    [webhook] = (await eleven.get(WEBHOOKS)).json["webhooks"]
    assert (webhook["is_disabled"], webhook["is_auto_disabled"]) == (True, True)
    async with eleven.talking():
        pass
    await eleven.knob("POST", "/elevenlabs/settle")
    assert len(server.heard) == 10
    changed = {"is_disabled": False, "name": "n"}
    path = f"{WEBHOOKS}/{webhook['webhook_id']}"
    assert (await eleven.call("PATCH", path, changed)).status == 200
    [webhook] = (await eleven.get(WEBHOOKS)).json["webhooks"]
    assert webhook["is_disabled"] is False
    assert "webhook_secret" not in webhook


async def test_a_caller_speaks_and_the_agents_tool_gets_the_callers_credentials(
    eleven: Eleven, server: Outside
) -> None:
    async with outside() as hook:
        headers = {"Authorization": {"variable_name": "secret__auth"}}
        tool_id = await eleven.tool(api_schema={"url": server.base, "request_headers": headers})
        await eleven.agent(prompt={"tool_ids": [tool_id]}, platform=ASKS_FIRST)
        script = [{"when": "order", "do": [{"tool": "orders"}, {"say": "{result}"}]}]
        await eleven.knob("PUT", f"/elevenlabs/agents/{AGENT}/script", script)
        await number(eleven)
        await pre_call(eleven, hook.base)
        given = {"secret__auth": TOKEN}
        hook.will({"type": "conversation_initiation_client_data", "dynamic_variables": given})
        server.will({"order": "shipped"})
        answered = await inbound(eleven)
        said = {"conversation_id": answered["conversation_id"], "text": "where is my order?"}
        await eleven.knob("POST", "/elevenlabs/say", said)
    assert server.heard[0].headers["authorization"] == TOKEN
    shown = await eleven.shown(answered["conversation_id"])
    assert shown["transcript"][-1]["message"] == '{"order": "shipped"}'
    assert await eleven.leaks() == []
