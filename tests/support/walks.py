"""A person's consent at a provider, from the page that asks for it until the tokens are given back.

On one side a provider of our catalogue, driven by ``vault.oauth`` and ``vault.dialogue``; on the
other a sandbox that speaks as the frozen dialect says. Between them are real sockets.

``differences`` names all that was not as the frozen record has it: what the sandbox refused, what
it gave and we did not find, what we hold and it did not give. Nothing named: all is right.
"""

import html
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

from msgspec.structs import replace

from broker.sandbox import ClientKey
from broker.sandbox.dialect import REFUSALS, Refusal
from broker.sandbox.grants import Token
from broker.sandbox.knobs import PEOPLE
from support.dialects import Recorded, client
from support.elsewhere import Elsewhere
from support.engine import CATALOGUE
from support.jwts import keys
from support.sandbox import Provider as Running
from vault.auth_kinds import Algorithm
from vault.dialogue import Dialogue
from vault.dialogue.metadata import Metadata
from vault.egress import Reply, Request
from vault.errors import VaultError
from vault.oauth import authorize
from vault.oauth.app import Account, App, Granted, TokenSet
from vault.oauth.lifetimes import DEFAULT_LIFETIME
from vault.oauth.paths import at, text_of
from vault.oauth.renewing import OWN_GRANTS, can_refresh, further_tokens
from vault.oauth.replies import NoToken
from vault.oauth.signatures import single
from vault.providers.schema import Provider
from vault.secret import Secret

BACK: Final = "https://keyturn.example/oauth/x/callback"
CLIENT: Final = "client"
# With all that a form, a header or a URL has to escape; and long enough to be an HMAC's key.
SECRET: Final = "a secret+of/32=characters;&more%"
STATE: Final = "s" * 43
NONCE: Final = "n" * 43
LATER: Final = timedelta(days=2)  # than any provider's least age of what it renews
CLOSE: Final = 30.0  # seconds between two clocks, one of them read earlier
SIGNING: Final[tuple[Algorithm, ...]] = ("ES256", "RS256")
KEYS: Final = {algorithm: keys(algorithm) for algorithm in SIGNING}
OURS: Final[dict[str, str | Secret]] = {
    "team_id": "TEAM123456",
    "key_id": "KEY1234567",
}
ISSUED: Final = re.compile(r"sandbox_[A-Za-z0-9_-]+")


class Stuck(Exception):
    """There is no way on."""


async def differences(running: Running, one: Recorded, ours: Provider | None = None) -> list[str]:
    """Walk all the way, with our provider of that name or with ``ours``; say what was wrong."""
    egress = Elsewhere(running.base, one.id)
    walk = Walk(running, one, ours or CATALOGUE.get(one.provider), egress)
    try:
        await walk.go()
    except (VaultError, Stuck) as problem:
        walk.wrong.append(f"{type(problem).__name__}: {problem}")
    finally:
        await egress.aclose()
    return walk.wrong + walk.refusals()


class Walk:
    """One person, one provider."""

    def __init__(self, running: Running, one: Recorded, ours: Provider, egress: Elsewhere) -> None:
        self.state, self.one, self.ours, self.egress = running.state, one, ours, egress
        self.metadata = Metadata(egress)
        self.dialogue = Dialogue(egress, self.metadata)
        self.began = len(self.state.history.events())
        self.wrong: list[str] = []
        self.meant: set[int] = set()  # refusals that we asked for
        self.expected = one.expecting(CLIENT, "ada", PEOPLE["ada"])
        signing = tuple(ClientKey(name, public) for name, (_, public) in KEYS.items())
        one.put(self.state, client(BACK, SECRET, signing))

    async def go(self) -> None:
        app = await self.app()
        self.began = len(self.state.history.events())  # before, it was looked for in many places
        if self.ours.mode in OWN_GRANTS:
            await self.alone(app)
            return
        verifier, callback = await self.consent(app)
        now = datetime.now(UTC)
        granted = await self.dialogue.exchange(
            app,
            code=Secret(callback.get(self.ours.callback.code, "")),
            verifier=verifier,
            nonce=NONCE if authorize.uses_nonce(app) else None,
            callback=callback,
            now=now,
        )
        self.check_granted(granted, now)
        tokens = await self.renewed(app, granted.tokens)
        if self.asks_who:
            account = await self.dialogue.identify(app, tokens, now=now)
            self.check_account(account)
        await self.refused_client(app, tokens)
        await self.given_back(app, tokens)
        await self.dead(app, tokens)

    async def alone(self, app: App) -> None:
        """The app gets tokens for itself, once and again."""
        now, back = datetime.now(UTC), self.expected.callback
        first = await self.dialogue.client_grant(app, now=now, callback=back)
        self.check_granted(first, now)
        again = await self.dialogue.refresh(app, first.tokens, now=now)
        self.check_tokens(again, now)
        self.holds("another", again.access_token != first.tokens.access_token)

    # To consent and back

    async def app(self) -> App:
        """The integration of a workspace that filled everything in."""
        one, ours = self.one, self.ours
        values: dict[str, str | Secret] = dict(one.fill)
        values |= {name: value for name, value in OURS.items() if name in ours.variables}
        if ours.assertion is not None:
            values[ours.assertion.key] = Secret(KEYS[ours.assertion.algorithm][0])
        return App(
            provider=ours,
            client_id=CLIENT,
            client_secrets=(Secret(SECRET),),
            values=values,
            scopes=self.asked,
            authorize_params={n: more.replace(",", " ") for n, more in one.more_scopes.items()},
            redirect_uri=BACK,
            endpoints=await self.metadata.endpoints(ours, values),
        )

    @property
    def asked(self) -> tuple[str, ...]:
        """What a workspace asks for: not what only brings a refresh token, which is our part."""
        offline = self.one.dialect.issuing.refresh_scopes
        asked = tuple(one for one in self.one.scopes if one not in offline)
        return asked or tuple(self.one.scopes)

    async def consent(self, app: App) -> tuple[Secret | None, Mapping[str, str]]:
        """What the person's browser brings back, and the verifier that stayed here."""
        verifier = authorize.make_verifier() if authorize.uses_pkce(self.ours) else None
        url = authorize.authorize_url(
            app,
            state=STATE,
            challenge=authorize.challenge(verifier) if verifier else None,
            nonce=NONCE if authorize.uses_nonce(app) else None,
        )
        page = await self.egress.call("provider", Request(method="GET", url=url))
        method, fields = _sent_back(page)
        self.same("callback method", self.ours.callback.method, method)
        self.same("state", fields.get("state"), STATE)
        return verifier, fields

    # What came of it

    def check_granted(self, granted: Granted, now: datetime) -> None:
        tokens, expected, ours = granted.tokens, self.expected, self.ours
        self.check_tokens(tokens, now)
        self.same("refresh token", tokens.refresh_token is not None, expected.refresh_token)
        self.check_end(
            "its refresh token", tokens.refresh_expires_at, expected.refresh_lifetime, now
        )
        self.same("extra tokens", sorted(tokens.more), expected.extra_tokens)
        self.check_account(granted.account)
        captured = {path: name for name, path in ours.reply.capture.items()}
        for path, value in expected.captured.items():
            if path in captured:
                self.same(path, tokens.extras.get(captured[path]), text_of(value, 2_000))
            elif not _is_credential(path):
                self.wrong.append(f"{path} is not captured")
        back = {parameter: name for name, parameter in ours.callback.capture.items()}
        for parameter, value in expected.callback.items():
            found = tokens.extras.get(back.get(parameter, ""))
            if not _is_credential(parameter) and (found is None or found not in _as_host(value)):
                self.wrong.append(f"{parameter}: {found!r} instead of {value!r}")
        self.check_looked_up(granted)

    def check_tokens(self, tokens: TokenSet, now: datetime) -> None:
        """Is what we hold what the sandbox gave last?"""
        apart = {one.name for one in self.ours.reply.more if one.scope is None}
        beside = {_own(one.access_token) for name, one in tokens.more.items() if name not in apart}
        self.check_last("access", "", tokens.access_token, beside)
        self.check_last("refresh", "", tokens.refresh_token, set())
        for name in apart & tokens.more.keys():
            self.check_last("access", name, tokens.more[name].access_token, set())
            self.check_last("refresh", name, tokens.more[name].refresh_token, set())
            asked = self.one.more_scopes.get(f"{name}_scope", "")
            self.same(f"scopes of {name}", tokens.more[name].scopes, tuple(asked.split(",")))
        self.check_end("it", tokens.expires_at, self.lifetime(tokens), now)
        told = self.one.scopes if self.expected.scopes_told else []
        self.same("scopes", sorted(tokens.scopes or ()), sorted(told))

    def check_last(self, kind: str, name: str, token: Secret | None, beside: set[str]) -> None:
        """Is this the last of its kind, apart from those for another resource?"""
        others = {self.state.fingerprint(one) for one in beside}
        issued = [
            event.token
            for event in self.state.history.events()[self.began :]
            if (event.what, event.kind) == ("issued", kind)
            and event.family.partition(".")[2] == name
            and event.token not in others
        ]
        held = self.state.fingerprint(_own(token)) if token is not None else None
        self.same(f"{kind} token {name}".strip(), held, issued[-1] if issued else None)

    def lifetime(self, tokens: TokenSet) -> float | None:
        """Its life; what can be renewed and says nothing is renewed after an hour."""
        if self.expected.lifetime is None and tokens.refresh_token and not self.never_expires:
            return DEFAULT_LIFETIME
        return self.expected.lifetime

    @property
    def never_expires(self) -> bool:
        says = self.ours.reply
        return says.never_expires or says.expires_in_zero == "never"

    def check_end(
        self, what: str, end: datetime | None, seconds: float | None, now: datetime
    ) -> None:
        lives = None if end is None else (end - now).total_seconds()
        if lives is None or seconds is None:
            self.same(f"{what} ends", lives, seconds)
        elif abs(lives - seconds) > CLOSE:
            self.wrong.append(f"{what} ends after {lives:.0f} s instead of {seconds:.0f}")

    def check_account(self, account: Account | None) -> None:
        expected = self.expected
        parts = [str(one).replace("%", "%25").replace(":", "%3A") for one in expected.account]
        named = str(expected.account[0]) if len(parts) == 1 else ":".join(parts)
        self.same("account", account and account.id, named or None)
        if account is not None:
            self.same("its email", account.email, expected.email)
            self.same("its label", account.label, expected.label)

    def check_looked_up(self, granted: Granted) -> None:
        for step in self.ours.steps:
            items = at(self.expected.looked_up, step.items)
            if step.gives == "choices":
                found = [one.id for one in granted.choices]
                self.same(step.name, found, self.expected.choices)
            elif step.gives == "extras":
                wanted = _fields(step.fields, items)
                kept = {name: granted.tokens.extras.get(name) for name in wanted}
                self.same(step.name, kept, wanted)
        self.same("choices", len(granted.choices), len(self.expected.choices))
        gives = {step.gives for step in self.ours.steps} - {"tokens"}
        self.same("further look-ups", bool(gives), self.expected.looked_up is not None)

    @property
    def asks_who(self) -> bool:
        identity = self.ours.identity
        return identity is not None and identity.source in ("userinfo", "introspect")

    # Later

    async def renewed(self, app: App, tokens: TokenSet) -> TokenSet:
        """Refresh twice: some rotate each second time."""
        renews = any(one.does == "refresh" for one in self.one.dialect.endpoints)
        self.same("it can be renewed", can_refresh(app.provider, tokens), renews)
        if not can_refresh(app.provider, tokens):
            return tokens
        for _ in range(2):
            tokens = await self._renewed_once(app, tokens)
        for name in further_tokens(app, tokens):
            after = await self.dialogue.refresh(app, tokens, now=datetime.now(UTC), name=name)
            self.holds(f"token {name}", self.alive(after.more[name].access_token))
            tokens = after
        return tokens

    async def _renewed_once(self, app: App, before: TokenSet) -> TokenSet:
        now = datetime.now(UTC)
        aged = replace(before, obtained_at=now - LATER)
        after = await self.dialogue.refresh(app, aged, now=now)
        self.check_tokens(after, now)
        self.holds("a new access token", after.access_token != before.access_token)
        if not self._rotates_sometimes:
            rotated = after.refresh_token != before.refresh_token
            self.same("a new refresh token", rotated, self.expected.rotates)
        self.holds("extras", after.extras.keys() >= before.extras.keys())
        return after

    @property
    def _rotates_sometimes(self) -> bool:
        return self.one.dialect.issuing.rotation == "sometimes"

    async def refused_client(self, app: App, tokens: TokenSet) -> None:
        """A client whose secret is wrong is the operator's, not the person's problem."""
        shown = str([one.request for one in self.one.dialect.endpoints if one.does == "refresh"])
        secret = re.search(r"\{(client_secret|basic|secret_as_user)\}", shown)
        if secret and tokens.refresh_token is not None:
            other = replace(app, client_secrets=(Secret("another"),))
            await self.fails("a wrong secret", other, tokens, self.means_client)

    @property
    def means_client(self) -> str:
        """What the refusal of a client means; it is recorded otherwise for some."""
        refusal = self.one.dialect.refusals.get("client", REFUSALS["client"])
        told = [one for one in self.one.failures if one.where != "api"]
        found = [one.means for one in told if (one.status, one.body) == _said(refusal)]
        return found[0] if found else "client"

    async def given_back(self, app: App, tokens: TokenSet) -> None:
        said = await self.dialogue.revoke(app, tokens, now=datetime.now(UTC))
        for one in said:
            self.same(f"{one.token} given back", one.outcome, "revoked")
        found = [one for one in self.one.dialect.endpoints if one.does == "revoke"]
        self.same("it is given back", bool(said), bool(found))
        if not found:
            return
        takes_any = "token" in {**found[0].request.body, **found[0].request.query}
        held = [("access token", tokens.access_token)]
        if found[0].kills == "grant" or takes_any:
            held.append(("refresh token", tokens.refresh_token))
        held += [(name, more.access_token) for name, more in tokens.more.items()]
        for what, token in held:
            if token is not None:
                self.holds(f"{what} is dead", not self.alive(token))

    async def dead(self, app: App, tokens: TokenSet) -> None:
        """The person took their consent back: only they can help."""
        for family in self.state.ledger.families():
            self.state.ledger.end(family, "revoked")
        if can_refresh(app.provider, tokens):
            await self.fails("no consent", app, tokens, "dead")

    async def fails(self, what: str, app: App, tokens: TokenSet, outcome: str) -> None:
        now = datetime.now(UTC)
        number = self.state.history.events()[-1].seq
        try:
            await self.dialogue.refresh(app, replace(tokens, obtained_at=now - LATER), now=now)
            self.wrong.append(f"{what}: it was refreshed")
        except NoToken as refused:
            self.same(what, refused.failure.outcome, outcome)
        self.meant |= {one.seq for one in self.state.history.events() if one.seq > number}

    # The sandbox's side

    def alive(self, token: Secret) -> bool:
        found: Token | None = self.state.ledger.find(_own(token), self.one.id)
        return found is not None and found.works

    def refusals(self) -> list[str]:
        """What the sandbox refused, though nobody meant it to."""
        return [
            f"refused: {reason}"
            for event in self.state.history.events()[self.began :]
            if event.what == "refused" and event.seq not in self.meant
            for reason in event.reasons
        ]

    def holds(self, what: str, it: object) -> None:
        if not it:
            self.wrong.append(f"{what}: it does not hold")

    def same(self, what: str, found: object, wanted: object) -> None:
        if found != wanted:
            self.wrong.append(f"{what}: {found!r} instead of {wanted!r}")


def _sent_back(page: Reply) -> tuple[str, dict[str, str]]:
    """How the browser is sent back, and with what."""
    if page.status == 200 and f'action="{BACK}"'.encode() in page.body:
        pairs = re.findall(r'name="([^"]+)" value="([^"]*)"', page.body.decode())
        return "POST", {name: html.unescape(value) for name, value in pairs}
    address = page.get("Location") or ""
    if not address.startswith(BACK + "?"):
        raise Stuck(f"the page of consent answered {page.status}")
    return "GET", single(parse_qsl(urlsplit(address).query, keep_blank_values=True))


def _said(refusal: Refusal) -> tuple[int, Any]:
    return refusal.status, refusal.body


def _own(token: Secret) -> str:
    """The sandbox's part of a token: some providers put the account before it."""
    found = ISSUED.search(token.reveal())
    return found[0] if found else ""


def _fields(paths: Mapping[str, str], item: Any) -> dict[str, str]:
    found = ((name, text_of(at(item, path), 2_000)) for name, path in paths.items())
    return {name: value for name, value in found if value is not None}


def _as_host(value: object) -> tuple[str | None, ...]:
    """A value as it came, and where it is an address, its host."""
    text = text_of(value, 2_000)
    return (text, (text or "").removeprefix("https://"))


def _is_credential(path: str) -> bool:
    """Is it one? None is ever kept as an extra."""
    return path in ("incoming_webhook.url", "mws_auth_token", "webhook.url")
