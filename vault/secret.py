"""A value that must not be seen: it can be held and passed on, and leaves only by ``reveal()``.

* ``repr``, ``str`` and ``format`` say ``Secret(***)``; JSON, msgpack and pickle refuse; a copy is
  the same object.
* Comparison takes the same time whatever differs.
* ``reveal()`` is called in few modules; ``tests/test_architecture.py`` lists them.
"""

import hmac
from typing import NoReturn, Self, final

HIDDEN = "Secret(***)"


@final
class Secret:
    """Text or bytes that nothing prints, serializes or copies by accident."""

    __slots__ = ("_value",)

    def __init__(self, value: str | bytes) -> None:
        self._value = value.encode() if isinstance(value, str) else bytes(value)

    def reveal(self) -> str:
        """Give the text away. Whoever calls this answers for where it goes."""
        return self._value.decode()

    def reveal_bytes(self) -> bytes:
        """Give the bytes away. Whoever calls this answers for where they go."""
        return self._value

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self._value, other._value)

    def __hash__(self) -> int:
        # A dictionary of secrets would compare their hashes, and not in constant time.
        raise TypeError("a Secret is not hashable")

    def __bool__(self) -> bool:
        return bool(self._value)

    def __repr__(self) -> str:
        return HIDDEN

    __str__ = __repr__

    def __format__(self, _spec: str) -> str:
        return HIDDEN

    def __reduce_ex__(self, _protocol: object) -> NoReturn:
        raise TypeError("a Secret is not serializable")

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, _memo: object) -> Self:
        return self
