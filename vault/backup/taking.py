"""Take a backup: one snapshot, read as the role that sees everything and changes nothing.

* The tables are held against changes of the schema from before the first row is read.
* Every row that is read is in the snapshot; who writes meanwhile neither waits nor shows.
"""

import hmac
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from msgspec import Struct

from vault import __version__
from vault.backup import FORMAT, Manifest, Table, WrappedKey
from vault.backup.archive import KEYS, Writer, encoded, member_of
from vault.backup.tables import SCHEMA, Shape, quoted, shapes
from vault.database import DriverError, connect_as_owner, sqlstate_of
from vault.errors import Misconfigured, NotReady, VaultError
from vault.keyring.rotations import Step, Tell, untold
from vault.migrations import newest_versions
from vault.secret import Secret
from vault.shredding import Entry
from vault.shredding.ledger import LedgerFile

COPY_SECONDS: Final = 6 * 3600.0
LOCK_SECONDS: Final = 10
_ROWS: Final = 1000
_FORBIDDEN: Final = "42501"

_DEPLOYMENT: Final = "select deployment_id, pepper, root_key_id, now() from vault.deployment"
_LEVEL: Final = "select epoch, mark from vault.high_water"
_VERSIONS: Final = "select part, max(version) from vault.schema_migrations group by part"
_KEYS: Final = """
select workspace_id, key_id, version, wrapped, root_key_id
  from vault.workspace_keys
 order by workspace_id, version
"""
_SHREDDINGS: Final = "select hash, at from vault.shreddings where at >= $1 order by at, hash"


class _Seen(Struct):
    """What the keys' table says, while it is read."""

    root_keys: Counter[str]
    probes: dict[str, WrappedKey]


async def take(
    owner: Secret, pepper: bytes, place: Path, parts: Sequence[str], tell: Tell = untold
) -> Manifest:
    """Back up the database to a new file; beside it, bring the list of deletions up to date."""
    connection = await connect_as_owner(owner)
    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            await _become_reader(connection)
            every = await _held(connection)
            with Writer.at(place) as writer:
                manifest = await _written(connection, writer, every, parts, tell)
                text = encoded(manifest)
                # Beside the backup before the backup: none is ever without what it has to obey.
                await _ledger(connection, place.parent, manifest)
                writer.sign_off(text, signature(pepper, text))
            return manifest
    except DriverError as error:
        raise VaultError(
            f"The database broke the backup off (SQLSTATE {sqlstate_of(error)})."
        ) from None
    except OSError:
        raise NotReady("The database went away, and the backup is not there.") from None
    finally:
        connection.terminate()


def signature(pepper: bytes, manifest: bytes) -> str:
    """What only this deployment can say of a manifest."""
    key = hmac.digest(pepper, b"keyturn/backup/1", "sha256")
    return hmac.digest(key, manifest, "sha256").hex()


async def _become_reader(connection: Any) -> None:
    await connection.execute(
        f"set local lock_timeout = '{LOCK_SECONDS}s';"
        " set local statement_timeout = 0;"  # a table may be large: the copy has a time of its own
        " set local idle_in_transaction_session_timeout = '10min'"
    )
    try:
        await connection.execute("set local role keyturn_backup")
    except DriverError as error:
        if sqlstate_of(error) != _FORBIDDEN:
            raise
        raise Misconfigured(
            "The login of KEYTURN_OWNER_DATABASE_URL may not read everything. Let a superuser say "
            "once: grant keyturn_backup to that login."
        ) from None


async def _held(connection: Any) -> list[Shape]:
    """All tables, none of which changes its shape from here on."""
    names = [f"{SCHEMA}.{quoted(one.name)}" for one in await shapes(connection)]
    await connection.execute(f"lock table {', '.join(names)} in access share mode")
    return await shapes(connection)


async def _written(
    connection: Any, writer: Writer, every: list[Shape], parts: Sequence[str], tell: Tell
) -> Manifest:
    schema = dict(await connection.fetch(_VERSIONS))
    _refuse_pending(schema, newest_versions(parts))
    found = await connection.fetchrow(_DEPLOYMENT)
    if found is None:
        raise Misconfigured("There is nothing to back up: nobody has started this deployment yet.")
    level = await connection.fetchrow(_LEVEL)
    tables = []
    for done, shape in enumerate(every):
        tell(Step(f"backing up {shape.name}", done, len(every)))
        tables.append(await _copied(connection, writer, shape))
    tell(Step("backed up", len(every), len(every)))
    keys_hash, seen = await _keys(connection, writer)
    seen.root_keys[found[2]] += 1
    return Manifest(
        format=FORMAT,
        keyturn=__version__,
        deployment_id=found[0],
        taken_at=found[3],
        schema=schema,
        epoch=level[0],
        mark=level[1],
        pepper=found[1],
        pepper_root_key=found[2],
        root_keys=dict(seen.root_keys),
        workspace_keys_sha256=keys_hash,
        probes=tuple(seen.probes.values()),
        tables=tuple(tables),
    )


def _refuse_pending(found: Mapping[str, int], newest: Mapping[str, int]) -> None:
    if found != newest:
        raise Misconfigured(
            "The database's schema is not this version's: run 'keyturn migrate', or back up with "
            "the Keyturn that it belongs to."
        )


async def _copied(connection: Any, writer: Writer, shape: Shape) -> Table:
    columns = ", ".join(quoted(one) for one in shape.columns)
    with writer.member(member_of(shape.name)) as member:

        async def sink(piece: bytes) -> None:
            member.write(piece)

        # Text and not binary: it is the same in every version of PostgreSQL.
        await connection.copy_from_query(
            f"select {columns} from {SCHEMA}.{quoted(shape.name)}",  # noqa: S608 - the catalogue's names, quoted
            output=sink,
            format="text",
            timeout=COPY_SECONDS,
        )
        return Table(shape.name, shape.columns, member.lines, member.sha256)


async def _keys(connection: Any, writer: Writer) -> tuple[str, _Seen]:
    """List every workspace key that the rows need, by id; see which root keys wrap them."""
    seen = _Seen(Counter(), {})
    with writer.member(KEYS) as member:
        async for row in connection.cursor(_KEYS, prefetch=_ROWS):
            key = WrappedKey(*row)
            member.write(f"{key.workspace} {key.key_id.hex()} {key.root_key_id}\n".encode())
            seen.root_keys[key.root_key_id] += 1
            seen.probes.setdefault(key.root_key_id, key)
        return member.sha256, seen


async def _ledger(connection: Any, folder: Path, manifest: Manifest) -> None:
    """Bring the list of deletions beside the backup up to date: all that the snapshot has."""
    file = LedgerFile(folder, manifest.deployment_id)
    page: list[Entry] = []
    async for row in connection.cursor(_SHREDDINGS, file.asked_from(), prefetch=_ROWS):
        page.append(Entry(*row))
        if len(page) == _ROWS:
            file.add(page)
            page = []
    file.add(page)
    file.complete(manifest.taken_at)
