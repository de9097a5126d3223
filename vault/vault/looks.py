"""The door's part for whoever has read all that there is of a user in a statement of his own.

* He has read rows; what is in them is opened here, with the user's own key opened once for all.
* Tokens that are good as they are, and those only: who needs a refresh goes by ``fresh_tokens``.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta

from msgspec import Struct

from vault import access
from vault.lifecycle.handout import MOST_OF_LIFETIME
from vault.model import Caller
from vault.store import Owner
from vault.store import connections as rows
from vault.vault.refreshing import Fresh
from vault.vault.surveys import Surveys


class Settled(Struct, frozen=True):
    """A connection's tokens as another statement has read them: good, by the connection's state."""

    connection_id: str
    integration: str
    environment: str
    provider: str
    scopes: list[str] | None
    generation: int
    issued_at: datetime
    access_ends: datetime | None
    tokens_generation: int
    sealed: bytes
    missing_scopes: tuple[str, ...] = ()

    def lasts(self, min_ttl: timedelta, now: datetime) -> bool:
        """Would it be handed out without a refresh?"""
        if self.access_ends is None:
            return True
        left = self.access_ends - now
        # Nobody can ask for more than most of a lifetime; few ask for as much as that.
        return left > min_ttl or left > (self.access_ends - self.issued_at) * MOST_OF_LIFETIME


class Looks(Surveys):
    """What was read by somebody else's statement."""

    async def opener(self, caller: Caller, user_id: str, user_key: bytes) -> Owner:
        """What opens a user's values, where the user's sealed key has just been read with them."""
        return await self._store.owner(caller.workspace, user_id, user_key)

    async def settled_tokens(
        self,
        caller: Caller,
        user_id: str,
        opener: Owner,
        every: Sequence[Settled],
        *,
        now: datetime,
        min_ttl: timedelta,
        look: bool,
    ) -> list[Fresh]:
        """Open what has been read already. Whoever calls this writes the lines in the record, and
        lets nothing leave before they are durable.
        """
        access.permit(caller, "connection.token")
        found = []
        for one in every:
            context = rows.tokens_context(
                caller.workspace, one.connection_id, one.tokens_generation, one.environment
            )
            tokens = rows.held_from(await opener.open(context, one.sealed)).tokens
            left = None if one.access_ends is None else one.access_ends - now
            found.append(
                Fresh(
                    connection_id=one.connection_id,
                    user_id=user_id,
                    integration=one.integration,
                    provider=one.provider,
                    environment=one.environment,
                    tokens=None if look else tokens,
                    extras=tokens.extras,
                    generation=one.generation,
                    expires_at=one.access_ends,
                    expires_in=None if left is None else int(left.total_seconds()),
                    refresh_required=left is not None and left < min_ttl,
                    scopes=None if one.scopes is None else tuple(one.scopes),
                    missing_scopes=one.missing_scopes,
                )
            )
        return found
