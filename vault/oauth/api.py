"""A provider's API as one connection reaches it: where it is, what goes along, what never. Pure.

* There is one base URL, from the provider's file, the integration, or what was captured and
  checked when the person connected. Nothing of a request is a part of it.
* What gives tokens out, takes them back, tells of them or holds other requests is never called on
  behalf of a conversation. Where such an address cannot be filled in, all that begins like it is
  out of reach.
"""

import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Final
from urllib.parse import urlsplit

from msgspec import Struct

from vault.errors import Invalid, Unresolved
from vault.oauth.app import App, TokenSet
from vault.oauth.filling import filling
from vault.oauth.header import base_url, headers, values_of
from vault.secret import Secret

# Where a server is only known by discovery, its endpoints may be anywhere near its API.
_DISCOVERED: Final = ("/oauth", "/oauth2", "/token", "/revoke", "/introspect", "/register")
_BEFORE_PATH: Final = re.compile(r"https://[^/?#]*|\{[a-z][a-z0-9_]*\}")


class Api(Struct, frozen=True, kw_only=True):
    """Where calls go, and with what. ``never``: paths, from the base URL or from the host on."""

    base_url: Secret
    headers: tuple[tuple[str, Secret], ...]
    never: tuple[str, ...]
    secrets: tuple[Secret, ...]

    def __repr__(self) -> str:
        return "Api(***)"


def api_of(app: App, tokens: TokenSet) -> Api | None:
    """How a connection is used; ``None`` where nobody knows where its API is."""
    values = values_of(app)
    base = base_url(app.provider, tokens, values)
    if base is None:
        return None
    credentials = [tokens.access_token, tokens.refresh_token, *app.client_secrets]
    credentials += [one.access_token for one in tokens.more.values()]
    credentials += [one.refresh_token for one in tokens.more.values()]
    credentials += tokens.values.values()
    credentials += [value for value in app.values.values() if isinstance(value, Secret)]
    return Api(
        base_url=base if isinstance(base, Secret) else Secret(base),
        headers=headers(app.provider, tokens, values),
        never=tuple(dict.fromkeys(_never(app, tokens))),
        secrets=tuple(one for one in credentials if one),
    )


def _never(app: App, tokens: TokenSet) -> Iterator[str]:
    yield from app.provider.api.forbidden
    known = filling(app, tokens)
    for template in _templates(app):
        url = None
        with suppress(Unresolved, Invalid):
            url = known.url(template)
        if url is not None:
            yield urlsplit(url).path
        else:
            yield _BEFORE_PATH.sub("", template, count=1).partition("?")[0].partition("{")[0]
    if app.provider.discovery is not None:
        yield from _DISCOVERED
    if (found := app.endpoints) is not None:
        for url in (
            found.token_url,
            found.revoke_url,
            found.introspect_url,
            found.device_url,
            found.registration_url,
            found.push_url,
        ):
            yield urlsplit(url or "").path


def _templates(app: App) -> Iterator[str]:
    provider = app.provider
    parts = (
        provider.authorize,
        provider.token,
        provider.refresh,
        provider.revoke,
        provider.introspect,
        provider.device,
    )
    yield from (part.url for part in parts if part is not None and part.url is not None)
    if provider.oauth1 is not None:
        yield provider.oauth1.request_url
