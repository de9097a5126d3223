"""Our files, told in the shape of the frozen facts, so that the two can be compared."""

import json
from pathlib import Path
from typing import Any, Final

from msgspec import to_builtins

from vault.providers.schema import TYPED_MODES, Provider

FILE: Final = Path(__file__).parents[1] / "vectors" / "providers" / "facts.json"
Facts = dict[str, Any]


def frozen() -> dict[str, Facts]:
    """The facts, by provider."""
    return {one["id"]: one for one in json.loads(FILE.read_bytes())["providers"]}


def departures() -> dict[tuple[str, str], Any]:
    """What our files say otherwise, and on purpose."""
    found = json.loads(FILE.read_bytes())["departures"]
    assert all(one["why"] for one in found)
    return {(one["provider"], one["field"]): one["ours"] for one in found}


def told(provider: Provider) -> Facts:
    """All that a provider's file says, as the facts would."""
    found: Facts = {
        "id": provider.id,
        "status": provider.status,
        "as_of": provider.as_of.isoformat(),
        "docs": provider.docs,
        "confidence": to_builtins(provider.confidence),
        "extends": provider.extends,
    }
    if provider.status != "unsupported":
        found |= {"mode": provider.mode} | _variables(provider)
        found |= _authorize(provider) | _callback(provider) | _identity(provider)
        found |= _revoke(provider) | _api(provider)
        if provider.mode not in TYPED_MODES | {"telegram_login"}:
            found |= _token(provider) | _scopes(provider) | _reply(provider) | _refresh(provider)
            found |= _more(provider)
    return {name: value for name, value in found.items() if value not in (None, {}, [], (), False)}


def _variables(provider: Provider) -> Facts:
    return {
        f"variables.{name}.{key}": value
        for name, one in provider.variables.items()
        for key, value in {
            "filled_by": one.filled_by,
            "pattern": one.pattern,
            "default": one.default,
            "required": "no" if one.optional else "yes",
        }.items()
    }


def _authorize(provider: Provider) -> Facts:
    one = provider.authorize
    if one is None:
        return {}
    return {
        "authorize_url": one.url,
        "authorize_params": one.params,
        "authorize_rename": one.rename,
        "authorize_omit": one.omit,
        "state_max": one.state_max,
        "pkce": one.pkce if provider.mode == "authorization_code" else None,
    }


def _callback(provider: Provider) -> Facts:
    return {
        "code_param": provider.callback.code,
        "callback_method": provider.callback.method,
        "callback_capture": sorted(provider.callback.capture.values()),
        "callback_signature": provider.callback.signature,
        "callback_max_age": provider.callback.max_age_seconds,
    }


def _identity(provider: Provider) -> Facts:
    one = provider.identity
    found: Facts = {"jwks_url": provider.oidc.jwks_url if provider.oidc else None}
    if one is None:
        return found
    return found | {
        "identity_source": one.source,
        "identity_url": one.url,
        "identity_method": one.method,
        "identity_account": "|".join(filter(None, ["+".join(one.account), "+".join(one.otherwise)]))
        or one.pattern,
        "identity_email": one.email,
        "identity_label": one.label,
        "identity_authorization": one.authorization,
        "identity_body": one.body,
    }


def _token(provider: Provider) -> Facts:
    one = provider.token
    signed = provider.assertion
    return {
        "token_url": one and one.url,
        "token_format": one.format if one else "form",
        "token_params": one and one.params,
        "token_headers": one and one.headers,
        "token_rename": one and one.rename,
        "token_omit": one and one.omit,
        "client_auth": provider.client.auth,
        "budget": one and one.budget and [one.budget.requests, one.budget.seconds],
        "assertion": signed
        and [
            signed.sent_as,
            signed.algorithm,
            signed.issuer,
            signed.subject,
            signed.audience,
            signed.lifetime_seconds,
            signed.age_seconds,
        ],
    }


def _scopes(provider: Provider) -> Facts:
    one = provider.scopes
    return {
        "scope_param": one.param,
        "scope_separator": one.separator,
        "scopes": one.default,
        "offline_scopes": one.offline,
        "granted": one.granted,
        "more_scopes": {
            more.param: [more.separator, more.for_token or "main"] for more in one.more
        },
    }


def _reply(provider: Provider) -> Facts:
    one = provider.reply
    kept = [*one.capture.values(), *([one.scope] if one.scope != "scope" else [])]
    return {
        "reply_root": "|".join(one.roots) or None,
        "access_token": one.access_token,
        "expires_in_zero": one.expires_in_zero,
        "expires_at": one.expires_at,
        "expires_at_format": one.expires_at_format,
        "refresh_expires_in": one.refresh_expires_in,
        "refresh_expires_in_zero": one.refresh_expires_in_zero,
        "refresh_expires_at": one.refresh_expires_at,
        "capture": sorted(kept),
        "lifetime": one.lifetime_seconds,
        "expiry_stated": one.expiry_stated,
        "never_expires": one.never_expires,
        "more_tokens": [
            [more.name, more.root, more.refreshed_type, more.scope] for more in one.more
        ],
        "success": provider.errors.success,
        "error": provider.errors.code,
        "errors_with_200": provider.errors.with_200,
    }


def _refresh(provider: Provider) -> Facts:
    one = provider.refresh
    return {
        "refresh_issued": one.issued,
        "refresh_rotates": one.rotates,
        "old_refresh_token": one.old_refresh_token,
        "replay_revokes": one.replay_revokes,
        "grace": one.grace_seconds,
        "old_access_token": one.old_access_token,
        "idle": one.idle_seconds,
        "end": one.end_seconds,
        "slides": {True: "yes", False: "no", None: None}[one.slides],
        "max_live": one.max_live,
        "min_age": one.min_age_seconds,
        "keepalive": one.keepalive_seconds,
        "refresh_url": one.url,
        "refresh_sends": one.sends,
        "refresh_method": one.method,
        "refresh_format": one.format,
        "refresh_params": one.params,
        "refresh_omit": one.omit,
    }


def _more(provider: Provider) -> Facts:
    return {
        "introspect_url": provider.introspect and provider.introspect.url,
        "issuer": provider.oidc and provider.oidc.issuer,
        "request_url": provider.oauth1 and provider.oauth1.request_url,
        "signature": provider.oauth1 and provider.oauth1.signature,
        "steps": [
            [
                step.url,
                step.authorization,
                step.params,
                step.gives,
                step.items,
                sorted(step.fields.values()),
            ]
            for step in provider.steps
        ],
    }


def _revoke(provider: Provider) -> Facts:
    one = provider.revoke
    if one is None:
        return {}
    unsaid = one.auth == "bearer" or bool(one.params)
    return {
        "revoke_url": one.url,
        "revoke_method": one.method,
        "revoke_auth": one.auth,
        "revoke_authorization": one.authorization,
        "revoke_token_param": None if unsaid else one.token_param,
        "revoke_format": one.format,
        "revoke_params": one.params,
        "revoke_kills": one.kills,
    }


def _api(provider: Provider) -> Facts:
    one = provider.api
    if provider.mode == "telegram_login":
        return {"base_url": one.base_url}
    in_header = one.sent_in == "header"
    return {
        "base_url": one.base_url,
        "api_header": one.header if in_header else None,
        "api_value": one.value if in_header else None,
        "api_headers": one.headers,
    }
