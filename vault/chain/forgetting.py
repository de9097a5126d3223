"""An end for old lines: what was sealed long ago is deleted, and a note stands for it.

* All that was made for a seal goes together, batches and their lines, and the seals up to that one.
  The last seal stays, so that there is always one to go on from and to hold an anchor against.
* The note is durable before anything is deleted. Who looks at a chain begins behind its note, so a
  deletion that stopped half-way is no fault in it, and the next one goes on.
* Nothing of a chain is deleted whose last old batch is not as it was made: that is evidence.
* The worker's login deletes, which can delete nothing that is younger than thirty days.
"""

import time
from typing import Final

import structlog
from msgspec import structs

from vault import audit
from vault.chain import Chains, Note, rows
from vault.database import Database, Transaction
from vault.model import OPERATOR, Caller

MAX_LINES: Final = 2_000  # a statement
# What is left over waits for the next tick.
WORK_SECONDS: Final = 15.0

_log = structlog.get_logger("keyturn.audit")


class Forgetter:
    """Deletes what is old enough, for as long as one tick may take."""

    def __init__(self, database: Database, worker: Database, chains: Chains) -> None:
        self._database = database
        self._worker = worker
        self._chains = chains

    async def forget(self, days: int) -> int:
        """Delete what was sealed more than so many days ago; returns how many lines."""
        seal = await self._database.run(OPERATOR, lambda tx: rows.old_seal(tx, days))
        if seal is None:
            return 0
        until = time.monotonic() + WORK_SECONDS
        done, is_kept = 0, False
        for workspace in await rows.made_up_to(self._worker, seal):
            note = await self._noted(workspace, seal)
            if note is None:
                is_kept = True
                continue
            gone = MAX_LINES
            while gone == MAX_LINES:
                if time.monotonic() >= until:
                    return done
                gone = await rows.forget_lines(self._worker, workspace, note.start, MAX_LINES)
                done += gone
            await rows.forget_batches(self._worker, workspace, note.number)
        if not is_kept:
            await self._forget_seals(seal)
        return done

    async def _noted(self, workspace: str, seal: int) -> Note | None:
        """Write down what of a chain will be gone; ``None``: it has to stay."""
        if not rows.WORKSPACE.fullmatch(workspace):
            return None

        async def work(tx: Transaction) -> Note | None:
            last = await rows.last_batch_up_to(tx, seal)
            if last is None:
                return await rows.note(tx, "batches")  # another replica was here
            if not self._chains.is_ours(workspace, last):
                _log.error("audit_chain_broken", workspace=workspace)
                return None
            return await self._write(
                tx,
                Note(
                    chain="batches",
                    number=last.number,
                    to_xact=last.to_xact,
                    to_event=last.to_event,
                    lines=last.first + last.lines,
                    noted_at=await rows.now(tx),
                    last=last.hash,
                ),
            )

        return await self._database.run(workspace, work)

    async def _forget_seals(self, seal: int) -> None:
        async def work(tx: Transaction) -> bool:
            [last] = await rows.seals_in(tx, seal - 1, 1)
            if last.number != seal:
                return False  # another replica was here
            if not self._chains.is_our_seal(last):
                _log.error("audit_chain_broken", seal=last.number)
                return False
            await audit.record(
                tx, Caller.operator("retention"), "chain.forget", target=("seal", str(seal))
            )
            now = await rows.now(tx)
            await self._write(tx, Note("seals", last.number, 0, "", 0, now, last.hash))
            return True

        if await self._database.run(OPERATOR, work):
            await rows.forget_seals(self._worker, seal)

    async def _write(self, tx: Transaction, unsigned: Note) -> Note:
        hashed, mac = self._chains.note(tx.workspace, unsigned)
        note = structs.replace(unsigned, hash=hashed, mac=mac)
        await rows.write_note(tx, note)
        return note
