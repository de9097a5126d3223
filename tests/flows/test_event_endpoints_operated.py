"""Events at the terminal, from a real process, and through its end."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator

import aiohttp
import pytest
from support.api import Api
from support.process import Deployment, Replica, deployment
from support.receiving import Receiver, receiving


@pytest.fixture
async def platform() -> AsyncIterator[Receiver]:
    async with receiving() as found:
        yield found


async def at_terminal(operator: Deployment, *words: str) -> str:
    """Run a command; the receiver, which lives in this process, answers meanwhile."""
    ended = await asyncio.to_thread(operator.command, "event-endpoint", *words)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


async def happen(api: Api, *users: str) -> None:
    await api.put("/v1/integrations/keys", {"provider": "api-key"})
    for user in users:
        reply = await api.put(f"/v1/users/{user}/connections/keys", {"api_key": "a-key"})
        assert reply.status == 200, reply.body


async def received(platform: Receiver, number: int) -> None:
    async with asyncio.timeout(60):
        while len(platform.received) < number:  # noqa: ASYNC110 - the receiver tells nobody
            await asyncio.sleep(0.05)


async def test_an_endpoint_is_operated_at_the_terminal_and_ends_with_its_replica(
    platform: Receiver,
) -> None:
    with deployment(egress_allow="127.0.0.1") as operator:
        replica, key = await operator.one_replica()
        async with aiohttp.ClientSession() as session:
            api = Api(session, replica.base, key)
            await _operated(operator, api, platform)
            await _stopped(operator, replica, api, platform)


async def _operated(operator: Deployment, api: Api, platform: Receiver) -> None:
    made = json.loads(await at_terminal(operator, "add", platform.url, "--json"))
    await happen(api, "ada")
    await received(platform, 1)
    assert platform.received[0].verified(made["secret"])["type"] == "connection.connected"
    listed = await at_terminal(operator, "list")
    assert made["id"] in listed
    assert made["secret"] not in listed
    again = await at_terminal(operator, "replay", made["id"], "--since", "2026-01-01T00:00:00Z")
    assert again.startswith("1 on their way")
    await received(platform, 2)
    rotated = (await at_terminal(operator, "rotate", made["id"])).split()[-1]
    await happen(api, "grace")
    await received(platform, 3)
    for secret in (made["secret"], rotated):
        platform.received[2].verified(secret)
    # It counts an attempt when it has heard the answer, which was sent a moment ago.
    counted = 'keyturn_event_attempts_total{outcome="delivered"} 3.0'
    async with asyncio.timeout(60):
        while counted not in (await api.get("/metrics")).body.decode():  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0.1)
    assert await at_terminal(operator, "remove", made["id"]) == "removed\n"
    assert await at_terminal(operator, "list") == ""


async def _stopped(operator: Deployment, replica: Replica, api: Api, platform: Receiver) -> None:
    """What is under way at SIGTERM ends and is written down; the rest waits for another."""
    made = json.loads(await at_terminal(operator, "add", platform.url, "--json"))
    platform.seconds = 2
    before = len(platform.received)
    await happen(api, *(f"user{number}" for number in range(8)))
    await received(platform, before + 1)
    replica.process.send_signal(signal.SIGTERM)
    assert await replica.ended() == 0
    told = json.loads(await at_terminal(operator, "deliveries", made["id"], "--json"))
    done = [one["event_id"] for one in told if one["state"] == "delivered"]
    assert sorted(done) == sorted(one.id for one in platform.received[before:])
    assert {one["state"] for one in told if one["event_id"] not in done} <= {"waiting"}
