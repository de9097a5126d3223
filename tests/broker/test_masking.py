"""A secret that is repeated does not pass, however it is cut into pieces."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from broker.resolve.masking import Masking, of_header

TOKEN = 'ya29."a/b\\c'


def passed(masking: Masking, data: bytes, cuts: list[int]) -> bytes:
    places = sorted({cut % (len(data) + 1) for cut in cuts} | {0, len(data)})
    pieces = [data[a:b] for a, b in itertools.pairwise(places)]
    return b"".join([masking.add(piece) for piece in pieces] + [masking.end()])


@given(
    st.lists(st.sampled_from([b"x", b"ya29", b"ya", TOKEN.encode(), b"*", b"\xff"]), max_size=12),
    st.lists(st.integers(0, 200), max_size=8),
)
def test_it_is_masked_in_every_cut_and_nothing_else_changes(
    parts: list[bytes], cuts: list[int]
) -> None:
    data = b"".join(parts)
    whole = passed(Masking([TOKEN]), data, [])

    assert TOKEN.encode() not in whole
    assert len(whole) == len(data)
    assert passed(Masking([TOKEN]), data, cuts) == whole
    assert whole == data.replace(TOKEN.encode(), b"*" * len(TOKEN))


def test_it_is_found_as_json_and_as_a_url_write_it() -> None:
    masking = Masking([TOKEN])

    for text in (rb"ya29.\"a/b\\c", b"ya29.%22a%2Fb%5Cc"):
        assert passed(masking, b"<" + text + b">", []) == b"<" + b"*" * len(text) + b">"


def test_a_headers_value_is_masked_with_and_without_its_scheme() -> None:
    masking = Masking(of_header("Basic dXNlcjpsb25ncGFzc3dvcmQ="))

    for hidden in (b"Basic dXNlcjpsb25ncGFzc3dvcmQ=", b"dXNlcjpsb25ncGFzc3dvcmQ=", b"longpassword"):
        assert hidden not in passed(masking, b"a" + hidden + b"b", [])


def test_what_is_too_short_to_be_a_secret_is_left() -> None:
    assert passed(Masking(["abc"]), b"abcabc", []) == b"abcabc"


def test_what_cannot_be_a_secret_is_not_held_back() -> None:
    assert Masking([TOKEN]).add(b"data: 1\n\n") == b"data: 1\n\n"
