"""Rows of upstreams: what is sealed of one, and whose it is.

* An account belongs to one workspace. Who else names the same one is refused: by a hash that only
  this deployment can make, of what only its owner knows, so that no workspace learns of another's.
* The address is bound into the seal: a key that is given to another server is given away.

Which caller may is asked before anything here is called.
"""

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Final, Literal

from msgspec import Struct

from vault import audit
from vault.database import Transaction
from vault.errors import Conflict, UpstreamMissing
from vault.model import Caller, WorkspaceId
from vault.seal import Context
from vault.sql import Query
from vault.vault import Vault
from vault.vault.door import found, written

Kind = Literal["elevenlabs", "livekit"]


class UpstreamRow(Struct, frozen=True):
    """An upstream as its row has it."""

    kind: Kind
    generation: int
    base_url: str
    sealed: bytes
    claim_hash: bytes
    claimed_at: datetime
    runtime_key_id: str | None
    runtime_secret_id: str | None
    created_at: datetime
    updated_at: datetime
    created_by: str


class Written(Struct, frozen=True, kw_only=True):
    """What a workspace says of its upstream: ``packed`` is sealed, ``claim`` says whose it is."""

    base_url: str
    packed: bytes
    claim: bytes

    def __repr__(self) -> str:
        return "Written(***)"


class _Claim(Struct, frozen=True):
    workspace_id: WorkspaceId
    claimed_at: datetime


class _Id(Struct, frozen=True):
    id: str


_put: Final = Query("upstreams", "put", UpstreamRow, package="broker")
_get: Final = Query("upstreams", "get", UpstreamRow, package="broker")
_every: Final = Query("upstreams", "every", UpstreamRow, package="broker")
_delete: Final = Query("upstreams", "delete", _Id, package="broker")
_keep_runtime_key: Final = Query("upstreams", "keep_runtime_key", _Id, package="broker")
_claims: Final = Query("upstreams", "claims", _Claim, package="broker")


class Rows:
    """The upstreams of one kind. ``forget``: what was made in an account goes with it."""

    def __init__(
        self, vault: Vault, kind: Kind, forget: Callable[[Transaction], Awaitable[None]]
    ) -> None:
        self._vault = vault
        self._kind = kind
        self._forget = forget

    async def get(self, caller: Caller) -> UpstreamRow | None:
        """The one row that there can be."""
        return await self._vault.within(
            caller, lambda tx: _get.maybe(tx, workspace_id=tx.workspace, kind=self._kind)
        )

    async def put(self, caller: Caller, wanted: Written) -> tuple[UpstreamRow, bool]:
        """Write it; the second value says whether there was none."""
        if await self._rivals(caller, wanted.claim):
            raise _taken()
        before = await self.get(caller)
        former = None
        if before is not None:
            packed = await self.opened(caller, before)
            former = Written(base_url=before.base_url, packed=packed, claim=before.claim_hash)
        row, is_new = await self._write(caller, wanted)
        # Two that claim it at the very same time both see nobody before. Of those, whoever looks
        # last sees the other, whichever transaction began first: so who sees one, withdraws. Who
        # had it already need not look: whoever comes later sees that.
        had_it = before is not None and before.claim_hash == wanted.claim
        if not had_it and await self._rivals(caller, wanted.claim):
            await self._withdraw(caller, former)
            raise _taken()
        return row, is_new

    async def delete(self, caller: Caller) -> None:
        """Forget it. What was made there stays there, and serves nobody any more."""
        await self._vault.within(caller, self._deleted(caller))

    async def opened(self, caller: Caller, row: UpstreamRow) -> bytes:
        """What is sealed of it."""
        context = account_context(caller.workspace, row.kind, row.base_url, row.generation)
        return await self._vault.open_for_guest(caller, context, row.sealed)

    async def keep_runtime_key(
        self, caller: Caller, row: UpstreamRow, key_id: str, secret_id: str
    ) -> None:
        """Remember the runtime key that lies in this account; fails if it is another one now."""
        kept = await self._vault.within(
            caller,
            lambda tx: _keep_runtime_key.maybe(
                tx,
                workspace_id=tx.workspace,
                kind=self._kind,
                claim_hash=row.claim_hash,
                runtime_key_id=key_id,
                runtime_secret_id=secret_id,
            ),
        )
        if kept is None:
            raise Conflict("The upstream was changed meanwhile.")

    async def _rivals(self, caller: Caller, claim: bytes) -> list[_Claim]:
        every = await self._vault.look_up_for_guest(_claims, claim_hash=claim)
        return [one for one in every if one.workspace_id != caller.workspace]

    async def _write(self, caller: Caller, wanted: Written) -> tuple[UpstreamRow, bool]:
        async def attempt() -> tuple[UpstreamRow, bool] | None:
            before = await self.get(caller)
            generation = before.generation + 1 if before else 1
            context = account_context(caller.workspace, self._kind, wanted.base_url, generation)
            sealed = await self._vault.seal_for_guest(caller, context, wanted.packed)

            async def work(tx: Transaction) -> UpstreamRow | None:
                row = await _put.maybe(
                    tx,
                    workspace_id=tx.workspace,
                    kind=self._kind,
                    generation=generation,
                    base_url=wanted.base_url,
                    sealed=sealed,
                    claim_hash=wanted.claim,
                    created_by=caller.actor_id,
                )
                if row is None:
                    return None
                if before and before.claim_hash != wanted.claim:
                    await self._forget(tx)
                await audit.record(tx, caller, "upstream.write", target=("upstream", self._kind))
                return row

            row = await self._vault.within(caller, work)
            return (row, before is None) if row else None

        return await written(attempt)

    async def _withdraw(self, caller: Caller, former: Written | None) -> None:
        if former is None:
            await self.delete(caller)
        else:
            await self._write(caller, former)

    def _deleted(self, caller: Caller) -> Callable[[Transaction], Awaitable[None]]:
        async def work(tx: Transaction) -> None:
            found(await _delete.maybe(tx, workspace_id=tx.workspace, kind=self._kind))
            await self._forget(tx)
            await audit.record(tx, caller, "upstream.delete", target=("upstream", self._kind))

        return work


async def every_in(tx: Transaction) -> dict[Kind, UpstreamRow]:
    """All that the workspace has, in a transaction that asks for more."""
    return {one.kind: one for one in await _every.all(tx, workspace_id=tx.workspace)}


def account_context(workspace: WorkspaceId, kind: str, base_url: str, generation: int) -> Context:
    """What binds the seal of an upstream to where it is."""
    return Context(
        workspace=workspace,
        table="broker.upstreams",
        row=kind,
        field=f"account {base_url}",
        generation=generation,
    )


def missing_upstream(kind: Kind) -> UpstreamMissing:
    """There is none of this kind, and how to name one."""
    return UpstreamMissing(
        f"This workspace has not said where its runtime is: PUT /v1/upstreams/{kind}."
    )


def _taken() -> Conflict:
    return Conflict("This account belongs to another workspace already.")
