"""Keys of both levels are rotated while conversations are minted and tokens refreshed: nobody
notices.

The command in processes of its own, two replicas, a provider that rotates its refresh tokens.
"""

import asyncio
import contextlib
import itertools
import json
import os
import pty
import random
import subprocess
import time
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any, Final

import aiohttp
import pytest
from joserfc.jwk import OKPKey
from msgspec import Struct
from support.api import Api
from support.connecting import SECRET
from support.process import COMMAND, Deployment, Replica, deployment
from support.provider_file import graceful, write_providers
from support.sandbox import Provider, providing

from broker.sandbox import Client, Issuing
from broker.sandbox.history import tally
from vault.bearer import generate
from vault.kms.file import new_line

PEOPLE: Final = 6
WORKSPACES: Final = 12
KILLS: Final = 20
ASKED: Final = (
    *("token", "alive", "refresh", "profile"),
    *("mint plain", "mint signed", "mint redeemed", "redeem", "minted alive"),
)


class Scene(Struct, frozen=True):
    """Two replicas, workspaces with a user each, and a first one with connections."""

    made: Deployment
    replicas: list[Replica]
    apis: list[Api]
    connections: list[str]
    provider: Provider

    def rekey(self, *words: str, errors_to: int = subprocess.PIPE) -> "subprocess.Popen[bytes]":
        """Start the command."""
        return subprocess.Popen(
            [*COMMAND, "rekey", *words],
            env={**self.made.env, "TERM": "xterm", "COLUMNS": "100"},
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors_to,
        )

    async def rekeyed(self, *words: str) -> Any:
        """Run the command to its end; what it printed."""
        process = self.rekey(*words, "--json")
        out, err = await asyncio.to_thread(process.communicate, None, 240)
        assert process.returncode == 0, (out, err)
        return json.loads(out)

    def new_root_key(self) -> None:
        """Every replica finds the new line by itself."""
        file = self.made.root_key
        file.write_text(f"{new_line()}\n{file.read_text()}")


@pytest.fixture(scope="module")
async def scene(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Scene]:
    folder = tmp_path_factory.mktemp("rekeying")
    catalogue = write_providers(folder / "providers", {"rotating": graceful(30)})
    operator = generate("operator").reveal()
    with deployment(
        providers_dir=catalogue,
        spool_dir=folder / "spool",
        egress_allow="127.0.0.1",
        operator_key=operator,
    ) as made:
        first, key = await made.one_replica()
        second = await made.start().ready()
        async with providing() as provider, aiohttp.ClientSession() as session:
            apis = [Api(session, one.base, key) for one in (first, second)]
            connections = await _connected(apis[0], provider)
            await _with_agents(apis[0])
            for number in range(WORKSPACES):
                new = (
                    await apis[0].with_key(operator).post("/v1/workspaces", {"name": f"w{number}"})
                )
                own = apis[0].with_key(new.json["api_key"])
                assert (await own.put("/v1/users/u", {"name": f"User {number}"})).status == 200
            yield Scene(made, [first, second], apis, connections, provider)


async def _connected(api: Api, provider: Provider) -> list[str]:
    state = provider.state
    state.clients["app"] = Client(secret=SECRET)
    state.issuing = Issuing(rotation="grace", grace=30, replay_revokes=True)
    app = {
        "provider": "rotating",
        "client_id": "app",
        "client_secret": SECRET,
        "variables": {"base": provider.base},
    }
    assert (await api.put("/v1/integrations/acme", app)).status == 201
    found = []
    for number in range(PEOPLE):
        family = state.ledger.open(realm="", client_id="app", account=f"user{number}")
        pair = state.ledger.give(family, state.issuing, refresh=True, request=0)
        made = await api.put(
            f"/v1/users/user{number}/connections/acme",
            {
                "access_token": pair.access,
                "refresh_token": pair.refresh,
                "expires_in": 3600,
            },
        )
        assert made.status == 200, made.body
        found.append(made.json["id"])
    return found


async def _with_agents(api: Api) -> None:
    """Two agents: what one is told is signed and encrypted, what the other is told is redeemed."""
    public = OKPKey.generate_key("X25519").as_dict(private=False)
    for agent, more in (("signed", {"public_key": public}), ("redeemed", {})):
        made = await api.put(f"/v1/agents/{agent}", {"runtime": "sealed", **more})
        assert made.status == 201, made.body


class Load:
    """Mints, and asks for tokens, refreshes and profiles, at both replicas, until it is stopped."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._draw = random.Random(1)  # noqa: S311 - of connections, not of keys
        self.answers: Counter[str] = Counter()
        self.wrong: list[str] = []

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        tasks = [
            asyncio.create_task(work(api))
            for api in self._scene.apis
            for work in (self._tokens, self._refreshes, self._profiles, self._mints)
        ]
        yield
        for task in tasks:
            task.cancel()
        for ended in await asyncio.gather(*tasks, return_exceptions=True):
            assert isinstance(ended, asyncio.CancelledError), ended

    @contextlib.asynccontextmanager
    async def offered(self, a_second: int) -> AsyncIterator[None]:
        """Also so many mints a second, whether those before are answered or not."""
        over, started = asyncio.Event(), time.monotonic()

        async def offer() -> None:
            agents = itertools.cycle([("plain", {"delivery": "inline"}), ("signed", {})])
            async with asyncio.TaskGroup() as group:
                for number, api in enumerate(itertools.cycle(self._scene.apis)):
                    await asyncio.sleep(started + number / a_second - time.monotonic())
                    if over.is_set():
                        break
                    agent, more = next(agents)
                    user = f"user{self._draw.randrange(PEOPLE)}"
                    group.create_task(self._minted(api, agent, user, **more))
                    self.answers["offered"] += 1

        async with asyncio.TaskGroup() as group:
            group.create_task(offer())
            yield
            over.set()

    async def has_asked(self, number: int) -> None:
        """Wait until so much was asked for of every kind."""
        async with asyncio.timeout(120):
            while min(self.answers[what] for what in ASKED) < number:  # noqa: ASYNC110 - a count tells nobody
                await asyncio.sleep(0.05)

    async def _tokens(self, api: Api) -> None:
        while True:
            for connection in self._scene.connections:
                reply = await api.post(f"/v1/connections/{connection}/token", {})
                self._note("token", reply.status, reply.body)
                if reply.status == 200:
                    ledger = self._scene.provider.state.ledger
                    alive = ledger.alive(reply.json["access_token"], "") is not None
                    self._note("alive", 200 if alive else 0, b"a dead token")

    async def _refreshes(self, api: Api) -> None:
        while True:
            connection = self._draw.choice(self._scene.connections)
            reply = await api.post(f"/v1/connections/{connection}/refresh")
            self._note("refresh", reply.status, reply.body)
            await asyncio.sleep(0.05)

    async def _profiles(self, api: Api) -> None:
        number = 0
        while True:
            number += 1
            reply = await api.put("/v1/users/writer", {"name": f"Name {number}"})
            # Two replicas write the same user: one of them may be asked to try again.
            if reply.status != 409:
                self._note("profile", reply.status, reply.body)
            await asyncio.sleep(0.02)

    async def _mints(self, api: Api) -> None:
        while True:
            user = f"user{self._draw.randrange(PEOPLE)}"
            told = await self._minted(api, "plain", user, delivery="inline")
            if told is not None:
                self._note_token(told["dynamic_variables"]["secret__user_acme_token"])
            await self._minted(api, "signed", user)
            sealed = await self._minted(api, "redeemed", user)
            if sealed is not None:
                # At the other replica: it opens what this one has just sealed.
                other = self._scene.apis[self._scene.apis[0] is api]
                body = {"token": sealed["token"]}
                reply = await other.post("/v1/conversations/redeem", body)
                self._note("redeem", reply.status, reply.body)
                if reply.status == 200:
                    told = reply.json["dynamic_variables"]
                    self._note_token(told["secret__user_acme_token"])

    async def _minted(self, api: Api, agent: str, user: str, **more: str) -> Any:
        asked = {"agent_id": agent, "user_id": user, "runtime": "sealed", **more}
        reply = await api.post("/v1/conversations", asked)
        self._note(f"mint {agent}", reply.status, reply.body, well=201)
        return reply.json if reply.status == 201 else None

    def _note_token(self, token: str) -> None:
        alive = self._scene.provider.state.ledger.alive(token, "") is not None
        self._note("minted alive", 200 if alive else 0, b"a dead token")

    def _note(self, what: str, status: int, body: bytes, *, well: int = 200) -> None:
        self.answers[what] += 1
        if status != well:
            self.wrong.append(f"{what}: {status} {body[:300]!r}")


async def test_both_levels_are_rotated_under_load_without_an_error(scene: Scene) -> None:
    load = Load(scene)
    async with load.running():
        await load.has_asked(5)
        scene.new_root_key()
        done = await scene.rekeyed()
        await load.has_asked(25)
    assert load.wrong == []
    assert done["rewrapped"] >= 1 + WORKSPACES
    assert done["retired"] == 1 + WORKSPACES
    verified = await scene.rekeyed("verify")
    assert verified["well"]
    assert (verified["unopened"], verified["under_older_keys"]) == ([], 0)
    assert verified["workspaces"] == 1 + WORKSPACES
    assert verified["keys"]["active"] == 1 + WORKSPACES
    assert len(verified["root_keys"]) == 1
    assert not tally(scene.provider.state.history.events()).ended_by_replay


@pytest.mark.soak
async def test_both_levels_are_rotated_under_two_hundred_mints_a_second(scene: Scene) -> None:
    """On a machine that has the cores for it: nobody waits for those that were offered before."""
    load = Load(scene)
    async with load.offered(200):
        begun = time.monotonic()
        for _ in range(3):
            scene.new_root_key()
            await scene.rekeyed()
        lasted = time.monotonic() - begun
        offered = load.answers["offered"]
    assert load.wrong == []
    assert load.answers["mint plain"] + load.answers["mint signed"] == load.answers["offered"]
    assert offered > 190 * lasted, "the load was what it says"
    verified = await scene.rekeyed("verify")
    assert verified["well"]
    assert (verified["unopened"], verified["under_older_keys"]) == ([], 0)
    assert len(verified["root_keys"]) == 1


async def test_it_resumes_after_it_was_killed_at_any_point(scene: Scene) -> None:
    load, ended = Load(scene), 0
    draw = random.Random(7)  # noqa: S311 - of moments, not of keys
    async with load.running():
        scene.new_root_key()
        for _ in range(KILLS):
            process = scene.rekey()
            # From before it has begun to long after the switch of both levels.
            with contextlib.suppress(subprocess.TimeoutExpired):
                await asyncio.to_thread(process.wait, 0.6 + draw.random() * 3)
                ended += 1
            process.kill()
            await asyncio.to_thread(process.communicate)
        await scene.rekeyed()
    assert ended < KILLS
    assert load.wrong == []
    verified = await scene.rekeyed("verify")
    assert verified["well"]
    assert verified["under_older_keys"] == 0
    assert len(verified["root_keys"]) == 1
    assert not tally(scene.provider.state.history.events()).ended_by_replay


async def test_a_terminal_shows_a_bar_and_a_pipe_does_not(scene: Scene) -> None:
    piped = scene.rekey("verify")
    out, err = await asyncio.to_thread(piped.communicate, None, 240)
    assert (piped.returncode, err) == (0, b"")
    assert b"opened" in out

    ours, theirs = pty.openpty()
    process = scene.rekey("verify", "--json", errors_to=theirs)
    os.close(theirs)
    # Read meanwhile: who writes to a terminal that nobody reads has to wait.
    shows = asyncio.create_task(asyncio.to_thread(_all_of, ours))
    out, _ = await asyncio.to_thread(process.communicate, None, 240)
    shown = await shows
    assert process.returncode == 0
    assert json.loads(out)["well"]
    assert b"opening everything" in shown
    assert f"{1 + WORKSPACES}/{1 + WORKSPACES}".encode() in shown


def _all_of(terminal: int) -> bytes:
    found = b""
    with contextlib.suppress(OSError):  # the other side is closed
        while some := os.read(terminal, 65_536):
            found += some
    os.close(terminal)
    return found
