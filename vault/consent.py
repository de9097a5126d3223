"""The nouns of connecting: app registrations, connections, and the way there. No I/O.

* Where a workspace writes a value, it may write ``{{system__env_label}}`` in it, or name a secret
  or a label instead: so one integration serves every environment.
* No repr shows a value that may be a credential.
"""

import re
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Annotated, Final, Literal

from msgspec import Meta, Struct

from vault.errors import Invalid
from vault.lifecycle.schedule import Policy
from vault.model import LABEL_PATTERN, Environment
from vault.oauth.app import Account, Choice, ClientAuth, Granted, TokenSet
from vault.oauth.device import Started
from vault.oauth.discovery import Registered
from vault.providers.schema import Provider
from vault.secret import Secret

INTEGRATION_PATTERN: Final = r"^[a-z][a-z0-9_]{0,47}(?!\n)$"
SESSION_SECONDS: Final = 15 * 60
FLOW_SECONDS: Final = 10 * 60
MAX_INTEGRATIONS: Final = 20  # in one link

IntegrationName = Annotated[str, Meta(pattern=INTEGRATION_PATTERN)]
State = Literal[
    "pending",
    "active",
    "refreshing",
    "backoff",
    "uncertain",
    "suspect",
    "needs_reauth",
    "revoking",
    "revoked",
]
# How a try to connect ended; ``return_url`` and the page say it in these words.
Outcome = Literal[
    "connected",
    "pending",
    "denied",
    "expired",
    "used",
    "wrong_browser",
    "wrong_account",
    "provider_error",
    "misconfigured",
    "superseded",
]
Revoked = Literal["revoked", "retrying", "not_supported", "sibling_alive", "nothing_to_revoke"]

_TEMPLATE: Final = re.compile(r"\{\{\s*system__env_([A-Za-z0-9_]{1,64})\s*\}\}")


class ValueReference(
    Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """A value that stands elsewhere: in a secret, or under an environment variable's label."""

    secret_id: Annotated[str, Meta(min_length=1, max_length=100)] | None = None
    env_var_label: Annotated[str, Meta(pattern=LABEL_PATTERN)] | None = None

    def __post_init__(self) -> None:
        if (self.secret_id is None) == (self.env_var_label is None):
            raise ValueError("name either a secret_id or an env_var_label")


class Registration(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What an app registration is made of, as the workspace wrote it."""

    provider: str
    client_id: str = ""
    client_secrets: list[str | ValueReference] = []
    scopes: list[str] | None = None
    variables: dict[str, str | ValueReference] = {}
    client_auth: ClientAuth | None = None
    authorize_params: dict[str, str] = {}
    redirect_uri: str | None = None
    share_connections: bool = False
    refresh_policy: Policy = "active"

    def __repr__(self) -> str:
        return f"Registration({self.provider})"

    def written(self) -> Iterator[str | ValueReference]:
        """Every value in which something of the workspace may be referred to."""
        yield self.client_id
        yield from self.client_secrets
        yield from self.variables.values()

    def labels(self) -> set[str]:
        """The labels that have to have a value where this is used."""
        found: set[str] = set()
        for value in self.written():
            if isinstance(value, str):
                found |= set(_TEMPLATE.findall(value))
            elif value.env_var_label is not None:
                found.add(value.env_var_label)
        return found

    def secret_ids(self) -> set[str]:
        return {
            value.secret_id
            for value in self.written()
            if isinstance(value, ValueReference) and value.secret_id is not None
        }


class Integration(Struct, frozen=True, kw_only=True):
    """A workspace's app registration at a provider."""

    integration: str
    registration: Registration
    created_at: datetime
    updated_at: datetime
    created_by: str


class Finding(Struct, frozen=True, kw_only=True):
    """One thing that a check of an integration looked at."""

    what: Literal["values", "discovery", "token_endpoint", "client", "scopes"]
    ok: bool
    detail: str


class Connection(Struct, frozen=True):
    """One user's consent at one integration in one environment, without what it holds."""

    connection_id: str
    user_id: str
    integration: str
    environment: str
    provider: str
    state: State
    needs: Literal["confirm", "choice"] | None
    refresh_by: Literal["keyturn", "caller"]
    generation: int
    account: bytes | None
    asked_scopes: list[str]
    scopes: list[str] | None
    expires_at: datetime | None
    refresh_expires_at: datetime | None
    consented_at: datetime | None
    created_at: datetime
    updated_at: datetime

    @property
    def missing_scopes(self) -> list[str]:
        """What was asked for and not given."""
        return list(missing(self.asked_scopes, self.scopes))


class Held(Struct, frozen=True, kw_only=True):
    """What is sealed of a connection: its tokens, and whose account they are of.

    ``client``: the one that a server made for this connection alone.
    """

    tokens: TokenSet
    account: Account | None = None
    client: Registered | None = None

    def __repr__(self) -> str:
        return "Held(***)"


class Import(Struct, frozen=True, kw_only=True):
    """A connection that the platform already holds."""

    environment: Environment
    access_token: Secret | None = None
    refresh_token: Secret | None = None
    values: dict[str, Secret] = {}
    expires_at: datetime | None = None
    expires_in: int | None = None
    scopes: list[str] | None = None
    refresh_by: Literal["keyturn", "caller"] = "keyturn"
    verify: bool = False

    def __repr__(self) -> str:
        return "Import(***)"


class NewSession(Struct, frozen=True, kw_only=True):
    """What an invitation to connect shall be."""

    user_id: str
    environment: str
    integrations: tuple[str, ...] = ()
    return_url: str | None = None
    confirm: Literal["page", "backend"] | None = None
    replace_account: bool = False


class Session(Struct, frozen=True):
    """An invitation to connect."""

    session_id: str
    user_id: str
    environment: str
    integrations: list[str]
    return_url: str | None
    confirm: Literal["page", "backend"]
    replace_account: bool
    created_at: datetime
    expires_at: datetime
    expired: bool


class Flow(Struct, frozen=True):
    """One try to connect one integration, in one browser."""

    flow_id: str
    session_id: str
    integration: str
    browser_hash: bytes
    code_hash: bytes | None
    status: Literal["started", "exchanging", "choice", "confirm", "done", "failed"]
    outcome: str
    generation: int
    sealed: bytes | None
    expired: bool


class Begun(Struct, frozen=True, kw_only=True):
    """What has to be remembered between the way out and the way back. Sealed."""

    redirect_uri: str
    scopes: tuple[str, ...]
    verifier: Secret | None = None
    nonce: Secret | None = None
    values: dict[str, Secret] = {}
    pair: tuple[Secret, Secret] | None = None  # OAuth 1.0a's temporary token and its secret
    device: Started | None = None
    state: Secret | None = None  # of a device's try, which no callback brings back
    polled_at: datetime | None = None  # when the provider was last asked about the device
    client: Registered | None = None  # one that the server made for this try

    def __repr__(self) -> str:
        return "Begun(***)"


class Received(Struct, frozen=True, kw_only=True):
    """What a try was given, until it is confirmed. Sealed."""

    granted: Granted
    asked_scopes: tuple[str, ...]
    client: Registered | None = None

    def __repr__(self) -> str:
        return "Received(***)"

    @property
    def held(self) -> Held:
        """What a connection keeps of it."""
        return Held(tokens=self.granted.tokens, account=self.granted.account, client=self.client)

    @property
    def missing_scopes(self) -> tuple[str, ...]:
        return missing(self.asked_scopes, self.granted.tokens.scopes)


class Stage(Struct, frozen=True, kw_only=True):
    """Where a person stands after a step, for the page that comes next.

    ``url``: go there. ``code``: only the finishing browser brings it back to the platform.
    """

    workspace: str
    session: Session
    integration: str
    provider: Provider
    state: Secret  # names the try in the page's forms
    status: Literal["go", "choice", "confirm", "device", "ended"]
    outcome: Outcome | None = None
    url: str | None = None
    account: Account | None = None
    user_name: str = ""  # of the user for whom this is, where the platform has given one
    scopes: tuple[str, ...] = ()
    choices: tuple[Choice, ...] = ()
    missing_scopes: tuple[str, ...] = ()
    code: Secret | None = None
    user_code: str = ""
    interval: int = 5


def asked_for(provider: Provider, scopes: Iterable[str], tokens: TokenSet) -> tuple[str, ...]:
    """The scopes that an answer is held against.

    What brings a refresh token was given if one came; many providers do not list it then.
    """
    settled = provider.scopes.offline if tokens.refresh_token is not None else ()
    return tuple(one for one in scopes if one not in settled)


def missing(asked: Iterable[str], given: Iterable[str] | None) -> tuple[str, ...]:
    """What was asked for and not given; a provider that does not say has given everything."""
    return () if given is None else tuple(sorted(set(asked) - set(given)))


def filled(text: str, values: dict[str, str]) -> str:
    """Put the values of labels into a text; what comes in is not read again."""

    def value(match: re.Match[str]) -> str:
        return values[match[1]]

    return _TEMPLATE.sub(value, text)


def refuse_unknown_templates(text: str, *, pointer: str) -> None:
    """Refuse braces that would be sent as they stand."""
    if "{{" in _TEMPLATE.sub("", text):
        raise Invalid("Only {{system__env_<label>}} can stand in braces.", pointer=pointer)
