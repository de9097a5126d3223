"""Servers under measurement: started apart, read from the kernel, stopped whatever happens.

* Each server is a process of its own. PostgreSQL is started by us before Keyturn, which adopts it,
  so that its CPU time and memory can be told from Keyturn's.
* CPU time is what the scheduler counted for every thread (``/proc/PID/task/*/schedstat``), over a
  process and its descendants. What a thread spent after the first reading and ended before the
  second is lost; ``Spent.vanished`` says how many did so.
* A server dies with us: it gets SIGTERM and then SIGKILL at the end, and SIGTERM from the kernel if
  we are killed ourselves.
"""

import asyncio
import contextlib
import ctypes
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Collection, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, Final, Literal

from msgspec import Struct

from bench import load
from bench.baselines import HELLO
from vault.embedded import Embedded

REPOSITORY: Final = Path(__file__).resolve().parents[1]
START_SECONDS: Final = 90.0
STOP_SECONDS: Final = 45.0
POLL_SECONDS: Final = 0.005

Baseline = Literal["hello_raw", "hello_typed", "minted", "minted_orm", "bare_mint"]
LogLevel = Literal["warning", "info"]
Thread = tuple[int, int]

ANSWER_SECONDS: Final = 180.0
COUNT: Final = load.request("GET", "/count", expected=b"granted")
READY: Final = load.request("GET", "/readyz", expected=b'"ready":true')

_PR_SET_PDEATHSIG = 1
_PROC = Path("/proc")
_PER_MICROSECOND = 1000
_KB_PER_MB = 1024


class NotStarted(Exception):
    """A server did not come up; the message says what it said."""


class Server(Struct, frozen=True):
    """A server that answers."""

    pid: int
    port: int
    seconds_to_ready: float


class Spent(Struct, frozen=True):
    """CPU time between two readings, and the threads that ended in between."""

    microseconds: float
    vanished: int


class Memory(Struct, frozen=True):
    """In megabytes. ``pss`` divides shared pages among their users; ``None``: not ours to read."""

    rss: float
    pss: float | None


# Starting and stopping


@contextlib.contextmanager
def data_dir() -> Iterator[Path]:
    """An empty data folder that is gone afterwards, with what PostgreSQL kept elsewhere for it."""
    outer = Path(tempfile.mkdtemp(prefix="keyturn-bench-"))
    folder = outer / "data"
    try:
        # As root PostgreSQL runs as another account, which has to pass through.
        outer.chmod(0o711)
        folder.mkdir(mode=0o711)
        yield folder
    finally:
        database = Embedded(folder / "postgres")
        shutil.rmtree(database.home, ignore_errors=True)
        shutil.rmtree(database.socket_dir, ignore_errors=True)
        shutil.rmtree(outer, ignore_errors=True)


@contextlib.contextmanager
def postgres(folder: Path) -> Iterator[Embedded]:
    """Run the PostgreSQL of a data folder, with the settings that Keyturn gives it."""
    embedded = Embedded(folder / "postgres")
    try:
        yield embedded.start()
    finally:
        embedded.stop()


def postmaster(folder: Path) -> int:
    """The PID of the PostgreSQL that serves a data folder."""
    lines = (Embedded(folder / "postgres").data / "postmaster.pid").read_text().splitlines()
    return int(lines[0])


@contextlib.asynccontextmanager
async def keyturn(
    folder: Path,
    *,
    key: str,
    log_level: LogLevel = "warning",
    more: Mapping[str, str] | None = None,
    scheduler: bool = True,
) -> AsyncIterator[Server]:
    """Run Keyturn on a data folder; the first one on it makes a workspace with this key.

    ``more``: settings that stand beside ours. Without ``scheduler`` another process refreshes.
    """
    port = free_port()
    settings = {
        **(more or {}),
        "KEYTURN_MODE": "development",
        "KEYTURN_DATA_DIR": str(folder),
        "KEYTURN_PORT": str(port),
        "KEYTURN_LOG_LEVEL": log_level,
        "KEYTURN_DRAIN_SECONDS": "0",  # nobody else asks it anything
        "KEYTURN_BOOTSTRAP_API_KEY": key,
    }
    words = ("-m", "broker.cli", "serve", *(() if scheduler else ("--no-scheduler",)))
    async with _running(words, settings, port, READY) as server:
        yield server


@contextlib.asynccontextmanager
async def baseline(
    name: Baseline, settings: Mapping[str, str] | None = None, probe: load.Request = HELLO
) -> AsyncIterator[Server]:
    """Run one of the baselines; it is up when ``probe`` is answered."""
    port = free_port()
    words = ("-m", "bench.baselines", name, str(port))
    async with _running(words, settings or {}, port, probe) as server:
        yield server


@contextlib.asynccontextmanager
async def handwritten_read(
    environ: Mapping[str, str], probe: load.Request
) -> AsyncIterator[Server]:
    """Run the read of a token that is written by hand, until it answers ``probe``."""
    port = free_port()
    words = ("-m", "bench.baselines", "handwritten_read", str(port))
    async with _running(words, environ, port, probe) as server:
        yield server


@contextlib.asynccontextmanager
async def provider() -> AsyncIterator[int]:
    """Run the fake provider; its port."""
    port = free_port()
    words = ("-m", "bench.baselines.provider", str(port))
    async with _running(words, {}, port, COUNT) as server:
        yield server.port


class Worker:
    """A process that does things on command; see ``bench.refreshers``."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.pid = process.pid
        self._process = process

    async def ask(self, line: bytes) -> bytes:
        """Send a line; return the line that answers it."""
        writer, reader = self._process.stdin, self._process.stdout
        assert writer is not None
        assert reader is not None
        writer.write(line + b"\n")
        answer = await asyncio.wait_for(reader.readline(), ANSWER_SECONDS)
        if not answer:
            raise NotStarted("A worker ended; what it said stands above.")
        return answer


@contextlib.asynccontextmanager
async def worker(name: str, environ: Mapping[str, str], settings: bytes) -> AsyncIterator[Worker]:
    """Run a refresher, until it is ready and as long as this is open."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "bench.refreshers", name),
        cwd=REPOSITORY,
        env=environment(environ),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        preexec_fn=_die_with_parent,
    )
    try:
        running = Worker(process)
        await running.ask(settings)
        yield running
    finally:
        await _ended(process)


async def _ended(process: asyncio.subprocess.Process) -> None:
    if process.stdin is not None:
        process.stdin.close()
    try:
        await asyncio.wait_for(process.wait(), STOP_SECONDS)
    except TimeoutError:
        process.kill()
        await process.wait()


@contextlib.asynccontextmanager
async def _running(
    words: tuple[str, ...], settings: Mapping[str, str], port: int, probe: load.Request
) -> AsyncIterator[Server]:
    with tempfile.TemporaryFile() as said:
        started = time.perf_counter()
        process = _launch(words, settings, said)
        try:
            while not await load.answers_now(port, probe):
                late = time.perf_counter() - started > START_SECONDS
                if late or process.poll() is not None:
                    said.seek(0)
                    raise NotStarted(f"{' '.join(words)}: {said.read()[-3000:].decode()}")
                await asyncio.sleep(POLL_SECONDS)
            yield Server(process.pid, port, time.perf_counter() - started)
        finally:
            _stop(process)


def _launch(
    words: tuple[str, ...], settings: Mapping[str, str], said: BinaryIO
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, *words],
        cwd=REPOSITORY,
        env=environment(settings),
        stdin=subprocess.DEVNULL,
        stdout=said,
        stderr=said,
        preexec_fn=_die_with_parent,  # noqa: PLW1509 - one system call, no lock
    )


def environment(settings: Mapping[str, str]) -> dict[str, str]:
    """Ours without any setting of ours: a shell's KEYTURN_ variables are of another Keyturn."""
    inherited = {name: text for name, text in os.environ.items() if name[:8] != "KEYTURN_"}
    # Nobody runs a service that compiles its modules at each start.
    inherited.pop("PYTHONDONTWRITEBYTECODE", None)
    return {**inherited, **settings}


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def free_port() -> int:
    """A port that nobody listens on now, and that the system gives nobody until we use it."""
    below = int((_PROC / "sys" / "net" / "ipv4" / "ip_local_port_range").read_text().split()[0])
    while True:
        port = below // 3 + secrets.randbelow(below - below // 3)
        with contextlib.suppress(OSError), socket.create_server((load.HOST, port)):
            return port


# Reading


def tree(root: int, *, without: Collection[int] = ()) -> list[int]:
    """A process and its descendants, except those below ``without``."""
    children: dict[int, list[int]] = {}
    for pid, parent in _parents():
        children.setdefault(parent, []).append(pid)
    found, waiting = [], [root]
    while waiting:
        pid = waiting.pop()
        if pid not in without:
            found.append(pid)
            waiting += children.get(pid, [])
    return found


def _parents() -> Iterator[tuple[int, int]]:
    for folder in _PROC.iterdir():
        if folder.name.isdecimal():
            with contextlib.suppress(OSError):
                # The name before the last bracket may hold anything, brackets too.
                after_name = (folder / "stat").read_text().rpartition(")")[2].split()
                yield int(folder.name), int(after_name[1])


def cpu_times(pids: Collection[int]) -> dict[Thread, int]:
    """Nanoseconds on a CPU so far, of every thread of these processes."""
    found: dict[Thread, int] = {}
    for pid in pids:
        with contextlib.suppress(OSError):
            for task in (_PROC / str(pid) / "task").iterdir():
                with contextlib.suppress(OSError):
                    found[pid, int(task.name)] = int((task / "schedstat").read_text().split()[0])
    return found


def spent(before: Mapping[Thread, int], after: Mapping[Thread, int]) -> Spent:
    """What was spent between two readings; a new thread counts from its beginning."""
    nanoseconds = sum(now - before.get(thread, 0) for thread, now in after.items())
    return Spent(nanoseconds / _PER_MICROSECOND, len(before.keys() - after.keys()))


def memory(pids: Collection[int]) -> Memory:
    """What these processes hold now."""
    rss, pss = 0.0, 0.0
    readable = True
    for pid in pids:
        try:
            lines = (_PROC / str(pid) / "smaps_rollup").read_text().splitlines()[1:]
            sizes = {line.split(":")[0]: int(line.split()[1]) for line in lines}
            rss, pss = rss + sizes["Rss"] / _KB_PER_MB, pss + sizes["Pss"] / _KB_PER_MB
        except PermissionError:
            # Keyturn forbids others to look into its memory (PR_SET_DUMPABLE); root may.
            readable = False
            pages = int((_PROC / str(pid) / "statm").read_text().split()[1])
            rss += pages * os.sysconf("SC_PAGE_SIZE") / _KB_PER_MB**2
    return Memory(rss, pss if readable else None)
