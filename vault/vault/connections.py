"""The door's part for connections: what users have connected, and what the platform brings along.

* A connection is one user's, at one integration, in one environment. A newer consent or import
  takes the place of the one before; its tokens are a generation further.
* Tokens are sealed under the user's own key. Reading them leaves a line in the record.
* Deleting gives the tokens back to the provider: at once where it answers, else again and again
  for a day. The connection is gone meanwhile, and so is the user. What another account leaves
  behind when it is replaced is given back in the same way.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Final, Literal, NamedTuple

from vault import access, audit, events
from vault.consent import Connection, Held, Import, Revoked, asked_for
from vault.database import Transaction
from vault.errors import Forbidden, Invalid, NotFound
from vault.model import PRODUCTION, Caller, Page, UserId, WorkspaceId, new_id
from vault.oauth.app import Account, App, Granted, TokenSet
from vault.providers.schema import TYPED_MODES, Provider
from vault.refreshing import consents
from vault.seal import seal
from vault.store import WorkspaceSeal, refreshing, write_user
from vault.store import connections as rows
from vault.store.connections import NewTokens
from vault.vault.door import found, written
from vault.vault.returns import Return, Returns
from vault.vault.tenants import Tenants

USUAL_LIFE: Final = 3_600  # seconds, of an access token whose provider nobody has asked
AT_ONCE: Final = 100  # connections of a user that are ended together

Extras = Mapping[str, str]


class Place(NamedTuple):
    """Where a connection is: at most one is there."""

    user_id: str
    integration: str
    environment: str


class New(NamedTuple):
    """What is to be stored there."""

    provider: str
    asked_scopes: tuple[str, ...]
    held: Held
    refresh_by: Literal["keyturn", "caller"] = "keyturn"


class Connections(Returns, Tenants):
    """What users have connected."""

    async def list_connections(
        self,
        caller: Caller,
        page: Page,
        *,
        user_id: str = "",
        integration: str = "",
        environment: str = "",
        state: str = "",
        account: str = "",
    ) -> list[Connection]:
        """A part of the connections, in the environments that this caller reaches.

        ``account``: only those of the account that a provider knows by this id.
        """
        access.permit(caller, "connection.list")
        environments: tuple[str, ...] = caller.environments
        if environment:
            access.permit_environment(caller, environment)
            environments = (environment,)
        accounts = await self._account_indexes(caller.workspace, account) if account else []
        if account and not accounts:
            return []
        return await self._database.run(
            caller.workspace,
            lambda tx: rows.list_connections(
                tx,
                page,
                user_id=user_id,
                integration=integration,
                state=state,
                accounts=accounts,
                environments=environments,
            ),
        )

    async def held_of(
        self, caller: Caller, connection: Connection
    ) -> tuple[Account | None, Extras]:
        """Whose account it is, and what its provider said of it that is no secret."""
        access.permit(caller, "connection.read")
        _permit(caller, connection)
        held = await self._held(caller.workspace, connection)
        return (held.account, held.tokens.extras) if held else (None, {})

    async def get_connection(self, caller: Caller, connection_id: str) -> Connection:
        access.permit(caller, "connection.read")
        connection = found(
            await self._database.run(
                caller.workspace, lambda tx: rows.get_connection(tx, connection_id)
            )
        )
        _permit(caller, connection)
        return connection

    async def find_connection(
        self,
        caller: Caller,
        user_id: str,
        integration: str,
        environment: str,
        *,
        shared: bool = False,
    ) -> Connection:
        """The connection of a user at an integration, in this environment and no other.

        ``shared``: production's will do where there is none, if the integration shares them.
        """
        access.permit(caller, "connection.read")
        access.permit_environment(caller, environment)

        async def work(tx: Transaction) -> Connection | None:
            mine = await rows.find_connection(tx, user_id, integration, environment)
            if mine is not None or not shared:
                return mine
            row = await rows.get_integration(tx, integration)
            if row is None or not row.share_connections:
                return None
            return await rows.find_connection(tx, user_id, integration, PRODUCTION)

        return found(await self._database.run(caller.workspace, work))

    async def import_connection(
        self, caller: Caller, user_id: UserId, integration: str, wanted: Import
    ) -> Connection:
        """Take over what the platform already holds. Makes the user where there is none yet."""
        access.permit(caller, "connection.write")
        access.permit_environment(caller, wanted.environment)
        row = await self._integration_row(caller.workspace, integration)
        if row is None:
            raise Invalid("There is no such integration in this workspace.")
        app = await self._app(caller, row, wanted.environment, typed=wanted.values)
        granted = await self._imported(app, wanted)
        await self._ensure_user(caller, user_id)
        new = New(
            provider=app.provider.id,
            asked_scopes=asked_for(app.provider, app.scopes, granted.tokens),
            held=Held(tokens=granted.tokens, account=granted.account),
            refresh_by=wanted.refresh_by,
        )
        place = Place(user_id, integration, wanted.environment)
        connection, _ = await self._put(caller, place, new, action="connection.import")
        return connection

    async def delete_connection(self, caller: Caller, connection_id: str) -> Revoked:
        """Delete a connection, and give its tokens back to the provider."""
        access.permit(caller, "connection.delete")
        return await self._end(caller, connection_id)

    async def delete_user(self, caller: Caller, user_id: UserId) -> dict[str, Revoked]:
        """Delete a user: every connection is given back, and the user's key is shredded."""
        access.permit(caller, "user.delete")
        outcomes: dict[str, Revoked] = {}
        while every := await self._some_of(caller, user_id):
            ending = frozenset(one.connection_id for one in every)
            ended = await asyncio.gather(*(self._ended(caller, one, ending) for one in every))
            outcomes |= {
                one.connection_id: how for one, how in zip(every, ended, strict=True) if how
            }
        await self._forget_user(caller, user_id)
        return outcomes

    # Shared with the other parts of the door

    async def _connection(self, caller: Caller, connection_id: str) -> Connection:
        connection = found(
            await self._database.run(
                caller.workspace, lambda tx: rows.get_connection(tx, connection_id)
            )
        )
        _permit(caller, connection)
        return connection

    async def _account_indexes(self, workspace: WorkspaceId, account_id: str) -> list[bytes]:
        """What finds this account, at each provider that the workspace works with."""

        async def work(tx: Transaction) -> set[str]:
            return {row.provider for row in await rows.list_integrations(tx, Page(10_000))}

        sealing = await self._store.seal_of(workspace)
        providers = await self._database.run(workspace, work)
        return [self._account_index(sealing, one, account_id) for one in sorted(providers)]

    async def _ensure_user(self, caller: Caller, user_id: UserId) -> None:
        sealing = await self._store.seal_of(caller.workspace)
        sealed = await self._store.new_user(sealing, user_id)
        if sealed is None:
            return

        async def work(tx: Transaction) -> None:
            if await write_user(tx, sealed):
                user_ref = sealing.user_ref(user_id)
                await audit.record(tx, caller, "user.write", user_ref=user_ref)

        await self._database.run(caller.workspace, work)

    async def _put(
        self,
        caller: Caller,
        place: Place,
        new: New,
        *,
        action: str,
        settle: Callable[[Transaction], Awaitable[None]] | None = None,
    ) -> tuple[Connection, Return | None]:
        """Seal and write a token set as the generation that follows the stored one.

        With ``settle`` a person's consent is what is stored: where it is another account's, what
        was held before is returned, to be given back.
        """
        sealing = await self._store.seal_of(caller.workspace)

        async def attempt() -> tuple[Connection, Return | None] | None:
            before = await self._database.run(
                caller.workspace, lambda tx: rows.find_connection(tx, *place)
            )
            tokens = await self._new_tokens(sealing, place, before, new)
            returned: Return | None = None
            if settle is not None and before is not None and _is_replaced(before, tokens):
                returned = await self._to_return(caller, before)

            provider = await self._provider(new.provider)

            async def work(tx: Transaction) -> tuple[Connection, Return | None]:
                user_ref = sealing.user_ref(place.user_id)
                await consents.write(tx, tokens, new.held.tokens, provider, user_ref)
                if settle is not None:
                    await settle(tx)
                if returned is not None:
                    await self._remember_return(tx, sealing, returned)
                await audit.record(
                    tx,
                    caller,
                    action,
                    target=("connection", tokens.connection_id),
                    user_ref=user_ref,
                    environment=place.environment,
                )
                written_row = await rows.get_connection(tx, tokens.connection_id)
                return found(written_row), returned

            try:
                return await self._database.run(caller.workspace, work)
            except consents.Moved:
                return None

        return await written(attempt)

    async def _new_tokens(
        self,
        sealing: WorkspaceSeal,
        place: Place,
        before: Connection | None,
        new: New,
    ) -> NewTokens:
        key = found(await self._store.key_for_user(sealing, UserId(place.user_id)))
        connection_id = before.connection_id if before else new_id("conn")
        generation = before.generation + 1 if before else 1
        context = rows.tokens_context(
            sealing.workspace, connection_id, generation, place.environment
        )
        tokens, account = new.held.tokens, new.held.account
        return NewTokens(
            connection_id=connection_id,
            user_id=place.user_id,
            integration=place.integration,
            environment=place.environment,
            provider=new.provider,
            refresh_by=new.refresh_by,
            generation=generation,
            account=self._account_index(sealing, new.provider, account.id) if account else None,
            asked_scopes=sorted(set(new.asked_scopes)),
            scopes=None if tokens.scopes is None else sorted(set(tokens.scopes)),
            sealed=seal(key, context, rows.packed(new.held)),
        )

    # The end of a connection

    async def _some_of(self, caller: Caller, user_id: UserId) -> list[Connection]:
        some = await self._database.run(
            caller.workspace,
            lambda tx: rows.list_connections(tx, Page(AT_ONCE), user_id=user_id),
        )
        if not all(access.within_environments(caller, [one.environment]) for one in some):
            raise Forbidden("This user is connected in environments that this key does not reach.")
        return some

    async def _ended(
        self, caller: Caller, connection: Connection, ending: frozenset[str]
    ) -> Revoked | None:
        """End it; ``None`` where somebody else has."""
        with suppress(NotFound):
            return await self._end(caller, connection.connection_id, ending)
        return None

    async def _end(
        self, caller: Caller, connection_id: str, ending: frozenset[str] = frozenset()
    ) -> Revoked:
        """End one connection. ``ending``: those that end with it, and are no siblings to spare."""
        sealing = await self._store.seal_of(caller.workspace)

        async def attempt() -> Return | None:
            connection = await self._connection(caller, connection_id)
            returned = await self._to_return(caller, connection, ending)

            async def work(tx: Transaction) -> bool:
                await refreshing.lock_lives(tx, [connection_id])  # no refresh saves meanwhile
                if not await rows.delete_connection(tx, connection_id, connection.generation):
                    return False  # there are newer tokens: those have to be given back
                await self._remember_return(tx, sealing, returned)
                await events.record(tx, [consents.revoked(connection)])
                await audit.record(
                    tx,
                    caller,
                    "connection.delete",
                    target=("connection", connection_id),
                    user_ref=sealing.user_ref(connection.user_id),
                    environment=connection.environment,
                    outcome=returned.outcome,
                )
                return True

            done = await self._database.run(caller.workspace, work)
            return returned if done else None

        return await self._give_back(caller, await written(attempt))

    async def _imported(self, app: App, wanted: Import) -> Granted:
        """What was brought along, checked as far as it was asked for."""
        now = await self._time()
        if app.provider.mode in TYPED_MODES:
            if wanted.access_token is not None or not wanted.values:
                raise Invalid(f"{app.provider.name} takes no token, but what a person types.")
            return await self._dialogue.typed(app, wanted.values, now=now)
        if wanted.access_token is None:
            raise Invalid("The access_token is missing.", pointer="/access_token")
        expires_at = wanted.expires_at
        if wanted.expires_in is not None:
            expires_at = now + timedelta(seconds=wanted.expires_in)
        if expires_at is not None and expires_at <= now and wanted.refresh_token is None:
            raise Invalid("This token has expired.", pointer="/expires_at")
        tokens = TokenSet(
            access_token=wanted.access_token,
            refresh_token=wanted.refresh_token,
            obtained_at=_given_out(app.provider, expires_at, now),
            expires_at=expires_at,
            scopes=None if wanted.scopes is None else tuple(wanted.scopes),
        )
        account = await self._dialogue.identify(app, tokens, now=now) if wanted.verify else None
        return Granted(tokens=tokens, account=account)


def _given_out(provider: Provider, ends: datetime | None, now: datetime) -> datetime:
    """When a token that was brought along began, as its end tells: its life is not what is left."""
    if ends is None:
        return now
    life = timedelta(seconds=provider.reply.lifetime_seconds or USUAL_LIFE)
    return min(now, ends - life)


def _is_replaced(before: Connection, new: NewTokens) -> bool:
    """Is it known to be another account's? What cannot be told may live on the same grant."""
    return None not in (before.account, new.account) and before.account != new.account


def _permit(caller: Caller, connection: Connection) -> None:
    """A connection in an environment that a key does not reach is none for that key."""
    if not access.within_environments(caller, [connection.environment]):
        raise NotFound
