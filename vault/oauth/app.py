"""What a flow knows of an app, and what a provider gave. Nothing here does I/O.

* ``App`` is a workspace's registration at a provider with everything resolved for one environment
  and one person: no template of a workspace is left in it.
* ``TokenSet`` is what gets sealed. Its extras are plain and handed out; a credential is never one.
* No repr shows a value.
"""

from collections.abc import Mapping
from datetime import datetime
from functools import cached_property
from typing import Literal

from msgspec import Struct

from vault.egress import Request
from vault.providers import derived
from vault.providers.schema import Provider
from vault.secret import Secret

ClientAuth = Literal[
    "basic",
    "basic_raw",
    "post",
    "none",
    "private_key_jwt",
    "client_secret_jwt",
    "secret_as_user",
    "signed_secret",
]


class Endpoints(Struct, frozen=True, kw_only=True):
    """What discovery found; it says what the provider's file leaves open."""

    issuer: str
    authorize_url: str | None = None
    token_url: str | None = None
    revoke_url: str | None = None
    userinfo_url: str | None = None
    introspect_url: str | None = None
    jwks_url: str | None = None
    device_url: str | None = None
    registration_url: str | None = None
    push_url: str | None = None  # RFC 9126
    resource: str | None = None  # RFC 8707: sent with all three requests
    client_auth: tuple[str, ...] = ()  # as the server calls them
    pkce: tuple[str, ...] = ()
    algorithms: tuple[str, ...] = ()  # of ID tokens
    pushed_only: bool = False  # RFC 9126: then no request of a browser's own is taken
    iss_in_callback: bool = False  # RFC 9207: then a callback without ``iss`` is refused


class Mould(Struct, frozen=True):
    """A request whose form has a gap, and what stands around it, encoded."""

    request: Request
    before: Secret
    after: Secret

    def __repr__(self) -> str:
        return "Mould(***)"


class App(Struct, frozen=True, kw_only=True, dict=True):
    """An app registration, ready to be used.

    ``client_secrets``: the one to try first comes first; the next is tried where one is refused as
    ``invalid_client``. ``values``: the file's variables, by name; ``secret`` ones are ``Secret``.
    """

    provider: Provider
    client_id: str = ""
    client_secrets: tuple[Secret, ...] = ()
    client_auth: ClientAuth | None = None  # None: what the provider's file says
    values: Mapping[str, str | Secret] = {}
    scopes: tuple[str, ...] = ()
    authorize_params: Mapping[str, str] = {}
    redirect_uri: str = ""
    endpoints: Endpoints | None = None

    @cached_property
    def filled_urls(self) -> dict[str, str | None]:
        """URLs that the app alone fills, by their templates: the same for all its connections."""
        return {}

    @cached_property
    def refresh_moulds(self) -> list[tuple[Secret | None, Mould | None]]:
        """For a secret of the client, the refresh request of all connections of which only the
        refresh token differs; ``None``: more differs.
        """
        return []

    @cached_property
    def flat_answer(self) -> derived.FlatAnswer | None:
        """How the provider answers a refresh, if that can be read directly."""
        return derived.flat_answer(self.provider)

    def __repr__(self) -> str:
        return f"App({self.provider.id})"


class ExtraToken(Struct, frozen=True, kw_only=True):
    """A further token of the same consent, such as Slack's of the person beside the bot's."""

    access_token: Secret
    refresh_token: Secret | None = None
    expires_at: datetime | None = None
    scopes: tuple[str, ...] | None = None


class TokenSet(Struct, frozen=True, kw_only=True):
    """What one consent gave. ``obtained_at`` is when the request began, by the database's clock.

    ``expires_at`` None: it does not expire, as far as anybody knows. ``scopes`` None: the reply did
    not say, so those that were asked for. ``values``: what the person typed, such as a password.
    """

    access_token: Secret | None
    obtained_at: datetime
    token_type: str | None = None
    refresh_token: Secret | None = None
    expires_at: datetime | None = None
    refresh_expires_at: datetime | None = None
    scopes: tuple[str, ...] | None = None
    more: Mapping[str, ExtraToken] = {}
    extras: Mapping[str, str] = {}
    values: Mapping[str, Secret] = {}

    def __repr__(self) -> str:
        return "TokenSet(***)"


class Account(Struct, frozen=True, kw_only=True):
    """Whose account it is, at the provider. ``id`` never changes; the others are for people."""

    id: str
    email: str | None = None
    label: str | None = None

    def __repr__(self) -> str:
        return "Account(***)"


class Choice(Struct, frozen=True, kw_only=True):
    """One of the sites that a consent reaches; ``fields`` become extras when it is taken."""

    id: str
    label: str
    fields: Mapping[str, str]


class Granted(Struct, frozen=True, kw_only=True):
    """The end of a flow. ``choices``: the person has to take one before the tokens are of use."""

    tokens: TokenSet
    account: Account | None = None
    choices: tuple[Choice, ...] = ()

    def __repr__(self) -> str:
        return "Granted(***)"
