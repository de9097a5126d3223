"""One transaction is one workspace's: through one connection, past faults, as no strong role."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Any
from urllib.parse import quote

import asyncpg
import pytest
from conftest import MakeTenant, Tenant

from broker.migrations import PARTS
from vault.database import CONFLICT_TRIES, Busy, Database, Transaction, line
from vault.dsn import login_of
from vault.embedded import Embedded
from vault.errors import Conflict, Invalid, Misconfigured, NotReady, VaultError
from vault.migrations import Login, migrate
from vault.model import Profile, UserId
from vault.secret import Secret
from vault.vault import Vault

Connection = Any  # asyncpg ships no types
MakeLogin = Callable[[str], Awaitable[Secret]]

TIMES = 10_000
EVERYTHING = "select workspace_id, user_id from vault.users"  # and no condition: that is the test
WRITE = (
    "insert into vault.users (workspace_id, user_id, generation, profile) values ($1, $2, 1, '')"
)


@pytest.fixture
async def admin(migrated: Embedded) -> AsyncIterator[Connection]:
    """A superuser, who sees what is really there."""
    connection = await asyncpg.connect(migrated.dsn().reveal())
    yield connection
    await connection.close()


@pytest.fixture
async def alone(migrated: Embedded) -> AsyncIterator[Database]:
    """The application with a single connection."""
    database = await Database.open(migrated.dsn("keyturn_app"), size=1, statement_cache=200)
    yield database
    await database.close()


@pytest.fixture
async def two(make_tenant: MakeTenant, vault: Vault) -> tuple[Tenant, Tenant]:
    """Two workspaces with one user of the same id, and one of their own."""
    ada, bob = await make_tenant(), await make_tenant()
    for tenant, own in ((ada, "ada"), (bob, "bob")):
        for user in ("same", own):
            await vault.put_user(tenant.caller, UserId(user), Profile())
    return ada, bob


async def users_of(admin: Connection, workspace: str) -> list[str]:
    rows = await admin.fetch(
        "select user_id from vault.users where workspace_id = $1 order by 1", workspace
    )
    return [row[0] for row in rows]


class Failed(Exception):
    """Something in the middle of a transaction went wrong."""


class Turns:
    """Works that alternate between workspaces; some fail and some are cancelled half-way."""

    def __init__(self, database: Database, two: tuple[Tenant, Tenant]) -> None:
        self._database = database
        self._expected = [
            (tenant.id, {(tenant.id, "same"), (tenant.id, own)})
            for tenant, own in zip(two, ("ada", "bob"), strict=True)
        ]
        self.done = self.failed = self.cancelled = 0

    async def take(self, number: int) -> None:
        workspace, expected = self._expected[number % 2]
        writing = asyncio.Event()

        async def work(tx: Transaction) -> None:
            assert {tuple(row) for row in await tx.fetch(EVERYTHING, ())} == expected
            if number % 50 in {7, 8, 30, 31}:
                await tx.fetch(WRITE, (workspace, f"ghost-{number}"))
                writing.set()
                if number % 50 in {7, 8}:
                    raise Failed
                if number % 100 in {30, 31}:
                    await tx.fetch("select pg_sleep(60)", ())
                await asyncio.sleep(60)

        task = asyncio.create_task(self._database.run(workspace, work))
        if number % 50 in {30, 31}:
            await writing.wait()
            await asyncio.sleep(0.001 * (number % 3))
            task.cancel()
        try:
            await task
            self.done += 1
        except Failed:
            self.failed += 1
        except asyncio.CancelledError:
            self.cancelled += 1


async def test_one_connection_serves_two_workspaces_in_turn_without_a_leak(
    alone: Database,
    two: tuple[Tenant, Tenant],
    admin: Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # All of them wait in one line, also where this process stands still for a while.
    monkeypatch.setattr(line, "WAIT_SECONDS", 60)
    monkeypatch.setattr(line, "STILL_SECONDS", 60)
    turns = Turns(alone, two)
    for start in range(0, TIMES, 20):
        await asyncio.gather(*[turns.take(number) for number in range(start, start + 20)])
    assert turns.done + turns.failed + turns.cancelled == TIMES
    assert turns.failed == turns.cancelled == TIMES // 25
    assert await users_of(admin, two[0].id) == ["ada", "same"]
    assert await users_of(admin, two[1].id) == ["bob", "same"]
    assert alone.open_connections <= 1


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("moment", ["at once", "in a statement", "between two statements"])
async def test_a_caller_who_goes_away_leaves_no_transaction_open(
    alone: Database,
    two: tuple[Tenant, Tenant],
    admin: Connection,
    moment: str,
    times: int,
) -> None:
    pids, writing = [], asyncio.Event()

    async def work(tx: Transaction) -> None:
        pids.append(await pid_of(tx))
        await tx.fetch(WRITE, (tx.workspace, "ghost"))
        writing.set()
        if moment == "in a statement":
            await tx.fetch("select pg_sleep(60)", ())
        await asyncio.sleep(60)

    task = asyncio.create_task(alone.run(two[0].id, work))
    if moment != "at once":
        await writing.wait()
        await asyncio.sleep(0.02)
    for _ in range(times):  # the second time it meets us as we clean up
        task.cancel()
        await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError):
        await task
    # Whoever comes next waits until that is done.
    [row] = await alone.run(two[1].id, lambda tx: tx.fetch("select count(*) from vault.users", ()))
    assert row[0] == 2
    assert "ghost" not in await users_of(admin, two[0].id)
    # A server's process ends a little after the connection that was hung up on.
    asked = "select state from pg_stat_activity where pid = any($1) and state <> 'idle'"
    async with asyncio.timeout(30):
        while await admin.fetch(asked, pids):  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0.02)


async def test_a_workspace_is_forgotten_with_its_transaction(
    alone: Database, two: tuple[Tenant, Tenant]
) -> None:
    # Before there ever was one the policies fail, rather than answer nothing.
    with pytest.raises(VaultError):
        await alone.lookup(EVERYTHING, ())
    asked = "select coalesce(current_setting('keyturn.workspace', true), '')"
    for tenant in two:
        [row] = await alone.run(tenant.id, lambda tx: tx.fetch(asked, ()))
        assert row[0] == tenant.id
        [row] = await alone.lookup(asked, ())
        assert row[0] == ""
        assert await alone.lookup(EVERYTHING, ()) == []


async def test_plans_are_kept_in_the_transactions_that_ask_for_it_and_in_no_other(
    alone: Database, two: tuple[Tenant, Tenant]
) -> None:
    asked = "select current_setting('plan_cache_mode'), current_setting('keyturn.workspace')"
    for planned_once, mode in ((False, "auto"), (True, "force_generic_plan"), (False, "auto")):
        [row] = await alone.run(
            two[0].id, lambda tx: tx.fetch(asked, ()), planned_once=planned_once
        )
        assert tuple(row) == (mode, two[0].id)


async def test_no_text_but_a_workspaces_id_opens_a_transaction(alone: Database) -> None:
    async def work(_tx: Transaction) -> None:
        raise AssertionError("it was opened")

    for text in ("", "ws_", "x', true); drop table vault.users; --", "ws_" + "A" * 26, "Operator"):
        with pytest.raises(VaultError):
            await alone.run(text, work)
    with pytest.raises(VaultError):
        await alone.run("ws_" + "a" * 26 + "\n", work)


# Lost connections and conflicts


async def test_a_connection_lost_before_commit_is_one_change_in_the_end(
    alone: Database,
    two: tuple[Tenant, Tenant],
    admin: Connection,
) -> None:
    runs = []

    async def work(tx: Transaction) -> str:
        runs.append(await pid_of(tx))
        await tx.fetch(WRITE, (tx.workspace, "new"))
        if len(runs) <= 2:
            await end(admin, runs[-1])
        await tx.fetch("select 1", ())
        return "done"

    assert await alone.run(two[0].id, work) == "done"
    assert len(runs) == 3
    assert (await users_of(admin, two[0].id)).count("new") == 1


async def test_an_idle_connection_that_was_lost_is_replaced_unseen(
    alone: Database,
    two: tuple[Tenant, Tenant],
    admin: Connection,
) -> None:
    await end(admin, await alone.run(two[0].id, pid_of))
    await alone.run(two[0].id, lambda tx: tx.fetch(WRITE, (tx.workspace, "new")))
    assert (await users_of(admin, two[0].id)).count("new") == 1
    await end(admin, await alone.run(two[0].id, pid_of))
    assert await alone.lookup("select 1", ())


async def test_a_connection_lost_at_commit_is_said_and_not_guessed_about(
    alone: Database,
    two: tuple[Tenant, Tenant],
    admin: Connection,
) -> None:
    runs = []

    async def work(tx: Transaction) -> None:
        await tx.fetch(WRITE, (tx.workspace, "new"))
        runs.append(await pid_of(tx))
        await end(admin, runs[-1])

    with pytest.raises(NotReady):
        await alone.run(two[0].id, work)
    assert len(runs) == 1
    assert "new" not in await users_of(admin, two[0].id)


@pytest.mark.parametrize("sqlstate", ["40001", "40P01"])
async def test_a_conflict_that_the_server_resolves_is_tried_again(
    alone: Database,
    two: tuple[Tenant, Tenant],
    admin: Connection,
    sqlstate: str,
) -> None:
    runs = []

    async def work(tx: Transaction) -> None:
        runs.append(1)
        await tx.fetch(WRITE, (tx.workspace, "new"))
        if len(runs) < 3:
            await raise_in_server(tx, sqlstate)

    await alone.run(two[0].id, work)
    assert len(runs) == 3
    assert (await users_of(admin, two[0].id)).count("new") == 1

    async def never(tx: Transaction) -> None:
        runs.append(1)
        await raise_in_server(tx, sqlstate)

    runs.clear()
    with pytest.raises(VaultError):
        await alone.run(two[0].id, never)
    assert len(runs) == CONFLICT_TRIES


async def test_a_real_deadlock_ends_with_both_changes_made(
    database: Database,
    two: tuple[Tenant, Tenant],
    admin: Connection,
) -> None:
    touch = "update vault.users set updated_at = now() where workspace_id = $1 and user_id = $2"
    both = asyncio.Barrier(2)
    runs = []

    async def work(tx: Transaction, first: str, second: str) -> None:
        runs.append(first)
        await tx.fetch(touch, (tx.workspace, first))
        if len(runs) <= 2:
            await both.wait()
        await tx.fetch(touch, (tx.workspace, second))
        await tx.fetch(WRITE, (tx.workspace, f"{first}-was-first"))

    await asyncio.gather(
        database.run(two[0].id, lambda tx: work(tx, "ada", "same")),
        database.run(two[0].id, lambda tx: work(tx, "same", "ada")),
    )
    assert len(runs) == 3
    assert {"ada-was-first", "same-was-first"} <= set(await users_of(admin, two[0].id))


async def test_a_change_is_not_called_done_when_the_server_took_it_back(
    alone: Database, two: tuple[Tenant, Tenant], admin: Connection
) -> None:
    async def work(tx: Transaction) -> str:
        await tx.fetch(WRITE, (tx.workspace, "new"))
        with suppress(Exception):
            await tx.fetch("select 1 / 0", ())  # PostgreSQL answers COMMIT with ROLLBACK now
        return "done"

    with pytest.raises(VaultError):
        await alone.run(two[0].id, work)
    assert "new" not in await users_of(admin, two[0].id)


async def test_a_row_that_another_holds_is_said_to_the_work_that_asked_for_it(
    database: Database, two: tuple[Tenant, Tenant], admin: Connection
) -> None:
    held = admin.transaction()
    await held.start()
    await admin.execute("select from vault.users where workspace_id = $1 for update", two[0].id)
    said = []

    async def work(tx: Transaction) -> None:
        await tx.fetch("select set_config('lock_timeout', '50ms', true)", ())
        try:
            await tx.fetch("select user_id from vault.users for update", ())
        except Busy as busy:
            said.append(busy.code)
            raise

    with pytest.raises(Busy):
        await database.run(two[0].id, work)
    await held.rollback()
    assert said == ["conflict"]


async def test_a_broken_rule_is_a_conflict_that_quotes_no_value(
    alone: Database, two: tuple[Tenant, Tenant]
) -> None:
    async def work(tx: Transaction) -> None:
        await tx.fetch(WRITE, (tx.workspace, "same"))

    with pytest.raises(Conflict) as refused:
        await alone.run(two[0].id, work)
    assert refused.value.message == "The change breaks the rule users_pkey."
    for value in ("a" * 10, object()):
        with pytest.raises(VaultError) as wrong:
            await alone.run(two[0].id, partial(fetch_number, value))
        assert wrong.value.__cause__ is None
        assert str(value) not in str(wrong.value)


@pytest.mark.parametrize("statement", ["select $1::text", "select $1::text::jsonb"])
async def test_a_text_that_cannot_be_kept_is_invalid_and_the_next_one_is_taken(
    alone: Database, statement: str
) -> None:
    text = '"a\0"' if statement.endswith("text") else '"a\\u0000"'
    for ask in (alone.lookup, alone.deed):
        with pytest.raises(Invalid) as refused:
            await ask(statement, (text,))
        assert refused.value.message == "A text holds a character that cannot be kept."
        assert refused.value.__cause__ is None
    [row] = await alone.lookup(statement, ('"a"',))
    assert row[0] == '"a"'


async def fetch_number(value: object, tx: Transaction) -> None:
    await tx.fetch("select $1::int", (value,))


async def pid_of(tx: Transaction) -> int:
    pid: int = (await tx.fetch("select pg_backend_pid()", ()))[0][0]
    return pid


async def end(admin: Connection, pid: int) -> None:
    """End a connection from outside, and wait until it is gone."""
    await admin.execute("select pg_terminate_backend($1, 60000)", pid)


async def raise_in_server(tx: Transaction, sqlstate: str) -> None:
    await tx.fetch(f"do $$ begin raise exception using errcode = '{sqlstate}'; end $$", ())


# Roles that the service must not run as


@pytest.fixture
async def make_login(admin: Connection, migrated: Embedded) -> AsyncIterator[MakeLogin]:
    """Make a login by statements in which ``{login}`` is its name; returns its address."""
    made = []

    async def make(statements: str) -> Secret:
        name = f"login_{uuid.uuid4().hex[:12]}"
        made.append(name)
        await admin.execute(f"create role {name} login password 'a-password'")
        await admin.execute(statements.format(login=name))
        return Secret(
            f"postgresql://{name}:a-password@/keyturn?host={quote(str(migrated.socket_dir))}"
        )

    yield make
    for name in reversed(made):
        await admin.execute(f"drop owned by {name}; drop role {name}")


@pytest.mark.parametrize(
    ("power", "said"),
    [
        ("alter role {login} superuser", "a superuser"),
        ("alter role {login} bypassrls", "BYPASSRLS"),
        ("grant keyturn_owner to {login}", "the owner"),
        ("alter role {login} noinherit; grant keyturn_owner to {login}", "the owner"),
        ("grant postgres to {login}", "a superuser"),
        ("grant keyturn_backup to {login}", "BYPASSRLS"),
        ("grant keyturn_app to {login}; grant keyturn_backup to {login}", "BYPASSRLS"),
        # These read other workspaces' keys, the files below the tables, or make themselves strong.
        ("grant keyturn_app, keyturn_auth to {login}", "KEYTURN_DATABASE_URL"),
        ("grant keyturn_app, pg_read_server_files to {login}", "KEYTURN_DATABASE_URL"),
        ("grant keyturn_app, pg_execute_server_program to {login}", "KEYTURN_DATABASE_URL"),
        ("alter role {login} createrole; grant keyturn_app to {login}", "KEYTURN_DATABASE_URL"),
    ],
)
async def test_a_role_that_looks_past_row_level_security_is_refused(
    make_login: MakeLogin, power: str, said: str
) -> None:
    assert said in await refusal_of(await make_login(power))


async def refusal_of(address: Secret) -> str:
    """Why the service does not run with this login; nothing where it would."""
    try:
        opened = await Database.open(address, size=1, statement_cache=0)
    except Misconfigured as refused:
        return refused.message
    await opened.close()
    return ""


async def test_a_role_that_gets_there_over_another_is_refused(
    make_login: MakeLogin,
    admin: Connection,
) -> None:
    between = f"between_{uuid.uuid4().hex[:12]}"
    await admin.execute(f"create role {between} nologin; grant keyturn_owner to {between}")
    try:
        address = await make_login(f"grant {between} to {{login}}")
        assert "the owner" in await refusal_of(address)
    finally:
        await admin.execute(f"drop role {between}")


async def test_the_superuser_itself_is_refused(migrated: Embedded) -> None:
    assert "a superuser" in await refusal_of(migrated.dsn())


async def test_the_owner_itself_is_refused(migrated: Embedded, admin: Connection) -> None:
    address = migrated.dsn("keyturn_owner")
    password = migrated.password("keyturn_owner").reveal()
    await admin.execute(f"alter role keyturn_owner login password '{password}'")
    try:
        assert "the owner" in await refusal_of(address)
    finally:
        await admin.execute("alter role keyturn_owner nologin password null")


async def test_whoever_owns_a_table_is_refused(
    fresh_database: Secret, make_login: MakeLogin
) -> None:
    # As after a restore by the application's own login, which then owns what it made.
    address = in_database(await make_login("grant keyturn_app to {login}"), fresh_database)
    await migrate(fresh_database, [], parts=PARTS)
    owner = await asyncpg.connect(fresh_database.reveal())
    login = login_of(address)[0]
    await owner.execute(f"alter table vault.users owner to {login}")
    try:
        assert "the owner" in await refusal_of(address)
    finally:
        await owner.execute("alter table vault.users owner to keyturn_owner")
        await owner.close()


async def test_a_login_of_the_applications_role_is_taken(make_login: MakeLogin) -> None:
    assert await refusal_of(await make_login("grant keyturn_app to {login}")) == ""


async def test_a_database_without_our_schema_is_refused(
    fresh_database: Secret, make_login: MakeLogin
) -> None:
    address = in_database(await make_login("select 1"), fresh_database)
    opened = await Database.open(address, size=1, statement_cache=0)
    with pytest.raises(Misconfigured, match="keyturn migrate"):
        await opened.refuse_other_schema()
    await migrate(fresh_database, [Login(address, "keyturn_app")], parts=PARTS)
    await opened.refuse_other_schema()
    await opened.close()


def in_database(address: Secret, database: Secret) -> Secret:
    """The same login in another database."""
    name = database.reveal().rpartition("/")[2].partition("?")[0]
    return Secret(address.reveal().replace("/keyturn?", f"/{name}?"))
