"""What a configuration becomes: the documentation's example, every kind, every reason."""

from collections.abc import Sequence
from typing import Any, Final

import pytest
from conftest import Tenant
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from support.api import Api
from support.configured import Configured, tool

from broker.resolve import plan, resolve
from vault.database import Row, Transaction
from vault.egress.address import vet
from vault.environments import choose
from vault.errors import Unresolved
from vault.vault.variables import Configuration, Resolved

ORDERS: Final = "https://{{system__env_api_host}}.example.com/v1/orders"
ENVIRONMENTS: Final = ("production", "staging", "development")


@pytest.fixture
async def ada(tenant: Tenant) -> Configured:
    return Configured(tenant.api)


async def documented(ada: Configured) -> dict[str, Any]:
    """Set up the documentation's own example, and return its tool."""
    hosts = {"production": "api", "staging": "staging.api", "development": "dev.api"}
    await ada.strings("api_host", hosts)
    await ada.secrets(
        "api_key", {name: await ada.secret(f"{name} key", f"KEY-{name}") for name in ENVIRONMENTS}
    )
    await ada.connections(
        "oauth_creds",
        {
            name: await ada.connection(
                f"{name} orders", auth_type="bearer_auth", token=f"TOKEN-{name}"
            )
            for name in ENVIRONMENTS
        },
    )
    return tool(
        ORDERS,
        request_headers={"X-Api-Key": {"env_var_label": "api_key"}},
        auth_connection={"env_var_label": "oauth_creds"},
    )


@pytest.mark.parametrize(
    ("environment", "host"),
    [
        ("production", "api.example.com"),
        ("staging", "staging.api.example.com"),
        ("development", "dev.api.example.com"),
    ],
)
async def test_the_documented_example_resolves_in_each_of_its_environments(
    ada: Configured, environment: str, host: str
) -> None:
    config = await documented(ada)
    reply = await ada.resolve(config, environment)
    assert reply.status == 200
    request = reply.json["request"]
    assert request["url"] == f"https://{host}/v1/orders"
    assert request["headers"]["X-Api-Key"]["value"] == "***"
    assert request["headers"]["X-Api-Key"]["secrets"][0]["name"] == f"{environment} key"
    assert request["auth_connection"]["name"] == f"{environment} orders"
    assert reply.json["warnings"] == []
    assert reply.json["explain"] is None
    assert b"KEY-" not in reply.body
    assert b"TOKEN-" not in reply.body


async def test_an_environment_without_values_gets_productions(ada: Configured) -> None:
    config = await documented(ada)
    assert (await ada.api.post("/v1/convai/environments", {"name": "canary"})).status == 200
    request = (await ada.resolve(config, "canary")).json["request"]
    assert request["url"] == "https://api.example.com/v1/orders"
    assert request["headers"]["X-Api-Key"]["secrets"][0]["name"] == "production key"
    assert request["auth_connection"]["name"] == "production orders"


async def test_what_has_no_value_is_a_configuration_error_that_names_label_and_environment(
    ada: Configured,
) -> None:
    reply = await ada.resolve(tool("https://{{system__env_nowhere}}.example.com/"), "staging")
    assert (reply.status, reply.code) == (422, "unresolved")
    assert reply.json["action"] == "fix_configuration"
    assert "'nowhere'" in reply.json["detail"]
    assert "'staging'" in reply.json["detail"]


async def test_production_is_the_default_environment(ada: Configured) -> None:
    config = await documented(ada)
    assert (await ada.resolve(config)).json == (await ada.resolve(config, "production")).json


async def test_a_key_of_one_environment_means_that_one(ada: Configured, anyone: Api) -> None:
    config = await documented(ada)
    body = {"name": "k", "scopes": ["tools:invoke"], "environments": ["staging"]}
    key = (await ada.api.post("/v1/keys", body)).json["key"]
    reply = await Configured(anyone.with_key(key)).resolve(config)
    assert (reply.status, reply.json["environment"]) == (200, "staging")
    assert reply.json["request"]["url"] == "https://staging.api.example.com/v1/orders"


async def test_spaces_in_the_braces_do_not_matter(ada: Configured) -> None:
    await ada.strings("h", {"production": "api"})
    for hole in ("{{system__env_h}}", "{{ system__env_h }}", "{{  system__env_h}}"):
        reply = await ada.resolve(tool(f"https://{hole}.example.com/"))
        assert reply.json["request"]["url"] == "https://api.example.com/"


async def test_explain_says_where_each_value_is_from_and_why(ada: Configured) -> None:
    await ada.strings("host", {"production": "api", "staging": "staging"})
    prod = await ada.secret("the key", "KEY-production")
    fixed = await ada.secret("the other", "KEY-other")
    await ada.secrets("key", {"production": prod})
    config = tool(
        "https://{{system__env_host}}.example.com/{{ region }}",
        request_headers={
            "X-Key": {"env_var_label": "key"},
            "X-Fixed": {"secret_id": fixed},
            "Authorization": "Bearer {{ secret__user }}",
        },
    )
    variables = {"region": "eu", "secret__user": "SECRET-USER"}
    reply = await ada.resolve(config, "staging", explain=True, dynamic_variables=variables)
    found = {
        (one["label"] or one["variable_name"] or one["secret_id"]): (
            one["where"],
            one["type"],
            one["environment"],
            one["source"],
            one["value"],
        )
        for one in reply.json["explain"]
    }
    headers = "/api_schema/request_headers"
    assert found == {
        "host": ("/api_schema/url", "string", "staging", "staging", "staging"),
        "region": ("/api_schema/url", "dynamic_variable", "staging", "request", "eu"),
        "key": (f"{headers}/X-Key", "secret", "staging", "production", "***"),
        fixed: (f"{headers}/X-Fixed", "secret", "staging", None, "***"),
        "secret__user": (
            f"{headers}/Authorization",
            "dynamic_variable",
            "staging",
            "request",
            "***",
        ),
    }
    assert all(one["reason"] for one in reply.json["explain"])
    assert b"KEY-" not in reply.body
    assert b"SECRET-USER" not in reply.body
    again = await ada.resolve(config, "staging", explain=True, dynamic_variables=variables)
    assert again.body == reply.body


async def test_a_host_of_staging_beside_a_secret_of_production_is_warned_of(
    ada: Configured,
) -> None:
    await ada.strings("place", {"production": "api", "staging": "staging"})
    await ada.strings("version", {"production": "v1", "staging": "v2"})
    await ada.secrets("key", {"production": await ada.secret("key", "KEY-p")})
    await ada.strings("tail", {"production": "t"})
    await ada.secrets("unused", {"production": await ada.secret("unused", "KEY-u")})
    headers = {"X-Key": {"env_var_label": "key"}}
    config = tool(
        "https://{{system__env_place}}.example.com/{{system__env_version}}?{{system__env_tail}}",
        request_headers=headers,
    )
    [warning] = (await ada.resolve(config, "staging")).json["warnings"]
    assert (warning["environment"], warning["host"], warning["secret"]) == (
        "staging",
        "place",
        "key",
    )
    assert (await ada.resolve(config, "production")).json["warnings"] == []
    assert (await ada.resolve(config, "elsewhere")).json["warnings"] == []
    literal = tool("https://api.example.com/{{system__env_version}}", request_headers=headers)
    assert (await ada.resolve(literal, "staging")).json["warnings"] == []


async def test_the_articles_own_header_resolves_as_printed(ada: Configured) -> None:
    config = tool(
        "https://api.example.com/",
        request_headers={
            "Authorization": "Bearer {{ secret__x }}",
            "X-Whole": {"variable_name": "secret__y"},
            "X-Plain": {"variable_name": "plain"},
            "X-Text": "{{ plain }}/{{plain}}",
        },
    )
    variables = {"secret__x": "SECRET-X", "secret__y": "Bearer SECRET-Y", "plain": 7}
    headers = (await ada.resolve(config, dynamic_variables=variables)).json["request"]["headers"]
    assert headers == {
        "Authorization": {
            "value": "Bearer ***",
            "secrets": [{"secret_id": None, "name": "secret__x"}],
        },
        "X-Whole": {"value": "***", "secrets": [{"secret_id": None, "name": "secret__y"}]},
        "X-Plain": "7",
        "X-Text": "7/7",
    }
    missing = await ada.resolve(config, dynamic_variables={"plain": "x"})
    assert (missing.status, missing.code) == (422, "unresolved")
    assert "secret__x" in missing.json["detail"]


async def test_an_mcp_server_resolves_with_its_address_as_text_secret_or_variable(
    ada: Configured,
) -> None:
    token = await ada.secret("mcp token", "SECRET-MCP")
    address = await ada.secret("mcp address", "https://mcp.example.com/SECRET-PATH")
    await ada.strings("mcp_url", {"production": "https://mcp.example.com/mcp?x=1"})
    base = {
        "name": "tools",
        "transport": "STREAMABLE_HTTP",
        "secret_token": {"secret_id": token},
        "request_headers": {"X-Env": "{{ plain }}"},
        "request_meta": {"user": {"variable_name": "plain"}, "n": 3},
    }
    for url, shown in (
        ("https://{{system__env_nothing}}.example.com", None),
        ("https://mcp.example.com/mcp", "https://mcp.example.com/mcp"),
        ({"env_var_label": "mcp_url"}, "https://mcp.example.com/mcp?x=1"),
        (
            {"secret_id": address},
            {"value": "***", "secrets": [{"secret_id": address, "name": "mcp address"}]},
        ),
    ):
        for config in ({**base, "url": url}, {"config": {**base, "url": url}}):
            reply = await ada.resolve(config, kind="mcp_server", dynamic_variables={"plain": "p"})
            assert b"SECRET-" not in reply.body
            if shown is None:
                assert reply.code == "unresolved"
                continue
            request = reply.json["request"]
            assert request["url"] == shown
            assert request["method"] == "POST"
            assert request["headers"]["Authorization"] == {
                "value": "Bearer ***",
                "secrets": [{"secret_id": token, "name": "mcp token"}],
            }
            assert request["request_meta"] == {"user": "p", "n": 3}


async def test_a_custom_llm_resolves_and_takes_only_auth_connections_with_a_bearer_token(
    ada: Configured,
) -> None:
    await ada.strings("llm", {"production": "llm", "staging": "llm-staging"})
    await ada.secrets("llm_key", {"production": await ada.secret("llm key", "SECRET-LLM")})
    basic = await ada.connection(
        "basic", auth_type="basic_auth", username="ada", password="SECRET-P"
    )
    bearer = await ada.connection("bearer", auth_type="bearer_auth", token="SECRET-B")
    url = "https://{{ system__env_llm }}.example.com/v1"
    config = {"url": url, "model_id": "m", "api_key": {"env_var_label": "llm_key"}}
    request = (await ada.resolve(config, "staging", kind="custom_llm")).json["request"]
    assert request["url"] == "https://llm-staging.example.com/v1"
    assert request["headers"]["Authorization"]["value"] == "Bearer ***"
    with_bearer = {"url": url, "auth_connection": {"auth_connection_id": bearer}}
    assert (await ada.resolve(with_bearer, kind="custom_llm")).status == 200
    with_basic = {"url": url, "auth_connection": {"auth_connection_id": basic}}
    refused = await ada.resolve(with_basic, kind="custom_llm")
    assert (refused.status, refused.code) == (422, "invalid")
    assert "bearer token" in refused.json["detail"]


@pytest.mark.parametrize("field", ["url", "webhook_url"])
async def test_a_webhook_resolves(ada: Configured, field: str) -> None:
    await ada.strings("hook", {"production": "hooks"})
    secret = await ada.secret("hook secret", "SECRET-H")
    config = {
        field: "https://{{system__env_hook}}.example.com/pre-call",
        "request_headers": {"X-Hook": {"secret_id": secret}},
    }
    for body in (config, {"settings": config}):
        request = (await ada.resolve(body, kind="webhook")).json["request"]
        assert request["url"] == "https://hooks.example.com/pre-call"
        assert request["headers"]["X-Hook"]["value"] == "***"


async def test_parameters_and_body_are_shown_with_what_the_model_fills_in(
    ada: Configured,
) -> None:
    await ada.strings("region", {"production": "eu west"})
    config = tool(
        "https://api.example.com/{tenant}/orders/{order_id}?fixed=1",
        method="POST",
        path_params_schema={
            "tenant": {"type": "string", "constant_value": "{{system__env_region}}"},
            "order_id": {"type": "string", "description": "Which order"},
        },
        query_params_schema={
            "properties": {
                "page": {"type": "integer", "dynamic_variable": "page"},
                "q": {"type": "string", "description": "What for"},
                "gone": {"type": "string", "is_omitted": True},
            },
            "required": ["q"],
        },
        request_body_schema={
            "type": "object",
            "required": ["customer", "note"],
            "properties": {
                "customer": {
                    "type": "object",
                    "required": ["name"],
                    "properties": {
                        "name": {"type": "string", "description": "Who"},
                        "region": {"type": "string", "constant_value": "{{system__env_region}}"},
                    },
                },
                "note": {"type": "string", "constant_value": "from {{ page }}"},
                "count": {"type": "integer", "constant_value": 0},
            },
        },
    )
    reply = await ada.resolve({"tool_config": config}, dynamic_variables={"page": "3"})
    request = reply.json["request"]
    assert request["url"] == (
        "https://api.example.com/eu%20west/orders/{order_id}?fixed=1&page=3&q={q}"
    )
    assert request["body"] == {
        "customer": {"name": "{name}", "region": "eu west"},
        "note": "from 3",
        "count": 0,
    }
    assert request["arguments"] == [
        {"name": "order_id", "in": "path", "type": "string", "required": True},
        {"name": "q", "in": "query", "type": "string", "required": True},
        {"name": "customer.name", "in": "body", "type": "string", "required": True},
    ]


@pytest.mark.parametrize(
    ("kind", "config", "pointer"),
    [
        ("server_tool", {}, "/config"),
        ("server_tool", {"api_schema": {"url": 5}}, "/config/api_schema/url"),
        ("server_tool", tool("https://a.example.com", method="TRACE"), "/config/api_schema/method"),
        (
            "server_tool",
            tool("https://a.example.com/", request_headers={"X": {"secret_id": "s", "x": 1}}),
            "/config/api_schema/request_headers",
        ),
        (
            "server_tool",
            tool("https://a.example.com/", request_headers={"X": {}}),
            "/config/api_schema/request_headers/X",
        ),
        (
            "server_tool",
            tool("https://a.example.com/", request_headers={"X": {"secret_id": "\x00"}}),
            "/config/api_schema/request_headers/X",
        ),
        (
            "server_tool",
            tool("https://a.example.com/", request_headers={"Host": "b"}),
            "/config/api_schema/request_headers/Host",
        ),
        (
            "server_tool",
            tool("https://a.example.com/", request_headers={"X-A": "a", "x-a": "b"}),
            "/config/api_schema/request_headers",
        ),
        (
            "server_tool",
            tool("https://a.example.com/{id}"),
            "/config/api_schema/path_params_schema",
        ),
        (
            "server_tool",
            tool("https://a.example.com/", auth_resolved_params=["key"]),
            "/config/api_schema",
        ),
        (
            "server_tool",
            tool(
                "https://a.example.com/",
                query_params_schema={
                    "properties": {"q": {"type": "string", "is_system_provided": True}}
                },
            ),
            "/config/api_schema/query_params_schema/properties/q",
        ),
        (
            "server_tool",
            {**tool("https://a.example.com/"), "response_timeout_secs": 301},
            "/config/response_timeout_secs",
        ),
        ("mcp_server", {"url": {"variable_name": "x"}}, "/config/url"),
        (
            "mcp_server",
            {"url": "https://a.example.com", "secret_token": "x"},
            "/config/secret_token",
        ),
        ("custom_llm", {"url": {"secret_id": "x"}}, "/config/url"),
        ("webhook", {"request_headers": {}}, "/config"),
    ],
)
async def test_what_cannot_be_resolved_is_refused_with_its_place(
    ada: Configured, kind: str, config: dict[str, Any], pointer: str
) -> None:
    reply = await ada.resolve(config, kind=kind)
    assert (reply.status, reply.code) == (422, "invalid")
    assert reply.json["errors"][0]["pointer"].rstrip("/") == pointer


async def test_references_to_what_is_not_there_or_of_another_kind_are_refused(
    ada: Configured, stranger: Tenant
) -> None:
    theirs = await Configured(stranger.api).secret("theirs", "SECRET-THEIRS")
    auth = await Configured(stranger.api).connection(
        "theirs", auth_type="bearer_auth", token="SECRET-THEIRS"
    )
    await ada.strings("text", {"production": "text"})
    own = await ada.connection("own", auth_type="bearer_auth", token="SECRET-OWN")
    await ada.connections("auth", {"production": own})
    for schema in (
        {"request_headers": {"X": {"secret_id": theirs}}},
        {"request_headers": {"X": {"env_var_label": "auth"}}},
        {"request_headers": {"X": "{{system__env_auth}}"}},
        {"auth_connection": {"auth_connection_id": auth}},
        {"auth_connection": {"env_var_label": "text"}},
    ):
        for ask in (ada.resolve, ada.invoke):
            reply = await ask(tool("https://a.example.com/", **schema))
            assert (reply.status, reply.code) == (422, "invalid"), schema
            assert b"SECRET-" not in reply.body


async def test_a_key_needs_the_scope_and_its_environment(ada: Configured, anyone: Api) -> None:
    config = tool("https://a.example.com/")
    for scopes, environments, asked, status in (
        (["manage"], [], "production", 403),
        (["tools:invoke"], [], "production", 200),
        (["tools:invoke"], ["staging"], "staging", 200),
        (["tools:invoke"], ["staging"], "production", 403),
    ):
        made = await ada.api.post(
            "/v1/keys", {"name": "k", "scopes": scopes, "environments": environments}
        )
        holder = Configured(anyone.with_key(made.json["key"]))
        assert (await holder.resolve(config, asked)).status == status
        if status == 403:
            assert (await holder.invoke(config, asked)).status == 403


async def test_with_fallback_off_a_secret_of_production_is_unresolved(ada: Configured) -> None:
    await ada.secrets("key", {"production": await ada.secret("key", "SECRET-K")})
    config = tool("https://a.example.com/", request_headers={"X": {"env_var_label": "key"}})
    assert (await ada.resolve(config, "staging")).status == 200
    assert (await ada.api.put("/v1/settings", {"secret_fallback": False})).status == 200
    refused = await ada.resolve(config, "staging")
    assert (refused.status, refused.code) == (422, "unresolved")


async def test_a_whole_configuration_is_one_statement(
    ada: Configured, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = await documented(ada)
    labels = [f"v{number}" for number in range(40)]
    for label in labels:
        await ada.strings(label, {"production": label})
    config["api_schema"]["url"] += "?" + "&".join(f"{{{{system__env_{one}}}}}" for one in labels)
    for number in range(10):
        secret = await ada.secret(f"s{number}", "SECRET-S")
        config["api_schema"]["request_headers"][f"X-{number}"] = {"secret_id": secret}
    asked: list[str] = []
    fetch = Transaction.fetch

    async def counted(self: Transaction, sql: str, values: Sequence[object]) -> Sequence[Row]:
        asked.append(sql)
        return await fetch(self, sql, values)

    monkeypatch.setattr(Transaction, "fetch", counted)
    reply = await ada.resolve(config, "staging")
    assert reply.json["request"]["url"].endswith("&".join(labels))
    about = [sql for sql in asked if "vault.environment_v" in sql or "vault.secrets" in sql]
    assert len(about) == 1


NAMES: Final = st.sampled_from(["a", "b", "c"])
PLACES: Final = st.sampled_from(["production", "staging", "dev"])


@given(
    values=st.dictionaries(
        NAMES, st.dictionaries(PLACES, st.from_regex(r"[a-z0-9]{1,8}", fullmatch=True))
    ),
    environment=PLACES,
    used=st.lists(NAMES, min_size=1, max_size=4),
)
@hypothesis_settings(max_examples=300)
def test_resolving_equals_a_three_line_model(
    values: dict[str, dict[str, str]], environment: str, used: list[str]
) -> None:
    def model() -> str | None:
        chosen = [values.get(one, {}).get(environment) for one in used]
        fallen = [values.get(one, {}).get("production") for one in used]
        texts = [own or other for own, other in zip(chosen, fallen, strict=True)]
        return None if None in texts else f"https://a.example.com/{'/'.join(map(str, texts))}"

    path = "/".join(f"{{{{system__env_{one}}}}}" for one in used)
    made = plan("server_tool", tool(f"https://a.example.com/{path}"))
    assert made.labels == set(used)
    try:
        configuration = _configuration(values, made.labels, environment)
    except Unresolved:
        assert model() is None
        return
    outgoing = resolve(made, configuration, {}, {}, vet=lambda url: vet((), "tool", url))
    assert outgoing.url == model()


def _configuration(
    values: dict[str, dict[str, str]], labels: set[str], environment: str
) -> Configuration:
    """What the vault would answer: with its own rule, without its database."""
    every = [
        Resolved(label, "string", place, place, text)
        for label, by_place in values.items()
        for place, text in by_place.items()
    ]
    chosen = [choose(every, label, environment, secret_fallback=True) for label in labels]
    return Configuration(environment, {one.label: one for one in chosen}, {})
