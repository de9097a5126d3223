"""Four kinds of configuration, in ElevenLabs' words, become one ``Plan`` of a request. Pure.

* ``server_tool``: a webhook tool, whole or its ``api_schema`` alone.
* ``mcp_server``: the server's address, ``secret_token``, headers, ``request_meta``.
* ``custom_llm``: the address, ``api_key``, headers.
* ``webhook``: before or after a call: the address and headers.
* Fields that only describe are passed over; what would change the request and cannot be resolved
  here is refused.
* ``secret_token`` and ``api_key`` are sent as ``Authorization: Bearer``.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Final, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct

from broker.resolve.bodies import (
    ArrayNode,
    Asked,
    Constant,
    FromModel,
    Node,
    ObjectNode,
    Schema,
    asked,
    parse_constant,
    parse_schema,
)
from broker.resolve.templates import (
    Connection,
    Label,
    Part,
    Stored,
    Template,
    Variable,
    below,
    invalid,
    label_of,
    named,
    not_here,
    parse,
    refuse_secret,
)
from broker.resolve.urls import Url, parse_url
from vault.egress import HEADER_NAME, MAX_HEADERS, OURS
from vault.errors import Invalid

C = TypeVar("C", bound=Struct)

Kind = Literal["server_tool", "mcp_server", "custom_llm", "webhook"]
Method = Literal["GET", "POST", "PUT", "PATCH", "DELETE"]
ContentType = Literal["application/json", "application/x-www-form-urlencoded"]

JSON: Final[ContentType] = "application/json"
DEFAULT_TIMEOUT: Final = 20  # seconds
AUTHORIZATION: Final = "Authorization"
WITH_BODY: Final = frozenset({"POST", "PUT", "PATCH"})
# What the resource is wrapped in when it is sent to ElevenLabs.
WRAPPERS: Final[Mapping[Kind, tuple[str, ...]]] = {
    "server_tool": ("tool_config",),
    "mcp_server": ("config",),
    "custom_llm": ("custom_llm",),
    "webhook": ("conversation_initiation_client_data_webhook", "settings"),
}

Timeout = Annotated[int, Meta(ge=5, le=300)]

_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")
_PATH = re.compile(r" - at `(?:key in )?\$([^`]*)`")
_REASON = re.compile(r"Expected `[a-z |]+`, got `[a-z]+`|Object missing required field `[a-z_]+`")


class Reference(Struct, frozen=True, forbid_unknown_fields=True):
    """One of the three."""

    secret_id: str | None = None
    variable_name: str | None = None
    env_var_label: str | None = None

    def part(self, where: str) -> Label | Variable | Stored:
        if [self.secret_id, self.variable_name, self.env_var_label].count(None) != 2:  # noqa: PLR2004 - one of three is left
            raise invalid("Give one of secret_id, variable_name and env_var_label.", where)
        if self.variable_name is not None:
            return named(self.variable_name, where)
        if self.env_var_label is not None:
            return label_of(self.env_var_label, where)
        return Stored(_id(self.secret_id, where))


class AuthReference(Struct, frozen=True, forbid_unknown_fields=True):
    """One of the two."""

    auth_connection_id: str | None = None
    env_var_label: str | None = None

    def part(self, where: str) -> Label | Connection:
        if (self.auth_connection_id is None) == (self.env_var_label is None):
            raise invalid("Give one of auth_connection_id and env_var_label.", where)
        if self.env_var_label is not None:
            return label_of(self.env_var_label, where)
        return Connection(_id(self.auth_connection_id, where))


Headers = dict[str, str | Reference]


class QueryParams(Struct, frozen=True):
    properties: dict[str, Schema] | None = None
    required: list[str] | None = None


class ApiSchema(Struct, frozen=True, kw_only=True):
    url: str
    method: Method = "GET"
    request_headers: Headers | None = None
    path_params_schema: dict[str, Schema] | None = None
    query_params_schema: QueryParams | None = None
    request_body_schema: Schema | None = None
    content_type: ContentType = JSON
    auth_connection: AuthReference | None = None
    auth_resolved_params: list[str] | None = None


class ServerTool(Struct, frozen=True, kw_only=True):
    api_schema: ApiSchema
    type: Literal["webhook"] = "webhook"
    response_timeout_secs: Timeout = DEFAULT_TIMEOUT


class McpServer(Struct, frozen=True, kw_only=True):
    url: str | Reference
    secret_token: Reference | None = None
    request_headers: Headers | None = None
    request_meta: dict[str, str | int | float | bool | Reference | None] | None = None
    auth_connection: AuthReference | None = None
    response_timeout_secs: Timeout | None = None


class CustomLlm(Struct, frozen=True, kw_only=True):
    url: str
    api_key: Reference | None = None
    request_headers: Headers | None = None
    auth_connection: AuthReference | None = None


class Webhook(Struct, frozen=True, kw_only=True):
    url: str | None = None
    webhook_url: str | None = None
    request_headers: Headers | None = None


class HeaderPlan(Struct, frozen=True):
    """``bearer``: the value is a token, sent as ``Bearer <token>``."""

    name: str
    value: Template
    bearer: bool = False


class Plan(Struct, frozen=True, kw_only=True):
    """A request whose holes are still open."""

    kind: Kind
    url: Url | Label | Stored
    method: Method = "POST"
    headers: tuple[HeaderPlan, ...] = ()
    auth_connection: Label | Connection | None = None
    timeout: int = DEFAULT_TIMEOUT
    path: ObjectNode = ObjectNode((), frozenset())
    query: ObjectNode = ObjectNode((), frozenset())
    body: Node | None = None
    meta: Constant | None = None
    content_type: ContentType = JSON

    @property
    def takes_body(self) -> bool:
        """Does the caller bring the body?"""
        return self.kind != "server_tool"

    @property
    def labels(self) -> set[str]:
        return {part.label for part in _parts(self) if isinstance(part, Label)}

    @property
    def secret_ids(self) -> set[str]:
        return {part.secret_id for part in _parts(self) if isinstance(part, Stored)}

    @property
    def variables(self) -> set[str]:
        return {part.name for part in _parts(self) if isinstance(part, Variable)}

    @property
    def asked(self) -> list[Asked]:
        """What the model fills in."""
        found = [
            *asked(self.path, "", "path", required=True),
            *asked(self.query, "", "query", required=True),
        ]
        if self.body is not None:
            found += asked(self.body, "", "body", required=True)
        return found


def plan(kind: Kind, config: Mapping[str, Any]) -> Plan:
    """Read a configuration."""
    config = unwrapped(kind, config)
    if kind == "server_tool":
        return _server_tool(_read(ServerTool, config))
    if kind == "mcp_server":
        return _mcp_server(_read(McpServer, config))
    if kind == "custom_llm":
        return _custom_llm(_read(CustomLlm, config))
    return _webhook(_read(Webhook, config))


def unwrapped(kind: Kind, config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The configuration itself, which every pointer is about, however it came."""
    for wrapper in WRAPPERS[kind]:
        if isinstance(inner := config.get(wrapper), dict):
            config = inner
    if kind == "server_tool" and "api_schema" not in config and "url" in config:
        return {"api_schema": config}
    return config


def _server_tool(tool: ServerTool) -> Plan:
    schema = tool.api_schema
    where = "/api_schema"
    if schema.auth_resolved_params:
        raise not_here("What the auth connection would put into the address", where)
    url = parse_url(schema.url, below(where, "url"))
    body = None
    if schema.request_body_schema is not None and schema.method in WITH_BODY:
        body = _body(schema.request_body_schema, below(where, "request_body_schema"))
    return Plan(
        kind="server_tool",
        url=url,
        method=schema.method,
        headers=_headers(schema.request_headers, below(where, "request_headers")),
        auth_connection=_auth(schema.auth_connection, below(where, "auth_connection")),
        timeout=tool.response_timeout_secs,
        path=_path(url, schema, below(where, "path_params_schema")),
        query=_query(schema.query_params_schema, below(where, "query_params_schema")),
        body=body,
        content_type=schema.content_type,
    )


def _mcp_server(server: McpServer) -> Plan:
    meta = None
    if server.request_meta:
        entries = server.request_meta.items()
        meta = Constant({key: _meta(one, below("/request_meta", key)) for key, one in entries})
    return Plan(
        kind="mcp_server",
        url=_whole_or_template(server.url),
        headers=_headers(
            server.request_headers, "/request_headers", ("/secret_token", server.secret_token)
        ),
        auth_connection=_auth(server.auth_connection, "/auth_connection"),
        timeout=server.response_timeout_secs or DEFAULT_TIMEOUT,
        meta=meta,
    )


def _custom_llm(llm: CustomLlm) -> Plan:
    return Plan(
        kind="custom_llm",
        url=parse_url(llm.url, "/url"),
        headers=_headers(llm.request_headers, "/request_headers", ("/api_key", llm.api_key)),
        auth_connection=_auth(llm.auth_connection, "/auth_connection"),
    )


def _webhook(webhook: Webhook) -> Plan:
    url = webhook.url or webhook.webhook_url
    if url is None:
        raise invalid("The field url is missing.", "")
    return Plan(
        kind="webhook",
        url=parse_url(url, "/url"),
        headers=_headers(webhook.request_headers, "/request_headers"),
    )


def _whole_or_template(url: str | Reference) -> Url | Label | Stored:
    if isinstance(url, str):
        return parse_url(url, "/url")
    part = url.part("/url")
    if isinstance(part, Variable):
        raise invalid("An address comes from the configuration, not from the request.", "/url")
    return part


def _headers(
    headers: Headers | None, where: str, token: tuple[str, Reference | None] = ("", None)
) -> tuple[HeaderPlan, ...]:
    found = [_header(name, value, below(where, name)) for name, value in (headers or {}).items()]
    place, reference = token
    if reference is not None:
        part = reference.part(place)
        found.append(HeaderPlan(AUTHORIZATION, Template((part,), place), bearer=True))
    if len(found) > MAX_HEADERS:
        raise invalid(f"A request has at most {MAX_HEADERS} headers.", where)
    names = [header.name.lower() for header in found]
    if len(set(names)) < len(names):
        raise invalid("Two values are given for the same header.", where)
    return tuple(found)


def _header(name: str, value: str | Reference, where: str) -> HeaderPlan:
    if HEADER_NAME.fullmatch(name) is None:
        raise invalid("A header's name holds a character that none may hold.", where)
    if name.lower() in OURS:
        raise invalid(f"The header {name} cannot be chosen.", where)
    if isinstance(value, str):
        return HeaderPlan(name, parse(value, where))
    return HeaderPlan(name, Template((value.part(where),), where))


def _auth(reference: AuthReference | None, where: str) -> Label | Connection | None:
    return None if reference is None else reference.part(where)


def _path(url: Url, schema: ApiSchema, where: str) -> ObjectNode:
    described = schema.path_params_schema or {}
    found = []
    for name in dict.fromkeys(url.arguments):
        if name not in described:
            raise invalid(f"The path parameter '{name}' is not described.", where)
        found.append((name, parse_schema(described[name], name, below(where, name))))
    return ObjectNode(tuple(found), frozenset(url.arguments))


def _query(params: QueryParams | None, where: str) -> ObjectNode:
    if params is None:
        return ObjectNode((), frozenset())
    properties = (params.properties or {}).items()
    return ObjectNode(
        tuple(
            (name, parse_schema(one, name, below(where, "properties", name)))
            for name, one in properties
        ),
        frozenset(params.required or ()),
    )


def _body(schema: Schema, where: str) -> Node:
    node = parse_schema(schema, "", where)
    if isinstance(node, FromModel | ArrayNode):
        raise invalid("The body is described as an object with properties.", where)
    return node


def _meta(value: str | float | Reference | None, where: str) -> Constant:
    if not isinstance(value, Reference):
        return parse_constant(value, where)
    part = value.part(where)
    if isinstance(part, Stored):
        raise not_here("What is named here", where)
    refuse_secret(part, where)
    return Constant(Template((part,), where))


def _id(text: str | None, where: str) -> str:
    if text is None or _ID.fullmatch(text) is None:
        raise invalid("This is not an id.", where)
    return text


def _read(kind: type[C], config: Mapping[str, Any]) -> C:
    """Read the wire's form; the parser's own words may quote a value, so few of them are kept."""
    try:
        return msgspec.convert(config, kind)
    except msgspec.ValidationError as error:
        text = str(error)
    except RecursionError:
        text = ""
    place = _PATH.search(text)
    names = re.split(r"[.\[\]]+", place[1]) if place else []
    reason = _REASON.match(text)
    said = reason[0] if reason else "This part of the configuration does not have its form"
    raise Invalid(f"{said}.", pointer="/config" + below("", *filter(None, names)))


def _parts(thing: object) -> Iterator[Part | Connection]:
    """Every reference, wherever it stands."""
    if isinstance(thing, Label | Variable | Stored | Connection):
        yield thing
    elif isinstance(thing, Struct):
        for name in thing.__struct_fields__:
            yield from _parts(getattr(thing, name))
    elif isinstance(thing, dict):
        for one in thing.values():
            yield from _parts(one)
    elif isinstance(thing, tuple | list):
        for one in thing:
            yield from _parts(one)
