"""Tool calls: a configuration becomes a request, and the answer becomes what the model sees.

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

import msgspec
from msgspec import Struct

from broker.sandbox.elevenlabs import agents
from broker.sandbox.elevenlabs.account import REDACTED, SECRET
from broker.sandbox.elevenlabs.agents import ClientTool, WebhookTool
from broker.sandbox.elevenlabs.authorize import authorization
from broker.sandbox.elevenlabs.conversations import Conversation
from broker.sandbox.elevenlabs.leaks import Where
from broker.sandbox.elevenlabs.templates import Filling, Unconfigured, as_text
from broker.sandbox.elevenlabs.toolrequests import (
    Prepared,
    assigned,
    prepared,
    secrets_named,
    seen_by_model,
)
from vault.egress import Reply, Request, Timeouts
from vault.errors import VaultError

MAX_REPLY: Final = 1 << 20  # bytes
BAD: Final = 300  # redirects are not followed
HIDDEN: Final = "The tool call failed."


class Outcome(Struct, kw_only=True):
    """What came of a call; ``result`` is what the model sees."""

    result: str
    is_error: bool = False
    called: bool = True
    status: int | None = None
    error_type: str = ""
    details: dict[str, Any] | None = None
    updates: list[dict[str, Any]] = []


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
        request = await _request(conversation, tool, arguments)
    except Unconfigured as problem:
        return _not_called("configuration_error", str(problem))
    _inspect(conversation, tool, request)
    return await _sent(conversation, tool, request, call_id)


async def _request(
    conversation: Conversation, tool: WebhookTool, arguments: dict[str, Any]
) -> Prepared:
    schema, filling = tool.api_schema, conversation.filling()
    request = prepared(schema, filling, arguments)
    if schema.auth_connection is not None:
        name, value = await _authorization(conversation, schema.auth_connection, filling)
        request.headers[name] = value
    return request


async def _authorization(
    conversation: Conversation, named: Mapping[str, str], filling: Filling
) -> tuple[str, str]:
    connection_id = named.get("auth_connection_id")
    if connection_id is None:
        connection_id = filling.of_label(named.get("env_var_label", ""), "auth_connection")
    if (found := conversation.account.auth_connections.get(connection_id)) is None:
        raise Unconfigured("The auth connection is not known.")
    return await authorization(conversation.world, found)


async def _sent(
    conversation: Conversation, tool: WebhookTool, request: Prepared, call_id: str
) -> Outcome:
    seconds = float(tool.response_timeout_secs)
    try:
        reply = await conversation.world.egress.call(
            "tool",
            Request(
                method=request.method,
                url=conversation.world.rerouted(request.url),
                headers=tuple(request.headers.items()),
                body=None if request.body is None else request.body.encode(),
                timeout=Timeouts(connect=min(5.0, seconds), read=seconds, total=seconds),
                max_bytes=MAX_REPLY,
            ),
        )
    except VaultError as error:
        said = str(error) if tool.tool_error_handling_mode == "passthrough" else HIDDEN
        kind = "connection_error"
        return Outcome(result=said, is_error=True, error_type=kind, details=request.details())
    outcome = _understood(conversation, tool, reply, call_id)
    outcome.status, outcome.details = reply.status, request.details()
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
    result = seen_by_model(tool.api_schema, tool.assignments, answer)
    return Outcome(result=result, updates=updates)


def _assign(
    conversation: Conversation, tool: WebhookTool, answer: object, call_id: str
) -> list[dict[str, Any]]:
    updates = []
    for name, new in assigned(tool.assignments, answer):
        old = conversation.variables.get(name)
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


def _inspect(conversation: Conversation, tool: WebhookTool, request: Prepared) -> None:
    """Look for secrets in what others will see of the request."""
    conversation.look("url", request.url, tool=tool.name)
    conversation.look("body", request.body or "", tool=tool.name)


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
        conversation.named(where, secrets_named(held), tool=tool.name)
