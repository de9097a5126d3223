"""The door's part for connecting: from a link that a person opens to a connection.

::

    create_connect_session -> link -> open_link -> begin -> (the provider) -> come_back
                                                     \\-> choose -> confirm | complete -> connected

* A link is an invitation, not a key: whoever opens it can only connect an account of their own to
  the one user that it names. What they connect is of no use until it is confirmed: by the platform,
  which says which of its users finished (``complete``), or by the person, who is told for whom.
* Each try belongs to one browser, by a cookie. A state that comes back in another one, a second
  time, too late, or on another provider's address, is refused.
* The user's key seals what has to be remembered meanwhile.
* How a try ends is an ``Outcome``, for the page and for the platform. It is never an exception's
  text, and nothing that the provider wrote.
"""

import asyncio
import hmac
import os
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from contextlib import suppress
from ipaddress import ip_address
from typing import Final, Literal
from urllib.parse import urlencode, urlsplit

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from vault import access, audit, bearer, idempotency
from vault.consent import (
    FLOW_SECONDS,
    MAX_INTEGRATIONS,
    SESSION_SECONDS,
    Begun,
    Connection,
    Flow,
    NewSession,
    Outcome,
    Session,
    Stage,
)
from vault.database import Transaction
from vault.errors import Conflict, Invalid, NotFound, VaultError
from vault.model import Caller, Once, Page, UserId, WorkspaceId, new_id
from vault.oauth import authorize, signatures
from vault.oauth.app import Account, App, Choice, Granted
from vault.oauth.replies import NoToken
from vault.providers.derived import needs_own_callback
from vault.providers.schema import Provider
from vault.seal import seal
from vault.secret import Secret
from vault.store import connections as rows
from vault.store import environments as environment_rows
from vault.store import get_workspace
from vault.store.connections import IntegrationRow
from vault.vault.connections import Connections, Place
from vault.vault.door import found

DISCARD_SECONDS: Final = 10.0
# What providers say when a person says no; anything else is a failure.
_DENIED: Final = frozenset(
    {"access_denied", "user_denied", "user_cancelled_login", "consent_required"}
)

_session_json = msgspec.json.Encoder().encode
_session_from_json = msgspec.json.Decoder(Session).decode


class Item(Struct, frozen=True, kw_only=True):
    """One integration that a link offers."""

    integration: str
    provider: Provider
    scopes: tuple[str, ...]
    done: bool


class Invitation(Struct, frozen=True, kw_only=True):
    """What a link opens."""

    workspace: str
    session: Session
    items: tuple[Item, ...]


class _Way(Struct, frozen=True, kw_only=True):
    """A try, with all that is needed to go on with it."""

    caller: Caller
    workspace: str
    session: Session
    flow: Flow
    state: Secret
    integration: IntegrationRow
    provider: Provider


class Connect(Connections):
    """Connecting people's accounts."""

    # The platform's side

    async def create_connect_session(
        self, caller: Caller, wanted: NewSession, once: Once | None = None
    ) -> tuple[Session, Secret | None]:
        """Invite a user to connect. The link's bearer is given this once."""
        access.permit(caller, "connect_session.write")
        access.permit_environment(caller, wanted.environment)
        new = await self._invited(caller, wanted)
        await self._ensure_user(caller, UserId(new.user_id))
        sealing = await self._store.seal_of(caller.workspace)
        link = bearer.generate("connect")

        async def work(tx: Transaction) -> tuple[Session, Secret | None]:
            if earlier := await idempotency.claim(tx, caller, once):
                return _session_from_json(earlier), None
            await self._refuse_return_url(tx, new.return_url)
            session = await rows.insert_session(
                tx,
                new_id("cs"),
                self.fingerprint(link),
                new,
                confirm=new.confirm or ("backend" if new.return_url else "page"),
                created_by=caller.actor_id,
                lifetime=SESSION_SECONDS,
            )
            await audit.record(
                tx,
                caller,
                "connect_session.write",
                target=("connect_session", session.session_id),
                user_ref=sealing.user_ref(new.user_id),
                environment=new.environment,
            )
            await idempotency.settle(tx, caller, once, _session_json(session))
            return session, link

        return await self._database.run(caller.workspace, work)

    async def complete_connect_session(
        self, caller: Caller, session_id: str, code: Secret, user_id: str
    ) -> Connection:
        """The platform says which of its users brought the code back. Another one gets nothing."""
        access.permit(caller, "connect_session.complete")
        hashed = self.fingerprint(code)

        async def work(tx: Transaction) -> tuple[Session, list[Flow]]:
            session = found(await rows.get_session(tx, session_id))
            return session, await rows.list_flows(tx, session_id)

        session, flows = await self._database.run(caller.workspace, work)
        access.permit_environment(caller, session.environment)
        flow = next(
            (one for one in flows if one.code_hash and hmac.compare_digest(one.code_hash, hashed)),
            None,
        )
        if flow is None:
            raise NotFound("There is no such code, or it has been used.")
        if flow.status != "confirm" or flow.expired:
            raise Conflict("This code has been used, or is too old.")
        way = await self._way(caller, session, flow, Secret(""))
        if session.user_id != user_id:
            await self._fail(way, "wrong_account")
            raise Invalid("Another user was invited. Nothing was connected.", pointer="/user_id")
        return await self._activate(way, await self._granted(way))

    async def _invited(self, caller: Caller, wanted: NewSession) -> NewSession:
        if wanted.confirm == "backend" and wanted.return_url is None:
            raise Invalid("Without a return_url nobody brings a code back.", pointer="/return_url")
        every = await self._database.run(
            caller.workspace, lambda tx: rows.list_integrations(tx, Page(10_000))
        )
        names = [row.integration for row in every]
        if missing := [one for one in wanted.integrations if one not in names]:
            raise Invalid("There is no such integration.", pointer=f"/integrations/{missing[0]}")
        chosen = tuple(dict.fromkeys(wanted.integrations)) or tuple(names)
        if not chosen:
            raise Conflict("This workspace has no integration yet.")
        if len(chosen) > MAX_INTEGRATIONS:
            raise Invalid(f"At most {MAX_INTEGRATIONS} in one link.", pointer="/integrations")
        return replace(wanted, integrations=chosen)

    async def _refuse_return_url(self, tx: Transaction, return_url: str | None) -> None:
        """Only to an origin that the workspace registered, character by character."""
        if return_url is None:
            return
        settings = await environment_rows.get_settings(tx)
        if not _may_return(return_url, settings.return_origins, loopback=self._loopback_returns):
            raise Invalid(
                "The origin of this return_url is not registered: see return_origins in "
                "/v1/settings.",
                pointer="/return_url",
            )

    # The person's side

    async def open_link(self, link: str) -> Invitation | Outcome:
        """Read what a link offers. That does not use it up."""
        opened = await self._session_of(link)
        if opened is None:
            return "expired"
        caller, session = opened
        if session.expired:
            return "expired"

        async def work(tx: Transaction) -> tuple[str, list[Flow], list[IntegrationRow | None]]:
            workspace = found(await get_workspace(tx, caller.workspace))
            flows = await rows.list_flows(tx, session.session_id)
            every = [await rows.get_integration(tx, one) for one in session.integrations]
            return workspace.name, flows, every

        name, flows, every = await self._database.run(caller.workspace, work)
        finished = {one.integration for one in flows if _is_finished(one)}
        items = [
            await self._item(caller.workspace, row, done=row.integration in finished)
            for row in every
            if row is not None
        ]
        return Invitation(workspace=name, session=session, items=tuple(items))

    async def begin(
        self, link: str, integration: str, browser: Secret, typed: Mapping[str, Secret]
    ) -> Stage | Outcome:
        """Take the person to the provider, or take what they typed. This uses the link up, for
        everybody but this browser.
        """
        opened = await self._session_of(link)
        if opened is None or opened[1].expired:
            return "expired"
        caller, session = opened
        if integration not in session.integrations:
            return "expired"
        row = found(await self._integration_row(caller.workspace, integration))
        app = await self._app(caller, row, session.environment, typed=typed)
        begun, url, state = await self._prepared(app, session, typed)
        flow_id = await self._begin_flow(caller, session, integration, browser, begun, state)
        if flow_id is None:
            return "used"
        flow = found(
            await self._database.run(caller.workspace, lambda tx: rows.get_flow(tx, flow_id))
        )
        way = await self._way(caller, session, flow, state)
        if url is not None:
            return _stage(way, "go", url=url)
        return await self._granted_at_once(way, app, browser, typed)

    async def come_back(
        self,
        state: str,
        parameters: Mapping[str, str],
        browser: Secret | None,
        *,
        provider_id: str,
        integration: str | None,
    ) -> Stage | Outcome:
        """What a provider sent back with a person."""
        way = await self._way_of(state)
        if way is None:
            return "expired"
        if browser is None or not hmac.compare_digest(
            way.flow.browser_hash, self.fingerprint(browser)
        ):
            return "wrong_browser"
        if not _is_own_address(way, provider_id, integration):
            return "provider_error"
        if way.flow.status != "started":
            return "used" if way.flow.status in ("exchanging", "done") else "expired"
        consumed = await self._consumed(way, browser)
        if consumed is None:
            return "expired"
        return await self._exchanged(consumed, parameters)

    async def choose(self, state: str, browser: Secret, choice_id: str) -> Stage | Outcome:
        """Take one of several sites."""
        way = await self._own_way(state, browser, "choice")
        if not isinstance(way, _Way):
            return way
        granted = await self._granted(way)
        chosen = next((one for one in granted.choices if one.id == choice_id), None)
        if chosen is None:
            return _stage(way, "choice", choices=granted.choices)
        extras = {**granted.tokens.extras, **chosen.fields}
        settled = Granted(tokens=replace(granted.tokens, extras=extras), account=granted.account)
        return await self._ask_for_confirmation(way, settled)

    async def confirm(self, state: str, browser: Secret, *, is_me: bool) -> Stage | Outcome:
        """The person says whether it is the right account for the right user."""
        way = await self._own_way(state, browser, "confirm")
        if not isinstance(way, _Way):
            return way
        if way.session.confirm != "page":
            return "used"
        if not is_me:
            await self._fail(way, "denied")
            return _stage(way, "ended", outcome="denied")
        connection = await self._activate(way, await self._granted(way))
        return _stage(
            way, "ended", outcome="connected", missing_scopes=tuple(connection.missing_scopes)
        )

    # Steps

    async def _session_of(self, link: str) -> tuple[Caller, Session] | None:
        if bearer.kind_of(link) != "connect":
            return None
        hashed = self.fingerprint(link)
        owner = await rows.look_up(self._database, hashed, "connect")
        if owner is None or not hmac.compare_digest(owner.hash, hashed):
            return None
        session = await self._database.run(
            owner.workspace_id, lambda tx: rows.get_session(tx, owner.id)
        )
        return (_person(owner.workspace_id, owner.id), session) if session else None

    async def _item(self, workspace: WorkspaceId, row: IntegrationRow, *, done: bool) -> Item:
        registration = await self._registration(workspace, row)
        provider = await asyncio.to_thread(self._catalogue.get, registration.provider)
        scopes = registration.scopes
        return Item(
            integration=row.integration,
            provider=provider,
            scopes=tuple(provider.scopes.default if scopes is None else scopes),
            done=done,
        )

    async def _prepared(
        self, app: App, session: Session, typed: Mapping[str, Secret]
    ) -> tuple[Begun, str | None, Secret]:
        """What to remember, where to go (if anywhere), and the state that comes back."""
        state = _random()
        begun = Begun(
            redirect_uri=app.redirect_uri,
            scopes=app.scopes,
            values={name: value for name, value in typed.items() if value},
        )
        if app.provider.mode == "authorization_code":
            verifier = authorize.make_verifier() if authorize.uses_pkce(app) else None
            nonce = _random() if authorize.uses_nonce(app) else None
            url = authorize.authorize_url(
                app,
                state=state.reveal(),
                challenge=authorize.challenge(verifier) if verifier else None,
                nonce=nonce.reveal() if nonce else None,
            )
            return replace(begun, verifier=verifier, nonce=nonce), url, state
        return begun, None, state

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
            begins = await rows.begin_flow(
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

    async def _granted_at_once(
        self, way: _Way, app: App, browser: Secret, typed: Mapping[str, Secret]
    ) -> Stage | Outcome:
        """The modes in which no browser travels: what was typed is tried out."""
        consumed = await self._consumed(way, browser)
        if consumed is None:
            return "expired"
        now = await self._time()
        try:
            if app.provider.mode in ("client_credentials", "jwt_bearer"):
                granted = await self._dialogue.client_grant(app, now=now)
            else:
                granted = await self._dialogue.typed(app, values=typed, now=now)
        except VaultError as problem:
            return await self._failed(consumed, _outcome_of(problem))
        return await self._received(consumed, granted)

    async def _consumed(self, way: _Way, browser: Secret) -> _Way | None:
        flow = await self._database.run(
            way.caller.workspace,
            lambda tx: rows.consume_flow(tx, way.flow.flow_id, self.fingerprint(browser)),
        )
        return replace(way, flow=flow) if flow else None

    async def _exchanged(self, way: _Way, parameters: Mapping[str, str]) -> Stage | Outcome:
        sealed = await self._opened(way)
        begun = rows.begun_from(sealed)
        error = parameters.get("error")
        if error is not None:
            return await self._failed(way, "denied" if error in _DENIED else "provider_error")
        try:
            app = await self._app(
                way.caller, way.integration, way.session.environment, typed=begun.values
            )
            app = replace(app, redirect_uri=begun.redirect_uri, scopes=begun.scopes)
            authorize.check_issuer(app, parameters.get("iss"))
            now = await self._time()
            signatures.check_callback(app, parameters, now=now)
            code = parameters.get(app.provider.callback.code)
            if not code:
                return await self._failed(way, "provider_error")
            granted = await self._dialogue.exchange(
                app,
                code=code,
                verifier=begun.verifier,
                nonce=begun.nonce,
                callback=parameters,
                now=now,
            )
        except VaultError as problem:
            return await self._failed(way, _outcome_of(problem))
        return await self._received(way, granted)

    async def _received(self, way: _Way, granted: Granted) -> Stage | Outcome:
        """A grant came. Whose is it, and does it have to be asked about?"""
        if await self._is_another_account(way, granted.account):
            await self._fail(way, "wrong_account", granted)
            return _stage(way, "ended", outcome="wrong_account", account=granted.account)
        if not granted.choices:
            return await self._ask_for_confirmation(way, granted)
        moved = await self._advanced(way, "choice", granted, needs="choice")
        return _stage(moved, "choice", choices=granted.choices) if moved else "used"

    async def _ask_for_confirmation(self, way: _Way, granted: Granted) -> Stage | Outcome:
        code = _random() if way.session.confirm == "backend" else None
        moved = await self._advanced(way, "confirm", granted, needs="confirm", code=code)
        if moved is None:
            return "used"
        if code is None:
            return _stage(moved, "confirm", account=granted.account)
        return _stage(moved, "ended", outcome="pending", code=code)

    async def _advanced(
        self, way: _Way, status: str, granted: Granted, *, needs: str, code: Secret | None = None
    ) -> _Way | None:
        flow = way.flow
        sealed = await self._sealed(
            way.caller, way.session, flow.flow_id, flow.generation + 1, rows.packed(granted)
        )

        async def work(tx: Transaction) -> Flow | None:
            if not await rows.advance_flow(
                tx,
                flow,
                status,
                sealed=sealed,
                code_hash=self.fingerprint(code) if code else None,
                lifetime=FLOW_SECONDS,
            ):
                return None
            await rows.await_connection(
                tx,
                new_id("conn"),
                way.session,
                flow.integration,
                way.provider.id,
                "choice" if needs == "choice" else "confirm",
                [],
            )
            return await rows.get_flow(tx, flow.flow_id)

        moved = await self._database.run(way.caller.workspace, work)
        return replace(way, flow=moved) if moved else None

    async def _activate(self, way: _Way, granted: Granted) -> Connection:
        """The grant becomes the connection, and the try is over, in one transaction."""
        app = await self._app(way.caller, way.integration, way.session.environment)

        async def settle(tx: Transaction) -> None:
            if not await rows.advance_flow(
                tx, way.flow, "done", outcome="connected", lifetime=FLOW_SECONDS
            ):
                raise Conflict("This has been completed already.")

        return await self._put(
            way.caller,
            Place(way.session.user_id, way.flow.integration, way.session.environment),
            app,
            granted,
            action="connection.connect",
            settle=settle,
        )

    async def _failed(self, way: _Way, outcome: Outcome) -> Stage:
        await self._fail(way, outcome)
        return _stage(way, "ended", outcome=outcome)

    async def _fail(self, way: _Way, outcome: Outcome, granted: Granted | None = None) -> None:
        """End a try. What the provider gave for it is given back, as well as that goes."""
        if granted is None and way.flow.status in ("choice", "confirm"):
            granted = await self._granted(way)

        async def work(tx: Transaction) -> None:
            await rows.advance_flow(tx, way.flow, "failed", outcome=outcome, lifetime=FLOW_SECONDS)
            await rows.forget_pending(tx, way.session, way.flow.integration)
            await audit.record(
                tx,
                way.caller,
                "connect.end",
                target=("integration", way.flow.integration),
                environment=way.session.environment,
                outcome=outcome,
            )

        await self._database.run(way.caller.workspace, work)
        if granted is not None:
            await self._discard(way, granted)

    async def _discard(self, way: _Way, granted: Granted) -> None:
        revoke = way.provider.revoke
        if revoke is None or revoke.kills == "grant":
            return  # the account's other connections, here or elsewhere, would die with it
        with suppress(VaultError, TimeoutError):
            app = await self._app(way.caller, way.integration, way.session.environment)
            async with asyncio.timeout(DISCARD_SECONDS):
                await self._dialogue.revoke(app, granted.tokens)

    # Whose try it is

    async def _way_of(self, state: str) -> _Way | None:
        hashed = self.fingerprint(state)
        owner = await rows.look_up(self._database, hashed, "state")
        if owner is None or not hmac.compare_digest(owner.hash, hashed):
            return None

        async def work(tx: Transaction) -> tuple[Flow, Session] | None:
            flow = await rows.get_flow(tx, owner.id)
            session = await rows.get_session(tx, flow.session_id) if flow else None
            return (flow, session) if flow and session else None

        found_both = await self._database.run(owner.workspace_id, work)
        if found_both is None or found_both[0].expired:
            return None
        flow, session = found_both
        caller = _person(owner.workspace_id, session.session_id)
        return await self._way(caller, session, flow, Secret(state))

    async def _own_way(self, state: str, browser: Secret, status: str) -> _Way | Outcome:
        """The same, for a page's form: in the browser that began it, at this step."""
        way = await self._way_of(state)
        if way is None:
            return "expired"
        if not hmac.compare_digest(way.flow.browser_hash, self.fingerprint(browser)):
            return "wrong_browser"
        return way if way.flow.status == status else "used"

    async def _way(self, caller: Caller, session: Session, flow: Flow, state: Secret) -> _Way:
        async def work(tx: Transaction) -> tuple[str, IntegrationRow]:
            workspace = found(await get_workspace(tx, caller.workspace))
            return workspace.name, found(await rows.get_integration(tx, flow.integration))

        name, row = await self._database.run(caller.workspace, work)
        return _Way(
            caller=caller,
            workspace=name,
            session=session,
            flow=flow,
            state=state,
            integration=row,
            provider=await asyncio.to_thread(self._catalogue.get, row.provider),
        )

    async def _is_another_account(self, way: _Way, account: Account | None) -> bool:
        """Is it another account than the one that was connected before?"""
        if account is None or way.session.replace_account:
            return False
        before = await self._database.run(
            way.caller.workspace,
            lambda tx: rows.find_connection(
                tx, way.session.user_id, way.flow.integration, way.session.environment
            ),
        )
        if before is None or before.account is None:
            return False
        sealing = await self._store.seal_of(way.caller.workspace)
        return before.account != sealing.account_index(way.provider.id, account.id)

    # What is sealed

    async def _sealed(
        self, caller: Caller, session: Session, flow_id: str, generation: int, plain: bytes
    ) -> bytes:
        sealing = await self._store.seal_of(caller.workspace)
        key = found(await self._store.key_for_user(sealing, UserId(session.user_id)))
        context = rows.flow_context(caller.workspace, flow_id, generation, session.environment)
        return seal(key, context, plain)

    async def _opened(self, way: _Way) -> bytes:
        context = rows.flow_context(
            way.caller.workspace, way.flow.flow_id, way.flow.generation, way.session.environment
        )
        return await self._store.open_for_user(
            way.caller.workspace, UserId(way.session.user_id), context, way.flow.sealed or b""
        )

    async def _granted(self, way: _Way) -> Granted:
        return rows.granted_from(await self._opened(way))


def _person(workspace: WorkspaceId, session_id: str) -> Caller:
    return Caller(kind="person", actor_id=session_id, workspace=workspace)


def _random() -> Secret:
    return Secret(urlsafe_b64encode(os.urandom(32)).rstrip(b"="))


def _is_finished(flow: Flow) -> bool:
    waits_for_backend = flow.status == "confirm" and flow.code_hash is not None
    return flow.status == "done" or waits_for_backend


def _is_own_address(way: _Way, provider_id: str, integration: str | None) -> bool:
    """Did the answer come to the address that this try gave out? (Mix-up, RFC 9700 section 4.4.)"""
    own = way.flow.integration if needs_own_callback(way.provider) else None
    return provider_id == way.provider.id and integration == own


def _outcome_of(problem: VaultError) -> Outcome:
    if isinstance(problem, NoToken) and problem.failure.outcome != "client":
        return "provider_error"
    is_ours = problem.action == "fix_configuration" or isinstance(problem, NoToken)
    return "misconfigured" if is_ours else "provider_error"


def _stage(
    way: _Way,
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


def return_address(stage: Stage) -> str | None:
    """Where a person is sent at the end, with what became of it."""
    if stage.session.return_url is None or stage.outcome is None:
        return None
    told = {
        "connect_session": stage.session.session_id,
        "integration": stage.integration,
        "status": stage.outcome,
    }
    if stage.code is not None:
        told["code"] = stage.code.reveal()
    separator = "&" if urlsplit(stage.session.return_url).query else "?"
    return stage.session.return_url + separator + urlencode(told)


def _may_return(url: str, origins: list[str], *, loopback: bool) -> bool:
    if any(character <= " " or character in '\\\x7f"<>' for character in url):
        return False
    parts = urlsplit(url)
    if parts.username or parts.password or parts.fragment or not parts.hostname:
        return False
    origin = f"{parts.scheme}://{parts.netloc}"
    if origin in origins:
        return True
    return loopback and parts.scheme in ("http", "https") and _is_loopback(parts.hostname)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    with suppress(ValueError):
        return ip_address(host).is_loopback
    return False
