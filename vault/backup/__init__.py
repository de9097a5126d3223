"""Backups: everything that the database holds, sealed as it is, and what it takes to open it again.

* One snapshot, however long it takes and whoever writes meanwhile; nobody waits for it.
* A file appears whole or not at all, replaces none, and says itself whether all of it is there.
* It holds no root key, no key that opens without one, and nothing in clear that is not in clear in
  the database. The manifest names what has to be at hand: root keys and workspace keys, by id.
* The manifest is signed with the deployment's secret: who changes a backup is found out.
"""

from datetime import datetime
from typing import Final

from msgspec import Struct

from vault.errors import VaultError

FORMAT: Final = 1


class Damaged(VaultError):
    """This file is not a whole backup."""


class WrappedKey(Struct, frozen=True, forbid_unknown_fields=True):
    """A key of a workspace as its row holds it: to try whether the root key is at hand."""

    workspace: str
    key_id: bytes
    version: int
    wrapped: bytes
    root_key_id: str


class Table(Struct, frozen=True, forbid_unknown_fields=True):
    """One table: in which columns, how much, and the SHA-256 of its lines."""

    name: str
    columns: tuple[str, ...]
    rows: int
    sha256: str


class Manifest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a backup is. Nothing in it opens anything.

    ``pepper`` is the deployment's secret, wrapped. ``probes`` has a wrapped key for each root key
    that is needed; ``root_keys`` says for how many keys. The ids of all of them are in a member of
    their own, for there may be many.
    """

    format: int
    keyturn: str
    deployment_id: str
    taken_at: datetime
    schema: dict[str, int]
    epoch: int
    mark: int
    pepper: bytes
    pepper_root_key: str
    root_keys: dict[str, int]
    workspace_keys_sha256: str
    probes: tuple[WrappedKey, ...]
    tables: tuple[Table, ...]

    @property
    def rows(self) -> int:
        return sum(table.rows for table in self.tables)
