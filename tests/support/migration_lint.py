"""What a migration may not do, read from its syntax tree: take away what older code lives on.

* While replicas are rolled, the version before runs on the new schema. So a file only *expands*:
  it adds tables, columns that need no value, functions, grants.
* A later file, once no replica of the older version is left, may *contract*. It says from which
  version of its part on code runs without what it takes away:
  ``-- contracts: needs 0007, since ...`` (``vault.migrations`` keeps that, and ``/readyz`` tells).
* A table that the same file makes is nobody's yet, and may be made in any way.
"""

# mypy: disable-error-code="attr-defined,union-attr,index,arg-type,operator,truthy-bool"
# pglast types every node of a statement as a plain Node.

import re
from collections.abc import Iterator
from typing import Final

from pglast import ast, parse_sql
from pglast.enums import AlterTableType as Alter
from pglast.enums import ConstrType
from pglast.stream import IndentedStream

CONTRACTS: Final = re.compile(r"^-- contracts: needs (\d{4}), since \S.*$", re.MULTILINE)
_ANY_MARK: Final = re.compile(r"^-- *contracts", re.MULTILINE | re.IGNORECASE)
# In the text of a DO block, which no parser looks into.
_IN_TEXT: Final = re.compile(
    r"\b(drop\s+(table|column|function|policy|type|view|schema|constraint|default)|rename\s+(to|column)"
    r"|set\s+not\s+null|set\s+data\s+type|alter\s+column\s+\w+\s+type|revoke)\b",
    re.IGNORECASE,
)
_REFUSED: Final = {
    Alter.AT_DropColumn: "drops the column {name}",
    Alter.AT_AlterColumnType: "changes the type of the column {name}",
    Alter.AT_SetNotNull: "makes the column {name} not null",
    Alter.AT_DropConstraint: "drops the constraint {name}",
    Alter.AT_DropExpression: "drops the expression of {name}",
    Alter.AT_EnableRowSecurity: "turns row-level security on",
    Alter.AT_ForceRowSecurity: "forces row-level security",
    Alter.AT_ChangeOwner: "changes the owner",
}
_CHECKING: Final = {
    ConstrType.CONSTR_CHECK: "a check",
    ConstrType.CONSTR_UNIQUE: "a unique key",
    ConstrType.CONSTR_PRIMARY: "a primary key",
    ConstrType.CONSTR_EXCLUSION: "an exclusion",
    ConstrType.CONSTR_FOREIGN: "a foreign key",
}


def complaints(sql: str, version: int) -> list[str]:
    """Everything in one file that older code would not survive, unless the file says so."""
    mark = CONTRACTS.search(sql)
    if mark is not None:
        needs = int(mark[1])
        return [] if 0 < needs <= version else [f"needs {needs:04}, which is none of its past"]
    if _ANY_MARK.search(sql):
        return ["has a mark that nobody can read: -- contracts: needs 0007, since ..."]
    return list(_found(sql))


def _found(sql: str) -> Iterator[str]:
    statements = [one.stmt for one in parse_sql(sql)]
    granted = {right for one in statements if _is_grant(one) for right in _rights(one)}
    new = {one.relation.relname for one in statements if isinstance(one, ast.CreateStmt)}
    for one in statements:
        yield from _taking(one)
        if isinstance(one, ast.GrantStmt) and not one.is_grant:
            if not _rights(one) <= granted:  # what the file gave itself for a moment goes again
                yield "revokes what was granted"
        elif isinstance(one, ast.IndexStmt) and one.unique and one.relation.relname not in new:
            yield f"makes {one.relation.relname} unique in a new way"
        elif isinstance(one, ast.AlterTableStmt) and one.relation.relname not in new:
            for command in one.cmds:
                yield from _altering(one.relation.relname, command)
        elif isinstance(one, ast.DoStmt):
            text = next(part.arg.sval for part in one.args if part.defname == "as")
            yield from (f"says '{found[0]}' in a DO block" for found in _IN_TEXT.finditer(text))


def _taking(statement: ast.Node) -> Iterator[str]:
    if isinstance(statement, ast.DropStmt):
        yield f"drops {', '.join(_names(statement))}"
    elif isinstance(statement, ast.RenameStmt):
        renamed = statement.relation.relname if statement.relation else "something"
        yield f"renames {renamed}"
    elif isinstance(statement, ast.TruncateStmt):
        yield "empties a table"


def _altering(table: str, command: ast.AlterTableCmd) -> Iterator[str]:
    refused = _REFUSED.get(command.subtype)
    if refused is not None:
        yield f"{table}: {refused.format(name=command.name)}"
    elif command.subtype == Alter.AT_ColumnDefault and command.def_ is None:
        yield f"{table}: drops the default of the column {command.name}"
    elif command.subtype == Alter.AT_AddConstraint:
        kind = _CHECKING.get(command.def_.contype)
        if kind is not None:
            yield f"{table}: adds {kind} that older code may break"
    elif command.subtype == Alter.AT_AddColumn:
        yield from _added(table, command.def_)


def _added(table: str, column: ast.ColumnDef) -> Iterator[str]:
    kinds = {one.contype for one in column.constraints or ()}
    needed = ConstrType.CONSTR_NOTNULL in kinds or ConstrType.CONSTR_PRIMARY in kinds
    filled = kinds & {
        ConstrType.CONSTR_DEFAULT,
        ConstrType.CONSTR_GENERATED,
        ConstrType.CONSTR_IDENTITY,
    }
    if needed and not filled:
        yield f"{table}: adds the column {column.colname}, not null and without a default"


def _is_grant(statement: ast.Node) -> bool:
    return isinstance(statement, ast.GrantStmt) and bool(statement.is_grant)


def _rights(grant: ast.GrantStmt) -> set[tuple[str, str, str]]:
    """Who may do what with what; without PUBLIC, since nobody of ours lives on what all may."""
    what = "; ".join(IndentedStream()(one) for one in grant.objects)
    deeds = [one.priv_name for one in grant.privileges or ()] or ["all"]
    names = [one.rolename for one in grant.grantees if one.rolename is not None]
    return {(deed, what, name) for deed in deeds for name in names}


def _names(drop: ast.DropStmt) -> Iterator[str]:
    for one in drop.objects:
        parts = getattr(one, "objname", one)
        yield ".".join(part.sval for part in parts) if isinstance(parts, tuple) else "something"
