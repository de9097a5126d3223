"""Addresses: where a request goes is decided by the template, and a value only fills its holes.

* An address begins with a literal ``https://`` or ``http://``; whether plain ``http`` may be
  called is for egress to say. It holds no user name, no fragment and no backslash.
* In the authority a value is letters, digits, dots and hyphens; the one that ends the authority
  may bring ``:port``. So what the template writes after a hole stays the end of the host.
* In the path a value is percent-encoded. An environment variable may hold several segments; a
  dynamic variable or an argument is one. No value makes an empty segment, ``.`` or ``..``, however
  often somebody on the way decodes it.
* In the query everything but letters, digits and ``-._~`` is percent-encoded.
"""

import re
from collections.abc import Callable, Sequence
from typing import Final, Literal
from urllib.parse import quote, unquote

from msgspec import Struct

from broker.resolve.meanings import Meanings
from broker.resolve.templates import Argument, Label, Part, Stored, Variable, invalid, parse_open

Scheme = Literal["https", "http"]

MAX_UNQUOTES: Final = 10

_SCHEME = re.compile(r"(https|http)://")
_ARGUMENT = re.compile(r"\{([A-Za-z0-9_.-]{1,128})\}")
_NOT_IN_WORDS = re.compile(r"[\s\\#\x00-\x20\x7f]")
_AUTHORITY_WORDS = re.compile(r"[\w.:\[\]-]*")
_INSIDE = re.compile(r"[A-Za-z0-9.-]+")
_AT_THE_END = re.compile(r"[A-Za-z0-9.-]+(:[0-9]{1,5})?|:[0-9]{1,5}")
_AUTHORITY = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[\w.-]+)(:[0-9]{1,5})?")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class Placeholder(str):
    """Stands for a value that is not known yet; is shown, never sent."""

    __slots__ = ()


ArgumentText = Callable[[str], str]


class Url(Struct, frozen=True):
    """An address in its three parts; ``path`` begins with its slash."""

    scheme: Scheme
    authority: tuple[Part, ...]
    path: tuple[Part, ...]
    query: tuple[Part, ...]
    where: str

    @property
    def parts(self) -> tuple[Part, ...]:
        return (*self.authority, *self.path, *self.query)

    @property
    def arguments(self) -> list[str]:
        return [part.name for part in self.path if isinstance(part, Argument)]


class Address(Struct, frozen=True):
    """A filled address, still in parts."""

    scheme: Scheme
    authority: str
    path: str
    query: str

    def with_query(self, pairs: Sequence[tuple[str, str]]) -> str:
        """Write it down, with these parameters after its own."""
        more = "&".join(f"{_query_text(name)}={_query_text(value)}" for name, value in pairs)
        query = "&".join(part for part in (self.query, more) if part)
        return f"{self.scheme}://{self.authority}{self.path}{'?' if query else ''}{query}"


def parse_url(text: str, where: str) -> Url:
    """Read the template of an address."""
    begun = _SCHEME.match(text)
    if begun is None:
        raise invalid("The address must begin with a literal 'https://'.", where)
    authority: list[Part] = []
    path: list[Part] = []
    query: list[Part] = []
    now = authority
    for part in parse_open(text[begun.end() :], where).parts:
        rest: Part = part
        if isinstance(rest, str) and now is authority:
            before, rest = _split(rest, "/?")
            authority += [before] if before else []
            now = (query if rest.startswith("?") else path) if rest else authority
            rest = rest.removeprefix("?")
        if isinstance(rest, str) and now is path and "?" in rest:
            before, _, rest = rest.partition("?")
            path.append(before)
            now = query
        if rest:
            now.append(rest)
    scheme: Scheme = "https" if begun[1] == "https" else "http"
    url = Url(scheme, tuple(authority), _with_arguments(path), tuple(query), where)
    _check_words(url)
    return url


def fill(url: Url, meanings: Meanings, argument: ArgumentText) -> Address:
    """Put the values in."""
    query = "".join(
        part
        if isinstance(part, str)
        else _query_text(meanings.open_text(_not_argument(part), url.where))
        for part in url.query
    )
    return Address(url.scheme, _authority(url, meanings), _path(url, meanings, argument), query)


def read_whole(text: str, where: str) -> Address:
    """Read an address that comes whole, as one value: nothing in it is a template."""
    begun = _SCHEME.match(text)
    if begun is None:
        raise invalid("The address must begin with 'https://'.", where)
    rest, _, query = text[begun.end() :].partition("?")
    authority, path = _split(rest, "/")
    scheme: Scheme = "https" if begun[1] == "https" else "http"
    url = Url(scheme, (authority,), (path,), (query,), where)
    _check_words(url)
    _check_path(path, where)
    return Address(scheme, _checked_authority(authority, where), path, query)


def _split(text: str, ends: str) -> tuple[str, str]:
    at = min((text.find(end) for end in ends if end in text), default=len(text))
    return text[:at], text[at:]


def _with_arguments(path: Sequence[Part]) -> tuple[Part, ...]:
    parts: list[Part] = []
    for part in path:
        if not isinstance(part, str):
            parts.append(part)
            continue
        pieces = _ARGUMENT.split(part)
        for number, piece in enumerate(pieces):
            if piece:
                parts.append(Argument(piece) if number % 2 else piece)
    return tuple(parts)


def _check_words(url: Url) -> None:
    for part in url.parts:
        if isinstance(part, str) and _NOT_IN_WORDS.search(part):
            raise invalid(
                "An address holds no space, no control character, no backslash and no '#'.",
                url.where,
            )
        if isinstance(part, str) and ("{" in part or "}" in part):
            raise invalid(
                "Single braces stand for a path parameter, {name}, and only in the path.",
                url.where,
            )
    for part in url.authority:
        if isinstance(part, str) and _AUTHORITY_WORDS.fullmatch(part) is None:
            raise invalid(
                "Before the path stand a host and a port: no user name, no password.", url.where
            )


def _authority(url: Url, meanings: Meanings) -> str:
    written = []
    last = len(url.authority) - 1
    for number, part in enumerate(url.authority):
        if isinstance(part, str):
            written.append(part)
            continue
        text = meanings.host_text(_not_argument(part), url.where)
        allowed = _AT_THE_END if number == last else _INSIDE
        if allowed.fullmatch(text) is None:
            raise invalid(
                f"{_called(part)} fills a part of the host, and holds more than letters, digits,"
                " dots and hyphens (and a port, where the host ends with it).",
                url.where,
            )
        written.append(text)
    return _checked_authority("".join(written), url.where)


def _checked_authority(text: str, where: str) -> str:
    if _AUTHORITY.fullmatch(text) is None:
        raise invalid("The address has no host, or one that cannot be read.", where)
    return text


def _path(url: Url, meanings: Meanings, argument: ArgumentText) -> str:
    written = []
    for part in url.path:
        if isinstance(part, str):
            written.append(part)
            continue
        if isinstance(part, Argument):
            text, many = argument(part.name), False
        else:
            text = meanings.open_text(_not_argument(part), url.where)
            many = isinstance(part, Label)
        if not text:
            raise invalid(f"{_called(part)} is empty, and would change the path.", url.where)
        written.append(text if isinstance(text, Placeholder) else _path_text(text, many=many))
    path = "".join(written)
    _check_path(path, url.where)
    return path


def _path_text(text: str, *, many: bool) -> str:
    return quote(_encodable(text), safe="/" if many else "")


def _query_text(text: str) -> str:
    return text if isinstance(text, Placeholder) else quote(_encodable(text), safe="")


def _encodable(text: str) -> bytes:
    # A lone surrogate must not become an error whose text holds the value.
    return text.encode("utf-8", "replace")


def _check_path(path: str, where: str) -> None:
    """Look at the path as the most eager decoder on the way would see it."""
    seen = path
    for _ in range(MAX_UNQUOTES):
        decoded = unquote(seen)
        if decoded == seen:
            break
        seen = decoded
    else:
        raise invalid("The path is percent-encoded too many times over.", where)
    segments = seen.replace("\\", "/").split("/")
    if "" in segments[1:-1] or any(one.split(";")[0] in (".", "..") for one in segments):
        raise invalid("The path would hold an empty segment, '.' or '..'.", where)
    if _CONTROL.search(seen) or "\\" in seen:
        raise invalid("The path would hold a control character or a backslash.", where)


def _not_argument(part: Part) -> Label | Variable | Stored:
    if not isinstance(part, Label | Variable | Stored):
        raise TypeError("an argument can only stand in a path")
    return part


def _called(part: Part) -> str:
    if isinstance(part, Label):
        return f"The environment variable '{part.label}'"
    if isinstance(part, Variable):
        return f"The dynamic variable '{part.name}'"
    return f"The argument '{part.name}'" if isinstance(part, Argument) else "A value"
