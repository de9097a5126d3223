"""Strict YAML: text becomes mappings, lists and scalars that know their line. Nothing is guessed.

* What YAML reads as something else than text (``no``, ``on``, ``012``, ``1e3``, ``2026-01-31``,
  ``~``) is not taken for text; who wants the text is told to quote it. This covers both YAML 1.1
  and 1.2, which differ: a file means the same to every reader.
* Keys are text and stand once. Anchors, aliases, tags, merge keys and a second document are
  refused, so no file is larger in memory than on disk, and none can name a Python object.
* ``hush`` reads a file of secrets: its messages have a line, and not a character of the file.
"""

import re
from collections.abc import Iterator
from typing import Any, Final

import msgspec
import yaml  # type: ignore[import-untyped] # it ships no types
from msgspec import Struct

from vault.errors import Invalid

MAX_SIZE: Final = 8 << 20  # bytes
MAX_DEPTH: Final = 8

_LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_RESOLVER: Final = yaml.resolver.Resolver()
_TEXT: Final = "tag:yaml.org,2002:str"
_MEANINGS: Final = {"bool": "a boolean", "int": "a number", "float": "a number", "null": "nothing"}
# What PyYAML, which is YAML 1.1 with exceptions, takes for text, and another reader does not.
_ELSEWHERE: Final = re.compile(
    r"[yYnN]|[-+]?0o[0-7]+|[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)[eE][-+]?\d+"
)


class Scalar(Struct, frozen=True):
    """``meaning`` is empty for text, else what YAML takes the plain word for."""

    line: int
    text: str
    meaning: str = ""


class Sequence(Struct, frozen=True):
    line: int
    items: list["Node"]


class Mapping(Struct, frozen=True):
    line: int
    entries: dict[str, "Node"]


Node = Scalar | Sequence | Mapping


def parse(content: bytes, *, hush: bool = False) -> Node:
    """Read one document."""
    if len(content) > MAX_SIZE:
        raise Invalid(f"it is larger than {MAX_SIZE >> 20} MiB")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise Invalid("it is not UTF-8 text") from None
    problem = ""
    try:
        return _Builder(text, hush=hush).document()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        what = "this is not YAML" if hush else f"this is not YAML: {error.problem}"
        problem = f"{_at(mark.line + 1 if mark else 1)}: {what}"
    except yaml.YAMLError:
        problem = "it holds a character that YAML does not allow"
    # Raised out here so that not even its context leads to the parser's error, which keeps text.
    raise Invalid(problem)


def meaning_of(text: str) -> str:
    """What YAML takes a plain word for; empty if for text."""
    tag: str = _RESOLVER.resolve(yaml.ScalarNode, text, (True, False))
    if tag == _TEXT:
        return "a number or a boolean" if _ELSEWHERE.fullmatch(text) else ""
    short = tag.rpartition(":")[2]
    return _MEANINGS.get(short, "a date" if short == "timestamp" else "something else")


def plain(node: Node) -> Any:  # noqa: ANN401 - plain data is of any type
    """Dictionaries, lists and text; numbers and booleans where they are written as such."""
    if isinstance(node, Mapping):
        return {key: plain(value) for key, value in node.entries.items()}
    if isinstance(node, Sequence):
        return [plain(item) for item in node.items]
    if node.meaning == "a boolean" and node.text in ("true", "false"):
        return node.text == "true"
    if node.meaning == "a number" and re.fullmatch(r"0|[1-9][0-9]{0,9}", node.text):
        return int(node.text)
    return msgspec.UNSET if node.meaning else node.text


class _Builder:
    """One pass over the parser's events."""

    def __init__(self, text: str, *, hush: bool) -> None:
        self._events: Iterator[Any] = yaml.parse(text, Loader=_LOADER)
        self._hush = hush

    def document(self) -> Node:
        event = next(self._events)  # the stream starts
        event = next(self._events)
        if isinstance(event, yaml.StreamEndEvent):
            raise Invalid("it is empty")
        node = self._node(next(self._events), 0)
        next(self._events)  # the document ends
        after = next(self._events)
        if not isinstance(after, yaml.StreamEndEvent):
            raise self._refusal(after, "a second document begins; a file holds one")
        return node

    def _node(self, event: Any, depth: int) -> Node:  # noqa: ANN401 - the parser has no types
        if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
            raise self._refusal(
                event, "anchors (&x) and aliases (*x) are not taken; quote the text"
            )
        if event.tag is not None:
            raise self._refusal(event, "tags (!x) are not taken; quote the text")
        if depth > MAX_DEPTH:
            raise self._refusal(event, "this is nested too deeply")
        line = event.start_mark.line + 1
        if isinstance(event, yaml.MappingStartEvent):
            return Mapping(line, self._entries(depth + 1))
        if isinstance(event, yaml.SequenceStartEvent):
            items = []
            while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
                items.append(self._node(event, depth + 1))
            return Sequence(line, items)
        return Scalar(line, event.value, meaning_of(event.value) if event.implicit[0] else "")

    def _entries(self, depth: int) -> dict[str, Node]:
        entries: dict[str, Node] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            key = self._node(event, depth)
            if not isinstance(key, Scalar):
                raise self._refusal(event, "a key must be text")
            if key.meaning:
                raise self._refusal(event, quote_it(key, hush=self._hush, what="this key"))
            if key.text in entries:
                named = "this key" if self._hush else f"the key {shown(key.text)}"
                raise self._refusal(event, f"{named} stands twice")
            entries[key.text] = self._node(next(self._events), depth)
        return entries

    def _refusal(self, event: Any, reason: str) -> Invalid:  # noqa: ANN401 - as _node
        return Invalid(f"{_at(event.start_mark.line + 1)}: {reason}")


def quote_it(scalar: Scalar, *, hush: bool = False, what: str = "this") -> str:
    """Say that text was wanted, and YAML reads something else."""
    if hush:
        return f"YAML does not take {what} for text: quote it"
    if scalar.text == "":
        return f"{what} is empty; text is wanted here"
    return f"YAML takes {shown(scalar.text)} for {scalar.meaning}: quote it, as in '{scalar.text}'"


def shown(text: str, limit: int = 80) -> str:
    """Text as it may go to a terminal: one line, nothing that moves the cursor, not too long."""
    cut = text if len(text) <= limit else f"{text[: limit - 1]}…"
    return f'"{escaped(cut)}"'


def escaped(text: str) -> str:
    """The inside of a double-quoted YAML scalar."""
    return "".join(_escape(char) for char in text)


def _escape(char: str) -> str:
    if char in '"\\':
        return f"\\{char}"
    if char.isprintable():
        return char
    short = {"\n": "\\n", "\t": "\\t", "\r": "\\r"}.get(char)
    code = ord(char)
    if short is None:
        short = f"\\x{code:02x}" if code < 1 << 8 else f"\\u{code:04x}"
        short = short if code < 1 << 16 else f"\\U{code:08x}"
    return short


def _at(line: int) -> str:
    return f"line {line}"
