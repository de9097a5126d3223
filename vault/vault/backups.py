"""The door's part for backups, and for going on from an older state; the operator's alone.

* Whoever goes on from an older state has the audit record anchored there, since its end is gone
  and that was meant: the operator's record has a line of both.
"""

from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Final

import structlog

from vault import access, audit, shredding
from vault.backup import Manifest
from vault.backup.moving_on import (
    Moved,
    State,
    advance,
    pages,
    repeatable,
    settle,
    workspaces,
)
from vault.backup.taking import take
from vault.database import Transaction
from vault.errors import VaultError
from vault.keyring.rotations import Step, Tell, untold
from vault.model import OPERATOR, Caller
from vault.refreshing.marks import Level, Mark, Marks
from vault.secret import Secret
from vault.shredding import Entry
from vault.vault.chaining import Chaining
from vault.vault.refreshing import Refreshing

_log: Final = structlog.get_logger("keyturn.audit")


class Backups(Refreshing, Chaining):
    """Backups, and what comes after one was restored."""

    async def back_up(
        self,
        caller: Caller,
        owner: Secret,
        place: Path,
        parts: Sequence[str],
        *,
        tell: Tell = untold,
    ) -> Manifest:
        """Back the database up to a new file, by the owner's login. The record says so before."""
        access.permit(caller, "backup.take")
        await self._database.run(OPERATOR, lambda tx: self._recorded(tx, caller, "backup.take"))
        return await take(owner, self._pepper, place, parts, tell)

    async def go_on(
        self, caller: Caller, deleted: Iterable[Entry], *, tell: Tell = untold
    ) -> Moved:
        """Let this database be the deployment's, whichever state it is of.

        Killed in between it is refused as before, and this is run again: the last step counts.
        """
        access.permit(caller, "backup.restore")
        marks = Marks(self._kept_outside, self.deployment_id)
        state = State(
            pepper=self._pepper,
            taken_at=await self._time(),
            repeatable=repeatable(self._catalogue),
        )
        for page in pages(deleted):
            await self._database.run(OPERATOR, partial(shredding.merge, entries=page))
        moved, after = Moved(), ""
        while some := await self._database.run(OPERATOR, partial(workspaces, after=after)):
            for workspace in some:
                moved += await self._database.run(workspace, partial(settle, state=state))
                tell(Step("deleting again what was deleted", moved.workspaces, 0))
            after = some[-1]
        outside = marks.read().level
        level = await self._database.run(OPERATOR, lambda tx: advance(tx, outside))
        await self.restored(caller, level)
        return moved

    async def restored(self, caller: Caller, level: Level) -> None:
        """Note that a backup was restored, here and outside of the database."""
        access.permit(caller, "backup.restore")
        marks = Marks(self._kept_outside, self.deployment_id)
        marks.write(Mark(self.deployment_id, level.mark, epoch=level.epoch))
        await self._database.run(OPERATOR, lambda tx: self._recorded(tx, caller, "backup.restore"))
        await self._carried()
        await self._anchored(caller)

    async def _anchored(self, caller: Caller) -> None:
        if self._worker is None:
            return  # nothing is ever sealed, and no end is missed
        try:
            await self.anchor_audit(caller)
        except VaultError as error:
            # What was accepted stays accepted; 'keyturn doctor' goes on saying what is to be done.
            _log.warning("audit_not_anchored", why=error.message)

    async def _recorded(self, tx: Transaction, caller: Caller, action: str) -> None:
        await audit.record(tx, caller, action, target=("deployment", self.deployment_id))
