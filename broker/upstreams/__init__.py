"""The broker's part for upstreams: a workspace's own account at ElevenLabs.

* An account is its place and its API key, and belongs to one workspace.
* API key and webhook secrets go in and never come out here: the key leaves towards the upstream,
  and webhooks are checked against the secrets.
* It serves every environment, so a key that is tied to some leaves it alone.
"""

from datetime import datetime
from typing import Final

import msgspec
from msgspec import Struct

from broker.agents import forget_tools
from broker.targets.remote import RemoteTarget
from broker.telephone import numbers
from broker.upstreams.client import UpstreamClient
from broker.upstreams.rows import Rows, UpstreamRow, Written, missing_upstream
from vault import access
from vault.database import Transaction
from vault.egress import Egress
from vault.errors import Invalid
from vault.model import Caller
from vault.secret import Secret
from vault.vault import Vault
from vault.vault.door import found

MAX_WEBHOOK_SECRETS: Final = 5  # while one is being rotated, and one a webhook


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


_bytes: Final = msgspec.msgpack.Encoder().encode
_unpack: Final = msgspec.msgpack.Decoder(_Packed).decode


class Upstreams:
    """The account of a workspace: written, read, and spoken to."""

    def __init__(self, vault: Vault, egress: Egress) -> None:
        self._vault = vault
        self._egress = egress
        self._rows = Rows(vault, "elevenlabs", _forgotten)

    async def put(self, caller: Caller, wanted: Upstream) -> tuple[KnownUpstream, bool]:
        """Name the account, or another one; the second value says whether there was none."""
        access.permit(caller, "upstream.write")
        access.permit_everywhere(caller)
        wanted = msgspec.structs.replace(wanted, base_url=self._vetted(wanted.base_url))
        row, is_new = await self._rows.put(caller, self._written(wanted))
        return _known(row, wanted), is_new

    async def get(self, caller: Caller) -> KnownUpstream:
        access.permit(caller, "upstream.read")
        row = found(await self._rows.get(caller))
        return _known(row, await self._opened(caller, row))

    async def delete(self, caller: Caller) -> None:
        """Forget the account. What was made in it stays there, and serves nobody any more."""
        access.permit(caller, "upstream.delete")
        access.permit_everywhere(caller)
        await self._rows.delete(caller)

    # For the broker's other parts, which have permitted what they do

    async def row(self, caller: Caller) -> UpstreamRow:
        """The account's row; raises ``UpstreamMissing``."""
        row = await self._rows.get(caller)
        if row is None:
            raise missing_upstream("elevenlabs")
        return row

    async def client(self, caller: Caller) -> UpstreamClient:
        """Speak to the account; raises ``UpstreamMissing``."""
        return await self.client_of(caller, await self.row(caller))

    async def client_of(self, caller: Caller, row: UpstreamRow) -> UpstreamClient:
        """The same, where its row has just been read."""
        opened = await self._opened(caller, row)
        return UpstreamClient(self._egress, opened.base_url, opened.api_key)

    async def target_of(self, caller: Caller, row: UpstreamRow, *, max_total: int) -> RemoteTarget:
        """The account as what an environment file is compared with."""
        opened = await self._opened(caller, row)
        return RemoteTarget(
            self._egress, opened.base_url, opened.api_key, "elevenlabs", max_total=max_total
        )

    async def runtime_secret_id(self, caller: Caller) -> str | None:
        """Where the runtime key lies in the account's secret store; ``None`` until it does."""
        row = await self._rows.get(caller)
        return row.runtime_secret_id if row else None

    async def webhook_secrets(self, caller: Caller) -> tuple[Secret, ...]:
        """What the account's webhooks are signed with; none where there is no account."""
        row = await self._rows.get(caller)
        return (await self._opened(caller, row)).webhook_secrets if row else ()

    async def keep_runtime_key(
        self, caller: Caller, row: UpstreamRow, key_id: str, secret_id: str
    ) -> None:
        """Remember the runtime key that lies in this account; fails if it is another one now."""
        await self._rows.keep_runtime_key(caller, row, key_id, secret_id)

    def _vetted(self, base_url: str) -> str:
        vetted = self._egress.vet_url("upstream", base_url)
        if vetted.url.query_string or vetted.url.fragment:
            raise Invalid("Name it without a query.", pointer="/base_url")
        return base_url.rstrip("/")

    def _written(self, wanted: Upstream) -> Written:
        place = self._egress.vet_url("upstream", wanted.base_url).place
        hooks = [one.reveal() for one in wanted.webhook_secrets]
        return Written(
            base_url=wanted.base_url,
            packed=_bytes(_Packed(wanted.api_key.reveal(), hooks)),
            claim=self._vault.fingerprint(
                b"upstream\n" + place.encode() + b"\n" + wanted.api_key.reveal_bytes()
            ),
        )

    async def _opened(self, caller: Caller, row: UpstreamRow) -> Upstream:
        opened = _unpack(await self._rows.opened(caller, row))
        return Upstream(
            base_url=row.base_url,
            api_key=Secret(opened.api_key),
            webhook_secrets=tuple(Secret(one) for one in opened.webhook_secrets),
        )


async def _forgotten(tx: Transaction) -> None:
    await forget_tools(tx)
    await numbers.forget_all(tx)


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
