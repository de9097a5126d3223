"""The token endpoint of the sandbox's own provider: who asks, and what they get."""

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import parse_qsl

from msgspec import Struct

from broker.sandbox.clients import Refused, asserted, authenticated
from broker.sandbox.dialect import IdToken
from broker.sandbox.grants import Family, Token, TokenKind, Unusable
from broker.sandbox.minting import Minting, first_reply, proves, reply
from broker.sandbox.state import Sandbox
from vault.oauth import JWT_GRANT

DEVICE_GRANT: Final = "urn:ietf:params:oauth:grant-type:device_code"
REALM: Final = ""  # of the sandbox's own provider
REPLY: Final = {
    "access_token": "{access_token}",
    "token_type": "Bearer",
    "expires_in": "{expires_in}",
    "refresh_token": "{refresh_token}",
    "scope": "{scope}",
}
# What a scope adds to an ID token and to userinfo (OpenID Connect Core 5.4).
CLAIMS: Final[Mapping[str, Mapping[str, Any]]] = {
    "openid": {"sub": "{account}"},
    "profile": {"name": "{name}", "preferred_username": "{account}"},
    "email": {"email": "{email}", "email_verified": True},
}


class Asking(Struct, frozen=True, kw_only=True):
    """A token request."""

    form: Mapping[str, str]
    authorization: str
    here: str
    number: int


def form_of(body: bytes) -> dict[str, str]:
    """A form in which nothing stands twice (RFC 6749 section 3.2)."""
    try:
        pairs = parse_qsl(body.decode(), keep_blank_values=True)
    except UnicodeDecodeError:
        raise Refused("invalid_request") from None
    if len({name for name, _ in pairs}) < len(pairs):
        raise Refused("invalid_request", reason="a parameter is there twice")
    return dict(pairs)


def answer(sandbox: Sandbox, asking: Asking) -> dict[str, Any]:
    """Give a token, or raise ``Refused``."""
    grant = asking.form.get("grant_type")
    if grant == "client_credentials":
        client_id = authenticated(sandbox, asking.form, asking.authorization)
        return _for_itself(sandbox, client_id, asking)
    if grant == JWT_GRANT:
        client_id = asserted(sandbox, asking.form.get("assertion", ""), "invalid_grant", 400)
        return _for_itself(sandbox, client_id, asking)
    if grant not in ("authorization_code", "refresh_token", DEVICE_GRANT):
        raise Refused("unsupported_grant_type")
    client_id = authenticated(sandbox, asking.form, asking.authorization, public=True)
    if grant == "authorization_code":
        return _exchanged(sandbox, client_id, asking)
    if grant == "refresh_token":
        return _refreshed(sandbox, client_id, asking)
    return _polled(sandbox, client_id, asking)


def _exchanged(sandbox: Sandbox, client_id: str, asking: Asking) -> dict[str, Any]:
    form = asking.form
    token = _used(sandbox, client_id, form.get("code", ""), "code", asking.number)
    asked = token.family.asked
    if form.get("redirect_uri") != asked["redirect_uri"]:
        raise Refused("invalid_grant", reason="redirect_uri differs")
    if not proves(asked.get("challenge", ""), form.get("code_verifier")):
        raise Refused("invalid_grant", reason="code_verifier does not fit")
    if form.get("resource", asked.get("resource")) != asked.get("resource"):
        raise Refused("invalid_target")  # RFC 8707 section 2.2
    return dict(first_reply(sandbox, token.family, _minting(sandbox, token.family, asking)))


def _refreshed(sandbox: Sandbox, client_id: str, asking: Asking) -> dict[str, Any]:
    form = asking.form
    token = _used(sandbox, client_id, form.get("refresh_token", ""), "refresh", asking.number)
    family = token.family
    if not set(form.get("scope", "").split()) <= set(family.scopes):
        raise Refused("invalid_scope")
    if form.get("resource", family.asked.get("resource")) != family.asked.get("resource"):
        raise Refused("invalid_target")
    how = _minting(sandbox, family, asking)
    try:
        pair = sandbox.ledger.refresh(token, how.issuing, asking.number)
    except Unusable as unusable:
        raise Refused("invalid_grant", reason=unusable.reason) from None
    return dict(reply(sandbox, family, pair, how))


def _polled(sandbox: Sandbox, client_id: str, asking: Asking) -> dict[str, Any]:
    found = sandbox.devices.poll(asking.form.get("device_code", ""), client_id)
    if found is None:
        raise Refused("invalid_grant")
    state, waiting = found
    if state != "allowed":
        raise Refused(state)
    family = sandbox.ledger.open(
        realm=REALM, client_id=client_id, account=waiting.account, scopes=waiting.scopes
    )
    return dict(first_reply(sandbox, family, _minting(sandbox, family, asking)))


def _used(sandbox: Sandbox, client_id: str, text: str, kind: TokenKind, number: int) -> Token:
    try:
        token = sandbox.ledger.use(text, kind, REALM, sandbox.issuing, number)
    except Unusable as unusable:
        raise Refused("invalid_grant", reason=f"{kind}: {unusable.reason}") from None
    if token.family.client_id != client_id:
        raise Refused("invalid_grant", reason=f"{kind}: another client's")
    return token


def _minting(sandbox: Sandbox, family: Family, asking: Asking) -> Minting:
    said = [claims for scope, claims in CLAIMS.items() if scope in family.scopes]
    template = REPLY | ({"id_token": "{id_token}"} if "openid" in family.scopes else {})
    return Minting(
        template=template,
        issuing=sandbox.issuing,
        here=asking.here,
        request=asking.number,
        id_token=IdToken(
            issuer="{here}", claims={name: one for part in said for name, one in part.items()}
        ),
    )


def _for_itself(sandbox: Sandbox, client_id: str, asking: Asking) -> dict[str, Any]:
    """A token of a client's own; ``id_token`` is another, for those who read that field."""
    scope, client = asking.form.get("scope", ""), sandbox.clients[client_id]
    if client.scopes is not None and not set(scope.split()) <= set(client.scopes):
        raise Refused("invalid_scope")
    family = sandbox.ledger.open(realm=REALM, client_id=client_id, scopes=tuple(scope.split()))
    how = _minting(sandbox, family, asking)
    pair = sandbox.ledger.give(family, how.issuing, refresh=False, request=asking.number)
    made = dict(reply(sandbox, family, pair, how))
    lifetime = how.issuing.lifetime
    other = sandbox.ledger.issue(family, "access", lifetime, request=asking.number)
    return {"id_token": other} | made
