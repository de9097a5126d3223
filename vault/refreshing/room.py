"""Room for calls in this process, shared fairly: no workspace's slow provider takes all of it.

* Who is waited for goes ahead of what is merely due, and what is due never takes the last of the
  room. A call that is due when somebody begins to wait for it moves to the front.
* A workspace gets half of the room at the most, and a quarter while another one waits. Those who
  wait are let in by turns, one of each workspace.
* Less than ``vault.egress`` opens connections: who is let in and has claimed can send at once.
"""

from collections import Counter, OrderedDict, deque
from typing import Final, Literal

Kind = Literal["waited_for", "due"]

SLOTS: Final = 224
# What is due takes three quarters of it at the most.
FOR_DUE: Final = 168
# A million tokens of an hour at one endpoint are 278 in a second: 84 at a time, if it takes 0.3 s
# to answer.
ALONE: Final[dict[Kind, int]] = {"waited_for": SLOTS // 4, "due": 100}
SHARED: Final[dict[Kind, int]] = {"waited_for": SLOTS // 4, "due": FOR_DUE // 4}


class Guest:
    """Somebody who wants in. ``let_in`` is called when there is room; perhaps at once."""

    __slots__ = ("inside", "kind", "waits", "workspace")

    def __init__(self, workspace: str, kind: Kind) -> None:
        self.workspace = workspace
        self.kind: Kind = kind
        self.waits = False
        self.inside = False

    def let_in(self) -> None:
        """There is room."""
        raise NotImplementedError


class Room:
    """Who is in, and who waits in front of it."""

    def __init__(self) -> None:
        self._inside: Counter[tuple[Kind, str]] = Counter()
        self._number: dict[Kind, int] = {"waited_for": 0, "due": 0}
        self._lines: dict[Kind, OrderedDict[str, deque[Guest]]] = {
            "waited_for": OrderedDict(),
            "due": OrderedDict(),
        }

    def come(self, guest: Guest) -> None:
        """Be let in: at once, where nobody waits and there is room; else stand in line."""
        lines = self._lines
        alone = not lines["waited_for"] and not lines["due"]
        within = self._inside[guest.kind, guest.workspace] < ALONE[guest.kind]
        if alone and within and not self._is_full(guest.kind):
            self._enter(guest)
        else:
            self._queue(guest)
            self._let_in()

    def go(self, guest: Guest) -> None:
        """Leave the line or the room, and let others in."""
        if guest.waits:
            self._leave_line(guest)
        elif guest.inside:
            guest.inside = False
            self._inside[guest.kind, guest.workspace] -= 1
            self._number[guest.kind] -= 1
        else:
            return
        if self._lines["waited_for"] or self._lines["due"]:
            self._let_in()

    def hurry(self, guest: Guest) -> None:
        """Somebody waits for this one now."""
        if guest.waits and guest.kind == "due":
            self._leave_line(guest)
            guest.kind = "waited_for"
            self._queue(guest)
            self._let_in()

    def _queue(self, guest: Guest) -> None:
        guest.waits = True
        self._lines[guest.kind].setdefault(guest.workspace, deque()).append(guest)

    def _leave_line(self, guest: Guest) -> None:
        lines = self._lines[guest.kind]
        line = lines[guest.workspace]
        line.remove(guest)
        guest.waits = False
        if not line:
            del lines[guest.workspace]

    def _let_in(self) -> None:
        while (guest := self._next("waited_for") or self._next("due")) is not None:
            self._leave_line(guest)
            if guest.workspace in self._lines[guest.kind]:
                self._lines[guest.kind].move_to_end(guest.workspace)
            self._enter(guest)

    def _enter(self, guest: Guest) -> None:
        self._inside[guest.kind, guest.workspace] += 1
        self._number[guest.kind] += 1
        guest.inside = True
        guest.let_in()

    def _is_full(self, kind: Kind) -> bool:
        due = self._number["due"]
        return due + self._number["waited_for"] >= SLOTS or (kind == "due" and due >= FOR_DUE)

    def _next(self, kind: Kind) -> Guest | None:
        lines = self._lines[kind]
        if not lines or self._is_full(kind):
            return None
        most = (SHARED if len(lines) > 1 else ALONE)[kind]
        for workspace, line in lines.items():
            if self._inside[kind, workspace] < most:
                return line[0]
        return None
