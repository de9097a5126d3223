"""The door's part for tenants: workspaces, API keys and users."""

from typing import Final

import msgspec

from vault import access, audit, bearer, idempotency, shredding, store
from vault.database import Transaction
from vault.errors import NotFound
from vault.model import (
    OPERATOR,
    SCOPES,
    ApiKey,
    Caller,
    KeyId,
    MadeKey,
    MadeWorkspace,
    NewKey,
    Once,
    Page,
    Profile,
    User,
    UserId,
    Workspace,
    WorkspaceId,
    new_id,
)
from vault.secret import Secret
from vault.store import environments as rows
from vault.store import keys as key_rows
from vault.vault.door import Door, found, written

FIRST_KEY: Final = NewKey(name="first key", scopes=SCOPES)

_key_json = msgspec.json.Encoder().encode
_key_from_json = msgspec.json.Decoder(ApiKey).decode
_workspace_from_json = msgspec.json.Decoder(Workspace).decode


class Tenants(Door):
    """Workspaces, their API keys, their users."""

    # Workspaces: the operator's

    async def create_workspace(
        self,
        caller: Caller,
        name: str,
        *,
        first_key: NewKey = FIRST_KEY,
        first_bearer: Secret | None = None,
        once: Once | None = None,
    ) -> MadeWorkspace:
        """Make a workspace with its keys, and the first API key in it."""
        access.permit(caller, "workspace.create")
        workspace = WorkspaceId(new_id("ws"))
        keys = await self._store.new_keys(workspace)
        made_bearer = first_bearer or bearer.generate("api_key")

        async def work(tx: Transaction) -> MadeWorkspace:
            if earlier := await idempotency.claim(tx, caller, once):
                return MadeWorkspace(_workspace_from_json(earlier), None)
            await tx.enter(workspace)
            made = await store.insert_workspace(tx, workspace, name, keys)
            await audit.record(tx, caller, "workspace.create", target=("workspace", workspace))
            await self._insert_key(tx, caller, first_key, made_bearer)
            await tx.enter(OPERATOR)
            await audit.record(tx, caller, "workspace.create", target=("workspace", workspace))
            await idempotency.settle(tx, caller, once, _key_json(made))
            return MadeWorkspace(made, made_bearer)

        return await self._database.run(OPERATOR, work)

    async def list_workspaces(self, caller: Caller, page: Page) -> list[Workspace]:
        access.permit(caller, "workspace.list")
        return await self._database.run(OPERATOR, lambda tx: store.list_workspaces(tx, page))

    async def get_workspace(self, caller: Caller, workspace: WorkspaceId) -> Workspace:
        access.permit(caller, "workspace.read")
        return found(
            await self._database.run(OPERATOR, lambda tx: store.get_workspace(tx, workspace))
        )

    async def delete_workspace(self, caller: Caller, workspace: WorkspaceId) -> None:
        """Delete a workspace with everything in it. Its keys go too: what is left is noise."""
        access.permit(caller, "workspace.delete")
        await self.get_workspace(caller, workspace)

        async def work(tx: Transaction) -> None:
            await rows.delete_every_variable(tx)
            found(await store.delete_workspace(tx, workspace) or None)
            await shredding.record(tx, shredding.hash_of(self._pepper, "workspace", workspace))
            await audit.record(tx, caller, "workspace.delete", target=("workspace", workspace))
            await tx.enter(OPERATOR)
            await audit.record(tx, caller, "workspace.delete", target=("workspace", workspace))

        await self._database.run(workspace, work)
        self._keyring.forget(workspace)
        self._store.forget(workspace)
        await self._carried()

    async def is_empty(self) -> bool:
        """Is there no workspace yet?"""
        return not await self._database.run(OPERATOR, store.any_workspace)

    # API keys

    async def create_key(
        self, caller: Caller, wanted: NewKey, *, once: Once | None = None
    ) -> MadeKey:
        """Make an API key, at most as wide as the one that asks."""
        access.permit(caller, "key.create")
        narrowed = access.narrowed(caller, wanted, await self._time())
        made_bearer = bearer.generate("api_key")

        async def work(tx: Transaction) -> MadeKey:
            if earlier := await idempotency.claim(tx, caller, once):
                return MadeKey(_key_from_json(earlier), None)
            made = await self._insert_key(tx, caller, narrowed, made_bearer)
            await idempotency.settle(tx, caller, once, _key_json(made))
            return MadeKey(made, made_bearer)

        return await self._database.run(caller.workspace, work)

    async def list_keys(self, caller: Caller, page: Page) -> list[ApiKey]:
        access.permit(caller, "key.list")
        return await self._database.run(caller.workspace, lambda tx: key_rows.every(tx, page))

    async def get_key(self, caller: Caller, key_id: KeyId) -> ApiKey:
        access.permit(caller, "key.read")
        return found(
            await self._database.run(caller.workspace, lambda tx: key_rows.get(tx, key_id))
        )

    async def delete_key(self, caller: Caller, key_id: KeyId) -> None:
        """Revoke: the next request with this key is refused, whichever replica it reaches."""
        access.permit(caller, "key.delete")

        async def work(tx: Transaction) -> None:
            key = found(await key_rows.get(tx, key_id))
            access.may_revoke(caller, key)
            found(await key_rows.delete(tx, key_id) or None)
            hashed = shredding.hash_of(self._pepper, "key", tx.workspace, key_id)
            await shredding.record(tx, hashed)
            await audit.record(tx, caller, "key.delete", target=("key", key_id))

        await self._database.run(caller.workspace, work)
        await self._carried()

    async def _insert_key(
        self, tx: Transaction, caller: Caller, wanted: NewKey, made: Secret
    ) -> ApiKey:
        key_id = KeyId(new_id("key"))
        key = await key_rows.insert(
            tx, key_id, self.fingerprint(made), wanted, f"{caller.kind}:{caller.actor_id}"
        )
        await audit.record(tx, caller, "key.create", target=("key", key_id))
        return key

    # Users

    async def put_user(self, caller: Caller, user_id: UserId, profile: Profile) -> User:
        """Make a user, or replace what is known of one."""
        access.permit(caller, "user.write")
        sealing = await self._store.seal_of(caller.workspace)

        async def attempt() -> User | None:
            sealed = await self._store.new_or_next(sealing, user_id, profile)

            async def work(tx: Transaction) -> User | None:
                user = await store.write_user(tx, sealed)
                if user:
                    user_ref = sealing.user_ref(user_id)
                    await audit.record(tx, caller, "user.write", user_ref=user_ref)
                return user

            return await self._database.run(caller.workspace, work)

        return msgspec.structs.replace(await written(attempt), profile=profile)

    async def get_user(self, caller: Caller, user_id: UserId) -> User:
        access.permit(caller, "user.read")
        return found(await self._store.user(caller.workspace, user_id))

    async def user_of_number(self, caller: Caller, number: str) -> UserId | None:
        """Whose telephone number this is, in E.164; ``None`` also where two users share it."""
        access.permit(caller, "call.receive")
        index = (await self._store.seal_of(caller.workspace)).number_index(number)
        users = await self._database.run(
            caller.workspace, lambda tx: store.users_of_number(tx, index)
        )
        return users[0] if len(users) == 1 else None

    async def refuse_missing_user(self, caller: Caller, user_id: UserId) -> None:
        """Raise if there is no such user; opens nothing."""
        if not await self._store.has_user(caller.workspace, user_id):
            raise NotFound

    async def list_users(self, caller: Caller, page: Page) -> list[User]:
        access.permit(caller, "user.list")
        return await self._store.users(caller.workspace, page)

    async def _forget_user(self, caller: Caller, user_id: UserId) -> None:
        """Delete a user and shred the user's key: what is left of the rows cannot be opened."""
        sealing = await self._store.seal_of(caller.workspace)

        async def work(tx: Transaction) -> None:
            made_at = found(await store.delete_user(tx, user_id))
            hashed = shredding.user_hash(self._pepper, tx.workspace, user_id, made_at)
            await shredding.record(tx, hashed)
            await audit.record(tx, caller, "user.delete", user_ref=sealing.user_ref(user_id))

        await self._database.run(caller.workspace, work)
        await self._carried()
