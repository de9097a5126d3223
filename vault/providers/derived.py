"""What follows from a provider's facts. Pure."""

from typing import Final, Literal

from msgspec import Struct

from vault.providers.check import NAME, captured, templates
from vault.providers.schema import Provider

Rotation = Literal["none", "stays_valid", "grace", "strict"]

# Where a reply tells when the refresh token ends, if the file names no place of its own.
REFRESH_LIFETIMES: Final = (
    "refresh_expires_in",  # Keycloak
    "refresh_token_expires_in",  # GitHub
    "x_refresh_token_expires_in",  # Intuit
)
# Where any reply may say no, whatever the file says.
_SAYS_NO: Final = ("error", "ok")


class FlatAnswer(Struct, frozen=True):
    """An answer to a refresh whose ordinary fields stand at its top, by these names.

    ``others``: whatever else at its top means something; ``odd``: of these, what may be a no, or
    counts more than an ordinary field. ``slides``: how many seconds the refresh token lives from
    each refresh on.
    """

    access_token: str
    refresh_token: str
    expires_in: str
    scope: str
    others: frozenset[str]
    odd: frozenset[str]
    slides: int | None


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


def refreshes_alike(provider: Provider) -> bool:
    """Are all refreshes asked for in the same way, whatever a provider told of a connection?"""
    told = captured(provider)
    if not told:
        return True
    parts = ("token.", "refresh.", "scopes.")
    texts = [text for path, text in templates(provider) if path.startswith(parts)]
    return told.isdisjoint(NAME.findall(" ".join(texts)))


def flat_answer(provider: Provider) -> FlatAnswer | None:
    """How a refresh is answered, unless something ordinary stands deeper, or all of it counts."""
    says, errors, refresh = provider.reply, provider.errors, provider.refresh
    ordinary = (says.access_token, says.refresh_token, says.expires_in, says.scope)
    ends = (says.refresh_expires_in,) if says.refresh_expires_in else REFRESH_LIFETIMES
    odd = {
        *_SAYS_NO,
        *(one for one in (says.expires_at, says.refresh_expires_at, errors.success) if one),
        *((errors.code,) if errors.with_200 else ()),
    }
    others = {*odd, *ends, *says.capture.values()}
    if says.refresh_roots or says.more or "." in others or any("." in one for one in ordinary):
        return None
    return FlatAnswer(
        *ordinary,
        others=frozenset(path.partition(".")[0] for path in others),
        odd=frozenset(path.partition(".")[0] for path in odd),
        slides=refresh.end_seconds if refresh.slides else None,
    )


def extras(provider: Provider) -> list[str]:
    """The names of what is kept beside the tokens."""
    return sorted(captured(provider) - provider.variables.keys())
