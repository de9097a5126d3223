"""Room for calls: fair between workspaces, and first for those who are waited for."""

import weakref
from collections import Counter
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vault.refreshing import room
from vault.refreshing.room import Guest, Kind, Room

KINDS: Final[tuple[Kind, Kind]] = ("waited_for", "due")


class Caller(Guest):
    """Stays in the room until it is told to go."""

    def __init__(self, name: str, kind: Kind, order: list[str]) -> None:
        super().__init__(name[0], kind)
        self.name = name
        self._order = order

    def let_in(self) -> None:
        self._order.append(self.name)


class Crowd:
    """Those who came; names begin with their workspace's letter."""

    def __init__(self) -> None:
        self.room = Room()
        self.order: list[str] = []
        self.callers: dict[str, Caller] = {}

    def come(self, *names: str, kind: Kind = "due") -> None:
        for name in names:
            self.callers[name] = Caller(name, kind, self.order)
            self.room.come(self.callers[name])

    def go(self, *names: str) -> None:
        for name in names:
            self.room.go(self.callers[name])
            if name in self.order:
                self.order.remove(name)

    @property
    def by_workspace(self) -> dict[str, int]:
        return dict(Counter(name[0] for name in self.order))


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "SLOTS", 8)
    monkeypatch.setattr(room, "FOR_DUE", 6)
    monkeypatch.setattr(room, "ALONE", {"waited_for": 3, "due": 4})
    monkeypatch.setattr(room, "SHARED", {"waited_for": 3, "due": 2})


def test_a_workspace_alone_does_not_take_all() -> None:
    crowd = Crowd()
    crowd.come(*(f"a{number}" for number in range(20)))
    assert crowd.by_workspace == {"a": 4}
    crowd.come("b1", "b2")
    assert crowd.by_workspace == {"a": 4, "b": 2}, "another one finds room at once"


def test_while_others_wait_a_workspace_has_its_share_and_no_more() -> None:
    crowd = Crowd()
    crowd.come(*(f"a{number}" for number in range(20)))
    crowd.come("b1", "b2", "c1")
    assert crowd.by_workspace == {"a": 4, "b": 2}
    crowd.go("a0")
    assert crowd.by_workspace == {"a": 3, "b": 2, "c": 1}, "it is not a's turn"
    crowd.go("a1")
    assert crowd.by_workspace == {"a": 3, "b": 2, "c": 1}, "now nobody else waits"


def test_who_comes_while_others_wait_gets_a_share_and_no_more() -> None:
    room.SHARED["due"] = 1
    crowd = Crowd()
    crowd.come(*(f"a{number}" for number in range(5)))
    crowd.come("b0", "b1")
    assert crowd.by_workspace == {"a": 4, "b": 1}, "there is room, and another one waits for it"


def test_who_is_waited_for_goes_first_and_finds_room() -> None:
    crowd = Crowd()
    crowd.come(*(f"{letter}{number}" for letter in "abc" for number in range(9)))
    assert len(crowd.order) == 6, "what is due leaves a part of the room"
    crowd.come("d1", "e1", "f1", kind="waited_for")
    assert crowd.by_workspace | {"d": 1, "e": 1} == crowd.by_workspace
    assert "f1" not in crowd.order, "it is full"
    crowd.go("a0")
    assert "f1" in crowd.order
    assert sum(name[0] in "abc" for name in crowd.order) == 5


def test_who_begins_to_be_waited_for_moves_to_the_front() -> None:
    crowd = Crowd()
    crowd.come(*(f"a{number}" for number in range(20)))
    assert "a19" not in crowd.order
    crowd.room.hurry(crowd.callers["a19"])
    assert "a19" in crowd.order
    crowd.room.hurry(crowd.callers["a19"])
    crowd.room.hurry(Caller("a99", "due", crowd.order))
    assert len(crowd.order) == 5


def test_who_goes_away_leaves_no_hole() -> None:
    crowd = Crowd()
    crowd.come(*(f"a{number}" for number in range(10)))
    crowd.go(*(f"a{number}" for number in range(4, 9)))
    crowd.go("a0", "a1", "a2", "a3")
    assert crowd.order == ["a9"]
    crowd.go("a9")
    crowd.come(*(f"a{number}" for number in range(10)))
    assert len(crowd.order) == 4, "all of the room is there again"


def test_who_goes_twice_or_never_came_makes_no_room() -> None:
    crowd = Crowd()
    crowd.come("a0", "a1", "a2", "a3", "a4", "a5")
    crowd.go("a0")
    crowd.go("a0")
    crowd.room.go(Caller("a99", "due", []))
    assert crowd.order == ["a1", "a2", "a3", "a4"]


def test_who_leaves_as_soon_as_he_is_let_in_gives_the_place_to_the_next() -> None:
    crowd = Crowd()

    class Passing(Caller):
        def let_in(self) -> None:
            super().let_in()
            crowd.room.go(self)

    crowd.come("a0", "a1", "a2", "a3")
    passing = [Passing(f"b{number}", "due", crowd.order) for number in range(9)]
    for one in passing:
        crowd.room.come(one)
    crowd.come("a4")
    assert crowd.order == ["a0", "a1", "a2", "a3", *(f"b{number}" for number in range(9))]
    crowd.go("a0")
    assert crowd.order[-1] == "a4"


@pytest.mark.parametrize("others", [0, 8])
def test_a_workspace_that_has_nobody_here_is_forgotten(others: int) -> None:
    class Name(str):
        """One that can be seen to go."""

        __slots__ = ("__weakref__",)

    crowd = Crowd()
    crowd.come(*(f"{letter}0" for letter in "cdefghij"[:others]), kind="waited_for")
    names: list[weakref.ref[Name]] = []
    for kind in KINDS:
        guests = [Caller("a", kind, []) for _ in range(6)]
        name = Name("a")
        names.append(weakref.ref(name))
        for guest in guests:
            guest.workspace = name
            crowd.room.come(guest)
        assert any(not guest.waits for guest in guests) == (not others)
        for guest in guests:
            crowd.room.go(guest)
        del name, guests, guest
    assert [one for one in names if one() is not None] == []


def test_turns_go_round() -> None:
    crowd = Crowd()
    crowd.come("z0", "z1", "z2", "z3", "y0", "y1")
    crowd.come(*(f"a{number}" for number in range(10)), *(f"b{number}" for number in range(3)))
    assert set(crowd.by_workspace) == {"z", "y"}
    served: list[str] = []
    while crowd.order:
        gone = crowd.order[0]
        crowd.go(gone)
        served += gone[0] if gone[0] in "ab" else ""
    assert (served.count("a"), served.count("b")) == (10, 3)
    assert served.index("b") < 4
    assert max(place for place, name in enumerate(served) if name == "b") < 8


class Plain:
    """The same room, in the plainest words: after each step all are looked at who wait.

    A name begins with its workspace; whose name ends with ``p`` only passes through.
    """

    def __init__(self) -> None:
        self.kinds: dict[str, Kind] = {}
        self.inside: list[str] = []
        self.lines: dict[Kind, dict[str, list[str]]] = {"waited_for": {}, "due": {}}
        self.order: list[str] = []

    def come(self, name: str, kind: Kind) -> None:
        self.kinds[name] = kind
        self.lines[kind].setdefault(name[0], []).append(name)
        self.settle()

    def go(self, name: str) -> None:
        if name in self.inside:
            self.inside.remove(name)
        elif name in self.lines[self.kinds[name]].get(name[0], []):
            self.leave_line(name)
        self.settle()

    def hurry(self, name: str) -> None:
        if self.kinds[name] == "due" and name in self.lines["due"].get(name[0], []):
            self.leave_line(name)
            self.come(name, "waited_for")

    def leave_line(self, name: str) -> list[str]:
        lines = self.lines[self.kinds[name]]
        lines[name[0]].remove(name)
        left = lines[name[0]]
        if not left:
            del lines[name[0]]
        return left

    def settle(self) -> None:
        while (name := self.next()) is not None:
            if left := self.leave_line(name):
                lines = self.lines[self.kinds[name]]
                del lines[name[0]]
                lines[name[0]] = left  # the last by turn
            self.order.append(name)
            if not name.endswith("p"):
                self.inside.append(name)

    def next(self) -> str | None:
        for kind in KINDS:
            lines = self.lines[kind]
            most = (room.SHARED if len(lines) > 1 else room.ALONE)[kind]
            for workspace, line in lines.items():
                if self.number(kind, workspace) < most and not self.is_full(kind):
                    return line[0]
        return None

    def number(self, kind: Kind, workspace: str = "") -> int:
        return sum(self.kinds[one] == kind and one.startswith(workspace) for one in self.inside)

    def is_full(self, kind: Kind) -> bool:
        return len(self.inside) >= room.SLOTS or (
            kind == "due" and self.number("due") >= room.FOR_DUE
        )


class Passing(Caller):
    """Leaves as soon as it is let in, such as one whose wish has an answer already."""

    def __init__(self, name: str, kind: Kind, order: list[str], left: Room) -> None:
        super().__init__(name, kind, order)
        self._left = left

    def let_in(self) -> None:
        super().let_in()
        self._left.go(self)


# Somebody comes, of one kind; or one of those who came goes, or is waited for.
steps = st.lists(
    st.tuples(
        st.sampled_from(("due",) * 4 + ("waited_for", "go", "go", "go", "go", "hurry")),
        st.sampled_from("aaabbc"),
        st.sampled_from(("",) * 9 + ("p",)),
        st.integers(0, 100),
    ),
    min_size=20,
    max_size=120,
)


@settings(max_examples=300)
@given(steps, st.sampled_from((1, 2)))
def test_whoever_is_let_in_at_once_is_let_in_by_looking_at_everybody(
    history: list[tuple[str, str, str, int]], shared: int
) -> None:
    room.SHARED["due"] = shared
    plain, real, order = Plain(), Room(), list[str]()
    callers: dict[str, Caller] = {}
    for deed, workspace, passes, number in history:
        if deed in KINDS:
            name = f"{workspace}{len(callers)}{passes}"
            callers[name] = (
                Passing(name, deed, order, real) if passes else Caller(name, deed, order)
            )
            plain.come(name, deed)
            real.come(callers[name])
        elif here := [name for name, one in callers.items() if one.share]:
            name = here[number % len(here)]
            getattr(plain, deed)(name)
            getattr(real, deed)(callers[name])
        assert order == plain.order
        assert {one.name for one in callers.values() if one.share and not one.waits} == set(
            plain.inside
        )
