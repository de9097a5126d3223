"""What the broker seals, kind by kind, so that the vault's rotations of keys take it along.

* One entry a sealed column of ``broker/migrations``; ``tests/flows/test_rekeying.py`` compares.
* A context is built where the column's own module builds it.
"""

from typing import Final

from broker import agents, conversations
from broker.runtimes import signing
from broker.upstreams.rows import account_context
from vault.model import WorkspaceId
from vault.seal import Context
from vault.sql import Query
from vault.store.sealed_rows import Kind, RowId, SealedRow


def _upstream(workspace: WorkspaceId, row: SealedRow) -> Context:
    kind, _, base_url = row.id.partition(" ")
    return account_context(workspace, kind, base_url, row.generation)


KINDS: Final = (
    Kind(
        "agents",
        Query("sealed", "list_agents", SealedRow, package="broker"),
        Query("sealed", "replace_agents", RowId, package="broker"),
        lambda workspace, row: agents.agent_context(workspace, row.id, row.generation),
    ),
    Kind(
        "upstreams",
        Query("sealed", "list_upstreams", SealedRow, package="broker"),
        Query("sealed", "replace_upstreams", RowId, package="broker"),
        _upstream,
    ),
    Kind(
        "signing_keys",
        Query("sealed", "list_signing_keys", SealedRow, package="broker"),
        Query("sealed", "replace_signing_keys", RowId, package="broker"),
        lambda workspace, row: signing.signing_key_context(workspace, row.id),
    ),
    Kind(
        "conversations",
        Query("sealed", "list_conversations", SealedRow, package="broker"),
        Query("sealed", "replace_conversations", RowId, package="broker"),
        lambda workspace, row: conversations.context(workspace, row.id),
    ),
)

SEALED: Final = {"broker": KINDS}
"""By the part of the schema, as ``Vault.open`` wants it."""
