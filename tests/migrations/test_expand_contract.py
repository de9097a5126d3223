"""Migrations expand; one that contracts says so, and says what code it leaves behind."""

import pytest
from support.migration_lint import CONTRACTS, complaints

from broker.migrations import PARTS
from vault import migrations
from vault.migrations import Migration, all_migrations

EVERY = all_migrations(PARTS)
# Applied files are never edited, so what was done before there was a promise stays without a mark.
ALLOWED = {
    "vault 0004 refreshing": "the state of a connection moved into its own table; nothing was "
    "released yet",
    "broker 0007 livekit_and_forgetting": "the new check takes one kind more than the old one: "
    "whatever older code writes still passes",
}

EXPANDING = {
    "a table": "create table vault.t (workspace_id text not null, primary key (workspace_id));"
    " alter table vault.t enable row level security; alter table vault.t add check (true);"
    " create unique index on vault.t (workspace_id)",
    "a column": "alter table vault.users add column note text",
    "a column with a default": "alter table vault.users add column n int not null default 0",
    "an index": "create index on vault.users (workspace_id, updated_at)",
    "a function": "create function vault.f() returns int language sql as 'select 1'",
    "a function that is replaced": "create or replace function vault.f() returns int language sql"
    " as 'select 2'",
    "a grant": "grant update (sealed) on vault.user_keys to keyturn_app",
    "a right for a moment": "grant create on schema vault to keyturn_auth;"
    " revoke create on schema vault from keyturn_auth",
    "rows": "update vault.users set generation = generation",
    "nobody's rights": "revoke execute on function vault.lookup_bearer(bytea) from public",
    "settings": "alter table vault.users set (fillfactor = 80)",
    "a wider column": "alter table vault.users alter column profile drop not null",
}
CONTRACTING = {
    "drop table vault.users": "drops vault.users",
    "alter table vault.users drop column profile": "drops the column profile",
    "alter table vault.users rename column profile to p": "renames users",
    "alter table vault.users rename to people": "renames users",
    "alter table vault.users add column n int not null": "not null and without a default",
    "alter table vault.users alter column profile set not null": "makes the column profile not",
    "alter table vault.users alter column user_id type varchar(9)": "changes the type",
    "alter table vault.users alter column generation drop default": "drops the default",
    "alter table vault.users add constraint c check (generation > 0)": "adds a check",
    "alter table vault.users add unique (workspace_id, generation)": "adds a unique key",
    "alter table vault.users drop constraint c": "drops the constraint c",
    "create unique index on vault.users (workspace_id, generation)": "unique in a new way",
    "drop function vault.lookup_bearer(bytea)": "drops vault.lookup_bearer",
    "drop policy worker on vault.outbox": "drops",
    "drop index vault.i": "drops vault.i",
    "revoke select on vault.users from keyturn_app": "revokes",
    "revoke create on schema vault from keyturn_auth": "revokes",
    "truncate vault.users": "empties",
    "alter table vault.users force row level security": "forces row-level security",
    "do $$ begin execute 'alter table vault.users drop column profile'; end $$": "in a DO block",
    "-- contracts: soon\nselect 1": "a mark that nobody can read",
    "-- contracts: needs 0009, since it is new\ndrop table vault.users": "none of its past",
}


@pytest.mark.parametrize("migration", EVERY, ids=str)
def test_a_migration_leaves_the_version_before_what_it_lives_on(migration: Migration) -> None:
    found = complaints(migration.sql, migration.version)
    assert bool(found) == (str(migration) in ALLOWED), found


@pytest.mark.parametrize("sql", EXPANDING.values(), ids=EXPANDING)
def test_what_expands_is_fine(sql: str) -> None:
    assert complaints(sql, 8) == []


@pytest.mark.parametrize(("sql", "said"), CONTRACTING.items())
def test_what_contracts_is_refused(sql: str, said: str) -> None:
    assert any(said in one for one in complaints(sql, 8)), complaints(sql, 8)


def test_a_file_that_says_what_it_leaves_behind_may_contract() -> None:
    sql = "-- contracts: needs 0007, since only older code reads it\ndrop table vault.users;"
    assert complaints(sql, 8) == []
    assert Migration("vault", 8, "x", sql, "").needs == 7
    assert Migration("vault", 8, "x", "drop table vault.users;", "").needs is None


def test_the_linter_and_the_runner_read_the_same_mark() -> None:
    mark = "-- contracts: needs 0007, since only older code reads it"
    assert CONTRACTS.search(mark)
    assert migrations.CONTRACTS.search(mark)
    assert not migrations.CONTRACTS.search("-- contracts: needs 7, since")
