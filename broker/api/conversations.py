"""/v1/conversations and /v1/readiness: what conversations start with, and how they end."""

from typing import Annotated, Any

from litestar import Request, Response, Router, get, post
from litestar.di import NamedDependency
from litestar.params import JSONBody, QueryParameter

from broker.api import examples
from broker.api.conversation_messages import (
    ConversationIn,
    ConversationMade,
    ConversationOut,
    PreparedOut,
    ReadinessIn,
    ReadinessOut,
    ReadinessWarningOut,
    ReadyUserOut,
    RedeemedOut,
    RedeemIn,
)
from broker.api.messages import Listing
from broker.api.requests import (
    DEFAULT_LIMIT,
    Cursor,
    IdempotencyKey,
    Limit,
    next_cursor,
    once_of,
    page_of,
    requires,
)
from broker.api.responses import guarded
from broker.broker import Broker
from broker.profile import AGENT_PATTERN
from vault.model import ENVIRONMENT_PATTERN, USER_ID_PATTERN, Caller
from vault.vault import Vault

MAX_READINESS_BODY = 4 * 1024 * 1024  # ten thousand ids

Id = Annotated[str, examples.path("kcv_01k9v7q3x8w2r5t6y7z8a9b0c1")]


@post(
    guards=requires("conversation.mint"),
    responses=guarded(
        "malformed",
        "not_found",
        "connection_missing",
        "upstream_missing",
        "idempotency_in_progress",
        "too_large",
        "invalid",
        "unresolved",
        "delivery_not_possible",
        "delivery_needs_gateway",
        "idempotency_mismatch",
        "upstream_failed",
    ),
    summary="Mint a conversation",
)
async def mint(
    data: JSONBody[ConversationIn],
    request: Request[Any, Any, Any],
    caller: NamedDependency[Caller],
    vault: NamedDependency[Vault],
    broker: NamedDependency[Broker],
    idempotency_key: IdempotencyKey = None,
) -> ConversationMade:
    """Everything that one user's conversation with one agent starts with. Credentials reach the
    runtime by `delivery`, and the answer never holds more than that delivery is good for.
    """
    once = await once_of(request, vault, idempotency_key)
    return ConversationMade.of(await broker.minting.mint(caller, data.wanted(), once))


@post(
    "/prepare",
    guards=requires("conversation.prepare"),
    status_code=202,
    responses=guarded(
        "malformed",
        "not_found",
        "too_large",
        "invalid",
        "delivery_not_possible",
        "delivery_needs_gateway",
    ),
    summary="Refresh ahead of a conversation",
)
async def prepare(
    data: JSONBody[ConversationIn],
    caller: NamedDependency[Caller],
    broker: NamedDependency[Broker],
) -> PreparedOut:
    """For when a page is opened or a call is planned: what would not last is refreshed meanwhile,
    and what is missing is known before somebody waits for it. Takes what minting takes.
    """
    return PreparedOut.of(await broker.minting.prepare(caller, data.wanted()))


@post(
    "/redeem",
    guards=requires("conversation.redeem"),
    status_code=200,
    responses=guarded("malformed", "not_found", "too_large", "invalid"),
    summary="Open a sealed token",
)
async def redeem(
    data: JSONBody[RedeemIn],
    caller: NamedDependency[Caller],
    broker: NamedDependency[Broker],
) -> Response[RedeemedOut]:
    """For the runtime's own server: a token that was too large for a header, or for whose runtime
    there is no public key. It opens once.
    """
    conversation, values = await broker.grants.redeem(caller, data.token)
    return Response(RedeemedOut.of(conversation, values), headers={"Cache-Control": "no-store"})


@get(
    guards=requires("conversation.list"),
    responses=guarded("invalid"),
    summary="List the conversations",
)
async def listing(
    caller: NamedDependency[Caller],
    broker: NamedDependency[Broker],
    limit: Limit = DEFAULT_LIMIT,
    cursor: Cursor = None,
    environment: Annotated[str | None, QueryParameter(pattern=ENVIRONMENT_PATTERN)] = None,
    user_id: Annotated[str | None, QueryParameter(pattern=USER_ID_PATTERN)] = None,
    agent_id: Annotated[str | None, QueryParameter(pattern=AGENT_PATTERN)] = None,
) -> Listing[ConversationOut]:
    """Newest first."""
    every = await broker.grants.listed(
        caller,
        page_of(limit, cursor),
        environment=environment or "",
        user_id=user_id or "",
        agent_id=agent_id or "",
    )
    return Listing(
        data=[ConversationOut.of(one) for one in every[:limit]],
        next_cursor=next_cursor([one.conversation_id for one in every], limit),
    )


@get(
    "/{conversation_id:str}",
    guards=requires("conversation.read"),
    responses=guarded("not_found", "invalid"),
    summary="Get a conversation",
)
async def read(
    conversation_id: Id, caller: NamedDependency[Caller], broker: NamedDependency[Broker]
) -> ConversationOut:
    """How it stands. What it was given is not shown again."""
    return ConversationOut.of(await broker.grants.get(caller, conversation_id))


@post(
    "/{conversation_id:str}/end",
    guards=requires("conversation.end"),
    status_code=200,
    responses=guarded("not_found", "invalid"),
    summary="End a conversation",
)
async def end(
    conversation_id: Id, caller: NamedDependency[Caller], broker: NamedDependency[Broker]
) -> ConversationOut:
    """Its ticket, grant or handle is dead at once. Ending what has ended changes nothing."""
    return ConversationOut.of(await broker.grants.end(caller, conversation_id))


@post(
    "/{conversation_id:str}/verify",
    guards=requires("conversation.verify"),
    status_code=200,
    responses=guarded("not_found", "conflict", "invalid"),
    summary="Vouch for a caller",
)
async def verify(
    conversation_id: Id, caller: NamedDependency[Caller], broker: NamedDependency[Broker]
) -> ConversationOut:
    """A number identifies a caller and proves nothing: until somebody has made sure, the call's
    handle is not honoured.
    """
    return ConversationOut.of(await broker.grants.verify(caller, conversation_id))


@post(
    "/v1/readiness",
    guards=requires("readiness.read"),
    status_code=200,
    request_max_body_size=MAX_READINESS_BODY,
    responses=guarded("malformed", "too_large", "invalid"),
    summary="Which users an agent can talk to",
)
async def readiness(
    data: JSONBody[ReadinessIn],
    caller: NamedDependency[Caller],
    broker: NamedDependency[Broker],
) -> ReadinessOut:
    """Up to 10,000 users at once; nothing is refreshed or held for it."""
    environment, every = await broker.readiness.of_users(
        caller,
        data.agent_id,
        data.user_ids,
        data.environment,
        connect_links=data.connect_links,
    )
    warnings = await broker.readiness.warnings(caller, data.agent_id, environment)
    return ReadinessOut(
        agent_id=data.agent_id,
        environment=environment,
        data=[ReadyUserOut.of(one) for one in every],
        warnings=[ReadinessWarningOut.of(one) for one in warnings],
    )


router = Router(
    "/v1/conversations",
    route_handlers=[mint, prepare, redeem, listing, read, end, verify],
    tags=["conversations"],
)
readiness_router = Router("/", route_handlers=[readiness], tags=["conversations"])
