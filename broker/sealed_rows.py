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
from vault.store.sealed_rows import Kind, SealedRow


def _upstream(workspace: WorkspaceId, row: SealedRow) -> Context:
    kind, _, base_url = row.id.partition(" ")
    return account_context(workspace, kind, base_url, row.generation)


KINDS: Final = (
    Kind.of(
        "agents",
        lambda workspace, row: agents.agent_context(workspace, row.id, row.generation),
        package="broker",
    ),
    Kind.of(
        "upstreams",
        _upstream,
        package="broker",
    ),
    Kind.of(
        "signing_keys",
        lambda workspace, row: signing.signing_key_context(workspace, row.id),
        package="broker",
    ),
    Kind.of(
        "conversations",
        lambda workspace, row: conversations.context(workspace, row.id),
        package="broker",
    ),
)

SEALED: Final = {"broker": KINDS}
"""By the part of the schema, as ``Vault.open`` wants it."""
