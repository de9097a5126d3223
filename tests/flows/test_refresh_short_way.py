"""The short way of an ordinary refresh leaves behind what the long way leaves, to the column; and
where it would not, it steps aside.

* A sweep's claim goes the long way where those before it in a batch may take all room that there is
  at the endpoint; an ending does where it does not know what its connection was at its claim.
"""

from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import Any, Final

import pytest
from hypothesis import strategies as st
from msgspec import Struct
from msgspec.structs import asdict, replace
from support.alive import Alive
from support.databases import address
from support.drawing import drawn

from vault.database import Database
from vault.keyring import Keyring
from vault.kms import open_root_key
from vault.lifecycle import endpoint as endpoints
from vault.lifecycle.rate import Rate
from vault.lifecycle.schedule import Policy
from vault.oauth.app import App
from vault.providers import Catalogue
from vault.refreshing.lane import Lane
from vault.refreshing.marks import Marks
from vault.refreshing.page import Ending, Granted, Outlet, Place, Refused, Wanted, unused
from vault.refreshing.replica import Replica
from vault.secret import Secret
from vault.store import Store
from vault.store import connections as connection_rows
from vault.store import refreshing as rows
from vault.store.answers import attempts
from vault.store.refreshing import LifeRow

HOUR: Final = 3600
DAY: Final = 24 * HOUR
# Two looks at one thing are that far apart at the most.
SOON: Final = timedelta(seconds=30)


class Case(Struct, frozen=True, kw_only=True):
    """A connection that is looked at, and what its call brings. Times are seconds from now."""

    provider: str = "strict"
    policy: Policy = "eager"
    due: int = -5
    issued: int = -HOUR
    access: int | None = 0
    idle: int | None = 7 * DAY
    consent: int | None = None
    consented: int = -3 * DAY
    noticed: int | None = None
    used: int | None = None
    expected: int | None = None
    promised: int = 0
    held: int | None = None
    orphan: int | None = None
    told: bool = False
    trouble: str = ""
    renewable: bool = True
    meanwhile: str = ""
    brings: frozenset[str] = frozenset()
    lasts: int | None = HOUR
    heard: str = "connection.refreshed"


cases = st.builds(
    Case,
    provider=st.sampled_from(("strict", "strict", "steady", "killer", "ending", "idle")),
    policy=st.sampled_from(("eager", "eager", "active", "lazy")),
    due=st.sampled_from((-5, -5, -5, -5, 60)),
    issued=st.sampled_from((-HOUR, -2 * HOUR, -300)),
    access=st.sampled_from((0, -60, 200, 400, DAY, None)),
    idle=st.sampled_from((None, HOUR, 7 * DAY)),
    consent=st.sampled_from((None, None, -10, DAY // 2, 2 * DAY, 20 * DAY)),
    consented=st.sampled_from((-3 * DAY, -29 * DAY)),
    noticed=st.sampled_from((None, DAY, 3 * DAY)),
    used=st.sampled_from((None, -HOUR, -26 * HOUR)),
    expected=st.sampled_from((None, None, HOUR, -HOUR)),
    promised=st.sampled_from((0, 900)),
    held=st.sampled_from((None, None, HOUR)),
    orphan=st.sampled_from((None, None, 2)),
    told=st.sampled_from((False, False, False, True)),
    trouble=st.sampled_from(("",) * 6 + ("client", "backoff", "doubt", "suspect", "waits")),
    renewable=st.sampled_from((True, True, True, False)),
    meanwhile=st.sampled_from(("",) * 4 + ("used", "expected", "policy", "promised", "claimed")),
    brings=st.sampled_from(
        (frozenset[str](),) * 4
        + (frozenset({"scopes"}), frozenset({"no_refresh_token"}), frozenset({"ends"}))
    ),
    lasts=st.sampled_from((HOUR, HOUR, 600, None)),
    heard=st.sampled_from(("connection.refreshed", "", "connection.degraded", "nobody")),
)
# One of each kind, whatever is drawn.
ORDINARY: Final = [
    Case(),
    Case(policy="active", used=-HOUR, promised=900, orphan=2),
    Case(policy="lazy", idle=HOUR, access=None, provider="idle", issued=-2 * DAY),
    Case(provider="ending", consent=20 * DAY, brings=frozenset({"ends"})),
]
OTHERS: Final = [
    Case(trouble="backoff"),
    Case(trouble="client"),
    Case(told=True),
    Case(renewable=False),
    Case(due=60),
    Case(access=DAY, consent=2 * DAY),
    Case(policy="active", used=-26 * HOUR),
    Case(provider="killer", policy="active", used=-HOUR, access=200, held=HOUR),
]
# Kept alive for nobody until somebody comes, between the claim and its ending.
UNUSED: Final = Case(policy="active", provider="idle", idle=HOUR, access=None, issued=-2 * DAY)
MEANWHILE: Final = [
    replace(UNUSED, meanwhile="used"),
    replace(UNUSED, meanwhile="expected"),
    Case(meanwhile="policy"),
    Case(meanwhile="promised"),
    Case(meanwhile="claimed"),
]
UNLIKE: Final = [Case(brings=frozenset({one})) for one in ("scopes", "no_refresh_token")]


class Left(Struct, frozen=True):
    """What a claim and its ending leave behind; ``short``: how many of the two went that way."""

    short: int
    claimed: Granted | Refused
    generation: int
    lives: list[dict[str, Any]]
    tokens: list[Any]
    timeline: list[Any]
    news: list[str]


class Bench:
    """A connection whose row is set, and a lane in which it is claimed and its call ends."""

    def __init__(self, alive: Alive, database: Database, store: Store, base: LifeRow) -> None:
        self.admin = alive.over.admin
        self.workspace = alive.caller.workspace
        self.place = Place(self.workspace, "acme", "production")
        self.catalogue = Catalogue(alive.over.folder / "providers")
        self.database, self.store, self.base = database, store, base
        self.replica = Replica(database, alive.left.deployment_id, Marks((), "dep"))
        self.lane = Lane(self.place, database, store, self.replica)
        self.outlets: dict[str, Outlet] = {}
        self.first = b""

    async def run(self, work: Any) -> Any:
        return await self.database.run(self.workspace, work)

    async def row(self) -> LifeRow:
        name = self.base.connection_id
        found: dict[str, LifeRow] = await self.run(lambda tx: rows.lock_lives(tx, [name]))
        return found[name]

    async def outlet(self, case: Case) -> Outlet:
        if case.provider not in self.outlets:
            app = App(provider=self.catalogue.get(case.provider), client_id="app")
            sealing = await self.store.seal_of(self.workspace)
            self.outlets[case.provider] = Outlet.of(app, sealing)
        return self.outlets[case.provider]

    async def lived(self, case: Case, *, short: bool) -> Left:
        """A claim and, if it is granted, the ending of its call."""
        await self.set(case, room=1.0 if not short else 9.0)
        outlet = await self.outlet(case)
        claimed = await self.claim(outlet)
        lives = [asdict(await self.row())]
        generation, ways = 0, 0
        if isinstance(claimed, Granted):
            await self.happens(case.meanwhile)
            ending = await self.ending(case, claimed, outlet)
            ways = ending.rested is not None
            assert short or not ways, "the long way was asked for"
            generation = (await self.lane.endings.do(ending)).generation
            lives.append(asdict(await self.row()))
        return Left(ways, claimed, generation, lives, await self.tokens(outlet), *await self.told())

    async def set(self, case: Case, *, room: float) -> None:
        """Make the connection what the case says, and forget what was before."""
        now: datetime = await self.admin.fetchval("select now()")

        def at(seconds: int | None) -> datetime | None:
            return None if seconds is None else now + timedelta(seconds=seconds)

        row = replace(
            self.base,
            orphan=case.orphan,
            fence=3,
            saved=3,
            told=case.told,
            issued_at=at(case.issued),
            consented_at=at(case.consented),
            access_ends=at(case.access),
            idle_ends=at(case.idle),
            consent_ends=at(case.consent),
            renewable=case.renewable,
            policy=case.policy,
            noticed=case.noticed,
            promised=case.promised,
            due_at=at(case.due),
        )
        row = troubled(row, case.trouble, now)
        await self.run(lambda tx: rows.write_lives(tx, [row]))
        await self.admin.execute(
            "update vault.connection_lives set used_at = $2, expected_at = $3"
            " where connection_id = $1",
            row.connection_id,
            at(case.used),
            at(case.expected),
        )
        await self.clear(at(case.held))
        await self.listen(case.heard)
        fresh = endpoints.begun(now)
        rate = Rate(per_second=room, ceiling=room, level=room, at=now)
        await self.run(
            lambda tx: rows.write_endpoint(
                tx, "acme", "production", case.provider, replace(fresh, rate=rate)
            )
        )

    async def listen(self, heard: str) -> None:
        """Let one endpoint, which is disabled, hear of that; of everything, where it is empty."""
        await self.admin.execute(
            "delete from vault.event_endpoints where workspace_id = $1", self.workspace
        )
        if heard != "nobody":
            await self.admin.execute(
                "insert into vault.event_endpoints"
                " (workspace_id, endpoint_id, types, disabled_at, created_by)"
                " values ($1, 'evep_test', $2, now(), 'test')",
                self.workspace,
                [heard] if heard else [],
            )

    async def clear(self, held_until: datetime | None) -> None:
        name = self.base.connection_id
        for table in ("refresh_attempts", "outbox", "holds"):
            await self.admin.execute(
                f"delete from vault.{table} where workspace_id = $1",  # noqa: S608 - three names
                self.workspace,
            )
        self.first = self.first or await self.admin.fetchval(
            "select sealed from vault.connection_tokens where connection_id = $1", name
        )
        await self.admin.execute(
            "update vault.connection_tokens set generation = 1, sealed = $2"
            " where connection_id = $1",
            name,
            self.first,
        )
        await self.admin.execute(
            "update vault.connections set scopes = '{before}' where connection_id = $1", name
        )
        if held_until is not None:
            await self.admin.execute(
                "update vault.connection_lives set of_user = 'ada' where connection_id = $1", name
            )
            await self.admin.execute(
                "insert into vault.holds values ($1, 'ada', 'conv', jsonb_build_object($2::text,"
                " '1'), $3)",
                self.workspace,
                name,
                held_until,
            )

    async def claim(self, outlet: Outlet) -> Granted | Refused:
        """As a sweep does; after somebody who is not there, and for whom there has to be room."""
        asked = [
            Wanted(connection_id=one, outlet=outlet, waiting=False)
            for one in ("conn_nobody", self.base.connection_id)
        ]
        nobodys, mine = [self.lane.claims.put(one) for one in asked]
        assert await nobodys == Refused(why="busy")
        return await mine

    async def happens(self, what: str) -> None:
        """Between a claim and its ending."""
        if what:
            await self.admin.execute(
                f"update vault.connection_lives set {MEANTIME[what]} where connection_id = $1",  # noqa: S608 - our own words
                self.base.connection_id,
            )

    async def ending(self, case: Case, granted: Granted, outlet: Outlet) -> Ending:
        stored = granted.refreshable
        opened, key = await self.store.open_and_key(
            outlet.sealing,
            stored.user_id,
            stored.user_key,
            self.context(stored.generation),
            stored.sealed,
        )
        held = connection_rows.held_from(opened)
        at = granted.claim.at
        tokens = replace(
            held.tokens,
            access_token=Secret("newer"),
            obtained_at=at,
            expires_at=None if case.lasts is None else at + timedelta(seconds=case.lasts),
        )
        if "scopes" in case.brings:
            tokens = replace(tokens, scopes=("fewer",))
        if "no_refresh_token" in case.brings:
            tokens = replace(tokens, refresh_token=None)
        if "ends" in case.brings:
            tokens = replace(tokens, refresh_expires_at=at + timedelta(days=5))
        return replace(unused(granted, outlet, held, key), tokens=tokens)

    def context(self, generation: int) -> Any:
        return connection_rows.tokens_context(
            self.workspace, self.base.connection_id, generation, "production"
        )

    async def tokens(self, outlet: Outlet) -> list[Any]:
        """The generation that is stored, and what it says; opened where it belongs."""
        row = await self.admin.fetchrow(
            "select t.generation, t.sealed, k.sealed as user_key from vault.connection_tokens t"
            " join vault.user_keys k using (workspace_id) where t.connection_id = $1"
            " and k.user_id = 'ada'",
            self.base.connection_id,
        )
        generation = row["generation"]
        opened, _ = await self.store.open_and_key(
            outlet.sealing, "ada", row["user_key"], self.context(generation), row["sealed"]
        )
        held = connection_rows.held_from(opened)
        access = held.tokens.access_token
        assert access is not None
        scopes = await self.admin.fetchval(
            "select scopes from vault.connections where connection_id = $1", self.base.connection_id
        )
        return [generation, access.reveal(), held.tokens.obtained_at, held.tokens.scopes, scopes]

    async def told(self) -> tuple[list[Any], list[str]]:
        name = self.base.connection_id
        lines = await self.run(lambda tx: attempts(tx, name, 10))
        news = await self.admin.fetch(
            "select type, body from vault.outbox where workspace_id = $1 order by event_id",
            self.workspace,
        )
        return [asdict(one) for one in lines], [f"{one[0]} {one[1]}" for one in news]


MEANTIME: Final = {
    "used": "used_at = now()",
    "expected": "expected_at = now() + interval '20 minutes'",
    "policy": "policy = case policy when 'lazy' then 'eager' else 'lazy' end",
    "promised": "promised = 1200",
    "claimed": "fence = fence + 1, lease_owner = 'other'",
}


def troubled(row: LifeRow, trouble: str, now: datetime) -> LifeRow:
    ago = now - timedelta(minutes=10)
    if trouble == "client":
        return replace(row, last_failure="client", next_try_at=ago)
    if trouble == "backoff":
        return replace(row, state="backoff", failures=2, last_failure="transient", next_try_at=ago)
    if trouble == "doubt":
        return replace(row, state="uncertain", doubt_since=ago)
    if trouble == "suspect":
        return replace(
            row, state="suspect", suspect_since=ago, last_failure="dead", next_try_at=ago
        )
    if trouble == "waits":
        return replace(row, next_try_at=now + timedelta(hours=1))
    return row


def assert_alike(one: Any, other: Any, where: str = "") -> None:
    """The same, but for what is drawn by lot and the moment at which it was done."""
    if isinstance(one, datetime) and isinstance(other, datetime):
        assert abs(one - other) < SOON, where
    elif isinstance(one, Granted) and isinstance(other, Granted):
        assert_alike(asdict(one.claim), asdict(other.claim), f"{where}.claim")
        assert_alike(one.due_at, other.due_at, f"{where}.due_at")
    elif isinstance(one, Struct):
        assert type(one) is type(other), where
        assert_alike(asdict(one), asdict(other), where)
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for name in one.keys() - {"attempt", "lease_attempt", "short"}:
            assert_alike(one[name], other[name], f"{where}.{name}")
    elif isinstance(one, list):
        assert len(one) == len(other), where
        for left, right in zip(one, other, strict=True):
            assert_alike(left, right, f"{where}[]")
    else:
        assert one == other, where


@pytest.fixture
async def bench(alive: Alive) -> AsyncIterator[Bench]:
    await alive.integrate(refresh_policy="eager")
    ada = await alive.connect()
    over = alive.over
    application = address(over.postgres, over.name, "keyturn_app")
    database = await Database.open(application, size=2, statement_cache=100)
    root_key = open_root_key(over.root_key_file.as_uri())
    keyring = Keyring(root_key, alive.left.deployment_id)
    base: dict[str, LifeRow] = await database.run(
        alive.caller.workspace, lambda tx: rows.lock_lives(tx, [ada])
    )
    yield Bench(alive, database, Store(database, keyring), base[ada])
    await keyring.close()
    await database.close()


@pytest.fixture
def draw() -> list[Case]:
    return drawn(cases, 60)


async def test_both_ways_leave_the_same_behind(bench: Bench, draw: list[Case]) -> None:
    ways = 0
    for case in [*ORDINARY, *OTHERS, *MEANWHILE, *UNLIKE, *draw]:
        short, long = await bench.lived(case, short=True), await bench.lived(case, short=False)
        assert_alike(short, long, repr(case))
        ways += short.short
    assert ways > len(draw) / 10


@pytest.mark.parametrize("case", ORDINARY, ids=repr)
async def test_an_ordinary_refresh_goes_the_short_way(bench: Bench, case: Case) -> None:
    left = await bench.lived(case, short=True)
    assert left.short
    assert left.generation == 2
    assert [one["outcome"] for one in left.timeline] == ["refreshed"]
    assert [one.split()[0] for one in left.news] == ["connection.refreshed"]


@pytest.mark.parametrize("way", ["short", "long"])
async def test_news_of_a_refresh_are_written_where_an_endpoint_wants_them(
    bench: Bench, way: str
) -> None:
    short = way == "short"
    for heard, news in (("", 1), ("connection.degraded", 0), ("nobody", 0)):
        left = await bench.lived(Case(heard=heard), short=short)
        assert left.short == short
        assert left.generation == 2
        assert len(left.news) == news, heard


@pytest.mark.parametrize("case", OTHERS, ids=repr)
async def test_whatever_is_out_of_the_ordinary_goes_the_long_way(bench: Bench, case: Case) -> None:
    assert not (await bench.lived(case, short=True)).short


async def test_a_row_that_does_not_say_whose_it_is_goes_the_long_way_once(bench: Bench) -> None:
    case, name = ORDINARY[0], bench.base.connection_id
    unsaid = "update vault.connection_lives set of_user = null where connection_id = $1"
    await bench.admin.execute(unsaid, name)
    assert not (await bench.lived(case, short=True)).short
    assert (await bench.lived(case, short=True)).short


async def test_the_last_room_is_for_who_is_waited_for(alive: Alive, bench: Bench) -> None:
    bob = await alive.connect("bob")
    await bench.set(Case(), room=1.0)
    outlet = await bench.outlet(Case())
    swept = Wanted(connection_id=bench.base.connection_id, outlet=outlet, waiting=False)
    waited_for = Wanted(connection_id=bob, outlet=outlet, waiting=True)
    done = [bench.lane.claims.put(one) for one in (swept, waited_for)]
    refused, granted = [await one for one in done]
    assert isinstance(granted, Granted)
    assert isinstance(refused, Refused)
    assert refused.why == "no_room"


async def test_those_for_whom_there_is_room_go_the_short_way(alive: Alive, bench: Bench) -> None:
    people = [await alive.connect(name) for name in ("bob", "eve", "joe")]
    await alive.end_access(*people)
    await bench.set(Case(), room=2.0)
    outlet = await bench.outlet(Case())
    wanted = [Wanted(connection_id=one, outlet=outlet, waiting=False) for one in people]
    done = [bench.lane.claims.put(one) for one in wanted]
    ways = [isinstance(found := await one, Granted) and found.rested is not None for one in done]
    assert ways == [True, True, False]
