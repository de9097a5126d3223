"""The sandbox's own provider: OAuth 2.0 and OpenID Connect as the specifications have them.

* A request whose client or redirect address is wrong ends on a page, and goes nowhere.
* Only ``code`` with ``S256``; a public client needs PKCE; every callback carries ``iss``.
* What a token opens is checked as it should be: realm, scope, and for ``/mcp`` the resource.
"""

import time
from collections.abc import Mapping
from typing import Any, Final, get_args

from broker.sandbox import pages
from broker.sandbox.clients import Refused, authenticated
from broker.sandbox.consent import Question, granted, sent_back
from broker.sandbox.dialect import Callback
from broker.sandbox.knobs import Client, IdAlgorithm
from broker.sandbox.minting import person
from broker.sandbox.pages import Answer, told
from broker.sandbox.shapes import filled
from broker.sandbox.state import Sandbox
from broker.sandbox.tokens import CLAIMS, DEVICE_GRANT, REALM
from vault.oauth import JWT_GRANT

SCOPES: Final = ("openid", "profile", "email", "offline_access")
CLIENT_AUTH: Final = (
    "client_secret_basic",
    "client_secret_post",
    "client_secret_jwt",
    "private_key_jwt",
    "none",
)
REQUEST_URI: Final = "urn:ietf:params:oauth:request_uri:"
PUSHED_LIFETIME: Final = 60.0  # seconds
CHALLENGE_LENGTH: Final = 43  # RFC 7636 section 4.2


class Wrong(Exception):
    """An authorization request that can be answered with an error."""

    def __init__(self, error: str, description: str = "") -> None:
        super().__init__(error)
        self.error = error
        self.description = description


def metadata(here: str) -> dict[str, Any]:
    """OpenID Connect Discovery 1.0 and RFC 8414: the same document."""
    return {
        "issuer": here,
        "authorization_endpoint": f"{here}/oauth/authorize",
        "token_endpoint": f"{here}/oauth/token",
        "userinfo_endpoint": f"{here}/oauth/userinfo",
        "revocation_endpoint": f"{here}/oauth/revoke",
        "introspection_endpoint": f"{here}/oauth/introspect",
        "device_authorization_endpoint": f"{here}/oauth/device",
        "registration_endpoint": f"{here}/oauth/register",
        "pushed_authorization_request_endpoint": f"{here}/oauth/par",
        "jwks_uri": f"{here}/oauth/jwks",
        "response_types_supported": ["code"],
        "response_modes_supported": ["query", "form_post"],
        "grant_types_supported": [
            "authorization_code",
            "refresh_token",
            "client_credentials",
            JWT_GRANT,
            DEVICE_GRANT,
        ],
        "code_challenge_methods_supported": ["S256"],
        "token_endpoint_auth_methods_supported": list(CLIENT_AUTH),
        "id_token_signing_alg_values_supported": list(get_args(IdAlgorithm)),
        "subject_types_supported": ["public"],
        "scopes_supported": list(SCOPES),
        "authorization_response_iss_parameter_supported": True,
    }


def resource_metadata(here: str) -> dict[str, Any]:
    """RFC 9728: of the one protected resource, an MCP server's address."""
    return {
        "resource": f"{here}/mcp",
        "authorization_servers": [here],
        "scopes_supported": list(SCOPES),
        "bearer_methods_supported": ["header"],
    }


def authorization(sandbox: Sandbox, given: Mapping[str, str], here: str, number: int) -> Answer:
    """RFC 6749 section 4.1.1 and OpenID Connect Core 3.1.2.1."""
    if "request_uri" in given:
        pushed = sandbox.pushed.pop(given["request_uri"], (0.0, {}))
        if time.monotonic() > pushed[0] or pushed[1].get("client_id") != given.get("client_id"):
            return _wrong(sandbox, number, "request_uri: unknown or expired")
        given = pushed[1]
    client = sandbox.clients.get(given.get("client_id", ""))
    if client is None:
        return _wrong(sandbox, number, "client_id: not registered")
    if given.get("redirect_uri") not in client.redirect_uris:
        return _wrong(sandbox, number, "redirect_uri: not registered, letter by letter")
    callback = Callback(method="POST" if given.get("response_mode") == "form_post" else "GET")
    always = {"iss": here} | ({"state": given["state"]} if "state" in given else {})
    try:
        scopes = checked(client, given)
    except Wrong as wrong:
        sandbox.history.add("refused", request=number, reasons=(wrong.error, wrong.description))
        values = {"error": wrong.error, "error_description": wrong.description} | always
        return sent_back(callback, given["redirect_uri"], values, "")

    def decide(account: str | None) -> Answer:
        values = dict(always)
        if account is None:
            values["error"] = "access_denied"
        else:
            values["code"] = _code(sandbox, given, scopes, account, number)
        return sent_back(callback, given["redirect_uri"], values, "")

    asking = Question(
        client=client.name or given["client_id"],
        scopes=scopes,
        hint=given.get("login_hint", ""),
        decide=decide,
    )
    if given.get("prompt") == "none" and sandbox.consent.auto is None:
        values = {"error": "login_required"} | always
        return sent_back(callback, given["redirect_uri"], values, "")
    return sandbox.questions.ask(asking, sandbox.consent, sandbox.people)


def checked(client: Client, given: Mapping[str, str]) -> tuple[str, ...]:
    """The scopes that are asked for, or ``Wrong``."""
    if given.get("response_type") != "code":
        raise Wrong("unsupported_response_type")
    if given.get("response_mode", "query") not in ("query", "form_post"):
        raise Wrong("invalid_request", "response_mode")
    challenge = given.get("code_challenge")
    if challenge is None and (client.public or "code_challenge_method" in given):
        raise Wrong("invalid_request", "code_challenge")
    if challenge is not None:
        if given.get("code_challenge_method") != "S256":
            raise Wrong("invalid_request", "code_challenge_method")
        if len(challenge) != CHALLENGE_LENGTH:
            raise Wrong("invalid_request", "code_challenge")
    scopes = tuple(given.get("scope", "").split())
    if client.scopes is not None and not set(scopes) <= set(client.scopes):
        raise Wrong("invalid_scope")
    return scopes


def push(sandbox: Sandbox, form: Mapping[str, str], authorization_header: str) -> Answer:
    """RFC 9126."""
    client_id = authenticated(sandbox, form, authorization_header, public=True)
    client = sandbox.clients[client_id]
    given = dict(form) | {"client_id": client_id}
    if "request_uri" in form or given.get("redirect_uri") not in client.redirect_uris:
        raise Refused("invalid_request")
    try:
        checked(client, given)
    except Wrong as wrong:
        raise Refused(wrong.error) from None
    name = REQUEST_URI + sandbox.random()
    sandbox.pushed[name] = (time.monotonic() + PUSHED_LIFETIME, given)
    return told({"request_uri": name, "expires_in": int(PUSHED_LIFETIME)}, 201)


def device_authorization(
    sandbox: Sandbox, form: Mapping[str, str], authorization_header: str, here: str
) -> Answer:
    """RFC 8628 section 3.1."""
    client_id = authenticated(sandbox, form, authorization_header, public=True)
    knob, scopes = sandbox.consent, tuple(form.get("scope", "").split())
    code, waiting = sandbox.devices.begin(
        client_id, scopes, knob.device_lifetime, knob.device_interval
    )
    if knob.auto is not None:
        device_question(sandbox, waiting.user_code)
    address = f"{here}/device"
    return told(
        {
            "device_code": code,
            "user_code": waiting.user_code,
            "verification_uri": address,
            "verification_uri_complete": f"{address}?user_code={waiting.user_code}",
            "expires_in": int(knob.device_lifetime),
            "interval": int(knob.device_interval),
        }
    )


def device_question(sandbox: Sandbox, user_code: str) -> Answer:
    """Ask about the device that shows this code."""
    waiting = sandbox.devices.by_user_code(user_code)
    if waiting is None:
        return pages.said("No such code", "It may have expired.", status=400)

    def decide(account: str | None) -> Answer:
        waiting.decided = "deny" if account is None else "allow"
        waiting.account = account or ""
        waiting.scopes = granted(sandbox.consent, waiting.scopes)
        return pages.said("Done", "You can close this page and go back to your device.")

    client = sandbox.clients.get(waiting.client_id)
    question = Question(
        client=(client.name if client else "") or waiting.client_id,
        scopes=waiting.scopes,
        decide=decide,
    )
    return sandbox.questions.ask(question, sandbox.consent, sandbox.people)


def revoke(
    sandbox: Sandbox, form: Mapping[str, str], authorization_header: str, number: int
) -> Answer:
    """RFC 7009: the whole consent ends; an unknown token is no error."""
    client_id = authenticated(sandbox, form, authorization_header, public=True)
    if "token" not in form:
        raise Refused("invalid_request")
    token = sandbox.ledger.find(form["token"], REALM)
    if token is not None and token.family.client_id != client_id:
        raise Refused("invalid_grant", reason="another client's token")
    if token is not None:
        sandbox.ledger.end_consent(token.family, "revoked", number)
    return Answer(headers=pages.NO_STORE)


def introspect(sandbox: Sandbox, form: Mapping[str, str], authorization_header: str) -> Answer:
    """RFC 7662: a client learns of its own tokens."""
    client_id = authenticated(sandbox, form, authorization_header)
    token = sandbox.ledger.find(form.get("token", ""), REALM)
    if token is None or not token.works or token.family.client_id != client_id:
        return told({"active": False})
    family = token.family
    found: dict[str, Any] = {
        "active": True,
        "client_id": family.client_id,
        "scope": " ".join(family.scopes),
        "token_type": "Bearer" if token.kind == "access" else token.kind,
        "iat": int(time.time() - time.monotonic() + token.issued_at),
    }
    if token.until is not None:
        found["exp"] = int(time.time() - time.monotonic() + token.until)
    if family.account:
        found["sub"] = family.account
    return told(found)


def userinfo(sandbox: Sandbox, bearer: str, number: int) -> Answer:
    """OpenID Connect Core 5.3."""
    token = sandbox.alive(bearer, REALM, number)
    if token is None:
        return unauthorized()
    if "openid" not in token.family.scopes:
        return told({"error": "insufficient_scope"}, 403)
    about = sandbox.issuing.wrong_user or token.family.account
    found: dict[str, Any] = {}
    for scope, claims in CLAIMS.items():
        if scope in token.family.scopes:
            found |= filled(claims, person(sandbox, about))
    known = sandbox.people.get(about)
    return told(found | (known.claims if known else {}))


def mcp(sandbox: Sandbox, bearer: str, here: str, number: int) -> Answer:
    """A protected resource that wants tokens made for it (RFC 8707, RFC 9728 section 5.1)."""
    token = sandbox.alive(bearer, REALM, number)
    if token is None or token.family.asked.get("resource") != f"{here}/mcp":
        place = f"{here}/.well-known/oauth-protected-resource/mcp"
        return unauthorized(f', resource_metadata="{place}"')
    return told({"jsonrpc": "2.0", "id": None, "result": {"account": token.family.account}})


def unauthorized(more: str = "") -> Answer:
    """RFC 6750 section 3."""
    header = {"WWW-Authenticate": f'Bearer error="invalid_token"{more}'}
    return told({"error": "invalid_token"}, 401, header)


def _code(
    sandbox: Sandbox, given: Mapping[str, str], scopes: tuple[str, ...], account: str, number: int
) -> str:
    names = {"code_challenge": "challenge"}
    kept = ("redirect_uri", "nonce", "resource", "code_challenge")
    family = sandbox.ledger.open(
        realm=REALM,
        client_id=given["client_id"],
        account=account,
        scopes=granted(sandbox.consent, scopes),
        asked={names.get(name, name): given[name] for name in kept if name in given},
    )
    return sandbox.ledger.issue(family, "code", sandbox.issuing.code_lifetime, request=number)


def _wrong(sandbox: Sandbox, number: int, reason: str) -> Answer:
    """No redirect: it may be an attacker's."""
    sandbox.history.add("refused", request=number, reasons=(reason,))
    return pages.said("This request is not right", reason, status=400)
