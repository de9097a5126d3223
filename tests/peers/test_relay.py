"""The official clients, unmodified, hold conversations through our relay."""

import asyncio
import json
import shutil
import threading
import warnings
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Tenant
from elevenlabs import ElevenLabs
from support.minting import Desk, minting
from support.sandbox import Provider

with warnings.catch_warnings():
    # The SDK names a class that 'websockets' is about to drop; that is between those two.
    warnings.simplefilter("ignore", DeprecationWarning)
    from elevenlabs.conversational_ai.conversation import Conversation

HERE = Path(__file__).parent
NODE = shutil.which("node")
in_javascript = pytest.mark.skipif(
    NODE is None or not (HERE / "node_modules" / "@elevenlabs" / "client").is_dir(),
    reason="needs Node.js and 'npm install' in tests/peers (.ci/run does both)",
)


@pytest.fixture
async def desk(tenant: Tenant, provider: Provider) -> AsyncIterator[Desk]:
    async with minting(tenant, provider) as found:
        await found.user()
        await found.connect()
        await found.eleven.agent(first="Hello {{user_name}}.")
        yield found


async def node(given: Any) -> Any:
    process = await asyncio.create_subprocess_exec(
        str(NODE),
        "conversation.mjs",
        cwd=HERE,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await asyncio.wait_for(process.communicate(json.dumps(given).encode()), 120)
    return json.loads(out)


@in_javascript
async def test_javascripts_client_talks_and_sets_nothing_of_ours(desk: Desk) -> None:
    made = await desk.mint()
    options = {
        "signedUrl": made["signed_url"],
        "environment": "staging",
        "userId": "bob",
        "dynamicVariables": {"user_name": "Bob", "secret__user_google_token": "forged"},
    }
    found = await node({"options": options, "say": ["a", "b"]})
    assert found.get("error") is None, found
    assert found["heard"][0] == "Hello Ada."
    assert len(found["heard"]) == 3
    inside = await desk.eleven.inside(found["id"])
    assert inside["environment"] in (None, "production")
    again = await node({"options": {"signedUrl": made["signed_url"]}, "say": []})
    assert again["code"] == 1008
    assert "unauthenticated" in again["error"]


class Signed(Conversation):
    """Python's client with a signed URL that its own backend fetched for it."""

    def __init__(self, url: str, *given: Any, **more: Any) -> None:
        super().__init__(*given, **more)
        self._url = url

    def _get_signed_url(self) -> str:
        return f"{self._url}&source=python_sdk"


async def test_pythons_client_talks(desk: Desk) -> None:
    made = await desk.mint()
    heard: list[str] = []
    answered = threading.Semaphore(0)

    def hear(text: str) -> None:
        heard.append(text)
        answered.release()

    conversation = Signed(
        made["signed_url"],
        ElevenLabs(base_url="http://127.0.0.1:1", api_key="none"),
        "agent_desk",
        user_id="bob",
        requires_auth=True,
        callback_agent_response=hear,
    )

    def hold() -> str | None:
        conversation.start_session()  # type: ignore[no-untyped-call]
        assert answered.acquire(timeout=60)
        conversation.send_user_message("a")
        assert answered.acquire(timeout=60)
        conversation.end_session()  # type: ignore[no-untyped-call]
        return conversation.wait_for_session_end()

    conversation_id = await asyncio.to_thread(hold)
    assert heard[0] == "Hello Ada."
    assert conversation_id is not None
    assert (await desk.eleven.inside(conversation_id))["user_id"] == "ada"
