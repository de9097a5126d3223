"""What follows from a provider's facts. Pure."""

import re
from collections.abc import Iterator
from typing import Final, Literal
from urllib.parse import urlsplit

from vault.providers.check import NAME, captured
from vault.providers.schema import Provider

Rotation = Literal["none", "stays_valid", "grace", "strict"]

_SAFE: Final = re.compile(r"/+")


def rotation(provider: Provider) -> Rotation:
    """What a refresher has to reckon with; where it is not known, the worst."""
    refresh = provider.refresh
    if refresh.rotates == "never":
        return "none"
    if refresh.old_refresh_token == "stays_valid":
        return "stays_valid"
    if refresh.old_refresh_token in ("grace", "until_used") and refresh.grace_seconds:
        return "grace"
    return "strict"


def needs_own_callback(provider: Provider) -> bool:
    """Does somebody else choose the server, so that answers of two could be mixed up?"""
    if provider.discovery is not None:
        return True
    chosen = {name for name, one in provider.variables.items() if one.kind in ("host", "url")}
    urls = [part.url for part in (provider.authorize, provider.token) if part and part.url]
    return any(chosen & set(NAME.findall(url)) for url in urls)


def needs_choice(provider: Provider) -> bool:
    """May one consent reach several sites, of which the person takes one?"""
    return any(step.gives == "choices" for step in provider.steps)


def extras(provider: Provider) -> list[str]:
    """The names of what is kept beside the tokens."""
    return sorted(captured(provider) - provider.variables.keys())


def forbidden_paths(provider: Provider) -> list[str]:
    """Paths below the base URL that the gateway never calls: what the file says, and endpoints."""
    base = provider.api.base_url
    found = set(provider.api.forbidden)
    if base is not None:
        found |= {path for url in _endpoints(provider) if (path := _below(base, url))}
    return sorted(found)


def _endpoints(provider: Provider) -> Iterator[str]:
    for name in ("authorize", "token", "revoke", "introspect", "device"):
        part = getattr(provider, name)
        if part is not None and part.url:
            yield part.url
    if provider.refresh.url:
        yield provider.refresh.url
    yield from (step.url for step in provider.steps if step.gives == "tokens")


def _below(base: str, url: str) -> str | None:
    one, other = urlsplit(base), urlsplit(url)
    folder = one.path.rstrip("/") + "/"
    if one.netloc != other.netloc or not other.path.startswith(folder):
        return None
    return _SAFE.sub("/", "/" + other.path.removeprefix(folder)).rstrip("/")
