"""How long a mint takes while a million hourly tokens are kept alive beside it.

Mints come in an open loop, at half of what a closed one answers, whatever the server does; latency
counts from when each was due. Once with nothing else to do, once while another process refreshes
278 connections a second in the same database: what a million tokens of an hour take.

Latency decides here, so the machine does, too: the two are measured in turn, and it is said how
many refreshes there really were.
"""

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Final

import msgspec
from msgspec import Struct

from bench import load, processes
from bench.load import Request
from bench.processes import Worker
from bench.refreshers import Done, Task
from bench.report import Column, Options, Outcome, Pair, Round, interleaved
from bench.suite import mint
from bench.suite.benchmark import Benchmark
from bench.world import world

ROUNDS: Final = 7
HOURLY: Final = 278  # a second
QUICK_HOURLY: Final = 30
PEOPLE: Final = 200
COLUMNS: Final = [
    Column("p99_ms", "p99 ms", 2),
    Column("p50_ms", "p50 ms", 2),
    Column("rate", "wall/s", 0),
    Column("refreshes", "refreshes/s", 0),
]


class Bench(Struct, frozen=True):
    """What is running; ``rate``: mints a second."""

    server: processes.Server
    worker: Worker
    requests: Iterator[Request]
    hourly: int
    seconds: float


async def run(options: Options) -> Outcome:
    """Start everything, then measure in turn."""
    async with bench(quick=options.quick) as running:
        closed = await load.closed_loop(
            running.server.port, running.requests, connections=mint.CONNECTIONS, seconds=1
        )
        closed.refuse_any_wrong("warming up")
        rate = closed.rate / 2
        subjects = {
            "mint": _measuring(running, rate, beside=False),
            "mint, beside refreshing": _measuring(running, rate, beside=True),
        }
        rounds = await interleaved(options.rounds_or(ROUNDS), subjects)
    return Outcome(
        name="mint-refresh",
        notes=[
            f"open loop: {rate:.0f} mints/s, half of the closed one's, {running.seconds} s a round",
            f"beside it {running.hourly} connections are due each second, in another process",
        ],
        columns=COLUMNS,
        rounds=rounds,
        pairs=[Pair("mint, beside refreshing", "mint")],
        gauge="p99_ms",
    )


@contextlib.asynccontextmanager
async def bench(*, quick: bool) -> AsyncIterator[Bench]:
    """Keyturn without its scheduler, people to mint for, and who refreshes."""
    hourly = QUICK_HOURLY if quick else HOURLY
    held = {
        f"minted-{number}": mint.tokens_of_one() for number in range(PEOPLE // (10 if quick else 1))
    }
    async with contextlib.AsyncExitStack() as stack:
        made = await stack.enter_async_context(world(hourly))
        server = await stack.enter_async_context(
            processes.keyturn(made.folder, key=made.key, more=made.environ, scheduler=False)
        )
        await mint.seed(server, made.key, held)
        settings = msgspec.json.encode(made.settings)
        worker = await stack.enter_async_context(
            processes.worker("keyturn", made.environ, settings)
        )
        wanted = [mint.mint(made.key, user, tokens) for user, tokens in held.items()]
        yield Bench(server, worker, itertools.cycle(wanted), hourly, 1.5 if quick else 5.0)


def _measuring(running: Bench, rate: float, *, beside: bool) -> Callable[[], Awaitable[Round]]:
    async def measure() -> Round:
        over = asyncio.Event()
        refreshing = asyncio.create_task(_refresh(running, over)) if beside else None
        try:
            answers = await load.open_loop(
                running.server.port,
                running.requests,
                rate=rate,
                seconds=running.seconds,
                connections=load.MAX_OPEN,
            )
        finally:
            over.set()
            refreshes = await refreshing if refreshing else 0.0
        answers.refuse_any_wrong("minting")
        return {
            "p99_ms": answers.percentile(99),
            "p50_ms": answers.percentile(50),
            "rate": answers.rate,
            "refreshes": refreshes,
        }

    return measure


async def _refresh(running: Bench, over: asyncio.Event) -> float:
    """Once a second what is due then, as the scheduler does; how many it were a second."""
    task = msgspec.json.encode(Task(first=0, count=running.hourly))
    began, count = time.perf_counter(), 0
    while not over.is_set():
        tick = asyncio.get_running_loop().time() + 1.1  # when what was refreshed is due again
        count += msgspec.json.decode(await running.worker.ask(task), type=Done).count
        await asyncio.sleep(max(tick - asyncio.get_running_loop().time(), 0))
    return count / (time.perf_counter() - began)


BENCHMARK: Final = Benchmark(
    "mint-refresh", "latency of a mint while a million hourly tokens are refreshed beside it", run
)
