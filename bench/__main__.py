"""``python -m bench [NAME...]``: run benchmarks, print ratios, write JSON, hold to bars.

Exit codes: 0 done, 1 a bar was missed, 2 wrong usage, 3 a run was void (wrong answers, no start).
"""

import argparse
import asyncio
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec
import uvloop

from bench import report, suite
from bench.circumstances import Circumstances, Watch
from bench.load import WrongAnswers
from bench.processes import NotStarted
from bench.report import Options, Outcome

MISSED: Final = 1
VOID: Final = 3
BUSY_PERCENT: Final = 20  # of the cores' time; above, short runs have missed bars for no reason


class Run(msgspec.Struct, frozen=True):
    """What came of a run; ``void`` says why a benchmark has no outcome."""

    circumstances: Circumstances
    outcomes: list[Outcome]
    void: list[str]


def main(words: Sequence[str]) -> int:
    """Run what the command line names; everything when it names nothing."""
    arguments = _parser().parse_args(words)
    names = list(dict.fromkeys(arguments.names)) or list(suite.BENCHMARKS)
    options = Options(rounds=arguments.rounds, quick=arguments.quick, full=arguments.full)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            run = runner.run(_run(names, options))
    except (KeyboardInterrupt, asyncio.CancelledError):
        print("stopped", file=sys.stderr)
        return VOID
    report.print_all(run.outcomes, run.circumstances)
    if arguments.json:
        arguments.json.write_bytes(_as_json(arguments, run))
    for sentence in run.void:
        print(f"void: {sentence}", file=sys.stderr)
    missed = report.missed(run.outcomes, report.read_bars()) if arguments.check else []
    if arguments.check:
        print("\n" + ("\n".join(missed) or "every bar is met"))
    if missed and run.circumstances.others_percent > BUSY_PERCENT:
        print("Others were busy on this machine: measure again before you believe it.")
    if run.void:
        return VOID
    return MISSED if missed else 0


def _parser() -> argparse.ArgumentParser:
    about = "\n".join(f"  {one.name:<16} {one.about}" for one in suite.BENCHMARKS.values())
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Measure Keyturn against baselines, as ratios.",
        epilog=f"benchmarks:\n{about}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", type=_known, help="all, if none")
    parser.add_argument("--rounds", type=_positive, help="how often everything is measured")
    parser.add_argument("--quick", action="store_true", help="short rounds; for CI and for a look")
    parser.add_argument("--full", action="store_true", help="the largest deployments; for a night")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    parser.add_argument(
        "--check", action="store_true", help="exit 1 if a bar of bars.toml is missed"
    )
    return parser


def _known(text: str) -> str:
    if text not in suite.BENCHMARKS:
        raise argparse.ArgumentTypeError(f"there are {', '.join(suite.BENCHMARKS)}")
    return text


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return number


async def _run(names: Sequence[str], options: Options) -> Run:
    # A SIGTERM has to run what stops the servers; Runner does the same for Ctrl-C.
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    watch = Watch()
    circumstances = await Circumstances.find()
    outcomes, void = [], []
    for name in names:
        try:
            outcomes.append(await suite.BENCHMARKS[name].run(options))
        except (WrongAnswers, NotStarted) as reason:
            void.append(str(reason))
        except TimeoutError:
            void.append(f"{name}: a server stopped answering")
    return Run(circumstances.ended(watch), outcomes, void)


def _command(arguments: argparse.Namespace) -> str:
    """What to type to get this again; without the file, whose name is nobody else's business."""
    words = ["python", "-m", "bench", *arguments.names]
    if arguments.rounds:
        words += ["--rounds", str(arguments.rounds)]
    if arguments.quick:
        words.append("--quick")
    if arguments.full:
        words.append("--full")
    return " ".join(words)


def _as_json(arguments: argparse.Namespace, run: Run) -> bytes:
    content = {
        "format": 1,
        "command": _command(arguments),
        "circumstances": run.circumstances,
        "benchmarks": {outcome.name: report.as_data(outcome) for outcome in run.outcomes},
        "void": run.void,
    }
    return msgspec.json.format(msgspec.json.encode(content), indent=1) + b"\n"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
