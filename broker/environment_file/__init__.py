"""A workspace's environments as one YAML file: read it, write it, compare it. Pure; no I/O.

* ``tree`` reads YAML strictly, ``reader`` keeps the places, ``document`` is what a file says.
* ``writing`` gives the same bytes for the same document; what it writes, ``read`` reads back.
* ``plan`` compares it with what a target holds and says what has to happen; ``values`` finds the
  secrets for that, ``showing`` prints it.
* docs/reference/environment-file.md is the schema for people.
"""

from broker.environment_file.document import Document, Named, read, to_plain
from broker.environment_file.plan import Plan, State, Step, compare, document_of
from broker.environment_file.writing import write

__all__ = [
    "Document",
    "Named",
    "Plan",
    "State",
    "Step",
    "compare",
    "document_of",
    "read",
    "to_plain",
    "write",
]
