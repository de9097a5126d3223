"""A backup's file: a ZIP whose members are written one after the other, the manifest last.

* Written beside its place, synced, and given its name only when it is complete. A name that is
  taken is not taken away. What a killed process left beside it goes with the next backup there.
* Read from its end: a file that was cut off has no end, and is refused before anything is done.
* A member is written and read in pieces; what is held in memory is one of them.
"""

import contextlib
import errno
import fcntl
import hashlib
import os
import secrets
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final, Self

import msgspec

from vault.backup import FORMAT, Damaged, Manifest, Table
from vault.errors import Conflict, Misconfigured

MANIFEST: Final = "manifest.json"
SIGNATURE: Final = "manifest.sig"
KEYS: Final = "workspace-keys.txt"
PIECE: Final = 256 * 1024
MAX_MANIFEST: Final = 16 * 1024 * 1024
_UNFINISHED: Final = ".unfinished"
_NO_LINKS: Final = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}

_json = msgspec.json.Encoder().encode
_manifest_from = msgspec.json.Decoder(Manifest).decode


class Written:
    """One member while it is written: counts lines, and hashes."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._hash = hashlib.sha256()
        self.lines = 0

    def write(self, piece: bytes) -> None:
        self._hash.update(piece)
        self.lines += piece.count(b"\n")
        self._file.write(piece)

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()


class Writer:
    """A backup that is being written."""

    def __init__(self, place: Path, file: IO[bytes]) -> None:
        self._place = place
        self._file = file
        self._zip = zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=6)

    @classmethod
    @contextlib.contextmanager
    def at(cls, place: Path) -> Iterator[Self]:
        """Write to this place; it is there when the block ends well, and only then."""
        if place.exists():
            raise Conflict(f"{place} is there already, and is not written over.")
        try:
            _sweep(place.parent)
            beside = place.with_name(f".{place.name}.{secrets.token_hex(8)}{_UNFINISHED}")
            descriptor = os.open(beside, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise Misconfigured(f"No backup can be written to {place}: {error.strerror}.") from None
        try:
            with os.fdopen(descriptor, "w+b") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                writer = cls(place, file)
                with writer._zip:  # also where it ends badly, while there is a file to close
                    yield writer
                writer._finish(beside)
        except OSError as error:
            if error.errno is None:
                raise
            raise Misconfigured(f"The backup cannot be written: {error.strerror}.") from None
        finally:
            beside.unlink(missing_ok=True)

    @contextlib.contextmanager
    def member(self, name: str) -> Iterator[Written]:
        """Write one member, piece by piece."""
        with self._zip.open(zipfile.ZipInfo(name), "w", force_zip64=True) as file:
            yield Written(file)

    def sign_off(self, manifest: bytes, signature: str) -> None:
        """Write the last members."""
        with self.member(MANIFEST) as file:
            file.write(manifest)
        with self.member(SIGNATURE) as file:
            file.write(f"{signature}\n".encode())

    def _finish(self, beside: Path) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        try:
            self._place.hardlink_to(beside)  # fails where the name is taken, unlike a rename
        except FileExistsError:
            raise Conflict(f"{self._place} is there already, and is not written over.") from None
        except OSError as error:
            if error.errno not in _NO_LINKS or self._place.exists():
                raise
            beside.rename(self._place)
        folder = os.open(self._place.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


class Reader:
    """A backup that is there."""

    def __init__(self, place: Path, opened: zipfile.ZipFile) -> None:
        self.place = place
        self._zip = opened
        self.manifest_bytes = self._whole(MANIFEST)
        self.signature = self._whole(SIGNATURE).decode("ascii", "replace").strip()
        self.manifest = self._read_manifest()

    @classmethod
    @contextlib.contextmanager
    def of(cls, place: Path) -> Iterator[Self]:
        """Open a backup, and refuse what is none or only a part of one."""
        try:
            opened = zipfile.ZipFile(place)
        except OSError as error:
            raise Misconfigured(f"{place} cannot be read: {error.strerror}.") from None
        except (zipfile.BadZipFile, ValueError):
            raise Damaged(f"{place} is no backup, or only a part of one.") from None
        with opened:
            yield cls(place, opened)

    def pieces(self, table: Table) -> Iterator[bytes]:
        """The lines of a table; raise at the end if they are not what was written."""
        digest, lines = hashlib.sha256(), 0
        with self._hearing_damage(table.name), self._zip.open(member_of(table.name)) as file:
            while piece := file.read(PIECE):
                digest.update(piece)
                lines += piece.count(b"\n")
                yield piece
        if digest.hexdigest() != table.sha256 or lines != table.rows:
            raise Damaged(f"{self.place} is damaged: {table.name} is not what was backed up.")

    def _whole(self, name: str) -> bytes:
        with self._hearing_damage(name):
            if self._zip.getinfo(name).file_size > MAX_MANIFEST:
                raise Damaged(f"{self.place} is no backup of ours: its {name} is too large.")
            with self._zip.open(name) as file:
                return file.read(MAX_MANIFEST)

    def _read_manifest(self) -> Manifest:
        try:
            found = msgspec.json.decode(self.manifest_bytes, type=dict[str, msgspec.Raw])
            if msgspec.json.decode(found["format"], type=int) > FORMAT:
                raise Misconfigured(
                    f"{self.place} was made by a newer Keyturn. Restore it with that one."
                )
            return _manifest_from(self.manifest_bytes)
        except (KeyError, msgspec.DecodeError):
            raise Damaged(f"{self.place} is no backup of ours: its manifest is none.") from None

    @contextlib.contextmanager
    def _hearing_damage(self, name: str) -> Iterator[None]:
        try:
            yield
        # zipfile raises NotImplementedError for a compression or a version that it does not know.
        except (zipfile.BadZipFile, zlib.error, KeyError, EOFError, NotImplementedError):
            raise Damaged(f"{self.place} is damaged: {name} cannot be read.") from None
        except OSError as error:
            raise Misconfigured(f"{self.place} cannot be read: {error.strerror}.") from None


def member_of(table: str) -> str:
    """The name of a table's member."""
    return f"tables/{table}.txt"


def encoded(manifest: Manifest) -> bytes:
    return msgspec.json.format(_json(manifest), indent=2) + b"\n"


def _sweep(folder: Path) -> None:
    """Remove what killed backups left; one that is being written holds a lock."""
    for left in folder.glob(f".*{_UNFINISHED}"):
        with contextlib.suppress(OSError), left.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            left.unlink()
