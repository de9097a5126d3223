"""What of a batch goes to PostgreSQL as one text: it comes apart as it was, or is not sent."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vault.errors import VaultError
from vault.sql import lines


@given(st.lists(st.text(st.characters(exclude_characters="\n")), min_size=1))
def test_texts_go_as_lines_and_come_apart_again(texts: list[str]) -> None:
    assert lines(texts).split("\n")[: len(texts)] == texts


@given(st.lists(st.text(alphabet="a\n"), min_size=1).filter(lambda all_: "\n" in "".join(all_)))
def test_no_text_becomes_two(texts: list[str]) -> None:
    with pytest.raises(VaultError):
        lines(texts)


@given(st.lists(st.integers(), min_size=1) | st.lists(st.booleans(), min_size=1))
def test_numbers_and_truths_go_with_spaces(values: list[int]) -> None:
    assert lines(values).split(" ") == [str(one) for one in values]


def test_nulls_alone_are_sent_empty_and_beside_values_refused() -> None:
    assert lines([None, None]) == ""
    with pytest.raises(VaultError, match="some have one and some have none"):
        lines([None, "one"])
