"""Calling what a configuration describes: what the other side hears, and what we pass on."""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import pytest
from conftest import Tenant
from msgspec import Struct
from support.configured import Configured, tool
from support.loopback import Authority, Listener, listening, saying

from vault.database import Database
from vault.egress import Egress, Request, parse_allow
from vault.embedded import Embedded
from vault.errors import EgressDenied
from vault.kms import open_root_key
from vault.vault import Vault

HEAD: Final = "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n{more}\r\n"


def answer(
    body: str | bytes = '{"ok": true}',
    *,
    status: str = "200 OK",
    kind: str = "application/json",
    more: str = "",
) -> bytes:
    data = body.encode() if isinstance(body, str) else body
    head = HEAD.format(status=status, kind=kind, length=len(data), more=more)
    return head.encode() + data


class Heard(Struct):
    """A request, taken apart."""

    line: str
    headers: dict[str, str]
    body: bytes

    @classmethod
    def of(cls, data: bytes) -> "Heard":
        head, _, body = data.partition(b"\r\n\r\n")
        line, *rest = head.decode().split("\r\n")
        pairs = [one.partition(": ") for one in rest]
        assert len({name.lower() for name, _, _ in pairs}) == len(pairs)
        return cls(line, {name.lower(): value for name, _, value in pairs}, body)


@pytest.fixture
async def ada(tenant: Tenant) -> Configured:
    return Configured(tenant.api)


@pytest.fixture
async def server() -> AsyncIterator[Listener]:
    async with listening(saying(answer())) as found:
        yield found


def at(server: Listener, path: str = "/") -> str:
    return f"http://127.0.0.1:{server.port}{path}"


def last(server: Listener) -> Heard:
    return Heard.of(server.heard[-1])


async def test_the_documented_example_is_called_in_each_environment(
    ada: Configured, server: Listener
) -> None:
    await ada.strings("api_host", {"production": "127.0.0.1", "staging": "localhost"})
    names = ("production", "staging")
    await ada.secrets("api_key", {one: await ada.secret(one, f"KEY-{one}") for one in names})
    await ada.connections(
        "oauth_creds",
        {
            one: await ada.connection(one, auth_type="bearer_auth", token=f"TOKEN-{one}")
            for one in names
        },
    )
    config = tool(
        f"http://{{{{system__env_api_host}}}}:{server.port}/v1/orders",
        request_headers={"X-Api-Key": {"env_var_label": "api_key"}},
        auth_connection={"env_var_label": "oauth_creds"},
    )
    for environment, host, of in (
        ("production", "127.0.0.1", "production"),
        ("staging", "localhost", "staging"),
        ("canary", "127.0.0.1", "production"),
    ):
        reply = await ada.invoke(config, environment)
        assert reply.status == 200
        assert reply.json["status"] == 200
        assert reply.json["body"] == {"ok": True}
        heard = last(server)
        assert heard.line == "GET /v1/orders HTTP/1.1"
        assert heard.headers["host"] == f"{host}:{server.port}"
        assert heard.headers["x-api-key"] == f"KEY-{of}"
        assert heard.headers["authorization"] == f"Bearer TOKEN-{of}"


SCHEMA: Final = {
    "method": "POST",
    "path_params_schema": {"order": {"type": "string", "description": "Which"}},
    "query_params_schema": {
        "properties": {
            "q": {"type": "string", "description": "What"},
            "page": {"type": "integer", "dynamic_variable": "page"},
            "deep": {"type": "boolean", "constant_value": False},
            "sort": {"type": "string", "description": "How", "enum": ["up", "down"]},
        },
        "required": ["q"],
    },
    "request_body_schema": {
        "type": "object",
        "required": ["customer", "lines"],
        "properties": {
            "customer": {
                "type": "object",
                "required": ["name"],
                "properties": {
                    "name": {"type": "string", "description": "Who"},
                    "vip": {"type": "boolean", "description": "Is it"},
                    "conversation": {
                        "type": "string",
                        "dynamic_variable": "system__conversation_id",
                    },
                },
            },
            "lines": {
                "type": "array",
                "items": {
                    "type": "object",
                    "required": ["sku"],
                    "properties": {
                        "sku": {"type": "string", "description": "What"},
                        "unit": {"type": "string", "constant_value": "piece"},
                    },
                },
            },
            "address": {
                "type": "object",
                "required": ["street"],
                "properties": {
                    "street": {"type": "string", "description": "Where"},
                    "country": {"type": "string", "constant_value": "NO"},
                },
            },
            "source": {"type": "string", "constant_value": "voice"},
            "zero": {"type": "integer", "constant_value": 0},
            "hidden": {"type": "string", "is_omitted": True},
            "rate": {"type": "number", "description": "How much"},
        },
    },
}
ARGUMENTS: Final[dict[str, Any]] = {
    "order": "a/b c?d",
    "q": "blå & grønn=1",
    "customer": {"name": "Ada", "vip": True},
    "lines": [{"sku": "s1"}, {"sku": "s2"}],
    "rate": 2,
}
VARIABLES: Final = {"page": "3", "system__conversation_id": "conv_1"}


async def test_arguments_constants_and_variables_fill_path_query_and_body(
    ada: Configured, server: Listener
) -> None:
    config = tool(at(server, "/v1/orders/{order}/x?a=1"), **SCHEMA)
    reply = await ada.invoke(config, arguments=ARGUMENTS, dynamic_variables=VARIABLES)
    assert reply.status == 200
    heard = last(server)
    target = "/v1/orders/a%2Fb%20c%3Fd/x?a=1&q=bl%C3%A5%20%26%20gr%C3%B8nn%3D1&page=3&deep=false"
    assert heard.line == f"POST {target} HTTP/1.1"
    assert heard.headers["content-type"] == "application/json"
    assert json.loads(heard.body) == {
        "customer": {"name": "Ada", "vip": True, "conversation": "conv_1"},
        "lines": [{"sku": "s1", "unit": "piece"}, {"sku": "s2", "unit": "piece"}],
        "source": "voice",
        "zero": 0,
        "rate": 2,
    }


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"order": None}, "order"),
        ({"order": 5}, "order"),
        ({"sort": "sideways"}, "sort"),
        ({"rate": "much"}, "rate"),
        ({"rate": True}, "rate"),
        ({"customer": {"vip": True}}, "name"),
        ({"customer": {"name": "a", "conversation": "mine"}}, "no argument"),
        ({"customer": "Ada"}, "object"),
        ({"lines": "all"}, "lines"),
        ({"lines": [{"sku": "s", "unit": "ton"}]}, "no argument"),
        ({"address": {}}, "street"),
        ({"source": "mine"}, "no argument"),
        ({"page": 9}, "no argument"),
        ({"deep": True}, "no argument"),
        ({"hidden": "x"}, "no argument"),
        ({"other": "x"}, "no argument"),
    ],
)
async def test_an_argument_that_does_not_fit_is_refused_and_nothing_is_called(
    ada: Configured, server: Listener, change: dict[str, Any], word: str
) -> None:
    config = tool(at(server, "/v1/orders/{order}"), **SCHEMA)
    arguments = {**ARGUMENTS, **change}
    reply = await ada.invoke(config, arguments=arguments, dynamic_variables=VARIABLES)
    assert (reply.status, reply.code) == (422, "invalid")
    assert word in reply.json["detail"]
    assert server.heard == []


async def test_a_missing_argument_is_refused(ada: Configured, server: Listener) -> None:
    config = tool(at(server, "/v1/orders/{order}"), **SCHEMA)
    for name in ("order", "q", "customer", "lines"):
        arguments = {key: value for key, value in ARGUMENTS.items() if key != name}
        reply = await ada.invoke(config, arguments=arguments, dynamic_variables=VARIABLES)
        assert reply.status == 422
    assert server.heard == []


async def test_an_argument_outside_of_the_allowed_values_is_refused(
    ada: Configured, server: Listener
) -> None:
    leaf = {
        "type": "string",
        "description": "Which",
        "allowed_values": {"dynamic_variable": "mine"},
    }
    config = tool(at(server, "/{id}"), path_params_schema={"id": leaf})
    variables = {"mine": ["a", "b"]}
    for value, status in (("a", 200), ("c", 422)):
        reply = await ada.invoke(config, arguments={"id": value}, dynamic_variables=variables)
        assert reply.status == status
    assert len(server.heard) == 1


async def test_a_form_is_sent_as_a_form(ada: Configured, server: Listener) -> None:
    config = tool(
        at(server),
        method="POST",
        content_type="application/x-www-form-urlencoded",
        request_body_schema={
            "type": "object",
            "properties": {
                "a": {"type": "string", "constant_value": "x&y=z"},
                "b": {"type": "array", "items": {"type": "string", "description": "many"}},
            },
        },
    )
    assert (await ada.invoke(config, arguments={"b": ["1", "2"]})).status == 200
    heard = last(server)
    assert heard.headers["content-type"] == "application/x-www-form-urlencoded"
    assert heard.body == b"a=x%26y%3Dz&b=1&b=2"


@pytest.mark.parametrize("method", ["GET", "DELETE"])
async def test_a_method_without_a_body_sends_none(
    ada: Configured, server: Listener, method: str
) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string", "constant_value": "x"}}}
    config = tool(at(server), method=method, request_body_schema=schema)
    assert (await ada.invoke(config)).status == 200
    assert last(server).body == b""
    assert last(server).line.startswith(method)


async def test_an_mcp_server_a_model_and_a_webhook_are_sent_the_callers_body(
    ada: Configured, server: Listener
) -> None:
    token = await ada.secret("token", "SECRET-T")
    headers = {"X-Plain": "p"}
    rpc = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "t"}}
    for kind, config, more in (
        ("mcp_server", {"secret_token": {"secret_id": token}, "request_meta": {"u": "me"}}, "u"),
        ("custom_llm", {"api_key": {"secret_id": token}}, ""),
        ("webhook", {}, ""),
    ):
        full = {"url": at(server, "/x"), "request_headers": headers, **config}
        reply = await ada.invoke(full, kind=kind, body=rpc)
        assert reply.status == 200
        heard = last(server)
        assert heard.line == "POST /x HTTP/1.1"
        assert heard.headers["x-plain"] == "p"
        bearer = None if kind == "webhook" else "Bearer SECRET-T"
        assert heard.headers.get("authorization") == bearer
        meta = {"_meta": {"u": "me"}} if more else {}
        assert json.loads(heard.body) == {**rpc, "params": {"name": "t", **meta}}
    assert (await ada.invoke(tool(at(server)), body={"a": 1})).status == 422


async def test_a_secret_that_comes_back_is_masked(ada: Configured) -> None:
    secret = 'SECRET-"quoted"/7'
    stored = await ada.secret("stored", secret)
    number = await ada.secret("number", "8273645")
    auth = await ada.connection(
        "basic", auth_type="basic_auth", username="ada", password="SECRET-PASSWORD"
    )
    config = {
        "request_headers": {
            "X-Key": {"secret_id": stored},
            "X-Number": {"secret_id": number},
            "X-Token": "Bearer {{ secret__user }}",
        },
        "auth_connection": {"auth_connection_id": auth},
    }
    variables = {"secret__user": "SECRET-USER"}
    echoed = {
        "key": f"you sent {secret}!",
        secret: [{"deep": "Bearer SECRET-USER"}],
        "n": 8273645,
        "password": "ada:SECRET-PASSWORD",
        "basic": "YWRhOlNFQ1JFVC1QQVNTV09SRA==",
        "true": True,
    }
    text = f"{json.dumps(secret)} SECRET-USER SECRET-%22quoted%22%2F7 8273645"
    for body, kind in ((json.dumps(echoed), "application/json"), (text, "text/html")):
        more = "X-Request-Id: SECRET-USER-1\r\nSet-Cookie: a=SECRET-USER\r\nX-Other: o\r\n"
        async with listening(saying(answer(body, kind=kind, more=more))) as server:
            reply = await ada.invoke(tool(at(server), **config), dynamic_variables=variables)
            assert last(server).headers["x-key"] == secret
        assert reply.status == 200
        for part in ("SECRET", "quoted", "8273645", "YWRhOl"):
            assert part.encode() not in reply.body
        assert reply.json["headers"] == {"content-type": kind, "x-request-id": "***-1"}
        if kind == "application/json":
            assert reply.json["body"]["key"] == "you sent ***!"
            assert reply.json["body"]["***"] == [{"deep": "***"}]
            assert reply.json["body"]["true"] is True


async def test_an_answer_is_passed_on_whatever_its_status(ada: Configured) -> None:
    for status, body, kind, expected in (
        ("404 Not Found", '{"no": 1}', "application/problem+json", {"no": 1}),
        ("500 Oops", "plain", "text/plain", "plain"),
        ("200 OK", "{broken", "application/json", "{broken"),
        ("200 OK", b"\xff\xfe", "text/plain", "\ufffd\ufffd"),
        ("200 OK", "[" * 5_000, "application/json", "[" * 5_000),
        ("204 No Content", "", "text/plain", None),
    ):
        async with listening(saying(answer(body, status=status, kind=kind))) as server:
            reply = await ada.invoke(tool(at(server)))
        assert reply.status == 200
        assert reply.json["status"] == int(status[:3])
        assert reply.json["body"] == expected
        assert reply.headers["Cache-Control"] == "no-store"


async def test_a_redirect_is_returned_and_not_followed(ada: Configured) -> None:
    there = "http://127.0.0.1:1/elsewhere"
    moved = answer("", status="302 Found", more=f"Location: {there}\r\n")
    async with listening(saying(moved)) as server:
        reply = await ada.invoke(tool(at(server)))
        assert len(server.heard) == 1
    assert reply.json["status"] == 302
    assert reply.json["headers"]["location"] == there


async def test_an_answer_that_is_too_large_or_no_http_is_the_upstreams_failure(
    ada: Configured,
) -> None:
    too_large = answer("x" * (1 << 20) + "x", kind="text/plain")
    async with listening(saying(too_large, b"")) as server:
        reply = await ada.invoke(tool(at(server)))
    assert (reply.status, reply.code) == (502, "upstream_failed")
    async with listening(saying(b"nonsense\r\n\r\n", b"")) as server:
        reply = await ada.invoke(tool(at(server)))
    assert (reply.status, reply.code) == (502, "upstream_failed")
    gone = await ada.invoke(tool(at(server)))
    assert (gone.status, gone.code) == (502, "upstream_failed")


async def test_a_tool_that_takes_longer_than_its_time_is_given_up(ada: Configured) -> None:
    async with listening(saying(answer(), after=600)) as server:
        config = {**tool(at(server)), "response_timeout_secs": 5}
        started = asyncio.get_running_loop().time()
        reply = await ada.invoke(config)
        assert (reply.status, reply.code) == (502, "upstream_failed")
        assert 4.5 < asyncio.get_running_loop().time() - started < 300


async def test_a_secret_address_is_named_in_no_error(ada: Configured) -> None:
    async with listening(saying(answer())) as server:
        pass
    for url in (f"http://localhost:{server.port}/SECRET-A", "http://secret-host.example.com/S"):
        stored = await ada.secret("address", url)
        config = {"url": {"secret_id": stored}}
        for ask in (ada.invoke, ada.resolve):
            reply = await ask(config, kind="mcp_server")
            assert reply.status in (200, 422, 502)
            assert b"localhost" not in reply.body
            assert b"secret-host" not in reply.body
            assert b"SECRET" not in reply.body


async def test_credentials_go_only_to_their_allowed_hosts(
    ada: Configured, server: Listener
) -> None:
    port = server.port
    for hosts, allowed in (
        (["127.0.0.1"], True),
        ([f"127.0.0.1:{port}"], True),
        (["LOCALHOST", "127.0.0.1"], True),
        (["127.0.0.1:1"], False),
        (["localhost"], False),
        ([".0.0.1"], True),
        (["0.0.1"], False),
        ([".127.0.0.1"], False),
        (["127.0.0.11"], False),
    ):
        name = f"for {hosts[0]}"
        secret = await ada.secret(name, "SECRET-H", allowed_hosts=hosts)
        auth = await ada.connection(
            name, auth_type="bearer_auth", token="SECRET-A", allowed_hosts=hosts
        )
        for schema in (
            {"request_headers": {"X": {"secret_id": secret}}},
            {"auth_connection": {"auth_connection_id": auth}},
        ):
            before = len(server.heard)
            for ask in (ada.resolve, ada.invoke):
                reply = await ask(tool(at(server), **schema))
                assert reply.status == (200 if allowed else 422), hosts
                if not allowed:
                    assert reply.code == "invalid"
                    assert f"'{name}'" in reply.json["detail"]
                    assert "'127.0.0.1'" in reply.json["detail"]
            assert len(server.heard) - before == (1 if allowed else 0)


async def test_a_refused_credential_is_reported_and_a_fresh_token_tried_once(
    ada: Configured,
) -> None:
    issued: list[str] = []

    async def issue(writer: asyncio.StreamWriter) -> None:
        issued.append(f"TOKEN-{len(issued) + 1}")
        token = {"access_token": issued[-1], "token_type": "Bearer", "expires_in": 3600}
        writer.write(answer(json.dumps(token)))

    for method, calls in (("GET", 2), ("POST", 1)):
        issued.clear()
        heard: list[str] = []

        async def judge(writer: asyncio.StreamWriter) -> None:
            heard.append(Heard.of(api.heard[-1]).headers["authorization"])  # noqa: B023 - this round's
            old = heard[-1] == "Bearer TOKEN-1"  # noqa: B023 - this round's
            writer.write(answer(status="401 Unauthorized" if old else "200 OK"))

        async with listening(issue) as tokens, listening(judge) as api:
            auth = await ada.connection(
                f"creds {method}",
                auth_type="oauth2_client_credentials",
                client_id="c",
                client_secret="SECRET-C",
                token_url=at(tokens, "/token"),
            )
            config = tool(at(api), method=method, auth_connection={"auth_connection_id": auth})
            reply = await ada.invoke(config)
            assert len(heard) == calls
            assert reply.json["status"] == (200 if calls == 2 else 401)
            assert (await ada.invoke(config)).json["status"] == 200
            assert heard[-1] == "Bearer TOKEN-2"
            assert len(issued) == 2


async def test_a_static_credential_is_not_tried_twice_and_its_status_says_so(
    ada: Configured,
) -> None:
    auth = await ada.connection("static", auth_type="bearer_auth", token="SECRET-S")

    async def status() -> str:
        listed = (await ada.api.get("/v1/workspace/auth-connections")).json["auth_connections"]
        return next(str(one["status"]) for one in listed if one["id"] == auth)

    for said, expected in (
        ("403 Forbidden", "active"),
        ("401 Unauthorized", "credential_invalid"),
        ("403 Forbidden", "credential_invalid"),
        ("500 Internal Server Error", "credential_invalid"),
        ("200 OK", "active"),
    ):
        async with listening(saying(answer(status=said))) as server:
            config = tool(at(server), auth_connection={"auth_connection_id": auth})
            await ada.invoke(config)
            assert len(server.heard) == 1
        assert await status() == expected


async def test_a_client_certificate_is_shown_to_the_server(ada: Configured, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    pem = authority.chain("client").read_text()
    auth = await ada.connection(
        "certificate",
        auth_type="mtls",
        client_certificate=pem,
        client_key=pem,
        ca_certificate=authority.file.read_text(),
    )
    context = authority.server("localhost")
    context.load_verify_locations(authority.file)
    context.verify_mode = ssl.CERT_REQUIRED
    async with listening(saying(answer()), tls=context) as server:
        url = f"https://localhost:{server.port}/"
        with_it = tool(url, auth_connection={"auth_connection_id": auth})
        reply = await ada.invoke(with_it)
        assert reply.json["status"] == 200
        without = await ada.invoke(tool(url))
        assert (without.status, without.code) == (502, "upstream_failed")


async def test_two_values_for_one_header_are_refused(ada: Configured, server: Listener) -> None:
    auth = await ada.connection("b", auth_type="bearer_auth", token="SECRET-S")
    config = tool(
        at(server),
        request_headers={"authorization": "Basic x"},
        auth_connection={"auth_connection_id": auth},
    )
    reply = await ada.invoke(config)
    assert (reply.status, reply.code) == (422, "invalid")
    assert server.heard == []


async def test_an_address_that_is_not_open_to_tools_is_refused(
    ada: Configured,
) -> None:
    for url in (
        "http://8.8.8.8/",
        "https://10.0.0.1/",
        "https://169.254.169.254/latest",
        "https://8.8.8.8:25/",
        "https://[::1]/",
    ):
        for ask in (ada.resolve, ada.invoke):
            reply = await ask(tool(url))
            assert (reply.status, reply.code) == (422, "invalid"), url


async def test_what_is_open_to_providers_is_not_open_to_tools(
    tenant: Tenant, server: Listener, migrated: Embedded, root_key_file: Path
) -> None:
    for purpose, reached in (("provider", False), ("tool", True)):
        rules = parse_allow(f"{purpose}=http://127.0.0.1", development=False)
        database = await Database.open(migrated.dsn("keyturn_app"), size=1, statement_cache=0)
        root = open_root_key(root_key_file.as_uri())
        vault = await Vault.open(database, root, egress=Egress(allow=rules))
        request = Request(method="GET", url=at(server))
        try:
            if reached:
                assert vault.vet_tool_url(at(server)).port == server.port
                assert (await vault.call_tool(tenant.caller, request)).status == 200
                continue
            with pytest.raises(EgressDenied):
                vault.vet_tool_url(at(server))
            with pytest.raises(EgressDenied):
                await vault.call_tool(tenant.caller, request)
            assert server.accepted == 0
        finally:
            await vault.close()


async def test_what_was_used_stands_in_the_record(ada: Configured, server: Listener) -> None:
    await ada.invoke(tool(at(server)), "staging")
    await ada.resolve(tool(at(server)), "staging")
    events = (await ada.api.get("/v1/audit-events?limit=5")).json["data"]
    found = [(one["action"], one["environment"]) for one in events]
    assert ("configuration.use", "staging") in found
    assert ("configuration.show", "staging") in found
