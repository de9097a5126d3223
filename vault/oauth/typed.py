"""Keys and passwords that a person types in. Pure.

* What the provider's file asks for is there, nothing else is, and each value has its pattern.
* What could not travel in a header, or would be cut in two there, is refused when it is typed.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Final

from msgspec.structs import replace

from vault.errors import Invalid
from vault.oauth import header
from vault.oauth.app import App, TokenSet
from vault.oauth.discovery import Registered
from vault.oauth.filling import check_value, is_plain
from vault.providers.check import ENCODED, NAME, TYPED_NAMES
from vault.providers.schema import TYPED_MODES, Provider
from vault.secret import Secret

MAX_VALUE: Final = 32_768  # bytes
# What is handed out as the token, where there is one value to hand out.
_TOKENS: Final = {"api_key": "api_key", "custom_header": "header_value"}


def names(provider: Provider) -> dict[str, bool]:
    """What the person types, and whether it has to be there."""
    used = set(NAME.findall(ENCODED.sub(r"\1", f"{provider.api.header} {provider.api.value}")))
    used |= set(NAME.findall(provider.api.base_url or ""))
    found = dict.fromkeys(sorted(TYPED_NAMES.get(provider.mode or "", set()) & used), True)
    for name, variable in provider.variables.items():
        if variable.filled_by == "person":
            found[name] = not variable.optional and variable.default is None
    return found


def as_given(app: App, tokens: TokenSet, client: Registered | None) -> App:
    """The app as it was when this was given: with what was typed then, and its own client."""
    if tokens.values:
        asked = names(app.provider)
        typed = {
            name: one.reveal() if is_plain(app.provider, name) else one
            for name, one in tokens.values.items()
            if name in asked
        }
        app = replace(app, values={**app.values, **typed})
    return with_client(app, client)


def with_client(app: App, client: Registered | None) -> App:
    """The app as the client that a server made for one connection, if it made one."""
    if client is None:
        return app
    return replace(
        app,
        client_id=client.client_id,
        client_secrets=(client.client_secret,) if client.client_secret else (),
        client_auth=client.client_auth,
    )


def typed_tokens(app: App, values: Mapping[str, str | Secret], *, now: datetime) -> TokenSet:
    """What was typed, as a token set; nothing is tried yet."""
    provider = app.provider
    if provider.mode not in TYPED_MODES:
        raise Invalid("This provider takes no typed credential.")
    asked = names(provider)
    kept: dict[str, str | Secret] = {}
    for name in sorted(values.keys() - asked.keys()):
        raise Invalid("This provider asks for no such value.", pointer=f"/{name}")
    for name, needed in asked.items():
        value = values.get(name) or app.values.get(name)
        if value:
            kept[name] = _checked(provider, name, value)
        elif needed:
            raise Invalid("This value is missing.", pointer=f"/{name}")
    handed_out = kept.get(_TOKENS.get(provider.mode, ""))
    tokens = TokenSet(
        access_token=handed_out if isinstance(handed_out, Secret) else None,
        obtained_at=now,
        values={
            name: value if isinstance(value, Secret) else Secret(value)
            for name, value in kept.items()
        },
    )
    if provider.api.sent_in == "url":
        header.base_url(provider, tokens, header.values_of(app))
    else:
        header.headers(provider, tokens, header.values_of(app))
    return tokens


def _checked(provider: Provider, name: str, value: str | Secret) -> str | Secret:
    variable = provider.variables.get(name)
    secret = value if isinstance(value, Secret) else Secret(value.encode("utf-8", "surrogatepass"))
    if len(secret.reveal_bytes()) > MAX_VALUE:
        raise Invalid("This value is too long.", pointer=f"/{name}")
    plain = _text(secret)
    if plain is None or any(ord(one) < ord(" ") or one == "\x7f" for one in plain):
        raise Invalid("This value holds what cannot be sent.", pointer=f"/{name}")
    if variable is not None:
        check_value(name, variable, secret)
    elif name == "username" and ":" in plain:
        raise Invalid("A user name in Basic cannot hold a colon.", pointer="/username")
    return plain if is_plain(provider, name) else secret


def _text(secret: Secret) -> str | None:
    try:
        return secret.reveal()
    except UnicodeDecodeError:  # it would quote the value, so nothing is raised from in here
        return None
