"""What the short way of an ordinary refresh takes for granted is what the machine would say."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from vault.lifecycle import endpoint as endpoints
from vault.lifecycle.breaker import Breaker
from vault.lifecycle.clocks import Clocks
from vault.lifecycle.endpoint import Endpoint
from vault.lifecycle.events import Answered, Claimed
from vault.lifecycle.intents import Announce, Call, Save, TellIntegration
from vault.lifecycle.life import Life
from vault.lifecycle.machine import step
from vault.lifecycle.rate import Rate
from vault.lifecycle.retries import Retries
from vault.lifecycle.schedule import Use, is_surely_due, next_look, resting_look
from vault.lifecycle.standing import Standing
from vault.lifecycle.takeover import leased
from vault.lifecycle.terms import Terms
from vault.lifecycle.window import Window
from vault.refreshing.page import luck_of
from vault.refreshing.resting import is_due
from vault.store.calls import Rested

NOW = datetime(2026, 1, 1, tzinfo=UTC)

moments = st.timedeltas(timedelta(minutes=-20), timedelta(minutes=5)).map(lambda by: NOW + by)
fences = st.integers(1, 100)
terms = st.builds(
    Terms,
    rotation=st.sampled_from(("none", "stays_valid", "grace", "strict")),
    grace=st.just(NOW - NOW),
)
# At rest: active, and nothing of a trouble is left. What was put aside may still be there.
resting = st.builds(
    Life,
    generation=st.integers(1, 100),
    fence=st.just(100),
    saved=fences,
    consented=fences,
    orphan=st.none() | fences,
)
windows = st.builds(
    Window,
    began=moments,
    good=st.integers(0, 30),
    bad=st.integers(0, 30),
    good_before=st.integers(0, 30),
    bad_before=st.integers(0, 30),
)
known = st.builds(
    Endpoint,
    standing=st.builds(
        Standing,
        window=windows,
        since=moments,
        why=st.sampled_from((None, None, None, "held", "paused")),
        probe_at=st.none() | moments,
        held_until=st.none() | moments,
        believed_until=st.none() | moments,
    ),
    rate=st.builds(
        Rate,
        per_second=st.floats(0.1, 400),
        ceiling=st.floats(1, 400),
        level=st.floats(0, 400),
        at=moments,
        rest_until=st.none() | moments,
    ),
    breaker=st.builds(
        Breaker,
        window=windows,
        opened_at=st.none() | st.none() | moments,
        rest_until=st.none() | moments,
    ),
    retries=st.builds(Retries, credit=st.floats(0, 10), at=moments),
)


DAY, HOUR, MINUTE = timedelta(days=1), timedelta(hours=1), timedelta(minutes=1)


def at(*minutes: int | None) -> st.SearchStrategy[datetime | None]:
    """One of these, from now."""
    return st.sampled_from([None if by is None else NOW + by * MINUTE for by in minutes])


paces = st.builds(
    Terms,
    kills_old_access=st.booleans(),
    min_age=st.sampled_from((HOUR - HOUR, HOUR - HOUR, 30 * MINUTE, 2 * HOUR)),
    keep_alive=st.none() | st.sampled_from((HOUR, 2 * DAY)),
    margin=st.none() | st.sampled_from((MINUTE, HOUR)),
)
rows = st.builds(
    Rested,
    connection_id=st.integers(0, 1_000_000).map(str),
    user_id=st.just("ada"),
    generation=st.integers(1, 100),
    sealed=st.just(b""),
    user_key=st.just(b""),
    fence=fences,
    due_at=st.just(NOW),
    issued_at=at(None, 1, -3000, -20, -20, -50, -50, -50),
    consented_at=at(None, -50_000, -5000, -5000, -5000),
    access_ends=at(None, -5000, -100, -70, -1, 0, 4, 5, 6, 7, 8, 9, 10, 12),
    idle_ends=at(None, None, -5000, -1, 60, 10_000),
    consent_ends=at(None, None, None, -1, 1000, 20_000),
    policy=st.sampled_from(("eager", "eager", "active", "lazy")),
    noticed=st.sampled_from((None, 86_400, 3 * 86_400)),
    used_at=at(None, -1, -24 * 60, -25 * 60, -26 * 60),
    expected_at=at(None, -60, 7, 60),
    promised=st.sampled_from((0, 0, 60, 1200)),
    held_until=at(None, None, 1, 60),
)


@settings(max_examples=1_000)
@given(rows, paces)
def test_what_is_claimed_at_rest_is_what_the_schedule_calls_due(row: Rested, rules: Terms) -> None:
    if row.issued_at is None or row.consented_at is None:
        assert not is_due(row, rules, NOW)
        return
    times = Clocks(
        issued_at=row.issued_at,
        consented_at=row.consented_at,
        access_ends=row.access_ends,
        idle_ends=row.idle_ends,
        consent_ends=row.consent_ends,
    )
    use = Use(
        used_at=row.used_at,
        hold_until=row.held_until,
        expected_at=row.expected_at,
        promise=timedelta(seconds=row.promised),
    )
    more: dict[str, Any] = {
        "now": NOW,
        "luck": luck_of(row.connection_id, row.generation),
        "noticed": None if row.noticed is None else timedelta(seconds=row.noticed),
    }
    at_rest = Life(generation=row.generation)
    look = next_look(at_rest, times, rules, use, row.policy, **more)
    assert resting_look(times, rules, use, row.policy, **more) == look
    is_refresh = look is not None and look.at <= NOW and look.why != "notice"
    assert is_due(row, rules, NOW) == is_refresh


@pytest.mark.parametrize(("left", "luck"), [(5, 0.0), (10, 1.0), (-60, 0.0)])
def test_a_token_in_use_is_surely_due_when_its_time_has_come_and_not_before(
    left: int, luck: float
) -> None:
    ends = NOW + left * MINUTE
    given: dict[str, Any] = {"terms": Terms(), "policy": "eager", "used_at": None, "luck": luck}
    given["promise"] = timedelta()
    assert is_surely_due(ends - HOUR, ends, now=NOW, **given)
    sooner = min(NOW, ends) - timedelta(microseconds=1)
    assert left < 0 or not is_surely_due(ends - HOUR, ends, now=sooner, **given)


@given(resting, terms)
def test_a_life_at_rest_is_claimed_with_the_next_fence_and_nothing_else_changes(
    life: Life, rules: Terms
) -> None:
    event = Claimed(at=NOW, owner="rep", attempt="try", holder_alive=False)
    claim = leased(life.fence + 1, life.generation, owner="rep", attempt="try", at=NOW)
    after, [call] = step(life, event, rules)
    assert after == replace(life, fence=claim.fence, claim=claim)
    assert isinstance(call, Call)
    assert not call.again, "no retry, and so nothing of the endpoint's budget for them"


@given(resting, terms)
def test_its_answer_is_the_next_generation_and_leaves_it_at_rest(life: Life, rules: Terms) -> None:
    claim = leased(life.fence + 1, life.generation, owner="rep", attempt="try", at=NOW)
    claimed = replace(life, fence=claim.fence, claim=claim)
    after, intents = step(claimed, Answered(at=NOW, fence=claim.fence), rules)
    renewed = Life(
        generation=life.generation + 1,
        fence=claim.fence,
        saved=claim.fence,
        consented=life.consented,
    )
    assert after == renewed
    assert after.state == "active"
    assert intents == (
        Save(fence=claim.fence, generation=renewed.generation, source="answer"),
        TellIntegration(what="fine"),
        Announce(news="refreshed"),
    )


@given(known, st.integers(1, 50))
def test_calls_that_are_admitted_at_once_are_admitted_one_by_one(
    endpoint: Endpoint, calls: int
) -> None:
    calls = min(calls, endpoints.room(endpoint, NOW))
    at_once = endpoints.admit_all(endpoint, NOW, calls)
    for _ in range(calls):
        endpoint, until = endpoints.admit(endpoint, NOW)
        assert until is None
    if calls:
        assert_same(at_once, endpoint)


@given(known, st.integers(1, 50))
def test_answers_that_are_heard_at_once_are_heard_one_by_one(
    endpoint: Endpoint, calls: int
) -> None:
    only_counts = endpoints.only_counts(endpoint, NOW)
    at_once = endpoints.all_fine(endpoint, NOW, calls)
    for _ in range(calls):
        endpoint = endpoints.heard(endpoint, NOW, sent_at=NOW, outcome=None)
        endpoint, alert = endpoints.learned(endpoint, "fine", NOW, sent_at=NOW)
        assert not (only_counts and alert)
    if only_counts:
        assert_same(at_once, endpoint)


def assert_same(one: Endpoint, other: Endpoint) -> None:
    assert one.retries.credit == pytest.approx(other.retries.credit)
    assert replace(one, retries=other.retries) == other
    assert one.retries.at == other.retries.at
