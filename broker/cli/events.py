"""``keyturn event-endpoint``: where events go to, through the same door as HTTP.

A secret is printed by the command that makes it, this once.
"""

from datetime import datetime
from typing import Any, get_args

import rich_click as click

from broker.api.event_messages import (
    DeliveryOut,
    EventEndpointMade,
    EventEndpointOut,
    ReplayOut,
)
from broker.terminal import (
    EVERYTHING,
    as_json,
    in_workspace,
    of_workspace,
    print_done,
    print_json,
    print_rows,
    run,
    say,
)
from vault.events import Type
from vault.events.deliveries import State
from vault.model import Page


@click.group("event-endpoint")
def event_endpoint() -> None:
    """Where events are sent: list, add, remove, rotate, replay."""


@event_endpoint.command("list")
@of_workspace
@as_json
def endpoint_list(workspace: str | None, *, json_output: bool) -> None:
    """List the event endpoints."""

    async def work() -> list[EventEndpointOut]:
        async with in_workspace(workspace) as (vault, caller):
            every = await vault.list_event_endpoints(caller, Page(EVERYTHING))
            return [EventEndpointOut.of(one) for one in every]

    found = run(work())
    if json_output:
        print_json(found)
        return
    for one in found:
        standing = "on" if one.enabled else f"disabled: {one.disabled_why}"
        say(f"{one.id}  {standing:18} {one.url}  {' '.join(one.events) or 'all'}")


@event_endpoint.command("add")
@click.argument("url")
@click.option(
    "--event", "types", multiple=True, type=click.Choice(get_args(Type)), help="Only this type."
)
@of_workspace
@as_json
def endpoint_add(
    url: str, types: tuple[Any, ...], workspace: str | None, *, json_output: bool
) -> None:
    """Send events to URL; prints the secret that signs them, this once."""

    async def work() -> EventEndpointMade:
        async with in_workspace(workspace) as (vault, caller):
            return EventEndpointMade.of(await vault.create_event_endpoint(caller, url, types))

    _show(run(work()), json_output=json_output)


@event_endpoint.command("remove")
@click.argument("endpoint_id")
@of_workspace
@as_json
def endpoint_remove(endpoint_id: str, workspace: str | None, *, json_output: bool) -> None:
    """Send nothing to an endpoint any more, and forget it."""

    async def work() -> None:
        async with in_workspace(workspace) as (vault, caller):
            await vault.delete_event_endpoint(caller, endpoint_id)

    run(work())
    print_done({"id": endpoint_id, "deleted": True}, "removed", json_output=json_output)


@event_endpoint.command("rotate")
@click.argument("endpoint_id")
@of_workspace
@as_json
def endpoint_rotate(endpoint_id: str, workspace: str | None, *, json_output: bool) -> None:
    """Replace an endpoint's secret; prints the new one, this once. The old one signs for a day."""

    async def work() -> EventEndpointMade:
        async with in_workspace(workspace) as (vault, caller):
            return EventEndpointMade.of(await vault.rotate_event_secret(caller, endpoint_id))

    _show(run(work()), json_output=json_output)


@event_endpoint.command("replay")
@click.argument("endpoint_id")
@click.option("--since", type=click.DateTime(["%Y-%m-%dT%H:%M:%S%z"]), help="From this time on.")
@click.option("--from-event", help="From this event on.")
@of_workspace
@as_json
def endpoint_replay(
    endpoint_id: str,
    since: datetime | None,
    from_event: str | None,
    workspace: str | None,
    *,
    json_output: bool,
) -> None:
    """Deliver events once more."""
    if (since is None) == (from_event is None):
        raise click.UsageError("Give --since or --from-event, one of the two.")

    async def work() -> ReplayOut:
        async with in_workspace(workspace) as (vault, caller):
            return ReplayOut.of(
                await vault.replay_events(caller, endpoint_id, since=since, from_event=from_event)
            )

    found = run(work())
    if json_output:
        print_json(found)
        return
    say(f"{found.queued} on their way")
    if found.next_event_id is not None:
        say(f"go on with --from-event {found.next_event_id}")


@event_endpoint.command("deliveries")
@click.argument("endpoint_id")
@click.option("--state", type=click.Choice(get_args(State)), help="Only those.")
@click.option("--limit", default=50, type=click.IntRange(1, EVERYTHING), show_default=True)
@of_workspace
@as_json
def endpoint_deliveries(
    endpoint_id: str, state: State | None, limit: int, workspace: str | None, *, json_output: bool
) -> None:
    """What became of the events for an endpoint, newest first."""

    async def work() -> list[DeliveryOut]:
        async with in_workspace(workspace) as (vault, caller):
            every = await vault.event_deliveries(caller, endpoint_id, Page(limit), state=state)
            return [DeliveryOut.of(one) for one in every]

    print_rows(run(work()), json_output=json_output)


def _show(made: EventEndpointMade, *, json_output: bool) -> None:
    if json_output:
        print_json(made)
    else:
        say(f"{made.id}  {made.url}\n{made.secret}")
