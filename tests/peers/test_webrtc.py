"""The official client comes to the WebRTC signalling with a token that we minted.

There is no media in the sandbox, so whether the call is then heard is not tested here.
"""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Tenant
from support.browser import Browser
from support.eleven import AGENT
from support.minting import GATEWAY, Desk, minting
from support.sandbox import Provider

CLIENT = Path(__file__).parent / "node_modules" / "@elevenlabs" / "client"
SCRIPT = CLIENT / "dist" / "lib.iife.js"
JOIN = """
ElevenLabsClient.Conversation.startSession(OPTIONS).then(() => "joined", (error) => String(error))
"""

pytestmark = pytest.mark.skipif(
    not CLIENT.is_dir(),
    reason="needs Node.js and 'npm install' in tests/peers (.ci/run does both)",
)


@pytest.fixture
async def desk(tenant: Tenant, provider: Provider) -> AsyncIterator[Desk]:
    async with minting(tenant, provider) as found:
        await found.user()
        await found.connect(environment="staging")
        await found.profile(**GATEWAY)
        yield found


async def joins(browser: Browser, desk: Desk, made: dict[str, Any], **more: Any) -> str:
    """Start a session as a page does, with what the platform's backend gave it."""
    page = await browser.visitor()
    await page.goto(f"{desk.provider.base}/oauth/jwks")  # any page without a policy of its own
    await page.evaluate(SCRIPT.read_text())
    options = {
        "conversationToken": made["token"],
        "dynamicVariables": made["dynamic_variables"],
        "connectionType": "webrtc",
        "livekitUrl": desk.provider.base.replace("http", "ws"),
        "textOnly": True,
        **more,
    }
    said = str(await page.evaluate(JOIN.replace("OPTIONS", json.dumps(options))))
    await page.go_away()
    return said


async def test_it_reaches_the_room_of_its_conversation_in_its_environment(
    desk: Desk, browser: Browser
) -> None:
    made = await desk.mint(channel="webrtc", environment="staging")
    said = await joins(browser, desk, made)
    assert said != "joined"  # there is no media
    inside = await desk.eleven.inside(made["conversation_id"])
    assert inside["room"] == f"room_{AGENT}_{made['conversation_id']}", said
    assert inside["environment"] == "staging"


async def test_a_page_that_asks_for_another_environment_changes_nothing(
    desk: Desk, browser: Browser
) -> None:
    made = await desk.mint(channel="webrtc", environment="staging")
    said = await joins(browser, desk, made, environment="production", agentId="agent_other")
    inside = await desk.eleven.inside(made["conversation_id"])
    assert (inside["joined"], inside["environment"]) == (True, "staging"), said
    minted = [one for one in desk.asked("/conversation/token") if one.get("environment")]
    assert minted[0]["environment"] == "staging"


async def test_a_token_of_the_compatible_route_leads_to_the_same_door(
    desk: Desk, browser: Browser
) -> None:
    asked = f"agent_id={AGENT}&user_id=ada&environment=staging"
    reply = await desk.api.get(f"/v1/convai/conversation/token?{asked}")
    assert reply.status == 200, reply.body
    said = await joins(browser, desk, reply.json)
    inside = await desk.eleven.inside(reply.json["conversation_id"])
    assert inside["room"] == f"room_{AGENT}_{reply.json['conversation_id']}", said
    assert inside["environment"] == "staging"
