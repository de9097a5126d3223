"""What is remembered of one connection: enough to decide, nothing secret.

* The state is not stored beside the facts but read from them, so that the two cannot disagree.
* ``fence`` counts claims, ``generation`` counts token sets; neither ever goes back.
* A connection whose row is gone counts as ``revoked``: see ``GONE``.
"""

from datetime import datetime
from typing import Final, Literal

from msgspec import Struct

from vault.oauth.replies import Outcome

State = Literal[
    "pending",
    "active",
    "refreshing",
    "backoff",
    "uncertain",
    "suspect",
    "needs_reauth",
    "revoking",
    "revoked",
]
# refused: the provider said so and meant it. lost_rotation: it had given a new refresh token, and
# the answer with it never reached us.
Verdict = Literal["refused", "lost_rotation"]


class Claim(Struct, frozen=True, kw_only=True):
    """Who may call the provider now. ``generation`` is the token set whose refresh token is sent.

    ``attempt`` names this one call in journal and logs.
    """

    fence: int
    generation: int
    owner: str
    attempt: str
    at: datetime
    until: datetime


class Suspicion(Struct, frozen=True, kw_only=True):
    """The provider called the grant dead. ``lost``: and we know of an answer that we never saw."""

    since: datetime
    lost: bool = False


class Life(Struct, frozen=True, kw_only=True):
    """One connection. The parts that are ``None`` are what does not happen to most of them.

    ``saved``: the fence whose answer the present token set is; an older answer never replaces it.
    ``consented``: the fence of the present consent; older answers belong to a former one.
    ``orphan``: an answer in the journal that came too late, but may be the better one.
    ``doubt``: since when a call may have used up the refresh token, without our knowing.
    ``told``: the world has heard that this connection is in trouble.
    """

    generation: int = 0
    fence: int = 0
    saved: int = 0
    consented: int = 0
    claim: Claim | None = None
    doubt: datetime | None = None
    suspicion: Suspicion | None = None
    orphan: int | None = None
    failures: int = 0
    last_failure: Outcome | None = None
    next_try_at: datetime | None = None
    verdict: Verdict | None = None
    gone: bool = False
    told: bool = False

    @property
    def state(self) -> State:
        """The one word for all of it, as ``design.md`` and the HTTP routes have it."""
        if self.gone:
            return "revoked"
        if self.generation == 0:
            return "pending"
        if self.verdict is not None:
            return "needs_reauth"
        if self.claim is not None:
            return "refreshing"
        return self._trouble()

    def _trouble(self) -> State:
        if self.suspicion is not None:
            return "suspect"
        if self.doubt is not None:
            return "uncertain"
        return "backoff" if self.failures else "active"


NEW: Final = Life()
GONE: Final = Life(gone=True)
