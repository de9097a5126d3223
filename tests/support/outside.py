"""The outside world over TLS: a sandbox under a name of its own, and a vault that finds it there.

* Providers of the real catalogue are used as they are, but for their addresses: an operator's file
  of the same id, which extends ours, leads them to the sandbox.
* The certificate is of a private authority, as in a company; nothing is left unchecked.
"""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from msgspec import Struct

from broker.sandbox import Sandbox, create_sandbox
from broker.sandbox.server import listen, server
from support.loopback import Authority
from support.visitor import Visitor
from vault.egress import Egress, parse_allow

HOST: Final = "sandbox.example"


class Outside(Struct, frozen=True):
    """The sandbox, and what is needed to get there."""

    state: Sandbox
    base: str
    authority: Authority

    def egress(self) -> Egress:
        """Our way out, on which nothing but the sandbox is found."""

        async def resolver(host: str) -> Sequence[str]:
            return ["127.0.0.1"] if host == HOST else []

        return Egress(
            allow=parse_allow("127.0.0.1", development=True),
            ca_file=self.authority.file,
            resolver=resolver,
        )

    @contextlib.asynccontextmanager
    async def visiting(self) -> AsyncIterator[Visitor]:
        """Somebody's browser, which finds the sandbox, too."""
        connector = aiohttp.TCPConnector(
            ssl=ssl.create_default_context(cafile=str(self.authority.file)), resolver=_Names()
        )
        jar = aiohttp.CookieJar(unsafe=True)
        async with aiohttp.ClientSession(cookie_jar=jar, connector=connector) as session:
            yield Visitor(session)

    def files(self, folder: Path, providers: Mapping[str, str]) -> Path:
        """An operator's providers; ``@`` in a text stands for the sandbox's address."""
        for name, text in providers.items():
            content = text.replace("@", self.base)
            (folder / f"{name}.toml").write_text(f'id = "{name}"\nas_of = 2026-11-21\n{content}')
        return folder


@contextlib.asynccontextmanager
async def outside(folder: Path) -> AsyncIterator[Outside]:
    """Run it."""
    authority, state = Authority(folder), Sandbox()
    with listen("127.0.0.1", 0) as listener:
        running = server(create_sandbox(state), embedded=True)
        running.config.ssl_certfile = str(authority.chain(HOST))
        task = asyncio.create_task(running.serve([listener]))
        while not running.started:  # noqa: ASYNC110 - uvicorn tells it by this flag alone
            await asyncio.sleep(0.01)
        try:
            yield Outside(state, f"https://{HOST}:{listener.getsockname()[1]}", authority)
        finally:
            running.should_exit = running.force_exit = True
            await task


class _Names(AbstractResolver):
    """Every name is this machine."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = ResolveResult(
            hostname=host, host="127.0.0.1", port=port, family=family, proto=0, flags=0
        )
        return [found]

    async def close(self) -> None:
        """There is nothing to close."""
