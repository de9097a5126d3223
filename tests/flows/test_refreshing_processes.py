"""Real processes: one is killed in the middle of a refresh, one is told to stop, nobody asks."""

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from msgspec import Struct
from support.api import Api
from support.connecting import SECRET
from support.process import Deployment, Replica, deployment
from support.provider_file import graceful, write_providers
from support.sandbox import Provider, providing

from broker.sandbox import Client, Faults, Issuing
from broker.sandbox.history import tally

# Longer than a busy machine takes to notice a death; a lease lasts for longer than is waited here.
GRACE = 80


class House(Struct, frozen=True):
    """A deployment, with a workspace whose app is registered at a sandbox."""

    deployment: Deployment
    provider: Provider
    session: aiohttp.ClientSession
    key: str

    def api(self, replica: Replica) -> Api:
        return Api(self.session, replica.base, self.key)

    async def connect(self, replica: Replica, lifetime: float = 3600, user: str = "ada") -> str:
        state = self.provider.state
        state.clients["app"] = Client(secret=SECRET)
        family = state.ledger.open(realm="", client_id="app", account=user)
        issuing = Issuing(lifetime=lifetime, rotation="grace", grace=GRACE, replay_revokes=True)
        pair = state.ledger.give(family, issuing, refresh=True, request=0)
        state.issuing = Issuing(rotation="grace", grace=GRACE, replay_revokes=True)
        api = self.api(replica)
        made = await api.put(
            "/v1/integrations/acme",
            {
                "provider": "graceful",
                "client_id": "app",
                "client_secret": SECRET,
                "variables": {"base": self.provider.base},
            },
        )
        assert made.status in (200, 201), made.body
        reply = await api.put(
            f"/v1/users/{user}/connections/acme",
            {
                "access_token": pair.access,
                "refresh_token": pair.refresh,
                "expires_in": int(lifetime),
            },
        )
        assert reply.status == 200, reply.body
        found: str = reply.json["id"]
        return found

    async def read(self, replica: Replica, connection: str) -> dict[str, Any]:
        reply = await self.api(replica).get(f"/v1/connections/{connection}")
        found: dict[str, Any] = reply.json
        return found

    async def until(self, replica: Replica, connection: str, generation: int) -> None:
        async with asyncio.timeout(60):
            while (await self.read(replica, connection))["generation"] < generation:  # noqa: ASYNC110 - another process tells nobody
                await asyncio.sleep(0.2)

    async def called(self, times: int = 1) -> None:
        """Wait until the provider has been asked for tokens."""
        async with asyncio.timeout(60):
            while len(self.provider.token_calls) < times:  # noqa: ASYNC110 - nor does a list
                await asyncio.sleep(0.02)


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[tuple[House, Replica]]:
    catalogue = write_providers(tmp_path / "providers", {"graceful": graceful(GRACE)})
    with deployment(
        providers_dir=catalogue, spool_dir=tmp_path / "spool", egress_allow="127.0.0.1"
    ) as made:
        replica, key = await made.one_replica()
        async with providing() as provider, aiohttp.ClientSession() as session:
            yield House(made, provider, session, key), replica


async def test_nobody_has_to_ask_for_a_refresh(house: tuple[House, Replica]) -> None:
    here, replica = house
    connection = await here.connect(replica, lifetime=4)
    await here.api(replica).post(f"/v1/connections/{connection}/token")
    await here.until(replica, connection, 2)
    assert len(here.provider.token_calls) == 1


async def test_a_killed_replicas_refresh_is_taken_over_within_the_grace(
    house: tuple[House, Replica],
) -> None:
    here, replica = house
    connection = await here.connect(replica)
    other = await here.deployment.start().ready()
    here.provider.misbehave(Faults(hold=120, times=1))
    asked = asyncio.create_task(here.api(replica).post(f"/v1/connections/{connection}/refresh"))
    await here.called()
    replica.kill()
    with pytest.raises(aiohttp.ClientError):
        await asked
    await here.until(other, connection, 2)
    token = (await here.api(other).post(f"/v1/connections/{connection}/token")).json
    assert here.provider.state.ledger.alive(token["access_token"], "") is not None
    again = await here.api(other).post(f"/v1/connections/{connection}/refresh")
    assert again.status == 200, again.body
    assert not tally(here.provider.state.history.events()).ended_by_replay


async def test_a_replica_that_is_told_to_stop_finishes_its_refresh(
    house: tuple[House, Replica],
) -> None:
    here, replica = house
    connection = await here.connect(replica)
    other = await here.deployment.start().ready()
    here.provider.misbehave(Faults(hold=3, times=1))
    asked = asyncio.create_task(
        here.api(replica).post(f"/v1/connections/{connection}/token", {"rejected": True})
    )
    await here.called()
    replica.process.send_signal(signal.SIGTERM)
    assert await replica.ended() == 0
    await asyncio.gather(asked, return_exceptions=True)
    assert (await here.read(other, connection))["generation"] == 2
    assert len(here.provider.token_calls) == 1
