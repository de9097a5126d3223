"""Values for a plan's variables, put in at delivery. Pure.

* Every planned variable is there: its value, its default, or a placeholder.
* Whatever has a secret's name becomes a ``Secret``, and no secret stands under another name.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

from msgspec import Struct

from broker.profile import is_secret
from broker.variables import (
    NO_GENERATION,
    PLACEHOLDER,
    SECRET_PLACEHOLDER,
    Attribute,
    Authorization,
    ConversationId,
    Extra,
    Generation,
    Grant,
    Label,
    Literally,
    Person,
    Plan,
    Planned,
    Scalar,
    Token,
    UserId,
    UserName,
    Value,
)
from vault.egress import HEADER_VALUE
from vault.errors import Invalid
from vault.secret import Secret


class Credential(Struct, frozen=True, kw_only=True):
    """What a connection gives; ``authorization`` is a whole header's value."""

    token: Secret | None = None
    authorization: Secret | None = None
    generation: int = NO_GENERATION
    extras: Mapping[str, str] = {}

    def __repr__(self) -> str:
        return "Credential(***)"


class Values(Struct, frozen=True, kw_only=True):
    """What is put in. ``grant`` is a whole header's value; ``given``: what the caller added.

    A label's value is a ``Secret`` where the workspace keeps it as one.
    """

    person: Person
    conversation_id: str
    grant: Secret | None = None
    credentials: Mapping[str, Credential] = {}
    labels: Mapping[str, Scalar | Secret] = {}
    given: Mapping[str, Scalar] = {}

    def __repr__(self) -> str:
        return "Values(***)"


def fill(plan: Plan, values: Values, *, handles_only: bool = False) -> dict[str, Value]:
    """Every variable with its value; one that must not be seen is a ``Secret``.

    ``handles_only``: of all secrets only the conversation's own handle is given.
    """
    found: dict[str, Value] = dict(values.given)
    for name, planned, source, secret in plan.layout().rows:
        read = _READ.get(type(source))
        value = read(source, values) if read is not None else values.given.get(name)
        if type(value) is Secret:  # which is final; ``isinstance`` is a call more
            if not secret:
                raise Invalid(
                    "The agent's profile puts a secret into a variable whose name does not begin"
                    " with secret__.",
                    pointer=f"/variables/{name}",
                )
        elif secret and isinstance(value, str):
            # It fills a header, and a person may have chosen it: no second header comes of it.
            value = Secret(value) if HEADER_VALUE.fullmatch(value.encode()) else None
        if handles_only and type(value) is Secret and type(source) is not Grant:
            value = None
        found[name] = _stand_in(name, planned) if value is None else value
    return found


def plain(filled: Mapping[str, Value]) -> dict[str, Scalar]:
    """What anybody may see of it."""
    return {name: one for name, one in filled.items() if not isinstance(one, Secret)}


def _token(source: Token, values: Values) -> Secret | None:
    one = values.credentials.get(source.integration)
    return one.token if one else None


def _authorization(source: Authorization, values: Values) -> Secret | None:
    one = values.credentials.get(source.integration)
    return one.authorization if one else None


def _generation(source: Generation, values: Values) -> int | None:
    one = values.credentials.get(source.integration)
    return one.generation if one else None


def _extra(source: Extra, values: Values) -> str | None:
    one = values.credentials.get(source.integration)
    return one.extras.get(source.name) if one else None


def _attribute(source: Attribute, values: Values) -> Scalar | None:
    person = values.person
    # Who asks for the attribute "name" of a user that has none means the name.
    known = {"id": person.user_id, "name": person.name, **person.attributes}
    return known.get(source.name)


# What reads each source but ``Client``, of which the name is all. One look-up: a ``match`` asks for
# one type after the other.
_READ: Final[Mapping[type[Struct], Callable[[Any, Values], Value | None]]] = {
    Token: _token,
    Authorization: _authorization,
    Generation: _generation,
    Extra: _extra,
    UserId: lambda _, values: values.person.user_id,
    UserName: lambda _, values: values.person.name,
    Attribute: _attribute,
    Label: lambda source, values: values.labels.get(source.label),
    Literally: lambda source, _: source.value,
    ConversationId: lambda _, values: values.conversation_id,
    Grant: lambda _, values: values.grant,
}


def _stand_in(name: str, planned: Planned) -> Scalar:
    if planned.default is not None:
        return planned.default
    if is_secret(name):
        return SECRET_PLACEHOLDER
    return NO_GENERATION if isinstance(planned.source, Generation) else PLACEHOLDER
