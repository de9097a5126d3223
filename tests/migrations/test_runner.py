"""The migration runner: races, refusals, and what it leaves behind when it fails."""

import json
import re
import subprocess
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import asyncpg
import pytest
from support.process import CHECKOUT, COMMAND, environment, keyturn, short_folder

from broker.migrations import PARTS
from vault import migrations
from vault.database import Database
from vault.embedded import Embedded
from vault.errors import Misconfigured, VaultError
from vault.migrations import Login, Migration
from vault.secret import Secret

# As the service does it: the vault's files, and the broker's after them.
migrate = partial(migrations.migrate, parts=PARTS)
pending = partial(migrations.pending, parts=PARTS)
all_migrations = partial(migrations.all_migrations, PARTS)

RECIPE = "docs/howto/run-with-your-own-postgresql.md"
DEBIAN_15 = Path("/usr/lib/postgresql/15/bin")
LOGGING = {"fsync": "off", "log_statement": "all", "log_min_error_statement": "debug5"}
OURS = (
    *("keyturn_owner", "keyturn_app", "keyturn_worker", "keyturn_auth", "keyturn_mint"),
    "keyturn_backup",
)


@pytest.fixture(scope="module")
def server() -> Iterator[Embedded]:
    """A server that writes every statement into its log, and whose roles are this module's."""
    with short_folder() as folder:
        embedded = Embedded(folder / "pg", settings=LOGGING).start()
        yield embedded
        embedded.stop()


@pytest.fixture
async def empty(server: Embedded) -> AsyncIterator[Secret]:
    """A superuser's address of an empty database."""
    name = f"d{uuid.uuid4().hex[:12]}"
    await as_superuser(server.dsn(), f"create database {name}")
    yield Secret(server.dsn().reveal().replace("/keyturn?", f"/{name}?"))
    await as_superuser(server.dsn(), f"drop database {name} with (force)")


async def as_superuser(address: Secret, *statements: str) -> Any:
    connection = await asyncpg.connect(address.reveal())
    try:
        result = None
        for statement in statements:
            result = await connection.fetchval(statement)
        return result
    finally:
        await connection.close()


def login(address: Secret, user: str, password: str) -> Secret:
    """The same database, for somebody else."""
    where = address.reveal().rpartition("@")[2]
    return Secret(f"postgresql://{user}:{quote(password, safe='')}@{where}")


def migrating(address: Secret, *words: str) -> "subprocess.CompletedProcess[str]":
    env = environment(mode="development", owner_database_url=address.reveal())
    return keyturn("migrate", *words, env=env)


async def tables(address: Secret) -> set[str]:
    connection = await asyncpg.connect(address.reveal())
    rows = await connection.fetch("select tablename from pg_tables where schemaname = 'vault'")
    await connection.close()
    return {row[0] for row in rows}


async def recorded(address: Secret) -> list[tuple[str, int]]:
    """What was applied, in the order in which it was."""
    connection = await asyncpg.connect(address.reveal())
    rows = await connection.fetch(
        "select part, version from vault.schema_migrations order by applied_at"
    )
    await connection.close()
    return [(part, version) for part, version in rows]


def numbers(every: list[Migration]) -> list[tuple[str, int]]:
    return [(one.part, one.version) for one in every]


@asynccontextmanager
async def more_files(*more: str) -> AsyncIterator[None]:
    """Go on as if the next release had these files too."""
    newest = migrations.newest_versions(PARTS).get(PARTS[-1], 0)
    found = [
        Migration(PARTS[-1], newest + number, "more", text, f"{number:064}")
        for number, text in enumerate(more, start=1)
    ]
    with pytest.MonkeyPatch.context() as patch:
        every = [*all_migrations(), *found]
        patch.setattr(migrations, "all_migrations", lambda _parts: every)
        yield


def race(env: dict[str, str]) -> list[str]:
    """Four processes migrate at once; what each of them said when it was done."""
    racers = [
        subprocess.Popen(
            [*COMMAND, "migrate"],
            env=env,
            cwd="/",
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    said = [racer.communicate(timeout=180) for racer in racers]
    assert [racer.returncode for racer in racers] == [0] * 4, [err for _, err in said]
    return [out for out, _ in said]


async def test_four_migrators_at_once_on_an_empty_database_apply_each_file_once(
    empty: Secret,
) -> None:
    said = race(environment(mode="development", owner_database_url=empty.reveal()))
    assert all("The schema is current." in out for out in said)
    applied = [line for out in said for line in out.splitlines() if line.startswith("applied")]
    assert sorted(applied) == sorted(f"applied {one}" for one in all_migrations())
    assert await recorded(empty) == numbers(all_migrations())


async def test_migrators_that_race_to_make_the_roles_of_a_new_server_all_succeed() -> None:
    with short_folder() as folder:
        server = Embedded(folder / "pg", settings={"fsync": "off"}).start()
        application = server.dsn("keyturn_app")
        race(
            environment(
                mode="development",
                owner_database_url=server.dsn().reveal(),
                database_url=application.reveal(),
            )
        )
        database = await Database.open(application, size=1, statement_cache=0)
        await database.close()
        server.stop()


async def test_check_says_3_while_something_is_pending_and_0_after(empty: Secret) -> None:
    before = migrating(empty, "--check")
    assert before.returncode == 3
    assert before.stdout.splitlines() == [f"pending {one}" for one in all_migrations()]
    assert await tables(empty) == set()
    assert migrating(empty).returncode == 0
    after = migrating(empty, "--check")
    assert (after.returncode, after.stdout) == (0, "")


async def test_migrate_says_in_json_what_is_pending_and_what_was_applied(empty: Secret) -> None:
    before = json.loads(migrating(empty, "--plan", "--json").stdout)["pending"]
    assert len(before) == len(all_migrations())
    assert "create table" in before[0]["sql"]
    done = json.loads(migrating(empty, "--json").stdout)
    assert done == {"applied": [one["name"] for one in before]}
    after = migrating(empty, "--check", "--json")
    assert (after.returncode, json.loads(after.stdout)) == (0, {"pending": []})


async def test_plan_prints_the_sql_and_changes_nothing(empty: Secret) -> None:
    done = migrating(empty, "--plan")
    assert done.returncode == 3
    for one in all_migrations():
        assert one.sql.strip() in done.stdout
    count = "select count(*) from pg_namespace where nspname = 'vault'"
    assert await as_superuser(empty, count) == 0


async def test_a_second_run_applies_nothing(empty: Secret) -> None:
    assert await migrate(empty, []) == all_migrations()
    assert await migrate(empty, []) == []
    assert await pending(empty) == []


async def test_a_file_that_was_changed_after_it_was_applied_is_refused(empty: Secret) -> None:
    await migrate(empty, [])
    await as_superuser(
        empty,
        "update vault.schema_migrations set sha256 = repeat('0', 64)"
        " where part = 'vault' and version = 1",
    )
    done = migrating(empty)
    assert done.returncode == 1
    first = all_migrations()[0]
    assert done.stderr.startswith(f"keyturn: Migration {first} was changed after it was applied.")
    with pytest.raises(Misconfigured, match="vault 0001 house was changed"):
        await pending(empty)


@pytest.mark.parametrize("part", [*PARTS, "another"])
async def test_a_database_newer_than_the_code_is_refused(empty: Secret, part: str) -> None:
    await migrate(empty, [])
    await as_superuser(
        empty,
        "insert into vault.schema_migrations (version, name, sha256, app_version)"
        " values (9999, 'future', 'x', '99')",
        f"update vault.schema_migrations set part = '{part}' where version = 9999",  # noqa: S608 - ours
    )
    done = migrating(empty)
    assert done.returncode == 1
    assert f"The database's {part} is at version 9999, newer than this code" in done.stderr
    with pytest.raises(Misconfigured, match="Run the newer Keyturn"):
        await pending(empty)


async def test_a_database_from_before_there_were_parts_is_brought_up_to_date(
    empty: Secret,
) -> None:
    await migrations.migrate(empty, [])
    await as_superuser(empty, "alter table vault.schema_migrations drop column part cascade")
    await as_superuser(empty, "alter table vault.schema_migrations add primary key (version)")
    of_the_broker = migrations.all_migrations(PARTS[1:])
    assert await pending(empty) == of_the_broker
    assert await migrate(empty, []) == of_the_broker
    assert await recorded(empty) == numbers(all_migrations())


async def test_a_migration_that_fails_leaves_nothing_half_applied(empty: Secret) -> None:
    await migrate(empty, [])
    before = await tables(empty)
    good, bad = "create table vault.first (it text)", "create table vault.second (it text);"
    async with more_files(good, bad + "select 1/0"):
        with pytest.raises(asyncpg.PostgresError):
            await migrate(empty, [])
    assert await tables(empty) == before | {"first"}
    newest = migrations.newest_versions(PARTS).get(PARTS[-1], 0)
    assert await recorded(empty) == [*numbers(all_migrations()), (PARTS[-1], newest + 1)]
    async with more_files(good, bad):
        assert len(await migrate(empty, [])) == 1
    assert await tables(empty) == before | {"first", "second"}


async def test_everything_that_was_made_belongs_to_the_owner_role(empty: Secret) -> None:
    await migrate(empty, [])
    strange = await as_superuser(
        empty,
        "select string_agg(c.relname, ', ') from pg_class c"
        " join pg_namespace n on n.oid = c.relnamespace"
        " where n.nspname = 'vault' and pg_get_userbyid(c.relowner) <> 'keyturn_owner'",
    )
    assert strange is None


async def test_the_logins_and_roles_that_are_made_have_no_power_beyond_their_own(
    empty: Secret,
) -> None:
    application = login(empty, "acme_app", "pa'ss\\word \"x")
    await migrate(empty, [Login(application, "keyturn_app")])
    powers = await as_superuser(
        empty,
        "select string_agg(rolname, ', ') from pg_roles"
        " where rolname ~ '^(keyturn_|acme_)' and (rolsuper or rolcreaterole or rolcreatedb"
        " or rolreplication or (rolbypassrls and rolname <> 'keyturn_backup'))",
    )
    assert powers is None
    who_logs_in = (
        "select string_agg(rolname, ',') from pg_roles where rolcanlogin and rolname = any($1)"
    )
    assert await as_superuser(empty, who_logs_in.replace("$1", f"array{list(OURS)}")) is None
    database = await Database.open(application, size=1, statement_cache=0)
    [row] = await database.lookup("select current_user, pg_has_role('keyturn_owner', 'member')", ())
    assert tuple(row) == ("acme_app", False)
    [row] = await database.lookup("show statement_timeout", ())
    assert row[0] == migrations.LOGIN_STATEMENT_TIMEOUT
    for forbidden in (
        "create table vault.mine (it text)",
        "drop table vault.users",
        "set role keyturn_owner",
        "set role keyturn_auth",
        "update vault.audit_events set action = 'nothing'",
        "delete from vault.audit_events",
        "truncate vault.users",
    ):
        with pytest.raises(VaultError):
            await database.lookup(forbidden, ())
    await database.close()
    await as_superuser(empty, "revoke keyturn_app from acme_app", "drop role acme_app")


async def test_no_password_and_no_verifier_that_opens_anything_is_in_the_servers_log(
    server: Embedded, empty: Secret
) -> None:
    password = f"canary-{uuid.uuid4().hex}"
    application = login(empty, "logged_app", password)
    await migrate(empty, [Login(application, "keyturn_app")])
    log = (server.home / "server.log").read_text()
    assert "create role" in log, "this server writes its statements down"
    assert password not in log
    await as_superuser(empty, "revoke keyturn_app from logged_app", "drop role logged_app")


async def test_a_login_that_exists_keeps_its_password_and_becomes_a_member(empty: Secret) -> None:
    await as_superuser(empty, "create role existing login password 'first'")
    await migrate(empty, [Login(login(empty, "existing", "second"), "keyturn_app")])
    database = await Database.open(login(empty, "existing", "first"), size=1, statement_cache=0)
    await database.close()
    await as_superuser(empty, "revoke keyturn_app from existing", "drop role existing")


def documented_statements() -> list[str]:
    """What the guide tells a superuser to run, with passwords filled in."""
    guide = (CHECKOUT / RECIPE).read_text()
    [block] = re.findall(r"```sql\n(.*?)```", guide, re.DOTALL)
    statements = []
    for line in block.strip().splitlines():
        included = line.removeprefix("\\i ")
        statements.append((CHECKOUT / included).read_text() if included != line else line)
    return [statement.replace("'...'", "'pw'") for statement in statements]


async def test_an_owner_who_may_not_make_roles_is_sent_to_a_recipe_that_works() -> None:
    """A managed database gives an owner with CREATEROLE at best, which is not enough."""
    with short_folder() as folder:
        server = Embedded(folder / "pg", settings={"fsync": "off"}).start()
        await as_superuser(
            server.dsn(),
            "create role boss login createdb createrole password 'pw'",
            "create role poor login password 'pw'",
            "create database managed owner boss",
        )
        managed = Secret(server.dsn().reveal().replace("/keyturn?", "/managed?"))
        for user in ("boss", "poor"):
            refused = migrating(login(managed, user, "pw"))
            assert refused.returncode == 1
            assert "may not make the roles" in refused.stderr
            assert RECIPE in refused.stderr
            assert "Traceback" not in refused.stderr
        superuser = await asyncpg.connect(managed.reveal())
        for statement in documented_statements():
            await superuser.execute(statement)
        await superuser.close()
        owner = login(managed, "keyturn_migrator", "pw")
        service = login(managed, "keyturn_service", "pw")
        assert await migrate(owner, [Login(service, "keyturn_app")])
        opened = await Database.open(service, size=1, statement_cache=0)
        await opened.close()
        server.stop()


async def test_it_runs_on_postgresql_15_too() -> None:
    if not (DEBIAN_15 / "postgres").exists():
        pytest.skip("PostgreSQL 15 of Debian is not here (.ci/run installs it)")
    with short_folder() as folder:
        server = Embedded(folder / "pg", bindir=DEBIAN_15, settings={"fsync": "off"}).start()
        address = server.dsn()
        assert await as_superuser(address, "show server_version_num") < "160000"
        application = server.dsn("keyturn_app")
        assert await migrate(address, [Login(application, "keyturn_app")])
        assert await pending(address) == []
        database = await Database.open(application, size=1, statement_cache=0)
        await database.close()
        await as_superuser(
            address,
            "create role boss login createdb createrole password 'b'",
            "create database managed owner boss",
        )
        managed = Secret(address.reveal().replace("/keyturn?", "/managed?"))
        done = migrating(login(managed, "boss", "b"))
        # Such a login could do more with others' roles before 16, and so it may succeed here.
        assert done.returncode == 0 or RECIPE in done.stderr
        server.stop()


def test_the_files_are_numbered_without_a_gap_and_named_in_words() -> None:
    every = all_migrations()
    for part in PARTS:
        versions = [one.version for one in every if one.part == part]
        assert versions == list(range(1, len(versions) + 1))
    assert all(re.fullmatch(r"[a-z][a-z0-9_]*", one.name) for one in every)


async def test_migrate_without_the_owners_address_says_which_variable_to_set() -> None:
    env = environment(mode="development", database_url="postgresql://app:x@127.0.0.1:1/keyturn")
    done = keyturn("migrate", env=env)
    assert done.returncode == 1
    assert done.stderr == "keyturn: Set KEYTURN_OWNER_DATABASE_URL to migrate this database.\n"


async def test_an_address_that_is_none_is_refused_without_being_repeated() -> None:
    for address in ("postgresql://app:hunter22@[broken/keyturn", "hunter22", "http://hunter22/"):
        with pytest.raises(Misconfigured) as refused:
            await migrate(Secret(address), [])
        assert "hunter22" not in refused.value.message
