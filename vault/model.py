"""The nouns: ids, who asks, and the things that a workspace holds.

* Every struct is frozen; nothing here does I/O.
* ``Caller`` is who asks. Every method of the door takes one, and it alone decides the workspace.
* Ids are a prefix and a ULID in lower-case Crockford base 32: sortable by time, safe in a URL.
"""

import os
import threading
import time
from datetime import datetime
from functools import lru_cache
from typing import Annotated, Final, Literal, NewType, Self, get_args

import msgspec
from msgspec import Meta

from vault.auth_kinds import AuthConfig
from vault.errors import Forbidden
from vault.secret import Secret

WorkspaceId = NewType("WorkspaceId", str)
KeyId = NewType("KeyId", str)
UserId = NewType("UserId", str)

Scope = Literal[
    "manage",
    "mint",
    "connect",
    "tokens:read",
    "tools:invoke",
    "redeem",
    "runtime",
    "hooks",
    "audit:read",
]
SCOPES: Final[tuple[Scope, ...]] = get_args(Scope)

# The operator's own place beside the workspaces: the directory of workspaces, and what the
# operator's requests leave behind. It is no workspace and holds no credential.
OPERATOR: Final = WorkspaceId("operator")

PRODUCTION: Final = "production"
# (?!\n): in Python a "$" also matches before a line break at the end, and a header, a log line or a
# name on a page could end in one.
ENVIRONMENT_PATTERN: Final = r"^[A-Za-z0-9_-]{1,64}(?!\n)$"
USER_ID_PATTERN: Final = r"^[A-Za-z0-9][A-Za-z0-9._~@:+=|,!$*()'-]{0,254}(?!\n)$"
E164_PATTERN: Final = r"^\+[1-9][0-9]{6,14}(?!\n)$"
ATTRIBUTE_PATTERN: Final = r"^[a-z][a-z0-9_]{0,47}(?!\n)$"
MAX_PHONE_NUMBERS: Final = 20
MAX_ATTRIBUTES: Final = 50

Name = Annotated[str, Meta(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+(?!\n)$")]
Environment = Annotated[str, Meta(pattern=ENVIRONMENT_PATTERN)]
PhoneNumber = Annotated[str, Meta(pattern=E164_PATTERN)]
AttributeName = Annotated[str, Meta(pattern=ATTRIBUTE_PATTERN)]
AttributeValue = (
    Annotated[str, Meta(max_length=1000)]
    | bool
    | Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
    | float
)

_CROCKFORD: Final = "0123456789abcdefghjkmnpqrstvwxyz"
# Two digits at a time.
_PAIRS: Final = tuple(one + other for one in _CROCKFORD for other in _CROCKFORD)
_CHANCE_PLACES: Final = tuple(range(70, -1, -10))
_SECOND_PLACES: Final = tuple(range(30, -1, -10))
# A digit for each byte, and each as often as the others.
_CHANCE: Final = (_CROCKFORD * 8).encode()


class _Ulids:
    """Numbers that grow: by the millisecond, and within one by chance."""

    def __init__(self) -> None:
        self._last = 0
        self._lock = threading.Lock()

    def next(self, count: int = 1) -> int:
        """The first of as many in a row."""
        moment = int(time.time() * 1000) << 80
        with self._lock:
            if moment > self._last:
                value = moment | int.from_bytes(os.urandom(10), "big")
            else:  # of the same millisecond, or a clock that was set back
                value = self._last + 1 + int.from_bytes(os.urandom(4), "big")
            self._last = value + count - 1
        return value


_next_ulid: Final = _Ulids().next


def new_id(prefix: str) -> str:
    """Make an id that sorts by when it was made; those of one process exactly so."""
    return f"{prefix}_{_digits(_next_ulid())}"


def chance_id(prefix: str) -> str:
    """The same for a third of the time, but those of one millisecond follow by chance alone."""
    chance = os.urandom(16).translate(_CHANCE).decode()
    return f"{prefix}_{_moment(int(time.time() * 1000))}{chance}"


def new_ids(prefix: str, count: int) -> list[str]:
    """Make as many that follow each other."""
    if count == 0:
        return []
    number = _next_ulid(count)
    made: list[str] = []
    while len(made) < count:  # a round for all of which only the last two digits differ
        start = f"{prefix}_{_digits(number)[:-2]}"
        last = number & 1023
        made += [start + pair for pair in _PAIRS[last : last + count - len(made)]]
        number += 1024 - last
    return made


def _digits(value: int) -> str:
    chance = "".join([_PAIRS[value >> place & 1023] for place in _CHANCE_PLACES])
    return _moment(value >> 80) + chance


def _moment(milliseconds: int) -> str:
    return _second(milliseconds >> 10) + _PAIRS[milliseconds & 1023]


@lru_cache(maxsize=8)  # the digits that stay for a second, and so are the same ones for many
def _second(seconds: int) -> str:
    return "".join([_PAIRS[seconds >> place & 1023] for place in _SECOND_PLACES])


class Caller(msgspec.Struct, frozen=True, kw_only=True):
    """Who asks: known, not yet allowed. ``vault.access`` says what it may do.

    A ``grant`` is what one conversation holds; ``actor_id`` is the conversation's.
    """

    kind: Literal["operator", "key", "person", "worker", "grant"]
    actor_id: str
    workspace: WorkspaceId
    scopes: frozenset[Scope] = frozenset()
    environments: tuple[str, ...] = ()
    expires_at: datetime | None = None
    request_id: str = ""

    @classmethod
    def operator(cls, actor_id: str, *, request_id: str = "") -> Self:
        """The person or script that runs this deployment; it holds no scope."""
        return cls(kind="operator", actor_id=actor_id, workspace=OPERATOR, request_id=request_id)

    def within(self, workspace: WorkspaceId) -> Self:
        """Let the operator work inside one workspace, where its audit shows it."""
        if self.kind != "operator":
            raise Forbidden
        return msgspec.structs.replace(self, workspace=workspace)


class Once(msgspec.Struct, frozen=True, kw_only=True):
    """An Idempotency-Key: the same change, asked for again, is not made again.

    ``key_hash`` and ``fingerprint`` are keyed hashes of the header and of the request.
    """

    key_hash: bytes
    fingerprint: bytes


class Page(msgspec.Struct, frozen=True):
    """Which part of a list: at most ``limit`` things after the one that ``after`` names."""

    limit: int
    after: str = ""


class Workspace(msgspec.Struct, frozen=True):
    workspace_id: WorkspaceId
    name: str
    created_at: datetime


class ApiKey(msgspec.Struct, frozen=True):
    """What is known of a key; the key itself is shown once, when it is made."""

    key_id: KeyId
    name: str
    scopes: list[Scope]
    environments: list[str]
    created_at: datetime
    created_by: str
    expires_at: datetime | None = None
    last_used_at: datetime | None = None


class NewKey(msgspec.Struct, frozen=True, kw_only=True):
    """What a key shall be."""

    name: str
    scopes: tuple[Scope, ...]
    environments: tuple[str, ...] = ()
    expires_at: datetime | None = None


class MadeKey(msgspec.Struct, frozen=True):
    """A key just made; ``bearer`` is ``None`` where an earlier answer already held it."""

    key: ApiKey
    bearer: Secret | None


class MadeWorkspace(msgspec.Struct, frozen=True):
    """A workspace just made, with its first key."""

    workspace: Workspace
    bearer: Secret | None


class Profile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What the platform tells us of a user. Sealed under the user's own key."""

    name: str | None = None
    phone_numbers: list[str] = []
    attributes: dict[str, str | bool | int | float] = {}


class User(msgspec.Struct, frozen=True):
    user_id: UserId
    profile: Profile
    created_at: datetime
    updated_at: datetime


class AuditEvent(msgspec.Struct, frozen=True):
    """One line of the record. Only the workspace's key can make the pseudonym ``user_ref``.

    ``connection_ids``: whose tokens went out with this deed, and have no line of their own.
    """

    event_id: str
    at: datetime
    actor_kind: str
    actor_id: str
    action: str
    target_kind: str
    target_id: str
    user_ref: str
    environment: str
    outcome: str
    request_id: str
    connection_ids: list[str] = []


# Environments: what a workspace configures for itself, per environment

VariableType = Literal["string", "secret", "auth_connection"]
AuthStatus = Literal["active", "refresh_failed", "revoked", "credential_invalid"]

LABEL_PATTERN: Final = r"^[A-Za-z0-9_]{1,64}(?!\n)$"
MAX_STRING_VALUE: Final = 8_192
MAX_SECRET_VALUE: Final = 32_768
MAX_ENVIRONMENTS: Final = 100


class SecretRef(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    secret_id: str


class AuthRef(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    auth_connection_id: str


Value = str | SecretRef | AuthRef


class EnvironmentInfo(msgspec.Struct, frozen=True):
    name: str
    updated_at: datetime
    created_by: str


class SettingsOf(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a workspace has chosen. ``secret_fallback``: may a secret fall back to production's?
    ``return_origins``: where a person may be sent back to after connecting.
    """

    secret_fallback: bool
    return_origins: list[str] = []


class VariableInfo(msgspec.Struct, frozen=True):
    variable_id: str
    label: str
    type: VariableType
    generation: int
    created_at: datetime
    updated_at: datetime
    created_by: str


class Variable(msgspec.Struct, frozen=True):
    """A label with its value in each environment that has one."""

    info: VariableInfo
    values: dict[str, Value]


class Usage(msgspec.Struct, frozen=True):
    """A variable that refers to a secret or an auth connection, and where."""

    variable_id: str
    label: str
    environments: list[str]


class SecretInfo(msgspec.Struct, frozen=True):
    """What is known of a workspace's secret; the value is never returned."""

    secret_id: str
    name: str
    generation: int
    allowed_hosts: list[str]
    created_at: datetime
    updated_at: datetime


class AuthConnection(msgspec.Struct, frozen=True):
    """A workspace-level way to authenticate. ``config`` holds secrets: show it ``masked``."""

    auth_connection_id: str
    name: str
    config: AuthConfig
    allowed_hosts: list[str]
    status: AuthStatus
    status_detail: str | None
    status_updated_at: datetime
    used_by: list[Usage]

    def __repr__(self) -> str:
        return f"AuthConnection({self.auth_connection_id})"
