"""Two real PostgreSQL servers, a primary and its standby, and what befalls them.

* They listen on ports of 127.0.0.1, as servers on two machines would; an address names both.
* ``synchronous``: a commit is answered when the standby has it, too.
* ``kill`` is SIGKILL for all of a server at once; ``promote`` is what an operator's tool does then.
"""

import asyncio
import contextlib
import os
import pwd
import secrets
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import asyncpg

from support.ports import free_port
from support.process import backends, has_died, kill_dead, postmaster, short_folder
from vault.embedded.files import open_private, own_folder, write_private
from vault.embedded.programs import ENVIRONMENT, Account, Programs, find_bindir
from vault.secret import Secret

PATIENCE: Final = 30.0
SETTINGS: Final = {"fsync": "off", "shared_buffers": "32MB", "jit": "off", "timezone": "UTC"}


def programs() -> Programs | None:
    """Programs that can copy a server, and an account that can run them, if there are any."""
    account = Account(os.geteuid(), os.getegid())
    if os.geteuid() == 0:
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam("postgres")
            account = Account(entry.pw_uid, entry.pw_gid)
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    for bindir in (*installed, find_bindir()):
        found = Programs(bindir, account)
        if (bindir / "pg_basebackup").exists() and found.version is not None:
            return found
    return None


class Server:
    """One of the two."""

    def __init__(self, folder: Path, run: Programs, port: int, password: str) -> None:
        assert run.account is not None
        own_folder(folder, run.account)
        self.data = folder / "data"
        self.port = port
        self._folder = folder
        self._programs = run
        self._password = password
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"postgresql://postgres:{self._password}@127.0.0.1:{self.port}/postgres"

    def create(self) -> None:
        handed = self._folder / "password"
        assert self._programs.account is not None
        write_private(handed, self._password, owner=self._programs.account)
        self._programs.must(
            "initdb",
            *("--pgdata", str(self.data), "--username", "postgres", "--pwfile", str(handed)),
            *("--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", "C", "--no-sync"),
        )

    def copy(self, of: "Server") -> None:
        """Begin as a standby of another one."""
        words = ("-D", str(self.data), "-d", of.address, "-R", "-X", "stream", "-c", "fast")
        self._programs.must("pg_basebackup", *words, "--no-sync")

    def start(self) -> None:
        log = open_private(self._folder / "log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        settings = {
            **SETTINGS,
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": "",
            "wal_retrieve_retry_interval": "200ms",
        }
        words = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        self._process = self._programs.launch(
            "-D", str(self.data), *words, log=log, env=dict(ENVIRONMENT)
        )
        os.close(log)

    def kill(self) -> None:
        """All of its processes at once: none of them ends what it began."""
        with contextlib.suppress(FileNotFoundError):
            server = postmaster(self.data)
            if not has_died(server):
                kill_dead(server, *backends(server))
        if self._process is not None:
            self._process.wait(PATIENCE)

    async def ask(self, statement: str) -> Any:
        connection = await asyncpg.connect(self.address, timeout=5)
        try:
            return await connection.fetchval(statement)
        finally:
            connection.terminate()

    async def until(self, statement: str, is_right: Callable[[Any], bool]) -> None:
        """Wait until the server is there, and this is what it says."""
        deadline = time.monotonic() + PATIENCE
        while True:
            with contextlib.suppress(OSError, asyncpg.PostgresError):
                if is_right(await self.ask(statement)):
                    return
            assert time.monotonic() < deadline, (self._folder / "log").read_text()[-2000:]
            await asyncio.sleep(0.05)


class Pair:
    """What stands for an operator's database: ``dsn`` names both servers."""

    def __init__(self, folder: Path, run: Programs) -> None:
        self._password = secrets.token_urlsafe(16)
        ports = free_port(), free_port()
        self.primary, self.standby = (
            Server(folder / name, run, port, self._password)
            for name, port in zip(("one", "two"), ports, strict=True)
        )
        self._hosts = ",".join(f"127.0.0.1:{port}" for port in ports)

    def password(self, user: str = "postgres") -> Secret:
        return Secret(self._password if user == "postgres" else f"{user}-{self._password}")

    def dsn(self, user: str = "postgres") -> Secret:
        password = self.password(user).reveal()
        query = "target_session_attrs=read-write"
        return Secret(f"postgresql://{user}:{password}@{self._hosts}/keyturn?{query}")

    async def open(self, *, synchronous: bool) -> None:
        self.primary.create()
        self.primary.start()
        await self.primary.until("select 1", bool)
        await self.primary.ask("create database keyturn")
        self.standby.copy(self.primary)
        self.standby.start()
        await self.standby.until("select pg_is_in_recovery()", bool)
        if synchronous:
            await self.primary.ask("alter system set synchronous_standby_names = '*'")
            await self.primary.ask("select pg_reload_conf()")
        state = "sync" if synchronous else "async"
        told = "select sync_state from pg_stat_replication"
        await self.primary.until(told, lambda found: found == state)

    async def leave_behind(self) -> None:
        """The standby gets nothing more of what the primary does."""
        await self.standby.ask("alter system set primary_conninfo = ''")
        await self.standby.ask("select pg_reload_conf()")
        told = "select count(*) from pg_stat_wal_receiver"
        await self.standby.until(told, lambda found: found == 0)

    async def promote(self) -> None:
        assert await self.standby.ask("select pg_promote(true, 30)")

    def close(self) -> None:
        for server in (self.primary, self.standby):
            server.kill()


@contextlib.contextmanager
def a_pair(run: Programs) -> Iterator[Pair]:
    with short_folder() as folder:
        (folder / "pair").mkdir()
        pair = Pair(folder / "pair", run)
        try:
            yield pair
        finally:
            pair.close()
            shutil.rmtree(folder / "pair", ignore_errors=True)
