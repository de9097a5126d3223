"""How long to wait after a failure: full jitter, and never sooner than we were asked."""

from datetime import timedelta
from typing import Final

# Most hiccups are over within a second or two; after a quarter of an hour one more try an hour
# would come too late for tokens that live an hour.
FIRST: Final = timedelta(seconds=1)
LONGEST: Final = timedelta(minutes=15)
# Full jitter may draw nothing at all; that would be a loop without a pause.
SHORTEST: Final = timedelta(milliseconds=250)
# All who were told the same time would come back in the same instant.
AFTER_ASKED: Final = 0.1
_MOST_DOUBLINGS: Final = 20


def pause(failures: int, luck: float, *, retry_after: int | None = None) -> timedelta:
    """The wait after so many failures in a row, the last one included."""
    doubled = FIRST * (1 << min(max(failures - 1, 0), _MOST_DOUBLINGS))
    drawn = max(SHORTEST, luck * min(LONGEST, doubled))
    if retry_after is None:
        return drawn
    return max(drawn, timedelta(seconds=retry_after * (1 + AFTER_ASKED * luck)))
