"""Many who want the same, and what happens while a refresh is under way (cases R1, R4, R11, R24,
R25, R28).
"""

import asyncio
import time
from contextlib import AsyncExitStack
from datetime import timedelta

import pytest
from support.alive import Alive

from broker.sandbox import Faults
from vault.errors import NotFound, ProviderUnavailable

PACE = 5  # what the provider 'paced' takes in a second
REPLICAS = 8
MINTS = 50


async def test_of_four_hundred_mints_at_eight_replicas_one_calls(alive: Alive) -> None:
    await alive.integrate()
    ada = await alive.connect()
    await alive.end_access(ada)
    alive.sandbox.misbehave(Faults(latency=0.5))
    async with AsyncExitStack() as stack:
        every = [
            await stack.enter_async_context(alive.over.another(size=3)) for _ in range(REPLICAS)
        ]
        found = await asyncio.gather(
            *(alive.token(ada, at=one, wait=60) for one in every for _ in range(MINTS))
        )
    assert {one.generation for one in found} == {2}
    assert all(one.tokens is not None and not one.degraded for one in found)
    assert alive.calls == 1
    assert alive.well()


async def test_who_cannot_wait_is_told_so_and_the_next_finds_it_done(alive: Alive) -> None:
    await alive.integrate()
    ada = await alive.connect()
    await alive.end_access(ada)
    async with alive.sandbox.keeping() as kept:
        first = asyncio.create_task(alive.token(ada, wait=0.3))
        await kept.come()
        assert ((await first).tokens, (await first).reason) == (None, "refreshing")
        other = await alive.token(ada, at=alive.right, wait=0.3)
        assert (other.tokens, other.reason) == (None, "refreshing")
    await alive.settled()
    found = await alive.token(ada, at=alive.right, wait=0)
    assert found.generation == 2
    assert alive.calls == 1


async def test_a_refusal_of_what_another_replica_has_replaced_adopts_its_tokens(
    alive: Alive,
) -> None:
    """The provider refuses the older refresh token, for whose refresh the call was held up; by then
    another consent has brought newer tokens: they are what counts.
    """
    await alive.integrate()
    ada = await alive.connect()
    refused = '{"error": "invalid_grant"}'
    alive.sandbox.misbehave(Faults(status=400, body=refused, times=1))
    async with alive.sandbox.keeping() as kept:
        asked = asyncio.create_task(alive.token(ada, rejected=True))
        await kept.come()
        assert await alive.connect() == ada, "the same connection, connected again"
    found = await asked
    assert (found.generation, found.tokens is not None) == (2, True)
    assert alive.lives(found)
    assert await alive.state(ada) == "active"
    assert "connection.needs_reauth" not in await alive.events(ada)


@pytest.mark.parametrize("what", ["connection", "user"])
async def test_what_is_deleted_during_its_refresh_stays_so_and_its_tokens_go_back(
    alive: Alive, what: str
) -> None:
    await alive.integrate()
    ada = await alive.connect()
    async with alive.sandbox.keeping() as kept:
        asked = asyncio.create_task(alive.token(ada, rejected=True))
        await kept.come()
        if what == "user":
            await alive.right.delete_user(alive.caller, "ada")  # type: ignore[arg-type] # a word
        else:
            await alive.right.delete_connection(alive.caller, ada)
    found = await asked
    assert found.tokens is None
    with pytest.raises(NotFound):
        await alive.state(ada)
    # Ahead of what other tests have left: so many are tried at a time.
    await alive.over.admin.execute(
        "update vault.revocations set due_at = now() - interval '1 day' where workspace_id = $1",
        alive.caller.workspace,
    )
    await alive.left.retry_revocations()
    revoked = [one for one in alive.sandbox.state.requests if one.path == "/oauth/revoke"]
    given_back = {one.fields["token"] for one in revoked}
    assert len(given_back) == 2, "the tokens of before, and those that came too late"
    given = [one for one in alive.sandbox.state.history.events() if one.what == "issued"]
    ended = {one.family for one in alive.sandbox.state.history.events() if one.what == "ended"}
    assert {one.family for one in given} <= ended, "nothing that was given lives on"
    rows = await alive.over.admin.fetchval(
        "select count(*) from vault.connection_tokens where connection_id = $1", ada
    )
    assert rows == 0


async def test_what_ends_at_once_is_called_at_the_providers_pace(alive: Alive) -> None:
    """It takes five a second; all are due, at both replicas, in the same instant."""
    await alive.integrate("paced", refresh_policy="eager")
    every = await alive.people(40)
    await alive.end_access(*every)
    passed = 0.0
    while alive.calls < len(every) and passed < 60:
        began = time.monotonic()
        await asyncio.gather(alive.left.refresh_due(), alive.right.refresh_due())
        await alive.settled()
        passed += time.monotonic() - began
        assert alive.calls <= PACE * (1 + passed), "at most a second's worth at once"
        await alive.passes(seconds=1)
        passed += 1
    assert alive.calls == len(every), "and each was called once"
    assert {await alive.generation(one) for one in every} == {2}


async def test_the_due_times_of_what_was_connected_together_differ(alive: Alive) -> None:
    await alive.integrate(refresh_policy="eager")
    every = await alive.people(20)
    due = sorted([await alive.column(one, "due_at") for one in every])
    assert due[-1] - due[0] > timedelta(minutes=2), "spread over a tenth of the lifetime"


async def test_a_refresh_that_somebody_waits_for_is_one_error_for_all_who_wait(
    alive: Alive,
) -> None:
    await alive.integrate()
    ada = await alive.connect()
    alive.sandbox.misbehave(Faults(status=503))
    async with alive.sandbox.keeping() as kept:
        asked = [
            asyncio.create_task(one.refresh_connection(alive.caller, ada))
            for one in (alive.left, alive.left, alive.right)
        ]
        await kept.come()
        async with asyncio.timeout(30):
            while not (alive.left.refreshes_under_way and alive.right.refreshes_under_way):  # noqa: ASYNC110 - who waits tells nobody
                await asyncio.sleep(0.01)
    ended = await asyncio.gather(*asked, return_exceptions=True)
    assert all(isinstance(one, ProviderUnavailable) for one in ended)
    assert alive.calls == 1
