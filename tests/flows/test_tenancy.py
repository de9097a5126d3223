"""The three ways to keep users apart, with tools as people print them; each through the relay.

The tools are those of docs/howto/choose-workspaces.md, letter by letter.
"""

import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from conftest import MakeTenant, Tenant
from support.configured import Configured
from support.connecting import integrate
from support.eleven import AGENT, Eleven, Talk
from support.minting import Desk
from support.sandbox import Provider

from broker.sandbox.elevenlabs.account import FIRST_KEY

PAGE = Path(__file__).resolve().parents[2] / "docs" / "howto" / "choose-workspaces.md"
TOOL, REFRESH = (
    json.loads(body)["tool_config"]
    for body in re.findall(r"^```jsonc\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
)
HOST = "calendar.example.com"
KEYTURN_HOST = "keyturn.example.com"
PROFILE: dict[str, Any] = {
    "integrations": [{"integration": "google"}],
    "variables": {
        "secret__google_token": {"from": "connection", "integration": "google", "field": "token"}
    },
}


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as opened:
        yield opened


async def opened(
    tenant: Tenant, provider: Provider, session: aiohttp.ClientSession, key: str = FIRST_KEY
) -> Desk:
    """A workspace with an ElevenLabs account of its own, where the agent has the page's tools."""
    eleven = Eleven(provider, session, key)
    if key != FIRST_KEY:
        await eleven.knob("POST", "/elevenlabs/workspaces", {"api_key": key})
    desk = Desk(tenant, tenant.api, provider, eleven)
    callback = f"{tenant.api.base}/oauth/oidc/google/callback"
    await integrate(tenant.api, provider, callback, name="google")
    body = {"base_url": provider.base, "api_key": key}
    reply = await tenant.api.put("/v1/upstreams/elevenlabs", body)
    assert reply.status == 201, reply.body
    for label, host in (("api_host", HOST), ("keyturn_host", KEYTURN_HOST)):
        values = {"type": "string", "label": label, "values": {"production": host}}
        await eleven.made("/v1/convai/environment-variables", values)
    reroutes = {f"https://{HOST}": provider.base, f"https://{KEYTURN_HOST}": tenant.api.base}
    await eleven.knob("PUT", "/elevenlabs/reroutes", reroutes)
    made = [await eleven.made("/v1/convai/tools", {"tool_config": one}) for one in (TOOL, REFRESH)]
    await eleven.agent(prompt={"tool_ids": [one["id"] for one in made]})
    await desk.profile(**PROFILE)
    return desk


@asynccontextmanager
async def talking(desk: Desk, user: str) -> AsyncIterator[Talk]:
    made = await desk.mint(user)
    assert made["delivery"] == "relay"
    async with desk.eleven.talking(made["signed_url"]) as talk:
        yield talk


async def asked(desk: Desk, talk: Talk) -> str:
    """Whom the tool reached the provider as."""
    done = await desk.eleven.call_tool(talk, TOOL["name"])
    return str(json.loads(done["result"])["account"]) if done["status"] == 200 else "nobody"


async def whole_call(desk: Desk, user: str, account: str) -> None:
    """A user's conversation from the first tool call, over a token's end, to the last."""
    await desk.connect(user, account=account)  # anew: who talked before let every token end
    async with talking(desk, user) as talk:
        assert await asked(desk, talk) == account
        await desk.eleven.knob("POST", "/expire")
        assert await asked(desk, talk) == "nobody"
        done = await desk.eleven.call_tool(talk, REFRESH["name"])
        assert done["status"] == 200, done
        assert "sandbox_" not in done["result"], "the model read a token"
        assert await asked(desk, talk) == account
    assert await desk.eleven.leaks() == []


async def test_a_one_workspace_for_all_users(
    tenant: Tenant, provider: Provider, session: aiohttp.ClientSession
) -> None:
    desk = await opened(tenant, provider, session)
    for user in ("ada", "grace"):
        await desk.connect(user)
    async with talking(desk, "ada") as ada, talking(desk, "grace") as grace:
        assert [await asked(desk, ada), await asked(desk, grace)] == ["ada", "grace"]
    for user in ("ada", "grace"):
        await whole_call(desk, user, user)


async def test_b_a_workspace_for_each_user(
    make_tenant: MakeTenant, provider: Provider, session: aiohttp.ClientSession
) -> None:
    desks = {
        user: await opened(await make_tenant(), provider, session, f"key-of-{user}")
        for user in ("ada", "grace")
    }
    for user, desk in desks.items():
        await whole_call(desk, user, user)
    ada, grace = desks.values()
    assert await ada.refused("grace") == (404, "not_found")
    same = {"base_url": provider.base, "api_key": "key-of-ada"}
    assert (await grace.api.put("/v1/upstreams/elevenlabs", same)).code == "conflict"
    # Each account saw its own user's conversations, and no other.
    for user, desk in desks.items():
        for one in desk.eleven.world.accounts[f"key-of-{user}"].conversations.values():
            assert one.variables["user_id"] == user


async def test_c_a_workspace_for_each_organisation(
    make_tenant: MakeTenant, provider: Provider, session: aiohttp.ClientSession
) -> None:
    acme, globex = [
        await opened(await make_tenant(), provider, session, f"key-of-{name}")
        for name in ("acme", "globex")
    ]
    # A user of the same id at both, with another account at each.
    await whole_call(acme, "ada", "ada")
    await whole_call(globex, "ada", "grace")
    await whole_call(acme, "bob", "ada")
    assert await globex.refused("bob") == (404, "not_found")
    made = await acme.mint("bob")
    reply = await globex.api.get(f"/v1/conversations/{made['id']}")
    assert reply.status == 404


async def test_the_printed_tools_resolve_as_they_stand(
    tenant: Tenant, provider: Provider, session: aiohttp.ClientSession
) -> None:
    configured = Configured(tenant.api)
    await configured.strings("api_host", {"production": HOST})
    await configured.strings("keyturn_host", {"production": KEYTURN_HOST})
    variables: dict[str, Any] = {
        "secret__google_token": "SECRET-TOKEN",
        "secret__keyturn_authorization": "Bearer SECRET-GRANT",
        "user_id": "ada",
    }
    reply = await configured.resolve({"tool_config": TOOL}, dynamic_variables=variables)
    assert reply.status == 200, reply.body
    assert reply.json["request"]["url"] == f"https://{HOST}/whoami"
    assert reply.json["request"]["headers"]["Authorization"]["value"] == "Bearer ***"
    assert b"SECRET" not in reply.body
    reply = await configured.resolve({"tool_config": REFRESH}, dynamic_variables=variables)
    assert reply.json["request"]["url"] == f"https://{KEYTURN_HOST}/tokens/refresh"
    assert reply.json["request"]["body"] == {
        "provider": "google",
        "user_id": "ada",
        "rejected": True,
    }
    assert b"SECRET" not in reply.body


async def test_without_the_grants_header_the_refresh_tool_is_nobody(
    tenant: Tenant, provider: Provider, session: aiohttp.ClientSession
) -> None:
    desk = await opened(tenant, provider, session)
    await desk.connect("ada")
    schema = {key: value for key, value in REFRESH["api_schema"].items() if "headers" not in key}
    bare = await desk.eleven.tool(**{**REFRESH, "api_schema": schema})
    await desk.eleven.agent(agent_id=AGENT, prompt={"tool_ids": [bare]})
    async with talking(desk, "ada") as talk:
        done = await desk.eleven.call_tool(talk, REFRESH["name"])
        assert (done["status"], done["is_error"]) == (401, True)
