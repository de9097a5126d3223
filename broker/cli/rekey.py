"""``keyturn rekey``: rotate the root key and the workspaces' keys, while everybody works.

* On a terminal a bar shows how far it is, on standard error; ``--json`` leaves standard output to
  the result.
* Exit code 1 where a value does not open. It may be run again at any time, after a crash too.
"""

import sys
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any, TypeVar

import rich_click as click

from broker import terminal
from broker.terminal import as_json, bar, fail, print_json, run, say
from vault.keyring.rotations import Tell
from vault.keyring.verifying import Report
from vault.model import Caller
from vault.vault import Vault
from vault.vault.rekeying import WAIT, Rotated

T = TypeVar("T")
Result = dict[str, Any]

wait_option = click.option(
    "--wait",
    type=click.FloatRange(0, 3600),
    default=WAIT,
    show_default=True,
    help="Seconds that all replicas have to say that they can open what is new.",
)


@click.group(invoke_without_command=True)
@wait_option
@as_json
@click.pass_context
def rekey(context: click.Context, *, wait: float, json_output: bool) -> None:
    """Rotate keys: the root key's work first, then a new key for each workspace."""
    if context.invoked_subcommand is not None:
        return

    async def work(vault: Vault, operator: Caller, tell: Tell) -> Rotated:
        begun = await _resumed(vault, operator, wait, tell)
        root = await vault.rotate_root_key(operator, wait=wait, tell=tell)
        if begun is not None:
            return _both(begun, root)
        keys = await vault.rotate_workspace_keys(operator, wait=wait, tell=tell)
        return _both(keys, root)

    _rotate(work, json_output=json_output)


@rekey.command("root")
@wait_option
@as_json
def rekey_root(*, wait: float, json_output: bool) -> None:
    """Wrap every key by the root key that KEYTURN_KEK names first."""

    async def work(vault: Vault, operator: Caller, tell: Tell) -> Rotated:
        begun = await _resumed(vault, operator, wait, tell)
        root = await vault.rotate_root_key(operator, wait=wait, tell=tell)
        return _both(begun, root) if begun else root

    _rotate(work, json_output=json_output)


@rekey.command("workspaces")
@wait_option
@as_json
def rekey_workspaces(*, wait: float, json_output: bool) -> None:
    """Give each workspace a new key, and seal all its rows again under it."""

    async def work(vault: Vault, operator: Caller, tell: Tell) -> Rotated:
        if await vault.rotation_under_way(operator) == "root":
            await vault.rotate_root_key(operator, wait=wait, tell=tell)
        return await vault.rotate_workspace_keys(operator, wait=wait, tell=tell)

    _rotate(work, json_output=json_output)


@rekey.command("verify")
@as_json
def rekey_verify(*, json_output: bool) -> None:
    """Open every row and unwrap every key; say how many, and under which keys."""

    async def work(vault: Vault, operator: Caller, tell: Tell) -> Report:
        return await vault.verify_keys(operator, tell=tell)

    found = _in_vault(work)
    if json_output:
        print_json(_as_result(found))
    else:
        say_report(found)
    _end(found)


@rekey.command("destroy")
@click.option(
    "--retired-for",
    metavar="DAYS",
    type=click.IntRange(1, 3650),
    required=True,
    help="Only keys that were retired so many days ago.",
)
@as_json
def rekey_destroy(retired_for: int, *, json_output: bool) -> None:
    """Destroy retired keys that no row is under. Older backups need the root key and their own."""

    async def work(vault: Vault, operator: Caller, tell: Tell) -> int:
        age = timedelta(days=retired_for)
        return await vault.destroy_retired_keys(operator, retired_for=age, tell=tell)

    destroyed = _in_vault(work)
    if json_output:
        print_json({"destroyed": destroyed})
    else:
        say(f"destroyed {destroyed} keys")


async def _resumed(vault: Vault, operator: Caller, wait: float, tell: Tell) -> Rotated | None:
    """Bring a rotation of workspace keys to its end that somebody began."""
    if await vault.rotation_under_way(operator) != "workspaces":
        return None
    return await vault.rotate_workspace_keys(operator, wait=wait, tell=tell)


def _both(keys: Rotated, root: Rotated) -> Rotated:
    return Rotated(root.rewrapped, keys.resealed, keys.retired, keys.report)


def _rotate(
    work: Callable[[Vault, Caller, Tell], Awaitable[Rotated]], *, json_output: bool
) -> None:
    done = _in_vault(work)
    if json_output:
        counts = {name: getattr(done, name) for name in ("rewrapped", "resealed", "retired")}
        print_json({**counts, "verified": _as_result(done.report) if done.report else None})
    else:
        say(f"wrapped {done.rewrapped} keys again, sealed {done.resealed} rows again")
        say(f"retired {done.retired} keys")
        if done.report is not None:
            say_report(done.report)
    if done.report is not None:
        _end(done.report)


def say_report(found: Report) -> None:
    say(f"opened {found.rows - _failures(found)} rows of {found.workspaces} workspaces")
    say(f"{found.under_older} rows are under older keys; the newest keys have the others")
    for one in found.left:
        say(f"left: {one.workspace} version {one.version}, {one.state}, {one.rows} rows")
    for state, count in sorted(found.states.items()):
        say(f"{state} keys: {count}")
    for root_key, count in sorted(found.root_keys.items()):
        mark = " (wraps what is new)" if root_key == found.wraps else ""
        say(f"wrapped by {root_key}: {count}{mark}")
    if found.orphans:
        say(f"{found.orphans} answers of connections that are gone; they go within a day")
    for place in found.unopened:
        say(f"does not open: {place.workspace} {place.kind} {place.id}".rstrip())
    if found.more_unopened:
        say(f"and {found.more_unopened} more")


def _as_result(found: Report) -> Result:
    return {
        "well": found.is_well,
        "workspaces": found.workspaces,
        "rows": found.rows,
        "under_older_keys": found.under_older,
        "left": found.left,
        "orphans": found.orphans,
        "keys": found.states,
        "root_keys": found.root_keys,
        "wraps": found.wraps,
        "unopened": found.unopened,
        "more_unopened": found.more_unopened,
    }


def _failures(found: Report) -> int:
    return len(found.unopened) + found.more_unopened + found.orphans


def _end(found: Report) -> None:
    if not found.is_well:
        fail(f"{len(found.unopened) + found.more_unopened} values do not open.")
    sys.exit(0)


def _in_vault(work: Callable[[Vault, Caller, Tell], Awaitable[T]]) -> T:
    async def opened() -> T:
        async with terminal.in_vault() as (vault, operator):
            with bar() as tell:
                return await work(vault, operator, tell)

    return run(opened())
