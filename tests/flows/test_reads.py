"""The short way to a token and the long one: the same tokens to the same keys, the same rows."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

import asyncpg
import msgspec
import pytest
from conftest import MakeTenant, Tenant
from hypothesis import strategies as st
from msgspec import Struct
from support.drawing import drawn
from support.minting import Desk, minting
from support.sandbox import Provider

from broker.api.token_messages import TokenOut
from broker.broker import Broker
from broker.mint.reads import HandedOut
from vault.embedded import Embedded
from vault.errors import Invalid, VaultError
from vault.model import Caller, new_id
from vault.vault import Vault
from vault.vault.refreshing import Fresh

STATES: Final = {
    "active": "",
    "backoff": ", failures = 1",
    "refreshing": ", lease_owner = 'r', lease_until = now() + interval '1 minute'",
    "uncertain": ", doubt_since = now()",
    "suspect": ", suspect_since = now()",
    "needs_reauth": ", verdict = 'refused'",
    "pending": ", generation = 0, issued_at = null, consented_at = null",
    "revoking": "",
    "revoked": "",
}
FOREVER: Final = "req_of_the_tests"


class Case(Struct, frozen=True):
    """A connection, and what is asked of it. ``used``: so long ago, in seconds."""

    state: str
    lifetime: int | None
    left: int
    asked: list[str]
    scopes: list[str] | None
    min_ttl: int
    used: int | None

    @property
    def must_be_quick(self) -> bool:
        """Is it plainly right? No seconds are so near that the time of the test matters."""
        if self.state != "active":
            return False
        return self.lifetime is None or self.left > min(self.min_ttl, self.lifetime / 2)


class Bench(Struct, frozen=True):
    """What the tests need of all parts, and one connection of Ada's."""

    desk: Desk
    broker: Broker
    vault: Vault
    admin: Any
    caller: Caller
    connection: str

    async def short(
        self, *, key: str = "", connection: str = "", min_ttl: int = 60, request: str = FOREVER
    ) -> HandedOut | None:
        """What the short way hands out."""
        key_hash = self.vault.fingerprint(key or self.desk.tenant.key)
        done = await self.broker.reads.read(
            key_hash, request, connection or self.connection, min_ttl
        )
        return done[1] if done else None

    async def long(self, min_ttl: int) -> Fresh:
        """What the long way hands out; it waits for nothing."""
        [found] = await self.vault.fresh_tokens(
            self.caller, [self.connection], min_ttl=timedelta(seconds=min_ttl), wait=0
        )
        return found

    async def lines(self) -> list[dict[str, Any]]:
        """The record's lines of handing out, but for their ids and times; the oldest first."""
        rows = await self.admin.fetch(
            "select actor_kind, actor_id, action, target_kind, target_id, user_ref, environment,"
            " outcome, request_id from vault.audit_events"
            " where workspace_id = $1 and action = 'connection.token' order by event_id",
            self.caller.workspace,
        )
        return [dict(one) for one in rows]

    async def arrange(self, case: Case) -> None:
        """Let the connection be as the case has it."""
        issued = f"now() - interval '{(case.lifetime or 0) - case.left} seconds'"
        ends = f"now() + interval '{case.left} seconds'" if case.lifetime else "null"
        await self.admin.execute(
            f"""
            update vault.connection_lives
               set generation = 1, failures = 0, lease_owner = null, lease_until = null,
                   doubt_since = null, suspect_since = null, verdict = null, renewable = false,
                   consented_at = now(), issued_at = {issued}, access_ends = {ends}
             where workspace_id = $1
            """,  # noqa: S608 - our own words
            self.caller.workspace,
        )
        await self.admin.execute(
            f"update vault.connection_lives set state = $2{STATES[case.state]}"  # noqa: S608
            " where workspace_id = $1",
            *(self.caller.workspace, case.state),
        )
        await self.forget_use(case)
        await self.admin.execute(
            "update vault.connections set asked_scopes = $2, scopes = $3 where workspace_id = $1",
            *(self.caller.workspace, case.asked, case.scopes),
        )

    async def forget_use(self, case: Case) -> None:
        used = f"now() - interval '{case.used} seconds'" if case.used is not None else "null"
        await self.admin.execute(
            f"update vault.connection_lives set used_at = {used}, promised = 7, due_at = null"  # noqa: S608
            " where workspace_id = $1",
            self.caller.workspace,
        )

    async def life(self) -> Any:
        """What handing out has noted of the connection."""
        return tuple(
            await self.admin.fetchrow(
                "select now() - used_at < interval '1 minute', promised,"
                " due_at > now() - interval '1 minute' from vault.connection_lives"
                " where workspace_id = $1",
                self.caller.workspace,
            )
        )


@pytest.fixture
async def bench(
    tenant: Tenant, provider: Provider, vault: Vault, migrated: Embedded
) -> AsyncIterator[Bench]:
    admin = await asyncpg.connect(migrated.dsn().reveal())
    async with minting(tenant, provider, upstream=False) as desk:
        caller = await vault.authenticate(tenant.key, request_id=FOREVER)
        broker = Broker(vault, vault.egress)
        yield Bench(desk, broker, vault, admin, caller, await connected(desk))
    await admin.close()


async def connected(desk: Desk, user: str = "ada", **more: Any) -> str:
    await desk.user(user)
    await desk.connect(user, **more)
    found: str = (await desk.connection(user))["id"]
    return found


scope_lists = st.sampled_from([[], ["mail"], ["mail", "files"]])
cases = st.builds(
    Case,
    state=st.sampled_from(["active"] * 20 + list(STATES)),
    lifetime=st.sampled_from([None, 100, 3600, 24 * 3600]),
    left=st.sampled_from([-5, 20, 40, 75, 95, 900, 3000, 20 * 3600]),
    asked=scope_lists,
    scopes=st.none() | scope_lists,
    min_ttl=st.sampled_from([0, 60, 1000, 86_400]),
    used=st.sampled_from([None, 5, 3600, 26 * 3600]),
)


@pytest.fixture
def draw() -> list[Case]:
    return drawn(cases, 120)


def assert_alike(one: TokenOut, other: TokenOut) -> None:
    """In all, but for the seconds that went by."""
    assert one.active
    fields, others = msgspec.structs.asdict(one), msgspec.structs.asdict(other)
    left, others_left = fields.pop("expires_in"), others.pop("expires_in")
    assert fields == others
    assert (left is None) == (others_left is None)
    assert left is None or 0 <= left - others_left <= 15


async def test_both_ways_give_the_same_and_leave_the_same_rows(
    bench: Bench, draw: list[Case]
) -> None:
    handed_out = 0
    for case in draw:
        await bench.arrange(case)
        before = await bench.lines()
        quick = await bench.short(min_ttl=case.min_ttl)
        assert (quick is not None) is case.must_be_quick, case
        if quick is None:
            assert await bench.lines() == before
            continue
        noted = await bench.life()
        await bench.forget_use(case)
        told = TokenOut.of(await bench.long(case.min_ttl))
        assert_alike(TokenOut.of_handed_out(quick), told)
        assert noted == await bench.life(), case
        *earlier, short, long = await bench.lines()
        assert earlier == before
        assert short == long
        handed_out += 1
    assert handed_out > len(draw) / 10


async def test_it_is_noted_when_the_key_was_used(bench: Bench) -> None:
    async def used() -> datetime:
        found: datetime = await bench.admin.fetchval(
            "select last_used_at from vault.api_keys where workspace_id = $1",
            bench.caller.workspace,
        )
        return found

    await bench.short()
    first = await used()
    await bench.short()
    assert await used() == first
    await bench.admin.execute(
        "update vault.api_keys set last_used_at = now() - interval '2 minutes'"
        " where workspace_id = $1",
        bench.caller.workspace,
    )
    await bench.short()
    assert await used() > first


# Whom it hands nothing to


@pytest.mark.parametrize(
    "key",
    [
        {"scopes": ["mint", "manage", "connect"]},
        {"scopes": ["tokens:read"], "environments": ["staging", "qa"]},
    ],
    ids=["without the scope", "tied to other environments"],
)
async def test_a_key_that_may_not_gets_nothing(bench: Bench, key: dict[str, Any]) -> None:
    made = await bench.desk.api.post("/v1/keys", {"name": "k", **key})
    assert await bench.short(key=made.json["key"]) is None
    assert await bench.lines() == []


async def test_a_key_that_is_dead_gets_nothing_from_then_on(bench: Bench) -> None:
    made = await bench.desk.api.post("/v1/keys", {"name": "k", "scopes": ["tokens:read"]})
    key, key_id = made.json["key"], made.json["id"]
    ends = "update vault.api_keys set expires_at = {} where workspace_id = $1 and key_id = $2"
    for moment, lives in (("now() + interval '1 hour'", True), ("now()", False), ("null", True)):
        await bench.admin.execute(ends.format(moment), bench.caller.workspace, key_id)
        assert (await bench.short(key=key) is not None) is lives
    assert (await bench.desk.api.delete(f"/v1/keys/{key_id}")).status == 204
    assert await bench.short(key=key) is None
    assert [one["actor_id"] for one in await bench.lines()] == [key_id, key_id]


async def test_another_workspaces_connection_is_not_there(
    bench: Bench, make_tenant: MakeTenant
) -> None:
    stranger = await make_tenant()
    assert await bench.short(key=stranger.key) is None
    assert await bench.short(connection=new_id("conn")) is None
    assert await bench.lines() == []
    assert await bench.short() is not None


async def test_a_connection_that_is_gone_is_not_there(bench: Bench) -> None:
    assert (await bench.desk.api.delete(f"/v1/connections/{bench.connection}")).status == 200
    assert await bench.short() is None


# Many at once


def watched(bench: Bench) -> list[int]:
    """The sizes of the batches from now on."""
    batches, sizes = bench.broker.reads._batches, []  # noqa: SLF001 - how many go together
    run = batches._run  # noqa: SLF001

    async def counting(questions: Sequence[Any]) -> Any:
        sizes.append(len(questions))
        return await run(questions)

    batches._run = counting  # noqa: SLF001
    return sizes


async def test_a_crowd_of_two_workspaces_gets_each_its_own(
    bench: Bench, make_tenant: MakeTenant, provider: Provider
) -> None:
    async with minting(await make_tenant(), provider, upstream=False) as other:
        sides, people = (bench.desk, other), [f"user{number}" for number in range(12)]
        asked = [
            (side, user, await connected(side, user, account=f"{side.tenant.id}/{user}"))
            for user in people
            for side in sides
        ]
        sizes = watched(bench)
        every = await asyncio.gather(
            *(
                bench.short(key=side.tenant.key, connection=connection)
                for side, _, connection in asked * 3
            )
        )
        assert sum(sizes) == len(every)
        assert max(sizes) > len(people)
        for (side, user, _), found in zip(asked * 3, every, strict=True):
            assert found is not None
            assert found.access_token is not None
            given = provider.state.ledger.find(found.access_token, "")
            assert given is not None
            assert given.family.account == f"{side.tenant.id}/{user}"
        crossed = [
            bench.short(key=side.tenant.key, connection=connection)
            for side in sides
            for owner, _, connection in asked
            if owner is not side
        ]
        assert set(await asyncio.gather(*crossed)) == {None}
        for side in sides:
            told = [one["target"]["id"] for one in await side.audited("connection.token")]
            mine = [connection for owner, _, connection in asked if owner is side]
            assert sorted(told) == sorted(mine * 3)


async def test_one_bad_row_spoils_nothing_for_its_neighbours(
    bench: Bench, make_tenant: MakeTenant
) -> None:
    torn = await connected(bench.desk, "torn")
    await bench.admin.execute(
        "update vault.connection_tokens set sealed = '\\x00' where workspace_id = $1"
        " and connection_id = $2",
        *(bench.caller.workspace, torn),
    )
    ended = await connected(bench.desk, "late")
    await bench.admin.execute(
        "update vault.connection_lives set access_ends = now() where workspace_id = $1"
        " and connection_id = $2",
        *(bench.caller.workspace, ended),
    )
    stranger = await make_tenant()
    sizes = watched(bench)
    every = await asyncio.gather(
        bench.short(),
        bench.short(key=stranger.key),
        bench.short(connection=torn),
        bench.short(connection=new_id("conn")),
        bench.short(connection=ended),
        bench.short(key="kt_nothing"),
        bench.short(),
        return_exceptions=True,
    )
    assert sizes == [7]
    good = [isinstance(one, HandedOut) for one in every]
    assert good == [True, False, False, False, False, False, True]
    assert isinstance(every[2], VaultError)
    told = [one["target_id"] for one in await bench.lines()]
    assert told == [bench.connection, torn, bench.connection]


async def test_a_row_that_fails_the_statement_fails_alone(bench: Bench) -> None:
    sizes = watched(bench)
    bad, *good = await asyncio.gather(
        bench.short(request="what PostgreSQL\x00does not take"),
        *(bench.short() for _ in range(3)),
        return_exceptions=True,
    )
    assert isinstance(bad, Invalid)
    assert all(isinstance(one, HandedOut) for one in good)
    assert sizes == [4, 1, 1, 1, 1]
    assert len(await bench.lines()) == 3


async def test_the_same_connection_may_be_asked_for_often_in_one_batch(bench: Bench) -> None:
    await bench.admin.execute(
        "update vault.connection_lives set used_at = null where workspace_id = $1",
        bench.caller.workspace,
    )
    sizes = watched(bench)
    every = await asyncio.gather(*(bench.short() for _ in range(9)))
    assert sizes == [9]
    assert None not in every
    assert len(await bench.lines()) == 9
    assert await bench.life() == (True, 60, True)


async def test_nobody_waits_for_a_row_that_somebody_holds(bench: Bench, migrated: Embedded) -> None:
    await bench.arrange(Case("active", 3600, 3000, [], None, 60, None))
    holder = await asyncpg.connect(migrated.dsn().reveal())
    try:
        async with holder.transaction():
            for table in ("connection_lives", "api_keys"):
                await holder.execute(
                    f"select from vault.{table} where workspace_id = $1 for update",
                    bench.caller.workspace,
                )
            async with asyncio.timeout(60):  # it is held for as long as this lasts
                assert await bench.short() is not None
    finally:
        await holder.close()
    assert len(await bench.lines()) == 1
