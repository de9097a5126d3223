"""Authorization servers that nobody here wrote: how to start them, and a way through their pages."""

import asyncio
import json
import shutil
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from conftest import Tenant
from support.visitor import Shown, Visitor

from vault.consent import Connection, Held
from vault.dialogue import Dialogue
from vault.oauth.app import App
from vault.vault import Vault

HERE: Final = Path(__file__).parents[1] / "peers"
NODE: Final = shutil.which("node")
CERTIFIED_MISSING: Final = NODE is None or not (HERE / "node_modules" / "oidc-provider").is_dir()
CERTIFIED_REASON: Final = "needs Node.js and 'npm install' in tests/peers (.ci/run does both)"
START_SECONDS: Final = 30
MAX_STEPS: Final = 12


@asynccontextmanager
async def certified(
    clients: Sequence[Mapping[str, Any]], *, pushed_only: bool = False
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
    assert process.stdin and process.stdout and process.stderr
    asked = {"clients": list(clients), "pushedOnly": pushed_only}
    process.stdin.write(json.dumps(asked).encode() + b"\n")
    line = await asyncio.wait_for(process.stdout.readline(), START_SECONDS)
    assert line, (await process.stderr.read()).decode()
    try:
        yield json.loads(line)["base"]
    finally:
        process.stdin.close()  # it ends with its input
        await process.communicate()


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

    def __init__(self, vault: Vault, tenant: Tenant) -> None:
        self._vault = vault
        self._tenant = tenant

    @property
    def dialogue(self) -> Dialogue:
        return self._vault._dialogue  # noqa: SLF001 - a refresh has no route of its own yet

    async def connection(self, user: str = "ada") -> Connection:
        caller = self._tenant.caller
        return await self._vault.find_connection(caller, user, "acme", "production")

    async def held(self, user: str = "ada") -> Held:
        connection = await self.connection(user)
        held = await self._vault._held(self._tenant.id, connection)  # noqa: SLF001 - as above
        assert held
        return held

    async def app(self) -> App:
        caller = self._tenant.caller
        row = await self._vault._integration_row(self._tenant.id, "acme")  # noqa: SLF001 - as above
        assert row
        return await self._vault._app(caller, row, "production")  # noqa: SLF001 - as above

    async def now(self) -> datetime:
        return await self._vault._time()  # noqa: SLF001 - as above
