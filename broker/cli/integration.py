"""``keyturn integration``: app registrations at the terminal, through the same door as HTTP.

A client secret comes from a file or from standard input, never from an argument.
"""

import sys
from pathlib import Path
from typing import BinaryIO, Final

import msgspec
import rich_click as click

from broker.api.connect_messages import FindingOut, IntegrationIn, IntegrationOut
from broker.terminal import (
    EVERYTHING,
    FAILED,
    as_json,
    in_workspace,
    of_workspace,
    print_done,
    print_json,
    run,
)
from vault.consent import Integration
from vault.model import PRODUCTION, Page
from vault.vault import Vault

MAX_FILE: Final = 256 * 1024


@click.group()
def integration() -> None:
    """App registrations at providers."""


@integration.command("list")
@of_workspace
@as_json
def integration_list(workspace: str | None, *, json_output: bool) -> None:
    """List the integrations."""
    found = run(_listed(workspace))
    if json_output:
        print_json(found)
        return
    for one in found:
        click.echo(f"{one.id:28} {one.provider}")


@integration.command("show")
@click.argument("name")
@of_workspace
@as_json
def integration_show(name: str, workspace: str | None, *, json_output: bool) -> None:
    """Show an integration, and the address to register at its provider."""
    found = run(_shown(name, workspace))
    if json_output:
        print_json(found)
        return
    for field, value in msgspec.to_builtins(found).items():
        click.echo(f"{field}: {msgspec.json.encode(value).decode()}")


@integration.command("put")
@click.argument("name")
@click.argument("file", type=click.File("rb"))
@click.option(
    "--client-secret-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A file with the client secret, if it is not in FILE.",
)
@of_workspace
@as_json
def integration_put(
    name: str,
    file: BinaryIO,
    client_secret_file: Path | None,
    workspace: str | None,
    *,
    json_output: bool,
) -> None:
    """Make or replace an integration from a JSON FILE, as HTTP takes it; - is standard input."""
    try:
        wanted = msgspec.json.decode(file.read(MAX_FILE), type=IntegrationIn)
    except msgspec.DecodeError as error:
        raise click.UsageError(f"{name}: {str(error).partition(' - at ')[0]}") from None
    if client_secret_file is not None:
        secret = client_secret_file.read_text().rstrip("\n")
        wanted = msgspec.structs.replace(wanted, client_secret=secret)
    made, is_new = run(_put(name, wanted, workspace))
    said = f"{made.id}: {'made' if is_new else 'replaced'}"
    where = f"Register this redirect address at {made.provider}: {made.redirect_uri}"
    print_done(made, said, where, json_output=json_output)


@integration.command("delete")
@click.argument("name")
@of_workspace
@as_json
def integration_delete(name: str, workspace: str | None, *, json_output: bool) -> None:
    """Delete an integration through which nobody is connected."""
    run(_deleted(name, workspace))
    print_done({"id": name, "deleted": True}, f"{name}: deleted", json_output=json_output)


@integration.command("check")
@click.argument("name")
@click.option("--environment", "-e", default=PRODUCTION, show_default=True)
@of_workspace
@as_json
def integration_check(
    name: str, environment: str, workspace: str | None, *, json_output: bool
) -> None:
    """Try an integration out, as far as that goes without a person."""
    findings = run(_checked(name, environment, workspace))
    if json_output:
        print_json(findings)
    else:
        for one in findings:
            click.echo(f"{'ok ' if one.ok else 'BAD'} {one.what}: {one.detail}")
    if not all(one.ok for one in findings):
        sys.exit(FAILED)


async def _listed(workspace: str | None) -> list[IntegrationOut]:
    async with in_workspace(workspace) as (vault, caller):
        return [_out(vault, one) for one in await vault.list_integrations(caller, Page(EVERYTHING))]


async def _shown(name: str, workspace: str | None) -> IntegrationOut:
    async with in_workspace(workspace) as (vault, caller):
        return _out(vault, await vault.get_integration(caller, name))


async def _put(
    name: str, wanted: IntegrationIn, workspace: str | None
) -> tuple[IntegrationOut, bool]:
    async with in_workspace(workspace) as (vault, caller):
        made, is_new = await vault.put_integration(caller, name, wanted.registration())
        return _out(vault, made), is_new


async def _deleted(name: str, workspace: str | None) -> None:
    async with in_workspace(workspace) as (vault, caller):
        await vault.delete_integration(caller, name)


async def _checked(name: str, environment: str, workspace: str | None) -> list[FindingOut]:
    async with in_workspace(workspace) as (vault, caller):
        return [
            FindingOut(what=one.what, ok=one.ok, detail=one.detail)
            for one in await vault.check_integration(caller, name, environment)
        ]


def _out(vault: Vault, found: Integration) -> IntegrationOut:
    return IntegrationOut.shown(vault, found)
