"""``keyturn env``: a workspace's environments as one file, exported, compared and applied.

* Exit codes: 0 done or nothing to do, 1 refused or failed, 2 wrong usage, 3 ``plan --check`` found
  changes.
* Secrets and the target's key come from files, standard input, named environment variables or a
  prompt; never as an argument, and none is ever printed.
* Nothing is changed before the whole file is read, every value is at hand, and the person (or
  ``--yes``) agreed to the plan on screen.
"""

import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

import rich_click as click
from msgspec import Struct

from broker import terminal
from broker.environment_file import (
    Document,
    Plan,
    Step,
    compare,
    document_of,
    read,
    showing,
    to_plain,
    write,
)
from broker.environment_file.tree import MAX_SIZE
from broker.environment_file.values import Sources, read_given
from broker.settings import Settings
from broker.targets import Refused, Stopped, Target, apply
from broker.targets.own import OwnTarget
from broker.targets.remote import ELEVENLABS, RemoteTarget, dialect_of
from vault.egress import Egress, parse_allow
from vault.errors import Invalid, Misconfigured
from vault.secret import Secret
from vault.settings import read as read_settings

F = TypeVar("F", bound=Callable[..., Any])

CHANGES: Final = 3
STDIN: Final = "-"
MAX_KEY: Final = 4_096  # bytes
_COLOURS: Final = {"+": "green", "-": "red", "~": "yellow", "-/+": "magenta"}


class Place(Struct, frozen=True):
    """Which workspace, and where."""

    workspace: str | None
    target: str | None
    target_url: str | None
    key_file: str | None

    @property
    def url(self) -> str | None:
        """The address of a remote target; ``None`` for this Keyturn."""
        if self.target == "elevenlabs":
            return self.target_url or ELEVENLABS
        return self.target


class Scope(Struct, frozen=True):
    """What a plan is to cover beside the file."""

    prune: bool
    rotate: tuple[str, ...]


def at_a_place(command: F) -> F:
    """Give a command the options that say where the workspace is."""
    for option in (
        click.option(
            "--target-key-file", "key_file", help="A file with the target's key; - for stdin."
        ),
        click.option("--target-url", help="Another address for --target elevenlabs."),
        click.option("--target", help="'elevenlabs', or another Keyturn's URL; default: here."),
        click.option("--workspace", "-w", help="Its id or name; only here, and if there are many."),
    ):
        command = option(command)
    return command


def with_a_scope(command: F) -> F:
    """Give a command the options that say how much a plan covers."""
    for option in (
        click.option(
            "--rotate",
            multiple=True,
            metavar="NAME",
            help="Write this secret's (or auth connection's) value again.",
        ),
        click.option("--prune", is_flag=True, help="Remove what is not in the file."),
    ):
        command = option(command)
    return command


@click.group()
def env() -> None:
    """Environments as code: variables, secrets by name and auth connections in one YAML file."""


@env.command("export")
@click.option("--output", "-o", type=click.Path(dir_okay=False, path_type=Path), help="A file.")
@at_a_place
@terminal.as_json
def export(output: Path | None, *, json_output: bool, **place: str | None) -> None:
    """Print a workspace's environments as a file. No secret is in it."""
    where = _place(place)

    async def work() -> None:
        async with _opened(where) as target:
            document = document_of(await target.read())
        text = write(document)
        if read(text.encode(), "The export") != document:
            raise Invalid("This workspace holds something that a file cannot say.")
        if output is not None:
            _write(output, text)
        elif json_output:
            terminal.print_json(to_plain(document))
        else:
            click.echo(text, nl=False)

    terminal.run(work())


@env.command("plan")
@click.argument("file")
@click.option("--check", is_flag=True, help="Exit 3 if there are changes.")
@with_a_scope
@at_a_place
@terminal.as_json
def plan_command(
    file: str,
    *,
    check: bool,
    prune: bool,
    rotate: tuple[str, ...],
    json_output: bool,
    **place: str | None,
) -> None:
    """Say what `apply` would change. Needs no secret's value, and changes nothing."""
    where = _place(place)
    _refuse_shared_stdin(file, where.key_file)

    async def work() -> Plan:
        document = _document(file)
        async with _opened(where) as target:
            return compare(document, await target.read(), prune=prune, rotate=rotate)

    found = terminal.run(work())
    _show(found, json_output=json_output)
    sys.exit(CHANGES if check and found.steps else 0)


@env.command("apply")
@click.argument("file")
@click.option("--secrets", "secrets_file", help="A YAML or JSON file of values; - for stdin.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--replace", is_flag=True, help="Let a variable's type change: delete and create.")
@with_a_scope
@at_a_place
@terminal.as_json
def apply_command(
    file: str,
    *,
    secrets_file: str | None,
    yes: bool,
    replace: bool,
    prune: bool,
    rotate: tuple[str, ...],
    json_output: bool,
    **place: str | None,
) -> None:
    """Make a workspace be what the file says. Applying again changes nothing."""
    where = _place(place)
    _refuse_shared_stdin(file, where.key_file, secrets_file)
    can_ask = _can_ask(file, where.key_file, secrets_file)
    if not yes and (json_output or not can_ask):
        raise click.UsageError("Nobody is there to be asked: give --yes.")

    async def work() -> int:
        document = _document(file)
        given = read_given(_content(secrets_file), document) if secrets_file else {}
        folder = Path() if file == STDIN else Path(file).parent
        async with _opened(where) as target:
            plan = compare(document, await target.read(), prune=prune, rotate=rotate)
            _refuse_replacing(plan, allowed=replace)
            if not json_output:
                _show(plan, json_output=False)
            values = Sources(
                document, given, folder=folder, environ=os.environ, ask=_ask if can_ask else None
            ).gather(plan)
            if plan.steps and not yes:
                click.confirm("Make these changes?", abort=True, err=True)
            return await _apply(plan, target, values, json_output=json_output)

    sys.exit(terminal.run(work()))


async def _apply(plan: Plan, target: Target, values: Any, *, json_output: bool) -> int:  # noqa: ANN401
    done: list[Step] = []

    def report(step: Step) -> None:
        done.append(step)
        if not json_output:
            click.echo(f"done: {_short(step)}")

    try:
        refused = await apply(plan, target, values, report)
    except Stopped as stopped:
        raise Invalid(
            f"{_short(stopped.step)}: {stopped.message}\n"
            f"Stopped after {stopped.done} of {len(plan.steps)} changes. "
            "Apply the same file again to go on."
        ) from None
    _conclude(done, refused, json_output=json_output)
    return terminal.FAILED if refused else 0


def _conclude(done: list[Step], refused: list[Refused], *, json_output: bool) -> None:
    if json_output:
        terminal.print_json(
            {
                "applied": [_short(step) for step in done],
                "refused": [{"step": _short(one.step), "reason": one.reason} for one in refused],
            }
        )
        return
    for one in refused:
        click.echo(f"keyturn: {_short(one.step)}: {one.reason}", err=True)


def _short(step: Step) -> str:
    return f"{step.action} {showing.headline(step)}"


def _show(plan: Plan, *, json_output: bool) -> None:
    if json_output:
        terminal.print_json(showing.as_data(plan))
        return
    coloured = sys.stdout.isatty() and not os.environ.get("NO_COLOR")

    def paint(mark: str, text: str) -> str:
        return click.style(text, fg=_COLOURS[mark]) if coloured else text

    for line in showing.lines(plan, paint):
        click.echo(line, color=coloured)


def _refuse_replacing(plan: Plan, *, allowed: bool) -> None:
    labels = [step.name for step in plan.steps if step.action == "replace"]
    if labels and not allowed:
        raise Invalid(
            f"The type of {', '.join(labels)} would change. A variable's type is changed by "
            "deleting and creating it, and in between it has no value: --replace allows that."
        )


# Where to


def _place(given: dict[str, str | None]) -> Place:
    place = Place(**given)
    if place.url and place.workspace:
        raise click.UsageError("--workspace is for this Keyturn: the target's key decides there.")
    if place.target_url and place.target != "elevenlabs":
        raise click.UsageError("--target-url goes with --target elevenlabs.")
    if place.key_file and not place.url:
        raise click.UsageError("--target-key-file goes with --target.")
    if place.target and place.target != "elevenlabs" and "://" not in place.target:
        raise click.UsageError("--target is 'elevenlabs' or a URL.")
    return place


@asynccontextmanager
async def _opened(place: Place) -> AsyncIterator[Target]:
    if place.url is None:
        async with terminal.in_workspace(place.workspace) as (vault, caller):
            yield OwnTarget(vault, caller)
        return
    # Neither a database nor a root key is needed to talk to somebody else, so what the service
    # would refuse to start without is not asked for.
    settings = read_settings(Settings, os.environ)
    egress = Egress(
        # Nothing is forbidden beside what is never allowed: no workspace chose this address, and
        # the Keyturn at the next port may well be the one that is meant.
        allow=parse_allow(settings.egress_allow, development=settings.development),
        ca_file=settings.egress_ca_file,
    )
    dialect = "elevenlabs" if place.target == "elevenlabs" else dialect_of(place.url)
    try:
        yield RemoteTarget(egress, place.url, _key(place.key_file), dialect)
    finally:
        await egress.aclose()


def _key(key_file: str | None) -> Secret:
    if key_file is not None:
        text = _content(key_file, MAX_KEY).decode("latin-1").strip()
    elif sys.stdin.isatty():
        text = click.prompt("The target's key", hide_input=True, err=True).strip()
    else:
        raise Misconfigured("Give the target's key: --target-key-file FILE, or - for stdin.")
    if not text:
        raise Misconfigured("The file of the target's key is empty.")
    return Secret(text)


# Files


def _document(file: str) -> Document:
    return read(_content(file), "The file" if file == STDIN else file)


def _content(file: str, limit: int = MAX_SIZE) -> bytes:
    try:
        if file == STDIN:
            content = sys.stdin.buffer.read(limit + 1)
        else:
            with Path(file).open("rb") as opened:
                content = opened.read(limit + 1)
    except OSError as error:
        raise Invalid(f"{file} cannot be read: {error.strerror}.") from None
    if len(content) > limit:
        raise Invalid(f"{file} is larger than {limit} bytes.")
    return content


def _write(output: Path, text: str) -> None:
    # Whoever reads the file meanwhile sees the old one or the new one.
    beside = output.with_name(f".{output.name}.{os.getpid()}")
    try:
        beside.write_text(text, encoding="utf-8", newline="\n")
        beside.replace(output)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise Invalid(f"{output} cannot be written: {error.strerror}.") from None


def _refuse_shared_stdin(*files: str | None) -> None:
    if files.count(STDIN) > 1:
        raise click.UsageError("Only one thing can come by standard input.")


def _can_ask(*files: str | None) -> bool:
    return STDIN not in files and sys.stdin.isatty()


def _ask(what: str) -> str:
    text: str = click.prompt(what, hide_input=True, err=True)
    return text
