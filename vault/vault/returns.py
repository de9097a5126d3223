"""The door's part for giving tokens back, where a connection ends or another account's replaces it.

* What has to be given back is written down, sealed under the workspace's key, before the only other
  copy of it is gone; it outlives the connection, and the user.
* It is tried at once, and by the worker again and again for a day.
* Where a provider ends a whole grant with one token, a grant on which another connection lives
  is left alone.
"""

import asyncio
from collections.abc import Collection
from contextlib import suppress
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from vault import audit
from vault.consent import Connection, Held, Revoked
from vault.database import Transaction
from vault.errors import UpstreamFailed, VaultError
from vault.model import Caller, UserId, WorkspaceId, new_id
from vault.oauth.app import App
from vault.oauth.requests import takes_back
from vault.oauth.typed import names
from vault.providers.schema import TYPED_MODES, Provider
from vault.seal import seal
from vault.secret import Secret
from vault.store import WorkspaceSeal
from vault.store import connections as rows
from vault.store.connections import (
    Due,
    IntegrationRow,
    RevocationRow,
    TokensRow,
)
from vault.vault.door import found
from vault.vault.integrations import Integrations

REVOKE_SECONDS: Final = 10.0  # how long a deletion waits for the provider


class Return(NamedTuple):
    """What is to be given back to a provider; ``retrying`` means that it is."""

    id: str
    connection: Connection
    outcome: Revoked
    app: App | None
    held: Held | None


class Returns(Integrations):
    """What is given back to providers."""

    async def retry_revocations(self, *, limit: int = 20) -> int:
        """Try again what could not be given back; returns how many were due."""
        if self._worker is None:
            return 0
        due = await rows.due_revocations(self._worker, limit)
        await asyncio.gather(*(self._retried(one) for one in due))
        return len(due)

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
            one = returned.connection
            await rows.insert_revocation(
                tx, returned.id, one.connection_id, one.integration, one.environment, sealed
            )

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
        provider = await self._facts(connection.provider)
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
    ) -> tuple[str, Secret] | None:
        """Which app it is at the provider, as far as that can be told now."""
        row = await self._integration_row(caller.workspace, integration)
        if row is None:
            return None
        registration = await self._registration(caller.workspace, row)
        provider = await self._facts(registration.provider)
        try:
            values = await self._values(caller.workspace, registration, environment)
        except VaultError:
            return None
        return _token_host(provider), values.of(registration.client_id)

    def _account_index(self, sealing: WorkspaceSeal, provider_id: str, account_id: str) -> bytes:
        """The same account is the same through every file that builds on one: it is one grant."""
        return sealing.account_index(self._catalogue.root_of(provider_id), account_id)

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

    async def _app_of(self, caller: Caller, connection: Connection, held: Held) -> App:
        row = found(await self._integration_row(caller.workspace, connection.integration))
        return await self._app_with(caller, row, connection.environment, held)

    async def _app_with(
        self, caller: Caller, row: IntegrationRow, environment: str, held: Held
    ) -> App:
        """The app as it was when this was given: with what was typed, and its own client."""
        asked = names(await self._provider(row.provider))
        typed = {name: one for name, one in held.tokens.values.items() if name in asked}
        return await self._app(caller, row, environment, typed=typed, client=held.client)

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

    async def _retried(self, due: Due) -> None:
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
        provider = await self._facts(row.provider)
        if provider.revoke is None or provider.revoke.kills != "grant" or held.account is None:
            return False
        sealing = await self._store.seal_of(caller.workspace)
        account = self._account_index(sealing, row.provider, held.account.id)
        place = (claimed.integration, claimed.environment)
        return await self._has_siblings(caller, account, place)


def _token_host(provider: Provider) -> str:
    url = provider.token.url if provider.token else None
    return urlsplit(url or "").netloc or provider.id
