"""Ids."""

import re
import time
from collections import Counter

import pytest

from vault.model import chance_id, new_id


def test_the_ids_of_one_process_sort_by_when_they_were_made() -> None:
    made = [new_id("evt") for _ in range(2_000)]
    assert made == sorted(made)
    assert len(set(made)) == len(made)


def test_a_clock_that_is_set_back_does_not_put_a_later_id_before_an_earlier_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = new_id("evt")
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now - 3_600)
    assert new_id("evt") > before


def milliseconds(made: str) -> int:
    """When it was made, as a reader of ULIDs has it."""
    found = 0
    for digit in made[4:14]:
        found = found * 32 + "0123456789abcdefghjkmnpqrstvwxyz".index(digit)
    return found


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
