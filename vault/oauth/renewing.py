"""Which tokens can be renewed, and from when on. Pure."""

import math
from datetime import datetime
from typing import Final

from vault.oauth.app import App, TokenSet
from vault.oauth.filling import filling
from vault.oauth.replies import Failure, NoToken
from vault.providers.schema import Mode, MoreTokens, Provider

# Modes that renew nothing: they ask anew.
OWN_GRANTS: Final[frozenset[Mode]] = frozenset({"client_credentials", "jwt_bearer"})


def can_refresh(provider: Provider, tokens: TokenSet) -> bool:
    """Is there anything to renew the access token with?"""
    if provider.mode in OWN_GRANTS:
        return True
    if provider.refresh.sends == "access_token":
        return tokens.access_token is not None
    return tokens.refresh_token is not None


def further_tokens(app: App, tokens: TokenSet) -> tuple[str, ...]:
    """The names of the further tokens that ``refresh`` can renew, or get for the first time."""
    if not app.provider.reply.more:
        return ()
    known = filling(app, tokens)

    def can(more: MoreTokens) -> bool:
        if more.scope is not None:
            return tokens.refresh_token is not None and known.text(more.scope) is not None
        extra = tokens.more.get(more.name)
        return extra is not None and extra.refresh_token is not None

    return tuple(more.name for more in app.provider.reply.more if can(more))


def check_age(provider: Provider, tokens: TokenSet, now: datetime) -> None:
    """Refuse to renew a token that its provider would call too young."""
    least = provider.refresh.min_age_seconds
    if least is None:
        return
    left = least - (now - tokens.obtained_at).total_seconds()
    if left > 0:
        detail = f"This provider renews no token that is younger than {least} s."
        raise NoToken(Failure(outcome="not_sent", detail=detail, retry_after=math.ceil(left)))
