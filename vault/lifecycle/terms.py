"""What a provider's facts mean for its connections."""

from datetime import timedelta

from msgspec import Struct

from vault.providers.derived import Rotation, rotation
from vault.providers.schema import Provider


class Terms(Struct, frozen=True, kw_only=True):
    """The rules under which one provider's tokens live; the defaults reckon with the worst.

    ``grace``: how long a replaced refresh token still works; only where ``rotation`` is ``grace``.
    ``kills_old_access``: a refresh ends the access token that a conversation may hold.
    ``idle``: unused so long, the refresh token dies. ``end``: it dies then whatever happens, or,
    where it ``slides``, so long after its last use. ``min_age``: a younger token is not refreshed.
    ``by_access_token``: there is no refresh token; the access token renews itself while it lives.
    """

    rotation: Rotation = "strict"
    grace: timedelta = timedelta()
    kills_old_access: bool = False
    idle: timedelta | None = None
    end: timedelta | None = None
    slides: bool | None = None
    min_age: timedelta = timedelta()
    keep_alive: timedelta | None = None
    margin: timedelta | None = None
    by_access_token: bool = False

    @property
    def repeatable(self) -> bool:
        """May the same refresh token be sent twice, however the first time ended?"""
        return self.rotation in ("none", "stays_valid")


def terms_of(provider: Provider) -> Terms:
    """Read a provider's facts.

    Where nobody knows whether it does, it does not: a background refresh that is put off until the
    last minute would risk every call, to spare those at the few providers that do.
    """
    facts = provider.refresh
    which = rotation(provider)
    return Terms(
        rotation=which,
        grace=_span(facts.grace_seconds) or timedelta() if which == "grace" else timedelta(),
        kills_old_access=facts.old_access_token in ("revoked", "revoked_later"),
        idle=_span(facts.idle_seconds),
        end=_span(facts.end_seconds),
        slides=facts.slides,
        min_age=max(_span(facts.min_age_seconds) or timedelta(), _own_pace(provider)),
        keep_alive=_span(facts.keepalive_seconds),
        margin=_span(facts.margin_seconds),
        by_access_token=facts.sends == "access_token",
    )


def _own_pace(provider: Provider) -> timedelta:
    """Zoho counts token requests per connection: ten in ten minutes is one a minute."""
    budget = provider.token.budget if provider.token else None
    if budget is None or budget.per != "connection":
        return timedelta()
    return timedelta(seconds=budget.seconds / budget.requests)


def _span(seconds: int | None) -> timedelta | None:
    return None if seconds is None else timedelta(seconds=seconds)
