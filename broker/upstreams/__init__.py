"""The broker's part for upstreams: a workspace's own account at ElevenLabs.

* An account belongs to one workspace. Who else names the same place and API key is refused: by a
  hash that only this deployment can make, so that no workspace learns of another's key.
* API key and webhook secrets go in and never come out here: the key leaves towards the upstream,
  and webhooks are checked against the secrets.
* It serves every environment, so a key that is tied to some leaves it alone.
"""

from datetime import datetime
from typing import Final, Literal

import msgspec
from msgspec import Struct

from broker.agents import forget_tools
from broker.upstreams.client import UpstreamClient
from vault import access, audit
from vault.database import Transaction
from vault.egress import Egress
from vault.errors import Conflict, Invalid, UpstreamMissing
from vault.model import Caller, WorkspaceId
from vault.seal import Context
from vault.secret import Secret
from vault.sql import Query
from vault.vault import Vault
from vault.vault.door import found, written

Kind = Literal["elevenlabs"]
KIND: Final[Kind] = "elevenlabs"
MAX_WEBHOOK_SECRETS: Final = 5  # while one is being rotated, and one a webhook


class UpstreamRow(Struct, frozen=True):
    """An upstream as its row has it."""

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


class Upstream(Struct, frozen=True, kw_only=True):
    """Where a workspace's runtime is, and what opens it."""

    base_url: str
    api_key: Secret
    webhook_secrets: tuple[Secret, ...] = ()

    def __repr__(self) -> str:
        return "Upstream(***)"


class KnownUpstream(Struct, frozen=True, kw_only=True):
    """What is said of an upstream to whoever asks."""

    base_url: str
    webhook_secrets: int
    runtime_key_id: str | None
    runtime_secret_id: str | None
    created_at: datetime
    updated_at: datetime
    created_by: str


class _Packed(Struct, frozen=True, array_like=True):
    api_key: str
    webhook_secrets: list[str]


class _Claim(Struct, frozen=True):
    workspace_id: WorkspaceId
    claimed_at: datetime


class _Id(Struct, frozen=True):
    id: str


_put: Final = Query("upstreams", "put", UpstreamRow, package="broker")
_get: Final = Query("upstreams", "get", UpstreamRow, package="broker")
_delete: Final = Query("upstreams", "delete", _Id, package="broker")
_keep_runtime_key: Final = Query("upstreams", "keep_runtime_key", _Id, package="broker")
_claims: Final = Query("upstreams", "claims", _Claim, package="broker")

_bytes: Final = msgspec.msgpack.Encoder().encode
_unpack: Final = msgspec.msgpack.Decoder(_Packed).decode


class Upstreams:
    """The account of a workspace: written, read, and spoken to."""

    def __init__(self, vault: Vault, egress: Egress) -> None:
        self._vault = vault
        self._egress = egress

    async def put(self, caller: Caller, wanted: Upstream) -> tuple[KnownUpstream, bool]:
        """Name the account, or another one; the second value says whether there was none."""
        access.permit(caller, "upstream.write")
        access.permit_everywhere(caller)
        wanted = msgspec.structs.replace(wanted, base_url=self._vetted(wanted.base_url))
        claim = self._claim(wanted)
        if await self._rivals(caller, claim):
            raise _taken()
        before = await self._row(caller)
        former = await self._opened(caller, before) if before else None
        row, is_new = await self._write(caller, wanted, claim)
        # Two that claim it at the very same time both see nobody before, and each other after.
        if any(
            (one.claimed_at, one.workspace_id) < (row.claimed_at, caller.workspace)
            for one in await self._rivals(caller, claim)
        ):
            await self._withdraw(caller, former)
            raise _taken()
        return _known(row, wanted), is_new

    async def get(self, caller: Caller) -> KnownUpstream:
        access.permit(caller, "upstream.read")
        row = found(await self._row(caller))
        return _known(row, await self._opened(caller, row))

    async def delete(self, caller: Caller) -> None:
        """Forget the account. What was made in it stays there, and serves nobody any more."""
        access.permit(caller, "upstream.delete")
        access.permit_everywhere(caller)
        await self._vault.within(caller, lambda tx: _deleted(tx, caller))

    # For the broker's other parts, which have permitted what they do

    async def row(self, caller: Caller) -> UpstreamRow:
        """The account's row; raises ``UpstreamMissing``."""
        row = await self._row(caller)
        if row is None:
            raise UpstreamMissing
        return row

    async def client(self, caller: Caller) -> UpstreamClient:
        """Speak to the account; raises ``UpstreamMissing``."""
        return await self.client_of(caller, await self.row(caller))

    async def client_of(self, caller: Caller, row: UpstreamRow) -> UpstreamClient:
        """The same, where its row has just been read."""
        opened = await self._opened(caller, row)
        return UpstreamClient(self._egress, opened.base_url, opened.api_key)

    async def row_in(self, tx: Transaction) -> UpstreamRow | None:
        """The account's row, in a transaction that asks for more."""
        return await _get.maybe(tx, workspace_id=tx.workspace, kind=KIND)

    async def runtime_secret_id(self, caller: Caller) -> str | None:
        """Where the runtime key lies in the account's secret store; ``None`` until it does."""
        row = await self._row(caller)
        return row.runtime_secret_id if row else None

    async def webhook_secrets(self, caller: Caller) -> tuple[Secret, ...]:
        """What the account's webhooks are signed with; none where there is no account."""
        row = await self._row(caller)
        return (await self._opened(caller, row)).webhook_secrets if row else ()

    async def keep_runtime_key(
        self, caller: Caller, row: UpstreamRow, key_id: str, secret_id: str
    ) -> None:
        """Remember the runtime key that lies in this account; fails if it is another one now."""
        kept = await self._vault.within(
            caller,
            lambda tx: _keep_runtime_key.maybe(
                tx,
                workspace_id=tx.workspace,
                kind=KIND,
                claim_hash=row.claim_hash,
                runtime_key_id=key_id,
                runtime_secret_id=secret_id,
            ),
        )
        if kept is None:
            raise Conflict("The upstream was changed meanwhile.")

    def _vetted(self, base_url: str) -> str:
        vetted = self._egress.vet_url("upstream", base_url)
        if vetted.url.query_string or vetted.url.fragment:
            raise Invalid("Name it without a query.", pointer="/base_url")
        return base_url.rstrip("/")

    def _claim(self, wanted: Upstream) -> bytes:
        place = self._egress.vet_url("upstream", wanted.base_url).place
        return self._vault.fingerprint(
            b"upstream\n" + place.encode() + b"\n" + wanted.api_key.reveal_bytes()
        )

    async def _rivals(self, caller: Caller, claim: bytes) -> list[_Claim]:
        every = await self._vault.look_up_for_guest(_claims, claim_hash=claim)
        return [one for one in every if one.workspace_id != caller.workspace]

    async def _write(
        self, caller: Caller, wanted: Upstream, claim: bytes
    ) -> tuple[UpstreamRow, bool]:
        packed = _bytes(
            _Packed(wanted.api_key.reveal(), [one.reveal() for one in wanted.webhook_secrets])
        )

        async def attempt() -> tuple[UpstreamRow, bool] | None:
            before = await self._row(caller)
            generation = before.generation + 1 if before else 1
            context = _context(caller.workspace, wanted.base_url, generation)
            sealed = await self._vault.seal_for_guest(caller, context, packed)

            async def work(tx: Transaction) -> UpstreamRow | None:
                row = await _put.maybe(
                    tx,
                    workspace_id=tx.workspace,
                    kind=KIND,
                    generation=generation,
                    base_url=wanted.base_url,
                    sealed=sealed,
                    claim_hash=claim,
                    created_by=caller.actor_id,
                )
                if row is None:
                    return None
                if before and before.claim_hash != claim:
                    await forget_tools(tx)
                await audit.record(tx, caller, "upstream.write", target=("upstream", KIND))
                return row

            row = await self._vault.within(caller, work)
            return (row, before is None) if row else None

        return await written(attempt)

    async def _withdraw(self, caller: Caller, former: Upstream | None) -> None:
        if former is None:
            await self._vault.within(caller, lambda tx: _deleted(tx, caller))
        else:
            await self._write(caller, former, self._claim(former))

    async def _row(self, caller: Caller) -> UpstreamRow | None:
        return await self._vault.within(
            caller, lambda tx: _get.maybe(tx, workspace_id=tx.workspace, kind=KIND)
        )

    async def _opened(self, caller: Caller, row: UpstreamRow) -> Upstream:
        context = _context(caller.workspace, row.base_url, row.generation)
        opened = _unpack(await self._vault.open_for_guest(caller, context, row.sealed))
        return Upstream(
            base_url=row.base_url,
            api_key=Secret(opened.api_key),
            webhook_secrets=tuple(Secret(one) for one in opened.webhook_secrets),
        )


async def _deleted(tx: Transaction, caller: Caller) -> None:
    found(await _delete.maybe(tx, workspace_id=tx.workspace, kind=KIND))
    await forget_tools(tx)
    await audit.record(tx, caller, "upstream.delete", target=("upstream", KIND))


def _taken() -> Conflict:
    return Conflict("This account belongs to another workspace already.")


def _context(workspace: WorkspaceId, base_url: str, generation: int) -> Context:
    """The address is bound in: a key that is given to another server is given away."""
    return Context(
        workspace=workspace,
        table="broker.upstreams",
        row=KIND,
        field=f"account {base_url}",
        generation=generation,
    )


def _known(row: UpstreamRow, opened: Upstream) -> KnownUpstream:
    return KnownUpstream(
        base_url=row.base_url,
        webhook_secrets=len(opened.webhook_secrets),
        runtime_key_id=row.runtime_key_id,
        runtime_secret_id=row.runtime_secret_id,
        created_at=row.created_at,
        updated_at=row.updated_at,
        created_by=row.created_by,
    )
