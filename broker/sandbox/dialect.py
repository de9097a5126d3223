"""How one provider speaks, as data: the requests it takes and the replies it gives.

* ``PUT /_sandbox/dialects/{name}`` makes the sandbox speak it below ``/{name}/``.
* A request is taken only if it is exactly what a ``Shape`` says: method, path, parameters, body
  format and named headers; nothing missing, nothing more. Whatever differs is named, by its name
  and without its value, in the history.
* ``{slot}`` in a shape takes a value out of the request; ``{slot}`` in a reply puts one in.
  A reply's slot that has no value leaves its field out; one that stands alone keeps its type.

Slots of a request: ``client_id``, ``client_secret``, ``basic`` (id and secret, form-encoded first:
RFC 6749 section 2.3.1), ``basic_raw`` (not encoded), ``secret_as_user``, ``signed_secret`` (a JWT
that one of the client's keys signed), ``assertion`` (one that a key of any client signed, and
that has not ended), ``redirect_uri``, ``state``, ``scope``, ``challenge``,
``nonce``, ``code``, ``verifier``, ``refresh_token``, ``access_token``, ``token`` (either of them),
``account``, ``number``, and any other name, which a reply may repeat.

Slots of a reply: those of the request, those of the authorization request, and ``access_token``,
``refresh_token`` (each also with ``.name`` of an extra token), ``id_token``, ``expires_in``,
``refresh_expires_in``, ``expires_at`` and ``refresh_expires_at`` (each with ``_ms`` and ``_iso``,
too), ``scope`` (with spaces), ``scope_comma``, ``scope_list``, ``account``, ``number``, ``name``,
``email``, ``now`` (epoch seconds). ``here`` and ``base``, the addresses of the dialect and of the
sandbox, are slots of both; in a request they have to be right.
"""

from typing import Annotated, Any, Final, Literal

from msgspec import Meta, Struct, field

from broker.sandbox.knobs import IdAlgorithm, Issuing, Seconds

NAME: Final = r"^[a-z][a-z0-9-]{0,47}(?!\n)$"
# First parts of the sandbox's own paths.
RESERVED: Final = frozenset({"consent", "device", "mcp", "oauth", "oauth1", "rtc", "v1", "whoami"})

Json = Any  # whatever JSON can hold
Does = Literal[
    "authorize",  # a person is asked for consent
    "exchange",  # a code buys tokens
    "refresh",  # a refresh token, or a living access token, buys tokens
    "grant",  # a client buys a token for itself
    "revoke",  # a token, or all of a person's, ends
    "introspect",  # what is this token?
    "read",  # something for whoever holds a living access token
    "show",  # something for anybody: metadata
    "keys",  # the JWKS
]
Why = Literal["code", "refresh", "client", "request", "access", "scope"]


class Part(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The base of every part of a dialect."""


class Shape(Part, frozen=True, kw_only=True):
    """A request. ``optional``: names of ``query`` and ``body`` that may be missing.

    ``path`` has no leading slash. Headers beside ``headers`` are not looked at, but for
    ``Authorization``, which nothing may carry that is not asked for it.
    """

    method: Literal["GET", "POST", "PUT", "DELETE"] = "GET"
    path: Annotated[str, Meta(min_length=1, max_length=500)]
    query: dict[str, str] = {}
    format: Literal["none", "form", "json"] = "none"
    body: dict[str, Json] = {}
    headers: dict[str, str] = {}
    optional: list[str] = []


class Endpoint(Part, frozen=True, kw_only=True):
    """A request and its reply. ``lifetime``: of the access token that this one gives."""

    does: Does
    request: Shape
    reply: Json = None
    reply_of: dict[str, Json] = {}  # by the name of the extra token that was used
    status: Annotated[int, Meta(ge=200, le=299)] = 200
    lifetime: Seconds | None = None
    kills: Literal["grant", "access"] = "grant"


class Callback(Part, frozen=True, kw_only=True):
    """What comes back through the browser. ``values`` and ``fragment`` come with it."""

    method: Literal["GET", "POST"] = "GET"
    code: str = "code"
    values: dict[str, str] = {}
    signature: Literal["shopify_hmac"] | None = None
    fragment: str = ""
    iss: bool = False  # RFC 9207
    denied: dict[str, str] = field(default_factory=lambda: {"error": "access_denied"})


class IdToken(Part, frozen=True, kw_only=True):
    """The ID token, beside ``aud``, ``iat``, ``exp`` and ``nonce``. ``issuer`` takes slots."""

    issuer: str
    algorithm: IdAlgorithm = "RS256"
    claims: dict[str, Json] = field(default_factory=lambda: {"sub": "{account}"})
    echoes_nonce: bool = True


class Refusal(Part, frozen=True, kw_only=True):
    """How it says no. ``body`` takes the slot ``description``."""

    status: Annotated[int, Meta(ge=200, le=599)]
    body: Json = {}


REFUSALS: Final[dict[Why, Refusal]] = {
    "code": Refusal(status=400, body={"error": "invalid_grant"}),
    "refresh": Refusal(status=400, body={"error": "invalid_grant"}),
    "client": Refusal(status=401, body={"error": "invalid_client"}),
    "request": Refusal(status=400, body={"error": "invalid_request"}),
    "access": Refusal(status=401, body={"error": "invalid_token"}),
    "scope": Refusal(status=400, body={"error": "invalid_scope"}),
}


class Dialect(Part, frozen=True, kw_only=True):
    """One provider. ``scopes``: those that exist (none listed: any word).

    ``extra_tokens``: name of a further token, and the slot of the authorization request with the
    scopes without which it is not given.
    """

    endpoints: list[Endpoint]
    callback: Callback = Callback()
    scopes: list[str] = []
    scope_separator: Literal[" ", ","] = " "
    state_max: int | None = None
    id_token: IdToken | None = None
    extra_tokens: dict[str, str] = {}
    refusals: dict[Why, Refusal] = {}
    issuing: Issuing = Issuing()
