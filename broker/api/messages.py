"""What goes over the wire: one struct a body, strict on the way in, explicit on the way out.

A wire struct is made from a model struct by ``of``: a field that the model gains does not leak.
"""

from datetime import UTC, datetime
from typing import Annotated, Generic, Self, TypeVar

from msgspec import Meta, Struct

from broker.api.lights import Name as LightName
from vault.environments import FallbackWarning
from vault.errors import Invalid
from vault.model import (
    MAX_ATTRIBUTES,
    MAX_PHONE_NUMBERS,
    ApiKey,
    AttributeName,
    AttributeValue,
    AuditEvent,
    Environment,
    MadeKey,
    MadeWorkspace,
    Name,
    NewKey,
    PhoneNumber,
    Profile,
    Scope,
    SettingsOf,
    User,
    Workspace,
)

T = TypeVar("T")

Instant = Annotated[datetime, Meta(tz=True)]


def in_utc(instant: datetime | None, pointer: str) -> datetime | None:
    """The same instant in UTC; an offset can put one outside of the years that there are."""
    try:
        return instant and instant.astimezone(UTC)
    except OverflowError:
        raise Invalid("This time is outside of the years 1 to 9999.", pointer=pointer) from None


class Message(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The base of everything that is sent or received."""


class Listing(Message, Generic[T], frozen=True, kw_only=True):
    """A part of a list; ``next_cursor`` asks for the part after it."""

    data: list[T]
    next_cursor: str | None


class WorkspaceIn(Message, frozen=True, kw_only=True):
    name: Name


class WorkspaceOut(Message, frozen=True, kw_only=True):
    id: str
    name: str
    created_at: Instant

    @classmethod
    def of(cls, workspace: Workspace) -> Self:
        return cls(id=workspace.workspace_id, name=workspace.name, created_at=workspace.created_at)


class WorkspaceMade(Message, frozen=True, kw_only=True):
    """``api_key`` is shown this once; a repeated answer holds ``null``."""

    id: str
    name: str
    created_at: Instant
    api_key: str | None

    @classmethod
    def of(cls, made: MadeWorkspace) -> Self:
        return cls(
            id=made.workspace.workspace_id,
            name=made.workspace.name,
            created_at=made.workspace.created_at,
            api_key=made.bearer.reveal() if made.bearer else None,
        )


class KeyIn(Message, frozen=True, kw_only=True):
    name: Name
    scopes: Annotated[list[Scope], Meta(min_length=1, max_length=20)]
    environments: Annotated[list[Environment], Meta(max_length=50)] = []
    expires_at: Instant | None = None

    def wanted(self) -> NewKey:
        return NewKey(
            name=self.name,
            scopes=tuple(dict.fromkeys(self.scopes)),
            environments=tuple(dict.fromkeys(self.environments)),
            expires_at=in_utc(self.expires_at, "/expires_at"),
        )


class KeyOut(Message, frozen=True, kw_only=True):
    id: str
    name: str
    scopes: list[Scope]
    environments: list[str]
    created_at: Instant
    created_by: str
    expires_at: Instant | None
    last_used_at: Instant | None

    @classmethod
    def of(cls, key: ApiKey) -> Self:
        return cls(
            id=key.key_id,
            name=key.name,
            scopes=key.scopes,
            environments=key.environments,
            created_at=key.created_at,
            created_by=key.created_by,
            expires_at=key.expires_at,
            last_used_at=key.last_used_at,
        )


class KeyMade(Message, frozen=True, kw_only=True):
    """``key`` is shown this once; a repeated answer holds ``null``."""

    id: str
    key: str | None
    name: str
    scopes: list[Scope]
    environments: list[str]
    created_at: Instant
    expires_at: Instant | None

    @classmethod
    def of(cls, made: MadeKey) -> Self:
        return cls(
            id=made.key.key_id,
            key=made.bearer.reveal() if made.bearer else None,
            name=made.key.name,
            scopes=made.key.scopes,
            environments=made.key.environments,
            created_at=made.key.created_at,
            expires_at=made.key.expires_at,
        )


class UserIn(Message, frozen=True, kw_only=True):
    name: Name | None = None
    phone_numbers: Annotated[list[PhoneNumber], Meta(max_length=MAX_PHONE_NUMBERS)] = []
    attributes: Annotated[dict[AttributeName, AttributeValue], Meta(max_length=MAX_ATTRIBUTES)] = {}

    def profile(self) -> Profile:
        return Profile(
            name=self.name,
            phone_numbers=list(dict.fromkeys(self.phone_numbers)),
            attributes=dict(self.attributes),
        )


class UserOut(Message, frozen=True, kw_only=True):
    id: str
    name: str | None
    phone_numbers: list[str]
    attributes: dict[str, str | bool | int | float]
    created_at: Instant
    updated_at: Instant

    @classmethod
    def of(cls, user: User) -> Self:
        return cls(
            id=user.user_id,
            name=user.profile.name,
            phone_numbers=user.profile.phone_numbers,
            attributes=user.profile.attributes,
            created_at=user.created_at,
            updated_at=user.updated_at,
        )


class Party(Message, frozen=True, kw_only=True):
    """Who did something, or what it was done to."""

    kind: str
    id: str


class AuditEventOut(Message, frozen=True, kw_only=True):
    """``user`` is a pseudonym; ask with ``?user_id=`` for the events of a user you know.

    ``connection_ids``: whose tokens were handed out with it, without events of their own.
    """

    id: str
    at: Instant
    actor: Party
    action: str
    target: Party | None
    user: str | None
    environment: str | None
    outcome: str
    request_id: str
    connection_ids: list[str]

    @classmethod
    def of(cls, event: AuditEvent) -> Self:
        return cls(
            id=event.event_id,
            at=event.at,
            actor=Party(kind=event.actor_kind, id=event.actor_id),
            action=event.action,
            target=Party(kind=event.target_kind, id=event.target_id) if event.target_id else None,
            user=event.user_ref or None,
            environment=event.environment or None,
            outcome=event.outcome,
            request_id=event.request_id,
            connection_ids=event.connection_ids,
        )


class Check(Message, frozen=True, kw_only=True):
    name: LightName
    ok: bool
    reason: str | None


class Readiness(Message, frozen=True, kw_only=True):
    """Whether this replica may get requests, and what stands against it.

    ``degraded``: it may, although something is missing, since most of its work goes on.
    """

    ready: bool
    degraded: bool
    checks: list[Check]


class Liveness(Message, frozen=True, kw_only=True):
    alive: bool


Origin = Annotated[str, Meta(max_length=300, pattern=r"^https?://[a-z0-9.-]+(:[0-9]{1,5})?(?!\n)$")]


class SettingsBody(Message, frozen=True, kw_only=True):
    """``return_origins``: where people may be sent back to after connecting an account."""

    secret_fallback: bool = True
    return_origins: Annotated[list[Origin], Meta(max_length=50)] = []

    def settings(self) -> SettingsOf:
        return SettingsOf(
            secret_fallback=self.secret_fallback,
            return_origins=list(dict.fromkeys(self.return_origins)),
        )

    @classmethod
    def of(cls, settings: SettingsOf) -> Self:
        return cls(secret_fallback=settings.secret_fallback, return_origins=settings.return_origins)


class WarningOut(Message, frozen=True, kw_only=True):
    environment: str
    host: str
    secret: str
    text: str

    @classmethod
    def of(cls, warning: FallbackWarning) -> Self:
        return cls(
            environment=warning.environment,
            host=warning.host,
            secret=warning.secret,
            text=warning.text,
        )
