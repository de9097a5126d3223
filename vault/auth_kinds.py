"""The kinds of auth connection: what each is made of, and what of it may be shown.

* Each kind is a tagged struct; a field in ``SECRET_FIELDS`` is never returned by anything.
* ``masked`` is what may leave: the same struct as plain data, without the secret fields.
* Pure words: how a kind authenticates a request is ``vault.authenticate``'s affair.
"""

from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta, Struct

Algorithm = Literal[
    "HS256", "HS384", "HS512",
    "RS256", "RS384", "RS512",
    "PS256", "PS384", "PS512",
    "ES256", "ES384", "ES512",
]  # fmt: skip
Text = Annotated[str, Meta(min_length=1, max_length=2_048)]
SecretText = Annotated[str, Meta(min_length=1, max_length=32_768)]
Params = Annotated[dict[Text, Annotated[str, Meta(max_length=4_096)]], Meta(max_length=50)]
Scopes = Annotated[list[Text], Meta(max_length=200)]
Seconds = Annotated[int, Meta(ge=60, le=86_400)]
HeaderName = Annotated[str, Meta(pattern=r"^[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}(?!\n)$")]

SECRET_FIELDS: Final = frozenset(
    {
        "client_secret",
        "secret_key",
        "password",
        "token",
        "client_certificate",
        "client_key",
        "ca_certificate",
        "key_passphrase",
    }
)


class _Kind(Struct, frozen=True, kw_only=True, tag_field="auth_type", forbid_unknown_fields=True):
    provider: Text

    def __repr__(self) -> str:
        return f"{type(self).__name__}(***)"


class ClientCredentials(_Kind, frozen=True, kw_only=True, tag="oauth2_client_credentials"):
    """A token from ``token_url`` for the client itself (RFC 6749 section 4.4)."""

    client_id: Text
    token_url: Text
    client_secret: SecretText
    scopes: Scopes = []
    extra_params: Params = {}
    basic_auth_in_header: bool = False
    custom_headers: Params = {}


class _Jwt(_Kind, frozen=True, kw_only=True):
    issuer: Text
    audience: Text
    subject: Text
    secret_key: SecretText
    algorithm: Algorithm = "HS256"
    key_id: Text | None = None
    expiration_seconds: Seconds = 3600
    extra_params: Params = {}
    extra_headers: Params = {}


class OAuth2Jwt(_Jwt, frozen=True, kw_only=True, tag="oauth2_jwt"):
    """A token from ``token_url`` for a signed assertion (RFC 7523)."""

    token_url: Text
    scopes: Scopes = []
    token_response_field: Literal["access_token", "id_token"] = "access_token"  # noqa: S105 - a name
    jwt_usage: Literal["authorization_grant", "client_authentication"] = "authorization_grant"


class PrivateKeyJwt(_Jwt, frozen=True, kw_only=True, tag="private_key_jwt"):
    """A signed assertion that is itself the bearer token."""


class Basic(_Kind, frozen=True, kw_only=True, tag="basic_auth"):
    username: Text
    password: SecretText


class Bearer(_Kind, frozen=True, kw_only=True, tag="bearer_auth"):
    token: SecretText


class CustomHeader(_Kind, frozen=True, kw_only=True, tag="custom_header_auth"):
    header_name: HeaderName
    token: SecretText


class MutualTls(_Kind, frozen=True, kw_only=True, tag="mtls"):
    """A client certificate; PEM."""

    client_certificate: SecretText
    client_key: SecretText
    ca_certificate: SecretText | None = None
    key_passphrase: SecretText | None = None


AuthConfig = (
    ClientCredentials | OAuth2Jwt | PrivateKeyJwt | Basic | Bearer | CustomHeader | MutualTls
)
# What may be changed later, as at ElevenLabs: neither the name nor the token URL.
CHANGEABLE: Final[dict[type[Struct], frozenset[str]]] = {
    ClientCredentials: frozenset(
        {
            "provider",
            "client_id",
            "scopes",
            "extra_params",
            "basic_auth_in_header",
            "client_secret",
            "custom_headers",
        }
    ),
    OAuth2Jwt: frozenset(
        {
            "provider",
            "algorithm",
            "key_id",
            "issuer",
            "audience",
            "subject",
            "expiration_seconds",
            "extra_params",
            "extra_headers",
            "scopes",
            "token_response_field",
            "jwt_usage",
            "secret_key",
        }
    ),
    Basic: frozenset({"provider", "username", "password"}),
    Bearer: frozenset({"provider", "token"}),
}
YIELDS_BEARER: Final = (ClientCredentials, OAuth2Jwt, PrivateKeyJwt, Bearer)


def auth_type_of(config: AuthConfig) -> str:
    """The kind's name on the wire."""
    return str(type(config).__struct_config__.tag)


def masked(config: AuthConfig) -> dict[str, Any]:
    """What may be shown of it."""
    shown: dict[str, Any] = msgspec.to_builtins(config)
    return {name: value for name, value in shown.items() if name not in SECRET_FIELDS}
