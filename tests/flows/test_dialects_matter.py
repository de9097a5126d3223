"""One field changed, on either side, and the walk through that provider's dialect is no more right.

``theirs`` are changes of the frozen dialect, ``ours`` of the catalogue's file. A path begins, for
``theirs``, with what an endpoint does; ``GONE`` takes the field away.
"""

import copy
from collections.abc import AsyncIterator
from typing import Any, Final

import pytest
from msgspec import convert, to_builtins
from msgspec.structs import fields, replace
from support.dialects import Recorded, recorded
from support.engine import CATALOGUE
from support.sandbox import Provider as Running
from support.sandbox import providing
from support.walks import differences

from broker.sandbox.dialect import Callback, Dialect, Endpoint, IdToken, Shape
from vault.providers.schema import Provider

GONE: Final = object()
Change = tuple[str, str, Any]

THEIRS: Final[list[Change]] = [
    ("slack", "authorize.request.method", "POST"),
    ("slack", "authorize.request.path", "slack.com/oauth/v1/authorize"),
    ("google", "authorize.request.query.access_type", "online"),
    ("google", "authorize.request.query.prompt", GONE),
    ("google", "authorize.request.query.code_challenge", GONE),
    ("google", "authorize.request.query.hd", "{domain}"),
    ("square", "authorize.request.query.code_challenge", "{challenge}"),
    ("tiktok", "authorize.request.query.client_key", GONE),
    ("hubspot", "authorize.request.optional", []),
    ("telegram-oidc", "state_max", 40),
    ("strava", "scope_separator", " "),
    ("google", "scopes", ["openid"]),
    ("google", "endpoints", []),
    ("amazon-selling-partner", "callback.code", "code"),
    ("apple", "callback.method", "GET"),
    ("quickbooks", "callback.values.realmId", GONE),
    ("zoho", "callback.values.accounts-server", "https://accounts.zoho.in"),
    ("shopify", "callback.signature", GONE),
    ("notion", "exchange.request.format", "form"),
    ("notion", "exchange.request.headers.Authorization", "Basic {basic_raw}"),
    ("notion", "exchange.request.headers.Authorization", GONE),
    ("google", "exchange.request.body.client_secret", GONE),
    ("google", "exchange.request.body.code_verifier", GONE),
    ("google", "exchange.request.method", "PUT"),
    ("square", "exchange.request.headers.Square-Version", "2020-01-01"),
    ("gong", "exchange.request.query.grant_type", "code"),
    ("google", "exchange.reply.access_token", GONE),
    ("slack", "exchange.reply.expires_in", GONE),
    ("google", "exchange.reply.scope", "{scope_comma}"),
    ("slack", "exchange.reply.ok", False),
    ("slack-user", "exchange.reply.authed_user.access_token", GONE),
    ("slack", "exchange.reply.team.id", "T2"),
    ("salesforce", "exchange.reply.instance_url", "https://evil.example"),
    ("facebook", "exchange.lifetime", 0),
    ("google", "refresh.does", "grant"),
    ("outreach", "refresh.request.body.redirect_uri", GONE),
    ("figma", "refresh.request.path", "api.figma.com/v1/oauth/token"),
    ("instagram", "refresh.request.query.grant_type", "refresh_token"),
    ("slack", "refresh.reply_of.user.token_type", "bot"),
    ("google", "refresh.reply.access_token", "{refresh_token}"),
    ("google", "read.request.headers.Authorization", "token {access_token}"),
    ("google", "read.reply.sub", "{number}"),
    ("jira", "read.reply", []),
    ("xero", "read.reply", [{"tenantId": "tenant-3"}]),
    ("hubspot", "introspect.reply.user_id", GONE),
    ("github-app-user", "revoke.request.method", "POST"),
    ("github-app-user", "revoke.request.headers.Authorization", "Bearer {access_token}"),
    ("square", "revoke.request.body.client_id", GONE),
    ("square", "revoke.request.headers.Authorization", "Bearer {client_secret}"),
    ("google", "revoke.request.path", "accounts.google.com/o/oauth2/revoke"),
    ("google", "revoke.kills", "access"),
    ("oidc", "show.reply.issuer", "https://other.example"),
    ("google", "keys.request.path", "accounts.google.com/other"),
    ("google", "id_token.issuer", "https://other.example"),
    ("telegram-oidc", "id_token.algorithm", "HS256"),
    ("telegram-oidc", "id_token.claims.id", GONE),
    ("keycloak", "id_token.echoes_nonce", False),
    ("slack", "extra_tokens", {}),
    ("google", "refusals.refresh", {"status": 400, "body": {"error": "invalid_request"}}),
    ("google", "refusals.client", {"status": 400, "body": {"error": "invalid_request"}}),
    ("google", "issuing.lifetime", 60),
    ("google", "issuing.refresh_lifetime", 60),
    ("google", "issuing.refresh", False),
    ("google", "issuing.rotation", "strict"),
    ("gitlab", "issuing.rotation", "none"),
    ("dropbox", "issuing.refresh_scopes", ["never asked for"]),
]

OURS: Final[list[Change]] = [
    ("slack", "authorize.url", "https://slack.com/oauth/authorize"),
    ("google", "authorize.params.access_type", "online"),
    ("google", "authorize.params.prompt", GONE),
    ("square", "authorize.pkce", "allowed"),
    ("google", "authorize.pkce", "forbidden"),
    ("tiktok", "authorize.rename", GONE),
    ("monday", "authorize.omit", GONE),
    ("telegram-oidc", "authorize.state_max", 32),
    ("slack-user", "scopes.param", GONE),
    ("strava", "scopes.separator", " "),
    ("github-oauth-app", "scopes.granted", "space"),
    ("dropbox", "scopes.offline", ["offline_access"]),
    ("slack", "scopes.more", GONE),
    ("pinterest", "scopes.separator", " "),
    ("auth0", "scopes.offline", []),
    ("notion", "client.auth", "post"),
    ("notion", "client.auth", "basic_raw"),
    ("google", "client.auth", "basic"),
    ("etsy", "client.auth", "post"),
    ("apple", "client.auth", "post"),
    ("stripe-apps", "client.auth", "basic"),
    ("apple", "callback.method", "GET"),
    ("amazon-selling-partner", "callback.code", "code"),
    ("quickbooks", "callback.capture", GONE),
    ("google", "token.url", "https://accounts.google.com/token"),
    ("notion", "token.format", "form"),
    ("gong", "token.format", "form"),
    ("bigcommerce", "token.params", GONE),
    ("bigcommerce", "token.params.context", "{context}/more"),
    ("square", "token.headers", GONE),
    ("tiktok", "token.rename", GONE),
    ("shopify", "token.omit", GONE),
    ("slack-user", "reply.roots", GONE),
    ("instagram", "reply.roots", ["."]),
    ("slack-user", "reply.refresh_roots", ["authed_user"]),
    ("google", "reply.access_token", "id_token"),
    ("google", "reply.refresh_token", "refresh"),
    ("google", "reply.expires_in", "expires"),
    ("slack", "reply.expires_in", "expires"),
    ("mailchimp", "reply.expires_in_zero", GONE),
    ("square", "reply.expires_at", "expires"),
    ("strava", "reply.expires_at_format", "epoch_ms"),
    ("quickbooks", "reply.refresh_expires_in", "refresh_token_expires_in"),
    ("keycloak", "reply.refresh_expires_in_zero", GONE),
    ("square", "reply.refresh_expires_at", "refresh_expires"),
    ("bitbucket", "reply.scope", "scope"),
    ("salesforce", "reply.lifetime_seconds", 60),
    ("intercom", "reply.lifetime_seconds", 60),
    ("salesforce", "reply.capture.instance_url", "url"),
    ("slack", "reply.more", GONE),
    ("spotify", "refresh.end_seconds", 60),
    ("instagram", "refresh.sends", "refresh_token"),
    ("figma", "refresh.url", GONE),
    ("instagram", "refresh.method", "POST"),
    ("outreach", "refresh.params", GONE),
    ("outreach", "refresh.params.redirect_uri", "{redirect_uri}/more"),
    ("basecamp", "refresh.omit", GONE),
    ("google", "revoke", GONE),
    ("google", "revoke.url", "https://accounts.google.com/o/oauth2/revoke"),
    ("github-app-user", "revoke.method", "POST"),
    ("github-app-user", "revoke.auth", "client"),
    ("github-oauth-app", "revoke.auth", "bearer"),
    ("square", "revoke.authorization", "Bearer {client_secret}"),
    ("square", "revoke.params.client_id", GONE),
    ("linear", "revoke.token_param", "token"),
    ("github-app-user", "revoke.format", "form"),
    ("google", "oidc.issuer", "https://google.com"),
    ("telegram-oidc", "oidc.jwks_url", "https://oauth.telegram.org/keys"),
    ("line", "oidc.algorithms", ["RS256"]),
    ("telegram-oidc", "oidc.nonce", "required"),
    ("oidc", "discovery.kind", "smart"),
    ("google", "identity.url", "https://www.googleapis.com/oauth2/v3/userinfo"),
    ("google", "identity.source", "token_reply"),
    ("google", "identity.account", ["email"]),
    ("google", "identity.email", GONE),
    ("google", "identity.label", "given_name"),
    ("linear", "identity.body", GONE),
    ("linear", "identity.method", "GET"),
    ("etsy", "identity.pattern", "^([0-9]{2})"),
    ("instagram", "steps", GONE),
    ("facebook", "steps.0.params", GONE),
    ("jira", "steps.0.url", "https://api.atlassian.com/me"),
    ("jira", "steps.0.fields.cloud_id", "name"),
    ("basecamp", "steps.0.items", "."),
    ("mailchimp", "steps.0.authorization", "Bearer {access_token}"),
    ("klaviyo", "api.headers", GONE),
    ("shopify", "api.header", "Authorization"),
    ("shopify", "api.value", "Bearer {access_token}"),
    ("instagram", "errors.code", "error"),
    ("instagram", "errors.rows", GONE),
]


@pytest.fixture(scope="module")
async def sandbox() -> AsyncIterator[Running]:
    async with providing() as found:
        yield found


@pytest.fixture
def running(sandbox: Running) -> Running:
    sandbox.state.reset()
    return sandbox


def named(change: Change) -> str:
    name, path, value = change
    return f"{name}:{path}={'gone' if value is GONE else value}"


@pytest.mark.parametrize("change", THEIRS, ids=named)
async def test_what_the_provider_does_otherwise_is_noticed(
    change: Change, running: Running
) -> None:
    name, path, value = change
    one = recorded()[{"oidc": "generic-oidc"}.get(name, name)]
    document = to_builtins(one.dialect)
    put(document, theirs(one, path), value)
    other = replace(one, dialect=convert(document, Dialect))
    assert other.dialect != one.dialect
    assert await differences(running, other) != []


@pytest.mark.parametrize("change", OURS, ids=named)
async def test_what_our_file_says_otherwise_is_noticed(change: Change, running: Running) -> None:
    name, path, value = change
    one = recorded()[{"oidc": "generic-oidc"}.get(name, name)]
    ours = CATALOGUE.get(name)
    document = to_builtins(ours)
    put(document, path.split("."), value)
    other = convert(document, Provider)
    assert other != ours
    assert await differences(running, one, other) != []


def test_every_field_of_a_dialect_is_changed_once() -> None:
    changed = {part for _, path, _ in THEIRS for part in path.split(".")}
    every = {
        one.name for part in (Dialect, Endpoint, Shape, Callback, IdToken) for one in fields(part)
    }
    # What follows ``#`` never leaves a browser; how a person says no is tested with the pages; an
    # issuer that is the right one is as good as none, and any 2xx is a yes.
    assert every - changed == {"fragment", "denied", "iss", "status"}


def theirs(one: Recorded, path: str) -> list[str]:
    """A path into the dialect, of which the first part may be what an endpoint does."""
    first, *rest = path.split(".")
    does = [endpoint.does for endpoint in one.dialect.endpoints]
    return ["endpoints", str(does.index(first)), *rest] if first in does else [first, *rest]


def put(document: Any, path: list[str], value: Any) -> None:
    """Set or take away what stands there."""
    *before, last = path
    for part in before:
        if isinstance(document, list):
            document = document[int(part)]
        else:
            document = document.setdefault(part, {})
    if value is GONE:
        del document[last]
    else:
        document[last] = copy.deepcopy(value)
