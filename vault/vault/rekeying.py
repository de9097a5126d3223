"""The door's part for rotating keys; the operator's alone.

* A rotation that was begun is gone on with, whoever began it and however it ended.
* Each workspace's record shows when its key changed, the operator's when the root key did.
* The key service may be away for a moment: that delays a rotation, and ends it only when it lasts.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import timedelta
from functools import cached_property
from typing import Final

from msgspec import Struct

from vault import access, audit, store
from vault.database import Transaction
from vault.errors import NotReady, VaultError
from vault.keyring import rotations
from vault.keyring.roots import Roots
from vault.keyring.rotations import AT_ONCE, Step, Tell, untold
from vault.keyring.verifying import Report, Tally, Verified, Verifier
from vault.keyring.workspaces import SETTLE_SECONDS, Workspaces
from vault.model import OPERATOR, Caller, Page, Workspace, WorkspaceId
from vault.store.sealed_rows import SealedRows
from vault.vault.refreshing import Refreshing

PAGE: Final = 500
WAIT: Final = 60.0
"""Seconds that replicas have to answer."""
LAST_PASSES: Final = 3
"""Times that a workspace is looked at again because somebody has ended under its old key."""
PAUSES: Final = (1.0, 2.0, 4.0, 8.0, 15.0)
"""Seconds between tries while a part that we need is away."""

Deed = Callable[[WorkspaceId], Awaitable[None]]


class Rotated(Struct, frozen=True):
    """What a rotation did: keys that were wrapped again, rows that were sealed again, and retired
    keys; with what opening everything afterwards has shown.
    """

    rewrapped: int = 0
    resealed: int = 0
    retired: int = 0
    report: Report | None = None


class Rekeying(Refreshing):
    """Rotations of the root key and of the workspaces' keys."""

    @cached_property
    def _roots(self) -> Roots:
        return Roots(self._database, self._keyring)

    @cached_property
    def _sealed_rows(self) -> SealedRows:
        return SealedRows(self._database, self._store, self._sealed_by_guests)

    @cached_property
    def _rotating(self) -> Workspaces:
        return Workspaces(self._database, self._keyring, self._store, self._sealed_rows)

    @cached_property
    def _verifier(self) -> Verifier:
        return Verifier(self._database, self._keyring, self._sealed_rows)

    async def rotation_under_way(self, caller: Caller) -> str | None:
        """``root`` or ``workspaces``, if one of them was begun and not finished."""
        access.permit(caller, "rotation.verify")
        found = await rotations.under_way(self._database)
        return found.kind if found else None

    async def rotate_root_key(
        self, caller: Caller, *, wait: float = WAIT, tell: Tell = untold
    ) -> Rotated:
        """Wrap everything by the root key that the settings name first."""
        access.permit(caller, "rotation.run")
        rotation = await self._roots.begun()
        tell(Step("waiting for the replicas", 0, 1))
        await self._roots.switch(rotation, wait)
        rewrapped = 0

        async def work(workspace: WorkspaceId) -> None:
            nonlocal rewrapped
            done = await self._roots.rewrap(workspace, rotation)
            rewrapped += done  # in a line of its own: others add while one waits

        await self._each("wrapping workspace keys", work, tell)
        await rotations.finish(self._database, rotation)
        target = ("root_key", rotation.root_key_id)
        await self._database.run(
            OPERATOR, lambda tx: audit.record(tx, caller, "rotation.run", target=target)
        )
        return Rotated(rewrapped=rewrapped)

    async def rotate_workspace_keys(
        self,
        caller: Caller,
        *,
        wait: float = WAIT,
        settle: float = SETTLE_SECONDS,
        tell: Tell = untold,
    ) -> Rotated:
        """Give each workspace a new key, seal everything again under it, retire the old ones.

        ``settle`` is for how long after that somebody may still begin with an old one.
        """
        access.permit(caller, "rotation.run")
        await self._sealed_rows.refuse_strangers()
        rotation = await self._rotating.begun()
        if rotation.switched_at is None:
            await self._each("making keys", lambda one: self._rotating.stage(one, rotation), tell)
            tell(Step("waiting for the replicas", 0, 1))
            await self._rotating.switch(rotation, wait)
        resealed = retired = 0
        activated_at = time.monotonic()

        async def reseal(workspace: WorkspaceId) -> None:
            nonlocal resealed, activated_at
            await self._rotating.activate(workspace, lambda tx: _recorded(tx, caller))
            activated_at = time.monotonic()
            done = await self._rotating.reseal(workspace)
            resealed += done.rows

        tally = Tally()

        async def retire(workspace: WorkspaceId) -> None:
            nonlocal resealed, retired
            done, found = await self._last_passes(workspace)
            resealed += done
            gone = await self._rotating.retire(workspace, found.under)
            retired += len(gone)
            tally.add(found.with_retired(gone))

        await self._each("sealing rows", reseal, tell)
        # What began with the keys that were at hand ends meanwhile.
        await asyncio.sleep(max(0.0, settle - (time.monotonic() - activated_at)))
        await self._each("opening everything", retire, tell)
        await rotations.finish(self._database, rotation)
        wraps, opens = await self._verifier.deployment()
        return Rotated(resealed=resealed, retired=retired, report=tally.report(wraps, opens=opens))

    async def verify_keys(self, caller: Caller, *, tell: Tell = untold) -> Report:
        """Open everything that is sealed, and unwrap every key; nothing is changed."""
        access.permit(caller, "rotation.verify")
        await self._sealed_rows.refuse_strangers()
        tally = Tally()

        async def work(workspace: WorkspaceId) -> None:
            tally.add(await self._verifier.workspace(workspace))

        await self._each("opening everything", work, tell)
        wraps, opens = await self._verifier.deployment()
        return tally.report(wraps, opens=opens)

    async def destroy_retired_keys(
        self, caller: Caller, *, retired_for: timedelta, tell: Tell = untold
    ) -> int:
        """Destroy keys that were retired so long ago and that nothing is under."""
        access.permit(caller, "rotation.run")
        await self._sealed_rows.refuse_strangers()
        destroyed = 0

        async def work(workspace: WorkspaceId) -> None:
            nonlocal destroyed
            found = await self._verifier.workspace(workspace)
            done = await self._rotating.destroy(
                workspace, found.under, retired_for, lambda tx: _recorded(tx, caller)
            )
            destroyed += done

        await self._each("destroying keys", work, tell)
        return destroyed

    async def _last_passes(self, workspace: WorkspaceId) -> tuple[int, Verified]:
        """Take along what was written late, and open everything; again, if something was later."""
        rows = (await self._rotating.reseal(workspace)).rows
        found = await self._verifier.workspace(workspace)
        for _ in range(LAST_PASSES):
            if not found.late:
                break
            rows += (await self._rotating.reseal(workspace)).rows
            found = await self._verifier.workspace(workspace)
        return rows, found

    async def _each(self, what: str, deed: Deed, tell: Tell) -> None:
        """Do it for every workspace, some at once; one that is deleted meanwhile is left out."""
        total = await self._database.run(OPERATOR, store.count_workspaces)
        done = 0
        tell(Step(what, done, total))

        async def one(workspace: WorkspaceId) -> None:
            nonlocal done
            await self._patiently(workspace, deed)
            done += 1
            tell(Step(what, done, max(done, total)))

        page = Page(PAGE)
        while some := await self._page(page):
            for at in range(0, len(some), AT_ONCE):
                async with asyncio.TaskGroup() as group:
                    for each in some[at : at + AT_ONCE]:
                        group.create_task(one(each.workspace_id))
            page = Page(PAGE, after=some[-1].workspace_id)

    async def _page(self, page: Page) -> list[Workspace]:
        return await self._database.run(OPERATOR, lambda tx: store.list_workspaces(tx, page))

    async def _patiently(self, workspace: WorkspaceId, deed: Deed) -> None:
        for pause in PAUSES:
            with suppress(NotReady):
                return await self._unless_gone(workspace, deed)
            await asyncio.sleep(pause)
        return await self._unless_gone(workspace, deed)

    async def _unless_gone(self, workspace: WorkspaceId, deed: Deed) -> None:
        try:
            await deed(workspace)
        except (VaultError, ValueError):  # ValueError: a row that has to be there is not
            here = await self._database.run(
                workspace, lambda tx: store.get_workspace(tx, workspace)
            )
            if here is not None:
                raise


async def _recorded(tx: Transaction, caller: Caller) -> None:
    await audit.record(tx, caller, "rotation.run", target=("workspace", tx.workspace))
