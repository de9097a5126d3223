"""The list of what was deleted, in files that a restored database does not take back.

* One file a folder: beside the root key, beside the spool, and beside each backup. A line is a time
  and a keyed hash, so whoever reads it learns how much was deleted, and when.
* Lines are only added, each with one write and synced to the disk. A line that a crash cut off is
  no line; the next one begins anew.
* A line may stand there twice, since processes that share a folder do not wait for each other.
* ``complete`` says that up to then nothing is missing; a backup writes it into the file beside it.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import structlog

from vault.database import Database
from vault.shredding import PAGE, Entry, since

# A transaction may take so long to commit what it dated at its beginning.
OVERLAP: Final = timedelta(minutes=10)
BEGINNING: Final = datetime(1970, 1, 1, tzinfo=UTC)
_HASH_DIGITS: Final = 64
_COMPLETE: Final = "complete"

_log = structlog.get_logger("keyturn.shredding")


class LedgerFile:
    """One file of a deployment's ledger."""

    def __init__(self, folder: Path, deployment: str) -> None:
        self.path = folder / f"shredded-{deployment}.txt"
        self.latest = BEGINNING
        self._recent: dict[bytes, datetime] = {}
        self._room = 2 * PAGE
        self._is_read = False

    def entries(self) -> Iterator[Entry]:
        """What stands there, in the order of writing."""
        for at, word in self._lines():
            if word != _COMPLETE:
                yield Entry(bytes.fromhex(word), at)

    def complete_until(self) -> datetime | None:
        """Up to when nothing is missing, as far as somebody has said so."""
        return max((at for at, word in self._lines() if word == _COMPLETE), default=None)

    def add(self, entries: Iterable[Entry]) -> None:
        """Add those that are not known to stand there; on the disk when this returns."""
        self._learn()
        fresh = [one for one in entries if one.hash not in self._recent]
        if fresh:
            self._append(
                [f"{one.at.astimezone(UTC).isoformat()} {one.hash.hex()}" for one in fresh]
            )
        for one in fresh:
            self._remember(one)

    def touch(self) -> None:
        """Let it be there, so that nobody takes one that is missing for an empty one."""
        self._append([])

    def complete(self, until: datetime) -> None:
        """Say that everything up to then stands there."""
        self._append([f"{until.astimezone(UTC).isoformat()} {_COMPLETE}"])

    def asked_from(self) -> datetime:
        """From when on somebody may have deleted what does not stand here yet."""
        self._learn()
        return max(BEGINNING, self.latest - OVERLAP) if self.latest > BEGINNING else BEGINNING

    def _learn(self) -> None:
        if not self._is_read:
            for one in self.entries():
                self._remember(one)
            self._is_read = True

    def _remember(self, one: Entry) -> None:
        self.latest = max(self.latest, one.at)
        self._recent[one.hash] = one.at
        if len(self._recent) > self._room:
            old = self.latest - 2 * OVERLAP
            self._recent = {key: at for key, at in self._recent.items() if at > old}
            self._room = 2 * max(PAGE, len(self._recent))

    def _lines(self) -> Iterator[tuple[datetime, str]]:
        try:
            with self.path.open("rb") as file:
                for line in file:
                    if (found := _parsed(line)) is not None:
                        yield found
        except FileNotFoundError:
            return

    def _append(self, lines: Sequence[str]) -> None:
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            size = os.fstat(descriptor).st_size
            cut = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
            text = ("\n" if cut else "") + "".join(f"{line}\n" for line in lines)
            os.write(descriptor, text.encode())
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


class Ledger:
    """The files of a deployment that are kept up to date while it runs."""

    def __init__(self, folders: Iterable[Path], deployment: str) -> None:
        self._files = [LedgerFile(folder, deployment) for folder in dict.fromkeys(folders)]

    async def carry(self, database: Database) -> int:
        """Bring what is in the database, and not there yet, into each file."""
        carried = 0
        for file in self._files:
            try:
                carried += await bring(database, file)
            except OSError as error:
                _log.error("ledger_of_deletions_not_written", reason=error.strerror)
        return carried


async def bring(database: Database, file: LedgerFile) -> int:
    """Bring what is in the database into one file; returns how much was looked at."""
    looked = 0
    if not file.path.exists():
        file.touch()
    after = Entry(b"", file.asked_from())
    while some := await since(database, after):
        file.add(some)
        looked += len(some)
        after = some[-1]
    return looked


def _parsed(line: bytes) -> tuple[datetime, str] | None:
    """A line that a crash cut off, or that nobody of ours wrote, is none."""
    try:
        stamp, word = line.decode("ascii").split()
        at = datetime.fromisoformat(stamp)
        hashed = word == _COMPLETE or (len(word) == _HASH_DIGITS and bool(bytes.fromhex(word)))
    except ValueError:
        return None
    return (at, word) if hashed and line.endswith(b"\n") and at.tzinfo else None
