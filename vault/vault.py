"""The door: every way to what the vault keeps is a method of ``Vault``.

* Each method takes a ``Caller`` and asks ``access`` first. One that changes something, or gives a
  credential away, leaves its line in the audit record in the transaction of the deed.
* The caller decides the workspace. No argument can name another one; only the operator goes
  ``within`` a workspace, and that workspace's record shows it.
* Things of other workspaces do not exist: ``NotFound``, as for anything that never was.
"""

import hmac
import os
from datetime import UTC, datetime
from typing import Final, Self, TypeVar

import msgspec
from msgspec import Struct

from vault import access, audit, bearer, idempotency, store
from vault.database import Database, Transaction
from vault.errors import Conflict, Misconfigured, NotFound, NotReady, Unauthenticated
from vault.keyring import Keyring
from vault.kms import RootKey, Wrapped
from vault.migrations import newest_version
from vault.model import (
    OPERATOR,
    SCOPES,
    ApiKey,
    AuditEvent,
    Caller,
    KeyId,
    MadeKey,
    MadeWorkspace,
    NewKey,
    Once,
    Page,
    Profile,
    Scope,
    User,
    UserId,
    Workspace,
    WorkspaceId,
    new_id,
)
from vault.secret import Secret
from vault.sql import Query

T = TypeVar("T")

PEPPER_SIZE: Final = 32
WRITE_TRIES: Final = 5
FIRST_KEY: Final = NewKey(name="first key", scopes=SCOPES)


class _Deployment(Struct, frozen=True):
    deployment_id: str
    pepper: bytes
    root_key_id: str


class _SchemaVersion(Struct, frozen=True):
    version: int | None


class _Bearer(Struct, frozen=True):
    workspace_id: WorkspaceId
    key_id: KeyId
    hash: bytes
    scopes: list[Scope]
    environments: list[str]
    expires_at: datetime | None


_deployment_get: Final = Query("deployment", "get", _Deployment)
_deployment_insert: Final = Query("deployment", "insert", _Deployment)
_schema_version: Final = Query("deployment", "schema_version", _SchemaVersion)
_bearer_lookup: Final = Query("api_keys", "lookup", _Bearer)

_key_json = msgspec.json.Encoder().encode
_key_from_json = msgspec.json.Decoder(ApiKey).decode
_workspace_from_json = msgspec.json.Decoder(Workspace).decode


class Vault:
    """Keeps credentials for many workspaces, and gives them to whom they belong."""

    def __init__(
        self, database: Database, keyring: Keyring, *, deployment_id: str, pepper: bytes
    ) -> None:
        self.deployment_id = deployment_id
        self._database = database
        self._keyring = keyring
        self._pepper = pepper
        self._store = store.Store(database, keyring)

    @classmethod
    async def open(
        cls, database: Database, root: RootKey, *, deployment_id: str | None = None
    ) -> Self:
        """Open the vault of this database; the first process to come makes its pepper."""
        found = await _deployment_get.lookup(database)
        if found is None:
            chosen = deployment_id or new_id("dep")
            keyring = Keyring(root, chosen)
            made = await keyring.wrap_deployment_secret("pepper", os.urandom(PEPPER_SIZE))
            await _deployment_insert.lookup(
                database,
                deployment_id=chosen,
                pepper=made.blob,
                root_key_id=made.root_key_id,
            )
            found = await _deployment_get.lookup(database)
        if found is None:
            raise NotReady("The database lost what this deployment is.")
        if deployment_id not in (None, found.deployment_id):
            raise Misconfigured(
                "KEYTURN_DEPLOYMENT_ID is not what this database was made with. "
                "Is this the database of another deployment?"
            )
        keyring = Keyring(root, found.deployment_id)
        wrapped = Wrapped(found.pepper, found.root_key_id)
        pepper = await keyring.unwrap_deployment_secret("pepper", wrapped)
        return cls(database, keyring, deployment_id=found.deployment_id, pepper=pepper)

    async def close(self) -> None:
        await self._keyring.close()
        await self._database.close()

    # Who asks

    async def authenticate(self, unverified_bearer: str, *, request_id: str = "") -> Caller:
        """Find whose API key this is. The database is asked each time: a revoked key is dead."""
        if bearer.kind_of(unverified_bearer) != "api_key":
            raise Unauthenticated
        hashed = self.fingerprint(unverified_bearer)
        found = await _bearer_lookup.lookup(self._database, hash=hashed)
        if found is None or not hmac.compare_digest(found.hash, hashed):
            raise Unauthenticated
        return Caller(
            kind="key",
            actor_id=found.key_id,
            workspace=found.workspace_id,
            scopes=frozenset(found.scopes),
            environments=tuple(found.environments),
            expires_at=found.expires_at,
            request_id=request_id,
        )

    def operator_id(self, verified_bearer: str) -> str:
        """How the record names the holder of an operator key."""
        return "op_" + self.fingerprint(verified_bearer).hex()[:16]

    def fingerprint(self, text: str | Secret | bytes) -> bytes:
        """A hash that only this deployment can make."""
        held = text.decode("latin-1") if isinstance(text, bytes) else text
        return bearer.fingerprint(self._pepper, held)

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
        return _found(
            await self._database.run(OPERATOR, lambda tx: store.get_workspace(tx, workspace))
        )

    async def delete_workspace(self, caller: Caller, workspace: WorkspaceId) -> None:
        """Delete a workspace with everything in it. Its keys go too: what is left is noise."""
        access.permit(caller, "workspace.delete")
        await self.get_workspace(caller, workspace)

        async def work(tx: Transaction) -> None:
            _found(await store.delete_workspace(tx, workspace) or None)
            await audit.record(tx, caller, "workspace.delete", target=("workspace", workspace))
            await tx.enter(OPERATOR)
            await audit.record(tx, caller, "workspace.delete", target=("workspace", workspace))

        await self._database.run(workspace, work)
        self._keyring.forget(workspace)

    async def is_empty(self) -> bool:
        """Is there no workspace yet?"""
        return not await self._database.run(OPERATOR, store.any_workspace)

    # API keys

    async def create_key(
        self, caller: Caller, wanted: NewKey, *, once: Once | None = None
    ) -> MadeKey:
        """Make an API key, at most as wide as the one that asks."""
        access.permit(caller, "key.create")
        narrowed = access.narrowed(caller, wanted, datetime.now(UTC))
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
        return await self._database.run(caller.workspace, lambda tx: store.list_keys(tx, page))

    async def get_key(self, caller: Caller, key_id: KeyId) -> ApiKey:
        access.permit(caller, "key.read")
        return _found(
            await self._database.run(caller.workspace, lambda tx: store.get_key(tx, key_id))
        )

    async def delete_key(self, caller: Caller, key_id: KeyId) -> None:
        """Revoke: the next request with this key is refused, whichever replica it reaches."""
        access.permit(caller, "key.delete")

        async def work(tx: Transaction) -> None:
            key = _found(await store.get_key(tx, key_id))
            access.may_revoke(caller, key)
            _found(await store.delete_key(tx, key_id) or None)
            await audit.record(tx, caller, "key.delete", target=("key", key_id))

        await self._database.run(caller.workspace, work)

    async def _insert_key(
        self, tx: Transaction, caller: Caller, wanted: NewKey, made: Secret
    ) -> ApiKey:
        key_id = KeyId(new_id("key"))
        key = await store.insert_key(
            tx, key_id, self.fingerprint(made), wanted, f"{caller.kind}:{caller.actor_id}"
        )
        await audit.record(tx, caller, "key.create", target=("key", key_id))
        return key

    # Users

    async def put_user(self, caller: Caller, user_id: UserId, profile: Profile) -> User:
        """Make a user, or replace what is known of one."""
        access.permit(caller, "user.write")
        sealing = await self._store.seal_of(caller.workspace)
        for _ in range(WRITE_TRIES):
            sealed = await self._store.new_or_next(sealing, user_id, profile)

            async def work(tx: Transaction, sealed: store.SealedUser = sealed) -> User | None:
                written = await store.write_user(tx, sealed)
                if written:
                    await audit.record(tx, caller, "user.write", user_ref=sealing.user_ref(user_id))
                return written

            written = await self._database.run(caller.workspace, work)
            if written:
                return msgspec.structs.replace(written, profile=profile)
        raise Conflict("This user is being written by many at once.")

    async def get_user(self, caller: Caller, user_id: UserId) -> User:
        access.permit(caller, "user.read")
        return _found(await self._store.user(caller.workspace, user_id))

    async def list_users(self, caller: Caller, page: Page) -> list[User]:
        access.permit(caller, "user.list")
        return await self._store.users(caller.workspace, page)

    async def delete_user(self, caller: Caller, user_id: UserId) -> None:
        """Delete a user and shred the user's key: what is left of the rows cannot be opened."""
        access.permit(caller, "user.delete")
        sealing = await self._store.seal_of(caller.workspace)

        async def work(tx: Transaction) -> None:
            _found(await store.delete_user(tx, user_id) or None)
            await audit.record(tx, caller, "user.delete", user_ref=sealing.user_ref(user_id))

        await self._database.run(caller.workspace, work)

    # The record

    async def audit_events(
        self, caller: Caller, page: Page, *, action: str = "", user_id: UserId | None = None
    ) -> list[AuditEvent]:
        """What was done in the workspace, newest first; of one user, by that user's pseudonym."""
        access.permit(caller, "audit.read")
        user_ref = ""
        if user_id is not None:
            user_ref = (await self._store.seal_of(caller.workspace)).user_ref(user_id)
        return await self._database.run(
            caller.workspace,
            lambda tx: audit.events(tx, page, action=action, user_ref=user_ref),
        )

    # Is it well?

    async def check_database(self) -> None:
        """Raise why the database cannot be used now."""
        await self._database.probe()

    async def check_schema(self) -> None:
        """Raise if the schema is not the one that this code was written for."""
        found = await _schema_version.lookup(self._database)
        if found is None or found.version != newest_version():
            raise NotReady("The database's schema is of another version: run 'keyturn migrate'.")

    def connections(self) -> tuple[int, int]:
        """Idle and open database connections of this process."""
        return self._database.idle_connections, self._database.open_connections

    async def check_root_key(self) -> None:
        """Raise why the root key cannot be used now."""
        await self._keyring.health()


def _found(thing: T | None) -> T:
    if thing is None:
        raise NotFound
    return thing
