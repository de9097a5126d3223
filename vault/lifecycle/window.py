"""Counts of the recent past in constant space: two buckets, of which the older one fades out."""

from datetime import datetime, timedelta
from typing import NamedTuple

from msgspec import Struct


class Counts(NamedTuple):
    """How much of what, over about the last window."""

    good: float
    bad: float

    @property
    def bad_share(self) -> float:
        whole = self.good + self.bad
        return self.bad / whole if whole else 0.0


class Window(Struct, frozen=True, kw_only=True):
    """``began`` is the start of the present bucket, each as long as the window."""

    began: datetime
    good: int = 0
    bad: int = 0
    good_before: int = 0
    bad_before: int = 0

    def moved(self, now: datetime, length: timedelta) -> "Window":
        """The same at ``now``. A clock that goes back moves nothing."""
        passed = (now - self.began) // length
        if passed <= 0:
            return self
        if passed > 1:
            return Window(began=now)
        return Window(began=self.began + length, good_before=self.good, bad_before=self.bad)

    def counted(self, now: datetime, length: timedelta, *, good: bool, calls: int = 1) -> "Window":
        """One more, or so many."""
        here = self.moved(now, length)
        return Window(
            began=here.began,
            good=here.good + (calls if good else 0),
            bad=here.bad + (0 if good else calls),
            good_before=here.good_before,
            bad_before=here.bad_before,
        )

    def counts(self, now: datetime, length: timedelta) -> Counts:
        """What counts at ``now``; of the bucket before, only the part that is still in sight."""
        here = self.moved(now, length)
        fading = min(1.0, max(0.0, 1 - (now - here.began) / length))
        return Counts(
            good=here.good + here.good_before * fading, bad=here.bad + here.bad_before * fading
        )
