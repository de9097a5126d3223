"""A document as text: the same bytes for the same document, whatever library is installed.

* What any YAML reader could take for something else than text is quoted.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

from broker.environment_file.document import Document, to_plain
from broker.environment_file.tree import escaped, meaning_of

HEADER: Final = (
    "# Keyturn environment file; docs/reference/environment-file.md explains it.\n"
    "# It holds no secret: secrets and auth connections stand here by name.\n"
)
_PLAIN: Final = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*", re.ASCII)


def write(document: Document) -> str:
    """The whole file."""
    return HEADER + "\n".join(_lines(to_plain(document), "")) + "\n"


def _lines(plain: Mapping[str, Any], indent: str) -> list[str]:
    found: list[str] = []
    for key, value in plain.items():
        name = f"{indent}{_scalar(key)}:"
        if isinstance(value, dict) and value:
            found += [name, *_lines(value, indent + "  ")]
        elif isinstance(value, list) and value:
            found += [name, *(f"{indent}  - {_scalar(item)}" for item in value)]
        else:
            found.append(f"{name} {_leaf(value)}")
    return found


def _leaf(value: object) -> str:
    if isinstance(value, dict):
        return "{}"
    if isinstance(value, list):
        return "[]"
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, int) else _scalar(str(value))


def _scalar(text: str) -> str:
    if _PLAIN.fullmatch(text) and not meaning_of(text):
        return text
    return f'"{escaped(text)}"'
