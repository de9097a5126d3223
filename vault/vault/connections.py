"""The door's part for connections: what users have connected, and what the platform brings along.

* A connection is one user's, at one integration, in one environment. A newer consent or import
  takes the place of the one before; its tokens are a generation further.
* Tokens are sealed under the user's own key. Reading them leaves a line in the record.
* Deleting gives the tokens back to the provider: at once where it answers, else again and again
  for a day. The connection is gone meanwhile, and so is the user. What another account leaves
  behind when it is replaced is given back in the same way.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from contextlib import suppress
from datetime import timedelta
from typing import Final, Literal, NamedTuple
from urllib.parse import urlsplit

from vault import access, audit
from vault.consent import Connection, Held, Import, Revoked, asked_for
from vault.database import Transaction
from vault.errors import Forbidden, Invalid, NotFound, UpstreamFailed, VaultError
from vault.model import PRODUCTION, Caller, Page, UserId, WorkspaceId, new_id
from vault.oauth.app import Account, App, Granted, TokenSet
from vault.oauth.requests import takes_back
from vault.oauth.typed import names
from vault.providers.schema import TYPED_MODES, Provider
from vault.seal import seal
from vault.store import WorkspaceSeal, write_user
from vault.store import connections as rows
from vault.store.connections import (
    DueRevocation,
    IntegrationRow,
    NewTokens,
    RevocationRow,
    TokensRow,
)
from vault.vault.door import found, written
from vault.vault.integrations import Integrations
from vault.vault.tenants import Tenants

REVOKE_SECONDS: Final = 10.0  # how long a deletion waits for the provider
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


class Return(NamedTuple):
    """What is to be given back to a provider; ``retrying`` means that it is."""

    id: str
    connection: Connection
    outcome: Revoked
    app: App | None
    held: Held | None


class Connections(Integrations, Tenants):
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
        row = await self._database.run(
            caller.workspace, lambda tx: rows.get_integration(tx, integration)
        )
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

    async def retry_revocations(self, *, limit: int = 20) -> int:
        """Try again what could not be given back; returns how many were due."""
        if self._worker is None:
            return 0
        due = await rows.due_revocations(self._worker, limit)
        await asyncio.gather(*(self._retried(one) for one in due))
        return len(due)

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

            async def work(tx: Transaction) -> tuple[Connection, Return | None] | None:
                row = await rows.put_connection(tx, tokens)
                if row is None:
                    return None
                if settle is not None:
                    await settle(tx)
                if returned is not None:
                    await self._remember_return(tx, sealing, returned)
                await audit.record(
                    tx,
                    caller,
                    action,
                    target=("connection", row.connection_id),
                    user_ref=sealing.user_ref(place.user_id),
                    environment=place.environment,
                )
                return row, returned

            return await self._database.run(caller.workspace, work)

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
            expires_at=tokens.expires_at,
            refresh_expires_at=tokens.refresh_expires_at,
            sealed=seal(key, context, rows.packed(new.held)),
        )

    async def _held(self, workspace: WorkspaceId, connection: Connection) -> Held | None:
        """Open what a connection holds."""
        row: TokensRow | None = await self._database.run(
            workspace, lambda tx: rows.tokens_row(tx, connection.connection_id)
        )
        if row is None:
            return None
        context = rows.tokens_context(
            workspace, connection.connection_id, row.generation, connection.environment
        )
        return rows.held_from(
            await self._store.open_for_user(
                workspace, UserId(connection.user_id), context, row.sealed
            )
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
                if not await rows.delete_connection(tx, connection_id, connection.generation):
                    return False  # there are newer tokens: those have to be given back
                await self._remember_return(tx, sealing, returned)
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

    async def _to_return(
        self, caller: Caller, connection: Connection, ending: frozenset[str] = frozenset()
    ) -> Return:
        held = await self._held(caller.workspace, connection)
        ending |= {connection.connection_id}
        outcome, app = await self._what_to_revoke(caller, connection, held, ending)
        return Return(new_id("rvk"), connection, outcome, app, held)

    async def _remember_return(
        self, tx: Transaction, sealing: WorkspaceSeal, returned: Return
    ) -> None:
        """Write down what has to be given back, before the only other copy of it is gone."""
        if returned.outcome == "retrying" and returned.held:
            context = rows.revocation_context(sealing.workspace, returned.id)
            sealed = seal(sealing.key, context, rows.packed(returned.held))
            await rows.insert_revocation(tx, returned.id, returned.connection, sealed)

    async def _give_back(self, caller: Caller, returned: Return) -> Revoked:
        """Try it at once; what fails is tried again by the worker."""
        app, held = returned.app, returned.held
        if returned.outcome != "retrying" or app is None or held is None:
            return returned.outcome
        try:
            async with asyncio.timeout(REVOKE_SECONDS):
                return await self._revoke(
                    caller, returned.id, returned.connection.connection_id, app, held
                )
        except (TimeoutError, VaultError):
            return "retrying"

    async def _what_to_revoke(
        self, caller: Caller, connection: Connection, held: Held | None, ending: frozenset[str]
    ) -> tuple[Revoked, App | None]:
        """Whether there is something to give back, and to whom. ``retrying`` means: yes."""
        if held is None or held.tokens.access_token is None:
            return "nothing_to_revoke", None
        provider = await asyncio.to_thread(self._catalogue.get, connection.provider)
        if provider.mode in TYPED_MODES:
            return "nothing_to_revoke", None
        if provider.revoke is None:
            return "not_supported", None
        place = (connection.integration, connection.environment)
        if provider.revoke.kills == "grant" and await self._has_siblings(
            caller, connection.account, place, but=ending
        ):
            return "sibling_alive", None
        try:
            app = await self._app_of(caller, connection, held)
            is_taken = takes_back(app, held.tokens)
        except VaultError:
            return "retrying", None  # an app registration that cannot be used now may be mended
        return ("retrying", app) if is_taken else ("not_supported", None)

    async def _app_of(self, caller: Caller, connection: Connection, held: Held) -> App:
        row = found(
            await self._database.run(
                caller.workspace, lambda tx: rows.get_integration(tx, connection.integration)
            )
        )
        return await self._app_with(caller, row, connection.environment, held)

    async def _app_with(
        self, caller: Caller, row: IntegrationRow, environment: str, held: Held
    ) -> App:
        """The app as it was when this was given: with what was typed, and its own client."""
        asked = names(await self._provider(row.provider))
        typed = {name: one for name, one in held.tokens.values.items() if name in asked}
        return await self._app(caller, row, environment, typed=typed, client=held.client)

    async def _has_siblings(
        self,
        caller: Caller,
        account: bytes | None,
        place: tuple[str, str],
        *,
        but: Collection[str] = (),
    ) -> bool:
        """Where one revocation ends the whole grant: does another connection live on it?

        ``place``: integration and environment. A sibling whose client cannot be told counts.
        """
        if account is None:
            return False
        every = await self._database.run(caller.workspace, lambda tx: rows.siblings(tx, account))
        others = [one for one in every if one.connection_id not in but]
        if not others:
            return False
        mine = await self._client_of(caller, *place)
        for other in others:
            theirs = await self._client_of(caller, other.integration, other.environment)
            if theirs is None or theirs == mine:
                return True
        return False

    async def _client_of(
        self, caller: Caller, integration: str, environment: str
    ) -> tuple[str, str] | None:
        """Which app it is at the provider, as far as that can be told now."""
        row = await self._integration_row(caller.workspace, integration)
        if row is None:
            return None
        registration = await self._registration(caller.workspace, row)
        provider = await asyncio.to_thread(self._catalogue.get, registration.provider)
        try:
            values = await self._values(caller.workspace, registration, environment)
        except VaultError:
            return None
        return _token_host(provider), values.of(registration.client_id).reveal()

    def _account_index(self, sealing: WorkspaceSeal, provider_id: str, account_id: str) -> bytes:
        """The same account is the same through every file that builds on one: it is one grant."""
        return sealing.account_index(self._catalogue.root_of(provider_id), account_id)

    async def _revoke(
        self, caller: Caller, revocation_id: str, connection_id: str, app: App, held: Held
    ) -> Revoked:
        outcomes = await self._dialogue.revoke(app, held.tokens, now=await self._time())
        if any(one.outcome == "failed" for one in outcomes):
            raise UpstreamFailed("The provider did not take the tokens back.")
        outcome: Revoked = "revoked" if outcomes else "not_supported"
        await self._settle_revocation(caller, revocation_id, connection_id, outcome)
        return outcome

    async def _settle_revocation(
        self, caller: Caller, revocation_id: str, connection_id: str, outcome: str
    ) -> None:
        async def work(tx: Transaction) -> None:
            await rows.delete_revocation(tx, revocation_id)
            target = ("connection", connection_id)
            await audit.record(tx, caller, "connection.revoke", target=target, outcome=outcome)

        await self._database.run(caller.workspace, work)

    async def _retried(self, due: DueRevocation) -> None:
        caller = Caller(kind="worker", actor_id="revocations", workspace=due.workspace_id)
        with suppress(TimeoutError, VaultError):  # the claim has already put the next try off
            await self._retry(caller, due.id)

    async def _retry(self, caller: Caller, revocation_id: str) -> None:
        async def work(tx: Transaction) -> tuple[RevocationRow, bytes] | None:
            claimed = await rows.claim_revocation(tx, revocation_id)
            sealed = await rows.revocation_sealed(tx, revocation_id)
            return (claimed, sealed) if claimed and sealed else None

        due = await self._database.run(caller.workspace, work)
        if due is None:
            return
        claimed, sealed = due
        row = await self._integration_row(caller.workspace, claimed.integration)
        if claimed.too_late or row is None:
            await self._settle_revocation(caller, revocation_id, claimed.connection_id, "given_up")
            return
        context = rows.revocation_context(caller.workspace, revocation_id)
        held = rows.held_from(await self._store.open(caller.workspace, context, sealed))
        if await self._was_renewed(caller, row, claimed, held):
            await self._settle_revocation(
                caller, revocation_id, claimed.connection_id, "sibling_alive"
            )
            return
        app = await self._app_with(caller, row, claimed.environment, held)
        async with asyncio.timeout(6 * REVOKE_SECONDS):
            await self._revoke(caller, revocation_id, claimed.connection_id, app, held)

    async def _was_renewed(
        self, caller: Caller, row: IntegrationRow, claimed: RevocationRow, held: Held
    ) -> bool:
        """Has the account been connected again meanwhile, so that giving back would end that?"""
        provider = await asyncio.to_thread(self._catalogue.get, row.provider)
        if provider.revoke is None or provider.revoke.kills != "grant" or held.account is None:
            return False
        sealing = await self._store.seal_of(caller.workspace)
        account = self._account_index(sealing, row.provider, held.account.id)
        place = (claimed.integration, claimed.environment)
        return await self._has_siblings(caller, account, place)

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
            obtained_at=now,
            expires_at=expires_at,
            scopes=None if wanted.scopes is None else tuple(wanted.scopes),
        )
        account = await self._dialogue.identify(app, tokens, now=now) if wanted.verify else None
        return Granted(tokens=tokens, account=account)


def _is_replaced(before: Connection, new: NewTokens) -> bool:
    """Is it known to be another account's? What cannot be told may live on the same grant."""
    return None not in (before.account, new.account) and before.account != new.account


def _token_host(provider: Provider) -> str:
    url = provider.token.url if provider.token else None
    return urlsplit(url or "").netloc or provider.id


def _permit(caller: Caller, connection: Connection) -> None:
    """A connection in an environment that a key does not reach is none for that key."""
    if not access.within_environments(caller, [connection.environment]):
        raise NotFound
