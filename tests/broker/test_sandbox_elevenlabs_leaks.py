"""The stand-in's leak detector: a secret anywhere but in a tool's header ends the conversation."""

import base64
from collections.abc import AsyncIterator
from typing import Any

import pytest
from support.eleven import Eleven, Outside, outside, pretending

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


async def test_without_sanitize_the_fresh_token_is_a_leak(eleven: Eleven, server: Outside) -> None:
    server.will({"token": "ya29.new-2"})
    assignment = {"dynamic_variable": "secret__auth", "value_path": "token"}
    await with_tool(eleven, {"url": server.base}, assignments=[assignment])
    async with eleven.talking() as talk:
        called = await eleven.call_tool(talk)
        assert called["error_type"] == "failed"
        assert await talk.closed() == (
            1008,
            "Sandbox: 'secret__auth' is a secret and stands in the tool_result",
        )
    assert await eleven.leaks() == [("tool_result", "secret__auth")]


LEAKING: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"url": "https://x.test/?t={{secret__auth}}"}, {}, "url"),
    (
        {
            "url": "https://x.test/",
            "query_params_schema": {"properties": {"t": {"dynamic_variable": "secret__auth"}}},
        },
        {},
        "parameter",
    ),
    (
        {
            "url": "https://x.test/{t}",
            "path_params_schema": {"t": {"dynamic_variable": "secret__auth"}},
        },
        {},
        "parameter",
    ),
    (
        {
            "url": "https://x.test/",
            "request_body_schema": {"properties": {"t": {"dynamic_variable": "secret__auth"}}},
        },
        {},
        "body",
    ),
    (  # the name is nowhere; what a model made of the value is
        {
            "url": "https://x.test/",
            "request_body_schema": {"properties": {"t": {"description": "any"}}},
        },
        {"t": base64.b64encode(f"Bearer {TOKEN}".encode()).decode()},
        "body",
    ),
    (
        {
            "url": "https://x.test/",
            "query_params_schema": {"properties": {"t": {"description": "any"}}},
        },
        {"t": TOKEN},
        "url",
    ),
]


@pytest.mark.parametrize(("schema", "arguments", "where"), LEAKING)
async def test_a_secret_in_a_url_or_a_body_ends_the_conversation_unsent(
    eleven: Eleven, server: Outside, schema: dict[str, Any], arguments: dict[str, Any], where: str
) -> None:
    await eleven.knob("PUT", "/elevenlabs/reroutes", {"https://x.test": server.base})
    await with_tool(eleven, schema)
    given = {"secret__auth": f"Bearer {TOKEN}"}
    async with eleven.talking(variables=given) as talk:
        await eleven.call_tool(talk, **arguments)
        code, reason = await talk.closed()
    said = f"Sandbox: 'secret__auth' is a secret and stands in the {where}"
    assert (code, reason) == (1008, said)
    assert server.heard == []
    assert (where, "secret__auth") in await eleven.leaks()


async def test_a_leak_may_be_written_down_only(eleven: Eleven, server: Outside) -> None:
    await eleven.knob("PUT", "/elevenlabs/behaviour", {"on_leak": "record"})
    schema = {"url": server.base + "/?t={{secret__auth}}"}
    await with_tool(eleven, schema)
    async with eleven.talking(variables={"secret__auth": TOKEN}) as talk:
        assert (await eleven.call_tool(talk))["status"] == 200
    assert {("url", "secret__auth")} == set(await eleven.leaks())
    raw = await eleven.knob("GET", "/elevenlabs/leaks")
    assert TOKEN.encode() not in raw.body
    assert {one["conversation_id"] for one in raw.json["leaks"]} == {talk.conversation_id}


@pytest.mark.parametrize("value", [TOKEN, "none"])  # one that says nothing is named all the same
@pytest.mark.parametrize(
    ("prompt", "first", "where"),
    [
        ("The token is {{secret__auth}}.", "", "prompt"),
        ("", "It is {{secret__auth}}", "first_message"),
    ],
)
async def test_a_secret_in_a_prompt_or_a_first_message_is_a_leak(
    eleven: Eleven, prompt: str, first: str, where: str, value: str
) -> None:
    await eleven.agent(prompt={"prompt": prompt}, first=first)
    async with eleven.socket() as talk:
        given = {"secret__auth": value}
        await talk.send({"type": "conversation_initiation_client_data", "dynamic_variables": given})
        assert (await talk.frame())["error_event"]["error_type"] == "sandbox_leak"
    assert await eleven.leaks() == [(where, "secret__auth")]


async def test_a_secret_that_is_said_or_repeated_in_a_plain_variable_is_a_leak(
    eleven: Eleven,
) -> None:
    await eleven.agent()
    async with eleven.talking(variables={"secret__auth": f"Bearer {TOKEN}"}) as talk:
        await talk.say(f"my token is {TOKEN}")
        assert (await talk.closed())[0] == 1008
    assert await eleven.leaks() == [("transcript", "secret__auth")]
    await eleven.knob("DELETE", "/elevenlabs/leaks")
    for frame in (
        {"dynamic_variables": {"secret__auth": TOKEN, "copy": f"x {TOKEN}"}},
        {"dynamic_variables": {"secret__auth": TOKEN}, "user_id": TOKEN},
    ):
        async with eleven.socket() as talk:
            await talk.send({"type": "conversation_initiation_client_data", **frame})
            assert (await talk.frame())["type"] == "error"
    assert await eleven.leaks() == [("variable", "secret__auth"), ("request", "secret__auth")]
