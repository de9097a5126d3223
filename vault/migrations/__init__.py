"""The schema, and the only way to it: forward-only SQL files, each applied once, in order.

* A file is ``NNNN_what.sql``; it runs in one transaction and is recorded with its SHA-256.
* A package numbers its own files, in ``<package>/migrations``. Whoever builds upon the vault names
  itself after it in ``parts``, and its files run after the vault's.
* Any number of processes may migrate at once: the row of ``vault.schema_lock`` lets one through
  (a row and not an advisory lock, which a transaction pooler would lose).
* A file that was changed after it was applied, or a database newer than this code, is refused.
* Replicas of the version before go on running on the schema that a file makes. A file that takes
  away what they use says from which version of its part on code runs without it
  (``-- contracts: needs 0007, since ...``), and is refused by the linter unless it does.
* Everything is made by ``keyturn_owner``, whoever logs in, so that the application's role never
  owns a table. The roles are made on the way, where the login may do that.
"""

import asyncio
import hashlib
import random
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from importlib import resources
from typing import Any, Final, TypeVar

import msgspec
import structlog

from vault import __version__
from vault.database import DriverError, connect_as_owner, sqlstate_of
from vault.dsn import login_of, scram_verifier
from vault.errors import Misconfigured
from vault.secret import Secret

OWN: Final = ("vault",)
LOCK_TIMEOUT: Final = "10s"
STATEMENT_TIMEOUT: Final = "15min"
LOGIN_STATEMENT_TIMEOUT: Final = "30s"
# A process that is stopped in the midst of a transaction keeps others from its rows for so long.
LOGIN_IDLE_TIMEOUT: Final = "10s"
CONTRACTS: Final = re.compile(
    r"^-- contracts: needs (?P<needs>[0-9]{4}), since \S.*$", re.MULTILINE
)
_RACE_TRIES: Final = 8
# Two sessions that make the same role or schema: duplicate object, unique violation,
# "tuple concurrently updated", deadlock.
_RACES: Final = {"42710", "42P06", "42P07", "23505", "XX000", "40P01", "40001"}

T = TypeVar("T")

_log = structlog.get_logger("keyturn.migrations")


class Migration(msgspec.Struct, frozen=True):
    """One file of one part."""

    part: str
    version: int
    name: str
    sql: str
    sha256: str

    @property
    def needs(self) -> int | None:
        """The version of its part that code has to know to run after it; ``None``: any."""
        found = CONTRACTS.search(self.sql)
        return int(found["needs"]) if found else None

    def __str__(self) -> str:
        return f"{self.part} {self.version:04} {self.name}"


class Login(msgspec.Struct, frozen=True):
    """A database login that the service will use, and the role that it gets."""

    address: Secret
    role: str


def all_migrations(parts: Sequence[str] = OWN) -> list[Migration]:
    """Every file of these parts, in order."""
    return [one for part in parts for one in _files(part)]


def _files(part: str) -> list[Migration]:
    found = []
    for file in (resources.files(part) / "migrations").iterdir():
        number, _, rest = file.name.partition("_")
        if number.isdigit() and rest.endswith(".sql"):
            text = file.read_text()
            digest = hashlib.sha256(text.encode()).hexdigest()
            found.append(Migration(part, int(number), rest.removesuffix(".sql"), text, digest))
    return sorted(found, key=lambda migration: migration.version)


def newest_versions(parts: Sequence[str] = OWN) -> dict[str, int]:
    """The version of each part that this code needs; a part without files has none."""
    return {one.part: one.version for one in all_migrations(parts)}


async def migrate(
    owner: Secret,
    logins: list[Login],
    *,
    parts: Sequence[str] = OWN,
    until: Mapping[str, int] | None = None,
) -> list[Migration]:
    """Bring the schema to this code's version; returns what was applied by this call.

    ``until``: only up to these versions, of these parts; a backup is filled in there.
    """
    connection = await connect_as_owner(owner)
    try:
        await _racing(connection, _prepare)
        for login in logins:
            await _racing(connection, partial(_ensure_login, login=login))
        applied = []
        newest = newest_versions(parts)
        for migration in all_migrations(parts):
            if until is not None and migration.version > until.get(migration.part, 0):
                continue
            # Who comes second prepares beside us, and that touches the schema's rights, too.
            if await _racing(connection, partial(_apply, migration=migration, newest=newest)):
                applied.append(migration)
                _log.info(
                    "migration_applied",
                    part=migration.part,
                    version=migration.version,
                    name=migration.name,
                )
        await _racing(connection, _count_on)
        return applied
    finally:
        await connection.close(timeout=5)


async def bring_up(connection: Any, parts: Sequence[str]) -> None:
    """Apply what is missing in the caller's transaction, as the role that owns the schema."""
    newest = newest_versions(parts)
    for migration in all_migrations(parts):
        await _apply(connection, migration, newest)
    await connection.execute("set local lock_timeout = 0; set local statement_timeout = 0")


async def pending(owner: Secret, *, parts: Sequence[str] = OWN) -> list[Migration]:
    """What ``migrate`` would apply. Changes nothing."""
    connection = await connect_as_owner(owner)
    try:
        if not await connection.fetchval(
            "select to_regclass('vault.schema_migrations') is not null"
        ):
            return all_migrations(parts)
        if await _is_role(connection, "keyturn_owner"):
            await connection.execute("set role keyturn_owner")
        recorded = await _recorded(connection)
        _refuse_newer(recorded, newest_versions(parts))
        return [one for one in all_migrations(parts) if not _already(one, recorded)]
    finally:
        await connection.close(timeout=5)


async def _racing(connection: Any, step: Callable[[Any], Awaitable[T]]) -> T:
    """Run a step in a transaction of its own; again, where another migrator came in between."""
    tries = 0
    while True:
        tries += 1
        try:
            async with connection.transaction():
                return await step(connection)
        except DriverError as error:
            if sqlstate_of(error) not in _RACES or tries == _RACE_TRIES:
                raise _explained(error) from None
            await asyncio.sleep(random.uniform(0.02, 0.2))  # noqa: S311 - spreads the racers


async def _prepare(connection: Any) -> None:
    """Roles, schema, and the two tables of the runner itself."""
    if not await _roles_complete(connection):
        await connection.execute((resources.files(__name__) / "roles.sql").read_text())
    await connection.execute("set local role keyturn_owner")
    await connection.execute((resources.files(__name__) / "runner.sql").read_text())


async def _roles_complete(connection: Any) -> bool:
    return bool(
        await connection.fetchval(
            "select count(*) = 6 and bool_and(has_database_privilege("
            "'keyturn_owner', current_database(), 'create'))"
            " and pg_has_role(current_user, 'keyturn_owner', 'member')"
            " from pg_roles where rolname in ('keyturn_owner', 'keyturn_app', 'keyturn_worker',"
            " 'keyturn_auth', 'keyturn_mint', 'keyturn_backup')"
        )
        if await _is_role(connection, "keyturn_owner")
        else False
    )


async def _is_role(connection: Any, name: str) -> bool:
    return bool(await connection.fetchval("select true from pg_roles where rolname = $1", name))


async def _ensure_login(connection: Any, login: Login) -> None:
    """Make the login that an address names, unless it exists; it becomes a member of its role."""
    user, password = login_of(login.address)
    quoted = '"' + user.replace('"', '""') + '"'
    state = await connection.fetchrow(
        "select rolcanlogin, pg_has_role(rolname, $2, 'member') from pg_roles where rolname = $1",
        user,
        login.role,
    )
    if state is None or not state[0]:
        # A verifier and not the password: PostgreSQL may log the statement.
        verifier = scram_verifier(password)
        verb = "create" if state is None else "alter"
        await connection.execute(f"{verb} role {quoted} login password '{verifier}'")
        for name, value in (
            ("statement_timeout", LOGIN_STATEMENT_TIMEOUT),
            ("idle_in_transaction_session_timeout", LOGIN_IDLE_TIMEOUT),
        ):
            await connection.execute(f"alter role {quoted} set {name} = '{value}'")
    if user != login.role and (state is None or not state[1]):
        await connection.execute(f"grant {login.role} to {quoted}")


async def _apply(connection: Any, migration: Migration, newest: Mapping[str, int]) -> bool:
    """Apply one file unless it is there already. The lock's row is held while it runs."""
    await connection.execute("set local role keyturn_owner")
    await connection.execute("select from vault.schema_lock for update")
    recorded = await _recorded(connection)
    _refuse_newer(recorded, newest)
    if _already(migration, recorded):
        return False
    await connection.execute(f"set local lock_timeout = '{LOCK_TIMEOUT}'")
    await connection.execute(f"set local statement_timeout = '{STATEMENT_TIMEOUT}'")
    await connection.execute(migration.sql)
    await connection.execute(
        "insert into vault.schema_migrations (part, version, name, sha256, app_version, needs)"
        " values ($1, $2, $3, $4, $5, $6)",
        migration.part,
        migration.version,
        migration.name,
        migration.sha256,
        __version__,
        migration.needs,
    )
    return True


async def _count_on(connection: Any) -> None:
    """Let the audit record's lines go on counting where the database has moved to."""
    await connection.execute("set local role keyturn_owner")
    moved = await connection.fetchval(
        "select server <> (select system_identifier::text from pg_control_system())"
        " or sealed_to > shift + pg_snapshot_xmin(pg_current_snapshot())::text::bigint"
        " from vault.audit_sealing"
    )
    if moved:
        await connection.execute(f"set local lock_timeout = '{LOCK_TIMEOUT}'")
        await connection.execute((resources.files(__name__) / "audit_server.sql").read_text())
        _log.warning("audit_record_counts_on", why="the database has moved to another server")


async def _recorded(connection: Any) -> dict[tuple[str, int], str]:
    # A table that an older Keyturn made has no parts yet: it knew one.
    rows = await connection.fetch(
        "select coalesce(to_jsonb(m) ->> 'part', 'vault'), version, sha256"
        " from vault.schema_migrations m"
    )
    return {(part, version): digest for part, version, digest in rows}


def _already(migration: Migration, recorded: Mapping[tuple[str, int], str]) -> bool:
    digest = recorded.get((migration.part, migration.version))
    if digest is not None and digest != migration.sha256:
        raise Misconfigured(
            f"Migration {migration} was changed after it was applied. "
            "Run the version that applied it, or restore its file."
        )
    return digest is not None


def _refuse_newer(recorded: Mapping[tuple[str, int], str], newest: Mapping[str, int]) -> None:
    for part, version in sorted(recorded, reverse=True):
        known = newest.get(part, 0)
        if version > known:
            raise Misconfigured(
                f"The database's {part} is at version {version}, newer than this code knows "
                f"({known}). Run the newer Keyturn."
            )


def _explained(error: Exception) -> Exception:
    if sqlstate_of(error) == "42501":
        return Misconfigured(
            "The login of KEYTURN_OWNER_DATABASE_URL may not make the roles. "
            "docs/howto/run-with-your-own-postgresql.md has the statements that a superuser has "
            "to run in this database once; then migrate again."
        )
    return error
