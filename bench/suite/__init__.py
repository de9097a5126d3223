"""The benchmarks, by name. A new one is a module here with a ``BENCHMARK``, and a name below."""

from typing import Final

from bench.suite import (
    bloat,
    crypto,
    growth_mint,
    growth_refresh,
    http,
    idle,
    mint,
    mint_beside_refresh,
    refresh,
    token,
)
from bench.suite.benchmark import Benchmark

BENCHMARKS: Final[dict[str, Benchmark]] = {
    one.name: one
    for one in (
        http.BENCHMARK,
        mint.BENCHMARK,
        growth_mint.BENCHMARK,
        mint_beside_refresh.BENCHMARK,
        token.BENCHMARK,
        idle.BENCHMARK,
        crypto.BENCHMARK,
        refresh.BENCHMARK,
        growth_refresh.BENCHMARK,
        bloat.BENCHMARK,
    )
}
