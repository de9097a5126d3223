"""/v1/workspaces: the operator's directory."""

from typing import Annotated, Any

from litestar import Request, Router, delete, get, post
from litestar.di import NamedDependency
from litestar.params import JSONBody

from broker.api import examples
from broker.api.messages import Listing, WorkspaceIn, WorkspaceMade, WorkspaceOut
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
from vault.model import Caller, WorkspaceId
from vault.vault import Vault

Id = Annotated[str, examples.path("ws_01k6zj3m8q0v5w7x9y1a2b3c4d")]


@post(
    guards=requires("workspace.create"),
    responses=guarded(
        "malformed", "too_large", "invalid", "idempotency_in_progress", "idempotency_mismatch"
    ),
    summary="Make a workspace",
)
async def create(
    data: JSONBody[WorkspaceIn],
    caller: NamedDependency[Caller],
    vault: NamedDependency[Vault],
    request: Request[Any, Any, Any],
    idempotency_key: IdempotencyKey = None,
) -> WorkspaceMade:
    """Make a workspace, and the first key in it, which has every scope and is shown only here."""
    once = await once_of(request, vault, idempotency_key)
    return WorkspaceMade.of(await vault.create_workspace(caller, data.name, once=once))


@get(guards=requires("workspace.list"), responses=guarded("invalid"), summary="List the workspaces")
async def listing(
    caller: NamedDependency[Caller],
    vault: NamedDependency[Vault],
    limit: Limit = DEFAULT_LIMIT,
    cursor: Cursor = None,
) -> Listing[WorkspaceOut]:
    """Names and dates only: what is inside a workspace stays inside it."""
    found = await vault.list_workspaces(caller, page_of(limit, cursor))
    ids = [str(workspace.workspace_id) for workspace in found]
    data = [WorkspaceOut.of(workspace) for workspace in found[:limit]]
    return Listing(data=data, next_cursor=next_cursor(ids, limit))


@get(
    "/{workspace_id:str}",
    guards=requires("workspace.read"),
    responses=guarded("not_found", "invalid"),
    summary="Get a workspace",
)
async def read(
    workspace_id: Id, caller: NamedDependency[Caller], vault: NamedDependency[Vault]
) -> WorkspaceOut:
    return WorkspaceOut.of(await vault.get_workspace(caller, WorkspaceId(workspace_id)))


@delete(
    "/{workspace_id:str}",
    guards=requires("workspace.delete"),
    responses=guarded("not_found", "invalid"),
    summary="Delete a workspace",
)
async def remove(
    workspace_id: Id, caller: NamedDependency[Caller], vault: NamedDependency[Vault]
) -> None:
    """Delete a workspace with everything in it and shred its keys. The audit record stays."""
    await vault.delete_workspace(caller, WorkspaceId(workspace_id))


router = Router(
    "/v1/workspaces", route_handlers=[create, listing, read, remove], tags=["workspaces"]
)
