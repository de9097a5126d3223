"""A secret that an answer repeats is masked, wherever it stands literally. Pure.

* It is looked for as it was sent, and as JSON or a URL would write it. What the other side makes of
  it otherwise (a hash, base64) is not seen.
* In an answer that goes on piece by piece every character is replaced by one ``*``, so that nothing
  that counts bytes goes wrong; and a piece is held back only as far as it may be the beginning of a
  secret.
"""

import base64
import binascii
import re
from collections.abc import Iterable
from typing import Final
from urllib.parse import quote

import msgspec

# What is shorter stands everywhere by chance, and to mask it would tell where.
MIN_MASKED: Final = 8


def written(texts: Iterable[str]) -> list[str]:
    """Every way in which these may come back; the longest first."""
    found = set()
    for text in filter(None, texts):
        found |= {text, msgspec.json.encode(text).decode()[1:-1], quote(text, safe="")}
    return sorted(found, key=len, reverse=True)


def basic_parts(token: str) -> list[str]:
    """The password inside of a Basic credential (RFC 7617)."""
    try:
        pair = base64.b64decode(token, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return []
    return [pair, pair.partition(":")[2]]


def of_header(value: str) -> list[str]:
    """What of a header's value must not be repeated: all of it, and what follows its scheme."""
    scheme, _, token = value.partition(" ")
    return [value, token, *(basic_parts(token) if scheme.lower() == "basic" else [])]


class Masking:
    """Masks what passes through, piece by piece."""

    def __init__(self, texts: Iterable[str]) -> None:
        forms = [one.encode() for one in written(texts) if len(one) >= MIN_MASKED]
        self._forms = forms
        self._longest = max(map(len, forms), default=0)
        self._pattern = re.compile(b"|".join(map(re.escape, forms))) if forms else None
        self._held = b""

    def text(self, value: str) -> str:
        """Mask a whole text, such as a header's value."""
        return self._masked(value.encode("latin-1", "replace")).decode("latin-1")

    def add(self, piece: bytes) -> bytes:
        """Take a piece; give back as much as is sure to hold no part of a secret."""
        data = self._masked(self._held + piece)
        cut = self._doubtful(data)
        self._held = data[cut:]
        return data[:cut]

    def end(self) -> bytes:
        """What was held back, and was nothing."""
        held, self._held = self._held, b""
        return held

    def _masked(self, data: bytes) -> bytes:
        if self._pattern is None:
            return data
        return self._pattern.sub(lambda found: b"*" * len(found[0]), data)

    def _doubtful(self, data: bytes) -> int:
        """From where on the data may be the beginning of a secret."""
        first = max(len(data) - self._longest + 1, 0)
        found = len(data)
        for form in self._forms:
            place = data.find(form[:1], first)
            while 0 <= place < found:
                if form.startswith(data[place:]):
                    found = place
                place = data.find(form[:1], place + 1)
        return found
