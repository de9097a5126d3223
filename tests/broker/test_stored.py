"""Tools that a profile stores: what may be written, and what is refused, with where it stands."""

from typing import Any

import msgspec
import pytest
from conftest import Tenant

from broker.profile import MAX_STORED, Profile
from broker.tools.stored import MAX_BYTES, check
from vault.errors import Invalid

TOKEN = {"variable_name": "secret__user_acme_token"}
URL = "https://api.example.com/v1/x"


def server_tool(url: str = URL, **api_schema: Any) -> dict[str, Any]:
    schema = {"url": url, "request_headers": {"Authorization": TOKEN}, **api_schema}
    config = {"type": "webhook", "name": "t", "description": "d", "api_schema": schema}
    return {"kind": "server_tool", "config": config}


def read(tools: Any, **more: Any) -> Profile:
    profile = msgspec.convert({"stored_tools": tools, **more}, Profile)
    check(profile)
    return profile


@pytest.mark.parametrize(
    "tool",
    [
        server_tool(),
        server_tool("http://{{system__env_host}}/x"),  # for egress to say, when it is called
        server_tool(request_headers={"X-Key": {"secret_id": "s"}, "X-L": {"env_var_label": "l"}}),
        {"kind": "server_tool", "config": {"tool_config": server_tool()["config"]}},
        {"kind": "server_tool", "config": {"url": URL, "request_headers": {"X": TOKEN}}},
        {"kind": "mcp_server", "config": {"url": URL, "secret_token": TOKEN}},
        {"kind": "mcp_server", "config": {"url": {"secret_id": "s"}}},
        {"kind": "mcp_server", "config": {"config": {"url": URL, "request_headers": {"X": TOKEN}}}},
        {"kind": "custom_llm", "config": {"url": URL, "api_key": TOKEN}},
        {"kind": "webhook", "config": {"webhook_url": URL, "request_headers": {"X": TOKEN}}},
    ],
)
def test_a_tool_that_keeps_the_rules_is_taken_and_reads_back_the_same(tool: Any) -> None:
    profile = read({"my-tool_1": tool})
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(profile), type=Profile) == profile
    assert msgspec.to_builtins(profile) == {"stored_tools": {"my-tool_1": tool}}


@pytest.mark.parametrize(
    ("tool", "place"),
    [
        # What /v1/resolve refuses
        (server_tool("evil.example"), "/config/api_schema/url"),
        (server_tool("https://{host}/x"), "/config/api_schema/url"),
        (server_tool(f"{URL}/{{part}}"), "/config/api_schema/path_params_schema"),
        (server_tool(method="TRACE"), "/config/api_schema/method"),
        (server_tool(request_headers={"Host": "x"}), "/config/api_schema/request_headers/Host"),
        (server_tool(request_headers={"X": {}}), "/config/api_schema/request_headers/X"),
        (server_tool(f"{URL}/{{{{secret__a}}}}"), "/config/api_schema/url"),
        ({"kind": "server_tool", "config": {}}, "/config"),
        ({"kind": "custom_llm", "config": {"url": "x"}}, "/config/url"),
        # What the linter says
        (
            server_tool(request_headers={"Authorization": "Bearer abc"}),
            "/config/api_schema/request_headers/Authorization",
        ),
        (server_tool(follow_redirects=True), "/config/api_schema/follow_redirects"),
        (
            {
                "kind": "server_tool",
                "config": {**server_tool()["config"], "description": "{{secret__a}}"},
            },
            "/config/description",
        ),
        (
            {"kind": "mcp_server", "config": {"url": URL, "request_headers": {"Cookie": "a=b"}}},
            "/config/request_headers/Cookie",
        ),
        (
            {"kind": "webhook", "config": {"url": URL, "note": "{{ secret__a }}"}},
            "/config/note",
        ),
        # What no conversation could send
        (
            server_tool(
                request_headers={
                    "Authorization": {"variable_name": "secret__keyturn_authorization"}
                }
            ),
            "/config",
        ),
        (server_tool(f"{URL}/{{{{system__conversation_id}}}}"), "/config"),
        (server_tool(request_headers={"X": {"variable_name": "secret__label"}}), "/config"),
    ],
)
def test_a_tool_that_breaks_a_rule_is_refused_at_its_place(tool: Any, place: str) -> None:
    label = {"secret__label": {"from": "environment", "label": "l"}}
    with pytest.raises(Invalid) as refused:
        read({"good": server_tool(), "bad": tool}, variables=label)
    assert refused.value.pointer == f"/stored_tools/bad{place}"


def test_names_number_and_size_are_bounded() -> None:
    profile = Profile(stored_tools={"a b": read({"x": server_tool()}).stored_tools["x"]})
    with pytest.raises(Invalid) as refused:
        check(profile)
    assert refused.value.pointer == "/stored_tools"
    one = read({"x": server_tool()}).stored_tools["x"]
    many = Profile(stored_tools={f"t{n}": one for n in range(MAX_STORED + 1)})
    with pytest.raises(Invalid):
        check(many)
    for text in ("x" * MAX_BYTES, 2**70):
        config = {**server_tool()["config"], "note": text}
        with pytest.raises(Invalid) as refused:
            read({"large": {"kind": "server_tool", "config": config}})
        assert refused.value.pointer == "/stored_tools"
    read({"fits": server_tool(note="x" * (MAX_BYTES - 1_000))})


def test_a_repr_shows_no_configuration() -> None:
    profile = read({"t": server_tool(note="sentinel")})
    assert "sentinel" not in repr(profile)
    assert profile.without_tools() == Profile()


async def test_over_http_a_profile_stores_tools_and_a_refusal_says_where(tenant: Tenant) -> None:
    place = "/v1/agents/agent_1"
    stored = {"look": server_tool()}
    made = await tenant.api.put(place, {"stored_tools": stored})
    assert (made.status, made.json["stored_tools"]) == (201, stored)
    assert (await tenant.api.get(place)).json["stored_tools"] == stored
    [listed] = (await tenant.api.get("/v1/agents")).json["data"]
    assert listed["stored_tools"] == stored
    for tools, pointer in (
        ({"look": server_tool("http:/x")}, "/stored_tools/look/config/api_schema/url"),
        ({"look": {"kind": "client", "config": {}}}, "/stored_tools/kind"),
        ({"look": {"config": {}}}, "/stored_tools/kind"),
        ({"look": {**server_tool(), "more": 1}}, "/stored_tools/more"),
        ({"a b": server_tool()}, "/stored_tools"),
        ({f"t{n}": server_tool() for n in range(MAX_STORED + 1)}, "/stored_tools"),
    ):
        refused = await tenant.api.put(place, {"stored_tools": tools})
        assert (refused.status, refused.code) == (422, "invalid"), refused.body
        assert refused.json["errors"][0]["pointer"] == pointer, refused.body
    assert (await tenant.api.get(place)).json["stored_tools"] == stored
