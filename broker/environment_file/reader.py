"""A place in a file: a node, the way to it, and somewhere to complain.

* A complaint names the line and the path, and never stops the reading: all of them are listed.
* What cannot be read counts as empty, so that one mistake makes one complaint.
"""

import re
from collections.abc import Collection, Iterator
from typing import Annotated, Any, Final, get_args, get_origin

import msgspec

from broker.environment_file.tree import Mapping, Node, Scalar, Sequence, plain, quote_it, shown

MAX_PROBLEMS: Final = 50
_BARE: Final = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)


class Problems:
    """What is wrong with a file, in the order in which it is read."""

    def __init__(self) -> None:
        self.found: list[str] = []
        self.misshapen: set[str] = set()

    def add(self, problem: str) -> None:
        if len(self.found) == MAX_PROBLEMS:
            self.found.append("... and more")
        if len(self.found) < MAX_PROBLEMS and problem not in self.found:
            self.found.append(problem)


class Place:
    """One node of the file."""

    def __init__(self, problems: Problems, node: Node, path: str = "") -> None:
        self._problems = problems
        self._node = node
        self._path = path

    def complain(self, reason: str) -> None:
        if self._path in self._problems.misshapen:
            return
        where = f", {self._path}" if self._path else ""
        self._problems.add(f"line {self._node.line}{where}: {reason}")

    def entries(self) -> list[tuple[str, "Place"]]:
        """A mapping's entries."""
        if isinstance(self._node, Mapping):
            return [(key, self._at(key, node)) for key, node in self._node.entries.items()]
        if not (isinstance(self._node, Scalar) and self._node.meaning == "nothing"):
            self._misshapen("this must be a mapping of names")
        return []

    def get(self, key: str) -> "Place | None":
        """An entry of a mapping, if it is there."""
        if not isinstance(self._node, Mapping):
            self.entries()
            return None
        node = self._node.entries.get(key)
        return None if node is None else self._at(key, node)

    def only(self, keys: Collection[str]) -> None:
        """Complain of every other key."""
        for key, place in self.entries():
            if key not in keys:
                place.complain("there is no such key here")

    def text(self) -> str:
        if not isinstance(self._node, Scalar):
            self._misshapen("this must be text")
            return ""
        if self._node.meaning:
            self._misshapen(quote_it(self._node))
            return ""
        return self._node.text

    def text_of(self, key: str) -> str:
        """The text of an entry; empty if it is not there."""
        found = self.get(key)
        return found.text() if found else ""

    def items(self) -> "list[Place]":
        """A list's items."""
        if not isinstance(self._node, Sequence):
            self._misshapen("this must be a list")
            return []
        return [
            Place(self._problems, node, f"{self._path}[{number}]")
            for number, node in enumerate(self._node.items)
        ]

    def number(self) -> int | None:
        """A whole number."""
        value = self.value()
        return value if type(value) is int else None

    def value(self) -> Any:  # noqa: ANN401 - plain data is of any type
        """Text, number or boolean, as written."""
        return plain(self._node)

    def convert(self, kind: Any) -> Any:  # noqa: ANN401 - a type has no better type
        """Read a value of this type; text must be text to every YAML reader."""
        base = get_args(kind)[0] if get_origin(kind) is Annotated else kind
        value = self.value()
        if base is bool and not isinstance(value, bool):
            self.complain("write true or false")
            return None
        if base is int and type(value) is not int:
            self.complain("this must be a whole number")
            return None
        guessed = [] if base in (bool, int) else [one for one in self.leaves() if one[1].meaning]
        for leaf, scalar in guessed:
            leaf.complain(quote_it(scalar))
        if guessed:
            return None
        try:
            return msgspec.convert(value, kind)
        except msgspec.ValidationError as error:
            self.complain(_reason(error))
            return None

    def matches(self, text: str, pattern: str, reason: str) -> None:
        """Complain of text that does not match."""
        if re.fullmatch(pattern.removeprefix("^").removesuffix("$"), text) is None:
            self.complain(f"{shown(text)}: {reason}")

    def leaves(self) -> "Iterator[tuple[Place, Scalar]]":
        """Every scalar below this place, with its own place."""
        if isinstance(self._node, Scalar):
            yield self, self._node
        elif isinstance(self._node, Sequence):
            for place in self.items():
                yield from place.leaves()
        else:
            for _, place in self.entries():
                yield from place.leaves()

    def _misshapen(self, reason: str) -> None:
        """Complain, and of this place no more."""
        self.complain(reason)
        self._problems.misshapen.add(self._path)

    def _at(self, key: str, node: Node) -> "Place":
        step = key if _BARE.fullmatch(key) else shown(key)
        return Place(self._problems, node, f"{self._path}.{step}" if self._path else step)


def _reason(error: msgspec.ValidationError) -> str:
    reason, _, path = str(error).partition(" - at `$")
    reason = reason.replace("`", "")
    inner = path.rstrip("`")
    return f"{reason[0].lower()}{reason[1:]}" + (f" (at {inner})" if inner else "")
