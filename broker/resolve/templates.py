"""Text with holes: what a configuration refers to, and where. Pure; knows no value.

* ``{{system__env_<label>}}`` is an environment variable, ``{{ name }}`` a dynamic variable of the
  request; spaces inside the braces do not matter.
* Text is read once. What is put into a hole is never read again, so a value that looks like a
  template arrives as it is.
* Braces that open something which is no template are refused: sent as they are, they would be a
  silent mistake.
* A ``secret__`` variable, like a secret, belongs into a header: addresses and bodies end up in
  logs, in transcripts and before the model.
"""

import re
from typing import Final

from msgspec import Struct

from vault.errors import Invalid
from vault.model import LABEL_PATTERN

ENVIRONMENT_PREFIX: Final = "system__env_"
SECRET_PREFIX: Final = "secret__"  # noqa: S105 - how a name begins
VARIABLE_PATTERN: Final = r"^[A-Za-z_][A-Za-z0-9_.-]{0,127}(?!\n)$"

_HOLE = re.compile(r"\{\{[ \t]*([A-Za-z_][A-Za-z0-9_.-]{0,127})[ \t]*\}\}")
_LABEL = re.compile(LABEL_PATTERN)
_VARIABLE = re.compile(VARIABLE_PATTERN)
_SAFE = re.compile(r"[A-Za-z0-9_.-]{1,64}")


class Label(Struct, frozen=True):
    """An environment variable."""

    label: str


class Variable(Struct, frozen=True):
    """A dynamic variable of the request."""

    name: str

    @property
    def is_secret(self) -> bool:
        return self.name.startswith(SECRET_PREFIX)


class Stored(Struct, frozen=True):
    """A secret of the workspace, the same in every environment."""

    secret_id: str


class Connection(Struct, frozen=True):
    """An auth connection of the workspace."""

    auth_connection_id: str


class Argument(Struct, frozen=True):
    """What the model fills in."""

    name: str


Part = str | Label | Variable | Stored | Argument


class Template(Struct, frozen=True):
    """Words and holes in their order, and the place in the configuration where they stand."""

    parts: tuple[Part, ...]
    where: str


def parse(text: str, where: str) -> Template:
    """Read a text that may hold secrets: a header's value."""
    parts: list[Part] = []
    end = 0
    for hole in _HOLE.finditer(text):
        parts += _words(text[end : hole.start()], where)
        parts.append(named(hole[1], where))
        end = hole.end()
    parts += _words(text[end:], where)
    return Template(tuple(parts), where)


def parse_open(text: str, where: str) -> Template:
    """Read a text that is sent where others see it: no secret may stand in it."""
    template = parse(text, where)
    for part in template.parts:
        if isinstance(part, Variable):
            refuse_secret(part, where)
    return template


def named(name: str, where: str) -> Label | Variable:
    """Turn a variable's name into what it stands for."""
    if _VARIABLE.fullmatch(name) is None:
        raise invalid("This is not the name of a variable.", where)
    if not name.startswith(ENVIRONMENT_PREFIX):
        return Variable(name)
    return label_of(name.removeprefix(ENVIRONMENT_PREFIX), where)


def label_of(text: str, where: str) -> Label:
    if _LABEL.fullmatch(text) is None:
        raise invalid("This is not the label of an environment variable.", where)
    return Label(text)


def refuse_secret(part: Label | Variable, where: str) -> None:
    """Refuse a variable whose name says that it is secret."""
    if isinstance(part, Variable) and part.is_secret:
        raise not_here(f"The dynamic variable '{part.name}'", where)


def not_here(what: str, where: str) -> Invalid:
    return invalid(
        f"{what} is secret, and a secret may only be used in a header: never in an address,"
        " a parameter or a body.",
        where,
    )


def invalid(message: str, where: str) -> Invalid:
    """Say what is wrong, and at which place of the configuration."""
    return Invalid(message, pointer=f"/config{where}")


def below(where: str, *names: str) -> str:
    """Name a place further in; a name that may be anything is not repeated."""
    return "/".join([where, *(name if _SAFE.fullmatch(name) else "*" for name in names)])


def _words(text: str, where: str) -> list[Part]:
    if "{{" in text:
        raise invalid(
            "'{{' opens nothing that can be resolved: write {{system__env_<label>}} for an"
            " environment variable, or {{name}} for a dynamic variable.",
            where,
        )
    return [text] if text else []
