"""The door's part for guests: what another package keeps beside the vault, behind the same walls.

* A guest runs its own statements as the caller's workspace, and seals with that workspace's keys.
* The name of what a guest seals has a dot in it (``broker.upstreams``), and no table of the
  vault's has: no guest opens what the vault sealed, and the vault nothing of a guest's.
* What a guest seals is rotated with the rest: ``Vault.open`` is told its sealed columns.
* Whoever calls this has permitted the deed, and leaves its line in the record in the transaction.
"""

from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from msgspec import Struct

from vault.database import Transaction
from vault.errors import VaultError
from vault.model import Caller, Page, UserId
from vault.seal import Context, SealingKey, seal
from vault.sql import Query
from vault.store import connections
from vault.vault.door import Door

MAX_INTEGRATIONS: Final = 100

T = TypeVar("T")
R = TypeVar("R", bound=Struct)


class Guests(Door):
    """Rows and seals for who builds upon the vault."""

    async def within(self, caller: Caller, work: Callable[[Transaction], Awaitable[T]]) -> T:
        """Run ``work`` in one transaction as the caller's workspace. It may run more than once."""
        return await self._database.run(caller.workspace, work)

    async def look_up_for_guest(self, query: Query[R], **arguments: object) -> list[R]:
        """Run one read that belongs to no workspace: by a hash, past the walls, to who it is."""
        return await query.lookup_all(self._database, **arguments)

    async def look_up_as_worker(self, query: Query[R], **arguments: object) -> list[R]:
        """Find, in all workspaces, where something is due; nothing where there is no worker."""
        if self._worker is None:
            return []
        return await query.lookup_all(self._worker, **arguments)

    async def write_for_guest(self, query: Query[R], **arguments: object) -> list[R]:
        """Run one statement that writes for many workspaces: each row proves to whom it belongs."""
        return await query.deed(self._database, **arguments)

    async def seal_for_guest(self, caller: Caller, context: Context, plaintext: bytes) -> bytes:
        """Seal what belongs to the workspace."""
        _refuse_others(caller, context)
        sealing = await self._store.seal_of(caller.workspace)
        return seal(sealing.key, context, plaintext)

    async def open_for_guest(self, caller: Caller, context: Context, sealed: bytes) -> bytes:
        """Open what ``seal_for_guest`` sealed."""
        _refuse_others(caller, context)
        return await self._store.open(caller.workspace, context, sealed)

    def seal_owned(
        self, caller: Caller, owner: SealingKey, context: Context, plaintext: bytes
    ) -> bytes:
        """Seal what belongs to one user, where a survey has just read that user's key."""
        _refuse_others(caller, context)
        return seal(owner, context, plaintext)

    async def open_owned(
        self, caller: Caller, user_id: str, user_key: bytes, context: Context, sealed: bytes
    ) -> bytes:
        """Open it, where the user's sealed key was read with it."""
        _refuse_others(caller, context)
        return await self._store.open_owned(caller.workspace, user_id, user_key, context, sealed)

    async def look_up(self, query: Query[R], **arguments: object) -> R | None:
        """Ask whose bearer something is: the one question that belongs to no workspace."""
        return await query.lookup(self._database, **arguments)

    async def integrations_for_guest(self, caller: Caller) -> list[str]:
        """The names of the workspace's integrations, the first hundred."""
        every = await self._database.run(
            caller.workspace, lambda tx: connections.list_integrations(tx, Page(MAX_INTEGRATIONS))
        )
        return [one.integration for one in every]

    async def user_ref(self, caller: Caller, user_id: UserId) -> str:
        """The user's pseudonym in the record."""
        return (await self._store.seal_of(caller.workspace)).user_ref(user_id)


def _refuse_others(caller: Caller, context: Context) -> None:
    if context.workspace != caller.workspace or "." not in context.table:
        raise VaultError("A guest asked for a seal that is not its own.")
