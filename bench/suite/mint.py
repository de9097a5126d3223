"""What a mint costs: five connections with tokens of 1.5 kB, ten variables, durable, inline.

* ``hello_raw``, ``hello_typed``: a bare function, and a typed handler of our framework, that greet
  and do nothing else.
* ``by hand``: asyncpg, a query a table and a row, Fernet; ``bench/baselines/minted.py``.
* ``with an ORM``: the same with SQLAlchemy's async session; ``bench/baselines/minted_orm.py``.
* ``bare mint``: our statements and our sealing, and nothing decided: about the
  least that a mint of ours can cost; ``bench/baselines/bare_mint.py``.
* ``mint``: ours, runtime ``sealed``, so that no upstream is asked; with keys of a workspace, a user
  and a conversation, row-level security, holds, and the record.

A closed loop gives CPU time of server and PostgreSQL per mint; one connection alone gives the
latency that somebody would feel. After each, conversations and lines in the record are counted: as
many as there were answers, or the run is void. Every answer has to hold the user's own first token.
"""

import contextlib
import itertools
import json
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from typing import Any, Final

from cryptography.fernet import Fernet
from msgspec import Struct

from bench import load, processes
from bench.baselines import HELLO, minted_rows
from bench.load import Request, WrongAnswers, request
from bench.report import Column, Options, Outcome, Pair, Round, interleaved
from bench.suite.benchmark import Benchmark
from vault import bearer
from vault.database import connect_as_owner

ROUNDS: Final = 9
CONNECTIONS: Final = 32
PEOPLE: Final = 400
QUICK_PEOPLE: Final = 30
INTEGRATIONS: Final = ("calendar", "chat", "crm", "files", "mail")
TOKEN_SIZE: Final = 1_500
VARIABLES: Final = {f"variable_{number}": f"value {number}" for number in range(10)}
AT_ONCE: Final = 100  # lines of one import

COLUMNS: Final = [
    Column("cpu_us", "CPU us", 0),
    Column("server_us", "server us", 0),
    Column("postgres_us", "PG us", 0),
    Column("rate", "wall/s", 0),
    Column("p50_ms", "p50 ms", 2),
    Column("p99_ms", "p99 ms", 2),
    Column("alone_p50_ms", "c=1 p50", 2),
]


class Variant(Struct, frozen=True):
    """Who is asked for what; ``counted``: what says how many conversations there are."""

    server: processes.Server
    requests: Iterator[Request]
    counted: str | None = None


class Bench(Struct, frozen=True):
    """What is running."""

    variants: Mapping[str, Variant]
    admin: Any
    postmaster: int


OURS: Final = (
    "select least((select count(*) from vault.conversations),"
    " (select count(*) from vault.audit_events where action = 'conversation.mint'))"
)
BY_HAND: Final = (
    "select least((select count(*) from byhand.conversations), (select count(*) from byhand.audit))"
)


async def run(options: Options) -> Outcome:
    """Start everything, then measure in turn."""
    seconds = 0.3 if options.quick else 1.0
    async with bench(QUICK_PEOPLE if options.quick else PEOPLE) as running:
        subjects = {
            name: measuring(running, name, one, seconds) for name, one in running.variants.items()
        }
        rounds = await interleaved(options.rounds_or(ROUNDS), subjects)
    return Outcome(
        name="mint",
        notes=[
            f"{len(INTEGRATIONS)} connections of {TOKEN_SIZE} bytes, {len(VARIABLES)} variables",
            f"closed loop: {CONNECTIONS} connections, {seconds} s a round; then one alone",
            "CPU us: server and PostgreSQL, per mint",
        ],
        columns=COLUMNS,
        rounds=rounds,
        pairs=[
            Pair("mint", "hello_typed"),
            Pair("bare mint", "hello_typed"),
            Pair("by hand", "mint"),
            Pair("with an ORM", "mint"),
        ],
        gauge="cpu_us",
    )


@contextlib.asynccontextmanager
async def bench(people: int) -> AsyncIterator[Bench]:
    """Start PostgreSQL and the servers, with the same people at all who mint."""
    key = bearer.generate("api_key").reveal()
    fernet = Fernet.generate_key().decode()
    held = {f"user-{number}": tokens_of_one() for number in range(people)}
    async with contextlib.AsyncExitStack() as stack:
        folder = stack.enter_context(processes.data_dir())
        embedded = stack.enter_context(processes.postgres(folder))
        enter = stack.enter_async_context
        raw = await enter(processes.baseline("hello_raw"))
        typed = await enter(processes.baseline("hello_typed"))
        ours = await enter(processes.keyturn(folder, key=key))
        admin = await connect_as_owner(embedded.dsn())
        stack.push_async_callback(admin.close)
        await seed(ours, key, held)
        await minted_rows.write(admin, fernet, key, held)
        given = {"BENCH_MINT_DSN": embedded.dsn().reveal(), "BENCH_MINT_FERNET": fernet}
        wanted = [mint(key, user, tokens) for user, tokens in held.items()]
        by_hand = await enter(processes.baseline("minted", given, wanted[0]))
        with_orm = await enter(processes.baseline("minted_orm", given, wanted[0]))
        same = {"KEYTURN_MODE": "development", "KEYTURN_DATA_DIR": str(folder)}
        bare = await enter(processes.baseline("bare_mint", same, wanted[0]))
        variants = {
            "hello_raw": Variant(raw, itertools.repeat(HELLO)),
            "hello_typed": Variant(typed, itertools.repeat(HELLO)),
            "by hand": Variant(by_hand, itertools.cycle(wanted), BY_HAND),
            "with an ORM": Variant(with_orm, itertools.cycle(wanted), BY_HAND),
            "bare mint": Variant(bare, itertools.cycle(wanted), OURS),
            "mint": Variant(ours, itertools.cycle(wanted), OURS),
        }
        yield Bench(variants, admin, processes.postmaster(folder))


def mint(key: str, user: str, tokens: Mapping[str, str]) -> Request:
    """One mint; what is answered has to hold this user's own token."""
    body = {
        "agent_id": "agent_bench",
        "user_id": user,
        "runtime": "sealed",
        "delivery": "inline",
        "dynamic_variables": VARIABLES,
    }
    expected = f'"secret__user_{INTEGRATIONS[0]}_token":"{tokens[INTEGRATIONS[0]]}"'
    return request(
        "POST",
        "/v1/conversations",
        expected=expected.encode(),
        body=json.dumps(body).encode(),
        bearer=key,
    )


def tokens_of_one() -> dict[str, str]:
    """What one user holds."""
    return {name: secrets.token_hex(TOKEN_SIZE // 2) for name in INTEGRATIONS}


async def seed(server: processes.Server, key: str, people: Mapping[str, Mapping[str, str]]) -> None:
    """Make integrations, users and connections, as a platform does it."""
    variables = {"token_url": "https://a.example/t", "authorize_url": "https://a.example/a"}
    app = {"provider": "oauth2", "client_id": "x", "client_secret": "x", "variables": variables}
    made = [
        request("PUT", f"/v1/integrations/{name}", expected=b'"id"', bearer=key, body=_json(app))
        for name in INTEGRATIONS
    ]
    named = [
        request(
            "PUT",
            f"/v1/users/{user}",
            expected=b'"id"',
            bearer=key,
            body=_json({"name": user.title()}),
        )
        for user in people
    ]
    connected = [
        request(
            "PUT",
            f"/v1/users/{user}/connections/{name}",
            expected=b'"id"',
            bearer=key,
            body=_json({"access_token": token, "expires_in": 43_200}),
        )
        for user, held in people.items()
        for name, token in held.items()
    ]
    for some in filter(None, (made, named, connected)):
        answers = await load.closed_loop(
            server.port, iter(some), connections=CONNECTIONS, seconds=load.PATIENCE * 10
        )
        answers.refuse_any_wrong("seeding")


def _json(body: Mapping[str, object]) -> bytes:
    return json.dumps(body).encode()


def measuring(
    running: Bench, name: str, variant: Variant, seconds: float
) -> Callable[[], Awaitable[Round]]:
    async def measure() -> Round:
        before = await _count(running, variant)
        port = variant.server.port
        warm = await load.closed_loop(
            port, variant.requests, connections=CONNECTIONS, seconds=seconds / 4
        )
        server = processes.tree(variant.server.pid)
        server_before = processes.cpu_times(server)
        postgres_before = processes.cpu_times(processes.tree(running.postmaster))
        closed = await load.closed_loop(
            port, variant.requests, connections=CONNECTIONS, seconds=seconds
        )
        in_server = processes.spent(server_before, processes.cpu_times(server)).microseconds
        postgres = processes.cpu_times(processes.tree(running.postmaster))
        in_postgres = processes.spent(postgres_before, postgres).microseconds
        if variant.counted is None:
            in_postgres = 0.0  # it works for nobody then
        alone = await load.closed_loop(port, variant.requests, connections=1, seconds=seconds / 2)
        for answers in (warm, closed, alone):
            answers.refuse_any_wrong(name)
        given = warm.right + closed.right + alone.right
        if variant.counted and await _count(running, variant) - before != given:
            raise WrongAnswers(f"{name}: other rows than the {given} answers should have left")
        return {
            "cpu_us": (in_server + in_postgres) / closed.right,
            "server_us": in_server / closed.right,
            "postgres_us": in_postgres / closed.right,
            "rate": closed.rate,
            "p50_ms": closed.percentile(50),
            "p99_ms": closed.percentile(99),
            "alone_p50_ms": alone.percentile(50),
        }

    return measure


async def _count(running: Bench, variant: Variant) -> int:
    if variant.counted is None:
        return 0
    found: int = await running.admin.fetchval(variant.counted)
    return found


BENCHMARK: Final = Benchmark("mint", "CPU time of a mint, against one written by hand", run)
