"""Keyturn itself: the parts and the sweep of ``keyturn work``, without waiting for its tick.

The provider's answers end so soon that what it has refreshed is due again a second later.
"""

import asyncio
import contextlib
import os
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from typing import Final

from bench.refreshers import Refresh, Settings
from broker import boot, settings
from vault.refreshing.observing import Observed

# To look whether all is done costs CPU time that is none of a refresh's.
POLL_SECONDS: Final = 0.02
PATIENCE: Final = 120.0
# A claim that is a second old before its call could begin is given back, and taken again: that
# happens where others hold the cores, and costs us what it costs.
UNUSED: Final = "unused"


@contextlib.asynccontextmanager
async def opened(_: Settings) -> AsyncIterator[Refresh]:
    """Ready to refresh."""
    async with boot.house(settings.load(os.environ)) as house:
        vault = house.vault
        outcomes: Counter[str] = Counter()

        def heard(one: Observed) -> None:
            outcomes[one.outcome] += 1

        async def refresh(names: Sequence[str]) -> int:
            outcomes.clear()
            async with asyncio.timeout(PATIENCE):
                while outcomes["refreshed"] < len(names):
                    if not await vault.refresh_due():
                        await asyncio.sleep(POLL_SECONDS)
                    while vault.refreshes_under_way:  # noqa: ASYNC110 - it is told by this number alone
                        await asyncio.sleep(POLL_SECONDS)
            if others := set(outcomes) - {"refreshed", UNUSED}:
                raise RuntimeError(f"calls ended otherwise: {', '.join(sorted(others))}")
            return outcomes["refreshed"]

        vault.observe_refreshes(heard)
        yield refresh
