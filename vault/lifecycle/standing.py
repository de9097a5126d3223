"""How an integration stands: open, held after a mass of dead grants, or paused as a client.

* A mass of ``invalid_grant`` within minutes is the provider's trouble, or the app's, until it has
  lasted for a day: while the integration is held, nobody is condemned.
* A refused client is the operator's to mend, and never a connection's fault.
* Held or paused, one probe at a time finds out whether it is over; tokens end it at once.
* The operator hears of each beginning and end, once.
"""

from datetime import datetime, timedelta
from typing import Final, Literal, NamedTuple

from msgspec import Struct
from msgspec.structs import replace

from vault.lifecycle.intents import Experience
from vault.lifecycle.window import Window

Alert = Literal["held", "paused", "resumed", "refusals_confirmed"]

WINDOW: Final = timedelta(minutes=10)
# Fewer people than this may well have changed their minds within ten minutes.
FEWEST_DEAD: Final = 5
# Of connections that are well used, under one in a hundred dies in a month.
DEAD_SHARE: Final = 0.2
FIRST_PROBE: Final = timedelta(seconds=60)
LONGEST_BETWEEN_PROBES: Final = timedelta(minutes=15)
# As long as a call may take at all.
PROBE: Final = timedelta(seconds=90)
# No provider's trouble of this kind has lasted longer; then they are believed, for as long again.
LONGEST_HOLD: Final = timedelta(hours=24)
# If the app worked a moment ago, one refusal may be about one connection: probe at once.
JUST_NOW: Final = timedelta(seconds=60)


class Standing(Struct, frozen=True, kw_only=True):
    """``why`` is ``None`` while it is open; ``since`` is when the present standing began.

    ``held_until``: when it was last held, which is what ``Claimed.held_until`` asks for.
    ``believed_until``: a mass of refusals was confirmed, and is believed until then.
    """

    window: Window
    since: datetime
    why: Literal["held", "paused"] | None = None
    probe_at: datetime | None = None
    probing_until: datetime | None = None
    probes: int = 0
    fine_at: datetime | None = None
    held_until: datetime | None = None
    believed_until: datetime | None = None


class Learned(NamedTuple):
    """What it is now, and what the operator should hear."""

    standing: Standing
    alert: Alert | None = None


def begun(now: datetime) -> Standing:
    """A new integration's."""
    return Standing(window=Window(began=now), since=now)


def admit(standing: Standing, now: datetime) -> tuple[Standing, datetime | None]:
    """May a refresh begin? ``None``: yes, perhaps as the probe. Else: not before then."""
    if standing.why is None or standing.probe_at is None:
        return standing, None
    if now < standing.probe_at:
        return standing, standing.probe_at
    if standing.probing_until is not None and now < standing.probing_until:
        return standing, standing.probing_until
    return replace(standing, probing_until=now + PROBE), None


def learn(standing: Standing, what: Experience, now: datetime, *, sent_at: datetime) -> Learned:
    """What a call told that was sent at ``sent_at``."""
    if standing.why is not None and sent_at < standing.since:
        return Learned(standing)  # of before: the beginning of this took it into account
    if what == "fine":
        return _fine(standing, now)
    if what == "client":
        return _refused_client(standing, now, sent_at)
    return _dead(standing, now)


def all_fine(standing: Standing, now: datetime, calls: int) -> Standing:
    """So many calls brought tokens, while it was open."""
    window = standing.window.counted(now, WINDOW, good=True, calls=calls)
    return replace(standing, window=window, fine_at=now)


def mended(standing: Standing, now: datetime) -> Learned:
    """The operator changed the integration, or says that it is well."""
    fresh = replace(begun(now), held_until=last_held(standing, now))
    return Learned(fresh, "resumed" if standing.why is not None else None)


def last_held(standing: Standing, now: datetime) -> datetime | None:
    """When the integration was last held: ``Claimed`` and ``Failed`` ask for it."""
    return now if standing.why == "held" else standing.held_until


def _fine(standing: Standing, now: datetime) -> Learned:
    if standing.why is not None:
        lifted = replace(begun(now), held_until=last_held(standing, now), fine_at=now)
        return Learned(lifted, "resumed")
    return Learned(all_fine(standing, now, 1))


def _refused_client(standing: Standing, now: datetime, sent_at: datetime) -> Learned:
    if standing.why is not None:
        return Learned(_probed(standing, now))
    if sent_at < standing.since:
        return Learned(standing)  # of the configuration before the present one
    worked = standing.fine_at is not None and now - standing.fine_at < JUST_NOW
    paused = replace(
        standing,
        why="paused",
        since=now,
        probe_at=now if worked else now + FIRST_PROBE,
        probing_until=None,
        probes=0,
    )
    return Learned(paused, "paused")


def _dead(standing: Standing, now: datetime) -> Learned:
    if standing.why == "paused":
        # The client was let in: it is the grant that was not.
        return _fine(standing, now)
    if standing.why == "held":
        if now - standing.since < LONGEST_HOLD:
            return Learned(_probed(standing, now))
        believing = replace(begun(now), held_until=now, believed_until=now + LONGEST_HOLD)
        return Learned(believing, "refusals_confirmed")
    window = standing.window.counted(now, WINDOW, good=False)
    counts = window.counts(now, WINDOW)
    counted = replace(standing, window=window)
    believed = standing.believed_until is not None and now < standing.believed_until
    if believed or counts.bad < FEWEST_DEAD or counts.bad_share < DEAD_SHARE:
        return Learned(counted)
    held = replace(
        counted, why="held", since=now, probe_at=now + FIRST_PROBE, probing_until=None, probes=0
    )
    return Learned(held, "held")


def _probed(standing: Standing, now: datetime) -> Standing:
    """The probe found nothing better: the next one, later."""
    probes = standing.probes + 1
    wait = min(LONGEST_BETWEEN_PROBES, FIRST_PROBE * (1 << min(probes, 10)))
    return replace(standing, probes=probes, probe_at=now + wait, probing_until=None)
