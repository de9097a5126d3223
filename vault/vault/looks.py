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
from vault.oauth.app import TokenSet
from vault.store import connections as rows
from vault.store.connections import BareTokens
from vault.store.owners import Owner
from vault.vault.refreshing import Fresh
from vault.vault.surveys import SealedTokens, Surveys


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

    def lasts(self, min_ttl: timedelta, now: datetime) -> bool:
        """Would it be handed out without a refresh?"""
        if self.access_ends is None:
            return True
        left = self.access_ends - now
        # Nobody can ask for more than most of a lifetime; few ask for as much as that.
        return left > min_ttl or left > (self.access_ends - self.issued_at) * MOST_OF_LIFETIME

    def fresh(
        self, user_id: str, tokens: TokenSet, *, now: datetime, min_ttl: timedelta, look: bool
    ) -> Fresh:
        """What is handed out of it, with what was opened."""
        left = None if self.access_ends is None else self.access_ends - now
        return Fresh(
            connection_id=self.connection_id,
            user_id=user_id,
            integration=self.integration,
            provider=self.provider,
            environment=self.environment,
            tokens=None if look else tokens,
            extras=tokens.extras,
            generation=self.generation,
            expires_at=self.access_ends,
            expires_in=None if left is None else int(left.total_seconds()),
            refresh_required=left is not None and left < min_ttl,
            scopes=None if self.scopes is None else tuple(self.scopes),
        )


class Looks(Surveys):
    """What was read by somebody else's statement."""

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
            opened = opener.open_at_hand(context, one.sealed)
            if opened is None:
                opened = await opener.open(context, one.sealed)
            tokens = rows.held_from(opened).tokens
            found.append(one.fresh(user_id, tokens, now=now, min_ttl=min_ttl, look=look))
        return found

    async def settled_token(
        self, caller: Caller, user_id: str, user_key: bytes, one: SealedTokens
    ) -> BareTokens:
        """The same for the only one that is wanted of a user, whose sealed key was read with it;
        and no more than what is sent off at once, in clear.

        Where the workspace's key is at hand, user's key and tokens are opened in one go.
        """
        access.permit(caller, "connection.token")
        connection_id, generation, environment, sealed = one
        context = rows.tokens_context(caller.workspace, connection_id, generation, environment)
        found = self._store.open_owned_at_hand(caller.workspace, user_id, user_key, context, sealed)
        if found is None:
            owner = await self._store.owner(caller.workspace, user_id, user_key)
            found = await owner.open(context, sealed)
        return rows.bare_from(found).tokens
