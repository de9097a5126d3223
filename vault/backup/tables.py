"""Which tables a backup has, in which columns, and in which order they are filled again.

* All of the schema, but what belongs to processes and not to the deployment (``LEFT_OUT``).
* A table comes after those that its rows refer to. Read from the catalogue, so that a new table is
  in the next backup without anybody thinking of it.
"""

from graphlib import TopologicalSorter
from typing import Any, Final

from msgspec import Struct

SCHEMA: Final = "vault"
LEFT_OUT: Final = {
    "replicas": "processes that lived then",
    "schema_lock": "the migrations' own",
    "schema_migrations": "the migrations' own; the manifest has the versions",
}

_COLUMNS: Final = """
select c.relname, array_agg(a.attname::text order by a.attnum)
  from pg_catalog.pg_class c
  join pg_catalog.pg_namespace n on n.oid = c.relnamespace
  join pg_catalog.pg_attribute a on a.attrelid = c.oid
 where n.nspname = $1 and c.relkind = 'r' and a.attnum > 0
   and not a.attisdropped and a.attgenerated = ''
 group by c.relname
"""
_REFERENCES: Final = """
select c.relname, f.relname
  from pg_catalog.pg_constraint k
  join pg_catalog.pg_class c on c.oid = k.conrelid
  join pg_catalog.pg_class f on f.oid = k.confrelid
  join pg_catalog.pg_namespace n on n.oid = c.relnamespace
 where n.nspname = $1 and k.contype = 'f' and c.oid <> f.oid
"""


class Shape(Struct, frozen=True):
    """A table's name, and its columns in their order."""

    name: str
    columns: tuple[str, ...]


async def shapes(connection: Any) -> list[Shape]:
    """Every table of a backup, each after those that it refers to."""
    columns = {
        name: tuple(names)
        for name, names in await connection.fetch(_COLUMNS, SCHEMA)
        if name not in LEFT_OUT
    }
    order: TopologicalSorter[str] = TopologicalSorter(dict.fromkeys(sorted(columns), ()))
    for name, referred in await connection.fetch(_REFERENCES, SCHEMA):
        if name in columns:
            order.add(name, referred)
    return [Shape(name, columns[name]) for name in order.static_order()]


def quoted(name: str) -> str:
    """A name as it stands in a statement."""
    return '"' + name.replace('"', '""') + '"'
