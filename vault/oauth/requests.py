"""Every request of a flow, as the provider's file describes it. Pure: nothing is sent here.

* An endpoint that discovery found is used before the one in the file.
* Several client secrets are several attempts: each request is built for one of them.
* What identifies the client (``rename``, an omitted ``client_id``) holds for every request to the
  token endpoint; that an exchange goes without ``grant_type`` says nothing about a refresh.
* The API's own headers go along only where the API is: a developer's token is for no other host.
"""

import contextlib
from collections.abc import Mapping
from datetime import datetime
from typing import Final, Literal
from urllib.parse import urlsplit

from msgspec import Struct
from msgspec.structs import replace

from vault.egress import Request
from vault.errors import Invalid, Misconfigured, Unresolved
from vault.model import new_id
from vault.oauth import JWT_CLIENT, JWT_GRANT, TIMEOUTS, assertions, header
from vault.oauth.app import App, ClientAuth, Mould, TokenSet
from vault.oauth.filling import (
    Filling,
    Params,
    Value,
    asked_scopes,
    basic,
    bearer,
    filling,
    form_body,
    json_body,
    mould_of,
    moulded,
    with_query,
)
from vault.providers.derived import refreshes_alike
from vault.providers.schema import Identity, Revoke, Step, Token
from vault.secret import Secret

Format = Literal["form", "json", "query", "none"]
Headers = dict[str, Value]

DEVICE_GRANT: Final = "urn:ietf:params:oauth:grant-type:device_code"

# These prove themselves anew each time.
_SIGNED: Final[frozenset[ClientAuth]] = frozenset(
    {"private_key_jwt", "client_secret_jwt", "signed_secret"}
)
# Stands for a refresh token where a request is made for all of them.
_GAP: Final = Secret(new_id("gap"))
_METHODS: Final[dict[str, ClientAuth]] = {
    "client_secret_basic": "basic",
    "client_secret_post": "post",
    "client_secret_jwt": "client_secret_jwt",
    "private_key_jwt": "private_key_jwt",
    "none": "none",
}


class Attempt(Struct, frozen=True, kw_only=True):
    """One try: at what time, with which of the client's secrets, and with which ``jti``.

    ``jti`` None: a new one, made where the request is signed; most are not.
    """

    now: datetime
    jti: str | None = None
    secret: Secret | None = None

    def __repr__(self) -> str:
        return "Attempt(***)"


class Revocation(Struct, frozen=True, kw_only=True):
    """A token to be given back. ``token``: the kind, or the name of a further token."""

    token: str
    request: Request


class _Way(Struct, frozen=True, kw_only=True):
    """How a request reaches the token endpoint, where it is not as the file's ``token`` says."""

    omit: tuple[str, ...] = ()
    url: str | None = None
    method: str = "POST"
    form: Format | None = None
    headers: Headers = {}
    known: Filling | None = None  # where tokens fill something, too, such as the endpoint


# The token endpoint


def exchange_request(
    app: App, attempt: Attempt, *, code: Secret, verifier: Secret | None
) -> Request:
    """A code for tokens."""
    token = app.provider.token or Token()
    standard: Params = {"grant_type": "authorization_code", "code": code}
    standard |= {"redirect_uri": app.redirect_uri} if app.redirect_uri else {}
    standard |= {"code_verifier": verifier} if verifier else {}
    params = _filling(app, attempt).params(token.params)
    return _to_token_endpoint(app, attempt, standard, params, _Way(omit=tuple(token.omit)))


def push_request(app: App, attempt: Attempt, asked: Params) -> Request:
    """Tell the server what its consent page will be asked for (RFC 9126 section 2.1)."""
    url = app.endpoints.push_url if app.endpoints is not None else None
    if url is None:
        raise Misconfigured(f"{app.provider.id} has no address for pushed requests.")
    proof, headers = _client(app, attempt, token_url(app))
    return sent_as("POST", url, asked | proof, "form", headers, app)


def device_request(app: App, attempt: Attempt) -> Request:
    """Ask for a code that the person types in elsewhere (RFC 8628 section 3.1)."""
    device, found = app.provider.device, app.endpoints
    url = found.device_url if found is not None else None
    if url is None and device is not None:
        url = filling(app).url(device.url)
    if url is None:
        raise Misconfigured(f"{app.provider.id} has no address for device codes.")
    proof, headers = _client(app, attempt, token_url(app))
    scopes, asked = app.provider.scopes, asked_scopes(app)
    scope: Params = {scopes.param: scopes.separator.join(asked)} if asked else {}
    return sent_as("POST", url, {"client_id": app.client_id} | proof | scope, "form", headers, app)


def device_token_request(app: App, attempt: Attempt, *, device_code: Secret) -> Request:
    """A device code for tokens (RFC 8628 section 3.4)."""
    token = app.provider.token or Token()
    standard: Params = {"grant_type": DEVICE_GRANT, "device_code": device_code}
    params = _filling(app, attempt).params(token.params)
    return _to_token_endpoint(app, attempt, standard, params, _Way(omit=tuple(token.omit)))


def client_grant_request(app: App, attempt: Attempt) -> Request:
    """Tokens for the app itself: client credentials, or a JWT that we sign."""
    token = app.provider.token or Token()
    asked, signed = asked_scopes(app), app.provider.assertion
    params = _filling(app, attempt).params(token.params)
    standard: Params = {"grant_type": "client_credentials"}
    if signed is not None and signed.sent_as != "client_secret":
        jwt = _provider_jwt(app, attempt)
        if signed.sent_as == "bearer":
            headers: Headers = {"Authorization": bearer(jwt)}
            return _to_token_endpoint(app, None, {}, params, _Way(headers=headers))
        standard = {"grant_type": JWT_GRANT, "assertion": jwt}
    if asked and not (signed and signed.scope_claim):
        standard[app.provider.scopes.param] = app.provider.scopes.separator.join(asked)
    return _to_token_endpoint(app, attempt, standard, params, _Way(omit=tuple(token.omit)))


def refresh_request(
    app: App, attempt: Attempt, tokens: TokenSet, *, name: str | None = None
) -> Request:
    """A new access token for an old one's place; ``name``: of a further token, not the main one."""
    sent = tokens.refresh_token
    if name is None and sent is not None and not tokens.values:
        mould = _refresh_mould(app, attempt)
        if mould is not None:
            return moulded(mould, sent)
    more = next((one for one in app.provider.reply.more if one.name == name), None)
    if more is not None and more.scope is None:
        extra = tokens.more.get(more.name)
        sent = extra.refresh_token if extra else None
    if app.provider.refresh.sends == "access_token" and tokens.access_token is None:
        raise Unresolved("There is no token to renew.")
    known = _filling(app, attempt, tokens)
    scope: Params = {}
    if more is not None and more.scope is not None:
        asked = known.text(more.scope)
        if asked is None:
            raise Unresolved(f"The token {more.name} needs a value that is empty.")
        scope = {"scope": asked}
    return _refresh_request(app, attempt, known, sent, scope)


def _refresh_mould(app: App, attempt: Attempt) -> Mould | None:
    """The request of all connections that bring nothing but a refresh token, if that is one."""
    for secret, mould in app.refresh_moulds:
        if secret is attempt.secret:
            return mould
    mould = None
    token, refresh = app.provider.token or Token(), app.provider.refresh
    is_form = (refresh.format or token.format) == "form" and refresh.sends == "refresh_token"
    if is_form and client_auth(app) not in _SIGNED and refreshes_alike(app.provider):
        # What a token of the connection's would fill is not known here, and so raises.
        with contextlib.suppress(Unresolved, Invalid, Misconfigured):
            request = _refresh_request(app, attempt, _filling(app, attempt), _GAP, {})
            mould = mould_of(request, _GAP)
    app.refresh_moulds.append((attempt.secret, mould))
    return mould


def _refresh_request(
    app: App, attempt: Attempt, known: Filling, sent: Secret | None, scope: Params
) -> Request:
    refresh, token = app.provider.refresh, app.provider.token or Token()
    standard: Params = {}
    if refresh.sends == "refresh_token":
        if sent is None:
            raise Unresolved("There is no refresh token.")
        standard = {"grant_type": "refresh_token", "refresh_token": sent}
    way = _Way(
        omit=(*refresh.omit, *(one for one in token.omit if one != "grant_type")),
        url=known.url(refresh.url) if refresh.url else None,
        method=refresh.method,
        form=refresh.format,
        known=known,
    )
    params = known.params(refresh.params) | scope
    return _to_token_endpoint(app, attempt, standard, params, way)


def _to_token_endpoint(
    app: App, attempt: Attempt | None, standard: Params, params: Params, way: _Way
) -> Request:
    token = app.provider.token or Token()
    known = way.known or (filling(app) if attempt is None else _filling(app, attempt))
    url = _token_url(app, known)
    proof, shown = _client(app, attempt, url) if attempt else ({}, {})
    fields: Params = {
        token.rename.get(name, name): value
        for name, value in (standard | proof).items()
        if name not in way.omit
    }
    fields |= params
    if app.endpoints is not None and app.endpoints.resource is not None:
        fields["resource"] = app.endpoints.resource  # RFC 8707
    headers: Headers = dict(known.params(token.headers))
    form = way.form or token.format
    return sent_as(way.method, way.url or url, fields, form, headers | shown | way.headers, app)


def token_url(app: App, tokens: TokenSet | None = None) -> str:
    """Where tokens are asked for; a callback may have named the server, once and for all."""
    return _token_url(app, filling(app, tokens))


def _token_url(app: App, known: Filling) -> str:
    if app.endpoints is not None and app.endpoints.token_url is not None:
        return app.endpoints.token_url
    token = app.provider.token
    url = known.url(token.url) if token and token.url else None
    if url is None:
        raise Misconfigured(f"{app.provider.id} has no token endpoint.")
    return url


# How the client shows who it is


def client_auth(app: App) -> ClientAuth:
    """By the integration, else by what discovery found, else by the file."""
    if app.client_auth is not None:
        return app.client_auth
    declared = app.provider.client.auth
    if app.endpoints is None or app.provider.discovery is None:
        return declared
    if not app.client_secrets:
        return "none"
    # RFC 8414 section 2: where nothing is said, it is Basic.
    offered = [_METHODS[one] for one in app.endpoints.client_auth if one in _METHODS] or ["basic"]
    if declared != "none" and declared in offered:
        return declared
    return next((one for one in ("basic", "post") if one in offered), offered[0])


def _client(app: App, attempt: Attempt, audience: str) -> tuple[Params, Headers]:
    """The parameters and the headers that identify the client."""
    auth, secret = client_auth(app), attempt.secret
    named: Params = {"client_id": app.client_id} if app.client_id else {}
    if auth == "signed_secret":
        return named | {"client_secret": _provider_jwt(app, attempt)}, {}
    if auth == "none" or (secret is None and auth in ("post", "basic", "basic_raw")):
        return named, {}  # a public client
    if secret is None:
        raise Unresolved("The integration has no client secret.")
    if auth in ("basic", "basic_raw"):
        return {}, {"Authorization": basic(app.client_id, secret, encoded=auth == "basic")}
    if auth == "secret_as_user":
        return {}, {"Authorization": basic(secret, "", encoded=False)}
    if auth == "post":
        return named | {"client_secret": secret}, {}
    proof = assertions.client_assertion(
        replace(app, client_auth=auth),
        secret,
        audience=audience,
        now=attempt.now,
        jti=attempt.jti or new_id("jti"),
    )
    return named | {"client_assertion_type": JWT_CLIENT, "client_assertion": proof}, {}


def _provider_jwt(app: App, attempt: Attempt) -> Secret:
    scoped = replace(app, scopes=asked_scopes(app))
    return assertions.provider_assertion(scoped, now=attempt.now, jti=attempt.jti or new_id("jti"))


def _filling(app: App, attempt: Attempt, tokens: TokenSet | None = None) -> Filling:
    return filling(app, tokens, client_secret=attempt.secret)


# Giving back


def revoke_requests(app: App, attempt: Attempt, tokens: TokenSet) -> tuple[Revocation, ...]:
    """One request for each token that has to be given back; none where the provider knows none."""
    revoke = app.provider.revoke
    if revoke is None or _revoke_url(app, _filling(app, attempt, tokens)) is None:
        return ()
    return tuple(
        Revocation(token=name, request=_revoke_request(app, attempt, revoke, tokens, token))
        for name, token in _to_revoke(revoke, tokens)
    )


def takes_back(app: App, tokens: TokenSet) -> bool:
    """Is there somewhere to give these tokens back to?"""
    return app.provider.revoke is not None and _revoke_url(app, filling(app, tokens)) is not None


def _to_revoke(revoke: Revoke, tokens: TokenSet) -> list[tuple[str, Secret]]:
    # RFC 7009 takes either token; what is called otherwise is for one kind.
    by_client = revoke.auth in ("client", "basic", "none")
    plain = revoke.token_param == Revoke().token_param and by_client
    access, refresh = tokens.access_token, tokens.refresh_token
    if revoke.kills == "grant":
        # Any one ends all. The refresh token is the one that surely lives.
        if refresh is not None and plain and not revoke.params:
            return [("refresh_token", refresh)]
        access = access or next((one.access_token for one in tokens.more.values()), None)
        return [("access_token", access)] if access else []
    found = [("access_token", access)] if access else []
    if refresh is not None and plain and not revoke.params:
        found.append(("refresh_token", refresh))
    return found + [(name, one.access_token) for name, one in tokens.more.items()]


def _revoke_request(
    app: App, attempt: Attempt, revoke: Revoke, tokens: TokenSet, token: Secret
) -> Request:
    known = _filling(app, attempt, replace(tokens, access_token=token))
    url = _revoke_url(app, known)
    if url is None:
        raise Misconfigured(f"{app.provider.id} has no address for giving a token back.")
    fields, headers = known.params(revoke.params), dict[str, Value]()
    if not fields and revoke.auth != "bearer":
        fields = {revoke.token_param: token}
    if revoke.auth in ("client", "basic"):
        shown = replace(app, client_auth="basic") if revoke.auth == "basic" else app
        proof, headers = _client(shown, attempt, token_url(app, tokens))
        rename = app.provider.token.rename if app.provider.token else {}
        fields = {rename.get(name, name): value for name, value in proof.items()} | fields
    elif revoke.auth == "bearer":
        headers = {"Authorization": bearer(token)}
    elif revoke.auth == "header" and revoke.authorization is not None:
        headers = _authorized(known, revoke.authorization)
    return sent_as(revoke.method, url, fields, revoke.format, headers, app)


def _revoke_url(app: App, known: Filling) -> str | None:
    if app.endpoints is not None and app.endpoints.revoke_url is not None:
        return app.endpoints.revoke_url
    revoke = app.provider.revoke
    return known.url(revoke.url) if revoke and revoke.url else None


# Who it is, and what else is asked


def identity_request(
    app: App, attempt: Attempt, identity: Identity, tokens: TokenSet
) -> Request | None:
    """Ask whose account it is; ``None`` where there is nobody to ask."""
    known = _filling(app, attempt, tokens)
    asks_whether = identity.source == "introspect"
    url = _identity_url(app, identity, known)
    if url is None:
        return None
    if asks_whether:
        if tokens.access_token is None:
            return None
        proof, headers = _client(app, attempt, token_url(app, tokens))
        return sent_as("POST", url, {"token": tokens.access_token} | proof, "form", headers, app)
    headers = _credential(app, known, tokens, identity.authorization, url)
    body: Params = dict(identity.body)  # a query of theirs, in which braces are braces
    form: Format = "json" if body else "none"
    return sent_as(identity.method, url, body, form, headers, app)


def _identity_url(app: App, identity: Identity, known: Filling) -> str | None:
    found = app.endpoints
    if identity.source == "introspect":
        if found is not None and found.introspect_url is not None:
            return found.introspect_url
        introspect = app.provider.introspect
        file = identity.url or (introspect.url if introspect else None)
    else:
        if found is not None and found.userinfo_url is not None:
            return found.userinfo_url
        file = identity.url
    return known.url(file) if file else None


def step_request(app: App, attempt: Attempt, step: Step, tokens: TokenSet) -> Request:
    """One more request after the exchange."""
    known = _filling(app, attempt, tokens)
    url = known.url(step.url)
    if url is None:
        raise Misconfigured(f"{app.provider.id}: the step {step.name} has no address.")
    headers: Headers = {}
    if step.authorization is not None or step.gives != "tokens":
        headers = _credential(app, known, tokens, step.authorization, url)
    return sent_as(step.method, url, known.params(step.params), "form", headers, app)


def _credential(
    app: App, known: Filling, tokens: TokenSet, authorization: str | None, url: str
) -> Headers:
    """The credential as the file says it for this one request, or as the API takes it."""
    if authorization is not None:
        return _authorized(known, authorization)
    rendered = header.rendered(app.provider, tokens, header.values_of(app))
    headers: Headers = dict([rendered]) if rendered else {}
    if _is_at_the_api(app, known, url):
        headers = {**dict(header.others(known, app.provider)), **headers}
    return headers


def _is_at_the_api(app: App, known: Filling, url: str) -> bool:
    try:
        base = known.url(app.provider.api.base_url) if app.provider.api.base_url else None
    except (Unresolved, Invalid):  # a choice that is not made yet
        base = None
    return base is not None and urlsplit(base).netloc == urlsplit(url).netloc


def _authorized(known: Filling, template: str) -> Headers:
    value = known.header(template)
    return {"Authorization": value} if value is not None else {}


def sent_as(
    method: str, url: str, fields: Mapping[str, Value], form: Format, headers: Headers, app: App
) -> Request:
    """A request whose fields travel in this form."""
    whole: Headers = {"Accept": "application/json"}
    body: Secret | None = None
    if method == "GET" or form == "query":
        url = with_query(url, fields)
    elif form == "json":
        whole["Content-Type"] = "application/json"
        body = json_body(fields)
    elif form == "form":
        whole["Content-Type"] = "application/x-www-form-urlencoded"
        body = form_body(fields)
    given = {name.lower() for name in headers}
    kept = {name: value for name, value in whole.items() if name.lower() not in given}
    return Request(
        method=method,
        url=url,
        headers=tuple((kept | headers).items()),
        body=body,
        timeout=TIMEOUTS,
        peer=app.provider.id,
    )
