"""Tool calls: a configuration becomes a request, and the answer becomes what the model sees.

* Each leaf of a schema is an argument of the model, a dynamic variable, a constant, or omitted.
* The request is really sent, over the guarded egress, without any signature: ElevenLabs signs
  no tool call.
* ``assignments`` are taken from a JSON answer by a dotted path. A path that leads nowhere changes
  nothing. ``sanitize`` takes the value out of what the model and the transcript get.
* A tool that cannot be filled in sends nothing; a tool that fails tells the model no more than
  ``tool_error_handling_mode`` says.
"""

import asyncio
import json
import secrets
import time
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote, urlencode

import msgspec
from msgspec import Struct

from broker.sandbox.elevenlabs import agents
from broker.sandbox.elevenlabs.account import SECRET
from broker.sandbox.elevenlabs.agents import ApiSchema, ClientTool, WebhookTool
from broker.sandbox.elevenlabs.authorize import authorization
from broker.sandbox.elevenlabs.conversations import REDACTED, Conversation
from broker.sandbox.elevenlabs.leaks import Where
from broker.sandbox.elevenlabs.templates import (
    Filling,
    Unconfigured,
    as_text,
    secret_names,
)
from vault.egress import Reply, Request, Timeouts
from vault.errors import VaultError

MAX_REPLY: Final = 1 << 20  # bytes
BAD: Final = 300  # redirects are not followed
FORM: Final = "application/x-www-form-urlencoded"
HIDDEN: Final = "The tool call failed."

_ABSENT: Final = object()


class Outcome(Struct, kw_only=True):
    """What came of a call; ``result`` is what the model sees."""

    result: str
    is_error: bool = False
    called: bool = True
    status: int | None = None
    error_type: str = ""
    details: dict[str, Any] | None = None
    updates: list[dict[str, Any]] = []


class Prepared(Struct, frozen=True, kw_only=True):
    """A request that is filled in."""

    method: str
    url: str
    headers: dict[str, str]
    path: dict[str, str]
    query: dict[str, str]
    body: str | None

    def details(self) -> dict[str, Any]:
        return {
            "type": "webhook",
            "method": self.method,
            "url": self.url,
            "headers": dict.fromkeys(self.headers, REDACTED),
            "path_params": self.path,
            "query_params": self.query,
            "body": self.body,
        }


async def call_tool(conversation: Conversation, name: str, arguments: Mapping[str, Any]) -> Outcome:
    """Call a tool, write it into the transcript, and tell the client about it."""
    call_id = "call_" + secrets.token_hex(8)
    config = conversation.tools.get(name)
    kind = config.get("type", "webhook") if config else "webhook"
    named = {"tool_name": name, "tool_call_id": call_id, "tool_type": kind}
    conversation.emit("agent_tool_request", named, "agent_tool_request")
    started = time.monotonic()
    outcome = await _run(conversation, config, dict(arguments), call_id)
    conversation.last_result = outcome.result
    conversation.look("tool_result", outcome.result, tool=name)
    seen = {**named, "is_error": outcome.is_error, "is_called": outcome.called}
    conversation.emit("agent_tool_response", seen, "agent_tool_response")
    full = {**seen, "result": outcome.result}
    kind_full = "agent_tool_response_full_payload"
    conversation.emit(kind_full, full, kind_full)
    result = {
        "request_id": call_id,
        "tool_name": name,
        "result_value": outcome.result,
        "is_error": outcome.is_error,
        "tool_has_been_called": outcome.called,
        "tool_latency_secs": round(time.monotonic() - started, 3),
        "error_type": outcome.error_type,
        "dynamic_variable_updates": outcome.updates,
        "type": kind,
    }
    call = {
        "type": kind,
        "request_id": call_id,
        "tool_name": name,
        "params_as_json": json.dumps(dict(arguments)),
        "tool_has_been_called": outcome.called,
        "tool_details": outcome.details,
    }
    conversation.write_tool(call, result)
    return outcome


async def _run(
    conversation: Conversation,
    config: Mapping[str, Any] | None,
    arguments: dict[str, Any],
    call_id: str,
) -> Outcome:
    if config is None:
        return _not_called("unknown_tool", "The agent has no such tool.")
    try:
        tool = agents.read_tool(config)
    except msgspec.ValidationError:
        return _not_called("invalid_tool", "The tool's configuration is not valid.")
    if isinstance(tool, ClientTool):
        return await _client_tool(conversation, tool, arguments, call_id)
    _inspect_names(conversation, tool)
    try:
        prepared = await _prepared(conversation, tool, arguments)
    except Unconfigured as problem:
        return _not_called("configuration_error", str(problem))
    _inspect(conversation, tool, prepared)
    return await _sent(conversation, tool, prepared, call_id)


async def _prepared(
    conversation: Conversation, tool: WebhookTool, arguments: dict[str, Any]
) -> Prepared:
    schema, filling = tool.api_schema, conversation.filling()
    path = {
        name: as_text(_leaf(leaf, name, filling, arguments, required=True))
        for name, leaf in schema.path_params_schema.items()
    }
    query = {
        name: as_text(value)
        for name, value in _object(schema.query_params_schema or {}, filling, arguments).items()
    }
    url = filling.text(schema.url)
    for name, text in path.items():
        url = url.replace(f"{{{name}}}", quote(text, safe=""))
    if query:
        url += ("&" if "?" in url else "?") + urlencode(query)
    headers = {name: filling.header(value) for name, value in schema.request_headers.items()}
    body = _body(schema, filling, arguments)
    if body is not None and "content-type" not in {name.lower() for name in headers}:
        headers["Content-Type"] = schema.content_type
    if schema.auth_connection is not None:
        name, value = await _authorization(conversation, schema.auth_connection, filling)
        headers[name] = value
    return Prepared(
        method=schema.method, url=url, headers=headers, path=path, query=query, body=body
    )


async def _authorization(
    conversation: Conversation, named: Mapping[str, str], filling: Filling
) -> tuple[str, str]:
    connection_id = named.get("auth_connection_id")
    if connection_id is None:
        connection_id = filling.of_label(named.get("env_var_label", ""), "auth_connection")
    if (found := conversation.account.auth_connections.get(connection_id)) is None:
        raise Unconfigured("The auth connection is not known.")
    return await authorization(conversation.world, found)


def _body(schema: ApiSchema, filling: Filling, arguments: dict[str, Any]) -> str | None:
    if schema.request_body_schema is None:
        return None
    body = _object(schema.request_body_schema, filling, arguments)
    if schema.content_type == FORM:
        return urlencode({name: as_text(value) for name, value in body.items()})
    return json.dumps(body)


def _object(
    schema: Mapping[str, Any], filling: Filling, arguments: Mapping[str, Any]
) -> dict[str, Any]:
    required = schema.get("required") or []
    made = {
        name: _leaf(leaf, name, filling, arguments, required=name in required)
        for name, leaf in (schema.get("properties") or {}).items()
    }
    return {name: value for name, value in made.items() if value is not _ABSENT}


def _leaf(
    leaf: Mapping[str, Any],
    name: str,
    filling: Filling,
    arguments: Mapping[str, Any],
    *,
    required: bool,
) -> Any:  # noqa: ANN401 - any JSON
    if leaf.get("is_omitted") or leaf.get("is_system_provided"):
        return _ABSENT
    if variable := leaf.get("dynamic_variable"):
        return _typed(filling.value(variable), leaf.get("type"))
    constant = leaf.get("constant_value")
    if constant not in (None, ""):
        return filling.text(constant) if isinstance(constant, str) else constant
    if leaf.get("type") == "object" or "properties" in leaf:
        nested = arguments.get(name)
        return _object(leaf, filling, nested if isinstance(nested, dict) else {})
    if name in arguments:
        return arguments[name]
    if required:
        raise Unconfigured(f"The model gave no '{name}'.")
    return _ABSENT


def _typed(value: object, kind: object) -> object:
    """Give a variable's value the type that the schema names, where it fits."""
    if not isinstance(value, str) or kind not in ("integer", "number", "boolean"):
        return value
    try:
        found = json.loads(value)
    except ValueError:
        return value
    return found if isinstance(found, int | float) else value


async def _sent(
    conversation: Conversation, tool: WebhookTool, prepared: Prepared, call_id: str
) -> Outcome:
    seconds = float(tool.response_timeout_secs)
    try:
        reply = await conversation.world.egress.call(
            "tool",
            Request(
                method=prepared.method,
                url=conversation.world.rerouted(prepared.url),
                headers=tuple(prepared.headers.items()),
                body=None if prepared.body is None else prepared.body.encode(),
                timeout=Timeouts(connect=min(5.0, seconds), read=seconds, total=seconds),
                max_bytes=MAX_REPLY,
            ),
        )
    except VaultError as error:
        said = str(error) if tool.tool_error_handling_mode == "passthrough" else HIDDEN
        kind = "connection_error"
        return Outcome(result=said, is_error=True, error_type=kind, details=prepared.details())
    outcome = _understood(conversation, tool, reply, call_id)
    outcome.status, outcome.details = reply.status, prepared.details()
    return outcome


def _understood(
    conversation: Conversation, tool: WebhookTool, reply: Reply, call_id: str
) -> Outcome:
    text = reply.body.decode("utf-8", "replace")
    if reply.status >= BAD:
        said = {
            "passthrough": text,
            "summarized": f"The tool answered with status {reply.status}.",
        }.get(tool.tool_error_handling_mode, HIDDEN)
        return Outcome(result=said, is_error=True, error_type=f"http_{reply.status}")
    try:
        answer = json.loads(text)
    except (ValueError, RecursionError):
        return Outcome(result=text)
    updates = _assign(conversation, tool, answer, call_id)
    for one in tool.assignments:
        if one.sanitize:
            _remove(answer, one.value_path.split("."))
    return Outcome(result=json.dumps(_filtered(tool, answer)), updates=updates)


def _assign(
    conversation: Conversation, tool: WebhookTool, answer: object, call_id: str
) -> list[dict[str, Any]]:
    updates = []
    for one in tool.assignments:
        value = _found(answer, one.value_path.split("."))
        if value is _ABSENT or value is None:
            continue
        name, old = one.dynamic_variable, conversation.variables.get(one.dynamic_variable)
        new = value if one.preserve_native_type else as_text(value)
        conversation.variables[name] = new
        hidden = name.startswith(SECRET)
        updates.append(
            {
                "variable_name": name,
                "old_value": None if old is None else REDACTED if hidden else as_text(old),
                "new_value": REDACTED if hidden else as_text(new),
                "updated_at": conversation.world.now(),
                "tool_name": tool.name,
                "tool_request_id": call_id,
            }
        )
    return updates


def _found(answer: object, steps: list[str]) -> object:
    for step in steps:
        if isinstance(answer, dict):
            answer = answer.get(step, _ABSENT)
        elif isinstance(answer, list) and step.isdecimal() and int(step) < len(answer):
            answer = answer[int(step)]
        else:
            return _ABSENT
    return answer


def _remove(answer: object, steps: list[str]) -> None:
    holder = _found(answer, steps[:-1])
    if isinstance(holder, dict):
        holder.pop(steps[-1], None)
    elif isinstance(holder, list) and steps[-1].isdecimal() and int(steps[-1]) < len(holder):
        holder[int(steps[-1])] = None


def _filtered(tool: WebhookTool, answer: object) -> object:
    wanted = tool.api_schema.response_filter or {}
    if wanted.get("mode") == "hide_all":
        return {}
    if wanted.get("mode") != "allow":
        return answer
    kept: dict[str, object] = {}
    for path in wanted.get("filters") or []:
        value = _found(answer, str(path).split("."))
        if value is not _ABSENT:
            kept[path] = value
    return kept


async def _client_tool(
    conversation: Conversation, tool: ClientTool, arguments: dict[str, Any], call_id: str
) -> Outcome:
    if conversation.outbox is None:
        return _not_called("no_client", "There is no client that could run this tool.")
    answered: asyncio.Future[tuple[str, bool]] = asyncio.get_running_loop().create_future()
    conversation.waiting[call_id] = answered
    event = {"tool_name": tool.name, "tool_call_id": call_id, "parameters": arguments}
    conversation.emit("client_tool_call", event, "client_tool_call")
    details = {"type": "client", "parameters": json.dumps(arguments)}
    try:
        if not tool.expects_response:
            return Outcome(result="Tool called.", details=details)
        async with asyncio.timeout(tool.response_timeout_secs):
            result, is_error = await answered
    except TimeoutError:
        said = "The client did not answer."
        return Outcome(result=said, is_error=True, error_type="timeout", details=details)
    finally:
        conversation.waiting.pop(call_id, None)
    return Outcome(result=result, is_error=is_error, details=details)


def _not_called(error_type: str, said: str) -> Outcome:
    return Outcome(result=said, is_error=True, called=False, error_type=error_type)


def _inspect(conversation: Conversation, tool: WebhookTool, prepared: Prepared) -> None:
    """Look for secrets in what others will see of the request."""
    conversation.look("url", prepared.url, tool=tool.name)
    conversation.look("body", prepared.body or "", tool=tool.name)


def _inspect_names(conversation: Conversation, tool: WebhookTool) -> None:
    """Look for secret variables that the configuration names outside headers."""
    schema = tool.api_schema
    places: tuple[tuple[Where, object], ...] = (
        ("url", schema.url),
        ("parameter", schema.path_params_schema),
        ("parameter", schema.query_params_schema),
        ("body", schema.request_body_schema),
    )
    for where, held in places:
        conversation.named(where, _secrets_named(held), tool=tool.name)


def _secrets_named(held: object) -> list[str]:
    if isinstance(held, str):
        return secret_names(held)
    if isinstance(held, list):
        return [name for one in held for name in _secrets_named(one)]
    if not isinstance(held, dict):
        return []
    variable = held.get("dynamic_variable")
    own = [variable] if isinstance(variable, str) and variable.startswith(SECRET) else []
    return own + [name for one in held.values() for name in _secrets_named(one)]
