"""What an agent needs: its profile, as the platform writes it. Pure.

* A credential goes only into a variable whose name begins with ``secret__``: the runtime keeps
  those from the model. What a client may set never has such a name, and neither has a literal,
  which everybody may read who may read the profile.
* Names that the runtime or we ourselves give are not for a profile to give again.
* An integration may be named before it is there; readiness tells who still waits for it.
* It may store tools, which its conversations call by name; ``tools.stored`` says what those may be.
"""

import re
from collections.abc import Iterator
from typing import Annotated, Any, Final, Literal, Self

from msgspec import Meta, Struct, field, to_builtins
from msgspec.structs import replace

from broker.gateway.paths import Rule, check_rule
from broker.resolve.configs import Kind
from broker.runtimes.sealed import check_public_key
from vault.consent import INTEGRATION_PATTERN
from vault.errors import DeliveryNotPossible, Invalid
from vault.model import LABEL_PATTERN, AttributeName, AttributeValue

SECRET_PREFIX: Final = "secret__"  # noqa: S105 - how a name begins
SYSTEM_PREFIX: Final = "system__"
AUTHORIZATION: Final = "secret__keyturn_authorization"
CONVERSATION_ID: Final = "keyturn_conversation_id"
USER_ID: Final = "user_id"
USER_NAME: Final = "user_name"
# What a conversation is told by us, under these names alone.
OURS: Final = frozenset({AUTHORIZATION, CONVERSATION_ID, USER_ID})

AGENT_PATTERN: Final = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,127}(?!\n)$"
NAME_PATTERN: Final = r"^[A-Za-z_][A-Za-z0-9_]{0,127}(?!\n)$"
TOOL_PATTERN: Final = r"^[A-Za-z0-9_-]{1,64}(?!\n)$"
MAX_INTEGRATIONS: Final = 20
MAX_VARIABLES: Final = 100
MAX_ALLOWED: Final = 50
MAX_OVERRIDES: Final = 50
MAX_STORED: Final = 50

Runtime = Literal["elevenlabs", "livekit", "sealed"]
Channel = Literal["websocket", "webrtc"]
Delivery = Literal["inline", "relay", "handle", "sealed"]
Tools = Literal["direct", "gateway"]
Trust = Literal["identify", "caller_id"]
Method = Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]

VariableName = Annotated[str, Meta(pattern=NAME_PATTERN)]
ToolName = Annotated[str, Meta(pattern=TOOL_PATTERN)]
IntegrationName = Annotated[str, Meta(pattern=INTEGRATION_PATTERN)]
ScopeName = Annotated[str, Meta(min_length=1, max_length=500, pattern=r"^[\x21-\x7e]+(?!\n)$")]
# What of a connection becomes a variable.
FieldName = Annotated[
    str, Meta(pattern=r"^(token|authorization|generation|extra:[a-z][a-z0-9_]{0,47})(?!\n)$")
]
AllowedPath = Annotated[str, Meta(max_length=500, pattern=r"^/[^\x00-\x20\x7f?#\\]*(?!\n)$")]
Override = Annotated[str, Meta(max_length=200, pattern=r"^[a-z_]+(\.[a-z_]+)*(?!\n)$")]
Coordinate = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,128}(?!\n)$")]

# How secrets can reach a runtime, the usual way first.
DELIVERIES: Final[dict[tuple[Runtime, Channel], tuple[Delivery, ...]]] = {
    ("elevenlabs", "websocket"): ("relay", "inline", "handle"),
    ("elevenlabs", "webrtc"): ("handle", "inline"),
    ("livekit", "websocket"): ("handle",),
    ("livekit", "webrtc"): ("handle",),
    ("sealed", "websocket"): ("sealed", "inline", "handle"),
    ("sealed", "webrtc"): ("sealed", "inline", "handle"),
}


class _Part(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A part of a profile: strict, and written as short as it can be."""


class Allowed(_Part, frozen=True, kw_only=True):
    """Requests that may be sent through the gateway."""

    methods: Annotated[list[Method], Meta(min_length=1, max_length=7)]
    path: AllowedPath


class Needed(_Part, frozen=True, kw_only=True):
    """An integration that the agent works with."""

    integration: IntegrationName
    scopes: Annotated[list[ScopeName], Meta(max_length=100)] = []
    required: bool = True
    allow: Annotated[list[Allowed], Meta(max_length=MAX_ALLOWED)] | None = None


class PublicKey(_Part, frozen=True, kw_only=True):
    """The key that only the runtime can open a sealed token with: a JWK. A private one is refused,
    since it has a member more.
    """

    kty: Literal["EC", "OKP"]
    crv: Literal["P-256", "P-384", "P-521", "X25519"]
    x: Coordinate
    y: Coordinate | None = None
    kid: Annotated[str, Meta(min_length=1, max_length=200)] | None = None
    use: Literal["enc"] | None = None
    alg: Literal["ECDH-ES"] | None = None


class Variable(_Part, frozen=True, kw_only=True):
    """Where one variable comes from. Without ``from`` it is a literal, ``value``."""

    source: Literal["connection", "user", "environment", "client"] | None = field(
        name="from", default=None
    )
    integration: IntegrationName | None = None
    field: FieldName | None = None
    attribute: AttributeName | None = None
    label: Annotated[str, Meta(pattern=LABEL_PATTERN)] | None = None
    value: AttributeValue | None = None
    default: AttributeValue | None = None

    @property
    def is_credential(self) -> bool:
        """Does it hold what opens a connection?"""
        return self.source == "connection" and self.field in ("token", "authorization")


class StoredTool(_Part, frozen=True, kw_only=True):
    """A tool that a conversation calls by its name; ``config`` in ElevenLabs' form."""

    kind: Kind
    config: dict[str, Any]

    def __repr__(self) -> str:
        return f"StoredTool({self.kind})"


class Profile(_Part, frozen=True, kw_only=True):
    """An agent's profile. ``integrations`` absent: all that the user has, and none is required.

    ``overrides``: what of the conversation's configuration a client may set, as dotted names.
    ``stored_tools``: what its conversations may call by name.
    """

    runtime: Runtime | None = None
    delivery: Delivery | None = None
    min_ttl: Annotated[int, Meta(ge=0, le=86_400)] | None = None
    public_key: PublicKey | None = None
    tools: Tools = "direct"
    inbound_trust: Trust = "identify"
    integrations: Annotated[list[Needed], Meta(max_length=MAX_INTEGRATIONS)] | None = None
    variables: Annotated[dict[VariableName, Variable], Meta(max_length=MAX_VARIABLES)] = {}
    overrides: Annotated[list[Override], Meta(max_length=MAX_OVERRIDES)] = []
    stored_tools: Annotated[dict[ToolName, StoredTool], Meta(max_length=MAX_STORED)] = {}

    def without_tools(self) -> Self:
        """What a conversation is promised: all but the tools, which are looked up when called."""
        return replace(self, stored_tools={}) if self.stored_tools else self

    def needed(self, integration: str) -> Needed | None:
        """What is said of an integration."""
        every = self.integrations or []
        return next((one for one in every if one.integration == integration), None)

    def drawn(self, integration: str) -> dict[str, Variable]:
        """The variables that draw upon this integration."""
        return {name: one for name, one in self.variables.items() if one.integration == integration}


# What each kind of variable is made of; anything else in it is a mistake.
_PARTS: Final[dict[str | None, frozenset[str]]] = {
    "connection": frozenset({"integration", "field"}),
    "user": frozenset({"attribute"}),
    "environment": frozenset({"label"}),
    "client": frozenset(),
    None: frozenset({"value"}),
}
_CURVES: Final = {"EC": ("P-256", "P-384", "P-521"), "OKP": ("X25519",)}
_PLAIN: Final = re.compile(NAME_PATTERN)


def is_secret(name: str) -> bool:
    """Does the runtime keep this variable from the model?"""
    return name.startswith(SECRET_PREFIX)


def check(profile: Profile) -> None:
    """Raise ``Invalid``, with a pointer, where the profile breaks a rule."""
    _check_delivery(profile)
    _check_public_key(profile.public_key)
    _check_integrations(profile)
    for name, variable in profile.variables.items():
        _check_name(name)
        _check_parts(name, variable)
        _check_secrecy(name, variable)
        _check_reach(name, variable, profile)


def pointer(name: str, part: str = "") -> str:
    """Where in a profile a variable stands."""
    return f"/variables/{name}" + (f"/{part}" if part else "")


def _check_delivery(profile: Profile) -> None:
    runtime = profile.runtime or "elevenlabs"
    possible = {one for (of, _), every in DELIVERIES.items() if of == runtime for one in every}
    if profile.delivery is not None and profile.delivery not in possible:
        raise DeliveryNotPossible(f"The runtime {runtime} takes no secrets by {profile.delivery}.")


def _check_public_key(key: PublicKey | None) -> None:
    if key is None:
        return
    if key.crv not in _CURVES[key.kty]:
        raise Invalid("This curve is not of that type of key.", pointer="/public_key/crv")
    if (key.y is None) == (key.kty == "EC"):
        raise Invalid("EC keys have a y, and OKP keys have none.", pointer="/public_key/y")
    check_public_key(to_builtins(key))


def _check_integrations(profile: Profile) -> None:
    seen: set[str] = set()
    for number, one in enumerate(profile.integrations or []):
        if one.integration in seen:
            raise Invalid(
                "This integration is there twice.", pointer=f"/integrations/{number}/integration"
            )
        seen.add(one.integration)
        for place, allowed in enumerate(one.allow or []):
            _check_allowed(allowed, f"/integrations/{number}/allow/{place}/path")


def _check_allowed(allowed: Allowed, where: str) -> None:
    """A rule that could never hold would be found out by the first call that it was written for."""
    try:
        check_rule(Rule(methods=tuple(allowed.methods), path=allowed.path))
    except Invalid as error:
        raise Invalid(str(error), pointer=where) from None


def _check_name(name: str) -> None:
    if _PLAIN.fullmatch(name) is None:
        raise Invalid("This is no name for a variable.", pointer="/variables")
    if name.startswith(SYSTEM_PREFIX):
        raise Invalid("What begins with system__ is the runtime's own.", pointer=pointer(name))
    if name in OURS:
        raise Invalid("This variable has its meaning already.", pointer=pointer(name))


def _check_parts(name: str, variable: Variable) -> None:
    wanted = _PARTS[variable.source]
    kind = f"from {variable.source}" if variable.source else "a literal"
    for part in _given(variable) - wanted:
        raise Invalid(f"A variable that is {kind} has no {part}.", pointer=pointer(name, part))
    for part in sorted(wanted - _given(variable)):
        raise Invalid(f"A variable that is {kind} needs its {part}.", pointer=pointer(name, part))
    if variable.source is None and variable.default is not None:
        raise Invalid("A literal needs no default.", pointer=pointer(name, "default"))


def _given(variable: Variable) -> set[str]:
    return {
        part
        for part in ("integration", "field", "attribute", "label", "value")
        if getattr(variable, part) is not None
    }


def _check_secrecy(name: str, variable: Variable) -> None:
    if is_secret(name):
        if variable.source == "client":
            raise Invalid(
                "A client may not set what begins with secret__.", pointer=pointer(name, "from")
            )
        if variable.source is None:
            raise Invalid(
                "A profile holds no secret: take it from an environment variable.",
                pointer=pointer(name, "value"),
            )
        if variable.default is not None and not isinstance(variable.default, str):
            raise Invalid("What fills a header is text.", pointer=pointer(name, "default"))
    elif variable.is_credential:
        raise Invalid(
            "A credential goes only into a variable whose name begins with secret__.",
            pointer=pointer(name),
        )


def _check_reach(name: str, variable: Variable, profile: Profile) -> None:
    if variable.integration is None or profile.integrations is None:
        return
    if profile.needed(variable.integration) is None:
        raise Invalid(
            "The profile's integrations do not name this one.",
            pointer=pointer(name, "integration"),
        )


def labels(profile: Profile) -> Iterator[str]:
    """The environment variables that a profile draws upon."""
    for one in profile.variables.values():
        if one.label is not None:
            yield one.label
