"""The wire to the provider is cut, at every point of a refresh, for every way of rotating.

* What surely was not sent leaves no doubt. What may have been sent is not sent again before that is
  safe, and nobody is condemned for the wire's sake.
* Where the provider did as it was asked and replaced the only refresh token, and its answer is
  lost, the connection is lost: once, said to be so, and without a storm.
"""

import asyncio
import time
from typing import Final

import pytest
from support.alive import Alive
from support.wire import SEEN, Cut

from broker.sandbox import Faults

# The calls that surely sent nothing.
NOT_SENT: Final[frozenset[Cut]] = frozenset({"refused"})
POINTS: Final = list(SEEN)


@pytest.mark.parametrize("rotation", ["strict", "grace", "steady"])
@pytest.mark.parametrize("cut", POINTS)
async def test_a_wire_that_is_cut_once(alive: Alive, cut: Cut, rotation: str) -> None:
    await alive.integrate(rotation)
    ada = await alive.connect()
    before = await alive.token(ada)
    await alive.wire.put(cut)
    during = await alive.token(ada, rejected=True)
    assert (during.tokens is not None, during.degraded) == (True, True)
    assert during.generation == before.generation
    assert await alive.state(ada) == ("backoff" if cut in NOT_SENT else "uncertain")
    calls = alive.calls
    assert (await alive.token(ada, at=alive.right, rejected=True)).degraded
    assert alive.calls == calls, "nobody sends it again before that is safe"
    await alive.wire.put(None)
    await alive.comes(ada, "due_at")
    await alive.sweep()
    if rotation == "strict" and SEEN[cut]:
        assert await alive.state(ada) == "suspect"
        calls = alive.calls
        await alive.comes(ada)
        await alive.sweep()
        assert alive.calls == calls
        assert await alive.state(ada) == "needs_reauth"
        assert await alive.column(ada, "verdict") == "lost_rotation"
        assert (await alive.events(ada)).count("connection.needs_reauth") == 1
        return
    after = await alive.token(ada)
    assert (await alive.state(ada), after.generation) == ("active", before.generation + 1)
    assert alive.lives(after)
    again = await alive.token(ada, rejected=True)
    assert again.generation == after.generation + 1, "its refresh token is the one that lives"


async def test_what_was_not_sent_is_tried_again_soon_and_what_may_have_been_when_it_is_safe(
    alive: Alive,
) -> None:
    await alive.integrate()
    ada = await alive.connect()
    await alive.wire.put("refused")
    await alive.token(ada, rejected=True)
    soon = await alive.column(ada, "next_try_at") - await alive.now()
    assert soon.total_seconds() < 2
    await alive.wire.put("lost_on_the_way")
    await alive.comes(ada)
    await alive.token(ada, rejected=True)
    safe = await alive.column(ada, "next_try_at") - await alive.now()
    assert 60 < safe.total_seconds() <= 90, "as long as its call may still be under way"


async def test_a_provider_that_cannot_be_reached_is_news_once_and_so_is_its_return(
    alive: Alive,
) -> None:
    await alive.integrate()
    ada = await alive.connect()
    await alive.wire.put("refused")
    for _ in range(5):
        assert (await alive.token(ada, rejected=True)).degraded
        await alive.comes(ada)
    assert set(await alive.outcomes(ada)) == {"not_sent"}
    assert (await alive.events(ada)).count("connection.degraded") == 1, "it is news once"
    await alive.wire.put(None)
    await alive.comes(ada, "due_at")
    await alive.sweep()
    assert await alive.state(ada) == "active"
    assert (await alive.events(ada))[-1] == "connection.recovered"


@pytest.mark.soak
async def test_an_answer_that_comes_byte_by_byte_is_waited_for_or_given_up_in_time(
    alive: Alive,
) -> None:
    """A call has 75 seconds as a whole; its lease has 90. Nobody calls beside it."""
    began = time.monotonic()
    await alive.integrate("grace")
    ada = await alive.connect()
    alive.sandbox.misbehave(Faults(answer="slow", status=200, body="x" * 300, times=1))
    asked = asyncio.create_task(alive.token(ada, rejected=True, wait=120))
    await asyncio.sleep(5)
    assert (await alive.token(ada, at=alive.right, rejected=True, wait=2)).degraded
    assert (await asked).degraded
    assert await alive.outcomes(ada) == ["ambiguous"]
    assert alive.calls == 1
    await asyncio.sleep(max(0, began + 80 - time.monotonic()))  # the sandbox drips on
