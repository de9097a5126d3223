"""Replies that no honest provider gives: a good one, twisted.

A twist is made of the bytes of the answer, after the work was done: whatever the reply held was
really issued, and a client that mistakes it has lost something.
"""

import json
from collections.abc import Callable
from typing import Any, Final, Literal

LONG: Final = 2_000_000  # characters
DEEP: Final = 100_000  # brackets

Twist = Literal[
    "crlf",  # a line break and a header in every token
    "nul",  # a zero byte in every token
    "surrogate",  # half a character in every token
    "long",  # tokens of two million characters
    "not_text",  # tokens that are numbers
    "html",  # a page, with status 200
    "nested",  # everything below "data"
    "list",  # everything in a list
    "twice",  # every token twice, another one first
    "deep",  # a hundred thousand brackets
    "bytes",  # no UTF-8
    "empty",  # nothing
    "form",  # form-encoded, and called JSON
]


def twisted(body: bytes, how: Twist) -> tuple[bytes, str | None]:
    """The twisted body, and its content type where that is another one."""
    if how == "html":
        return b"<!doctype html><title>Sign in</title><p>Please sign in.", "text/html"
    if how in _WHOLE:
        return _WHOLE[how], None
    try:
        told = json.loads(body)
    except ValueError:
        return body, None
    return _TOLD[how](told), None


_WHOLE: Final[dict[str, bytes]] = {
    "deep": b"[" * DEEP,
    "bytes": b'{"access_token":"\xff\xfe"}',
    "empty": b"",
}


def _tokens(told: Any, change: Callable[[str], Any]) -> Any:  # noqa: ANN401 - JSON
    if isinstance(told, list):
        return [_tokens(one, change) for one in told]
    if not isinstance(told, dict):
        return told
    return {
        name: change(one)
        if name.endswith("_token") and isinstance(one, str)
        else _tokens(one, change)
        for name, one in told.items()
    }


def _twice(told: Any) -> bytes:  # noqa: ANN401 - JSON
    """``{"access_token": "decoy", "access_token": "..."}``"""
    pairs = told.items() if isinstance(told, dict) else []
    parts = []
    for name, one in pairs:
        if name.endswith("_token"):
            parts.append(f"{json.dumps(name)}:{json.dumps('decoy')}")
        parts.append(f"{json.dumps(name)}:{json.dumps(one)}")
    return ("{" + ",".join(parts) + "}").encode()


def _form(told: Any) -> bytes:  # noqa: ANN401 - JSON
    pairs = told.items() if isinstance(told, dict) else []
    return "&".join(f"{name}={one}" for name, one in pairs).encode()


def _with(change: Callable[[str], Any]) -> Callable[[Any], bytes]:
    return lambda told: json.dumps(_tokens(told, change)).encode()


_TOLD: Final[dict[str, Callable[[Any], bytes]]] = {
    "crlf": _with(lambda token: token + "\r\nX-Injected: 1"),
    "nul": _with(lambda token: token + "\0"),
    "surrogate": _with(lambda token: token + "\ud800"),
    "long": _with(lambda token: token + "x" * LONG),
    "not_text": _with(len),
    "nested": lambda told: json.dumps({"data": told}).encode(),
    "list": lambda told: json.dumps([told]).encode(),
    "twice": _twice,
    "form": _form,
}
