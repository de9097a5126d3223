"""Services of a test's own: the command in processes, to stop and to kill; or one in this process.

* Every process gets an environment that is written down here: nothing of the test run's leaks in.
* ``deployment`` is what an operator has: a PostgreSQL of its own, a root key, and replicas on it.
* ``alone`` is a service in this process, on a database that only one test has, to be broken.
"""

import asyncio
import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
from msgspec import Struct

from broker.migrations import PARTS
from broker.settings import Settings
from support.api import Running, running
from support.databases import name_in
from support.ports import free_port
from vault.database import Database
from vault.embedded import DATABASE, SUPERUSER, Embedded
from vault.kms import open_root_key
from vault.kms.file import create as create_root_key
from vault.migrations import Login, migrate
from vault.model import SCOPES, Caller, NewKey
from vault.secret import Secret
from vault.vault import Vault

CHECKOUT = Path(__file__).resolve().parents[2]
COMMAND = (sys.executable, "-P", "-m", "broker.cli")
PATIENCE = 60.0
# Speed for the tests' own data; whoever tests that nothing is lost leaves these out.
FAST = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}

_BEARER = re.compile(r"^kto?_[0-9A-Za-z]{49}$", re.MULTILINE)


def environment(**settings: object) -> dict[str, str]:
    """The environment of a process: ``mode="development"`` becomes ``KEYTURN_MODE``."""
    given = {f"KEYTURN_{name.upper()}": str(value) for name, value in settings.items()}
    return {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(CHECKOUT), **given}


def keyturn(
    *words: str, env: Mapping[str, str], stdin: str = ""
) -> "subprocess.CompletedProcess[str]":
    """Run one command to its end."""
    return subprocess.run(
        [*COMMAND, *words],
        env=dict(env),
        cwd="/",
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )


def bearers_in(text: str) -> list[str]:
    """The keys that stand on a line of their own."""
    return _BEARER.findall(text)


@contextlib.contextmanager
def short_folder() -> Iterator[Path]:
    """A short folder that every account can enter; no server in it survives."""
    # Not pytest's: its path is long for a socket, and closed to the account that root uses.
    folder = Path(tempfile.mkdtemp(prefix="kt", dir="/tmp")).resolve()
    folder.chmod(0o711)
    try:
        yield folder
    finally:
        for note in folder.rglob("postmaster.pid"):
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(note.read_text().split()[0]), signal.SIGQUIT)
        shutil.rmtree(folder, ignore_errors=True)


class Replica:
    """One ``keyturn serve``, from its start to its end."""

    def __init__(self, folder: Path, env: Mapping[str, str]) -> None:
        self.port = int(env["KEYTURN_PORT"])
        self.base = f"http://127.0.0.1:{self.port}"
        name = f"replica-{self.port}-{time.monotonic_ns()}"
        self._out, self._err = folder / f"{name}.out", folder / f"{name}.err"
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.process = subprocess.Popen(
                [*COMMAND, "serve"],
                env=dict(env),
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
            )

    @property
    def stdout(self) -> str:
        return self._out.read_text()

    @property
    def stderr(self) -> str:
        return self._err.read_text()

    @property
    def first_key(self) -> str | None:
        """The key that this start printed, if it did."""
        found = bearers_in(self.stdout)
        assert len(found) <= 1, "a start prints one key at most"
        return found[0] if found else None

    def listens(self) -> bool:
        """Does anybody at its port? A look at it costs next to nothing, unlike a request."""
        with socket.socket() as asking:
            return asking.connect_ex(("127.0.0.1", self.port)) == 0

    async def readiness(self) -> int:
        """What /readyz says; 0 where nobody answers."""
        try:
            async with (
                aiohttp.ClientSession() as session,
                session.get(self.base + "/readyz", timeout=aiohttp.ClientTimeout(10)) as reply,
            ):
                return reply.status
        except (aiohttp.ClientError, TimeoutError):
            return 0

    async def ready(self, seconds: float = PATIENCE) -> "Replica":
        """Wait for the first 200 of /readyz."""
        deadline = time.monotonic() + seconds
        while not self.listens() or await self.readiness() != 200:
            assert self.process.poll() is None, f"it ended: {self.stderr}"
            assert time.monotonic() < deadline, f"not ready in time: {self.stderr}"
            await asyncio.sleep(0.02)
        return self

    async def ended(self, seconds: float = PATIENCE) -> int:
        """Wait for its end; returns the exit code."""
        deadline = time.monotonic() + seconds
        while (code := self.process.poll()) is None:
            assert time.monotonic() < deadline, "it does not end"
            await asyncio.sleep(0.02)
        return code

    async def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return await self.ended()

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(PATIENCE)


@contextlib.contextmanager
def development(
    folder: Path, *, environ: Mapping[str, str] | None = None, **settings: object
) -> Iterator[Replica]:
    """A start as ``./dev serve`` makes it: a data directory, and nothing else said."""
    data = folder / "data"
    data.mkdir(exist_ok=True)
    data.chmod(0o711)  # else a start as root puts the database elsewhere, where it stays
    env = environment(mode="development", data_dir=data, port=free_port(), **settings)
    replica = Replica(folder, {**env, **(environ or {})})
    try:
        yield replica
    finally:
        replica.kill()


class Deployment:
    """A database, a root key, and what is started on them."""

    def __init__(
        self, folder: Path, postgres: Embedded, database: str = DATABASE, **settings: object
    ) -> None:
        self.folder = folder
        self.postgres = postgres
        self._database = database
        self.owner = self.login()
        self.root_key = folder / "root.key"
        create_root_key(self.root_key)
        self.env = environment(
            mode="development",
            kek=self.root_key.as_uri(),
            database_url=self.login("keyturn_app").reveal(),
            worker_database_url=self.login("keyturn_worker").reveal(),
            **settings,
        )
        self._replicas: list[Replica] = []

    def login(self, user: str = SUPERUSER) -> Secret:
        """The database's address for one role."""
        address = self.postgres.dsn(user).reveal()
        return Secret(address.replace(f"/{DATABASE}?", f"/{self._database}?"))

    async def with_new_database(self) -> "Deployment":
        """The same server, another empty database."""
        name = f"d{time.monotonic_ns()}"
        admin = await asyncpg.connect(self.owner.reveal())
        await admin.execute(f"create database {name}")
        await admin.close()
        return Deployment(self.folder, self.postgres, name)

    async def migrate(self) -> None:
        roles = ("keyturn_app", "keyturn_worker")
        await migrate(self.owner, [Login(self.login(role), role) for role in roles], parts=PARTS)

    def start(self, **settings: object) -> Replica:
        """Start one more replica; ``await replica.ready()`` waits for it."""
        more = {f"KEYTURN_{name.upper()}": str(value) for name, value in settings.items()}
        env = {**self.env, "KEYTURN_PORT": str(free_port()), **more}
        replica = Replica(self.folder, env)
        self._replicas.append(replica)
        return replica

    async def one_replica(self, **settings: object) -> tuple[Replica, str]:
        """Migrate, start one and wait for it; the key is the first workspace's."""
        await self.migrate()
        replica = await self.start(**settings).ready()
        assert replica.first_key is not None
        return replica, replica.first_key

    def command(self, *words: str, stdin: str = "") -> "subprocess.CompletedProcess[str]":
        """Run one command of this deployment's operator."""
        return keyturn(*words, env=self.env, stdin=stdin)

    def close(self) -> None:
        for replica in self._replicas:
            replica.kill()


@contextlib.contextmanager
def deployment(
    postgres_settings: Mapping[str, str] | None = None,
    *,
    bindir: Path | None = None,
    root: Path | None = None,
    **settings: Any,
) -> Iterator[Deployment]:
    """A PostgreSQL of its own that stands for an operator's; ``root`` is where its data lie."""
    with short_folder() as folder:
        chosen = FAST if postgres_settings is None else postgres_settings
        postgres = Embedded(root or folder / "pg", bindir=bindir, settings=chosen).start()
        try:
            made = Deployment(folder, postgres, **settings)
            try:
                yield made
            finally:
                made.close()
        finally:
            postgres.stop()


def postmaster(data: Path) -> int:
    """The PID of the server whose data are there."""
    return int((data / "postmaster.pid").read_text().split("\n", 1)[0])


def backends(pid: int) -> list[int]:
    """The PIDs of a server's own children."""
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(one) for one in found.split()]


def has_died(pid: int) -> bool:
    try:
        # A zombie, which a container without an init may keep for ever, has no words.
        return not Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return True


def kill_dead(*pids: int) -> None:
    """SIGKILL, and wait until they are gone."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + PATIENCE
    while not all(has_died(pid) for pid in pids):
        assert time.monotonic() < deadline, "a killed process lives"
        time.sleep(0.01)


class Alone(Struct, frozen=True):
    """A service on a database of its own, with the key of its one workspace."""

    running: Running
    vault: Vault
    database_name: str
    key: str
    key_id: str


@contextlib.asynccontextmanager
async def alone(
    server: Embedded, fresh: Secret, root_key: Path, settings: Settings
) -> AsyncIterator[Alone]:
    """Serve from the empty database that ``fresh`` is the superuser's address of."""
    name = name_in(fresh)
    application = server.dsn("keyturn_app").reveal().replace("/keyturn?", f"/{name}?")
    await migrate(fresh, [Login(Secret(application), "keyturn_app")], parts=PARTS)
    database = await Database.open(Secret(application), size=5, statement_cache=100)
    vault = await Vault.open(database, open_root_key(root_key.as_uri()))
    try:
        made = await vault.create_workspace(
            Caller.operator("tests"), "alone", first_key=NewKey(name="first", scopes=SCOPES)
        )
        assert made.bearer is not None
        key = made.bearer.reveal()
        caller = await vault.authenticate(key)
        async with running(vault, settings) as service:
            yield Alone(service, vault, name, key, caller.actor_id)
    finally:
        await vault.close()
