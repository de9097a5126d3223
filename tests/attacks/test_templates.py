"""Attacks on templates: no value moves a request, adds a line, or is read a second time."""

import itertools
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final
from urllib.parse import parse_qsl, unquote, urlsplit

import pytest
import structlog
from conftest import Tenant
from hypothesis import example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from support.configured import Configured, tool
from support.loopback import listening, saying
from yarl import URL

from broker.resolve import Outgoing, plan, resolve
from vault.egress import HEADER_VALUE
from vault.egress.address import VettedUrl, parse_allow, vet
from vault.errors import EgressDenied, Invalid, Unresolved, VaultError
from vault.secret import Secret
from vault.vault.variables import Configuration, Resolved, ResolvedSecret

ECHO: Final = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def vetted(url: str) -> VettedUrl:
    return vet((), "tool", url)


def meaning(
    config: Mapping[str, Any],
    strings: Mapping[str, str] | None = None,
    *,
    secrets: Mapping[str, str] | None = None,
    variables: Mapping[str, Any] | None = None,
    arguments: Mapping[str, Any] | None = None,
    kind: Any = "server_tool",
) -> Outgoing:
    """Resolve without a database: `strings` and `secrets` are production's."""
    labels: dict[str, Resolved] = {}
    for label, text in (strings or {}).items():
        labels[label] = Resolved(label, "string", "production", "production", text)
    for label, text in (secrets or {}).items():
        held = ResolvedSecret(f"id_{label}", label, Secret(text), [])
        labels[label] = Resolved(label, "secret", "production", "production", held)
    stored = {f"id_{label}": one.value for label, one in labels.items()}
    configuration = Configuration(
        "production",
        labels,
        {key: one for key, one in stored.items() if isinstance(one, ResolvedSecret)},
    )
    made = plan(kind, config)
    assert made.labels <= labels.keys()
    return resolve(made, configuration, variables or {}, arguments or {}, vet=vetted)


# The host


@pytest.mark.parametrize(
    "value",
    [
        "evil.com/",
        "evil.com#",
        "evil.com?",
        "evil.com\\",
        "evil.com/x?",
        "user@evil",
        "user:pw@evil",
        "a:443",
        "a%2fevil",
        "a%00",
        "a\x00",
        "a\r\nX-Evil: 1",
        "a\tb",
        "a b",
        " a",
        "a\n",
        "a..b",
        ".",
        "..",
        "a\u3002b",
        "a\uff0eb",
        "\uff41",
        "\u24d0",
        "ä",
        "[::1]",
        "a_b",
        "{{system__env_x}}",
        "{a}",
        "https://evil.com",
        "-a",
        "a" * 64,
        "",
        "\ud800",
    ],
)
@pytest.mark.parametrize(
    "template",
    [
        "https://{{system__env_x}}.example.com/v1",
        "https://api.{{system__env_x}}.example.com:8443/v1",
        "https://{{ system__env_x }}.example.com",
    ],
)
def test_no_value_crosses_the_hosts_boundary(template: str, value: str) -> None:
    with pytest.raises((Invalid, EgressDenied)) as caught:
        meaning(tool(template), {"x": value})
    assert value.strip(" .") == "" or f"'{value}'" not in caught.value.message


@pytest.mark.parametrize(
    ("value", "ok"),
    [
        ("evil.example.net", True),
        ("evil.example.net:8443", True),
        ("api:443", True),
        ("api:443:1", False),
        ("api:", False),
        ("api:0x1bb", False),
        ("api:99999", False),
        ("api:25", False),
        ("api:443/", False),
        ("api:443@evil.com", False),
        ("api:443#", False),
        ("127.0.0.1", False),
        ("2130706433", False),
        ("0x7f.1", False),
        ("169.254.169.254", False),
        ("[::1]", False),
        ("localhost:5432", False),
    ],
)
def test_the_value_that_ends_the_authority_may_bring_a_port_and_no_more(
    value: str,
    ok: bool,  # noqa: FBT001 - what is expected of the value
) -> None:
    for rest in ("", "/v1", "?a=1"):
        template = tool("https://{{system__env_x}}" + rest)
        if ok:
            assert meaning(template, {"x": value}).target.host == value.partition(":")[0]
            continue
        with pytest.raises((Invalid, EgressDenied)):
            meaning(template, {"x": value})


@pytest.mark.parametrize(
    "url",
    [
        "{{system__env_x}}",
        "{{system__env_x}}://api.example.com",
        "http{{system__env_x}}://api.example.com",
        "https:{{system__env_x}}",
        "https:/{{system__env_x}}",
        "//api.example.com",
        "HTTPS://api.example.com",
        "ftp://api.example.com",
        "javascript:alert(1)",
        " https://api.example.com",
        "https://",
        "https:///path",
        "https://user:pw@api.example.com",
        "https://{{system__env_x}}@api.example.com",
        "https://api.example.com\\@evil.com",
        "https://api.example.com/#{{system__env_x}}",
        "https://api.example.com /",
        "https://api.example.com/\n",
        "https://api.example.com/{id",
        "https://api.example.com/}",
        "https://{id}.example.com/",
        "https://api.example.com/?a={id}",
        "https://api.example.com/{{",
        "https://api.example.com/{{ a b }}",
        "https://api.example.com/{{system__env_}}",
        "https://api.example.com/{{system__env_a-b}}",
        "https://api.example.com/{{}}",
        "https://api.example.com/%2e%2e/admin",
        "https://api.example.com/a/../admin",
        "https://api.example.com//admin",
    ],
)
def test_an_address_that_does_not_read_as_one_is_refused(url: str) -> None:
    with pytest.raises((Invalid, EgressDenied)):
        meaning(tool(url), {"x": "s"})


@pytest.mark.parametrize(
    "url",
    [
        "https://user:pw@api.example.com",
        "https://{{system__env_x}}@api.example.com",
        "https://api%2eexample.com/",
        "https://api.example.com\\@evil.com",
        "https://api.example.com/#{{system__env_x}}",
        "https://api.example.com/a b",
        "https://api.example.com/\n",
        "https://api.example.com/?a=\\",
    ],
)
def test_a_template_that_could_mislead_is_refused_before_anything_is_looked_up(url: str) -> None:
    with pytest.raises(Invalid):
        plan("server_tool", tool(url))


def test_plain_http_is_for_egress_to_allow() -> None:
    with pytest.raises(EgressDenied):
        meaning(tool("http://api.example.com/"))
    rules = parse_allow("tool=http://api.example.com", development=False)
    made = plan("server_tool", tool("http://{{system__env_x}}.example.com/"))
    label = Resolved("x", "string", "production", "production", "api")
    found = resolve(
        made,
        Configuration("production", {"x": label}, {}),
        {},
        {},
        vet=lambda url: vet(rules, "tool", url),
    )
    assert found.url == "http://api.example.com/"


# Path and query


@pytest.mark.parametrize(
    "value",
    [
        "..",
        ".",
        "../admin",
        "a/../../admin",
        "%2e%2e",
        "%2e%2e%2fadmin",
        "..%2fadmin",
        "..%252fadmin",
        "%25252e%25252e",
        "..;",
        "..;x=1/admin",
        "..\\admin",
        "%5c..",
        "a\\b",
        "//evil.com",
        "a//b",
        "%2f%2fevil.com",
        "a\x00",
        "%00",
        "a\r\nb",
        "%0d%0aX: 1",
        "",
        "%" + "25" * 40 + "2e",
    ],
)
def test_no_value_climbs_out_of_its_place_in_the_path(value: str) -> None:
    described = {"id": {"type": "string", "description": "which"}}
    for config, sent in (
        (tool("https://a.example.com/v1/{{system__env_x}}/orders"), {"strings": {"x": value}}),
        (tool("https://a.example.com/v1/{{x}}/orders"), {"variables": {"x": value}}),
        (
            tool("https://a.example.com/v1/{id}/orders", path_params_schema=described),
            {"arguments": {"id": value}},
        ),
    ):
        with pytest.raises(Invalid):
            meaning(config, **sent)


def test_an_empty_value_does_not_turn_a_thing_into_its_collection() -> None:
    described = {"id": {"type": "string", "description": "which"}}
    for path, held in (
        ("{id}", {"arguments": {"id": ""}}),
        ("{{x}}", {"variables": {"x": ""}}),
        ("{{system__env_x}}", {"strings": {"x": ""}}),
    ):
        config = tool(f"https://a.example.com/orders/{path}", path_params_schema=described)
        with pytest.raises(Invalid):
            meaning(config, **held)


def test_a_dot_beside_a_dot_is_no_way_up() -> None:
    with pytest.raises(Invalid):
        meaning(tool("https://a.example.com/v1/.{{x}}/admin"), variables={"x": "."})


@pytest.mark.parametrize(
    ("value", "as_label", "as_variable"),
    [
        ("v1/orders", "v1/orders", "v1%2Forders"),
        ("a b", "a%20b", "a%20b"),
        ("a?b#c", "a%3Fb%23c", "a%3Fb%23c"),
        ("a%41", "a%2541", "a%2541"),
        ("a@b:c", "a%40b%3Ac", "a%40b%3Ac"),
        ("ø", "%C3%B8", "%C3%B8"),
        ("{{secret__x}}", "%7B%7Bsecret__x%7D%7D", "%7B%7Bsecret__x%7D%7D"),
        ("...", "...", "..."),
    ],
)
def test_a_value_in_the_path_is_encoded(value: str, as_label: str, as_variable: str) -> None:
    label = meaning(tool("https://a.example.com/{{system__env_x}}"), {"x": value})
    assert label.url == f"https://a.example.com/{as_label}"
    variable = meaning(tool("https://a.example.com/{{x}}"), variables={"x": value})
    assert variable.url == f"https://a.example.com/{as_variable}"


def test_a_value_in_the_query_stays_one_value() -> None:
    value = "a&admin=1#x?y=%26 +\r\n\x00{{system__env_x}}ø/.."
    config = tool(
        "https://a.example.com/?q={{system__env_x}}&{{x}}=1",
        query_params_schema={
            "properties": {"p&": {"type": "string", "description": "one"}},
        },
    )
    found = meaning(config, {"x": value}, variables={"x": value}, arguments={"p&": value})
    query = urlsplit(found.url).query
    assert parse_qsl(query) == [("q", value), (value, "1"), ("p&", value)]
    assert list(URL(found.url).query.items()) == [("q", value), (value, "1"), ("p&", value)]


# Headers


@pytest.mark.parametrize(
    "value",
    [
        "a\r\nX: 1",
        "a\nb",
        "a\r",
        "a\x00",
        "\x7f",
        "ø",
        "\u2028",
        "a\n",
        " a",
        "\U0001f600",
        "\ud800",
    ],
)
def test_no_value_adds_a_line_to_a_header(value: str) -> None:
    for header in ({"variable_name": "secret__x"}, "Bearer {{secret__x}}", "{{x}}"):
        if value == " a" and isinstance(header, str) and header.startswith("Bearer"):
            continue
        with pytest.raises(Invalid) as caught:
            meaning(
                tool("https://a.example.com/", request_headers={"X-A": header}),
                variables={"secret__x": value, "x": value},
            )
        assert value.strip() == "a" or value not in caught.value.message
    for label in ("secret", "string"):
        held: dict[str, Any] = (
            {"secrets": {"x": value}} if label == "secret" else {"strings": {"x": value}}
        )
        if value == "\ud800" and label == "secret":
            continue  # no secret holds half a character
        with pytest.raises(Invalid):
            meaning(
                tool("https://a.example.com/", request_headers={"X-A": {"env_var_label": "x"}}),
                **held,
            )


@pytest.mark.parametrize("name", ["X A", "X:A", "X\r\nY", "", "ø", "Host", "content-length", "TE"])
def test_no_header_frames_or_redirects_the_request(name: str) -> None:
    with pytest.raises(Invalid):
        meaning(tool("https://a.example.com/", request_headers={name: "a"}))


# Nothing is read twice, as S8 has it


def test_what_a_value_says_is_never_expanded() -> None:
    config = tool(
        "https://a.example.com/{{system__env_x}}?q={{y}}",
        method="POST",
        request_headers={"X-A": "{{system__env_x}} {{y}}", "X-S": {"env_var_label": "s"}},
        request_body_schema={
            "type": "object",
            "properties": {
                "a": {"type": "string", "constant_value": "{{system__env_x}}"},
                "b": {"type": "string", "dynamic_variable": "y"},
                "c": {"type": "string", "description": "from the model"},
            },
        },
    )
    found = meaning(
        config,
        {"x": "{{y}}"},
        secrets={"s": "{{secret__z}}{{system__env_x}}"},
        variables={"y": "{{system__env_x}}{{secret__z}}", "secret__z": "SECRET-Z"},
        arguments={"c": "{{secret__z}}"},
    )
    y = "{{system__env_x}}{{secret__z}}"
    assert unquote(found.url) == "https://a.example.com/{{y}}?q=" + y
    assert found.headers[0].value == "{{y}} " + y
    assert found.headers[1].value == Secret("{{secret__z}}{{system__env_x}}")
    assert found.body == {"a": "{{y}}", "b": y, "c": "{{secret__z}}"}


# Secrets belong into headers


@pytest.mark.parametrize(
    "schema",
    [
        {"url": "https://{{secret__x}}.example.com/"},
        {"url": "https://a.example.com/{{secret__x}}"},
        {"url": "https://a.example.com/?k={{ secret__x }}"},
        {"url": "https://a.example.com/?k={{system__env_s}}"},
        {"url": "https://{{system__env_s}}.example.com/"},
        {"url": "https://a.example.com/{{system__env_s}}"},
        {"path_params_schema": {"id": {"type": "string", "dynamic_variable": "secret__x"}}},
        {"path_params_schema": {"id": {"type": "string", "constant_value": "{{secret__x}}"}}},
        {"query": {"type": "string", "dynamic_variable": "secret__x"}},
        {"query": {"type": "string", "constant_value": "{{system__env_s}}"}},
        {"body": {"type": "string", "dynamic_variable": "secret__x"}},
        {"body": {"type": "string", "dynamic_variable": "system__env_s"}},
        {"body": {"type": "string", "constant_value": "a {{ secret__x }}"}},
        {"body": {"type": "string", "constant_value": "{{system__env_s}}"}},
        {"body": {"type": "object", "constant_value": {"a": ["{{secret__x}}"]}}},
        {"body": {"type": "array", "dynamic_variable": "secret__x"}},
        {
            "body": {
                "type": "string",
                "description": "x",
                "allowed_values": {"dynamic_variable": "secret__x"},
            }
        },
    ],
)
def test_a_secret_in_an_address_or_a_body_is_refused(schema: dict[str, Any]) -> None:
    leaf = schema.get("body", {"type": "string", "constant_value": "c"})
    query = schema.get("query", {"type": "string", "constant_value": "c"})
    config = tool(
        schema.get("url", "https://a.example.com/{id}"),
        method="POST",
        path_params_schema=schema.get(
            "path_params_schema", {"id": {"type": "string", "constant_value": "c"}}
        ),
        query_params_schema={"properties": {"q": query}},
        request_body_schema={"type": "object", "properties": {"deep": leaf}},
    )
    with pytest.raises(Invalid, match="only be used in a header") as caught:
        meaning(
            config,
            secrets={"s": "SECRET-S"},
            variables={"secret__x": "SECRET-X"},
            arguments={"deep": "SECRET-X"} if "description" in leaf else {},
        )
    assert "SECRET-" not in caught.value.message


def test_a_secret_in_an_mcp_servers_meta_is_refused() -> None:
    for value in ({"secret_id": "id_s"}, {"variable_name": "secret__x"}, {"env_var_label": "s"}):
        with pytest.raises(Invalid, match="only be used in a header"):
            meaning(
                {"url": "https://a.example.com/", "request_meta": {"m": value}},
                secrets={"s": "SECRET-S"},
                variables={"secret__x": "SECRET-X"},
                kind="mcp_server",
            )


@pytest.mark.parametrize(
    "url",
    [
        "ftp://a.example.com",
        "//a.example.com",
        "https://u:p@a.example.com/",
        "https://a.example.com/#x",
        "https://a.example.com/{{secret__x}}",
        "https://a.example.com/../x",
        "https://10.0.0.1/",
        "https://a.example.com/\r\nX: 1",
        "",
    ],
)
def test_an_address_that_comes_whole_meets_the_same_rules(url: str) -> None:
    for reference, held in (
        ({"env_var_label": "u"}, {"strings": {"u": url}}),
        ({"secret_id": "id_u"}, {"secrets": {"u": url}}),
        ({"env_var_label": "u"}, {"secrets": {"u": url}}),
    ):
        with pytest.raises((Invalid, EgressDenied)) as caught:
            meaning({"url": reference}, kind="mcp_server", **held)
        if "secrets" in held:
            assert "10.0.0.1" not in caught.value.message


# Whatever the value is


TEXT: Final = st.text(max_size=12) | st.from_regex(
    r"[a-z0-9.:/@#?\\%&\r\n{}\[\]\x00;-]{0,12}", fullmatch=True
)
HOSTS: Final = TEXT | st.from_regex(r"[a-z0-9]{1,4}([.-][A-Za-z0-9]{1,4}){0,2}", fullmatch=True)
SHAPES: Final = (
    "https://{{system__env_x}}.example.com/v1",
    "https://api.{{system__env_x}}.example.com:8443/{{system__env_y}}?{{system__env_y}}",
    "https://api.example.com/{{system__env_x}}/z/{{y}}?a={{system__env_x}}&b={{y}}",
    "https://{{system__env_x}}{{system__env_y}}.example.com/{{y}}",
)


@given(shape=st.sampled_from(SHAPES), x=HOSTS, y=TEXT)
@example(shape=SHAPES[0], x="evil.com/", y="")
@example(shape=SHAPES[2], x="a", y="/../..")
@hypothesis_settings(max_examples=1_500)
def test_every_address_keeps_the_scheme_and_the_end_of_its_host(shape: str, x: str, y: str) -> None:
    try:
        found = meaning(tool(shape), {"x": x, "y": y}, variables={"y": y})
    except (Invalid, EgressDenied):
        return
    by_urllib, by_yarl = urlsplit(found.url), URL(found.url)
    authority = shape.removeprefix("https://").partition("/")[0].partition(":")[0]
    host = authority.replace("{{system__env_x}}", x).replace("{{system__env_y}}", y).lower()
    assert by_urllib.scheme == by_yarl.scheme == "https"
    assert by_urllib.hostname == by_yarl.raw_host == found.target.host == host
    assert host.endswith(".example.com")
    assert by_urllib.port == (8443 if ":8443" in shape else None)
    assert by_yarl.user is by_yarl.password is by_urllib.username is None
    assert by_yarl.raw_path.count("/") == by_urllib.path.count("/")
    assert by_urllib.fragment == ""
    assert ".." not in unquote(by_yarl.raw_path).split("/")
    assert "//" not in by_urllib.path


@given(
    text=st.text(max_size=8) | st.from_regex(r"[ -~]{0,8}(\r\n|\x00|)[ -~]{0,8}", fullmatch=True)
)
@hypothesis_settings(max_examples=500)
def test_a_header_is_one_line_of_what_it_was_given(text: str) -> None:
    headers = {"X-A": {"env_var_label": "x"}, "X-B": "b{{y}}", "X-C": {"env_var_label": "s"}}
    try:
        found = meaning(
            tool("https://a.example.com/", request_headers=headers),
            {"x": text},
            secrets={"s": text},
            variables={"y": text},
        )
    except Invalid:
        assert HEADER_VALUE.fullmatch(text.encode()) is None or text != text.rstrip(" \t")
        return
    assert not set(text) & set("\r\n\x00")
    values = [line.value for line in found.headers]
    assert values == [text, f"b{text}", Secret(text)]


@given(value=TEXT)
@hypothesis_settings(max_examples=500)
def test_a_value_that_is_the_whole_authority_is_the_whole_host(value: str) -> None:
    try:
        found = meaning(tool("https://{{system__env_x}}/p"), {"x": value})
    except (Invalid, EgressDenied):
        return
    host, _, port = value.lower().partition(":")
    assert found.target.host == host
    assert found.target.port == int(port or 443)
    assert URL(found.url).raw_path == "/p"


# Names, as S7 has them


@pytest.mark.parametrize("label", ["a b", "a-b", "", "a" * 65, "ä", "a\x00", "a}}", "../x"])
def test_a_label_outside_of_its_alphabet_is_refused(label: str) -> None:
    for config in (
        tool("https://a.example.com/", request_headers={"X": {"env_var_label": label}}),
        tool("https://a.example.com/", auth_connection={"env_var_label": label}),
        tool("https://a.example.com/{{system__env_" + label + "}}"),
    ):
        with pytest.raises(Invalid):
            meaning(config)


@pytest.mark.parametrize("environment", ["", "a b", "ä", "a" * 65, "a\n", "{{x}}", "../x", 5])
async def test_an_environment_outside_of_its_alphabet_is_refused(
    tenant: Tenant, environment: object
) -> None:
    body = {"kind": "webhook", "config": {"url": "https://a.example.com"}}
    for path in ("/v1/resolve", "/v1/tools/invoke"):
        reply = await tenant.api.post(path, {**body, "environment": environment})
        assert (reply.status, reply.code) == (422, "invalid")


@pytest.mark.parametrize(
    "name", ["", "a b", "a{", "ä", "a" * 129, "1a", "system__env_api_host", "a\n"]
)
async def test_a_variables_name_outside_of_its_alphabet_is_refused(
    tenant: Tenant, name: str
) -> None:
    body = {"kind": "webhook", "config": {"url": "https://a.example.com"}}
    reply = await tenant.api.post("/v1/resolve", {**body, "dynamic_variables": {name: "SECRET-V"}})
    assert (reply.status, reply.code) == (422, "invalid")
    assert b"SECRET-V" not in reply.body


async def test_unknown_fields_and_kinds_are_refused(tenant: Tenant) -> None:
    body = {"kind": "webhook", "config": {"url": "https://a.example.com"}}
    changes: list[dict[str, object]] = [
        {"conversation_id": "c c"},
        {"kind": "client_tool"},
        {"config": []},
        {"x": 1},
    ]
    for change in changes:
        reply = await tenant.api.post("/v1/resolve", {**body, **change})
        assert (reply.status, reply.code) == (422, "invalid")


async def test_a_configuration_nested_without_end_is_refused(tenant: Tenant) -> None:
    for depth in (30, 400):
        inner = '{"type": "object", "properties": {"a": ' * depth
        inner += '{"type": "string", "constant_value": "x"}' + "}}" * depth
        raw = (
            '{"kind": "server_tool", "config": {"url": "https://a.example.com", "method": "POST",'
            f' "request_body_schema": {inner}}}}}'
        )
        reply = await tenant.api.post("/v1/resolve", raw=raw.encode())
        assert reply.status in (400, 413, 422)


# Nothing secret in the logs


@pytest.fixture
def logged() -> Iterator[Callable[[], list[str]]]:
    """Everything that was logged, by structlog or by anybody's logging."""
    lines: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(self.format(record))

    handler = Keep(level=0)
    root = logging.getLogger()
    before = root.level
    root.addHandler(handler)
    root.setLevel(0)
    with structlog.testing.capture_logs() as captured:
        yield lambda: [*lines, *(json.dumps(one, default=repr) for one in captured)]
    root.removeHandler(handler)
    root.setLevel(before)


async def test_nothing_secret_is_logged_or_said_when_things_go_wrong(
    tenant: Tenant, logged: Callable[[], list[str]]
) -> None:
    ada = Configured(tenant.api)
    stored = await ada.secret("stored", "SENTINEL-stored")
    await ada.strings("host", {"production": "127.0.0.1", "staging": "SENTINEL/host"})
    auth = await ada.connection("b", auth_type="bearer_auth", token="SENTINEL-auth")
    variables = {"secret__x": "SENTINEL-x", "secret__bad": "SENTINEL\r\nbad", "v": "SENTINEL-v"}
    cases = [("production", "{{secret__x}}"), ("production", "{{secret__bad}}"), ("staging", "a")]
    async with listening(saying(ECHO)) as server:
        for port, (environment, header) in itertools.product((server.port, 1), cases):
            config = tool(
                f"http://{{{{system__env_host}}}}:{port}/p?v={{{{v}}}}",
                request_headers={"X-A": header, "X-B": {"secret_id": stored}},
                auth_connection={"auth_connection_id": auth},
            )
            for ask in (ada.invoke, ada.resolve):
                reply = await ask(config, environment, dynamic_variables=variables)
                shown = ask == ada.resolve and reply.status == 200
                assert shown or b"SENTINEL" not in reply.body
                assert b"SENTINEL-stored" not in reply.body
                assert b"SENTINEL-x" not in reply.body
    assert [line for line in logged() if "/v1/tools/invoke" in line]
    assert not [line for line in logged() if "SENTINEL" in line]


def test_what_is_resolved_does_not_show_itself() -> None:
    found = meaning(
        tool("https://a.example.com/?v={{v}}", request_headers={"X-A": "Bearer {{secret__x}}"}),
        variables={"v": "SENTINEL-v", "secret__x": "SENTINEL-x"},
    )
    assert "SENTINEL" not in repr(found) + repr(found.headers) + str(found.headers[0].secrets)
    with pytest.raises(Unresolved) as caught:
        meaning(tool("https://a.example.com/{{w}}"), variables={"v": "SENTINEL-v"})
    assert isinstance(caught.value, VaultError)
    assert "'w'" in caught.value.message
