"""What goes over the wire where tokens are handed out and looked after."""

from typing import Annotated, Self

from msgspec import UNSET, Meta, UnsetType

from broker.api.connect_messages import ConnectionOut
from broker.api.messages import Instant, Message
from broker.mint.reads import HandedOut
from vault.store.answers import AttemptRow
from vault.vault.explaining import Explanation
from vault.vault.refreshing import Fresh, Reason


class TokenIn(Message, frozen=True, kw_only=True):
    """``min_ttl``: seconds that the token has to last. ``max_wait_ms``: for a refresh, if need be.

    ``rejected``: the provider's API did not take the present token.
    """

    min_ttl: Annotated[int, Meta(ge=0, le=86_400)] = 60
    max_wait_ms: Annotated[int, Meta(ge=0, le=60_000)] = 3_000
    rejected: bool = False


class TokenOut(Message, frozen=True, kw_only=True):
    """Without a token ``reason`` says why, and nothing else is there; with one all the others are,
    ``null`` where nobody knows. ``degraded``: good, but it could not be refreshed.

    ``stale``: it ends sooner than was asked for, because a live conversation holds it and a refresh
    would end it. ``refresh_required``: it will not last as long as was asked for.
    """

    active: bool
    reason: Reason | UnsetType = UNSET
    access_token: str | UnsetType = UNSET
    token_type: str | UnsetType | None = UNSET
    expires_at: Instant | UnsetType | None = UNSET
    expires_in: int | UnsetType | None = UNSET
    generation: int | UnsetType = UNSET
    degraded: bool | UnsetType = UNSET
    stale: bool | UnsetType = UNSET
    refresh_required: bool | UnsetType = UNSET
    scopes: list[str] | UnsetType | None = UNSET
    missing_scopes: list[str] | UnsetType = UNSET

    @classmethod
    def of(cls, found: Fresh) -> Self:
        tokens = found.tokens
        if tokens is None or tokens.access_token is None:
            return cls(active=False, reason=found.reason or "expired")
        return cls(
            active=True,
            access_token=tokens.access_token.reveal(),
            token_type=tokens.token_type,
            expires_at=found.expires_at,
            expires_in=found.expires_in,
            generation=found.generation,
            degraded=found.degraded,
            stale=found.stale,
            refresh_required=found.refresh_required,
            scopes=None if found.scopes is None else list(found.scopes),
            missing_scopes=list(found.missing_scopes),
        )

    @classmethod
    def of_handed_out(cls, found: HandedOut) -> Self:
        """What ``of`` says where nothing is amiss."""
        if found.access_token is None:
            return cls(active=False, reason="expired")
        return cls(
            active=True,
            access_token=found.access_token,
            token_type=found.token_type,
            expires_at=found.expires_at,
            expires_in=found.expires_in,
            generation=found.generation,
            degraded=False,
            stale=False,
            refresh_required=found.refresh_required,
            scopes=found.scopes,
            missing_scopes=found.missing_scopes,
        )


class AttemptOut(Message, frozen=True, kw_only=True):
    """How one call of the provider ended."""

    number: int
    replica: str
    began_at: Instant
    ended_at: Instant
    outcome: str
    detail: str
    http_status: int | None
    generation: int | None

    @classmethod
    def of(cls, row: AttemptRow) -> Self:
        return cls(
            number=row.fence,
            replica=row.owner,
            began_at=row.began_at,
            ended_at=row.ended_at,
            outcome=row.outcome,
            detail=row.detail,
            http_status=row.http_status,
            generation=row.generation,
        )


class ExplanationOut(Message, frozen=True, kw_only=True):
    """Why a connection is as it is, and what happened to it; the newest attempt first."""

    connection: ConnectionOut
    why: str
    expiring: bool
    due_at: Instant | None
    next_try_at: Instant | None
    idle_ends: Instant | None
    consent_ends: Instant | None
    failures: int
    held_until: Instant | None
    attempts: list[AttemptOut]

    @classmethod
    def of(cls, found: Explanation) -> Self:
        return cls(
            connection=ConnectionOut.of(found.connection),
            why=found.why,
            expiring=found.expiring,
            due_at=found.due_at,
            next_try_at=found.next_try_at,
            idle_ends=found.idle_ends,
            consent_ends=found.consent_ends,
            failures=found.failures,
            held_until=found.held_until,
            attempts=[AttemptOut.of(one) for one in found.attempts],
        )
