"""What commands share: settings, the vault or one workspace of it, and what goes to the screen.

* An error of ours becomes one sentence on standard error and exit code 1.
* Whoever is at the terminal is the operator; inside a workspace, its record shows it.
* A bar shows how far something is, on standard error, where somebody is looking.
"""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any, Final, NoReturn, TypeVar

import msgspec
import rich_click as click
import uvloop
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from broker import boot, logs
from broker.settings import Settings, load
from vault.errors import NotFound, VaultError
from vault.keyring.rotations import Step, Tell, untold
from vault.model import Caller, Page, Workspace, WorkspaceId
from vault.vault import Vault

T = TypeVar("T")

FAILED: Final = 1
NOT_WELL: Final = 3
EVERYTHING: Final = 1000

as_json = click.option("--json", "json_output", is_flag=True, help="Print JSON.")
always_json = click.option(
    "--json", is_flag=True, expose_value=False, help="Print JSON, as it does in any case."
)
of_workspace = click.option(
    "--workspace", "-w", help="Its id or name; not needed where there is only one."
)


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run on uvloop."""
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(work)
    except VaultError as error:
        fail(error.message)


def fail(message: str) -> NoReturn:
    """Say why, and end."""
    click.echo(f"keyturn: {message}", err=True)
    sys.exit(FAILED)


def settings(*, opens_vault: bool = True) -> Settings:
    """Read the settings, and log as they say."""
    found = load(os.environ, opens_vault=opens_vault)
    logs.configure(found.log_level)
    return found


@asynccontextmanager
async def in_vault() -> AsyncIterator[tuple[Vault, Caller]]:
    """Open the vault, as the operator."""
    found = settings()
    logs.configure("warning")  # what a command has to say, it prints
    async with boot.house(found) as house:
        yield house.vault, boot.terminal_operator()


@asynccontextmanager
async def in_workspace(name: str | None) -> AsyncIterator[tuple[Vault, Caller]]:
    """Open the vault, as the operator within one workspace; ``None`` where there is only one."""
    async with in_vault() as (vault, operator):
        found = await find_workspace(vault, operator, name)
        yield vault, operator.within(found.workspace_id)


async def every_workspace(vault: Vault, operator: Caller) -> AsyncIterator[Workspace]:
    """All of them, however many there are."""
    page = Page(EVERYTHING)
    while some := await vault.list_workspaces(operator, page):
        for one in some:
            yield one
        page = Page(EVERYTHING, after=some[-1].workspace_id)


async def find_workspace(vault: Vault, operator: Caller, name: str | None) -> Workspace:
    """Find the one workspace that is meant, by id or name."""
    if name is not None:
        with suppress(NotFound):
            return await vault.get_workspace(operator, WorkspaceId(name))
    every = every_workspace(vault, operator)
    matches = [one async for one in every if name is None or name == one.name]
    if len(matches) == 1:
        return matches[0]
    if not matches:
        raise NotFound("There is no such workspace." if name else "There is no workspace yet.")
    raise NotFound("Several workspaces match: name one with --workspace ID.")


def say(text: str) -> None:
    """Print what a command has to say, at once."""
    print(text, flush=True)  # noqa: T201 - the one place where commands print


def print_json(thing: object) -> None:
    """Print it for a program, laid out for a person."""
    say(msgspec.json.format(msgspec.json.encode(thing), indent=2).decode())


def print_done(thing: object, *sentences: str, json_output: bool) -> None:
    """Print what came of it: as HTTP would answer it, or in words."""
    if json_output:
        print_json(thing)
        return
    for sentence in sentences:
        say(sentence)


def print_rows(rows: Sequence[msgspec.Struct], *, json_output: bool) -> None:
    """Print what HTTP would answer: as JSON, or as columns for people."""
    if json_output:
        print_json(rows)
        return
    table = [[_cell(value) for value in msgspec.to_builtins(row).values()] for row in rows]
    if rows:
        table.insert(0, list(rows[0].__struct_fields__))
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for line in table:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        say("  ".join(cells).rstrip())


@contextmanager
def bar() -> Iterator[Tell]:
    """Show how far it is, where somebody is looking."""
    if not sys.stderr.isatty():
        yield untold
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("", total=None)

        def tell(step: Step) -> None:
            progress.update(task, description=step.what, completed=step.done, total=step.total)

        yield tell


def _cell(value: object) -> str:
    if isinstance(value, dict):
        return ":".join(str(part) for part in value.values()) or "-"
    if isinstance(value, list):
        return ",".join(map(str, value)) or "-"
    return "-" if value is None else str(value)
