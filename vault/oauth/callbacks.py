"""What came back: through a browser, where anybody may have written it, or in a reply. Pure.

* A value that fills a variable has the variable's pattern; one that bears the name of a variable
  which somebody else filled equals that.
* A value that becomes part of a host is believed where the file says so, or the whole is refused.
* A callback that names its issuer names ours (RFC 9207), and one from a server that said it would
  does name it: an answer of another server never brings a code to this one.
"""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Final

from vault.errors import Invalid, Unresolved
from vault.oauth.app import App, TokenSet
from vault.oauth.filling import check_value, filling, is_told
from vault.oauth.paths import text_of
from vault.oauth.signatures import CallbackRefused
from vault.providers.check import NAME, captured
from vault.providers.schema import Provider

MAX_EXTRA: Final = 2_000  # characters
_TENANT: Final = "{tid}"  # filled from the ID token, once it is there
_LONG_AGO: Final = datetime.fromtimestamp(0, UTC)


def issuer_of(app: App) -> str | None:
    """Who signs this app's ID tokens; ``{tid}`` stays in it."""
    if app.endpoints is not None:
        return app.endpoints.issuer
    if app.provider.oidc is None:
        return None
    issuer = filling(app, tid=_TENANT).text(app.provider.oidc.issuer)
    return issuer if isinstance(issuer, str) else None


def check_issuer(app: App, unverified: Mapping[str, str]) -> None:
    """Refuse an answer that another server gave (RFC 9207)."""
    said, expected = unverified.get("iss"), issuer_of(app)
    if said is None:
        if app.endpoints is not None and app.endpoints.iss_in_callback:
            raise CallbackRefused("What came back does not say who sent it.")
        return
    if expected is not None and _TENANT not in expected and said != expected:
        raise CallbackRefused("What came back is from another server.")


def callback_values(app: App, unverified: Mapping[str, str]) -> dict[str, str]:
    """What is kept of a callback. It came through a browser: anybody may have written it."""
    found = {
        name: unverified[parameter]
        for name, parameter in app.provider.callback.capture.items()
        if unverified.get(parameter)
    }
    for name, value in found.items():
        if text_of(value, MAX_EXTRA) is None:
            raise Invalid("What came back holds what cannot be kept.")
        check_told(app, name, value)
    check_hosts(app, found)
    return found


def check_told(app: App, name: str, value: str) -> None:
    """A variable that somebody else filled has to be what it is; one of its own, as it must be."""
    variable = app.provider.variables.get(name)
    if variable is None:
        return
    if is_told(app.provider, name):
        check_value(name, variable, value)
    elif value != (app.values.get(name) or variable.default):
        raise Invalid(f"What came back names another {name}.")


def check_hosts(app: App, extras: Mapping[str, str]) -> None:
    """Refuse an extra that would lead a credential to a host which nobody believes."""
    known = filling(app, TokenSet(access_token=None, obtained_at=_LONG_AGO, extras=extras))
    for url in _urls(app.provider):
        if captured(app.provider).intersection(NAME.findall(url)) & extras.keys():
            try:
                known.url(url)
            except Unresolved:
                continue  # it needs more than is known by now


def _urls(provider: Provider) -> Iterator[str]:
    parts = (provider.api.base_url, *(step.url for step in provider.steps))
    parts += tuple(
        part.url
        for part in (provider.token, provider.refresh, provider.revoke)
        if part and part.url
    )
    parts += (provider.identity.url,) if provider.identity else ()
    yield from (url for url in parts if url)
