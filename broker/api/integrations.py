"""/v1/integrations: a workspace's app registrations at providers."""

from typing import Annotated

from litestar import Response, Router, delete, get, post, put
from litestar.di import NamedDependency
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import JSONBody, PathParameter

from broker.api import examples
from broker.api.connect_messages import (
    CheckIn,
    CheckOut,
    FindingOut,
    IntegrationIn,
    IntegrationOut,
)
from broker.api.messages import Listing
from broker.api.requests import DEFAULT_LIMIT, Cursor, Limit, next_cursor, page_of, requires
from broker.api.responses import guarded
from broker.conversation import environment_of
from vault.consent import INTEGRATION_PATTERN
from vault.model import Caller
from vault.vault import Vault

Id = Annotated[
    str,
    PathParameter(
        pattern=INTEGRATION_PATTERN,
        description="The name that the platform gives it.",
        examples=examples.named("google"),
    ),
]


@put(
    "/{integration:str}",
    guards=requires("integration.write"),
    responses={
        201: ResponseSpec(IntegrationOut, description="It is new.", generate_examples=False),
        **guarded("malformed", "conflict", "too_large", "invalid"),
    },
    summary="Make or replace an integration",
)
async def write(
    integration: Id,
    data: JSONBody[IntegrationIn],
    caller: NamedDependency[Caller],
    vault: NamedDependency[Vault],
) -> Response[IntegrationOut]:
    """Replaces all of it: a `client_secret` that is not given is gone."""
    made, is_new = await vault.put_integration(caller, integration, data.registration())
    return Response(IntegrationOut.shown(vault, made), status_code=201 if is_new else 200)


@get(guards=requires("integration.list"), responses=guarded("invalid"), summary="List them")
async def listing(
    caller: NamedDependency[Caller],
    vault: NamedDependency[Vault],
    limit: Limit = DEFAULT_LIMIT,
    cursor: Cursor = None,
) -> Listing[IntegrationOut]:
    found = await vault.list_integrations(caller, page_of(limit, cursor))
    data = [IntegrationOut.shown(vault, one) for one in found[:limit]]
    return Listing(data=data, next_cursor=next_cursor([one.integration for one in found], limit))


@get(
    "/{integration:str}",
    guards=requires("integration.read"),
    responses=guarded("not_found", "invalid"),
    summary="Get an integration",
)
async def read(
    integration: Id, caller: NamedDependency[Caller], vault: NamedDependency[Vault]
) -> IntegrationOut:
    return IntegrationOut.shown(vault, await vault.get_integration(caller, integration))


@delete(
    "/{integration:str}",
    guards=requires("integration.delete"),
    responses=guarded("not_found", "conflict", "invalid"),
    summary="Delete an integration",
)
async def remove(
    integration: Id, caller: NamedDependency[Caller], vault: NamedDependency[Vault]
) -> None:
    """Refused while anybody is connected through it."""
    await vault.delete_integration(caller, integration)


@post(
    "/{integration:str}/check",
    guards=requires("integration.check"),
    status_code=200,
    responses=guarded("malformed", "not_found", "too_large", "invalid"),
    summary="Try an integration out",
)
async def check(
    integration: Id,
    data: JSONBody[CheckIn],
    caller: NamedDependency[Caller],
    vault: NamedDependency[Vault],
) -> CheckOut:
    """Resolves its values, and asks the provider whether it knows the app."""
    environment = environment_of(caller, data.environment)
    findings = await vault.check_integration(caller, integration, environment)
    return CheckOut(
        ok=all(one.ok for one in findings),
        findings=[FindingOut(what=one.what, ok=one.ok, detail=one.detail) for one in findings],
    )


router = Router(
    "/v1/integrations",
    route_handlers=[write, listing, read, remove, check],
    tags=["integrations"],
)
