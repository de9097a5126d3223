"""The broker's part for a workspace's LiveKit project: its address, and the key pair that signs.

* Nobody there is ever called: a token is signed here, and LiveKit believes the signature.
* The API key is in every token, so a project is the pair: whoever names another one's key without
  its secret learns nothing, and has a project of nobody.
* The secret goes in and never comes out here. It serves every environment, so a key that is tied
  to some leaves it alone.
"""

from datetime import datetime
from typing import Final

import msgspec
from msgspec import Struct

from broker.runtimes.livekit import Project
from broker.upstreams.rows import Rows, UpstreamRow, Written
from vault import access
from vault.database import Transaction
from vault.egress import Egress
from vault.errors import Invalid
from vault.model import Caller
from vault.secret import Secret
from vault.vault import Vault
from vault.vault.door import found

_SCHEMES: Final = ("wss://", "ws://")


class KnownProject(Struct, frozen=True, kw_only=True):
    """What is said of a project to whoever asks."""

    url: str
    api_key: str
    created_at: datetime
    updated_at: datetime
    created_by: str


class _Packed(Struct, frozen=True, array_like=True):
    api_key: str
    api_secret: str


_bytes: Final = msgspec.msgpack.Encoder().encode
_unpack: Final = msgspec.msgpack.Decoder(_Packed).decode


class Projects:
    """The LiveKit project of a workspace: written, read, and signed for."""

    def __init__(self, vault: Vault, egress: Egress) -> None:
        self._vault = vault
        self._egress = egress
        self._rows = Rows(vault, "livekit", _nothing)

    async def put(self, caller: Caller, wanted: Project) -> tuple[KnownProject, bool]:
        """Name the project, or another one; the second value says whether there was none."""
        access.permit(caller, "upstream.write")
        access.permit_everywhere(caller)
        row, is_new = await self._rows.put(caller, self._written(wanted))
        return _known(row, wanted), is_new

    async def get(self, caller: Caller) -> KnownProject:
        access.permit(caller, "upstream.read")
        row = found(await self._rows.get(caller))
        return _known(row, await self.project(caller, row))

    async def delete(self, caller: Caller) -> None:
        """Forget the project. Who is in one of its rooms stays there."""
        access.permit(caller, "upstream.delete")
        access.permit_everywhere(caller)
        await self._rows.delete(caller)

    async def project(self, caller: Caller, row: UpstreamRow) -> Project:
        """What signs, for the broker's other parts, which have permitted what they do."""
        opened = _unpack(await self._rows.opened(caller, row))
        return Project(
            url=row.base_url, api_key=opened.api_key, api_secret=Secret(opened.api_secret)
        )

    def _written(self, wanted: Project) -> Written:
        url = wanted.url.rstrip("/")
        if not url.startswith(_SCHEMES):
            raise Invalid("A project's address begins with wss://", pointer="/url")
        vetted = self._egress.vet_url("upstream", f"http{url.removeprefix('ws')}")
        if vetted.url.query_string or vetted.url.fragment:
            raise Invalid("Name it without a query.", pointer="/url")
        claimed = [b"upstream", b"livekit", vetted.place.encode(), wanted.api_key.encode()]
        return Written(
            base_url=url,
            packed=_bytes(_Packed(wanted.api_key, wanted.api_secret.reveal())),
            claim=self._vault.fingerprint(b"\n".join([*claimed, wanted.api_secret.reveal_bytes()])),
        )


async def _nothing(_: Transaction) -> None:
    """Nothing is made in a project."""


def _known(row: UpstreamRow, project: Project) -> KnownProject:
    return KnownProject(
        url=row.base_url,
        api_key=project.api_key,
        created_at=row.created_at,
        updated_at=row.updated_at,
        created_by=row.created_by,
    )
