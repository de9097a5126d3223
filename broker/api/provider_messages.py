"""What goes over the wire about providers."""

from datetime import date
from typing import Literal, Self

from broker.api.messages import Message
from vault.providers import derived
from vault.providers.schema import Confidence, Mode, Provider, Variable

Standing = Literal["active", "legacy", "retired", "unsupported"]


class ProviderLine(Message, frozen=True, kw_only=True):
    """``mode`` is ``null`` where the provider is not supported."""

    id: str
    name: str
    mode: Mode | None
    status: Standing
    categories: list[str]

    @classmethod
    def of(cls, provider: Provider) -> Self:
        return cls(
            id=provider.id,
            name=provider.name,
            mode=provider.mode,
            status=provider.status,
            categories=provider.categories,
        )


class ProviderVariableOut(Message, frozen=True, kw_only=True):
    """A value that the integration, the person or the provider's callback fills in."""

    name: str
    label: str
    filled_by: Literal["integration", "person", "callback"]
    kind: Literal["text", "host", "url", "secret"]
    required: bool
    pattern: str | None
    default: str | None
    example: str | None

    @classmethod
    def of(cls, name: str, variable: Variable) -> Self:
        return cls(
            name=name,
            label=variable.label or name,
            filled_by=variable.filled_by,
            kind=variable.kind,
            required=not variable.optional and variable.default is None,
            pattern=variable.pattern,
            default=variable.default,
            example=variable.example,
        )


class EndpointsOut(Message, frozen=True, kw_only=True):
    """Addresses, with their placeholders; ``null`` where there is none or it is discovered."""

    authorize: str | None
    token: str | None
    revoke: str | None
    api: str | None

    @classmethod
    def of(cls, provider: Provider) -> Self:
        return cls(
            authorize=provider.authorize.url if provider.authorize else None,
            token=provider.token.url if provider.token else None,
            revoke=provider.revoke.url if provider.revoke else None,
            api=provider.api.base_url,
        )


class ScopesOut(Message, frozen=True, kw_only=True):
    """``offline`` has to be asked for to get a refresh token."""

    default: list[str]
    offline: list[str]
    suggested: list[str]


class RefreshOut(Message, frozen=True, kw_only=True):
    """What to expect: is there a refresh token, and when does a person have to come back?"""

    issued: Literal["always", "never", "conditional", "unknown"]
    when: str | None
    rotation: derived.Rotation
    idle_seconds: int | None
    end_seconds: int | None
    slides: bool | None

    @classmethod
    def of(cls, provider: Provider) -> Self:
        refresh = provider.refresh
        return cls(
            issued=refresh.issued,
            when=refresh.when,
            rotation=derived.rotation(provider),
            idle_seconds=refresh.idle_seconds,
            end_seconds=refresh.end_seconds,
            slides=refresh.slides,
        )


class ConfidenceOut(Message, frozen=True, kw_only=True):
    """Where each group of facts was found."""

    endpoints: str
    client: str
    refresh: str
    lifetime: str
    identity: str
    scopes: str
    quirks: str

    @classmethod
    def of(cls, confidence: Confidence) -> Self:
        return cls(
            endpoints=confidence.endpoints,
            client=confidence.client,
            refresh=confidence.refresh,
            lifetime=confidence.lifetime,
            identity=confidence.identity,
            scopes=confidence.scopes,
            quirks=confidence.quirks,
        )


class ProviderOut(Message, frozen=True, kw_only=True):
    """``source`` is ``operator`` where a file of this deployment says what the provider is."""

    id: str
    name: str
    mode: Mode | None
    status: Standing
    reason: str | None
    replaced_by: str | None
    categories: list[str]
    source: Literal["catalogue", "operator"]
    docs: str | None
    as_of: date
    confidence: ConfidenceOut
    variables: list[ProviderVariableOut]
    endpoints: EndpointsOut
    client_auth: str
    pkce: Literal["required", "allowed", "forbidden", "unknown"] | None
    own_callback: bool
    choice: bool
    scopes: ScopesOut
    access_token_seconds: int | None
    refresh: RefreshOut
    extras: list[str]
    notes: list[str]

    @classmethod
    def of(cls, provider: Provider, *, operators: bool) -> Self:
        return cls(
            id=provider.id,
            name=provider.name,
            mode=provider.mode,
            status=provider.status,
            reason=provider.reason,
            replaced_by=provider.replaced_by,
            categories=provider.categories,
            source="operator" if operators else "catalogue",
            docs=provider.docs,
            as_of=provider.as_of,
            confidence=ConfidenceOut.of(provider.confidence),
            variables=[
                ProviderVariableOut.of(name, one) for name, one in provider.variables.items()
            ],
            endpoints=EndpointsOut.of(provider),
            client_auth=provider.client.auth,
            pkce=provider.authorize.pkce if provider.authorize else None,
            own_callback=derived.needs_own_callback(provider),
            choice=derived.needs_choice(provider),
            scopes=ScopesOut(
                default=provider.scopes.default,
                offline=provider.scopes.offline,
                suggested=provider.scopes.suggested,
            ),
            access_token_seconds=provider.reply.lifetime_seconds,
            refresh=RefreshOut.of(provider),
            extras=derived.extras(provider),
            notes=provider.notes,
        )
