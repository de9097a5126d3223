"""/v1/connect-sessions: links that invite a user to connect an account."""

from typing import Annotated, Any

from litestar import Request, Router, delete, get, post
from litestar.di import NamedDependency
from litestar.params import JSONBody, QueryParameter

from broker.api import examples
from broker.api.connect_messages import (
    CompleteIn,
    ConnectionOut,
    ConnectSessionDetailOut,
    ConnectSessionIn,
    ConnectSessionOut,
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
from vault.model import USER_ID_PATTERN, Caller
from vault.secret import Secret
from vault.vault import Vault

Id = Annotated[str, examples.path("cs_01k9v7q3x8w2r5t6y7z8a9b0c1")]


@post(
    guards=requires("connect_session.write"),
    responses=guarded(
        "malformed",
        "conflict",
        "idempotency_in_progress",
        "too_large",
        "invalid",
        "idempotency_mismatch",
    ),
    summary="Invite a user to connect",
)
async def create(
    data: JSONBody[ConnectSessionIn],
    request: Request[Any, Any, Any],
    caller: NamedDependency[Caller],
    vault: NamedDependency[Vault],
    idempotency_key: IdempotencyKey = None,
) -> ConnectSessionOut:
    """The link is good for 15 minutes and for one browser. Makes the user where there is none."""
    once = await once_of(request, vault, idempotency_key)
    session, link = await vault.create_connect_session(caller, data.wanted(caller), once)
    return ConnectSessionOut.of(session, link, vault.origin)


@get(
    guards=requires("connect_session.list"),
    responses=guarded("invalid"),
    summary="List the invitations",
)
async def listing(
    caller: NamedDependency[Caller],
    vault: NamedDependency[Vault],
    limit: Limit = DEFAULT_LIMIT,
    cursor: Cursor = None,
    user_id: Annotated[str | None, QueryParameter(pattern=USER_ID_PATTERN)] = None,
) -> Listing[ConnectSessionDetailOut]:
    """Until a day after their end, with how far each is."""
    found = await vault.list_connect_sessions(caller, page_of(limit, cursor), user_id=user_id or "")
    return Listing(
        data=[ConnectSessionDetailOut.of(session, flows) for session, flows in found[:limit]],
        next_cursor=next_cursor([session.session_id for session, _ in found], limit),
    )


@get(
    "/{session_id:str}",
    guards=requires("connect_session.read"),
    responses=guarded("not_found", "invalid"),
    summary="Get an invitation",
)
async def read(
    session_id: Id, caller: NamedDependency[Caller], vault: NamedDependency[Vault]
) -> ConnectSessionDetailOut:
    return ConnectSessionDetailOut.of(*await vault.get_connect_session(caller, session_id))


@delete(
    "/{session_id:str}",
    guards=requires("connect_session.delete"),
    responses=guarded("not_found", "invalid"),
    summary="Take an invitation back",
)
async def cancel(
    session_id: Id, caller: NamedDependency[Caller], vault: NamedDependency[Vault]
) -> None:
    """The link is dead at once. What has been connected through it stays."""
    await vault.cancel_connect_session(caller, session_id)


@post(
    "/{session_id:str}/complete",
    guards=requires("connect_session.complete"),
    status_code=200,
    responses=guarded(
        "malformed",
        "not_found",
        "conflict",
        "too_large",
        "invalid",
        "unresolved",
        "upstream_failed",
    ),
    summary="Complete a connection",
)
async def complete(
    session_id: Id,
    data: JSONBody[CompleteIn],
    caller: NamedDependency[Caller],
    vault: NamedDependency[Vault],
) -> ConnectionOut:
    """Say which user is signed in at the platform in the browser that brought the code back."""
    return ConnectionOut.of(
        await vault.complete_connect_session(caller, session_id, Secret(data.code), data.user_id)
    )


router = Router(
    "/v1/connect-sessions",
    route_handlers=[create, listing, read, cancel, complete],
    tags=["connect-sessions"],
)
