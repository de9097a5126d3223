"""What the sandbox issued and saw, so that one can count afterwards.

* Events are only ever added, under one counter, in the order in which things happened; their times
  are the monotonic clock's.
* ``used`` is written when a request with a known token is taken, before anything is decided;
  ``issued`` and ``died`` when the change is made, before the answer leaves; ``answered`` when it
  left, and ``unsent`` when a fault kept it.
* A token is shown by its fingerprint alone. All that one consent gave is a ``family``; its refresh
  tokens have a ``generation`` each, from 1.
* Events beyond ``MAX_EVENTS`` push out the oldest, and ``dropped`` says how many: a count that was
  made from a part would be no count.
"""

import time
from collections import Counter, deque
from collections.abc import Iterable
from itertools import islice
from typing import Final, Literal, TypedDict, Unpack

from msgspec import Struct

MAX_EVENTS: Final = 1_000_000

What = Literal["used", "issued", "died", "ended", "unknown", "refused", "answered", "unsent"]
Kind = Literal["", "code", "access", "refresh", "device", "request"]


class Event(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One thing that happened. ``until``: from then on the token does not work (None: no end)."""

    seq: int
    at: float
    what: What
    request: int = 0
    realm: str = ""
    kind: Kind = ""
    family: str = ""
    generation: int = 0
    token: str = ""
    until: float | None = None
    client: str = ""
    account: str = ""
    reasons: tuple[str, ...] = ()


class Facts(TypedDict, total=False):
    """What may be said of an event; as in ``Event``."""

    request: int
    realm: str
    kind: Kind
    family: str
    generation: int
    token: str
    until: float | None
    client: str
    account: str
    reasons: tuple[str, ...]


class Page(Struct, frozen=True):
    """A part of the history; ``next`` is the ``after`` of the part that follows."""

    now: float
    next: int
    dropped: int
    events: list[Event]


class History:
    """The events, and who made a request of which number an event's own."""

    def __init__(self) -> None:
        self._events: deque[Event] = deque(maxlen=MAX_EVENTS)
        self._next = 1
        self._open: set[int] = set()

    def add(self, what: What, **facts: Unpack[Facts]) -> None:
        event = Event(seq=self._next, at=time.monotonic(), what=what, **facts)
        self._next += 1
        self._events.append(event)
        if event.request:
            self._open.add(event.request)

    def close(self, request: int, *, sent: bool) -> None:
        """Say of a request that did something if its answer left."""
        if request in self._open:
            self.add("answered" if sent else "unsent", request=request)
            self._open.discard(request)

    def events(self) -> list[Event]:
        return list(self._events)

    def page(self, after: int, limit: int) -> Page:
        dropped = self._next - 1 - len(self._events)
        found = list(islice(self._events, max(0, after - dropped), None))[:limit]
        return Page(
            now=time.monotonic(),
            next=found[-1].seq if found else max(after, dropped),
            dropped=dropped,
            events=found,
        )


class Tally(Struct, frozen=True, kw_only=True):
    """What a history comes to."""

    families: int
    refreshes: int  # refresh tokens that were used and bought something
    used_twice: tuple[str, ...]  # refresh tokens that were presented more than once
    bought_twice: tuple[str, ...]  # and those that bought something more than once
    ended_by_replay: tuple[str, ...]  # families


def tally(events: Iterable[Event]) -> Tally:
    """Count. ``used_twice`` is harmless where ``rotation`` is ``none`` or ``stays``."""
    families: set[str] = set()
    uses: Counter[str] = Counter()
    bought: Counter[str] = Counter()
    replayed: list[str] = []
    asking: dict[int, str] = {}
    for event in events:
        if event.what == "issued":
            families.add(event.family)
            if event.kind == "access" and (token := asking.pop(event.request, None)):
                bought[token] += 1
        elif event.what == "used" and event.kind == "refresh":
            uses[event.token] += 1
            asking[event.request] = event.token
        elif event.what == "ended" and "replay" in event.reasons:
            replayed.append(event.family)
    return Tally(
        families=len(families),
        refreshes=bought.total(),
        used_twice=_twice(uses),
        bought_twice=_twice(bought),
        ended_by_replay=tuple(replayed),
    )


def usable(events: Iterable[Event], *, at: float) -> dict[str, set[str]]:
    """The refresh tokens that work at a time, by family; every family has its entry.

    A family of whose tokens the client holds none is lost.
    """
    working: dict[str, dict[str, float | None]] = {}
    for event in events:
        if event.at > at or not event.family:
            continue
        tokens = working.setdefault(event.family, {})
        if event.what == "ended":
            tokens.clear()
        elif event.kind == "refresh" and event.what in ("issued", "died"):
            tokens[event.token] = event.until
    return {
        family: {token for token, until in tokens.items() if until is None or until > at}
        for family, tokens in working.items()
    }


def _twice(counted: Counter[str]) -> tuple[str, ...]:
    return tuple(name for name, times in counted.items() if times > 1)
