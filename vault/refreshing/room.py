"""Room for calls in this process, shared fairly: no workspace's slow provider takes all of it.

* Who is waited for goes ahead of what is merely due, and what is due never takes the last of the
  room. A call that is due when somebody begins to wait for it moves to the front.
* A workspace gets half of the room at the most, and a quarter while another one waits. Those who
  wait are let in by turns, one of each workspace.
* Less than ``vault.egress`` opens connections: who is let in and has claimed can send at once.
"""

from collections import OrderedDict, deque
from typing import Final, Literal

Kind = Literal["waited_for", "due"]

SLOTS: Final = 400
# What is due takes three quarters of it at the most.
FOR_DUE: Final = 300
# A million tokens of an hour at one endpoint are 278 in a second: 84 at a time, if it takes 0.3 s
# to answer. More are let in since they are claimed together: of 200 each costs a tenth less than
# of 100.
ALONE: Final[dict[Kind, int]] = {"waited_for": SLOTS // 4, "due": SLOTS // 2}
SHARED: Final[dict[Kind, int]] = {"waited_for": SLOTS // 4, "due": FOR_DUE // 4}


class Guest:
    """Somebody who wants in. ``let_in`` is called when there is room; perhaps at once.

    ``share``: of which he is, from when he comes until he goes; in line, while he ``waits``.
    """

    __slots__ = ("kind", "share", "waits", "workspace")

    def __init__(self, workspace: str, kind: Kind) -> None:
        self.workspace = workspace
        self.kind: Kind = kind
        self.share: _Share | None = None
        self.waits = False

    def let_in(self) -> None:
        """There is room."""
        raise NotImplementedError


class _Share:
    """What a workspace has of the room, of one kind: how many are in, and who stands in line."""

    __slots__ = ("inside", "line", "side", "workspace")

    def __init__(self, side: "_Side", workspace: str) -> None:
        self.side = side
        self.workspace = workspace
        self.inside = 0
        self.line: deque[Guest] = deque()

    def queue(self, guest: Guest) -> None:
        if not self.line:
            self.side.lines[self.workspace] = self
        self.line.append(guest)
        guest.share = self
        guest.waits = True

    def unqueue(self, guest: Guest) -> bool:
        """Take this one out of the line; returns whether it was the last."""
        self.line.remove(guest)
        guest.share = None
        guest.waits = False
        if not self.line:
            del self.side.lines[self.workspace]
            self.forget()
        return not self.line

    def forget(self) -> None:
        """Most workspaces have nobody here most of the time."""
        if not self.inside and not self.line:
            del self.side.shares[self.workspace]


class _Side:
    """All of one kind. ``lines``: the shares in which somebody waits, by whose turn it is."""

    __slots__ = ("inside", "kind", "lines", "shares")

    def __init__(self, kind: Kind) -> None:
        self.kind: Kind = kind
        self.inside = 0
        self.shares: dict[str, _Share] = {}
        self.lines: OrderedDict[str, _Share] = OrderedDict()

    def share_of(self, workspace: str) -> _Share:
        share = self.shares.get(workspace)
        if share is None:
            share = self.shares[workspace] = _Share(self, workspace)
        return share

    def next(self) -> _Share | None:
        """Whose turn it is, of those who wait and have less than they may have."""
        most = (SHARED if len(self.lines) > 1 else ALONE)[self.kind]
        for share in self.lines.values():
            if share.inside < most:
                return share
        return None


class Room:
    """Who is in, and who waits in front of it.

    Nobody waits who could be let in. So one who goes makes room for one; for more only where a
    line ends, since who waits alone may have more.
    """

    def __init__(self) -> None:
        self._waited_for = _Side("waited_for")
        self._due = _Side("due")

    def come(self, guest: Guest) -> None:
        """Be let in: at once, where nobody waits and there is room; else stand in line."""
        side = self._due if guest.kind == "due" else self._waited_for
        share = side.share_of(guest.workspace)
        if share.line:
            share.queue(guest)  # where those before him wait he has to wait, too
        elif self._waited_for.lines or self._due.lines or not self._has_room(share):
            share.queue(guest)
            self._let_in()
        else:
            self._enter(guest, share)

    def go(self, guest: Guest) -> None:
        """Leave the line or the room, and let others in."""
        share = guest.share
        if share is None:
            return
        if guest.waits:
            if share.unqueue(guest):
                self._let_in()
            return
        guest.share = None
        share.inside -= 1
        share.side.inside -= 1
        if not share.inside:
            share.forget()
        if (first := self._next()) is not None and self._call(first):
            self._let_in()

    def hurry(self, guest: Guest) -> None:
        """Somebody waits for this one now."""
        if guest.waits and guest.kind == "due" and guest.share is not None:
            guest.share.unqueue(guest)
            guest.kind = "waited_for"
            self._waited_for.share_of(guest.workspace).queue(guest)
            self._let_in()

    def _has_room(self, share: _Share) -> bool:
        """Is there some for this workspace, where nobody waits?"""
        due = self._due.inside
        if due + self._waited_for.inside >= SLOTS or (share.side is self._due and due >= FOR_DUE):
            return False
        return share.inside < ALONE[share.side.kind]

    def _next(self) -> _Share | None:
        """Whose turn it is, if there is room."""
        waited_for, due = self._waited_for, self._due
        if waited_for.inside + due.inside >= SLOTS:
            return None
        if waited_for.lines and (share := waited_for.next()) is not None:
            return share
        return due.next() if due.lines and due.inside < FOR_DUE else None

    def _let_in(self) -> None:
        """Let in as many as there is room for."""
        while (share := self._next()) is not None:
            self._call(share)

    def _call(self, share: _Share) -> bool:
        """Let in who is the first in this line; returns whether he was the last, too."""
        guest = share.line.popleft()
        guest.waits = False
        ends = not share.line
        if ends:
            del share.side.lines[share.workspace]
        else:
            share.side.lines.move_to_end(share.workspace)
        self._enter(guest, share)
        return ends

    def _enter(self, guest: Guest, share: _Share) -> None:
        share.inside += 1
        share.side.inside += 1
        guest.share = share
        guest.let_in()
