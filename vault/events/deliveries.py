"""Events on their way to a platform: the nouns, and what follows from how a try went.

* A delivery is tried for a day, with growing pauses of which chance takes its part. Each has its
  own, so that one which is refused again and again holds up no other.
* An endpoint at which nothing arrives rests as a whole, and is asked again with one delivery. A
  day without any success disables it, and so does ``410 Gone``, at once.
* Pure: the clock and the luck come from whoever asks.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final, Literal

from msgspec import Struct
from msgspec.structs import replace

from vault.events import Type
from vault.model import WorkspaceId
from vault.secret import Secret

State = Literal["waiting", "delivered", "failed"]
DisabledWhy = Literal["asked", "gone", "failing"]

PATIENCE: Final = timedelta(days=1)
FIRST_PAUSE: Final = timedelta(seconds=5)
LONGEST_PAUSE: Final = timedelta(hours=1)
# Full jitter may draw nothing at all; that would be a loop without a pause.
SHORTEST_PAUSE: Final = timedelta(seconds=1)
# After so long an event and its deliveries are forgotten, and cannot be replayed any more.
KEPT: Final = timedelta(days=3)
# So long a secret that was replaced signs beside the new one.
FORMER_SIGNS: Final = timedelta(days=1)
# So many deliveries are one turn at an endpoint, and so long it lasts at the most.
TURN_DELIVERIES: Final = 50
TURN_SECONDS: Final = 60
GONE: Final = 410
_MOST_DOUBLINGS: Final = 20


class Former(Struct, frozen=True):
    """A secret that was replaced, and until when it still signs."""

    secret: Secret
    until: datetime


class EventEndpoint(Struct, frozen=True, kw_only=True):
    """Where a workspace's events go to. ``types`` empty: all of them."""

    endpoint_id: str
    url: str
    types: list[Type]
    former_signs_until: datetime | None
    failures: int
    failing_since: datetime | None
    rest_until: datetime | None
    delivered_at: datetime | None
    disabled_at: datetime | None
    disabled_why: DisabledWhy | None
    created_at: datetime
    updated_at: datetime
    created_by: str

    def __repr__(self) -> str:
        return f"EventEndpoint({self.endpoint_id})"


class MadeEndpoint(Struct, frozen=True):
    """An endpoint just made or rotated; ``secret`` is ``None`` where an earlier answer held it."""

    endpoint: EventEndpoint
    secret: Secret | None


class Attempted(Struct, frozen=True):
    """What is known of one delivery. ``problem``: why the last attempt was none."""

    event_id: str
    type: str
    at: datetime
    state: State
    attempts: int
    due_at: datetime | None
    tried_at: datetime | None
    status: int | None
    problem: str | None


class Replay(Struct, frozen=True):
    """How many events are on their way again, and the first that was too many."""

    queued: int
    next_event_id: str | None


class Waiting(Struct, frozen=True):
    """An endpoint that has something to get now. ``failures``: turns without success before."""

    workspace_id: WorkspaceId
    endpoint_id: str
    failures: int


class Delivery(Struct, frozen=True):
    """One event to deliver; ``body`` is what the outbox has, as JSON."""

    event_id: str
    type: str
    at: datetime
    body: str
    attempts: int
    queued_at: datetime


class Turn(Struct, frozen=True, kw_only=True):
    """One replica's turn at an endpoint: what to send, where to, and what to sign it with.

    ``now``: when it began, by the database's clock; ``until``: others wait until then.
    """

    workspace: WorkspaceId
    endpoint_id: str
    claim: int
    now: datetime
    until: datetime
    failures: int
    failing_since: datetime | None
    url: str
    secrets: tuple[Secret, ...]
    deliveries: list[Delivery]

    def __repr__(self) -> str:
        return f"Turn({self.endpoint_id}, {self.claim})"


class Tried(Struct, frozen=True, kw_only=True):
    """How one attempt ended; without a ``problem`` it arrived."""

    delivery: Delivery
    status: int | None = None
    problem: str | None = None
    retry_after: int | None = None

    @property
    def arrived(self) -> bool:
        return self.problem is None


class Settled(Struct, frozen=True):
    """What becomes of a delivery; ``due_at`` is ``None`` where it is over."""

    event_id: str
    state: State
    due_at: datetime | None
    status: int | None
    problem: str | None


class Health(Struct, frozen=True, kw_only=True):
    """How an endpoint fares after a turn."""

    failures: int = 0
    failing_since: datetime | None = None
    rest_until: datetime | None = None
    delivered_at: datetime | None = None
    disabled_why: DisabledWhy | None = None


def pause(failures: int, luck: float, retry_after: int | None = None) -> timedelta:
    """The wait after so many failures; at least what was asked for, within reason."""
    doubled = FIRST_PAUSE * (1 << min(max(failures - 1, 0), _MOST_DOUBLINGS))
    drawn = max(SHORTEST_PAUSE, luck * min(LONGEST_PAUSE, doubled))
    asked = timedelta(seconds=min(retry_after or 0, int(LONGEST_PAUSE.total_seconds())))
    return max(drawn, asked)


def settled(tried: Tried, now: datetime, luck: float) -> Settled:
    """What becomes of a delivery that was tried."""
    delivery = tried.delivery
    give_up_at = delivery.queued_at + PATIENCE
    state: State = "waiting"
    due_at: datetime | None = None
    if tried.arrived:
        state = "delivered"
    elif now >= give_up_at:
        state = "failed"
    else:
        again = now + pause(delivery.attempts + 1, luck, tried.retry_after)
        due_at = min(again, give_up_at)  # the last try is made when the day is over
    return Settled(delivery.event_id, state, due_at, tried.status, tried.problem)


def not_put_off(after: Settled, now: datetime) -> Settled:
    """The same; what waits may be tried at once."""
    return replace(after, due_at=now) if after.state == "waiting" else after


def health(turn: Turn, tried: Sequence[Tried], now: datetime, luck: float) -> Health:
    """How an endpoint fares after a turn in which this was tried."""
    if any(one.status == GONE for one in tried):
        return Health(failing_since=now, disabled_why="gone")
    if any(one.arrived for one in tried):
        return Health(delivered_at=now)
    if not tried:
        return Health(failures=turn.failures, failing_since=turn.failing_since)
    failures, since = turn.failures + 1, turn.failing_since or now
    if now - since >= PATIENCE:
        return Health(failures=failures, failing_since=since, disabled_why="failing")
    asked = max((one.retry_after or 0 for one in tried), default=0)
    rest_until = min(now + pause(failures, luck, asked), since + PATIENCE)
    return Health(failures=failures, failing_since=since, rest_until=rest_until)
