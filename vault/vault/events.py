"""The door's part for events: where they go to, and the turns in which they are delivered.

* The secret that signs is shown when it is made, and never again. Replaced, it signs for one more
  day beside the new one, so that a receiver changes over when it likes.
* Endpoints hear of every environment, so a key that is tied to some changes none.
* One replica at a time has the turn at an endpoint, by compare-and-set and for a minute at the
  most: no event is delivered twice at once, and one whose turn died is delivered again.
"""

import base64
import os
import random
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

import msgspec
import structlog

from vault import access, audit, idempotency
from vault.database import Transaction
from vault.errors import Conflict
from vault.events import Type
from vault.events.deliveries import (
    FORMER_SIGNS,
    KEPT,
    TURN_DELIVERIES,
    TURN_SECONDS,
    Attempted,
    Delivery,
    EventEndpoint,
    Former,
    Health,
    MadeEndpoint,
    Replay,
    State,
    Tried,
    Turn,
    Waiting,
    health,
    not_put_off,
    settled,
)
from vault.model import Caller, Once, Page, WorkspaceId, new_id
from vault.seal import seal
from vault.secret import Secret
from vault.store import events as rows
from vault.store.events import ClaimRow, EndpointRow, Target
from vault.vault.door import Door, found, written

MAX_ENDPOINTS: Final = 20  # of a workspace
MAX_FORMERS: Final = 2
MAX_REPLAY: Final = 10_000  # events a request
SECRET_SIZE: Final = 32
DUE_ENDPOINTS: Final = 500
FORGET_ROWS: Final = 2_000
FORGET_ROUNDS: Final = 20

_log = structlog.get_logger("keyturn.events")


class Events(Door):
    """Event endpoints, and what is delivered to them."""

    # Who asks

    async def create_event_endpoint(
        self, caller: Caller, url: str, types: Sequence[Type], *, once: Once | None = None
    ) -> MadeEndpoint:
        """Make an endpoint, with a secret of its own; what happens from now on goes there."""
        access.permit(caller, "event_endpoint.write")
        access.permit_everywhere(caller)
        self._egress.vet_url("event", url)
        endpoint_id, target = new_id("ep"), Target(url, _new_secret())
        sealed = await self._sealed_target(caller.workspace, endpoint_id, 1, target)

        async def work(tx: Transaction) -> str | None:
            if earlier := await idempotency.claim(tx, caller, once):
                return earlier.decode()
            if await rows.count_endpoints(tx) >= MAX_ENDPOINTS:
                raise Conflict(f"A workspace has at most {MAX_ENDPOINTS} event endpoints.")
            await rows.insert_endpoint(tx, endpoint_id, types, sealed, caller.actor_id)
            await _recorded(tx, caller, "event_endpoint.write", endpoint_id)
            await idempotency.settle(tx, caller, once, endpoint_id.encode())
            return None

        earlier = await self._database.run(caller.workspace, work)
        if earlier is not None:
            return MadeEndpoint(await self.get_event_endpoint(caller, earlier), None)
        return MadeEndpoint(await self.get_event_endpoint(caller, endpoint_id), target.secret)

    async def list_event_endpoints(self, caller: Caller, page: Page) -> list[EventEndpoint]:
        access.permit(caller, "event_endpoint.list")
        every = await self._database.run(caller.workspace, lambda tx: rows.list_endpoints(tx, page))
        return [await self._shown(caller.workspace, row) for row in every]

    async def get_event_endpoint(self, caller: Caller, endpoint_id: str) -> EventEndpoint:
        access.permit(caller, "event_endpoint.read")
        return await self._shown(caller.workspace, await self._endpoint_row(caller, endpoint_id))

    async def update_event_endpoint(
        self,
        caller: Caller,
        endpoint_id: str,
        *,
        url: str | None = None,
        types: Sequence[Type] | None = None,
        enabled: bool | None = None,
    ) -> EventEndpoint:
        """Change what is given. It is tried afresh; disabled, what waits for it is given up."""
        access.permit(caller, "event_endpoint.write")
        access.permit_everywhere(caller)
        if url is not None:
            self._egress.vet_url("event", url)

        async def attempt() -> bool | None:
            row, target = await self._event_endpoint(caller, endpoint_id)
            is_on = row.disabled_at is None if enabled is None else enabled
            changed = msgspec.structs.replace(target, url=url or target.url)
            sealed = await self._next_target(caller.workspace, row, changed)

            async def work(tx: Transaction) -> bool | None:
                if not await rows.set_target(tx, endpoint_id, row.generation, sealed):
                    return None
                kept = row.types if types is None else types
                await rows.set_endpoint(tx, endpoint_id, kept, enabled=is_on)
                if is_on:
                    await rows.hurry(tx, endpoint_id)
                else:
                    await rows.give_up(tx, endpoint_id, "The endpoint was disabled.")
                await _recorded(tx, caller, "event_endpoint.write", endpoint_id)
                return True

            return await self._database.run(caller.workspace, work)

        await written(attempt)
        return await self.get_event_endpoint(caller, endpoint_id)

    async def delete_event_endpoint(self, caller: Caller, endpoint_id: str) -> None:
        access.permit(caller, "event_endpoint.delete")
        access.permit_everywhere(caller)

        async def work(tx: Transaction) -> None:
            found(await rows.delete_endpoint(tx, endpoint_id) or None)
            await _recorded(tx, caller, "event_endpoint.delete", endpoint_id)

        await self._database.run(caller.workspace, work)

    async def rotate_event_secret(self, caller: Caller, endpoint_id: str) -> MadeEndpoint:
        """Make a new secret; the one before signs for a day beside it."""
        access.permit(caller, "event_endpoint.rotate")
        access.permit_everywhere(caller)
        secret = _new_secret()

        async def attempt() -> bool | None:
            row, target = await self._event_endpoint(caller, endpoint_id)
            now = await self._time()
            still = target.still(now)
            if len(still) >= MAX_FORMERS:
                raise Conflict(
                    f"It was rotated {MAX_FORMERS} times within a day,"
                    " and what was replaced still signs."
                )
            formers = (Former(target.secret, now + FORMER_SIGNS), *still)
            rotated = Target(target.url, secret, formers)
            sealed = await self._next_target(caller.workspace, row, rotated)

            async def work(tx: Transaction) -> bool | None:
                if not await rows.set_target(tx, endpoint_id, row.generation, sealed):
                    return None
                await _recorded(tx, caller, "event_endpoint.rotate", endpoint_id)
                return True

            return await self._database.run(caller.workspace, work)

        await written(attempt)
        return MadeEndpoint(await self.get_event_endpoint(caller, endpoint_id), secret)

    async def replay_events(
        self,
        caller: Caller,
        endpoint_id: str,
        *,
        since: datetime | None = None,
        from_event: str | None = None,
    ) -> Replay:
        """Deliver once more what happened since, or from one event on; each with its own id."""
        access.permit(caller, "event_endpoint.replay")
        access.permit_everywhere(caller)

        async def work(tx: Transaction) -> Replay:
            row = found(await rows.get_endpoint(tx, endpoint_id))
            if row.disabled_at is not None:
                raise Conflict("This endpoint is disabled: enable it first.")
            if from_event is not None:
                found(await rows.has_event(tx, from_event) or None)
            every = await rows.replayable(tx, endpoint_id, since, from_event or "", MAX_REPLAY + 1)
            await rows.queue(tx, endpoint_id, every[:MAX_REPLAY])
            await _recorded(tx, caller, "event_endpoint.replay", endpoint_id)
            return Replay(len(every[:MAX_REPLAY]), next(iter(every[MAX_REPLAY:]), None))

        return await self._database.run(caller.workspace, work)

    async def event_deliveries(
        self, caller: Caller, endpoint_id: str, page: Page, *, state: State | None = None
    ) -> list[Attempted]:
        """What became of the events for this endpoint, newest first."""
        access.permit(caller, "event_endpoint.read")

        async def work(tx: Transaction) -> list[Attempted]:
            found(await rows.get_endpoint(tx, endpoint_id))
            return await rows.list_deliveries(tx, endpoint_id, page, state)

        return await self._database.run(caller.workspace, work)

    # For whoever delivers

    async def endpoints_waiting(self) -> list[Waiting]:
        """Who has events to get now, in all workspaces; who has waited longest comes first."""
        if self._worker is None:
            return []
        return await rows.waiting_endpoints(self._worker, DUE_ENDPOINTS)

    async def begin_turn(self, waiting: Waiting) -> Turn | None:
        """Take the turn at an endpoint; ``None``: somebody else has it, or nothing is to be done.

        Where nothing arrived the last time, one delivery shows whether that is over.
        """
        workspace, endpoint_id = waiting.workspace_id, waiting.endpoint_id

        async def work(
            tx: Transaction,
        ) -> tuple[ClaimRow, EndpointRow, list[Delivery]] | None:
            claimed = await rows.claim(tx, endpoint_id, TURN_SECONDS)
            row = await rows.get_endpoint(tx, endpoint_id)
            if claimed is None or row is None:
                return None
            limit = 1 if claimed.failures else TURN_DELIVERIES
            return claimed, row, await rows.waiting(tx, endpoint_id, limit)

        begun = await self._database.run(workspace, work)
        if begun is None or begun[0].claimed_until is None:
            return None
        claimed, row, deliveries = begun
        until = begun[0].claimed_until
        target = await self._target(workspace, row)
        now = until - timedelta(seconds=TURN_SECONDS)
        return Turn(
            workspace=workspace,
            endpoint_id=endpoint_id,
            claim=claimed.claim,
            now=now,
            until=until,
            failures=claimed.failures,
            failing_since=claimed.failing_since,
            url=target.url,
            secrets=target.signs(now),
            deliveries=deliveries,
        )

    async def end_turn(self, turn: Turn, tried: Sequence[Tried]) -> Health:
        """Write down how the deliveries of a turn went, and let others have the next one."""
        now = await self._time()
        after = health(turn, tried, now, _luck())
        every = [settled(one, now, _luck()) for one in tried]

        async def work(tx: Transaction) -> bool:
            mine = await rows.settle_turn(tx, turn, after, now)
            # What was found out of an endpoint that was changed meanwhile puts nothing off.
            told = every if mine else [not_put_off(one, now) for one in every]
            await rows.settle_deliveries(tx, turn.endpoint_id, told)
            if mine and after.disabled_why is not None:
                await rows.give_up(tx, turn.endpoint_id, "The endpoint was disabled.")
                worker = Caller(kind="worker", actor_id="events", workspace=turn.workspace)
                await _recorded(
                    tx,
                    worker,
                    "event_endpoint.disable",
                    turn.endpoint_id,
                    outcome=after.disabled_why,
                )
            return mine

        mine = await self._database.run(turn.workspace, work)
        if mine and after.disabled_why is not None:
            _log.warning(
                "event_endpoint_disabled",
                workspace=turn.workspace,
                endpoint=turn.endpoint_id,
                why=after.disabled_why,
            )
        return after

    async def forget_events(self) -> int:
        """Delete events that are older than is kept, with their deliveries; returns how many."""
        if self._worker is None:
            return 0
        kept = int(KEPT.total_seconds())
        forgotten = 0
        for _ in range(FORGET_ROUNDS):
            workspaces = await rows.with_old_events(self._worker, kept, FORGET_ROWS)
            if not workspaces:
                break
            for workspace in workspaces:
                forgotten += await self._database.run(
                    workspace, lambda tx: rows.forget_events(tx, kept, FORGET_ROWS)
                )
        return forgotten

    # Details

    async def _endpoint_row(self, caller: Caller, endpoint_id: str) -> EndpointRow:
        return found(
            await self._database.run(
                caller.workspace, lambda tx: rows.get_endpoint(tx, endpoint_id)
            )
        )

    async def _event_endpoint(self, caller: Caller, endpoint_id: str) -> tuple[EndpointRow, Target]:
        row = await self._endpoint_row(caller, endpoint_id)
        return row, await self._target(caller.workspace, row)

    async def _target(self, workspace: WorkspaceId, row: EndpointRow) -> Target:
        context = rows.target_context(workspace, row.endpoint_id, row.generation)
        return rows.target_from(await self._store.open(workspace, context, row.sealed))

    async def _next_target(self, workspace: WorkspaceId, row: EndpointRow, target: Target) -> bytes:
        return await self._sealed_target(workspace, row.endpoint_id, row.generation + 1, target)

    async def _sealed_target(
        self, workspace: WorkspaceId, endpoint_id: str, generation: int, target: Target
    ) -> bytes:
        key = (await self._store.seal_of(workspace)).key
        context = rows.target_context(workspace, endpoint_id, generation)
        return seal(key, context, rows.packed(target))

    async def _shown(self, workspace: WorkspaceId, row: EndpointRow) -> EventEndpoint:
        return rows.endpoint_of(row, await self._target(workspace, row), await self._time())


def _new_secret() -> Secret:
    """As Standard Webhooks writes it: 32 random bytes in base64 after ``whsec_``."""
    return Secret("whsec_" + base64.b64encode(os.urandom(SECRET_SIZE)).decode())


def _luck() -> float:
    return random.random()  # noqa: S311 - spreads load, hides nothing


async def _recorded(
    tx: Transaction, caller: Caller, action: str, endpoint_id: str, *, outcome: str = "ok"
) -> None:
    target = ("event_endpoint", endpoint_id)
    await audit.record(tx, caller, action, target=target, outcome=outcome)
