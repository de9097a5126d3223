"""``keyturn``: the operator's and the workspace's daily work, through the same door as HTTP.

* Whoever can read the root key and the database is the operator; every command is audited so.
* Exit codes: 0 done, 1 refused or failed, 2 wrong usage, 3 pending or not well.
* Secrets are read from files or standard input, and shown only by the command that makes them.
"""

import os
import re
import sys
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any, TypeVar

import msgspec
import rich_click as click

from broker import boot, doctor, terminal
from broker.api.connect_messages import DeletedOut, UserDeletedOut
from broker.api.messages import (
    KeyIn,
    KeyOut,
    Message,
    UserIn,
    UserOut,
    WorkspaceIn,
    WorkspaceOut,
)
from broker.api.reasons import reason_of
from broker.cli.agent import agent
from broker.cli.audit import audit
from broker.cli.backup import backup, restore
from broker.cli.connection import connection
from broker.cli.env import env
from broker.cli.events import event_endpoint
from broker.cli.integration import integration
from broker.cli.provider import provider
from broker.cli.rekey import rekey
from broker.cli.upstream import upstream
from broker.migrations import PARTS
from broker.terminal import (
    EVERYTHING,
    NOT_WELL,
    as_json,
    every_workspace,
    of_workspace,
    print_done,
    print_json,
    print_rows,
    run,
    say,
)
from vault import __version__, bearer
from vault.errors import Invalid, Misconfigured
from vault.kms.file import new_line
from vault.migrations import migrate as run_migrations
from vault.migrations import pending
from vault.model import SCOPES, USER_ID_PATTERN, Caller, KeyId, Page, UserId
from vault.vault import Vault

M = TypeVar("M", bound=Message)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="keyturn")
def main() -> None:
    """A credential vault and token broker. Settings come from KEYTURN_* variables."""


main.add_command(env)
main.add_command(provider)
main.add_command(integration)
main.add_command(agent)
main.add_command(upstream)
main.add_command(connection)
main.add_command(event_endpoint)
main.add_command(rekey)
main.add_command(audit)
main.add_command(backup)
main.add_command(restore)


@main.command()
@click.option("--no-scheduler", is_flag=True, help="Serve HTTP only.")
def serve(*, no_scheduler: bool) -> None:
    """Run the HTTP service, with what is done in the background."""
    # Only a service loads the framework of its routes; every other command starts without.
    from broker.cli.serving import serve_until_stopped

    run(serve_until_stopped(scheduler=not no_scheduler))


@main.command()
@as_json
def demo(*, json_output: bool) -> None:
    """Tell the whole story on this machine, beside a pretend provider; leaves nothing behind."""
    from broker.demo import Lines, Transcript, perform  # the service itself never loads it

    boot.harden_process()
    colours = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    told = Lines(sys.stdout) if json_output else Transcript(sys.stdout, colours=colours)
    sys.exit(run(perform(told)))


@main.command("work")
def work_command() -> None:
    """Run what is done in the background, and no HTTP; ends at SIGTERM, when all of it is done."""
    from broker.cli.serving import work_until_stopped  # as above

    run(work_until_stopped())


@main.command()
@click.option("--check", is_flag=True, help="Apply nothing; exit 3 if something is pending.")
@click.option("--plan", is_flag=True, help="Apply nothing; print the SQL that is pending.")
@as_json
def migrate(*, check: bool, plan: bool, json_output: bool) -> None:
    """Bring the database to this version's schema."""

    async def work() -> int:
        settings = terminal.settings(opens_vault=False)
        async with boot.database_addresses(settings) as addresses:
            if addresses.owner is None:
                raise Misconfigured("Set KEYTURN_OWNER_DATABASE_URL to migrate this database.")
            if not (check or plan):
                applied = await run_migrations(addresses.owner, addresses.logins, parts=PARTS)
                said = [f"applied {one}" for one in applied]
                done = {"applied": [str(one) for one in applied]}
                print_done(done, *said, "The schema is current.", json_output=json_output)
                return 0
            waiting = await pending(addresses.owner, parts=PARTS)
            left = [{"name": str(one)} | ({"sql": one.sql} if plan else {}) for one in waiting]
            said = [f"pending {one}" + (f"\n{one.sql}" if plan else "") for one in waiting]
            print_done({"pending": left}, *said, json_output=json_output)
            return NOT_WELL if waiting else 0

    sys.exit(run(work()))


@main.command()
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=8430, show_default=True, help="0 takes a free one.")
def sandbox(host: str, port: int) -> None:
    """Serve a pretend provider and a pretend ElevenLabs, to test against. Keeps nothing."""
    from broker.sandbox import server as pretending  # the service itself never loads it

    with pretending.listen(host, port) as listener:
        say(f"The sandbox is at http://{host}:{listener.getsockname()[1]}")
        run(pretending.run(listener))


@main.command("doctor")
@as_json
def doctor_command(*, json_output: bool) -> None:
    """Say what is configured, and what is wrong."""

    async def work() -> int:
        findings = await doctor.examine(os.environ)
        if json_output:
            print_json(findings)
        else:
            for finding in findings:
                say(f"{finding.mark} {finding.name}: {finding.text}")
        return 0 if all(finding.ok for finding in findings) else NOT_WELL

    sys.exit(run(work()))


@main.group()
def workspace() -> None:
    """Workspaces: make, list, delete."""


@workspace.command("create")
@click.argument("name")
@as_json
def workspace_create(name: str, *, json_output: bool) -> None:
    """Make a workspace; prints its first key."""

    async def work(vault: Vault, operator: Caller) -> None:
        made = await vault.create_workspace(operator, _checked(WorkspaceIn, name=name).name)
        key = made.bearer.reveal() if made.bearer else None
        if json_output:
            print_json({"id": made.workspace.workspace_id, "name": name, "api_key": key})
        else:
            say(f"{made.workspace.workspace_id}  {name}\n{key}")

    _in_vault(work)


@workspace.command("list")
@as_json
def workspace_list(*, json_output: bool) -> None:
    """List the workspaces."""

    async def work(vault: Vault, operator: Caller) -> None:
        found = [WorkspaceOut.of(one) async for one in every_workspace(vault, operator)]
        print_rows(found, json_output=json_output)

    _in_vault(work)


@workspace.command("delete")
@click.argument("workspace_name", metavar="WORKSPACE")
@click.option("--yes", is_flag=True, help="Do not ask.")
@as_json
def workspace_delete(workspace_name: str, *, yes: bool, json_output: bool) -> None:
    """Delete a workspace with everything in it. There is no way back."""

    async def work(vault: Vault, operator: Caller) -> None:
        found = await terminal.find_workspace(vault, operator, workspace_name)
        if not yes:
            click.confirm(f"Delete '{found.name}' and every credential in it?", abort=True)
        await vault.delete_workspace(operator, found.workspace_id)
        gone = {"id": found.workspace_id, "deleted": True}
        print_done(gone, "deleted", json_output=json_output)

    _in_vault(work)


@main.group()
def key() -> None:
    """API keys: generate, make, list, revoke."""


@key.command("generate")
@click.option("--operator", is_flag=True, help="An operator key, for KEYTURN_OPERATOR_KEY.")
@click.option("--root", is_flag=True, help="A root key, for the file that KEYTURN_KEK names.")
@as_json
def key_generate(*, operator: bool, root: bool, json_output: bool) -> None:
    """Print a new random key. Needs no database and stores nothing."""
    if root:
        made = new_line().strip()
    else:
        made = bearer.generate("operator" if operator else "api_key").reveal()
    print_done({"key": made}, made, json_output=json_output)


@key.command("create")
@click.argument("name")
@click.option("--scope", "scopes", multiple=True, required=True, type=click.Choice(SCOPES))
@click.option("--environment", "environments", multiple=True, help="Tie it to environments.")
@click.option("--expires-at", type=click.DateTime(["%Y-%m-%dT%H:%M:%S%z"]))
@of_workspace
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

    async def work(vault: Vault, caller: Caller) -> None:
        wanted = _checked(
            KeyIn, name=name, scopes=scopes, environments=environments, expires_at=expires_at
        )
        made = await vault.create_key(caller, wanted.wanted())
        text = made.bearer.reveal() if made.bearer else None
        if json_output:
            print_json({"id": made.key.key_id, "key": text, "name": name})
        else:
            say(f"{made.key.key_id}  {name}\n{text}")

    _in_workspace(workspace, work)


@key.command("list")
@of_workspace
@as_json
def key_list(workspace: str | None, *, json_output: bool) -> None:
    """List the keys of a workspace."""

    async def work(vault: Vault, caller: Caller) -> None:
        found = await vault.list_keys(caller, Page(EVERYTHING))
        print_rows([KeyOut.of(one) for one in found], json_output=json_output)

    _in_workspace(workspace, work)


@key.command("delete")
@click.argument("key_id")
@of_workspace
@as_json
def key_delete(key_id: str, workspace: str | None, *, json_output: bool) -> None:
    """Revoke a key, at once and everywhere."""

    async def work(vault: Vault, caller: Caller) -> None:
        await vault.delete_key(caller, KeyId(key_id))
        print_done({"id": key_id, "deleted": True}, "revoked", json_output=json_output)

    _in_workspace(workspace, work)


@main.group()
def user() -> None:
    """The users of a workspace."""


@user.command("list")
@of_workspace
@as_json
def user_list(workspace: str | None, *, json_output: bool) -> None:
    """List the users of a workspace."""

    async def work(vault: Vault, caller: Caller) -> None:
        found = await vault.list_users(caller, Page(EVERYTHING))
        print_rows([UserOut.of(one) for one in found], json_output=json_output)

    _in_workspace(workspace, work)


@user.command("put")
@click.argument("user_id")
@click.option("--name")
@click.option("--phone", "phones", multiple=True, help="In E.164, as in +15551234567.")
@of_workspace
@as_json
def user_put(
    user_id: str,
    name: str | None,
    phones: tuple[str, ...],
    workspace: str | None,
    *,
    json_output: bool,
) -> None:
    """Make a user, or replace what is known of one."""

    async def work(vault: Vault, caller: Caller) -> None:
        if not re.fullmatch(USER_ID_PATTERN, user_id):
            raise Invalid("This cannot be the id of a user.")
        profile = _checked(UserIn, name=name, phone_numbers=phones).profile()
        made = UserOut.of(await vault.put_user(caller, UserId(user_id), profile))
        print_done(made, "stored", json_output=json_output)

    _in_workspace(workspace, work)


@user.command("delete")
@click.argument("user_id")
@click.option("--yes", is_flag=True, help="Do not ask.")
@of_workspace
@as_json
def user_delete(user_id: str, workspace: str | None, *, yes: bool, json_output: bool) -> None:
    """Delete a user and shred the user's key. There is no way back."""
    if not yes:
        click.confirm(f"Delete the user '{user_id}'?", abort=True)

    async def work(vault: Vault, caller: Caller) -> None:
        outcomes = await vault.delete_user(caller, UserId(user_id))
        gone = [DeletedOut(id=one, revoked=outcome) for one, outcome in outcomes.items()]
        said = [f"{one.id}: {one.revoked}" for one in gone]
        print_done(UserDeletedOut(connections=gone), "deleted", *said, json_output=json_output)

    _in_workspace(workspace, work)


def _in_vault(work: Callable[[Vault, Caller], Awaitable[None]]) -> None:
    async def opened() -> None:
        async with terminal.in_vault() as (vault, operator):
            await work(vault, operator)

    run(opened())


def _in_workspace(name: str | None, work: Callable[[Vault, Caller], Awaitable[None]]) -> None:
    async def within() -> None:
        async with terminal.in_workspace(name) as (vault, caller):
            await work(vault, caller)

    run(within())


def _checked(kind: type[M], **fields: object) -> M:
    """Hold what was typed to the rules that HTTP has."""
    try:
        return msgspec.convert(fields, kind)
    except msgspec.ValidationError as error:
        raise Invalid(reason_of(str(error))) from None
