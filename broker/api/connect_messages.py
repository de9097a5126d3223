"""What goes over the wire for integrations, connections and connect sessions."""

from typing import Annotated, Final, Literal, Self

from msgspec import Meta, field
from msgspec.structs import asdict

from broker.api.messages import Instant, Message, in_utc
from broker.conversation import environment_of
from vault.consent import (
    Connection,
    Flow,
    Import,
    Integration,
    IntegrationName,
    NewSession,
    Registration,
    Revoked,
    Session,
    State,
    ValueReference,
)
from vault.errors import Invalid
from vault.lifecycle.schedule import Policy
from vault.model import USER_ID_PATTERN, Caller, Environment
from vault.oauth.app import ClientAuth
from vault.secret import Secret
from vault.vault import Vault

MAX_TOKEN = 32_768
_PROGRESS: Final[dict[str, Literal["started", "waiting", "connected", "failed"]]] = {
    "started": "started",
    "exchanging": "started",
    "choice": "waiting",
    "confirm": "waiting",
    "done": "connected",
    "failed": "failed",
}

Scopes = Annotated[
    list[Annotated[str, Meta(min_length=1, max_length=500, pattern=r"^[\x21-\x7e]+(?!\n)$")]],
    Meta(max_length=200),
]
Credential = Annotated[str, Meta(min_length=1, max_length=MAX_TOKEN)]
# What a provider's reply has to be, too: it fills a header.
TokenText = Annotated[
    str, Meta(min_length=1, max_length=MAX_TOKEN, pattern=r"^[\x20-\x7e]+(?!\n)$")
]
Text = Annotated[str, Meta(max_length=2_000)]
VariableName = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_]{0,47}(?!\n)$")]
ClientSecret = Credential | ValueReference


class IntegrationIn(Message, frozen=True, kw_only=True):
    """``client_secret``: a text, a reference, or several of them to be tried in order."""

    provider: Annotated[str, Meta(min_length=1, max_length=100)]
    client_id: Text = ""
    client_secret: ClientSecret | list[ClientSecret] | None = None
    scopes: Scopes | None = None
    variables: Annotated[dict[VariableName, Text | ValueReference], Meta(max_length=50)] = field(
        default_factory=dict
    )
    client_auth: ClientAuth | None = None
    authorize_params: Annotated[dict[str, Text], Meta(max_length=20)] = field(default_factory=dict)
    redirect_uri: Text | None = None
    share_connections: bool = False
    refresh_policy: Policy = "active"

    def registration(self) -> Registration:
        given = self.client_secret
        secrets = [] if given is None else given if isinstance(given, list) else [given]
        return Registration(
            provider=self.provider,
            client_id=self.client_id,
            client_secrets=secrets,
            scopes=self.scopes,
            variables=self.variables,
            client_auth=self.client_auth,
            authorize_params=self.authorize_params,
            redirect_uri=self.redirect_uri,
            share_connections=self.share_connections,
            refresh_policy=self.refresh_policy,
        )


class IntegrationOut(Message, frozen=True, kw_only=True):
    """``client_secret`` says what kind of thing is stored, never the thing.

    ``redirect_uri`` is what has to be registered at the provider.
    """

    id: str
    provider: str
    client_id: str
    client_secret: list[ValueReference | None]
    scopes: list[str] | None
    variables: dict[str, str | ValueReference | None]
    client_auth: ClientAuth | None
    authorize_params: dict[str, str]
    redirect_uri: str
    share_connections: bool
    refresh_policy: Policy
    created_at: Instant
    updated_at: Instant

    @classmethod
    def shown(cls, vault: Vault, found: Integration) -> Self:
        """What may be seen of it."""
        told, provider = found.registration, vault.provider_of(found)
        secret = {name for name, one in provider.variables.items() if one.kind == "secret"}
        return cls(
            id=found.integration,
            provider=told.provider,
            client_id=told.client_id,
            client_secret=[
                one if isinstance(one, ValueReference) else None for one in told.client_secrets
            ],
            scopes=told.scopes,
            variables={
                name: None if name in secret and isinstance(value, str) else value
                for name, value in told.variables.items()
            },
            client_auth=told.client_auth,
            authorize_params=told.authorize_params,
            redirect_uri=told.redirect_uri or vault.callback_url(provider, found.integration),
            share_connections=told.share_connections,
            refresh_policy=told.refresh_policy,
            created_at=found.created_at,
            updated_at=found.updated_at,
        )


class CheckIn(Message, frozen=True, kw_only=True):
    environment: Environment | None = None


class FindingOut(Message, frozen=True, kw_only=True):
    what: Literal["values", "discovery", "token_endpoint", "client", "scopes"]
    ok: bool
    detail: str


class CheckOut(Message, frozen=True, kw_only=True):
    ok: bool
    findings: list[FindingOut]


class ConnectionOut(Message, frozen=True, kw_only=True):
    """``expires_at`` null: the access token does not expire. ``scopes`` null: the provider does not
    say, so those that were asked for.
    """

    id: str
    user_id: str
    integration: str
    provider: str
    environment: str
    state: State
    needs: Literal["confirm", "choice"] | None
    refresh: Literal["keyturn", "caller"]
    generation: int
    scopes: list[str] | None
    missing_scopes: list[str]
    expires_at: Instant | None
    refresh_expires_at: Instant | None
    consented_at: Instant | None
    created_at: Instant
    updated_at: Instant

    @classmethod
    def of(cls, found: Connection) -> Self:
        return cls(
            id=found.connection_id,
            user_id=found.user_id,
            integration=found.integration,
            provider=found.provider,
            environment=found.environment,
            state=found.state,
            needs=found.needs,
            refresh=found.refresh_by,
            generation=found.generation,
            scopes=found.scopes,
            missing_scopes=found.missing_scopes,
            expires_at=found.expires_at,
            refresh_expires_at=found.refresh_expires_at,
            consented_at=found.consented_at,
            created_at=found.created_at,
            updated_at=found.updated_at,
        )


class AccountOut(Message, frozen=True, kw_only=True):
    """``id`` never changes; the others are for people."""

    id: str
    email: str | None
    label: str | None


class ConnectionDetailOut(ConnectionOut, frozen=True, kw_only=True):
    """``extras``: what the provider said of the account that is no secret, such as its host."""

    account: AccountOut | None
    extras: dict[str, str]

    @classmethod
    async def opened(cls, vault: Vault, caller: Caller, found: Connection) -> Self:
        """With what is sealed and may be seen."""
        account, extras = await vault.held_of(caller, found)
        who = (
            AccountOut(id=account.id, email=account.email, label=account.label) if account else None
        )
        return cls(**asdict(ConnectionOut.of(found)), account=who, extras=dict(extras))


class ImportIn(Message, frozen=True, kw_only=True):
    """What the platform already holds: tokens, or what a person would type."""

    access_token: TokenText | None = None
    refresh_token: TokenText | None = None
    expires_in: Annotated[int, Meta(ge=1, le=400 * 86_400)] | None = None
    expires_at: Instant | None = None
    scopes: Scopes | None = None
    environment: Environment | None = None
    refresh: Literal["keyturn", "caller"] = "keyturn"
    verify: bool = False
    api_key: Credential | None = None
    username: Annotated[str, Meta(min_length=1, max_length=500)] | None = None
    password: Credential | None = None
    values: Annotated[dict[VariableName, Credential], Meta(max_length=20)] = field(
        default_factory=dict
    )

    def wanted(self, caller: Caller) -> Import:
        if self.expires_in is not None and self.expires_at is not None:
            raise Invalid("Give expires_in or expires_at, not both.", pointer="/expires_at")
        typed = {"api_key": self.api_key, "username": self.username, "password": self.password}
        if self.access_token is not None and any(one is not None for one in typed.values()):
            raise Invalid("Give tokens, or what a person types, not both.", pointer="/access_token")
        values = {**self.values, **{name: one for name, one in typed.items() if one is not None}}
        return Import(
            environment=environment_of(caller, self.environment),
            access_token=_secret(self.access_token),
            refresh_token=_secret(self.refresh_token),
            values={name: Secret(value) for name, value in values.items()},
            expires_in=self.expires_in,
            expires_at=in_utc(self.expires_at, "/expires_at"),
            scopes=self.scopes,
            refresh_by=self.refresh,
            verify=self.verify,
        )


class ImportLine(ImportIn, frozen=True, kw_only=True):
    """A line of a bulk import."""

    user_id: Annotated[str, Meta(pattern=USER_ID_PATTERN)]
    integration: IntegrationName


class ImportResult(Message, frozen=True, kw_only=True):
    """What became of one line."""

    line: int
    ok: bool
    id: str | None = None
    code: str | None = None
    detail: str | None = None


class DeletedOut(Message, frozen=True, kw_only=True):
    """``revoked``: what became of the tokens at the provider."""

    id: str
    revoked: Revoked


class UserDeletedOut(Message, frozen=True, kw_only=True):
    connections: list[DeletedOut]


class ConnectSessionIn(Message, frozen=True, kw_only=True):
    user_id: Annotated[str, Meta(pattern=USER_ID_PATTERN)]
    integrations: Annotated[list[IntegrationName], Meta(max_length=20)] = field(
        default_factory=list
    )
    environment: Environment | None = None
    return_url: Text | None = None
    confirm: Literal["page", "backend"] | None = None
    replace_account: bool = False

    def wanted(self, caller: Caller) -> NewSession:
        return NewSession(
            user_id=self.user_id,
            environment=environment_of(caller, self.environment),
            integrations=tuple(self.integrations),
            return_url=self.return_url,
            confirm=self.confirm,
            replace_account=self.replace_account,
        )


class ConnectSessionOut(Message, frozen=True, kw_only=True):
    """``url`` is shown this once; a repeated answer holds ``null``."""

    id: str
    url: str | None
    expires_at: Instant
    confirm: Literal["page", "backend"]

    @classmethod
    def of(cls, session: Session, link: Secret | None, origin: str) -> Self:
        return cls(
            id=session.session_id,
            url=f"{origin}/connect/{link.reveal()}" if link else None,
            expires_at=session.expires_at,
            confirm=session.confirm,
        )


class ProgressOut(Message, frozen=True, kw_only=True):
    """How far one integration of an invitation is; ``outcome``: how the last try ended."""

    integration: str
    status: Literal["open", "started", "waiting", "connected", "failed"]
    outcome: str | None


class ConnectSessionDetailOut(Message, frozen=True, kw_only=True):
    """The link itself was shown once."""

    id: str
    user_id: str
    environment: str
    integrations: list[ProgressOut]
    return_url: str | None
    confirm: Literal["page", "backend"]
    replace_account: bool
    expired: bool
    created_at: Instant
    expires_at: Instant

    @classmethod
    def of(cls, session: Session, flows: list[Flow]) -> Self:
        latest = {flow.integration: flow for flow in flows}
        return cls(
            id=session.session_id,
            user_id=session.user_id,
            environment=session.environment,
            integrations=[_progress(one, latest.get(one)) for one in session.integrations],
            return_url=session.return_url,
            confirm=session.confirm,
            replace_account=session.replace_account,
            expired=session.expired,
            created_at=session.created_at,
            expires_at=session.expires_at,
        )


class CompleteIn(Message, frozen=True, kw_only=True):
    code: Annotated[str, Meta(min_length=1, max_length=200)]
    user_id: Annotated[str, Meta(pattern=USER_ID_PATTERN)]


def _progress(integration: str, flow: Flow | None) -> ProgressOut:
    if flow is None:
        return ProgressOut(integration=integration, status="open", outcome=None)
    return ProgressOut(
        integration=integration, status=_PROGRESS[flow.status], outcome=flow.outcome or None
    )


def _secret(value: str | None) -> Secret | None:
    return None if value is None else Secret(value)
