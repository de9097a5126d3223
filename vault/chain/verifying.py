"""Is the record as it was written? Every line, batch and seal is looked at again; pages of them.

* What is wrong is said once for each chain: at the first batch that is not as it was made.
* A chain says of itself whether anything in it was changed, removed, put in or moved. Seals say
  whether a chain ends where it did, and anchors whether the seals do.
* Lines that nobody could have sealed yet are no fault; lines that stand before what is sealed, and
  in no batch, are.
"""

from collections.abc import AsyncIterator, Sequence
from typing import Final

from msgspec import Struct, field

from vault.chain import START, Batch, Chains, Made, Place, Seal, digest, line_hash, made_from, rows
from vault.chain.anchors import Anchor, Anchors
from vault.database import Database
from vault.keyring.rotations import Step, Tell

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
    """What there is, and what is wrong with it. ``end``: the last seal, to write down elsewhere."""

    chains: int = 0
    batches: int = 0
    lines: int = 0
    unsealed: int = 0
    seals: int = 0
    end: Anchor | None = None
    anchors: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    @property
    def is_well(self) -> bool:
        return not self.problems


class _Expected(Struct):
    """What the next batch of a chain has to begin with."""

    number: int = 1
    start: Place = START
    first: int = 0
    previous: bytes = b""

    def moves(self, batch: Batch) -> None:
        self.number, self.start = batch.number + 1, batch.end
        self.first, self.previous = batch.first + batch.lines, batch.hash


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
        verdict = Verdict()
        from_seals = await self._seals(verdict, workspace, known)
        every = [workspace] if workspace else await rows.everybody(self._worker)
        # A chain of which nothing is left is known by its seals alone.
        every += sorted({one.workspace for one in from_seals if one.workspace} - set(every))
        for number, name in enumerate(every):
            tell(Step("looking at the record", number, len(every)))
            found = await self._chain(name, sealed_to, verdict)
            missed = [one for one in from_seals if one.workspace == name]
            if worst := sorted([*found, *missed], key=_batch_of)[:1]:
                verdict.problems += worst
        tell(Step("looking at the record", len(every), len(every)))
        verdict.problems += [one for one in from_seals if one.workspace is None]
        return verdict

    # One chain

    async def _chain(self, workspace: str, sealed_to: int, verdict: Verdict) -> list[Problem]:
        if not rows.WORKSPACE.fullmatch(workspace):
            return [Problem(workspace, None, "Lines of a workspace that there cannot be.")]
        verdict.chains += 1
        expected = _Expected()
        async for batch in self._batches(workspace):
            if wrong := await self._wrong(workspace, batch, expected):
                return [Problem(workspace, min(batch.number, expected.number), wrong)]
            expected.moves(batch)
            verdict.batches += 1
            verdict.lines += batch.lines
        behind = await self._count(workspace, expected.start, Place(sealed_to, ""))
        verdict.unsealed += await self._count(
            workspace, max(expected.start, Place(sealed_to, "")), END
        )
        if not behind:
            return []
        text = f"{_lines(behind)} before what is sealed, and in no batch: put in, or moved there."
        return [Problem(workspace, None, text)]

    async def _batches(self, workspace: str) -> AsyncIterator[Batch]:
        after = 0
        while page := await self._page(workspace, after):
            for batch in page:
                yield batch
            after = page[-1].number

    async def _page(self, workspace: str, after: int) -> list[Batch]:
        return await self._database.run(workspace, lambda tx: rows.batches(tx, after, PAGE))

    async def _wrong(self, workspace: str, batch: Batch, expected: _Expected) -> str | None:
        """What is wrong with a batch, and with its lines."""
        if batch.number != expected.number:
            return f"Batch {expected.number} is missing."
        if not self._chains.is_ours(workspace, batch):
            return f"Batch {batch.number} is not as it was made, or was made with another key."
        begins = (batch.start, batch.first, batch.previous)
        if begins != (expected.start, expected.first, expected.previous):
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

    async def _seals(
        self, verdict: Verdict, workspace: str | None, known: Sequence[Anchor]
    ) -> list[Problem]:
        files = self._anchors.read()
        verdict.anchors = [str(file) for file, _ in files]
        wanted = [(f"in {file}", one) for file, one in files]
        wanted += [("as it was given", one) for one in known]
        hashes: dict[int, str] = {}
        problems: list[Problem] = []
        before: Seal | None = None
        while page := await rows.seals(self._database, before.number if before else 0, SEALS):
            made = await rows.made_for(self._worker, page[0].number, page[-1].number)
            for seal in page:
                problems += self._seal(seal, before, made.get(seal.number, []), workspace)
                hashes[seal.number] = seal.hash.hex()
                before = seal
            hashes = _kept(hashes, [one for _, one in wanted])
        if before is not None:
            verdict.seals = before.number
            verdict.end = Anchor("", before.number, before.hash.hex())
        for where, one in wanted:
            if hashes.get(one.seal) != one.hash:
                problems.append(Problem(None, None, _cut(verdict.seals, where, one)))
        return problems

    def _seal(
        self, seal: Seal, before: Seal | None, made: list[Made], workspace: str | None
    ) -> list[Problem]:
        number = before.number + 1 if before else 1
        if seal.number != number:
            return [Problem(None, None, f"Seal {number} is missing.")]
        if not self._chains.is_our_seal(seal):
            text = f"Seal {number} is not as it was made, or was made with another key."
            return [Problem(None, None, text)]
        if seal.previous != (before.hash if before else b""):
            return [Problem(None, None, f"Seal {number} does not follow the seal before it.")]
        return [
            one
            for one in _compared(number, made_from(seal.batches), made)
            if workspace in (None, one.workspace)
        ]


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


def _cut(seals: int, where: str, anchor: Anchor) -> str:
    if anchor.seal > seals:
        return (
            f"The chain ends with seal {seals}, and seal {anchor.seal} was written down {where}:"
            " its end was cut off, or an older database was restored."
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
