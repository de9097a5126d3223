"""Whatever way a conversation is started, its environment arrives upstream, and nobody changes it.

``preview`` has no value of its own: what it lacks falls back to production's. Calls by telephone
have tests of their own.
"""

import json
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlencode

import pytest
from conftest import Tenant
from support.configured import Configured
from support.eleven import AGENT, SOCKET, Talk
from support.minting import GATEWAY, Desk, minting
from support.sandbox import Provider

from broker.sandbox.elevenlabs.conversations import Conversation

ENVIRONMENTS = ("production", "staging", "preview")
HOSTS = {"production": "api.example.com", "staging": "staging.example.com"}
FELL_BACK = {"preview": "api.example.com", **HOSTS}
TOKEN = "secret__user_google_token"
HEADER = "secret__user_google_authorization"
PROFILE: dict[str, Any] = {
    "variables": {
        "crm_host": {"from": "environment", "label": "crm_host"},
        HEADER: {"from": "connection", "integration": "google", "field": "authorization"},
        TOKEN: {"from": "connection", "integration": "google", "field": "token"},
    }
}
TOOL: dict[str, Any] = {
    "type": "webhook",
    "name": "who",
    "description": "Says whose account this is.",
    "api_schema": {
        "url": "https://{{system__env_api_host}}/whoami",
        "request_headers": {"Authorization": {"variable_name": HEADER}},
    },
}


@pytest.fixture
async def desk(tenant: Tenant, provider: Provider) -> AsyncIterator[Desk]:
    """Ada has another account in each environment; hosts differ, and one falls back."""
    async with minting(tenant, provider) as found:
        await found.user()
        for environment in ENVIRONMENTS:
            await found.connect(environment=environment, account=environment)
        await Configured(tenant.api).strings("crm_host", HOSTS)
        values = {"type": "string", "label": "api_host", "values": HOSTS}
        await found.eleven.made("/v1/convai/environment-variables", values)
        reroutes = {f"https://{host}": provider.base for host in HOSTS.values()}
        await found.eleven.knob("PUT", "/elevenlabs/reroutes", reroutes)
        await found.eleven.agent(prompt={"tools": [TOOL]})
        await found.profile(**PROFILE)
        yield found


def upstream(desk: Desk, conversation_id: str) -> Conversation:
    """The conversation as the runtime has it."""
    for account in desk.eleven.world.accounts.values():
        if isinstance(one := account.conversations.get(conversation_id), Conversation):
            return one
    raise AssertionError("the runtime has no such conversation")


async def assert_is_in(environment: str, desk: Desk, talk: Talk) -> None:
    """Everything of this conversation is of its environment: account, variables, addresses."""
    found = upstream(desk, talk.conversation_id)
    assert found.environment == environment
    assert found.variables["crm_host"] == FELL_BACK[environment]
    done = await desk.eleven.call_tool(talk, "who")
    assert json.loads(done["result"])["account"] == environment
    shown = await desk.eleven.shown(talk.conversation_id)
    [call] = [one for turn in shown["transcript"] for one in turn.get("tool_calls") or []]
    assert call["tool_details"]["url"] == f"https://{FELL_BACK[environment]}/whoami"


# It arrives


@pytest.mark.parametrize("environment", ENVIRONMENTS)
async def test_over_the_relay(desk: Desk, environment: str) -> None:
    made = await desk.mint(environment=environment)
    async with desk.eleven.talking(made["signed_url"]) as talk:
        await assert_is_in(environment, desk, talk)
        # The first message, which a runtime may believe, says so as well.
        assert upstream(desk, talk.conversation_id).initiation["environment"] == environment


@pytest.mark.parametrize("environment", ENVIRONMENTS)
async def test_inline(desk: Desk, environment: str) -> None:
    made = await desk.mint(environment=environment, delivery="inline")
    async with desk.eleven.talking(made["signed_url"], made["dynamic_variables"]) as talk:
        await assert_is_in(environment, desk, talk)


@pytest.mark.parametrize("environment", ENVIRONMENTS)
async def test_over_webrtc(desk: Desk, environment: str) -> None:
    await desk.profile(**GATEWAY, **PROFILE)
    for delivery in ("handle", "inline"):
        made = await desk.mint(environment=environment, delivery=delivery, channel="webrtc")
        assert upstream(desk, made["conversation_id"]).environment == environment
        assert made["dynamic_variables"]["crm_host"] == FELL_BACK[environment]


@pytest.mark.parametrize("address", ["get-signed-url", "get_signed_url"])
@pytest.mark.parametrize("environment", ENVIRONMENTS)
async def test_through_elevenlabs_own_address_with_a_user(
    desk: Desk, address: str, environment: str
) -> None:
    query = urlencode({"agent_id": AGENT, "user_id": "ada", "environment": environment})
    reply = await desk.api.get(f"{SOCKET}/{address}?{query}")
    assert reply.status == 200, reply.body
    async with desk.eleven.talking(reply.json["signed_url"]) as talk:
        await assert_is_in(environment, desk, talk)


@pytest.mark.parametrize("environment", ENVIRONMENTS)
async def test_through_elevenlabs_own_address_of_tokens_with_a_user(
    desk: Desk, environment: str
) -> None:
    await desk.profile(**GATEWAY, **PROFILE)
    query = urlencode({"agent_id": AGENT, "user_id": "ada", "environment": environment})
    reply = await desk.api.get(f"{SOCKET}/token?{query}")
    assert reply.status == 200, reply.body
    assert upstream(desk, reply.json["conversation_id"]).environment == environment
    assert reply.json["dynamic_variables"]["crm_host"] == FELL_BACK[environment]


@pytest.mark.parametrize("environment", ENVIRONMENTS)
async def test_passed_on_without_a_user(desk: Desk, environment: str) -> None:
    query = urlencode({"agent_id": AGENT, "environment": environment})
    assert (await desk.api.get(f"{SOCKET}/get-signed-url?{query}")).status == 200
    reply = await desk.api.get(f"{SOCKET}/token?{query}")
    assert upstream(desk, reply.json["conversation_id"]).environment == environment
    for path in ("get-signed-url", "token"):
        assert desk.asked(path)[-1]["environment"] == environment


async def test_nothing_said_is_production(desk: Desk) -> None:
    made = await desk.mint()
    assert made["environment"] == "production"
    async with desk.eleven.talking(made["signed_url"]) as talk:
        await assert_is_in("production", desk, talk)


# Nobody changes it


@pytest.mark.parametrize("trusting", [False, True], ids=["strict upstream", "trusting upstream"])
async def test_no_client_of_the_relay_changes_it(desk: Desk, *, trusting: bool) -> None:
    """Not even where the runtime would let a client choose."""
    behaviour = {"client_chooses_environment": trusting}
    await desk.eleven.knob("PUT", "/elevenlabs/behaviour", behaviour)
    tries: list[tuple[str, dict[str, Any]]] = [
        ("&environment=production", {}),
        ("", {"environment": "production"}),
        ("", {"branch_id": "main", "version_id": "1", "environment": "production"}),
        ("", {"dynamic_variables": {"crm_host": "evil.example", "system__env_api_host": "evil"}}),
        ("", {"conversation_config_override": {"environment": "production"}}),
        ("", {"custom_llm_extra_body": {"environment": "production"}}),
    ]
    for query, frame in tries:
        made = await desk.mint(environment="staging")
        given = {"variables": frame.pop("dynamic_variables", None), **frame}
        async with desk.eleven.talking(made["signed_url"] + query, **given) as talk:
            await assert_is_in("staging", desk, talk)


async def test_no_client_with_its_own_signed_url_changes_it_where_the_upstream_is_strict(
    desk: Desk,
) -> None:
    made = await desk.mint(environment="staging", delivery="inline")
    url = made["signed_url"] + "&environment=production"
    variables, frame = made["dynamic_variables"], {"environment": "production"}
    async with desk.eleven.talking(url, variables, **frame) as talk:
        await assert_is_in("staging", desk, talk)


async def test_no_tool_of_a_conversation_changes_it(desk: Desk) -> None:
    made = await desk.mint(environment="staging", delivery="inline")
    given = made["dynamic_variables"]
    headers = {"Authorization": given["secret__keyturn_authorization"]}
    body = {"integration": "google", "environment": "production", "rejected": True}
    anyone = desk.api.with_key(None)
    reply = await anyone.post("/tokens/refresh?environment=production", body, headers=headers)
    assert reply.status in (200, 422), reply.body
    if reply.status == 200:
        token = desk.provider.state.alive(reply.json["variables"][TOKEN])
        assert token is not None
        assert token.family.account == "staging"


async def test_a_key_of_one_environment_mints_in_no_other(desk: Desk) -> None:
    tied = await desk.key("mint", environments=["staging"])
    query = urlencode({"agent_id": AGENT, "user_id": "ada", "environment": "production"})
    for path in ("get-signed-url", "get_signed_url", "token"):
        assert (await tied.get(f"{SOCKET}/{path}?{query}")).status == 403
    refused = await desk.ask(api=tied, environment="production")
    assert (refused.status, refused.code) == (403, "forbidden")
    meant = await desk.ask(api=tied)
    assert meant.json["environment"] == "staging"
