"""How a mint's connections stand: out of the statement's texts, in the order of their places."""

import random
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from msgspec import Struct
from msgspec.structs import replace

from broker.mint.looking import NOWHERE, LookRow, Stands

NOW = 1_800_000_000_000_000  # microseconds

moments = st.integers(-9, 9).map(lambda hours: str(NOW + hours * 3_600_000_000))


class Connection(Struct, frozen=True):
    """One connection as the statement has it; without a life, or without tokens."""

    generation: int
    state: str
    noticed: bool
    issued: str
    ends: str
    lives: bool
    sealed: bytes | None


connections = st.lists(
    st.builds(
        Connection,
        generation=st.integers(0, 99),
        state=st.sampled_from(["active", "active", "backoff"]),
        noticed=st.booleans(),
        issued=st.one_of(moments, moments, moments, st.just(NOWHERE)),
        ends=st.one_of(moments, moments, moments, st.just(NOWHERE)),
        lives=st.sampled_from([True, True, True, False]),
        sealed=st.sampled_from([b"one", b"two", b"three", None]),
    ),
    max_size=4,
)


def row(every: list[Connection], order: list[int]) -> LookRow:
    """What the statement says of these: lives and tokens come in an order of their own."""
    lives, token_ids, tokens = [], [], []
    for number in order:
        one = every[number]
        noticed = "noticed" if one.noticed else NOWHERE
        if one.lives:
            words = (f"c{number}", str(one.generation), one.state, noticed, one.issued, one.ends)
            lives.append(" ".join(words))
        if one.sealed is not None:
            token_ids.append(f"c{number} {number + 1}")
            tokens.append(one.sealed)
    said: dict[str, Any] = {
        "now": NOW,
        "connection_ids": " ".join([f"c{number}" for number in range(len(every))]),
        "shape": "\n".join(["google production oauth2"] * len(every)),
        "lives": " ".join(lives),
        "token_ids": " ".join(token_ids),
        "tokens": tokens,
    }
    rest: dict[str, Any] = dict.fromkeys(LookRow.__struct_fields__)
    return LookRow(**rest | said)


@given(connections, st.randoms())
def test_every_connection_has_its_place(every: list[Connection], chance: random.Random) -> None:
    order = list(range(len(every)))
    chance.shuffle(order)
    stands = row(every, order).stands()
    assert list(stands.ids) == [f"c{number}" for number in range(len(every))]
    for number, one in enumerate(every):
        [life] = zip(*stands.at([number]), strict=True)
        noticed = "noticed" if one.noticed else NOWHERE
        there = (str(one.generation), one.state, noticed, one.issued, one.ends)
        assert life[1:6] == (there if one.lives else ("0", "pending", NOWHERE, NOWHERE, NOWHERE))
        assert life[6:] == ((str(number + 1), one.sealed) if one.sealed else ("0", b""))


@given(connections, st.integers(0, 9).map(lambda hours: hours * 3_600))
def test_who_is_late_is_what_a_settled_one_says(every: list[Connection], min_ttl: int) -> None:
    every = [replace(one, state="active", lives=True) for one in every]
    asked = row(every, list(range(len(every))))
    stands = asked.stands()
    settled = [asked.tokens_of(stands, number) for number in range(len(every))]
    now, least = datetime.fromtimestamp(NOW / 10**6, UTC), timedelta(seconds=min_ttl)
    late = stands.are_late(NOW, min_ttl)
    assert (late is not None) == all(one is not None and one.lasts(least, now) for one in settled)
    ends = [one.access_ends for one in settled if one is not None]
    assert late is None or list(late) == [one is not None and one - now < least for one in ends]


def test_nobody_is_connected() -> None:
    assert row([], []).stands() == Stands()
    assert Stands().are_late(NOW, 0) == ()
