"""Many conversations at once, in many workspaces, while tokens end and the provider stumbles.

Every value that was handed out is compared with what the provider gave, and to whom.
"""

import asyncio
import itertools
import random
from typing import Any

import pytest
from conftest import MakeTenant
from support.minting import Desk, minting
from support.sandbox import Provider

from broker.sandbox import Faults

TOKEN = "secret__user_google_token"
HEADER = "secret__user_google_authorization"
AT_ONCE = 16
LIVES = itertools.cycle((4, 600, 600))  # seconds


async def desk_of(make_tenant: MakeTenant, provider: Provider) -> Desk:
    """A workspace; it needs no upstream."""
    async with minting(await make_tenant(), provider, upstream=False) as desk:
        return desk


async def connect(desk: Desk, user: str, turns: asyncio.Semaphore) -> None:
    """Somebody whose tokens live for seconds, or for as long as this may take."""
    async with turns:
        account = f"{desk.tenant.id}/{user}"
        await desk.connect(user, account=account, expires_in=next(LIVES))


async def mint(desk: Desk, user: str) -> tuple[Desk, str, Any]:
    reply = await desk.ask(user, runtime="sealed", delivery="inline", max_wait_ms=8_000)
    assert reply.status == 201, reply.body
    return desk, user, reply.json


async def stumble(provider: Provider, done: asyncio.Event) -> None:
    """Be down, slow and well in turn."""
    moods = (Faults(status=503), None, Faults(latency=0.3), None, Faults(drop="before"), None)
    while not done.is_set():
        for mood in moods:
            provider.misbehave(mood)
            await asyncio.sleep(0.15)
    provider.misbehave(None)


async def crowd(
    make_tenant: MakeTenant, provider: Provider, *, workspaces: int, people: int
) -> None:
    desks = [await desk_of(make_tenant, provider) for _ in range(workspaces)]
    everybody = [(desk, f"user{number}") for desk in desks for number in range(people)]
    turns = asyncio.Semaphore(AT_ONCE)
    await asyncio.gather(*(connect(desk, user, turns) for desk, user in everybody))
    await asyncio.sleep(2.2)  # half of the short lives are over, if not all of them
    done = asyncio.Event()
    trouble = asyncio.create_task(stumble(provider, done))
    random.shuffle(everybody)
    made = await asyncio.gather(*(mint(desk, user) for desk, user in everybody))
    done.set()
    await trouble
    ids = set()
    ledger = provider.state.ledger
    for desk, user, conversation in made:
        ids.add(conversation["id"])
        variables = conversation["dynamic_variables"]
        assert variables["user_id"] == conversation["user_id"] == user
        given = variables.get(TOKEN)
        if not conversation["connections"]:
            # Nothing is better than what has ended; why is said.
            assert conversation["missing"][0]["reason"] in {
                *("refreshing", "provider_unavailable", "expired"),
            }
            assert given in (None, "unavailable")
            continue
        token = ledger.find(given, "")
        assert token is not None
        assert token.family.account == f"{desk.tenant.id}/{user}"
        assert variables[HEADER] == f"Bearer {given}"
        assert conversation["connections"][0]["expires_in"] >= 0
    assert len(ids) == len(everybody)
    assert sum(bool(one["connections"]) for _, _, one in made) > len(made) // 2
    for desk in desks:
        listed = (await desk.api.get("/v1/conversations?limit=100")).json["data"]
        mine = {one["id"] for other, _, one in made if other is desk}
        assert {one["id"] for one in listed} == mine


async def test_two_hundred_at_once_in_twenty_workspaces_get_what_is_theirs(
    make_tenant: MakeTenant, provider: Provider
) -> None:
    await crowd(make_tenant, provider, workspaces=20, people=10)


@pytest.mark.soak
async def test_a_thousand_at_once_in_twenty_workspaces_get_what_is_theirs(
    make_tenant: MakeTenant, provider: Provider
) -> None:
    await crowd(make_tenant, provider, workspaces=20, people=50)
