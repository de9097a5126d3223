"""What happens to a connection. Every event says when, by the database's clock.

``luck`` is a number from 0 to 1 that spreads what would otherwise happen at once; it stands in the
event, so that a replay has the same.
"""

from datetime import datetime

from msgspec import Struct

from vault.oauth.replies import Outcome


class Event(Struct, frozen=True, kw_only=True, tag=True):
    """The base of all events; the tag is what a journal calls them."""

    at: datetime


class Connected(Event, frozen=True, kw_only=True):
    """Somebody consented, or a platform brought its tokens: there is a new token set.

    ``same_account``: it is the provider account that this connection already stood for.
    """

    same_account: bool = True


class Claimed(Event, frozen=True, kw_only=True):
    """``owner`` wants to call the provider.

    ``holder_alive``: does the replica that holds the present claim, if any, still hold its
    liveness lock, as far as can be known? ``holder_seen``: and is it known that it lives?
    ``database_started_at`` is ``pg_postmaster_start_time()``: older locks are gone
    although their owners may live. ``held_until``: when the integration was last held, or ``at``
    if it is held now.
    """

    owner: str
    attempt: str
    holder_alive: bool = True
    holder_seen: bool = False
    database_started_at: datetime | None = None
    held_until: datetime | None = None


class Answered(Event, frozen=True, kw_only=True):
    """The provider gave tokens to the call of ``fence``, and they are in the journal.

    From the call itself, or from a journal or spool that is replayed, however late and often.
    """

    fence: int


class Failed(Event, frozen=True, kw_only=True):
    """The call of ``fence`` gave no tokens. ``held``: its integration is held just now."""

    fence: int
    outcome: Outcome
    luck: float
    retry_after: int | None = None
    held: bool = False


class Released(Event, frozen=True, kw_only=True):
    """The owner gives its claim back before it called: a shutdown, or no room at the endpoint."""

    fence: int


AnyEvent = Connected | Claimed | Answered | Failed | Released
