"""What the first half of a refresh costs, in a small and in a large deployment.

A worker finds what is due in all workspaces and takes the lease of each, as in every refresh:
CPU time of worker and PostgreSQL per row. No call follows. What is due is drawn by lot from all
connections, so that it lies scattered over the table, as it does after years of use.

The ciphertext is 0.3 kB of noise: leasing reads it and does not open it.
"""

import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

import msgspec

from bench import processes
from bench.load import WrongAnswers
from bench.processes import Worker
from bench.refreshers import Task
from bench.report import Column, Options, Outcome, Pair, Round, interleaved
from bench.suite.benchmark import Benchmark
from bench.suite.refresh import with_cpu
from bench.world import INTEGRATION, World, world

ROUNDS: Final = 7
DUE: Final = 500
QUICK_DUE: Final = 50
SIZES: Final = {"10 thousand": 10_000, "1 million": 1_000_000}
FULL_SIZES: Final = {**SIZES, "5 million": 5_000_000}
QUICK_SIZES: Final = {"1 thousand": 1_000, "5 thousand": 5_000}

COLUMNS: Final = [
    Column("cpu_us", "CPU us", 0),
    Column("worker_us", "worker us", 0),
    Column("postgres_us", "PG us", 0),
    Column("rate", "wall/s", 0),
]

# A million rows a table in one statement each. The checks of foreign keys would take longer than
# all the rest, and what they would find is known.
FILL: Final = """
set synchronous_commit = off;
set session_replication_role = replica;
insert into vault.users (workspace_id, user_id, generation, profile)
select $w, 'user-' || n, 1, '\\x00' from generate_series(1, $n) as n;
insert into vault.user_keys (workspace_id, user_id, sealed)
select $w, 'user-' || n, decode(repeat('ab', 120), 'hex') from generate_series(1, $n) as n;
insert into vault.connections
       (workspace_id, connection_id, user_id, integration, environment, provider, refresh_by,
        asked_scopes)
select $w, 'conn_' || md5(n::text), 'user-' || n, '$i', 'production', 'bench', 'keyturn', '{}'
  from generate_series(1, $n) as n;
insert into vault.connection_tokens (workspace_id, connection_id, generation, sealed)
select $w, 'conn_' || md5(n::text), 1, decode(repeat('cd', 300), 'hex')
  from generate_series(1, $n) as n;
insert into vault.connection_lives
       (workspace_id, connection_id, integration, environment, provider, state, generation, fence,
        saved, consented, issued_at, consented_at, access_ends, renewable, policy, due_at, of_user)
select $w, 'conn_' || md5(n::text), '$i', 'production', 'bench', 'active', 1, 1, 1, 1, now(), now(),
       now() + interval '12 hours', true, 'eager', now() + interval '1 hour' * (1 + random()),
       'user-' || n
  from generate_series(1, $n) as n;
set session_replication_role = origin;
"""
MAKE_DUE: Final = """
update vault.connection_lives
   set due_at = now(), issued_at = now() - interval '1 hour', access_ends = now()
 where connection_id = any($1)
"""
# As if each had been refreshed: not due for an hour.
END_LEASES: Final = """
update vault.connection_lives
   set state = 'active', lease_owner = null, lease_attempt = null, lease_generation = null,
       lease_at = null, lease_until = null, access_ends = now() + interval '12 hours',
       due_at = now() + interval '1 hour'
 where lease_owner is not null
"""


async def run(options: Options) -> Outcome:
    """Fill a deployment of each size, then measure in turn."""
    sizes = FULL_SIZES if options.full else QUICK_SIZES if options.quick else SIZES
    due = QUICK_DUE if options.quick else DUE
    async with contextlib.AsyncExitStack() as stack:
        subjects = {}
        for name, size in sizes.items():
            measure = await stack.enter_async_context(_deployment(size, due))
            await measure()  # warm
            subjects[name] = measure
        rounds = await interleaved(options.rounds_or(ROUNDS), subjects)
    smallest, *others = sizes
    return Outcome(
        name="growth-refresh",
        notes=[f"{due} due rows a round, drawn by lot; finding them included"],
        columns=COLUMNS,
        rounds=rounds,
        pairs=[Pair(name, smallest) for name in others],
        gauge="cpu_us",
    )


@contextlib.asynccontextmanager
async def _deployment(size: int, due: int) -> AsyncIterator[Callable[[], Awaitable[Round]]]:
    async with world(0) as made:
        filling = FILL.replace("$w", f"'{made.workspace}'").replace("$n", str(size))
        await made.admin.execute(filling.replace("$i", INTEGRATION))
        await made.admin.execute("vacuum analyze")
        given = msgspec.structs.replace(made.settings, names=[""] * due)
        settings = msgspec.json.encode(given)
        async with processes.worker("keyturn lease", made.environ, settings) as worker:
            yield _leasing(made, worker, due)


def _leasing(made: World, worker: Worker, due: int) -> Callable[[], Awaitable[Round]]:
    luck = random.Random(7)  # noqa: S311 - the same rows in every run

    async def measure() -> Round:
        size = await made.admin.fetchval("select count(*) from vault.connection_lives")
        chosen = luck.sample(range(1, size + 1), due)
        names = await made.admin.fetchval(
            "select array_agg('conn_' || md5(n::text)) from unnest($1::integer[]) as n", chosen
        )
        await made.admin.execute(MAKE_DUE, names)
        found, done = await with_cpu(made, worker, Task(first=0, count=due))
        ended = await made.admin.execute(END_LEASES)
        if not done == due == int(ended.split()[-1]):
            raise WrongAnswers(f"{done} of {due} rows were leased, and {ended}")
        return found

    return measure


BENCHMARK: Final = Benchmark(
    "growth-refresh", "what leasing a due row costs, by the number of connections", run
)
