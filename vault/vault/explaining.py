"""Why a connection is as it is, in one sentence; pure."""

from datetime import datetime
from typing import Final

from msgspec import Struct

from vault.consent import Connection
from vault.store.answers import AttemptRow
from vault.store.refreshing import LifeRow

PAUSED: Final = "The provider refuses the app: whoever set the integration up has to mend it."


class Explanation(Struct, frozen=True, kw_only=True):
    """Why a connection is as it is. ``expiring``: before long only the person can help."""

    connection: Connection
    state: str
    expiring: bool
    why: str
    due_at: datetime | None
    next_try_at: datetime | None
    idle_ends: datetime | None
    consent_ends: datetime | None
    failures: int
    held_until: datetime | None
    attempts: list[AttemptRow]


def why(row: LifeRow, standing: str) -> str:
    """One sentence for the state, or for that of the integration, where that is in the way."""
    if row.verdict is not None:
        return _VERDICTS[row.verdict]
    if standing in _STANDINGS and row.state != "pending":
        return _STANDINGS[standing]
    if row.state == "active" and not row.renewable:
        return "Nothing refreshes it: its token is good until it ends, if it does."
    return _STATES.get(row.state, "It is well.")


_STATES: Final = {
    "pending": "Nobody has consented yet.",
    "refreshing": "A refresh is under way.",
    "backoff": "The last call failed; it is tried again.",
    "uncertain": "Nobody knows how the last call ended; it is tried again when that is safe.",
    "suspect": "The provider calls the grant dead; that is believed when it has lasted a while.",
}
_STANDINGS: Final = {
    "held": "The provider calls many grants at once dead: nobody is believed to be, and few asked.",
    "paused": PAUSED,
}
_VERDICTS: Final = {
    "refused": "The provider ended the grant: the person has to connect again.",
    "lost_rotation": "A refresh token was replaced and its replacement never reached us.",
}
