"""``keyturn agent``: profiles of agents at the terminal, through the same door as HTTP."""

import sys
from typing import Any, BinaryIO, Final

import msgspec
import rich_click as click

from broker.api.agent_messages import AgentIn, AgentOut, FaultOut, ToolsOut
from broker.broker import Broker
from broker.terminal import (
    EVERYTHING,
    FAILED,
    always_json,
    as_json,
    in_workspace,
    of_workspace,
    print_done,
    print_json,
    run,
)
from broker.tools.lint import lint
from vault.model import Page

MAX_FILE: Final = 256 * 1024


@click.group()
def agent() -> None:
    """Agents: what each of them needs, and the tools that serve it."""


@agent.command("list")
@of_workspace
@as_json
def agent_list(workspace: str | None, *, json_output: bool) -> None:
    """List the agents that have a profile."""
    found = run(_listed(workspace))
    if json_output:
        print_json(found)
        return
    for one in found:
        named = one.integrations
        needs = "everything" if named is None else ", ".join(n.integration for n in named)
        click.echo(f"{one.id:40} {needs or 'nothing'}")


@agent.command("show")
@click.argument("name")
@of_workspace
@as_json
def agent_show(name: str, workspace: str | None, *, json_output: bool) -> None:
    """Show an agent's profile."""
    found = run(_shown(name, workspace))
    if json_output:
        print_json(found)
        return
    for field, value in msgspec.to_builtins(found).items():
        click.echo(f"{field}: {msgspec.json.encode(value).decode()}")


@agent.command("put")
@click.argument("name")
@click.argument("file", type=click.File("rb"))
@of_workspace
@as_json
def agent_put(name: str, file: BinaryIO, workspace: str | None, *, json_output: bool) -> None:
    """Make or replace a profile from a JSON FILE, as HTTP takes it; - is standard input."""
    try:
        wanted = msgspec.json.decode(file.read(MAX_FILE), type=AgentIn)
    except msgspec.DecodeError as error:
        raise click.UsageError(f"{name}: {str(error).partition(' - at ')[0]}") from None
    made, is_new = run(_put(name, wanted, workspace))
    print_done(made, f"{name}: {'made' if is_new else 'replaced'}", json_output=json_output)


@agent.command("delete")
@click.argument("name")
@of_workspace
@as_json
def agent_delete(name: str, workspace: str | None, *, json_output: bool) -> None:
    """Delete a profile; the agent is then one without."""
    run(_deleted(name, workspace))
    print_done({"id": name, "deleted": True}, f"{name}: deleted", json_output=json_output)


@agent.command("tools")
@click.argument("name")
@of_workspace
@always_json
def agent_tools(name: str, workspace: str | None) -> None:
    """Print ready-made tools for an agent, as JSON, with what is wrong with them."""
    print_json(run(_tools(name, workspace)))


@agent.command("lint")
@click.argument("file", type=click.File("rb"))
@as_json
def agent_lint(file: BinaryIO, *, json_output: bool) -> None:
    """Say what is wrong with a tool's configuration where secrets are concerned; - is standard
    input. Asks nobody.
    """
    try:
        config = msgspec.json.decode(file.read(MAX_FILE), type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise click.UsageError("This is no tool's configuration in JSON.") from None
    inner = config.get("tool_config", config)
    tool = inner if isinstance(inner, dict) else {}
    name = str(tool.get("name", ""))
    faults = [
        FaultOut(tool=name, rule=one.rule, pointer=one.pointer, detail=one.detail)
        for one in lint(tool)
    ]
    if json_output:
        print_json(faults)
    else:
        for one in faults:
            click.echo(f"{one.pointer}: {one.rule}: {one.detail}")
    if faults:
        sys.exit(FAILED)


async def _listed(workspace: str | None) -> list[AgentOut]:
    async with in_workspace(workspace) as (vault, caller):
        agents = Broker(vault, vault.egress).agents
        return [AgentOut.of(one) for one in await agents.list(caller, Page(EVERYTHING))]


async def _shown(name: str, workspace: str | None) -> AgentOut:
    async with in_workspace(workspace) as (vault, caller):
        return AgentOut.of(await Broker(vault, vault.egress).agents.get(caller, name))


async def _put(name: str, wanted: AgentIn, workspace: str | None) -> tuple[AgentOut, bool]:
    async with in_workspace(workspace) as (vault, caller):
        agents = Broker(vault, vault.egress).agents
        made, is_new = await agents.put(caller, name, wanted.profile())
        return AgentOut.of(made), is_new


async def _deleted(name: str, workspace: str | None) -> None:
    async with in_workspace(workspace) as (vault, caller):
        await Broker(vault, vault.egress).agents.delete(caller, name)


async def _tools(name: str, workspace: str | None) -> ToolsOut:
    async with in_workspace(workspace) as (vault, caller):
        return ToolsOut.of(await Broker(vault, vault.egress).tools.toolbox(caller, name))
