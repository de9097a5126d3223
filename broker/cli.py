"""``keyturn``: the operator's and the workspace's daily work, through the same door as HTTP.

* Whoever can read the root key and the database is the operator; every command is audited so.
* Exit codes: 0 done, 1 refused or failed, 2 wrong usage, 3 pending or not well.
* Secrets are read from files or standard input, and shown only by the command that makes them.
"""

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from datetime import datetime
from typing import Any, Final, TypeVar

import msgspec
import rich_click as click
import uvloop

from broker import boot, doctor, logs, server
from broker.api.messages import AuditEventOut, KeyOut, Message, UserOut, WorkspaceOut
from broker.app import create_service
from broker.cli_env import env
from broker.cli_provider import provider
from broker.settings import Settings, load
from vault import __version__, bearer
from vault.errors import Misconfigured, NotFound, VaultError
from vault.kms.file import new_line
from vault.migrations import migrate as run_migrations
from vault.migrations import pending
from vault.model import SCOPES, Caller, KeyId, NewKey, Page, Profile, UserId, Workspace
from vault.vault import Vault

T = TypeVar("T")

FAILED: Final = 1
NOT_WELL: Final = 3
EVERYTHING: Final = 1000

as_json = click.option("--json", "json_output", is_flag=True, help="Print JSON.")
in_workspace = click.option(
    "--workspace", "-w", help="Its id or name; not needed where there is only one."
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="keyturn")
def main() -> None:
    """A credential vault and token broker. Settings come from KEYTURN_* variables."""


main.add_command(env)


@main.command()
@click.option("--no-scheduler", is_flag=True, help="Serve HTTP only.")
def serve(*, no_scheduler: bool) -> None:
    """Run the HTTP service."""
    del no_scheduler  # nothing is scheduled yet: with or without it, HTTP is all that is served

    async def work() -> None:
        settings = _settings()
        boot.harden_process()
        async with boot.house(settings) as house:
            first_key = await boot.first_workspace(house.vault, settings)
            service = create_service(house.vault, settings)
            _say(f"Keyturn {__version__} on {settings.origin}  (docs: {settings.origin}/docs)")
            if first_key is not None:
                _say("Workspace 'default' is made. Its key, shown this once:")
                _say(first_key.reveal())
            await server.run(service, settings)

    _run(work())


@main.command()
@click.option("--check", is_flag=True, help="Apply nothing; exit 3 if something is pending.")
@click.option("--plan", is_flag=True, help="Apply nothing; print the SQL that is pending.")
def migrate(*, check: bool, plan: bool) -> None:
    """Bring the database to this version's schema."""

    async def work() -> int:
        settings = _settings(opens_vault=False)
        async with boot.database_addresses(settings) as addresses:
            if addresses.owner is None:
                raise Misconfigured("Set KEYTURN_OWNER_DATABASE_URL to migrate this database.")
            if not (check or plan):
                applied = await run_migrations(addresses.owner, addresses.logins)
                for one in applied:
                    _say(f"applied {one.version:04} {one.name}")
                _say("The schema is current.")
                return 0
            waiting = await pending(addresses.owner)
            for one in waiting:
                _say(f"pending {one.version:04} {one.name}")
                if plan:
                    _say(one.sql)
            return NOT_WELL if waiting else 0

    sys.exit(_run(work()))


@main.command("doctor")
@as_json
def doctor_command(*, json_output: bool) -> None:
    """Say what is configured, and what is wrong."""

    async def work() -> int:
        findings = await doctor.examine(os.environ)
        if json_output:
            _print_json(findings)
        else:
            for finding in findings:
                _say(f"{'ok ' if finding.ok else 'BAD'}  {finding.name}: {finding.text}")
        return 0 if all(finding.ok for finding in findings) else NOT_WELL

    sys.exit(_run(work()))


@main.group()
def workspace() -> None:
    """Workspaces: make, list, delete."""


@workspace.command("create")
@click.argument("name")
@as_json
def workspace_create(name: str, *, json_output: bool) -> None:
    """Make a workspace; prints its first key."""

    async def work(vault: Vault, operator: Caller) -> None:
        made = await vault.create_workspace(operator, name)
        key = made.bearer.reveal() if made.bearer else None
        if json_output:
            _print_json({"id": made.workspace.workspace_id, "name": name, "api_key": key})
        else:
            _say(f"{made.workspace.workspace_id}  {name}\n{key}")

    _in_vault(work)


@workspace.command("list")
@as_json
def workspace_list(*, json_output: bool) -> None:
    """List the workspaces."""

    async def work(vault: Vault, operator: Caller) -> None:
        found = await vault.list_workspaces(operator, Page(EVERYTHING))
        _print_rows([WorkspaceOut.of(one) for one in found], json_output=json_output)

    _in_vault(work)


@workspace.command("delete")
@click.argument("workspace_name", metavar="WORKSPACE")
@click.option("--yes", is_flag=True, help="Do not ask.")
def workspace_delete(workspace_name: str, *, yes: bool) -> None:
    """Delete a workspace with everything in it. There is no way back."""

    async def work(vault: Vault, operator: Caller) -> None:
        found = await _find_workspace(vault, operator, workspace_name)
        if not yes:
            click.confirm(f"Delete '{found.name}' and every credential in it?", abort=True)
        await vault.delete_workspace(operator, found.workspace_id)
        _say("deleted")

    _in_vault(work)


@main.group()
def key() -> None:
    """API keys: generate, make, list, revoke."""


@key.command("generate")
@click.option("--operator", is_flag=True, help="An operator key, for KEYTURN_OPERATOR_KEY.")
@click.option("--root", is_flag=True, help="A root key, for the file that KEYTURN_KEK names.")
def key_generate(*, operator: bool, root: bool) -> None:
    """Print a new random key. Needs no database and stores nothing."""
    if root:
        click.echo(new_line().strip())
        return
    click.echo(bearer.generate("operator" if operator else "api_key").reveal())


@key.command("create")
@click.argument("name")
@click.option("--scope", "scopes", multiple=True, required=True, type=click.Choice(SCOPES))
@click.option("--environment", "environments", multiple=True, help="Tie it to environments.")
@click.option("--expires-at", type=click.DateTime(["%Y-%m-%dT%H:%M:%S%z"]))
@in_workspace
@as_json
def key_create(
    name: str,
    scopes: tuple[Any, ...],
    environments: tuple[str, ...],
    expires_at: datetime | None,
    workspace: str | None,
    *,
    json_output: bool,
) -> None:
    """Make an API key; prints it, this once."""
    wanted = NewKey(name=name, scopes=scopes, environments=environments, expires_at=expires_at)

    async def work(vault: Vault, caller: Caller) -> None:
        made = await vault.create_key(caller, wanted)
        text = made.bearer.reveal() if made.bearer else None
        if json_output:
            _print_json({"id": made.key.key_id, "key": text, "name": name})
        else:
            _say(f"{made.key.key_id}  {name}\n{text}")

    _in_workspace(workspace, work)


@key.command("list")
@in_workspace
@as_json
def key_list(workspace: str | None, *, json_output: bool) -> None:
    """List the keys of a workspace."""

    async def work(vault: Vault, caller: Caller) -> None:
        found = await vault.list_keys(caller, Page(EVERYTHING))
        _print_rows([KeyOut.of(one) for one in found], json_output=json_output)

    _in_workspace(workspace, work)


@key.command("delete")
@click.argument("key_id")
@in_workspace
def key_delete(key_id: str, workspace: str | None) -> None:
    """Revoke a key, at once and everywhere."""

    async def work(vault: Vault, caller: Caller) -> None:
        await vault.delete_key(caller, KeyId(key_id))
        _say("revoked")

    _in_workspace(workspace, work)


@main.group()
def user() -> None:
    """The users of a workspace."""


@user.command("list")
@in_workspace
@as_json
def user_list(workspace: str | None, *, json_output: bool) -> None:
    """List the users of a workspace."""

    async def work(vault: Vault, caller: Caller) -> None:
        found = await vault.list_users(caller, Page(EVERYTHING))
        _print_rows([UserOut.of(one) for one in found], json_output=json_output)

    _in_workspace(workspace, work)


@user.command("put")
@click.argument("user_id")
@click.option("--name")
@click.option("--phone", "phones", multiple=True, help="In E.164, as in +15551234567.")
@in_workspace
def user_put(
    user_id: str, name: str | None, phones: tuple[str, ...], workspace: str | None
) -> None:
    """Make a user, or replace what is known of one."""
    profile = Profile(name=name, phone_numbers=list(phones))

    async def work(vault: Vault, caller: Caller) -> None:
        await vault.put_user(caller, UserId(user_id), profile)
        _say("stored")

    _in_workspace(workspace, work)


@user.command("delete")
@click.argument("user_id")
@click.option("--yes", is_flag=True, help="Do not ask.")
@in_workspace
def user_delete(user_id: str, workspace: str | None, *, yes: bool) -> None:
    """Delete a user and shred the user's key. There is no way back."""
    if not yes:
        click.confirm(f"Delete the user '{user_id}'?", abort=True)

    async def work(vault: Vault, caller: Caller) -> None:
        await vault.delete_user(caller, UserId(user_id))
        _say("deleted")

    _in_workspace(workspace, work)


@main.command()
@click.option("--limit", default=50, type=click.IntRange(1, EVERYTHING), show_default=True)
@click.option("--user", "user_id", help="Only what concerns this user.")
@in_workspace
@as_json
def audit(limit: int, user_id: str | None, workspace: str | None, *, json_output: bool) -> None:
    """Who did what in a workspace, newest first."""

    async def work(vault: Vault, caller: Caller) -> None:
        found = await vault.audit_events(
            caller, Page(limit), user_id=UserId(user_id) if user_id else None
        )
        _print_rows([AuditEventOut.of(one) for one in found], json_output=json_output)

    _in_workspace(workspace, work)


def _settings(*, opens_vault: bool = True) -> Settings:
    settings = load(os.environ, opens_vault=opens_vault)
    logs.configure(settings.log_level)
    return settings


def _in_vault(work: Callable[[Vault, Caller], Awaitable[None]]) -> None:
    async def opened() -> None:
        settings = _settings()
        logs.configure("warning")  # what a command has to say, it prints
        async with boot.house(settings) as house:
            await work(house.vault, boot.terminal_operator())

    _run(opened())


def _in_workspace(name: str | None, work: Callable[[Vault, Caller], Awaitable[None]]) -> None:
    async def within(vault: Vault, operator: Caller) -> None:
        found = await _find_workspace(vault, operator, name)
        await work(vault, operator.within(found.workspace_id))

    _in_vault(within)


async def _find_workspace(vault: Vault, operator: Caller, name: str | None) -> Workspace:
    every = await vault.list_workspaces(operator, Page(EVERYTHING))
    matches = [one for one in every if name is None or name in (one.workspace_id, one.name)]
    if len(matches) == 1:
        return matches[0]
    if not matches:
        raise NotFound("There is no such workspace." if name else "There is no workspace yet.")
    raise NotFound("Several workspaces match: name one with --workspace ID.")


def _run(work: Coroutine[Any, Any, T]) -> T:
    """Run on uvloop; an error of ours becomes one sentence and exit code 1."""
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(work)
    except VaultError as error:
        click.echo(f"keyturn: {error.message}", err=True)
        sys.exit(FAILED)


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201 - this is what a command has to say


def _print_json(thing: object) -> None:
    _say(msgspec.json.format(msgspec.json.encode(thing), indent=2).decode())


def _print_rows(rows: Sequence[Message], *, json_output: bool) -> None:
    """Print what HTTP would answer: as JSON, or as columns for people."""
    if json_output:
        _print_json(rows)
        return
    table = [[_cell(value) for value in msgspec.to_builtins(row).values()] for row in rows]
    if rows:
        table.insert(0, list(rows[0].__struct_fields__))
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for line in table:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        _say("  ".join(cells).rstrip())


def _cell(value: object) -> str:
    if isinstance(value, dict):
        return ":".join(str(part) for part in value.values()) or "-"
    if isinstance(value, list):
        return ",".join(map(str, value)) or "-"
    return "-" if value is None else str(value)


main.add_command(provider)


if __name__ == "__main__":
    main()
