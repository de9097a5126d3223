"""Spans: what took how long, for whoever traces. Nobody does, unless somebody was given to us.

* A span says what is done, at which provider, and how it ended, in words of ours: never an address
  with its path, a value, a bearer or an error's text.
* The vault knows no library for this. ``broker.api.tracing`` brings one where that is asked for.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Final, Protocol


class Noted(Protocol):
    """A span that is open."""

    def note(self, name: str, value: str | int) -> None:
        """Add what became known meanwhile."""
        ...


class Tracing(Protocol):
    """Who writes spans down."""

    def span(self, name: str, **known: str) -> AbstractContextManager[Noted]:
        """Open a span within the one that is open here; it ends with the block."""
        ...


class _Nothing:
    def note(self, name: str, value: str | int) -> None:
        """Nobody wants to know."""


class Untraced:
    """Nobody traces; a span is one object that does nothing."""

    _span: Final = nullcontext(_Nothing())

    def span(self, name: str, **known: str) -> AbstractContextManager[Noted]:  # noqa: ARG002 - as asked
        return self._span


UNTRACED: Final = Untraced()
