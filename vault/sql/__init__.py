"""Statements live in ``.sql`` files, one file a noun; here they become objects that can be run.

* ``Query("users", "get", Row)`` is made at import time: a name that does not exist fails there.
* Parameters are written ``:name`` and passed by name; a missing or a superfluous one is an error.
* A batch is sent column by column: what a statement cuts apart by ``string_to_array(:name, ...)``
  as lines, the rest as arrays.
* A row becomes a struct by position; ``tests/vault/test_queries.py`` prepares every statement on
  the migrated schema and compares names and types.
"""

import re
from collections.abc import Callable, Sequence
from functools import cache
from importlib import resources
from operator import attrgetter
from typing import Any, Final, Generic, NamedTuple, TypeVar

import msgspec

from vault.database import Database, Transaction
from vault.errors import VaultError

R = TypeVar("R", bound=msgspec.Struct)

_NAME = re.compile(r"^-- name: ([a-z_]+)$", re.MULTILINE)
_COMMENT = re.compile(r"--[^\n]*")
_AS_LINES = re.compile(r"\bstring_to_array\(:([a-z_]+)\b")
_PARAMETER = re.compile(r"(?<![:\w]):([a-z_]+)\b")
_REGISTRY: Final[dict[str, "Query[msgspec.Struct]"]] = {}


class Nothing(msgspec.Struct, frozen=True):
    """The row of a statement that returns none."""


class Query(Generic[R]):
    """One statement, with the struct that its rows become."""

    def __init__(self, noun: str, name: str, row: type[R], *, package: str = "vault") -> None:
        text = _statements(package, noun)[name]
        self.name = f"{package}.{noun}.{name}"
        self.row = row
        self.parameters, self.sql = _numbered(text)
        self._takes = frozenset(self.parameters)
        self._as_lines = frozenset(_AS_LINES.findall(_COMMENT.sub("", text)))
        self._cuts: dict[type[msgspec.Struct], _Cut] = {}
        _REGISTRY[self.name] = self  # type: ignore[assignment] # the registry does not care of which struct

    async def all(self, transaction: Transaction, **arguments: object) -> list[R]:
        rows = await transaction.fetch(self.sql, self._values(arguments))
        return [self.row(*row) for row in rows]

    async def maybe(self, transaction: Transaction, **arguments: object) -> R | None:
        rows = await transaction.fetch(self.sql, self._values(arguments))
        return self.row(*rows[0]) if rows else None

    async def one(self, transaction: Transaction, **arguments: object) -> R:
        [row] = await transaction.fetch(self.sql, self._values(arguments))
        return self.row(*row)

    async def run(self, transaction: Transaction, **arguments: object) -> None:
        await transaction.fetch(self.sql, self._values(arguments))

    async def lookup(self, database: Database, **arguments: object) -> R | None:
        """Run outside of any workspace; see ``Database.lookup``."""
        rows = await database.lookup(self.sql, self._values(arguments))
        return self.row(*rows[0]) if rows else None

    async def lookup_all(self, database: Database, **arguments: object) -> list[R]:
        """The same, for as many rows as there are."""
        return [self.row(*row) for row in await database.lookup(self.sql, self._values(arguments))]

    async def deed(self, database: Database, **arguments: object) -> list[R]:
        """Write outside of any one workspace; see ``Database.deed``."""
        return [self.row(*row) for row in await database.deed(self.sql, self._values(arguments))]

    def columns(self, rows: Sequence[msgspec.Struct]) -> dict[str, object]:
        """For a statement that takes a batch column by column: those fields of these rows that are
        called as its parameters are.
        """
        kind = type(rows[0])
        cut = self._cuts.get(kind) or self._cuts.setdefault(kind, self._cut(kind))
        columns = zip(*map(cut.fields_of, rows), strict=True)
        return {
            name: send(values)
            for name, send, values in zip(cut.names, cut.sends, columns, strict=True)
        }

    def _cut(self, kind: type[msgspec.Struct]) -> "_Cut":
        names = [name for name in self.parameters if name in kind.__struct_fields__]
        sends = [lines if name in self._as_lines else column for name in names]
        return _Cut(names, sends, attrgetter(*names))

    def _values(self, arguments: dict[str, object]) -> list[object]:
        if arguments.keys() != self._takes:
            raise TypeError(f"{self.name} takes {self.parameters}, not {tuple(arguments)}")
        return list(map(arguments.__getitem__, self.parameters))


class _Cut(NamedTuple):
    """How rows of one kind become columns: which, how each is sent, and all fields of a row."""

    names: Sequence[str]
    sends: Sequence[Callable[[Sequence[Any]], object]]
    fields_of: Callable[[msgspec.Struct], tuple[object, ...]]


def every_query() -> dict[str, Query[msgspec.Struct]]:
    """All statements that the loaded modules use, for the tests that check them."""
    return dict(_REGISTRY)


def column(values: Sequence[object]) -> list[object]:
    """What of a batch goes into one column. One of nulls is sent empty, since sending costs by the
    value: ``unnest`` fills up with nulls what is shorter than the rest.
    """
    return [] if values.count(None) == len(values) else list(values)


def lines(values: Sequence[Any]) -> str:
    """The same as one text: of texts each has its end of line, numbers and truths have spaces
    between them. The driver looks at each element of an array for longer than PostgreSQL takes to
    cut a text. Nulls are sent as with ``column``: all, or none.
    """
    if values[0] is None:
        if values.count(None) < len(values):
            raise VaultError("Of a batch that is sent as a text, some have one and some have none.")
        return ""
    if not isinstance(values[0], str):
        return " ".join(map(str, values))
    text = "\n".join(values) + "\n"
    if text.count("\n") != len(values):
        raise VaultError("A text of a batch holds a line break.")  # the others' are sent without it
    return text


@cache
def _statements(package: str, noun: str) -> dict[str, str]:
    text = (resources.files(package) / "sql" / f"{noun}.sql").read_text()
    _, *parts = _NAME.split(text)
    return dict(zip(parts[::2], parts[1::2], strict=True))


def _numbered(text: str) -> tuple[tuple[str, ...], str]:
    """Replace ``:name`` by ``$n``; comments go, since they may hold colons too."""
    parameters: list[str] = []

    def number(match: re.Match[str]) -> str:
        if match[1] not in parameters:
            parameters.append(match[1])
        return f"${parameters.index(match[1]) + 1}"

    sql = _PARAMETER.sub(number, _COMMENT.sub("", text)).strip().rstrip(";")
    return tuple(parameters), sql
