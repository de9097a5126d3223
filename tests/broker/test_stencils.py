"""Bytes with gaps: what was cut at marks and filled again is what it would have been."""

from hypothesis import given
from hypothesis import strategies as st

from broker.mint.stencils import Marks, Stencil
from broker.variables import _is_name
from vault.egress import is_header_value

pieces = st.lists(st.binary(max_size=8), min_size=1, max_size=8)
numbers = st.lists(st.integers(0, 3), max_size=7)


@given(pieces, numbers, st.lists(st.binary(max_size=6), min_size=4, max_size=4))
def test_what_is_filled_stands_where_the_marks_stood(
    constant: list[bytes], order: list[int], values: list[bytes]
) -> None:
    marks = Marks()
    gaps = [marks.text().encode() for _ in range(4)]
    order = order[: len(constant) - 1]
    text, wanted = constant[0], constant[0]
    for piece, number in zip(constant[1:], order, strict=False):
        text += gaps[number] + piece
        wanted += values[number] + piece
    assert Stencil(text, gaps).filled(values) == wanted


def test_a_gap_of_no_bytes_stands_nowhere() -> None:
    assert Stencil(b"abc", [b"", b"b"]).filled([b"!", b"?"]) == b"a?c"
    assert Stencil(b"abc", [b""]).filled([b"!"]) == b"abc"
    assert Stencil(b"abc", []).filled([]) == b"abc"


def test_two_are_alike_only_where_everything_between_the_gaps_is() -> None:
    one = Stencil(b"a1b2", [b"1", b"2"])
    assert one.is_as(Stencil(b"a3b4", [b"3", b"4"]))
    assert not one.is_as(Stencil(b"a3c4", [b"3", b"4"]))
    assert not one.is_as(Stencil(b"a3b4", [b"4", b"3"]))
    assert not one.is_as(Stencil(b"a3b", [b"3", b"4"]))


def test_marks_are_all_different_and_can_stand_wherever_a_value_can() -> None:
    one, other = Marks(), Marks()
    texts = [marks.text() for marks in (one, other) for _ in range(50)]
    values = [marks.number() for marks in (one, other) for _ in range(50)]
    moments = [marks.moment() for marks in (one, other) for _ in range(50)]
    assert len(set(texts)) == len(set(values)) == len(set(moments)) == 100
    assert all(is_header_value(text.encode()) and _is_name(text) for text in texts)
    assert {len(text) for text in texts} == {len("conn_") + 26}
    assert all(value < 2**63 for value in values)
