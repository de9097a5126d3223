"""Runs of refreshes in real processes, with a record of them: the world, its clients, its faults.

* A ``Site`` is a deployment with several replicas; a ``Run`` is some connections of two workspaces
  on it, at a sandbox of their own which rotates refresh tokens and ends a consent at a replay.
* Clients ask for tokens at replicas by chance, all the time; every token that one of them is handed
  goes into the record, and what the provider does is in the sandbox's history.
* ``Run.verdict`` proves that each connection refreshes once more, and has both read by
  ``support.refresh_history``. Nothing in here decides what is right.
"""

import asyncio
import contextlib
import logging
import os
import random
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, Final

import aiohttp
import asyncpg
from faults.load import Answer, Dropped, Refused, Wire
from msgspec import Struct
from support.api import Api
from support.connecting import SECRET
from support.process import PATIENCE, Deployment, Replica, deployment, has_died, postmaster
from support.provider_file import STRICT, graceful, write_providers
from support.refresh_history import Connected, Findings, Handed, Killed, Proof, Record, check
from support.sandbox import Provider, providing

from broker.sandbox import Faults, Issuing
from vault.bearer import generate

# What outlives a crash of the server: fsync matters only to a crash of the machine.
DURABLE: Final = {"fsync": "off"}
OnDatabase = Callable[..., contextlib.AbstractContextManager[Deployment]]
_ON_ONE_SERVER: Final[OnDatabase] = partial(deployment, DURABLE)
LIFETIME: Final = 4
GRACE: Final = 30
PAUSE: Final = 0.3
CLIENTS: Final = 2  # a connection
PROVED_WITHIN: Final = 150.0

_REFRESHING: Final = {"strict": STRICT, "graceful": graceful(GRACE)}
_ISSUING: Final = {
    "strict": Issuing(lifetime=LIFETIME, rotation="strict", replay_revokes=True),
    "graceful": Issuing(lifetime=LIFETIME, rotation="grace", grace=GRACE, replay_revokes=True),
}

_log = logging.getLogger("faults")
_CHANCE: Final = random.Random(0)  # noqa: S311 - spreads load, hides nothing

_HELD: Final = "select connection_id from vault.connection_lives where lease_owner = $1"
_REPLICAS: Final = "select replica_id from vault.replicas"
_LEASES_END: Final = """
update vault.connection_lives
   set lease_until = now(), due_at = now()
 where lease_owner = $1"""


class Member(Struct, frozen=True, eq=False):
    """A replica, and what it is called in the database."""

    replica: Replica
    owner: str


class Site:
    """A deployment whose replicas come and go."""

    def __init__(self, made: Deployment, session: aiohttp.ClientSession, operator: str) -> None:
        self.deployment = made
        self.session = session
        self.operator = operator
        self.keys: dict[str, str] = {}
        self.members: list[Member] = []

    @property
    def spool(self) -> Path:
        """Where answers wait for a database."""
        return Path(self.deployment.env["KEYTURN_SPOOL_DIR"])

    @property
    def ports(self) -> list[int]:
        return [one.replica.port for one in self.members]

    async def open(self, *workspaces: str) -> None:
        """The first replica, and the workspaces."""
        await self.deployment.migrate()
        await self.grow(1)
        for name in workspaces:
            made = await self.api(self.operator).post("/v1/workspaces", {"name": name})
            assert made.status == 201, made.body
            self.keys[name] = made.json["api_key"]

    async def grow(self, size: int) -> None:
        """Start replicas until there are so many."""
        while len(self.members) < size:
            before = set(await self.ids())
            replica = await self.deployment.start().ready()
            async with asyncio.timeout(PATIENCE):
                while not (new := set(await self.ids()) - before):  # noqa: ASYNC110 - another process tells nobody
                    await asyncio.sleep(0.05)
            [owner] = new
            self.members.append(Member(replica, owner))

    def api(self, key: str, member: Member | None = None) -> Api:
        return Api(self.session, (member or self.members[0]).replica.base, key)

    async def ids(self) -> list[str]:
        return await self.ask(_REPLICAS)

    async def held(self, member: Member) -> list[str]:
        """The connections whose refresh a replica has claimed."""
        return await self.ask(_HELD, member.owner)

    async def ask(self, statement: str, *arguments: object) -> list[str]:
        """A column, read as a superuser on a connection that no restart can spoil."""
        admin = await asyncpg.connect(self.deployment.owner.reveal())
        try:
            return [row[0] for row in await admin.fetch(statement, *arguments)]
        finally:
            await admin.close()

    async def until(self, statement: str, column: list[str], *arguments: object) -> None:
        """Wait until this is what the database says."""
        async with asyncio.timeout(PATIENCE):
            while await self.ask(statement, *arguments) != column:  # noqa: ASYNC110 - it tells nobody
                await asyncio.sleep(0.1)

    async def busy(self) -> Member:
        """A replica that has claimed something just now."""
        async with asyncio.timeout(PATIENCE):
            while True:
                for member in _CHANCE.sample(self.members, len(self.members)):
                    if await self.held(member):
                        return member
                await asyncio.sleep(0.01)

    async def caught(self) -> Member:
        """One that is stopped (and is to be killed, or woken up) with something in hand."""
        async with asyncio.timeout(PATIENCE):
            while True:
                member = await self.busy()
                os.kill(member.replica.process.pid, signal.SIGSTOP)
                if await self.held(member):
                    return member
                os.kill(member.replica.process.pid, signal.SIGCONT)

    # Faults

    async def kill(self, member: Member) -> Killed:
        """SIGKILL; says what that replica had in hand."""
        self.members.remove(member)
        member.replica.process.kill()
        at = time.monotonic()
        member.replica.kill()
        return Killed(at=at, held=frozenset(await self.held(member)))

    async def terminate(self, member: Member) -> int:
        """SIGTERM; returns the exit code."""
        self.members.remove(member)
        return await member.replica.stop()

    @contextlib.contextmanager
    def asleep(self, member: Member) -> Iterator[None]:
        """A replica that is stopped, and goes on later."""
        self.members.remove(member)
        os.kill(member.replica.process.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(member.replica.process.pid, signal.SIGCONT)
            self.members.append(member)

    async def let_leases_end(self, member: Member) -> None:
        """What would take the rest of a minute and a half is over now."""
        await self.ask(_LEASES_END, member.owner)

    async def crash_database(self, down: float = 0.0) -> None:
        """The server dies at once, and comes back."""
        server = postmaster(self.deployment.postgres.data)
        os.kill(server, signal.SIGQUIT)
        async with asyncio.timeout(PATIENCE):
            while not has_died(server):  # noqa: ASYNC110 - the dead tell nobody
                await asyncio.sleep(0.01)
        await asyncio.sleep(down)
        await asyncio.to_thread(self.deployment.postgres.start)


@contextlib.asynccontextmanager
async def a_site(
    folder: Path, *workspaces: str, on: OnDatabase = _ON_ONE_SERVER
) -> AsyncIterator[Site]:
    """A deployment that knows the providers of the runs; ``on`` some database."""
    catalogue = write_providers(folder / "providers", _REFRESHING)
    operator = generate("operator").reveal()
    with on(
        providers_dir=catalogue,
        spool_dir=folder / "spool",
        egress_allow="127.0.0.1",
        operator_key=operator,
        drain_seconds=0.3,
    ) as made:
        async with aiohttp.ClientSession() as session:
            site = Site(made, session, operator)
            await site.open(*workspaces)
            yield site


class Run:
    """Some connections, those who ask for their tokens, and what came of it.

    ``ports``: where they can be asked for now, which may change at any time.
    """

    def __init__(
        self, provider: Provider, keys: Mapping[str, str], ports: Callable[[], list[int]]
    ) -> None:
        self.provider = provider
        self.record = Record()
        self.answers: list[int] = []
        self._keys = keys
        self._ports = ports
        self._wires: dict[tuple[str, int], list[Wire]] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._over = asyncio.Event()

    # Clients

    def connected(self, connection: str, workspace: str, family: str) -> None:
        self.record.connected.append(
            Connected(connection=connection, workspace=workspace, family=family)
        )

    def begin(self, clients: int = CLIENTS, *, impatient: bool = False, **wanted: Any) -> None:
        """Have clients ask for every token over and over. Who is ``impatient`` hangs up early."""
        work = self.hang_up if impatient else self.ask
        for one in self.record.connected:
            for _ in range(clients):
                self._tasks.append(asyncio.create_task(self._repeat(work, one, wanted)))

    async def ask(self, one: Connected, wanted: Mapping[str, Any]) -> Answer | None:
        """Ask for a token at some replica, as its own workspace; write down what is handed out."""
        asked_at = time.time()
        answer = await self.call(one.workspace, "POST", f"{_path(one)}/token", wanted)
        if answer is not None and answer.status == 200 and answer.json["active"]:
            self.record.handed.append(self._handed(one, answer, asked_at))
        return answer

    async def hang_up(self, one: Connected, wanted: Mapping[str, Any]) -> None:
        """Ask, and be gone before the answer can be there."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CHANCE.uniform(0.005, 0.1)):
                await self.ask(one, wanted)

    async def pry(self) -> list[int]:
        """Ask for every token with the keys of the other workspaces; returns the statuses."""
        statuses = []
        for one in self.record.connected:
            for workspace in self._keys.keys() - {one.workspace}:
                as_other = Connected(
                    connection=one.connection, workspace=workspace, family=one.family
                )
                answer = await self.ask(as_other, {})
                statuses.append(answer.status if answer is not None else 0)
        return statuses

    async def call(self, workspace: str, method: str, path: str, body: Any) -> Answer | None:
        """One request; ``None`` where nobody answered."""
        port = _CHANCE.choice(self._ports())
        free = self._wires.setdefault((workspace, port), [])
        wire = free.pop() if free else Wire(port, self._keys[workspace])
        try:
            answer = await wire.call(method, path, body)
        except (Dropped, Refused):
            return None
        except asyncio.CancelledError:
            wire.close()
            raise
        free.append(wire)
        self.answers.append(answer.status)
        return answer

    async def end(self) -> None:
        """Nobody asks any more."""
        self._over.set()
        await asyncio.gather(*self._tasks)
        self._tasks.clear()
        self._over.clear()
        for wires in self._wires.values():
            for wire in wires:
                wire.close()

    # The provider

    @property
    def refreshes(self) -> int:
        """Token requests that the provider has worked on."""
        return sum(one.what == "used" for one in self.provider.state.history.events())

    async def until(self, more: int, what: str = "used") -> None:
        """Wait until the provider's history has so many more events of a kind than now."""
        so_far = self.provider.state.history.events()
        seen, left = so_far[-1].seq if so_far else 0, more
        async with asyncio.timeout(PATIENCE):
            while True:
                page = self.provider.state.history.page(seen, 10_000)
                left -= sum(one.what == what for one in page.events)
                if left <= 0:
                    return
                seen = page.next
                await asyncio.sleep(0.002)

    async def told(self, enough: int) -> None:
        """Wait until clients were handed so many tokens."""
        async with asyncio.timeout(PATIENCE):
            while len(self.record.handed) < enough:  # noqa: ASYNC110 - a list tells nobody
                await asyncio.sleep(0.01)

    # The end

    async def verdict(self) -> Findings:
        """Prove what still lives, and count."""
        await self.end()
        self.provider.misbehave(None)
        await asyncio.gather(*(self._prove(one) for one in self.record.connected))
        await self.end()
        history = self.provider.state.history
        assert history.page(0, 1).dropped == 0, "a part of the history is no history"
        found = check(self.record, history.events())
        in_flight = [len(one.held) for one in self.record.killed]
        _log.info(
            "%s; %d refreshes, %d tokens handed out, %s in flight at kills, answers %s",
            found.faults,
            found.refreshes,
            found.handed,
            in_flight,
            dict(Counter(self.answers)),
        )
        return found

    async def _prove(self, one: Connected) -> None:
        """Refresh once more, and take the token to the provider."""
        lives, deadline = False, time.monotonic() + PROVED_WITHIN
        while not lives and not self._is_over(one) and time.monotonic() < deadline:
            answer = await self.call(one.workspace, "POST", f"{_path(one)}/refresh", None)
            if answer is None or answer.status != 200:
                await asyncio.sleep(0.2)
                continue
            answer = await self.ask(one, {})
            if answer is not None and answer.status == 200 and answer.json["active"]:
                lives = self.provider.state.alive(answer.json["access_token"]) is not None
        self.record.proofs.append(Proof(connection=one.connection, lives=lives))

    def _is_over(self, one: Connected) -> bool:
        return any(
            family.id == one.family and family.ended
            for family in self.provider.state.ledger.families()
        )

    def _handed(self, one: Connected, answer: Answer, asked_at: float) -> Handed:
        found = answer.json
        ends = found.get("expires_at")
        return Handed(
            connection=one.connection,
            workspace=one.workspace,
            begun=answer.begun,
            ended=answer.ended,
            asked_at=asked_at,
            ends_at=None if ends is None else datetime.fromisoformat(ends).timestamp(),
            mark=self.provider.state.fingerprint(found["access_token"]),
            generation=found["generation"],
            degraded=found.get("degraded", False),
        )

    async def _repeat(
        self,
        work: Callable[[Connected, Mapping[str, Any]], Awaitable[object]],
        one: Connected,
        wanted: Mapping[str, Any],
    ) -> None:
        while not self._over.is_set():
            await work(one, wanted)
            await asyncio.sleep(_CHANCE.uniform(0, 2 * PAUSE))


def _path(one: Connected) -> str:
    return f"/v1/connections/{one.connection}"


class SiteRun(Run):
    """A run on a site."""

    def __init__(self, site: Site, provider: Provider) -> None:
        super().__init__(provider, site.keys, lambda: site.ports)
        self.site = site

    async def connect(self, users: int, kind: str) -> None:
        """An integration in each workspace, and so many connections of each."""
        for workspace, key in self.site.keys.items():
            self.provider.register(workspace, secret=SECRET)
            body = {
                "provider": kind,
                "client_id": workspace,
                "client_secret": SECRET,
                "variables": {"base": self.provider.base},
            }
            api = self.site.api(key)
            made = await api.put(f"/v1/integrations/{_integration(self.provider)}", body)
            assert made.status in (200, 201), made.body
            for number in range(users):
                await self._connect(api, workspace, f"user{number}")

    async def _connect(self, api: Api, workspace: str, user: str) -> None:
        family, pair = a_consent(self.provider, workspace)
        reply = await api.put(
            f"/v1/users/{user}/connections/{_integration(self.provider)}",
            {"access_token": pair.access, "refresh_token": pair.refresh, "expires_in": LIFETIME},
        )
        assert reply.status == 200, reply.body
        self.connected(reply.json["id"], workspace, family)

    async def disconnect(self) -> None:
        for one in self.record.connected:
            reply = await self.site.api(self.site.keys[one.workspace]).delete(_path(one))
            assert reply.status < 300, reply.body


def a_consent(provider: Provider, client: str) -> tuple[str, Any]:
    """A new family, and its first tokens."""
    ledger, issuing = provider.state.ledger, provider.state.issuing
    family = ledger.open(realm="", client_id=client, account="ada")
    # Whoever imports it counts from a moment later: it has to last a little longer.
    first = Issuing(lifetime=issuing.lifetime + 10)
    return family.id, ledger.give(family, first, refresh=True, request=0)


def _integration(provider: Provider) -> str:
    return f"at_{provider.base.rpartition(':')[2]}"


@contextlib.asynccontextmanager
async def a_run(
    site: Site, *, kind: str = "strict", users: int = 6, size: int = 3, faults: Faults | None = None
) -> AsyncIterator[SiteRun]:
    """Connections at a sandbox of their own, and as many replicas as are wanted."""
    await site.grow(size)
    async with a_provider(kind) as provider:
        run = SiteRun(site, provider)
        await run.connect(users, kind)
        provider.misbehave(faults)
        try:
            yield run
        finally:
            await run.end()
            await run.disconnect()


@contextlib.asynccontextmanager
async def a_provider(kind: str) -> AsyncIterator[Provider]:
    async with providing() as provider:
        provider.state.issuing = _ISSUING[kind]
        yield provider
