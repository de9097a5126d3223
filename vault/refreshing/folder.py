"""Which folder an embedded database lies in, so that a copy of it is told from the original.

* A copy is another folder: it has another number on its disk, even at the same path.
* A folder that was moved on its disk is the same one, as is one whose disk got another number when
  the machine started again. What is both elsewhere and on another disk cannot be told from a copy.
"""

from pathlib import Path
from typing import Self

from msgspec import Struct


class Folder(Struct, frozen=True):
    """A folder, as the file system knows it."""

    device: int
    number: int
    path: str

    @classmethod
    def of(cls, path: Path) -> Self:
        found = path.stat()
        return cls(found.st_dev, found.st_ino, str(path.resolve()))

    def __str__(self) -> str:
        return f"{self.device}:{self.number}:{self.path}"

    def is_at(self, noted: str) -> bool:
        """Is it the one that was noted?"""
        device, number, path = noted.split(":", 2)
        if int(number) != self.number:
            return False
        return path == self.path or int(device) == self.device
