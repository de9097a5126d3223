"""``keyturn upstream``: where a workspace's runtimes are, through the same door as HTTP.

API keys and secrets are read from a file or standard input, and never shown again.
"""

from contextlib import suppress
from typing import BinaryIO, Final, TypeVar

import msgspec
import rich_click as click

from broker.api.agent_messages import ProjectIn, ProjectOut, UpstreamIn, UpstreamOut
from broker.api.messages import Message
from broker.broker import Broker
from broker.terminal import (
    as_json,
    in_workspace,
    of_workspace,
    print_done,
    print_json,
    run,
    say,
)
from broker.upstreams.rows import Kind
from vault.errors import NotFound

M = TypeVar("M", bound=Message)
Shown = UpstreamOut | ProjectOut

KINDS: Final[tuple[Kind, ...]] = ("elevenlabs", "livekit")
MAX_FILE: Final = 64 * 1024

of_kind = click.argument("kind", type=click.Choice(KINDS))


@click.group()
def upstream() -> None:
    """Upstreams: the workspace's own account at ElevenLabs, its LiveKit project."""


@upstream.command("list")
@of_workspace
@as_json
def upstream_list(workspace: str | None, *, json_output: bool) -> None:
    """List what the workspace has named, without keys."""
    found = run(_listed(workspace))
    if json_output:
        print_json(found)
        return
    for kind, one in found.items():
        place = one.base_url if isinstance(one, UpstreamOut) else one.url
        say(f"{kind:12} {place}")


@upstream.command("put")
@of_kind
@click.argument("file", type=click.File("rb"))
@of_workspace
@as_json
def upstream_put(kind: Kind, file: BinaryIO, workspace: str | None, *, json_output: bool) -> None:
    """Name an upstream, or another one, from a JSON FILE, as HTTP takes it; - is standard input."""
    raw = file.read(MAX_FILE)
    made: Shown
    if kind == "livekit":
        made, is_new = run(_put_project(_read(kind, raw, ProjectIn), workspace))
    else:
        made, is_new = run(_put_account(_read(kind, raw, UpstreamIn), workspace))
    print_done(made, f"{kind}: {'made' if is_new else 'replaced'}", json_output=json_output)


@upstream.command("delete")
@of_kind
@of_workspace
@as_json
def upstream_delete(kind: Kind, workspace: str | None, *, json_output: bool) -> None:
    """Forget an upstream. What was made there stays there."""
    run(_deleted(kind, workspace))
    print_done({"id": kind, "deleted": True}, f"{kind}: deleted", json_output=json_output)


def _read(kind: Kind, raw: bytes, message: type[M]) -> M:
    try:
        return msgspec.json.decode(raw, type=message)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        # What a message says of a value is its type and its rule, and not the value.
        said = str(error) if isinstance(error, msgspec.ValidationError) else "it is no JSON"
        raise click.UsageError(f"{kind}: {said}") from None


async def _listed(workspace: str | None) -> dict[Kind, Shown]:
    async with in_workspace(workspace) as (vault, caller):
        broker = Broker(vault, vault.egress)
        found: dict[Kind, Shown] = {}
        with suppress(NotFound):
            found["elevenlabs"] = UpstreamOut.of(await broker.upstreams.get(caller))
        with suppress(NotFound):
            found["livekit"] = ProjectOut.of(await broker.projects.get(caller))
        return found


async def _put_account(wanted: UpstreamIn, workspace: str | None) -> tuple[UpstreamOut, bool]:
    async with in_workspace(workspace) as (vault, caller):
        made, is_new = await Broker(vault, vault.egress).upstreams.put(caller, wanted.upstream())
        return UpstreamOut.of(made), is_new


async def _put_project(wanted: ProjectIn, workspace: str | None) -> tuple[ProjectOut, bool]:
    async with in_workspace(workspace) as (vault, caller):
        made, is_new = await Broker(vault, vault.egress).projects.put(caller, wanted.project())
        return ProjectOut.of(made), is_new


async def _deleted(kind: Kind, workspace: str | None) -> None:
    async with in_workspace(workspace) as (vault, caller):
        broker = Broker(vault, vault.egress)
        await (broker.projects if kind == "livekit" else broker.upstreams).delete(caller)
