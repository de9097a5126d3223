"""What a conversation may still do with what it holds: the decisions. Pure.

* Who and what is decided by the grant alone. Whatever a model could fill in chooses among the
  conversation's own connections, and nothing else; a field that names somebody else is refused,
  and one that we do not know changes nothing.
* Who names an older generation gets the present one. Otherwise a token that lasts another minute is
  good, unless the provider's API refused it: that forces one refresh for each generation, however
  often it is said, or a model that keeps saying so could wear a connection out.
"""

from collections.abc import Collection
from typing import Annotated, Final, Literal

from msgspec import Meta, Struct

from vault.errors import (
    ConnectionMissing,
    Forbidden,
    Invalid,
    NeedsReauth,
    NotFound,
    ProviderUnavailable,
    VaultError,
)
from vault.vault.refreshing import Fresh

LASTS: Final = 60  # seconds that a token has to live, to be left as it is

Status = Literal["current", "refreshed", "degraded"]
Short = Annotated[str, Meta(max_length=500)]


class Asked(Struct, frozen=True, kw_only=True):
    """What a refresh tool sends. Fields that are not here change nothing."""

    integration: Short | None = None
    provider: Short | None = None
    generation: int | Annotated[str, Meta(max_length=20)] | None = None
    rejected: bool = False
    conversation_id: Short | None = None
    user_id: Short | None = None

    @property
    def named(self) -> int | None:
        """The generation that who asks has; a runtime may write a number as text."""
        if isinstance(self.generation, str):
            if not self.generation:
                return None
            if not (self.generation.isascii() and self.generation.isdecimal()):
                raise Invalid("A generation is a number.", pointer="/generation")
            return int(self.generation)
        return self.generation


def refuse_others(asked: Asked, *, user_id: str, conversations: Collection[str]) -> None:
    """A grant is one user's in one conversation; who names another one has the wrong grant.

    ``conversations``: every name of the conversation; what its runtime calls it may be unknown.
    """
    if asked.user_id is not None and asked.user_id != user_id:
        raise Forbidden("This conversation is another user's.")
    if asked.conversation_id and conversations and asked.conversation_id not in conversations:
        raise Forbidden("This grant belongs to another conversation.")


def chosen(asked: Asked, providers: dict[str, str]) -> str:
    """The integration that is meant; ``providers`` has those of the conversation by integration."""
    if asked.integration is not None:
        if asked.integration not in providers:
            raise NotFound("This conversation has no such connection.")
        return asked.integration
    fits = [one for one, provider in providers.items() if asked.provider in (None, provider, one)]
    if not fits:
        raise NotFound("This conversation has no such connection.")
    if len(fits) > 1:
        raise Invalid("Several connections fit: name the integration.", pointer="/integration")
    return fits[0]


def wants_refresh(asked: Asked, stored: Fresh) -> Literal["no", "yes", "if_first"]:
    """Shall it be refreshed? ``if_first``: if nobody here has refused this generation before."""
    named = asked.named
    if named is not None and stored.generation > named and not stored.reason:
        return "no"
    if stored.reason is not None or not lasts(stored):
        return "yes"
    return "if_first" if asked.rejected else "no"


def lasts(found: Fresh) -> bool:
    """Does it live for another minute?"""
    return found.expires_in is None or found.expires_in >= LASTS


def status(before: Fresh, after: Fresh, *, refused: bool) -> Status:
    """How it ended. ``refused``: the provider's API would not have the one before.

    A token whose whole life is short is as good as they get, and so ``current``.
    """
    if after.generation > before.generation:
        return "refreshed"
    return "degraded" if refused or after.degraded or after.stale else "current"


def why_not(found: Fresh) -> VaultError:
    """Why there is no token; what it was that ended says what helps."""
    match found.reason:
        case "needs_reauth" | "expired":
            return NeedsReauth()
        case "not_connected" | "pending":
            return ConnectionMissing("This connection is not there any more.")
        case _:
            return ProviderUnavailable()
