"""What a mint and a token read cost in a small and in a large deployment.

The measurements of ``mint`` and ``token``, in deployments of so many connections, five a user. A
user's five connections lie far apart in every table, as they do when they are made over years.

Who is asked for is drawn by lot from all users, and only theirs is really sealed; the rest is noise
of the same size, which nobody opens. Sealing it, too, would take an hour and change no page.
"""

import contextlib
import itertools
import math
import os
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import msgspec

from bench import processes
from bench.load import Request, request
from bench.report import Options, Outcome, Pair, Round, interleaved
from bench.suite import mint
from bench.suite.benchmark import Benchmark
from bench.suite.mint import INTEGRATIONS, Bench, Variant
from bench.world import ENVIRONMENT, World, opened_store, world
from vault.consent import Held
from vault.model import Profile, UserId, WorkspaceId
from vault.oauth.app import TokenSet
from vault.seal import KEY_SIZE, seal
from vault.secret import Secret
from vault.store import Store
from vault.store import connections as rows
from vault.store.owners import profile_context, user_key_context

ROUNDS: Final = 5
ASKED: Final = 2_000  # users who are asked for
SIZES: Final = {"10 thousand": 10_000, "1 million": 1_000_000}
FULL_SIZES: Final = {**SIZES, "5 million": 5_000_000}
QUICK_SIZES: Final = {"1 thousand": 1_000, "5 thousand": 5_000}
LASTS: Final = timedelta(hours=12)
EACH: Final = len(INTEGRATIONS)

# The n-th connection is of user n modulo the number of users, so one's five are a fifth of the
# table apart. No check of a foreign key: what they would find is known.
FILL: Final = """
set synchronous_commit = off;
set session_replication_role = replica;
insert into vault.users (workspace_id, user_id, generation, profile)
select $w, 'user-' || n, 1, '\\x00' from generate_series(0, $n / 5 - 1) as n;
insert into vault.user_keys (workspace_id, user_id, sealed)
select $w, 'user-' || n, decode(repeat('ab', 125), 'hex') from generate_series(0, $n / 5 - 1) as n;
insert into vault.connections
       (workspace_id, connection_id, user_id, integration, environment, provider, refresh_by,
        asked_scopes)
select $w, 'conn_' || left(md5(n::text), 26), 'user-' || n % ($n / 5),
       (array[$i])[1 + n / ($n / 5)], 'production', 'oauth2', 'caller', '{}'
  from generate_series(0, $n - 1) as n;
insert into vault.connection_tokens (workspace_id, connection_id, generation, sealed)
select $w, 'conn_' || left(md5(n::text), 26), 1, decode(repeat('cd', $s), 'hex')
  from generate_series(0, $n - 1) as n;
insert into vault.connection_lives
       (workspace_id, connection_id, integration, environment, provider, state, generation, fence,
        saved, consented, issued_at, consented_at, access_ends, renewable, policy, user_ref,
        of_user)
select $w, 'conn_' || left(md5(n::text), 26), (array[$i])[1 + n / ($n / 5)], 'production', 'oauth2',
       'active', 1, 1, 1, 1, now(), now(), now() + interval '12 hours', false, 'lazy',
       'usr_' || md5('user-' || n % ($n / 5)), 'user-' || n % ($n / 5)
  from generate_series(0, $n - 1) as n;
set session_replication_role = origin;
"""
IDS: Final = """
select user_id, integration, connection_id from vault.connections
 where workspace_id = $1 and user_id = any($2)
"""
FURNISH_USER: Final = """
with profile as (
    update vault.users set profile = $3 where workspace_id = $1 and user_id = $2
)
update vault.user_keys set sealed = $4 where workspace_id = $1 and user_id = $2
"""
FURNISH_CONNECTION: Final = """
update vault.connection_tokens set sealed = $3 where workspace_id = $1 and connection_id = $2
"""
READS: Final = "select count(*) from vault.audit_events where action = 'connection.token'"


async def run(options: Options) -> Outcome:
    """Fill a deployment of each size, then measure in turn."""
    sizes = FULL_SIZES if options.full else QUICK_SIZES if options.quick else SIZES
    seconds = 0.3 if options.quick else 1.0
    async with contextlib.AsyncExitStack() as stack:
        subjects: dict[str, Callable[[], Awaitable[Round]]] = {}
        for size in sizes:
            running = await stack.enter_async_context(deployment(sizes[size]))
            for what, variant in running.variants.items():
                measure = mint.measuring(running, what, variant, seconds)
                await measure()  # warm
                subjects[f"{what}, {size}"] = measure
        rounds = await interleaved(options.rounds_or(ROUNDS), subjects)
    smallest, *others = sizes
    pairs = [
        Pair(f"{what}, {one}", f"{what}, {smallest}")
        for what in ("mint", "token")
        for one in others
    ]
    return Outcome(
        name="growth-mint",
        notes=[
            f"{EACH} connections of {mint.TOKEN_SIZE} bytes a user, scattered; {ASKED} users asked",
            f"closed loop: {mint.CONNECTIONS} connections, {seconds} s a round; then one alone",
            *(_exponent(rounds, pair, sizes) for pair in pairs),
        ],
        columns=mint.COLUMNS,
        rounds=rounds,
        pairs=pairs,
        gauge="cpu_us",
    )


def _exponent(rounds: Mapping[str, list[Round]], pair: Pair, sizes: Mapping[str, int]) -> str:
    """By which power of the size the cost grows, best round to best round."""
    larger, smaller = (sizes[name.rpartition(", ")[2]] for name in (pair.subject, pair.base))
    found = {}
    for metric in ("cpu_us", "alone_p50_ms"):
        over, under = (
            min(one[metric] for one in rounds[name]) for name in (pair.subject, pair.base)
        )
        found[metric] = math.log(over / under) / math.log(larger / smaller)
    return (
        f"{pair.subject}: growth exponent {found['cpu_us']:.3f} of CPU time, "
        f"{found['alone_p50_ms']:.3f} of the latency of one alone"
    )


@contextlib.asynccontextmanager
async def deployment(size: int) -> AsyncIterator[Bench]:
    """So many connections, and a server on them."""
    async with (
        world(0) as made,
        processes.keyturn(made.folder, key=made.key, more=made.environ) as server,
    ):
        await mint.seed(server, made.key, {})
        luck = random.Random(7)  # noqa: S311 - the same users in every run
        users = [f"user-{n}" for n in luck.sample(range(size // EACH), min(ASKED, size // EACH))]
        held = {user: mint.tokens_of_one() for user in users}
        async with opened_store(made) as store:
            ids = await _fill(made, store, size, held)
        wanted = [mint.mint(made.key, user, tokens) for user, tokens in held.items()]
        reads = [
            read(made.key, ids[user, name], held[user][name])
            for user in users
            for name in INTEGRATIONS
        ]
        luck.shuffle(reads)
        variants = {
            "mint": Variant(server, itertools.cycle(wanted), mint.OURS),
            "token": Variant(server, itertools.cycle(reads), READS),
        }
        yield Bench(variants, made.admin, made.postmaster)


def read(key: str, connection_id: str, token: str) -> Request:
    """Ask for one token; it has to be this one."""
    path = f"/v1/connections/{connection_id}/token"
    return request("POST", path, expected=f'"{token}"'.encode(), bearer=key)


async def _fill(
    made: World, store: Store, size: int, held: Mapping[str, Mapping[str, str]]
) -> dict[tuple[str, str], str]:
    """Fill the tables; the connections of the users who are asked for, by user and integration."""
    admin, workspace = made.admin, made.workspace
    now = datetime.now(UTC)
    sample = rows.packed(Held(tokens=_token_set("x" * mint.TOKEN_SIZE, now)))
    words = {
        "$w": f"'{workspace}'",
        "$n": str(size),
        "$i": ", ".join(f"'{name}'" for name in INTEGRATIONS),
        "$s": str(len(sample) + 93),
    }
    statement = FILL
    for word, value in words.items():
        statement = statement.replace(word, value)
    await admin.execute(statement, timeout=3_600)
    found = {
        (user, integration): connection_id
        for user, integration, connection_id in await admin.fetch(IDS, workspace, list(held))
    }
    await _furnish(admin, store, workspace, held, found, now)
    await admin.execute("vacuum analyze", timeout=3_600)
    return found


async def _furnish(
    admin: Any,  # noqa: ANN401 - the driver has no types
    store: Store,
    workspace: WorkspaceId,
    held: Mapping[str, Mapping[str, str]],
    ids: Mapping[tuple[str, str], str],
    now: datetime,
) -> None:
    """Seal what is asked for, in the rows where the noise is."""
    sealing = await store.seal_of(workspace)
    users: list[Sequence[object]] = []
    sealed: list[Sequence[object]] = []
    for user, tokens in held.items():
        user_key = os.urandom(KEY_SIZE)
        sealed_key = seal(sealing.key, user_key_context(workspace, user), user_key)
        owner = sealing.key.for_user(user_key)
        profile = msgspec.msgpack.encode(Profile(name=user.title()))
        context = profile_context(workspace, UserId(user), 1)
        users.append((workspace, user, seal(owner, context, profile), sealed_key))
        for name, token in tokens.items():
            context = rows.tokens_context(workspace, ids[user, name], 1, ENVIRONMENT)
            content = rows.packed(Held(tokens=_token_set(token, now)))
            sealed.append((workspace, ids[user, name], seal(owner, context, content)))
    await admin.executemany(FURNISH_USER, users)
    await admin.executemany(FURNISH_CONNECTION, sealed)


def _token_set(token: str, now: datetime) -> TokenSet:
    return TokenSet(access_token=Secret(token), obtained_at=now, expires_at=now + LASTS)


BENCHMARK: Final = Benchmark(
    "growth-mint", "what a mint and a token read cost, by the number of connections", run
)
