"""What goes over the wire for agents, their tools, and upstreams."""

from typing import Annotated, Any, Literal, Self

from msgspec import Meta, field

from broker.agents import Agent
from broker.api.messages import Instant, Message
from broker.profile import (
    MAX_INTEGRATIONS,
    MAX_OVERRIDES,
    MAX_STORED,
    MAX_VARIABLES,
    Delivery,
    Needed,
    Override,
    Profile,
    PublicKey,
    Runtime,
    StoredTool,
    ToolName,
    Tools,
    Trust,
    Variable,
    VariableName,
)
from broker.runtimes.livekit import Project
from broker.tools.lint import Rule
from broker.tools.pushing import Pushed, Toolbox
from broker.upstreams import KnownUpstream, Upstream
from broker.upstreams.livekit import KnownProject
from vault.secret import Secret

SecretText = Annotated[str, Meta(min_length=1, max_length=500, pattern=r"^[\x21-\x7e]+(?!\n)$")]


class AgentIn(Message, frozen=True, kw_only=True):
    """A profile: what the agent needs, and where each of its variables comes from."""

    runtime: Runtime | None = None
    delivery: Delivery | None = None
    min_ttl: Annotated[int, Meta(ge=0, le=86_400)] | None = None
    public_key: PublicKey | None = None
    tools: Tools = "direct"
    inbound_trust: Trust = "identify"
    integrations: Annotated[list[Needed], Meta(max_length=MAX_INTEGRATIONS)] | None = None
    variables: Annotated[dict[VariableName, Variable], Meta(max_length=MAX_VARIABLES)] = field(
        default_factory=dict
    )
    overrides: Annotated[list[Override], Meta(max_length=MAX_OVERRIDES)] = field(
        default_factory=list
    )
    stored_tools: Annotated[dict[ToolName, StoredTool], Meta(max_length=MAX_STORED)] = field(
        default_factory=dict
    )

    def profile(self) -> Profile:
        return Profile(**{name: getattr(self, name) for name in Profile.__struct_fields__})


class AgentOut(Message, frozen=True, kw_only=True):
    """An agent's profile, with what was left out filled in."""

    id: str
    runtime: Runtime | None
    delivery: Delivery | None
    min_ttl: int | None
    public_key: PublicKey | None
    tools: Tools
    inbound_trust: Trust
    integrations: list[Needed] | None
    variables: dict[str, Variable]
    overrides: list[str]
    stored_tools: dict[str, StoredTool]
    created_at: Instant
    updated_at: Instant
    created_by: str

    @classmethod
    def of(cls, agent: Agent) -> Self:
        written = {name: getattr(agent.profile, name) for name in Profile.__struct_fields__}
        return cls(
            id=agent.agent_id,
            created_at=agent.created_at,
            updated_at=agent.updated_at,
            created_by=agent.created_by,
            **written,
        )


class ToolOut(Message, frozen=True, kw_only=True):
    """``config``: what ElevenLabs takes as `tool_config`. ``tool_id``: once it was pushed."""

    name: str
    tool_id: str | None
    config: dict[str, Any]


class FaultOut(Message, frozen=True, kw_only=True):
    """What is wrong with a tool, and where in its ``config``."""

    tool: str
    rule: Rule
    pointer: str
    detail: str


class ToolsOut(Message, frozen=True, kw_only=True):
    """Without ``runtime_secret_id`` the account has no runtime key yet; a push puts it there."""

    tools: list[ToolOut]
    runtime_secret_id: str | None
    findings: list[FaultOut]

    @classmethod
    def of(cls, box: Toolbox) -> Self:
        return cls(
            tools=[ToolOut(name=t.name, tool_id=t.tool_id, config=t.config) for t in box.tools],
            runtime_secret_id=box.runtime_secret_id,
            findings=[
                FaultOut(tool=name, rule=one.rule, pointer=one.pointer, detail=one.detail)
                for name, one in box.findings
            ],
        )


class PushedTool(Message, frozen=True, kw_only=True):
    name: str
    tool_id: str
    action: Literal["created", "updated"]


class PushedOut(Message, frozen=True, kw_only=True):
    """What was made and changed in the account; add the ids to the agent's ``tool_ids`` there."""

    tools: list[PushedTool]
    runtime_secret_id: str

    @classmethod
    def of(cls, secret_id: str, pushed: list[Pushed]) -> Self:
        return cls(
            tools=[PushedTool(name=t.name, tool_id=t.tool_id, action=t.action) for t in pushed],
            runtime_secret_id=secret_id,
        )


class UpstreamIn(Message, frozen=True, kw_only=True):
    """``webhook_secrets``: what the account's webhooks are signed with."""

    base_url: Annotated[str, Meta(min_length=1, max_length=500)]
    api_key: SecretText
    webhook_secrets: Annotated[list[SecretText], Meta(max_length=5)] = field(default_factory=list)

    def upstream(self) -> Upstream:
        return Upstream(
            base_url=self.base_url,
            api_key=Secret(self.api_key),
            webhook_secrets=tuple(Secret(one) for one in self.webhook_secrets),
        )

    def __repr__(self) -> str:
        return "UpstreamIn(***)"


class UpstreamOut(Message, frozen=True, kw_only=True):
    """The API key and the webhook secrets are not shown; of the latter it says how many.

    ``runtime_secret_id``: where in the account's secret store the runtime key lies, once it does.
    """

    base_url: str
    webhook_secrets: int
    runtime_key_id: str | None
    runtime_secret_id: str | None
    created_at: Instant
    updated_at: Instant
    created_by: str

    @classmethod
    def of(cls, known: KnownUpstream) -> Self:
        return cls(**{name: getattr(known, name) for name in cls.__struct_fields__})


class ProjectIn(Message, frozen=True, kw_only=True):
    """A LiveKit project: where clients join, and the key pair that signs for it."""

    url: Annotated[str, Meta(min_length=1, max_length=500)]
    api_key: SecretText
    api_secret: SecretText

    def project(self) -> Project:
        return Project(url=self.url, api_key=self.api_key, api_secret=Secret(self.api_secret))

    def __repr__(self) -> str:
        return "ProjectIn(***)"


class ProjectOut(Message, frozen=True, kw_only=True):
    """The API secret is not shown. The API key stands in every token, for everybody to read."""

    url: str
    api_key: str
    created_at: Instant
    updated_at: Instant
    created_by: str

    @classmethod
    def of(cls, known: KnownProject) -> Self:
        return cls(**{name: getattr(known, name) for name in cls.__struct_fields__})
