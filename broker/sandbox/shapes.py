"""Requests compared with shapes, and replies filled in. Pure.

* A difference is told by the name of what differs, never by a value: it may be a secret.
* A name that is given twice is a difference (RFC 6749 section 3.1), in a query, a form and a JSON
  object alike.
"""

import base64
import binascii
import json
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, Final
from urllib.parse import parse_qsl, unquote_plus

from msgspec import Struct

from broker.sandbox.dialect import Dialect, Endpoint, Json, Shape

SLOT: Final = re.compile(r"\{([a-z][a-z0-9_.]*)\}")
Slots = dict[str, str]


class Asked(Struct, frozen=True, kw_only=True):
    """A request as it came. ``path``: below the dialect; ``here``: the dialect's address."""

    method: str
    path: str
    query: str = ""
    headers: Mapping[str, str] = {}  # by lower-case name
    body: bytes = b""
    here: str = ""
    number: int = 0


class Match(Struct, frozen=True):
    """The endpoint that is meant, what was taken out of the request, and what is wrong with it."""

    endpoint: Endpoint | None
    slots: Slots
    reasons: list[str]


def closest(dialect: Dialect, asked: Asked) -> Match:
    """The endpoint whose shape this request has, or the one that it misses least."""
    best: Match | None = None
    for endpoint in dialect.endpoints:
        in_path = _take(endpoint.request.path, asked.path)
        if endpoint.request.method != asked.method or in_path is None:
            continue
        match = _compared(endpoint, asked, in_path)
        if best is None or len(match.reasons) < len(best.reasons):
            best = match
    return best or Match(None, {}, ["method and path: nothing here answers to them"])


def _compared(endpoint: Endpoint, asked: Asked, in_path: Slots) -> Match:
    shape, slots, reasons = endpoint.request, dict(in_path), list[str]()
    query = _once("query", parse_qsl(asked.query, keep_blank_values=True), reasons)
    _compare("query", shape, shape.query, query, slots, reasons)
    _compare("body", shape, shape.body, _body(shape, asked, reasons), slots, reasons)
    headers = {name.lower(): value for name, value in shape.headers.items()}
    given = {name: value for name, value in asked.headers.items() if name in headers}
    if "authorization" in asked.headers:
        given["authorization"] = asked.headers["authorization"]
    _compare("header", shape, headers, given, slots, reasons)
    return Match(endpoint, slots, reasons)


def _body(shape: Shape, asked: Asked, reasons: list[str]) -> dict[str, Any]:
    kind = asked.headers.get("content-type", "").partition(";")[0].strip().lower()
    if shape.format == "none":
        if asked.body:
            reasons.append("body: none is expected")
        return {}
    wanted = {"form": "application/x-www-form-urlencoded", "json": "application/json"}[shape.format]
    if kind != wanted:
        reasons.append(f"body: {shape.format} is expected")
        return {}
    try:
        if shape.format == "form":
            pairs = parse_qsl(
                asked.body.decode(), keep_blank_values=True, strict_parsing=bool(asked.body)
            )
            return _once("body", pairs, reasons)
        found = json.loads(asked.body, object_pairs_hook=lambda one: _once("body", one, reasons))
    except (ValueError, RecursionError):
        found = None
    if isinstance(found, dict):
        return found
    reasons.append(f"body: this is no {shape.format}")
    return {}


def _once(where: str, pairs: Iterable[tuple[str, Any]], reasons: list[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            reasons.append(f"{where}: {name} is there twice")
        found[name] = value
    return found


def _compare(
    where: str,
    shape: Shape,
    expected: Mapping[str, Any],
    given: Mapping[str, Any],
    slots: Slots,
    reasons: list[str],
) -> None:
    for name, wanted in expected.items():
        if name not in given:
            if name not in shape.optional:
                reasons.append(f"{where}: {name} is missing")
        elif not _agrees(wanted, given[name], slots):
            reasons.append(f"{where}: {name} differs")
    reasons.extend(f"{where}: {name} is not expected" for name in given.keys() - expected.keys())


def _agrees(wanted: Json, value: Json, slots: Slots) -> bool:
    if not isinstance(wanted, str) or not isinstance(value, str):
        return bool(wanted == value)
    taken = _take(wanted, value)
    taken = taken if taken is None else _credentials(taken)
    if taken is None or any(slots.get(name, value) != value for name, value in taken.items()):
        return False
    slots |= taken
    return True


def _take(template: str, value: str) -> Slots | None:
    found = _pattern(template).fullmatch(value)
    return found and {name.replace("__", "."): part for name, part in found.groupdict().items()}


@lru_cache(maxsize=4096)
def _pattern(template: str) -> re.Pattern[str]:
    parts, at, seen = [], 0, set[str]()
    for slot in SLOT.finditer(template):
        name = slot[1].replace(".", "__")
        parts += [re.escape(template[at : slot.start()])]
        parts += [f"(?P={name})" if name in seen else f"(?P<{name}>.+?)"]
        seen.add(name)
        at = slot.end()
    return re.compile("".join([*parts, re.escape(template[at:])]), re.DOTALL)


def _credentials(taken: Slots) -> Slots | None:
    """Take Basic apart: into who asks, and their secret."""
    for name in taken.keys() & {"basic", "basic_raw", "secret_as_user"}:
        pair = _unbased(taken.pop(name))
        if pair is None or ":" not in pair:
            return None
        user, _, password = pair.partition(":")
        if name == "secret_as_user":
            if password:
                return None
            taken["client_secret"] = user
        else:
            plain = unquote_plus if name == "basic" else str
            taken |= {"client_id": plain(user), "client_secret": plain(password)}
    return taken


def _unbased(text: str) -> str | None:
    try:
        return base64.b64decode(text, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return None


class _Nothing:
    """What a slot without a value leaves."""


_NOTHING: Final = _Nothing()


def filled(template: Json, values: Mapping[str, Any]) -> Json:
    """A reply with its slots filled; fields whose slots have no value are left out."""
    found = _filled(template, values)
    return None if found is _NOTHING else found


def _filled(template: Json, values: Mapping[str, Any]) -> Json:
    if isinstance(template, dict):
        pairs = ((name, _filled(one, values)) for name, one in template.items())
        return {name: one for name, one in pairs if one is not _NOTHING}
    if isinstance(template, list):
        return [one for one in (_filled(part, values) for part in template) if one is not _NOTHING]
    if not isinstance(template, str):
        return template
    if whole := SLOT.fullmatch(template):
        found = values.get(whole[1])
        return _NOTHING if found is None else found
    if any(values.get(name) is None for name in SLOT.findall(template)):
        return _NOTHING
    return SLOT.sub(lambda slot: str(values[slot[1]]), template)


def slots_of(template: Json) -> set[str]:
    """The names of all slots in a reply."""
    if isinstance(template, dict):
        return set().union(*(slots_of(one) for one in template.values()))
    if isinstance(template, list):
        return set().union(*(slots_of(one) for one in template))
    return set(SLOT.findall(template)) if isinstance(template, str) else set()
