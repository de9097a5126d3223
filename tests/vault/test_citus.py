"""Keyturn on Citus: statements keep to its rules, and the script spreads what there is.

There is no Citus here: the script runs on the real schema against a stand-in of its functions that
refuses what Citus refuses. That it ran on a cluster is not claimed.
"""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from pglast import parse_sql
from support.catalogue_lint import GLOBAL
from support.citus_lint import complaints
from support.databases import migrated_database
from support.sql_lint import texts

import broker.app  # noqa: F401 - for its queries
import vault.vault  # noqa: F401 - for its queries
from vault.embedded import Embedded
from vault.sql import every_query

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = (ROOT / "deploy" / "citus" / "distribute.sql").read_text()
TEXTS = texts(ROOT / "vault") | texts(ROOT / "broker")
# The modules of both packages that are imported above have made their queries by now.
QUERIES = every_query()

# What Citus has, as far as the script uses it, with its refusals.
STAND_IN = """
create table public.pg_dist_partition (
    logicalrelid regclass primary key, place int generated always as identity, beside text
);
create function public.create_distributed_table(
    relation regclass, distribution_column text, colocate_with text default 'default'
) returns void language plpgsql as $$
declare
    wrong text;
begin
    select f.conname into wrong
      from pg_constraint f
     where f.conrelid = relation and f.contype = 'f' and f.confrelid <> relation
       and not exists (select from public.pg_dist_partition where logicalrelid = f.confrelid);
    if wrong is not null then
        raise exception 'referenced table must be a distributed table: %', wrong;
    end if;
    select c.conname into wrong
      from pg_constraint c
      join pg_attribute a on a.attrelid = relation and a.attname = distribution_column
     where c.conrelid = relation and c.contype in ('p', 'u', 'f') and a.attnum <> all (c.conkey);
    if wrong is not null then
        raise exception 'cannot create constraint without the distribution column: %', wrong;
    end if;
    insert into public.pg_dist_partition (logicalrelid, beside) values (relation, colocate_with);
end
$$;
"""


@pytest.mark.parametrize("name", TEXTS)
def test_a_statement_runs_where_tables_are_spread_by_workspace(name: str) -> None:
    assert complaints(QUERIES[name].sql, TEXTS[name], unbound=GLOBAL.keys()) == []


CROSSING = "-- crosses workspaces: the worker's look-up\n"
REFUSED = {
    "select u.user_id from vault.users u join vault.replicas r on r.replica_id = u.user_id"
    " where u.workspace_id = $1": "a table of no workspace",
    "select user_id from vault.users for update skip locked": "locks rows of many workspaces",
    "select u.user_id from vault.users u"
    " join vault.user_keys k on k.user_id = u.user_id": "otherwise than by workspace",
    "select u.user_id from vault.users u, vault.user_keys k": "otherwise than by workspace",
}


@pytest.mark.parametrize(("sql", "said"), REFUSED.items())
def test_what_would_not_run_there_is_said(sql: str, said: str) -> None:
    assert any(said in one for one in complaints(sql, CROSSING, unbound=GLOBAL.keys()))


def test_what_is_joined_by_workspace_is_fine() -> None:
    sql = (
        "select u.user_id from vault.users u join vault.user_keys k"
        " on k.workspace_id = u.workspace_id and k.user_id = u.user_id"
    )
    assert complaints(sql, CROSSING, unbound=GLOBAL.keys()) == []


def test_the_script_is_one_statement_that_postgresql_reads() -> None:
    assert len(parse_sql(SCRIPT)) == 1


@pytest.fixture
async def admin(postgres: Embedded) -> AsyncIterator[Any]:
    """A superuser in a migrated database of a test's own."""
    async with migrated_database(postgres) as connection:
        yield connection


@pytest.fixture
async def spread(admin: Any) -> Any:
    """The same, where the script has run."""
    await admin.execute(STAND_IN)
    await admin.execute(SCRIPT)
    return admin


async def test_the_script_says_so_where_there_is_no_citus(admin: Any) -> None:
    with pytest.raises(asyncpg.RaiseError, match="create extension citus"):
        await admin.execute(SCRIPT)


async def test_the_script_spreads_every_table_of_a_workspace_and_no_other(spread: Any) -> None:
    found = await spread.fetch(
        "select logicalrelid::text, beside from public.pg_dist_partition order by place"
    )
    tables = {
        one["name"]
        for one in await spread.fetch(
            "select oid::regclass::text as name from pg_class"
            " where relnamespace = 'vault'::regnamespace and relkind = 'r'"
        )
    }
    names = [one["logicalrelid"] for one in found]
    assert set(names) == tables - GLOBAL.keys()
    assert (names[0], found[0]["beside"]) == ("vault.workspaces", "default")
    assert {one["beside"] for one in found[1:]} == {"vault.workspaces"}


async def test_the_script_runs_again_after_the_next_migration(spread: Any) -> None:
    """What is spread stays, and what is new is added."""
    before = await spread.fetchval("select count(*) from public.pg_dist_partition")
    await spread.execute(
        "create table vault.new_one (workspace_id text not null references vault.workspaces,"
        " thing text not null, primary key (workspace_id, thing))"
    )
    await spread.execute(SCRIPT)
    assert await spread.fetchval("select count(*) from public.pg_dist_partition") == before + 1


async def test_a_key_without_the_workspace_would_be_refused(spread: Any) -> None:
    """The stand-in refuses what Citus refuses, so that the script's success says something."""
    await spread.execute(
        "create table vault.bad_one (workspace_id text not null references vault.workspaces,"
        " thing text primary key)"
    )
    with pytest.raises(asyncpg.RaiseError, match="without the distribution column"):
        await spread.execute(SCRIPT)
