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
from typing import Final

from msgspec.structs import replace

from vault.consent import (
    Begun,
    Outcome,
    Stage,
)
from vault.errors import VaultError
from vault.oauth import authorize, signatures
from vault.oauth.app import App, Granted
from vault.oauth.device import Started
from vault.oauth.oauth1 import Pair
from vault.oauth.replies import NoToken
from vault.oauth.signatures import Pairs
from vault.providers.derived import needs_own_callback
from vault.secret import Secret
from vault.store import connections as rows
from vault.vault.door import found
from vault.vault.invitations import Invitations
from vault.vault.tries import Way, random_secret, stage_of

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
        begun, url, state = await self._prepared(app, typed)
        flow_id = await self._begin_flow(caller, session, integration, browser, begun, state)
        if flow_id is None:
            return "used"
        flow = found(
            await self._database.run(caller.workspace, lambda tx: rows.get_flow(tx, flow_id))
        )
        way = await self._way(caller, session, flow, state)
        if url is not None:
            return stage_of(way, "go", url=url)
        if begun.device is not None:
            return _waiting(way, begun.device)
        return await self._granted_at_once(way, app, browser, typed)

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
        try:
            granted = await self._exchanged(way, unverified)
        except VaultError as problem:
            return await self._failed(way, _outcome_of(problem))
        if isinstance(granted, str):
            return await self._failed(way, granted)
        return await self._received(way, granted)

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
            caller.workspace, lambda tx: rows.list_flows(tx, session.session_id)
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
        begun = rows.begun_from(await self._opened(way))
        if begun.device is None:
            return "expired"
        app = await self._app_of_begun(way, begun)
        try:
            polled, granted = await self._dialogue.device_poll(
                app, begun.device, interval=begun.device.interval, now=await self._time()
            )
        except VaultError as problem:
            return await self._failed(way, _outcome_of(problem))
        if polled.state == "waiting":
            return _waiting(way, begun.device)
        if granted is None:
            return await self._failed(way, "denied" if polled.state == "denied" else "expired")
        # A device code is the provider's to give out once; the state names the way from here on.
        consumed = await self._consumed(way, browser)
        return await self._received(consumed, granted) if consumed else "used"

    async def choose(self, state: str, browser: Secret, number: str) -> Stage | Outcome:
        """Take one of several sites, by its place in the list."""
        way = await self._own_way(state, browser, "choice")
        if not isinstance(way, Way):
            return way
        granted = await self._granted(way)
        if not number.isdecimal() or int(number[:9]) >= len(granted.choices):
            return stage_of(way, "choice", choices=granted.choices)
        chosen = granted.choices[int(number)]
        extras = {**granted.tokens.extras, **chosen.fields}
        settled = Granted(tokens=replace(granted.tokens, extras=extras), account=granted.account)
        return await self._ask_for_confirmation(way, settled)

    async def confirm(self, state: str, browser: Secret, *, is_me: bool) -> Stage | Outcome:
        """The person says whether it is the right account for the right user."""
        way = await self._own_way(state, browser, "confirm")
        if not isinstance(way, Way):
            return way
        if way.session.confirm != "page":
            return "used"
        if not is_me:
            await self._fail(way, "denied")
            return stage_of(way, "ended", outcome="denied")
        connection = await self._activate(way, await self._granted(way))
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
                begun, url = _to_consent(app, begun, state)
            case "oauth1":
                # Version 1.0a has no state: the address that it sends people back to carries ours.
                stated = replace(app, redirect_uri=f"{app.redirect_uri}?state={state.reveal()}")
                pair, url = await self._dialogue.oauth1_begin(stated, now=await self._time())
                begun = replace(begun, pair=(pair.token, pair.secret))
            case "device_code":
                started = await self._dialogue.device_code(app, now=await self._time())
                begun = replace(begun, device=started)
            case _:
                pass
        if url is not None and not url.startswith("https://"):
            self._egress.vet_url("provider", url)  # a browser goes where we would go, too
        return begun, url, state

    async def _granted_at_once(
        self, way: Way, app: App, browser: Secret, typed: Mapping[str, Secret]
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
                granted = await self._dialogue.typed(app, typed, now=now)
        except VaultError as problem:
            return await self._failed(consumed, _outcome_of(problem))
        return await self._received(consumed, granted)

    async def _exchanged(self, way: Way, unverified: Pairs) -> Granted | Outcome:
        """Turn what came back into a grant, by the provider's mode."""
        begun = rows.begun_from(await self._opened(way))
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
            way.caller, way.integration, way.session.environment, typed=begun.values
        )
        return replace(app, redirect_uri=begun.redirect_uri, scopes=begun.scopes)

    async def _received(self, way: Way, granted: Granted) -> Stage | Outcome:
        """A grant came. Whose is it, and does it have to be asked about?"""
        if await self._is_another_account(way, granted.account):
            await self._fail(way, "wrong_account", granted)
            return stage_of(way, "ended", outcome="wrong_account", account=granted.account)
        if not granted.choices:
            return await self._ask_for_confirmation(way, granted)
        moved = await self._advanced(way, "choice", granted, needs="choice")
        return stage_of(moved, "choice", choices=granted.choices) if moved else "used"

    async def _ask_for_confirmation(self, way: Way, granted: Granted) -> Stage | Outcome:
        code = random_secret() if way.session.confirm == "backend" else None
        moved = await self._advanced(way, "confirm", granted, needs="confirm", code=code)
        if moved is None:
            return "used"
        if code is None:
            return stage_of(moved, "confirm", account=granted.account)
        return stage_of(moved, "ended", outcome="pending", code=code)


def _is_own_address(way: Way, provider_id: str, integration: str | None) -> bool:
    """Did the answer come to the address that this try gave out? (Mix-up, RFC 9700 section 4.4.)"""
    own = way.flow.integration if needs_own_callback(way.provider) else None
    return provider_id == way.provider.id and integration == own


def _outcome_of(problem: VaultError) -> Outcome:
    if isinstance(problem, NoToken) and problem.failure.outcome != "client":
        return "provider_error"
    is_ours = problem.action == "fix_configuration" or isinstance(problem, NoToken)
    return "misconfigured" if is_ours else "provider_error"


def _to_consent(app: App, begun: Begun, state: Secret) -> tuple[Begun, str]:
    verifier = authorize.make_verifier() if authorize.uses_pkce(app.provider) else None
    nonce = random_secret() if authorize.uses_nonce(app) else None
    url = authorize.authorize_url(
        app,
        state=state.reveal(),
        challenge=authorize.challenge(verifier) if verifier else None,
        nonce=nonce.reveal() if nonce else None,
    )
    return replace(begun, verifier=verifier, nonce=nonce), url


def _waiting(way: Way, device: Started) -> Stage:
    return replace(
        stage_of(way, "device", url=device.address_with_code or device.address),
        user_code=device.user_code,
        interval=device.interval,
    )
