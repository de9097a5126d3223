"""A real PgBouncer in transaction mode, in front of a server that a test has."""

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final
from urllib.parse import parse_qs, urlsplit

from support.ports import free_port
from support.process import PATIENCE, Deployment
from vault.secret import Secret

PROGRAM: Final = shutil.which("pgbouncer") or "/usr/sbin/pgbouncer"
_SETTINGS: Final = """
[databases]
keyturn = host={host} dbname={database} {port}

[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {listen}
unix_socket_dir =
auth_type = scram-sha-256
auth_file = {users}
pool_mode = transaction
default_pool_size = {size}
max_client_conn = 200
server_login_retry = 1
logfile = {log}
"""


def is_there() -> bool:
    return Path(PROGRAM).exists()


class Bouncer:
    """``size``: connections to the server, for each login."""

    def __init__(self, folder: Path, made: Deployment, size: int) -> None:
        self.port = free_port()
        self._made = made
        self._process: subprocess.Popen[bytes] | None = None
        self._file = folder / "pgbouncer.ini"
        self._account = made.postgres.data.stat().st_uid
        users = folder / "users.txt"
        host = urlsplit(made.owner.reveal())
        [sockets] = parse_qs(host.query)["host"]
        logins = ("keyturn_app", "keyturn_worker", "postgres")
        users.write_text(
            "".join(f'"{one}" "{made.postgres.password(one).reveal()}"\n' for one in logins)
        )
        self._file.write_text(
            _SETTINGS.format(
                host=sockets,
                port="",
                database=host.path.removeprefix("/"),
                listen=self.port,
                users=users,
                size=size,
                log=folder / "pgbouncer.log",
            )
        )
        for file in (folder, users, self._file):
            os.chown(file, self._account, -1)

    def address(self, user: str) -> Secret:
        password = self._made.postgres.password(user).reveal()
        return Secret(f"postgresql://{user}:{password}@127.0.0.1:{self.port}/keyturn")

    @property
    def settings(self) -> dict[str, str]:
        """What a replica needs to know to come through here."""
        return {
            "database_url": self.address("keyturn_app").reveal(),
            "worker_database_url": self.address("keyturn_worker").reveal(),
            "statement_cache": "0",
        }

    def start(self) -> None:
        # It refuses to run as root; the server's own account may enter its socket's folder, too.
        name = pwd.getpwuid(self._account).pw_name
        as_user = ("-u", name) if os.geteuid() == 0 else ()
        self._process = subprocess.Popen(
            [PROGRAM, "-q", *as_user, str(self._file)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + PATIENCE
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
                return
            assert self._process.poll() is None, "it ended at once"
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def stop(self) -> None:
        """At once, as when its machine is lost."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait(PATIENCE)
            self._process = None


@contextlib.contextmanager
def bounced(made: Deployment, *, size: int = 4) -> Iterator[Bouncer]:
    folder = made.folder / "bouncer"
    folder.mkdir()
    bouncer = Bouncer(folder, made, size)
    bouncer.start()
    try:
        yield bouncer
    finally:
        bouncer.stop()
