"""How many retries an endpoint gets: at most a tenth of its first tries, and a trickle.

Without it, everybody's polite backoff adds up to a storm, which keeps a weak endpoint down.
"""

from datetime import datetime
from typing import Final, NamedTuple

from msgspec import Struct

SHARE: Final = 0.1
# Ten in reserve: an endpoint with few connections is not starved by one that failed.
MOST: Final = 10.0
# A fleet that has nothing but retries to do still gets on, slowly.
TRICKLE: Final = 0.1  # per second


class Retries(Struct, frozen=True, kw_only=True):
    """``credit``: retries that may begin now; ``at``: when that was true."""

    credit: float
    at: datetime


class Spent(NamedTuple):
    """Whether the retry may begin."""

    retries: Retries
    allowed: bool


def begun(now: datetime) -> Retries:
    """The budget of an endpoint that nobody has called yet."""
    return Retries(credit=MOST, at=now)


def earn(retries: Retries, now: datetime, first_tries: int = 1) -> Retries:
    """First tries were made."""
    here = _trickled(retries, now)
    return Retries(credit=min(MOST, here.credit + first_tries * SHARE), at=here.at)


def spend(retries: Retries, now: datetime) -> Spent:
    """One retry wants to begin. One that a person waits for may begin without asking."""
    here = _trickled(retries, now)
    if here.credit < 1:
        return Spent(here, allowed=False)
    return Spent(Retries(credit=here.credit - 1, at=here.at), allowed=True)


def _trickled(retries: Retries, now: datetime) -> Retries:
    passed = (now - retries.at).total_seconds()
    if passed <= 0:
        return retries
    return Retries(credit=min(MOST, retries.credit + passed * TRICKLE), at=now)
