"""/v1/connections/{id}/token, /refresh and /timeline: tokens that are alive, and why."""

from datetime import timedelta
from typing import Annotated

from litestar import Response, Router, get, post
from litestar.di import NamedDependency
from litestar.params import JSONBody

from broker.api import examples
from broker.api.connect_messages import ConnectionOut
from broker.api.requests import requires
from broker.api.responses import guarded
from broker.api.token_messages import ExplanationOut, TokenIn, TokenOut
from vault.errors import NotFound
from vault.model import Caller
from vault.vault import Vault

Id = Annotated[str, examples.path("conn_01k9v7q3x8w2r5t6y7z8a9b0c1")]


@post(
    "/v1/connections/{connection_id:str}/token",
    guards=requires("connection.token"),
    status_code=200,
    responses=guarded("malformed", "not_found", "too_large", "invalid"),
    summary="Get a live token",
)
async def token(
    connection_id: Id,
    caller: NamedDependency[Caller],
    vault: NamedDependency[Vault],
    data: JSONBody[TokenIn | None] = None,
) -> Response[TokenOut]:
    """A token that lives, refreshed first if it would not last. A provider that is down does not
    matter while the token lives: then `degraded` is true.
    """
    wanted = data or TokenIn()
    [found] = await vault.fresh_tokens(
        caller,
        [connection_id],
        min_ttl=timedelta(seconds=wanted.min_ttl),
        wait=wanted.max_wait_ms / 1000,
        rejected=wanted.rejected,
    )
    if found.reason == "not_connected":
        raise NotFound
    return Response(TokenOut.of(found), headers={"Cache-Control": "no-store"})


@post(
    "/v1/connections/{connection_id:str}/refresh",
    guards=requires("connection.refresh"),
    status_code=200,
    responses=guarded(
        "not_found", "conflict", "needs_reauth", "invalid", "provider_unavailable", "not_ready"
    ),
    summary="Refresh a connection now",
)
async def refresh(
    connection_id: Id, caller: NamedDependency[Caller], vault: NamedDependency[Vault]
) -> ConnectionOut:
    """One refresh, however many ask at once. It runs on if this request does not."""
    return ConnectionOut.of(await vault.refresh_connection(caller, connection_id))


@get(
    "/v1/connections/{connection_id:str}/timeline",
    guards=requires("connection.read"),
    responses=guarded("not_found", "invalid"),
    summary="Explain a connection's state",
)
async def timeline(
    connection_id: Id, caller: NamedDependency[Caller], vault: NamedDependency[Vault]
) -> ExplanationOut:
    """What it waits for, when it is looked at next, and how its calls ended."""
    return ExplanationOut.of(await vault.explain_connection(caller, connection_id))


router = Router("/", route_handlers=[token, refresh, timeline], tags=["connections"])
