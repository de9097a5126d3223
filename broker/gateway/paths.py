"""The path of a call through the gateway: read once, and refused where two readers could differ.

* ``..``, ``.``, ``//``, encoded slashes and backslashes, control characters, fragments and what is
  encoded twice are refused, and not repaired: nobody who means well sends them.
* So are their look-alikes: bytes that are no UTF-8 (an overlong slash), and characters that
  Unicode's compatibility forms turn into one of the above. A path parameter (``..;x``) hides
  nothing either.
* What is checked is what is sent: there is one spelling of a path, and the URL reader of the way
  out leaves it as it is.
* What is forbidden is compared without regard to case and encoding, since servers differ in that.
  What is allowed is compared exactly, segment by segment: ``*`` is one segment, and ``**`` at the
  end is one or more.

Pure.
"""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Final, NoReturn
from urllib.parse import unquote_to_bytes

from msgspec import Struct

from vault.errors import Invalid

MAX_PATH: Final = 2_048
MAX_QUERY: Final = 4_096
ANY: Final = "*"
REST: Final = "**"
WITHOUT_RULES: Final = frozenset({"GET", "HEAD"})
# A query that says which method is meant would go past the rules for methods.
METHOD_NAMES: Final = frozenset(
    {"_method", "_httpmethod", "x-http-method", "x-http-method-override", "$httpmethod"}
)
# OData's batch, wherever it stands: one request that holds others.
NEVER: Final = frozenset({"$batch"})

# RFC 3986 section 3.3 and 3.4; of what else browsers send in a query, what needs no care.
_PATH: Final = re.compile(r"(?:/(?:[A-Za-z0-9._~!$&'()*+,;=:@-]|%[0-9A-Fa-f]{2})*)+")
_QUERY: Final = re.compile(r"(?:[A-Za-z0-9._~!$&'()*+,;=:@/?\[\]{}|^`-]|%[0-9A-Fa-f]{2})*")
_ENCODED: Final = re.compile(r"%[0-9A-Fa-f]{2}")
# What yarl, too, writes as it is.
_PLAIN: Final = frozenset(
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~!$&'()*,;=:@"
)
_DOTS: Final = frozenset({".", ".."})


class Rule(Struct, frozen=True, kw_only=True):
    """What a profile allows. ``path`` begins with a slash."""

    methods: tuple[str, ...]
    path: str


class Target(Struct, frozen=True, kw_only=True):
    """Where a call goes below the base URL. Its repr shows nothing: a query may hold anything.

    ``segments``: what the path says, decoded, for comparing.
    """

    path: str
    query: str
    segments: tuple[str, ...]

    def __repr__(self) -> str:
        return "Target(***)"


def read(path: bytes, query: bytes) -> Target:
    """Read what came in the request line; ``path`` begins with the slash after the integration."""
    if len(path) > MAX_PATH:
        _refuse(f"is longer than {MAX_PATH} bytes")
    if len(query) > MAX_QUERY:
        raise Invalid(f"The query is longer than {MAX_QUERY} bytes.", pointer="/query")
    text = path.decode("ascii", "replace")
    if _PATH.fullmatch(text) is None:
        _refuse("holds a character that has to be encoded, or begins with no slash")
    segments = tuple(_decoded(part) for part in text.split("/")[1:])
    _refuse_tricks(segments)
    return Target(path=_ENCODED.sub(_spelled, text), query=_checked_query(query), segments=segments)


def allows(rules: Sequence[Rule] | None, method: str, target: Target) -> bool:
    """May this be called? Where nobody wrote rules, what only reads may."""
    if rules is None:
        return method in WITHOUT_RULES
    return any(method in one.methods and _matches(one.path, target.segments) for one in rules)


def is_forbidden(target: Target, base_path: str, forbidden: Iterable[str]) -> bool:
    """Is it, or is it below, one of these paths, counted from the base URL or from the host?"""
    below = _compared(target.segments)
    if any(segment in NEVER for segment in below):
        return True
    whole = (*_compared(_segments(base_path)), *below)
    for path in forbidden:
        parts = _compared(_segments(path))
        if parts and parts in (below[: len(parts)], whole[: len(parts)]):
            return True
    return False


def check_rule(rule: Rule) -> None:
    """Refuse a rule that could never hold, or says something else than it seems to."""
    plain = "/".join("x" if part in (ANY, REST) else part for part in rule.path.split("/"))
    read(plain.encode("utf-8", "surrogatepass"), b"")
    if REST in rule.path.split("/")[:-1]:
        raise Invalid("In an allowed path '**' stands at the end.", pointer="/path")
    if any("*" in part and part not in (ANY, REST) for part in rule.path.split("/")):
        raise Invalid("In an allowed path '*' stands for a whole segment.", pointer="/path")


def _matches(pattern: str, segments: tuple[str, ...]) -> bool:
    parts = _segments(pattern)
    if parts and parts[-1] == REST:
        parts = parts[:-1]
        if len(segments) <= len(parts):
            return False
        segments = segments[: len(parts)]
    return len(parts) == len(segments) and all(
        (part == ANY and segment != "") or part == segment
        for part, segment in zip(parts, segments, strict=True)
    )


def _segments(path: str) -> tuple[str, ...]:
    return tuple(
        unquote_to_bytes(part).decode("utf-8", "replace") for part in path.lstrip("/").split("/")
    )


def _compared(segments: Sequence[str]) -> tuple[str, ...]:
    """Without case, parameters and the slash at the end."""
    plain = [
        unicodedata.normalize("NFKC", one.partition(";")[0]).casefold().rstrip(". ")
        for one in segments
    ]
    while plain and not plain[-1]:
        plain.pop()
    return tuple(plain)


def _decoded(part: str) -> str:
    try:
        return unquote_to_bytes(part).decode("utf-8")
    except UnicodeDecodeError:
        _refuse("holds bytes that are no text")


def _refuse_tricks(segments: Sequence[str]) -> None:
    for place, segment in enumerate(segments):
        if not segment and place < len(segments) - 1:
            _refuse("holds two slashes in a row")
        for seen in (segment, unicodedata.normalize("NFKC", segment)):
            if seen.partition(";")[0].strip() in _DOTS:
                _refuse("holds a segment of dots")
            if "/" in seen or "\\" in seen or "\u2044" in seen or "\u2215" in seen:
                _refuse("holds an encoded slash or a backslash")
            if not seen.isprintable():
                _refuse("holds a control character")
            if _ENCODED.search(seen):
                _refuse("is encoded twice")


def _spelled(match: re.Match[str]) -> str:
    character = chr(int(match[0][1:], 16))
    return character if character in _PLAIN else match[0].upper()


def _checked_query(query: bytes) -> str:
    text = query.decode("ascii", "replace")
    if _QUERY.fullmatch(text) is None:
        raise Invalid("The query holds a character that has to be encoded.", pointer="/query")
    for pair in re.split("[&;]", text):
        name = unquote_to_bytes(pair.partition("=")[0].replace("+", " ")).decode("utf-8", "replace")
        if name.strip().casefold() in METHOD_NAMES:
            raise Invalid("The query may not name another method.", pointer="/query")
    return text


def _refuse(why: str) -> NoReturn:
    raise Invalid(f"The path {why}.", pointer="/path")
