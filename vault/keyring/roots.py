"""Another root key: what the old one wrapped is wrapped again by the new one.

1. The new root key is announced; every replica unwraps a probe.
2. The deployment's own secret is wrapped by it. From here on the new root key wraps whatever is
   new: that row says so, and not the replicas' settings.
3. Each workspace's keys are wrapped by it, the retired ones too. What they seal does not change.

When no key is left under the old root key (``verifying`` counts them) it may be taken away.
"""

from datetime import datetime
from typing import Final

from msgspec import Struct

from vault.database import Database, Transaction
from vault.errors import Conflict, NotReady
from vault.keyring import Keyring, StoredKey, rotations
from vault.keyring.rotations import Rotation
from vault.kms import Wrapped
from vault.model import WorkspaceId
from vault.sql import Query

PEPPER: Final = "pepper"
TRIES: Final = 5


class KeyVersion(Struct, frozen=True):
    """A version of a workspace's key, as its row has it."""

    key_id: bytes
    version: int
    state: str
    wrapped: bytes
    root_key_id: str
    created_at: datetime
    retired_at: datetime | None

    def stored(self) -> StoredKey:
        return StoredKey(self.key_id, self.version, self.wrapped, self.root_key_id)


class Pepper(Struct, frozen=True):
    """The deployment's own secret, as its row has it."""

    pepper: bytes
    root_key_id: str


class _KeyRef(Struct, frozen=True):
    key_id: bytes


class _RootKeyRef(Struct, frozen=True):
    root_key_id: str


_versions: Final = Query("workspace_keys", "versions", KeyVersion)
_rewrap: Final = Query("workspace_keys", "rewrap", _KeyRef)
_pepper: Final = Query("rotations", "pepper", Pepper)
_rewrap_pepper: Final = Query("rotations", "rewrap_pepper", _RootKeyRef)


async def versions(tx: Transaction) -> list[KeyVersion]:
    """All keys of the transaction's workspace, the newest first."""
    return await _versions.all(tx, workspace_id=tx.workspace)


async def pepper(database: Database) -> Pepper:
    found = await _pepper.lookup(database)
    if found is None:
        raise NotReady("The database lost what this deployment is.")
    return found


class Roots:
    """The root key's rotation."""

    def __init__(self, database: Database, keyring: Keyring) -> None:
        self._database = database
        self._keyring = keyring

    async def begun(self) -> Rotation:
        """Go on with the rotation that is under way, or begin one to the present root key.

        One to a root key that is no longer the present one ends where it is.
        """
        current = (await self._keyring.root_key_info()).current
        found = await rotations.under_way(self._database)
        if found is not None and found.root_key_id != current:
            await rotations.finish(self._database, found)
            found = None
        return found or await rotations.begin(self._database, self._keyring, "root", None)

    async def switch(self, rotation: Rotation, wait: float) -> None:
        """Announce the new root key; when everybody can open it, let it wrap."""
        if rotation.switched_at is None:
            await rotations.announced(self._database, rotation, wait)
            await rotations.switch(self._database, rotation)
        for _ in range(TRIES):
            before = await pepper(self._database)
            if before.root_key_id == rotation.root_key_id:
                return
            secret = await self._keyring.unwrap_deployment_secret(
                PEPPER, Wrapped(before.pepper, before.root_key_id)
            )
            after = await self._keyring.wrap_deployment_secret(PEPPER, secret)
            await _rewrap_pepper.lookup(
                self._database,
                pepper=after.blob,
                root_key_id=after.root_key_id,
                before=before.pepper,
            )
            if after.root_key_id != rotation.root_key_id:
                return  # the service made a newer version meanwhile, which is as good
        raise Conflict("The deployment's secret is being wrapped by somebody else.")

    async def rewrap(self, workspace: WorkspaceId, rotation: Rotation) -> int:
        """Wrap a workspace's keys by the new root key; return how many that were."""
        done = 0
        for one in await self._database.run(workspace, versions):
            if one.root_key_id != rotation.root_key_id:
                done += await self._rewrapped(workspace, one)
        return done

    async def _rewrapped(self, workspace: WorkspaceId, one: KeyVersion) -> int:
        after = await self._keyring.rewrap(workspace, one.stored())

        async def work(tx: Transaction) -> int:
            written = await _rewrap.maybe(
                tx,
                workspace_id=workspace,
                key_id=one.key_id,
                wrapped=after.wrapped,
                root_key_id=after.root_key_id,
                before=one.wrapped,
            )
            return 0 if written is None else 1

        return await self._database.run(workspace, work)
