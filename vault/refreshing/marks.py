"""The high-water mark outside of the database: files that a rolled-back database cannot take along.

* One beside the root key, where that folder can be written, and one beside the spool: who restores
  a disk seldom restores both. The higher one counts, and whichever says that a database was behind.
* Each names its deployment, in its name too: several may keep their root keys in one folder.
* Whoever goes on from an older state of the database begins another epoch; of two states the one
  of the later epoch is the newer, whatever their marks are.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
import structlog
from msgspec import Struct

from vault.errors import Misconfigured
from vault.refreshing.spool import write_durably

_log: Final = structlog.get_logger("keyturn.replica")


class Level(NamedTuple):
    """How far a deployment has come. The greater one is the newer state."""

    epoch: int
    mark: int


class Mark(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """How far a deployment has come, as one file holds it.

    ``behind``: a database was found to be older, and nobody has gone on from it since.
    """

    deployment: str
    mark: int = 0
    behind: bool = False
    epoch: int = 0

    @property
    def level(self) -> Level:
        return Level(self.epoch, self.mark)


class Marks:
    """The files of one deployment."""

    def __init__(self, folders: Iterable[Path], deployment: str) -> None:
        name = f"high-water-{deployment}.json"
        self._files = [folder / name for folder in dict.fromkeys(folders)]
        self._deployment = deployment
        self.failed = False  # the last time, none of them could be written

    def read(self) -> Mark:
        """What all of them say."""
        every = [_read(file) for file in self._files if file.exists()]
        # A copy of another deployment's says nothing of this one.
        ours = [one for one in every if one.deployment == self._deployment]
        level = max((one.level for one in ours), default=Level(0, 0))
        behind = any(one.behind for one in ours if one.epoch == level.epoch)
        return Mark(self._deployment, level.mark, behind, level.epoch)

    def write(self, mark: Mark) -> None:
        """Write it down wherever that can be done; it is on the disk when this returns."""
        failures = 0
        for file in self._files:
            try:
                write_durably(file, msgspec.json.encode(mark))
            except OSError as error:
                failures += 1
                _log.error("high_water_mark_not_written", reason=error.strerror)
        self.failed = bool(self._files) and failures == len(self._files)


def _read(file: Path) -> Mark:
    try:
        return msgspec.json.decode(file.read_bytes(), type=Mark)
    except (OSError, msgspec.DecodeError):
        raise Misconfigured(f"{file} cannot be read as a high-water mark.") from None
