"""Storms: a provider that throttles, flaps, is down, or refuses everybody (cases R13 to R16).

Whatever one replica has learned of a token endpoint, the other one knows.
"""

import asyncio
import time
from typing import Any

import pytest
from structlog.testing import capture_logs
from support.alive import Alive
from support.connecting import SECRET

from broker.sandbox import Client, Faults

REFUSED = '{"error": "invalid_grant"}'
# What an endpoint may be called in a minute beside its share of retries: the reserve and trickle
# of ``vault.lifecycle.retries``, and a probe after each of the shortest rests.
IN_A_MINUTE = 10 + 60 * 0.1 + 60 / 5


@pytest.mark.parametrize(
    ("status", "said"),
    [(429, 170), (429, "+170"), (503, 170), (503, "+170")],
    ids=["429_seconds", "429_date", "503_seconds", "503_date"],
)
async def test_retry_after_stops_everybody_at_every_replica(
    alive: Alive, status: int, said: int | str
) -> None:
    await alive.integrate()
    ada, grace, joan = await alive.people(3)
    alive.sandbox.misbehave(Faults(status=status, retry_after=said, times=1))
    assert (await alive.token(ada, rejected=True)).degraded
    assert await alive.state(ada) == "backoff", "a refusal to listen leaves no doubt"
    waiting = [(alive.left, grace), (alive.right, joan), (alive.right, ada)]
    asked = [alive.token(one, at=at, rejected=True, wait=0.6) for at, one in waiting]
    assert all(one.degraded for one in await asyncio.gather(*asked))
    await alive.end_access(grace, joan)
    await alive.passes(seconds=120)
    await asyncio.gather(alive.left.refresh_due(), alive.right.refresh_due())
    await asyncio.sleep(0.3)
    assert alive.calls == 1, "nobody has called, whoever waits for it"
    await alive.settled()
    await alive.passes(seconds=80)
    assert (await alive.token(grace, at=alive.right)).generation == 2
    await alive.passes(seconds=60)
    await alive.sweep()
    assert await alive.generation(joan) == 2


async def test_who_would_wait_in_vain_for_an_endpoint_is_answered_at_once(alive: Alive) -> None:
    await alive.integrate()
    ada, grace = await alive.people(2)
    alive.sandbox.misbehave(Faults(status=429, retry_after=600, times=1))
    await alive.token(ada, rejected=True)
    began = time.monotonic()
    assert (await alive.token(grace, rejected=True, wait=60)).degraded
    await alive.end_access(grace)
    found = await alive.token(grace, wait=60)
    assert (found.tokens, found.reason) == (None, "provider_unavailable")
    assert time.monotonic() - began < 50, "and not after twice a minute"


async def test_retry_after_is_capped_at_an_hour_and_never_under_a_second(alive: Alive) -> None:
    await alive.integrate()
    ada, grace = await alive.people(2)
    alive.sandbox.misbehave(Faults(status=429, retry_after=10**9, times=1))
    await alive.token(ada, rejected=True, wait=1)
    await alive.passes(hours=1, seconds=1)
    alive.sandbox.misbehave(Faults(status=429, retry_after=0, times=1))
    await alive.token(grace, rejected=True, wait=1)
    await alive.settled()
    assert alive.calls == 2, "an hour is the longest"
    await alive.passes(seconds=2)
    await alive.token(grace, rejected=True)
    assert alive.calls == 3


async def test_a_refused_client_pauses_its_integration_once_and_marks_nobody(alive: Alive) -> None:
    await alive.integrate()
    every = await alive.people(8)
    alive.sandbox.state.clients.clear()
    with capture_logs() as logs:
        asked = [
            alive.token(one, at=(alive.left, alive.right)[n % 2], rejected=True, wait=1)
            for n, one in enumerate(every)
        ]
        assert all(one.degraded for one in await asyncio.gather(*asked))
        await alive.settled()
    assert {await alive.state(one) for one in every} == {"active"}
    assert await alive.events() == ["integration.paused"], "the operator hears of it, once"
    assert [one["event"] for one in logs].count("integration_paused") == 1
    calls = alive.calls
    assert (await alive.token(every[0], rejected=True, wait=0.5)).degraded
    await alive.end_access(*every)
    await alive.sweep()
    assert alive.calls == calls, "while it is paused nobody calls"
    found = await alive.token(every[0], wait=0.5)
    assert (found.tokens, found.reason) == (None, "integration_paused")
    for _ in range(3):
        await alive.passes(minutes=16)
        before = alive.calls
        await asyncio.gather(alive.left.refresh_due(), alive.right.refresh_due())
        await alive.settled()
        assert alive.calls == before + 1, "one probe at a time, for all replicas"
    alive.sandbox.state.clients["app"] = Client(secret=SECRET)
    await alive.left.put_integration(alive.caller, "acme", await _registration(alive))
    assert (await alive.events())[-1] == "integration.resumed"
    await alive.passes(minutes=2)
    await alive.sweep()
    assert {await alive.generation(one) for one in every} == {2}
    every_event = [await alive.events(one) for one in every]
    assert not any("connection.needs_reauth" in found for found in every_event)


async def test_a_secret_that_is_mended_at_the_provider_is_found_by_the_probe(alive: Alive) -> None:
    await alive.integrate()
    ada, grace = await alive.people(2)
    alive.sandbox.state.clients.clear()
    await alive.token(ada, rejected=True, wait=1)
    await alive.settled()
    assert await alive.events() == ["integration.paused"]
    alive.sandbox.state.clients["app"] = Client(secret=SECRET)
    await alive.passes(seconds=61)
    assert (await alive.token(grace, rejected=True)).generation == 2
    assert await alive.events() == ["integration.paused", "integration.resumed"]


async def test_a_mass_of_refusals_holds_the_integration_and_condemns_nobody(alive: Alive) -> None:
    """The provider loses its mind for an hour: all who are refused meanwhile are well after it."""
    await alive.integrate("steady")
    every = await alive.people(12)
    alive.sandbox.misbehave(Faults(status=400, body=REFUSED))
    for n, one in enumerate(every):
        await asked_in_turn(alive, one, at=(alive.left, alive.right)[n % 2])
    assert await alive.events() == ["integration.held"]
    assert alive.calls < len(every), "it is held before all have been refused"
    calls = alive.calls
    for _ in range(4):
        await alive.passes(minutes=16)
        await asyncio.gather(alive.left.refresh_due(), alive.right.refresh_due())
        await alive.settled()
    assert alive.calls <= calls + 4, "one probe at a time"
    assert "needs_reauth" not in {await alive.state(one) for one in every}
    alive.sandbox.misbehave(None)
    for _ in range(6):
        await alive.passes(minutes=16)
        await alive.sweep()
    assert (await alive.events())[-1] == "integration.resumed"
    assert {await alive.state(one) for one in every} == {"active"}
    news = [event for one in every for event in await alive.events(one)]
    assert "connection.needs_reauth" not in news


async def test_a_mass_of_refusals_at_a_strict_provider_condemns_nobody_either(
    alive: Alive,
) -> None:
    """There a suspicion alone would be enough, were it not for the others."""
    await alive.integrate("strict")
    every = await alive.people(6)
    alive.sandbox.misbehave(Faults(status=400, body=REFUSED))
    for one in every:
        await asked_in_turn(alive, one)
    assert await alive.events() == ["integration.held"]
    alive.sandbox.misbehave(None)
    for _ in range(6):
        await alive.passes(minutes=16)
        await alive.sweep()
    assert {await alive.state(one) for one in every} == {"active"}


async def test_a_few_who_are_refused_are_believed(alive: Alive) -> None:
    await alive.integrate()
    every = await alive.people(4)
    for one in every:
        alive.sandbox.state.ledger.end_consent(alive.families[one], "withdrawn")
        await asked_in_turn(alive, one)
    assert await alive.events() == []
    await alive.passes(minutes=2)
    await alive.sweep()
    assert {await alive.state(one) for one in every} == {"needs_reauth"}
    assert alive.calls == len(every), "each was asked about once"


async def test_the_breaker_opens_for_all_replicas_and_closes_by_one_probe(alive: Alive) -> None:
    await alive.integrate("steady")
    every = await alive.people(30)
    alive.sandbox.misbehave(Faults(status=500))
    for n, one in enumerate(every):
        if n == 20:
            await alive.passes(minutes=-5)  # its rest is short: it shall not be over by itself
        await asked_in_turn(alive, one, at=(alive.left, alive.right)[n % 2])
    assert alive.calls == 20, "half of twenty calls bad, and it is open"
    await alive.end_access(*every)
    await alive.sweep()
    assert alive.calls == 20, "also for what ends"
    await alive.passes(minutes=5)
    for rest, probes in ((6, 1), (11, 2), (21, 3)):
        await alive.passes(seconds=rest)
        await asyncio.gather(
            *(
                alive.token(one, at=at, wait=4)
                for at in (alive.left, alive.right)
                for one in every[20:25]
            )
        )
        await alive.settled()
        assert alive.calls == 20 + probes, "one probe, whoever waits, and a longer rest"
    alive.sandbox.misbehave(None)
    await alive.passes(seconds=41)
    found = await asyncio.gather(
        *(alive.token(one, at=at) for at in (alive.left, alive.right) for one in every[20:25])
    )
    assert {one.generation for one in found} == {2}, "one good answer closes it"
    for _ in range(40):
        await alive.passes(seconds=30)
        await alive.sweep()
    assert {await alive.state(one) for one in every} == {"active"}


async def test_a_provider_that_flaps_for_a_minute_loses_nobody_and_is_not_stormed(
    alive: Alive,
) -> None:
    """It is down for every other request. Needed is a first call for each connection, and another
    for each whose first it wasted. More than that are a tenth, the reserve, and the probes.
    """
    await alive.integrate("steady", refresh_policy="eager")
    every = await alive.people(60)
    await alive.end_access(*every)
    alive.wire.down = 5
    minutes = await a_minute_of_sweeps(alive)
    assert alive.calls <= 1.1 * len(every) + IN_A_MINUTE * minutes
    ended = [await alive.outcomes(one) for one in every]
    wasted = sum(bool(one) and one[0] != "refreshed" for one in ended)
    assert wasted > 5, "it did flap"
    alive.wire.down = 0
    for _ in range(90):
        await alive.passes(seconds=10)
        await alive.sweep()
        if {await alive.generation(one) for one in every} == {2}:
            break
    assert {await alive.state(one) for one in every} == {"active"}
    assert alive.calls <= 1.1 * (len(every) + wasted) + IN_A_MINUTE * minutes


async def test_retries_that_nobody_waits_for_are_a_tenth_of_the_first_tries(alive: Alive) -> None:
    """It is down for three of ten requests, which is too few for the breaker."""
    await alive.integrate("steady", refresh_policy="eager")
    every = await alive.people(100)
    await alive.end_access(*every)
    alive.wire.down = 3
    minutes = await a_minute_of_sweeps(alive)
    ended = [await alive.outcomes(one) for one in every]
    first = sum(bool(one) for one in ended)
    assert first == len(every), "nobody's first try waits for another's retry"
    assert alive.calls - first <= 0.1 * first + 10 + 60 * 0.1 * minutes + 1


async def asked_in_turn(alive: Alive, connection: str, **more: Any) -> None:
    """Ask, and let what was begun for it end before anybody else asks."""
    await alive.token(connection, rejected=True, wait=2, **more)
    await alive.settled()


async def a_minute_of_sweeps(alive: Alive) -> float:
    """A sweep every two seconds. How many minutes that were: what the sweeps take counts, too."""
    began = time.monotonic()
    for _ in range(30):
        await asyncio.gather(alive.left.refresh_due(), alive.right.refresh_due())
        await alive.settled()
        await alive.passes(seconds=2)
    return 1 + (time.monotonic() - began) / 60


async def _registration(alive: Alive) -> Any:
    row = await alive.left.get_integration(alive.caller, "acme")
    return row.registration
