"""What Keyturn costs before anybody asks it anything: time to start, memory, CPU time at rest.

* ``cold``: an empty data folder: a cluster is made, migrated, and a workspace made in it.
* ``warm``: the same folder again, PostgreSQL started with the service.
* ``hello_typed``: a Litestar application without a database, on the same HTTP server.

Time is from ``exec`` to the first right answer (``/readyz``; the baseline's own). The code was
imported once before, so compiled files and pages are there.
"""

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from bench import processes
from bench.report import Column, Options, Outcome, Pair, Round, interleaved
from bench.suite.benchmark import Benchmark
from vault import bearer

ROUNDS: Final = 3
SETTLE_SECONDS: Final = 1.0  # after the start, so that the start is not taken for rest
REST_SECONDS: Final = 10.0
QUICK_REST_SECONDS: Final = 1.0

COLUMNS: Final = [
    Column("ready_s", "ready s", 2),
    Column("rss_mb", "RSS MB", 0),
    Column("pss_mb", "PSS MB", 0),
    Column("postgres_rss_mb", "PG RSS MB", 0),
    Column("postgres_pss_mb", "PG PSS MB", 0),
    Column("rest_ms", "ms CPU/s", 2),
    Column("postgres_rest_ms", "PG ms CPU/s", 2),
]


async def run(options: Options) -> Outcome:
    """Start, rest, stop; then the same folder once more."""
    rest = QUICK_REST_SECONDS if options.quick else REST_SECONDS
    _import_once()
    with contextlib.ExitStack() as stack:
        folders: list[Path] = []

        async def cold() -> Round:
            folders.append(stack.enter_context(processes.data_dir()))
            return await _keyturn(folders[-1], rest)

        async def warm() -> Round:
            return await _keyturn(folders[-1], rest)

        async def hello() -> Round:
            async with processes.baseline("hello_typed") as server:
                return await _rested(server, rest)

        subjects = {"hello_typed": hello, "cold": cold, "warm": warm}
        rounds = await interleaved(options.rounds_or(ROUNDS), subjects)
    return Outcome(
        name="idle",
        notes=[f"memory and CPU time over {rest} s at rest; RSS of PostgreSQL counts shared twice"],
        columns=COLUMNS,
        rounds=rounds,
        pairs=[Pair("cold", "hello_typed"), Pair("warm", "hello_typed")],
        gauge="ready_s",
    )


def _import_once() -> None:
    subprocess.run(
        [sys.executable, "-c", "import broker.cli, bench.baselines.hello_typed"],
        cwd=processes.REPOSITORY,
        env=processes.environment({}),
        check=True,
    )


async def _keyturn(folder: Path, rest: float) -> Round:
    key = bearer.generate("api_key").reveal()
    async with processes.keyturn(folder, key=key) as server:
        return await _rested(server, rest, lambda: processes.postmaster(folder))


async def _rested(
    server: processes.Server, rest: float, postmaster: Callable[[], int] | None = None
) -> Round:
    await asyncio.sleep(SETTLE_SECONDS)
    # The service started PostgreSQL itself this time, so it is below it: told apart by its PID.
    database = [] if postmaster is None else [postmaster()]
    own = processes.tree(server.pid, without=database)
    theirs = processes.tree(database[0]) if database else []
    own_before, theirs_before = processes.cpu_times(own), processes.cpu_times(theirs)
    await asyncio.sleep(rest)
    own_spent = processes.spent(own_before, processes.cpu_times(own))
    found = {
        "ready_s": server.seconds_to_ready,
        "rest_ms": own_spent.microseconds / 1000 / rest,
        **_memory("", own),
    }
    if theirs:
        theirs_spent = processes.spent(theirs_before, processes.cpu_times(theirs))
        found["postgres_rest_ms"] = theirs_spent.microseconds / 1000 / rest
        found |= _memory("postgres_", processes.tree(database[0]))
    return found


def _memory(prefix: str, pids: list[int]) -> Round:
    held = processes.memory(pids)
    found = {f"{prefix}rss_mb": held.rss}
    if held.pss is not None:
        found[f"{prefix}pss_mb"] = held.pss
    return found


BENCHMARK: Final = Benchmark("idle", "time to start, memory and CPU time at rest", run)
