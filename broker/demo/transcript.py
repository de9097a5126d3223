"""What the demo prints: a line a step, what happened and why it matters. Colours on a TTY alone."""

import itertools
from typing import Final, TextIO

import msgspec

WIDTH: Final = 56  # of the first column
_GREEN: Final = "\x1b[32m"
_RED: Final = "\x1b[31m"
_DIM: Final = "\x1b[2m"
_PLAIN: Final = "\x1b[0m"


class Transcript:
    """Lines, one after the other, each at once."""

    def __init__(self, out: TextIO, *, colours: bool) -> None:
        self._out = out
        self._colours = colours
        self._numbers = itertools.count(1)

    def note(self, text: str) -> None:
        """Say something beside the story."""
        self._print(self._in(_DIM, text))

    def step(self, what: str, why: str) -> None:
        """Tell what happened, and why it matters."""
        number = self._in(_GREEN, f"{next(self._numbers):2}")
        self._print(f"{number}  {what:{WIDTH}}  {self._in(_DIM, why)}")

    def failed(self, why: str) -> None:
        """Tell what should have happened and did not."""
        number = self._in(_RED, f"{next(self._numbers):2}")
        self._print(f"{number}  {self._in(_RED, 'failed:')} {why}")

    def _in(self, colour: str, text: str) -> str:
        return f"{colour}{text}{_PLAIN}" if self._colours else text

    def _print(self, line: str) -> None:
        self._out.write(f"{line}\n")
        self._out.flush()


class Lines(Transcript):
    """The same for a program: a JSON object a line."""

    def __init__(self, out: TextIO) -> None:
        super().__init__(out, colours=False)

    def note(self, text: str) -> None:
        self._tell(note=text)

    def step(self, what: str, why: str) -> None:
        self._tell(step=next(self._numbers), what=what, why=why)

    def failed(self, why: str) -> None:
        self._tell(step=next(self._numbers), failed=why)

    def _tell(self, **told: object) -> None:
        self._print(msgspec.json.encode(told).decode())
