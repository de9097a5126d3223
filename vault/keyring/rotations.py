"""Rotating keys while everybody works: a rotation from its beginning to its end.

begun -> announced -> switched -> finished

* Two phases. What is new is made and announced, and every replica that lives says that it can open
  it; only then anything is written with it. A replica that cannot is named, and nothing is changed.
* One rotation is under way at a time, and how far it is stands in the database: whoever runs the
  command after a crash goes on there. Every step may be done twice, by two at once as well.
* Nothing waits for us: what is sealed again replaces only what nobody has written meanwhile.
* A workspace's key is retired once every row was opened and none is under it. A retired key still
  opens what comes from elsewhere, a spool for example, until it is destroyed.
"""

from collections.abc import Callable
from datetime import datetime
from typing import Final, Literal

from msgspec import Struct

from vault.database import Database
from vault.errors import Conflict
from vault.keyring import Keyring
from vault.keyring.announcing import PROBE, announce, everybody_ready
from vault.sql import Query

RotationKind = Literal["root", "workspaces"]


AT_ONCE: Final = 8
"""Workspaces that are worked on at the same time."""


class Step(Struct, frozen=True):
    """How far a rotation is: ``done`` of ``total`` of what ``what`` says."""

    what: str
    done: int
    total: int


Tell = Callable[[Step], None]


def untold(_: Step) -> None:
    """Tell nobody."""


class Rotation(Struct, frozen=True):
    """A rotation that is under way."""

    rotation: int
    kind: RotationKind
    root_key_id: str
    probe: bytes
    began_at: datetime
    switched_at: datetime | None


class _RotationRow(Struct, frozen=True):
    rotation: int
    kind: str
    root_key_id: str
    probe: bytes
    began_at: datetime
    switched_at: datetime | None


class _Number(Struct, frozen=True):
    number: int


_under_way: Final = Query("rotations", "under_way", _RotationRow)
_begin: Final = Query("rotations", "begin", _Number)
_switch: Final = Query("rotations", "switch", _Number)
_finish: Final = Query("rotations", "finish", _Number)


async def under_way(database: Database) -> Rotation | None:
    """The rotation that was begun and not finished."""
    row = await _under_way.lookup(database)
    if row is None:
        return None
    kind: RotationKind = "root" if row.kind == "root" else "workspaces"
    return Rotation(row.rotation, kind, row.root_key_id, row.probe, row.began_at, row.switched_at)


async def begin(
    database: Database, keyring: Keyring, kind: RotationKind, by: str | None
) -> Rotation:
    """Begin one, of whose new keys ``by`` wraps all; a probe is wrapped by it, too."""
    probe = await keyring.wrap_deployment_secret(PROBE, PROBE.encode(), by)
    await _begin.lookup(database, kind=kind, root_key_id=probe.root_key_id, probe=probe.blob)
    found = await under_way(database)
    if found is None or found.kind != kind:
        raise Conflict("Another rotation has just begun: run this again.")
    return found


async def announced(database: Database, rotation: Rotation, wait: float) -> None:
    """Let every replica say that it can open what is new; nothing was written with it yet."""
    await everybody_ready(database, await announce(database, rotation.rotation), wait)


async def switch(database: Database, rotation: Rotation) -> None:
    """From here on it is written with."""
    if await _switch.lookup(database, rotation=rotation.rotation) is None:
        raise Conflict("This rotation was ended by somebody else.")


async def finish(database: Database, rotation: Rotation) -> None:
    await _finish.lookup(database, rotation=rotation.rotation)
