"""What many refreshes leave behind: the size of the tables, and whether updates stayed on a page.

Every connection is refreshed ten times over. Between the rounds stands a VACUUM, which autovacuum
would do by itself: it looks once a minute, and ten rounds that take hours in life take one here.

* ``tokens``: the ciphertext. An update is to stay on its page (HOT) and touch no index.
* ``lives``: the narrow rows of leases and times, whose updates do touch two indexes.
"""

import asyncio
from typing import Any, Final

import msgspec

from bench import processes
from bench.load import WrongAnswers
from bench.refreshers import Done, Task
from bench.report import Column, Options, Outcome, Pair, Round
from bench.suite.benchmark import Benchmark
from bench.suite.refresh import DUE_AGAIN_SECONDS
from bench.world import world

TURNS: Final = 10
QUICK_TURNS: Final = 3
# What is due together in one page cannot stay there: in a table much smaller that happens often.
CONNECTIONS: Final = 4_000
FULL_CONNECTIONS: Final = 50_000
QUICK_CONNECTIONS: Final = 150
SHARE: Final = 500  # connections that are asked for at a time
TABLES: Final = {"tokens": "connection_tokens", "lives": "connection_lives"}

COLUMNS: Final = [
    Column("heap_kb", "heap kB", 0),
    Column("index_kb", "indexes kB", 0),
    Column("updates", "updates", 0),
    Column("hot_percent", "HOT %", 2),
]
SIZES: Final = """
select pg_relation_size($1::regclass) / 1024.0 as heap_kb,
       pg_indexes_size($1::regclass) / 1024.0 as index_kb,
       pg_stat_get_tuples_updated($1::regclass)::float8 as updates,
       pg_stat_get_tuples_hot_updated($1::regclass)::float8 as hot
"""


async def run(options: Options) -> Outcome:
    """Refresh everything again and again."""
    connections = (
        FULL_CONNECTIONS if options.full else QUICK_CONNECTIONS if options.quick else CONNECTIONS
    )
    turns = QUICK_TURNS if options.quick else TURNS
    async with world(connections) as made:
        settings = msgspec.json.encode(made.settings)
        before = {name: await _size(made.admin, table) for name, table in TABLES.items()}
        done = 0
        async with processes.worker("keyturn", made.environ, settings) as worker:
            for _ in range(turns):
                turn = 0
                while turn < connections:
                    task = Task(first=0, count=min(SHARE, connections))
                    answer = await worker.ask(msgspec.json.encode(task))
                    turn += msgspec.json.decode(answer, type=Done).count
                done += turn
                for table in TABLES.values():
                    await made.admin.execute(f"vacuum vault.{table}")
                await asyncio.sleep(DUE_AGAIN_SECONDS)
        after = {name: await _size(made.admin, table) for name, table in TABLES.items()}
        await made.refuse_any_refusal()
        counted = after["tokens"]["updates"]
        if counted != done:
            raise WrongAnswers(f"bloat: {done} refreshes, but {counted:.0f} updates")
    rounds = {f"{name} before": [one] for name, one in before.items()}
    rounds |= {f"{name} after": [one] for name, one in after.items()}
    return Outcome(
        name="bloat",
        notes=[f"{connections} connections, {turns} times over, a VACUUM after each"],
        columns=COLUMNS,
        rounds=rounds,
        pairs=[Pair(f"{name} after", f"{name} before") for name in TABLES],
        gauge="heap_kb",
    )


async def _size(admin: Any, table: str) -> Round:  # noqa: ANN401 - the driver has no types
    row = await admin.fetchrow(SIZES, f"vault.{table}")
    found = {"heap_kb": float(row["heap_kb"]), "index_kb": float(row["index_kb"])}
    if not row["updates"]:
        return found
    return found | {"updates": row["updates"], "hot_percent": 100 * row["hot"] / row["updates"]}


BENCHMARK: Final = Benchmark("bloat", "what ten refreshes of everything leave in the tables", run)
