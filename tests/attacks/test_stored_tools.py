"""Attacks on the tools of a profile: by who holds what, by the body, by what a model fills in."""

import asyncio
from collections import Counter
from typing import Any

import pytest
from conftest import MakeTenant, Tenant
from support.api import Reply
from support.talking import AGENT, Stage, Talk, a_workspaces_secret

from broker.gateway.limits import Limits
from vault.bearer import generate

AUTHORIZATION = {"Authorization": {"variable_name": "secret__user_acme_authorization"}}


def tool(url: str, **api_schema: Any) -> dict[str, Any]:
    schema = {"url": url, "request_headers": AUTHORIZATION, **api_schema}
    config = {"type": "webhook", "name": "t", "description": "d", "api_schema": schema}
    return {"kind": "server_tool", "config": config}


def filled_in(stage: Stage) -> dict[str, Any]:
    """A tool of which a model fills in everything that it may."""
    text = {"type": "string", "description": "Any."}
    return tool(
        f"{stage.listens.base}/v1/of/{{part}}/end",
        method="POST",
        path_params_schema={"part": text},
        query_params_schema={"properties": {"q": text}},
        request_body_schema={"type": "object", "properties": {"text": text}},
    )


async def begin(stage: Stage, *, runtime_key: bool = True, **more: Any) -> Talk:
    stored = {"look": tool(f"{stage.listens.base}/v1/me"), "fill": filled_in(stage)}
    given = {"stored_tools": stored, **more}
    return await stage.begin(runtime_key=runtime_key, **given)


# Who holds what


async def test_no_bearer_but_a_living_one_calls_anything(stage: Stage) -> None:
    talk = await begin(stage)
    for bearer in (
        generate("grant").reveal(),
        generate("handle").reveal(),
        generate("api_key").reveal(),
        talk.bearer[:-1] + ("0" if talk.bearer[-1] != "0" else "1"),
        talk.bearer.replace("ktg_", "kth_"),
        talk.runtime_key,
        "x",
    ):
        reply = await talk.invoke("look", bearer=bearer)
        assert reply.status in (401, 403), (bearer, reply.body)
    two = await talk.invoke("look", headers={"xi-api-key": generate("grant").reveal()})
    assert two.status == 401
    assert talk.listens.heard == []


async def test_a_handle_buys_nothing_without_the_runtime_key(
    stage: Stage, make_tenant: MakeTenant
) -> None:
    talk = await begin(stage, runtime_key=False, delivery="handle")
    other = await make_tenant()
    theirs = await other.api.post("/v1/keys", {"name": "theirs", "scopes": ["runtime"]})
    scopes = {"name": "k", "scopes": ["runtime"], "environments": ["staging"]}
    elsewhere = await talk.api.post("/v1/keys", scopes)
    for key in (
        None,
        "",
        "x",
        generate("api_key").reveal(),
        talk.bearer,
        theirs.json["key"],  # of another workspace
        elsewhere.json["key"],  # of another environment
        await stage.new_key("tools:invoke", "mint", "tokens:read", "manage"),  # of other scopes
    ):
        headers = {} if key is None else {"X-Keyturn-Runtime": key}
        reply = await talk.invoke("look", headers=headers)
        assert reply.status in (401, 403), (key, reply.body)
    assert talk.listens.heard == []
    key = await stage.new_key("runtime")
    assert (await talk.invoke("look", runtime_key=key)).status == 200


async def test_the_grant_of_another_conversation_calls_as_that_one_alone(stage: Stage) -> None:
    ada, bob = await begin(stage, user="ada"), await begin(stage, user="bob")
    assert (await ada.invoke("look", bearer=bob.bearer)).status == 200
    assert [one.token for one in stage.listens.heard] == bob.tokens
    for named in (
        {"conversation_id": ada.conversation},
        {"user_id": "ada"},
        {"environment": "staging"},
    ):
        reply = await bob.invoke("look", body={"tool": "look", **named})
        assert reply.code in ("forbidden", "invalid"), (named, reply.body)
    assert len(stage.listens.heard) == 1


async def test_a_conversation_that_has_ended_calls_nothing(stage: Stage) -> None:
    talk = await begin(stage)
    assert (await talk.api.post(f"/v1/conversations/{talk.conversation}/end")).status == 200
    await _is_dead(talk)


async def test_a_user_who_was_deleted_takes_the_tools_along(stage: Stage) -> None:
    talk = await begin(stage)
    assert (await talk.api.delete("/v1/users/ada")).status == 200
    await _is_dead(talk)


async def _is_dead(talk: Talk) -> None:
    reply = await talk.invoke("look")
    assert (reply.status, reply.code) == (401, "unauthenticated")
    assert talk.listens.heard == []


async def test_a_tool_of_another_agent_or_workspace_is_not_there(
    stage: Stage, stranger: Tenant
) -> None:
    other = {"stored_tools": {"theirs": tool(f"{stage.listens.base}/v1/theirs")}}
    for api in (stage.api, stranger.api):
        assert (await api.put("/v1/agents/agent_2", other)).status == 201
        if api is stranger.api:
            assert (await api.put(f"/v1/agents/{AGENT}", other)).status == 201
    talk = await begin(stage)
    for name in ("theirs", "nothing", "LOOK", "agent_2"):
        reply = await talk.invoke(name)
        assert (reply.status, reply.code) == (404, "not_found")
    for name in ("", "look\n", "../look", "a/b", "x" * 65, "agent_2/theirs"):
        reply = await talk.invoke(name)
        assert (reply.status, reply.code) == (422, "invalid"), name
    assert talk.listens.heard == []


async def test_a_secret_of_another_workspace_is_named_in_vain(
    stage: Stage, stranger: Tenant
) -> None:
    secret = {"type": "new", "name": "n", "value": "sentinel"}
    theirs = (await stranger.api.post("/v1/convai/secrets", secret)).json["secret_id"]
    auth = {"auth_type": "bearer_auth", "name": "a", "provider": "p", "token": "sentinel"}
    connection = (await stranger.api.post("/v1/workspace/auth-connections", auth)).json["id"]
    url = f"{stage.listens.base}/other"
    named = tool(url, request_headers={"X-Key": {"secret_id": theirs}})
    joined = tool(url, request_headers={}, auth_connection={"auth_connection_id": connection})
    talk = await begin(stage, stored_tools={"named": named, "joined": joined})
    for name in ("named", "joined"):
        reply = await talk.invoke(name)
        assert (reply.status, reply.code) == (422, "invalid")
    assert talk.listens.heard == []


# What the body says


async def test_a_configuration_in_the_body_is_refused(stage: Stage) -> None:
    talk = await begin(stage)
    own = tool(f"{talk.listens.base}/v1/me")
    bodies: list[dict[str, Any]] = [
        own,
        {**own, "tool": "look"},
        {"tool": "look", "config": {}},
        {"tool": "look", "kind": "server_tool"},
        {"tool": "look", "conversation_id": talk.conversation},
        {"tool": "look", "environment": "production"},
        {"tool": "look", "dynamic_variables": {"user_id": "bob"}},
        {"tool": "look", "dynamic_variables": {"new": "x"}},
    ]
    for body in bodies:
        reply = await talk.invoke("", body=body)
        assert (reply.status, reply.code) == (403, "forbidden"), body
    for body in ({"arguments": {}}, {"tool": None}, {"tool": 1}, {"tool": "look", "url": "x"}):
        reply = await talk.invoke("", body=body)
        assert (reply.status, reply.code) == (422, "invalid"), body
    assert talk.listens.heard == []


async def test_a_key_has_no_tools_by_name_and_a_conversation_no_other_route(stage: Stage) -> None:
    talk = await begin(stage)
    for more in ({}, {"conversation_id": talk.conversation}):
        reply = await talk.api.post("/v1/tools/invoke", {"tool": "look", **more})
        assert (reply.status, reply.code) == (422, "invalid")
    held = {"Authorization": f"Bearer {talk.bearer}", "X-Keyturn-Runtime": talk.runtime_key or ""}
    for method, path in (
        ("POST", "/v1/resolve"),
        ("GET", f"/v1/agents/{AGENT}"),
        ("PUT", f"/v1/agents/{AGENT}"),
    ):
        reply = await talk.anyone.call(method, path, headers=held, body={})
        assert reply.status in (401, 403), path
    assert talk.listens.heard == []


# What a model fills in

TRICKS = [
    "../../admin",
    "..",
    "%2e%2e",
    "a/b",
    "//evil.example",
    "@evil.example",
    "evil.example:80",
    "\\evil.example",
    "x?admin=1",
    "x#y",
    "x\r\nHost: evil.example",
    "{{system__env_part}}",
    "{{secret__user_acme_token}}",
    "{{ user_id }}",
    "{part}",
    "",
]


@pytest.mark.parametrize("trick", TRICKS)
async def test_no_argument_changes_where_a_request_goes_or_reads_a_variable(
    stage: Stage, trick: str
) -> None:
    talk = await begin(stage)
    reply = await talk.invoke("fill", {"part": trick, "q": trick, "text": trick})
    assert talk.tokens[0].encode() not in reply.body
    if reply.status == 200:
        [heard] = talk.listens.heard
        path, _, query = heard.target.partition("?")
        assert path.startswith("/v1/of/")
        assert path.endswith("/end")
        assert path.count("/") == 4
        assert "&" not in query
        assert heard.token == talk.tokens[0]
        assert talk.tokens[0] not in heard.target + heard.body.decode()
        assert "ada" not in heard.target + heard.body.decode()
        assert heard.headers["host"] == talk.listens.base.removeprefix("http://")
    else:
        assert (reply.status, reply.code) == (422, "invalid")
        assert talk.listens.heard == []


@pytest.mark.parametrize(
    "name",
    [
        *("url", "host", "method", "Authorization", "request_headers", "X-Any", "user_id"),
        *("integration", "provider", "environment", "api_schema", "secret__user_acme_token"),
    ],
)
async def test_no_argument_is_taken_that_the_tool_does_not_ask_for(stage: Stage, name: str) -> None:
    talk = await begin(stage)
    for value in ("http://evil.example", {"url": "http://evil.example"}):
        reply = await talk.invoke("fill", {"part": "p", name: value})
        assert (reply.status, reply.code) == (422, "invalid")
        plain = await talk.invoke("look", {name: value})
        assert (plain.status, plain.code) == (422, "invalid")
    described = await talk.invoke("fill", body={"tool": "fill", "body": {"url": "x"}})
    assert (described.status, described.code) == (422, "invalid")
    assert talk.listens.heard == []


# Where a credential goes


async def test_a_users_credential_goes_to_its_own_host_alone_whatever_is_stored(
    stage: Stage,
) -> None:
    port = stage.listens.base.rpartition(":")[2]
    stored = {
        f"look_{number}": tool(url)
        for number, url in enumerate(
            (
                f"http://localhost:{port}/v1/me",
                f"https://127.0.0.1:{port}/v1/me",
                "http://127.0.0.1:9/v1/me",
                "https://evil.example/v1/me",
                f"{stage.listens.base}/x/$batch",
            )
        )
    }
    bare = {"X-Any": {"variable_name": "secret__user_acme_token"}}
    stored["bare"] = tool("https://evil.example/x", request_headers=bare)
    talk = await begin(stage, stored_tools=stored)
    for name in stored:
        reply = await talk.invoke(name)
        assert reply.code in ("forbidden", "invalid"), (name, reply.body)
        assert talk.tokens[0].encode() not in reply.body
    assert talk.listens.heard == []


async def test_a_secret_goes_to_its_allowed_hosts_alone(stage: Stage, tenant: Tenant) -> None:
    secret = {"type": "new", "name": "n", "value": "sentinel", "allowed_hosts": ["a.example"]}
    made = (await tenant.api.post("/v1/convai/secrets", secret)).json["secret_id"]
    headers = {"X-Key": {"secret_id": made}}
    talk = await begin(
        stage, stored_tools={"look": tool(f"{stage.listens.base}/x", request_headers=headers)}
    )
    reply = await talk.invoke("look")
    assert (reply.status, reply.code) == (422, "invalid")
    assert talk.listens.heard == []


async def test_a_secret_that_became_a_variable_later_is_not_sent(
    stage: Stage, tenant: Tenant
) -> None:
    """The profile is checked when it is written; what a variable is, a mint before has decided."""
    talk = await begin(stage, variables={"secret__k": await a_workspaces_secret(tenant.api)})
    headers = {"X-Key": {"variable_name": "secret__k"}}
    stored = {"look": tool(f"{stage.listens.base}/v1/me", request_headers=headers)}
    written = await talk.api.put(f"/v1/agents/{AGENT}", {"stored_tools": stored})
    assert written.status == 200, written.body
    reply = await talk.invoke("look")
    assert (reply.status, reply.code) == (422, "invalid")
    assert talk.listens.heard == []


async def test_no_refusal_and_no_log_names_a_credential_or_an_argument(
    stage: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    talk = await begin(stage, delivery="handle")
    replies: list[Reply] = [
        await talk.invoke("look"),
        await talk.invoke("fill", {"part": "..", "q": "sentinel-argument"}),
        await talk.invoke("fill", {"part": "p", "sentinel-argument": "x"}),
        await talk.invoke("sentinel-argument"),
    ]
    logged = capsys.readouterr()
    seen = logged.out + logged.err + "".join(str(one.body) for one in replies)
    for secret in ("sentinel-argument", talk.tokens[0], talk.bearer, talk.runtime_key or ""):
        assert secret not in seen


async def test_its_use_is_limited_for_each_conversation(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    take = Limits.take
    monkeypatch.setattr(Limits, "take", lambda self, who, _now: take(self, who, 0))  # all at once
    ada, bob = await begin(stage, user="ada"), await begin(stage, user="bob")
    replies = await asyncio.gather(*(ada.invoke("nothing") for _ in range(120)))
    assert Counter(reply.status for reply in replies) == {404: 60, 429: 60}
    assert (await bob.invoke("look")).status == 200
