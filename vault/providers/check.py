"""What a type cannot refuse: rules between the fields of one provider. Pure."""

import re
from collections.abc import Iterator
from typing import Final
from urllib.parse import urlsplit

from vault.providers.schema import (
    CONSENT_MODES,
    ENGINE_NAMES,
    TYPED_MODES,
    Provider,
    Variable,
)

NAME: Final = re.compile(r"\{([a-z][a-z0-9_]*)\}")
ENCODED: Final = re.compile(r"\{base64\(([^()]*)\)\}")
# The one name that is a claim of an ID token (Microsoft's issuer holds the user's tenant).
CLAIM: Final = "tid"
# What the credentials of these modes are called.
TYPED_NAMES: Final = {
    "api_key": {"api_key"},
    "basic": {"username", "password"},
    "custom_header": {"header_name", "header_value"},
}

_WITH_PARAMS: Final = ("authorize", "token", "refresh", "revoke")

Problem = tuple[str, str]


def problems(provider: Provider) -> Iterator[Problem]:
    """Every rule that this provider breaks, as the path of the field and the reason."""
    yield from _status(provider)
    yield from _variables(provider)
    yield from _templates(provider)
    yield from _hosts(provider)
    if provider.status != "unsupported":
        yield from _mode(provider)
    yield from _reply(provider)
    yield from _refresh(provider)
    yield from _rows(provider)


def captured(provider: Provider) -> set[str]:
    """The names of what is kept of callback, replies and further steps."""
    names = {*provider.callback.capture, *provider.reply.capture}
    return names.union(*(step.fields for step in provider.steps))


def templates(provider: Provider) -> Iterator[tuple[str, str]]:
    """Every text with placeholders, and the path of its field."""
    yield from _urls(provider)
    yield from _groups(provider)
    for part in ("revoke", "identity"):
        yield f"{part}.authorization", getattr(getattr(provider, part), "authorization", "") or ""
    for number, step in enumerate(provider.steps):
        yield f"steps[{number}].authorization", step.authorization or ""
    for number, token in enumerate(provider.reply.more):
        yield f"reply.more[{number}].scope", token.scope or ""
    for number, scope in enumerate(provider.scopes.default):
        yield f"scopes.default[{number}]", scope
    for field in ("key_id", "issuer", "subject", "audience"):
        yield f"assertion.{field}", getattr(provider.assertion, field, "") or ""
    yield "api.header", provider.api.header
    if provider.mode != "telegram_login":
        yield "api.value", provider.api.value


def _groups(provider: Provider) -> Iterator[tuple[str, str]]:
    groups = {f"{part}.params": getattr(provider, part) for part in _WITH_PARAMS}
    groups |= {f"steps[{number}].params": step for number, step in enumerate(provider.steps)}
    for path, part in groups.items():
        for name, text in getattr(part, "params", {}).items():
            yield f"{path}.{name}", text
    for path, part in (("token", provider.token), ("api", provider.api)):
        for name, text in getattr(part, "headers", {}).items():
            yield f"{path}.headers.{name}", text


def _urls(provider: Provider) -> Iterator[tuple[str, str]]:
    for part in ("authorize", "token", "revoke", "refresh", "introspect", "identity", "device"):
        url = getattr(getattr(provider, part), "url", None)
        yield f"{part}.url", url or ""
    yield "api.base_url", provider.api.base_url or ""
    if provider.oidc:
        yield "oidc.issuer", provider.oidc.issuer
        yield "oidc.jwks_url", provider.oidc.jwks_url or ""
    if provider.discovery:
        yield "discovery.of", provider.discovery.of
    if provider.oauth1:
        yield "oauth1.request_url", provider.oauth1.request_url
    for number, step in enumerate(provider.steps):
        yield f"steps[{number}].url", step.url


def _status(provider: Provider) -> Iterator[Problem]:
    if provider.status in ("unsupported", "retired") and not provider.reason:
        yield "reason", f"a provider that is {provider.status} says why"
    if provider.status == "active" and provider.reason:
        yield "reason", "an active provider needs none"
    if provider.mode is None and provider.status != "unsupported":
        yield "mode", "it is missing"


def _variables(provider: Provider) -> Iterator[Problem]:
    for name, variable in provider.variables.items():
        path = f"variables.{name}"
        if name in ENGINE_NAMES:
            yield path, "the engine uses this name itself"
        if variable.filled_by == "callback" and name not in provider.callback.capture:
            yield path, "callback.capture does not say which parameter fills it"
        if variable.kind == "secret" and (variable.default or variable.example):
            yield path, "a secret has neither default nor example"
        if variable.pattern is not None:
            yield from _pattern(path, variable, variable.pattern)
        elif variable.kind in ("host", "url"):
            yield f"{path}.pattern", f"a {variable.kind} that others choose needs one"


def _pattern(path: str, variable: Variable, pattern: str) -> Iterator[Problem]:
    if not (pattern.startswith("^") and pattern.endswith("$")):
        yield f"{path}.pattern", "anchor it with ^ and $"
    # Plain http is for who registers the app, and then egress decides; never for who connects.
    schemes = ("^https://", "^https?://") if variable.filled_by == "integration" else ("^https://",)
    if variable.kind == "url" and not pattern.startswith(schemes):
        yield f"{path}.pattern", "it has to begin with ^https://"
    try:
        compiled = re.compile(pattern, re.ASCII)
    except re.error as error:
        yield f"{path}.pattern", f"not a regular expression: {error}"
        return
    for field in ("default", "example"):
        value = getattr(variable, field)
        if value is not None and not compiled.fullmatch(value):
            yield f"{path}.{field}", "it does not match the pattern"


def _templates(provider: Provider) -> Iterator[Problem]:
    known = ENGINE_NAMES | provider.variables.keys() | captured(provider)
    known |= TYPED_NAMES.get(provider.mode or "", set())
    for path, text in templates(provider):
        flat = ENCODED.sub(r"\1", text)
        names = set(NAME.findall(flat))
        if path == "oidc.issuer":
            names.discard(CLAIM)
        for name in sorted(names - known):
            yield path, f"nothing fills {{{name}}}"
        if {"{", "}"} & set(NAME.sub("", flat)):
            yield path, "a placeholder is {name} or {base64(...)}, nothing else"


def _hosts(provider: Provider) -> Iterator[Problem]:
    extras = captured(provider) - provider.variables.keys()
    for path, url in _urls(provider):
        # netloc, or a placeholder that holds scheme and host: what decides whom we talk to.
        place = urlsplit(url).netloc if url.startswith("https://") else url.partition("/")[0]
        for name in NAME.findall(place):
            variable = provider.variables.get(name)
            if variable is not None and variable.kind not in ("host", "url"):
                yield path, f'{{{name}}} stands in the host: its kind has to be "host" or "url"'
            if name in extras and not provider.api.hosts:
                yield path, f"{{{name}}} comes from a reply: api.hosts has to say what is believed"


def _mode(provider: Provider) -> Iterator[Problem]:
    token_url = provider.token.url if provider.token else None
    found = provider.discovery is not None
    mode = provider.mode
    if mode in CONSENT_MODES | {"client_credentials", "jwt_bearer"} and not (token_url or found):
        yield "token.url", f"the mode {mode} needs it"
    if mode in ("authorization_code", "oauth1", "telegram_login") and not (
        (provider.authorize and provider.authorize.url) or found
    ):
        yield "authorize.url", f"the mode {mode} needs it"
    if mode == "jwt_bearer" and provider.assertion is None:
        yield "assertion", "the mode jwt_bearer needs it"
    if mode == "oauth1" and provider.oauth1 is None:
        yield "oauth1", "the mode oauth1 needs it"
    if mode == "device_code" and not (provider.device or found):
        yield "device", "the mode device_code needs it"
    if mode in TYPED_MODES and provider.token:
        yield "token", f"the mode {mode} makes no token request"
    if provider.client.auth == "signed_secret" and provider.assertion is None:
        yield "assertion", "client.auth signed_secret needs it"
    if provider.assertion and provider.assertion.key not in provider.variables:
        yield "assertion.key", "there is no such variable"
    if provider.revoke and not (provider.revoke.url or found):
        yield "revoke.url", "it is missing"


def _reply(provider: Provider) -> Iterator[Problem]:
    reply = provider.reply
    if (reply.expires_at is None) != (reply.expires_at_format is None):
        yield "reply.expires_at_format", "expires_at and its format come together"
    if reply.never_expires and reply.lifetime_seconds:
        yield "reply.never_expires", "then it has no lifetime_seconds"
    for number, more in enumerate(reply.more):
        if more.root is None and more.scope is None:
            yield f"reply.more[{number}]", "say the root in the reply, or the scope to ask for"
    more_names = {more.name for more in reply.more}
    for number, scopes in enumerate(provider.scopes.more):
        if scopes.for_token is not None and scopes.for_token not in more_names:
            yield f"scopes.more[{number}].for_token", "reply.more has no such token"


def _refresh(provider: Provider) -> Iterator[Problem]:
    refresh = provider.refresh
    if (refresh.issued == "conditional") != (refresh.when is not None):
        yield "refresh.when", 'say when, and only when, issued is "conditional"'
    if refresh.grace_seconds and refresh.old_refresh_token not in ("grace", "until_used"):
        yield "refresh.grace_seconds", 'only "grace" and "until_used" have one'
    if refresh.slides is not None and refresh.end_seconds is None:
        yield "refresh.slides", "it is about end_seconds, which is missing"
    if refresh.replay_revokes and refresh.old_refresh_token == "stays_valid":
        yield "refresh.replay_revokes", "what stays valid can be used again"
    if refresh.method == "GET" and refresh.sends == "refresh_token":
        yield "refresh.method", "a refresh token is never put into a URL"


def _rows(provider: Provider) -> Iterator[Problem]:
    for number, row in enumerate(provider.errors.rows):
        if row.status is None and row.code is None and row.detail is None:
            yield f"errors.rows[{number}]", "it would fit every answer: give status, code or detail"
    for number, step in enumerate(provider.steps):
        if (step.gives == "tokens") == bool(step.fields):
            yield f"steps[{number}].fields", "extras and choices have fields, tokens have none"
    asked = provider.identity is not None and provider.identity.source == "userinfo"
    if asked and not (provider.identity and provider.identity.url) and not provider.discovery:
        yield "identity.url", "userinfo needs it"
