"""Every way from one state of a connection to another, found by trying every event in each.

* A life is tried once for each shape that it can have: which of its parts are there. What is left
  out of a shape (fences, times) is varied by the events.
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Final, get_args

from vault.lifecycle.events import Answered, AnyEvent, Claimed, Connected, Failed, Released
from vault.lifecycle.life import GONE, NEW, Life, State
from vault.lifecycle.machine import step
from vault.lifecycle.terms import Terms
from vault.oauth.replies import Outcome

Edges = dict[tuple[State, State], set[str]]

BEGIN: Final = datetime(2026, 1, 1, tzinfo=UTC)
KINDS: Final = (
    Terms(),
    Terms(rotation="none"),
    Terms(rotation="grace", grace=timedelta(seconds=60)),
)
# At once, after every pause and lease, and after any of them has been forgotten.
WAITS: Final = (timedelta(), timedelta(seconds=100), timedelta(hours=1))
FENCES_BACK: Final = 3


def edges() -> Edges:
    """From which state to which, by which kinds of event; what changes no state is left out."""
    found: Edges = {}
    for terms in KINDS:
        seen: set[object] = set()
        waiting: list[tuple[Life, datetime]] = [(NEW, BEGIN), (GONE, BEGIN)]
        while waiting:
            life, since = waiting.pop()
            for at in (since + wait for wait in WAITS):
                for event in _events(life, at):
                    after = step(life, event, terms).life
                    if after.state != life.state:
                        names = found.setdefault((life.state, after.state), set())
                        names.add(type(event).__name__)
                    if _shape(after) not in seen:
                        seen.add(_shape(after))
                        waiting.append((after, at))
    return found


def _events(life: Life, at: datetime) -> Iterator[AnyEvent]:
    yield Connected(at=at)
    yield Connected(at=at, same_account=False)
    for alive in (True, False):
        for held in (None, at):
            yield Claimed(at=at, owner="r", attempt="t", holder_alive=alive, held_until=held)
    for fence in range(max(0, life.fence - FENCES_BACK), life.fence + 1):
        yield Answered(at=at, fence=fence)
    yield Released(at=at, fence=life.fence)
    for outcome in get_args(Outcome):
        for is_held in (False, True):
            yield Failed(at=at, fence=life.fence, outcome=outcome, luck=0.5, held=is_held)


def _shape(life: Life) -> object:
    claim, suspicion = life.claim, life.suspicion
    return (
        life.state,
        claim is not None and (claim.generation == life.generation, claim.fence == life.fence),
        life.fence > life.saved,
        life.doubt is not None,
        suspicion is not None and suspicion.lost,
        life.orphan is not None,
        life.failures > 0,
        life.next_try_at is not None,
        life.verdict,
        life.told,
    )
