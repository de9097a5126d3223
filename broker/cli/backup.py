"""``keyturn backup`` and ``keyturn restore``.

* A backup is one file; beside it stands, and grows with each backup, the list of what was deleted.
* Restoring fills an empty database. ``--verify`` only tries it out, elsewhere. ``--accept`` lets a
  database that came back by other means be the present one.
"""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import rich_click as click

from broker import boot, logs, terminal
from broker.cli import restoring
from broker.cli.rekey import say_report
from broker.cli.restoring import Deletions
from broker.migrations import PARTS
from broker.terminal import as_json, bar, fail, print_json, run, say
from vault.backup import Manifest
from vault.backup.archive import Reader
from vault.backup.moving_on import Moved
from vault.errors import Misconfigured
from vault.keyring.rotations import Tell

Result = dict[str, Any]
_PLACE = click.Path(path_type=Path)
_FOLDER = click.Path(path_type=Path, exists=True, file_okay=False)


@click.command()
@click.argument("place", type=_PLACE, metavar="FILE|FOLDER")
@as_json
def backup(place: Path, *, json_output: bool) -> None:
    """Back everything up to a new file; into a folder, under a name with the time."""

    async def work(tell: Tell) -> tuple[Path, Manifest]:
        async with terminal.in_vault() as (vault, operator):
            found = terminal.settings()
            logs.configure("warning")
            async with boot.database_addresses(found) as addresses:
                if addresses.owner is None:
                    raise Misconfigured("Set KEYTURN_OWNER_DATABASE_URL to back this up.")
                file = _file(place, vault.deployment_id)
                return file, await vault.back_up(operator, addresses.owner, file, PARTS, tell=tell)

    with bar() as tell:
        file, manifest = run(work(tell))
    if json_output:
        print_json({"file": str(file), **_of(manifest)})
        return
    say(f"{manifest.rows} rows in {file}")
    for root_key in sorted(manifest.root_keys):
        say(f"to open it takes the root key {root_key}, which is not in it")
    say(f"what is deleted is listed in {file.parent}; keep that list with the backups")


@click.command()
@click.argument("file", type=_PLACE, required=False)
@click.option("--verify", is_flag=True, help="Only try it out: open everything, change nothing.")
@click.option(
    "--accept", is_flag=True, help="No file: let the database that is there be the present one."
)
@click.option(
    "--ledger", "folders", type=_FOLDER, multiple=True, help="Another list of deletions is here."
)
@click.option(
    "--without-ledger", is_flag=True, help="No list is at hand: what was deleted comes back."
)
@as_json
def restore(
    file: Path | None,
    folders: tuple[Path, ...],
    *,
    verify: bool,
    accept: bool,
    without_ledger: bool,
    json_output: bool,
) -> None:
    """Restore a backup into an empty database, without what was deleted since."""
    if accept == (file is not None) or (accept and verify):
        raise click.UsageError("Give a FILE, or --accept without one.")
    if file is None:
        _accept(folders, without_ledger=without_ledger, json_output=json_output)
    elif verify:
        _verify(file, folders, without_ledger=without_ledger, json_output=json_output)
    else:
        _restore(file, folders, without_ledger=without_ledger, json_output=json_output)


def _restore(
    file: Path, folders: tuple[Path, ...], *, without_ledger: bool, json_output: bool
) -> None:
    async def work(tell: Tell) -> Result:
        settings = terminal.settings()
        logs.configure("warning")
        with Reader.of(file) as reader:
            manifest = reader.manifest
            restoring.refuse_other(settings, manifest)
            deletions = Deletions.of(
                settings,
                manifest.deployment_id,
                [file.parent, *folders],
                none=without_ledger,
            )
            done = await restoring.restored(settings, reader, deletions, tell)
        async with terminal.in_vault() as (vault, operator):
            await vault.restored(operator, done.level)
        return {
            **_of(manifest),
            **_of_moved(done.moved),
            "deletions_known_until": deletions.until(),
        }

    with bar() as tell:
        result = run(work(tell))
    _tell_of(result, json_output=json_output)


def _verify(
    file: Path, folders: tuple[Path, ...], *, without_ledger: bool, json_output: bool
) -> None:
    async def work(tell: Tell) -> restoring.Rehearsed:
        settings = terminal.settings()
        logs.configure("warning")
        with Reader.of(file) as reader:
            restoring.refuse_other(settings, reader.manifest)
            deletions = Deletions.of(
                settings,
                reader.manifest.deployment_id,
                [file.parent, *folders],
                none=without_ledger,
            )
            return await restoring.rehearsed(settings, reader, deletions, tell)

    with bar() as tell:
        found = run(work(tell))
    report = found.report
    if json_output:
        moved = _of_moved(found.restored.moved)
        opened = {"well": report.is_well, "opened": report.rows, "unopened": report.unopened}
        print_json({**_of(found.restored.manifest), **moved, **opened})
    else:
        say_report(report)
    if not report.is_well:
        fail("Not every value of this backup opens.")


def _accept(folders: tuple[Path, ...], *, without_ledger: bool, json_output: bool) -> None:
    async def work(tell: Tell) -> Result:
        async with terminal.in_vault() as (vault, operator):
            settings = terminal.settings()
            logs.configure("warning")
            deletions = Deletions.of(settings, vault.deployment_id, folders, none=without_ledger)
            moved = await vault.go_on(operator, deletions.entries(), tell=tell)
            return {**_of_moved(moved), "deletions_known_until": deletions.until()}

    with bar() as tell:
        result = run(work(tell))
    _tell_of(result, json_output=json_output)


def _file(place: Path, deployment: str) -> Path:
    if not place.is_dir():
        return place.absolute()
    now = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    return place.absolute() / f"keyturn-{deployment}-{now}.backup"


def _of(manifest: Manifest) -> Result:
    return {
        "deployment_id": manifest.deployment_id,
        "taken_at": manifest.taken_at,
        "schema": manifest.schema,
        "rows": manifest.rows,
        "root_keys": manifest.root_keys,
    }


def _of_moved(moved: Moved) -> Result:
    return {
        "workspaces": moved.workspaces,
        "shredded_workspaces": moved.shredded_workspaces,
        "shredded_users": moved.shredded_users,
        "revoked_keys": moved.revoked_keys,
        "in_doubt": moved.in_doubt,
    }


def _tell_of(result: Result, *, json_output: bool) -> None:
    if json_output:
        print_json(result)
        return
    if "rows" in result:
        say(f"{result['rows']} rows of {result['taken_at']:%Y-%m-%d %H:%M:%S} UTC are back")
    say(
        f"deleted again: {result['shredded_workspaces']} workspaces, "
        f"{result['shredded_users']} users, {result['revoked_keys']} API keys"
    )
    until = result["deletions_known_until"]
    known = f"deletions are known until {until:%Y-%m-%d %H:%M:%S} UTC" if until else None
    say(known or "no deletion is known; what was deleted since has come back")
    say(
        f"{result['in_doubt']} connections may have newer tokens that are lost: they are tried once"
    )
    say("from here on, this is the deployment's state")
