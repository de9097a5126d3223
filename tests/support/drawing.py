"""Drawn cases for tests that are coroutines."""

from typing import TypeVar

from hypothesis import HealthCheck, given, settings
from hypothesis.strategies import SearchStrategy

T = TypeVar("T")


def drawn(cases: SearchStrategy[T], number: int) -> list[T]:
    """So many of what Hypothesis draws; it does not shrink: a case is short to read as it is."""
    every: list[T] = []

    @settings(max_examples=number, database=None, suppress_health_check=list(HealthCheck))
    @given(cases)
    def take(case: T) -> None:
        every.append(case)

    take()
    return every
