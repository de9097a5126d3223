"""What a refresh costs: CPU time of worker and PostgreSQL, beside the least that it could cost.

* ``http client``: the call alone, with the HTTP client that we use, and nothing kept.
* ``keyturn``: find what is due, lease, open, call, seal, store with its line of the timeline.
* ``handwritten``: read, open with Fernet, call with authlib, write; one client for all.
* ``handwritten, new client``: the same with a client per refresh.

The fake provider answers at once, and after 50 and 200 ms. It rotates strictly: who sends a used
refresh token is refused, and the run is void. After each round the rows in the database are
counted: as many token sets a generation further as there were refreshes.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

import msgspec
from msgspec import Struct

from bench import processes
from bench.load import WrongAnswers
from bench.processes import Worker
from bench.refreshers import Done, Task
from bench.report import Column, Options, Outcome, Pair, Round, interleaved
from bench.suite.benchmark import Benchmark
from bench.world import World, world

ROUNDS: Final = 5
CONNECTIONS: Final = 1_000
QUICK_CONNECTIONS: Final = 120
DELAYS: Final = (0, 50, 200)
HOURLY: Final = 1_000_000 / 3_600  # a second, of a million tokens that last an hour
DUE_AGAIN_SECONDS: Final = 1.1

COLUMNS: Final = [
    Column("cpu_us", "CPU us", 0),
    Column("worker_us", "worker us", 0),
    Column("postgres_us", "PG us", 0),
    Column("rate", "wall/s", 0),
    Column("core_percent", "1M hourly, % of a core", 1),
]


class Subject(Struct, frozen=True):
    """One way to refresh, at one pace of the provider. ``share``: of the connections, a round."""

    name: str
    worker: str
    delay: int
    share: float = 1.0

    @property
    def stores(self) -> bool:
        return self.worker != "http client"


SUBJECTS: Final = [
    *(Subject(f"http client, {ms} ms", "http client", ms) for ms in DELAYS),
    *(Subject(f"keyturn, {ms} ms", "keyturn", ms) for ms in DELAYS),
    Subject("handwritten", "handwritten", 0, share=0.3),
    Subject("handwritten, new client", "handwritten, new client", 0, share=0.05),
]
PAIRS: Final = [
    *(Pair(f"keyturn, {ms} ms", f"http client, {ms} ms") for ms in DELAYS),
    Pair("handwritten", "keyturn, 0 ms"),
    Pair("handwritten, new client", "keyturn, 0 ms"),
]


async def run(options: Options) -> Outcome:
    """Start everything, then measure in turn."""
    connections = QUICK_CONNECTIONS if options.quick else CONNECTIONS
    async with world(connections) as made, _workers(made) as workers:
        subjects = {
            one.name: measuring(made, workers[one.worker], one, connections) for one in SUBJECTS
        }
        for measure in subjects.values():
            await measure()  # warm: connections open, statements prepared, pages there
        rounds = await interleaved(options.rounds_or(ROUNDS), subjects)
        await made.refuse_any_refusal()
    return Outcome(
        name="refresh",
        notes=[
            f"{connections} connections; answers of 1.5 kB; strict rotation",
            "CPU us: worker and PostgreSQL, per refresh; the provider's own is not counted",
        ],
        columns=COLUMNS,
        rounds=rounds,
        pairs=PAIRS,
        gauge="cpu_us",
    )


@contextlib.asynccontextmanager
async def _workers(made: World) -> AsyncIterator[dict[str, Worker]]:
    settings = msgspec.json.encode(made.settings)
    async with contextlib.AsyncExitStack() as stack:
        yield {
            name: await stack.enter_async_context(processes.worker(name, made.environ, settings))
            for name in dict.fromkeys(one.worker for one in SUBJECTS)
        }


def measuring(
    made: World, worker: Worker, subject: Subject, connections: int
) -> Callable[[], Awaitable[Round]]:
    """What measures one subject, a round at a time."""
    count = max(1, round(connections * subject.share))

    async def measure() -> Round:
        await made.delay(subject.delay)
        # Ours has to wait until all is due again; who has slept meets cold caches, so all sleep.
        await asyncio.sleep(DUE_AGAIN_SECONDS)
        before = await _generations(made.admin)
        found, done = await with_cpu(made, worker, Task(first=0, count=count))
        if not subject.stores:
            found = {**found, "cpu_us": found["worker_us"], "postgres_us": 0.0}
        stored = await _generations(made.admin) - before
        if stored != (done if subject.worker == "keyturn" else 0):
            raise WrongAnswers(f"{subject.name}: {done} refreshes, but {stored} token sets")
        return {**found, "core_percent": found["cpu_us"] * HOURLY / 1e4}

    return measure


async def with_cpu(made: World, worker: Worker, task: Task) -> tuple[Round, int]:
    """Let a worker do something; what it cost, per piece, and how many pieces it was."""
    began = asyncio.get_running_loop().time()
    own = processes.cpu_times([worker.pid])
    theirs = processes.cpu_times(processes.tree(made.postmaster))
    done = msgspec.json.decode(await worker.ask(msgspec.json.encode(task)), type=Done).count
    in_worker = processes.spent(own, processes.cpu_times([worker.pid])).microseconds
    # PostgreSQL forks: what it is made of is looked up again.
    postgres_after = processes.cpu_times(processes.tree(made.postmaster))
    in_postgres = processes.spent(theirs, postgres_after).microseconds
    if not done:
        raise WrongAnswers("a worker did nothing")
    return {
        "cpu_us": (in_worker + in_postgres) / done,
        "worker_us": in_worker / done,
        "postgres_us": in_postgres / done,
        "rate": done / (asyncio.get_running_loop().time() - began),
    }, done


async def _generations(admin: Any) -> int:  # noqa: ANN401 - the driver has no types
    found = await admin.fetchval("select sum(generation) from vault.connection_tokens")
    return int(found)


BENCHMARK: Final = Benchmark(
    "refresh", "CPU time of a refresh, against the HTTP call alone and a pattern by hand", run
)
