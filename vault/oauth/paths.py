"""Where things stand in a reply, and what may be made of them. Pure.

* A path is keys and list positions with dots; ``.`` is the whole. What is not there is ``None``.
* A text that is kept has no control character and a bounded length; a number is written as text.
"""

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, Final

UNPRINTABLE: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_POSITION: Final = re.compile(r"[0-9]{1,4}", re.ASCII)


def at(document: object, path: str) -> Any:  # noqa: ANN401 - any JSON
    """What stands at this path."""
    if "." not in path and isinstance(document, dict):  # as most stand
        return document.get(path)
    if path == ".":
        return document
    for key in _keys(path):
        if isinstance(document, dict):
            document = document.get(key)
        elif isinstance(document, list) and _POSITION.fullmatch(key):
            document = document[int(key)] if int(key) < len(document) else None
        else:
            return None
    return document


@lru_cache(maxsize=1_024)
def _keys(path: str) -> tuple[str, ...]:
    return tuple(path.split("."))


def text_of(value: object, longest: int) -> str | None:
    """A value as a short text, if it is one; an empty one says nothing."""
    text = value if isinstance(value, str) else _written(value)
    if text is None or not 0 < len(text) <= longest or UNPRINTABLE.search(text):
        return None
    return text


def first_text(values: Iterable[object], longest: int) -> str | None:
    """The first of them that is a text."""
    return next((one for value in values if (one := text_of(value, longest)) is not None), None)


def _written(value: object) -> str | None:
    if isinstance(value, bool):
        return "true" if value else "false"
    return _number(value) if isinstance(value, int | float) else None


def _number(value: float) -> str | None:
    try:
        return str(int(value)) if float(value).is_integer() else str(value)
    except (ValueError, OverflowError):  # more digits than Python writes
        return None
