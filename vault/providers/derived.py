"""What follows from a provider's facts. Pure."""

from typing import Literal

from vault.providers.check import NAME, captured
from vault.providers.schema import Provider

Rotation = Literal["none", "stays_valid", "grace", "strict"]


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
