"""How ElevenLabs fills text in: ``{{name}}``, environment variables, header values.

* ``{{system__env_<label>}}`` is the label's value in the conversation's environment, else in
  ``production``; where there is neither, the call fails with a configuration error.
* A name that is not given fails, too. What is filled in is not read again.
* A header is a text, ``{"secret_id"}``, ``{"variable_name"}`` or ``{"env_var_label"}``.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from broker.sandbox.elevenlabs.account import PRODUCTION, SECRET, Account

SYSTEM: Final = "system__"
ENVIRONMENT: Final = "system__env_"

_HOLE = re.compile(r"\{\{\s*([A-Za-z_][A-Za-z0-9_.-]*)\s*\}\}")


class Unconfigured(Exception):
    """A tool, a prompt or a webhook that cannot be filled in."""


class Filling:
    """The values of one conversation, in one environment."""

    def __init__(self, account: Account, environment: str, variables: Mapping[str, Any]) -> None:
        self.environment = environment
        self._account = account
        self._variables = variables

    def value(self, name: str) -> Any:  # noqa: ANN401 - any JSON
        """Return what this name stands for."""
        if name.startswith(ENVIRONMENT):
            return self.of_label(name.removeprefix(ENVIRONMENT), "string")
        if name not in self._variables:
            raise Unconfigured(f"The dynamic variable '{name}' is not known.")
        return self._variables[name]

    def text(self, template: str) -> str:
        """Fill a text in."""
        return _HOLE.sub(lambda hole: as_text(self.value(hole[1])), template)

    def header(self, value: object) -> str:
        """Say what is sent for a header's configuration."""
        if isinstance(value, str):
            return self.text(value)
        if not isinstance(value, dict):
            raise Unconfigured("A header is a text or a reference.")
        if isinstance(name := value.get("variable_name"), str):
            return as_text(self.value(name))
        if isinstance(secret_id := value.get("secret_id"), str):
            return self._secret(secret_id)
        if isinstance(label := value.get("env_var_label"), str):
            return str(self.of_label(label, "string", "secret"))
        raise Unconfigured("A header is a text or a reference.")

    def of_label(self, label: str, *types: str) -> str:
        """Return the text or the secret that the label stands for; else the connection's id."""
        found = next((one for one in self._account.variables.values() if one.label == label), None)
        if found is None:
            raise Unconfigured(f"The environment variable '{label}' is not known.")
        if found.type not in types:
            raise Unconfigured(f"The environment variable '{label}' is of type '{found.type}'.")
        value = found.values.get(self.environment, found.values[PRODUCTION])
        if found.type == "secret":
            return self._secret(value["secret_id"])
        return str(value["auth_connection_id"] if found.type == "auth_connection" else value)

    def _secret(self, secret_id: str) -> str:
        if (found := self._account.secrets.get(secret_id)) is None:
            raise Unconfigured(f"The secret '{secret_id}' is not known.")
        return found.value


def names_in(template: str) -> list[str]:
    """The variables that a text names."""
    return _HOLE.findall(template)


def needed_in(held: object) -> Iterator[str]:
    """The dynamic variables that a tool's configuration needs, wherever they stand."""
    if isinstance(held, str):
        yield from (name for name in names_in(held) if not name.startswith(SYSTEM))
    elif isinstance(held, dict):
        for key, value in held.items():
            named = key in ("variable_name", "dynamic_variable") and isinstance(value, str)
            if named and value and not value.startswith(SYSTEM):
                yield value
            elif not named:
                yield from needed_in(value)
    elif isinstance(held, list):
        for one in held:
            yield from needed_in(one)


def secret_names(template: str) -> list[str]:
    """The secret variables that a text names."""
    return [name for name in names_in(template) if name.startswith(SECRET)]


def as_text(value: object) -> str:
    """Write a variable's value as text."""
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
