"""News for the platform: written to the outbox in the transaction of what happened.

* What is news and what happened commit together, and so do the deliveries to those who want to
  hear of it. Delivering is another's affair.
* A piece of news names things by id. It holds no credential, and no text of a provider.
"""

from collections.abc import Sequence
from typing import Final, Literal

import msgspec
from msgspec import Struct

from vault.database import Transaction
from vault.model import new_ids
from vault.sql import Nothing, Query

Type = Literal[
    "connection.connected",
    "connection.refreshed",
    "connection.degraded",
    "connection.needs_reauth",
    "connection.recovered",
    "connection.expiring",
    "connection.scope_reduced",
    "connection.revoked",
    "integration.held",
    "integration.paused",
    "integration.resumed",
    "integration.refusals_confirmed",
]

OF_CONNECTION: Final[dict[str, Type]] = {
    "connected": "connection.connected",
    "refreshed": "connection.refreshed",
    "degraded": "connection.degraded",
    "needs_reauth": "connection.needs_reauth",
    "recovered": "connection.recovered",
}

_insert: Final = Query("outbox", "insert", Nothing)
_bytes: Final = msgspec.json.Encoder().encode


class News(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One event. ``reason`` is one of our own words."""

    type: Type
    integration: str
    environment: str
    connection_id: str | None = None
    user_id: str | None = None
    generation: int | None = None
    reason: str | None = None


def body_of(news: News) -> str:
    """As it is written down and sent."""
    return _bytes(news).decode()


async def record(tx: Transaction, news: Sequence[News]) -> None:
    """Put news into the outbox, in the caller's transaction."""
    if not news:
        return
    await _insert.run(
        tx,
        workspace_id=tx.workspace,
        event_ids=new_ids("evt", len(news)),
        types=[one.type for one in news],
        bodies=[body_of(one) for one in news],
    )
