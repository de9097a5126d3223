"""What handing out a token that lives costs: ``POST /v1/connections/{id}/token``.

* ``keyturn``: the key is looked up, the connection read and its token opened, the line in the
  record written and committed before the answer. One process; the workspace as isolated, the token
  as sealed and the record as durable as ever.
* ``handwritten``: the same by hand, with asyncpg's pool and Fernet.
* ``hello_raw``, ``hello_typed``: a request that does nothing.

A closed and an open loop, as in ``http``. The lines in both records are counted after each round.
"""

import contextlib
import itertools
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Final

from bench import load, processes
from bench.baselines import HELLO, handwritten_rows
from bench.report import Options, Outcome, Pair, interleaved
from bench.suite import http
from bench.suite.benchmark import Benchmark
from bench.suite.http import Bench, Rows, Variant, measuring
from bench.world import World, world

ROUNDS: Final = 9
CONNECTIONS: Final = 1_000
QUICK_CONNECTIONS: Final = 100
COUNT: Final = """
select (select count(*) from handwritten.reads),
       (select count(*) from vault.audit_events where action = 'connection.token')
"""
PAIRS: Final = [
    Pair("keyturn", "hello_typed"),
    Pair("hello_typed", "keyturn"),
    Pair("handwritten", "keyturn"),
    Pair("keyturn", "hello_raw"),
]


async def run(options: Options) -> Outcome:
    """Start everything, then measure in turn."""
    times = http.QUICK if options.quick else http.FULL
    connections = QUICK_CONNECTIONS if options.quick else CONNECTIONS
    async with world(connections, lasting=True) as made, _bench(made) as bench:
        subjects = {one.name: measuring(bench, one, times) for one in bench.variants}
        rounds = await interleaved(options.rounds_or(ROUNDS), subjects)
    return Outcome(
        name="token",
        notes=[
            f"{connections} connections with tokens of 1.2 kB that live",
            f"closed loop: {http.CONNECTIONS} connections, {times.closed} s a round",
            f"open loop: half of that rate, {times.open} s a round, latency from the due time",
            "CPU us: server and PostgreSQL, per request",
        ],
        columns=http.COLUMNS,
        rounds=rounds,
        pairs=PAIRS,
        gauge="cpu_us",
    )


@contextlib.asynccontextmanager
async def servers(made: World) -> AsyncIterator[tuple[processes.Server, processes.Server]]:
    """Keyturn, and what is written by hand, over the same tokens."""
    given = made.settings
    ends = await made.admin.fetchval("select min(access_ends) from vault.connection_lives")
    await handwritten_rows.write_live(
        made.admin, given, made.workspace, made.key, ends or datetime.now(UTC)
    )
    environ = {
        handwritten_rows.DSN: given.dsn,
        handwritten_rows.FERNET_KEY: given.fernet_key,
    }
    async with (
        processes.keyturn(made.folder, key=made.key, more=made.environ) as keyturn,
        processes.handwritten_read(environ, read(made.key, given.names[0])) as handwritten,
    ):
        yield keyturn, handwritten


def read(key: str, name: str) -> load.Request:
    """Ask for one token."""
    expected = f'"access_token":"a.{name}.0.'.encode()
    return load.request("POST", f"/v1/connections/{name}/token", expected=expected, bearer=key)


@contextlib.asynccontextmanager
async def _bench(made: World) -> AsyncIterator[Bench]:
    async with (
        processes.baseline("hello_raw") as raw,
        processes.baseline("hello_typed") as typed,
        servers(made) as (keyturn, handwritten),
    ):
        reads = [read(made.key, name) for name in made.settings.names]
        variants = [
            Variant("hello_raw", raw, itertools.repeat(HELLO)),
            Variant("hello_typed", typed, itertools.repeat(HELLO)),
            Variant("keyturn", keyturn, itertools.cycle(reads), Rows(0, 1)),
            Variant("handwritten", handwritten, itertools.cycle(reads), Rows(1, 0)),
        ]
        yield Bench(variants, made.admin, made.postmaster, COUNT)


BENCHMARK: Final = Benchmark(
    "token", "CPU time of handing out a token, against a hello world and a read by hand", run
)
