"""Ids."""

import re
import time
from collections import Counter

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from vault import model
from vault.model import chance_id, new_id, new_ids


def test_the_ids_of_one_process_sort_by_when_they_were_made() -> None:
    made = [new_id("evt") for _ in range(2_000)]
    assert made == sorted(made)
    assert len(set(made)) == len(made)


@given(st.integers(0, 2**128 - 4_000), st.integers(0, 3_000))
@example((1 << 100) - 1, 2)
@example((1 << 100) - 1024, 1024)
@example(1 << 100, 1025)
def test_ids_that_are_made_together_follow_each_other(first: int, count: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model, "_next_ulid", lambda _count: first)
        made = new_ids("evt", count)
    assert {len(one) for one in made} <= {30}
    assert [one[:4] for one in made] == ["evt_"] * count
    assert [number_of(one[4:]) for one in made] == list(range(first, first + count))


def test_a_clock_that_is_set_back_does_not_put_a_later_id_before_an_earlier_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = new_id("evt")
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now - 3_600)
    assert new_id("evt") > before


def number_of(digits: str) -> int:
    found = 0
    for digit in digits:
        found = found * 32 + "0123456789abcdefghjkmnpqrstvwxyz".index(digit)
    return found


def milliseconds(made: str) -> int:
    """When it was made, as a reader of ULIDs has it."""
    return number_of(made[4:14])


def test_an_id_by_chance_looks_like_the_others_and_is_of_its_millisecond(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = []
    for moment in (1_700_000_000.0, 1_700_000_000.001, 1_800_000_000.0):
        monkeypatch.setattr(time, "time", lambda now=moment: now)
        made.append([chance_id("req") for _ in range(500)])
        assert {milliseconds(one) for one in made[-1]} == {int(moment * 1000)}
    every = [one for some in made for one in some]
    assert len(set(every)) == len(every)
    assert sorted(every)[:500] == sorted(made[0])
    assert all(re.fullmatch("req_[0-9a-hjkmnp-tv-z]{26}", one) for one in every)


def test_no_digit_of_it_is_likelier_than_another() -> None:
    digits = Counter("".join(chance_id("req")[14:] for _ in range(4_000)))
    assert len(digits) == 32
    assert max(digits.values()) < 1.2 * min(digits.values())
