"""What goes over the wire about event endpoints and deliveries."""

from typing import Annotated, Self

from msgspec import UNSET, Meta, UnsetType, field

from broker.api.messages import Instant, Message
from vault.events import Type
from vault.events.deliveries import (
    Attempted,
    DisabledWhy,
    EventEndpoint,
    MadeEndpoint,
    Replay,
    State,
)

Url = Annotated[str, Meta(min_length=1, max_length=2_000)]
Types = Annotated[list[Type], Meta(max_length=50)]
EventId = Annotated[str, Meta(pattern=r"^evt_[a-z0-9]{26}(?!\n)$")]


class EventEndpointIn(Message, frozen=True, kw_only=True):
    """``events``: the types to hear of; without them all, those to come included."""

    url: Url
    events: Types = field(default_factory=list)


class EventEndpointChange(Message, frozen=True, kw_only=True):
    """What is not given stays as it is. ``enabled``: ``false`` gives up what waits."""

    url: Url | UnsetType = UNSET
    events: Types | UnsetType = UNSET
    enabled: bool | UnsetType = UNSET


class EventEndpointOut(Message, frozen=True, kw_only=True):
    """``failing_since``: nothing has arrived since then; nothing is sent before ``rest_until``.

    ``disabled_why``: somebody asked for it, the endpoint answered 410, or it failed for a day.
    """

    id: str
    url: str
    events: list[Type]
    enabled: bool
    disabled_at: Instant | None
    disabled_why: DisabledWhy | None
    delivered_at: Instant | None
    failing_since: Instant | None
    failures: int
    rest_until: Instant | None
    former_secret_signs_until: Instant | None
    created_at: Instant
    updated_at: Instant
    created_by: str

    @classmethod
    def of(cls, endpoint: EventEndpoint) -> Self:
        return cls(
            id=endpoint.endpoint_id,
            url=endpoint.url,
            events=endpoint.types,
            enabled=endpoint.disabled_at is None,
            disabled_at=endpoint.disabled_at,
            disabled_why=endpoint.disabled_why,
            delivered_at=endpoint.delivered_at,
            failing_since=endpoint.failing_since,
            failures=endpoint.failures,
            rest_until=endpoint.rest_until,
            former_secret_signs_until=endpoint.former_signs_until,
            created_at=endpoint.created_at,
            updated_at=endpoint.updated_at,
            created_by=endpoint.created_by,
        )


class EventEndpointMade(Message, frozen=True, kw_only=True):
    """``secret`` is shown this once; a repeated answer holds ``null``."""

    id: str
    secret: str | None
    url: str
    events: list[Type]
    former_secret_signs_until: Instant | None

    @classmethod
    def of(cls, made: MadeEndpoint) -> Self:
        return cls(
            id=made.endpoint.endpoint_id,
            secret=made.secret.reveal() if made.secret else None,
            url=made.endpoint.url,
            events=made.endpoint.types,
            former_secret_signs_until=made.endpoint.former_signs_until,
        )


class ReplayIn(Message, frozen=True, kw_only=True):
    """Where to begin: at a time, or at an event, which is delivered again, too."""

    since: Instant | None = None
    from_event_id: EventId | None = None


class ReplayOut(Message, frozen=True, kw_only=True):
    """``next_event_id``: from there it goes on, if that was not all."""

    queued: int
    next_event_id: str | None

    @classmethod
    def of(cls, replay: Replay) -> Self:
        return cls(queued=replay.queued, next_event_id=replay.next_event_id)


class DeliveryOut(Message, frozen=True, kw_only=True):
    """``problem``: why the last attempt was none; ``status``: what it was answered."""

    event_id: str
    type: str
    at: Instant
    state: State
    attempts: int
    next_attempt_at: Instant | None
    tried_at: Instant | None
    status: int | None
    problem: str | None

    @classmethod
    def of(cls, one: Attempted) -> Self:
        return cls(
            event_id=one.event_id,
            type=one.type,
            at=one.at,
            state=one.state,
            attempts=one.attempts,
            next_attempt_at=one.due_at,
            tried_at=one.tried_at,
            status=one.status,
            problem=one.problem,
        )
