"""What a statement must be, read from its syntax tree: every broken rule becomes a sentence.

* Every table of a workspace is bound to the parameter ``workspace_id``: by an equality that holds
  for every row, in WHERE or ON, or by the column that an INSERT writes.
* A read that is meant to cross workspaces says so: ``-- crosses workspaces: why``. It locks
  nothing and changes nothing.
* Nothing that the engines which spread tables over machines do not have (rules 1, 3, 4 and 5 of
  the schema's rules): no volatile function in an UPDATE, no advisory lock, no sequence, no NOTIFY.
"""

# mypy: disable-error-code="attr-defined,union-attr,index,arg-type,operator,truthy-bool"
# pglast types every node of a statement as a plain Node.

import re
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any, Final

from pglast import ast, enums, parse_sql
from pglast.parser import ParseError
from pglast.visitors import Visitor

CROSSES = re.compile(r"^-- crosses workspaces: \S.{9,}", re.MULTILINE)

_NAME = re.compile(r"^-- name: ([a-z_]+)$", re.MULTILINE)
_PARAMETER: Final = "the parameter workspace_id"
_DEEDS: Final = (ast.SelectStmt, ast.InsertStmt, ast.UpdateStmt, ast.DeleteStmt)
# unnest, string_to_array and json_to_recordset take a batch's parameters apart, and depend on
# nothing else.
_CALLS_IN_UPDATE: Final = {"now", "coalesce", "unnest", "string_to_array", "json_to_recordset"}
_FORBIDDEN: Final = re.compile(
    r"pg_(try_)?advisory.*|pg_notify|nextval|setval|currval|lastval|dblink.*|lo_.*|pg_sleep.*"
)


def texts(package: Path) -> dict[str, str]:
    """Every statement of a package's ``.sql`` files with its comments, as ``package.noun.name``."""
    found = {}
    for file in sorted((package / "sql").glob("*.sql")):
        _, *parts = _NAME.split(file.read_text())
        for name, text in zip(parts[::2], parts[1::2], strict=True):
            full = f"{package.name}.{file.stem}.{name}"
            assert full not in found, f"{full} is there twice"
            found[full] = text
    return found


def complaints(
    sql: str,
    parameters: tuple[str, ...],
    comments: str = "",
    *,
    unbound: AbstractSet[str] = frozenset(),
) -> list[str]:
    """Everything that is wrong with one statement; ``unbound`` are the tables of no workspace."""
    try:
        parsed = parse_sql(sql)
    except ParseError as error:
        return [f"cannot be parsed: {error}"]
    if len(parsed) != 1:
        return ["is not one statement"]
    statement = parsed[0].stmt
    if not isinstance(statement, _DEEDS):
        return [f"is {type(statement).__name__}, not select, insert, update or delete"]
    walk = _Walk()
    walk(statement)
    found = [*walk.found]
    if CROSSES.search(comments):
        if not isinstance(statement, ast.SelectStmt) or walk.locks:
            found.append("crosses workspaces, and does more than read")
        return found
    for level in walk.levels:
        found += _Level(level, parameters, walk.ctes, unbound).complaints()
    return found + [f"calls {name}, which nothing binds to a workspace" for name in walk.own_calls]


def tables_of(sql: str) -> list[str]:
    """The tables that a statement names, with their schemas."""
    walk = _Walk()
    walk(parse_sql(sql)[0].stmt)
    return sorted(walk.tables)


class _Walk(Visitor):
    """Goes through the whole tree once: collects the levels, and what no level may have."""

    def __init__(self) -> None:
        self.found: list[str] = []
        self.levels: list[ast.Node] = []
        self.ctes: set[str] = set()
        self.own_calls: list[str] = []
        self.tables: set[str] = set()
        self.locks = False

    def visit_A_Star(self, _ancestors: object, _node: ast.Node) -> None:  # noqa: N802
        self.found.append("says *: a column that is added later would come along")

    def visit_RangeVar(self, _ancestors: object, node: ast.Node) -> None:  # noqa: N802
        if node.schemaname:
            self.tables.add(f"{node.schemaname}.{node.relname}")

    def visit_CommonTableExpr(self, _ancestors: object, node: ast.Node) -> None:  # noqa: N802
        self.ctes.add(node.ctename)

    def visit_SelectStmt(self, _ancestors: object, node: ast.Node) -> None:  # noqa: N802
        self.levels.append(node)
        self.locks = self.locks or bool(node.lockingClause)

    def visit_InsertStmt(self, _ancestors: object, node: ast.Node) -> None:  # noqa: N802
        self.levels.append(node)
        self._returns_columns(node)

    def visit_DeleteStmt(self, _ancestors: object, node: ast.Node) -> None:  # noqa: N802
        self.levels.append(node)
        self._returns_columns(node)

    def visit_UpdateStmt(self, _ancestors: object, node: ast.Node) -> None:  # noqa: N802
        self.levels.append(node)
        self._returns_columns(node)

    def visit_FuncCall(self, ancestors: Any, node: ast.Node) -> None:  # noqa: N802
        *schema, name = [part.sval for part in node.funcname]
        if schema and schema != ["pg_catalog"]:
            self.own_calls.append(".".join([*schema, name]))
        if _FORBIDDEN.fullmatch(name):
            self.found.append(f"calls {name}, which not every engine has")
        if _in_update(ancestors) and name not in _CALLS_IN_UPDATE:
            self.found.append(f"calls {name} in an update, which must get its values as parameters")
        if name == "set_config":
            self._sets(node)

    def _sets(self, node: ast.Node) -> None:
        setting, _, local = node.args
        if getattr(getattr(setting, "val", None), "sval", "keyturn.").startswith("keyturn."):
            self.found.append("sets the workspace, which only vault/database.py does")
        if not getattr(getattr(local, "val", None), "boolval", False):
            self.found.append("sets something for longer than the transaction")

    def _returns_columns(self, node: ast.Node) -> None:
        for target in node.returningClause.exprs if node.returningClause else ():
            if not isinstance(target.val, ast.ColumnRef):
                self.found.append("returns more than plain columns from a change")


class _Level:
    """One select, insert, update or delete, and which of its tables are bound to the workspace."""

    def __init__(
        self,
        node: ast.Node,
        parameters: tuple[str, ...],
        ctes: set[str],
        unbound: AbstractSet[str],
    ) -> None:
        self._node = node
        self._parameters = parameters
        self._ctes = ctes
        self._unbound = unbound
        self._found: list[str] = []
        self._tables: dict[str, str] = {}
        self._sources = 0
        # Who is bound as soon as somebody else is.
        self._follows: list[tuple[str, str]] = []

    def complaints(self) -> list[str]:
        node = self._node
        if isinstance(node, ast.SelectStmt):
            self._from(node.fromClause)
            self._conditions(node.whereClause)
        elif isinstance(node, ast.InsertStmt):
            self._insert()
        else:
            update = isinstance(node, ast.UpdateStmt)
            self._from((node.relation, *((node.fromClause if update else node.usingClause) or ())))
            self._conditions(node.whereClause)
            if update and any(target.name == "workspace_id" for target in node.targetList):
                self._found.append("moves a row to another workspace")
        bound = self._bound()
        return self._found + [
            f"does not bind {table} to the workspace"
            for alias, table in self._tables.items()
            if alias not in bound
        ]

    def _from(self, sources: Sequence[ast.Node] | None) -> None:
        for source in sources or ():
            self._source(source)

    def _source(self, source: ast.Node) -> set[str]:
        """Take in one source; returns the names that conditions may use for it."""
        if isinstance(source, ast.JoinExpr):
            left, right = self._source(source.larg), self._source(source.rarg)
            if source.jointype == enums.JoinType.JOIN_INNER:
                self._conditions(source.quals)
            elif source.jointype == enums.JoinType.JOIN_LEFT:
                # What ON says of the left side leaves no row of it out.
                self._conditions(source.quals, only=right)
            return left | right
        self._sources += 1
        if not isinstance(source, ast.RangeVar):
            return {source.alias.aliasname} if source.alias else set()
        alias = source.alias.aliasname if source.alias else source.relname
        table = f"{source.schemaname}.{source.relname}"
        if source.schemaname is None:
            if source.relname not in self._ctes:
                self._found.append(f"names {source.relname} without its schema")
        elif table not in self._unbound:
            self._tables[alias] = table
        return {alias}

    def _conditions(self, clause: ast.Node | None, *, only: set[str] | None = None) -> None:
        for one in _conjuncts(clause):
            if not (isinstance(one, ast.A_Expr) and one.name[-1].sval == "="):
                continue
            if one.kind != enums.A_Expr_Kind.AEXPR_OP:
                continue
            left, right = self._whose(one.lexpr), self._whose(one.rexpr)
            if left and right:
                pairs = ((left, right), (right, left))
                self._follows += [pair for pair in pairs if only is None or pair[1] in only]

    def _whose(self, side: ast.Node) -> str | None:
        """Whose workspace this side of an equality is: a table's, or the parameter's."""
        if isinstance(side, ast.ParamRef):
            is_it = self._parameters[side.number - 1] == "workspace_id"
            return _PARAMETER if is_it else None
        if not isinstance(side, ast.ColumnRef) or side.fields[-1].sval != "workspace_id":
            return None
        if len(side.fields) > 1:
            return str(side.fields[-2].sval)
        return next(iter(self._tables), None) if self._sources == 1 else None

    def _bound(self) -> set[str]:
        # A name from outside of this level is bound where it stands, or complained about there.
        known = {one for pair in self._follows for one in pair if one not in self._tables}
        bound = {_PARAMETER} | known
        while more := {to for whose, to in self._follows if whose in bound} - bound:
            bound |= more
        return bound

    def _insert(self) -> None:
        node = self._node
        table = f"{node.relation.schemaname}.{node.relation.relname}"
        if table in self._unbound:
            return
        columns = [column.name for column in node.cols or ()]
        if "workspace_id" not in columns:
            self._found.append(f"does not bind {table} to the workspace")
            return
        place = columns.index("workspace_id")
        select = node.selectStmt
        written = [row[place] for row in select.valuesLists or ()] or [select.targetList[place].val]
        if any(self._whose(value) is None for value in written):
            self._found.append(f"does not bind {table} to the workspace")
        conflict = node.onConflictClause
        if conflict:
            targets = [one.name for one in (conflict.infer.indexElems if conflict.infer else ())]
            if targets[:1] != ["workspace_id"]:
                self._found.append("meets conflicts of other workspaces: name workspace_id first")


def _in_update(ancestors: Any) -> bool:
    """Does a node stand inside an UPDATE, and not merely beside one?"""
    number = 0
    while (node := ancestors[number]) is not None:
        if isinstance(node, ast.UpdateStmt):
            return True
        number += 1
    return False


def _conjuncts(clause: ast.Node | None) -> Iterator[ast.Node]:
    """The conditions that all have to hold; what stands beside an OR is none."""
    if isinstance(clause, ast.BoolExpr) and clause.boolop == enums.BoolExprType.AND_EXPR:
        for part in clause.args:
            yield from _conjuncts(part)
    elif clause is not None:
        yield clause
