"""What a run of refreshes comes to: an offline check of what clients got and the provider saw.

* A ``Record`` is only ever added to: who was connected, what each client was handed and when, which
  process was killed with what in hand, and which connections worked in the end.
* ``check`` reads it beside the provider's own history and asks nobody. What it cannot account for
  counts against the run: a connection without a proof of life is lost.
* Lost: the provider ended the consent for a replay, or the connection does not refresh any more.
* Double: a refresh token that had bought something was presented again, though no process that was
  killed in between had that refresh in hand.
* Stale: a token that was past its end, or replaced for somebody else, before it was asked for.
* Wrong: a token of another connection's consent, or one that the provider never gave.
* Times are the monotonic clock's, except for ``asked_at`` and ``ends_at``, which are the
  database's: seconds since the epoch on the one machine that all of it runs on.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

from msgspec import Struct, field

from broker.sandbox.history import Event


class Connected(Struct, frozen=True, kw_only=True):
    """A connection, whose it is, and which consent at the provider it stands for."""

    connection: str
    workspace: str
    family: str


class Handed(Struct, frozen=True, kw_only=True):
    """A token that a client was given. ``mark``: its fingerprint at the provider.

    ``workspace``: of the key that asked. ``degraded``: the answer said that it may be none.
    """

    connection: str
    workspace: str
    begun: float
    ended: float
    asked_at: float
    ends_at: float | None
    mark: str
    generation: int
    degraded: bool = False


class Killed(Struct, frozen=True, kw_only=True):
    """A process died at once, or slept past its lease where a provider forgives a second use.

    ``held``: connections whose refresh it had claimed.
    """

    at: float
    held: frozenset[str]


class Proof(Struct, frozen=True, kw_only=True):
    """Whether a connection could be refreshed once more when all was over."""

    connection: str
    lives: bool


class Record(Struct, frozen=True):
    """The clients' side of the history."""

    connected: list[Connected] = field(default_factory=list)
    handed: list[Handed] = field(default_factory=list)
    killed: list[Killed] = field(default_factory=list)
    proofs: list[Proof] = field(default_factory=list)


class Findings(Struct, frozen=True, kw_only=True):
    """What was counted; the first four have to be empty."""

    lost: tuple[str, ...]  # connections
    double: tuple[str, ...]  # refresh tokens, one entry for each use too many
    stale: tuple[Handed, ...]
    wrong: tuple[str, ...]
    refreshes: int
    handed: int

    @property
    def faults(self) -> dict[str, int]:
        """How many of each."""
        return {
            "lost": len(self.lost),
            "double": len(self.double),
            "stale": len(self.stale),
            "wrong": len(self.wrong),
        }


NONE = {"lost": 0, "double": 0, "stale": 0, "wrong": 0}


def check(record: Record, events: Sequence[Event]) -> Findings:
    """Count what must not be."""
    return Findings(
        lost=tuple(_lost(record, events)),
        double=tuple(_double(record, events)),
        stale=tuple(_stale(record.handed, events)),
        wrong=tuple(_wrong(record, events)),
        refreshes=len(_bought(events)),
        handed=len(record.handed),
    )


def _lost(record: Record, events: Iterable[Event]) -> Iterator[str]:
    ended = {one.family for one in events if one.what == "ended" and "replay" in one.reasons}
    alive: dict[str, bool] = {}
    for proof in record.proofs:
        alive[proof.connection] = proof.lives and alive.get(proof.connection, True)
    for one in record.connected:
        if one.family in ended or not alive.get(one.connection, False):
            yield one.connection


def _double(record: Record, events: Iterable[Event]) -> Iterator[str]:
    bought = _bought(events)
    connection = {one.family: one.connection for one in record.connected}
    before: dict[str, Event] = {}
    for event in events:
        if event.what != "used" or event.kind != "refresh":
            continue
        earlier = before.get(event.token)
        if earlier is not None and not _was_taken_over(
            record.killed, connection.get(event.family, ""), earlier.at, event.at
        ):
            yield event.token
        if event.request in bought:
            before[event.token] = event


def _was_taken_over(killed: Iterable[Killed], connection: str, first: float, then: float) -> bool:
    """Did somebody have to repeat what a dead process had begun?"""
    return any(connection in one.held and first <= one.at <= then for one in killed)


def _bought(events: Iterable[Event]) -> set[int]:
    """The requests in which a refresh token bought an access token."""
    asked: set[int] = set()
    bought: set[int] = set()
    for event in events:
        if event.what == "used" and event.kind == "refresh":
            asked.add(event.request)
        elif event.what == "issued" and event.kind == "access" and event.request in asked:
            bought.add(event.request)
    return bought


def _stale(handed: Sequence[Handed], events: Iterable[Event]) -> Iterator[Handed]:
    until = _ends(events)
    told = _Told(handed)
    for one in handed:
        past_its_end = one.ends_at is not None and one.ends_at <= one.asked_at
        dead = until.get(one.mark, one.begun + 1) <= one.begun and not one.degraded
        if past_its_end or dead or one.generation < told.before(one):
            yield one


def _ends(events: Iterable[Event]) -> dict[str, float]:
    """From when on each access token does not work; those without an end are not in it."""
    until: dict[str, float] = {}
    alive: dict[str, set[str]] = defaultdict(set)
    for event in events:
        if event.kind == "access":
            alive[event.family].add(event.token)
            if event.until is not None:
                until[event.token] = min(event.until, until.get(event.token, event.until))
        elif event.what == "ended":
            for token in alive[event.family]:
                until[token] = min(event.at, until.get(token, event.at))
    return until


class _Told:
    """What generations clients had been told of, over time."""

    def __init__(self, handed: Iterable[Handed]) -> None:
        self._told: dict[str, list[tuple[float, int]]] = defaultdict(list)
        for one in sorted(handed, key=lambda each: each.ended):
            told = self._told[one.connection]
            told.append((one.ended, max(one.generation, told[-1][1] if told else 0)))

    def before(self, asking: Handed) -> int:
        """The newest that anybody knew when this one asked."""
        told = self._told[asking.connection]
        at = bisect_left(told, (asking.begun, 0))
        return told[at - 1][1] if at else 0


def _wrong(record: Record, events: Iterable[Event]) -> Iterator[str]:
    family = {one.token: one.family for one in events if one.what == "issued"}
    owner = {one.connection: one for one in record.connected}
    for one in record.handed:
        mine = owner.get(one.connection)
        if mine is None or one.workspace != mine.workspace or family.get(one.mark) != mine.family:
            yield one.mark
    yield from (one.token for one in events if one.what == "unknown")
