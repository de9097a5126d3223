"""What is written of a mint, as one statement does it for a batch of them."""

from typing import Final

from msgspec import Struct

from broker.conversations import Times
from vault.sql import Query


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
