"""Why a connection is as it is, in one sentence; pure."""

from datetime import datetime
from typing import Final

from msgspec import Struct

from vault.consent import Connection
from vault.errors import NeedsReauth, NotReady, ProviderUnavailable, VaultError
from vault.refreshing.page import Outcome
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


def why_not(outcome: Outcome | None, standing: str, again: int) -> VaultError:
    """Why a refresh that was asked for brought nothing; ``again``: seconds until the next try."""
    if outcome is None:
        return ProviderUnavailable("The provider takes its time; the refresh goes on.")
    if standing == "paused":
        return ProviderUnavailable(PAUSED, retry_after=None, action="fix_configuration")
    failure = outcome.failure
    if failure is not None:
        return ProviderUnavailable(failure.detail, retry_after=failure.retry_after or again)
    match outcome.why:
        case "needs_reauth":
            return NeedsReauth()
        case "waiting" | "no_room":
            return ProviderUnavailable(
                "The last try was too recent, or its provider is given a rest;"
                " it is tried again by itself.",
                retry_after=again,
            )
        case _:
            return NotReady("There is no newer token yet.")


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
