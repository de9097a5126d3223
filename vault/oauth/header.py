"""How a credential is used: the headers and the base URL of a provider's API. Pure.

* A header's value is what a header can carry, whatever was put in; its name is a name, and none of
  those that say how a message is framed or where it goes.
* Where the credential is a part of the base URL there is no header, and the URL is a ``Secret``.
* A base URL that the provider told us leads only to hosts that its file believes.
"""

from collections.abc import Iterator, Mapping
from functools import lru_cache

from msgspec.structs import replace

from vault.egress import HEADER_NAME, OURS
from vault.errors import Invalid, Unresolved
from vault.oauth.app import App, TokenSet
from vault.oauth.filling import Filling, Value, around_token, filling, is_around_token
from vault.providers.schema import Provider
from vault.secret import Secret


def values_of(app: App) -> dict[str, Value]:
    """What an app brings along to be filled in: its variables, and who the client is."""
    found: dict[str, Value] = {**app.values, "client_id": app.client_id}
    if app.client_secrets:
        found["client_secret"] = app.client_secrets[0]
    return found


def rendered(
    provider: Provider, tokens: TokenSet, values: Mapping[str, Value]
) -> tuple[str, Secret] | None:
    """The header that carries the credential; ``None`` where it travels in the URL.

    ``values``: those of the app, ``values_of``.
    """
    if provider.api.sent_in == "url":
        return None
    api = provider.api
    if "{" not in api.header and "access_token" not in provider.variables:
        bare = around_token(api.value, tokens.access_token)
        if bare is not None:  # as most files have it
            check_header_name(api.header)
            return api.header, bare
    known = _filling(provider, tokens, values)
    name, value = _name(known, api.header), known.header(api.value)
    if value is None:
        raise Unresolved("The credential has no value.")
    return name, value


def is_bare(provider: Provider) -> bool:
    """Is the credential's header made of the token and fixed text alone, or is there none?"""
    api = provider.api
    if api.sent_in == "url":
        return True
    plain = "{" not in api.header and "access_token" not in provider.variables
    return plain and is_around_token(api.value)


def headers(
    provider: Provider, tokens: TokenSet, values: Mapping[str, Value]
) -> tuple[tuple[str, Secret], ...]:
    """Every header that a call to the API needs, the credential's first."""
    credential = rendered(provider, tokens, values)
    known = _filling(provider, tokens, values)
    return (*([credential] if credential else []), *others(known, provider, strict=True))


def others(
    known: Filling, provider: Provider, *, strict: bool = False
) -> Iterator[tuple[str, Secret]]:
    """The headers beside the credential; not ``strict``: those whose values are there."""
    for name, template in provider.api.headers.items():
        try:
            value = known.header(template)
        except Unresolved:
            if strict:
                raise
            continue
        if value is not None:
            yield name, value


def base_url(
    provider: Provider, tokens: TokenSet, values: Mapping[str, Value]
) -> str | Secret | None:
    """Where the API is, if that is known; a ``Secret`` where the credential is a part of it."""
    if provider.api.base_url is None:
        return None
    url = _filling(provider, tokens, values).url(provider.api.base_url)
    if url is None:
        return None
    return Secret(url) if provider.api.sent_in == "url" else url


def check_header_name(name: str) -> None:
    """Refuse what is no header's name, and a header that nobody may choose."""
    if not _can_be_chosen(name):
        raise Invalid("This header cannot be chosen.", pointer="/header_name")


@lru_cache(maxsize=1_024)
def _can_be_chosen(name: str) -> bool:
    return HEADER_NAME.fullmatch(name) is not None and name.lower() not in OURS


def _name(known: Filling, template: str) -> str:
    name = known.plain(template)
    if name is None:
        raise Invalid("The header's name is missing.", pointer="/header_name")
    check_header_name(name)
    return name


def _filling(provider: Provider, tokens: TokenSet, values: Mapping[str, Value]) -> Filling:
    mine = dict(values)
    client_id, secret = mine.pop("client_id", ""), mine.pop("client_secret", None)
    app = App(provider=provider, values=mine)
    if isinstance(client_id, str):
        app = replace(app, client_id=client_id)
    if isinstance(secret, Secret):
        app = replace(app, client_secrets=(secret,))
    return filling(app, tokens)
