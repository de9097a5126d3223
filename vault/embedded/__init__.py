"""A private PostgreSQL, run from the programs of a wheel or of the system, under one folder.

* Nobody else reaches it: no TCP port, a socket in a folder of mode 0700, and a random superuser
  password. That superuser is for bootstrapping: it makes the roles that everything else uses.
* The server sees none of our environment, so no key of ours stands in ``/proc/PID/environ``.
* ``start`` makes, adopts or starts the server, from any number of processes at once. Whether it
  lives is asked by connecting, never by a PID: a PID may be a zombie's or another program's.
* Everybody who called ``start`` is a user of the server, and the last one to ``stop`` stops it,
  whoever started it. So a server that outlives a killed process is adopted by the next start and
  stopped at that one's end.
* After ``kill -9`` of anything, ``start`` works again and what was committed is there.
* As root it runs as ``postgres``, or as ``nobody``, or as whoever owns the data. No folder above
  the root ever changes its mode; where that account cannot reach the root (a checkout below
  ``/root``), everything goes to ``/var/lib/keyturn/<hash of the root>-<random>`` and the file
  ``cluster`` in the root says where. Removing the root leaves that folder behind.

::

    <root>/            or the folder that <root>/cluster names
      password         the superuser's, 0600
      data/            the cluster; data.init until it is complete
      run/             the socket; a folder in /tmp where this path is too long for one
      server.log       starts, stops and crashes; server.log.1 the one before
      pg-<version>/    the wheel's programs, where root had to copy them (they are in
                     /var/lib/keyturn where initdb would not bear this path)
      start.lock       held while a server is made, started or stopped
      users.lock       held, shared, by every user
"""

import contextlib
import fcntl
import hmac
import os
import pwd
import secrets
import shutil
import signal
import stat
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Self
from urllib.parse import quote

from vault.embedded.files import (
    digest,
    first_line,
    locked,
    open_private,
    open_to_read,
    own_folder,
    sync_folder,
    try_lock,
    write_private,
)
from vault.embedded.programs import (
    ANSWERS,
    ENVIRONMENT,
    OLDEST_MAJOR,
    RECOVERS,
    Account,
    Programs,
    command_line,
    find_bindir,
    initdb_dislikes,
)
from vault.errors import Misconfigured
from vault.secret import Secret

__all__ = ["DATABASE", "SUPERUSER", "Embedded", "find_bindir"]

SUPERUSER = "postgres"
DATABASE = "keyturn"
ELSEWHERE = Path("/var/lib/keyturn")
# 107 bytes on Linux and 103 on macOS; one limit, so that a folder behaves the same on both.
LONGEST_SOCKET_PATH = 103
LARGEST_LOG = 1_000_000
STOP_SECONDS = 30
# Beyond what a start may take, while the server says that it makes good what a crash has left.
RECOVERY_SECONDS = 600

SETTINGS = {
    "shared_buffers": "64MB",
    "max_connections": "100",
    "jit": "off",
    "random_page_cost": "1.1",  # no disk has to turn to the next page any more
    "timezone": "UTC",
    "log_timezone": "UTC",
    # What is wrong with a statement is for the client that sent it: the values of a row must not
    # get into a file, nor may the file grow with the traffic.
    "log_min_messages": "log",
    "log_min_error_statement": "panic",
    "log_error_verbosity": "terse",
    "log_checkpoints": "off",
}

# Python warns about a child that nobody waits for, and a server may outlive the object that
# launched it, because others use it.
_launched: list[subprocess.Popen[bytes]] = []


class Embedded:
    """The server of one data root, as one process uses it."""

    def __init__(
        self,
        root: Path,
        *,
        bindir: Path | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self.root = root.resolve()
        self._bindir = bindir
        self._settings = dict(settings or {})
        self._users: int | None = None
        self._started_here = False

    @property
    def started_here(self) -> bool:
        """Whether this object launched the server that it uses."""
        return self._started_here

    @property
    def home(self) -> Path:
        """The folder that holds everything: the root, or the one that ``cluster`` names."""
        try:
            return Path((self.root / "cluster").read_text().rstrip("\n"))
        except FileNotFoundError:
            return self.root

    @property
    def data(self) -> Path:
        """PostgreSQL's data directory."""
        return self.home / "data"

    @property
    def socket_dir(self) -> Path:
        """The folder with the socket. It depends on nothing but the path, so that all agree."""
        usual = self.home / "run"
        name = str(usual / ".s.PGSQL.5432")
        # libpq takes a comma for a second host; what cannot be printed may not be UTF-8.
        plain = "," not in name and name.isprintable()
        if plain and len(os.fsencode(name)) <= LONGEST_SOCKET_PATH:
            return usual
        # Not $TMPDIR or $XDG_RUNTIME_DIR: two processes of one user may see different ones.
        return Path("/tmp") / f"keyturn-{digest(self.home)}"  # noqa: S108 - own_folder checks it

    def password(self, user: str = SUPERUSER) -> Secret:
        """The password that this server wants from ``user``; whoever makes the role gives it."""
        return Secret(self._password(user))

    def dsn(self, user: str = SUPERUSER) -> Secret:
        """The address of the database for one role; the default is the bootstrapping superuser."""
        login = f"{quote(user, safe='')}:{quote(self._password(user), safe='')}"
        return Secret(
            f"postgresql://{login}@/{DATABASE}?host={quote(str(self.socket_dir), safe='')}"
        )

    def start(self, *, timeout: float = 60) -> Self:
        """Make, adopt or start the server, and be one of its users until ``stop``."""
        deadline = time.monotonic() + timeout
        try:
            self._settle()
            with locked(self.home / "start.lock", deadline):
                self._start(deadline)
                if self._users is None:
                    self._users = open_private(self.home / "users.lock", os.O_RDWR | os.O_CREAT)
                    # Never waits: it is taken exclusively only under start.lock, and shortly.
                    fcntl.flock(self._users, fcntl.LOCK_SH)
        except OSError as error:
            where = error.filename or self.home
            raise Misconfigured(
                f"PostgreSQL cannot be run in {self.root}: {error.strerror} ({where}). Use a data "
                "folder that belongs to the account that runs Keyturn."
            ) from error
        return self

    def stop(self) -> None:
        """Give the server up; the last user stops it."""
        users, self._users = self._users, None
        if users is None:
            return
        self._started_here = False
        try:
            with locked(self.home / "start.lock", time.monotonic() + 2 * STOP_SECONDS):
                if try_lock(users):
                    self._shut_down()
        finally:
            os.close(users)

    # Where: the folder, the account, the programs.

    def _settle(self) -> None:
        """Make the root; as root, find a place for the server that its account can reach."""
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self.home != self.root and not self.home.is_dir():
            raise Misconfigured(
                f"{self.root / 'cluster'} says that the database is in {self.home}, which is gone. "
                "Put it back, or remove that file to begin with an empty database."
            )
        if os.geteuid() != 0 or self.home != self.root:
            return
        account = self._account()
        if account.can_enter(self.root):
            return
        if account.can_enter(self.root.parent):
            mode = stat.S_IMODE(self.root.stat().st_mode)
            self.root.chmod(mode | 0o011)
        elif (self.root / "data").exists():
            raise Misconfigured(
                f"{self.root} holds a database, and the account {account.name}, which must run it, "
                "cannot get to it: a folder above it is closed to others. Move the data to a "
                "folder that is open, or open that one with chmod o+x."
            )
        else:
            self._settle_elsewhere(account)

    def _settle_elsewhere(self, account: Account) -> None:
        ELSEWHERE.mkdir(mode=0o711, parents=True, exist_ok=True)
        # A new name each time: what a removed root left behind belongs to keys that are gone.
        home = ELSEWHERE / f"{digest(self.root)}-{secrets.token_hex(4)}"
        home.mkdir()
        home.chmod(0o711)
        if not account.can_enter(home):
            home.rmdir()
            raise Misconfigured(
                f"The account {account.name}, which must run PostgreSQL, can enter neither "
                f"{self.root} nor {ELSEWHERE}. Choose a data folder that is open to it."
            )
        note = self.root / f"cluster.{home.name}"
        write_private(note, f"{home}\n")
        try:
            # A link is made only once, so that concurrent first starts agree on one place.
            (self.root / "cluster").hardlink_to(note)
        except FileExistsError:
            home.rmdir()
        finally:
            note.unlink()

    def _account(self) -> Account:
        if os.geteuid() != 0:
            return Account(os.geteuid(), os.getegid())
        with contextlib.suppress(FileNotFoundError):
            owner = self.data.stat()
            return Account(owner.st_uid, owner.st_gid)
        for name in ("postgres", "nobody"):
            with contextlib.suppress(KeyError):
                entry = pwd.getpwnam(name)
                return Account(entry.pw_uid, entry.pw_gid)
        raise Misconfigured(
            "PostgreSQL does not run as root, and there is neither an account 'postgres' nor "
            "'nobody'. Make one, or run Keyturn as another account, or set KEYTURN_DATABASE_URL."
        )

    def _programs(self, account: Account) -> Programs:
        bindir = find_bindir(self._bindir)
        programs = Programs(bindir, account)
        if programs.version is None:
            programs = Programs(self._copy(bindir, account), account)
        version = programs.version
        if version is None:
            raise Misconfigured(
                f"The account {account.name} cannot run {bindir / 'postgres'}. Set "
                "KEYTURN_PG_BINDIR to programs that it can run."
            )
        if int(version.split(".")[0]) < OLDEST_MAJOR:
            raise Misconfigured(
                f"{bindir} holds PostgreSQL {version}; Keyturn needs {OLDEST_MAJOR} or newer."
            )
        return programs

    def _copy(self, bindir: Path, account: Account) -> Path:
        """Copy a wheel's programs, with the libraries beside them, to where the account is."""
        package = bindir.parents[1]
        version = Programs(bindir, None).version
        if version is None or not bindir.parent.name.startswith("pginstall"):
            raise Misconfigured(
                f"The account {account.name}, which must run PostgreSQL, cannot run "
                f"{bindir / 'postgres'}. Set KEYTURN_PG_BINDIR to programs that it can run."
            )
        folder = ELSEWHERE if initdb_dislikes(self.home) else self.home
        target = folder / f"pg-{version}"
        if not target.exists():
            folder.mkdir(mode=0o711, parents=True, exist_ok=True)
            fresh = folder / f"pg.init-{digest(self.home)}"
            shutil.rmtree(fresh, ignore_errors=True)
            skip = shutil.ignore_patterns("include", "*.a")
            pginstall = fresh / package.name / bindir.parent.name
            shutil.copytree(bindir.parent, pginstall, symlinks=True, ignore=skip)
            libraries = package.with_name(f"{package.name}.libs")
            if libraries.is_dir():
                shutil.copytree(libraries, fresh / libraries.name, symlinks=True)
            open_to_read(fresh)
            try:
                fresh.rename(target)
            except OSError:
                # Another root that shares the folder was first; its copy is the same.
                shutil.rmtree(fresh)
        return target / package.name / bindir.parent.name / "bin"

    # What: the cluster.

    def _start(self, deadline: float) -> None:
        account = self._account()
        programs = self._programs(account)
        self._refuse_other_major(programs)
        if not (self.data / "PG_VERSION").exists():
            self._create(programs, account)
        if not (self.home / "password").exists():
            raise Misconfigured(
                f"{self.home / 'password'} is missing, and nobody gets into {self.data} without "
                "it. Put it back from a backup; without the data, remove both."
            )
        own_folder(self.socket_dir, account)
        self._serve(programs, deadline)

    def _refuse_other_major(self, programs: Programs) -> None:
        try:
            made_by = (self.data / "PG_VERSION").read_text().strip()
        except FileNotFoundError:
            return
        version = programs.version or ""
        if version.split(".")[0] == made_by:
            return
        raise Misconfigured(
            f"{self.data} was made by PostgreSQL {made_by}, and {programs.bindir} is {version}.\n"
            "A data directory is not carried over by a start. To carry it over by a dump:\n"
            f"  1. Start once with KEYTURN_PG_BINDIR=<folder of PostgreSQL {made_by}'s programs>.\n"
            f"  2. pg_dump -Fc -f keyturn.dump -h {self.socket_dir} -U {SUPERUSER} {DATABASE}\n"
            f"     (the password is in {self.home / 'password'}).\n"
            f"  3. Stop, and move {self.data} away.\n"
            "  4. Start without KEYTURN_PG_BINDIR; this makes a new, empty database.\n"
            "  5. pg_restore --clean --if-exists -d keyturn, with the same -h and -U,\n"
            "     keyturn.dump (the password is a new one)."
        )

    def _create(self, programs: Programs, account: Account) -> None:
        """Make the cluster aside and rename it, so that a killed start leaves no half of one."""
        if initdb_dislikes(programs.bindir) or "\n" in str(self.home):
            raise Misconfigured(
                f"PostgreSQL cannot be set up in {self.home} with the programs in "
                f"{programs.bindir}: initdb hands the latter to a shell, so it may not hold any "
                'of " $ ` \\, and neither path may hold a line break. Choose other folders.'
            )
        password = secrets.token_urlsafe(24)
        write_private(self.home / "password", password)
        fresh, handed = self.home / "data.init", self.home / "password.init"
        shutil.rmtree(fresh, ignore_errors=True)
        own_folder(fresh, account)
        write_private(handed, password, owner=account)
        hasty = self._settings.get("fsync") == "off"
        try:
            programs.must(
                "initdb",
                *("--pgdata", str(fresh), "--username", SUPERUSER, "--pwfile", str(handed)),
                *("--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", "C"),
                *("--data-checksums", *(["--no-sync"] if hasty else [])),
            )
        finally:
            handed.unlink()
        # Without a server, so without a password that would stand on a command line.
        programs.must(
            "postgres",
            *("--single", "-D", str(fresh), "-c", "exit_on_error=on"),
            *("-c", f"fsync={'off' if hasty else 'on'}", "template1"),
            stdin=f"CREATE DATABASE {DATABASE};\n".encode(),
        )
        fresh.rename(self.data)
        sync_folder(self.home)

    # When: the process.

    def _serve(self, programs: Programs, deadline: float) -> None:
        """Return once the server answers; launch it when there is no process of it."""
        process: subprocess.Popen[bytes] | None = None
        with contextlib.ExitStack() as on_failure:
            while (said := programs.asked(self.socket_dir)) != ANSWERS:
                if process is not None and process.poll() is not None:
                    # Backends of a killed server hold its memory until they notice, which they do.
                    if "shared memory block" not in self._last_words():
                        raise self._failed(f"PostgreSQL ended at once ({process.returncode})")
                    process = None
                    time.sleep(0.2)
                if time.monotonic() > deadline + (RECOVERY_SECONDS if said == RECOVERS else 0):
                    raise self._failed("PostgreSQL does not answer in time")
                if process is None and self._postmaster() is None:
                    process = self._launch(programs)
                    on_failure.callback(self._shut_down)  # nobody would know that it runs
                time.sleep(0.03)
            on_failure.pop_all()
        self._started_here = self._started_here or process is not None

    def _launch(self, programs: Programs) -> subprocess.Popen[bytes]:
        settings = {
            **SETTINGS,
            **self._settings,
            "listen_addresses": "",
            "unix_socket_directories": str(self.socket_dir),
            "unix_socket_permissions": "0700",
        }
        words = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        environment = dict(ENVIRONMENT)
        if stale := first_line(self.data / "postmaster.pid"):
            # PostgreSQL refuses to start while the PID of its lock file lives, whoever has it
            # now. Unlinking the file would be a race; this is how it is told to look past one
            # PID (as Patroni does). Its check of the shared memory still protects the data.
            environment["PG_GRANDPARENT_PID"] = stale.lstrip("-")
        # The lock beside the socket may name yet another PID. It protects no data.
        (self.socket_dir / ".s.PGSQL.5432.lock").unlink(missing_ok=True)
        log = self._open_log()
        try:
            process = programs.launch("-D", str(self.data), *words, log=log, env=environment)
        finally:
            os.close(log)
        _launched.append(process)
        return process

    def _postmaster(self) -> int | None:
        """The PID of this cluster's own server process, if there is one."""
        pid = first_line(self.data / "postmaster.pid")
        if pid is None or not pid.isdecimal():
            return None
        return int(pid) if os.fsencode(self.data) in command_line(int(pid)) else None

    def _without_file(self) -> int | None:
        """The PID of a server that we launched and that is about to be gone: somebody else told it
        to stop, as a terminal tells all of a group, and its file goes first.
        """
        name = os.fsencode(self.data)
        return next((one.pid for one in _launched if name in command_line(one.pid)), None)

    def _shut_down(self) -> None:
        for how in (signal.SIGINT, signal.SIGQUIT):  # PostgreSQL's fast, then immediate
            pid = self._postmaster() or self._without_file()
            if pid is None:
                break
            words = command_line(pid)
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, how)
            # Its pid file goes a moment before itself, and others read "stopped" as "gone".
            deadline = time.monotonic() + STOP_SECONDS
            while words and command_line(pid) == words and time.monotonic() < deadline:
                time.sleep(0.02)
        for process in [one for one in _launched if one.poll() is not None]:
            _launched.remove(process)

    def _open_log(self) -> int:
        # Not in the data directory, where the server's account could put a link for root.
        path = self.home / "server.log"
        if path.exists() and path.stat().st_size > LARGEST_LOG:
            path.rename(path.with_name("server.log.1"))
        log = open_private(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(log, b"---- start\n")
        return log

    def _last_words(self) -> str:
        text = (self.home / "server.log").read_text(errors="replace")[-4000:]
        return text.rpartition("---- start\n")[2].strip()

    def _failed(self, what: str) -> Misconfigured:
        return Misconfigured(f"{what}. {self.home / 'server.log'} ends:\n{self._last_words()}")

    def _password(self, user: str) -> str:
        password = (self.home / "password").read_text().strip()
        if user == SUPERUSER:
            return password
        # One-way: who knows a role's password does not know the superuser's.
        return hmac.digest(password.encode(), user.encode(), "sha256").hex()
