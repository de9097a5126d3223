"""What has to be done. ``Save`` and ``Announce`` belong into the transaction that
stores the life they came with; everything else begins when that is committed.

An answer is named by its ``fence``: the journal holds it from before the machine heard of it.
"""

from datetime import datetime
from typing import Literal

from msgspec import Struct

Why = Literal[
    "pending",  # nobody has consented yet
    "gone",
    "needs_reauth",
    "busy",  # somebody is at it
    "waiting",  # not before ``until``
    "other_account",  # the consent is not for the account that this connection stands for
]
Experience = Literal["fine", "dead", "client"]
News = Literal["connected", "refreshed", "degraded", "needs_reauth", "recovered"]


class Intent(Struct, frozen=True, kw_only=True, tag=True):
    """The base of all intents."""


class Call(Intent, frozen=True, kw_only=True):
    """Ask the provider for new tokens with the refresh token of ``generation``.

    Not sent by ``send_by``, it is not sent at all: ``Released``. ``until`` is the lease's end.
    ``again``: a call before this one failed, so it counts against the endpoint's retry budget.
    """

    fence: int
    generation: int
    attempt: str
    send_by: datetime
    until: datetime
    again: bool


class NotNow(Intent, frozen=True, kw_only=True):
    """What was asked for is not done. ``until``: asking again sooner is of no use."""

    why: Why
    until: datetime | None = None


class Save(Intent, frozen=True, kw_only=True):
    """The answer of ``fence`` becomes the tokens of ``generation``.

    ``late``: its call was given up before it came. ``orphan``: it had been put aside.
    """

    fence: int
    generation: int
    source: Literal["answer", "late", "orphan"]


class KeepOrphan(Intent, frozen=True, kw_only=True):
    """The answer of ``fence`` came after a newer one: leave it in the journal, use it for nothing.

    Giving it back could end the whole grant, and it may yet turn out to be the one that lives.
    """

    fence: int


class GiveBack(Intent, frozen=True, kw_only=True):
    """Revoke the tokens in the answer of ``fence`` at the provider; the connection has ended."""

    fence: int


class TellIntegration(Intent, frozen=True, kw_only=True):
    """Let the integration's standing learn: see ``vault.lifecycle.standing``.

    ``dead`` is told once for a connection's token set, so that a count of them counts people.
    """

    what: Experience


class Announce(Intent, frozen=True, kw_only=True):
    """News for the outbox."""

    news: News
    reason: str | None = None


AnyIntent = Call | NotNow | Save | KeepOrphan | GiveBack | TellIntegration | Announce
