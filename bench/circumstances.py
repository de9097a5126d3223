"""What a figure depends on beside the code: the machine, the versions, the settings, the company.

No path, no host name, no account: a report can be published as it is.
"""

import os
import platform
import re
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Final, Self

import msgspec
from msgspec import Struct

from bench import processes
from vault.database import connect_as_owner

PACKAGES: Final = ("litestar", "msgspec", "uvicorn", "uvloop", "httptools", "asyncpg")
CRYPTO: Final = "cryptography"
SETTINGS: Final = (
    "server_version",
    "shared_buffers",
    "fsync",
    "synchronous_commit",
    "full_page_writes",
    "wal_level",
    "jit",
    "data_checksums",
    "max_connections",
)
SYNCS: Final = 50
BLOCK: Final = 8192
SHARING: Final = (
    "load generator, servers and PostgreSQL share these cores; loopback TCP, no TLS, database over "
    "a unix socket; Keyturn in development mode, log level 'warning' unless said"
)


class Circumstances(Struct, frozen=True):
    """All of it; ``ended`` adds the load average afterwards."""

    cpu: str
    cores: int
    memory_gb: float
    kernel: str
    python: str
    packages: dict[str, str]
    postgres: dict[str, str]
    fdatasync_us: float
    sharing: str
    load_before: float
    load_after: float
    others_percent: float
    taken_at: str

    @classmethod
    async def find(cls) -> Self:
        """Look at the machine, and start a PostgreSQL for a moment to ask for its settings."""
        load_before = os.getloadavg()[0]  # before anything of ours runs
        return cls(
            cpu=_cpu_model(),
            cores=len(os.sched_getaffinity(0)),
            memory_gb=round(_memory_gb(), 1),
            kernel=f"{platform.system()} {platform.release().split('-')[0]} {platform.machine()}",
            python=_python(),
            packages={name: version(name) for name in (*PACKAGES, CRYPTO)},
            postgres=await _postgres_settings(),
            fdatasync_us=round(_fdatasync_us(), 0),
            sharing=SHARING,
            load_before=load_before,
            load_after=load_before,
            others_percent=0.0,
            taken_at=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        )

    def ended(self, watch: "Watch") -> Self:
        """The same, with what is known when the run is over and its processes are gone."""
        return msgspec.structs.replace(
            self,
            load_after=os.getloadavg()[0],
            others_percent=round(watch.others_percent(), 1),
        )

    def lines(self) -> Iterator[tuple[str, str]]:
        """For the report."""
        yield "taken at", self.taken_at
        yield "machine", f"{self.cores} cores of {self.cpu}, {self.memory_gb} GB, {self.kernel}"
        yield "python", self.python
        yield "packages", ", ".join(f"{name} {of}" for name, of in self.packages.items())
        yield "postgres", ", ".join(f"{name} {value}" for name, value in self.postgres.items())
        yield "disk", f"8 kB write + fdatasync {self.fdatasync_us:.0f} us"
        yield "sharing", self.sharing
        yield "load average", f"{self.load_before:.2f} before, {self.load_after:.2f} after"
        yield "others", f"took {self.others_percent:.0f} % of the cores' time during the run"


class Watch:
    """How much of the machine others used since: the load average mixes them with ourselves."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._busy, self._own = _busy_seconds(), _own_seconds()

    def others_percent(self) -> float:
        """Their share of all cores' time, stolen time included; our children must be reaped."""
        theirs = (_busy_seconds() - self._busy) - (_own_seconds() - self._own)
        possible = (time.monotonic() - self._began) * (os.cpu_count() or 1)
        return max(0.0, 100 * theirs / possible)


def _busy_seconds() -> float:
    ticks = [int(text) for text in Path("/proc/stat").read_text().split("\n")[0].split()[1:9]]
    user, nice, system, _idle, _waiting, interrupts, soft_interrupts, stolen = ticks
    busy = user + nice + system + interrupts + soft_interrupts + stolen
    return busy / os.sysconf("SC_CLK_TCK")


def _own_seconds() -> float:
    return sum(os.times()[:4])


def _cpu_model() -> str:
    text = Path("/proc/cpuinfo").read_text(errors="replace")
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found[1].strip() if found else platform.processor() or "an unknown processor"


def _memory_gb() -> float:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30


def _python() -> str:
    options = sysconfig.get_config_var("CONFIG_ARGS") or ""
    profiled = "--enable-optimizations" in options
    linked = "--with-lto" in options
    build = f"{'PGO' if profiled else 'no PGO'}, {'LTO' if linked else 'no LTO'}"
    shared = ", shared library" if "--enable-shared" in options else ""
    return f"{sys.implementation.name} {platform.python_version()} ({build}{shared})"


async def _postgres_settings() -> dict[str, str]:
    with processes.data_dir() as folder, processes.postgres(folder) as embedded:
        connection = await connect_as_owner(embedded.dsn())
        try:
            rows = await connection.fetch(
                "select name, current_setting(name) from pg_settings where name = any($1)",
                list(SETTINGS),
            )
        finally:
            await connection.close()
    found = dict(rows)
    return {name: found[name] for name in SETTINGS if name in found}


def _fdatasync_us() -> float:
    """The median time to make one page durable where the databases of a run lie."""
    times = []
    with tempfile.NamedTemporaryFile(prefix="keyturn-bench-") as file:
        for _ in range(SYNCS):
            started = time.perf_counter()
            file.seek(0)
            file.write(bytes(BLOCK))
            file.flush()
            os.fdatasync(file.fileno())
            times.append(time.perf_counter() - started)
    return median(times) * 1e6
