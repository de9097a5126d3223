"""Answers of providers survive a dead or full database: one fsynced file each.

* A file appears whole or not at all: it is written beside its place, synced, and renamed.
* What is in it is sealed; its name says nothing but an id of ours.
* A file goes when its answer is in the database. What cannot be read is put aside, never deleted.
* Many processes may share the folder: working an answer off twice changes nothing.
* Whether there is room is tried out, by writing; a full disk is known before an answer needs it.
"""

import os
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from vault.errors import NotReady

SUFFIX: Final = ".answer"
_ASIDE: Final = ".unreadable"
# A sealed token set is some kilobytes; more would be no file of ours.
MAX_FILE: Final = 4 * 1024 * 1024
# What was found out is believed for so long. Trouble is looked at anew each time.
PROBED_SECONDS: Final = 10.0
_PROBE: Final = b"\0" * 16 * 1024  # as much as a large answer


class Spooled(Struct, frozen=True, kw_only=True, array_like=True):
    """One answer, and whose it is. ``sealed``: a ``vault.consent.Held``."""

    deployment: str
    workspace: str
    connection_id: str
    user_id: str
    integration: str
    environment: str
    fence: int
    sealed: bytes


_bytes: Final = msgspec.msgpack.Encoder().encode
_from: Final = msgspec.msgpack.Decoder(Spooled).decode


class Spool:
    """A folder of answers that are not in the database yet."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._fine_at = -PROBED_SECONDS
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def keep(self, answer: Spooled) -> Path:
        """Write an answer down; it is on the disk when this returns."""
        file = self._file(answer.connection_id, answer.fence)
        self._write(file, _bytes(answer))
        return file

    def probe(self) -> None:
        """Raise why no answer could be kept now."""
        if time.monotonic() - self._fine_at >= PROBED_SECONDS:
            file = self._folder / f".probe-{secrets.token_hex(8)}"
            self._write(file, _PROBE)
            file.unlink(missing_ok=True)
            self._fine_at = time.monotonic()

    def _write(self, file: Path, content: bytes) -> None:
        try:
            write_durably(file, content)
        except OSError as error:
            self._fine_at = -PROBED_SECONDS
            raise NotReady(f"The spool cannot be written: {error.strerror}.") from None

    def has(self, connection_id: str, fence: int) -> bool:
        """Does the answer to this call wait here?"""
        return self._file(connection_id, fence).exists()

    def put_aside(self, file: Path) -> None:
        """Nothing can be done with it; somebody may want to look."""
        file.rename(file.with_suffix(_ASIDE))

    def _file(self, connection_id: str, fence: int) -> Path:
        return self._folder / f"{connection_id}.{fence}{SUFFIX}"

    def remove(self, file: Path) -> None:
        file.unlink(missing_ok=True)

    def answers(self, deployment: str) -> Iterator[tuple[Path, Spooled]]:
        """All that waits, of this deployment, oldest first."""
        files = sorted(self._folder.glob(f"*{SUFFIX}"), key=lambda one: one.stat().st_mtime)
        for file in files:
            try:
                content = file.read_bytes() if file.stat().st_size <= MAX_FILE else b""
                answer = _from(content)
            except FileNotFoundError:
                continue  # another process was faster
            except (OSError, msgspec.DecodeError):
                self.put_aside(file)
                continue
            if answer.deployment == deployment:
                yield file, answer

    def __len__(self) -> int:
        return sum(1 for _ in self._folder.glob(f"*{SUFFIX}"))


def write_durably(file: Path, content: bytes) -> None:
    """Replace a file as a whole; the name and the bytes are on the disk when this returns."""
    # By chance and not by process: in containers that share a volume every process is the first.
    beside = file.with_name(f".{file.name}.{secrets.token_hex(8)}")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as opened:
            opened.write(content)
            opened.flush()
            os.fsync(opened.fileno())
        beside.replace(file)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    folder = os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
