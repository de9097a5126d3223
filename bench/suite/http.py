"""What a request costs: CPU time of server and PostgreSQL, beside the least that it could cost.

* ``livez``: routing, gate and metrics, and nothing else.
* ``get_key``: authentication (one look-up), then one read in a transaction of the workspace.
* ``put_user``: a new user: a sealed profile under a key of the user's own, and the audit line.
* ``put_user again``: the same for a user who is there; the stored key is opened first.
* ``+log``: the same with the access log on (level ``info``, into a file).

A closed loop gives CPU time and throughput. An open loop at half of that throughput gives the
latencies that somebody would see. After each, the rows in the database are counted: as many users
and audit lines as there were answers, or the run is void.
"""

import contextlib
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, Final

from msgspec import Struct

from bench import load, processes
from bench.baselines import HELLO
from bench.load import Answers, Request, WrongAnswers, request
from bench.report import Column, Options, Outcome, Pair, Round, interleaved
from bench.suite.benchmark import Benchmark
from vault import bearer
from vault.database import connect_as_owner

ROUNDS: Final = 15  # many short ones: a burst of somebody else's work then spoils few of them
CONNECTIONS: Final = 16
KNOWN_USERS: Final = 2000
QUICK_KNOWN_USERS: Final = 200
BASES: Final = ("hello_raw", "hello_typed")

COLUMNS: Final = [
    Column("cpu_us", "CPU us", 0),
    Column("server_us", "server us", 0),
    Column("postgres_us", "PG us", 0),
    Column("client_us", "client us", 0),
    Column("rate", "wall/s", 0),
    Column("p50_ms", "p50 ms", 2),
    Column("p99_ms", "p99 ms", 2),
    Column("open_rate", "open/s", 0),
    Column("open_p50_ms", "p50 ms", 2),
    Column("open_p99_ms", "p99 ms", 2),
]


COUNT: Final = """
select (select count(*) from vault.users),
       (select count(*) from vault.audit_events where action = 'user.write')
"""


class Times(Struct, frozen=True):
    """Seconds for warming up, for the closed loop and for the open one."""

    warm: float
    closed: float
    open: float


FULL: Final = Times(warm=0.2, closed=0.7, open=0.7)
QUICK: Final = Times(warm=0.05, closed=0.25, open=0.2)


class Rows(Struct, frozen=True):
    """How many rows there are, or how many an answer adds: of its own, and in the record."""

    own: int
    audit: int


class Variant(Struct, frozen=True):
    """One kind of request to one server; ``adds`` is what each answer leaves in the database."""

    name: str
    server: processes.Server
    requests: Iterator[Request]
    adds: Rows = Rows(0, 0)


class Bench(Struct, frozen=True):
    """What is running: the servers, and an owner's connection with what counts the rows."""

    variants: list[Variant]
    connection: Any
    postmaster: int
    count: str = COUNT


async def run(options: Options) -> Outcome:
    """Start everything, then measure in turn."""
    times = QUICK if options.quick else FULL
    async with _bench(QUICK_KNOWN_USERS if options.quick else KNOWN_USERS) as bench:
        subjects = {one.name: measuring(bench, one, times) for one in bench.variants}
        rounds = await interleaved(options.rounds_or(ROUNDS), subjects)
    return Outcome(
        name="http",
        notes=[
            f"closed loop: {CONNECTIONS} connections, {times.closed} s a round",
            f"open loop: half of that rate, {times.open} s a round, latency from the due time",
            "CPU us: server and PostgreSQL, per request",
        ],
        columns=COLUMNS,
        rounds=rounds,
        pairs=[
            Pair(one, base) for base in BASES for one in subjects if one not in (base, BASES[0])
        ],
        gauge="cpu_us",
    )


@contextlib.asynccontextmanager
async def _bench(known_users: int) -> AsyncIterator[Bench]:
    key = bearer.generate("api_key").reveal()
    async with contextlib.AsyncExitStack() as stack:
        folder = stack.enter_context(processes.data_dir())
        embedded = stack.enter_context(processes.postgres(folder))
        enter = stack.enter_async_context
        raw = await enter(processes.baseline("hello_raw"))
        typed = await enter(processes.baseline("hello_typed"))
        quiet = await enter(processes.keyturn(folder, key=key))
        logging = await enter(processes.keyturn(folder, key=key, log_level="info"))
        connection = await connect_as_owner(embedded.dsn())
        stack.push_async_callback(connection.close)
        key_id = await connection.fetchval("select key_id from vault.api_keys")
        users = await _seed(quiet, key, known_users)
        read = itertools.repeat(_get_key(key, key_id))
        hello, livez = itertools.repeat(HELLO), itertools.repeat(LIVEZ)
        variants = [
            Variant("hello_raw", raw, hello),
            Variant("hello_typed", typed, hello),
            Variant("livez", quiet, livez),
            Variant("get_key", quiet, read),
            Variant("put_user", quiet, _new_users(key), Rows(1, 1)),
            Variant("put_user again", quiet, itertools.cycle(users), Rows(0, 1)),
            Variant("livez +log", logging, livez),
            Variant("get_key +log", logging, read),
        ]
        yield Bench(variants, connection, processes.postmaster(folder))


async def _seed(server: processes.Server, key: str, count: int) -> list[Request]:
    users = [_put_user(key, f"known-{number}", number) for number in range(count)]
    answers = await load.closed_loop(
        server.port, iter(users), connections=CONNECTIONS, seconds=load.PATIENCE
    )
    answers.refuse_any_wrong("seeding")
    return users


LIVEZ: Final = request("GET", "/livez", expected=b'{"alive":true}')


def _get_key(key: str, key_id: str) -> Request:
    return request("GET", f"/v1/keys/{key_id}", expected=f'"id":"{key_id}"'.encode(), bearer=key)


def _put_user(key: str, user_id: str, number: int) -> Request:
    body = (
        f'{{"name":"Ada {number}","phone_numbers":["+1555{number:07}"],'
        f'"attributes":{{"plan":"pro","seat":{number}}}}}'
    )
    expected = f'"id":"{user_id}","name":"Ada {number}"'
    return request(
        "PUT",
        f"/v1/users/{user_id}",
        expected=expected.encode(),
        body=body.encode(),
        bearer=key,
    )


def _new_users(key: str) -> Iterator[Request]:
    return (_put_user(key, f"new-{number}", number) for number in itertools.count())


def measuring(bench: Bench, variant: Variant, times: Times) -> Callable[[], Awaitable[Round]]:
    """What measures one variant, a round at a time."""

    async def measure() -> Round:
        before = await _count(bench)
        warm = await _closed(variant, times.warm)
        closed, found = await _with_cpu(bench, variant, times.closed)
        opened = await _open(variant, closed.rate / 2, times.open)
        given = warm.right + closed.right + opened.right
        _refuse_other_rows(variant, given, before, await _count(bench))
        return {
            **found,
            "rate": closed.rate,
            "p50_ms": closed.percentile(50),
            "p99_ms": closed.percentile(99),
            "open_rate": opened.rate,
            "open_p50_ms": opened.percentile(50),
            "open_p99_ms": opened.percentile(99),
        }

    return measure


async def _with_cpu(bench: Bench, variant: Variant, seconds: float) -> tuple[Answers, Round]:
    server = processes.tree(variant.server.pid)
    server_before = processes.cpu_times(server)
    postgres_before = processes.cpu_times(processes.tree(bench.postmaster))
    client_before = time.process_time()
    answers = await _closed(variant, seconds)
    client = (time.process_time() - client_before) * 1e6
    in_server = processes.spent(server_before, processes.cpu_times(server)).microseconds
    # PostgreSQL forks: what it is made of is looked up again.
    postgres_after = processes.cpu_times(processes.tree(bench.postmaster))
    in_postgres = processes.spent(postgres_before, postgres_after).microseconds
    if variant.name in BASES:
        in_postgres = 0.0  # it works for nobody then; what it does is its own housekeeping
    return answers, {
        "cpu_us": (in_server + in_postgres) / answers.right,
        "server_us": in_server / answers.right,
        "postgres_us": in_postgres / answers.right,
        "client_us": client / answers.right,
    }


async def _closed(variant: Variant, seconds: float) -> Answers:
    answers = await load.closed_loop(
        variant.server.port, variant.requests, connections=CONNECTIONS, seconds=seconds
    )
    answers.refuse_any_wrong(variant.name)
    return answers


async def _open(variant: Variant, rate: float, seconds: float) -> Answers:
    answers = await load.open_loop(
        variant.server.port,
        variant.requests,
        rate=rate,
        seconds=seconds,
        connections=load.MAX_OPEN,
    )
    answers.refuse_any_wrong(f"{variant.name}, open loop")
    return answers


async def _count(bench: Bench) -> Rows:
    return Rows(*await bench.connection.fetchrow(bench.count))


def _refuse_other_rows(variant: Variant, given: int, before: Rows, after: Rows) -> None:
    added = Rows(after.own - before.own, after.audit - before.audit)
    wanted = Rows(given * variant.adds.own, given * variant.adds.audit)
    if added != wanted:
        raise WrongAnswers(f"{variant.name}: {given} answers, but {added} instead of {wanted}")


BENCHMARK: Final = Benchmark("http", "CPU time of a request, against a hello world", run)
