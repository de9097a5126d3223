"""Authorization servers that nobody here wrote: how to start them, and how to get through."""

import asyncio
import json
import os
import re
import secrets
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from support.visitor import Shown, Visitor
from vault.consent import Held
from vault.dialogue import Dialogue
from vault.model import Caller
from vault.oauth.app import App, TokenSet
from vault.vault import Vault

RUNNING: Final = re.compile(r"running on (http://[0-9.:]+)")
HERE: Final = Path(__file__).parents[1] / "peers"
INSTALLED: Final = HERE / "node_modules"
# One that .ci/run installed beside the peers, where the machine's own is too old.
NODE: Final = shutil.which("node", path=INSTALLED / ".bin") or shutil.which("node")
CERTIFIED_NODE: Final = 20
CERTIFIED_REASON: Final = "needs Node.js 20 and 'npm install' in tests/peers (.ci/run does both)"
START_SECONDS: Final = 120
MAX_STEPS: Final = 12


def has_certified() -> bool:
    """Is npm's oidc-provider here, and a Node.js that it runs on?"""
    if NODE is None or not (INSTALLED / "oidc-provider").is_dir():
        return False
    said = subprocess.run([NODE, "--version"], capture_output=True, text=True, check=True)
    return int(said.stdout.removeprefix("v").partition(".")[0]) >= CERTIFIED_NODE


def own_host() -> str:
    """An address that no server had before: what one publishes is remembered for an hour, and a
    port of this machine is somebody else's before that.
    """
    return f"127.{64 + secrets.randbelow(64)}.{secrets.randbelow(256)}.{1 + secrets.randbelow(254)}"


@asynccontextmanager
async def certified(
    clients: Sequence[Mapping[str, Any]], *, pushed_only: bool = False, host: str | None = None
) -> AsyncIterator[str]:
    """Run npm's oidc-provider with these clients; gives its address."""
    process = await asyncio.create_subprocess_exec(
        NODE or "node",
        "oidc_provider.mjs",
        cwd=HERE,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdin
    assert process.stdout
    assert process.stderr
    host = host or own_host()
    asked = {"clients": list(clients), "pushedOnly": pushed_only, "host": host}
    process.stdin.write(json.dumps(asked).encode() + b"\n")
    line = await asyncio.wait_for(process.stdout.readline(), START_SECONDS)
    assert line, (await process.stderr.read()).decode()
    try:
        yield json.loads(line)["base"]
    finally:
        process.stdin.close()  # it ends with its input
        await process.communicate()


@asynccontextmanager
async def mocked(*options: str) -> AsyncIterator[str]:
    """Run PyPI's oidc-provider-mock with these options; gives its address."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-W", "ignore", "-m", "oidc_provider_mock", "--host", own_host(), "--port", "0"),
        *options,
        env={**os.environ, "NO_COLOR": "1"},
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr
    said, address = "", None
    while address is None:
        line = await asyncio.wait_for(process.stderr.readline(), START_SECONDS)
        said += line.decode()
        assert line, said
        address = RUNNING.search(said)
    rest = asyncio.create_task(process.stderr.read())  # or it would stop when the pipe is full
    try:
        yield address[1]
    finally:
        process.terminate()
        await process.wait()
        await rest


async def through(person: Visitor, answer: Shown, *, until: str, **typed: str) -> Shown:
    """Go through a server's pages, typing what they ask for, until it leads back to ``until``."""
    for _ in range(MAX_STEPS):
        if answer.status == 200:
            answer = await person.submit(answer, **typed)
        elif answer.location.startswith(until):
            return answer
        else:
            answer = await person.follow(answer)
    raise AssertionError(f"{answer.url} leads nowhere")


class Kept:
    """What the vault holds of one connection, and what it would talk to the provider with."""

    def __init__(self, vault: Vault, caller: Caller) -> None:
        self._vault = vault
        self._caller = caller

    @property
    def dialogue(self) -> Dialogue:
        return self._vault._dialogue  # noqa: SLF001 - a refresh has no route of its own yet

    async def held(self, user: str = "ada") -> Held:
        connection = await self._vault.find_connection(self._caller, user, "acme", "production")
        workspace = self._caller.workspace
        held = await self._vault._held(workspace, connection)  # noqa: SLF001 - as above
        assert held
        return held

    async def tokens(self) -> TokenSet:
        return (await self.held()).tokens

    async def app(self) -> App:
        workspace = self._caller.workspace
        row = await self._vault._integration_row(workspace, "acme")  # noqa: SLF001 - as above
        assert row
        return await self._vault._app(self._caller, row, "production")  # noqa: SLF001 - as above

    async def now(self) -> datetime:
        return await self._vault._time()  # noqa: SLF001 - as above
