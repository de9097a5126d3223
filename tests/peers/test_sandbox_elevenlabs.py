"""The official SDKs, unmodified, work against the stand-in for ElevenLabs as against theirs."""

import asyncio
import json
import shutil
import threading
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest
from elevenlabs import ElevenLabs
from elevenlabs.core.api_error import ApiError
from elevenlabs.types import WebhookHmacSettings
from support.browser import Browser
from support.eleven import AGENT, SOCKET, Eleven, Outside, outside, pretending

with warnings.catch_warnings():
    # The SDK names a class that 'websockets' is about to drop; that is between those two.
    warnings.simplefilter("ignore", DeprecationWarning)
    from elevenlabs.conversational_ai.conversation import (
        ClientTools,
        Conversation,
        ConversationInitiationData,
    )

HERE = Path(__file__).parent
NODE = shutil.which("node")
MODULES = HERE / "node_modules" / "@elevenlabs"
TOKEN = "Bearer ya29.ada-000111"
FRESH = "Bearer ya29.ada-000222"

T = TypeVar("T")

in_javascript = pytest.mark.skipif(
    NODE is None or not (MODULES / "elevenlabs-js").is_dir() or not (MODULES / "client").is_dir(),
    reason="needs Node.js and 'npm install' in tests/peers (.ci/run does both)",
)


@pytest.fixture
async def eleven() -> AsyncIterator[Eleven]:
    async with pretending() as found:
        yield found


@pytest.fixture
async def server() -> AsyncIterator[Outside]:
    async with outside() as found:
        yield found


@pytest.fixture
def sdk(eleven: Eleven) -> Iterator[ElevenLabs]:
    with httpx.Client(timeout=30) as http:
        yield ElevenLabs(base_url=eleven.base, api_key=eleven.key, httpx_client=http)


async def do(call: Callable[[], T]) -> T:
    """Call off the loop that the stand-in runs on."""
    return await asyncio.to_thread(call)


async def desk(eleven: Eleven, server: Outside) -> None:
    """An agent whose token expires in mid-conversation: two tools, and a script that uses them."""
    header = {"Authorization": {"variable_name": "secret__auth"}}
    orders = await eleven.tool(
        name="orders", api_schema={"url": server.base, "request_headers": header}
    )
    refresh = await eleven.tool(
        name="refresh",
        api_schema={"url": server.base, "method": "POST", "request_headers": header},
        assignments=[{"dynamic_variable": "secret__auth", "value_path": "token", "sanitize": True}],
    )
    client = {"type": "client", "name": "pick", "description": "", "expects_response": True}
    await eleven.agent(
        first="Hello {{name}}.",
        prompt={"tool_ids": [orders, refresh], "tools": [client]},
        platform={"auth": {"enable_auth": True}},
    )
    steps = [{"tool": "orders"}, {"tool": "refresh"}, {"tool": "orders"}, {"say": "{result}"}]
    rules = [
        {"when": "order", "do": steps},
        {"when": "colour", "do": [{"tool": "pick", "arguments": {"of": 3}}, {"say": "{result}"}]},
    ]
    await eleven.knob("PUT", f"/elevenlabs/agents/{AGENT}/script", rules)
    server.will({}, 401)
    server.will({"token": FRESH, "status": "refreshed"})
    server.will({"order": "shipped"})


async def as_it_should_be(eleven: Eleven, server: Outside, conversation_id: str) -> None:
    """What all clients' conversations leave behind."""
    used = [one.headers["authorization"] for one in server.heard]
    assert used == [TOKEN, TOKEN, FRESH]
    await eleven.knob("POST", "/elevenlabs/settle")
    shown = await eleven.shown(conversation_id)
    assert (shown["status"], shown["user_id"], shown["environment"]) == ("done", "u1", "staging")
    assert "ya29" not in json.dumps(shown)
    said = [one["message"] for one in shown["transcript"] if one["message"]]
    assert said == ["Hello Ada.", "my order?", '{"order": "shipped"}', "a colour?", "blue"]
    assert await eleven.leaks() == []


async def test_pythons_conversation_survives_a_token_that_expires(
    eleven: Eleven, server: Outside, sdk: ElevenLabs
) -> None:
    await desk(eleven, server)
    heard: list[str] = []
    answered = threading.Semaphore(0)

    def hear(text: str) -> None:
        heard.append(text)
        answered.release()

    tools = ClientTools()
    tools.register("pick", lambda _: "blue")
    given = {"name": "Ada", "secret__auth": TOKEN}
    conversation = Conversation(
        sdk,
        AGENT,
        user_id="u1",
        requires_auth=True,
        config=ConversationInitiationData(dynamic_variables=given),
        environment="staging",
        client_tools=tools,
        callback_agent_response=hear,
    )

    def hold() -> str | None:
        conversation.start_session()  # type: ignore[no-untyped-call]
        assert answered.acquire(timeout=60)
        for text in ("my order?", "a colour?"):
            conversation.send_user_message(text)
            assert answered.acquire(timeout=60)
        conversation.end_session()  # type: ignore[no-untyped-call]
        return conversation.wait_for_session_end()

    conversation_id = await do(hold)
    assert heard == ["Hello Ada.", '{"order": "shipped"}', "blue"]
    assert conversation_id is not None
    await as_it_should_be(eleven, server, conversation_id)
    found = await do(lambda: sdk.conversational_ai.conversations.get(conversation_id))
    assert found.conversation_initiation_client_data is not None
    variables = found.conversation_initiation_client_data.dynamic_variables
    assert variables is not None
    assert variables["secret__auth"] == "<REDACTED>"
    assert (await eleven.inside(conversation_id))["source"] == "python_sdk"


async def test_pythons_conversation_learns_why_it_was_closed(
    eleven: Eleven, sdk: ElevenLabs
) -> None:
    await eleven.agent(first="Hello {{name}}.")
    closed: list[Any] = []
    conversation = Conversation(sdk, AGENT, requires_auth=False, callback_disconnect=closed.append)

    def hold() -> None:
        conversation.start_session()  # type: ignore[no-untyped-call]
        conversation.wait_for_session_end()

    await do(hold)
    [details] = closed
    assert details.close_code == 1008
    assert details.close_reason == "Missing required dynamic variables in first message: {'name'}"


async def test_pythons_client_sets_a_workspace_up(
    eleven: Eleven, server: Outside, sdk: ElevenLabs
) -> None:
    tool = await do(
        lambda: sdk.conversational_ai.tools.create(
            request={
                "tool_config": {
                    "type": "webhook",
                    "name": "orders",
                    "description": "Orders.",
                    "api_schema": {"url": "https://x.test/"},
                }
            }
        )
    )
    agent = await do(
        lambda: sdk.conversational_ai.agents.create(
            conversation_config={"agent": {"prompt": {"tool_ids": [tool.id]}}},
            name="Desk",
        )
    )
    minted = await do(
        lambda: sdk.conversational_ai.conversations.get_webrtc_token(
            agent_id=agent.agent_id, environment="staging"
        )
    )
    assert (await eleven.inside(minted.conversation_id))["environment"] == "staging"
    signed = await do(
        lambda: sdk.conversational_ai.conversations.get_signed_url(
            agent_id=agent.agent_id, include_conversation_id=True
        )
    )
    assert signed.signed_url.startswith(eleven.base.replace("http", "ws") + SOCKET)
    number = await do(
        lambda: sdk.conversational_ai.phone_numbers.create(
            request={
                "provider": "twilio",
                "phone_number": "+15550001",
                "label": "Desk",
                "sid": "AC",
                "token": "t",
            }
        )
    )
    changed = await do(
        lambda: sdk.conversational_ai.phone_numbers.update(
            number.phone_number_id, agent_id=agent.agent_id, environment="qa", branch_id="b1"
        )
    )
    assert changed.assigned_agent is not None
    assert changed.assigned_agent.agent_id == agent.agent_id
    called = await do(
        lambda: sdk.conversational_ai.twilio.outbound_call(
            agent_id=agent.agent_id,
            agent_phone_number_id=number.phone_number_id,
            to_number="+1",
            conversation_initiation_client_data={
                "dynamic_variables": {"secret__auth": TOKEN},
                "environment": "staging",
            },
        )
    )
    assert called.success
    assert called.conversation_id is not None
    assert (await eleven.inside(called.conversation_id))["environment"] == "staging"
    listed = await do(lambda: sdk.conversational_ai.conversations.list(agent_id=agent.agent_id))
    assert [one.conversation_id for one in listed.conversations] == [called.conversation_id]


async def test_pythons_client_checks_our_signature(
    eleven: Eleven, server: Outside, sdk: ElevenLabs
) -> None:
    made = await do(
        lambda: sdk.webhooks.create(settings=WebhookHmacSettings(name="n", webhook_url=server.base))
    )
    chosen = {"post_call_webhook_id": made.webhook_id}
    await do(lambda: sdk.conversational_ai.settings.update(webhooks=chosen))
    await eleven.agent()
    async with eleven.talking() as talk:
        ended = {"conversation_id": talk.conversation_id}
        await eleven.knob("POST", "/elevenlabs/end", ended)
        await eleven.knob("POST", "/elevenlabs/end", {**ended, "webhook": {"forged": True}})
        await eleven.knob("POST", "/elevenlabs/end", {**ended, "webhook": {"age": 3600}})
    good, *wrong = server.heard
    secret = made.webhook_secret or ""

    def construct(heard: Any) -> Any:
        header = heard.headers["elevenlabs-signature"]
        return sdk.webhooks.construct_event(heard.body.decode(), header, secret)

    assert construct(good)["data"]["conversation_id"] == talk.conversation_id
    for one in wrong:
        with pytest.raises(Exception, match=r"(?i)signature|timestamp"):
            construct(one)


async def test_pythons_client_repeats_what_may_pass_and_knows_our_errors(
    eleven: Eleven, sdk: ElevenLabs
) -> None:
    await eleven.agent()

    def signed(agent_id: str) -> str:
        found = sdk.conversational_ai.conversations.get_signed_url(agent_id=agent_id)
        return str(found.signed_url)

    path = f"{SOCKET}/get-signed-url"
    await eleven.knob("PUT", "/faults", {"path": path, "status": 503, "times": 2})
    assert "conversation_signature" in await do(lambda: signed(AGENT))
    with pytest.raises(ApiError) as unknown:
        await do(lambda: signed("agent_x"))
    assert unknown.value.status_code == 404
    with httpx.Client() as http:
        stranger = ElevenLabs(base_url=eleven.base, api_key="wrong", httpx_client=http)
        with pytest.raises(ApiError) as refused:
            await do(stranger.conversational_ai.agents.list)
    assert refused.value.status_code == 401


async def node(script: str, asked: Any) -> Any:
    process = await asyncio.create_subprocess_exec(
        NODE or "node",
        script,
        cwd=HERE,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(json.dumps(asked).encode()), 120)
    assert process.returncode == 0, err.decode()
    return json.loads(out)


@in_javascript
async def test_javascripts_conversation_survives_a_token_that_expires(
    eleven: Eleven, server: Outside
) -> None:
    await desk(eleven, server)
    found = await node(
        "conversation.mjs",
        {
            "options": {
                "signedUrl": await eleven.signed_url("&environment=staging"),
                "environment": "production",  # what the signature says counts
                "dynamicVariables": {"name": "Ada", "secret__auth": TOKEN},
                "userId": "u1",
            },
            "say": ["my order?", "a colour?"],
        },
    )
    assert found["heard"] == ["Hello Ada.", '{"order": "shipped"}', "blue"], found
    assert found["tools"] == [{"of": 3}]
    await as_it_should_be(eleven, server, found["id"])
    [seen] = [one for one in eleven.world.requests if one.method == "WEBSOCKET"]
    assert ("environment", "production") in seen.query


@in_javascript
async def test_javascripts_conversation_learns_why_it_was_closed(eleven: Eleven) -> None:
    await eleven.agent(first="Hello {{name}}.")
    options = {"agentId": AGENT, "connectionType": "websocket"}
    options["origin"] = eleven.base.replace("http", "ws")
    found = await node("conversation.mjs", {"options": options, "say": []})
    assert (found["code"], "'name'" in found["error"]) == (1008, True), found


@in_javascript
async def test_javascripts_client_finds_every_field_that_it_wants(eleven: Eleven) -> None:
    tool = {"type": "webhook", "name": "orders", "description": "Orders."}
    schema = {"url": "https://x.test/"}
    agent = {"agent": {"prompt": {"toolIds": ["$0.id"]}}}
    number = {"provider": "twilio", "phoneNumber": "+1", "label": "n", "sid": "A", "token": "t"}
    data = {"dynamicVariables": {"secret__auth": TOKEN}, "environment": "staging"}
    call = {"agentId": "$1.agentId", "toNumber": "+1", "conversationInitiationClientData": data}
    eleven_calls = [
        ("conversationalAi.tools.create", [{"toolConfig": {**tool, "apiSchema": schema}}]),
        ("conversationalAi.agents.create", [{"conversationConfig": agent}]),
        ("conversationalAi.agents.get", ["$1.agentId"]),
        ("conversationalAi.conversations.getWebrtcToken", [{"agentId": "$1.agentId"}]),
        ("conversationalAi.conversations.getSignedUrl", [{"agentId": "$1.agentId"}]),
        ("conversationalAi.phoneNumbers.create", [number]),
        ("conversationalAi.phoneNumbers.get", ["$5.phoneNumberId"]),
        (
            "conversationalAi.twilio.outboundCall",
            [{**call, "agentPhoneNumberId": "$5.phoneNumberId"}],
        ),
        ("conversationalAi.conversations.get", ["$7.conversationId"]),
        ("conversationalAi.conversations.list", [{}]),
        ("conversationalAi.secrets.create", [{"name": "n", "value": "v"}]),
        ("conversationalAi.secrets.list", [{}]),
        ("conversationalAi.settings.get", []),
        ("webhooks.list", [{}]),
    ]
    asked = {"baseUrl": eleven.base, "apiKey": eleven.key, "calls": eleven_calls}
    outcomes = await node("sdk.mjs", asked)
    assert [one for one in outcomes if "error" in one] == []
    shown = outcomes[8]["value"]
    assert shown["conversationInitiationClientData"]["dynamicVariables"]["secret__auth"] == (
        "<REDACTED>"
    )


JOIN = """
ElevenLabsClient.Conversation.startSession(OPTIONS).then(() => "joined", (error) => String(error))
"""


@in_javascript
async def test_a_browser_reaches_the_signalling_with_its_room_and_environment(
    eleven: Eleven, browser: Browser
) -> None:
    await eleven.agent()
    token = (await eleven.get(f"{SOCKET}/token?agent_id={AGENT}&environment=staging")).json
    where = {"livekitUrl": eleven.base.replace("http", "ws"), "textOnly": True}
    page = await browser.visitor()
    await page.goto(f"{eleven.base}/oauth/jwks")  # any page without a policy of its own
    await page.evaluate((MODULES / "client" / "dist" / "lib.iife.js").read_text())

    async def join(options: dict[str, Any]) -> str:
        whole = json.dumps({**options, **where, "connectionType": "webrtc"})
        return str(await page.evaluate(JOIN.replace("OPTIONS", whole)))

    said = await join({"conversationToken": token["token"]})
    assert said != "joined"  # there is no media
    inside = await eleven.inside(token["conversation_id"])
    assert (inside["joined"], inside["environment"]) == (True, "staging"), said
    said = await join({"agentId": AGENT, "origin": eleven.base, "environment": "qa"})
    minted = [one for one in eleven.world.requests if one.path == f"{SOCKET}/token"]
    assert ("environment", "qa") in minted[-1].query, said
    assert "xi-api-key" not in minted[-1].headers
    await page.go_away()
