"""/v1/providers: the catalogue, for whoever sets an integration up."""

from typing import Annotated

from litestar import Router, get
from litestar.di import NamedDependency
from litestar.params import PathParameter

from broker.api import examples
from broker.api.messages import Listing
from broker.api.provider_messages import ProviderLine, ProviderOut
from broker.api.requests import DEFAULT_LIMIT, Cursor, Limit, next_cursor, page_of, requires
from broker.api.responses import guarded
from vault.model import Caller
from vault.providers.schema import PROVIDER_ID
from vault.vault import Vault

Id = Annotated[
    str,
    PathParameter(
        pattern=PROVIDER_ID,
        description="The provider's id in the catalogue.",
        examples=examples.named("google"),
    ),
]


@get(guards=requires("provider.list"), responses=guarded("invalid"), summary="List the providers")
async def listing(
    caller: NamedDependency[Caller],
    vault: NamedDependency[Vault],
    limit: Limit = DEFAULT_LIMIT,
    cursor: Cursor = None,
) -> Listing[ProviderLine]:
    """The catalogue of this deployment, by id; the operator's own providers among them."""
    found = await vault.list_providers(caller, page_of(limit, cursor))
    data = [ProviderLine.of(one) for one in found[:limit]]
    return Listing(data=data, next_cursor=next_cursor([one.id for one in found], limit))


@get(
    "/{provider_id:str}",
    guards=requires("provider.read"),
    responses=guarded("not_found", "invalid"),
    summary="Get a provider",
)
async def read(
    provider_id: Id, caller: NamedDependency[Caller], vault: NamedDependency[Vault]
) -> ProviderOut:
    """What an integration needs to say, and what to expect of its connections."""
    found = await vault.get_provider(caller, provider_id)
    return ProviderOut.of(found, operators=vault.is_operators(found))


router = Router("/v1/providers", route_handlers=[listing, read], tags=["providers"])
