"""Signed webhooks out: what the outbox holds reaches the platform, at least once.

* Signed as Standard Webhooks says: ``webhook-id`` is the event's and stays the same however often
  it is sent, ``webhook-timestamp`` is the attempt's, and ``webhook-signature`` holds one signature
  for each secret that signs now, over ``id.timestamp.body``.
* Anything but a status of 2xx is a failure; a redirect is one, too. What was answered beside the
  status is not read, and not kept.
* A slow endpoint holds up itself alone: so many are served at once, so many of one workspace, and
  those at which nothing arrives get half of the room at the most.
* An attempt has ten seconds. ``drain`` lets those under way end and begins none.
* No address and no secret is ever logged; an endpoint is named by its id.
"""

import asyncio
import base64
import hashlib
import hmac
import time
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Final

import msgspec
import structlog
from msgspec import Struct

from vault.egress import Egress, Reply, Request, Timeouts
from vault.egress.waits import retry_after
from vault.errors import AnswerTooLarge, EgressDenied, VaultError
from vault.events.deliveries import (
    GONE,
    LONGEST_PAUSE,
    TURN_DELIVERIES,
    Delivery,
    Tried,
    Turn,
    Waiting,
)
from vault.model import WorkspaceId
from vault.secret import Secret
from vault.vault import Vault

TIMEOUTS: Final = Timeouts(connect=5.0, wait=5.0, read=10.0, total=10.0)
MAX_ANSWER: Final = 64 * 1024  # bytes; the status is what counts
# A turn lasts a minute for the others: no attempt begins so late that it could outlast it.
BEGIN_WITHIN: Final = 20.0
SERVED_WITHIN: Final = 10.0  # then others come first
AT_ONCE: Final = 4  # attempts, at one endpoint
MAX_ENDPOINTS: Final = 64
MAX_OF_WORKSPACE: Final = 4
MAX_FAILING: Final = MAX_ENDPOINTS // 2
DRAIN_SECONDS: Final = TIMEOUTS.total + 5.0

_PREFIX: Final = "whsec_"
_log = structlog.get_logger("keyturn.events")


class Attempt(Struct, frozen=True):
    """One attempt that has ended, for whoever counts."""

    outcome: str
    seconds: float


Observe = Callable[[Attempt], None]


class Courier:
    """All deliveries that this process makes."""

    def __init__(self, vault: Vault, egress: Egress) -> None:
        self._vault = vault
        self._egress = egress
        self._serving: dict[tuple[WorkspaceId, str], tuple[Waiting, asyncio.Task[None]]] = {}
        self._draining = False
        self.observe: Observe = lambda _: None

    async def deliver_due(self) -> int:
        """Begin to serve the endpoints that something waits for; returns how many."""
        waiting = await self._vault.endpoints_waiting()
        chosen = [] if self._draining else self._chosen(waiting)
        for one in chosen:
            key = (one.workspace_id, one.endpoint_id)
            task = asyncio.create_task(self._served(one))
            self._serving[key] = (one, task)
            task.add_done_callback(partial(self._ended, key))
        return len(chosen)

    async def drain(self, seconds: float = DRAIN_SECONDS) -> None:
        """Begin no more; let what is under way end."""
        self._draining = True
        if tasks := {task for _, task in self._serving.values()}:
            _, late = await asyncio.wait(tasks, timeout=seconds)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    @property
    def under_way(self) -> int:
        """Endpoints that are being served now."""
        return len(self._serving)

    def _chosen(self, waiting: Sequence[Waiting]) -> list[Waiting]:
        """Whom there is room for, beside those who are being served."""
        served = [one for one, _ in self._serving.values()]
        of_workspace = Counter(one.workspace_id for one in served)
        failing = sum(1 for one in served if one.failures)
        chosen: list[Waiting] = []
        for one in waiting:
            full = len(served) + len(chosen) >= MAX_ENDPOINTS
            if full or of_workspace[one.workspace_id] >= MAX_OF_WORKSPACE:
                continue
            if (one.workspace_id, one.endpoint_id) in self._serving:
                continue
            if one.failures and failing >= MAX_FAILING:
                continue
            of_workspace[one.workspace_id] += 1
            failing += bool(one.failures)
            chosen.append(one)
        return chosen

    def _ended(self, key: tuple[WorkspaceId, str], task: asyncio.Task[None]) -> None:
        del self._serving[key]
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("delivering_broke", endpoint=key[1], exc_info=error)

    async def _served(self, one: Waiting) -> None:
        """One turn after the other, as long as all arrives and more may wait."""
        enough = time.monotonic() + SERVED_WITHIN
        try:
            while await self._turn(one) and time.monotonic() < enough:
                pass
        except VaultError as error:
            # The turn runs out, and what it sent may be sent again.
            _log.warning("turn_failed", endpoint=one.endpoint_id, error=type(error).__name__)

    async def _turn(self, one: Waiting) -> bool:
        begun = time.monotonic()
        turn = await self._vault.begin_turn(one)
        if turn is None:
            return False
        tried = await self.tried_in(turn, begun)
        await self._vault.end_turn(turn, tried)
        return (
            len(tried) == TURN_DELIVERIES
            and all(one.arrived for one in tried)
            and not self._draining
        )

    async def tried_in(self, turn: Turn, begun: float | None = None) -> list[Tried]:
        """Try what there is in a turn, a few at a time, in order; ``begun``: when it was asked for,
        by the monotonic clock.
        """
        begun = time.monotonic() if begun is None else begun
        waiting = iter(turn.deliveries)
        tried: list[Tried] = []

        async def work() -> None:
            for delivery in waiting:
                passed = time.monotonic() - begun
                if self._draining or passed > BEGIN_WITHIN:
                    return
                at = turn.now + timedelta(seconds=passed)
                tried.append(await self._tried(turn, delivery, at))

        await asyncio.gather(*(work() for _ in range(AT_ONCE)))
        return tried

    async def _tried(self, turn: Turn, delivery: Delivery, at: datetime) -> Tried:
        request = request_of(turn.url, turn.secrets, delivery, at)
        began = time.monotonic()
        try:
            reply = await self._egress.call("event", request)
        except VaultError as error:
            tried = Tried(delivery=delivery, problem=error.message)
            outcome = _OUTCOMES.get(type(error), "unreachable")
        else:
            tried = answered(delivery, reply, at)
            outcome = "delivered" if tried.arrived else "refused"
            outcome = "gone" if reply.status == GONE else outcome
        self.observe(Attempt(outcome, time.monotonic() - began))
        return tried


def answered(delivery: Delivery, reply: Reply, at: datetime) -> Tried:
    """What an answer means."""
    status = reply.status
    if 200 <= status < 300:  # noqa: PLR2004 - as HTTP numbers success
        return Tried(delivery=delivery, status=status)
    return Tried(
        delivery=delivery,
        status=status,
        problem=f"The endpoint answered {status}.",
        retry_after=retry_after(reply, now=at, at_most=int(LONGEST_PAUSE.total_seconds())),
    )


def request_of(url: str, secrets: Sequence[Secret], delivery: Delivery, at: datetime) -> Request:
    """The one request that delivers an event, signed for this moment."""
    body, timestamp = payload(delivery), int(at.timestamp())
    signatures = " ".join(signature(one, delivery.event_id, timestamp, body) for one in secrets)
    return Request(
        method="POST",
        url=url,
        headers=(
            ("Content-Type", "application/json"),
            ("webhook-id", delivery.event_id),
            ("webhook-timestamp", str(timestamp)),
            ("webhook-signature", signatures),
        ),
        body=body,
        timeout=TIMEOUTS,
        max_bytes=MAX_ANSWER,
    )


def payload(delivery: Delivery) -> bytes:
    """What is said of an event; the same bytes in every attempt."""
    data: dict[str, Any] = msgspec.json.decode(delivery.body)
    data.pop("type", None)
    at = delivery.at.astimezone(UTC)
    return msgspec.json.encode({"type": delivery.type, "timestamp": at, "data": data})


def signature(secret: Secret, event_id: str, timestamp: int, body: bytes) -> str:
    """One signature of ``webhook-signature``."""
    key = base64.b64decode(secret.reveal().removeprefix(_PREFIX))
    signed = f"{event_id}.{timestamp}.".encode() + body
    digest = hmac.digest(key, signed, hashlib.sha256)
    return f"v1,{base64.b64encode(digest).decode()}"


_OUTCOMES: Final[dict[type[VaultError], str]] = {EgressDenied: "denied", AnswerTooLarge: "refused"}
