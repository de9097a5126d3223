"""How long another server asks us to wait, and what time it says that it is; pure."""

import math
import re
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Final

from vault.egress.messages import Reply

_NUMBER: Final = re.compile(r"[+-]?[0-9]{1,18}(\.[0-9]{1,18})?", re.ASCII)


def retry_after(reply: Reply, *, now: datetime | None, at_most: int) -> int | None:
    """Seconds that the other side asks us to wait, said as a number or a date; one at the least.

    ``now`` is for who says a date and not what time it is; without it such a date says nothing.
    """
    text = (reply.get("Retry-After") or "").strip()
    if _NUMBER.fullmatch(text):
        seconds = float(text)
    # Against their own clock where they tell it: ours may differ.
    elif (at := _date(text)) and (told := _date(reply.get("Date") or "") or now):
        seconds = (at - told).total_seconds()
    else:
        return None
    return int(min(max(math.ceil(seconds), 1), at_most))


def skew_of(reply: Reply, now: datetime) -> int:
    """How many seconds their clock differs from ours, as far as they tell it."""
    theirs = _date(reply.get("Date") or "")
    return abs(int((theirs - now).total_seconds())) if theirs else 0


def _date(text: str) -> datetime | None:
    try:
        found = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return found if found.tzinfo else None
