"""The conversation's WebSocket that injects: the client speaks to us, and we to the upstream.

* A ticket opens one socket, once. What it admits to, the mint has fixed; ``frames`` builds the
  first frame. After that text and bytes pass untouched, both ways and in order; only a second
  initiation ends the conversation, and a secret is struck out of what the client would hear.
* Awaiting is the flow control: one frame is in hand in each direction, and no more is read from
  one side than the other takes. Whoever takes nothing for ``STALLED`` seconds is left.
* How one side ends it, code and reason, is what the other side hears. Where nobody said goodbye,
  the upstream hears 1001 and the client 1011.
* A conversation ends when its time is over (1000), when nobody says anything (1001), and when
  somebody ended it or deleted its user (1000): any replica may have been told, so the doorkeeper is
  asked again and again. However it ends, the doorkeeper is told, and its grants die.
* Sockets are counted, in all and for each workspace. Over a limit, or while the replica stops, a
  client is refused at once: 1013 or 1012, before its ticket is used where that can be known.
* No log line and no reason holds a ticket, a URL or a frame.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, Literal

import structlog
from msgspec import Struct

from broker.admission import Admission, Doorkeeper
from broker.frames import Refused, Veil, first_frame, is_initiation, upstream_id
from broker.metrics import Relays
from vault.egress import Closed, Dial, Egress, Socket
from vault.errors import NotFound, Unreachable, VaultError
from vault.model import WorkspaceId

NORMAL, GOING_AWAY, POLICY, TOO_LONG, BROKEN, RESTART, LATER = (
    1000,
    1001,
    1008,
    1009,
    1011,
    1012,
    1013,
)
NO_CODE, LOST = 1005, 1006
# RFC 6455 section 7.4: what stands in a close frame. 1005, 1006 and 1015 are only said about one.
SENDABLE: Final = frozenset({*range(1000, 1015)} - {1004, NO_CODE, LOST})
PRIVATE: Final = range(3000, 5000)

ADMITTING: Final = 20.0  # seconds; a refresh and the upstream's signed URL may be part of it
FIRST_FRAME: Final = 10.0
STALLED: Final = 30.0
IDLE: Final = 120.0
LOOK: Final = 5.0  # between two looks at whether somebody ended the conversation
GOODBYE: Final = 5.0
TELLING: Final = 10.0
MAX_ARRIVING: Final = 100  # sockets that nobody has admitted yet
MAX_HEARD: Final = 4 << 20  # bytes of one message from the upstream

# What a client hears when it is not admitted; every other code means that it may not.
TRY_LATER: Final = frozenset({"not_ready", "provider_unavailable", "rate_limited"})
FAILED: Final = frozenset({"upstream_failed", "internal"})

_log = structlog.get_logger("keyturn.relay")


class Gone(Exception):
    """The client is not there any more."""


class Client:
    """The client's side of a socket: ASGI's messages as frames."""

    def __init__(
        self,
        receive: Callable[[], Awaitable[Mapping[str, Any]]],
        send: Callable[[Any], Awaitable[None]],
    ) -> None:
        self._receive = receive
        self._send = send

    async def receive(self) -> str | bytes | Closed:
        """Wait for the next frame, or learn how it ended."""
        message = await self._receive()
        if message["type"] != "websocket.receive":
            return Closed(message.get("code") or NO_CODE, message.get("reason") or "")
        text: str | None = message.get("text")
        return message.get("bytes") or b"" if text is None else text

    async def send(self, frame: str | bytes) -> None:
        """Send a frame; returns when the server has room for the next one."""
        kind = "text" if isinstance(frame, str) else "bytes"
        try:
            await self._send({"type": "websocket.send", kind: frame})
        except (OSError, RuntimeError):  # gone, or already told goodbye by the server
            gone = True
        else:
            gone = False
        if gone:
            raise Gone

    async def close(self, code: int, reason: str) -> None:
        """Say goodbye, for as long as that takes at most; then the server cuts the connection."""
        short = reason.encode()[:123].decode("utf-8", "ignore")
        try:
            async with asyncio.timeout(GOODBYE):
                await self._send({"type": "websocket.close", "code": code, "reason": short})
        except (TimeoutError, OSError, RuntimeError):
            pass


class Ended(Struct, frozen=True):
    """Who ended it, and how."""

    by: Literal["client", "upstream", "us"]
    code: int
    reason: str = ""

    def for_client(self) -> int:
        """Choose the code that the client hears."""
        return _sendable(self.code, lost=BROKEN)

    def for_upstream(self) -> int:
        """Choose the code that the upstream hears: what we find fault with is not its business."""
        if self.by == "us" and self.code != NORMAL:
            return GOING_AWAY
        return _sendable(self.code, lost=GOING_AWAY)


def _sendable(code: int, *, lost: int) -> int:
    if code == NO_CODE:
        return NORMAL
    return code if code in SENDABLE or code in PRIVATE else lost


class Relay:
    """All conversations of this process that go through us."""

    def __init__(
        self,
        doorkeeper: Doorkeeper,
        egress: Egress,
        metrics: Relays,
        *,
        sockets: int,
        workspace_sockets: int,
    ) -> None:
        self.draining = False
        self._doorkeeper = doorkeeper
        self._egress = egress
        self._metrics = metrics
        self._sockets = sockets
        self._workspace_sockets = workspace_sockets
        self._arriving = 0
        self._open = 0
        self._by_workspace: Counter[WorkspaceId] = Counter()

    @property
    def open(self) -> int:
        """How many sockets are open, those that are not admitted yet included."""
        return self._open

    async def serve(self, client: Client, ticket: str | None) -> None:
        """Hold the conversation that this ticket admits to; the socket has been accepted."""
        if ticket is None:
            await self._refuse(client, Ended("us", POLICY, "A ticket is missing"))
            return
        if (refusal := self._refusal()) is not None:
            await self._refuse(client, refusal)
            return
        self._open += 1
        self._metrics.open.inc()
        try:
            admission = await self._admitted(ticket)
            if isinstance(admission, Ended):
                await self._refuse(client, admission)
            else:
                await self._hold(client, admission)
        finally:
            self._open -= 1
            self._metrics.open.dec()

    def _refusal(self) -> Ended | None:
        if self.draining:
            return Ended("us", RESTART, "This replica is stopping; try again")
        if self._open >= self._sockets or self._arriving >= MAX_ARRIVING:
            return Ended("us", LATER, "Too many conversations; try again later")
        return None

    async def _refuse(self, client: Client, ended: Ended) -> None:
        self._metrics.closed("refused", ended.code)
        _log.info("refused", close_code=ended.code, why=ended.reason)
        await client.close(ended.code, ended.reason)

    async def _admitted(self, ticket: str) -> Admission | Ended:
        self._arriving += 1
        try:
            async with asyncio.timeout(ADMITTING):
                return await self._doorkeeper.admit(ticket)
        except TimeoutError:
            return Ended("us", LATER, "not_ready")
        except VaultError as error:
            # The code says enough; the text is for the platform, and the client is its user.
            code = LATER if error.code in TRY_LATER else BROKEN if error.code in FAILED else POLICY
            return Ended("us", code, error.code)
        finally:
            self._arriving -= 1

    async def _hold(self, client: Client, admission: Admission) -> None:
        workspace = admission.caller.workspace
        talk = Talk(client, admission, self._doorkeeper, self._metrics)
        started = time.monotonic()
        self._by_workspace[workspace] += 1
        self._metrics.opened.inc()
        try:
            if self._by_workspace[workspace] > self._workspace_sockets:
                ended = Ended("us", LATER, "Too many conversations; try again later")
            else:
                ended = await talk.held(self._egress)
            if ended.by != "client":
                await client.close(ended.for_client(), ended.reason)
        finally:
            self._by_workspace[workspace] -= 1
            if not self._by_workspace[workspace]:
                del self._by_workspace[workspace]
            await talk.over()
        self._metrics.closed(ended.by, ended.code)
        _log.info(
            "conversation",
            conversation=admission.conversation_id,
            workspace=workspace,
            ended_by=ended.by,
            close_code=ended.code,
            seconds=round(time.monotonic() - started, 1),
            struck_out=talk.veil.struck,
        )


class Talk:
    """One admitted conversation, from the client's first frame to the end."""

    def __init__(
        self, client: Client, admission: Admission, doorkeeper: Doorkeeper, metrics: Relays
    ) -> None:
        self.veil = Veil(admission.first_frame)
        self._client = client
        self._admission = admission
        self._doorkeeper = doorkeeper
        self._metrics = metrics
        self._clock = asyncio.get_running_loop().time
        self._until = self._clock() + admission.seconds_left
        self._last = self._clock()
        self._began: asyncio.Task[None] | None = None

    async def held(self, egress: Egress) -> Ended:
        """Introduce the two, and carry what they say until one of them leaves."""
        started = self._clock()
        try:
            async with asyncio.timeout(FIRST_FRAME):
                said = await self._client.receive()
            if isinstance(said, Closed):
                return Ended("client", said.code, said.reason)
            first = first_frame(self._admission, said)
            dial = Dial(url=self._admission.url, max_bytes=MAX_HEARD)
            upstream = await egress.socket("upstream", dial)
        except TimeoutError:
            return Ended("us", POLICY, "The first frame did not come in time")
        except Refused as refused:
            return Ended("us", POLICY, refused.reason)
        except VaultError as error:
            _log.warning("upstream_refused", exc_info=error)
            return Ended("us", BROKEN, "The upstream cannot be reached")
        ended = Ended("us", GOING_AWAY)
        try:
            await upstream.send(first)
            self._metrics.started.observe(self._clock() - started)
            ended = await self._carried(upstream)
        except Unreachable:
            ended = Ended("upstream", LOST)
        finally:
            await upstream.close(ended.for_upstream(), ended.reason if ended.by == "client" else "")
        return ended

    async def over(self) -> None:
        """Tell the doorkeeper."""
        caller, conversation_id = self._admission.caller, self._admission.conversation_id
        try:
            async with asyncio.timeout(TELLING):
                if self._began is not None:
                    await self._began
                await self._doorkeeper.end_conversation(caller, conversation_id)
        except NotFound:
            pass  # gone, with its user
        except (TimeoutError, VaultError) as error:
            # It expires by itself; until then its grants live on.
            _log.warning("end_not_kept", conversation=conversation_id, exc_info=error)

    async def _carried(self, upstream: Socket) -> Ended:
        self._last = self._clock()
        sides = [
            asyncio.create_task(side)
            for side in (
                self._down(upstream),
                self._up(upstream),
                self._time_over(),
                self._ended_elsewhere(),
            )
        ]
        try:
            await asyncio.wait(sides, return_when=asyncio.FIRST_COMPLETED)
            return next(side.result() for side in sides if side.done())
        finally:
            for side in sides:
                side.cancel()
            await asyncio.gather(*sides, return_exceptions=True)

    async def _up(self, upstream: Socket) -> Ended:
        while True:
            frame = await self._client.receive()
            if isinstance(frame, Closed):
                return Ended("client", frame.code, frame.reason)
            if is_initiation(frame):
                return Ended("us", POLICY, "A conversation is initiated once")
            self._last = self._clock()
            self._metrics.up.inc(len(frame))
            try:
                async with asyncio.timeout(STALLED):
                    await upstream.send(frame)
            except TimeoutError:
                return Ended("us", BROKEN, "The upstream takes nothing")
            except Unreachable:
                await _for_the_other_side()

    async def _down(self, upstream: Socket) -> Ended:
        while True:
            frame = await upstream.receive()
            if isinstance(frame, Closed):
                return _by_upstream(frame)
            self._last = self._clock()
            self._metrics.down.inc(len(frame))
            if self._began is None and (found := upstream_id(frame)) is not None:
                self._began = asyncio.create_task(self._begin(found))
            try:
                async with asyncio.timeout(STALLED):
                    await self._client.send(self.veil.over(frame))
            except TimeoutError:
                return Ended("us", POLICY, "The client takes nothing")
            except Gone:
                await _for_the_other_side()

    async def _time_over(self) -> Ended:
        while (now := self._clock()) < self._until:
            if now >= self._last + IDLE:
                return Ended("us", GOING_AWAY, "Nobody says anything")
            await asyncio.sleep(min(self._until, self._last + IDLE) - now)
        return Ended("us", NORMAL, "The conversation's time is over")

    async def _ended_elsewhere(self) -> Ended:
        # Apart from the other clocks: a look may wait for the database.
        while True:
            await asyncio.sleep(LOOK)
            if await self._has_ended():
                return Ended("us", NORMAL, "The conversation was ended")

    async def _has_ended(self) -> bool:
        caller, conversation_id = self._admission.caller, self._admission.conversation_id
        try:
            return await self._doorkeeper.has_ended(caller, conversation_id)
        except VaultError:
            return False  # nobody can say now, and no call is cut for that

    async def _begin(self, found: str) -> None:
        caller, conversation_id = self._admission.caller, self._admission.conversation_id
        try:
            await self._doorkeeper.conversation_began(caller, conversation_id, found)
        except VaultError as error:
            _log.warning("beginning_not_kept", conversation=conversation_id, exc_info=error)


def _by_upstream(closed: Closed) -> Ended:
    if closed.ours:
        long = closed.code == TOO_LONG
        return Ended("us", TOO_LONG if long else BROKEN, "The upstream's frame cannot be passed on")
    reason = "The upstream's connection was lost" if closed.code == LOST else closed.reason
    return Ended("upstream", closed.code, reason)


async def _for_the_other_side() -> None:
    """Wait: whoever reads from a side that is gone knows how it went, and ends this."""
    await asyncio.get_running_loop().create_future()
