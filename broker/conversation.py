"""A conversation: one user, one agent, one environment, minted once. The nouns; no I/O.

* ``delivery`` says how credentials reach the runtime, and what the client gets is never stronger.
* What a conversation can reach is fixed when it is minted, and so is its environment.
* No repr shows a value.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final, Literal

from msgspec import Struct
from msgspec.structs import replace

from broker.profile import DELIVERIES, Profile, Runtime
from broker.variables import Plan, Scalar, Value
from vault import access
from vault.errors import DeliveryNeedsGateway, DeliveryNotPossible, Invalid, Missing
from vault.model import PRODUCTION, Caller
from vault.secret import Secret

# The runtime's own ids of branches.
BRANCH_PATTERN: Final = r"^[A-Za-z0-9_-]{1,128}(?!\n)$"
START_WITHIN: Final = 15 * 60  # seconds
LASTS: Final = 60 * 60
MAX_LASTS: Final = 8 * 60 * 60
MIN_TTL: Final = 900
MAX_WAIT_MS: Final = 3_000

Channel = Literal["websocket", "webrtc", "telephone"]
Delivery = Literal["relay", "inline", "handle", "server", "sealed"]
State = Literal["prepared", "started", "ended"]
BearerKind = Literal["grant", "handle"]

# The person can do something about these: a link helps.
CONNECTABLE: Final = frozenset(
    {"not_connected", "pending", "needs_reauth", "expired", "scope_missing"}
)


class Wanted(Struct, frozen=True, kw_only=True):
    """What shall be minted; what is ``None`` the profile says, or the defaults.

    ``armed``: a call that nobody has vouched for yet is not; it gets a handle that buys nothing.
    """

    agent_id: str
    user_id: str
    environment: str | None = None
    runtime: Runtime | None = None
    channel: Channel = "websocket"
    delivery: Delivery | None = None
    branch_id: str = ""
    integrations: tuple[str, ...] | None = None
    dynamic_variables: Mapping[str, Scalar] = {}
    min_ttl: int | None = None
    max_wait_ms: int = MAX_WAIT_MS
    on_missing: Literal["fail", "omit"] = "fail"
    connect_links: bool = False
    lasts: int = LASTS
    armed: bool = True

    def __repr__(self) -> str:
        return f"Wanted({self.agent_id})"


class Reached(Struct, frozen=True, kw_only=True):
    """One connection that a conversation may use. It may be production's, where that is shared."""

    integration: str
    connection_id: str
    environment: str


class Kept(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a conversation was promised. Sealed; holds no credential.

    ``given``: what the platform's backend added of its own.
    """

    agent_id: str
    environment: str
    plan: Plan
    profile: Profile | None
    reached: tuple[Reached, ...]
    given: dict[str, Scalar] = {}
    min_ttl: int = MIN_TTL

    def __repr__(self) -> str:
        return "Kept(***)"

    @property
    def environments(self) -> tuple[str, ...]:
        """Its own, and those of what it reaches."""
        places = [self.environment, *(one.environment for one in self.reached)]
        return tuple(dict.fromkeys(places))


class Conversation(Struct, frozen=True):
    """What is known of a conversation without opening it."""

    conversation_id: str
    agent_id: str
    user_id: str
    environment: str
    runtime: Runtime
    channel: Channel
    delivery: Delivery
    branch_id: str
    key_id: str
    state: State
    armed: bool
    upstream_id: str | None
    created_at: datetime
    start_by: datetime
    started_at: datetime | None
    expires_at: datetime
    ended_at: datetime | None
    expired: bool

    @property
    def lives(self) -> bool:
        return self.ended_at is None and not self.expired


class Ready(Struct, frozen=True, kw_only=True):
    """One connection as a conversation gets it. ``variables``: the names that come from it."""

    integration: str
    generation: int
    expires_at: datetime | None
    expires_in: int | None
    degraded: bool
    stale: bool
    refresh_required: bool
    variables: tuple[str, ...]


class Prepared(Struct, frozen=True, kw_only=True):
    """How things stand for a conversation that may come."""

    agent_id: str
    user_id: str
    environment: str
    ready: tuple[Ready, ...]
    missing: tuple[Missing, ...]


class Minted(Struct, frozen=True, kw_only=True):
    """What the platform gets. ``variables`` holds what the delivery lets the client see.

    ``token`` and ``signed_url`` are there where the runtime and channel take them, and
    ``server_url`` where the token is for a server of the workspace's own.
    """

    conversation_id: str
    agent_id: str
    user_id: str
    environment: str
    branch_id: str
    runtime: Runtime
    delivery: Delivery
    upstream_id: str | None
    token: Secret | None
    signed_url: Secret | None
    server_url: str | None
    start_by: datetime
    expires_at: datetime
    variables: Mapping[str, Value]
    ready: tuple[Ready, ...]
    missing: tuple[Missing, ...]

    def __repr__(self) -> str:
        return f"Minted({self.conversation_id})"


class Held(Struct, frozen=True, kw_only=True):
    """Who and what a grant or a handle is. ``caller``: the conversation itself."""

    caller: Caller
    conversation: Conversation
    kind: BearerKind
    kept: Kept

    def __repr__(self) -> str:
        return f"Held({self.conversation.conversation_id})"

    def connection(self, integration: str) -> Reached | None:
        """The one connection that it reaches at an integration."""
        return next((one for one in self.kept.reached if one.integration == integration), None)


def as_conversation(caller: Caller, conversation_id: str, environments: Sequence[str]) -> Caller:
    """The conversation itself, which asks from here on: it reaches what was minted for it."""
    return Caller(
        kind="grant",
        actor_id=conversation_id,
        workspace=caller.workspace,
        environments=tuple(dict.fromkeys(environments)),
        request_id=caller.request_id,
    )


def as_it_was(wanted: Wanted, earlier: Conversation) -> Wanted:
    """The same request once more. Whose it is and where it runs is fixed, whatever a number, a
    profile or a default says by now; and who was not vouched for when it was made, still is not.
    """
    return replace(
        wanted,
        user_id=earlier.user_id,
        environment=earlier.environment,
        runtime=earlier.runtime,
        channel=earlier.channel,
        delivery=earlier.delivery,
        branch_id=earlier.branch_id,
        armed=wanted.armed and earlier.armed,
    )


def chosen_delivery(wanted: Wanted, profile: Profile | None) -> tuple[Runtime, Delivery]:
    """Where it runs, and how credentials get there; raises where that cannot be."""
    runtime: Runtime = wanted.runtime or (profile.runtime if profile else None) or "elevenlabs"
    if wanted.channel == "telephone":
        return runtime, "server"  # nothing else reaches a telephone
    possible = DELIVERIES[runtime, wanted.channel]
    delivery = wanted.delivery or (profile.delivery if profile else None) or possible[0]
    if delivery not in possible:
        raise DeliveryNotPossible(
            f"At {runtime} over {wanted.channel} secrets can be delivered by: {_listed(possible)}."
        )
    if delivery == "handle" and (profile is None or profile.tools != "gateway"):
        raise DeliveryNeedsGateway
    return runtime, delivery


def environment_of(caller: Caller, asked: str | None) -> str:
    """The environment that was asked for; a key that is tied to one means that one."""
    if asked is not None:
        access.permit_environment(caller, asked)
        return asked
    if len(caller.environments) == 1:
        return caller.environments[0]
    if not access.within_environments(caller, [PRODUCTION]):
        raise Invalid("This key is tied to several: name the environment.", pointer="/environment")
    return PRODUCTION


def environment_of_call(caller: Caller, asked: str | None, number: str | None) -> str:
    """Where a call runs: as it was asked for, or as the key says, else as its number does."""
    if asked is None and len(caller.environments) != 1:
        asked = number
    return environment_of(caller, asked)


def min_ttl_of(wanted: Wanted, profile: Profile | None) -> int:
    """How many seconds a token has to last."""
    if wanted.min_ttl is not None:
        return wanted.min_ttl
    return profile.min_ttl if profile and profile.min_ttl is not None else MIN_TTL


def is_asked_for(integration: str, profile: Profile | None, wanted: Wanted) -> bool:
    """Is the conversation about this integration?"""
    if wanted.integrations is not None and integration not in wanted.integrations:
        return False
    if profile is None or profile.integrations is None:
        return True
    return profile.needed(integration) is not None


def _listed(words: Sequence[str]) -> str:
    return ", ".join(words)
