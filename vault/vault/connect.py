r"""The door's part for connecting: from a link that a person opens to a connection.

::

    create_connect_session -> link -> open_link -> begin -> (the provider) -> come_back
                                                     \-> choose -> confirm | complete -> connected

* A link is an invitation, not a key: whoever opens it can only connect an account of their own to
  the one user that it names. What they connect is of no use until it is confirmed: by the platform,
  which says which of its users finished (``complete``), or by the person, who is told for whom.
* Each try belongs to one browser, by a cookie. A state that comes back in another one, a second
  time, too late, or on another provider's address, is refused.
* The user's key seals what has to be remembered meanwhile.
* How a try ends is an ``Outcome``, for the page and for the platform. It is never an exception's
  text, and nothing that the provider wrote.
"""

import hmac
from collections.abc import Mapping
from datetime import timedelta
from typing import Final

from msgspec.structs import replace

from vault.consent import (
    Begun,
    Outcome,
    Received,
    Session,
    Stage,
    asked_for,
)
from vault.errors import CredentialRefused, Invalid, VaultError
from vault.model import Caller, UserId
from vault.oauth import authorize, signatures
from vault.oauth.app import App, Granted
from vault.oauth.device import Started
from vault.oauth.discovery import Registered
from vault.oauth.oauth1 import Pair
from vault.oauth.renewing import OWN_GRANTS
from vault.oauth.replies import NoToken
from vault.oauth.signatures import Pairs
from vault.oauth.typed import names, typed_tokens, with_client
from vault.providers.derived import needs_own_callback
from vault.providers.schema import TYPED_MODES, Provider
from vault.secret import Secret
from vault.store import get_workspace
from vault.store import tries as try_rows
from vault.vault.door import found
from vault.vault.invitations import Invitations, is_finished
from vault.vault.tries import Settled, Way, random_secret, stage_of

# What providers say when a person says no; anything else is a failure.
_DENIED: Final = frozenset(
    {"access_denied", "consent_required", "user_cancelled_login", "user_denied"}
)


class Connect(Invitations):
    """Connecting people's accounts."""

    async def begin(
        self, link: str, integration: str, browser: Secret, typed: Mapping[str, Secret]
    ) -> Stage | Outcome:
        """Take the person to the provider, or take what they typed. This uses the link up, for
        everybody but this browser. Raises ``Invalid`` where something else has to be typed.
        """
        opened = await self._session_of(link)
        if opened is None or opened[1].expired:
            return "expired"
        caller, session = opened
        if integration not in session.integrations:
            return "expired"
        row = found(await self._integration_row(caller.workspace, integration))
        _refuse_missing(await self._provider(row.provider), typed)
        app = await self._app(caller, row, session.environment, typed=typed)
        if app.provider.mode in TYPED_MODES:
            typed_tokens(app, typed, now=await self._time())  # a slip does not use the link up
        app, client = await self._with_client(app, caller)
        begun, url, state = await self._prepared(app, typed)
        begun = replace(begun, client=client)
        flow_id = await self._begin_flow(caller, session, integration, browser, begun, state)
        if flow_id is None:
            return await self._why_not(caller, session, integration)
        flow = found(
            await self._database.run(caller.workspace, lambda tx: try_rows.get_flow(tx, flow_id))
        )
        way = await self._way(caller, session, flow, state)
        if url is not None:
            return stage_of(way, "go", url=url)
        if begun.device is not None:
            return _waiting(way, begun.device)
        return await self._granted_at_once(way, app, begun, browser)

    async def _why_not(self, caller: Caller, session: Session, integration: str) -> Outcome:
        flows = await self._database.run(
            caller.workspace, lambda tx: try_rows.list_flows(tx, session.session_id)
        )
        mine = [one for one in flows if one.integration == integration]
        return "used" if any(is_finished(one) for one in mine) else "wrong_browser"

    async def come_back(
        self,
        unverified: Pairs,
        browser: Secret | None,
        *,
        provider_id: str,
        integration: str | None,
    ) -> Stage | Outcome:
        """What a provider sent back with a person."""
        states = [value for name, value in unverified if name == "state"]
        way = await self._way_of(states[0]) if len(states) == 1 else None
        if way is None:
            return "expired"
        if browser is None or not hmac.compare_digest(
            way.flow.browser_hash, self.fingerprint(browser)
        ):
            return "wrong_browser"
        if not _is_own_address(way, provider_id, integration):
            return "provider_error"
        consumed = await self._consumed(way, browser)
        if consumed is None:
            return "used" if way.flow.status in ("exchanging", "done") else "expired"
        return await self._came_back(consumed, unverified)

    async def _came_back(self, way: Way, unverified: Pairs) -> Stage | Outcome:
        begun = try_rows.begun_from(await self._opened(way))
        try:
            granted = await self._exchanged(way, begun, unverified)
        except VaultError as problem:
            return await self._failed(way, _outcome_of(problem))
        if isinstance(granted, str):
            return await self._failed(way, granted)
        return await self._settled(way, _received(way.provider, begun, granted))

    async def poll_device(
        self, link: str, integration: str, browser: Secret | None
    ) -> Stage | Outcome:
        """Has the person typed the code in? Asked no more often than the provider allows."""
        opened = await self._session_of(link)
        if opened is None:
            return "expired"
        if browser is None:
            return "wrong_browser"
        caller, session = opened
        hashed = self.fingerprint(browser)
        flows = await self._database.run(
            caller.workspace, lambda tx: try_rows.list_flows(tx, session.session_id)
        )
        mine = [
            one
            for one in flows
            if one.integration == integration and hmac.compare_digest(one.browser_hash, hashed)
        ]
        if not mine or mine[-1].status != "started" or mine[-1].expired:
            return "expired"
        way = await self._way(caller, session, mine[-1], Secret(""))
        return await self._polled(way, browser)

    async def _polled(self, way: Way, browser: Secret) -> Stage | Outcome:
        begun = try_rows.begun_from(await self._opened(way))
        if begun.device is None or begun.state is None:
            return "expired"
        way = replace(way, state=begun.state)  # it names the way from here on
        now, device = await self._time(), begun.device
        if begun.polled_at and now < begun.polled_at + timedelta(seconds=device.interval):
            return _waiting(way, device)
        asking = await self._remembered(way, replace(begun, polled_at=now))
        if asking is None:
            return _waiting(way, device)  # another look of the same page is just asking
        return await self._asked(asking, begun, device, browser)

    async def _asked(
        self, way: Way, begun: Begun, device: Started, browser: Secret
    ) -> Stage | Outcome:
        """Ask once, and remember what the provider says of asking again."""
        now = await self._time()
        try:
            app = await self._app_of_begun(way, begun)
            polled, granted = await self._dialogue.device_poll(
                app, device, interval=device.interval, now=now
            )
        except VaultError as problem:
            return await self._failed(way, _outcome_of(problem))
        if polled.state == "waiting":
            slower = replace(device, interval=polled.interval)
            await self._remembered(way, replace(begun, polled_at=now, device=slower))
            return _waiting(way, slower)
        if granted is None:
            return await self._failed(way, "denied" if polled.state == "denied" else "expired")
        # A device code is the provider's to give out once.
        consumed = await self._consumed(way, browser)
        if consumed is None:
            return "used"
        return await self._settled(consumed, _received(way.provider, begun, granted))

    async def choose(self, state: str, browser: Secret, number: str) -> Stage | Outcome:
        """Take one of several sites, by its place in the list."""
        way = await self._own_way(state, browser, "choice")
        if not isinstance(way, Way):
            return way
        received = await self._given(way)
        granted = received.granted
        if not number.isdecimal() or int(number[:9]) >= len(granted.choices):
            return stage_of(way, "choice", choices=granted.choices)
        chosen = granted.choices[int(number)]
        extras = {**granted.tokens.extras, **chosen.fields}
        settled = Granted(tokens=replace(granted.tokens, extras=extras), account=granted.account)
        return await self._ask_for_confirmation(way, replace(received, granted=settled))

    async def confirm(self, state: str, browser: Secret, *, is_me: bool) -> Stage | Outcome:
        """The person says whether it is the right account for the right user."""
        way = await self._own_way(state, browser, "confirm")
        if not isinstance(way, Way):
            return way
        if way.session.confirm != "page":
            return "used"
        if not is_me:
            is_over = await self._fail(way, "denied")
            return stage_of(way, "ended", outcome="denied") if is_over else "used"
        try:
            connection = await self._activate(way, await self._given(way))
        except Settled:
            return "used"
        return stage_of(
            way, "ended", outcome="connected", missing_scopes=tuple(connection.missing_scopes)
        )

    async def _prepared(
        self, app: App, typed: Mapping[str, Secret]
    ) -> tuple[Begun, str | None, Secret]:
        """What to remember, where to go (if anywhere), and the state that comes back."""
        state = random_secret()
        begun = Begun(redirect_uri=app.redirect_uri, scopes=app.scopes, values=dict(typed))
        url: str | None = None
        match app.provider.mode:
            case "authorization_code" | "telegram_login":
                begun, url = await self._to_consent(app, begun, state)
            case "oauth1":
                # Version 1.0a has no state: the address that it sends people back to carries ours.
                stated = replace(app, redirect_uri=f"{app.redirect_uri}?state={state.reveal()}")
                pair, url = await self._dialogue.oauth1_begin(stated, now=await self._time())
                begun = replace(begun, pair=(pair.token, pair.secret))
            case "device_code":
                started = await self._dialogue.device_code(app, now=await self._time())
                begun = replace(begun, device=started, state=state)
            case _:
                pass
        if url is not None and not url.startswith("https://"):
            self._egress.vet_url("provider", url)  # a browser goes where we would go, too
        return begun, url, state

    async def _to_consent(self, app: App, begun: Begun, state: Secret) -> tuple[Begun, str]:
        verifier = authorize.make_verifier() if authorize.uses_pkce(app.provider) else None
        nonce = random_secret() if authorize.uses_nonce(app) else None
        url = await self._dialogue.consent_url(
            app,
            state=state.reveal(),
            challenge=authorize.challenge(verifier) if verifier else None,
            nonce=nonce.reveal() if nonce else None,
            now=await self._time(),
        )
        return replace(begun, verifier=verifier, nonce=nonce), url

    async def _granted_at_once(
        self, way: Way, app: App, begun: Begun, browser: Secret
    ) -> Stage | Outcome:
        """The modes in which no browser travels: what was typed is tried out."""
        consumed = await self._consumed(way, browser)
        if consumed is None:
            return "expired"
        now = await self._time()
        try:
            if app.provider.mode in OWN_GRANTS:
                granted = await self._dialogue.client_grant(app, now=now)
            else:
                granted = await self._dialogue.typed(app, begun.values, now=now)
        except (Invalid, CredentialRefused) as problem:
            await self._fail(consumed, "provider_error")
            raise Invalid(problem.message) from None  # the person types it again
        except VaultError as problem:
            is_ours = isinstance(problem, NoToken) and problem.failure.outcome == "dead"
            outcome: Outcome = "misconfigured" if is_ours else _outcome_of(problem)
            return await self._failed(consumed, outcome)
        return await self._settled(consumed, _received(way.provider, begun, granted))

    async def _exchanged(self, way: Way, begun: Begun, unverified: Pairs) -> Granted | Outcome:
        """Turn what came back into a grant, by the provider's mode."""
        app = await self._app_of_begun(way, begun)
        now = await self._time()
        fields = signatures.single(unverified)
        if app.provider.mode == "telegram_login":
            signed = signatures.single(signatures.telegram_pairs(fields.get("tgAuthResult", "")))
            return await self._dialogue.signed_in(app, callback=signed, now=now)
        error = fields.get("error")
        if error is not None or "denied" in fields:  # ``denied``: OAuth 1.0a's
            return "denied" if error in _DENIED or error is None else "provider_error"
        if begun.pair is not None:
            pair = Pair(*begun.pair)
            return await self._dialogue.oauth1_finish(app, pair, callback=fields, now=now)
        code = fields.get(app.provider.callback.code)
        if not code:
            return "provider_error"
        return await self._dialogue.exchange(
            app,
            code=Secret(code),
            verifier=begun.verifier,
            nonce=begun.nonce.reveal() if begun.nonce else None,
            callback=fields,
            now=now,
        )

    async def _app_of_begun(self, way: Way, begun: Begun) -> App:
        """The app as it was when the person left: what was typed, asked for, and promised."""
        app = await self._app(
            way.caller,
            way.integration,
            way.session.environment,
            typed=begun.values,
            client=begun.client,
        )
        return replace(app, redirect_uri=begun.redirect_uri, scopes=begun.scopes)

    async def _with_client(self, app: App, caller: Caller) -> tuple[App, Registered | None]:
        """Where a server makes a client for whoever asks, and the workspace has none: ask."""
        if app.provider.client.registration != "dynamic" or app.client_id or not app.endpoints:
            return app, None
        workspace = await self._database.run(
            caller.workspace, lambda tx: get_workspace(tx, caller.workspace)
        )
        client = await self._metadata.register(
            app.endpoints,
            redirect_uri=app.redirect_uri,
            client_name=found(workspace).name,
            scopes=app.scopes,
        )
        return with_client(app, client), client

    async def _settled(self, way: Way, received: Received) -> Stage | Outcome:
        """A grant came. Whose is it, and does it have to be asked about?"""
        granted = received.granted
        if await self._is_another_account(way, granted.account):
            await self._fail(way, "wrong_account", received)
            return stage_of(way, "ended", outcome="wrong_account", account=granted.account)
        if not granted.choices:
            return await self._ask_for_confirmation(way, received)
        moved = await self._advanced(way, "choice", received, needs="choice")
        return stage_of(moved, "choice", choices=granted.choices) if moved else "used"

    async def _ask_for_confirmation(self, way: Way, received: Received) -> Stage | Outcome:
        code = random_secret() if way.session.confirm == "backend" else None
        moved = await self._advanced(way, "confirm", received, needs="confirm", code=code)
        if moved is None:
            return "used"
        if code is None:
            return await self._last_look(moved, received)
        return stage_of(
            moved, "ended", outcome="pending", code=code, missing_scopes=received.missing_scopes
        )

    async def _last_look(self, way: Way, received: Received) -> Stage:
        """For whom, which account, and what may be done with it."""
        user = await self._store.user(way.caller.workspace, UserId(way.session.user_id))
        given = received.granted.tokens.scopes
        return replace(
            stage_of(way, "confirm", account=received.granted.account),
            user_name=(user.profile.name if user else None) or "",
            scopes=tuple(received.asked_scopes if given is None else given),
        )


def _received(provider: Provider, begun: Begun, granted: Granted) -> Received:
    """What a try was given, with what has to be known to use it: what was typed on the way."""
    values = {**begun.values, **granted.tokens.values}
    kept = replace(granted, tokens=replace(granted.tokens, values=values))
    asked = asked_for(provider, begun.scopes, kept.tokens)
    return Received(granted=kept, asked_scopes=asked, client=begun.client)


def _refuse_missing(provider: Provider, typed: Mapping[str, Secret]) -> None:
    for name, needed in names(provider).items():
        if needed and name not in typed:
            raise Invalid("Something is missing.", pointer=f"/{name}")


def _is_own_address(way: Way, provider_id: str, integration: str | None) -> bool:
    """Did the answer come to the address that this try gave out? (Mix-up, RFC 9700 section 4.4.)"""
    own = way.flow.integration if needs_own_callback(way.provider) else None
    return provider_id == way.provider.id and integration == own


def _outcome_of(problem: VaultError) -> Outcome:
    if isinstance(problem, NoToken) and problem.failure.outcome != "client":
        return "provider_error"
    is_ours = problem.action == "fix_configuration" or isinstance(problem, NoToken)
    return "misconfigured" if is_ours else "provider_error"


def _waiting(way: Way, device: Started) -> Stage:
    return replace(
        stage_of(way, "device", url=device.address_with_code or device.address),
        user_code=device.user_code,
        interval=device.interval,
    )
