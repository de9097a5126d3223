"""What goes over the wire when a configuration is resolved or called."""

from typing import Annotated, Any, Self

import msgspec
from msgspec import Meta

from broker.api.messages import Message, WarningOut
from broker.conversation import environment_of
from broker.invoke import Answer, Question
from broker.profile import ToolName
from broker.resolve import Asked, Choice, HeaderLine, Kind, Outgoing
from broker.resolve.bodies import ABSENT
from broker.resolve.meanings import MASK
from broker.resolve.templates import VARIABLE_PATTERN
from vault.errors import Forbidden, Invalid
from vault.model import PRODUCTION, Caller, Environment
from vault.vault.calls import AuthFacts
from vault.vault.variables import ResolvedSecret

VariableName = Annotated[str, Meta(pattern=VARIABLE_PATTERN)]
# Ours (kcv_...), or what the runtime calls it.
ConversationId = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_]{1,200}(?!\n)$")]
Variables = Annotated[dict[VariableName, Any], Meta(max_length=500)]
Arguments = Annotated[dict[str, Any], Meta(max_length=500)]


class ConfigIn(Message, frozen=True, kw_only=True):
    """``config`` is what ElevenLabs would be sent: unknown fields in it are passed over.

    ``environment`` is `production` if not given, or the only one of the key; with
    ``conversation_id`` environment and variables are that conversation's.
    """

    environment: Environment | None = None
    conversation_id: ConversationId | None = None
    dynamic_variables: Variables = msgspec.field(default_factory=dict)

    def asked(self, caller: Caller, kind: Kind, config: dict[str, Any]) -> Question:
        if self.conversation_id is not None and self.environment is not None:
            raise Invalid(
                "Give environment or conversation_id: a conversation has its own.",
                pointer="/environment",
            )
        in_conversation = self.conversation_id is not None
        environment = PRODUCTION if in_conversation else environment_of(caller, self.environment)
        return Question(
            kind=kind,
            config=config,
            environment=environment,
            variables=self.dynamic_variables,
        )


class ResolveIn(ConfigIn, frozen=True, kw_only=True):
    kind: Kind
    config: dict[str, Any]
    explain: bool = False

    def question(self, caller: Caller) -> Question:
        return self.asked(caller, self.kind, self.config)


class InvokeIn(ConfigIn, frozen=True, kw_only=True):
    """With a key ``kind`` and ``config``; with what a conversation holds ``tool``, the name of one
    in its agent's profile, and no configuration, environment or variables.

    ``arguments`` are what the model would fill in; ``body`` is for kinds without a schema.
    """

    kind: Kind | None = None
    config: dict[str, Any] | None = None
    tool: ToolName | None = None
    arguments: Arguments = msgspec.field(default_factory=dict)
    body: Any = None

    def question(self, caller: Caller) -> Question:
        """What a key asks for."""
        if self.tool is not None:
            raise Invalid("Only a conversation calls a tool by its name.", pointer="/tool")
        if self.kind is None or self.config is None:
            missing = "kind" if self.kind is None else "config"
            raise Invalid(f"The field {missing} is missing.", pointer=f"/{missing}")
        return self.asked(caller, self.kind, self.config)

    def named(self) -> str:
        """What a conversation asks for; everything else is decided already."""
        given = (self.kind, self.config, self.environment, self.conversation_id)
        if given != (None,) * len(given) or self.dynamic_variables:
            raise Forbidden(
                "What a conversation holds calls a tool of its agent's profile, by its name: a"
                " configuration, an environment and variables are not for it to give."
            )
        if self.tool is None:
            raise Invalid("The field tool is missing.", pointer="/tool")
        return self.tool


class SecretUse(Message, frozen=True, kw_only=True):
    """A stored secret by id and name, or a ``secret__`` variable by its name."""

    secret_id: str | None
    name: str


class MaskedValue(Message, frozen=True, kw_only=True):
    """A value with ``***`` in place of each secret."""

    value: str
    secrets: list[SecretUse]


class AuthOut(Message, frozen=True, kw_only=True):
    """The auth connection that adds its credential when the request is sent."""

    auth_connection_id: str
    name: str
    auth_type: str
    value: str

    @classmethod
    def of(cls, facts: AuthFacts) -> Self:
        return cls(
            auth_connection_id=facts.auth_connection_id,
            name=facts.name,
            auth_type=facts.auth_type,
            value=MASK,
        )


class ArgumentOut(Message, frozen=True, kw_only=True):
    """What the model fills in; in the request it stands as ``{name}``."""

    name: str
    place: str = msgspec.field(name="in")
    type: str
    required: bool

    @classmethod
    def of(cls, asked: Asked) -> Self:
        return cls(name=asked.name, place=asked.place, type=asked.type, required=asked.required)


class RequestOut(Message, frozen=True, kw_only=True):
    """The request, masked."""

    method: str
    url: str | MaskedValue
    headers: dict[str, str | MaskedValue]
    content_type: str | None
    body: Any
    request_meta: dict[str, Any] | None
    auth_connection: AuthOut | None
    arguments: list[ArgumentOut]
    timeout_secs: int


class ChoiceOut(Message, frozen=True, kw_only=True):
    """Why a place holds what it holds; ``source`` is the environment that the value is from."""

    where: str
    label: str | None
    secret_id: str | None
    variable_name: str | None
    auth_connection_id: str | None
    type: str
    environment: str
    source: str | None
    reason: str
    value: str

    @classmethod
    def of(cls, choice: Choice) -> Self:
        return cls(
            where=choice.where,
            label=choice.label,
            secret_id=choice.secret_id,
            variable_name=choice.variable_name,
            auth_connection_id=choice.auth_connection_id,
            type=choice.type,
            environment=choice.environment,
            source=choice.source or None,
            reason=choice.reason,
            value=choice.value,
        )


class ResolvedOut(Message, frozen=True, kw_only=True):
    """``warnings``: a secret that falls back beside a host that does not, in this very request."""

    kind: Kind
    environment: str
    request: RequestOut
    warnings: list[WarningOut]
    explain: list[ChoiceOut] | None

    @classmethod
    def of(cls, outgoing: Outgoing, facts: AuthFacts | None, *, explain: bool) -> Self:
        return cls(
            kind=outgoing.plan.kind,
            environment=outgoing.environment,
            request=_request(outgoing, facts),
            warnings=[WarningOut.of(one) for one in outgoing.warnings],
            explain=[ChoiceOut.of(one) for one in outgoing.choices] if explain else None,
        )


class AnswerOut(Message, frozen=True, kw_only=True):
    """What the other side answered: ``body`` is JSON, text, or null where there was none."""

    status: int
    headers: dict[str, str]
    body: Any

    @classmethod
    def of(cls, answer: Answer) -> Self:
        return cls(status=answer.status, headers=answer.headers, body=answer.body)


def _request(outgoing: Outgoing, facts: AuthFacts | None) -> RequestOut:
    has_body = outgoing.body is not ABSENT
    secret = outgoing.url_secret
    url: str | MaskedValue = outgoing.url
    if secret is not None:
        url = MaskedValue(value=MASK, secrets=[_use(secret.secret, secret.variable)])
    return RequestOut(
        method=outgoing.plan.method,
        url=url,
        headers={line.name: _value(line) for line in outgoing.headers},
        content_type=outgoing.plan.content_type if has_body else None,
        body=outgoing.body if has_body else None,
        request_meta=None if outgoing.meta is ABSENT else outgoing.meta,
        auth_connection=AuthOut.of(facts) if facts else None,
        arguments=[ArgumentOut.of(one) for one in outgoing.plan.asked],
        timeout_secs=outgoing.plan.timeout,
    )


def _value(line: HeaderLine) -> str | MaskedValue:
    if not line.secrets:
        return line.shown
    return MaskedValue(
        value=line.shown, secrets=[_use(one.secret, one.variable) for one in line.secrets]
    )


def _use(secret: ResolvedSecret | None, variable: str | None) -> SecretUse:
    if secret is not None:
        return SecretUse(secret_id=secret.secret_id, name=secret.name)
    return SecretUse(secret_id=None, name=variable or "")
