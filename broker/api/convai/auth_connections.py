"""/v1/workspace/auth-connections."""

from typing import Any

import msgspec
from litestar import Request, Router, delete, get, patch, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody

from broker.api.convai.errors import declared
from broker.api.convai.messages import (
    AuthConnectionOut,
    AuthConnectionsOut,
    CreateAuthConnection,
    UpdateAuthConnection,
)
from broker.api.requests import IdempotencyKey, once_of, requires
from vault.auth_kinds import AuthConfig
from vault.model import Caller
from vault.vault import Vault


@get(
    guards=requires("auth_connection.list"),
    responses=declared(),
    summary="List the auth connections",
)
async def listing(
    caller: NamedDependency[Caller], vault: NamedDependency[Vault]
) -> AuthConnectionsOut:
    """All of them, without their secrets."""
    found = await vault.list_auth_connections(caller)
    return AuthConnectionsOut(auth_connections=[AuthConnectionOut.of(one) for one in found])


@post(
    guards=requires("auth_connection.write"),
    responses=declared("invalid", "idempotency_in_progress", "too_large"),
    status_code=200,
    summary="Create an auth connection",
)
async def create(
    data: JSONBody[CreateAuthConnection],
    request: Request[Any, Any, Any],
    caller: NamedDependency[Caller],
    vault: NamedDependency[Vault],
    idempotency_key: IdempotencyKey = None,
) -> AuthConnectionOut:
    once = await once_of(request, vault, idempotency_key)
    made = await vault.create_auth_connection(
        caller, data.name, _config(data), allowed_hosts=data.allowed_hosts, once=once
    )
    return AuthConnectionOut.of(made)


@patch(
    "/{auth_connection_id:str}",
    guards=requires("auth_connection.write"),
    responses=declared("invalid", "not_found", "conflict", "too_large"),
    summary="Change an auth connection",
)
async def update(
    auth_connection_id: FromPath[str],
    data: JSONBody[UpdateAuthConnection],
    caller: NamedDependency[Caller],
    vault: NamedDependency[Vault],
) -> AuthConnectionOut:
    """Neither the name nor the token URL can change; the status starts over."""
    changed = await vault.update_auth_connection(
        caller,
        auth_connection_id,
        data.auth_type,
        data.changes(),
        allowed_hosts=data.allowed_hosts,
    )
    return AuthConnectionOut.of(changed)


@delete(
    "/{auth_connection_id:str}",
    guards=requires("auth_connection.delete"),
    responses=declared("not_found", "conflict"),
    status_code=200,
    summary="Delete an auth connection",
)
async def remove(
    auth_connection_id: FromPath[str],
    caller: NamedDependency[Caller],
    vault: NamedDependency[Vault],
) -> dict[str, str]:
    """Refused with 409 while something uses it."""
    await vault.delete_auth_connection(caller, auth_connection_id)
    return {}


def _config(data: CreateAuthConnection) -> AuthConfig:
    plain = msgspec.to_builtins(data)
    del plain["name"], plain["allowed_hosts"]
    config: AuthConfig = msgspec.convert(plain, AuthConfig)
    return config


router = Router(
    "/v1/workspace/auth-connections",
    route_handlers=[listing, create, update, remove],
    tags=["auth-connections"],
)
