"""Restore a backup into an empty database, whole or not at all.

1. The manifest is read and its signature checked, which takes the root key; one that is missing is
   named. A database that holds anything is refused.
2. The schema is made as the backup's was.
3. In one transaction all tables are filled, the schema is brought to this version, what was deleted
   since is deleted again, and the epoch begins. Whoever is killed in between leaves an empty
   database.
"""

import hmac
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final

from msgspec import Struct

from vault import shredding
from vault.backup import Damaged, Manifest, Table, WrappedKey
from vault.backup.archive import Reader
from vault.backup.moving_on import Moved, State, advance, pages, settle, workspaces
from vault.backup.tables import SCHEMA, quoted, shapes
from vault.backup.taking import COPY_SECONDS, signature
from vault.database import DriverError, Transaction, connect_as_owner, sqlstate_of
from vault.errors import Conflict, IntegrityError, Misconfigured, NotReady, VaultError
from vault.keyring import Keyring, StoredKey
from vault.keyring.roots import PEPPER
from vault.keyring.rotations import Step, Tell, untold
from vault.kms import RootKey, RootKeyUnknown, Wrapped
from vault.migrations import Login, bring_up, migrate, newest_versions
from vault.model import OPERATOR, WorkspaceId
from vault.refreshing.marks import Level
from vault.secret import Secret
from vault.shredding import Entry

_FORCED: Final = """
select c.relname
  from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
 where n.nspname = $1 and c.relkind = 'r' and c.relforcerowsecurity
"""
_IS_THERE: Final = "select to_regclass('vault.schema_migrations') is not null"
_VERSIONS: Final = "select part, max(version) from vault.schema_migrations group by part"
_OCCUPIED: Final = "select exists (select from vault.deployment)"


class Place(Struct, frozen=True):
    """Where it goes: the owner's address, the logins that are made, the parts of the schema."""

    owner: Secret
    logins: list[Login]
    parts: Sequence[str]


class Outside(Struct, frozen=True, kw_only=True):
    """What is known outside of the backup: how far the deployment had come, what was deleted, and
    at which providers no refresh token is ever used up.
    """

    level: Level
    deleted: Iterable[Entry]
    repeatable: Sequence[str]


class Restored(Struct, frozen=True, kw_only=True):
    """What came back, and from where on it goes on."""

    manifest: Manifest
    level: Level
    moved: Moved


async def opened_secret(reader: Reader, root: RootKey) -> bytes:
    """Check who signed the manifest, and that every root key that is needed is at hand."""
    manifest = reader.manifest
    keyring = Keyring(root, manifest.deployment_id)
    wrapped = Wrapped(manifest.pepper, manifest.pepper_root_key)
    try:
        with _naming(wrapped.root_key_id):
            pepper = await keyring.unwrap_deployment_secret(PEPPER, wrapped)
        expected = signature(pepper, reader.manifest_bytes)
        if not hmac.compare_digest(expected.encode(), reader.signature.encode()):
            raise Damaged(f"{reader.place} was changed after it was written.")
        for probe in manifest.probes:
            with _naming(probe.root_key_id):
                await keyring.check(WorkspaceId(probe.workspace), _stored(probe))
    finally:
        await keyring.close()
    return pepper


def _stored(probe: WrappedKey) -> StoredKey:
    return StoredKey(probe.key_id, probe.version, probe.wrapped, probe.root_key_id)


@contextmanager
def _naming(root_key_id: str) -> Iterator[None]:
    """Name the root key that is missing."""
    try:
        yield
    except RootKeyUnknown:
        raise Misconfigured(
            f"The backup needs the root key {root_key_id}, and KEYTURN_KEK does not name it."
        ) from None
    except IntegrityError:
        raise Misconfigured(
            f"The root key {root_key_id} is another one than the backup was made with."
        ) from None


def refuse_newer(manifest: Manifest, parts: Sequence[str]) -> None:
    """Refuse what this code does not know."""
    newest = newest_versions(parts)
    for part, version in manifest.schema.items():
        if version > newest.get(part, 0):
            raise Misconfigured(
                f"The backup's {part} is at version {version}, newer than this code knows "
                f"({newest.get(part, 0)}). Restore it with the newer Keyturn."
            )


async def restore(
    reader: Reader, pepper: bytes, place: Place, outside: Outside, tell: Tell = untold
) -> Restored:
    """Restore; ``pepper`` is what ``opened_secret`` gave."""
    manifest = reader.manifest
    refuse_newer(manifest, place.parts)
    connection = await connect_as_owner(place.owner)
    try:
        await _refuse_occupied(connection, manifest)
        await migrate(place.owner, place.logins, parts=place.parts, until=manifest.schema)
        state = State(pepper=pepper, taken_at=manifest.taken_at, repeatable=outside.repeatable)
        async with connection.transaction():
            await connection.execute("set local statement_timeout = 0")
            await connection.execute("set local role keyturn_owner")
            # Somebody else may have begun the same.
            await connection.execute("lock table vault.deployment in access exclusive mode")
            await _refuse_occupied(connection, manifest)
            async with _unhindered(connection):
                await _fill(connection, reader, tell)
            # Before anything is asked: the statements are those of this version.
            await bring_up(connection, place.parts)
            async with _unhindered(connection):
                tx = Transaction(connection, OPERATOR)
                moved, level = await _move_on(tx, state, outside, tell)
        # What is left to do, if the database has moved to another server.
        await migrate(place.owner, place.logins, parts=place.parts)
    except DriverError as error:
        raise _explained(error) from None
    except OSError:
        raise NotReady("The database went away; nothing was restored.") from None
    finally:
        connection.terminate()
    return Restored(manifest=manifest, level=level, moved=moved)


async def _refuse_occupied(connection: Any, manifest: Manifest) -> None:
    if not await connection.fetchval(_IS_THERE):
        return
    for part, version in await connection.fetch(_VERSIONS):
        if version > manifest.schema.get(part, 0):
            raise Conflict(
                f"The database's {part} is at version {version}, and the backup's at "
                f"{manifest.schema.get(part, 0)}: restore into a database that was never migrated."
            )
    if await connection.fetchval("select to_regclass('vault.deployment') is null"):
        return
    if await connection.fetchval(_OCCUPIED):
        raise Conflict(
            "This database is not empty, and nothing in it is written over: restore into an empty "
            "one, or into another data folder."
        )


@asynccontextmanager
async def _unhindered(connection: Any) -> AsyncIterator[None]:
    """Let the owner see all rows, until this transaction has written its own."""
    forced = [row[0] for row in await connection.fetch(_FORCED, SCHEMA)]
    for name in forced:
        await connection.execute(f"alter table {SCHEMA}.{quoted(name)} no force row level security")
    yield
    for name in forced:
        await connection.execute(f"alter table {SCHEMA}.{quoted(name)} force row level security")


async def _fill(connection: Any, reader: Reader, tell: Tell) -> None:
    """Fill every table."""
    tables = {table.name: table for table in reader.manifest.tables}
    here = await shapes(connection)
    if {one.name: one.columns for one in here} != {
        one.name: one.columns for one in tables.values()
    }:
        raise Damaged(f"{reader.place} does not have the tables of its own schema.")
    for done, shape in enumerate(here):
        tell(Step(f"restoring {shape.name}", done, len(here)))
        await _filled(connection, reader, tables[shape.name])
    tell(Step("restored", len(here), len(here)))


async def _filled(connection: Any, reader: Reader, table: Table) -> None:
    # What a migration has put there is in the backup, too.
    await connection.execute(f"delete from {SCHEMA}.{quoted(table.name)}")  # noqa: S608 - the catalogue's names, quoted
    pieces = reader.pieces(table)
    first = next(pieces, b"")
    if not first:
        return
    await connection.copy_to_table(
        table.name,
        schema_name=SCHEMA,
        columns=table.columns,
        source=_chained(first, pieces),
        format="text",
        timeout=COPY_SECONDS,
    )


async def _chained(first: bytes, rest: Iterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    for piece in rest:
        yield piece


async def _move_on(
    tx: Transaction, state: State, outside: Outside, tell: Tell
) -> tuple[Moved, Level]:
    for page in pages(outside.deleted):
        await shredding.merge(tx, page)
    moved, after = Moved(), ""
    while some := await workspaces(tx, after):
        for workspace in some:
            await tx.enter(workspace)
            moved += await settle(tx, state)
            tell(Step("deleting again what was deleted", moved.workspaces, 0))
        after = some[-1]
    return moved, await advance(tx, outside.level)


def _explained(error: Exception) -> VaultError:
    """Say what happened without the driver's text, which quotes rows."""
    return VaultError(
        f"The database refused the backup (SQLSTATE {sqlstate_of(error)}); nothing was restored."
    )
