"""``keyturn connection``: what users have connected, at the terminal. No token is ever printed."""

from typing import get_args

import rich_click as click

from broker.api.connect_messages import ConnectionOut, DeletedOut
from broker.api.token_messages import ExplanationOut
from broker.terminal import (
    EVERYTHING,
    always_json,
    as_json,
    in_workspace,
    of_workspace,
    print_done,
    print_json,
    run,
)
from vault.consent import Revoked, State
from vault.model import Page


@click.group()
def connection() -> None:
    """What users have connected."""


@connection.command("list")
@click.option("--user", default="", help="Only this user's.")
@click.option("--integration", default="", help="Only at this integration.")
@click.option("--environment", "-e", default="", help="Only in this environment.")
@click.option("--state", type=click.Choice(get_args(State)), help="Only in this state.")
@of_workspace
@as_json
def connection_list(
    user: str,
    integration: str,
    environment: str,
    state: str | None,
    workspace: str | None,
    *,
    json_output: bool,
) -> None:
    """List connections."""
    found = run(_listed(workspace, (user, integration, environment, state or "")))
    if json_output:
        print_json(found)
        return
    for one in found:
        ends = one.expires_at.isoformat(timespec="seconds") if one.expires_at else "does not expire"
        click.echo(
            f"{one.id}  {one.user_id:20} {one.integration:16} {one.environment:12} "
            f"{one.state:12} {ends}"
        )


@connection.command("show")
@click.argument("connection_id", metavar="ID")
@of_workspace
@always_json
def connection_show(connection_id: str, workspace: str | None) -> None:
    """Show what is known of a connection, without what it holds."""
    print_json(run(_shown(connection_id, workspace)))


@connection.command("delete")
@click.argument("connection_id", metavar="ID")
@of_workspace
@as_json
def connection_delete(connection_id: str, workspace: str | None, *, json_output: bool) -> None:
    """Delete a connection, and give its tokens back to the provider."""
    outcome = run(_deleted(connection_id, workspace))
    gone = DeletedOut(id=connection_id, revoked=outcome)
    print_done(gone, f"{connection_id}: deleted, {outcome}", json_output=json_output)


@connection.command("refresh")
@click.argument("connection_id", metavar="ID")
@of_workspace
@as_json
def connection_refresh(connection_id: str, workspace: str | None, *, json_output: bool) -> None:
    """Refresh a connection's tokens now."""
    after = run(_refreshed(connection_id, workspace))
    said = f"{connection_id}: refreshed, generation {after.generation}"
    print_done(after, said, json_output=json_output)


@connection.command("explain")
@click.argument("connection_id", metavar="ID")
@of_workspace
@as_json
def connection_explain(connection_id: str, workspace: str | None, *, json_output: bool) -> None:
    """Say why a connection is as it is, and what happened to it."""
    told = run(_explained(connection_id, workspace))
    if json_output:
        print_json(told)
        return
    click.echo(f"{connection_id}  {told.connection.state}: {told.why}")
    for name, at in (
        ("expires", told.connection.expires_at),
        ("looked at next", told.due_at),
        ("not tried before", told.next_try_at),
        ("unused refresh token ends", told.idle_ends),
        ("consent ends", told.consent_ends),
        ("held until", told.held_until),
    ):
        if at is not None:
            click.echo(f"  {name:26} {at.isoformat(timespec='seconds')}")
    for one in told.attempts:
        status = f" ({one.http_status})" if one.http_status else ""
        became = f" -> generation {one.generation}" if one.generation else ""
        began = one.began_at.isoformat(timespec="seconds")
        click.echo(f"  #{one.number:<4} {began}  {one.outcome}{status}{became}  {one.detail}")


async def _refreshed(connection_id: str, workspace: str | None) -> ConnectionOut:
    async with in_workspace(workspace) as (vault, caller):
        return ConnectionOut.of(await vault.refresh_connection(caller, connection_id))


async def _explained(connection_id: str, workspace: str | None) -> ExplanationOut:
    async with in_workspace(workspace) as (vault, caller):
        return ExplanationOut.of(await vault.explain_connection(caller, connection_id))


async def _listed(workspace: str | None, wanted: tuple[str, str, str, str]) -> list[ConnectionOut]:
    user, integration, environment, state = wanted
    async with in_workspace(workspace) as (vault, caller):
        found = await vault.list_connections(
            caller,
            Page(EVERYTHING),
            user_id=user,
            integration=integration,
            environment=environment,
            state=state,
        )
        return [ConnectionOut.of(one) for one in found]


async def _shown(connection_id: str, workspace: str | None) -> ConnectionOut:
    async with in_workspace(workspace) as (vault, caller):
        return ConnectionOut.of(await vault.get_connection(caller, connection_id))


async def _deleted(connection_id: str, workspace: str | None) -> Revoked:
    async with in_workspace(workspace) as (vault, caller):
        return await vault.delete_connection(caller, connection_id)
