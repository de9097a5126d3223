"""What a benchmark is: a name, a line for --help, and a coroutine that measures."""

from collections.abc import Awaitable, Callable

from msgspec import Struct

from bench.report import Options, Outcome


class Benchmark(Struct, frozen=True):
    """``run`` starts what it needs, interleaves, checks, and leaves nothing behind."""

    name: str
    about: str
    run: Callable[[Options], Awaitable[Outcome]]
