"""/v1/convai/environment-variables."""

import re
from typing import Annotated, Any

from litestar import Request, Router, delete, get, patch, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody, QueryParameter

from broker.api.convai.errors import declared
from broker.api.convai.messages import (
    CreateVariable,
    UpdateVariable,
    VariableOut,
    VariablesOut,
)
from broker.api.requests import Cursor, IdempotencyKey, next_cursor, once_of, page_of, requires
from vault.errors import Invalid
from vault.model import ENVIRONMENT_PATTERN, Caller, VariableType
from vault.vault import Vault

PageSize = Annotated[int, QueryParameter(ge=1, le=100, description="How many to return.")]
Filter = Annotated[str | None, QueryParameter(max_length=200)]


@get(
    guards=requires("variable.list"),
    responses=declared("invalid"),
    summary="List environment variables",
)
async def listing(
    caller: NamedDependency[Caller],
    vault: NamedDependency[Vault],
    page_size: PageSize = 100,
    cursor: Cursor = None,
    label: Filter = None,
    environment: Filter = None,
    kind: Annotated[VariableType | None, QueryParameter(name="type")] = None,
) -> VariablesOut:
    """With `environment`, only the variables that have a value there, and only that value."""
    if environment is not None and not re.fullmatch(ENVIRONMENT_PATTERN, environment):
        raise Invalid("This is not the name of an environment.", pointer="/environment")
    found = await vault.list_variables(
        caller,
        page_of(page_size, cursor),
        label=label or "",
        kind=kind or "",
        environment=environment or "",
    )
    after = next_cursor([one.info.variable_id for one in found], page_size)
    return VariablesOut(
        environment_variables=[VariableOut.of(caller.workspace, one) for one in found[:page_size]],
        next_cursor=after,
        has_more=after is not None,
    )


@post(
    guards=requires("variable.write"),
    responses=declared("invalid", "conflict", "idempotency_in_progress", "too_large"),
    status_code=200,
    summary="Create an environment variable",
)
async def create(
    data: JSONBody[CreateVariable],
    request: Request[Any, Any, Any],
    caller: NamedDependency[Caller],
    vault: NamedDependency[Vault],
    idempotency_key: IdempotencyKey = None,
) -> VariableOut:
    """A value for `production` is required; naming another environment creates it."""
    once = await once_of(request, vault, idempotency_key)
    made = await vault.create_variable(caller, data.label, data.kind, data.given(), once=once)
    return VariableOut.of(caller.workspace, made)


@get(
    "/{env_var_id:str}",
    guards=requires("variable.read"),
    responses=declared("not_found"),
    summary="Get an environment variable",
)
async def read(
    env_var_id: FromPath[str], caller: NamedDependency[Caller], vault: NamedDependency[Vault]
) -> VariableOut:
    return VariableOut.of(caller.workspace, await vault.get_variable(caller, env_var_id))


@patch(
    "/{env_var_id:str}",
    guards=requires("variable.write"),
    responses=declared("invalid", "not_found", "conflict", "too_large"),
    summary="Change an environment variable",
)
async def update(
    env_var_id: FromPath[str],
    data: JSONBody[UpdateVariable],
    caller: NamedDependency[Caller],
    vault: NamedDependency[Vault],
) -> VariableOut:
    """Set the named environments' values; `null` removes one; the others stay."""
    changed = await vault.update_variable(caller, env_var_id, data.changes())
    return VariableOut.of(caller.workspace, changed)


@delete(
    "/{env_var_id:str}",
    guards=requires("variable.delete"),
    responses=declared("not_found"),
    summary="Delete an environment variable",
)
async def remove(
    env_var_id: FromPath[str], caller: NamedDependency[Caller], vault: NamedDependency[Vault]
) -> None:
    await vault.delete_variable(caller, env_var_id)


router = Router(
    "/v1/convai/environment-variables",
    route_handlers=[listing, create, read, update, remove],
    tags=["environments"],
)
