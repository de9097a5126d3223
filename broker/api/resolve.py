"""/v1/resolve and /v1/tools/invoke: what a configuration becomes, seen or sent."""

from typing import Any

from litestar import Request, Router, post
from litestar.di import NamedDependency
from litestar.params import JSONBody

from broker import invoke
from broker.api.requests import RuntimeKey, held_by, requires, requires_or_held
from broker.api.resolve_messages import AnswerOut, InvokeIn, ResolvedOut, ResolveIn
from broker.api.responses import guarded
from broker.broker import Broker
from vault.model import Caller
from vault.vault import Vault


@post(
    "/resolve",
    status_code=200,
    guards=requires("configuration.show"),
    responses=guarded("malformed", "not_found", "too_large", "invalid", "unresolved"),
    summary="Resolve a configuration",
)
async def show(
    data: JSONBody[ResolveIn],
    caller: NamedDependency[Caller],
    vault: NamedDependency[Vault],
    broker: NamedDependency[Broker],
) -> ResolvedOut:
    """Show the request that a configuration becomes in an environment, or in a conversation.
    Secrets are masked.

    With `explain`, say why each value was chosen.
    """
    asked, conversation = data.question(caller), data.conversation_id
    if conversation is None:
        outgoing, facts = await invoke.show(vault, caller, asked)
    else:
        outgoing, facts = await broker.tool_calls.show(caller, conversation, asked)
    return ResolvedOut.of(outgoing, facts, explain=data.explain)


@post(
    "/tools/invoke",
    status_code=200,
    guards=requires_or_held("configuration.use"),
    responses=guarded(
        "malformed",
        "too_large",
        "not_found",
        "conflict",
        "connection_missing",
        "needs_reauth",
        "invalid",
        "unresolved",
        "rate_limited",
        "upstream_failed",
        "provider_unavailable",
    ),
    summary="Call what a configuration describes",
)
async def call(
    data: JSONBody[InvokeIn],
    request: Request[Any, Any, Any],
    caller: NamedDependency[Caller],
    vault: NamedDependency[Vault],
    broker: NamedDependency[Broker],
    runtime_key: RuntimeKey = None,  # noqa: ARG001 - documented here, and read by the guard
) -> AnswerOut:
    """Resolve a configuration, send the request, and return the answer whatever its status.

    With `conversation_id`, or with a grant, or a handle beside the runtime key, a user's
    credential goes only to its connection's own API. A secret that the other side sends back is
    masked; cookies and most headers are dropped.
    """
    given = {"arguments": data.arguments, "body": data.body}
    held = held_by(request)
    if held is not None:
        return AnswerOut.of(await broker.stored_calls.invoke(held, data.named(), **given))
    asked, conversation = data.question(caller), data.conversation_id
    if conversation is None:
        return AnswerOut.of(await invoke.invoke(vault, caller, asked, **given))
    return AnswerOut.of(await broker.tool_calls.invoke(caller, conversation, asked, **given))


router = Router("/v1", route_handlers=[show, call], tags=["resolve"])
