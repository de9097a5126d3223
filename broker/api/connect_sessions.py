"""/v1/connect-sessions: links that invite a user to connect an account."""

from typing import Annotated, Any

from litestar import Request, Router, post
from litestar.di import NamedDependency
from litestar.params import JSONBody

from broker.api import examples
from broker.api.connect_messages import (
    CompleteIn,
    ConnectionOut,
    ConnectSessionIn,
    ConnectSessionOut,
)
from broker.api.requests import IdempotencyKey, once_of, requires
from broker.api.responses import guarded
from vault.model import Caller
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
    session, link = await vault.create_connect_session(caller, data.wanted(), once)
    return ConnectSessionOut.of(session, link, vault.origin)


@post(
    "/{session_id:str}/complete",
    guards=requires("connect_session.complete"),
    status_code=200,
    responses=guarded("malformed", "not_found", "conflict", "too_large", "invalid", "unresolved"),
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
    "/v1/connect-sessions", route_handlers=[create, complete], tags=["connect-sessions"]
)
