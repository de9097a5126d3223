"""The door's part for tries: one browser on its way to connect one integration.

* A try belongs to a browser, by the keyed hash of its cookie, and to the user whose key seals what
  has to be remembered meanwhile.
* Each step is a compare-and-set on the try's status and generation: whoever comes second with the
  same state, form or code finds it gone.
* What a try that failed had already been given is given back, where that ends nothing else.
"""

import asyncio
import hmac
import os
from base64 import urlsafe_b64encode
from contextlib import suppress
from typing import Final, Literal

from msgspec import Struct
from msgspec.structs import replace

from vault import audit
from vault.consent import (
    FLOW_SECONDS,
    Begun,
    Connection,
    Flow,
    Held,
    Outcome,
    Received,
    Session,
    Stage,
)
from vault.database import Transaction
from vault.errors import Conflict, VaultError
from vault.model import Caller, UserId, WorkspaceId, new_id
from vault.oauth.app import Account, Choice
from vault.providers.schema import Provider
from vault.seal import seal
from vault.secret import Secret
from vault.store import connections as rows
from vault.store import get_workspace
from vault.store import tries as try_rows
from vault.store.connections import IntegrationRow
from vault.store.refreshing import begin_life
from vault.vault.connections import Connections, New, Place
from vault.vault.door import found

DISCARD_SECONDS: Final = 10.0
Needs = Literal["confirm", "choice"]


class Way(Struct, frozen=True, kw_only=True):
    """A try, with all that is needed to go on with it."""

    caller: Caller
    workspace: str
    session: Session
    flow: Flow
    state: Secret
    integration: IntegrationRow
    provider: Provider


class Settled(Conflict):
    """Somebody else has ended this try first."""


class Tries(Connections):
    """Tries to connect, and what is sealed of them."""

    async def _way_of(self, state: str) -> Way | None:
        hashed = self.fingerprint(state)
        owner = await try_rows.look_up(self._database, hashed, "state")
        if owner is None or not hmac.compare_digest(owner.hash, hashed):
            return None

        async def work(tx: Transaction) -> tuple[Flow, Session] | None:
            flow = await try_rows.get_flow(tx, owner.id)
            session = await try_rows.get_session(tx, flow.session_id) if flow else None
            return (flow, session) if flow and session else None

        found_both = await self._database.run(owner.workspace_id, work)
        if found_both is None or found_both[0].expired:
            return None
        flow, session = found_both
        caller = person(owner.workspace_id, session.session_id)
        return await self._way(caller, session, flow, Secret(state))

    async def _own_way(self, state: str, browser: Secret, status: str) -> Way | Outcome:
        """The same, for a page's form: in the browser that began it, at this step."""
        way = await self._way_of(state)
        if way is None:
            return "expired"
        if not hmac.compare_digest(way.flow.browser_hash, self.fingerprint(browser)):
            return "wrong_browser"
        return way if way.flow.status == status else "used"

    async def _way(self, caller: Caller, session: Session, flow: Flow, state: Secret) -> Way:
        async def work(tx: Transaction) -> tuple[str, IntegrationRow]:
            workspace = found(await get_workspace(tx, caller.workspace))
            return workspace.name, found(await rows.get_integration(tx, flow.integration))

        name, row = await self._database.run(caller.workspace, work)
        return Way(
            caller=caller,
            workspace=name,
            session=session,
            flow=flow,
            state=state,
            integration=row,
            provider=await self._facts(row.provider),
        )

    async def _begin_flow(
        self,
        caller: Caller,
        session: Session,
        integration: str,
        browser: Secret,
        begun: Begun,
        state: Secret,
    ) -> str | None:
        flow_id = new_id("cf")
        sealed = await self._sealed(caller, session, flow_id, 1, rows.packed(begun))

        async def work(tx: Transaction) -> bool:
            begins = await try_rows.begin_flow(
                tx,
                flow_id,
                session.session_id,
                integration,
                state_hash=self.fingerprint(state),
                browser_hash=self.fingerprint(browser),
                sealed=sealed,
                lifetime=FLOW_SECONDS,
            )
            if begins:
                await audit.record(
                    tx,
                    caller,
                    "connect.begin",
                    target=("integration", integration),
                    environment=session.environment,
                )
            return begins

        return flow_id if await self._database.run(caller.workspace, work) else None

    async def _consumed(self, way: Way, browser: Secret) -> Way | None:
        flow = await self._database.run(
            way.caller.workspace,
            lambda tx: try_rows.consume_flow(tx, way.flow, self.fingerprint(browser)),
        )
        return replace(way, flow=flow) if flow else None

    async def _remembered(self, way: Way, begun: Begun) -> Way | None:
        """Seal what has changed on the way; ``None`` if somebody else changed it first."""
        flow = way.flow
        sealed = await self._sealed(
            way.caller, way.session, flow.flow_id, flow.generation + 1, rows.packed(begun)
        )

        async def work(tx: Transaction) -> Flow | None:
            moved = await try_rows.advance_flow(
                tx, flow, flow.status, sealed=sealed, lifetime=FLOW_SECONDS
            )
            return await try_rows.get_flow(tx, flow.flow_id) if moved else None

        moved = await self._database.run(way.caller.workspace, work)
        return replace(way, flow=moved) if moved else None

    async def _advanced(
        self, way: Way, status: str, received: Received, *, needs: Needs, code: Secret | None = None
    ) -> Way | None:
        """Keep what was granted until somebody has chosen, or confirmed."""
        flow = way.flow
        sealed = await self._sealed(
            way.caller, way.session, flow.flow_id, flow.generation + 1, rows.packed(received)
        )

        sealing = await self._store.seal_of(way.caller.workspace)
        user_ref = sealing.user_ref(way.session.user_id)

        async def work(tx: Transaction) -> Flow | None:
            if not await try_rows.advance_flow(
                tx,
                flow,
                status,
                sealed=sealed,
                code_hash=self.fingerprint(code) if code else None,
                lifetime=FLOW_SECONDS,
            ):
                return None
            await try_rows.session_waits(tx, way.session.session_id)
            waiting = await rows.await_connection(
                tx,
                new_id("conn"),
                way.session,
                flow.integration,
                way.provider.id,
                needs,
                sorted(set(received.asked_scopes)),
            )
            if waiting is not None:
                await begin_life(tx, waiting, flow.integration, way.session.environment, user_ref)
            await audit.record(
                tx,
                way.caller,
                "connect.wait",
                target=("integration", flow.integration),
                environment=way.session.environment,
                outcome=needs,
            )
            return await try_rows.get_flow(tx, flow.flow_id)

        moved = await self._database.run(way.caller.workspace, work)
        return replace(way, flow=moved) if moved else None

    async def _activate(self, way: Way, received: Received) -> Connection:
        """The grant becomes the connection, and the try is over, in one transaction."""

        async def settle(tx: Transaction) -> None:
            if not await try_rows.advance_flow(
                tx, way.flow, "done", outcome="connected", lifetime=FLOW_SECONDS
            ):
                raise Settled("This has been completed already.")

        place = Place(way.session.user_id, way.flow.integration, way.session.environment)
        new = New(way.provider.id, received.asked_scopes, received.held)
        connection, returned = await self._put(
            way.caller, place, new, action="connection.connect", settle=settle
        )
        if returned is not None:
            await self._give_back(way.caller, returned)
        return connection

    async def _failed(self, way: Way, outcome: Outcome) -> Stage:
        await self._fail(way, outcome)
        return stage_of(way, "ended", outcome=outcome)

    async def _fail(self, way: Way, outcome: Outcome, received: Received | None = None) -> bool:
        """End a try; ``False`` if somebody else ended it first. What the provider gave for it is
        given back, as well as that goes, unless it serves a connection by now.
        """
        is_stored = received is None and way.flow.status in ("choice", "confirm")
        if is_stored:
            received = await self._given(way)

        async def work(tx: Transaction) -> bool:
            ended = await try_rows.advance_flow(
                tx, way.flow, "failed", outcome=outcome, lifetime=FLOW_SECONDS
            )
            if not ended:
                return False  # somebody else moved it on, and has what was given for it
            await rows.forget_pending(tx, way.session, way.flow.integration)
            await audit.record(
                tx,
                way.caller,
                "connect.end",
                target=("integration", way.flow.integration),
                environment=way.session.environment,
                outcome=outcome,
            )
            return True

        is_over = await self._database.run(way.caller.workspace, work)
        if received is not None and (is_over or not is_stored):
            await self._discard(way, received.held)
        return is_over

    async def _discard(self, way: Way, held: Held) -> None:
        if await self._is_lived_on(way, held):
            return
        with suppress(VaultError, TimeoutError):
            environment = way.session.environment
            app = await self._app_with(way.caller, way.integration, environment, held)
            async with asyncio.timeout(DISCARD_SECONDS):
                await self._dialogue.revoke(app, held.tokens, now=await self._time())

    async def _is_lived_on(self, way: Way, held: Held) -> bool:
        """Would giving this back end a connection that is there? Where it cannot be told: yes."""
        revoke = way.provider.revoke
        if revoke is None or revoke.kills != "grant":
            return revoke is None
        if held.account is None:
            return True
        sealing = await self._store.seal_of(way.caller.workspace)
        account = self._account_index(sealing, way.provider.id, held.account.id)
        place = (way.flow.integration, way.session.environment)
        return await self._has_siblings(way.caller, account, place)

    async def _is_another_account(self, way: Way, account: Account | None) -> bool:
        """Is it another account than the one that was connected before?"""
        if way.session.replace_account:
            return False
        before = await self._database.run(
            way.caller.workspace,
            lambda tx: rows.find_connection(
                tx, way.session.user_id, way.flow.integration, way.session.environment
            ),
        )
        if before is None or before.account is None:
            return False
        if account is None:
            return True  # it cannot be told, so it is not taken for the one that is known
        sealing = await self._store.seal_of(way.caller.workspace)
        return before.account != self._account_index(sealing, way.provider.id, account.id)

    async def _sealed(
        self, caller: Caller, session: Session, flow_id: str, generation: int, plain: bytes
    ) -> bytes:
        sealing = await self._store.seal_of(caller.workspace)
        key = found(await self._store.key_for_user(sealing, UserId(session.user_id)))
        context = try_rows.flow_context(caller.workspace, flow_id, generation, session.environment)
        return seal(key, context, plain)

    async def _opened(self, way: Way) -> bytes:
        context = try_rows.flow_context(
            way.caller.workspace, way.flow.flow_id, way.flow.generation, way.session.environment
        )
        return await self._store.open_for_user(
            way.caller.workspace, UserId(way.session.user_id), context, way.flow.sealed or b""
        )

    async def _given(self, way: Way) -> Received:
        return try_rows.received_from(await self._opened(way))


def person(workspace: WorkspaceId, session_id: str) -> Caller:
    return Caller(kind="person", actor_id=session_id, workspace=workspace)


def random_secret() -> Secret:
    return Secret(urlsafe_b64encode(os.urandom(32)).rstrip(b"="))


def stage_of(
    way: Way,
    status: Literal["go", "choice", "confirm", "device", "ended"],
    *,
    outcome: Outcome | None = None,
    url: str | None = None,
    account: Account | None = None,
    choices: tuple[Choice, ...] = (),
    missing_scopes: tuple[str, ...] = (),
    code: Secret | None = None,
) -> Stage:
    """Where the person stands now."""
    return Stage(
        workspace=way.workspace,
        session=way.session,
        integration=way.flow.integration,
        provider=way.provider,
        state=way.state,
        status=status,
        outcome=outcome,
        url=url,
        account=account,
        choices=choices,
        missing_scopes=missing_scopes,
        code=code,
    )
