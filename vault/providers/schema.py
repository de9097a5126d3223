"""What a provider's file may say: facts as data, so that one engine can speak to all of them.

* A field that is not here, a value of another form, and anything but ``https`` is refused.
* A text in which ``{name}`` stands is a template. A name is one of the file's ``variables``, one of
  its captured values, or one that the engine knows (``ENGINE_NAMES``); an unknown one is refused
  when the file is read, not when a person waits. There are no expressions.
* A value that others choose and that becomes part of a host has a pattern, anchored at both ends:
  client secrets are sent to that host.
* A path into a reply is keys and list positions with dots, ``data.0.id``; ``.`` is the whole reply.
* What is not known says ``unknown``, and is not guessed.

docs/howto/add-a-provider.md explains each part with an example; ``schema.json`` is made from here.
"""

from datetime import date
from typing import Annotated, Final, Literal

from msgspec import Meta, Struct

PROVIDER_ID: Final = r"^[a-z][a-z0-9-]{0,47}(?!\n)$"
ENGINE_NAMES: Final = frozenset(
    {
        "access_token",
        "callback_origin",
        "callback_url",
        "client_id",
        "client_secret",
        "redirect_uri",
        "refresh_token",
        "scope",
        "signed_jwt",
    }
)

ProviderId = Annotated[str, Meta(pattern=PROVIDER_ID)]
FieldName = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_]{0,47}(?!\n)$")]
Text = Annotated[str, Meta(min_length=1, max_length=500, pattern=r"^[^\x00-\x1f\x7f]+(?!\n)$")]
Path = Annotated[str, Meta(min_length=1, max_length=200, pattern=r"^[^\x00-\x20\x7f]+(?!\n)$")]
# A whole URL may also come from a variable or from the provider's reply: then ``kind = "url"`` or
# ``api.hosts`` says which ones are believed.
Url = Annotated[
    str, Meta(max_length=2000, pattern=r"^(https://|\{[a-z][a-z0-9_]*\})[^\x00-\x20\x7f]*(?!\n)$")
]
LiteralUrl = Annotated[str, Meta(max_length=2000, pattern=r"^https://[^\x00-\x20\x7f{}]+(?!\n)$")]
HostPattern = Annotated[str, Meta(pattern=r"^(\*\.)?[a-z0-9-]+(\.[a-z0-9-]+)+(?!\n)$")]
Seconds = Annotated[int, Meta(ge=1, le=10 * 366 * 86_400)]
Status = Annotated[int, Meta(ge=200, le=599)]
Params = dict[Text, str]

Mode = Literal[
    "authorization_code",
    "client_credentials",
    "jwt_bearer",
    "device_code",
    "oauth1",
    "telegram_login",
    "api_key",
    "basic",
    "custom_header",
]
# Modes that end with a person's consent in a browser, and those that only need what one types in.
CONSENT_MODES: Final[frozenset[Mode]] = frozenset({"authorization_code", "oauth1", "device_code"})
TYPED_MODES: Final[frozenset[Mode]] = frozenset({"api_key", "basic", "custom_header"})

# docs: the provider's own page. data: another project's data. library: another project's code.
# report: a third party's account. memory: nobody has looked it up.
Source = Literal["docs", "data", "library", "report", "memory"]


class Part(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The base of every part of a file."""


class Confidence(Part, frozen=True, kw_only=True):
    """Where each group of facts was found; ``memory`` is the weakest."""

    endpoints: Source
    client: Source
    refresh: Source
    lifetime: Source
    identity: Source
    scopes: Source
    quirks: Source


class Variable(Part, frozen=True, kw_only=True):
    """A value that differs per deployment, app registration or person.

    ``filled_by``: ``integration`` is who registers the app; ``person`` is who connects;
    ``callback`` is the provider, in the redirect. ``kind``: ``host`` is a host name or a label of
    one, ``url`` a whole address, ``secret`` a credential, which is sealed and never shown.
    A parameter, a header or a part whose ``optional`` variable stays empty is left out. A value
    that comes back under the name of a variable which it does not fill has to equal it.
    """

    filled_by: Literal["integration", "person", "callback"]
    kind: Literal["text", "host", "url", "secret"] = "text"
    label: Text = ""
    pattern: Text | None = None
    default: Text | None = None
    example: Text | None = None
    optional: bool = False


class Authorize(Part, frozen=True, kw_only=True):
    """Where the person is sent. ``rename`` and ``omit`` are about the standard parameters."""

    url: Url | None = None
    pkce: Literal["required", "allowed", "forbidden", "unknown"] = "unknown"
    params: Params = {}
    rename: Params = {}
    omit: list[Text] = []
    state_max: Annotated[int, Meta(ge=32, le=4096)] | None = None


class MoreScopes(Part, frozen=True, kw_only=True):
    """A second list of scopes in a parameter of its own; ``for_token`` names an extra token."""

    param: Text
    separator: Literal[" ", ","] = " "
    for_token: FieldName | None = None


class Scopes(Part, frozen=True, kw_only=True):
    """``offline``: what has to be asked for to get a refresh token. ``granted``: how a reply says
    what was given: a text with spaces or commas, a list, or not at all.
    """

    param: Text = "scope"
    separator: Literal[" ", ","] = " "
    default: list[Text] = []
    offline: list[Text] = []
    suggested: list[Text] = []
    granted: Literal["space", "comma", "list", "absent"] = "space"
    more: list[MoreScopes] = []


class Client(Part, frozen=True, kw_only=True):
    """How the app shows who it is.

    ``basic`` form-encodes id and secret first (RFC 6749 section 2.3.1), ``basic_raw`` does not;
    ``secret_as_user`` is Basic with the secret as user name and no password; ``signed_secret`` is a
    client secret that ``assertion`` mints, sent as ``post``.
    """

    auth: Literal[
        "basic",
        "basic_raw",
        "post",
        "none",
        "private_key_jwt",
        "client_secret_jwt",
        "secret_as_user",
        "signed_secret",
    ] = "none"
    registration: Literal["static", "dynamic"] = "static"


class Callback(Part, frozen=True, kw_only=True):
    """What comes back through the browser. It is unverified until ``signature`` says otherwise."""

    method: Literal["GET", "POST"] = "GET"
    code: Text = "code"
    capture: dict[FieldName, Text] = {}
    signature: Literal["shopify_hmac", "telegram_login_hmac"] | None = None
    max_age_seconds: Seconds | None = None


class Budget(Part, frozen=True, kw_only=True):
    """How many token requests the provider takes in how long."""

    requests: Annotated[int, Meta(ge=1)]
    seconds: Seconds
    per: Literal["connection", "client"]


class Token(Part, frozen=True, kw_only=True):
    """The token request. ``params`` are the exchange's; a refresh has its own, and shares the rest.

    A public client (``client.auth`` is ``none``) always sends its ``client_id``.
    """

    url: Url | None = None
    format: Literal["form", "json", "query"] = "form"
    params: Params = {}
    headers: Params = {}
    rename: Params = {}
    omit: list[Text] = []
    budget: Budget | None = None


class MoreTokens(Part, frozen=True, kw_only=True):
    """A further token: under ``root`` of the same reply, or asked for with the refresh token.

    ``refreshed_type``: in the reply to its refresh it stands at the top, with this ``token_type``.
    """

    name: FieldName
    root: Path | None = None
    refreshed_type: Text | None = None
    scope: Text | None = None


class Reply(Part, frozen=True, kw_only=True):
    """Where a token reply keeps things. Of several ``roots`` the first that is there holds them;
    the reply to a refresh keeps them at its top, unless there are ``refresh_roots``.

    ``lifetime_seconds``: an access token's life where the reply does not say; ``never_expires``
    where there is none. ``capture``: extras, read again at each refresh.
    """

    roots: list[Path] = []
    refresh_roots: list[Path] = []
    access_token: Path = "access_token"
    refresh_token: Path = "refresh_token"
    expires_in: Path = "expires_in"
    expires_in_zero: Literal["expired", "never"] = "expired"
    expires_at: Path | None = None
    expires_at_format: Literal["iso8601", "epoch", "epoch_ms"] | None = None
    refresh_expires_in: Path | None = None
    refresh_expires_in_zero: Literal["expired", "never"] = "expired"
    refresh_expires_at: Path | None = None
    scope: Path = "scope"
    lifetime_seconds: Seconds | None = None
    expiry_stated: bool = True
    never_expires: bool = False
    capture: dict[FieldName, Path] = {}
    more: list[MoreTokens] = []


class Refresh(Part, frozen=True, kw_only=True):
    """How a token is renewed, and what that does to the old ones.

    ``rotates``: does the reply hold a new refresh token? ``setting``: whoever registered the app
    chose. ``old_refresh_token``: ``grace`` is good for ``grace_seconds`` more, ``until_used`` until
    the new one is first used (and ``grace_seconds`` on), ``strict`` is dead at once.
    ``replay_revokes``: using a dead one again ends the whole grant. ``idle_seconds``: unused so
    long, it dies. ``end_seconds``: it dies then, whatever happens, unless ``slides``.
    """

    issued: Literal["always", "never", "conditional", "unknown"] = "unknown"
    when: Text | None = None
    rotates: Literal["never", "always", "sometimes", "setting", "unknown"] = "unknown"
    old_refresh_token: Literal["stays_valid", "grace", "until_used", "strict", "unknown"] = (
        "unknown"
    )
    grace_seconds: Seconds | None = None
    replay_revokes: bool = False
    old_access_token: Literal["stays_valid", "revoked", "revoked_later", "unknown"] = "unknown"
    idle_seconds: Seconds | None = None
    end_seconds: Seconds | None = None
    slides: bool | None = None
    min_age_seconds: Seconds | None = None
    keepalive_seconds: Seconds | None = None
    margin_seconds: Seconds | None = None
    max_live: Annotated[int, Meta(ge=1)] | None = None
    sends: Literal["refresh_token", "access_token"] = "refresh_token"
    url: Url | None = None
    method: Literal["POST", "GET"] = "POST"
    format: Literal["form", "json", "query"] | None = None
    params: Params = {}
    omit: list[Text] = []


class Revoke(Part, frozen=True, kw_only=True):
    """How a token is given back. ``kills``: that token, or all that the person gave this app.

    ``auth``: ``client`` is as at the token endpoint, ``basic`` a Basic header whatever that takes.
    The token is sent as ``token_param``, unless ``auth`` is ``bearer`` or ``params`` say it all.
    """

    url: Url | None = None
    method: Literal["POST", "DELETE"] = "POST"
    auth: Literal["client", "basic", "none", "bearer", "header"] = "client"
    authorization: Text | None = None
    token_param: Text = "token"
    format: Literal["form", "json", "query", "none"] = "form"
    params: Params = {}
    kills: Literal["grant", "access"] = "grant"


class Introspect(Part, frozen=True, kw_only=True):
    """Where to ask whether a token lives."""

    url: Url


class Oidc(Part, frozen=True, kw_only=True):
    """What ID tokens look like. ``{tid}`` in an issuer is that claim of the same token."""

    issuer: Url
    jwks_url: Url | None = None
    algorithms: tuple[Text, ...] = ("RS256",)
    nonce: Literal["required", "if_echoed"] = "required"


class Discovery(Part, frozen=True, kw_only=True):
    """The endpoints are not here but in a document at the provider."""

    kind: Literal["openid", "smart", "mcp"]
    of: Url


class Identity(Part, frozen=True, kw_only=True):
    """Whose account it is. ``account``: paths whose values, joined, name it and never change.

    ``otherwise``: the paths to take where the first ones are not there.
    """

    source: Literal["userinfo", "token_reply", "id_token", "callback", "introspect", "access_token"]
    url: Url | None = None
    method: Literal["GET", "POST"] = "GET"
    authorization: Text | None = None
    body: Params = {}
    account: list[Path] = []
    otherwise: list[Path] = []
    pattern: Text | None = None
    email: Path | None = None
    label: Path | None = None


class Step(Part, frozen=True, kw_only=True):
    """One more request after the exchange.

    ``gives``: ``tokens`` replaces the token set; ``extras`` adds ``fields``; ``choices`` is a list
    under ``items`` of which the person takes one (``needs: "choice"``), whose ``fields`` are kept.
    """

    name: FieldName
    gives: Literal["tokens", "extras", "choices"]
    url: Url
    method: Literal["GET", "POST"] = "GET"
    authorization: Text | None = None
    params: Params = {}
    items: Path = "."
    fields: dict[FieldName, Path] = {}
    label: Path | None = None


class Assertion(Part, frozen=True, kw_only=True):
    """A JWT that we sign: as RFC 7523 assertion, as Bearer, or as the client's secret.

    ``key``: the variable with the private key. ``age_seconds``: how far back ``iat`` is set.
    """

    sent_as: Literal["assertion", "bearer", "client_secret"]
    algorithm: Literal["RS256", "ES256"]
    key: FieldName
    key_id: Text | None = None
    issuer: Text
    subject: Text | None = None
    audience: Text | None = None
    scope_claim: bool = False
    lifetime_seconds: Seconds
    age_seconds: Annotated[int, Meta(ge=0, le=300)] = 0


class Device(Part, frozen=True, kw_only=True):
    """RFC 8628."""

    url: Url


class OAuth1(Part, frozen=True, kw_only=True):
    """RFC 5849."""

    request_url: Url
    signature: Literal["HMAC-SHA1", "HMAC-SHA256"] = "HMAC-SHA1"


class Api(Part, frozen=True, kw_only=True):
    """How a credential is used.

    ``value``: what stands in ``header``; ``{base64(...)}`` encodes what is in the brackets. With
    ``sent_in = "url"`` the credential is a part of the base URL, and logs must not see that.
    ``hosts``: where a base URL that the provider tells us may point, beside a literal one.
    ``forbidden``: paths below the base URL that the gateway never calls, token endpoints apart.
    """

    base_url: Url | None = None
    sent_in: Literal["header", "url"] = "header"
    header: Text = "Authorization"
    value: Text = "Bearer {access_token}"
    headers: Params = {}
    hosts: list[HostPattern] = []
    forbidden: list[Annotated[str, Meta(pattern=r"^/[^\x00-\x20\x7f?#]*(?!\n)$")]] = []


class Failure(Part, frozen=True, kw_only=True, rename={"outcome": "class"}):
    """What an answer means; the first row that fits counts, then ``STANDARD_FAILURES``.

    ``class``: ``dead``: the person has to consent again. ``client``: the app's registration is
    wrong, and no connection is to blame. ``throttled``, ``transient``: later. ``at``: where the
    code stands, if not at ``errors.code``. ``detail``: a part of the description.
    """

    outcome: Literal["dead", "client", "transient", "throttled"]
    where: Literal["token", "api", "any"] = "token"
    status: Status | None = None
    code: str | int | None = None
    at: Path | None = None
    subtype: Text | None = None
    detail: Text | None = None
    means: Text | None = None


class Errors(Part, frozen=True, kw_only=True):
    """How the provider says no. ``success``: a field that is true where it says yes.

    ``with_200``: it also says no with status 200, so that every reply has to be looked at.
    """

    success: Path | None = None
    code: Path = "error"
    description: Path = "error_description"
    with_200: bool = False
    rows: list[Failure] = []


STANDARD_FAILURES: Final = (
    Failure(outcome="throttled", where="any", status=429),
    Failure(outcome="dead", code="invalid_grant"),
    Failure(outcome="client", code="invalid_client"),
    Failure(outcome="client", code="unauthorized_client"),
    Failure(outcome="throttled", code="slow_down"),
    Failure(outcome="transient", code="temporarily_unavailable"),
    Failure(outcome="transient", code="server_error"),
    Failure(outcome="transient", where="any", status=503),
)


class Provider(Part, frozen=True, kw_only=True):
    """One file. ``status``: ``unsupported`` names its ``reason`` and can be read, not used."""

    id: ProviderId
    name: Text
    mode: Mode | None = None
    extends: ProviderId | None = None
    categories: list[FieldName] = []
    status: Literal["active", "legacy", "retired", "unsupported"] = "active"
    reason: Text | None = None
    replaced_by: ProviderId | None = None
    docs: LiteralUrl | None = None
    as_of: date
    confidence: Confidence
    variables: dict[FieldName, Variable] = {}
    authorize: Authorize | None = None
    scopes: Scopes = Scopes()
    client: Client = Client()
    callback: Callback = Callback()
    token: Token | None = None
    reply: Reply = Reply()
    refresh: Refresh = Refresh()
    revoke: Revoke | None = None
    introspect: Introspect | None = None
    oidc: Oidc | None = None
    discovery: Discovery | None = None
    identity: Identity | None = None
    steps: list[Step] = []
    assertion: Assertion | None = None
    device: Device | None = None
    oauth1: OAuth1 | None = None
    api: Api = Api()
    errors: Errors = Errors()
    notes: list[Text] = []
