"""A body while it arrives: counted, unpacked, and cut off at its limit. Pure.

* What is counted is both what came and what it unpacks to: a small piece may hold gigabytes, and a
  stream may go on for ever without yielding a byte.
* We ask for ``identity``; some servers pack all the same, and only gzip and zlib are unpacked.
"""

import zlib
from typing import Final

from vault.errors import UpstreamFailed

_KNOWN: Final = frozenset({"gzip", "x-gzip", "deflate"})
_IDENTITY: Final = frozenset({"", "identity"})
_EITHER: Final = zlib.MAX_WBITS | 32  # gzip or zlib, by their first bytes


class Unpacking:
    """Takes pieces as they came, and gives them back unpacked. ``packed``: bytes that came."""

    def __init__(self, encoding: str, limit: int) -> None:
        self._limit = limit
        self.packed = 0
        self._unpacked = 0
        name = encoding.strip().lower()
        if name not in _IDENTITY and name not in _KNOWN:
            raise UpstreamFailed("The answer is packed in a way that was not asked for.")
        self._inflate = None if name in _IDENTITY else zlib.decompressobj(_EITHER)

    def add(self, piece: bytes) -> bytes | None:
        """Take a piece; ``None`` when it is too much."""
        self.packed += len(piece)
        if self.packed > self._limit:
            return None
        piece = self._inflated(piece)
        self._unpacked += len(piece)
        return piece if self._unpacked <= self._limit else None

    def _inflated(self, piece: bytes) -> bytes:
        if self._inflate is None:
            return piece
        try:
            return self._inflate.decompress(piece, self._limit - self._unpacked + 1)
        except zlib.error:
            pass  # raised out here, so that not even its context leads to the library's error
        raise UpstreamFailed("The answer's packing is damaged.")

    def end(self) -> None:
        """Raise if more should have come."""
        inflate = self._inflate
        if inflate is not None and self.packed and (not inflate.eof or inflate.unused_data):
            raise UpstreamFailed("The answer's packing is damaged.")
