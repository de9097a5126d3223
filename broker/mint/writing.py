"""What is written of a mint, as one statement does it for a batch of them."""

from collections.abc import Sequence
from typing import Final

from msgspec import Struct

from broker.conversations import Times
from vault.sql import Query
from vault.vault import Vault


class WrittenRow(Times, frozen=True):
    conversation_id: str


class Deed(Struct, frozen=True, kw_only=True):
    """What the statement is told to write, in the order of its parameters."""

    hashes: bytes
    workspace_ids: str
    conversation_ids: str
    event_ids: str
    user_ids: str
    user_refs: str
    agent_ids: str
    environments: str
    runtimes: str
    channels: str
    deliveries: str
    branch_ids: str
    reached: str
    kept: bytes
    armed: bool
    bearer_kinds: str  # empty: none
    bearer_hashes: bytes | None
    ticket_hashes: bytes | None
    start_within: int
    lasts: int
    promised: int
    request_ids: str
    looking: bool
    token_ids: str
    token_generations: str
    unnoticed: bool


write: Final = Query("batches", "write", WrittenRow, package="broker")


async def write_down(vault: Vault, deeds: Sequence[Deed]) -> list[Times | None]:
    """Do them together; ``None`` where what was looked at is not so any more."""
    rows = await vault.write_for_guest(write, **write.columns(deeds))
    times = {row.conversation_id: row for row in rows}
    return [times.get(one.conversation_ids) for one in deeds]
