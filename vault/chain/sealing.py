"""Sealing: lines become batches, batches get a seal, and the seal is written down outside.

* It happens behind everybody's back: who writes a line does nothing for it, and waits for nothing.
* A batch ends below the oldest transaction that is still under way. Whatever commits later comes
  behind it, so each line gets into exactly one batch, in whatever order the commits come.
* One replica at a time has the turn. Each batch is written in a transaction that holds the turn's
  row, so nothing is added to a seal whose turn has ended, by a replica that slept for example.
* Which batches a seal lists is read after its turn: a crash before that costs nothing.
* A chain whose end is not ours is not built upon. The others go on; ``verify`` names it.
"""

import asyncio
import time
from collections.abc import Sequence
from typing import Final

import structlog
from msgspec import Struct, structs

from vault.chain import Batch, Chains, Line, Place, Seal, Tail, digest, line_hash, listed, rows
from vault.chain.anchors import Anchor, Anchors
from vault.chain.rows import Held, Position, ServerMoved, Waiting
from vault.database import Database, Transaction
from vault.errors import IntegrityError, NotReady, VaultError
from vault.model import OPERATOR, new_id

# Hashing so many lines keeps the event loop for some milliseconds.
MAX_LINES: Final = 500
TURN_SECONDS: Final = 60
RENEW_SECONDS: Final = 20.0
# A turn goes on at the next tick; one that lasted would look like a tick that hangs.
WORK_SECONDS: Final = 15.0

_log = structlog.get_logger("keyturn.audit")


class _TurnLost(NotReady):
    """Somebody else has the turn."""


class _Left(Struct, frozen=True):
    """Where a turn that took too long has stopped: everybody up to ``after`` was sealed."""

    seal: int
    horizon: int
    after: str


class Sealer:
    """What one process does for the chain. ``worker`` finds who has lines to seal."""

    def __init__(
        self,
        database: Database,
        worker: Database,
        chains: Chains,
        anchors: Anchors,
        *,
        work_seconds: float = WORK_SECONDS,
    ) -> None:
        self._database = database
        self._worker = worker
        self._chains = chains
        self._anchors = anchors
        self._work_seconds = work_seconds
        self._left: _Left | None = None
        self._id = new_id("sealer")
        self._renewed = 0.0
        self._anchored: tuple[int, bytes] | None = None
        self._is_anchored: bool | None = None

    @property
    def is_anchored(self) -> bool | None:
        """Is the chain's end written down outside? ``None``: there is nowhere, or no seal yet."""
        return self._is_anchored

    async def state(self) -> Waiting:
        """How many lines wait to be sealed, and for how long."""
        where = await rows.position(self._database)
        return await rows.unsealed(self._worker, where.sealed_to)

    async def check(self) -> Waiting:
        """Raise why the chain cannot be sealed on, or what is missing of it; changes nothing."""
        where = await self._position()
        for file, one in await asyncio.to_thread(self._anchors.read):
            if not await self._has(one):
                raise NotReady(
                    f"The audit record's chain lacks seal {one.seal}, which {file} names: its end"
                    " was cut off, or an older database was restored. Run 'keyturn audit verify'."
                )
        return await rows.unsealed(self._worker, where.sealed_to)

    async def seal(self) -> int:
        """Seal what can be sealed; returns how many lines that were."""
        last = await rows.last_seal(self._database)
        where = await self._position()
        if _number(last) >= where.seal:
            raise IntegrityError("The audit record's next seal is one that there is already.")
        done = 0
        if await rows.waiting(self._worker, where) or _number(last) < where.seal - 1:
            done = await self._in_turn()
            last = await rows.last_seal(self._database)
        await self._anchor(last)
        return done

    async def _position(self) -> Position:
        where = await rows.position(self._database)
        if where.here != where.server or where.sealed_to > where.horizon:
            raise ServerMoved
        return where

    async def _in_turn(self) -> int:
        if not await rows.take(self._database, self._id, TURN_SECONDS):
            return 0
        self._renewed = time.monotonic()
        try:
            return await self._turn()
        except _TurnLost:
            return 0
        finally:
            await asyncio.shield(self._release())

    async def _release(self) -> None:
        try:
            await rows.release(self._database, self._id)
        except VaultError:
            return  # the turn ends by itself

    async def _turn(self) -> int:
        where = await self._position()  # only now is it known what others have left
        await self._close_up_to(where.seal)
        left = self._left if self._left and self._left.seal == where.seal else None
        where = structs.replace(where, horizon=left.horizon) if left else where
        after = left.after if left else ""
        until, done = time.monotonic() + self._work_seconds, 0
        for workspace in [one for one in await rows.waiting(self._worker, where) if one > after]:
            made = MAX_LINES
            while made == MAX_LINES:
                made = await self._unbroken(workspace, where)
                done += made
                after = after if made == MAX_LINES else workspace
                if time.monotonic() >= until:
                    self._left = _Left(where.seal, where.horizon, after)
                    return done
        self._left = None
        if after and await rows.finish(self._database, self._id, where.seal, where.horizon):
            await self._close_up_to(where.seal + 1)
        return done

    # Batches

    async def _unbroken(self, workspace: str, where: Position) -> int:
        """Seal the next lines of a workspace, unless its chain cannot be built upon."""
        if not rows.WORKSPACE.fullmatch(workspace):
            _log.error("audit_lines_of_nobody")
            return 0
        try:
            return await self._batch(workspace, where)
        except IntegrityError:
            _log.error("audit_chain_broken", workspace=workspace)
            return 0

    async def _batch(self, workspace: str, where: Position) -> int:
        """Seal the next lines of a workspace; returns how many that were."""
        if time.monotonic() - self._renewed > RENEW_SECONDS:
            if not await rows.take(self._database, self._id, TURN_SECONDS):
                raise _TurnLost
            self._renewed = time.monotonic()

        async def work(tx: Transaction) -> int:
            held = await rows.hold(tx, self._id, where.seal)
            if held is None:
                raise _TurnLost
            tail, horizon = await self._tail(tx), Place(where.horizon, "")
            if tail.place >= horizon:
                return 0
            some = await rows.lines(tx, tail.place, horizon, MAX_LINES + 1)
            if not some:
                return 0
            end = some[MAX_LINES].place if len(some) > MAX_LINES else horizon
            unsigned = _next(tail, end, workspace, some[:MAX_LINES], held)
            hashed, mac = self._chains.batch(workspace, unsigned)
            await rows.insert_batch(tx, structs.replace(unsigned, hash=hashed, mac=mac))
            return unsigned.lines

        return await self._database.run(workspace, work)

    async def _tail(self, tx: Transaction) -> Tail:
        """Where a workspace's chain goes on: behind its last batch, or its note if none is kept."""
        last = await rows.last_batch(tx)
        if last is not None:
            if not self._chains.is_ours(tx.workspace, last):
                raise IntegrityError("The last batch of an audit chain is not as it was made.")
            return last.tail
        note = await rows.note(tx, "batches")
        if note is None:
            return Tail()
        if not self._chains.is_our_note(tx.workspace, note):
            raise IntegrityError("The note of an audit chain is not as it was made.")
        return note.tail

    # Seals

    async def _close_up_to(self, seal: int) -> None:
        """Seal what was made for earlier seals, in order."""
        last = await rows.last_seal(self._database)
        for number in range(_number(last) + 1, seal):
            last = await self._close(number, last)

    async def _close(self, number: int, before: Seal | None) -> Seal:
        made = (await rows.made_for(self._worker, number, number)).get(number, [])
        if before is not None and not self._chains.is_our_seal(before):
            _log.error("audit_chain_broken", seal=before.number)

        async def work(tx: Transaction) -> Seal:
            previous = before.hash if before else b""
            unsigned = Seal(number, await rows.now(tx), listed(made), previous)
            hashed, mac = self._chains.seal(unsigned)
            return await rows.write_seal(tx, structs.replace(unsigned, hash=hashed, mac=mac))

        seal = await self._database.run(OPERATOR, work)
        # Wherever logs are kept, the chain is anchored there, too.
        _log.info("audit_sealed", seal=number, hash=seal.hash.hex(), batches=len(made))
        return seal

    # The end, outside

    async def anchor_anew(self) -> Seal | None:
        """Forget what was anchored, and anchor the chain where it ends now."""
        last = await rows.last_seal(self._database)
        await self._write(last)
        return last

    async def _anchor(self, last: Seal | None) -> None:
        """Move the anchors on to this seal, if the chain still leads there from where they are."""
        if not self._anchors.folders:
            return
        known = self._anchored
        if known and last and known == (last.number, last.hash):
            return
        for _, one in await asyncio.to_thread(self._anchors.read):
            if not await self._has(one):
                self._loses(one)
                return
        await self._write(last)

    async def _write(self, last: Seal | None) -> None:
        if last is None or not self._anchors.folders:
            return
        self._is_anchored = await asyncio.to_thread(self._anchors.write, last.number, last.hash)
        self._anchored = (last.number, last.hash) if self._is_anchored else None

    async def _has(self, anchor: Anchor) -> bool:
        found = await rows.seals(self._database, anchor.seal - 1, 1)
        return [(one.number, one.hash.hex()) for one in found] == [(anchor.seal, anchor.hash)]

    def _loses(self, anchor: Anchor) -> None:
        if self._is_anchored is not False:
            _log.error("audit_chain_cut", anchored=anchor.seal)
        self._anchored, self._is_anchored = None, False


def _next(tail: Tail, end: Place, workspace: str, some: Sequence[Line], held: Held) -> Batch:
    return Batch(
        number=tail.number + 1,
        seal=held.seal,
        from_xact=tail.place.xact,
        from_event=tail.place.event_id,
        to_xact=end.xact,
        to_event=end.event_id,
        first=tail.lines,
        lines=len(some),
        sealed_at=held.now,
        digest=digest(line_hash(workspace, one) for one in some),
        previous=tail.hash,
    )


def _number(seal: Seal | None) -> int:
    return seal.number if seal else 0
