"""What follows from how a try went: pauses, the end of patience, an endpoint's health."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vault.events.deliveries import (
    LONGEST_PAUSE,
    PATIENCE,
    SHORTEST_PAUSE,
    Delivery,
    Former,
    Tried,
    Turn,
    health,
    pause,
    settled,
)
from vault.model import WorkspaceId
from vault.secret import Secret
from vault.store.events import Target, packed, target_from

NOW = datetime(2026, 1, 2, tzinfo=UTC)
HOUR = timedelta(hours=1)


def delivery(*, queued: datetime = NOW, attempts: int = 0) -> Delivery:
    return Delivery("evt_1", "connection.connected", NOW, "{}", attempts, queued)


def failed(*, status: int | None = 500, **more: int) -> Tried:
    return Tried(delivery=delivery(), status=status, problem="It failed.", **more)


ARRIVED = Tried(delivery=delivery(), status=200)


def turn(*, failures: int = 0, failing_since: datetime | None = None) -> Turn:
    return Turn(
        workspace=WorkspaceId("ws"),
        endpoint_id="ep_1",
        claim=1,
        now=NOW,
        until=NOW + HOUR,
        failures=failures,
        failing_since=failing_since,
        url="https://a.example/key",
        secrets=(Secret("whsec_c2VjcmV0"),),
        deliveries=[],
    )


@given(failures=st.integers(0, 10**6), luck=st.floats(0, 1), asked=st.integers(0, 10**9))
def test_a_pause_is_never_none_and_never_for_ever(failures: int, luck: float, asked: int) -> None:
    assert SHORTEST_PAUSE <= pause(failures, luck, asked) <= LONGEST_PAUSE


def test_pauses_grow_chance_takes_its_part_and_what_was_asked_for_is_kept() -> None:
    assert [pause(number, 1).total_seconds() for number in (1, 2, 3, 4)] == [5, 10, 20, 40]
    assert pause(4, 0.5).total_seconds() == 20
    assert pause(1, 1, 120).total_seconds() == 120
    assert pause(50, 1) == LONGEST_PAUSE


def test_a_delivery_that_arrived_is_over() -> None:
    found = settled(ARRIVED, NOW, 0.5)
    assert (found.state, found.due_at, found.status) == ("delivered", None, 200)


def test_a_delivery_is_tried_for_a_day_and_a_last_time_at_its_end() -> None:
    late = Tried(delivery=delivery(queued=NOW - PATIENCE + timedelta(seconds=1), attempts=20))
    found = settled(Tried(delivery=late.delivery, problem="x"), NOW, 1.0)
    assert (found.state, found.due_at) == ("waiting", NOW + timedelta(seconds=1))
    over = delivery(queued=NOW - PATIENCE)
    found = settled(Tried(delivery=over, problem="x"), NOW, 1.0)
    assert (found.state, found.due_at, found.problem) == ("failed", None, "x")


def test_one_success_makes_an_endpoint_well() -> None:
    found = health(turn(failures=7, failing_since=NOW - HOUR), [failed(), ARRIVED], NOW, 0.5)
    assert found.failures == 0
    assert (found.failing_since, found.rest_until, found.disabled_why) == (None, None, None)
    assert found.delivered_at == NOW


def test_a_turn_without_success_makes_it_rest() -> None:
    first = health(turn(), [failed(), failed()], NOW, 1.0)
    assert (first.failures, first.failing_since) == (1, NOW)
    assert first.rest_until == NOW + timedelta(seconds=5)
    since = NOW - HOUR
    later = health(turn(failures=3, failing_since=since), [failed(retry_after=60)], NOW, 0.0)
    assert (later.failures, later.failing_since) == (4, since)
    assert later.rest_until == NOW + timedelta(seconds=60)


def test_a_day_without_success_disables_it_and_not_a_minute_less() -> None:
    before = NOW - PATIENCE + timedelta(minutes=1)
    almost = health(turn(failures=30, failing_since=before), [failed()], NOW, 1.0)
    assert almost.disabled_why is None
    assert almost.rest_until == before + PATIENCE, "the last try comes when the day is over"
    over = health(turn(failures=30, failing_since=NOW - PATIENCE), [failed()], NOW, 1.0)
    assert over.disabled_why == "failing"


def test_gone_disables_it_at_once() -> None:
    assert health(turn(), [failed(status=410)], NOW, 1.0).disabled_why == "gone"


def test_a_turn_in_which_nothing_was_tried_says_nothing() -> None:
    since = NOW - HOUR
    found = health(turn(failures=3, failing_since=since), [], NOW, 1.0)
    assert (found.failures, found.failing_since, found.delivered_at) == (3, since, None)


def test_a_former_secret_signs_until_its_time_is_over() -> None:
    target = Target(
        "https://a.example", Secret("new"), (Former(Secret("old"), NOW), Former(Secret("b"), NOW))
    )
    again = target_from(packed(target))
    assert again.signs(NOW - timedelta(seconds=1)) == (Secret("new"), Secret("old"), Secret("b"))
    assert again.signs(NOW) == (Secret("new"),)
    assert again.still(NOW) == ()


@pytest.mark.parametrize("shown", [repr(turn()), repr(Target("https://a/key", Secret("s")))])
def test_an_address_is_in_no_repr(shown: str) -> None:
    assert "key" not in shown
