"""Where a person is sent to consent. Pure.

* PKCE with S256 wherever the provider's file does not forbid it; ``plain`` never.
* What a workspace adds never replaces what protects the flow: the state, the redirect address, the
  challenge, the nonce, the response's type and mode.
* A state that the provider would not carry is refused here and not by the provider.
"""

import hashlib
import re
import secrets
from base64 import urlsafe_b64encode
from typing import Final
from urllib.parse import quote, urlsplit

from vault.errors import Invalid, Misconfigured
from vault.oauth.app import App
from vault.oauth.filling import Params, Value, asked_scopes, filling, with_query
from vault.providers.schema import Authorize, Provider
from vault.secret import Secret

VERIFIER_BYTES: Final = 32  # 43 characters, the least that RFC 7636 allows

# What a workspace cannot set: whoever chose these could turn the answer over to somebody else.
OURS: Final = frozenset(
    {
        "client_id",
        "code_challenge",
        "code_challenge_method",
        "nonce",
        "redirect_uri",
        "request",
        "request_uri",
        "resource",
        "response_mode",
        "response_type",
        "state",
    }
)
_SPLIT: Final = re.compile(r"[\s,]+")


def make_verifier() -> Secret:
    """Make a PKCE verifier, for one flow."""
    return Secret(secrets.token_urlsafe(VERIFIER_BYTES))


def challenge(verifier: Secret) -> str:
    """The S256 challenge of a verifier (RFC 7636 section 4.2)."""
    digest = hashlib.sha256(verifier.reveal_bytes()).digest()
    return urlsafe_b64encode(digest).rstrip(b"=").decode()


def uses_pkce(provider: Provider) -> bool:
    """Is a challenge sent? ``unknown`` counts as allowed: who does not know it ignores it."""
    return provider.authorize is None or provider.authorize.pkce != "forbidden"


def uses_nonce(app: App) -> bool:
    """Does an ID token come back, so that it has to be tied to this flow?"""
    told = app.provider.oidc is not None or app.provider.discovery is not None
    return told and "openid" in asked_scopes(app)


def check_params(app: App) -> None:
    """Refuse parameters of a workspace's that would replace ours; for when they are stored."""
    authorize = app.provider.authorize or Authorize()
    taken = OURS | {authorize.rename.get(name, name) for name in OURS} | {app.provider.scopes.param}
    if found := sorted(taken & {name.lower() for name in app.authorize_params}):
        raise Invalid(f"{found[0]} is set by Keyturn.", pointer="/authorize_params")


def authorize_url(
    app: App, *, state: str, challenge: str | None = None, nonce: str | None = None
) -> str:
    """Build the address to which the person's browser is sent."""
    provider, authorize = app.provider, app.provider.authorize or Authorize()
    if authorize.state_max is not None and len(state) > authorize.state_max:
        raise Misconfigured(f"{provider.id} takes no state that is so long.")
    if uses_pkce(provider) and authorize.pkce == "required" and challenge is None:
        raise Misconfigured(f"{provider.id} asks for PKCE.")
    check_params(app)
    known = filling(app, callback_url=_callback_url(app, state), callback_origin=_origin(app))
    # Where discovery found the endpoint, it is there; else the file says where.
    found = app.endpoints.authorize_url if app.endpoints else None
    url = found or (known.url(authorize.url) if authorize.url else None)
    if url is None:
        raise Misconfigured(f"{provider.id} has no address for consent.")
    params = known.params(authorize.params) | _added(app)
    if provider.mode == "telegram_login":  # it has parameters of its own, and no others
        return with_query(url, params)
    standard = _standard(app, state, nonce)
    if challenge is not None and uses_pkce(provider):
        standard |= {"code_challenge": challenge, "code_challenge_method": "S256"}
    kept = {
        authorize.rename.get(name, name): value
        for name, value in standard.items()
        if name not in authorize.omit
    }
    return with_query(url, params | kept)


def _standard(app: App, state: str, nonce: str | None) -> Params:
    scopes = app.provider.scopes
    asked = scopes.separator.join(asked_scopes(app))
    found: dict[str, str | None] = {
        "response_type": "code",
        "client_id": app.client_id,
        "redirect_uri": app.redirect_uri,
        "state": state,
        "nonce": nonce,
        "resource": app.endpoints.resource if app.endpoints else None,
    }
    standard: Params = {name: value for name, value in found.items() if value}
    # ``omit`` knows it as "scope", whatever the provider calls it.
    omitted = app.provider.authorize is not None and "scope" in app.provider.authorize.omit
    return standard | ({scopes.param: asked} if asked and not omitted else {})


def _added(app: App) -> dict[str, Value]:
    """What a workspace adds; a second list of scopes is written as the provider wants it."""
    separators = {more.param: more.separator for more in app.provider.scopes.more}
    return {
        name: separators[name].join(filter(None, _SPLIT.split(value)))
        if name in separators
        else value
        for name, value in app.authorize_params.items()
    }


def _callback_url(app: App, state: str) -> str:
    """For a provider without a state parameter: the redirect address carries it."""
    mark = "&" if urlsplit(app.redirect_uri).query else "?"
    return f"{app.redirect_uri}{mark}state={quote(state, safe='')}"


def _origin(app: App) -> str:
    parts = urlsplit(app.redirect_uri)
    return f"{parts.scheme}://{parts.netloc}"
