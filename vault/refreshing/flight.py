"""One connection on its way to a call: its app registration, room, a claim, and the call itself.

* Each step is begun by whatever ends the one before it; in between there is nothing but an object
  that waits to be told. Only what is not at hand is awaited, in a task.
* Where there is no claim to be had now it is tried again, as long as somebody waits for it.
* A flight lands once, whatever happens on its way; its room is free again then.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import copy_context
from typing import Any, Final, final

from vault.errors import Invalid, Misconfigured, Unresolved, VaultError
from vault.lifecycle.takeover import LEASE
from vault.oauth.renewing import further_tokens
from vault.oauth.replies import Failure
from vault.refreshing.calling import Call, Caller
from vault.refreshing.lane import Lane
from vault.refreshing.outlets import Outlets
from vault.refreshing.page import Granted, Outcome, Outlet, Place, Refused, Settled, Wanted
from vault.refreshing.replica import Replica
from vault.refreshing.room import Guest, Room

# The lease ends then at the latest; who has not got through by then finds out what came of it.
GIVE_UP_SECONDS: Final = LEASE.total_seconds() + 30
POLL_SECONDS: Final = (0.05, 0.5)
# A claim that came too late for its call, and was given back.
UNUSED: Final = "unused"
# What may be otherwise in a moment, for whoever waits.
AGAIN: Final = frozenset({"busy", "no_room", "not_due", UNUSED})


class Airport:
    """What all flights of this process share."""

    def __init__(
        self,
        replica: Replica,
        outlets: Outlets,
        caller: Caller,
        put_off: Callable[[Place, str], Awaitable[None]],
        landed: "Callable[[Flight], None]",
    ) -> None:
        self.replica = replica
        self.outlets = outlets
        self.caller = caller
        self.put_off = put_off
        self.landed = landed
        self.room = Room()
        self.closes = False  # nothing is tried again


@final
class Flight(Guest):
    """One of them. ``needed``: the generation that is not good enough, while somebody waits."""

    __slots__ = (
        "_begun",
        "_call",
        "_give_up_at",
        "_landing",
        "_outlet",
        "_pause",
        "_port",
        "_task",
        "_timer",
        "connection_id",
        "context",
        "end",
        "key",
        "lane",
        "left",
        "needed",
        "patience",
        "waiters",
    )

    def __init__(self, port: Airport, lane: Lane, connection_id: str, *, left: bool) -> None:
        super().__init__(lane.place.workspace, "due")
        self.connection_id = connection_id
        self.key = (self.workspace, connection_id)  # which one it is, among all workspaces'
        self._port = port
        self.lane = lane
        self.left = left
        self.context = copy_context()
        self.needed: int | None = None
        self.waiters = 0
        self.patience = 0.0  # until when they wait, by the monotonic clock
        self.end: Outcome | BaseException | None = None
        self._begun = False
        self._landing: asyncio.Future[None] | None = None
        self._pause = POLL_SECONDS[0]
        self._give_up_at = 0.0
        self._outlet: Outlet | None = None
        self._call: Call | None = None
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    # Who waits

    @property
    def waited_for(self) -> bool:
        return self.needed is not None

    @property
    def landing(self) -> "asyncio.Future[None]":
        """Done when it has landed."""
        if self._landing is None:
            self._landing = asyncio.get_running_loop().create_future()
            if self.end is not None:
                self._landing.set_result(None)
        return self._landing

    def wait_for(self, generation: int, until: float) -> None:
        """Somebody wants tokens newer than this generation, and waits until then."""
        self.waiters += 1
        self.needed = max(generation, self.needed or 0)
        self.patience = max(until, self.patience)
        self._port.room.hurry(self)

    def wait_no_longer(self, *, wished: bool) -> None:
        """One of them has gone. A call goes on; a wish without a call ends with the last of them,
        unless it is ``wished`` for whoever comes later.
        """
        self.waiters -= 1
        if not self.waiters and not wished:
            self.needed, self.patience = None, 0.0

    def cancel(self) -> None:
        """It lands without having got anywhere; an answer that has come is kept."""
        if self._call is not None:
            self._port.caller.cancel(self._call)
        elif self._task is not None:  # once it has begun, so that it can tell of its end
            asyncio.get_running_loop().call_soon(self._task.cancel)
        elif self.end is None:
            self._land(asyncio.CancelledError())

    # Its way

    def begin(self) -> None:
        """Set out, if it has not yet."""
        if self._begun:
            return
        self._begun = True
        self._outlet = self._port.outlets.at_hand(self.lane.place)
        if self._outlet is None or not self._port.replica.joined:
            self._await(self._prepared())
        else:
            self._line_up()

    async def _prepared(self) -> None:
        await self._port.replica.join()
        try:
            self._outlet = await self._port.outlets.of(self.lane.place)
        except VaultError as error:
            await self._port.put_off(self.lane.place, self.connection_id)
            if not isinstance(error, Unresolved | Invalid | Misconfigured):
                raise
            failure = Failure(outcome="client", detail=error.message)
            self._land(Outcome(why="integration_paused", failure=failure))
        else:
            self._line_up()

    def _line_up(self) -> None:
        self._timer = None
        self._give_up_at = self._give_up_at or time.monotonic() + GIVE_UP_SECONDS
        self.kind = "waited_for" if self.waited_for else "due"
        self._port.room.come(self)

    def let_in(self) -> None:
        """There is room."""
        wanted = Wanted(
            connection_id=self.connection_id,
            outlet=self._ready,
            waiting=self.waited_for,
            left=self.left,
            generation=self.needed,
        )
        self.lane.claims.add(wanted, self._claimed)

    def _claimed(self, answer: Granted | Refused | Exception) -> None:
        if self.end is not None:
            return  # cancelled; what was claimed ends with its lease
        if isinstance(answer, Granted):
            self._call = Call(self.lane, answer, self._ready, self, self._called)
            self._port.caller.begin(self._call)
        elif isinstance(answer, Refused):
            self._refused(answer)
        else:
            self._land(answer)

    def _called(self, call: Call, settled: Settled | BaseException) -> None:
        self._call = None
        try:
            self._gone_on(call, settled)
        except Exception as error:  # noqa: BLE001 - whoever waits is told
            self._land(error)

    def _gone_on(self, call: Call, settled: Settled | BaseException) -> None:
        """One call has ended; the first of those that were asked for."""
        if isinstance(settled, BaseException):
            self._land(settled)
        elif call.end.tokens is None:
            failure = call.end.failure
            if failure is None:
                self._refused(Refused(why=UNUSED))
            else:
                self._land(Outcome(why=failure.outcome, failure=failure))
        elif further := further_tokens(self._ready.app, call.end.tokens):
            self._await(self._called_further(further, settled))
        else:
            self._land(Outcome(generation=settled.generation or None))

    async def _called_further(self, names: tuple[str, ...], settled: Settled) -> None:
        """One call for each further token of the same consent."""
        for name in names:
            wanted = Wanted(connection_id=self.connection_id, outlet=self._ready, waiting=True)
            granted = await self.lane.claims.do(wanted)
            if isinstance(granted, Granted):
                more = await self._called_for(granted, name)
                settled = more if more.generation else settled
        self._land(Outcome(generation=settled.generation or None))

    async def _called_for(self, granted: Granted, name: str) -> Settled:
        told: asyncio.Future[Settled | BaseException] = asyncio.get_running_loop().create_future()
        call = Call(
            self.lane, granted, self._ready, self, lambda _, end: told.set_result(end), name
        )
        self._port.caller.begin(call)
        try:
            settled = await asyncio.shield(told)
        except asyncio.CancelledError:
            self._port.caller.cancel(call)
            await told
            raise
        if isinstance(settled, BaseException):
            raise settled
        return settled

    def _refused(self, refused: Refused) -> None:
        """Try again, if somebody waits for long enough, and else be done."""
        now, pause = time.monotonic(), self._pause
        again = refused.why in AGAIN and not self._port.closes
        if not again or now + refused.seconds >= self.patience or now > self._give_up_at:
            why = None if refused.why == "current" else refused.why
            self._land(Outcome(why=why, until=refused.until))
            return
        self._port.room.go(self)
        self._timer = asyncio.get_running_loop().call_later(pause, self._line_up)
        self._pause = min(2 * pause, POLL_SECONDS[1])

    # Its end

    def _land(self, end: Outcome | BaseException) -> None:
        if self.end is not None:
            return
        self.end = end
        if self._timer is not None:
            self._timer.cancel()
        self._port.room.go(self)
        if self._landing is not None and not self._landing.done():
            self._landing.set_result(None)
        self._port.landed(self)

    def _await(self, way: Coroutine[Any, Any, None]) -> None:
        """Go on in a task."""
        self._task = asyncio.get_running_loop().create_task(
            self._to_the_end(way), context=self.context
        )

    async def _to_the_end(self, way: Coroutine[Any, Any, None]) -> None:
        try:
            await way
        except BaseException as error:  # noqa: BLE001 - whoever waits is told
            self._land(error)
        finally:
            self._task = None

    @property
    def _ready(self) -> Outlet:
        assert self._outlet is not None
        return self._outlet
