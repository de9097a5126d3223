"""A small client for the HTTP service, and the real server behind a free port."""

import asyncio
import contextlib
import io
import json
import socket
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

import aiohttp
from msgspec import Struct
from multidict import CIMultiDict

from broker.admission import Doorkeeper
from broker.app import Service, create_service
from broker.broker import Broker
from broker.server import Server
from broker.settings import Settings
from vault.vault import Vault


class Reply(Struct, frozen=True):
    """An answer, read to its end."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        found: str = self.json["code"]
        return found


class Api:
    """Talks to one base URL; a key given to ``with_key`` goes with every request."""

    def __init__(self, session: aiohttp.ClientSession, base: str, key: str | None = None) -> None:
        self.base = base
        self._session = session
        self._key = key

    def with_key(self, key: str | None) -> "Api":
        return Api(self._session, self.base, key)

    def at(self, base: str) -> "Api":
        """The same, at another replica."""
        return Api(self._session, base, self._key)

    async def call(
        self,
        method: str,
        path: str,
        *,
        body: Any = None,
        raw: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Reply:
        sent = CIMultiDict(headers or {})  # of one name there may be several
        if self._key is not None:
            sent.setdefault("Authorization", f"Bearer {self._key}")
        # A body that comes in pieces is sent in pieces.
        data: Any = io.BytesIO(raw) if isinstance(raw, bytes) else raw
        if body is not None:
            data = json.dumps(body).encode()
        if data is not None:
            sent.setdefault("Content-Type", "application/json")
        async with self._session.request(
            method, self.base + path, data=data, headers=sent, allow_redirects=False
        ) as reply:
            return Reply(reply.status, reply.headers.copy(), await reply.read())

    async def get(self, path: str, **more: Any) -> Reply:
        return await self.call("GET", path, **more)

    async def post(self, path: str, body: Any = None, **more: Any) -> Reply:
        return await self.call("POST", path, body=body, **more)

    async def put(self, path: str, body: Any = None, **more: Any) -> Reply:
        return await self.call("PUT", path, body=body, **more)

    async def delete(self, path: str, **more: Any) -> Reply:
        return await self.call("DELETE", path, **more)


class Running(Struct, frozen=True):
    """A service that answers."""

    service: Service
    base: str
    server: Server
    task: asyncio.Task[None]


class _QuietServer(Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield  # the test run keeps its own signal handlers


@contextlib.asynccontextmanager
async def running(
    vault: Vault,
    settings: Settings,
    listener: socket.socket | None = None,
    *,
    doorkeeper: Doorkeeper | None = None,
) -> AsyncIterator[Running]:
    """Run the service in this process, on this socket or on a free port."""
    broker = Broker(vault, vault.egress)
    service = create_service(vault, broker, settings, doorkeeper=doorkeeper)
    with listener or socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        server = _QuietServer(service, settings)
        task = asyncio.create_task(server.serve([listening]))
        while not server.started:  # noqa: ASYNC110 - uvicorn tells nobody
            await asyncio.sleep(0.01)
        try:
            yield Running(service, f"http://127.0.0.1:{port}", server, task)
        finally:
            server.should_exit = True
            await task
