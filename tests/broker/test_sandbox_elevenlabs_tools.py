"""The stand-in's tool calls: what is filled in, what is sent, what the model sees."""

import asyncio
import base64
import time
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import parse_qs

import pytest
from support.eleven import AGENT, Eleven, Outside, outside, pretending

VARIABLES = "/v1/convai/environment-variables"
CONNECTIONS = "/v1/workspace/auth-connections"
TOKEN = "ya29.ada-000111"


@pytest.fixture
async def eleven() -> AsyncIterator[Eleven]:
    async with pretending() as found:
        yield found


@pytest.fixture
async def server() -> AsyncIterator[Outside]:
    async with outside() as found:
        yield found


async def with_tool(eleven: Eleven, schema: dict[str, Any], **config: Any) -> None:
    """Give the agent one tool."""
    tool_id = await eleven.tool(api_schema=schema, **config)
    await eleven.agent(prompt={"tool_ids": [tool_id]})


async def variable(eleven: Eleven, label: str, kind: str = "string", **values: Any) -> None:
    await eleven.made(VARIABLES, {"type": kind, "label": label, "values": values})


async def secret(eleven: Eleven, value: str) -> dict[str, str]:
    made = await eleven.made("/v1/convai/secrets", {"type": "new", "name": "n", "value": value})
    return {"secret_id": made["secret_id"]}


async def test_a_call_is_filled_in_and_really_sent(eleven: Eleven, server: Outside) -> None:
    await eleven.knob("PUT", "/elevenlabs/reroutes", {"https://staging.acme.test": server.base})
    await variable(eleven, "host", production="acme.test", staging="staging.acme.test")
    await variable(
        eleven, "key", "secret", production=await secret(eleven, "k-prod"),
        staging=await secret(eleven, "k-staging"),
    )  # fmt: skip
    schema = {
        "url": "https://{{system__env_host}}/{{ shelf }}/orders/{order}",
        "method": "POST",
        "path_params_schema": {"order": {"type": "string", "description": "Which"}},
        "query_params_schema": {
            "properties": {
                "q": {"type": "string", "description": "What"},
                "limit": {"type": "integer", "constant_value": 3},
                "left_out": {"type": "string", "description": "Not given"},
            }
        },
        "request_headers": {
            "X-Plain": "literal",
            "X-Secret": await secret(eleven, "s3cret-value"),
            "Authorization": {"variable_name": "secret__auth"},
            "X-Key": {"env_var_label": "key"},
        },
        "request_body_schema": {
            "type": "object",
            "required": ["note"],
            "properties": {
                "conversation": {"type": "string", "dynamic_variable": "system__conversation_id"},
                "count": {"type": "integer", "dynamic_variable": "count"},
                "kind": {"type": "string", "constant_value": "order"},
                "note": {"type": "string", "description": "A note"},
                "nested": {"type": "object", "properties": {"deep": {"dynamic_variable": "shelf"}}},
                "omitted": {"type": "string", "is_omitted": True},
            },
        },
    }
    server.will({"ok": True})
    await with_tool(eleven, schema)
    given = {"secret__auth": f"Bearer {TOKEN}", "shelf": "top", "count": "7"}
    async with eleven.talking(variables=given, environment="staging") as talk:
        called = await eleven.call_tool(talk, order="a/b", q="x&y", note="n", omitted="z")
    assert called == {
        "called": True,
        "is_error": False,
        "error_type": "",
        "result": '{"ok": true}',
        "status": 200,
    }
    [heard] = server.heard
    assert (heard.method, heard.path) == ("POST", "/top/orders/a%2Fb?q=x%26y&limit=3")
    assert heard.headers["x-plain"] == "literal"
    assert heard.headers["x-secret"] == "s3cret-value"
    assert heard.headers["authorization"] == f"Bearer {TOKEN}"
    assert heard.headers["x-key"] == "k-staging"
    assert not [name for name in heard.headers if "signature" in name]
    assert heard.json == {
        "conversation": talk.conversation_id,
        "count": 7,
        "kind": "order",
        "note": "n",
        "nested": {"deep": "top"},
    }


async def test_an_environment_without_a_value_gets_productions(
    eleven: Eleven, server: Outside
) -> None:
    await eleven.knob("PUT", "/elevenlabs/reroutes", {"https://acme.test": server.base})
    await variable(eleven, "host", production="acme.test", staging="other.test")
    await with_tool(eleven, {"url": "https://{{system__env_host}}/"})
    async with eleven.talking(environment="dev") as talk:
        assert (await eleven.call_tool(talk))["status"] == 200


@pytest.mark.parametrize(
    "schema",
    [
        {"url": "https://{{system__env_unknown}}/"},
        {"url": "https://x.test/", "request_headers": {"A": {"env_var_label": "unknown"}}},
        {"url": "https://x.test/", "request_headers": {"A": {"secret_id": "unknown"}}},
        {"url": "https://x.test/", "auth_connection": {"auth_connection_id": "unknown"}},
        {
            "url": "https://x.test/{id}",
            "path_params_schema": {"id": {"type": "string", "description": "not given"}},
        },
    ],
)
async def test_what_cannot_be_filled_in_is_a_configuration_error_and_is_not_sent(
    eleven: Eleven, server: Outside, schema: dict[str, Any]
) -> None:
    await eleven.knob("PUT", "/elevenlabs/reroutes", {"https://x.test": server.base})
    await with_tool(eleven, schema)
    async with eleven.talking() as talk:
        called = await eleven.call_tool(talk)
    assert (called["called"], called["error_type"]) == (False, "configuration_error")
    assert server.heard == []


REFRESH = {
    "assignments": [
        {
            "dynamic_variable": "secret__auth",
            "value_path": "response.0.token",
            "sanitize": True,
        },
        {"dynamic_variable": "generation", "value_path": "response.0.generation"},
        {"dynamic_variable": "untouched", "value_path": "response.9.nothing"},
    ]
}


async def test_a_refreshed_token_is_assigned_and_nobody_sees_it(
    eleven: Eleven, server: Outside
) -> None:
    server.will({"response": [{"token": "Bearer ya29.new-2", "generation": 4}], "status": "ok"})
    schema = {"url": server.base, "request_headers": {"A": {"variable_name": "secret__auth"}}}
    await with_tool(eleven, schema, **REFRESH)
    given = {"secret__auth": f"Bearer {TOKEN}", "untouched": "as it was"}
    async with eleven.talking(variables=given) as talk:
        called = await eleven.call_tool(talk)
        await eleven.call_tool(talk)
    assert called["result"] == '{"response": [{"generation": 4}], "status": "ok"}'
    assert [one.headers["a"] for one in server.heard] == [f"Bearer {TOKEN}", "Bearer ya29.new-2"]
    shown = await eleven.shown(talk.conversation_id)
    assert "ya29" not in str(shown)
    variables = shown["conversation_initiation_client_data"]["dynamic_variables"]
    assert variables["secret__auth"] == "<REDACTED>"
    assert (variables["generation"], variables["untouched"]) == ("4", "as it was")
    updates = shown["transcript"][1]["tool_results"][0]["dynamic_variable_updates"]
    assert [(one["variable_name"], one["new_value"]) for one in updates] == [
        ("secret__auth", "<REDACTED>"),
        ("generation", "4"),
    ]
    assert await eleven.leaks() == []


async def test_a_filter_shows_the_model_only_what_it_names(eleven: Eleven, server: Outside) -> None:
    server.will({"a": 1, "b": {"c": 2}, "d": 3})
    for response_filter, result in (
        ({"mode": "all"}, '{"a": 1, "b": {"c": 2}, "d": 3}'),
        ({"mode": "allow", "filters": ["a", "b.c", "e"]}, '{"a": 1, "b.c": 2}'),
        ({"mode": "hide_all"}, "{}"),
    ):
        await with_tool(eleven, {"url": server.base, "response_filter": response_filter})
        async with eleven.talking() as talk:
            assert (await eleven.call_tool(talk))["result"] == result


@pytest.mark.parametrize(
    ("mode", "result"),
    [
        (None, "The tool call failed."),
        ("hide", "The tool call failed."),
        ("summarized", "The tool answered with status 401."),
        ("passthrough", '{"why": "expired"}'),
    ],
)
async def test_an_error_tells_the_model_what_the_mode_says(
    eleven: Eleven, server: Outside, mode: str | None, result: str
) -> None:
    server.will({"why": "expired"}, 401)
    more = {} if mode is None else {"tool_error_handling_mode": mode}
    await with_tool(eleven, {"url": server.base}, **more)
    async with eleven.talking() as talk:
        called = await eleven.call_tool(talk)
    assert (called["result"], called["status"]) == (result, 401)
    assert (called["is_error"], called["error_type"]) == (True, "http_401")


async def test_a_tool_has_its_own_time_to_answer(eleven: Eleven, server: Outside) -> None:
    server.will({}, after=600)
    await with_tool(eleven, {"url": server.base}, response_timeout_secs=5)
    async with eleven.talking() as talk:
        began = time.monotonic()
        called = await eleven.call_tool(talk)
        assert 4.5 < time.monotonic() - began < 250
    assert (called["is_error"], called["error_type"]) == (True, "connection_error")


async def test_no_redirect_is_followed(eleven: Eleven, server: Outside) -> None:
    server.will({}, 302)
    await with_tool(eleven, {"url": server.base})
    async with eleven.talking() as talk:
        assert (await eleven.call_tool(talk))["error_type"] == "http_302"
    assert len(server.heard) == 1


@pytest.mark.parametrize("in_header", [True, False])
async def test_client_credentials_are_fetched_kept_and_fetched_again(
    eleven: Eleven, server: Outside, *, in_header: bool
) -> None:
    async with outside() as issuer:
        issuer.will({"access_token": "first-token", "expires_in": 60})
        issuer.will({"access_token": "second-token", "expires_in": 60})
        made = await eleven.made(
            CONNECTIONS,
            {
                "auth_type": "oauth2_client_credentials",
                "name": "n",
                "provider": "p",
                "client_id": "the client",
                "client_secret": "s3cret",
                "token_url": issuer.base,
                "scopes": ["a", "b"],
                "extra_params": {"audience": "x"},
                "basic_auth_in_header": in_header,
            },
        )
        reference = {"auth_connection_id": made["id"]}
        await variable(eleven, "orders_auth", "auth_connection", production=reference)
        by_label = {"env_var_label": "orders_auth"}
        await with_tool(eleven, {"url": server.base, "auth_connection": by_label})
        async with eleven.talking() as talk:
            await eleven.call_tool(talk)
            await eleven.call_tool(talk)
            await eleven.knob("POST", "/elevenlabs/clock", {"seconds": 61})
            await eleven.call_tool(talk)
        asked = issuer.heard
    assert [one.headers["authorization"] for one in server.heard] == [
        "Bearer first-token",
        "Bearer first-token",
        "Bearer second-token",
    ]
    assert len(asked) == 2
    form = {name: one for name, [one] in parse_qs(asked[0].body.decode()).items()}
    basic = "Basic " + base64.b64encode(b"the+client:s3cret").decode()
    named = {} if in_header else {"client_id": "the client", "client_secret": "s3cret"}
    expected = {"grant_type": "client_credentials", "scope": "a b", "audience": "x"}
    assert form == expected | named
    assert asked[0].headers.get("authorization") == (basic if in_header else None)


async def test_a_token_that_cannot_be_fetched_marks_the_connection(
    eleven: Eleven, server: Outside
) -> None:
    async with outside() as issuer:
        issuer.will({"error": "invalid_client"}, 401)
        issuer.will({"access_token": "token"})
        config = {"client_id": "c", "client_secret": "s", "token_url": issuer.base}
        made = await eleven.made(
            CONNECTIONS,
            {"auth_type": "oauth2_client_credentials", "name": "n", "provider": "p", **config},
        )
        reference = {"auth_connection_id": made["id"]}
        await with_tool(eleven, {"url": server.base, "auth_connection": reference})
        async with eleven.talking() as talk:
            assert (await eleven.call_tool(talk))["error_type"] == "configuration_error"
            assert await status(eleven) == "refresh_failed"
            assert (await eleven.call_tool(talk))["status"] == 200
            assert await status(eleven) == "active"


async def status(eleven: Eleven) -> str:
    [found] = (await eleven.get(CONNECTIONS)).json["auth_connections"]
    return str(found["status"])


@pytest.mark.parametrize(
    ("config", "header", "begins"),
    [
        ({"auth_type": "bearer_auth", "token": "t"}, "authorization", "Bearer t"),
        (
            {"auth_type": "basic_auth", "username": "u", "password": "p"},
            "authorization",
            "Basic dTpw",
        ),
        ({"auth_type": "custom_header_auth", "header_name": "X-T", "token": "t"}, "x-t", "t"),
        (
            {
                "auth_type": "private_key_jwt",
                "issuer": "i",
                "audience": "a",
                "subject": "s",
                "secret_key": "k",
            },
            "authorization",
            "Bearer ey",
        ),
    ],
)
async def test_an_auth_connection_adds_its_header(
    eleven: Eleven, server: Outside, config: dict[str, Any], header: str, begins: str
) -> None:
    made = await eleven.made(CONNECTIONS, {"name": "n", "provider": "p", **config})
    reference = {"auth_connection_id": made["id"]}
    await with_tool(eleven, {"url": server.base, "auth_connection": reference})
    async with eleven.talking() as talk:
        await eleven.call_tool(talk)
    assert server.heard[0].headers[header].startswith(begins)


async def test_the_transcript_shows_a_call_without_its_headers(
    eleven: Eleven, server: Outside
) -> None:
    server.will({"found": 1})
    schema = {
        "url": server.base + "/{id}",
        "method": "POST",
        "path_params_schema": {"id": {"description": "Which"}},
        "request_headers": {"Authorization": {"variable_name": "secret__auth"}},
        "request_body_schema": {"properties": {"note": {"description": "A note"}}},
    }
    await with_tool(eleven, schema)
    async with eleven.talking(variables={"secret__auth": TOKEN}, user_id="u1") as talk:
        await eleven.call_tool(talk, id="7", note="n")
    shown = await eleven.shown(talk.conversation_id)
    assert (shown["environment"], shown["user_id"]) == ("production", "u1")
    assert TOKEN not in str(shown)
    call, result = shown["transcript"]
    [made] = call["tool_calls"]
    assert made["tool_details"] == {
        "type": "webhook",
        "method": "POST",
        "url": server.base + "/7",
        "headers": {"Authorization": "<REDACTED>", "Content-Type": "<REDACTED>"},
        "path_params": {"id": "7"},
        "query_params": {},
        "body": '{"note": "n"}',
    }
    assert result["tool_results"][0]["result_value"] == '{"found": 1}'


async def test_a_client_tool_is_answered_by_the_client(eleven: Eleven) -> None:
    client = {"type": "client", "name": "pick", "description": "", "expects_response": True}
    await eleven.agent(prompt={"tools": [client]})
    script = [{"when": "", "do": [{"tool": "pick", "arguments": {"a": 1}}, {"say": "{result}"}]}]
    await eleven.knob("PUT", f"/elevenlabs/agents/{AGENT}/script", script)
    async with eleven.talking() as talk:
        await talk.say("go")
        asked = (await talk.next("client_tool_call"))["client_tool_call"]
        assert (asked["tool_name"], asked["parameters"]) == ("pick", {"a": 1})
        answer = {"tool_call_id": asked["tool_call_id"], "result": "blue", "is_error": False}
        await talk.send({"type": "client_tool_result", **answer})
        assert await talk.response() == "blue"


async def test_what_is_heard_while_a_tool_runs_waits_its_turn(
    eleven: Eleven, server: Outside
) -> None:
    server.will({"done": True}, after=0.3)
    await with_tool(eleven, {"url": server.base})
    rules = [{"when": "first", "do": [{"tool": "orders"}, {"say": "{result}"}]}]
    await eleven.knob("PUT", f"/elevenlabs/agents/{AGENT}/script", rules)
    async with eleven.talking() as talk:
        await talk.say("first")
        await asyncio.sleep(0.1)
        await talk.say("second")
        assert [await talk.response(), await talk.response()] == [
            '{"done": true}',
            "You said: second",
        ]
