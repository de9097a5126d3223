"""The record on its way out, with what it takes to check it without us.

* A batch goes out whole, also where only some of its lines are of the time that was asked for: its
  hash is over all of them. Behind the batches come the lines that are in none yet.
* Each line says where it stands in its chain, and in which batch; each batch, what its hash is
  over. The seals that list the batches go out with the record of all workspaces alone: they name
  every workspace.
* One batch is held in memory at a time.
"""

from collections.abc import AsyncIterator
from datetime import datetime
from typing import Final

from msgspec import Struct

from vault.chain import Batch, Line, Place, Seal, Tail, line_hash, rows
from vault.chain.verifying import END, PAGE, SEALS
from vault.database import Database

LINES: Final = 500


class Period(Struct, frozen=True):
    """From ``since`` on, and before ``until``."""

    since: datetime | None = None
    until: datetime | None = None

    def holds(self, moment: datetime) -> bool:
        early = self.since is not None and moment < self.since
        late = self.until is not None and moment >= self.until
        return not early and not late


EVER: Final = Period()


class BatchOut(Struct, frozen=True, kw_only=True, tag="batch", tag_field="kind"):
    """A batch; hashes are hexadecimal, and ``from_event`` and ``to_event`` are its places' ids."""

    deployment: str
    workspace: str
    batch: int
    seal: int
    from_xact: int
    from_event: str
    to_xact: int
    to_event: str
    first: int
    lines: int
    sealed_at: datetime
    digest: str
    previous: str
    hash: str
    mac: str


class LineOut(Struct, frozen=True, kw_only=True, tag="line", tag_field="kind"):
    """A line; ``sequence`` counts from 1. Both are null where it is in no batch yet."""

    workspace: str
    sequence: int | None
    batch: int | None
    hash: str
    xact: int
    id: str
    at: datetime
    actor_kind: str
    actor_id: str
    action: str
    target_kind: str
    target_id: str
    user: str
    environment: str
    outcome: str
    request_id: str
    connection_ids: list[str]


class SealOut(Struct, frozen=True, kw_only=True, tag="seal", tag_field="kind"):
    """A seal; ``batches`` is the text that its hash is over."""

    deployment: str
    seal: int
    sealed_at: datetime
    batches: str
    previous: str
    hash: str
    mac: str


Out = BatchOut | LineOut | SealOut


class Exporter:
    """Reads a deployment's record from its beginning to its end."""

    def __init__(self, database: Database, worker: Database, deployment: str) -> None:
        self._database = database
        self._worker = worker
        self._deployment = deployment

    async def export(self, workspace: str | None, period: Period) -> AsyncIterator[Out]:
        """One chain after the other; then the seals, where it is the record of all."""
        every = [workspace] if workspace else await rows.everybody(self._worker)
        for one in every:
            if rows.WORKSPACE.fullmatch(one):
                async for out in self._chain(one, period):
                    yield out
        if workspace is None:
            async for seal in self._seals(period):
                yield seal

    async def _chain(self, workspace: str, period: Period) -> AsyncIterator[Out]:
        note = await self._database.run(workspace, lambda tx: rows.note(tx, "batches"))
        tail = note.tail if note else Tail()
        end, after = tail.place, tail.number
        while page := await self._batches(workspace, after):
            for batch in page:
                end = batch.end
                lines = await self._lines(workspace, batch.start, end, batch.lines)
                if any(period.holds(line.at) for line in lines):
                    yield self._batch(workspace, batch)
                    for number, line in enumerate(lines, batch.first + 1):
                        yield _line(workspace, line, number, batch.number)
            after = page[-1].number
        while some := await self._lines(workspace, end, END, LINES):
            for line in some:
                if period.holds(line.at):
                    yield _line(workspace, line, None, None)
            last = some[-1].place
            # The next id after this one, in the order of bytes.
            end = Place(last.xact, last.event_id + "\x01")

    async def _batches(self, workspace: str, after: int) -> list[Batch]:
        return await self._database.run(workspace, lambda tx: rows.batches(tx, after, PAGE))

    async def _lines(self, workspace: str, start: Place, end: Place, limit: int) -> list[Line]:
        return await self._database.run(workspace, lambda tx: rows.lines(tx, start, end, limit))

    async def _seals(self, period: Period) -> AsyncIterator[Out]:
        after = 0
        while page := await rows.seals(self._database, after, SEALS):
            for one in page:
                if period.since is None or one.sealed_at >= period.since:
                    yield self._seal(one)
            after = page[-1].number

    def _batch(self, workspace: str, batch: Batch) -> BatchOut:
        return BatchOut(
            deployment=self._deployment,
            workspace=workspace,
            batch=batch.number,
            seal=batch.seal,
            from_xact=batch.from_xact,
            from_event=batch.from_event,
            to_xact=batch.to_xact,
            to_event=batch.to_event,
            first=batch.first,
            lines=batch.lines,
            sealed_at=batch.sealed_at,
            digest=batch.digest.hex(),
            previous=batch.previous.hex(),
            hash=batch.hash.hex(),
            mac=batch.mac.hex(),
        )

    def _seal(self, seal: Seal) -> SealOut:
        return SealOut(
            deployment=self._deployment,
            seal=seal.number,
            sealed_at=seal.sealed_at,
            batches=seal.batches,
            previous=seal.previous.hex(),
            hash=seal.hash.hex(),
            mac=seal.mac.hex(),
        )


def _line(workspace: str, line: Line, sequence: int | None, batch: int | None) -> LineOut:
    return LineOut(
        workspace=workspace,
        sequence=sequence,
        batch=batch,
        hash=line_hash(workspace, line).hex(),
        xact=line.xact,
        id=line.event_id,
        at=line.at,
        actor_kind=line.actor_kind,
        actor_id=line.actor_id,
        action=line.action,
        target_kind=line.target_kind,
        target_id=line.target_id,
        user=line.user_ref,
        environment=line.environment,
        outcome=line.outcome,
        request_id=line.request_id,
        connection_ids=line.connection_ids,
    )
