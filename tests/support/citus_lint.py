"""What a statement must be to run where tables are spread by workspace, beside ``sql_lint``.

``sql_lint`` sees to the rules that hold everywhere: a statement is bound to one workspace, or says
why it crosses them and then only reads; no volatile function in an update, plain columns returned.
What Citus wants beside that:

* A lock (``for update``, ``skip locked``) goes to one node: it is bound to the workspace.
* Tables that are joined over all workspaces are joined on ``workspace_id``, too: what is joined
  lies on one node.
* Tables of no workspace stay on the coordinator, and are in no statement with others.
"""

# mypy: disable-error-code="attr-defined,union-attr,index,arg-type,operator,truthy-bool"
# pglast types every node of a statement as a plain Node.

from collections.abc import Iterator
from collections.abc import Set as AbstractSet

from pglast import ast, parse_sql
from pglast.visitors import Visitor

from support.sql_lint import CROSSES, tables_of


def complaints(sql: str, comments: str = "", *, unbound: AbstractSet[str]) -> list[str]:
    """Everything in one statement that would not run, or would run on every node."""
    named = {one for one in tables_of(sql) if not one.startswith("pg_catalog.")}
    found = []
    if named & unbound and named - unbound:
        found.append("joins a table of no workspace with one of a workspace")
    walk = _Walk()
    walk(parse_sql(sql)[0].stmt)
    if CROSSES.search(comments):
        if walk.locks:
            found.append("locks rows of many workspaces")
        found += [one for level in walk.levels for one in _apart(level)]
    return found


class _Walk(Visitor):
    def __init__(self) -> None:
        self.levels: list[ast.Node] = []
        self.locks = False

    def visit_SelectStmt(self, _ancestors: object, node: ast.Node) -> None:  # noqa: N802
        self.levels.append(node)
        self.locks = self.locks or bool(node.lockingClause)


def _apart(level: ast.Node) -> Iterator[str]:
    """Tables of one level that nothing joins by workspace."""
    tables, conditions = [], [level.whereClause]
    sources = list(level.fromClause or ())
    while sources:
        one = sources.pop()
        if isinstance(one, ast.JoinExpr):
            sources += [one.larg, one.rarg]
            conditions.append(one.quals)
        elif isinstance(one, ast.RangeVar) and one.schemaname:
            tables.append(one.alias.aliasname if one.alias else one.relname)
    together = {name: name for name in tables}
    for left, right in (pair for one in conditions for pair in _pairs(one)):
        if left in together and right in together:
            old, new = together[left], together[right]
            together = {name: new if of == old else of for name, of in together.items()}
    if len(set(together.values())) > 1:
        yield f"joins {', '.join(sorted(tables))} otherwise than by workspace"


def _pairs(clause: ast.Node | None) -> Iterator[tuple[str, str]]:
    """Which names a condition makes equal in their workspace."""
    if isinstance(clause, ast.BoolExpr):
        for part in clause.args:
            yield from _pairs(part)
    elif isinstance(clause, ast.A_Expr) and clause.name[-1].sval == "=":
        sides = (clause.lexpr, clause.rexpr)
        if all(
            isinstance(one, ast.ColumnRef)
            and len(one.fields) > 1
            and one.fields[-1].sval == "workspace_id"
            for one in sides
        ):
            left, right = (str(one.fields[-2].sval) for one in sides)
            yield left, right
