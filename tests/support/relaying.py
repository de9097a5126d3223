"""The relay before a real port: a doorkeeper that says what a test wants, and a client's socket."""

import contextlib
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

import aiohttp
from msgspec import structs

from broker.admission import Admission, signed_url
from broker.settings import Settings
from support.api import Running, running
from support.eleven import INITIATION, METADATA, Eleven, Talk
from vault.errors import Unauthenticated, VaultError
from vault.model import Caller, WorkspaceId
from vault.secret import Secret
from vault.vault import Vault

TOKEN = "ya29.sentinel-of-a-token"
VARIABLES = {
    "secret__user_google_token": TOKEN,
    "secret__user_google_authorization": f"Bearer {TOKEN}",
    "user_google_instance": "https://mine.example.com",
    "user_id": "ada",
    "topic": "the default",
}
FRAME = {
    "type": INITIATION,
    "dynamic_variables": VARIABLES,
    "user_id": "ada",
    "environment": "staging",
    "branch_id": "branch_mint",
}
WORKSPACE = WorkspaceId("wsp_relay")
Where = Callable[[], Awaitable[str]]


def admission(**changes: Any) -> Admission:
    """An admission as a mint makes one."""
    made = Admission(
        conversation_id="kcv_1",
        caller=Caller(kind="key", actor_id="kcv_1", workspace=WORKSPACE),
        url=Secret("wss://upstream.example.com/?conversation_signature=sentinel"),
        first_frame=FRAME,
        client_variables=frozenset({"topic"}),
        overrides=("agent.language",),
        seconds_left=3600,
    )
    return structs.replace(made, **changes)


class Door:
    """Admits whom it gave a ticket, once; and notes what it is told."""

    def __init__(self, where: Where) -> None:
        self.where = where
        self.began: list[tuple[str, str]] = []
        self.ended: list[str] = []
        self.over: set[str] = set()
        self.admits = 0
        self.looks = 0
        self.fails: VaultError | None = None
        self._numbers = itertools.count(1)
        self._tickets: dict[str, Admission] = {}

    def ticket(self, **changes: Any) -> Secret:
        number = next(self._numbers)
        ticket = f"ktk_ticket_sentinel_{number}"
        conversation_id = f"kcv_{number}"
        caller = Caller(kind="key", actor_id=conversation_id, workspace=WORKSPACE)
        changes = {"conversation_id": conversation_id, "caller": caller, **changes}
        self._tickets[ticket] = admission(**changes)
        return Secret(ticket)

    async def admit(self, ticket: str) -> Admission:
        self.admits += 1
        found = self._tickets.pop(ticket, None)
        if self.fails is not None:
            raise self.fails
        if found is None:
            raise Unauthenticated
        return structs.replace(found, url=Secret(await self.where()))

    async def conversation_began(
        self, caller: Caller, conversation_id: str, upstream_id: str
    ) -> None:
        assert caller.actor_id == conversation_id
        self.began.append((conversation_id, upstream_id))

    async def has_ended(self, caller: Caller, conversation_id: str) -> bool:
        assert caller.actor_id == conversation_id
        self.looks += 1
        if self.fails is not None:
            raise self.fails
        return conversation_id in self.over

    async def end_conversation(self, caller: Caller, conversation_id: str) -> None:
        assert caller.actor_id == conversation_id
        self.ended.append(conversation_id)


class Relaying:
    """A service with a relay, and clients of it."""

    def __init__(self, run: Running, door: Door, session: aiohttp.ClientSession) -> None:
        self.run = run
        self.door = door
        self._session = session

    def url(self, ticket: Secret | None = None, **changes: Any) -> str:
        ticket = ticket or self.door.ticket(**changes)
        return signed_url(self.run.base, agent_id="agent_desk", ticket=ticket, conversation_id=None)

    @contextlib.asynccontextmanager
    async def socket(self, url: str = "", **more: Any) -> AsyncIterator[Talk]:
        """Open a client's socket, and say nothing."""
        more = {"max_msg_size": 0, **more}
        async with self._session.ws_connect(url or self.url(), **more) as socket:
            yield Talk(socket)

    @contextlib.asynccontextmanager
    async def talking(self, url: str = "", **frame: Any) -> AsyncIterator[Talk]:
        """Hold a conversation."""
        async with self.socket(url) as talk:
            await talk.send({"type": INITIATION, **frame})
            hello = await talk.frame()
            assert hello["type"] == METADATA, hello
            talk.conversation_id = hello[f"{METADATA}_event"]["conversation_id"]
            yield talk

    async def closed(self, url: str, *frames: Mapping[str, Any]) -> tuple[int | None, str]:
        """Open a socket, say these, and report how it was closed."""
        async with self.socket(url) as talk:
            for frame in frames:
                await talk.send(frame)
            return await talk.closed()

    def metric(self, name: str, **labels: str) -> float:
        return self.run.service.metrics.registry.get_sample_value(name, labels) or 0.0


@contextlib.asynccontextmanager
async def relaying(vault: Vault, where: Where | Eleven, **settings: Any) -> AsyncIterator[Relaying]:
    """Run a service whose relay leads to `where`."""
    if isinstance(where, Eleven):
        eleven = where

        async def where() -> str:
            return await eleven.signed_url("&include_conversation_id=true&environment=staging")

    door = Door(where)
    chosen = Settings(mode="development", **settings)
    async with (
        running(vault, chosen, doorkeeper=door) as run,
        aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session,
    ):
        yield Relaying(run, door, session)
