"""The door's part for connections: what users have connected, and what the platform brings along.

* A connection is one user's, at one integration, in one environment. A newer consent or import
  takes the place of the one before; its tokens are a generation further.
* Tokens are sealed under the user's own key. Reading them leaves a line in the record.
* Deleting gives the tokens back to the provider: at once where it answers, else again and again
  for a day. The connection is gone meanwhile, and so is the user.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import timedelta
from typing import Final, Literal, NamedTuple
from urllib.parse import urlsplit

from vault import access, audit
from vault.consent import Connection, Held, Import, Revoked
from vault.database import Transaction
from vault.errors import Invalid, NotFound, UpstreamFailed, VaultError
from vault.model import Caller, Page, UserId, WorkspaceId, new_id
from vault.oauth.app import App, Granted, TokenSet
from vault.providers.schema import TYPED_MODES, Provider
from vault.seal import seal
from vault.store import WorkspaceSeal, write_user
from vault.store import connections as rows
from vault.store.connections import ClaimedRevocation, NewTokens, TokensRow
from vault.vault.door import found, written
from vault.vault.integrations import Integrations
from vault.vault.tenants import Tenants

REVOKE_SECONDS: Final = 10.0  # how long a deletion waits for the provider
MAX_CONNECTIONS: Final = 1_000  # of one user


class Place(NamedTuple):
    """Where a connection is: at most one is there."""

    user_id: str
    integration: str
    environment: str


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
    ) -> list[Connection]:
        """A part of the connections, in the environments that this caller reaches."""
        access.permit(caller, "connection.list")
        environments: tuple[str, ...] = caller.environments
        if environment:
            access.permit_environment(caller, environment)
            environments = (environment,)
        return await self._database.run(
            caller.workspace,
            lambda tx: rows.list_connections(
                tx,
                page,
                user_id=user_id,
                integration=integration,
                state=state,
                environments=environments,
            ),
        )

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
        self, caller: Caller, user_id: str, integration: str, environment: str
    ) -> Connection:
        """The connection of a user at an integration."""
        access.permit(caller, "connection.read")
        access.permit_environment(caller, environment)
        return found(
            await self._database.run(
                caller.workspace,
                lambda tx: rows.find_connection(tx, user_id, integration, environment),
            )
        )

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
        return await self._put(
            caller,
            Place(user_id, integration, wanted.environment),
            app,
            granted,
            action="connection.import",
            refresh_by=wanted.refresh_by,
        )

    async def delete_connection(self, caller: Caller, connection_id: str) -> Revoked:
        """Delete a connection, and give its tokens back to the provider."""
        access.permit(caller, "connection.delete")
        connection = await self._connection(caller, connection_id)
        return await self._end(caller, connection)

    async def delete_user(self, caller: Caller, user_id: UserId) -> dict[str, Revoked]:
        """Delete a user: every connection is given back, and the user's key is shredded."""
        access.permit(caller, "user.delete")
        page = Page(MAX_CONNECTIONS)
        every = await self._database.run(
            caller.workspace, lambda tx: rows.list_connections(tx, page, user_id=user_id)
        )
        outcomes = await asyncio.gather(*(self._end(caller, connection) for connection in every))
        await self._forget_user(caller, user_id)
        return {one.connection_id: outcome for one, outcome in zip(every, outcomes, strict=True)}

    async def retry_revocations(self, *, limit: int = 20) -> int:
        """Try again what could not be given back; returns how many were due."""
        if self._worker is None:
            return 0
        due = await rows.due_revocations(self._worker, limit)
        for one in due:
            caller = Caller(kind="worker", actor_id="revocations", workspace=one.workspace_id)
            with suppress(VaultError):  # the claim has already put the next try off
                await self._retry(caller, one.id)
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
        app: App,
        granted: Granted,
        *,
        action: str,
        refresh_by: Literal["keyturn", "caller"] = "keyturn",
        settle: Callable[[Transaction], Awaitable[None]] | None = None,
    ) -> Connection:
        """Seal and write a token set as the generation that follows the stored one."""
        sealing = await self._store.seal_of(caller.workspace)

        async def attempt() -> Connection | None:
            before = await self._database.run(
                caller.workspace, lambda tx: rows.find_connection(tx, *place)
            )
            new = await self._new_tokens(sealing, place, before, app, granted, refresh_by)

            async def work(tx: Transaction) -> Connection | None:
                row = await rows.put_connection(tx, new)
                if row is None:
                    return None
                if settle is not None:
                    await settle(tx)
                await audit.record(
                    tx,
                    caller,
                    action,
                    target=("connection", row.connection_id),
                    user_ref=sealing.user_ref(place.user_id),
                    environment=place.environment,
                )
                return row

            return await self._database.run(caller.workspace, work)

        return await written(attempt)

    async def _new_tokens(
        self,
        sealing: WorkspaceSeal,
        place: Place,
        before: Connection | None,
        app: App,
        granted: Granted,
        refresh_by: Literal["keyturn", "caller"],
    ) -> NewTokens:
        key = found(await self._store.key_for_user(sealing, UserId(place.user_id)))
        connection_id = before.connection_id if before else new_id("conn")
        generation = before.generation + 1 if before else 1
        context = rows.tokens_context(
            sealing.workspace, connection_id, generation, place.environment
        )
        tokens, account = granted.tokens, granted.account
        return NewTokens(
            connection_id=connection_id,
            user_id=place.user_id,
            integration=place.integration,
            environment=place.environment,
            provider=app.provider.id,
            refresh_by=refresh_by,
            generation=generation,
            account=sealing.account_index(app.provider.id, account.id) if account else None,
            asked_scopes=sorted(set(app.scopes)),
            scopes=None if tokens.scopes is None else sorted(set(tokens.scopes)),
            expires_at=tokens.expires_at,
            refresh_expires_at=tokens.refresh_expires_at,
            sealed=seal(key, context, rows.packed(Held(tokens=tokens, account=account))),
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

    async def _end(self, caller: Caller, connection: Connection) -> Revoked:
        held = await self._held(caller.workspace, connection)
        outcome, app = await self._what_to_revoke(caller, connection, held)
        sealing = await self._store.seal_of(caller.workspace)
        revocation_id = new_id("rvk")

        async def work(tx: Transaction) -> None:
            found(await rows.delete_connection(tx, connection.connection_id) or None)
            if outcome == "retrying" and held:
                context = rows.revocation_context(caller.workspace, revocation_id)
                sealed = seal(sealing.key, context, rows.packed(held))
                await rows.insert_revocation(tx, revocation_id, connection, sealed)
            await audit.record(
                tx,
                caller,
                "connection.delete",
                target=("connection", connection.connection_id),
                user_ref=sealing.user_ref(connection.user_id),
                environment=connection.environment,
                outcome=outcome,
            )

        await self._database.run(caller.workspace, work)
        if outcome != "retrying" or app is None or held is None:
            return outcome
        try:
            async with asyncio.timeout(REVOKE_SECONDS):
                await self._revoke(caller, revocation_id, connection.connection_id, app, held)
        except (TimeoutError, VaultError):
            return "retrying"
        return "revoked"

    async def _what_to_revoke(
        self, caller: Caller, connection: Connection, held: Held | None
    ) -> tuple[Revoked, App | None]:
        """Whether there is something to give back, and to whom. ``retrying`` means: yes."""
        if held is None or held.tokens.access_token is None:
            return "nothing_to_revoke", None
        provider = await asyncio.to_thread(self._catalogue.get, connection.provider)
        if provider.mode in TYPED_MODES:
            return "nothing_to_revoke", None
        if provider.revoke is None:
            return "not_supported", None
        if provider.revoke.kills == "grant" and await self._has_siblings(caller, connection):
            return "sibling_alive", None
        try:
            app = await self._app_of(caller, connection)
        except VaultError:
            return "retrying", None  # an app registration that cannot be used now may be mended
        can = (provider.revoke.url, app.endpoints and app.endpoints.revoke_url)
        return ("retrying", app) if any(can) else ("not_supported", None)

    async def _app_of(self, caller: Caller, connection: Connection) -> App:
        row = found(
            await self._database.run(
                caller.workspace, lambda tx: rows.get_integration(tx, connection.integration)
            )
        )
        return await self._app(caller, row, connection.environment)

    async def _has_siblings(self, caller: Caller, connection: Connection) -> bool:
        """Where one revocation ends the whole grant: does another connection live on it?"""
        mine = await self._client_of(caller, connection.integration)

        async def every(tx: Transaction) -> list[str]:
            return [row.integration for row in await rows.list_integrations(tx, Page(10_000))]

        names = await self._database.run(caller.workspace, every)
        same = [name for name in names if await self._client_of(caller, name) == mine]
        return await self._database.run(
            caller.workspace, lambda tx: rows.has_siblings(tx, connection, same)
        )

    async def _client_of(self, caller: Caller, integration: str) -> tuple[str, str] | None:
        """Which app it is at the provider, as it is written."""
        row = await self._integration_row(caller.workspace, integration)
        if row is None:
            return None
        registration = await self._registration(caller.workspace, row)
        provider = await asyncio.to_thread(self._catalogue.get, registration.provider)
        return _token_host(provider), registration.client_id

    async def _revoke(
        self, caller: Caller, revocation_id: str, connection_id: str, app: App, held: Held
    ) -> None:
        outcomes = await self._dialogue.revoke(app, held.tokens, now=await self._time())
        if any(one.outcome == "failed" for one in outcomes):
            raise UpstreamFailed("The provider did not take the tokens back.")
        await self._settle_revocation(caller, revocation_id, connection_id, "revoked")

    async def _settle_revocation(
        self, caller: Caller, revocation_id: str, connection_id: str, outcome: str
    ) -> None:
        async def work(tx: Transaction) -> None:
            await rows.delete_revocation(tx, revocation_id)
            target = ("connection", connection_id)
            await audit.record(tx, caller, "connection.revoke", target=target, outcome=outcome)

        await self._database.run(caller.workspace, work)

    async def _retry(self, caller: Caller, revocation_id: str) -> None:
        async def work(tx: Transaction) -> tuple[ClaimedRevocation, bytes] | None:
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
        app = await self._app(caller, row, claimed.environment)
        async with asyncio.timeout(6 * REVOKE_SECONDS):
            await self._revoke(caller, revocation_id, claimed.connection_id, app, held)

    async def _imported(self, app: App, wanted: Import) -> Granted:
        """What was brought along, checked as far as it was asked for."""
        now = await self._time()
        if app.provider.mode in TYPED_MODES:
            if wanted.access_token is not None or not wanted.values:
                raise Invalid(f"{app.provider.name} takes no token, but what a person types.")
            return await self._dialogue.typed(app, wanted.values, now=now)
        if wanted.access_token is None:
            raise Invalid("The access_token is missing.", pointer="/access_token")
        if wanted.refresh_by == "keyturn" and wanted.refresh_token is None and wanted.expires_in:
            raise Invalid(
                'Without a refresh_token we cannot keep it alive: say "refresh": "caller".',
                pointer="/refresh_token",
            )
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


def _token_host(provider: Provider) -> str:
    url = provider.token.url if provider.token else None
    return urlsplit(url or "").netloc or provider.id


def _permit(caller: Caller, connection: Connection) -> None:
    """A connection in an environment that a key does not reach is none for that key."""
    if not access.within_environments(caller, [connection.environment]):
        raise NotFound
