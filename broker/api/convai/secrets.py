"""/v1/convai/secrets."""

from typing import Annotated, Any, Final, Literal

from litestar import Request, Router, delete, get, patch, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody, QueryParameter

from broker.api.convai.errors import declared
from broker.api.convai.messages import (
    DependenciesOut,
    NewSecret,
    SecretOut,
    SecretsOut,
    StoredSecret,
    UpdateSecret,
)
from broker.api.requests import Cursor, IdempotencyKey, next_cursor, once_of, page_of, requires
from vault.model import Caller
from vault.secret import Secret
from vault.vault import Vault

ALL_SECRETS: Final = 10_000  # what "all" means when no page size is named

PageSize = Annotated[int | None, QueryParameter(ge=1, le=100)]
DependencyPageSize = Annotated[int, QueryParameter(ge=1, le=100)]


@post(
    guards=requires("secret.write"),
    responses=declared("invalid", "idempotency_in_progress", "too_large"),
    status_code=200,
    summary="Create a secret",
)
async def create(
    data: JSONBody[NewSecret],
    request: Request[Any, Any, Any],
    caller: NamedDependency[Caller],
    vault: NamedDependency[Vault],
    idempotency_key: IdempotencyKey = None,
) -> StoredSecret:
    """The value is sealed, and never returned."""
    once = await once_of(request, vault, idempotency_key)
    made = await vault.create_secret(
        caller, data.name, Secret(data.value), allowed_hosts=data.allowed_hosts, once=once
    )
    return StoredSecret.of(made)


@get(guards=requires("secret.list"), responses=declared("invalid"), summary="List the secrets")
async def listing(
    caller: NamedDependency[Caller],
    vault: NamedDependency[Vault],
    page_size: PageSize = None,
    dependency_limit: PageSize = None,
    search: Annotated[str | None, QueryParameter(max_length=200)] = None,
    cursor: Cursor = None,
) -> SecretsOut:
    """Without `page_size` all of them; `search` is the beginning of a name."""
    del dependency_limit  # what it limits (tools, agents, numbers) is kept upstream
    limit = page_size or ALL_SECRETS
    found = await vault.list_secrets(caller, page_of(limit, cursor), prefix=search or "")
    return SecretsOut(
        secrets=[SecretOut.of(info, usages) for info, usages in found[:limit]],
        next_cursor=next_cursor([info.secret_id for info, _ in found], limit),
    )


@get(
    "/{secret_id:str}",
    guards=requires("secret.read"),
    responses=declared("not_found"),
    summary="Get a secret",
)
async def read(
    secret_id: FromPath[str], caller: NamedDependency[Caller], vault: NamedDependency[Vault]
) -> SecretOut:
    """Its name, and what uses it."""
    return SecretOut.of(*await vault.get_secret(caller, secret_id))


@patch(
    "/{secret_id:str}",
    guards=requires("secret.write"),
    responses=declared("not_found", "conflict", "too_large"),
    summary="Replace a secret's value",
)
async def update(
    secret_id: FromPath[str],
    data: JSONBody[UpdateSecret],
    caller: NamedDependency[Caller],
    vault: NamedDependency[Vault],
) -> StoredSecret:
    changed = await vault.update_secret(
        caller, secret_id, data.name, Secret(data.value), allowed_hosts=data.allowed_hosts
    )
    return StoredSecret.of(changed)


@delete(
    "/{secret_id:str}",
    guards=requires("secret.delete"),
    responses=declared("not_found", "conflict"),
    summary="Delete a secret",
)
async def remove(
    secret_id: FromPath[str], caller: NamedDependency[Caller], vault: NamedDependency[Vault]
) -> None:
    """Refused with 409 while something uses it."""
    await vault.delete_secret(caller, secret_id)


@get(
    "/{secret_id:str}/dependencies/{resource_type:str}",
    guards=requires("secret.read"),
    responses=declared("not_found"),
    summary="List what uses a secret",
)
async def dependencies(
    secret_id: FromPath[str],
    resource_type: FromPath[Literal["tools", "agents", "phone_numbers"]],
    caller: NamedDependency[Caller],
    vault: NamedDependency[Vault],
    page_size: DependencyPageSize = 20,
    cursor: Cursor = None,
) -> DependenciesOut:
    """Tools, agents and numbers are kept upstream, so none of them is known here."""
    del resource_type
    page_of(page_size, cursor)
    await vault.get_secret(caller, secret_id)
    return DependenciesOut(dependencies=[], next_cursor=None)


router = Router(
    "/v1/convai/secrets",
    route_handlers=[create, listing, read, update, remove, dependencies],
    tags=["secrets"],
)
