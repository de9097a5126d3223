"""Everything that is sealed, kind by kind: listed, opened, and sealed again under a newer key.

* One entry a sealed column; ``tests/flows/test_rekeying.py`` compares the list with the schema.
* Whoever builds upon the vault names its own sealed columns when the vault is opened. Nothing is
  rotated while the schema has a part that named none: its rows would lose their key.
* A context is built as the column's own module builds it, for the place where the row was found. A
  row that was moved there, or tampered with, does not open, and so is never sealed again.
* What is replaced has to be what was listed: whoever wrote meanwhile wins. A row that somebody is
  at is left for the next pass, so no writer ever waits for us.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Final, Self

from msgspec import Struct

from vault.database import Database
from vault.errors import IntegrityError, Misconfigured
from vault.model import UserId, WorkspaceId
from vault.seal import Context, key_id_of, seal
from vault.sql import Query
from vault.store import Store, WorkspaceSeal
from vault.store.answers import answer_context
from vault.store.auth_tokens import token_context
from vault.store.connections import registration_context, revocation_context, tokens_context
from vault.store.environments import auth_context, secret_context, value_context
from vault.store.events import target_context
from vault.store.owners import index_key_context, profile_context, user_key_context
from vault.store.tries import flow_context

BATCH: Final = 200


class SealedRow(Struct, frozen=True):
    """A sealed value, where it was found; with its user's key if it is sealed under that."""

    id: str
    generation: int
    environment: str | None
    sealed: bytes
    user_id: str
    user_key: bytes | None


class RowId(Struct, frozen=True):
    """A row that was replaced."""

    id: str


class _Part(Struct, frozen=True):
    part: str


_parts: Final = Query("sealed", "parts", _Part)


class Orphan(IntegrityError):
    """A provider's answer whose connection is gone: nobody opens it, and it goes by itself."""


class Kind(Struct, frozen=True):
    """One sealed column."""

    name: str
    listed: Query[SealedRow]
    replaced: Query[RowId]
    context: Callable[[WorkspaceId, SealedRow], Context]

    @classmethod
    def of(
        cls,
        name: str,
        context: Callable[[WorkspaceId, SealedRow], Context],
        *,
        package: str = "vault",
    ) -> Self:
        """The column that a package's ``sql/sealed.sql`` lists and replaces by that name."""
        return cls(
            name,
            Query("sealed", f"list_{name}", SealedRow, package=package),
            Query("sealed", f"replace_{name}", RowId, package=package),
            context,
        )


def _value(workspace: WorkspaceId, row: SealedRow) -> Context:
    variable, _, environment = row.id.partition("/")
    return value_context(workspace, variable, environment, row.generation)


def _answer(workspace: WorkspaceId, row: SealedRow) -> Context:
    if row.environment is None:
        raise Orphan
    connection = row.id.rpartition("/")[0]
    return answer_context(workspace, connection, row.generation, row.environment)


GuestKinds = Mapping[str, Sequence[Kind]]
"""Sealed columns by the part of the schema that they are in, beside the vault's own."""

OWN_PART: Final = "vault"

KINDS: Final = (
    Kind.of(
        "index_keys",
        lambda workspace, _: index_key_context(workspace),
    ),
    Kind.of(
        "user_keys",
        lambda workspace, row: user_key_context(workspace, row.id),
    ),
    Kind.of(
        "users",
        lambda workspace, row: profile_context(workspace, UserId(row.id), row.generation),
    ),
    Kind.of(
        "secrets",
        lambda workspace, row: secret_context(workspace, row.id, row.generation),
    ),
    Kind.of(
        "auth_connections",
        lambda workspace, row: auth_context(workspace, row.id, row.generation),
    ),
    Kind.of(
        "auth_connection_tokens",
        lambda workspace, row: token_context(workspace, row.id, row.generation),
    ),
    Kind.of(
        "environment_values",
        _value,
    ),
    Kind.of(
        "integrations",
        lambda workspace, row: registration_context(workspace, row.id, row.generation),
    ),
    Kind.of(
        "connection_tokens",
        lambda workspace, row: tokens_context(
            workspace, row.id, row.generation, row.environment or ""
        ),
    ),
    Kind.of(
        "connect_flows",
        lambda workspace, row: flow_context(
            workspace, row.id, row.generation, row.environment or ""
        ),
    ),
    Kind.of(
        "revocation_tokens",
        lambda workspace, row: revocation_context(workspace, row.id),
    ),
    Kind.of(
        "refresh_answers",
        _answer,
    ),
    Kind.of(
        "event_endpoint_secrets",
        lambda workspace, row: target_context(workspace, row.id, row.generation),
    ),
)


class SealedRows:
    """Everything that a workspace has sealed: what the vault keeps, and what its guests do."""

    def __init__(self, database: Database, store: Store, guests: GuestKinds) -> None:
        self.kinds = (*KINDS, *(kind for kinds in guests.values() for kind in kinds))
        self._parts = {OWN_PART, *guests}
        self._database = database
        self._store = store

    async def refuse_strangers(self) -> None:
        """Raise if somebody keeps rows in this database of which nothing is known here."""
        there = {one.part for one in await _parts.lookup_all(self._database)}
        if strangers := sorted(there - self._parts):
            raise Misconfigured(
                f"The schema has rows of {', '.join(strangers)}, which this process does not know."
            )

    async def some(
        self, workspace: WorkspaceId, kind: Kind, after: str, *, other_than: bytes = b""
    ) -> list[SealedRow]:
        """List the next rows, in the order of their ids; none under the key ``other_than``."""
        return await self._database.run(
            workspace,
            lambda tx: kind.listed.all(
                tx, workspace_id=workspace, after=after, other_than=other_than, limit=BATCH
            ),
        )

    async def opened(self, workspace: WorkspaceId, kind: Kind, row: SealedRow) -> bytes:
        """Open one; raise an ``IntegrityError`` if it is not what was sealed there."""
        context = kind.context(workspace, row)
        if row.user_key is None:
            return await self._store.open(workspace, context, row.sealed)
        return await self._store.open_owned(
            workspace, row.user_id, row.user_key, context, row.sealed
        )

    async def sealed_again(self, sealing: WorkspaceSeal, kind: Kind, row: SealedRow) -> bytes:
        """Seal what it holds, for the same place, with what seals now."""
        key = sealing.key
        if row.user_key is not None:
            key = await self._store.owner_key(sealing, row.user_id, row.user_key)
        plain = await self.opened(sealing.workspace, kind, row)
        return seal(key, kind.context(sealing.workspace, row), plain)

    async def replace(
        self, workspace: WorkspaceId, kind: Kind, changes: Sequence[tuple[SealedRow, bytes]]
    ) -> int:
        """Write those that nobody has changed, or is changing; return how many those were."""
        if not changes:
            return 0
        done = await self._database.run(
            workspace,
            lambda tx: kind.replaced.all(
                tx,
                workspace_id=workspace,
                ids=[row.id for row, _ in changes],
                before=[row.sealed for row, _ in changes],
                after=[sealed for _, sealed in changes],
            ),
        )
        return len(done)


def sealed_under(row: SealedRow) -> bytes:
    """The id of the key that a row asks for; empty where it is not even sealed."""
    try:
        return key_id_of(row.sealed)
    except IntegrityError:
        return b""
