"""The end of the chain, outside of the database: whoever cuts it off there cannot cut it off here.

* One file beside the root key, where that folder can be written, and one beside the spool, as with
  the high-water mark; each names its deployment.
* A file is moved on only while the database still has the seal that it names. What was cut off can
  so not be grown over: the file goes on naming it, until an operator has said that a restore was
  meant.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Final

import msgspec
import structlog
from msgspec import Struct

from vault.errors import Misconfigured
from vault.refreshing.spool import write_durably

_log: Final = structlog.get_logger("keyturn.audit")


class Anchor(Struct, frozen=True, forbid_unknown_fields=True):
    """A seal that the database had, as one file holds it; ``hash`` in hexadecimal."""

    deployment: str
    seal: int
    hash: str


class Anchors:
    """The files of one deployment."""

    def __init__(self, folders: Iterable[Path], deployment: str) -> None:
        name = f"audit-anchor-{deployment}.json"
        self._files = [folder / name for folder in dict.fromkeys(folders)]
        self._deployment = deployment

    @property
    def folders(self) -> list[Path]:
        """Where the files are."""
        return [file.parent for file in self._files]

    def read(self) -> list[tuple[Path, Anchor]]:
        """What all of them say; a copy of another deployment's says nothing of this one."""
        every = [(file, _read(file)) for file in self._files if file.exists()]
        return [(file, one) for file, one in every if one.deployment == self._deployment]

    def write(self, seal: int, hashed: bytes) -> bool:
        """Write it down wherever that can be done; did that work everywhere?"""
        content = msgspec.json.encode(Anchor(self._deployment, seal, hashed.hex()))
        failures = 0
        for file in self._files:
            try:
                file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                write_durably(file, content)
            except OSError as error:
                failures += 1
                _log.error("audit_anchor_not_written", reason=error.strerror)
        return not failures


def _read(file: Path) -> Anchor:
    try:
        return msgspec.json.decode(file.read_bytes(), type=Anchor)
    except (OSError, msgspec.DecodeError):
        raise Misconfigured(f"{file} cannot be read as an anchor of the audit record.") from None
