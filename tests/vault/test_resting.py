"""What the short way of an ordinary refresh takes for granted is what the machine would say."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from vault.lifecycle import endpoint as endpoints
from vault.lifecycle.breaker import Breaker
from vault.lifecycle.endpoint import Endpoint
from vault.lifecycle.events import Answered, Claimed
from vault.lifecycle.intents import Announce, Call, Save, TellIntegration
from vault.lifecycle.life import Life
from vault.lifecycle.machine import step
from vault.lifecycle.rate import Rate
from vault.lifecycle.retries import Retries
from vault.lifecycle.standing import Standing
from vault.lifecycle.takeover import leased
from vault.lifecycle.terms import Terms
from vault.lifecycle.window import Window

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
