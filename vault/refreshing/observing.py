"""What is told of each call that has ended, to whoever counts."""

from collections.abc import Callable

from msgspec import Struct

from vault.refreshing.page import Ending, Granted


class Observed(Struct, frozen=True, kw_only=True):
    """One call that has ended. ``late_by``: seconds after it was due."""

    provider: str
    outcome: str
    seconds: float
    late_by: float


Observe = Callable[[Observed], None]


def observed(ending: Ending, granted: Granted, seconds: float) -> Observed:
    failure, due = ending.failure, granted.due_at
    outcome = "refreshed" if ending.tokens is not None else "unused"
    return Observed(
        provider=ending.outlet.app.provider.id,
        outcome=failure.outcome if failure else outcome,
        seconds=seconds,
        late_by=max(0.0, (granted.claim.at - due).total_seconds()) if due else 0.0,
    )


def nobody(_: Observed) -> None:
    """Counts nothing, and so need not be told."""
