"""Is the record as it was written? Every line, batch and seal is looked at again; pages of them.

* What is wrong is said once for each chain: at the first batch that is not as it was made.
* A chain says of itself whether anything in it was changed, removed, put in or moved. Seals say
  whether a chain ends where it did, and anchors whether the seals do.
* What was deleted for its age is not missed: a chain begins behind its note, if that is ours.
* Lines that nobody could have sealed yet are no fault; lines that stand before what is sealed, and
  in no batch, are.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Final

from msgspec import Struct, field

from vault.chain import (
    Batch,
    Chained,
    Chains,
    Made,
    Note,
    Place,
    Seal,
    Tail,
    digest,
    line_hash,
    made_from,
    rows,
)
from vault.chain.anchors import Anchor, Anchors
from vault.database import Database
from vault.keyring.rotations import Step, Tell
from vault.model import OPERATOR

PAGE: Final = 200
SEALS: Final = 500
MAX_COUNTED: Final = 1000
"""So many lines too many are counted; where there are more, there are at least so many."""


class Problem(Struct, frozen=True):
    """What is wrong, in a sentence, and where: in a workspace's chain, or in the deployment's."""

    workspace: str | None
    batch: int | None
    text: str


class Verdict(Struct):
    """What there is, and what is wrong with it. ``end``: the last seal, to write down elsewhere;
    ``forgotten``: lines that were deleted for their age.
    """

    chains: int = 0
    batches: int = 0
    lines: int = 0
    unsealed: int = 0
    forgotten: int = 0
    seals: int = 0
    end: Anchor | None = None
    anchors: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    @property
    def is_well(self) -> bool:
        return not self.problems

    def counts(self, part: "Verdict") -> None:
        """Add what there is in a chain. Which of its problems are told, is another matter."""
        self.chains += part.chains
        self.batches += part.batches
        self.lines += part.lines
        self.unsealed += part.unsealed
        self.forgotten += part.forgotten


class Verifier:
    """Looks at a deployment's record."""

    def __init__(
        self, database: Database, worker: Database, chains: Chains, anchors: Anchors
    ) -> None:
        self._database = database
        self._worker = worker
        self._chains = chains
        self._anchors = anchors

    async def verify(self, workspace: str | None, known: Sequence[Anchor], tell: Tell) -> Verdict:
        """Look at all of it, or at one chain; ``known`` are seals that were written down."""
        # Before the batches: what was sealed by then has to be in them.
        sealed_to = (await rows.position(self._database)).sealed_to
        verdict = await self._seals(workspace, known)
        from_seals, verdict.problems = verdict.problems, []
        every = [workspace] if workspace else await rows.everybody(self._worker)
        # A chain of which nothing is left is known by its seals alone.
        every += sorted({one.workspace for one in from_seals if one.workspace} - set(every))
        for number, name in enumerate(every):
            tell(Step("looking at the record", number, len(every)))
            found = await self._chain(name, sealed_to)
            verdict.counts(found)
            missed = [one for one in from_seals if one.workspace == name]
            if worst := sorted([*found.problems, *missed], key=_batch_of)[:1]:
                verdict.problems += worst
        tell(Step("looking at the record", len(every), len(every)))
        verdict.problems += [one for one in from_seals if one.workspace is None]
        return verdict

    async def _whole(
        self, workspace: str, chain: Chained, look: Callable[[Tail], Awaitable[Verdict]]
    ) -> Verdict:
        """Look at a chain from where it begins; again, if old lines were deleted meanwhile."""
        while True:
            note = await self._note(workspace, chain)
            if note is not None and not self._chains.is_our_note(workspace, note):
                text = f"The note of what is gone of the {chain} is not as it was made."
                whose = workspace if chain == "batches" else None
                return Verdict(problems=[Problem(whose, None, text)])
            found = await look(note.tail if note else Tail())
            if found.is_well or await self._note(workspace, chain) == note:
                return found

    async def _note(self, workspace: str, chain: Chained) -> Note | None:
        return await self._database.run(workspace, lambda tx: rows.note(tx, chain))

    # One chain

    async def _chain(self, workspace: str, sealed_to: int) -> Verdict:
        if not rows.WORKSPACE.fullmatch(workspace):
            text = "Lines of a workspace that there cannot be."
            return Verdict(problems=[Problem(workspace, None, text)])
        return await self._whole(
            workspace, "batches", lambda tail: self._from(workspace, tail, sealed_to)
        )

    async def _from(self, workspace: str, tail: Tail, sealed_to: int) -> Verdict:
        found = Verdict(chains=1, forgotten=tail.lines)
        async for batch in self._batches(workspace, tail.number):
            if wrong := await self._wrong(workspace, batch, tail):
                where = min(batch.number, tail.number + 1)
                found.problems.append(Problem(workspace, where, wrong))
                return found
            tail = batch.tail
            found.batches += 1
            found.lines += batch.lines
        sealed = Place(sealed_to, "")
        found.unsealed = await self._count(workspace, max(tail.place, sealed), END)
        if behind := await self._count(workspace, tail.place, sealed):
            stand = _lines(behind)
            text = f"{stand} before what is sealed, and in no batch: put in, or moved there."
            found.problems.append(Problem(workspace, None, text))
        return found

    async def _batches(self, workspace: str, after: int) -> AsyncIterator[Batch]:
        while page := await self._page(workspace, after):
            for batch in page:
                yield batch
            after = page[-1].number

    async def _page(self, workspace: str, after: int) -> list[Batch]:
        return await self._database.run(workspace, lambda tx: rows.batches(tx, after, PAGE))

    async def _wrong(self, workspace: str, batch: Batch, tail: Tail) -> str | None:
        """What is wrong with a batch, and with its lines."""
        if batch.number != tail.number + 1:
            return f"Batch {tail.number + 1} is missing."
        if not self._chains.is_ours(workspace, batch):
            return f"Batch {batch.number} is not as it was made, or was made with another key."
        begins = (batch.start, batch.first, batch.previous)
        if begins != (tail.place, tail.lines, tail.hash):
            return f"Batch {batch.number} does not follow the batch before it."
        limit = batch.lines + MAX_COUNTED
        there = await self._database.run(
            workspace, lambda tx: rows.lines(tx, batch.start, batch.end, limit)
        )
        more = len(there) - batch.lines
        if more:
            deed = "put into" if more > 0 else "removed from"
            return f"{abs(more)} of the lines were {deed} batch {batch.number}."
        if digest(line_hash(workspace, one) for one in there) != batch.digest:
            return f"A line of batch {batch.number} was changed, or another took its place."
        return None

    async def _count(self, workspace: str, start: Place, end: Place) -> int:
        if start >= end:
            return 0
        return len(
            await self._database.run(workspace, lambda tx: rows.lines(tx, start, end, MAX_COUNTED))
        )

    # Seals and anchors

    async def _seals(self, workspace: str | None, known: Sequence[Anchor]) -> Verdict:
        files = self._anchors.read()
        wanted = [(f"in {file}", one) for file, one in files]
        wanted += [("as it was given", one) for one in known]
        found = await self._whole(
            OPERATOR, "seals", lambda tail: self._seals_from(tail, workspace, wanted)
        )
        found.anchors = [str(file) for file, _ in files]
        return found

    async def _seals_from(
        self, first: Tail, workspace: str | None, wanted: Sequence[tuple[str, Anchor]]
    ) -> Verdict:
        found = Verdict()
        tail = first
        hashes: dict[int, str] = {}
        while page := await rows.seals(self._database, tail.number, SEALS):
            made = await rows.made_for(self._worker, page[0].number, page[-1].number)
            # After the batches: one that was deleted meanwhile is known to be gone.
            gone = await rows.noted(self._worker)
            for seal in page:
                found.problems += [
                    one
                    for one in self._seal(seal, tail, made.get(seal.number, []), gone)
                    if workspace is None or one.workspace in (None, workspace)
                ]
                hashes[seal.number] = seal.hash.hex()
                tail = seal.tail
            hashes = _kept(hashes, [one for _, one in wanted])
        if tail != first:
            found.seals = tail.number
            found.end = Anchor("", tail.number, tail.hash.hex())
        for where, one in wanted:
            if hashes.get(one.seal) != one.hash:
                found.problems.append(Problem(None, None, _cut(first, tail, where, one)))
        return found

    def _seal(
        self, seal: Seal, tail: Tail, made: list[Made], gone: Mapping[str, int]
    ) -> list[Problem]:
        number = tail.number + 1
        if seal.number != number:
            return [Problem(None, None, f"Seal {number} is missing.")]
        if not self._chains.is_our_seal(seal):
            text = f"Seal {number} is not as it was made, or was made with another key."
            return [Problem(None, None, text)]
        if seal.previous != tail.hash:
            return [Problem(None, None, f"Seal {number} does not follow the seal before it.")]
        listed = [
            one
            for one in made_from(seal.batches)
            if one.number > gone.get(one.workspace_id, 0) or one in made
        ]
        return _compared(number, listed, made)


END: Final = Place(2**63 - 1, "")
"""No transaction gets this number."""


def _compared(seal: int, listed: list[Made], made: list[Made]) -> list[Problem]:
    """What a seal lists, beside the batches that say that they were made for it."""
    there = {(one.workspace_id, one.number): one.hash for one in made}
    problems = []
    for one in listed:
        found = there.pop((one.workspace_id, one.number), None)
        if found != one.hash:
            what = "is gone: " if found is None else "is another one than "
            how = "was made with it" if found is None else "was made with"
            text = f"Batch {one.number} {what}seal {seal} {how}."
            problems.append(Problem(one.workspace_id, one.number, text))
    for workspace, number in there:
        text = f"Batch {number} is not among those that seal {seal} was made with."
        problems.append(Problem(workspace, number, text))
    return problems


def _cut(first: Tail, last: Tail, where: str, anchor: Anchor) -> str:
    if anchor.seal <= first.number:
        return f"Seal {anchor.seal}, written down {where}, is one of those deleted for their age."
    if anchor.seal > last.number:
        return (
            f"The chain ends with seal {last.number}, and seal {anchor.seal} was written down"
            f" {where}: its end was cut off, or an older database was restored."
        )
    return f"Seal {anchor.seal} is another one than was written down {where}."


def _kept(hashes: dict[int, str], wanted: list[Anchor]) -> dict[int, str]:
    return {number: hashes[number] for number in {one.seal for one in wanted} & hashes.keys()}


def _lines(number: int) -> str:
    many = "at least " if number >= MAX_COUNTED else ""
    return f"{many}{number} lines stand" if number != 1 else "1 line stands"


def _batch_of(problem: Problem) -> int:
    # Who stands before what is sealed stands behind everything that is in order.
    return problem.batch if problem.batch is not None else 2**63
