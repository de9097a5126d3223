"""``keyturn audit``: the record read, verified and exported.

* Alone it lists a workspace's record, as ``keyturn audit list`` does.
* ``verify`` exits with 3 where something is not as it was written, and says where it begins.
* ``export`` writes a line of JSON at a time, so that a pipe takes as long as it wants.
"""

import re
import sys
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any, Final, TypeVar

import msgspec
import rich_click as click

from broker import terminal
from broker.api.messages import AuditEventOut
from broker.terminal import (
    EVERYTHING,
    NOT_WELL,
    always_json,
    as_json,
    bar,
    of_workspace,
    print_done,
    print_json,
    print_rows,
    run,
    say,
)
from vault.chain.anchors import Anchor
from vault.chain.exporting import Period
from vault.chain.verifying import Verdict
from vault.model import Caller, Page, UserId, WorkspaceId
from vault.vault import Vault

T = TypeVar("T")

_SEAL: Final = re.compile(r"([1-9][0-9]{0,17}):([0-9a-f]{64})(?!\n)$")
_WHEN: Final = click.DateTime(["%Y-%m-%dT%H:%M:%S%z", "%Y-%m-%dT%H:%M:%S.%f%z"])

limit_option = click.option(
    "--limit", default=50, type=click.IntRange(1, EVERYTHING), show_default=True
)
user_option = click.option("--user", "user_id", help="Only what concerns this user.")
one_workspace = click.option(
    "--workspace", metavar="WORKSPACE", help="Only this one, by id or name; else all of them."
)


@click.group(invoke_without_command=True)
@limit_option
@user_option
@of_workspace
@as_json
@click.pass_context
def audit(
    context: click.Context,
    limit: int,
    user_id: str | None,
    workspace: str | None,
    *,
    json_output: bool,
) -> None:
    """Who did what in a workspace; and whether that is still as it was written."""
    if context.invoked_subcommand is None:
        _list(limit, user_id, workspace, json_output=json_output)


@audit.command("list")
@limit_option
@user_option
@of_workspace
@as_json
def audit_list(
    limit: int, user_id: str | None, workspace: str | None, *, json_output: bool
) -> None:
    """Who did what in a workspace, newest first."""
    _list(limit, user_id, workspace, json_output=json_output)


@audit.command("verify")
@one_workspace
@click.option(
    "--seal",
    "known",
    metavar="NUMBER:HASH",
    multiple=True,
    help="A seal that was written down elsewhere: it has to be there.",
)
@as_json
def audit_verify(workspace: str | None, known: tuple[str, ...], *, json_output: bool) -> None:
    """Look at every line again; name the first batch that is not as it was made."""
    anchors = [_anchor(one) for one in known]

    async def work(vault: Vault, operator: Caller) -> Verdict:
        with bar() as tell:
            chain = await _chain(vault, operator, workspace)
            return await vault.verify_audit(operator, chain, known=anchors, tell=tell)

    found = _in_vault(work)
    if json_output:
        print_json(_as_result(found))
    else:
        _say(found)
    sys.exit(0 if found.is_well else NOT_WELL)


@audit.command("export")
@one_workspace
@click.option("--since", type=_WHEN, help="Only from then on.")
@click.option("--until", type=_WHEN, help="Only what was before.")
@always_json
def audit_export(workspace: str | None, since: datetime | None, until: datetime | None) -> None:
    """Write the record as lines of JSON, with what it takes to check it elsewhere."""

    async def work(vault: Vault, operator: Caller) -> None:
        chain = await _chain(vault, operator, workspace)
        encode = msgspec.json.Encoder().encode
        async for out in vault.export_audit(operator, chain, Period(since, until)):
            say(encode(out).decode())

    _in_vault(work)


@audit.command("anchor")
@click.option("--yes", is_flag=True, help="Do not ask.")
@as_json
def audit_anchor(*, yes: bool, json_output: bool) -> None:
    """Accept where the record ends now, after a restore: what came later is not missed any more."""
    if not yes:
        click.confirm("Accept that the record may have been longer once?", abort=True)

    async def work(vault: Vault, operator: Caller) -> None:
        last = await vault.anchor_audit(operator)
        seal = f"{last.number}:{last.hash.hex()}" if last else None
        said = f"anchored seal {seal}" if seal else "there is no seal yet"
        print_done({"anchored": seal}, said, json_output=json_output)

    _in_vault(work)


def _list(limit: int, user_id: str | None, workspace: str | None, *, json_output: bool) -> None:
    async def within() -> None:
        async with terminal.in_workspace(workspace) as (vault, caller):
            found = await vault.audit_events(
                caller, Page(limit), user_id=UserId(user_id) if user_id else None
            )
            print_rows([AuditEventOut.of(one) for one in found], json_output=json_output)

    run(within())


def _say(found: Verdict) -> None:
    say(f"looked at {found.lines} lines in {found.batches} batches of {found.chains} chains")
    say(f"{found.unsealed} lines wait to be sealed")
    if found.forgotten:
        say(f"{found.forgotten} lines were deleted for their age")
    if found.end is not None:
        say(f"the chain ends with seal {found.end.seal}:{found.end.hash}")
    for file in found.anchors:
        say(f"anchored in {file}")
    for one in found.problems:
        say(f"{one.workspace}: {one.text}" if one.workspace else one.text)
    say("everything is as it was written" if found.is_well else "NOT as it was written")


def _as_result(found: Verdict) -> dict[str, Any]:
    return {
        "well": found.is_well,
        "chains": found.chains,
        "batches": found.batches,
        "lines": found.lines,
        "unsealed": found.unsealed,
        "forgotten": found.forgotten,
        "seals": found.seals,
        "end": f"{found.end.seal}:{found.end.hash}" if found.end else None,
        "anchors": found.anchors,
        "problems": found.problems,
    }


def _anchor(text: str) -> Anchor:
    match = _SEAL.match(text)
    if match is None:
        raise click.BadParameter("a seal is its number, a colon, and its hash", param_hint="--seal")
    return Anchor("", int(match[1]), match[2])


async def _chain(vault: Vault, operator: Caller, name: str | None) -> WorkspaceId | None:
    """Which chain is meant; also that of a workspace which is deleted, by its id."""
    if name is None or re.fullmatch(r"ws_[0-9a-z]{26}|operator", name):
        return None if name is None else WorkspaceId(name)
    return (await terminal.find_workspace(vault, operator, name)).workspace_id


def _in_vault(work: Callable[[Vault, Caller], Awaitable[T]]) -> T:
    async def opened() -> T:
        async with terminal.in_vault() as (vault, operator):
            return await work(vault, operator)

    return run(opened())
