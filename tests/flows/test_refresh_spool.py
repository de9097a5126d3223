"""The journal: an answer of a provider is durable before anything else comes of it, and a spooled
one is brought in once, where it belongs, and nowhere else.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from support.alive import Alive, workspace_in
from support.losing import full, until_spooled

from vault.errors import NotReady
from vault.refreshing.observing import Observed
from vault.refreshing.spool import Spooled

DECODE = msgspec.msgpack.Decoder(Spooled).decode
ENCODE = msgspec.msgpack.Encoder().encode


@contextlib.contextmanager
def without(folder: Path) -> Iterator[None]:
    """Nothing can be written to this folder."""
    away = folder.rename(folder.with_name("away"))
    folder.write_bytes(b"")
    try:
        yield
    finally:
        folder.unlink()
        away.rename(folder)


def answered(alive: Alive) -> int:
    return sum(one.what == "answered" for one in alive.sandbox.state.history.events())


async def is_well(alive: Alive) -> bool:
    try:
        await alive.left.check_refreshing()
    except NotReady:
        return False
    return True


@pytest.fixture
async def stranger_id(alive: Alive) -> str:
    """Another workspace on the same database."""
    return (await workspace_in(alive.over, "a stranger")).workspace


async def learned(alive: Alive) -> Any:
    return await alive.over.admin.fetchrow(
        "select standing, resting_until, learned from vault.token_endpoints"
        " where workspace_id = $1",
        alive.caller.workspace,
    )


async def spooled_answer(alive: Alive, connection: str) -> tuple[Path, bytes]:
    """Have the next answer spooled, and then stored; the file, and what was in it."""
    async with full(alive, "connection_tokens"):
        asked = asyncio.create_task(alive.token(connection, rejected=True, wait=1))
        await until_spooled(alive)
        await asked
        [file] = alive.over.spooled()
        kept = file.read_bytes()
    await alive.settled()
    assert not file.exists()
    return file, kept


@contextlib.asynccontextmanager
async def left_behind(alive: Alive, connection: str) -> AsyncIterator[tuple[Path, bytes]]:
    """An answer of a process that is gone: only the spool has it."""
    async with full(alive, "connection_tokens"), alive.over.another() as dying:
        asked = asyncio.create_task(alive.token(connection, at=dying, rejected=True, wait=1))
        await until_spooled(alive)
        await asked
        [file] = alive.over.spooled()
        kept = file.read_bytes()
        await dying.end_refreshing(0.5)
        assert file.exists()
        yield file, kept


async def test_nothing_comes_of_an_answer_before_it_is_durable(alive: Alive) -> None:
    """Neither the database nor the spool takes it: nobody is told, and nothing is learned."""
    await alive.integrate()
    ada = await alive.connect()
    await alive.token(ada, rejected=True)
    before = await learned(alive)
    observed: list[Observed] = []
    alive.left.observe_refreshes(observed.append)
    async with full(alive, "connection_tokens"):
        with without(alive.over.spool):
            found = await alive.token(ada, rejected=True, wait=4)
            assert (found.degraded, found.generation) == (True, 2)
            async with asyncio.timeout(60):
                while answered(alive) < 2:  # noqa: ASYNC110 - a provider tells nobody
                    await asyncio.sleep(0.05)
            assert alive.calls == 2, "the provider has answered"
            after = await learned(alive)
            assert after["standing"] == before["standing"]
            assert observed == []
            with pytest.raises(NotReady, match="spool cannot be written"):
                await alive.left.check_refreshing()
        await until_spooled(alive)
        async with asyncio.timeout(60):  # the mark is written each second
            while not await is_well(alive):  # noqa: ASYNC110 - it tells nobody
                await asyncio.sleep(0.1)
    await alive.settled()
    assert [one.outcome for one in observed] == ["refreshed"]
    alive.left.observe_refreshes(lambda _: None)
    assert (await alive.token(ada)).generation == 3
    assert alive.calls == 2
    assert alive.well()


async def test_whoever_is_told_to_stop_leaves_what_the_database_does_not_take_in_the_spool(
    alive: Alive,
) -> None:
    await alive.integrate()
    ada = await alive.connect()
    async with full(alive, "connection_tokens"), alive.over.another() as stopping:
        asked = asyncio.create_task(alive.token(ada, at=stopping, rejected=True, wait=1))
        async with asyncio.timeout(60):
            while not alive.calls:  # noqa: ASYNC110 - a wire tells nobody
                await asyncio.sleep(0.01)
        ending = asyncio.create_task(stopping.end_refreshing(5))
        await until_spooled(alive)
        await ending
        [file] = alive.over.spooled()
        assert (await asked).degraded
        # The claim's owner is gone; its answer is not.
        assert (await alive.token(ada, at=alive.right, rejected=True, wait=1)).degraded
        await alive.end_access(ada)
        await alive.left.refresh_due()
        await alive.settled()
        assert alive.calls == 1, "nobody asks again whose answer waits in the spool"
    assert await alive.right.replay_spool() == 1
    assert not file.exists()
    found = await alive.token(ada)
    assert (found.generation, alive.lives(found)) == (2, True)
    assert alive.calls == 1
    assert alive.well()


async def test_an_answer_that_was_tampered_with_becomes_nobodys_token(alive: Alive) -> None:
    await alive.integrate()
    ada, grace = await alive.people(2)
    file, kept = await spooled_answer(alive, ada)
    answer = DECODE(kept)
    flipped = answer.sealed[:-1] + bytes([answer.sealed[-1] ^ 1])
    for changed in (
        {"sealed": flipped},
        {"sealed": answer.sealed[:40]},
        {"connection_id": grace, "user_id": "user1"},
        {"fence": answer.fence + 1},
        {"environment": "staging"},
    ):
        forged = msgspec.structs.replace(answer, **changed)
        file.write_bytes(ENCODE(forged))
        assert await alive.left.replay_spool() == 0, changed
        aside = file.with_suffix(".unreadable")
        assert aside.read_bytes() == ENCODE(forged), "kept for whoever wants to look"
        aside.unlink()
    assert not file.exists()
    assert [await alive.generation(one) for one in (ada, grace)] == [2, 1]
    assert await alive.outcomes(grace) == []


async def test_an_answer_is_of_its_own_workspace(alive: Alive, stranger_id: str) -> None:
    await alive.integrate()
    ada = await alive.connect()
    file, kept = await spooled_answer(alive, ada)
    for workspace in (stranger_id, "ws_01k9v7q3x8w2r5t6y7z8a9b0c1"):
        file.write_bytes(ENCODE(msgspec.structs.replace(DECODE(kept), workspace=workspace)))
        assert await alive.left.replay_spool() == 0
    file.write_bytes(ENCODE(msgspec.structs.replace(DECODE(kept), deployment="dep_another")))
    assert await alive.left.replay_spool() == 0
    assert file.exists(), "another deployment's, which comes for it"
    file.unlink()


async def test_an_answer_for_a_connection_that_is_gone_is_given_back(alive: Alive) -> None:
    await alive.integrate()
    ada = await alive.connect()
    async with left_behind(alive, ada) as (file, _):
        await alive.left.delete_connection(alive.caller, ada)
    assert await alive.left.replay_spool() == 1
    assert not file.exists()
    waiting = "select count(*) from vault.revocations where connection_id = $1"
    gone = "select count(*) from vault.connections where connection_id = $1"
    assert await alive.over.admin.fetchval(waiting, ada) == 1
    assert await alive.over.admin.fetchval(gone, ada) == 0, "nothing is resurrected"


async def test_an_answer_from_before_a_new_consent_replaces_nothing(alive: Alive) -> None:
    await alive.integrate()
    ada = await alive.connect()
    async with left_behind(alive, ada) as (file, kept):
        pass
    assert await alive.connect() == ada, "the same connection, with new tokens"
    fresh = await alive.token(ada)
    for _ in range(2):
        assert await alive.left.replay_spool() == 1
        assert not file.exists()
        after = await alive.token(ada)
        assert after.generation == fresh.generation
        assert alive.lives(after)
        file.write_bytes(kept)  # and once more
    assert await alive.left.replay_spool() == 1
    assert (await alive.token(ada, rejected=True)).generation == fresh.generation + 1
