"""Which of a conversation's variables holds what. Pure.

* ``plan`` says for each name where its value comes from. It holds no secret and nothing of a
  person, so that it can be kept beside the conversation; ``filling`` puts the values in.
* A credential's name begins with ``secret__``, always: ``Plan`` itself refuses another one.
* Every declared variable is there: its value, its default, or a placeholder. A runtime ends a call
  at the start when one is missing.
* Without a profile the names are the usual ones, of every connection that can be used, and nothing
  is required. A profile narrows to its integrations; one of which it draws a variable is given
  under those names alone.
* What a caller adds may not take the name of anything that is given here.
"""

import re
from collections import OrderedDict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import cached_property, lru_cache
from typing import Final, Literal

from msgspec import Struct

from broker.profile import (
    AUTHORIZATION,
    CONVERSATION_ID,
    NAME_PATTERN,
    SYSTEM_PREFIX,
    USER_ID,
    USER_NAME,
    Profile,
    Variable,
    is_secret,
)
from vault.errors import Invalid, VaultError
from vault.secret import Secret

# What stands where a secret would: a header needs a value, and this one opens nothing.
SECRET_PLACEHOLDER: Final = "unavailable"  # noqa: S105 - the very opposite of one
PLACEHOLDER: Final = ""
NO_GENERATION: Final = 0
MAX_GIVEN: Final = 100
MAX_TEXT: Final = 10_000
MAX_LAYOUTS: Final = 1_000  # that are remembered; one is a few kilobytes
MAX_FREE: Final = 200  # names that each remembers

Scalar = str | bool | int | float
Value = Scalar | Secret
Reason = Literal[
    "not_connected",
    "pending",
    "needs_reauth",
    "expired",
    "refreshing",
    "scope_missing",
    "integration_paused",
    "provider_unavailable",
]


class _Source(Struct, frozen=True, array_like=True, tag=True):
    """Where a variable comes from."""


class Token(_Source, frozen=True, array_like=True, tag="t"):
    """A connection's bare token."""

    integration: str


class Authorization(_Source, frozen=True, array_like=True, tag="a"):
    """The whole value of the header that carries it, in the provider's scheme."""

    integration: str


class Generation(_Source, frozen=True, array_like=True, tag="g"):
    """Which of a connection's tokens it is: counts up with each refresh."""

    integration: str


class Extra(_Source, frozen=True, array_like=True, tag="x"):
    """What else the provider told us, such as where the account's own API is."""

    integration: str
    name: str


class UserId(_Source, frozen=True, array_like=True, tag="ui"):
    """The platform's id of the user."""


class UserName(_Source, frozen=True, array_like=True, tag="un"):
    """The user's name."""


class Attribute(_Source, frozen=True, array_like=True, tag="ua"):
    """What else the platform told us of the user."""

    name: str


class Label(_Source, frozen=True, array_like=True, tag="e"):
    """An environment variable of the workspace."""

    label: str


class Literally(_Source, frozen=True, array_like=True, tag="l"):
    """A value that the profile says."""

    value: Scalar


class Client(_Source, frozen=True, array_like=True, tag="c"):
    """What the client may set."""


class ConversationId(_Source, frozen=True, array_like=True, tag="k"):
    """Our id of the conversation."""


class Grant(_Source, frozen=True, array_like=True, tag="h"):
    """What the conversation holds to use its own connections: a grant or a handle, as a header."""


Source = (
    Token
    | Authorization
    | Generation
    | Extra
    | UserId
    | UserName
    | Attribute
    | Label
    | Literally
    | Client
    | ConversationId
    | Grant
)
_CREDENTIALS: Final = (Token, Authorization, Grant)


class Planned(Struct, frozen=True, array_like=True):
    """One variable; ``default`` stands in where its source has nothing."""

    source: Source
    default: Scalar | None = None


class Missing(Struct, frozen=True, array_like=True):
    """A connection that the agent works with and that cannot be used."""

    integration: str
    reason: Reason
    required: bool


class Layout(dict[str, Planned]):
    """Variables by name, and what follows from that, worked out once. Nobody changes one: it is
    the same for nearly all users of an agent, and they share it.

    ``free``: names that a caller may give beside these, of those that were asked about.
    """

    def __init__(self, variables: Mapping[str, Planned]) -> None:
        super().__init__(variables)
        self.free: set[str] = set()
        for name, one in self.items():
            if isinstance(one.source, _CREDENTIALS) and not is_secret(name):
                raise VaultError("A credential was planned under a name that is not secret.")

    @cached_property
    def rows(self) -> Sequence[tuple[str, Planned, Source, bool]]:
        """Each variable with its source, and whether its name is secret."""
        return [(name, one, one.source, is_secret(name)) for name, one in self.items()]

    @cached_property
    def by_integration(self) -> Mapping[str, tuple[str, ...]]:
        """The variables that draw upon each integration."""
        found: dict[str, list[str]] = {}
        for name, one in self.items():
            integration = getattr(one.source, "integration", None)
            if integration is not None:
                found.setdefault(integration, []).append(name)
        return {integration: tuple(names) for integration, names in found.items()}

    @cached_property
    def labels(self) -> frozenset[str]:
        """The environment variables of the workspace that they draw upon."""
        return frozenset(one.source.label for one in self.values() if isinstance(one.source, Label))

    def refuse_name(self, name: str) -> None:
        """Raise ``Invalid`` where a caller's variable is named like what is not theirs to give."""
        if not _is_name(name):
            raise Invalid("This is no name for a variable.", pointer="/dynamic_variables")
        if _is_taken(name):
            raise Invalid(
                "A name that begins with secret__ or system__ is not for a caller to give.",
                pointer="/dynamic_variables",
            )
        planned = self.get(name)
        if planned is not None and not isinstance(planned.source, Client):
            raise Invalid(
                "This variable is given already, by the vault or the agent's profile.",
                pointer=f"/dynamic_variables/{name}",
            )
        if len(self.free) >= MAX_FREE:
            self.free.clear()
        self.free.add(name)


class Plan(Struct, frozen=True, array_like=True):
    """Every variable of a conversation by name, and the connections that they draw upon."""

    variables: dict[str, Planned]
    connections: dict[str, str]  # integration -> connection
    missing: list[Missing] = []

    def __post_init__(self) -> None:
        self.layout()  # which refuses what must not be

    def layout(self) -> Layout:
        """The variables, with what follows from them."""
        known = self.variables
        return known if isinstance(known, Layout) else Layout(known)

    @property
    def required_and_missing(self) -> list[Missing]:
        """What a conversation cannot begin without, unless the caller says so."""
        return [one for one in self.missing if one.required]

    def names_of(self, integration: str) -> list[str]:
        """The variables that draw upon one integration: what a refresh has to renew."""
        return list(self.layout().by_integration.get(integration, ()))

    def labels(self) -> frozenset[str]:
        """The environment variables that have to be resolved."""
        return self.layout().labels

    def open_to_client(self, given: Collection[str] = ()) -> set[str]:
        """What a client may set itself: what is marked so, and was not given at the mint."""
        return {
            name
            for name, one in self.variables.items()
            if isinstance(one.source, Client) and name not in given
        }


class Usable(Struct, frozen=True, kw_only=True):
    """A connection that can be used now; ``scopes`` ``None``: nobody knows, so none is missed."""

    integration: str
    connection_id: str
    extras: tuple[str, ...] = ()
    scopes: frozenset[str] | None = None


class Person(Struct, frozen=True, kw_only=True):
    """What the platform told us of the user."""

    user_id: str
    name: str | None = None
    attributes: Mapping[str, Scalar] = {}

    def __repr__(self) -> str:
        return "Person(***)"


def plan(
    profile: Profile | None,
    person: Person,
    usable: Sequence[Usable],
    *,
    unusable: Mapping[str, Reason] | None = None,
    only: Collection[str] | None = None,
) -> Plan:
    """Say which variable comes from where.

    ``unusable``: connections that are there and give nothing now. ``only``: the integrations that
    this one conversation is about; who names them needs them.
    """
    connected = {one.integration: one for one in usable}
    reasons = dict(unusable or {})
    wanted = _wanted(profile, connected, reasons, only)
    ready: dict[str, Usable] = {}
    missing = []
    for integration, required in wanted.items():
        reason = _why_not(profile, integration, connected, reasons)
        if reason is None:
            ready[integration] = connected[integration]
        else:
            missing.append(Missing(integration, reason, required))
    ids = {integration: one.connection_id for integration, one in ready.items()}
    return Plan(_layouts.of(profile, person, wanted, ready), ids, missing)


class _Layouts:
    """Layouts that are remembered. They follow from the profile and from names alone, and hold no
    id and no value of anybody.
    """

    def __init__(self) -> None:
        # With the profile that each was made from, so that no other one can have its place.
        self._known: OrderedDict[tuple[object, ...], tuple[Profile | None, Layout]] = OrderedDict()

    def of(
        self,
        profile: Profile | None,
        person: Person,
        wanted: Mapping[str, bool],
        ready: Mapping[str, Usable],
    ) -> Layout:
        extras = tuple([(name, one.extras) for name, one in ready.items() if one.extras])
        key = (id(profile), tuple(wanted), extras, tuple(person.attributes))
        known = self._known.get(key)
        if known is not None and known[0] is profile:
            self._known.move_to_end(key)
            return known[1]
        variables: dict[str, Planned] = {}
        for name, planned in _all(profile, person, wanted, ready):
            variables.setdefault(name, planned)
        made = Layout(variables)
        self._known[key] = profile, made
        if len(self._known) > MAX_LAYOUTS:
            self._known.popitem(last=False)
        return made


_layouts: Final = _Layouts()


def _wanted(
    profile: Profile | None,
    connected: Mapping[str, Usable],
    unusable: Mapping[str, Reason],
    only: Collection[str] | None,
) -> dict[str, bool]:
    """The integrations that the conversation is about, and whether each is required."""
    if profile is not None and profile.integrations is not None:
        listed = {one.integration: one.required for one in profile.integrations}
        if only is not None and not set(only) <= listed.keys():
            raise Invalid("The agent's profile does not name this.", pointer="/integrations")
        return {name: need for name, need in listed.items() if only is None or name in only}
    if only is not None:
        return dict.fromkeys(only, True)
    return dict.fromkeys([*connected, *unusable], False)


def _why_not(
    profile: Profile | None,
    integration: str,
    connected: Mapping[str, Usable],
    unusable: Mapping[str, Reason],
) -> Reason | None:
    one = connected.get(integration)
    if one is None:
        return unusable.get(integration, "not_connected")
    need = profile.needed(integration) if profile else None
    if need and one.scopes is not None and not set(need.scopes) <= one.scopes:
        return "scope_missing"
    return None


def _all(
    profile: Profile | None,
    person: Person,
    wanted: Iterable[str],
    ready: Mapping[str, Usable],
) -> Iterator[tuple[str, Planned]]:
    """Every variable, by rank: of two with one name the first counts."""
    yield CONVERSATION_ID, Planned(ConversationId())
    yield AUTHORIZATION, Planned(Grant())
    yield USER_ID, Planned(UserId())
    declared = profile.variables if profile else {}
    yield from ((name, Planned(_source(one), one.default)) for name, one in declared.items())
    yield USER_NAME, Planned(UserName())
    usual = [one for one in wanted if profile is None or not profile.drawn(one)]
    for integration in usual:
        yield from _fields(integration)
    for integration in usual:
        yield from _extras(integration, ready.get(integration))
    yield from (
        (name, Planned(Attribute(name))) for name in person.attributes if not _is_taken(name)
    )


def _fields(integration: str) -> Iterator[tuple[str, Planned]]:
    """The usual names of a connection; also of a missing one, for the tools that name them."""
    yield f"secret__user_{integration}_token", Planned(Token(integration))
    yield f"secret__user_{integration}_authorization", Planned(Authorization(integration))
    yield f"user_{integration}_generation", Planned(Generation(integration))


def _extras(integration: str, one: Usable | None) -> Iterator[tuple[str, Planned]]:
    for extra in one.extras if one else ():
        yield f"user_{integration}_{extra}", Planned(Extra(integration, extra))


def _source(one: Variable) -> Source:
    match one.source:
        case "connection":
            return _of_connection(one.integration or "", one.field or "")
        case "user":
            return Attribute(one.attribute or "")
        case "environment":
            return Label(one.label or "")
        case "client":
            return Client()
        case None:
            return Literally(PLACEHOLDER if one.value is None else one.value)


def _of_connection(integration: str, field: str) -> Source:
    match field:
        case "token":
            return Token(integration)
        case "authorization":
            return Authorization(integration)
        case "generation":
            return Generation(integration)
    return Extra(integration, field.removeprefix("extra:"))


# What a caller adds

_NAME: Final = re.compile(NAME_PATTERN)


def refuse_collisions(plan: Plan, given: Mapping[str, Scalar]) -> None:
    """Raise ``Invalid`` where a caller's variables name what is not theirs to give."""
    if len(given) > MAX_GIVEN:
        raise Invalid(f"These are more than {MAX_GIVEN}.", pointer="/dynamic_variables")
    layout = plan.layout()
    for name, value in given.items():
        if name not in layout.free:
            layout.refuse_name(name)
        if isinstance(value, str) and len(value) > MAX_TEXT:
            raise Invalid(f"It is longer than {MAX_TEXT}.", pointer=f"/dynamic_variables/{name}")


def are_free(plan: Plan, given: Mapping[str, Scalar], size: int) -> bool:
    """Would ``refuse_collisions`` let these pass, as far as one sees without looking at each?
    ``size``: of all of them in JSON, and so more than any text of theirs has.
    """
    small = len(given) <= MAX_GIVEN and size <= MAX_TEXT
    return small and given.keys() <= plan.layout().free


@lru_cache(maxsize=4_096)
def _is_name(name: str) -> bool:
    return _NAME.fullmatch(name) is not None


@lru_cache(maxsize=4_096)
def _is_taken(name: str) -> bool:
    """Upper case too: who compares without it should see no difference."""
    return name.lower().startswith(SYSTEM_PREFIX) or is_secret(name.lower())
