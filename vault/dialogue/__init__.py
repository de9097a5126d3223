"""What is said between us and a provider: a code for tokens, a refresh, a revocation, a question.

* Each method is one step of a flow, and needs no database. What a reply means is decided in
  ``vault.oauth``; what is done about a failure is decided by who called.
* A request that changes something at the provider is sent once. Only where a client secret is
  refused is it sent again, with the next one: a refused client has used nothing up.
* A callback came through a browser. It is checked (signature, issuer, patterns) before a secret
  leaves for where it points to.
* An ID token is verified before anything of it is used; if one came and cannot be believed, there
  are no tokens either.
* A refresh changes one token a call, so that its reply can be kept before the next one is sent.
"""

import contextlib
from collections.abc import Awaitable, Mapping
from datetime import datetime
from typing import Any, Final

from msgspec.structs import replace

from vault.dialogue.clients import attempt, first_attempt, with_secrets
from vault.dialogue.metadata import Metadata
from vault.egress import Egress, Errand, Reply, Request, Then
from vault.errors import (
    CredentialRefused,
    Invalid,
    Misconfigured,
    Unreachable,
    Unresolved,
    UpstreamFailed,
    VaultError,
)
from vault.model import new_id
from vault.oauth import accounts, authorize, device, id_token, oauth1, reading, requests, signatures
from vault.oauth.accounts import Claims, Evidence
from vault.oauth.app import Account, App, Choice, Granted, TokenSet
from vault.oauth.callbacks import callback_values, check_issuer, issuer_of
from vault.oauth.filling import asked_scopes, filling, with_query
from vault.oauth.reading import Read
from vault.oauth.renewing import OWN_GRANTS, check_age, further_tokens
from vault.oauth.replies import SERVER_ERROR, UNAUTHORIZED, Failure, failure_of
from vault.oauth.revoking import Revoked, given_back
from vault.oauth.typed import typed_tokens
from vault.providers.schema import Identity, OAuth1, Provider
from vault.secret import Secret

REFUSED: Final = frozenset({400, 401, 403, 404})
NO_CODE: Final = Secret("keyturn-checks-this-app")


class Dialogue:
    """Our side of every conversation with a provider. Make one a process."""

    def __init__(self, egress: Egress, metadata: Metadata) -> None:
        self.tracing = egress.tracing
        self._egress = egress
        self._metadata = metadata

    # A person is asked

    async def consent_url(
        self, app: App, *, state: str, challenge: str | None, nonce: str | None, now: datetime
    ) -> str:
        """Where the person's browser is sent; a server that wants so is told before what for."""
        url, asked = authorize.asked(app, state=state, challenge=challenge, nonce=nonce)
        if not authorize.is_pushed(app):
            return with_query(url, asked)

        async def ask(secret: Secret | None) -> str:
            request = requests.push_request(app, attempt(now, secret), asked)
            return authorize.pushed_url(app, url, await self._call(request), now=now)

        return await with_secrets(app, ask)

    # A person consented

    async def exchange(
        self,
        app: App,
        *,
        code: Secret,
        verifier: Secret | None,
        nonce: str | None,
        callback: Mapping[str, str],
        now: datetime,
    ) -> Granted:
        """Turn a code into tokens, and find out whose they are.

        ``callback``: all parameters that came back, once each; ``now``: the database's time.
        """
        app, told = self._believed(app, callback, now)
        read = await self._exchanged(app, code, verifier, now)
        return await self._finished(app, read, told, callback, nonce)

    async def try_client(self, app: App, *, now: datetime) -> None:
        """Bring a code that nobody gave out, to see whether it is that which is refused.

        Raises ``NoToken``, as no server can do otherwise.
        """
        verifier = authorize.make_verifier() if authorize.uses_pkce(app.provider) else None
        await self._exchanged(app, NO_CODE, verifier, now)

    async def _exchanged(
        self, app: App, code: Secret, verifier: Secret | None, now: datetime
    ) -> Read:
        async def ask(secret: Secret | None) -> Read:
            request = requests.exchange_request(
                app, attempt(now, secret), code=code, verifier=verifier
            )
            return reading.token_set(app, await self._call(request), now=now)

        return await with_secrets(app, ask)

    async def client_grant(
        self, app: App, *, now: datetime, callback: Mapping[str, str] | None = None
    ) -> Granted:
        """Get tokens for the app itself: client credentials, or a JWT that we sign."""
        app, told = self._believed(app, callback or {}, now)
        read = await self._granted(app, now)
        return await self._finished(app, read, told, callback or {}, None)

    async def signed_in(self, app: App, *, callback: Mapping[str, str], now: datetime) -> Granted:
        """Read a callback that is itself all there is: who signed in, and no token."""
        if app.provider.callback.signature is None:
            raise Misconfigured(f"{app.provider.id} signs no callback.")
        app, told = self._believed(app, callback, now)
        tokens = TokenSet(access_token=None, obtained_at=now, extras=told)
        return Granted(tokens=tokens, account=accounts.named(app, Evidence(callback=callback)))

    def _believed(
        self, app: App, callback: Mapping[str, str], now: datetime
    ) -> tuple[App, dict[str, str]]:
        """The app with what the callback fills, and what is kept of the callback."""
        fields = signatures.verified(app, list(callback.items()), now=now)
        check_issuer(app, fields)
        told = callback_values(app, fields)
        return replace(app, values={**app.values, **told}), told

    async def _finished(
        self,
        app: App,
        read: Read,
        told: Mapping[str, str],
        callback: Mapping[str, str],
        nonce: str | None,
    ) -> Granted:
        """All that follows a first reply: proof, further requests, and whose it is."""
        now = read.tokens.obtained_at
        claims = await self._claims(app, read, nonce)
        # What the token endpoint says counts more than what a browser brought.
        tokens = replace(read.tokens, extras={**told, **read.tokens.extras})
        reply = read.document
        for step in app.provider.steps:
            if step.gives == "tokens":
                answer = await self._call(
                    requests.step_request(app, first_attempt(app, now), step, tokens)
                )
                longer = reading.token_set(app, answer, now=now, former=tokens)
                tokens, reply = longer.tokens, {**reply, **longer.document}
            elif step.gives == "extras":
                answer = await self._asked(
                    requests.step_request(app, first_attempt(app, now), step, tokens)
                )
                found = reading.step_extras(app, step, answer, now=now, former=tokens)
                tokens = replace(tokens, extras={**tokens.extras, **found})
        tokens = await self._with_further_tokens(app, tokens, now)
        evidence = Evidence(reply=reply, claims=claims, callback=callback)
        account = await self._account(app, tokens, evidence, now)
        choices = await self.choices(app, tokens, now=now)
        if len(choices) == 1:
            return Granted(tokens=reading.chosen(tokens, choices[0]), account=account)
        return Granted(tokens=tokens, account=account, choices=choices)

    async def _with_further_tokens(self, app: App, tokens: TokenSet, now: datetime) -> TokenSet:
        """Ask for the tokens that are had with the refresh token; one that fails waits."""
        for name in further_tokens(app, tokens):
            if name in tokens.more:
                continue
            try:
                tokens = await self.refresh(app, tokens, now=now, name=name)
            except VaultError:
                continue  # the consent is good, and it is asked for again at a refresh
        return tokens

    # ID tokens

    async def _claims(self, app: App, read: Read, nonce: str | None) -> Claims | None:
        """The claims of the ID token, verified; ``None`` where there is none that can be."""
        oidc = id_token.expected(app.provider, app.endpoints)
        token, provider = read.id_token, app.provider
        wanted = provider.identity is not None and provider.identity.source == "id_token"
        if oidc is None or token is None:
            if wanted and oidc is not None and authorize.uses_nonce(app):
                raise id_token.IdTokenRefused("The provider sent no ID token.")
            return None
        issuer = issuer_of(app)
        if issuer is None:
            raise id_token.IdTokenRefused("The issuer of the ID token is not known.")
        found = app.endpoints.jwks_url if app.endpoints is not None else None
        jwks = found or (filling(app).url(oidc.jwks_url) if oidc.jwks_url else None)
        keys = await self._metadata.keys_of(token, oidc=oidc, issuer=issuer, jwks_url=jwks)

        def verified(secret: Secret | None) -> Claims:
            return id_token.verify(
                token,
                oidc=oidc,
                issuer=issuer,
                client_id=app.client_id,
                client_secret=secret,
                nonce=nonce,
                keys=keys,
                now=read.tokens.obtained_at,
                access_token=read.tokens.access_token,
            )

        for secret in app.client_secrets[:-1]:  # any of them may be the key, where it is shared
            with contextlib.suppress(id_token.IdTokenRefused):
                return verified(secret)
        return verified(app.client_secrets[-1] if app.client_secrets else None)

    # Whose it is

    async def identify(self, app: App, tokens: TokenSet, *, now: datetime) -> Account | None:
        """Whose account these tokens are of, where that can be asked; else ``None``.

        Raises ``CredentialRefused`` where the provider takes them for nobody's.
        """
        return await self._account(app, tokens, Evidence(), now, has_to_work=True)

    async def _account(
        self,
        app: App,
        tokens: TokenSet,
        evidence: Evidence,
        now: datetime,
        *,
        has_to_work: bool = False,
    ) -> Account | None:
        identity = app.provider.identity
        if identity is None:
            return None
        if identity.source == "access_token":
            return accounts.account_in_token(identity, tokens.access_token)
        if identity.source not in ("userinfo", "introspect"):
            return accounts.named(app, evidence)
        document = await self._answer_about(app, identity, tokens, now, has_to_work=has_to_work)
        if document is None:  # an ID token names the same person, where that is how they are named
            by_claim = identity.account == ["sub"] and evidence.claims is not None
            return accounts.account(identity, dict(evidence.claims or {})) if by_claim else None
        accounts.check_subject(document, evidence.claims)
        return accounts.account(identity, document)

    async def _answer_about(
        self,
        app: App,
        identity: Identity,
        tokens: TokenSet,
        now: datetime,
        *,
        has_to_work: bool,
    ) -> Any:  # noqa: ANN401 - any JSON
        """What the provider says of the account; ``None`` where it may not say it."""
        request = requests.identity_request(app, first_attempt(app, now), identity, tokens)
        if request is None:
            return None
        reply = await self._asked(request)
        if has_to_work and reply.status == UNAUTHORIZED:
            raise CredentialRefused("The provider does not accept this credential.")
        if reply.status in REFUSED:
            return None  # the scopes that were granted do not reach so far
        return reading.step_document(app, reply, now=now)

    async def choices(self, app: App, tokens: TokenSet, *, now: datetime) -> tuple[Choice, ...]:
        """The sites that these tokens reach, where the person has to take one."""
        for step in app.provider.steps:
            if step.gives != "choices":
                continue
            reply = await self._asked(
                requests.step_request(app, first_attempt(app, now), step, tokens)
            )
            found = reading.step_choices(app, step, reply, now=now, former=tokens)
            if not found:
                raise UpstreamFailed("This account reaches nothing that could be chosen.")
            return found
        return ()

    # What a person typed

    async def typed(
        self, app: App, values: Mapping[str, str | Secret], *, now: datetime
    ) -> Granted:
        """Take a key or a password, and try it where the provider's file says how."""
        tokens = typed_tokens(app, values, now=now)
        identity, account = app.provider.identity, None
        if identity is not None and identity.source == "userinfo":
            request = requests.identity_request(app, first_attempt(app, now), identity, tokens)
            if request is not None:
                reply = await self._asked(request)
                if reply.status in REFUSED:
                    raise CredentialRefused("The provider does not accept this credential.")
                document = reading.step_document(app, reply, now=now)
                account = accounts.account(identity, document)
        return Granted(tokens=tokens, account=account)

    # Later

    async def refresh(
        self, app: App, tokens: TokenSet, *, now: datetime, name: str | None = None
    ) -> TokenSet:
        """Renew the access token, or the further token of this name.

        Raises ``NoToken``, and ``Unresolved`` where there is nothing to renew it with.
        """
        provider = app.provider
        if provider.mode in OWN_GRANTS and name is None:
            return (await self._granted(app, now, tokens)).tokens
        check_age(provider, tokens, now)
        more = None
        if name is not None:
            more = next((one for one in provider.reply.more if one.name == name), None)
            if more is None:
                raise Invalid("This provider gives no such token.")

        async def ask(secret: Secret | None) -> TokenSet:
            request = requests.refresh_request(app, attempt(now, secret), tokens, name=name)
            reply = await self._call(request)
            return reading.renewed(app, reply, tokens, now=now, more=more)

        return await with_secrets(app, ask)

    def begin_refresh(
        self, app: App, tokens: TokenSet, *, now: datetime, then: Then
    ) -> Errand | None:
        """Begin to renew the access token; ``then`` hears the reply, for ``reading.renewed``.

        The short way of ``refresh``, for a client of one secret whose request can leave at once.
        ``None``: it was not sent. Then ``refresh`` is the way, which also says why not.
        """
        if len(app.client_secrets) > 1 or app.provider.mode in OWN_GRANTS:
            return None
        try:
            check_age(app.provider, tokens, now)
            request = requests.refresh_request(app, first_attempt(app, now), tokens)
        except VaultError:
            return None
        return self._egress.begin("provider", request, then)

    async def revoke(self, app: App, tokens: TokenSet, *, now: datetime) -> tuple[Revoked, ...]:
        """Give the tokens back; empty where the provider takes none. Raises for no failure."""
        try:
            names = [one.token for one in _revocations(app, tokens, now, None)]
        except (Invalid, Misconfigured, Unresolved) as error:
            failure = Failure(outcome="client", detail=error.message)
            return (Revoked(token="access_token", outcome="failed", failure=failure),)  # noqa: S106 - a name
        return tuple([await self._revoked(app, tokens, now, name) for name in names])

    async def _revoked(self, app: App, tokens: TokenSet, now: datetime, name: str) -> Revoked:
        async def ask(secret: Secret | None) -> Revoked:
            found = {one.token: one for one in _revocations(app, tokens, now, secret)}
            reply = await self._call(found[name].request)
            return given_back(app, reply, name, now=now)

        try:
            return await with_secrets(app, ask)
        except VaultError as error:
            return Revoked(token=name, outcome="failed", failure=failure_of(error))

    async def _granted(self, app: App, now: datetime, former: TokenSet | None = None) -> Read:
        if former is not None:
            told = {
                one: former.extras[one] for one in app.provider.variables if one in former.extras
            }
            app = replace(app, values={**app.values, **told})
        signed = app.provider.assertion is not None

        async def ask(secret: Secret | None) -> Read:
            reply = await self._call(requests.client_grant_request(app, attempt(now, secret)))
            kind: reading.Kind = "first" if former is None else "refresh"
            return reading.token_set(app, reply, now=now, former=former, kind=kind, asserted=signed)

        return await with_secrets(app, ask)

    # The device flow and OAuth 1.0a

    async def device_code(self, app: App, *, now: datetime) -> device.Started:
        """Ask for a code that the person types in elsewhere."""

        async def ask(secret: Secret | None) -> device.Started:
            request = requests.device_request(app, attempt(now, secret))
            plain = request.url.startswith("http://")  # egress decides whether that may be
            return device.started(await self._call(request), now=now, plain=plain)

        return await with_secrets(app, ask)

    async def device_poll(
        self, app: App, started: device.Started, *, interval: int, now: datetime
    ) -> tuple[device.Polled, Granted | None]:
        """Ask once whether the person has consented."""
        request = requests.device_token_request(
            app, first_attempt(app, now), device_code=started.device_code
        )
        try:
            reply = await self._call(request)
        except Unreachable:
            return device.Polled(state="waiting", interval=device.after_silence(interval)), None
        polled = device.polled(reply, started, interval=interval, now=now)
        if polled.state != "granted":
            return polled, None
        read = reading.token_set(app, reply, now=now)
        return polled, await self._finished(app, read, {}, {}, None)

    async def oauth1_begin(self, app: App, *, now: datetime) -> tuple[oauth1.Pair, str]:
        """Get a temporary token, and the address to which the person's browser is sent."""
        declared, authorize_ = _oauth1(app.provider), app.provider.authorize
        known = filling(app)
        request_url = known.url(declared.request_url)
        url = known.url(authorize_.url) if authorize_ and authorize_.url else None
        if request_url is None or authorize_ is None or url is None:
            raise Misconfigured(f"{app.provider.id} has no address for consent.")
        authorize.check_params(app)
        request = oauth1.temporary_request(
            request_url, _consumer(app), redirect_uri=app.redirect_uri, once=_once(now)
        )
        temporary = oauth1.temporary(await self._call(request), now=now)
        scopes, asked = app.provider.scopes, asked_scopes(app)
        params = known.params(authorize_.params) | dict(app.authorize_params)
        if asked:
            params[scopes.param] = scopes.separator.join(asked)
        return temporary, oauth1.authorize_url(url, temporary, params)

    async def oauth1_finish(
        self,
        app: App,
        temporary: oauth1.Pair,
        *,
        callback: Mapping[str, str],
        now: datetime,
    ) -> Granted:
        """Turn a verifier into a token."""
        app, told = self._believed(app, callback, now)
        verifier = oauth1.verifier_in(list(callback.items()), temporary)
        url = requests.token_url(app)
        request = oauth1.access_request(
            url, _consumer(app), temporary, verifier=verifier, once=_once(now)
        )
        capture = app.provider.reply.capture
        tokens = oauth1.access(await self._call(request), capture=capture, now=now)
        return await self._finished(app, Read(tokens=tokens, document={}), told, callback, None)

    # The wire

    def _call(self, request: Request) -> Awaitable[Reply]:
        return self._egress.call("provider", request)

    async def _asked(self, request: Request) -> Reply:
        """Ask what changes nothing; once more, where nobody answered."""
        try:
            reply = await self._call(request)
        except Unreachable:
            return await self._call(request)
        return await self._call(request) if reply.status >= SERVER_ERROR else reply


def _revocations(
    app: App, tokens: TokenSet, now: datetime, secret: Secret | None
) -> tuple[requests.Revocation, ...]:
    secret = secret or (app.client_secrets[0] if app.client_secrets else None)
    return requests.revoke_requests(app, attempt(now, secret), tokens)


def _oauth1(provider: Provider) -> OAuth1:
    if provider.oauth1 is None:
        raise Misconfigured(f"{provider.id} does not speak OAuth 1.0a.")
    return provider.oauth1


def _consumer(app: App) -> oauth1.Consumer:
    if not app.client_secrets:
        raise Unresolved("The integration has no client secret.")
    signature = _oauth1(app.provider).signature
    return oauth1.Consumer(key=app.client_id, secret=app.client_secrets[0], signature=signature)


def _once(now: datetime) -> oauth1.Once:
    return oauth1.Once(now, new_id("jti"))
