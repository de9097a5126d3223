"""Every statement prepares, returns what its struct says, and stays within its workspace."""

# mypy: disable-error-code="attr-defined,union-attr,index,arg-type,operator,truthy-bool"
# pglast types every node of a statement as a plain Node.

import types
from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import asyncpg
import msgspec
import pytest
from pglast import ast, parse_sql
from pglast.enums import BoolExprType, SetOperation
from support.catalogue_lint import GLOBAL
from support.sql_lint import complaints, tables_of, texts

import broker.app
import vault.vault
from vault.embedded import Embedded
from vault.sql import Nothing, Query, every_query

ROOT = Path(__file__).resolve().parents[2]
TEXTS = texts(ROOT / "vault") | texts(ROOT / "broker")
# The loaded modules of both packages have made their queries by now.
QUERIES = {name: one for name, one in every_query().items() if broker.app and vault.vault}

# What is meant to cross workspaces. Each says why, in its file; here a reviewer sees a new one.
CROSSING = {
    "broker.batches.look",
    "broker.batches.write",
    "broker.reads.settled",
    "broker.conversations.lookup",
    "broker.conversations.old",
    "broker.upstreams.claims",
    "vault.api_keys.lookup",
    "vault.audit_chain.everybody",
    "vault.audit_chain.everybody_sealed",
    "vault.audit_chain.made_for",
    "vault.audit_chain.made_up_to",
    "vault.audit_chain.noted",
    "vault.audit_chain.unsealed",
    "vault.audit_chain.waiting",
    "vault.connect.abandoned",
    "vault.connect.lookup",
    "vault.counts.connections",
    "vault.counts.endpoints",
    "vault.counts.oldest_due",
    "vault.event_deliveries.due",
    "vault.lives.due",
    "vault.lives.due_in_turn",
    "vault.lives.left",
    "vault.outbox.old",
    "vault.revocations.due",
    "vault.workspaces.any",
    "vault.workspaces.count",
    "vault.workspaces.list",
}

PYTHON_TYPES = {
    "text": str,
    "bytea": bytes,
    "bool": bool,
    "int2": int,
    "int4": int,
    "int8": int,
    "float8": float,
    "timestamptz": datetime,
    **dict.fromkeys(("text[]", "bytea[]", "bool[]", "int8[]", "timestamptz[]"), list),
}


def test_every_statement_is_used_and_every_query_is_a_statement() -> None:
    assert sorted(TEXTS) == sorted(QUERIES)


@pytest.mark.parametrize("name", TEXTS)
def test_a_statement_stays_within_its_workspace(name: str) -> None:
    query = QUERIES[name]
    # Which database this is, is the server's to say, and nothing of any workspace.
    unbound = GLOBAL.keys() | {"pg_catalog.pg_database"}
    assert complaints(query.sql, query.parameters, TEXTS[name], unbound=unbound) == []


def test_what_crosses_workspaces_is_known() -> None:
    assert {name for name, text in TEXTS.items() if "crosses workspaces" in text} == CROSSING


@pytest.fixture(scope="module")
async def application(migrated: Embedded) -> AsyncIterator[Any]:
    """What the service is: a connection that logs in as the application's role."""
    connection = await asyncpg.connect(migrated.dsn("keyturn_app").reveal())
    yield connection
    await connection.close()


@pytest.mark.parametrize("name", TEXTS)
async def test_a_statement_returns_what_its_struct_says(application: Any, name: str) -> None:
    query = QUERIES[name]
    prepared = await application.prepare(query.sql)
    assert len(prepared.get_parameters()) == len(query.parameters)
    columns = {one.name: one.type.name for one in prepared.get_attributes()}
    assert list(columns) == list(query.row.__struct_fields__), "a row becomes a struct by position"
    hints = get_type_hints(query.row, include_extras=True)
    for column, kind in columns.items():
        python, optional = _plain(hints[column])
        assert python is PYTHON_TYPES.get(kind), f"{column} is {kind} in the database"
        nullable = await _may_be_null(application, query, column)
        if nullable is not None:
            assert optional == nullable, f"{column} may be null: {nullable}"


@pytest.mark.parametrize("name", TEXTS)
def test_a_statement_without_rows_gives_nothing_and_others_do_not(name: str) -> None:
    statement = parse_sql(QUERIES[name].sql)[0].stmt
    returns = isinstance(statement, ast.SelectStmt) or statement.returningClause is not None
    assert (QUERIES[name].row is Nothing) == (not returns)


def _plain(hint: Any) -> tuple[type, bool]:
    """The Python type behind a hint, and whether it may be ``None``."""
    if hasattr(hint, "__supertype__"):
        return _plain(hint.__supertype__)
    if get_origin(hint) is Annotated:
        return _plain(get_args(hint)[0])
    if get_origin(hint) in (Union, types.UnionType):
        [inner] = [one for one in get_args(hint) if one is not type(None)]
        return _plain(inner)[0], True
    if get_origin(hint) is Literal:
        return type(get_args(hint)[0]), False
    return get_origin(hint) or hint, False


async def _may_be_null(
    application: Any,
    query: Query[msgspec.Struct],
    column: str,
) -> bool | None:
    """Can this result be null? Known where it is a plain column of a table; else ``None``."""
    statement = parse_sql(query.sql)[0].stmt
    if isinstance(statement, ast.SelectStmt):
        if statement.op != SetOperation.SETOP_NONE:
            return None  # a column of a union is no column of a table
        targets = statement.targetList
    else:
        targets = statement.returningClause.exprs
    [plain] = [_name(one.val) for one in targets if column == (one.name or _name(one.val))] or [
        None
    ]
    if plain in _equated(getattr(statement, "whereClause", None)):
        return False
    found = await application.fetch(
        "select not attnotnull from pg_attribute where attname = $1"
        " and attrelid = any($2::text[]::regclass[]::oid[]) and not attisdropped",
        plain,
        tables_of(query.sql),
    )
    return any(row[0] for row in found) if found else None


def _equated(clause: ast.Node | None) -> set[str | None]:
    """The columns that WHERE holds to be equal to something, and so are not null."""
    if isinstance(clause, ast.BoolExpr) and clause.boolop == BoolExprType.AND_EXPR:
        return {name for part in clause.args for name in _equated(part)}
    is_equality = isinstance(clause, ast.A_Expr) and clause.name[-1].sval == "="
    return {_name(clause.lexpr)} - {None} if is_equality else set()


def _name(value: ast.Node) -> str | None:
    return str(value.fields[-1].sval) if isinstance(value, ast.ColumnRef) else None


GOOD = [
    "select a from vault.t where workspace_id = $1",
    "select t.a from vault.t t where x = 1 and (y = 2 or z = 3) and $1 = t.workspace_id",
    (
        "select u.a from vault.u u join vault.k k on k.workspace_id = u.workspace_id"
        " and k.id = u.id where u.workspace_id = $1"
    ),
    "select u.a from vault.u u join vault.k k on k.workspace_id = $1 where u.workspace_id = $1",
    (
        "select u.a from vault.u u left join vault.k k on k.workspace_id = u.workspace_id"
        " where u.workspace_id = $1"
    ),
    "select count(*) from vault.t where workspace_id = $1",
    "select a from vault.deployment",
    "with mine as (select a from vault.t where workspace_id = $1) select a from mine",
    (
        "select a from vault.t t where t.workspace_id = $1 and exists"
        " (select from vault.u u where u.workspace_id = t.workspace_id)"
    ),
    "insert into vault.t (a, workspace_id) values ($2, $1)",
    (
        "insert into vault.t (workspace_id, a) values ($1, 1), ($1, 2)"
        " on conflict (workspace_id, a) do nothing returning a"
    ),
    (
        "insert into vault.t (workspace_id, a) select u.workspace_id, u.a from vault.u u"
        " where u.workspace_id = $1"
    ),
    "update vault.t set a = $2, at = now() where workspace_id = $1 returning a",
    "delete from vault.t where workspace_id = $1",
    "select a from vault.t where workspace_id = $1 for update skip locked",
    "select set_config('lock_timeout', '1s', true)",
]
BAD = {
    "select a from vault.t": "does not bind vault.t",
    "select a from vault.t where workspace_id = $2": "does not bind vault.t",
    "select a from vault.t where workspace_id = 'ws'": "does not bind vault.t",
    "select a from vault.t where workspace_id <> $1": "does not bind vault.t",
    "select a from vault.t where workspace_id > $1": "does not bind vault.t",
    "select a from vault.t where workspace_id in ($1)": "does not bind vault.t",
    "select a from vault.t where not (workspace_id = $1)": "does not bind vault.t",
    "select a from vault.t where workspace_id = $1 or a = 1": "does not bind vault.t",
    "select a from vault.t where workspace_id = workspace_id": "does not bind vault.t",
    "select a from vault.t where coalesce(workspace_id, $1) = $1": "does not bind vault.t",
    "select a from vault.t where workspace_id = $1 union select a from vault.u": "bind vault.u",
    "select u.a from vault.u u join vault.k k on k.id = u.id where u.workspace_id = $1": (
        "does not bind vault.k"
    ),
    "select u.a from vault.u u, vault.k k where u.workspace_id = $1": "does not bind vault.k",
    "select u.a from vault.u u join vault.k k on k.workspace_id = u.workspace_id": "bind vault.u",
    "select u.a from vault.u u join vault.k k on true where workspace_id = $1": "bind vault.u",
    "select u.a from vault.u u left join vault.k k on u.workspace_id = $1"
    " and k.workspace_id = $1": "does not bind vault.u",
    "select u.a from vault.u u full join vault.k k on u.workspace_id = $1"
    " and k.workspace_id = $1": "does not bind vault.u",
    "select a from vault.t where workspace_id = $1 and a in (select a from vault.u)": "vault.u",
    "with every as (select a from vault.t) select a from every": "does not bind vault.t",
    "select a from (select a from vault.t) x": "does not bind vault.t",
    "select a, (select max(b) from vault.u) from vault.t where workspace_id = $1": "bind vault.u",
    "insert into vault.t (a) values ($2)": "does not bind vault.t",
    "insert into vault.t (workspace_id) values ($2)": "does not bind vault.t",
    "insert into vault.t (workspace_id) values ($1), ('ws')": "does not bind vault.t",
    "insert into vault.t (workspace_id, a) select $1, a from vault.u": "does not bind vault.u",
    "insert into vault.t (workspace_id, a) values ($1, 1) on conflict (a) do nothing": "conflicts",
    "insert into vault.t (workspace_id, a) values ($1, 1) on conflict do nothing": "conflicts",
    "update vault.t set a = 1": "does not bind vault.t",
    "update vault.t t set a = u.a from vault.u u where t.workspace_id = $1": "bind vault.u",
    "update vault.t set workspace_id = $2 where workspace_id = $1": "moves a row",
    "update vault.t set a = gen_random_uuid() where workspace_id = $1": "calls gen_random_uuid",
    "update vault.t set a = 1 where workspace_id = $1 and b < clock_timestamp()": "clock_timestamp",
    "update vault.t set a = 1 where workspace_id = $1 returning a + 1": "more than plain columns",
    "delete from vault.t": "does not bind vault.t",
    "delete from vault.t using vault.u u where t.workspace_id = $1": "does not bind vault.u",
    "delete from vault.t where workspace_id = $1 returning length(a)": "more than plain columns",
    "select * from vault.t where workspace_id = $1": "says *",
    "select t.* from vault.t t where t.workspace_id = $1": "says *",
    "delete from vault.t where workspace_id = $1 returning *": "says *",
    "select a from vault.t order by b limit 1 for update skip locked": "does not bind vault.t",
    "update vault.t set a = 1 where id in (select id from vault.t for update skip locked)": (
        "does not bind vault.t"
    ),
    "select pg_advisory_xact_lock(1)": "calls pg_advisory_xact_lock",
    "select pg_try_advisory_lock(1)": "calls pg_try_advisory_lock",
    "select pg_notify('a', 'b')": "calls pg_notify",
    "select nextval('s')": "calls nextval",
    "select set_config('lock_timeout', '1s', false)": "for longer than the transaction",
    "select set_config('keyturn.workspace', $1, true)": "sets the workspace",
    "select set_config($2, $1, true)": "sets the workspace",
    "select a from vault.lookup_bearer($1)": "calls vault.lookup_bearer",
    "select a from t where workspace_id = $1": "without its schema",
    "listen x": "is ListenStmt",
    "notify x": "is NotifyStmt",
    "set role keyturn_owner": "is VariableSetStmt",
    "truncate vault.t": "is TruncateStmt",
    "lock table vault.t": "is LockStmt",
    "do $$ begin end $$": "is DoStmt",
    "copy vault.t to stdout": "is CopyStmt",
    "select 1; select 2": "is not one statement",
    "selct 1": "cannot be parsed",
}
MEANT = "-- crosses workspaces: whoever holds the whole hash may\n"


@pytest.mark.parametrize("sql", GOOD)
def test_a_bound_statement_is_fine(sql: str) -> None:
    assert complaints(sql, ("workspace_id", "other"), unbound=GLOBAL.keys()) == []


@pytest.mark.parametrize(("sql", "said"), BAD.items(), ids=BAD)
def test_a_broken_rule_is_said(sql: str, said: str) -> None:
    found = complaints(sql, ("workspace_id", "other"), unbound=GLOBAL.keys())
    assert any(said in one for one in found), found


def test_only_a_read_with_a_reason_may_cross_workspaces() -> None:
    read = "select a from vault.t"
    assert complaints(read, (), MEANT) == []
    for excuse in ("-- crosses workspaces:", "-- crosses workspaces: yes", "-- crosses: why not"):
        assert complaints(read, (), excuse)
    for deed in ("delete from vault.t", "update vault.t set a = 1", f"{read} for update"):
        assert complaints(deed, (), MEANT)
    assert complaints("select * from vault.t", (), MEANT)
