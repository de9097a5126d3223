"""What each hole means in one environment, for one request.

* A value is looked up once and used as it is.
* Every look-up leaves a ``Choice``: where, what, from which environment, and why.
* What is secret comes as a ``Meaning`` that knows it: ``header`` gives it, ``open_text`` refuses.
"""

from collections.abc import Mapping
from typing import Any, Final

import msgspec
from msgspec import Struct

from broker.resolve.templates import (
    Connection,
    Label,
    Stored,
    Template,
    Variable,
    invalid,
    not_here,
)
from vault.environments import FallbackWarning
from vault.errors import Unresolved
from vault.model import AuthRef
from vault.vault.variables import Configuration, Resolved, ResolvedSecret

MASK: Final = "***"

Reference = Label | Variable | Stored


class Choice(Struct, frozen=True, kw_only=True):
    """Why a place holds what it holds. ``value`` is masked where it is secret."""

    where: str
    type: str
    environment: str
    source: str
    reason: str
    value: str
    label: str | None = None
    variable_name: str | None = None
    secret_id: str | None = None
    auth_connection_id: str | None = None


class Meaning(Struct, frozen=True):
    """A value for one hole; its repr shows nothing of it."""

    text: str
    is_secret: bool = False
    secret: ResolvedSecret | None = None
    variable: str | None = None

    @property
    def shown(self) -> str:
        return MASK if self.is_secret else self.text

    def __repr__(self) -> str:
        return "Meaning(***)"


class Meanings:
    """The values of one request, and what was chosen so far."""

    def __init__(self, configuration: Configuration, variables: Mapping[str, Any]) -> None:
        self.environment = configuration.environment
        self.choices: list[Choice] = []
        self.hosts: list[Resolved] = []
        self._configuration = configuration
        self._variables = variables
        self._fallen: list[str] = []

    def header(self, part: Reference, where: str) -> Meaning:
        """Look a value up that may be secret."""
        if isinstance(part, Label):
            return self._label(part, where)
        if isinstance(part, Stored):
            return self._stored(part, where)
        return self._variable(part, where)

    def open_text(self, part: Reference, where: str) -> str:
        """Look a value up that others will see."""
        found = self.header(part, where)
        if found.is_secret:
            label = f"The environment variable '{part.label}'" if isinstance(part, Label) else ""
            raise not_here(label or "What is named here", where)
        return found.text

    def host_text(self, part: Reference, where: str) -> str:
        """The same for a piece of a host name, which the fallback warnings are about."""
        text = self.open_text(part, where)
        self.note_host(part)
        return text

    def note_host(self, part: Reference) -> None:
        """Remember that this decides the host."""
        if isinstance(part, Label):
            self.hosts.append(self._configuration.labels[part.label])

    def filled(self, template: Template) -> str:
        """Put a text together that others will see."""
        return "".join(
            part if isinstance(part, str) else self.open_text(_reference(part), template.where)
            for part in template.parts
        )

    def value(self, name: str, where: str) -> Any:  # noqa: ANN401 - any JSON
        """The value of a dynamic variable as it was given."""
        found = self._variables.get(name)
        if found is None:
            raise Unresolved(
                f"The dynamic variable '{name}' was not given, and so cannot be used in"
                f" '{self.environment}'."
            )
        self._chose(
            where,
            "dynamic_variable",
            "request",
            "The request gives it.",
            MASK if Variable(name).is_secret else _text(found),
            variable_name=name,
        )
        return found

    def connection(self, part: Label | Connection, where: str) -> str:
        """The id of the auth connection that is meant."""
        if isinstance(part, Connection):
            auth_id = part.auth_connection_id
            reason = "The configuration names it; it is the same in every environment."
            self._chose(where, "auth_connection", "", reason, auth_id, auth_connection_id=auth_id)
            return auth_id
        found = self._configuration.labels[part.label]
        if not isinstance(found.value, AuthRef):
            raise invalid(
                f"The environment variable '{part.label}' is of type '{found.type}', and an"
                " auth connection is needed here.",
                where,
            )
        auth_id = found.value.auth_connection_id
        self._chose_label(found, where, auth_id, auth_connection_id=auth_id)
        return auth_id

    def warnings(self) -> list[FallbackWarning]:
        """Where this very request sends production's secret to a host of another environment."""
        own = [one.label for one in self.hosts if not one.fell_back]
        return [
            FallbackWarning(self.environment, host, secret)
            for host in dict.fromkeys(own)
            for secret in dict.fromkeys(self._fallen)
        ]

    def _label(self, part: Label, where: str) -> Meaning:
        found = self._configuration.labels[part.label]
        if isinstance(found.value, AuthRef):
            raise invalid(
                f"The environment variable '{part.label}' is an auth connection, which can only"
                " stand as 'auth_connection'.",
                where,
            )
        if isinstance(found.value, ResolvedSecret):
            self._chose_label(found, where, MASK, secret_id=found.value.secret_id)
            return _meaning(found.value)
        self._chose_label(found, where, found.value)
        return Meaning(found.value)

    def _stored(self, part: Stored, where: str) -> Meaning:
        found = self._configuration.secrets[part.secret_id]
        reason = "The configuration names this secret; it is the same in every environment."
        self._chose(where, "secret", "", reason, MASK, secret_id=found.secret_id)
        return _meaning(found)

    def _variable(self, part: Variable, where: str) -> Meaning:
        text = _text(self.value(part.name, where))
        return Meaning(text, is_secret=part.is_secret, variable=part.name)

    def _chose_label(self, found: Resolved, where: str, value: str, **ids: str) -> None:
        if not found.fell_back:
            reason = f"It has a value of its own in '{self.environment}'."
        else:
            reason = f"It has no value in '{self.environment}', so production's is used."
            if found.type != "string":
                self._fallen.append(found.label)
        self._chose(where, found.type, found.source, reason, value, label=found.label, **ids)

    def _chose(
        self, where: str, kind: str, source: str, reason: str, value: str, **ids: str
    ) -> None:
        self.choices.append(
            Choice(
                where=where,
                type=kind,
                environment=self.environment,
                source=source,
                reason=reason,
                value=value,
                **ids,
            )
        )


def _reference(part: object) -> Reference:
    if not isinstance(part, Label | Variable | Stored):
        raise TypeError("an argument can only stand in a path")
    return part


def _meaning(secret: ResolvedSecret) -> Meaning:
    return Meaning(secret.value.reveal(), is_secret=True, secret=secret)


def _text(value: object) -> str:
    """Write a variable's value as text: a string as it is, anything else as JSON."""
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
