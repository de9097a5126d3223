"""From rounds to a verdict: interleaved measuring, ratios per round, plain tables, bars.

* Rounds go A B C, A B C, ...: a machine that is busy for a while is so for all of them. A ratio is
  taken within a round, and then the median and the extremes over the rounds. Beside them stands
  the ratio of each one's best round: others on the machine only ever add.
* ``print_all`` wants the circumstances: no absolute figure is printed without them.
* A bar is a ratio that a run is held to, by its best rounds: with others on the machine these were
  seen to differ by a tenth between two runs, and medians by more. The gate is still ``SLACK``
  wider than the goal, because a short run may have no quiet round.
"""

import tomllib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Final

from msgspec import Struct

from bench.circumstances import Circumstances

BARS: Final = Path(__file__).with_name("bars.toml")
SLACK: Final = 0.75

Round = dict[str, float]
"""What one round measured of one subject, by metric; a metric that could not be read is absent."""


class Options(Struct, frozen=True):
    """What the command line says to every benchmark."""

    rounds: int | None
    quick: bool
    full: bool = False

    def rounds_or(self, usual: int) -> int:
        """The rounds asked for; else the usual number, or two in a hurry."""
        if self.rounds is not None:
            return self.rounds
        return min(usual, 2) if self.quick else usual


class Column(Struct, frozen=True):
    """A metric as the table shows it."""

    metric: str
    title: str
    digits: int


class Pair(Struct, frozen=True):
    """What is to be divided by what, in the same round."""

    subject: str
    base: str


class Outcome(Struct, frozen=True):
    """What a benchmark measured. ``gauge`` is the metric that its ratios are made of."""

    name: str
    notes: list[str]
    columns: list[Column]
    rounds: dict[str, list[Round]]
    pairs: list[Pair]
    gauge: str


class Ratio(Struct, frozen=True):
    """A pair's ratio over the rounds; ``best`` is that of the smallest values of each."""

    subject: str
    base: str
    metric: str
    median: float
    min: float
    max: float
    best: float


class Bar(Struct, frozen=True):
    """A goal: the subject costs at most so many times what the base costs."""

    benchmark: str
    subject: str
    base: str
    goal: float

    @property
    def gate(self) -> float:
        """What a run is refused above."""
        return self.goal / SLACK


async def interleaved(
    rounds: int, subjects: Mapping[str, Callable[[], Awaitable[Round]]]
) -> dict[str, list[Round]]:
    """Measure every subject once a round, in turn."""
    found: dict[str, list[Round]] = {name: [] for name in subjects}
    for _ in range(rounds):
        for name, measure in subjects.items():
            found[name].append(await measure())
    return found


def ratios(outcome: Outcome) -> list[Ratio]:
    """Every pair's ratio of the gauge."""
    return [_ratio(outcome, pair) for pair in outcome.pairs]


def _ratio(outcome: Outcome, pair: Pair) -> Ratio:
    subject = [one[outcome.gauge] for one in outcome.rounds[pair.subject]]
    base = [one[outcome.gauge] for one in outcome.rounds[pair.base]]
    each = [over / under for over, under in zip(subject, base, strict=True)]
    return Ratio(
        subject=pair.subject,
        base=pair.base,
        metric=outcome.gauge,
        median=median(each),
        min=min(each),
        max=max(each),
        best=min(subject) / min(base),
    )


def medians(rounds: Sequence[Round]) -> Round:
    """The median of every metric that all rounds have."""
    common = set[str].intersection(*(set(one) for one in rounds))
    return {metric: median([one[metric] for one in rounds]) for metric in sorted(common)}


def as_data(outcome: Outcome) -> dict[str, object]:
    """What goes into the JSON file."""
    return {
        "notes": outcome.notes,
        "gauge": outcome.gauge,
        "variants": [
            {"name": name, "median": medians(rounds), "rounds": rounds}
            for name, rounds in outcome.rounds.items()
        ],
        "ratios": ratios(outcome),
    }


# The gate


def read_bars(file: Path = BARS) -> list[Bar]:
    """Read the goals."""
    return [Bar(**one) for one in tomllib.loads(file.read_text())["bar"]]


def missed(outcomes: Sequence[Outcome], bars: Sequence[Bar]) -> list[str]:
    """Say which bars of the benchmarks that ran were missed; a bar that nothing meets is one."""
    found = {
        (outcome.name, one.subject, one.base): one.best
        for outcome in outcomes
        for one in ratios(outcome)
    }
    ran = {outcome.name for outcome in outcomes}
    sentences = []
    for bar in bars:
        if bar.benchmark not in ran:
            continue
        seen = found.get((bar.benchmark, bar.subject, bar.base))
        what = f"{bar.benchmark}: {bar.subject} / {bar.base}"
        if seen is None:
            sentences.append(f"{what} was not measured")
        elif seen > bar.gate:
            sentences.append(f"{what} is {seen:.2f}, above {bar.gate:.2f} (goal {bar.goal:.2f})")
    return sentences


# Tables


def print_all(outcomes: Sequence[Outcome], circumstances: Circumstances) -> None:
    """Print the circumstances, then every benchmark's figures and ratios."""
    print("circumstances")
    for name, text in circumstances.lines():
        print(f"  {name:<14} {text}")
    for outcome in outcomes:
        rounds = len(next(iter(outcome.rounds.values())))
        print(f"\n{outcome.name}: medians of {rounds} rounds")
        for note in outcome.notes:
            print(f"  {note}")
        print(table(_figures(outcome)))
        if outcome.pairs:
            print(f"\n{outcome.name}: ratios of {outcome.gauge}; median (min-max) best/best")
            print(table(_ratio_rows(outcome)))


def table(rows: Sequence[Sequence[str]]) -> str:
    """Align: the first column left, the others right."""
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    lines = []
    for row in rows:
        first, *rest = (text.rjust(width) for text, width in zip(row, widths, strict=True))
        lines.append("  ".join(["", first.strip().ljust(widths[0]), *rest]).rstrip())
    return "\n".join(lines)


def _figures(outcome: Outcome) -> list[list[str]]:
    rows = [["", *(column.title for column in outcome.columns)]]
    for name, rounds in outcome.rounds.items():
        typical = medians(rounds)
        rows.append([name, *(_shown(typical, column) for column in outcome.columns)])
    return rows


def _shown(typical: Round, column: Column) -> str:
    if column.metric not in typical:
        return "-"
    return f"{typical[column.metric]:.{column.digits}f}"


def _ratio_rows(outcome: Outcome) -> list[list[str]]:
    """One row a subject, one column a base."""
    bases = list(dict.fromkeys(pair.base for pair in outcome.pairs))
    found = {(one.subject, one.base): one for one in ratios(outcome)}
    if len(bases) > MAX_RATIO_COLUMNS:
        return [
            ["", "ratio"],
            *([f"{one.subject} / {one.base}", _shown_ratio(one)] for one in found.values()),
        ]
    rows = [["", *(f"/ {base}" for base in bases)]]
    for subject in dict.fromkeys(pair.subject for pair in outcome.pairs):
        cells = [found.get((subject, base)) for base in bases]
        rows.append([subject, *("-" if one is None else _shown_ratio(one) for one in cells)])
    return rows


def _shown_ratio(one: Ratio) -> str:
    return f"{one.median:.2f} ({one.min:.2f}-{one.max:.2f}) {one.best:.2f}"


MAX_RATIO_COLUMNS: Final = 3
