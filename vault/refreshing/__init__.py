"""Keeping tokens alive: one refresh of a connection at a time, over all processes.

* The claim is committed before the provider is called. No transaction and no pooled connection is
  held during the call, and the call has longer than the slowest provider takes.
* A call belongs to nobody who waits: who goes away leaves it running. ``drain`` lets it end.
* An answer is sealed and durable before anything else is done with it: in the database, which is
  asked again and again, or after two seconds in the spool as well. ``replay`` works the spool off.
* Whoever slept between claim and call gives the claim back; whoever slept longer finds his answer
  kept as what it is, and nothing overwritten.
* ``vault.lifecycle`` decides; ``lane`` reads and writes.
"""

import asyncio
import time
from collections import Counter
from typing import Final

import structlog

from vault.database import Database
from vault.dialogue import Dialogue
from vault.errors import IntegrityError, NotReady, VaultError
from vault.lifecycle.turns import Candidate, in_turn
from vault.model import UserId, WorkspaceId
from vault.refreshing.calling import Caller
from vault.refreshing.flight import Airport, Flight
from vault.refreshing.keeping import Keeper
from vault.refreshing.lane import Lane, replay_of
from vault.refreshing.observing import Observe
from vault.refreshing.outlets import AppOf, Outlets
from vault.refreshing.page import Ending, Outcome, Place
from vault.refreshing.replica import Replica
from vault.refreshing.spool import Spool, Spooled
from vault.store import Store, answers
from vault.store import connections as connection_rows
from vault.store import refreshing as rows
from vault.store.refreshing import Due

# As long as a call may take, and storing what it brings.
DRAIN_SECONDS: Final = 85.0
MAX_FLIGHTS: Final = 1_000
SWEEP_ROWS: Final = 500
# Where there is more, it may all be of one workspace: so many others have their turn, with so much.
TURNS: Final = (100, 5)
# A registration that cannot be used is looked at again after so long.
UNUSABLE_SECONDS: Final = 60

_log = structlog.get_logger("keyturn.refreshing")


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
        self.replica = replica
        self._spool = spool
        self._deployment = deployment
        self._lanes: dict[Place, Lane] = {}
        self._outlets = Outlets(app_of, store)
        self._caller = Caller(store, dialogue, Keeper(spool, deployment), self._put_off)
        self._port = Airport(replica, self._outlets, self._caller, self._put_off, self._landed)
        self._flights: dict[tuple[str, str], Flight] = {}
        self._turn = ""  # the workspace that had the last one

    @property
    def observe(self) -> Observe:
        """Who is told of each call that has ended."""
        return self._caller.observe

    @observe.setter
    def observe(self, observe: Observe) -> None:
        self._caller.observe = observe

    # Who asks

    async def refresh(
        self, place: Place, connection_id: str, generation: int, *, wait: float
    ) -> Outcome | None:
        """Tokens newer than ``generation``, within ``wait`` seconds; ``None``: it takes longer.

        Neither a deadline nor a cancel ends the call. A call for which there is no room in time is
        not made. Without any ``wait`` it is begun, for whoever comes later.
        """
        flight = self._flight(place, connection_id)
        flight.wait_for(generation, time.monotonic() + wait)
        flight.begin()
        try:
            await asyncio.wait({flight.landing}, timeout=wait)
        finally:
            flight.wait_no_longer(wished=not wait)
        if flight.end is None:
            return None
        if isinstance(flight.end, asyncio.CancelledError):
            raise NotReady("The service is shutting down.")
        if isinstance(flight.end, BaseException):
            raise flight.end
        return flight.end

    async def sweep(self) -> int:
        """Refresh what is due, and take over what the dead have left; returns how many began."""
        if self._worker is None or self._port.closes:
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
        begun = [by_id[one.connection] for one in self._ordered(list(by_id.values()))]
        places = [Place(one.workspace_id, one.integration, one.environment) for one in begun]
        await self._outlets.prepare(set(places))
        return self._begun(begun, places, {one.connection_id for one in left})

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
        self._port.closes = True
        if flights := list(self._flights.values()):
            landings = {one.landing for one in flights}
            _, late = await asyncio.wait(landings, timeout=seconds)
            for one in flights:
                one.cancel()
            if late:
                await asyncio.wait(late)
        await self.replica.leave()

    async def check(self) -> None:
        """Raise why nothing can be kept alive now."""
        if self._spool is not None:
            await asyncio.to_thread(self._spool.probe)
        await self.replica.check_database()
        self.replica.check_marks()

    def forget(self, workspace: WorkspaceId, integration: str) -> None:
        """An app registration was changed."""
        self._outlets.forget(workspace, integration)

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

    def _begun(self, due: list[Due], places: list[Place], left: set[str]) -> int:
        if self._port.closes:
            return 0
        for one, place in zip(due, places, strict=True):
            was_left = one.connection_id in left
            self._flight(place, one.connection_id, left=was_left).begin()
        return len(due)

    def _flight(self, place: Place, connection_id: str, *, left: bool = False) -> Flight:
        """The one that is under way, or another one, which has to set out."""
        key = (place.workspace, connection_id)
        flight = self._flights.get(key)
        if flight is None:
            if self._port.closes:
                raise NotReady("The service is shutting down.")
            lane = self._lane(place)
            lane.flights += 1
            flight = self._flights[key] = Flight(self._port, lane, connection_id, left=left)
        return flight

    def _landed(self, flight: Flight) -> None:
        lane, end = flight.lane, flight.end
        del self._flights[flight.key]
        lane.flights -= 1
        if lane.idle:
            self._lanes.pop(lane.place, None)
        if isinstance(end, Exception):
            # Said here because all who waited may be gone.
            flight.context.copy().run(
                _log.warning, "refresh_failed", connection=flight.connection_id, exc_info=end
            )

    # What was spooled

    async def _replayed(self, answer: Spooled) -> None:
        place = Place(answer.workspace, answer.integration, answer.environment)  # type: ignore[arg-type] # it was one when it was written
        context = answers.answer_context(
            place.workspace, answer.connection_id, answer.fence, place.environment
        )
        held = connection_rows.held_from(
            await self._store.open(place.workspace, context, answer.sealed)
        )
        outlet = await self._outlets.of(place)
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

    def _lane(self, place: Place) -> Lane:
        if place not in self._lanes:
            waits = self._spool.has if self._spool is not None else None
            self._lanes[place] = Lane(place, self._database, self._store, self.replica, waits)
        return self._lanes[place]

    async def _put_off(self, place: Place, connection_id: str) -> None:
        await self._database.run(
            place.workspace, lambda tx: rows.put_off(tx, [connection_id], UNUSABLE_SECONDS)
        )
