"""App registrations that are ready to be called with: each resolved once for all that is refreshed
within a few seconds.

One that stays in use is resolved anew before it is too old, beside those who use it: nobody waits.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Final, final

from vault.model import WorkspaceId
from vault.oauth.app import App
from vault.refreshing.page import Outlet, Place
from vault.store import Store

OUTLET_SECONDS: Final = 5.0
RENEWED_AFTER: Final = 2.5
# What takes longer to resolve keeps nobody waiting but those who need it.
PREPARED_WITHIN: Final = 0.2

AppOf = Callable[[Place], Awaitable[App]]


@final
class _Resolving:
    """One place's registration, as it was when somebody began to resolve it.

    ``outlet``: what it was resolved to, once it has been. ``next``: what takes its place then.
    """

    __slots__ = ("failed", "next", "outlet", "since", "task")

    def __init__(self, task: "asyncio.Task[Outlet]") -> None:
        self.since = time.monotonic()
        self.task = task
        self.failed = False
        self.outlet: Outlet | None = None
        self.next: _Resolving | None = None
        task.add_done_callback(self._done)

    def _done(self, task: "asyncio.Task[Outlet]") -> None:
        self.failed = task.cancelled() or task.exception() is not None
        if not self.failed:
            self.outlet = task.result()

    @property
    def age(self) -> float:
        return time.monotonic() - self.since


class Outlets:
    """Those that were resolved a moment ago, and those that are being resolved."""

    def __init__(self, app_of: AppOf, store: Store) -> None:
        self._app_of = app_of
        self._store = store
        self._known: dict[Place, _Resolving] = {}

    def at_hand(self, place: Place) -> Outlet | None:
        """The one that need not be waited for."""
        known = self._known.get(place)
        if known is None:
            return None
        if known.age > RENEWED_AFTER:
            known = self._renewed(place, known)
            if known.age > OUTLET_SECONDS:
                return None
        return known.outlet

    async def of(self, place: Place) -> Outlet:
        """The same, resolved where it has to be."""
        known = self._resolving(place)
        return await asyncio.shield(known.task) if known.outlet is None else known.outlet

    async def prepare(self, places: Iterable[Place]) -> None:
        """Have these at hand before many ask for them, as far as that is done in a moment."""
        tasks = {self._resolving(place).task for place in places if self.at_hand(place) is None}
        if tasks:
            await asyncio.wait(tasks, timeout=PREPARED_WITHIN)

    def forget(self, workspace: WorkspaceId, integration: str) -> None:
        """An app registration was changed."""
        for place in [one for one in self._known if one[:2] == (workspace, integration)]:
            del self._known[place]

    def _resolving(self, place: Place) -> _Resolving:
        """One that is young enough, or will be there before long."""
        known = self._known.get(place)
        if known is None or known.failed or known.age > OUTLET_SECONDS:
            known = self._resolve(place)
            self._keep(place, known)
        return known

    def _renewed(self, place: Place, known: _Resolving) -> _Resolving:
        """What has taken its place, if that is ready; it is begun here. If it fails, this one gets
        too old, and whoever resolves it then is told why that cannot be done.
        """
        if known.next is None:
            known.next = self._resolve(place)
        if known.next.outlet is None:
            return known
        self._keep(place, known.next)
        return known.next

    def _resolve(self, place: Place) -> _Resolving:
        return _Resolving(asyncio.create_task(self._resolved(place)))

    def _keep(self, place: Place, resolving: _Resolving) -> None:
        """And nothing that has become too old meanwhile."""
        self._known = {
            one: known for one, known in self._known.items() if known.age <= OUTLET_SECONDS
        }
        self._known[place] = resolving

    async def _resolved(self, place: Place) -> Outlet:
        found = await asyncio.gather(self._app_of(place), self._store.seal_of(place.workspace))
        return Outlet.of(*found)
