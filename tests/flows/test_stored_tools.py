"""Tools that a profile stores: a conversation calls them by name, as itself."""

import asyncio
from typing import Any

import aiohttp.web
import pytest
from conftest import Tenant
from support.journeys import Clock
from support.talking import AGENT, Stage, Talk

AUTHORIZATION = {"Authorization": {"variable_name": "secret__user_acme_authorization"}}


def tool(url: str, **api_schema: Any) -> dict[str, Any]:
    schema = {"url": url, "request_headers": AUTHORIZATION, **api_schema}
    config = {"type": "webhook", "name": "t", "description": "d", "api_schema": schema}
    return {"kind": "server_tool", "config": config}


async def begin(stage: Stage, user: str = "ada", /, **tools: Any) -> Talk:
    """A conversation whose agent stores these, and whose runtime has its key."""
    return await stage.begin(user=user, runtime_key=True, stored_tools=tools)


def listing(stage: Stage) -> dict[str, Any]:
    query = {
        "properties": {
            "q": {"type": "string", "description": "What to look for."},
            "who": {"type": "string", "dynamic_variable": "user_id"},
        },
        "required": ["q"],
    }
    where = {"list": {"type": "string", "description": "Which list."}}
    url = f"{stage.listens.base}/v1/lists/{{list}}/entries"
    return tool(url, path_params_schema=where, query_params_schema=query)


@pytest.mark.parametrize(("delivery", "runtime_key"), [("inline", False), ("handle", True)])
async def test_a_tool_is_called_by_its_name_as_the_user_of_the_conversation(
    stage: Stage, delivery: str, *, runtime_key: bool
) -> None:
    talk = await stage.begin(
        delivery=delivery, runtime_key=runtime_key, stored_tools={"look": listing(stage)}
    )
    reply = await talk.invoke("look", {"list": "a b", "q": "tea & milk"})

    assert (reply.status, reply.json["status"], reply.json["body"]) == (200, 200, {"ok": True})
    [heard] = talk.listens.heard
    assert heard.method == "GET"
    assert heard.target == "/v1/lists/a%20b/entries?q=tea%20%26%20milk&who=ada"
    assert heard.token == talk.tokens[0]
    assert reply.headers["Cache-Control"] == "no-store"


async def test_each_conversation_is_its_own_user(stage: Stage) -> None:
    stored = {"look": listing(stage)}
    ada, bob = await begin(stage, "ada", **stored), await begin(stage, "bob", **stored)
    for talk in (bob, ada):
        assert (await talk.invoke("look", {"list": "l", "q": "x"})).status == 200
    assert [one.token for one in stage.listens.heard] == bob.tokens + ada.tokens
    assert [one.target[-3:] for one in stage.listens.heard] == ["bob", "ada"]


async def test_a_body_is_made_of_arguments_and_of_what_the_conversation_has(stage: Stage) -> None:
    schema = {
        "type": "object",
        "properties": {
            "text": {"type": "string", "description": "What to write."},
            "author": {"type": "string", "dynamic_variable": "user_id"},
            "draft": {"type": "boolean", "constant_value": True},
        },
        "required": ["text"],
    }
    where = f"{stage.listens.base}/v1/notes"
    talk = await begin(stage, write=tool(where, method="POST", request_body_schema=schema))
    assert (await talk.invoke("write", {"text": "{{user_id}}"})).status == 200
    [heard] = talk.listens.heard
    assert heard.body == b'{"text":"{{user_id}}","author":"ada","draft":true}'
    missing = await talk.invoke("write")
    assert (missing.status, missing.code) == (422, "invalid")


async def test_the_environment_is_the_conversations(stage: Stage, tenant: Tenant) -> None:
    values = {"production": "prod", "staging": "stage"}
    label = {"type": "string", "label": "part", "values": values}
    assert (await tenant.api.post("/v1/convai/environment-variables", label)).status == 200
    talk = await begin(stage, look=tool(f"{stage.listens.base}/v1/{{{{system__env_part}}}}"))
    assert (await talk.invoke("look")).status == 200
    assert talk.listens.heard[0].target == "/v1/prod"


async def test_a_secret_and_an_auth_connection_of_the_workspace_go_along(
    stage: Stage, tenant: Tenant
) -> None:
    made = await tenant.api.post(
        "/v1/convai/secrets", {"type": "new", "name": "n", "value": "sentinel-secret"}
    )
    auth = {"auth_type": "bearer_auth", "name": "a", "provider": "p", "token": "sentinel-auth"}
    connection = (await tenant.api.post("/v1/workspace/auth-connections", auth)).json["id"]
    talk = await begin(
        stage,
        look=tool(
            f"{stage.listens.base}/other",
            request_headers={"X-Key": {"secret_id": made.json["secret_id"]}},
            auth_connection={"auth_connection_id": connection},
        ),
    )
    talk.listens.answers = echoing
    reply = await talk.invoke("look")
    assert reply.status == 200, reply.body
    [heard] = talk.listens.heard
    assert (heard.headers["x-key"], heard.token) == ("sentinel-secret", "sentinel-auth")
    assert b"sentinel" not in reply.body
    assert talk.tokens[0] not in str(heard)


async def echoing(request: aiohttp.web.BaseRequest) -> aiohttp.web.StreamResponse:
    """Tell everything that came, and the bare token by itself."""
    bare = request.headers.get("Authorization", "").partition(" ")[2]
    headers = {"X-Request-Id": f"of-{bare}"}
    return aiohttp.web.json_response([dict(request.headers), bare], headers=headers)


async def test_what_the_answer_repeats_of_a_credential_is_masked(stage: Stage) -> None:
    talk = await begin(stage, look=tool(f"{stage.listens.base}/v1/me"))
    talk.listens.answers = echoing
    reply = await talk.invoke("look")
    assert reply.status == 200
    assert talk.tokens[0].encode() not in reply.body
    assert reply.json["body"][1] == "***"
    assert reply.json["headers"]["x-request-id"] == "of-***"


@pytest.mark.parametrize("left", [30, -10])
async def test_a_token_that_will_not_last_or_has_ended_is_refreshed_first(
    stage: Stage, clock: Clock, left: int
) -> None:
    talk = await begin(stage, look=tool(f"{stage.listens.base}/v1/me"))
    await clock.leave(talk.connection, seconds=left)
    assert (await talk.invoke("look")).status == 200
    [heard] = talk.listens.heard
    assert talk.refreshes == 1
    assert heard.token == (await talk.stored())["access_token"] != talk.tokens[0]


@pytest.mark.parametrize(("method", "calls"), [("GET", 2), ("POST", 1)])
async def test_a_401_refreshes_once_and_repeats_what_may_be_repeated(
    stage: Stage, method: str, calls: int
) -> None:
    talk = await begin(stage, look=tool(f"{stage.listens.base}/v1/me", method=method))
    talk.listens.refused.add(talk.tokens[0])
    reply = await talk.invoke("look")
    assert (reply.status, reply.json["status"]) == (200, 200 if calls == 2 else 401)
    assert len(talk.listens.heard) == calls
    assert talk.refreshes == 1
    again = await talk.invoke("look")
    assert again.json["status"] == 200
    assert talk.refreshes == 1


async def test_an_api_that_refuses_everything_costs_one_refresh(stage: Stage) -> None:
    talk = await begin(stage, look=tool(f"{stage.listens.base}/v1/me"))

    async def refusing(_request: aiohttp.web.BaseRequest) -> aiohttp.web.StreamResponse:
        return aiohttp.web.json_response({}, status=401)

    talk.listens.answers = refusing
    for _ in range(4):
        assert (await talk.invoke("look")).json["status"] == 401
    assert talk.refreshes == 1


async def test_a_connection_that_is_gone_is_said_as_the_gateway_says_it(stage: Stage) -> None:
    talk = await begin(stage, look=tool(f"{stage.listens.base}/v1/me"))
    assert (await talk.api.delete(f"/v1/connections/{talk.connection}")).status == 200
    tried, gateway = await talk.invoke("look"), await talk.call("GET", "acme/me")
    assert (tried.status, tried.code) == (gateway.status, gateway.code)
    assert tried.status in (404, 409)
    assert talk.listens.heard == []


async def test_a_tool_that_needs_no_connection_works_without_one(stage: Stage) -> None:
    url = f"{stage.listens.base}/open"
    talk = await begin(stage, look=tool(url, request_headers={"X-User": "{{user_id}}"}))
    assert (await talk.api.delete(f"/v1/connections/{talk.connection}")).status == 200
    assert (await talk.invoke("look")).json["status"] == 200
    assert talk.listens.heard[0].headers["x-user"] == "ada"
    assert talk.refreshes == 0


async def test_the_profile_as_it_stands_now_says_which_tools_there_are(stage: Stage) -> None:
    talk = await begin(stage, look=tool(f"{stage.listens.base}/v1/me"))
    assert (await talk.invoke("look")).status == 200
    profile = {"integrations": [{"integration": "acme"}]}
    moved = {**profile, "stored_tools": {"look": tool(f"{stage.listens.base}/v1/moved")}}
    assert (await talk.api.put(f"/v1/agents/{AGENT}", moved)).status == 200
    assert (await talk.invoke("look")).status == 200
    assert [one.target for one in talk.listens.heard] == ["/v1/me", "/v1/moved"]
    assert (await talk.api.put(f"/v1/agents/{AGENT}", profile)).status == 200
    taken = await talk.invoke("look")
    assert (taken.status, taken.code) == (404, "not_found")
    assert (await talk.api.delete(f"/v1/agents/{AGENT}")).status == 204
    assert (await talk.invoke("look")).status == 404


async def test_another_kind_takes_the_body_that_its_caller_brings(stage: Stage) -> None:
    server = {
        "url": f"{stage.listens.base}/v1/mcp",
        "secret_token": {"variable_name": "secret__user_acme_token"},
        "request_meta": {"who": {"variable_name": "user_id"}},
    }
    talk = await begin(stage, server={"kind": "mcp_server", "config": server})
    sent = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "n"}}
    reply = await talk.invoke("server", body={"tool": "server", "body": sent})
    assert reply.status == 200, reply.body
    [heard] = talk.listens.heard
    assert heard.token == talk.tokens[0]
    assert b'"_meta":{"who":"ada"}' in heard.body


async def test_a_call_leaves_a_line_that_names_the_conversation_and_the_tool(stage: Stage) -> None:
    talk = await begin(stage, look=tool(f"{stage.listens.base}/v1/me"))
    assert (await talk.invoke("look")).status == 200
    found = await talk.api.get("/v1/audit-events?action=configuration.use")
    [line] = found.json["data"]
    assert line["actor"] == {"kind": "grant", "id": talk.conversation}
    assert line["target"] == {"kind": "tool", "id": "look"}
    assert line["environment"] == "production"


async def test_a_conversation_is_kept_without_the_tools_that_it_can_call(
    stage: Stage, clock: Clock
) -> None:
    stored = {f"tool_{n}": tool(f"{stage.listens.base}/v1/{n}") for n in range(50)}
    talk = await begin(stage, "ada", **stored)
    replies = await asyncio.gather(*(talk.invoke(f"tool_{n}") for n in (0, 49)))
    assert [reply.json["status"] for reply in replies] == [200, 200]
    shown = (await talk.api.get(f"/v1/agents/{AGENT}")).json["stored_tools"]
    assert shown == stored
    kept = "select octet_length(kept) from vault.conversations where conversation_id = $1"
    [(size,)] = await clock.do(kept, talk.conversation)
    assert size < 2_000
