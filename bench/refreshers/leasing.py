"""The first half of a refresh alone: find what is due, and take the lease of each.

Nothing is called, and no lease is given back: whoever measures does that.
"""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Sequence

from bench.refreshers import Refresh, Settings
from bench.world import ENVIRONMENT, INTEGRATION, app_of
from broker import boot, settings
from vault.database import Database
from vault.keyring import Keyring
from vault.refreshing.lane import Lane
from vault.refreshing.marks import Marks
from vault.refreshing.page import Granted, Outlet, Place, Wanted
from vault.refreshing.replica import Replica
from vault.store import Store
from vault.store import refreshing as rows


@contextlib.asynccontextmanager
async def opened(given: Settings) -> AsyncIterator[Refresh]:
    """Ready to lease."""
    read = settings.load(os.environ)
    async with boot.house(read) as house, boot.database_addresses(read) as addresses:
        assert addresses.application is not None
        assert addresses.worker is not None
        database = await Database.open(addresses.application, size=2, statement_cache=200)
        worker = await Database.open(addresses.worker, size=1, statement_cache=200)
        store = Store(database, Keyring(boot.root_key(read), house.vault.deployment_id))
        nowhere = Marks((), house.vault.deployment_id)
        replica = Replica(database, house.vault.deployment_id, nowhere)
        await replica.join()

        async def lease(names: Sequence[str]) -> int:
            due = await rows.due(worker, len(names))
            await rows.left_by_the_dead(worker, await replica.living(), len(names))
            workspace = due[0].workspace_id
            outlet = Outlet.of(app_of(given), await store.seal_of(workspace))
            place = Place(workspace, INTEGRATION, ENVIRONMENT)
            lane = Lane(place, database, store, replica)
            wanted = [
                Wanted(connection_id=one.connection_id, outlet=outlet, waiting=False) for one in due
            ]
            found = await asyncio.gather(*(lane.claims.do(one) for one in wanted))
            return sum(isinstance(one, Granted) for one in found)

        yield lease
        await replica.leave()
        await worker.close()
        await database.close()
