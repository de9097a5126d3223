"""What commands share: settings, one workspace through the door, and what goes to the screen.

* An error of ours becomes one sentence on standard error and exit code 1.
"""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, Final, TypeVar

import click
import msgspec
import uvloop

from broker import boot, logs
from broker.settings import load
from vault.errors import NotFound, VaultError
from vault.model import Caller, Page, Workspace
from vault.vault import Vault

T = TypeVar("T")

FAILED: Final = 1
EVERYTHING: Final = 1000


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run on uvloop."""
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(work)
    except VaultError as error:
        click.echo(f"keyturn: {error.message}", err=True)
        sys.exit(FAILED)


@asynccontextmanager
async def in_workspace(name: str | None) -> AsyncIterator[tuple[Vault, Caller]]:
    """Open the vault, as the operator within one workspace."""
    settings = load(os.environ)
    logs.configure("warning")  # what a command has to say, it prints
    async with boot.house(settings) as house:
        operator = boot.terminal_operator()
        found = await _workspace(house.vault, operator, name)
        yield house.vault, operator.within(found.workspace_id)


async def _workspace(vault: Vault, operator: Caller, name: str | None) -> Workspace:
    every = await vault.list_workspaces(operator, Page(EVERYTHING))
    matches = [one for one in every if name is None or name in (one.workspace_id, one.name)]
    if len(matches) == 1:
        return matches[0]
    if not matches:
        raise NotFound("There is no such workspace." if name else "There is no workspace yet.")
    raise NotFound("Several workspaces match: name one with --workspace ID.")


def print_json(thing: object) -> None:
    """Print it for a program, laid out for a person."""
    text = msgspec.json.format(msgspec.json.encode(thing), indent=2).decode()
    click.echo(text)
