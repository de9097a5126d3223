"""Bytes that are the same each time but for some values: cut once, and filled for each mint. Pure.

* What is made the usual way, with marks where values would stand, is cut at the marks. So nothing
  but the usual way knows what it looks like.
* A mark is text, a number or a moment that cannot be guessed, and so stands nowhere by chance.
"""

import re
import secrets
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from operator import itemgetter
from typing import Final

_START: Final = datetime(7000, 1, 1, tzinfo=UTC)
_SPAN: Final = 2_000 * 365 * 86_400  # seconds
_LENGTH: Final = 31  # as our ids of connections have it, since MessagePack says how long a text is


class Marks:
    """What stands in for values: each call gives another one."""

    def __init__(self) -> None:
        self._run = "m" + secrets.token_hex((_LENGTH - 7) // 2)
        self._number = (1 << 41 | secrets.randbits(41)) * 100_000
        self._moment = _START + timedelta(seconds=secrets.randbelow(_SPAN))
        self._count = 0

    def text(self) -> str:
        """Text that a header can carry and a name can be."""
        self._count += 1
        return f"{self._run}{self._count:06}"

    def number(self) -> int:
        self._count += 1
        return self._number + self._count

    def moment(self) -> datetime:
        self._count += 1
        return self._moment + timedelta(microseconds=100_000 + self._count)


class Stencil:
    """Bytes with gaps; the same value may stand in several."""

    def __init__(self, text: bytes, gaps: Sequence[bytes]) -> None:
        """Cut ``text`` wherever one of ``gaps`` stands; which one it was says whose value goes
        there. One of no bytes stands nowhere.
        """
        places = {one: number for number, one in enumerate(gaps) if one}
        longest_first = sorted(places, key=len, reverse=True)
        gap = b"(" + b"|".join(map(re.escape, longest_first)) + b")"
        self.parts = re.split(gap, text) if places else [text]
        self.order = tuple([places[one] for one in self.parts[1::2]])
        self._pick = itemgetter(*self.order) if len(self.order) > 1 else None

    def filled(self, values: Sequence[bytes]) -> bytes:
        """The whole, with these values in the order of the gaps."""
        parts = self.parts.copy()
        if self._pick is None:
            parts[1::2] = [values[number] for number in self.order]
        else:
            parts[1::2] = self._pick(values)
        return b"".join(parts)

    @property
    def size(self) -> int:
        """Bytes of all that stands between the gaps."""
        return sum(map(len, self.parts[::2]))

    def is_as(self, other: "Stencil") -> bool:
        """Is the other one the same, but for what stands in the gaps?"""
        return self.order == other.order and self.parts[::2] == other.parts[::2]
