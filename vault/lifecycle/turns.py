"""Who comes first where not all can: those who are waited for, then those in use, then the rest.

Within each of the three, workspaces take turns, and in a workspace what ends first comes first: a
workspace with a million connections delays another by one of its own at a time. It never has more
than half of all that is under way, nor more than a quarter while another one has something to do.
"""

from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from itertools import chain, islice

from msgspec import Struct

from vault.lifecycle.schedule import USED_LATELY

_NEVER = datetime.max.replace(tzinfo=UTC)


class Candidate(Struct, frozen=True, kw_only=True):
    """A connection that is due. ``waiting``: somebody waits for its tokens this moment."""

    workspace: str
    connection: str
    waiting: bool = False
    used_at: datetime | None = None
    ends_at: datetime | None = None


def in_turn(
    candidates: Iterable[Candidate],
    room: int,
    *,
    now: datetime,
    flying: Mapping[str, int],
    of: int,
) -> list[Candidate]:
    """At most ``room`` of them, in the order in which they are to be called.

    ``flying``: how many of each workspace are under way, where ``of`` in all can be.
    """
    tiers: tuple[list[Candidate], ...] = ([], [], [])
    busy = {name for name, number in flying.items() if number}
    for one in candidates:
        tiers[_tier(one, now)].append(one)
        busy.add(one.workspace)
    for tier in tiers:
        tier.sort(key=lambda one: one.ends_at or _NEVER)
    if len(busy) == 1:  # there is nobody to take turns with
        [alone] = busy
        most = of // 2 - flying.get(alone, 0)
        return list(islice(chain(*tiers), max(0, min(room, most))))
    in_order = (one for tier in tiers for one in _round(tier))
    return list(islice(_fair(in_order, flying, of // 4), room))


def _fair(
    ordered: Iterable[Candidate], flying: Mapping[str, int], most: int
) -> Iterator[Candidate]:
    """Those whose workspace has not had its share."""
    taken = Counter(flying)
    for one in ordered:
        if taken[one.workspace] < most:
            taken[one.workspace] += 1
            yield one


def _tier(one: Candidate, now: datetime) -> int:
    if one.waiting:
        return 0
    return 1 if one.used_at is not None and now - one.used_at < USED_LATELY else 2


def _round(tier: Iterable[Candidate]) -> Iterator[Candidate]:
    """One of each workspace, again and again; whose first ends first begins."""
    lines: dict[str, deque[Candidate]] = {}
    for one in tier:
        lines.setdefault(one.workspace, deque()).append(one)
    waiting = deque(lines.values())
    while waiting:
        line = waiting.popleft()
        yield line.popleft()
        if line:
            waiting.append(line)
