"""The door's part for the sealed chain of the audit record; the operator's alone.

* Sealing asks nobody: it is done in the background, and changes no line.
* Who exports the record, and who has the chain anchored anew, is in the operator's record.
"""

from collections.abc import AsyncIterator, Sequence
from functools import cached_property
from pathlib import Path

from msgspec import Struct

from vault import access, audit
from vault.chain import Chains, Seal
from vault.chain.anchors import Anchor, Anchors
from vault.chain.exporting import EVER, Exporter, Out, Period
from vault.chain.forgetting import Forgetter
from vault.chain.rows import Waiting
from vault.chain.sealing import Sealer
from vault.chain.verifying import Verdict, Verifier
from vault.database import Database
from vault.errors import NotReady
from vault.keyring.rotations import Tell, untold
from vault.model import OPERATOR, Caller, WorkspaceId
from vault.vault.door import Door


class Chained(Struct, frozen=True):
    """How the chain fares. ``anchored``: is its end written down outside? ``None``: nowhere."""

    waiting: Waiting
    anchored: bool | None


class Chaining(Door):
    """The record as a chain: sealed, verified, exported."""

    async def seal_audit(self) -> int:
        """Seal what was written since; returns how many lines. Without a worker's login, none."""
        return await self._sealer.seal() if self._worker is not None else 0

    async def forget_audit(self, days: int) -> int:
        """Delete what was sealed more than so many days ago; returns how many lines. Without a
        worker's login, and for 0 days, none.
        """
        if self._worker is None or not days:
            return 0
        return await Forgetter(self._database, self._worker, self._chains).forget(days)

    async def chain_state(self) -> Chained:
        """How many lines wait to be sealed, and whether this process has anchored the chain."""
        return Chained(await self._sealer.state(), self._sealer.is_anchored)

    async def check_chain(self) -> Waiting:
        """Raise what is wrong with the chain as far as a glance shows it."""
        return await self._sealer.check()

    @property
    def anchored_in(self) -> list[Path]:
        """The folders in which the chain's end is written down."""
        return self._anchors.folders

    async def verify_audit(
        self,
        caller: Caller,
        workspace: WorkspaceId | None = None,
        *,
        known: Sequence[Anchor] = (),
        tell: Tell = untold,
    ) -> Verdict:
        """Look at every line, batch and seal; ``known`` seals have to be there."""
        access.permit(caller, "chain.verify")
        verifier = Verifier(self._database, self._seeing, self._chains, self._anchors)
        return await verifier.verify(workspace, known, tell)

    async def export_audit(
        self, caller: Caller, workspace: WorkspaceId | None = None, period: Period = EVER
    ) -> AsyncIterator[Out]:
        """The whole record, or one workspace's, from its beginning to its end."""
        access.permit(caller, "chain.export")
        target = ("workspace", workspace) if workspace else ("", "")
        await self._database.run(
            OPERATOR, lambda tx: audit.record(tx, caller, "chain.export", target=target)
        )
        exporter = Exporter(self._database, self._seeing, self.deployment_id)
        async for out in exporter.export(workspace, period):
            yield out

    async def anchor_audit(self, caller: Caller) -> Seal | None:
        """Anchor the chain where this database ends: the end that was anchored is not missed.

        For who has restored a backup, and knows that lines are gone with it.
        """
        access.permit(caller, "chain.anchor")
        await self._database.run(OPERATOR, lambda tx: audit.record(tx, caller, "chain.anchor"))
        await self._sealer.seal()
        return await self._sealer.anchor_anew()

    @cached_property
    def _chains(self) -> Chains:
        return Chains(self.deployment_id, self._pepper)

    @cached_property
    def _anchors(self) -> Anchors:
        folders = [folder for folder in (self._key_dir, self._spool_dir) if folder is not None]
        return Anchors(folders, self.deployment_id)

    @cached_property
    def _sealer(self) -> Sealer:
        return Sealer(self._database, self._seeing, self._chains, self._anchors)

    @property
    def _seeing(self) -> Database:
        """The login that sees whose record there is."""
        if self._worker is None:
            raise NotReady(
                "The audit record is sealed and read whole with KEYTURN_WORKER_DATABASE_URL."
            )
        return self._worker
