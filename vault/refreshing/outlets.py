"""App registrations that are ready to be called with: each resolved once for all that is refreshed
within a few seconds.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

from vault.model import WorkspaceId
from vault.oauth.app import App
from vault.refreshing.page import Outlet, Place
from vault.store import Store

OUTLET_SECONDS: Final = 5.0

AppOf = Callable[[Place], Awaitable[App]]


class Outlets:
    """Those that were resolved a moment ago, and those that are being resolved."""

    def __init__(self, app_of: AppOf, store: Store) -> None:
        self._app_of = app_of
        self._store = store
        self._known: dict[Place, tuple[float, asyncio.Task[Outlet]]] = {}

    def at_hand(self, place: Place) -> Outlet | None:
        """The one that need not be waited for."""
        since, task = self._known.get(place, (0.0, None))
        if task is None or not task.done() or time.monotonic() - since > OUTLET_SECONDS:
            return None
        return None if task.cancelled() or task.exception() else task.result()

    async def of(self, place: Place) -> Outlet:
        """The same, resolved where it has to be."""
        since, task = self._known.get(place, (0.0, None))
        stale = time.monotonic() - since > OUTLET_SECONDS
        failed = task is not None and task.done() and (task.cancelled() or task.exception())
        if task is None or stale or failed:
            self._known = {
                one: kept
                for one, kept in self._known.items()
                if time.monotonic() - kept[0] <= OUTLET_SECONDS
            }
            task = asyncio.create_task(self._resolved(place))
            self._known[place] = (time.monotonic(), task)
        return task.result() if task.done() else await asyncio.shield(task)

    def forget(self, workspace: WorkspaceId, integration: str) -> None:
        """An app registration was changed."""
        for place in [one for one in self._known if one[:2] == (workspace, integration)]:
            del self._known[place]

    async def _resolved(self, place: Place) -> Outlet:
        found = await asyncio.gather(self._app_of(place), self._store.seal_of(place.workspace))
        return Outlet.of(*found)
