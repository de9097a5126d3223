"""What happens to a provider's answer when everything behind it fails: the database, the disk, the
root key's service, or the database's memory of what was done.
"""

import asyncio
import json
from pathlib import Path

import aiohttp
import pytest
from support.alive import Alive
from support.api import Api, running
from support.losing import full, until_spooled

from broker.doctor import examine
from broker.settings import Settings
from vault.errors import NotReady
from vault.kms import KeyInfo, RootKey, WrapContext, Wrapped, open_root_key
from vault.refreshing.replica import RolledBack
from vault.vault import Vault


async def test_an_answer_that_cannot_be_saved_is_on_the_disk_until_it_is(alive: Alive) -> None:
    await alive.integrate()
    ada = await alive.connect()
    async with full(alive, "connection_tokens"):
        asked = asyncio.create_task(alive.token(ada, rejected=True, wait=1))
        await until_spooled(alive)
        assert (await asked).degraded, "the one before lives on"
        calls = alive.calls
        other = await alive.token(ada, at=alive.right, rejected=True, wait=0.5)
        assert other.degraded
        assert alive.calls == calls, "its refresh token is not used a second time"
        [file] = alive.over.spooled()
        kept = file.read_bytes()
        for secret in (asked.result().tokens, other.tokens):
            assert secret is not None
            assert secret.access_token is not None
            assert secret.access_token.reveal().encode() not in kept
    await alive.settled()
    assert alive.over.spooled() == []
    found = await alive.token(ada, at=alive.right)
    assert found.generation == 2
    assert alive.lives(found)
    assert alive.well()


async def test_another_replica_brings_in_what_a_dead_one_has_spooled(alive: Alive) -> None:
    await alive.integrate()
    ada = await alive.connect()
    async with alive.over.another() as dying, full(alive, "connection_tokens"):
        asked = asyncio.create_task(alive.token(ada, at=dying, rejected=True, wait=1))
        await until_spooled(alive)
        await asked
        [file] = alive.over.spooled()
        kept = file.read_bytes()
        assert await alive.left.replay_spool() == 0, "there is no room yet"
        assert file.read_bytes() == kept, "and it stays where it is"
    file.write_bytes(kept)  # as if its owner had not come to remove it
    assert await alive.right.replay_spool() == 1
    assert alive.over.spooled() == []
    found = await alive.token(ada)
    assert found.generation == 2, "twice is once"
    assert alive.lives(found)
    assert await alive.outcomes(ada) == ["refreshed"], "and its story is told right"
    assert (await alive.token(ada, rejected=True)).generation == 3
    assert alive.well()


async def test_a_spool_that_is_not_ours_or_not_readable_harms_nobody(alive: Alive) -> None:
    folder = alive.over.spool
    folder.mkdir(exist_ok=True)
    (folder / "conn_x.1.answer").write_bytes(b"half of a f")
    assert await alive.left.replay_spool() == 0
    aside = list(folder.glob("*.unreadable"))
    assert len(aside) == 1, "it is put aside, and not deleted"
    aside[0].unlink()


async def test_no_call_is_made_that_could_not_be_recorded(alive: Alive) -> None:
    """The claim is the probe: a database without room takes no claim."""
    await alive.integrate()
    ada = await alive.connect()
    await alive.token(ada)
    async with full(alive, "connection_lives"):
        found = await alive.token(ada, rejected=True, wait=1)
        assert found.degraded
        await alive.settled()
    assert alive.calls == 0


class Away:
    """A root key whose service can be away."""

    def __init__(self, behind: RootKey) -> None:
        self._behind = behind
        self.away = False

    def _ask(self) -> RootKey:
        if self.away:
            raise NotReady("The root key service does not answer.")
        return self._behind

    async def wrap(self, key: bytes, context: WrapContext, by: str | None = None) -> Wrapped:
        return await self._ask().wrap(key, context, by)

    async def unwrap(self, wrapped: Wrapped, context: WrapContext) -> bytes:
        return await self._ask().unwrap(wrapped, context)

    async def key_info(self) -> KeyInfo:
        return await self._ask().key_info()

    async def health(self) -> None:
        await self._ask().health()


async def test_without_the_root_key_who_knows_the_key_goes_on_and_who_does_not_never_calls(
    alive: Alive,
) -> None:
    await alive.integrate()
    ada = await alive.connect()
    root = Away(open_root_key(alive.over.root_key_file.as_uri()))
    async with alive.over.another(root=root) as warm, alive.over.another(root=root) as cold:
        await alive.token(ada, at=warm)
        root.away = True
        found = await alive.token(ada, at=warm, rejected=True)
        assert found.generation == 2, "its key is in memory"
        with pytest.raises(NotReady):
            await cold.refresh_connection(alive.caller, ada)
        await alive.end_access(ada)
        await alive.sweep(cold)
        assert alive.calls == 1, "what could not be sealed is not asked for"
        root.away = False
        await alive.passes(minutes=2)
        await alive.sweep(cold)
        assert await alive.generation(ada) == 3
    assert alive.well()


# A database that forgot


async def test_an_answer_to_a_claim_that_the_database_forgot_is_kept_and_so_is_the_next(
    alive: Alive,
) -> None:
    """A standby takes over which had not heard of the claim yet."""
    await alive.integrate("grace")
    ada = await alive.connect()
    before = await alive.over.admin.fetchrow(
        "select fence, state, lease_owner, lease_attempt, lease_generation, lease_at, lease_until"
        " from vault.connection_lives where connection_id = $1",
        ada,
    )
    async with alive.sandbox.keeping() as kept:
        asked = asyncio.create_task(alive.token(ada, rejected=True))
        await kept.come()
        await alive.over.admin.execute(
            "update vault.connection_lives set fence = $2, state = $3, lease_owner = $4,"
            " lease_attempt = $5, lease_generation = $6, lease_at = $7, lease_until = $8"
            " where connection_id = $1",
            ada,
            *before,
        )
    found = await asked
    assert found.generation == 2
    for generation in (3, 4):
        found = await alive.token(ada, rejected=True)
        assert (found.generation, alive.lives(found)) == (generation, True)


async def forget_a_second(alive: Alive, before: bytes) -> None:
    """What a standby that takes over had not heard of."""
    await alive.over.admin.execute(
        "update vault.token_endpoints set learned = $2 where workspace_id = $1",
        alive.caller.workspace,
        before,
    )


async def learned(alive: Alive) -> bytes:
    found: bytes = await alive.over.admin.fetchval(
        "select learned from vault.token_endpoints where workspace_id = $1", alive.caller.workspace
    )
    return found


async def test_a_database_behind_what_a_replica_has_done_makes_no_call_at_once(
    alive: Alive, tmp_path: Path
) -> None:
    """A standby that lost the last second: no mark had grown, but this replica remembers; it tells
    those who share its folder, and those who start later.
    """
    await alive.integrate()
    ada = await alive.connect()
    await alive.token(ada, rejected=True)
    before = await learned(alive)
    async with alive.over.another(spool=tmp_path) as third:
        await alive.token(ada, at=third, rejected=True)
        await forget_a_second(alive, before)
        calls = alive.calls
        found = await alive.token(ada, at=third, rejected=True, wait=1)
        assert (found.degraded, found.generation) == (True, 3), "what lives is handed out"
        await alive.end_access(ada)
        with pytest.raises(RolledBack, match="older than what this deployment has done"):
            await third.refresh_due()
        with pytest.raises(RolledBack):
            await third.check_refreshing()
        async with alive.over.another(spool=tmp_path) as later:
            with pytest.raises(RolledBack):
                await later.check_refreshing()
            assert (await alive.token(ada, at=later, wait=1)).tokens is None
    assert alive.calls == calls
    await alive.left.check_refreshing()


async def test_one_replica_that_notices_stops_the_others_that_run(
    alive: Alive, tmp_path: Path
) -> None:
    await alive.integrate()
    ada, grace = await alive.people(2)
    await alive.token(ada, rejected=True)
    before = await learned(alive)
    async with (
        alive.over.another(spool=tmp_path) as third,
        alive.over.another(spool=tmp_path) as fourth,
    ):
        await fourth.check_refreshing()
        await alive.token(ada, at=third, rejected=True)
        await forget_a_second(alive, before)
        assert (await alive.token(ada, at=third, rejected=True, wait=1)).degraded
        # By itself it cannot know; what it has done makes it look into the folder that they share.
        assert (await alive.token(grace, at=fourth, rejected=True)).generation == 2
        with pytest.raises(RolledBack):
            await soon(fourth)


async def soon(replica: Vault) -> None:
    """Ask until something is raised; a replica writes its mark every second."""
    for _ in range(600):
        await replica.check_refreshing()
        await asyncio.sleep(0.1)


async def test_an_integration_that_is_made_anew_is_no_older_database(alive: Alive) -> None:
    await alive.integrate()
    ada = await alive.connect()
    for _ in range(3):
        await alive.token(ada, rejected=True)
    await alive.left.delete_connection(alive.caller, ada)
    await alive.left.delete_integration(alive.caller, "acme")
    await alive.integrate()
    ada = await alive.connect()
    assert (await alive.token(ada, rejected=True)).generation == 2
    await alive.left.check_refreshing()


async def test_why_nothing_is_refreshed_is_said_where_machines_and_people_look(
    alive: Alive, settings: Settings, tmp_path: Path
) -> None:
    mark = await alive.over.admin.fetchval("select mark from vault.high_water")
    written = {"deployment": alive.left.deployment_id, "mark": mark + 1_000}
    file = tmp_path / f"high-water-{alive.left.deployment_id}.json"
    file.write_text(json.dumps(written))
    async with (
        alive.over.another(spool=tmp_path) as behind,
        running(behind, settings) as service,
        aiohttp.ClientSession() as session,
    ):
        ready = await Api(session, service.base).get("/readyz")
    assert ready.status == 503
    [check] = [one for one in ready.json["checks"] if not one["ok"]]
    assert check["name"] == "refreshing"
    assert "older than what this deployment has done" in check["reason"]
    found = await examine(
        {
            "KEYTURN_MODE": "development",
            "KEYTURN_DATABASE_URL": alive.over.address("keyturn_app"),
            "KEYTURN_KEK": alive.over.root_key_file.as_uri(),
            "KEYTURN_SPOOL_DIR": str(tmp_path),
        }
    )
    [finding] = [one for one in found if not one.ok]
    assert finding.name == "refreshing"
    assert "older than what this deployment has done" in finding.text
