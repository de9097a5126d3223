"""Labels and environments: which value a label has where. Pure; no I/O.

The rule, which is ElevenLabs': the asked environment's value, else production's, else an error
that names the label and the environment. Never an empty string.

* With ``secret_fallback`` off, a secret or an auth connection does not fall back.
* A host that is overridden in an environment beside a secret that falls back sends production's
  secret to that host: ``fallback_warnings`` names every such pair.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Final, Protocol, TypeVar

from msgspec import Struct

from vault.errors import Unresolved
from vault.model import PRODUCTION, VariableType

C = TypeVar("C", bound="Candidate")

# What makes a string look like it decides where a request goes.
_HOST_LABEL: Final = re.compile(r"(?i)(host|url|domain|origin|endpoint|server|base|address)")


class Candidate(Protocol):
    """One value of a label in one environment."""

    @property
    def label(self) -> str: ...
    @property
    def type(self) -> VariableType: ...
    @property
    def environment(self) -> str: ...


class Labelled(Protocol):
    """A label, and the environments in which it has a value."""

    @property
    def label(self) -> str: ...
    @property
    def type(self) -> VariableType: ...
    @property
    def environments(self) -> Sequence[str]: ...


class FallbackWarning(Struct, frozen=True):
    """In ``environment`` the host ``host`` is its own, and ``secret`` is still production's."""

    environment: str
    host: str
    secret: str

    @property
    def text(self) -> str:
        return (
            f"In '{self.environment}' the host label '{self.host}' has a value of its own, but "
            f"'{self.secret}' falls back: production's secret would be sent to that host."
        )


def choose(candidates: Iterable[C], label: str, environment: str, *, secret_fallback: bool) -> C:
    """Pick the value of a label, or say that it has none."""
    by_environment = {one.environment: one for one in candidates if one.label == label}
    if chosen := by_environment.get(environment):
        return chosen
    fallback = by_environment.get(PRODUCTION)
    if fallback is None:
        raise Unresolved(
            f"The environment variable '{label}' has no value in '{environment}', "
            "and none in 'production' to fall back to."
        )
    if fallback.type != "string" and not secret_fallback:
        raise Unresolved(
            f"The environment variable '{label}' has no value in '{environment}', "
            "and this workspace does not let secrets fall back to 'production'."
        )
    return fallback


def fallback_warnings(
    variables: Iterable[Labelled], environments: Iterable[str]
) -> list[FallbackWarning]:
    """Every pair of a host that is overridden and a secret that is not, by environment."""
    known = list(variables)
    found = []
    for environment in environments:
        if environment == PRODUCTION:
            continue
        hosts = [
            one.label
            for one in known
            if one.type == "string"
            and environment in one.environments
            and _HOST_LABEL.search(one.label)
        ]
        secrets = [
            one.label
            for one in known
            if one.type != "string" and environment not in one.environments
        ]
        found += [
            FallbackWarning(environment, host, secret) for host in hosts for secret in secrets
        ]
    return found
