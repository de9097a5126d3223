"""The keys that sign for a workspace: made on first use, replaced in time, and known beforehand.

* A private half is sealed like every credential, and never leaves the process that signs.
* A new key is published an hour before it signs, and an old one for an hour after its last
  signature: whoever remembers our answer for five minutes never meets a key that it cannot find.
* A key signs for 90 days. Two replicas that replace it at once make two, and both are good.
* A key that others have got hold of is forgotten at once, and what it signed is then refused.
"""

from typing import Final

from msgspec import Struct

from broker.runtimes.sealed import SigningKey, new_signing_key, public_jwk
from vault import access, audit, idempotency
from vault.database import Transaction
from vault.errors import NotReady
from vault.model import Caller, Once, WorkspaceId
from vault.seal import Context
from vault.secret import Secret
from vault.sql import Nothing, Query
from vault.vault import Vault

SIGNS_SECONDS: Final = 90 * 86_400
AHEAD_SECONDS: Final = 3_600
BEHIND_SECONDS: Final = 3_600


class _Current(Struct, frozen=True):
    key_id: str
    sealed: bytes
    due: bool


class _Published(Struct, frozen=True):
    key_id: str
    public_x: str


_current: Final = Query("signing_keys", "current", _Current, package="broker")
_published: Final = Query("signing_keys", "published", _Published, package="broker")
_insert: Final = Query("signing_keys", "insert", Nothing, package="broker")
_forget_old: Final = Query("signing_keys", "forget_old", Nothing, package="broker")
_forget_others: Final = Query("signing_keys", "forget_others", Nothing, package="broker")


class SigningKeys:
    """Every workspace's own."""

    def __init__(self, vault: Vault) -> None:
        self._vault = vault

    async def current(self, caller: Caller) -> SigningKey:
        """What signs now; the first one is made here, and so is the next when it is time."""
        found = await self._read(caller)
        if found is None:
            await self._make(caller, ahead=0)
        elif found.due:
            await self._make(caller, ahead=AHEAD_SECONDS)
        found = found or await self._read(caller)
        if found is None:
            raise NotReady("The workspace's signing key is just being replaced.")
        context = signing_key_context(caller.workspace, found.key_id)
        return SigningKey(
            found.key_id, Secret(await self._vault.open_for_guest(caller, context, found.sealed))
        )

    async def rotate(self, caller: Caller, *, compromised: bool, once: Once | None = None) -> str:
        """Make the next key; a ``compromised`` one is replaced and forgotten at once."""
        access.permit(caller, "signing_key.rotate")
        access.permit_everywhere(caller)
        return await self._make(
            caller, ahead=0 if compromised else AHEAD_SECONDS, alone=compromised, once=once
        )

    async def published(self, workspace: WorkspaceId) -> list[dict[str, str]]:
        """The public halves, as a JWKS has them; none where there is no such workspace."""
        anybody = Caller(kind="worker", actor_id="jwks", workspace=workspace)
        rows = await self._vault.within(
            anybody,
            lambda tx: _published.all(tx, workspace_id=workspace, seconds=BEHIND_SECONDS),
        )
        return [public_jwk(row.key_id, row.public_x) for row in rows]

    async def _read(self, caller: Caller) -> _Current | None:
        return await self._vault.within(
            caller,
            lambda tx: _current.maybe(tx, workspace_id=tx.workspace, seconds=SIGNS_SECONDS),
        )

    async def _make(
        self, caller: Caller, *, ahead: int, alone: bool = False, once: Once | None = None
    ) -> str:
        made, public_x = new_signing_key()
        sealed = await self._vault.seal_for_guest(
            caller, signing_key_context(caller.workspace, made.key_id), made.private.reveal_bytes()
        )

        async def make(tx: Transaction) -> str:
            await _insert.run(
                tx,
                workspace_id=tx.workspace,
                key_id=made.key_id,
                public_x=public_x,
                sealed=sealed,
                seconds=ahead,
                created_by=caller.actor_id,
            )
            if alone:
                await _forget_others.run(tx, workspace_id=tx.workspace, key_id=made.key_id)
            else:
                await _forget_old.run(tx, workspace_id=tx.workspace, seconds=BEHIND_SECONDS)
            target = ("signing_key", made.key_id)
            await audit.record(tx, caller, "signing_key.rotate", target=target)
            return made.key_id

        return await self._vault.within(
            caller, lambda tx: idempotency.once_only(tx, caller, once, str, make)
        )


def signing_key_context(workspace: WorkspaceId, key_id: str) -> Context:
    """What binds the seal of a private half to its key."""
    return Context(
        workspace=workspace,
        table="broker.signing_keys",
        row=key_id,
        field="private",
        generation=1,
    )
