"""/v1/event-endpoints: where a workspace's events go to, and how their deliveries fare.

Deliveries are signed as Standard Webhooks says. Each is tried for a day; an event and its
deliveries are kept for three.
"""

from typing import Annotated, Any

from litestar import Request, Router, delete, get, patch, post
from litestar.di import NamedDependency
from litestar.params import JSONBody, QueryParameter
from msgspec import UNSET

from broker.api import examples
from broker.api.event_messages import (
    DeliveryOut,
    EventEndpointChange,
    EventEndpointIn,
    EventEndpointMade,
    EventEndpointOut,
    ReplayIn,
    ReplayOut,
)
from broker.api.messages import Listing, in_utc
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
from vault.errors import Invalid
from vault.events.deliveries import State
from vault.model import Caller
from vault.vault import Vault

Id = Annotated[str, examples.path("ep_01k9v7q3x8w2r5t6y7z8a9b0c1")]
InState = Annotated[
    State | None,
    QueryParameter(name="state", description="Only the deliveries that have come to this."),
]


@post(
    guards=requires("event_endpoint.write"),
    responses=guarded(
        "malformed",
        "not_found",
        "conflict",
        "too_large",
        "invalid",
        "idempotency_in_progress",
        "idempotency_mismatch",
    ),
    summary="Make an event endpoint",
)
async def create(
    data: JSONBody[EventEndpointIn],
    caller: NamedDependency[Caller],
    vault: NamedDependency[Vault],
    request: Request[Any, Any, Any],
    idempotency_key: IdempotencyKey = None,
) -> EventEndpointMade:
    """What happens from now on is sent there, signed with a secret that is shown only here."""
    once = await once_of(request, vault, idempotency_key)
    types = list(dict.fromkeys(data.events))
    return EventEndpointMade.of(
        await vault.create_event_endpoint(caller, data.url, types, once=once)
    )


@get(guards=requires("event_endpoint.list"), responses=guarded("invalid"), summary="List them")
async def listing(
    caller: NamedDependency[Caller],
    vault: NamedDependency[Vault],
    limit: Limit = DEFAULT_LIMIT,
    cursor: Cursor = None,
) -> Listing[EventEndpointOut]:
    found = await vault.list_event_endpoints(caller, page_of(limit, cursor))
    data = [EventEndpointOut.of(one) for one in found[:limit]]
    return Listing(data=data, next_cursor=next_cursor([one.endpoint_id for one in found], limit))


@get(
    "/{endpoint_id:str}",
    guards=requires("event_endpoint.read"),
    responses=guarded("not_found", "invalid"),
    summary="Get an event endpoint",
)
async def read(
    endpoint_id: Id, caller: NamedDependency[Caller], vault: NamedDependency[Vault]
) -> EventEndpointOut:
    return EventEndpointOut.of(await vault.get_event_endpoint(caller, endpoint_id))


@patch(
    "/{endpoint_id:str}",
    guards=requires("event_endpoint.write"),
    responses=guarded("malformed", "not_found", "conflict", "too_large", "invalid"),
    summary="Change an event endpoint",
)
async def change(
    endpoint_id: Id,
    data: JSONBody[EventEndpointChange],
    caller: NamedDependency[Caller],
    vault: NamedDependency[Vault],
) -> EventEndpointOut:
    """It rests no longer; enabled again, it gets what happens from now on."""
    return EventEndpointOut.of(
        await vault.update_event_endpoint(
            caller,
            endpoint_id,
            url=None if data.url is UNSET else data.url,
            types=None if data.events is UNSET else list(dict.fromkeys(data.events)),
            enabled=None if data.enabled is UNSET else data.enabled,
        )
    )


@delete(
    "/{endpoint_id:str}",
    guards=requires("event_endpoint.delete"),
    responses=guarded("not_found", "invalid"),
    summary="Delete an event endpoint",
)
async def remove(
    endpoint_id: Id, caller: NamedDependency[Caller], vault: NamedDependency[Vault]
) -> None:
    """What waits for it goes with it."""
    await vault.delete_event_endpoint(caller, endpoint_id)


@post(
    "/{endpoint_id:str}/rotate-secret",
    guards=requires("event_endpoint.rotate"),
    status_code=200,
    responses=guarded("not_found", "conflict", "invalid"),
    summary="Replace an endpoint's secret",
)
async def rotate(
    endpoint_id: Id, caller: NamedDependency[Caller], vault: NamedDependency[Vault]
) -> EventEndpointMade:
    """For a day the former secret signs, too: each delivery then has two signatures."""
    return EventEndpointMade.of(await vault.rotate_event_secret(caller, endpoint_id))


@post(
    "/{endpoint_id:str}/replay",
    guards=requires("event_endpoint.replay"),
    status_code=200,
    responses=guarded("malformed", "not_found", "conflict", "too_large", "invalid"),
    summary="Deliver events once more",
)
async def replay(
    endpoint_id: Id,
    data: JSONBody[ReplayIn],
    caller: NamedDependency[Caller],
    vault: NamedDependency[Vault],
) -> ReplayOut:
    """From a time or from an event on, as far back as events are kept; with their own ids."""
    if (data.since is None) == (data.from_event_id is None):
        raise Invalid("Give since or from_event_id, one of the two.", pointer="/since")
    since = in_utc(data.since, "/since")
    return ReplayOut.of(
        await vault.replay_events(caller, endpoint_id, since=since, from_event=data.from_event_id)
    )


@get(
    "/{endpoint_id:str}/deliveries",
    guards=requires("event_endpoint.read"),
    responses=guarded("not_found", "invalid"),
    summary="List an endpoint's deliveries",
)
async def deliveries(
    endpoint_id: Id,
    caller: NamedDependency[Caller],
    vault: NamedDependency[Vault],
    in_state: InState = None,
    limit: Limit = DEFAULT_LIMIT,
    cursor: Cursor = None,
) -> Listing[DeliveryOut]:
    """Newest first."""
    page = page_of(limit, cursor)
    found = await vault.event_deliveries(caller, endpoint_id, page, state=in_state)
    data = [DeliveryOut.of(one) for one in found[:limit]]
    return Listing(data=data, next_cursor=next_cursor([one.event_id for one in found], limit))


router = Router(
    "/v1/event-endpoints",
    route_handlers=[create, listing, read, change, remove, rotate, replay, deliveries],
    tags=["events"],
)
