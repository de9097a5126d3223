"""New keys for the workspaces: everything that they have sealed is sealed again.

1. Each workspace gets a key of the next version, ``staged``: nothing is sealed with it.
2. It is announced; where a replica has the old key at hand, it has the new one at hand, too.
3. It becomes ``active``: the newest active key seals. Then, row by row, what lies under older keys
   is sealed again; whoever writes meanwhile wins, and writes under the new one.
4. What was begun before the switch may still end under the old key: a last pass takes that along.
5. Every row is opened. An older key that nothing is under any more is ``retired``.

staged -> active -> retired -> destroyed
"""

from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Final

from msgspec import Struct

from vault.database import Database, Transaction
from vault.errors import IntegrityError
from vault.keyring import Keyring, rotations
from vault.keyring.roots import KeyVersion, pepper, versions
from vault.keyring.rotations import Rotation
from vault.model import WorkspaceId
from vault.sql import Query
from vault.store import Store, WorkspaceSeal
from vault.store.sealed_rows import Kind, SealedRow, SealedRows

PASSES: Final = 5
"""Looks at one kind of rows, of which others may be writing some."""
SETTLE_SECONDS: Final = 8.0
"""After the switch: until then a refresh may begin with a key that it had at hand."""

Record = Callable[[Transaction], Awaitable[None]]


class Resealed(Struct, frozen=True):
    """What became of a workspace's rows: sealed again, and not to be opened."""

    rows: int = 0
    unopened: int = 0


class _KeyRef(Struct, frozen=True):
    key_id: bytes


_stage: Final = Query("workspace_keys", "stage", _KeyRef)
_activate: Final = Query("workspace_keys", "activate", _KeyRef)
_retire: Final = Query("workspace_keys", "retire", _KeyRef)
_destroy: Final = Query("workspace_keys", "destroy", _KeyRef)


class Workspaces:
    """The rotation of the workspaces' own keys."""

    def __init__(
        self, database: Database, keyring: Keyring, store: Store, rows: SealedRows
    ) -> None:
        self._database = database
        self._keyring = keyring
        self._store = store
        self._rows = rows

    async def begun(self) -> Rotation:
        """Go on with the rotation that is under way, or begin one."""
        found = await rotations.under_way(self._database)
        if found is not None and found.kind == "workspaces":
            return found
        by = (await pepper(self._database)).root_key_id
        return await rotations.begin(self._database, self._keyring, "workspaces", by)

    async def stage(self, workspace: WorkspaceId, rotation: Rotation) -> None:
        """Make the next key, unless the newest one is of this rotation or later."""
        present = await self._database.run(workspace, versions)
        if not present or present[0].created_at >= rotation.began_at:
            return
        if present[0].state == "staged":
            return  # of a rotation that ended early: nothing was ever sealed with it
        by = (await pepper(self._database)).root_key_id
        new = await self._keyring.new_workspace_key(
            workspace, version=present[0].version + 1, by=by
        )

        async def work(tx: Transaction) -> None:
            await _stage.maybe(
                tx,
                workspace_id=workspace,
                key_id=new.key_id,
                version=new.version,
                wrapped=new.wrapped,
                root_key_id=new.root_key_id,
            )

        await self._database.run(workspace, work)

    async def switch(self, rotation: Rotation, wait: float) -> None:
        """Announce the new keys; when everybody can open them, they may be written with."""
        if rotation.switched_at is None:
            await rotations.announced(self._database, rotation, wait)
            await rotations.switch(self._database, rotation)

    async def activate(self, workspace: WorkspaceId, record: Record) -> None:
        """Let the staged key seal from now on; ``record`` notes it in the same transaction."""

        async def work(tx: Transaction) -> None:
            for one in await versions(tx):
                if one.state == "staged" and await _activate.maybe(
                    tx, workspace_id=workspace, key_id=one.key_id
                ):
                    await record(tx)

        await self._database.run(workspace, work)

    async def reseal(self, workspace: WorkspaceId) -> Resealed:
        """Seal again whatever lies under another key than the one that seals now."""
        sealing = await self._store.seal_of(workspace)
        rows = unopened = 0
        for kind in self._rows.kinds:
            for _ in range(PASSES):
                done = await self._pass(sealing, kind)
                rows += done.rows
                if not done.rows:
                    unopened += done.unopened
                    break
        return Resealed(rows, unopened)

    async def retire(self, workspace: WorkspaceId, under: Counter[bytes]) -> list[int]:
        """Retire older keys that no row is under, by what opening all of them has shown.

        Returns the versions that were.
        """

        async def work(tx: Transaction) -> list[int]:
            done = []
            for one in _older(await versions(tx)):
                if one.state == "active" and not under[one.key_id]:
                    await _retire.maybe(tx, workspace_id=workspace, key_id=one.key_id)
                    done.append(one.version)
            return done

        return await self._database.run(workspace, work)

    async def destroy(
        self, workspace: WorkspaceId, under: Counter[bytes], kept: timedelta, record: Record
    ) -> int:
        """Destroy keys that were retired so long ago; none that a row is under."""

        async def work(tx: Transaction) -> int:
            done = 0
            for one in _older(await versions(tx)):
                if one.state == "retired" and not under[one.key_id]:
                    gone = await _destroy.maybe(
                        tx, workspace_id=workspace, key_id=one.key_id, kept=kept
                    )
                    done += gone is not None
            if done:
                await record(tx)
            return done

        done = await self._database.run(workspace, work)
        if done:
            self._keyring.forget(workspace)
        return done

    async def _pass(self, sealing: WorkspaceSeal, kind: Kind) -> Resealed:
        rows = unopened = 0
        after = ""
        while some := await self._rows.some(
            sealing.workspace, kind, after, other_than=sealing.key.key_id
        ):
            after = some[-1].id
            changes: list[tuple[SealedRow, bytes]] = []
            for row in some:
                try:
                    changes.append((row, await self._rows.sealed_again(sealing, kind, row)))
                except IntegrityError:  # said by whoever verifies; it stays as it is
                    unopened += 1
            rows += await self._rows.replace(sealing.workspace, kind, changes)
            if kind.name == "index_keys":
                break
        return Resealed(rows, unopened)


def _older(every: list[KeyVersion]) -> list[KeyVersion]:
    """All but the newest that seals, and what is still to come."""
    newest = max((one.version for one in every if one.state == "active"), default=0)
    return [one for one in every if one.version < newest]
