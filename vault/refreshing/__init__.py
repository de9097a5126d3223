"""Keeping tokens alive: one refresh of a connection at a time, over all processes.

* The claim is committed before the provider is called. No transaction and no pooled connection is
  held during the call, and the call has longer than the slowest provider takes.
* A call belongs to nobody who waits: it is a task of its own, and who goes away leaves it running.
  ``drain`` lets it end.
* An answer is sealed and durable before anything else is done with it: in the database, which is
  asked again and again, or after two seconds in the spool as well. ``replay`` works the spool off.
* Whoever slept between claim and call gives the claim back; whoever slept longer finds his answer
  kept as what it is, and nothing overwritten.
* ``vault.lifecycle`` decides; ``lane`` reads and writes.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Final

import structlog
from msgspec.structs import replace

from vault.database import Database
from vault.dialogue import Dialogue
from vault.errors import IntegrityError, Invalid, Misconfigured, NotReady, Unresolved, VaultError
from vault.lifecycle.takeover import LEASE, SEND_WITHIN
from vault.lifecycle.turns import Candidate, in_turn
from vault.model import UserId, WorkspaceId
from vault.oauth.app import App
from vault.oauth.renewing import further_tokens
from vault.oauth.replies import Failure, NoToken, failure_of
from vault.oauth.typed import as_given
from vault.refreshing.alarm import Alarm
from vault.refreshing.lane import Lane, replay_of, to_spool
from vault.refreshing.observing import Observe, observed
from vault.refreshing.page import (
    Ending,
    Granted,
    Outcome,
    Outlet,
    Place,
    Refused,
    Settled,
    Wanted,
    unused,
)
from vault.refreshing.replica import Replica
from vault.refreshing.room import Room
from vault.refreshing.spool import Spool, Spooled
from vault.store import Store, answers
from vault.store import connections as connection_rows
from vault.store import refreshing as rows
from vault.store.refreshing import Due

# An app registration is resolved once for all that is refreshed within so many seconds.
OUTLET_SECONDS: Final = 5.0
# So long the database alone is tried with an answer; then it is spooled as well.
SPOOL_AFTER: Final = 2.0
# Whoever has slept for longer since the claim sends nothing: others may have taken over.
SEND_WITHIN_SECONDS: Final = SEND_WITHIN.total_seconds()
# The lease ends then at the latest; who has not got through by then finds out what came of it.
GIVE_UP_SECONDS: Final = LEASE.total_seconds() + 30
# As long as a call may take, and storing what it brings.
DRAIN_SECONDS: Final = 85.0
POLL_SECONDS: Final = (0.05, 0.5)
MAX_FLIGHTS: Final = 1_000
SWEEP_ROWS: Final = 500
# Where there is more, it may all be of one workspace: so many others have their turn, with so much.
TURNS: Final = (100, 5)
# A claim that came too late for its call, and was given back.
UNUSED: Final = "unused"
# What may be otherwise in a moment, for whoever waits.
AGAIN: Final = frozenset({"busy", "no_room", "not_due", UNUSED})
# A registration that cannot be used is looked at again after so long.
UNUSABLE_SECONDS: Final = 60

_log = structlog.get_logger("keyturn.refreshing")


AppOf = Callable[[Place], Awaitable[App]]


class Refresher:
    """All refreshes that this process makes."""

    def __init__(
        self,
        database: Database,
        worker: Database | None,
        store: Store,
        dialogue: Dialogue,
        app_of: AppOf,
        replica: Replica,
        spool: Spool | None,
        deployment: str,
    ) -> None:
        self._database = database
        self._worker = worker
        self._store = store
        self._dialogue = dialogue
        self._app_of = app_of
        self.replica = replica
        self._spool = spool
        self._deployment = deployment
        self._lanes: dict[Place, Lane] = {}
        self._outlets: dict[Place, tuple[float, asyncio.Task[Outlet]]] = {}
        self._room = Room()
        self._alarm = Alarm()
        self._flights: dict[tuple[str, str], asyncio.Task[Outcome]] = {}
        self._waiting: dict[str, int] = {}  # the generation that is not good enough
        self._waiters: Counter[str] = Counter()
        self._patience: dict[str, float] = {}  # until when they wait, by the monotonic clock
        self._turn = ""  # the workspace that had the last one
        self._draining = False
        self.observe: Observe = lambda _: None

    # Who asks

    async def refresh(
        self, place: Place, connection_id: str, generation: int, *, wait: float
    ) -> Outcome | None:
        """Tokens newer than ``generation``, within ``wait`` seconds; ``None``: it takes longer.

        Neither a deadline nor a cancel ends the call. A call for which there is no room in time is
        not made. Without any ``wait`` it is begun, for whoever comes later.
        """
        task = self._flight(place, connection_id)
        self._waiting[connection_id] = max(generation, self._waiting.get(connection_id, 0))
        self._waiters[connection_id] += 1
        until = time.monotonic() + wait
        self._patience[connection_id] = max(until, self._patience.get(connection_id, 0))
        self._room.hurry(place.workspace, connection_id)
        try:
            await asyncio.wait({task}, timeout=wait)
        finally:
            self._waiters[connection_id] -= 1
            if not self._waiters[connection_id]:
                del self._waiters[connection_id]
                if wait:  # a call goes on, a wish without a call ends
                    self._waiting.pop(connection_id, None)
                    self._patience.pop(connection_id, None)
        if not task.done():
            return None
        if task.cancelled():
            raise NotReady("The service is shutting down.")
        return task.result()

    async def sweep(self) -> int:
        """Refresh what is due, and take over what the dead have left; returns how many began."""
        if self._worker is None or self._draining:
            return 0
        await self.replica.join()
        await self.replica.check_database()
        due = await rows.due(self._worker, SWEEP_ROWS)
        if len(due) == SWEEP_ROWS:
            in_turn_too, self._turn = await rows.due_in_turn(self._worker, self._turn, *TURNS)
            due += in_turn_too
        living = await self.replica.living()
        left = await rows.left_by_the_dead(self._worker, living, SWEEP_ROWS)
        by_id = {one.connection_id: one for one in (*due, *left) if one.key not in self._flights}
        dead = {one.connection_id for one in left}
        begun = self._ordered(list(by_id.values()))
        for candidate in begun:
            one = by_id[candidate.connection]
            place = Place(one.workspace_id, one.integration, one.environment)
            self._flight(place, one.connection_id, left=one.connection_id in dead)
        return len(begun)

    async def replay(self) -> int:
        """Bring what was spooled into the database; returns how many answers that were."""
        if self._spool is None:
            return 0
        done = 0
        for file, answer in await asyncio.to_thread(
            lambda: list(self._spool.answers(self._deployment)) if self._spool else []
        ):
            try:
                await self._replayed(answer)
            except NotReady:
                continue  # it stays where it is, until the database takes it
            except IntegrityError:
                _log.error("answer_is_not_what_was_spooled", file=file.name)
                self._spool.put_aside(file)
                continue
            except VaultError as error:
                # It stays, too: nobody knows who will be able to open it.
                _log.warning("answer_not_replayed", file=file.name, error=type(error).__name__)
                continue
            self._spool.remove(file)
            done += 1
        return done

    async def drain(self, seconds: float = DRAIN_SECONDS) -> None:
        """Begin no more; let what is under way end."""
        self._draining = True
        if tasks := set(self._flights.values()):
            _, late = await asyncio.wait(tasks, timeout=seconds)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        await self.replica.leave()

    async def check(self) -> None:
        """Raise why nothing can be kept alive now."""
        if self._spool is not None:
            await asyncio.to_thread(self._spool.probe)
        await self.replica.check_database()
        self.replica.check_marks()

    def forget(self, workspace: WorkspaceId, integration: str) -> None:
        """An app registration was changed."""
        for place in [one for one in self._outlets if one[:2] == (workspace, integration)]:
            del self._outlets[place]

    @property
    def under_way(self) -> int:
        return len(self._flights)

    async def spool_state(self) -> tuple[int, bool | None]:
        """How many answers wait in the spool, and can it take more? ``None``: there is none."""
        if self._spool is None:
            return 0, None
        waiting = await asyncio.to_thread(len, self._spool)
        try:
            await asyncio.to_thread(self._spool.probe)
        except NotReady:
            return waiting, False
        return waiting, True

    # Flights

    def _ordered(self, due: list[Due]) -> list[Candidate]:
        """Whom there is room for, in their order."""
        if not due:
            return []
        room = max(0, MAX_FLIGHTS - len(self._flights))
        flying = Counter(workspace for workspace, _ in self._flights)
        newest = max(one.due_at for one in due if one.due_at is not None)
        candidates = [
            Candidate(
                workspace=one.workspace_id,
                connection=one.connection_id,
                used_at=one.used_at,
                ends_at=one.access_ends,
            )
            for one in due
        ]
        return in_turn(candidates, room, now=newest, flying=flying, of=MAX_FLIGHTS)

    def _flight(
        self, place: Place, connection_id: str, *, left: bool = False
    ) -> asyncio.Task[Outcome]:
        key = (place.workspace, connection_id)
        if key not in self._flights:
            if self._draining:
                raise NotReady("The service is shutting down.")
            lane = self._lane(place)
            lane.flights += 1
            task = asyncio.create_task(self._fly(lane, connection_id, left=left))
            self._flights[key] = task
            task.add_done_callback(partial(self._landed, key, lane))
        return self._flights[key]

    def _landed(self, key: tuple[str, str], lane: Lane, task: asyncio.Task[Outcome]) -> None:
        del self._flights[key]
        self._waiting.pop(key[1], None)
        self._patience.pop(key[1], None)
        lane.flights -= 1
        if lane.idle:
            self._lanes.pop(lane.place, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            # Said here because all who waited may be gone.
            _log.warning("refresh_failed", connection=key[1], exc_info=error)

    async def _fly(self, lane: Lane, connection_id: str, *, left: bool) -> Outcome:
        await self.replica.join()
        try:
            outlet = await self._outlet(lane.place)
        except VaultError as error:
            await self._put_off(lane.place, connection_id)
            if not isinstance(error, Unresolved | Invalid | Misconfigured):
                raise
            failure = Failure(outcome="client", detail=error.message)
            return Outcome(why="integration_paused", failure=failure)
        return await self._until_granted(lane, connection_id, outlet, left=left)

    async def _until_granted(
        self, lane: Lane, connection_id: str, outlet: Outlet, *, left: bool
    ) -> Outcome:
        give_up = time.monotonic() + GIVE_UP_SECONDS
        pause, longest = POLL_SECONDS
        while True:
            waited_for = connection_id in self._waiting
            async with self._room.place(lane.place.workspace, connection_id, waited_for=waited_for):
                wanted = Wanted(
                    connection_id=connection_id,
                    outlet=outlet,
                    waiting=connection_id in self._waiting,
                    left=left,
                    generation=self._waiting.get(connection_id),
                )
                granted = await lane.claims.do(wanted)
                if isinstance(granted, Granted):
                    outcome = await self._main_and_further(lane, granted, wanted)
                    if outcome.why != UNUSED:
                        return outcome
                    granted = Refused(why=UNUSED)
            again = granted.why in AGAIN and not self._draining
            in_time = time.monotonic() + granted.seconds < self._patience.get(connection_id, 0)
            if not again or not in_time or time.monotonic() > give_up:
                return Outcome(why=None if granted.why == "current" else granted.why)
            await asyncio.sleep(pause)
            pause = min(2 * pause, longest)

    async def _main_and_further(self, lane: Lane, granted: Granted, wanted: Wanted) -> Outcome:
        """The call that was asked for; then one for each further token of the same consent."""
        ending, settled = await self._claimed(lane, granted, wanted.outlet)
        failure = ending.failure
        if ending.tokens is None:
            return Outcome(why=failure.outcome if failure else UNUSED, failure=failure)
        for name in further_tokens(wanted.outlet.app, ending.tokens):
            again = replace(wanted, waiting=True, generation=None)
            granted_too = await lane.claims.do(again)
            if isinstance(granted_too, Granted):
                _, more = await self._claimed(lane, granted_too, wanted.outlet, name=name)
                settled = more if more.generation else settled
        return Outcome(generation=settled.generation or None)

    async def _claimed(
        self, lane: Lane, granted: Granted, outlet: Outlet, *, name: str | None = None
    ) -> tuple[Ending, Settled]:
        """Make the one call of a claim, whatever comes in between."""
        lane.calls += 1
        try:
            ending = await self._opened(lane, granted, outlet)
            began = time.monotonic()
            with self._dialogue.tracing.span("refresh", provider=outlet.app.provider.id) as span:
                ending = await self._ended(granted, ending, name)
                seen = observed(ending, granted, time.monotonic() - began)
                span.note("outcome", seen.outcome)
        finally:
            lane.calls -= 1
        if name is not None and ending.tokens is None:
            # The consent is judged by its main token alone.
            ending = replace(ending, failure=None, unread=None)
        settled = await self._kept(lane, ending)
        self.observe(seen)
        return ending, settled

    async def _opened(self, lane: Lane, granted: Granted, outlet: Outlet) -> Ending:
        """What the call needs, in what becomes of it; what cannot be opened is not called with."""
        place, stored = lane.place, granted.refreshable
        context = connection_rows.tokens_context(
            place.workspace, stored.connection_id, stored.generation, place.environment
        )
        try:
            opened, owner_key = await self._store.open_and_key(
                outlet.sealing, stored.user_id, stored.user_key, context, stored.sealed
            )
            held = connection_rows.held_from(opened)
            app = as_given(outlet.app, held.tokens, held.client)
        except BaseException:
            await self._kept(lane, unused(granted, outlet))
            await self._put_off(place, stored.connection_id)
            raise
        if app is not outlet.app:
            outlet = replace(outlet, app=app)
        return unused(granted, outlet, held, owner_key)

    async def _ended(self, granted: Granted, ending: Ending, name: str | None) -> Ending:
        """How the call ends. Nothing is raised from here on."""
        slept = time.monotonic() - granted.begun > SEND_WITHIN_SECONDS
        if slept or ending.held is None:
            return ending
        try:
            tokens = await self._dialogue.refresh(
                ending.outlet.app, ending.held.tokens, now=granted.claim.at, name=name
            )
        except NoToken as error:
            return replace(ending, failure=error.failure, unread=error.unread)
        except VaultError as error:
            return replace(ending, failure=failure_of(error))
        except Exception as error:  # noqa: BLE001 - the provider may have acted: nobody knows
            _log.error("refresh_broke", connection=ending.connection_id, exc_info=error)
            failure = Failure(outcome="ambiguous", detail="The answer could not be worked on.")
            return replace(ending, failure=failure)
        return replace(ending, tokens=tokens)

    # What came

    async def _kept(self, lane: Lane, ending: Ending) -> Settled:
        """Store how a call ended, also when the database has to come back first."""
        on_disk: list[Path] = []
        try:
            settled = await self._stored(lane, ending, on_disk)
        except BaseException:
            # Cancelled at any point, or what no second try would mend: the answer itself stays.
            await self._spooled_once(lane.place, ending, on_disk)
            raise
        for file in on_disk:
            file.unlink(missing_ok=True)
        return settled

    async def _stored(self, lane: Lane, ending: Ending, on_disk: list[Path]) -> Settled:
        began = time.monotonic()
        pause, longest = POLL_SECONDS
        # Nobody waits for it, and others will end soon: one transaction stores them all.
        hurry = not lane.calls or ending.connection_id in self._waiting
        while True:
            stored = lane.endings.put(ending, hurry=hurry)
            if ending.tokens is not None and not on_disk:
                await self._alarm.done_or_late(stored, began + SPOOL_AFTER)
                if not stored.done():
                    await self._spooled_once(lane.place, ending, on_disk)
            try:
                return await stored
            except NotReady:
                if time.monotonic() - began >= SPOOL_AFTER:
                    await self._spooled_once(lane.place, ending, on_disk)
            await asyncio.sleep(pause)
            pause, hurry = min(2 * pause, longest), True

    async def _spooled_once(self, place: Place, ending: Ending, on_disk: list[Path]) -> None:
        if not on_disk and (file := await self._spooled(place, ending)) is not None:
            on_disk.append(file)

    async def _spooled(self, place: Place, ending: Ending) -> Path | None:
        if self._spool is None or ending.tokens is None:
            return None
        try:
            file = await asyncio.to_thread(
                self._spool.keep, to_spool(self._deployment, place, ending, ending.tokens)
            )
        except NotReady as error:
            _log.error("answer_not_spooled", reason=error.message)
            return None
        _log.warning("answer_spooled", connection=ending.connection_id)
        return file

    async def _replayed(self, answer: Spooled) -> None:
        place = Place(answer.workspace, answer.integration, answer.environment)  # type: ignore[arg-type] # it was one when it was written
        context = answers.answer_context(
            place.workspace, answer.connection_id, answer.fence, place.environment
        )
        held = connection_rows.held_from(
            await self._store.open(place.workspace, context, answer.sealed)
        )
        outlet = await self._outlet(place)
        owner_key = await self._store.key_for_user(outlet.sealing, UserId(answer.user_id))
        await self._lane(place).endings.do(
            Ending(
                connection_id=answer.connection_id,
                user_id=answer.user_id,
                fence=answer.fence,
                attempt=replay_of(answer.connection_id, answer.fence, self.replica.id, held),
                outlet=outlet,
                held=held,
                # A user that is gone took every connection along: nothing is sealed for it.
                owner_key=owner_key or outlet.sealing.key,
                tokens=held.tokens,
            )
        )

    # What a call needs

    async def _outlet(self, place: Place) -> Outlet:
        since, task = self._outlets.get(place, (0.0, None))
        stale = time.monotonic() - since > OUTLET_SECONDS
        failed = task is not None and task.done() and (task.cancelled() or task.exception())
        if task is None or stale or failed:
            self._outlets = {
                one: kept
                for one, kept in self._outlets.items()
                if time.monotonic() - kept[0] <= OUTLET_SECONDS
            }
            task = asyncio.create_task(self._resolved(place))
            self._outlets[place] = (time.monotonic(), task)
        return task.result() if task.done() else await asyncio.shield(task)

    async def _resolved(self, place: Place) -> Outlet:
        found = await asyncio.gather(self._app_of(place), self._store.seal_of(place.workspace))
        return Outlet.of(*found)

    def _lane(self, place: Place) -> Lane:
        if place not in self._lanes:
            waits = self._spool.has if self._spool is not None else None
            self._lanes[place] = Lane(place, self._database, self._store, self.replica, waits)
        return self._lanes[place]

    async def _put_off(self, place: Place, connection_id: str) -> None:
        await self._database.run(
            place.workspace, lambda tx: rows.put_off(tx, [connection_id], UNUSABLE_SECONDS)
        )
