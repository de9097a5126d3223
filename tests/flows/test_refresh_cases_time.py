"""When tokens are refreshed though nobody asks: policies, clocks, holds, notices (R26, R27).

A sweep of both replicas stands for the scheduler's tick; time passes as the database has it.
"""

import ast
from datetime import timedelta
from pathlib import Path

import pytest
from support.alive import Alive

import broker
import vault
from vault.lifecycle.schedule import Policy
from vault.vault.refreshing import Hold

MONTH = 30  # days until the provider "ending" wants the person again


@pytest.mark.parametrize(
    ("policy", "used", "refreshed"),
    [
        ("eager", 0, 1),
        ("active", 0, 0),
        ("active", 1, 1),
        ("lazy", 1, 0),
    ],
)
async def test_what_is_refreshed_ahead_of_its_end(
    alive: Alive, policy: Policy, used: int, refreshed: int
) -> None:
    await alive.integrate(refresh_policy=policy)
    ada = await alive.connect()
    if used:
        await alive.token(ada)
    await alive.passes(minutes=45)
    await alive.sweep()
    assert alive.calls == 0, "nothing is refreshed before its time"
    await alive.passes(minutes=14)
    await alive.sweep()
    assert alive.calls == refreshed
    assert await alive.generation(ada) == 1 + refreshed
    await alive.sweep()
    assert alive.calls == refreshed, "and nothing twice"


async def test_a_lazy_one_is_refreshed_when_it_is_asked_for(alive: Alive) -> None:
    await alive.integrate(refresh_policy="lazy")
    ada = await alive.connect()
    await alive.passes(hours=2)
    await alive.sweep()
    found = await alive.token(ada)
    assert (found.generation, found.degraded) == (2, False)


async def test_another_policy_holds_for_what_is_connected_already(alive: Alive) -> None:
    await alive.integrate(refresh_policy="lazy")
    ada = await alive.connect()
    await alive.integrate(refresh_policy="eager")
    await alive.passes(minutes=59)
    await alive.sweep()
    assert await alive.generation(ada) == 2


async def test_who_was_used_yesterday_is_kept_fresh_and_who_was_not_is_let_be(
    alive: Alive,
) -> None:
    await alive.integrate("steady")
    ada = await alive.connect()
    await alive.token(ada)
    for _ in range(30):
        await alive.passes(hours=1)
        await alive.sweep()
    used_for = alive.calls
    assert 23 <= used_for <= 28, "for a day and an hour"
    for _ in range(10):
        await alive.passes(hours=1)
        await alive.sweep()
    assert alive.calls == used_for


@pytest.mark.parametrize("policy", ["active", "lazy"])
async def test_an_unused_refresh_token_is_kept_alive(alive: Alive, policy: Policy) -> None:
    """It dies after a week in which nobody uses it; in four weeks nobody does."""
    await alive.integrate("idle", refresh_policy=policy)
    ada = await alive.connect(expires_in=60 * 86_400)
    for _ in range(28):
        await alive.passes(days=1)
        await alive.sweep()
        left = await alive.column(ada, "idle_ends") - await alive.now()
        assert left > timedelta(days=3), "three more tries may fail"
    assert 9 <= alive.calls <= 14, "every second or third day"
    assert await alive.state(ada) == "active"


async def test_no_background_refresh_takes_a_token_out_of_a_conversations_hands(
    alive: Alive,
) -> None:
    await alive.integrate("killer", refresh_policy="eager")
    ada = await alive.connect()
    until = await alive.now() + timedelta(minutes=58)
    held = await alive.token(ada, hold=Hold("conversation-1", until))
    await alive.passes(minutes=57)
    await alive.sweep()
    assert alive.calls == 0, "its refresh is due, and would kill what is held"
    assert alive.lives(held)
    until = await alive.now() + timedelta(minutes=1)
    other = await alive.token(
        ada, min_ttl=timedelta(minutes=15), hold=Hold("conversation-2", until)
    )
    assert (other.stale, other.refresh_required, other.generation) == (True, True, 1)
    assert alive.calls == 0, "nor does another conversation kill it"
    await alive.passes(minutes=1, seconds=30)
    await alive.sweep()
    assert await alive.generation(ada) == 2, "it ends now, held or not"


async def test_the_last_minute_of_a_held_token_is_not_waited_for(alive: Alive) -> None:
    await alive.integrate("killer", refresh_policy="eager")
    ada = await alive.connect()
    until = await alive.now() + timedelta(hours=8)
    await alive.token(ada, hold=Hold("conversation-1", until))
    await alive.passes(minutes=58, seconds=30)
    await alive.sweep()
    assert alive.calls == 0
    await alive.passes(seconds=45)
    await alive.sweep()
    assert await alive.generation(ada) == 2
    found = await alive.token(ada)
    assert alive.lives(found)


async def test_what_is_held_is_refreshed_as_ever_where_that_kills_nothing(alive: Alive) -> None:
    await alive.integrate("strict", refresh_policy="eager")
    ada = await alive.connect()
    until = await alive.now() + timedelta(hours=1)
    held = await alive.token(ada, hold=Hold("conversation-1", until))
    await alive.passes(minutes=57)
    await alive.sweep()
    assert await alive.generation(ada) == 2
    assert alive.lives(held)


async def test_the_person_is_asked_for_three_times_before_the_consent_ends(alive: Alive) -> None:
    await alive.integrate("ending", refresh_policy="lazy")
    ada = await alive.connect()
    told: dict[int, int] = {}
    for day in range(1, MONTH + 1):
        await alive.passes(days=1)
        await alive.sweep()
        told[day] = (await alive.events(ada)).count("connection.expiring")
    first_days = [min(day for day, count in told.items() if count >= n) for n in (1, 2, 3)]
    assert first_days == [MONTH - 14, MONTH - 3, MONTH - 1]
    assert told[MONTH] == 3, "each notice once"
    assert (await alive.told(ada)).expiring is False, "it has ended"
    calls = alive.calls
    found = await alive.token(ada)
    assert (found.tokens, found.reason) == (None, "expired")
    assert alive.calls == calls, "no refresh goes beyond the consent"


async def test_a_scheduler_that_was_away_gives_the_latest_notice_alone(alive: Alive) -> None:
    await alive.integrate("ending", refresh_policy="lazy")
    ada = await alive.connect()
    await alive.passes(days=MONTH - 2)
    await alive.sweep()
    assert (await alive.events(ada)).count("connection.expiring") == 1
    assert (await alive.told(ada)).expiring


def test_no_replicas_own_clock_decides_anything_about_a_token() -> None:
    """A replica whose clock is an hour off refreshes nothing early or late: nothing asks it. The
    wall clock is read to name things by time, and to tick.
    """
    homes = [Path(place) for one in (vault, broker) for place in one.__path__]
    readers = {
        str(file.relative_to(home))
        for home in homes
        for file in home.rglob("*.py")
        if "sandbox" not in file.parts  # the outside world has clocks of its own
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func).endswith(("datetime.now", "time.time", "utcnow", "date.today"))
    }
    names_and_ticks = {"model.py", "scheduler.py", "cli/backup.py"}
    # What compares this machine's clock with the database's, for the doctor to say so.
    compares = {"vault/__init__.py", "doctor/advice.py"}
    assert readers == names_and_ticks | compares
