"""An agent's tools: what is generated is right by our own linter, and works at ElevenLabs."""

import contextlib
import uuid
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from conftest import Tenant
from support.api import Api
from support.eleven import Eleven, Outside, outside, pretending

from broker.profile import AUTHORIZATION, Profile, check
from broker.tools import MAX_NAME, tools_for
from broker.tools.lint import lint
from broker.variables import SECRET_PLACEHOLDER

ORIGIN = "https://keyturn.example"
GOOGLE = {"integrations": [{"integration": "google"}]}
TOKEN = {"from": "connection", "integration": "google", "field": "token"}
UPSTREAM = "/v1/upstreams/elevenlabs"


def profile_of(written: dict[str, Any]) -> Profile:
    profile = msgspec.convert(written, Profile)
    check(profile)
    return profile


def generated(
    written: dict[str, Any] | None, *names: str, runtime: str | None = "sec_1"
) -> list[dict[str, Any]]:
    profile = None if written is None else profile_of(written)
    return tools_for(profile, names, origin=ORIGIN, runtime_secret_id=runtime)


def faults(tools: list[dict[str, Any]]) -> set[str]:
    return {one.rule for tool in tools for one in lint(tool)}


# What is generated


def test_the_refresh_tool_sends_what_the_conversation_holds_and_keeps_the_answer_secret() -> None:
    [tool] = generated(None, "google")
    assert tool["name"] == "refresh_google_access"
    schema = tool["api_schema"]
    assert (schema["method"], schema["url"]) == ("POST", f"{ORIGIN}/tokens/refresh")
    assert schema["request_headers"] == {
        "Authorization": {"variable_name": AUTHORIZATION},
        "X-Keyturn-Runtime": {"secret_id": "sec_1"},
    }
    assert schema["request_body_schema"]["properties"] == {
        "integration": {"type": "string", "constant_value": "google"},
        "rejected": {"type": "boolean", "constant_value": True},
        "conversation_id": {"type": "string", "dynamic_variable": "system__conversation_id"},
        "generation": {"type": "integer", "dynamic_variable": "user_google_generation"},
    }
    assert {one["dynamic_variable"]: one.get("sanitize") for one in tool["assignments"]} == {
        "secret__user_google_token": True,
        "secret__user_google_authorization": True,
        "user_google_generation": None,
    }
    assert all(
        one["value_path"] == f"variables.{one['dynamic_variable']}" for one in tool["assignments"]
    )
    assert lint(tool) == []


def test_a_refresh_tool_renews_the_names_that_the_profile_gives() -> None:
    [tool] = generated({"variables": {"secret__cal": TOKEN}}, "google")
    assert [one["dynamic_variable"] for one in tool["assignments"]] == ["secret__cal"]
    assert "generation" not in tool["api_schema"]["request_body_schema"]["properties"]


def test_without_a_runtime_key_a_direct_tool_is_whole_and_one_for_the_gateway_is_not() -> None:
    assert faults(generated(GOOGLE, "google", runtime=None)) == set()
    through = {**GOOGLE, "tools": "gateway"}
    assert faults(generated(through, "google", runtime=None)) == {"no_runtime_key"}
    assert faults(generated(through, "google")) == set()


def test_a_gateway_gets_a_tool_for_each_kind_of_request_that_is_allowed() -> None:
    allow = [
        {"methods": ["GET", "HEAD"], "path": "/calendar/v3/*/events"},
        {"methods": ["GET", "POST"], "path": "/mail"},
        {"methods": ["GET"], "path": "/mail/"},
    ]
    written = {"tools": "gateway", "integrations": [{"integration": "google", "allow": allow}]}
    refresh, *calls = generated(written, "google")
    assert [one["dynamic_variable"] for one in refresh["assignments"]] == ["user_google_generation"]
    assert [(one["name"], one["api_schema"]["method"]) for one in calls] == [
        ("google_get_calendar_v3_events", "GET"),
        ("google_get_mail", "GET"),
        ("google_post_mail", "POST"),
        ("google_get_mail_2", "GET"),
    ]
    first = calls[0]["api_schema"]
    assert first["url"] == f"{ORIGIN}/gateway/google/calendar/v3/{{part_1}}/events"
    assert list(first["path_params_schema"]) == ["part_1"]
    assert "HEAD" not in {one["api_schema"]["method"] for one in calls}


def gets(integration: str, *paths: str) -> dict[str, Any]:
    return {
        "integration": integration,
        "allow": [{"methods": ["GET"], "path": path} for path in paths],
    }


def test_no_two_tools_of_an_agent_have_one_name() -> None:
    needs = [gets("acme", "/get/x"), gets("acme_get", "/x"), gets("acme_get_get", "/x", "/-x")]
    found = generated(
        {"tools": "gateway", "integrations": needs}, "acme", "acme_get", "acme_get_get"
    )
    urls = {one["name"]: one["api_schema"]["url"].removeprefix(ORIGIN) for one in found[3:]}
    assert urls == {
        "acme_get_get_x": "/gateway/acme/get/x",
        "acme_get_get_x_2": "/gateway/acme_get/x",
        "acme_get_get_get_x": "/gateway/acme_get_get/x",
        "acme_get_get_get_x_2": "/gateway/acme_get_get/-x",
    }


def test_a_name_that_was_nobody_elses_stays_what_it_was() -> None:
    needs = [gets("acme", "/get/x"), gets("acme_get", "/x", "/x/2")]
    _, _, *calls = generated({"tools": "gateway", "integrations": needs}, "acme", "acme_get")
    assert [one["name"] for one in calls] == [
        "acme_get_get_x",
        "acme_get_get_x_3",
        "acme_get_get_x_2",
    ]


def test_a_tool_that_calls_is_not_named_as_one_that_renews() -> None:
    needs = [gets("get", "/"), gets("refresh", "/access")]
    found = generated({"tools": "gateway", "integrations": needs}, "get", "refresh")
    assert [one["name"] for one in found] == [
        "refresh_get_access",
        "refresh_refresh_access",
        "get_get",
        "refresh_get_access_2",
    ]


def test_names_fit_however_many_are_alike() -> None:
    prefixes = ["acme" + "_get" * count for count in range(11)]
    needs = [
        gets(one, *(f"{'/get' * (10 - count)}/{'b' * 60}{number}" for number in range(30)))
        for count, one in enumerate(prefixes)
    ]
    found = generated({"tools": "gateway", "integrations": needs}, *prefixes)
    names = [one["name"] for one in found]
    assert len(set(names)) == len(names) == 11 + 11 * 30
    assert max(len(name) for name in names) <= MAX_NAME
    assert faults(found) == set()


def test_names_fit_whatever_an_integration_is_called() -> None:
    long = "a" * 48
    allow = [{"methods": ["GET"], "path": "/" + "b" * 400}, {"methods": ["GET"], "path": "/" + "b"}]
    written = {"tools": "gateway", "integrations": [{"integration": long, "allow": allow}]}
    names = [one["name"] for one in generated(written, long)]
    assert len(set(names)) == len(names) == 3
    assert max(len(name) for name in names) <= MAX_NAME


# The linter


def whole() -> dict[str, Any]:
    [tool] = generated(None, "google")
    copy: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(tool))
    return copy


def through_gateway() -> dict[str, Any]:
    _, tool = generated({**GOOGLE, "tools": "gateway"}, "google")
    copy: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(tool))
    return copy


def put(tool: dict[str, Any], path: str, value: Any) -> None:
    """Write one place of a configuration; ``...`` takes it away."""
    *parts, last = path.split("/")[1:]
    place: Any = tool
    for part in parts:
        place = place[int(part)] if isinstance(place, list) else place[part]
    if value is ...:
        del place[last]
    else:
        place[last] = value


BODY = "/api_schema/request_body_schema/properties"
HEADERS = "/api_schema/request_headers"


@pytest.mark.parametrize(
    ("path", "value", "rule", "pointer"),
    [
        ("/assignments/0/sanitize", False, "secret_not_sanitized", "/assignments/0/sanitize"),
        ("/assignments/0/sanitize", ..., "secret_not_sanitized", "/assignments/0/sanitize"),
        ("/assignments/0/sanitize", "true", "secret_not_sanitized", "/assignments/0/sanitize"),
        (
            "/assignments/0/dynamic_variable",
            "token",
            "secret_in_plain_variable",
            "/assignments/0/dynamic_variable",
        ),
        ("/description", "{{ secret__x }}", "secret_outside_headers", "/description"),
        (
            f"{BODY}/generation/dynamic_variable",
            "secret__x",
            "secret_outside_headers",
            f"{BODY}/generation/dynamic_variable",
        ),
        (
            "/api_schema/query_params_schema",
            {"properties": {"a/b": {"dynamic_variable": "secret__x"}}},
            "secret_outside_headers",
            "/api_schema/query_params_schema/properties/a~1b/dynamic_variable",
        ),
        (
            "/api_schema/url",
            "https://a.example/tokens/refresh?t={{secret__x}}",
            "secret_outside_headers",
            "/api_schema/url",
        ),
        (f"{HEADERS}/x-api-key", "sk-1", "literal_credential", f"{HEADERS}/x-api-key"),
        (
            f"{HEADERS}/Authorization",
            "Bearer sk-1",
            "literal_credential",
            f"{HEADERS}/Authorization",
        ),
        (
            "/api_schema/url",
            "http://a.example/tokens/refresh",
            "address_not_https",
            "/api_schema/url",
        ),
        (
            "/api_schema/url",
            "{{system__env_host}}/tokens/refresh",
            "address_not_https",
            "/api_schema/url",
        ),
        (
            "/api_schema/follow_redirects",
            True,
            "secret_follows_redirects",
            "/api_schema/follow_redirects",
        ),
        (
            f"{HEADERS}/Authorization",
            {"variable_name": "secret__other"},
            "no_grant",
            f"{HEADERS}/Authorization",
        ),
        (f"{HEADERS}/Authorization", ..., "no_grant", f"{HEADERS}/Authorization"),
        (f"{BODY}/rejected", ..., "rejected_not_constant", f"{BODY}/rejected"),
        (
            f"{BODY}/rejected",
            {"type": "boolean", "description": "Was it rejected?"},
            "rejected_not_constant",
            f"{BODY}/rejected",
        ),
        (
            f"{BODY}/integration",
            {"type": "string", "description": "Which one?"},
            "chosen_by_model",
            f"{BODY}/integration",
        ),
        (
            f"{BODY}/user_id",
            {"type": "string", "description": "Whose?"},
            "chosen_by_model",
            f"{BODY}/user_id",
        ),
    ],
)
def test_each_fault_of_a_refresh_tool_is_found_where_it_stands(
    path: str, value: Any, rule: str, pointer: str
) -> None:
    tool = whole()
    assert lint(tool) == []
    put(tool, path, value)
    assert (rule, pointer) in [(one.rule, one.pointer) for one in lint(tool)]


@pytest.mark.parametrize(
    ("path", "value", "rule"),
    [
        (f"{HEADERS}/X-Keyturn-Runtime", ..., "no_runtime_key"),
        (f"{HEADERS}/X-Keyturn-Runtime", "kt_literal", "no_runtime_key"),
        (f"{HEADERS}/X-Keyturn-Runtime", {"variable_name": "secret__r"}, "no_runtime_key"),
        (f"{HEADERS}/Authorization", ..., "no_grant"),
        ("/api_schema/url", f"{ORIGIN}/gateway/{{integration}}/x", "chosen_by_model"),
        ("/api_schema/url", f"{ORIGIN}/gateway/", "chosen_by_model"),
    ],
)
def test_each_fault_of_a_gateways_tool_is_found(path: str, value: Any, rule: str) -> None:
    tool = through_gateway()
    assert lint(tool) == []
    put(tool, path, value)
    assert rule in {one.rule for one in lint(tool)}


def by_name() -> dict[str, Any]:
    """A tool that calls one of the profile's."""
    return {
        "type": "webhook",
        "name": "look",
        "description": "Looks.",
        "api_schema": {
            "url": f"{ORIGIN}/v1/tools/invoke",
            "method": "POST",
            "request_headers": {
                "Authorization": {"variable_name": "secret__keyturn_authorization"},
                "X-Keyturn-Runtime": {"secret_id": "s"},
            },
            "request_body_schema": {
                "type": "object",
                "properties": {
                    "tool": {"type": "string", "constant_value": "look"},
                    "arguments": {
                        "type": "object",
                        "properties": {"q": {"type": "string", "description": "What?"}},
                    },
                },
            },
        },
    }


@pytest.mark.parametrize(
    ("path", "value", "rule"),
    [
        (f"{HEADERS}/X-Keyturn-Runtime", ..., "no_runtime_key"),
        (f"{HEADERS}/Authorization", {"secret_id": "s"}, "no_grant"),
        (f"{BODY}/tool", ..., "chosen_by_model"),
        (f"{BODY}/tool", {"type": "string", "description": "Which?"}, "chosen_by_model"),
        (f"{BODY}/tool", {"type": "string", "dynamic_variable": "mood"}, "chosen_by_model"),
    ],
)
def test_each_fault_of_a_tool_that_calls_the_profiles_is_found(
    path: str, value: Any, rule: str
) -> None:
    tool = by_name()
    assert lint(tool) == []
    put(tool, path, value)
    assert rule in {one.rule for one in lint(tool)}


def test_a_tool_of_ones_own_is_fine_as_the_article_writes_it_and_as_the_schema_has_it() -> None:
    for value in ("Bearer {{ secret__user_google_token }}", {"variable_name": "secret__google"}):
        schema = {
            "url": "https://www.googleapis.com/x",
            "request_headers": {"Authorization": value},
        }
        tool = {"type": "webhook", "name": "calendar", "api_schema": schema}
        placeholders = {"dynamic_variable_placeholders": {"secret__google": "{{secret__google}}"}}
        assert lint({**tool, "dynamic_variables": placeholders}) == []


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"api_schema": None},
        {"api_schema": {"url": 7, "request_headers": []}},
        {"assignments": [None, 1, {"dynamic_variable": None}]},
        {"api_schema": {"url": "https://[::1", "request_headers": {"a": None}}},
        {"api_schema": {"url": "http://a b/tokens/refresh", "request_body_schema": []}},
    ],
)
def test_whatever_is_given_to_the_linter_it_answers(config: dict[str, Any]) -> None:
    assert isinstance(lint(config), list)


# Over HTTP, at ElevenLabs' stand-in


@contextlib.asynccontextmanager
async def account_of(tenant: Tenant) -> AsyncIterator[Eleven]:
    """An account of the tenant's own, which the tenant has named."""
    async with pretending() as first:
        key = f"xi-{uuid.uuid4().hex}"
        await first.knob("POST", "/elevenlabs/workspaces", {"api_key": key})
        mine = first.as_workspace(key)
        named = {"base_url": mine.base, "api_key": key}
        reply = await tenant.api.put(UPSTREAM, named)
        assert reply.status in {200, 201}, reply.body
        yield mine


@pytest.fixture
async def eleven(tenant: Tenant) -> AsyncIterator[Eleven]:
    async with account_of(tenant) as found:
        yield found


@pytest.fixture
async def maker() -> AsyncIterator[Outside]:
    async with outside() as found:
        yield found


async def key_of(tenant: Tenant, anyone: Api, *scopes: str) -> Api:
    made = await tenant.api.post("/v1/keys", {"name": "k", "scopes": list(scopes)})
    return anyone.with_key(made.json["key"])


async def push(api: Api, agent: str = "agent_1") -> Any:
    reply = await api.post(f"/v1/agents/{agent}/tools/push")
    assert reply.status == 200, reply.body
    return reply.json


async def runtime_keys(tenant: Tenant) -> list[str]:
    found = (await tenant.api.get("/v1/keys")).json["data"]
    return [one["id"] for one in found if one["scopes"] == ["runtime"]]


async def test_tools_are_shown_before_there_is_an_account(tenant: Tenant, anyone: Api) -> None:
    await tenant.api.put("/v1/integrations/mail", {"provider": "api-key"})
    minting = await key_of(tenant, anyone, "mint")
    shown = (await minting.get("/v1/agents/agent_1/tools")).json
    assert [one["name"] for one in shown["tools"]] == ["refresh_mail_access"]
    assert shown["runtime_secret_id"] is None
    assert {one["rule"] for one in shown["findings"]} == set()
    await tenant.api.put("/v1/agents/agent_1", {"tools": "gateway"})
    shown = (await minting.get("/v1/agents/agent_1/tools")).json
    assert {one["rule"] for one in shown["findings"]} == {"no_runtime_key"}


async def test_a_push_makes_tools_and_a_runtime_key_and_a_second_one_changes_them(
    tenant: Tenant, eleven: Eleven
) -> None:
    await tenant.api.put("/v1/agents/agent_1", {**GOOGLE, "tools": "gateway"})
    first = await push(tenant.api)
    assert [one["action"] for one in first["tools"]] == ["created", "created"]
    shown = (await tenant.api.get("/v1/agents/agent_1/tools")).json
    assert shown["findings"] == []
    assert shown["runtime_secret_id"] == first["runtime_secret_id"]
    for one in shown["tools"]:
        kept = (await eleven.get(f"/v1/convai/tools/{one['tool_id']}")).json["tool_config"]
        assert kept.items() >= one["config"].items()
    again = await push(tenant.api)
    assert [one["action"] for one in again["tools"]] == ["updated", "updated"]
    assert again["runtime_secret_id"] == first["runtime_secret_id"]
    assert len((await eleven.get("/v1/convai/tools")).json["tools"]) == 2
    assert len((await eleven.get("/v1/convai/secrets")).json["secrets"]) == 1
    assert len(await runtime_keys(tenant)) == 1
    known = (await tenant.api.get(UPSTREAM)).json
    assert [known["runtime_key_id"]] == await runtime_keys(tenant)


async def test_what_was_taken_away_there_is_made_again(tenant: Tenant, eleven: Eleven) -> None:
    await tenant.api.put("/v1/agents/agent_1", GOOGLE)
    first = await push(tenant.api)
    tool = first["tools"][0]["tool_id"]
    await eleven.call("DELETE", f"/v1/convai/tools/{tool}")
    await eleven.call("DELETE", f"/v1/convai/secrets/{first['runtime_secret_id']}")
    [before] = await runtime_keys(tenant)
    again = await push(tenant.api)
    assert [one["action"] for one in again["tools"]] == ["created"]
    assert again["runtime_secret_id"] != first["runtime_secret_id"]
    [after] = await runtime_keys(tenant)
    assert after != before, "nobody knows where the former one is"


async def test_a_runtime_key_that_was_revoked_is_replaced_in_its_place(
    tenant: Tenant, eleven: Eleven
) -> None:
    await tenant.api.put("/v1/agents/agent_1", GOOGLE)
    first = await push(tenant.api)
    [key] = await runtime_keys(tenant)
    await tenant.api.delete(f"/v1/keys/{key}")
    again = await push(tenant.api)
    assert again["runtime_secret_id"] == first["runtime_secret_id"]
    assert await runtime_keys(tenant) != [key]
    assert len((await eleven.get("/v1/convai/secrets")).json["secrets"]) == 1


async def test_no_key_pushes_a_wider_key_than_itself(
    tenant: Tenant, anyone: Api, eleven: Eleven
) -> None:
    await tenant.api.put("/v1/agents/agent_1", GOOGLE)
    manage = await key_of(tenant, anyone, "manage")
    refused = await manage.post("/v1/agents/agent_1/tools/push")
    assert (refused.status, refused.code) == (403, "forbidden")
    assert (await eleven.get("/v1/convai/secrets")).json["secrets"] == []
    await push(await key_of(tenant, anyone, "manage", "runtime"))
    await push(manage)  # the runtime key is there already
    mint = await key_of(tenant, anyone, "mint", "runtime")
    assert (await mint.post("/v1/agents/agent_1/tools/push")).code == "forbidden"


async def test_a_push_without_an_account_and_one_that_fails_leave_no_key_behind(
    tenant: Tenant, maker: Outside
) -> None:
    missing = await tenant.api.post("/v1/agents/agent_1/tools/push")
    assert (missing.status, missing.code) == (409, "upstream_missing")
    canary = f"canary-{uuid.uuid4().hex}"
    key = f"xi-{uuid.uuid4().hex}"
    await tenant.api.put(UPSTREAM, {"base_url": maker.base, "api_key": key})
    maker.will({"detail": {"message": canary}}, status=500)
    failed = await tenant.api.post("/v1/agents/agent_1/tools/push")
    assert (failed.status, failed.code) == (502, "upstream_failed")
    assert canary not in failed.body.decode()
    assert await runtime_keys(tenant) == []


async def test_a_push_is_recorded_and_the_runtime_keys_value_is_shown_to_nobody(
    tenant: Tenant, maker: Outside
) -> None:
    await tenant.api.put("/v1/agents/agent_1", GOOGLE)
    key = f"xi-{uuid.uuid4().hex}"
    await tenant.api.put(UPSTREAM, {"base_url": maker.base, "api_key": key})
    maker.will({"secret_id": "sec_1", "id": "tool_1"})
    pushed = await tenant.api.post("/v1/agents/agent_1/tools/push")
    assert pushed.json["runtime_secret_id"] == "sec_1"
    secret, tool = maker.heard
    value = secret.json["value"]
    assert secret.json == {"type": "new", "name": "keyturn-runtime", "value": value}
    assert value.startswith("kt_")
    assert value not in pushed.body.decode()
    assert value not in tool.body.decode()
    found = (await tenant.api.get("/v1/audit-events?limit=3")).json["data"]
    assert [one["action"] for one in found] == ["key.create", "agent.push", "upstream.write"]
    assert value not in str(found)


async def test_another_account_knows_nothing_of_what_was_made_in_the_one_before(
    tenant: Tenant, eleven: Eleven
) -> None:
    await tenant.api.put("/v1/agents/agent_1", GOOGLE)
    first = await push(tenant.api)
    async with account_of(tenant):
        shown = (await tenant.api.get("/v1/agents/agent_1/tools")).json
        assert shown["runtime_secret_id"] is None
        assert [one["tool_id"] for one in shown["tools"]] == [None]
        second = await push(tenant.api)
    assert second["tools"][0]["action"] == "created"
    assert second["tools"][0]["tool_id"] != first["tools"][0]["tool_id"]
    assert (await eleven.get("/v1/convai/secrets")).json["secrets"]


async def test_a_pushed_refresh_tool_renews_a_conversations_token_past_the_model(
    tenant: Tenant, eleven: Eleven, maker: Outside
) -> None:
    """The tool's request, its assignments, and what the model sees of the answer."""
    await tenant.api.put("/v1/agents/agent_1", GOOGLE)
    pushed = await push(tenant.api)
    tool_id = pushed["tools"][0]["tool_id"]
    config = (await eleven.get(f"/v1/convai/tools/{tool_id}")).json["tool_config"]
    config["api_schema"]["url"] = f"{maker.base}/tokens/refresh"  # we answer in its place
    await eleven.call("PATCH", f"/v1/convai/tools/{tool_id}", {"tool_config": config})
    await eleven.agent(prompt={"tool_ids": [tool_id]})
    fresh = f"ya29-{uuid.uuid4().hex}"
    renewed = {
        "secret__user_google_token": fresh,
        "secret__user_google_authorization": f"Bearer {fresh}",
        "user_google_generation": 4,
    }
    maker.will({"status": "refreshed", "integration": "google", "variables": renewed})
    variables = {
        AUTHORIZATION: "Bearer ktg_grant",
        "secret__user_google_token": SECRET_PLACEHOLDER,
        "secret__user_google_authorization": SECRET_PLACEHOLDER,
        "user_google_generation": 3,
    }
    url = await eleven.signed_url()
    async with eleven.talking(url, variables) as talk:
        seen = await eleven.call_tool(talk, "refresh_google_access")
        inside = await eleven.inside(talk.conversation_id)
    [heard] = maker.heard
    assert heard.headers["authorization"] == "Bearer ktg_grant"
    assert heard.headers["x-keyturn-runtime"].startswith("kt_")
    assert heard.json == {
        "integration": "google",
        "rejected": True,
        "generation": 3,
        "conversation_id": talk.conversation_id,
    }
    assert fresh not in str(seen)
    now = {name: eleven.world.fingerprint(str(value)) for name, value in renewed.items()}
    assert inside["variables"].items() >= now.items()
    assert fresh not in str(await eleven.shown(talk.conversation_id))
    assert await eleven.leaks() == []
