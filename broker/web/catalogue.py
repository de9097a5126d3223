"""From a provider's file to what a page says: its name, its scopes in words, what to fill in.

The words are data: ``scopes.toml``, by the provider's id. A provider that extends another one knows
the other's words, too. A scope without words is shown as it is.
"""

import re
import tomllib
from collections.abc import Iterable, Mapping
from functools import cache
from importlib import resources
from typing import Final

from msgspec import structs

from broker.web.connect import Input, Scope
from vault.providers.check import TYPED_NAMES
from vault.providers.schema import Provider, Variable

_LABELS: Final = {
    "api_key": "API key",
    "username": "User name",
    "password": "Password",
    "header_name": "Name of the header",
    "header_value": "Value of the header",
}
_SECRET: Final = {"api_key", "password", "header_value"}
_HEADER_NAME: Final = "[A-Za-z0-9\\-]{1,64}"
_REMARK: Final = re.compile(r" \([^()]*\)")
# A bracket of a pattern, and what a browser wants escaped within one while Python does not.
_BRACKET: Final = re.compile(r"\[(\^?)((?:\\.|[^\]\\])+)\]")
_IN_BRACKET: Final = re.compile(r"\\.|[(){}/|\[]|^-|-$")


def service_name(provider: Provider, integration: str) -> str:
    """What people call it: 'Slack'. A generic entry is called by the integration's own id."""
    if "generic" in provider.categories:
        return integration.replace("_", " ").capitalize()
    return _REMARK.sub("", provider.name)


def scopes_in_words(provider: Provider, scopes: Iterable[str]) -> tuple[Scope, ...]:
    """Describe what is asked for, in the order given; what means the same is said once."""
    known = _words()
    found: dict[str, Scope] = {}
    for raw in scopes:
        words = next(
            (
                known[family][raw]
                for family in (provider.id, provider.extends or "", "any")
                if raw in known.get(family, {})
            ),
            None,
        )
        found.setdefault(words or raw, Scope(raw=raw, words=words))
    return tuple(found.values())


def inputs_of(
    provider: Provider, filled: Mapping[str, str] = {}, problems: Mapping[str, str] = {}
) -> tuple[Input, ...]:
    """What the person fills in: the file's variables, then the credential, where one is typed.

    ``filled``: what was typed before; a secret is never shown again.
    """
    asked = {
        name: _of_variable(name, variable, lines=name == _key(provider))
        for name, variable in provider.variables.items()
        if variable.filled_by == "person"
    }
    for name in sorted(TYPED_NAMES.get(provider.mode or "", ()), key=list(_LABELS).index):
        if name not in provider.variables and f"{{{name}}}" in _uses(provider):
            asked[name] = _of_credential(name)
    return tuple(
        _again(one, filled.get(name, ""), problems.get(name, "")) for name, one in asked.items()
    )


def browser_pattern(pattern: str) -> str:
    """The same expression for a browser, which anchors by itself and is stricter in brackets.

    It only saves a round trip; whoever takes the form checks again.
    """
    inner = pattern.removeprefix("^").removesuffix("$").removesuffix("(?!\\n)")
    return _BRACKET.sub(lambda found: f"[{found[1]}{_IN_BRACKET.sub(_escaped, found[2])}]", inner)


def _escaped(found: re.Match[str]) -> str:
    return found[0] if len(found[0]) == len(r"\.") else f"\\{found[0]}"


def _uses(provider: Provider) -> str:
    return f"{provider.api.header} {provider.api.value} {provider.api.base_url}"


def _key(provider: Provider) -> str | None:
    """The variable that holds a private key, which has many lines."""
    return provider.assertion.key if provider.assertion else None


def _of_variable(name: str, variable: Variable, *, lines: bool) -> Input:
    return Input(
        name=name,
        label=variable.label or name.replace("_", " ").capitalize(),
        kind=variable.kind,
        example=variable.example or "",
        pattern=browser_pattern(variable.pattern or ""),
        required=not variable.optional,
        value=variable.default or "",
        lines=lines,
    )


def _of_credential(name: str) -> Input:
    return Input(
        name=name,
        label=_LABELS[name],
        kind="secret" if name in _SECRET else "text",
        pattern=_HEADER_NAME if name == "header_name" else "",
    )


def _again(one: Input, value: str, problem: str) -> Input:
    kept = one.value if one.kind == "secret" or not value else value
    return structs.replace(one, value=kept, problem=problem)


@cache
def _words() -> Mapping[str, Mapping[str, str]]:
    text = (resources.files("broker.web") / "scopes.toml").read_text()
    return tomllib.loads(text)
