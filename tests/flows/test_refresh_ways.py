"""A call that can be sent at once takes the short way, and any other the long one: whatever the
provider answers, and wherever the wire is cut, both come to the same.

Who is traced takes the long way. So two replicas ask for the same, and one of them is traced.
"""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Iterator
from typing import Any, Final

import pytest
from support.alive import Alive
from support.wire import SEEN, Cut

from broker.sandbox import Faults, Issuing
from vault.tracing import Noted
from vault.vault import Vault

HOUR: Final = 3600
# What a provider may say: its own words, or what it gives when it works.
SAID: Final[list[Faults | Issuing]] = [
    Issuing(rotation="strict", replay_revokes=True),
    Issuing(rotation="strict", expires_in="3600"),
    Issuing(rotation="strict", expires_in=1e12),
    Issuing(rotation="strict", expires_in=None),
    Issuing(rotation="none", without=["refresh_token"]),
    Issuing(rotation="none", fields={"refresh_token": "", "scope": "one two"}),
    Issuing(rotation="none", fields={"access_token": "odd\n"}),
    Issuing(rotation="none", fields={"refresh_token_expires_in": 86_400}),
    *(
        Faults(status=status, body=body, times=1)
        for status, body in (
            (200, "{}"),
            (200, "<title>Sign in</title>"),
            (200, '{"ok": false, "error": "ratelimited"}'),
            (200, '{"access_token": 1}'),
            (301, ""),
            (400, '{"error": "invalid_grant"}'),
            (400, '{"error": "invalid_request"}'),
            (401, '{"error": "invalid_client"}'),
            (403, "no"),
            (429, ""),
            (503, ""),
        )
    ),
    Faults(status=429, retry_after=17, times=1),
    Faults(drop="before", times=1),
    Faults(drop="after", times=1),
    Faults(answer="truncated", times=1),
    Faults(answer="huge", times=1),
]


class _Spans:
    """Counts the refreshes that somebody traced."""

    def __init__(self) -> None:
        self.refreshes = 0

    @contextlib.contextmanager
    def span(self, name: str, **_: str) -> Iterator[Noted]:
        self.refreshes += name == "refresh"
        yield self

    def note(self, name: str, value: str | int) -> None:
        """It is not read."""


@contextlib.asynccontextmanager
async def both(alive: Alive) -> AsyncIterator[tuple[Vault, Vault, _Spans]]:
    """Who takes the short way, and who the long one."""
    spans = _Spans()
    async with alive.over.another() as short, alive.over.another(tracing=spans) as long:
        yield short, long, spans


def on_the_long_way() -> bool:
    """Is there a call that is a task?"""
    names = [getattr(task.get_coro(), "__qualname__", "") for task in asyncio.all_tasks()]
    return "Caller._made" in names


async def became(alive: Alive, connection: str) -> dict[str, Any]:
    """All that came of it, but for what differs from one to the next."""
    told = await alive.told(connection)
    row = await alive.over.admin.fetchrow(
        "select state, generation, fence, saved, suspect_lost, orphan, failures, last_failure,"
        " verdict, told, renewable, doubt_since is null as sure, due_at is null as never,"
        " extract(epoch from access_ends - issued_at)::int as lasts,"
        " lease_owner is null as free from vault.connection_lives where connection_id = $1",
        connection,
    )
    kept = await alive.over.admin.fetch(
        "select kind from vault.refresh_answers where connection_id = $1", connection
    )
    return {
        **dict(row),
        "attempts": [(one.outcome, one.detail, one.http_status) for one in told.attempts],
        "scopes": told.connection.scopes,
        "kept": [one["kind"] for one in kept],
        "news": await alive.events(connection),
    }


async def asked(alive: Alive, at: Vault, user: str, said: Faults | Issuing | Cut) -> dict[str, Any]:
    """A refresh at this replica, over a connection that is kept, of which this comes."""
    eve = await alive.connect(f"{user}-before")
    await alive.token(eve, at=at, rejected=True)  # so there is a connection
    state = alive.sandbox.state
    before = state.issuing
    connection = await alive.connect(user)
    if isinstance(said, Faults):
        alive.sandbox.misbehave(said)
    elif isinstance(said, Issuing):
        state.issuing = said
    else:
        await alive.wire.put(said)
    found = await alive.token(connection, at=at, rejected=True)
    state.issuing = before
    alive.sandbox.misbehave(None)
    await alive.wire.put(None)
    await alive.passes(minutes=30)  # what was learned of the endpoint is no matter of this one
    return {**await became(alive, connection), "found": (found.degraded, found.generation)}


@pytest.mark.parametrize("cut", SEEN)
async def test_a_wire_that_is_cut_is_the_same_by_both_ways(alive: Alive, cut: Cut) -> None:
    await alive.integrate()
    async with both(alive) as (short, long, spans):
        one = await asked(alive, short, "short", cut)
        assert spans.refreshes == 0
        assert await asked(alive, long, "long", cut) == one
        # More often, where a claim came too late for its call and was made again.
        assert spans.refreshes >= 2


async def test_whatever_is_answered_is_the_same_by_both_ways(alive: Alive) -> None:
    await alive.integrate()
    chance = random.Random(1)  # noqa: S311 - nobody guesses
    async with both(alive) as (short, long, spans):
        for number, said in enumerate(chance.sample(SAID, len(SAID))):
            before = spans.refreshes
            one = await asked(alive, short, f"short{number}", said)
            assert spans.refreshes == before
            assert await asked(alive, long, f"long{number}", said) == one, said
            assert spans.refreshes >= before + 2


async def test_the_short_way_is_no_task_and_the_long_way_is_one(alive: Alive) -> None:
    await alive.integrate()
    ada, eve = await alive.connect("ada"), await alive.connect("eve")
    async with both(alive) as (short, long, _):
        for at, one, is_task in ((short, ada, False), (long, eve, True)):
            await alive.token(one, at=at, rejected=True)
            alive.sandbox.misbehave(Faults(hold=0.3))
            calls = alive.calls
            waits = asyncio.create_task(alive.token(one, at=at, rejected=True))
            while alive.calls == calls:  # noqa: ASYNC110 - a wire tells nobody
                await asyncio.sleep(0.01)
            assert on_the_long_way() == is_task
            assert not (await waits).degraded
            alive.sandbox.misbehave(None)


async def test_who_is_stopped_in_the_midst_of_either_way_says_so(alive: Alive) -> None:
    await alive.integrate()
    ada, eve = await alive.connect("ada"), await alive.connect("eve")
    async with both(alive) as (short, long, _):
        for at, one in ((short, ada), (long, eve)):
            await alive.token(one, at=at, rejected=True)
            alive.sandbox.misbehave(Faults(hold=120))
            calls = alive.calls
            waits = asyncio.create_task(alive.token(one, at=at, rejected=True))
            while alive.calls == calls:  # noqa: ASYNC110 - a wire tells nobody
                await asyncio.sleep(0.01)
            assert at.refreshes_under_way == 1
            async with asyncio.timeout(60):
                await at.end_refreshing(0.1)
                assert (await waits).degraded
            assert at.refreshes_under_way == 0
            assert await alive.column(one, "lease_owner") is not None, "nobody knows how it ended"
            alive.sandbox.misbehave(None)
