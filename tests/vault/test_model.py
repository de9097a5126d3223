"""Ids."""

import time

import pytest

from vault.model import new_id


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
