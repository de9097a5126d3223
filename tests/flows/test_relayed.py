"""From a mint through the relay to the upstream: what the whole service makes of a conversation."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import asyncpg
import pytest
from conftest import Tenant
from support.eleven import INITIATION, METADATA, Talk
from support.minting import Desk, minting
from support.sandbox import Provider

from broker import relay as relay_module
from broker.sandbox.elevenlabs.conversations import Conversation
from vault.embedded import Embedded

TOKEN = "secret__user_google_token"
GRANT = "secret__keyturn_authorization"


@pytest.fixture
async def desk(tenant: Tenant, provider: Provider) -> AsyncIterator[Desk]:
    async with minting(tenant, provider) as found:
        await found.user()
        yield found


@contextlib.asynccontextmanager
async def talking(url: str, **said: Any) -> AsyncIterator[Talk]:
    async with aiohttp.ClientSession() as session, session.ws_connect(url) as socket:
        talk = Talk(socket)
        await talk.send({"type": INITIATION, **said})
        hello = await talk.frame()
        assert hello["type"] == METADATA, hello
        talk.conversation_id = hello[f"{METADATA}_event"]["conversation_id"]
        yield talk


async def refused(url: str) -> tuple[int | None, str]:
    async with aiohttp.ClientSession() as session, session.ws_connect(url) as socket:
        return await Talk(socket).closed()


def held(desk: Desk, talk: Talk) -> Conversation:
    found = [
        one.conversations.get(talk.conversation_id) for one in desk.eleven.world.accounts.values()
    ]
    [conversation] = [one for one in found if isinstance(one, Conversation)]
    return conversation


async def until(desk: Desk, conversation: str, **wanted: Any) -> Any:
    async with asyncio.timeout(60):
        while True:
            shown = await desk.shown(conversation)
            if all(shown[name] == value for name, value in wanted.items()):
                return shown
            await asyncio.sleep(0.05)


async def test_a_conversation_gets_what_the_mint_promised_and_ends_with_its_socket(
    desk: Desk,
) -> None:
    token = await desk.connect()
    made = await desk.mint()
    assert made["delivery"] == "relay"
    said = {"dynamic_variables": {TOKEN: "forged", "user_id": "bob"}, "environment": "staging"}
    heard = []
    async with talking(made["signed_url"], **said) as talk:
        variables = held(desk, talk).variables
        assert variables[TOKEN] == token
        assert variables["user_id"] == "ada"
        assert variables["keyturn_conversation_id"] == made["id"]
        assert str(variables[GRANT]).startswith("Bearer ktg_")
        await until(desk, made["id"], state="started")
        await talk.say("hello")
        heard.append(await talk.response())
        assert await refused(made["signed_url"]) == (1008, "unauthenticated")
    await until(desk, made["id"], state="ended")
    assert token not in json.dumps([made, heard])


async def test_a_conversation_that_was_ended_before_lets_nobody_in(desk: Desk) -> None:
    await desk.connect()
    made = await desk.mint()
    reply = await desk.api.post(f"/v1/conversations/{made['id']}/end")
    assert reply.status in (200, 204), reply.body
    assert await refused(made["signed_url"]) == (1008, "unauthenticated")


async def test_a_conversation_that_is_ended_hangs_up(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay_module, "LOOK", 0.05)
    made, other = await desk.mint(), await desk.mint()
    async with talking(made["signed_url"]) as talk, talking(other["signed_url"]) as another:
        assert (await desk.api.post(f"/v1/conversations/{made['id']}/end")).status == 200
        assert await talk.closed() == (1000, "The conversation was ended")
        await another.say("still here")
        assert await another.response()
    await until(desk, other["id"], state="ended")
    ended = [one["target"]["id"] for one in await desk.audited("conversation.end")]
    assert sorted(ended) == sorted([made["id"], other["id"]])


async def test_the_conversations_of_a_user_who_is_deleted_hang_up(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(relay_module, "LOOK", 0.05)
    await desk.connect()
    made = await desk.mint()
    async with talking(made["signed_url"]) as talk:
        assert (await desk.api.delete("/v1/users/ada")).status == 200
        assert await talk.closed() == (1000, "The conversation was ended")
    assert await desk.shown(made["id"]) == 404
    assert "end_not_kept" not in "".join(capfd.readouterr())


async def test_a_conversation_goes_on_while_the_database_does_not_say_how_it_is(
    desk: Desk, migrated: Embedded, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay_module, "LOOK", 0.05)
    made = await desk.mint()
    admin = await asyncpg.connect(migrated.dsn().reveal())
    async with talking(made["signed_url"]) as talk:
        await until(desk, made["id"], state="started")
        await admin.execute("revoke select on vault.conversations from keyturn_app")
        try:
            ended = "update vault.conversations set ended_at = now() where conversation_id = $1"
            await admin.execute(ended, made["id"])
            await asyncio.sleep(0.5)  # looks, each of them refused
            await talk.say("still here")
            assert await talk.response()
        finally:
            await admin.execute("grant select on vault.conversations to keyturn_app")
            await admin.close()
        assert await talk.closed() == (1000, "The conversation was ended")


async def test_a_client_sets_what_the_profile_leaves_to_it(desk: Desk) -> None:
    await desk.connect()
    allowed = {"conversation_config_override": {"agent": {"language": True}}}
    await desk.eleven.agent(platform={"overrides": allowed})
    await desk.profile(
        tools="direct",
        variables={"topic": {"from": "client", "default": "none"}, "plan": {"value": "pro"}},
        overrides=["agent.language"],
    )
    made = await desk.mint()
    said = {
        "dynamic_variables": {"topic": "weather", "plan": "free"},
        "conversation_config_override": {"agent": {"language": "de", "first_message": "no"}},
    }
    async with talking(made["signed_url"], **said) as talk:
        variables = held(desk, talk).variables
        assert (variables["topic"], variables["plan"]) == ("weather", "pro")
    made = await desk.mint(dynamic_variables={"topic": "decided"})
    async with talking(made["signed_url"], **said) as talk:
        assert held(desk, talk).variables["topic"] == "decided"
