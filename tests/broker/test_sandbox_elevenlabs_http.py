"""The stand-in for ElevenLabs over HTTP: keys, errors, and what a workspace keeps."""

import asyncio
import base64
import json
import signal
import sys
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from support.api import Reply
from support.eleven import AGENT, SOCKET, Eleven, pretending

VARIABLES = "/v1/convai/environment-variables"
ENVIRONMENTS = "/v1/convai/environments"
SECRETS = "/v1/convai/secrets"
CONNECTIONS = "/v1/workspace/auth-connections"


@pytest.fixture
async def eleven() -> AsyncIterator[Eleven]:
    async with pretending() as found:
        yield found


def refusal(reply: Reply) -> tuple[int, str]:
    detail = reply.json["detail"]
    assert detail.keys() == {"type", "code", "status", "message", "request_id", "param"}
    assert detail["status"] == detail["code"]
    assert detail["request_id"] == reply.headers["x-request-id"]
    return reply.status, detail["code"]


def problem(reply: Reply) -> tuple[int, list[str | int]]:
    [found] = reply.json["detail"]
    assert found.keys() == {"loc", "msg", "type"}
    return reply.status, found["loc"]


async def test_http_and_websocket_share_a_port_behind_any_prefix(eleven: Eleven) -> None:
    await eleven.agent()
    for prefix in ("", "/t/acme", "/a/b/c"):
        url = await eleven.get(f"{prefix}{SOCKET}/get-signed-url?agent_id={AGENT}")
        signed = url.json["signed_url"]
        assert signed.startswith(eleven.base.replace("http", "ws", 1) + prefix + SOCKET)
        async with eleven.talking(signed) as talk:
            await talk.say("hello")
            assert await talk.response() == "You said: hello"


async def test_a_wrong_or_missing_key_is_refused_in_their_words(eleven: Eleven) -> None:
    for key in ("wrong", None):
        reply = await eleven.get(VARIABLES, key=key)
        assert refusal(reply) == (401, "invalid_api_key")
        assert reply.json["detail"]["type"] == "authentication_error"
        assert reply.json["detail"]["message"] == "Invalid API key"


async def test_each_key_is_a_workspace_of_its_own(eleven: Eleven) -> None:
    opened = (await eleven.knob("POST", "/elevenlabs/workspaces", {})).json
    other = eleven.as_workspace(opened["api_key"])
    mine = await eleven.made(VARIABLES, string("a", production="mine"))
    await eleven.agent()
    assert (await other.get(VARIABLES)).json["environment_variables"] == []
    assert (await other.get(f"{VARIABLES}/{mine['id']}")).status == 404
    assert (await other.get(f"{SOCKET}/token?agent_id={AGENT}")).status == 404
    again = (await eleven.knob("POST", "/elevenlabs/workspaces", {"api_key": other.key})).json
    assert again == opened
    assert mine["workspace_id"] != opened["workspace_id"]


async def test_every_answer_has_a_request_id_and_none_is_a_redirect(eleven: Eleven) -> None:
    for path in (VARIABLES, VARIABLES + "/", "/v1/nothing", "/v1", f"{VARIABLES}/x"):
        reply = await eleven.get(path)
        assert reply.status in (200, 404)
        assert len(reply.headers["x-request-id"]) == 32


async def test_a_page_of_any_origin_may_ask(eleven: Eleven) -> None:
    asked = await eleven.call("OPTIONS", f"{SOCKET}/token", key=None)
    assert asked.status == 204
    for reply in (asked, await eleven.get(VARIABLES), await eleven.get(VARIABLES, key="wrong")):
        assert reply.headers["access-control-allow-origin"] == "*"
        assert reply.headers["access-control-allow-headers"] == "*"


async def test_the_log_lets_you_compare_and_not_read(eleven: Eleven) -> None:
    await eleven.made(SECRETS, {"type": "new", "name": "n", "value": "the-value-1"})
    await eleven.made(
        CONNECTIONS, {"auth_type": "bearer_auth", "name": "n", "provider": "p", "token": "tok-12"}
    )
    reply = await eleven.knob("GET", "/elevenlabs/requests")
    first, second = reply.json["requests"]
    assert (first["method"], first["path"]) == ("POST", SECRETS)
    assert first["headers"]["xi-api-key"] == second["headers"]["xi-api-key"]
    assert first["headers"]["xi-api-key"].startswith("hash:")
    assert first["body"]["name"] == "n"
    for secret in (b"the-value-1", b"tok-12"):
        assert secret not in reply.body
    await eleven.knob("DELETE", "/elevenlabs/requests")
    assert (await eleven.knob("GET", "/elevenlabs/requests")).json == {"requests": []}


async def test_errors_have_their_three_shapes(eleven: Eleven) -> None:
    assert (await eleven.get("/v1/convai/moon")).json == {"detail": "Not Found"}
    assert (await eleven.call("PUT", VARIABLES)).json == {"detail": "Method Not Allowed"}
    assert refusal(await eleven.get(f"{VARIABLES}/x")) == (404, "environment_variable_not_found")
    for body, loc in (
        ({"type": "string", "values": {}}, ["body", "label"]),
        ({"type": "string", "label": 1, "values": {}}, ["body", "label"]),
        ({"type": "moon", "label": "a", "values": {}}, ["body", "type"]),
        ({"type": "string", "label": "no spaces", "values": {}}, ["body", "label"]),
    ):
        assert problem(await eleven.post(VARIABLES, body)) == (422, loc)
    broken = await eleven.call("POST", VARIABLES, raw=b"{")
    assert problem(broken) == (422, ["body"])
    for query in ("page_size=0", "page_size=101", "page_size=x"):
        reply = await eleven.get(f"{VARIABLES}?{query}")
        assert problem(reply) == (422, ["query", "page_size"])


def string(label: str, **values: Any) -> dict[str, Any]:
    return {"type": "string", "label": label, "values": values}


async def test_variables_are_listed_by_page_label_environment_and_type(eleven: Eleven) -> None:
    for number in range(5):
        staging = {"staging": "s"} if number % 2 else {}
        await eleven.made(VARIABLES, string(f"label_{number}", production="p", **staging))
    seen, cursor = [], ""
    while True:
        page = (await eleven.get(f"{VARIABLES}?page_size=2{cursor}")).json
        seen += [one["label"] for one in page["environment_variables"]]
        assert page["has_more"] is (page["next_cursor"] is not None)
        if not page["has_more"]:
            break
        cursor = f"&cursor={page['next_cursor']}"
    assert seen == [f"label_{number}" for number in range(5)]
    exact = (await eleven.get(f"{VARIABLES}?label=label_1&environment=staging")).json
    assert [one["values"] for one in exact["environment_variables"]] == [{"staging": "s"}]
    assert (await eleven.get(f"{VARIABLES}?type=secret")).json["environment_variables"] == []
    assert refusal(await eleven.get(f"{VARIABLES}?cursor=x")) == (400, "invalid_cursor")


async def test_a_variable_is_made_merged_and_deleted(eleven: Eleven) -> None:
    made = await eleven.made(VARIABLES, string("host", production="p", staging="s"))
    one = f"{VARIABLES}/{made['id']}"
    taken = await eleven.post(VARIABLES, string("host", production="p"))
    assert refusal(taken) == (409, "label_exists")
    changed = await eleven.call("PATCH", one, {"values": {"staging": None, "dev": "d"}})
    assert changed.json["values"] == {"production": "p", "dev": "d"}
    assert (await eleven.get(one)).json == changed.json
    tool = {"name": "t", "description": "", "api_schema": {"url": "https://{{system__env_host}}/"}}
    kept = await eleven.made("/v1/convai/tools", {"tool_config": tool})
    assert refusal(await eleven.call("DELETE", one)) == (409, "in_use")
    await eleven.call("DELETE", f"/v1/convai/tools/{kept['id']}")
    deleted = await eleven.call("DELETE", one)
    assert (deleted.status, deleted.body) == (204, b"")
    assert (await eleven.get(one)).status == 404


async def test_a_value_must_be_of_the_variables_kind(eleven: Eleven) -> None:
    secret = await eleven.made(SECRETS, {"type": "new", "name": "n", "value": "v"})
    reference = {"secret_id": secret["secret_id"]}
    for kind, values in (
        ("string", {"staging": "s"}),
        ("string", {"production": None}),
        ("string", {"production": ""}),
        ("string", {"production": reference}),
        ("secret", {"production": "text"}),
        ("secret", {"production": {"secret_id": "unknown"}}),
        ("auth_connection", {"production": {"auth_connection_id": "unknown"}}),
    ):
        body = {"type": kind, "label": "a", "values": values}
        assert refusal(await eleven.post(VARIABLES, body)) == (400, "invalid_parameters")
    made = await eleven.made(
        VARIABLES, {"type": "secret", "label": "a", "values": {"production": reference}}
    )
    for values in ({"production": None}, {"staging": "text"}):
        reply = await eleven.call("PATCH", f"{VARIABLES}/{made['id']}", {"values": values})
        assert refusal(reply) == (400, "invalid_parameters")
    for name in ("a b", ""):
        reply = await eleven.post(VARIABLES, string("b", production="p", **{name: "x"}))
        assert reply.status == 422


async def test_environments_come_and_go_with_their_values(eleven: Eleven) -> None:
    made = await eleven.made(ENVIRONMENTS, {"name": "qa"})
    assert made["name"] == "qa"
    assert (await eleven.post(ENVIRONMENTS, {"name": "qa"})).status == 409
    assert (await eleven.post(ENVIRONMENTS, {"name": "q a"})).status == 422
    variable = await eleven.made(VARIABLES, string("a", production="p", qa="q", alpha="x"))
    names = [one["name"] for one in (await eleven.get(ENVIRONMENTS)).json["environments"]]
    assert names == ["production", "alpha", "qa"]
    assert (await eleven.call("DELETE", f"{ENVIRONMENTS}/qa")).status == 204
    assert (await eleven.call("DELETE", f"{ENVIRONMENTS}/qa")).status == 404
    assert (await eleven.call("DELETE", f"{ENVIRONMENTS}/production")).status == 400
    left = (await eleven.get(f"{VARIABLES}/{variable['id']}")).json["values"]
    assert left == {"production": "p", "alpha": "x"}


async def test_a_secrets_value_never_comes_back(eleven: Eleven) -> None:
    for body in ({"name": "n", "value": "v"}, {"type": "update", "name": "n", "value": "v"}):
        assert problem(await eleven.post(SECRETS, body)) == (422, ["body", "type"])
    made = await eleven.made(SECRETS, {"type": "new", "name": "orders_1", "value": "v4lue-one"})
    assert made.keys() == {"type", "secret_id", "name"}
    one = f"{SECRETS}/{made['secret_id']}"
    assert (await eleven.call("PATCH", one, {"name": "n", "value": "v"})).status == 422
    await eleven.call("PATCH", one, {"type": "update", "name": "orders_2", "value": "v4lue-two"})
    await eleven.made(SECRETS, {"type": "new", "name": "other", "value": "v4lue"})
    listed = await eleven.get(SECRETS)
    assert [each["name"] for each in listed.json["secrets"]] == ["orders_2", "other"]
    assert listed.json["next_cursor"] is None
    paged = (await eleven.get(f"{SECRETS}?page_size=1")).json
    assert len(paged["secrets"]) == 1
    assert paged["next_cursor"]
    found = (await eleven.get(f"{SECRETS}?search=ord")).json["secrets"]
    assert [each["name"] for each in found] == ["orders_2"]
    assert b"v4lue" not in listed.body + (await eleven.get(one)).body
    assert (await eleven.call("DELETE", one)).status == 204
    assert (await eleven.get(one)).status == 404


async def test_whoever_uses_a_secret_is_named_and_keeps_it(eleven: Eleven) -> None:
    made = await eleven.made(SECRETS, {"type": "new", "name": "n", "value": "v"})
    reference = {"secret_id": made["secret_id"]}
    one = f"{SECRETS}/{made['secret_id']}"
    unused = (await eleven.get(one)).json["used_by"]
    assert {name: unused[name] for name in ("tools", "agents", "others")} == {
        "tools": [],
        "agents": [],
        "others": [],
    }
    schema = {"url": "https://x.test/", "request_headers": {"Key": reference}}
    tool_id = await eleven.tool(api_schema=schema)
    await eleven.agent(prompt={"custom_llm": {"url": "https://x.test/", "api_key": reference}})
    server = {"config": {"url": "https://x.test/", "name": "s", "secret_token": reference}}
    await eleven.made("/v1/convai/mcp-servers", server)
    webhook = {"url": "https://x.test/", "request_headers": {"Key": reference}}
    hook = {"conversation_initiation_client_data_webhook": webhook}
    assert (await eleven.call("PATCH", "/v1/convai/settings", hook)).status == 200
    used = (await eleven.get(one)).json["used_by"]
    assert [each["id"] for each in used["tools"]] == [tool_id]
    assert [each["id"] for each in used["agents"]] == [AGENT]
    assert [each["name"] for each in used["mcp_servers"]] == ["s"]
    assert used["others"] == ["conversation_initiation_webhook"]
    dependencies = (await eleven.get(f"{one}/dependencies/tools")).json
    assert [each["id"] for each in dependencies["dependencies"]] == [tool_id]
    assert (await eleven.get(f"{one}/dependencies/moons")).status == 422
    assert refusal(await eleven.call("DELETE", one)) == (409, "in_use")


async def test_a_secret_that_only_a_variable_names_cannot_be_deleted(eleven: Eleven) -> None:
    made = await eleven.made(SECRETS, {"type": "new", "name": "n", "value": "v"})
    values = {"production": {"secret_id": made["secret_id"]}}
    await eleven.made(VARIABLES, {"type": "secret", "label": "a", "values": values})
    assert (await eleven.call("DELETE", f"{SECRETS}/{made['secret_id']}")).status == 409


KINDS: list[dict[str, Any]] = [
    {
        "auth_type": "oauth2_client_credentials",
        "client_id": "c",
        "token_url": "https://x.test/t",
        "client_secret": "s3cret",
        "extra_params": {"a": "1", "b": "2"},
    },
    {
        "auth_type": "oauth2_jwt",
        "issuer": "i",
        "audience": "a",
        "subject": "s",
        "token_url": "https://x.test/t",
        "secret_key": "s3cret",
    },
    {
        "auth_type": "private_key_jwt",
        "issuer": "i",
        "audience": "a",
        "subject": "s",
        "secret_key": "s3cret",
    },
    {"auth_type": "basic_auth", "username": "u", "password": "s3cret"},
    {"auth_type": "bearer_auth", "token": "s3cret"},
    {"auth_type": "custom_header_auth", "header_name": "X-Token", "token": "s3cret"},
    {"auth_type": "mtls", "client_certificate": "s3cret", "client_key": "s3cret"},
]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: str(kind["auth_type"]))
async def test_each_kind_of_auth_connection_comes_back_without_its_secret(
    eleven: Eleven, kind: dict[str, Any]
) -> None:
    made = await eleven.post(CONNECTIONS, {"name": "n", "provider": "p", **kind})
    shown = made.json
    assert (shown["status"], shown["auth_type"]) == ("active", kind["auth_type"])
    assert b"s3cret" not in made.body
    assert {name: one for name, one in kind.items() if one != "s3cret"}.items() <= shown.items()
    one = f"{CONNECTIONS}/{shown['id']}"
    changed = await eleven.call("PATCH", one, {"auth_type": kind["auth_type"], "provider": "q"})
    updatable = ("oauth2_client_credentials", "oauth2_jwt", "basic_auth", "bearer_auth")
    assert changed.status == (200 if kind["auth_type"] in updatable else 400)
    deleted = await eleven.call("DELETE", one)
    assert (deleted.status, deleted.json) == (200, {})
    assert (await eleven.get(CONNECTIONS)).json == {"auth_connections": []}


async def test_an_auth_connections_objects_are_merged_and_null_removes(eleven: Eleven) -> None:
    made = await eleven.made(CONNECTIONS, {"name": "n", "provider": "p", **KINDS[0]})
    asked = {"name": "m", "token_url": "https://y.test/", "extra_params": {"a": None, "c": "3"}}
    changed = (await eleven.call("PATCH", f"{CONNECTIONS}/{made['id']}", asked)).json
    assert changed["extra_params"] == {"b": "2", "c": "3"}
    assert (changed["name"], changed["token_url"]) == ("n", "https://x.test/t")
    unknown = await eleven.post(CONNECTIONS, {"auth_type": "moon", "name": "n", "provider": "p"})
    assert problem(unknown) == (422, ["body", "auth_type"])


async def test_a_token_is_a_jwt_for_the_conversations_room(eleven: Eleven) -> None:
    await eleven.agent()
    path = f"{SOCKET}/token?agent_id={AGENT}&participant_name=Ada&environment=staging&branch_id=b1"
    found = (await eleven.get(path)).json
    assert found.keys() == {"token", "conversation_id"}
    head, body, _ = found["token"].split(".")
    assert decoded(head) == {"alg": "HS256", "typ": "JWT"}
    claims = decoded(body)
    assert claims.keys() == {"iss", "sub", "exp", "nbf", "name", "video"}
    room = f"room_{AGENT}_{found['conversation_id']}"
    assert claims["video"] == {"room": room, "roomJoin": True}
    assert (claims["exp"] - claims["nbf"], claims["name"]) == (900, "Ada")
    kept = await eleven.inside(found["conversation_id"])
    assert (kept["environment"], kept["branch_id"]) == ("staging", "b1")


def decoded(part: str) -> Any:
    return json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))


async def test_only_an_open_agents_token_needs_no_key(eleven: Eleven) -> None:
    await eleven.agent()
    assert (await eleven.get(f"{SOCKET}/token?agent_id={AGENT}", key=None)).status == 200
    assert (await eleven.get(f"{SOCKET}/token?agent_id={AGENT}", key="wrong")).status == 401
    url = f"{SOCKET}/get-signed-url?agent_id={AGENT}"
    assert (await eleven.get(url, key=None)).status == 401
    await eleven.agent(platform={"auth": {"enable_auth": True}})
    assert (await eleven.get(f"{SOCKET}/token?agent_id={AGENT}", key=None)).status == 401


async def test_agents_and_tools_are_kept_as_they_were_configured(eleven: Eleven) -> None:
    tool_id = await eleven.tool(api_schema={"url": "https://x.test/"})
    config = {"agent": {"prompt": {"prompt": "Be kind.", "tool_ids": [tool_id]}}}
    made = await eleven.made(
        "/v1/convai/agents/create", {"conversation_config": config, "name": "Desk"}
    )
    one = f"/v1/convai/agents/{made['agent_id']}"
    assert (await eleven.get(one)).json["conversation_config"] == config
    assert refusal(await eleven.call("DELETE", f"/v1/convai/tools/{tool_id}")) == (409, "in_use")
    unknown = {"conversation_config": {"agent": {"prompt": {"tool_ids": ["tool_x"]}}}}
    assert (await eleven.call("PATCH", one, unknown)).status == 404
    for path in ("token", "get-signed-url", "get_signed_url"):
        assert (await eleven.get(f"{SOCKET}/{path}?agent_id=agent_x")).status == 404
        missing = await eleven.get(f"{SOCKET}/{path}")
        assert problem(missing) == (422, ["query", "agent_id"])


@pytest.mark.parametrize(
    ("config", "where"),
    [
        ({"response_timeout_secs": 4}, "response_timeout_secs"),
        ({"response_timeout_secs": 301}, "response_timeout_secs"),
        ({"name": "no spaces"}, "name"),
        ({"api_schema": {"url": "ftp://x.test"}}, "url"),
        ({"api_schema": {}}, "url"),
        ({"type": "moon"}, "type"),
    ],
)
async def test_a_tool_that_cannot_be_is_refused_where_it_is_wrong(
    eleven: Eleven, config: dict[str, Any], where: str
) -> None:
    whole = {"name": "t", "description": "", "api_schema": {"url": "https://x.test/"}, **config}
    reply = await eleven.post("/v1/convai/tools", {"tool_config": whole})
    assert problem(reply)[1][-1] == where


async def test_each_route_can_be_slow_refuse_break_off_or_answer_nonsense(eleven: Eleven) -> None:
    await eleven.agent()
    path = f"{SOCKET}/get-signed-url"
    asked = f"{path}?agent_id={AGENT}"

    async def fault(**found: Any) -> None:
        await eleven.knob("PUT", "/faults", {"path": path, **found})

    await fault(status=429, retry_after=7)
    limited = await eleven.get(asked)
    assert (limited.status, limited.headers["Retry-After"]) == (429, "7")
    await fault(status=500, times=2)
    assert [(await eleven.get(asked)).status for _ in range(3)] == [500, 500, 200]
    await fault(status=200, body="{")
    assert (await eleven.get(asked)).body == b"{"
    for when in ("before", "after"):
        await fault(drop=when)
        with pytest.raises((aiohttp.ServerDisconnectedError, aiohttp.ClientOSError)):
            await eleven.get(asked)
    await fault(latency=0.2, times=1)
    assert (await eleven.get(asked)).status == 200
    assert (await eleven.get(f"{SOCKET}/token?agent_id={AGENT}")).status == 200


async def test_a_watched_value_may_stand_in_a_secret_variable_and_nowhere_else(
    eleven: Eleven,
) -> None:
    await eleven.agent()
    await eleven.knob("PUT", "/elevenlabs/watched", {"ada's token": "ya29.ada-1"})
    given = {"dynamic_variables": {"secret__google": "Bearer ya29.ada-1"}}
    body = {
        "agent_id": AGENT,
        "from_number": "+1",
        "to_number": "+2",
        "conversation_initiation_client_data": given,
    }
    path = "/v1/convai/twilio/register-call"
    assert (await eleven.post(path, body)).status == 200
    assert await eleven.leaks() == []
    given["user_id"] = {"token": "ya29.ada-1"}
    await eleven.post(path, body)
    assert ("request", "ada's token") in await eleven.leaks()
    await eleven.knob("DELETE", "/elevenlabs/leaks")
    await eleven.get(f"{VARIABLES}?label=ya29.ada-1")
    assert await eleven.leaks() == [("request", "ada's token")]


async def test_reset_makes_everything_new(eleven: Eleven) -> None:
    await eleven.agent()
    await eleven.made(VARIABLES, string("a", production="p"))
    await eleven.knob("POST", "/reset")
    assert (await eleven.get(VARIABLES)).json["environment_variables"] == []
    assert (await eleven.get("/v1/convai/agents")).json["agents"] == []


async def test_the_command_serves_both_pretenders_until_a_signal_comes() -> None:
    command = "import sys; from broker.cli import main; main()"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", command, "sandbox", "--port", "0"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        said = (await asyncio.wait_for(process.stdout.readline(), 60)).decode()
        base = said.removeprefix("The sandbox is at ").strip()
        async with aiohttp.ClientSession(base) as session:
            async with session.get("/.well-known/openid-configuration") as reply:
                assert reply.status == 200
            headers = {"xi-api-key": "sandbox"}
            async with session.get("/v1/convai/agents", headers=headers) as reply:
                assert (await reply.json())["agents"] == []
        process.send_signal(signal.SIGINT)
        _, errors = await asyncio.wait_for(process.communicate(), 60)
        assert b"Traceback" not in errors, errors.decode()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
