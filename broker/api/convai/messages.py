"""Bodies of the compatible routes, field by field as ElevenLabs' own document has them."""

from typing import Annotated, Any, ClassVar, Literal, Self

import msgspec
from msgspec import Meta, Struct

from vault.auth_kinds import (
    Algorithm,
    Basic,
    Bearer,
    ClientCredentials,
    CustomHeader,
    MutualTls,
    OAuth2Jwt,
    PrivateKeyJwt,
    Scopes,
    Seconds,
    SecretText,
    Text,
    masked,
)
from vault.errors import Invalid
from vault.model import (
    ENVIRONMENT_PATTERN,
    LABEL_PATTERN,
    MAX_ENVIRONMENTS,
    MAX_SECRET_VALUE,
    MAX_STRING_VALUE,
    PRODUCTION,
    AuthConnection,
    AuthRef,
    AuthStatus,
    EnvironmentInfo,
    Name,
    SecretInfo,
    SecretRef,
    Usage,
    Value,
    Variable,
    VariableType,
)

Label = Annotated[str, Meta(pattern=LABEL_PATTERN)]
EnvironmentName = Annotated[str, Meta(pattern=ENVIRONMENT_PATTERN)]
StringValue = Annotated[str, Meta(min_length=1, max_length=MAX_STRING_VALUE)]
SecretValue = Annotated[str, Meta(min_length=1, max_length=MAX_SECRET_VALUE)]
ManyEnvironments = Meta(max_length=MAX_ENVIRONMENTS)
Hosts = Annotated[
    list[Annotated[str, Meta(pattern=r"^[A-Za-z0-9.-]{1,253}(:[0-9]{1,5})?(?!\n)$")]],
    Meta(max_length=50),
]


class Body(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is received."""


class Answer(Struct, frozen=True, kw_only=True):
    """What is sent."""


# Environment variables


class Reference(Body, frozen=True, kw_only=True):
    """One of the two."""

    secret_id: Text | None = None
    auth_connection_id: Text | None = None

    def __post_init__(self) -> None:
        if (self.secret_id is None) == (self.auth_connection_id is None):
            raise ValueError("give secret_id or auth_connection_id")


# One of any kind is read: that it is of the variable's, and not null, is a rule of its own at
# ElevenLabs, 400 and not 422.
AnyValue = StringValue | Reference | None


def _only(kind: str, *required: str) -> Meta:
    """Of which kind a value has to be, for who reads the document; nothing is read by it."""
    more = {"required": list(required)} if required else {}
    return Meta(extra_json_schema={"type": kind, **more})


class _CreateVariable(Body, frozen=True, kw_only=True, tag_field="type"):
    kind: ClassVar[VariableType]
    label: Label
    values: dict[EnvironmentName, AnyValue]

    def given(self) -> dict[str, Value]:
        found = {name: value_of(value) for name, value in self.values.items()}
        if None in found.values():
            raise Invalid("There is no value yet that null could remove.", pointer="/values")
        return {name: value for name, value in found.items() if value is not None}


class CreateString(_CreateVariable, frozen=True, kw_only=True, tag="string"):
    kind = "string"
    values: Annotated[dict[EnvironmentName, Annotated[AnyValue, _only("string")]], ManyEnvironments]


class CreateSecret(_CreateVariable, frozen=True, kw_only=True, tag="secret"):
    kind = "secret"
    values: Annotated[
        dict[EnvironmentName, Annotated[AnyValue, _only("object", "secret_id")]], ManyEnvironments
    ]


class CreateAuth(_CreateVariable, frozen=True, kw_only=True, tag="auth_connection"):
    kind = "auth_connection"
    values: Annotated[
        dict[EnvironmentName, Annotated[AnyValue, _only("object", "auth_connection_id")]],
        ManyEnvironments,
    ]


CreateVariable = CreateString | CreateSecret | CreateAuth


class UpdateVariable(Body, frozen=True, kw_only=True):
    values: Annotated[dict[EnvironmentName, AnyValue], ManyEnvironments]

    def changes(self) -> dict[str, Value | None]:
        return {name: value_of(value) for name, value in self.values.items()}


def value_of(value: str | Reference | None) -> Value | None:
    """From the wire to the model."""
    if isinstance(value, Reference):
        if value.secret_id is not None:
            return SecretRef(value.secret_id)
        return AuthRef(value.auth_connection_id or "")
    return value


class VariableOut(Answer, frozen=True, kw_only=True):
    id: str
    label: str
    type: VariableType
    values: dict[str, str | dict[str, str]]
    workspace_id: str
    created_at_unix_secs: int
    updated_at_unix_secs: int
    created_by_user_id: str | None

    @classmethod
    def of(cls, workspace_id: str, variable: Variable) -> Self:
        info = variable.info
        return cls(
            id=info.variable_id,
            label=info.label,
            type=info.type,
            values=msgspec.to_builtins(variable.values),
            workspace_id=workspace_id,
            created_at_unix_secs=int(info.created_at.timestamp()),
            updated_at_unix_secs=int(info.updated_at.timestamp()),
            created_by_user_id=info.created_by,
        )


class VariablesOut(Answer, frozen=True, kw_only=True):
    environment_variables: list[VariableOut]
    next_cursor: str | None
    has_more: bool


# Environments


class CreateEnvironment(Body, frozen=True, kw_only=True):
    name: EnvironmentName


class EnvironmentOut(Answer, frozen=True, kw_only=True):
    name: str
    updated_at_unix_secs: int | None
    created_by_user_id: str | None

    @classmethod
    def of(cls, info: EnvironmentInfo) -> Self:
        return cls(
            name=info.name,
            updated_at_unix_secs=int(info.updated_at.timestamp()),
            created_by_user_id=info.created_by,
        )


PRODUCTION_OUT = EnvironmentOut(name=PRODUCTION, updated_at_unix_secs=None, created_by_user_id=None)


class EnvironmentsOut(Answer, frozen=True, kw_only=True):
    environments: list[EnvironmentOut]


# Secrets


class NewSecret(Body, frozen=True, kw_only=True):
    """``allowed_hosts`` is ours: the hosts that the value may be sent to."""

    type: Literal["new"]
    name: Name
    value: SecretValue
    allowed_hosts: Hosts = msgspec.field(default_factory=list)

    def __repr__(self) -> str:
        return "NewSecret(***)"


class UpdateSecret(Body, frozen=True, kw_only=True):
    type: Literal["update"]
    name: Name
    value: SecretValue
    allowed_hosts: Hosts | None = None

    def __repr__(self) -> str:
        return "UpdateSecret(***)"


class StoredSecret(Answer, frozen=True, kw_only=True):
    type: str = "stored"
    secret_id: str
    name: str

    @classmethod
    def of(cls, info: SecretInfo) -> Self:
        return cls(secret_id=info.secret_id, name=info.name)


class VariableUse(Answer, frozen=True, kw_only=True):
    """A variable that refers to it, and in which environments: ours, beside ElevenLabs' uses."""

    id: str
    label: str
    environments: list[str]

    @classmethod
    def of(cls, usage: Usage) -> Self:
        return cls(id=usage.variable_id, label=usage.label, environments=usage.environments)


class SecretUses(Answer, frozen=True, kw_only=True):
    """Tools, agents and numbers are kept upstream; what is kept here are the variables."""

    tools: list[dict[str, Any]] = []
    tools_has_more: bool = False
    agents: list[dict[str, Any]] = []
    agents_has_more: bool = False
    phone_numbers: list[dict[str, Any]] = []
    phone_numbers_has_more: bool = False
    mcp_servers: list[dict[str, Any]] = []
    others: list[str] = []
    environment_variables: list[VariableUse] = []


class SecretOut(Answer, frozen=True, kw_only=True):
    type: str = "stored"
    secret_id: str
    name: str
    used_by: SecretUses
    allowed_hosts: list[str]

    @classmethod
    def of(cls, info: SecretInfo, usages: list[Usage]) -> Self:
        return cls(
            secret_id=info.secret_id,
            name=info.name,
            used_by=SecretUses(environment_variables=[VariableUse.of(one) for one in usages]),
            allowed_hosts=info.allowed_hosts,
        )


class SecretsOut(Answer, frozen=True, kw_only=True):
    secrets: list[SecretOut]
    next_cursor: str | None


class DependenciesOut(Answer, frozen=True, kw_only=True):
    dependencies: list[dict[str, Any]]
    next_cursor: str | None


# Auth connections


class CreateClientCredentials(
    ClientCredentials, frozen=True, kw_only=True, tag="oauth2_client_credentials"
):
    name: Name
    allowed_hosts: Hosts = msgspec.field(default_factory=list)


class CreateOAuth2Jwt(OAuth2Jwt, frozen=True, kw_only=True, tag="oauth2_jwt"):
    name: Name
    allowed_hosts: Hosts = msgspec.field(default_factory=list)


class CreatePrivateKeyJwt(PrivateKeyJwt, frozen=True, kw_only=True, tag="private_key_jwt"):
    name: Name
    allowed_hosts: Hosts = msgspec.field(default_factory=list)


class CreateBasic(Basic, frozen=True, kw_only=True, tag="basic_auth"):
    name: Name
    allowed_hosts: Hosts = msgspec.field(default_factory=list)


class CreateBearer(Bearer, frozen=True, kw_only=True, tag="bearer_auth"):
    name: Name
    allowed_hosts: Hosts = msgspec.field(default_factory=list)


class CreateCustomHeader(CustomHeader, frozen=True, kw_only=True, tag="custom_header_auth"):
    name: Name
    allowed_hosts: Hosts = msgspec.field(default_factory=list)


class CreateMutualTls(MutualTls, frozen=True, kw_only=True, tag="mtls"):
    name: Name
    allowed_hosts: Hosts = msgspec.field(default_factory=list)


CreateAuthConnection = (
    CreateClientCredentials
    | CreateOAuth2Jwt
    | CreatePrivateKeyJwt
    | CreateBasic
    | CreateBearer
    | CreateCustomHeader
    | CreateMutualTls
)


ChangedParams = Annotated[
    dict[Text, Annotated[str, Meta(max_length=4_096)] | None], Meta(max_length=50)
]


class UpdateAuthConnection(Body, frozen=True, kw_only=True):
    """All changeable fields of all kinds; ``None`` leaves a field as it is.

    Of parameters and headers, those that are not named stay, and ``None`` removes one.
    """

    auth_type: Text | None = None
    provider: Text | None = None
    client_id: Text | None = None
    client_secret: SecretText | None = None
    scopes: Scopes | None = None
    extra_params: ChangedParams | None = None
    extra_headers: ChangedParams | None = None
    custom_headers: ChangedParams | None = None
    basic_auth_in_header: bool | None = None
    algorithm: Algorithm | None = None
    key_id: Text | None = None
    issuer: Text | None = None
    audience: Text | None = None
    subject: Text | None = None
    expiration_seconds: Seconds | None = None
    token_response_field: Text | None = None
    jwt_usage: Text | None = None
    secret_key: SecretText | None = None
    username: Text | None = None
    password: SecretText | None = None
    token: SecretText | None = None
    allowed_hosts: Hosts | None = None

    def changes(self) -> dict[str, object]:
        """The fields that are to change."""
        fixed = ("auth_type", "allowed_hosts")
        return {
            name: value
            for name, value in msgspec.structs.asdict(self).items()
            if value is not None and name not in fixed
        }

    def __repr__(self) -> str:
        return "UpdateAuthConnection(***)"


class AuthUses(Answer, frozen=True, kw_only=True):
    tools: list[dict[str, Any]] = []
    mcp_servers: list[dict[str, Any]] = []
    integration_connections: list[dict[str, Any]] = []
    environment_variables: list[VariableUse] = []


class AuthConnectionOut(Answer, frozen=True, kw_only=True, omit_defaults=True):
    """One object for all kinds; a kind has its own fields among the optional ones."""

    id: str
    name: str
    auth_type: str
    provider: str
    used_by: AuthUses
    status: AuthStatus
    status_detail: str | None
    status_updated_at: str | None
    allowed_hosts: list[str]
    client_id: str | None = None
    token_url: str | None = None
    scopes: list[str] | None = None
    extra_params: dict[str, str] | None = None
    extra_headers: dict[str, str] | None = None
    custom_headers: dict[str, str] | None = None
    basic_auth_in_header: bool | None = None
    algorithm: str | None = None
    key_id: str | None = None
    issuer: str | None = None
    audience: str | None = None
    subject: str | None = None
    expiration_seconds: int | None = None
    token_response_field: str | None = None
    jwt_usage: str | None = None
    username: str | None = None
    header_name: str | None = None

    @classmethod
    def of(cls, connection: AuthConnection) -> Self:
        uses = [VariableUse.of(usage) for usage in connection.used_by]
        return cls(
            id=connection.auth_connection_id,
            name=connection.name,
            used_by=AuthUses(environment_variables=uses),
            status=connection.status,
            status_detail=connection.status_detail,
            status_updated_at=connection.status_updated_at.isoformat(),
            allowed_hosts=connection.allowed_hosts,
            **masked(connection.config),
        )


class AuthConnectionsOut(Answer, frozen=True, kw_only=True):
    auth_connections: list[AuthConnectionOut]
