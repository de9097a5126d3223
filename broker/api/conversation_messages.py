"""What goes over the wire where conversations are minted, listed and ended."""

from collections.abc import Mapping
from typing import Annotated, Literal, Self

from msgspec import UNSET, Meta, UnsetType, field

from broker.api.messages import Instant, Message
from broker.conversation import (
    LASTS,
    MAX_LASTS,
    MAX_WAIT_MS,
    Channel,
    Conversation,
    Delivery,
    Minted,
    Prepared,
    Ready,
    Wanted,
)
from broker.delivery import revealed
from broker.profile import AGENT_PATTERN, Runtime
from broker.readiness import ReadyUser
from broker.upstreams.drift import DriftWarning
from broker.variables import Value
from vault.consent import IntegrationName
from vault.environments import FallbackWarning
from vault.errors import Missing
from vault.model import USER_ID_PATTERN, Environment

MAX_VARIABLES = 200
MAX_READY = 10_000

AgentId = Annotated[str, Meta(pattern=AGENT_PATTERN)]
UserId = Annotated[str, Meta(pattern=USER_ID_PATTERN)]
VariableName = Annotated[str, Meta(min_length=1, max_length=128)]
VariableValue = (
    Annotated[str, Meta(max_length=32_768)]
    | bool
    | Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
    | float
)


class ConversationIn(Message, frozen=True, kw_only=True):
    """Who talks to which agent, and how. ``integrations`` narrows what the agent may ask for.

    The delivery ``server`` is a telephone's; whoever asks for it here hears what is possible.
    """

    agent_id: AgentId
    user_id: UserId
    environment: Environment | None = None
    runtime: Runtime | None = None
    channel: Literal["websocket", "webrtc"] = "websocket"
    delivery: Delivery | None = None
    branch_id: Annotated[str, Meta(min_length=1, max_length=128)] | None = None
    integrations: Annotated[list[IntegrationName], Meta(max_length=50)] | None = None
    dynamic_variables: Annotated[
        dict[VariableName, VariableValue], Meta(max_length=MAX_VARIABLES)
    ] = field(default_factory=dict)
    min_ttl: Annotated[int, Meta(ge=0, le=86_400)] | None = None
    max_wait_ms: Annotated[int, Meta(ge=0, le=60_000)] = MAX_WAIT_MS
    on_missing: Literal["fail", "omit"] = "fail"
    connect_links: bool = False
    expires_in: Annotated[int, Meta(ge=60, le=MAX_LASTS)] = LASTS

    def wanted(self) -> Wanted:
        return Wanted(
            agent_id=self.agent_id,
            user_id=self.user_id,
            environment=self.environment,
            runtime=self.runtime,
            channel=self.channel,
            delivery=self.delivery,
            branch_id=self.branch_id or "",
            integrations=None if self.integrations is None else tuple(self.integrations),
            dynamic_variables=self.dynamic_variables,
            min_ttl=self.min_ttl,
            max_wait_ms=self.max_wait_ms,
            on_missing=self.on_missing,
            connect_links=self.connect_links,
            lasts=self.expires_in,
        )


class ReadyOut(Message, frozen=True, kw_only=True):
    """A connection that the conversation has. ``variables``: the names that come from it."""

    integration: str
    status: Literal["ready"] = "ready"
    degraded: bool
    stale: bool
    refresh_required: bool
    generation: int
    expires_at: Instant | None
    expires_in: int | None
    variables: list[str]

    @classmethod
    def of(cls, one: Ready) -> Self:
        return cls(
            integration=one.integration,
            degraded=one.degraded,
            stale=one.stale,
            refresh_required=one.refresh_required,
            generation=one.generation,
            expires_at=one.expires_at,
            expires_in=one.expires_in,
            variables=list(one.variables),
        )


class MissingOut(Message, frozen=True, kw_only=True):
    """What the conversation does not have, and why."""

    integration: str
    reason: str
    connect_url: str | None

    @classmethod
    def of(cls, one: Missing) -> Self:
        return cls(
            integration=one.integration,
            reason=one.reason,
            connect_url=one.connect_url.reveal() if one.connect_url else None,
        )


class ConversationMade(Message, frozen=True, kw_only=True):
    """What a client starts with. ``dynamic_variables`` never holds more than the delivery allows.

    A repeated request is answered with the same ids and a new ticket, grant or handle; once the
    conversation has begun, without them. ``server_url``: where a LiveKit token is good; no other
    runtime's answer has it.
    """

    id: str
    agent_id: str
    user_id: str
    environment: str
    runtime: Runtime
    delivery: Delivery
    conversation_id: str | None
    token: str | None
    signed_url: str | None
    start_by: Instant
    expires_at: Instant
    dynamic_variables: dict[str, str | bool | int | float]
    connections: list[ReadyOut]
    missing: list[MissingOut]
    server_url: str | UnsetType = UNSET

    @classmethod
    def of(cls, made: Minted) -> Self:
        return cls(
            id=made.conversation_id,
            agent_id=made.agent_id,
            user_id=made.user_id,
            environment=made.environment,
            runtime=made.runtime,
            delivery=made.delivery,
            conversation_id=made.upstream_id,
            token=made.token.reveal() if made.token else None,
            signed_url=made.signed_url.reveal() if made.signed_url else None,
            start_by=made.start_by,
            expires_at=made.expires_at,
            dynamic_variables=revealed(made.variables),
            connections=[ReadyOut.of(one) for one in made.ready],
            missing=[MissingOut.of(one) for one in made.missing],
            server_url=UNSET if made.server_url is None else made.server_url,
        )


class PreparedOut(Message, frozen=True, kw_only=True):
    """How the connections stand now; what has to be refreshed is being refreshed."""

    agent_id: str
    user_id: str
    environment: str
    connections: list[ReadyOut]
    missing: list[MissingOut]

    @classmethod
    def of(cls, found: Prepared) -> Self:
        return cls(
            agent_id=found.agent_id,
            user_id=found.user_id,
            environment=found.environment,
            connections=[ReadyOut.of(one) for one in found.ready],
            missing=[MissingOut.of(one) for one in found.missing],
        )


class RedeemIn(Message, frozen=True, kw_only=True):
    """A sealed token, as the client brought it."""

    token: Annotated[str, Meta(min_length=1, max_length=200)]


class RedeemedOut(Message, frozen=True, kw_only=True):
    """What a sealed token stood for, in clear: for the runtime's server alone."""

    id: str
    agent_id: str
    user_id: str
    environment: str
    expires_at: Instant
    dynamic_variables: dict[str, str | bool | int | float]

    @classmethod
    def of(cls, one: Conversation, values: Mapping[str, Value]) -> Self:
        return cls(
            id=one.conversation_id,
            agent_id=one.agent_id,
            user_id=one.user_id,
            environment=one.environment,
            expires_at=one.expires_at,
            dynamic_variables=revealed(values),
        )


class ConversationOut(Message, frozen=True, kw_only=True):
    """A conversation as it stands. ``conversation_id`` is what its runtime calls it."""

    id: str
    agent_id: str
    user_id: str
    environment: str
    runtime: Runtime
    channel: Channel
    delivery: Delivery
    branch_id: str | None
    state: Literal["prepared", "started", "ended", "expired"]
    verified: bool
    conversation_id: str | None
    minted_by: str
    created_at: Instant
    start_by: Instant
    started_at: Instant | None
    expires_at: Instant
    ended_at: Instant | None

    @classmethod
    def of(cls, one: Conversation) -> Self:
        over = one.expired and one.state != "ended"
        return cls(
            id=one.conversation_id,
            agent_id=one.agent_id,
            user_id=one.user_id,
            environment=one.environment,
            runtime=one.runtime,
            channel=one.channel,
            delivery=one.delivery,
            branch_id=one.branch_id or None,
            state="expired" if over else one.state,
            verified=one.armed,
            conversation_id=one.upstream_id,
            minted_by=one.key_id,
            created_at=one.created_at,
            start_by=one.start_by,
            started_at=one.started_at,
            expires_at=one.expires_at,
            ended_at=one.ended_at,
        )


class ReadinessIn(Message, frozen=True, kw_only=True):
    """``connect_links``: make a link for each user who lacks something."""

    agent_id: AgentId
    user_ids: Annotated[list[UserId], Meta(min_length=1, max_length=MAX_READY)]
    environment: Environment | None = None
    connect_links: bool = False


class ReadyUserOut(Message, frozen=True, kw_only=True):
    """``expiring``: ready, but before long the person has to connect again."""

    user_id: str
    status: Literal["ready", "expiring", "missing", "unknown"]
    ready: list[str]
    expiring: list[str]
    missing: list[MissingOut]

    @classmethod
    def of(cls, one: ReadyUser) -> Self:
        return cls(
            user_id=one.user_id,
            status=one.status,
            ready=list(one.ready),
            expiring=list(one.expiring),
            missing=[MissingOut.of(missing) for missing in one.missing],
        )


class ReadinessWarningOut(Message, frozen=True, kw_only=True):
    """``host`` and ``secret`` are null where the account at ElevenLabs is not in step."""

    environment: str
    host: str | None
    secret: str | None
    text: str

    @classmethod
    def of(cls, one: FallbackWarning | DriftWarning) -> Self:
        pair = (one.host, one.secret) if isinstance(one, FallbackWarning) else (None, None)
        return cls(environment=one.environment, host=pair[0], secret=pair[1], text=one.text)


class ReadinessOut(Message, frozen=True, kw_only=True):
    """In the order asked for. ``warnings``: hosts of this environment beside secrets of another,
    and environment variables of which ElevenLabs' account says otherwise.
    """

    agent_id: str
    environment: str
    data: list[ReadyUserOut]
    warnings: list[ReadinessWarningOut]
