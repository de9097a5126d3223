"""The door's part for whoever works on a user's behalf: what there is, before any of it is used.

* A survey opens the user's profile and no token. Where somebody is connected is found in the
  environment that was asked for; in production only where the integration shares its connections.
* One's own connection in an environment comes before a shared one; a pending one is none yet.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import datetime
from functools import cached_property
from typing import Final, NamedTuple

from msgspec import Struct

from vault import access, audit
from vault.database import Transaction
from vault.errors import Invalid, Unresolved
from vault.keyring import StoredKey
from vault.lifecycle.schedule import is_expiring
from vault.model import Caller, Profile, WorkspaceId
from vault.oauth import header
from vault.oauth.app import TokenSet
from vault.providers.schema import Provider
from vault.seal import SealingKey
from vault.secret import Secret
from vault.store import WorkspaceSeal
from vault.store import surveys as rows
from vault.store.connections import BareTokens, bare_from, tokens_context
from vault.store.owners import Owner
from vault.store.surveys import StandingRow, UserRow, UserSeals
from vault.vault.refreshing import Fresh, Reason, Refreshing

AT_ONCE: Final = 2_000  # users, in one statement


class Connected(Struct, frozen=True, kw_only=True):
    """Where a user is connected; ``pending``: nobody has consented yet."""

    connection_id: str
    integration: str
    environment: str
    pending: bool


class Survey(Struct, frozen=True, kw_only=True):
    """A user, and the connection that counts at each integration.

    ``owner`` seals what belongs to the user, ``opener`` opens it.
    """

    user_id: str
    profile: Profile
    user_ref: str
    owner: SealingKey
    opener: Owner
    now: datetime  # by the database's clock
    connections: Mapping[str, Connected]

    def __repr__(self) -> str:
        return f"Survey({self.user_ref})"


class Standing(Struct, frozen=True, kw_only=True):
    """How one connection stands. Without a ``reason`` it can be used; ``expiring``: not for long,
    unless the person connects again.
    """

    integration: str
    connection_id: str
    environment: str
    reason: Reason | None
    expiring: bool
    scopes: tuple[str, ...] | None


class SealedTokens(NamedTuple):
    """A connection's tokens as they were read, with what their seal is bound to."""

    connection_id: str
    generation: int
    environment: str
    sealed: bytes


class Opened(NamedTuple):
    """A user's values as a conversation takes them, and what seals what it is promised."""

    profile: Profile
    user_ref: str
    owner: SealingKey
    opener: Owner
    tokens: list[BareTokens]

    def __repr__(self) -> str:
        return f"Opened({self.user_ref})"


class Surveys(Refreshing):
    """What there is of users."""

    async def survey(
        self,
        caller: Caller,
        user_id: str,
        environment: str,
        *,
        also: Callable[[Transaction], Awaitable[None]] | None = None,
    ) -> Survey | None:
        """What minting has to know of a user; ``None`` where there is none. One statement.

        ``also``: what else is to be read in the same transaction, which may run more than once.
        """
        access.permit(caller, "conversation.prepare")
        access.permit_environment(caller, environment)

        async def work(tx: Transaction) -> UserRow | None:
            if also is not None:
                await also(tx)
            return await rows.user(tx, user_id, environment)

        row = await self._database.run(caller.workspace, work)
        return None if row is None else await self.surveyed(caller, user_id, environment, row)

    async def surveyed(
        self, caller: Caller, user_id: str, environment: str, row: UserRow
    ) -> Survey:
        """The same of a row that another statement has read for this caller."""
        access.permit(caller, "conversation.prepare")
        access.permit_environment(caller, environment)
        sealing, owner = await self._seals(caller.workspace, user_id, row)
        every = zip(row.connection_ids, row.integrations, row.environments, row.states, strict=True)
        found = [
            Connected(
                connection_id=connection_id,
                integration=integration,
                environment=place,
                pending=state == "pending",
            )
            for connection_id, integration, place, state in every
        ]
        return Survey(
            user_id=user_id,
            profile=await self._store.profile(
                owner, caller.workspace, user_id, row.generation, row.profile
            ),
            user_ref=sealing.user_ref(user_id),
            now=row.now,
            opener=owner,
            owner=owner.key(sealing.key),
            connections=counting(found, environment),
        )

    async def opened(
        self, caller: Caller, user_id: str, row: UserSeals, every: Sequence[SealedTokens]
    ) -> Opened:
        """Open a user's profile and tokens, as another statement has read them for this caller.

        It is for who knows already what may be handed out, and sends it off at once: whoever calls
        this writes the lines in the record, and lets nothing leave before they are durable.
        """
        access.permit(caller, "conversation.prepare")
        workspace = caller.workspace
        sealing, owner = await self._seals(workspace, user_id, row)
        tokens = []
        for one in every:
            context = tokens_context(workspace, one.connection_id, one.generation, one.environment)
            opened = owner.open_at_hand(context, one.sealed)
            if opened is None:
                opened = await owner.open(context, one.sealed)
            tokens.append(bare_from(opened).tokens)
        return Opened(
            await self._store.profile(owner, workspace, user_id, row.generation, row.profile),
            sealing.user_ref(user_id),
            owner.key(sealing.key),
            owner,
            tokens,
        )

    async def _seals(
        self, workspace: WorkspaceId, user_id: str, row: UserSeals
    ) -> tuple[WorkspaceSeal, Owner]:
        stored = StoredKey(row.key_id, row.version, row.wrapped, row.root_key_id)
        sealing = await self._store.seal_from(workspace, stored, row.index_key)
        return sealing, await self._store.owner(workspace, user_id, row.user_key)

    async def standings(
        self, caller: Caller, user_ids: Sequence[str], environment: str
    ) -> dict[str, dict[str, Standing]]:
        """How many users' connections stand, by user and integration; a statement for thousands.

        Users who are not there are not in the answer.
        """
        access.permit(caller, "readiness.read")
        access.permit_environment(caller, environment)
        wanted = list(dict.fromkeys(user_ids))

        async def work(tx: Transaction) -> tuple[list[str], list[StandingRow]]:
            there: list[str] = []
            every: list[StandingRow] = []
            for first in range(0, len(wanted), AT_ONCE):
                some = await rows.present(tx, wanted[first : first + AT_ONCE])
                there += some
                every += await rows.standings(tx, some, environment) if some else []
            await audit.record(tx, caller, "readiness.read", environment=environment)
            return there, every

        there, every = await self._database.run(caller.workspace, work)
        # The one that counts comes last, as in a survey.
        every.sort(key=lambda row: (row.generation > 0, row.environment == environment))
        found: dict[str, dict[str, Standing]] = {user_id: {} for user_id in there}
        for row in every:
            found[row.user_id][row.integration] = _standing(row)
        return found

    async def release(self, caller: Caller, connection_ids: Sequence[str]) -> None:
        """Let go of what a conversation held."""
        access.permit(caller, "connection.token")
        if caller.kind == "grant" and connection_ids:
            await self._database.run(
                caller.workspace, lambda tx: rows.release(tx, caller.actor_id, connection_ids)
            )

    async def authorization(self, caller: Caller, fresh: Fresh) -> Secret | None:
        """The whole value of the header that carries a credential; ``None`` where there is none.

        Most providers' files need nothing but the token for it. Where one does, the integration is
        resolved, too.
        """
        [value] = await self.authorizations(caller, [fresh])
        return value

    async def authorizations(self, caller: Caller, every: Sequence[Fresh]) -> list[Secret | None]:
        """The same of several connections, in their order."""
        access.permit(caller, "connection.token")
        return [
            None if one.tokens is None else await self._authorization(caller, one, one.tokens)
            for one in every
        ]

    async def _authorization(self, caller: Caller, fresh: Fresh, tokens: TokenSet) -> Secret | None:
        provider = self._files.get(fresh.provider) or await self._file_of(fresh.provider)
        try:
            try:
                rendered = header.rendered(provider, tokens, {})
            except Unresolved:
                row = await self._integration_row(caller.workspace, fresh.integration)
                if row is None:
                    return None
                app = await self._app(caller, row, fresh.environment)
                rendered = header.rendered(provider, tokens, header.values_of(app))
        except (Unresolved, Invalid):
            return None  # the token may be of use without it
        return rendered[1] if rendered else None

    async def has_bare_header(self, provider_id: str) -> bool:
        """Is the header that carries its credential nothing but the token and fixed text?"""
        provider = self._files.get(provider_id) or await self._file_of(provider_id)
        return header.is_bare(provider)

    async def _file_of(self, provider_id: str) -> Provider:
        found = self._files[provider_id] = await self._facts(provider_id)
        return found

    @cached_property
    def _files(self) -> dict[str, Provider]:
        return {}


def counting(every: Iterable[Connected], environment: str) -> dict[str, Connected]:
    """By integration the connection that counts."""
    # It comes last: one's own after a shared one, a consent after none.
    found = sorted(
        every, key=lambda one: (one.integration, not one.pending, one.environment == environment)
    )
    return {one.integration: one for one in found}


def _standing(row: StandingRow) -> Standing:
    clocks = row.clocks()
    return Standing(
        integration=row.integration,
        connection_id=row.connection_id,
        environment=row.environment,
        reason=_reason(row),
        expiring=clocks is not None and is_expiring(clocks, row.now),
        scopes=None if row.scopes is None else tuple(row.scopes),
    )


def _reason(row: StandingRow) -> Reason | None:
    """Why it cannot be used, the first that holds; ``None`` where a mint would get a token."""
    lives = row.access_ends is None or row.access_ends > row.now
    over = row.consent_ends is not None and row.consent_ends <= row.now
    reasons: tuple[tuple[bool, Reason], ...] = (
        (row.generation == 0, "pending"),
        (row.verdict is not None, "needs_reauth"),
        (not lives and row.standing != "open", "integration_paused"),
        (not lives and (over or not row.renewable), "expired"),
    )
    return next((reason for holds, reason in reasons if holds), None)
