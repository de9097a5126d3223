"""The three clocks of a connection: when its access token, its unused refresh token, and the whole
consent end.

* What a reply says wins over the catalogue; the catalogue over what is assumed.
* ``None`` means "not as far as anybody knows".
"""

from datetime import datetime, timedelta
from typing import Final

from msgspec import Struct

from vault.lifecycle.terms import Terms

# Nobody knows how long most refresh tokens may lie unused; the shortest known are 7 days, and
# those stand in the catalogue. Keeping one alive costs a call every few days.
UNKNOWN_IDLE: Final = timedelta(days=14)


class Clocks(Struct, frozen=True, kw_only=True):
    """When what ends. ``issued_at``: when the request for the present tokens began.

    ``renewable``: we hold what a refresh needs, and it is ours to do (``refresh: caller`` is not).
    """

    issued_at: datetime
    consented_at: datetime
    access_ends: datetime | None = None
    idle_ends: datetime | None = None
    consent_ends: datetime | None = None
    renewable: bool = True

    @property
    def lifetime(self) -> timedelta | None:
        """How long the present access token lives from end to end, as observed."""
        return None if self.access_ends is None else self.access_ends - self.issued_at

    @property
    def person_needed_at(self) -> datetime | None:
        """From when on only the person can help: no refresh goes beyond it."""
        if not self.renewable:
            return self.access_ends
        return self.consent_ends


def clocks(
    terms: Terms,
    *,
    issued_at: datetime,
    consented_at: datetime,
    access_ends: datetime | None,
    refresh_ends: datetime | None = None,
    renewable: bool = True,
) -> Clocks:
    """The clocks of a token set that has just come. ``refresh_ends`` is what the reply said."""
    idle, consent = _idle(terms, issued_at, renewable=renewable), None
    if terms.end is not None:
        if terms.slides:
            idle = _earlier(idle, issued_at + terms.end)
        else:
            consent = consented_at + terms.end
    if refresh_ends is not None:
        if _slides(terms):
            idle = _earlier(idle, refresh_ends)
        else:
            consent = _earlier(consent, refresh_ends)
    if terms.by_access_token and access_ends is not None:
        idle = _earlier(idle, access_ends)
    return Clocks(
        issued_at=issued_at,
        consented_at=consented_at,
        access_ends=access_ends,
        idle_ends=idle,
        consent_ends=consent,
        renewable=renewable,
    )


def _idle(terms: Terms, issued_at: datetime, *, renewable: bool) -> datetime | None:
    if not renewable or terms.by_access_token:
        return None
    if terms.idle is None and terms.slides and terms.end is not None:
        return None  # the sliding end is the idle clock
    return issued_at + (terms.idle or UNKNOWN_IDLE)


def _slides(terms: Terms) -> bool:
    """Is the end that a reply states of its refresh token, and not of the consent?

    A token that is replaced at each refresh has an end of its own; one that stays has the
    consent's (LinkedIn, Google's time-limited grants).
    """
    return terms.slides if terms.slides is not None else terms.rotation != "none"


def _earlier(one: datetime | None, other: datetime) -> datetime:
    return other if one is None else min(one, other)
