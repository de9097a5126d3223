"""Rows become what they mean, and back: the only module that both queries and seals.

* Nothing sealed is opened, and no key unwrapped, while a transaction is open: a slow key service
  must not hold a database connection.
* Every context is built from the authenticated workspace and the id that was asked for, never
  from the row that came back. A row that was moved, swapped or rolled back does not open.
"""

import os
from collections import OrderedDict
from datetime import datetime
from typing import Final

import msgspec
from msgspec import Struct

from vault.database import Database, Transaction
from vault.errors import IntegrityError
from vault.keyring import Keyring, StoredKey
from vault.model import (
    Page,
    Profile,
    User,
    UserId,
    Workspace,
    WorkspaceId,
)
from vault.seal import (
    KEY_SIZE,
    Context,
    Keyed,
    SealingKey,
    blind_index,
    key_id_of,
    open_sealed,
    seal,
)
from vault.sql import Nothing, Query
from vault.store.owners import (
    Owner,
    index_key_context,
    opened_under,
    profile_context,
    user_key_context,
)


class _ActiveKey(Struct, frozen=True):
    key_id: bytes
    version: int
    wrapped: bytes
    root_key_id: str
    sealed: bytes


class _UserRow(Struct, frozen=True):
    user_id: UserId
    generation: int
    profile: bytes
    created_at: datetime
    updated_at: datetime
    user_key: bytes


class _Times(Struct, frozen=True):
    created_at: datetime
    updated_at: datetime


class _WorkspaceRef(Struct, frozen=True):
    workspace_id: WorkspaceId


class _Number(Struct, frozen=True):
    number: int


class _WrapsBy(Struct, frozen=True):
    root_key_id: str


class _UserRef(Struct, frozen=True):
    user_id: UserId


class _Made(Struct, frozen=True):
    created_at: datetime


_workspace_insert: Final = Query("workspaces", "insert", Workspace)
_workspace_get: Final = Query("workspaces", "get", Workspace)
_workspace_list: Final = Query("workspaces", "list", Workspace)
_workspace_count: Final = Query("workspaces", "count", _Number)
_workspace_any: Final = Query("workspaces", "any", _WorkspaceRef)
_workspace_delete: Final = Query("workspaces", "delete", _WorkspaceRef)
_wrapped_insert: Final = Query("workspace_keys", "insert", Nothing)
_wrapped_active: Final = Query("workspace_keys", "active", _ActiveKey)
_wrapped_get: Final = Query("workspace_keys", "get", StoredKey)
_wraps_by: Final = Query("rotations", "wraps_by", _WrapsBy)
_index_insert: Final = Query("workspace_keys", "insert_index_key", Nothing)
_user_list: Final = Query("users", "list", _UserRow)
_user_get: Final = Query("users", "get", _UserRow)
_user_insert: Final = Query("users", "insert", _Times)
_user_insert_key: Final = Query("users", "insert_key", Nothing)
_user_update: Final = Query("users", "update", _Times)
_user_delete: Final = Query("users", "delete", _Made)
_user_forget_numbers: Final = Query("users", "forget_numbers", Nothing)
_user_insert_numbers: Final = Query("users", "insert_numbers", Nothing)
_user_by_number: Final = Query("users", "by_number", _UserRef)

MAX_INDEX_KEYS: Final = 10_000

_profile_bytes = msgspec.msgpack.Encoder().encode
_profile_from = msgspec.msgpack.Decoder(Profile).decode


class WorkspaceKeys(Struct, frozen=True):
    """What a new workspace starts with: its wrapped key, and the sealed key of its indexes."""

    stored: StoredKey
    sealed_index_key: bytes


class WorkspaceSeal(Struct, frozen=True):
    """What seals a workspace's rows now, and makes its pseudonyms."""

    workspace: WorkspaceId
    key: SealingKey
    index_key: Keyed

    def user_ref(self, user_id: str) -> str:
        """The user's pseudonym in the audit record."""
        return "usr_" + blind_index(self.index_key, "user_id", user_id).hex()

    def account_index(self, provider: str, account_id: str) -> bytes:
        """The same account at the same provider is found by the same bytes, here only."""
        return blind_index(self.index_key, f"account/{provider}", account_id)

    def number_index(self, number: str) -> bytes:
        """The same telephone number, in E.164, is found by the same bytes, here only."""
        return blind_index(self.index_key, "phone_number", number)


class _IndexKey(Struct, frozen=True):
    """The key of a workspace's indexes, and the bytes that it was opened from."""

    sealed: bytes
    key: Keyed


class SealedUser(Struct, frozen=True):
    """A user's row, ready to be written."""

    user_id: UserId
    generation: int
    profile: bytes
    numbers: list[bytes]  # blind indexes
    user_key: bytes | None  # sealed; None where the user already has one


class Store:
    """Rows, keys and seals of the workspaces."""

    def __init__(self, database: Database, keyring: Keyring) -> None:
        self._database = database
        self._keyring = keyring
        self._index_keys: OrderedDict[WorkspaceId, _IndexKey] = OrderedDict()

    # Keys

    async def new_keys(self, workspace: WorkspaceId) -> WorkspaceKeys:
        # Which root key wraps is the deployment's to say: every replica can open what it does.
        wraps = await _wraps_by.lookup(self._database)
        by = wraps.root_key_id if wraps else None
        stored = await self._keyring.new_workspace_key(workspace, by=by)
        key = await self._keyring.sealing_key(workspace, stored)
        sealed = seal(key, index_key_context(workspace), os.urandom(KEY_SIZE))
        return WorkspaceKeys(stored, sealed)

    async def seal_of(self, workspace: WorkspaceId) -> WorkspaceSeal:
        """Fetch and unwrap what seals this workspace's rows now."""
        active = await self._database.run(
            workspace, lambda tx: _wrapped_active.one(tx, workspace_id=workspace)
        )
        stored = StoredKey(active.key_id, active.version, active.wrapped, active.root_key_id)
        return await self.seal_from(workspace, stored, active.sealed)

    async def seal_from(
        self, workspace: WorkspaceId, stored: StoredKey, sealed_index_key: bytes
    ) -> WorkspaceSeal:
        """The same, where the rows have just been read with something else."""
        key = await self._keyring.sealing_key(workspace, stored)
        index_key = await self._index_key(workspace, sealed_index_key)
        return WorkspaceSeal(workspace, key, index_key)

    async def _index_key(self, workspace: WorkspaceId, sealed: bytes) -> Keyed:
        """Open it, or remember it: for the same bytes, and while their key is at hand."""
        known = self._index_keys.get(workspace)
        if known is not None and known.sealed == sealed:
            if self._keyring.cached(workspace, key_id_of(sealed)):
                return known.key
            del self._index_keys[workspace]
        opened = Keyed(await self.open(workspace, index_key_context(workspace), sealed))
        self._index_keys[workspace] = _IndexKey(sealed, opened)
        if len(self._index_keys) > MAX_INDEX_KEYS:
            self._index_keys.popitem(last=False)
        return opened

    def forget(self, workspace: WorkspaceId) -> None:
        """Drop what is remembered of a workspace that is gone."""
        self._index_keys.pop(workspace, None)

    async def open(self, workspace: WorkspaceId, context: Context, sealed: bytes) -> bytes:
        """Open one value of the workspace; fetches its key where it is not at hand."""
        return open_sealed(await self.key_of(workspace, sealed), context, sealed)

    async def key_of(self, workspace: WorkspaceId, sealed: bytes) -> SealingKey:
        """The key that a value of the workspace is sealed with."""
        key_id = key_id_of(sealed)
        if key := self._keyring.cached(workspace, key_id):
            return key
        stored = await self._database.run(
            workspace, lambda tx: _wrapped_get.maybe(tx, workspace_id=workspace, key_id=key_id)
        )
        if stored is None:
            raise IntegrityError("A value is sealed with a key that this workspace does not have.")
        return await self._keyring.sealing_key(workspace, stored)

    # Users

    async def new_or_next(
        self, sealing: WorkspaceSeal, user_id: UserId, profile: Profile
    ) -> SealedUser:
        """Seal a profile as the generation that follows the stored one."""
        row = await self._user_row(sealing.workspace, user_id)
        sealed_key = None
        if row is None:
            user_key, generation = os.urandom(KEY_SIZE), 1
            sealed_key = seal(sealing.key, user_key_context(sealing.workspace, user_id), user_key)
        else:
            user_key = await self._user_key(sealing.workspace, row, user_id)
            generation = row.generation + 1
        context = profile_context(sealing.workspace, user_id, generation)
        sealed = seal(sealing.key.for_user(user_key), context, _profile_bytes(profile))
        numbers = [sealing.number_index(one) for one in dict.fromkeys(profile.phone_numbers)]
        return SealedUser(user_id, generation, sealed, numbers, sealed_key)

    async def new_user(self, sealing: WorkspaceSeal, user_id: UserId) -> SealedUser | None:
        """Prepare a user of whom nothing is known but the id; ``None`` where there is one."""
        if await self._user_row(sealing.workspace, user_id) is not None:
            return None
        return await self.new_or_next(sealing, user_id, Profile())

    async def key_for_user(self, sealing: WorkspaceSeal, user_id: UserId) -> SealingKey | None:
        """What seals this user's rows now; ``None`` where there is no such user."""
        row = await self._user_row(sealing.workspace, user_id)
        if row is None:
            return None
        return sealing.key.for_user(await self._user_key(sealing.workspace, row, user_id))

    async def open_for_user(
        self, workspace: WorkspaceId, user_id: UserId, context: Context, sealed: bytes
    ) -> bytes:
        """Open one value that is sealed under the user's own key."""
        row = await self._user_row(workspace, user_id)
        if row is None:
            raise IntegrityError("A user's value outlived the user.")
        user_key = await self._user_key(workspace, row, user_id)
        key = (await self.key_of(workspace, sealed)).for_user(user_key)
        return open_sealed(key, context, sealed)

    async def owner_key(
        self, sealing: WorkspaceSeal, user_id: str, sealed_user_key: bytes
    ) -> SealingKey:
        """What seals a user's rows now, where the user's key has just been read."""
        return sealing.key.for_user(
            await self.open(
                sealing.workspace, user_key_context(sealing.workspace, user_id), sealed_user_key
            )
        )

    async def open_owned(
        self,
        workspace: WorkspaceId,
        user_id: str,
        sealed_user_key: bytes,
        context: Context,
        sealed: bytes,
    ) -> bytes:
        """Open one value of a user, where the user's key has just been read with it."""
        owner = await self.owner(workspace, user_id, sealed_user_key)
        return await owner.open(context, sealed)

    async def owner(self, workspace: WorkspaceId, user_id: str, sealed_user_key: bytes) -> Owner:
        """What opens a user's values, where the user's key has just been read with them."""
        context = user_key_context(workspace, user_id)
        key = self._keyring.cached(workspace, key_id_of(sealed_user_key))
        if key is None:
            key = await self.key_of(workspace, sealed_user_key)
        owner = Owner(self.key_of, workspace, open_sealed(key, context, sealed_user_key))
        owner.key(key)  # mostly it is the one that his values are sealed with, too
        return owner

    def open_owned_at_hand(
        self,
        workspace: WorkspaceId,
        user_id: str,
        sealed_user_key: bytes,
        context: Context,
        sealed: bytes,
    ) -> bytes | None:
        """``open_owned`` for one value and without a wait.

        ``None`` where a key has to be fetched, or the value lies under another key of the workspace
        than the user's own key does.
        """
        key = self._keyring.cached(workspace, key_id_of(sealed_user_key))
        if key is None:
            return None
        found = opened_under(key, workspace, user_id, sealed_user_key, context, sealed)
        return found and found[0]

    async def open_and_key(
        self,
        sealing: WorkspaceSeal,
        user_id: str,
        sealed_user_key: bytes,
        context: Context,
        sealed: bytes,
    ) -> tuple[bytes, SealingKey]:
        """Open one value, and bring what seals the user's rows now: their key is opened once."""
        workspace, now = sealing.workspace, sealing.key
        key = now
        if key_id_of(sealed_user_key) != now.key_id:
            key = await self.key_of(workspace, sealed_user_key)
        user_key = open_sealed(key, user_key_context(workspace, user_id), sealed_user_key)
        key = owner_key = now.for_user(user_key)
        if key_id_of(sealed) != now.key_id:
            key = (await self.key_of(workspace, sealed)).for_user(user_key)
        return open_sealed(key, context, sealed), owner_key

    async def profile(
        self, owner: Owner, workspace: WorkspaceId, user_id: str, generation: int, sealed: bytes
    ) -> Profile:
        """Open a user's profile, where the user's key has just been read with it."""
        context = profile_context(workspace, UserId(user_id), generation)
        opened = owner.open_at_hand(context, sealed)
        return _profile_from(await owner.open(context, sealed) if opened is None else opened)

    async def user(self, workspace: WorkspaceId, user_id: UserId) -> User | None:
        row = await self._user_row(workspace, user_id)
        return await self._opened(workspace, row, user_id) if row else None

    async def has_user(self, workspace: WorkspaceId, user_id: UserId) -> bool:
        return await self._user_row(workspace, user_id) is not None

    async def users(self, workspace: WorkspaceId, page: Page) -> list[User]:
        rows = await self._database.run(
            workspace,
            lambda tx: _user_list.all(
                tx, workspace_id=workspace, after=page.after, limit=page.limit
            ),
        )
        return [await self._opened(workspace, row, row.user_id) for row in rows]

    async def _user_row(self, workspace: WorkspaceId, user_id: UserId) -> _UserRow | None:
        return await self._database.run(
            workspace, lambda tx: _user_get.maybe(tx, workspace_id=workspace, user_id=user_id)
        )

    async def _user_key(self, workspace: WorkspaceId, row: _UserRow, user_id: UserId) -> bytes:
        return await self.open(workspace, user_key_context(workspace, user_id), row.user_key)

    async def _opened(self, workspace: WorkspaceId, row: _UserRow, user_id: UserId) -> User:
        user_key = await self._user_key(workspace, row, user_id)
        key = (await self.key_of(workspace, row.profile)).for_user(user_key)
        context = profile_context(workspace, user_id, row.generation)
        profile = _profile_from(open_sealed(key, context, row.profile))
        return User(user_id, profile, row.created_at, row.updated_at)


# Statements inside a transaction of the door


async def insert_workspace(
    tx: Transaction, workspace: WorkspaceId, name: str, keys: WorkspaceKeys
) -> Workspace:
    made = await _workspace_insert.one(tx, workspace_id=workspace, name=name)
    await _wrapped_insert.run(
        tx,
        workspace_id=workspace,
        key_id=keys.stored.key_id,
        version=keys.stored.version,
        wrapped=keys.stored.wrapped,
        root_key_id=keys.stored.root_key_id,
    )
    await _index_insert.run(tx, workspace_id=workspace, sealed=keys.sealed_index_key)
    return made


async def get_workspace(tx: Transaction, workspace: WorkspaceId) -> Workspace | None:
    return await _workspace_get.maybe(tx, workspace_id=workspace)


async def list_workspaces(tx: Transaction, page: Page) -> list[Workspace]:
    return await _workspace_list.all(tx, after=page.after, limit=page.limit)


async def count_workspaces(tx: Transaction) -> int:
    return (await _workspace_count.one(tx)).number


async def any_workspace(tx: Transaction) -> bool:
    return await _workspace_any.maybe(tx) is not None


async def delete_workspace(tx: Transaction, workspace: WorkspaceId) -> bool:
    return await _workspace_delete.maybe(tx, workspace_id=workspace) is not None


async def write_user(tx: Transaction, sealed: SealedUser) -> User | None:
    """Write; ``None`` if somebody else wrote first: the seal is of another generation then."""
    arguments = {
        "workspace_id": tx.workspace,
        "user_id": sealed.user_id,
        "profile": sealed.profile,
    }
    if sealed.user_key is None:
        times = await _user_update.maybe(tx, **arguments, generation=sealed.generation)
    else:
        times = await _user_insert.maybe(tx, **arguments)
        if times:
            del arguments["profile"]
            await _user_insert_key.run(tx, **arguments, sealed=sealed.user_key)
    if times is None:
        return None
    mine = {"workspace_id": tx.workspace, "user_id": sealed.user_id}
    if sealed.user_key is None:
        await _user_forget_numbers.run(tx, **mine)
    if sealed.numbers:
        await _user_insert_numbers.run(tx, **mine, numbers=sealed.numbers)
    return User(sealed.user_id, Profile(), times.created_at, times.updated_at)


async def users_of_number(tx: Transaction, number_index: bytes) -> list[UserId]:
    """Whose number this is; at most two of them."""
    rows = await _user_by_number.all(tx, workspace_id=tx.workspace, number_hash=number_index)
    return [row.user_id for row in rows]


async def delete_user(tx: Transaction, user_id: UserId) -> datetime | None:
    """Delete a user; return when that user was made, or ``None`` if there is none."""
    gone = await _user_delete.maybe(tx, workspace_id=tx.workspace, user_id=user_id)
    return gone.created_at if gone else None
