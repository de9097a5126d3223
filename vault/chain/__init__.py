"""The audit record as a sealed chain: lines, batches of lines, seals over batches. Pure.

* A line's bytes are every column of its row, so that no part of it can change unnoticed.
* A batch holds the lines of one workspace between two places, in order; its hash covers theirs and
  the hash of the batch before. A seal covers the hashes of all batches that were made together, in
  all workspaces, and the seal before.
* The MAC over a hash needs a key that follows from the deployment's pepper. It lies in no database
  but wrapped by the root key, outlives every rotation, and serves nothing else.
* Where old lines were deleted, a note with a MAC stands for what is gone: the chain begins behind.
* A hash is over the deployment's and the workspace's names, too: no batch fits elsewhere.

The bytes, each part after its length as u32, big-endian; numbers in decimal, hashes in hexadecimal
(docs/reference/audit.md has a program that checks them)::

    line:   "keyturn/audit/line/1" | workspace | place | id | time in microseconds | actor kind
            | actor | action | target kind | target | user | environment | outcome | request
            ("line/2" where it names connections, and these behind all that)
    batch:  "keyturn/audit/batch/1" | deployment | workspace | number | seal | from place, id
            | to place, id | first | lines | time | digest | previous hash
    seal:   "keyturn/audit/seal/1" | deployment | number | time | batches | previous hash
    note:   "keyturn/audit/note/1" | deployment | workspace | chain | number | to place, id | lines
            | time | last hash
"""

import hashlib
import hmac
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from struct import Struct as Packing
from typing import Final, Literal

from msgspec import Struct

_u32: Final = Packing(">I").pack
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
# Nearly all parts are as short as that.
_SIZES: Final = tuple(_u32(size) for size in range(256))

LINE: Final = "keyturn/audit/line/1"
LINE_OF_CONNECTIONS: Final = "keyturn/audit/line/2"
BATCH: Final = "keyturn/audit/batch/1"
SEAL: Final = "keyturn/audit/seal/1"
NOTE: Final = "keyturn/audit/note/1"

Chained = Literal["batches", "seals"]


class Place(Struct, frozen=True, order=True):
    """Where a line stands: the transaction that wrote it, and its id within that."""

    xact: int
    event_id: str


START: Final = Place(0, "")


class Tail(Struct, frozen=True):
    """Where a chain goes on: behind its ``number``th batch or seal, with so many lines before."""

    number: int = 0
    place: Place = START
    lines: int = 0
    hash: bytes = b""


class Line(Struct, frozen=True):
    """One row of the record, whole."""

    event_id: str
    at: datetime
    actor_kind: str
    actor_id: str
    action: str
    target_kind: str
    target_id: str
    user_ref: str
    environment: str
    outcome: str
    request_id: str
    xact: int
    connection_ids: list[str] = []

    @property
    def place(self) -> Place:
        return Place(self.xact, self.event_id)


class Batch(Struct, frozen=True):
    """Lines of one workspace from ``start`` up to, and without, ``end``.

    ``first``: how many lines of the chain stand before them.
    """

    number: int
    seal: int
    from_xact: int
    from_event: str
    to_xact: int
    to_event: str
    first: int
    lines: int
    sealed_at: datetime
    digest: bytes
    previous: bytes
    hash: bytes = b""
    mac: bytes = b""

    @property
    def start(self) -> Place:
        return Place(self.from_xact, self.from_event)

    @property
    def end(self) -> Place:
        return Place(self.to_xact, self.to_event)

    @property
    def tail(self) -> Tail:
        return Tail(self.number, self.end, self.first + self.lines, self.hash)


class Seal(Struct, frozen=True):
    """``batches``: a line of text for each, with its workspace, number and hash."""

    number: int
    sealed_at: datetime
    batches: str
    previous: bytes
    hash: bytes = b""
    mac: bytes = b""

    @property
    def tail(self) -> Tail:
        return Tail(self.number, hash=self.hash)


class Note(Struct, frozen=True):
    """What is gone from the beginning of a chain: all up to ``number``, whose hash was ``last``.

    ``lines``: how many lines that were; the first that is kept stands at ``start`` or behind.
    """

    chain: Chained
    number: int
    to_xact: int
    to_event: str
    lines: int
    noted_at: datetime
    last: bytes
    hash: bytes = b""
    mac: bytes = b""

    @property
    def start(self) -> Place:
        return Place(self.to_xact, self.to_event)

    @property
    def tail(self) -> Tail:
        return Tail(self.number, self.start, self.lines, self.last)


class Made(Struct, frozen=True):
    """A batch as a seal names it."""

    workspace_id: str
    number: int
    hash: bytes


class Chains:
    """How this deployment chains: its id, and the key of its MACs."""

    def __init__(self, deployment: str, pepper: bytes) -> None:
        self._deployment = deployment
        self._key = hmac.digest(pepper, b"keyturn/audit/1", "sha256")

    def __repr__(self) -> str:
        return f"Chains({self._deployment})"

    def batch(self, workspace: str, unsigned: Batch) -> tuple[bytes, bytes]:
        """Return hash and MAC of a batch."""
        return self._signed(
            BATCH,
            workspace,
            str(unsigned.number),
            str(unsigned.seal),
            str(unsigned.from_xact),
            unsigned.from_event,
            str(unsigned.to_xact),
            unsigned.to_event,
            str(unsigned.first),
            str(unsigned.lines),
            str(microseconds(unsigned.sealed_at)),
            unsigned.digest.hex(),
            unsigned.previous.hex(),
        )

    def seal(self, unsigned: Seal) -> tuple[bytes, bytes]:
        """Return hash and MAC of a seal."""
        return self._signed(
            SEAL,
            str(unsigned.number),
            str(microseconds(unsigned.sealed_at)),
            unsigned.batches,
            unsigned.previous.hex(),
        )

    def note(self, workspace: str, unsigned: Note) -> tuple[bytes, bytes]:
        """Return hash and MAC of a note."""
        return self._signed(
            NOTE,
            workspace,
            unsigned.chain,
            str(unsigned.number),
            str(unsigned.to_xact),
            unsigned.to_event,
            str(unsigned.lines),
            str(microseconds(unsigned.noted_at)),
            unsigned.last.hex(),
        )

    def is_ours(self, workspace: str, batch: Batch) -> bool:
        """Was this batch made with our key, and is it as it was made?"""
        return _same(self.batch(workspace, batch), (batch.hash, batch.mac))

    def is_our_seal(self, seal: Seal) -> bool:
        """The same, of a seal."""
        return _same(self.seal(seal), (seal.hash, seal.mac))

    def is_our_note(self, workspace: str, note: Note) -> bool:
        """The same, of a note."""
        return _same(self.note(workspace, note), (note.hash, note.mac))

    def _signed(self, what: str, *parts: str) -> tuple[bytes, bytes]:
        every = (what, self._deployment, *parts)
        hashed = hashlib.sha256(_joined([part.encode() for part in every])).digest()
        return hashed, hmac.digest(self._key, hashed, "sha256")


def line_hash(workspace: str, line: Line) -> bytes:
    """The hash of one line."""
    named = line.connection_ids
    of_its_own = (
        f"{line.xact}\0{line.event_id}\0{microseconds(line.at)}"
        f"\0{line.target_id}\0{line.user_ref}\0{line.request_id}"
    )
    if named:
        of_its_own = "\0".join((of_its_own, *named))
    # PostgreSQL's text holds no zero byte, so nothing is taken apart where it was not joined.
    xact, event_id, at, target, user, *rest = _sized(of_its_own.encode().split(b"\0"))
    parts = (
        _shared(LINE_OF_CONNECTIONS if named else LINE, workspace),
        *(xact, event_id, at),
        _shared(line.actor_kind, line.actor_id, line.action, line.target_kind),
        *(target, user),
        _shared(line.environment, line.outcome),
        *rest,
    )
    return hashlib.sha256(b"".join(parts)).digest()


def digest(hashes: Iterable[bytes]) -> bytes:
    """The hash of a batch's lines, in order."""
    return hashlib.sha256(b"".join(hashes)).digest()


def listed(made: Sequence[Made]) -> str:
    """Batches as a seal lists them, in one order."""
    every = sorted(made, key=lambda one: (one.workspace_id, one.number))
    return "".join(f"{one.workspace_id} {one.number} {one.hash.hex()}\n" for one in every)


def made_from(batches: str) -> list[Made]:
    """What a seal lists; only of a seal whose MAC is ours."""
    every = (one.split(" ") for one in batches.splitlines())
    return [
        Made(workspace, int(number), bytes.fromhex(hashed)) for workspace, number, hashed in every
    ]


def microseconds(moment: datetime) -> int:
    """A time as a number, exactly."""
    return (moment - _EPOCH) // _MICROSECOND


@lru_cache(maxsize=4_096)
def _shared(*parts: str) -> bytes:
    """What many lines say in the same words."""
    return _joined([part.encode() for part in parts])


def _joined(parts: list[bytes]) -> bytes:
    return b"".join(_sized(parts))


def _sized(parts: list[bytes]) -> list[bytes]:
    """Each part after its length."""
    try:
        return [_SIZES[len(one)] + one for one in parts]
    except IndexError:
        return [_u32(len(one)) + one for one in parts]


def _same(right: tuple[bytes, bytes], there: tuple[bytes, bytes]) -> bool:
    return all(hmac.compare_digest(one, other) for one, other in zip(right, there, strict=True))
