"""/v1/convai/environments."""

from typing import Any

from litestar import Request, Router, delete, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody

from broker.api.convai.errors import declared
from broker.api.convai.messages import (
    PRODUCTION_OUT,
    CreateEnvironment,
    EnvironmentOut,
    EnvironmentsOut,
)
from broker.api.requests import IdempotencyKey, once_of, requires
from vault.model import Caller
from vault.vault import Vault


@get(guards=requires("environment.list"), responses=declared(), summary="List the environments")
async def listing(
    caller: NamedDependency[Caller], vault: NamedDependency[Vault]
) -> EnvironmentsOut:
    """Production first; it always exists."""
    found = [EnvironmentOut.of(one) for one in await vault.list_environments(caller)]
    return EnvironmentsOut(environments=[PRODUCTION_OUT, *found])


@post(
    guards=requires("environment.write"),
    responses=declared("invalid", "conflict", "idempotency_in_progress", "too_large"),
    status_code=200,
    summary="Create an environment",
)
async def create(
    data: JSONBody[CreateEnvironment],
    request: Request[Any, Any, Any],
    caller: NamedDependency[Caller],
    vault: NamedDependency[Vault],
    idempotency_key: IdempotencyKey = None,
) -> EnvironmentOut:
    once = await once_of(request, vault, idempotency_key)
    return EnvironmentOut.of(await vault.create_environment(caller, data.name, once=once))


@delete(
    "/{name:str}",
    guards=requires("environment.delete"),
    responses=declared("invalid", "not_found"),
    summary="Delete an environment",
)
async def remove(
    name: FromPath[str], caller: NamedDependency[Caller], vault: NamedDependency[Vault]
) -> None:
    """Delete an environment with every variable's value in it."""
    await vault.delete_environment(caller, name)


router = Router(
    "/v1/convai/environments", route_handlers=[listing, create, remove], tags=["environments"]
)
