"""Tokens stay alive: through the service's own routes, at a provider that rotates strictly."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from conftest import Tenant
from msgspec import Struct
from support.api import Api, Running
from support.connecting import SECRET, integrate
from support.journeys import Clock
from support.sandbox import Provider, providing

from broker.sandbox import Faults, Issuing
from broker.sandbox.history import tally
from vault.database import Database
from vault.egress import Egress, parse_allow
from vault.embedded import Embedded
from vault.kms import open_root_key
from vault.vault import Vault
from vault.vault.refreshing import Hold


@pytest.fixture
async def provider() -> AsyncIterator[Provider]:
    async with providing() as found:
        found.state.issuing = Issuing(rotation="strict", replay_revokes=True)
        yield found


@pytest.fixture
async def admin(migrated: Embedded) -> AsyncIterator[Any]:
    """A superuser, who can make time pass."""
    connection = await asyncpg.connect(migrated.dsn().reveal())
    yield connection
    await connection.close()


@asynccontextmanager
async def another(migrated: Embedded, root_key_file: Path, **more: Any) -> AsyncIterator[Vault]:
    """One more replica's vault, on the same database."""
    database = await Database.open(migrated.dsn("keyturn_app"), size=5, statement_cache=200)
    egress = Egress(allow=parse_allow("127.0.0.1,localhost", development=True))
    vault = await Vault.open(database, open_root_key(root_key_file.as_uri()), egress=egress, **more)
    try:
        yield vault
    finally:
        await vault.close()


class Ada(Struct, frozen=True):
    """A user whose account at the sandbox is connected."""

    api: Api
    tenant: Tenant
    provider: Provider
    connection: str

    async def token(self, **wanted: Any) -> dict[str, Any]:
        reply = await self.api.post(f"/v1/connections/{self.connection}/token", wanted)
        assert reply.status == 200, reply.body
        assert reply.headers["Cache-Control"] == "no-store"
        found: dict[str, Any] = reply.json
        return found

    async def refresh(self) -> Any:
        return await self.api.post(f"/v1/connections/{self.connection}/refresh")

    async def state(self) -> str:
        reply = await self.api.get(f"/v1/connections/{self.connection}")
        found: str = reply.json["state"]
        return found

    async def timeline(self) -> dict[str, Any]:
        reply = await self.api.get(f"/v1/connections/{self.connection}/timeline")
        assert reply.status == 200, reply.body
        found: dict[str, Any] = reply.json
        return found

    async def attempts(self) -> int:
        """Calls that were made, also those that a fault of the sandbox kept from being counted."""
        return len((await self.timeline())["attempts"])

    def lives_at_the_provider(self, token: dict[str, Any]) -> bool:
        return self.provider.state.ledger.alive(token["access_token"], "") is not None

    @property
    def calls(self) -> int:
        return len(self.provider.token_calls)

    def is_well(self) -> bool:
        """Was no refresh token used twice, and no consent ended for it?"""
        counted = tally(self.provider.state.history.events())
        return not (counted.used_twice or counted.bought_twice or counted.ended_by_replay)


def spooled(folder: Path) -> list[Path]:
    return list(folder.glob("*.answer"))


Connect = Callable[..., Awaitable[Ada]]


@pytest.fixture
def connect(tenant: Tenant, service: Running, provider: Provider) -> Connect:
    async def connected(user: str = "ada", **more: Any) -> Ada:
        await integrate(tenant.api, provider, f"{service.base}/oauth/oidc/acme/callback")
        family = provider.state.ledger.open(realm="", client_id="app", account="ada")
        issuing = provider.state.issuing
        pair = provider.state.ledger.give(family, issuing, refresh=True, request=0)
        body = {
            "access_token": pair.access,
            "refresh_token": pair.refresh,
            "expires_in": int(issuing.lifetime),
            **more,
        }
        reply = await tenant.api.put(f"/v1/users/{user}/connections/acme", body)
        assert reply.status == 200, reply.body
        return Ada(tenant.api, tenant, provider, reply.json["id"])

    return connected


async def test_a_living_token_is_handed_out_as_it_is(connect: Connect) -> None:
    ada = await connect()
    found = await ada.token()
    assert found["active"]
    assert found["generation"] == 1
    assert not found["degraded"]
    assert 3500 < found["expires_in"] <= 3600
    assert ada.lives_at_the_provider(found)
    assert ada.calls == 0


async def test_a_token_that_would_not_last_is_refreshed_first(connect: Connect) -> None:
    ada = await connect(expires_in=2)
    await asyncio.sleep(1.1)
    found = await ada.token(min_ttl=900)
    assert found["generation"] == 2
    assert not found["degraded"]
    assert ada.lives_at_the_provider(found)
    assert ada.calls == 1


async def test_an_expired_token_is_never_handed_out(connect: Connect) -> None:
    ada = await connect(expires_in=1)
    ada.provider.misbehave(Faults(status=503))
    await asyncio.sleep(1.1)
    found = await ada.token()
    assert found == {"active": False, "reason": "provider_unavailable"}


async def test_of_many_who_ask_at_two_replicas_one_calls(
    connect: Connect, migrated: Embedded, root_key_file: Path, vault: Vault
) -> None:
    ada = await connect(expires_in=1)
    ada.provider.misbehave(Faults(latency=0.5))
    await asyncio.sleep(1.1)
    async with another(migrated, root_key_file) as other:
        asked = [
            one.fresh_tokens(ada.tenant.caller, [ada.connection], wait=60)
            for one in (vault, other)
            for _ in range(20)
        ]
        every = [found for [found] in await asyncio.gather(*asked)]
    assert {one.generation for one in every} == {2}
    assert all(one.tokens is not None and not one.degraded for one in every)
    assert ada.calls == 1


async def test_a_provider_slower_than_any_lock_is_called_once(
    connect: Connect, migrated: Embedded, root_key_file: Path, vault: Vault
) -> None:
    """Nango's published failure: there a lock of 10 seconds ends under a slow provider, a second
    process refreshes, and the connection is lost.
    """
    ada = await connect(expires_in=1)
    ada.provider.misbehave(Faults(hold=12, times=1))
    await asyncio.sleep(1.1)
    async with another(migrated, root_key_file) as other:
        first = asyncio.create_task(
            vault.fresh_tokens(ada.tenant.caller, [ada.connection], wait=60)
        )
        await asyncio.sleep(0.5)
        [second] = await other.fresh_tokens(ada.tenant.caller, [ada.connection], wait=60)
        [found] = await first
    assert ada.calls == 1
    assert (found.generation, second.generation) == (2, 2)
    assert ada.is_well()
    ada.provider.misbehave(None)
    assert (await ada.refresh()).status == 200, "the connection lives"


async def test_a_provider_that_is_down_does_not_touch_a_living_token(connect: Connect) -> None:
    ada = await connect()
    ada.provider.misbehave(Faults(status=503))
    found = await ada.token(rejected=True)
    assert found["active"]
    assert found["degraded"]
    assert found["generation"] == 1
    assert await ada.state() == "uncertain"
    assert (await ada.token(rejected=True))["degraded"]
    assert await ada.attempts() == 1, "nobody calls again before it is time"


async def test_a_caller_that_goes_away_ends_no_refresh(connect: Connect) -> None:
    ada = await connect(expires_in=1)
    await asyncio.sleep(1.1)
    async with ada.provider.keeping() as kept:
        gone = asyncio.create_task(ada.token(max_wait_ms=100))
        await kept.come()
        assert await gone == {"active": False, "reason": "refreshing"}
    found = await ada.token(max_wait_ms=60_000)
    assert found["generation"] == 2
    assert ada.calls == 1


async def test_a_dead_grant_gets_one_verdict_and_no_storm(connect: Connect, admin: Any) -> None:
    ada = await connect()
    for family in ada.provider.state.ledger.families():
        ada.provider.state.ledger.end_consent(family, "withdrawn")
    assert (await ada.refresh()).status == 503
    assert await ada.state() == "suspect"
    for _ in range(5):
        assert (await ada.refresh()).status == 503
    assert ada.calls == 1, "a suspicion is not tried again and again"
    await admin.execute(
        "update vault.connection_lives set suspect_since = suspect_since - interval '2 minutes',"
        " next_try_at = now() where connection_id = $1",
        ada.connection,
    )
    reply = await ada.refresh()
    assert (reply.status, reply.code) == (409, "needs_reauth")
    assert await ada.state() == "needs_reauth"
    assert (await ada.token(rejected=True))["active"] is True, "what lives is still handed out"
    assert ada.calls == 1
    types = await admin.fetch(
        "select type from vault.outbox where body::json ->> 'connection_id' = $1", ada.connection
    )
    assert [one["type"] for one in types].count("connection.needs_reauth") == 1


async def test_what_the_platform_refreshes_is_left_to_it(connect: Connect, clock: Clock) -> None:
    ada = await connect(refresh="caller")
    await clock.leave(ada.connection, seconds=600)
    assert (await ada.token(min_ttl=900))["generation"] == 1
    assert (await ada.refresh()).code == "conflict"
    await clock.leave(ada.connection, seconds=-1)
    assert await ada.token() == {"active": False, "reason": "expired"}
    assert ada.calls == 0


async def test_an_unknown_client_is_no_connections_fault(connect: Connect, admin: Any) -> None:
    ada = await connect()
    secret = ada.provider.state.clients["app"]
    ada.provider.state.clients.clear()
    reply = await ada.refresh()
    assert (reply.status, reply.json["action"]) == (503, "fix_configuration")
    assert await ada.state() == "active"
    assert (await ada.token())["active"]
    calls = ada.calls
    again = await ada.refresh()
    assert (again.status, again.json["action"]) == (503, "fix_configuration")
    assert ada.calls <= calls + 1, "paused, but for a probe"
    ada.provider.state.clients["app"] = secret
    await admin.execute(
        "update vault.connection_lives set next_try_at = null where connection_id = $1",
        ada.connection,
    )
    integration = (await ada.api.get("/v1/integrations/acme")).json
    changed = {name: integration[name] for name in ("provider", "client_id", "variables", "scopes")}
    body = {**changed, "client_secret": SECRET}
    assert (await ada.api.put("/v1/integrations/acme", body)).status == 200
    assert (await ada.refresh()).status == 200, "who mends it need not wait"


async def test_too_many_requests_stops_everybody_for_as_long_as_the_provider_says(
    connect: Connect, migrated: Embedded, root_key_file: Path
) -> None:
    ada, grace = await connect("ada"), await connect("grace")
    ada.provider.misbehave(Faults(status=429, retry_after="+600"))
    assert (await ada.refresh()).status == 503
    async with another(migrated, root_key_file) as other:
        [found] = await other.fresh_tokens(
            grace.tenant.caller, [grace.connection], rejected=True, wait=1
        )
    assert found.degraded
    assert found.tokens is not None
    told = await grace.refresh()
    assert (told.status, told.json["action"]) == (503, "retry")
    # The provider's dates are in whole seconds, and its own is as old as its server's last tick.
    assert 500 <= told.json["retry_after"] < 700, "though nobody has tried this one"
    assert await ada.attempts() == 1
    assert await grace.attempts() == 0, "nor at another replica, for another connection"


async def test_a_mass_of_dead_grants_condemns_nobody(connect: Connect, admin: Any) -> None:
    crowd = [await connect(f"user-{number}") for number in range(6)]
    for family in crowd[0].provider.state.ledger.families():
        crowd[0].provider.state.ledger.end_consent(family, "a mistake of the provider's")
    await asyncio.gather(*(one.refresh() for one in crowd[:5]))
    held = await admin.fetchval(
        "select standing from vault.token_endpoints where workspace_id = $1", crowd[0].tenant.id
    )
    assert held == "held"
    await admin.execute(
        "update vault.connection_lives set suspect_since = suspect_since - interval '2 minutes',"
        " next_try_at = now() where workspace_id = $1 and suspect_since is not null",
        crowd[0].tenant.id,
    )
    await asyncio.gather(*(one.token(rejected=True, max_wait_ms=500) for one in crowd))
    assert {await one.state() for one in crowd} <= {"suspect", "active", "refreshing"}


async def test_a_deleted_connection_gives_its_new_tokens_back(connect: Connect, admin: Any) -> None:
    ada = await connect()
    async with ada.provider.keeping() as kept:
        refreshing = asyncio.create_task(ada.refresh())
        await kept.come()
        assert (await ada.api.delete(f"/v1/connections/{ada.connection}")).status == 200
    await refreshing
    waiting = await admin.fetch(
        "select * from vault.revocations where connection_id = $1", ada.connection
    )
    assert len(waiting) == 1, "the tokens that came too late are still to be given back"
    assert (await ada.api.get(f"/v1/connections/{ada.connection}")).status == 404


async def test_who_holds_which_generation_until_when_is_known(
    connect: Connect, admin: Any, vault: Vault
) -> None:
    ada = await connect()
    now = await admin.fetchval("select now()")
    hold = Hold("conversation-1", now + timedelta(minutes=10))
    [first] = await vault.fresh_tokens(ada.tenant.caller, [ada.connection], hold=hold)
    held = await admin.fetch(
        "select holder, held ->> $1 as generation from vault.holds where held ? $1", ada.connection
    )
    assert [tuple(one) for one in held] == [("conversation-1", str(first.generation))]


async def test_a_database_that_is_older_than_what_was_done_refreshes_nothing(
    connect: Connect, migrated: Embedded, root_key_file: Path, tmp_path: Path
) -> None:
    ada = await connect()
    async with another(migrated, root_key_file, spool_dir=tmp_path) as other:
        await other.refresh_connection(ada.tenant.caller, ada.connection)
    # Whoever leaves writes the mark down, however long it would be until the next beat.
    calls = ada.calls
    file = tmp_path / f"high-water-{other.deployment_id}.json"
    written = json.loads(file.read_text())
    file.write_text(json.dumps({**written, "mark": written["mark"] + 1_000}))
    async with another(migrated, root_key_file, spool_dir=tmp_path) as other:
        with pytest.raises(Exception, match="older than what this deployment has done"):
            await other.check_refreshing()
        [found] = await other.fresh_tokens(
            ada.tenant.caller, [ada.connection], rejected=True, wait=2
        )
        assert found.degraded
    assert ada.calls == calls


async def test_who_waits_gets_a_token_though_a_claim_came_too_late_for_its_call(
    connect: Connect, vault: Vault, admin: Any
) -> None:
    ada = await connect(expires_in=1)
    await ada.token(min_ttl=0)  # that it is in use is noted, and not again
    await asyncio.sleep(1.1)
    async with admin.transaction():
        lock = "select from vault.connection_lives where connection_id = $1 for update"
        await admin.execute(lock, ada.connection)
        caller, connections = ada.tenant.caller, [ada.connection]
        asked = asyncio.create_task(vault.fresh_tokens(caller, connections, wait=60))
        await asyncio.sleep(1.6)  # longer than a claim may take to be used
    [found] = await asked
    assert found.generation == 2
    assert ada.calls == 1


async def test_an_answer_survives_a_database_that_takes_no_writes(
    connect: Connect, migrated: Embedded, root_key_file: Path, admin: Any, tmp_path: Path
) -> None:
    ada = await connect()
    async with another(migrated, root_key_file, spool_dir=tmp_path) as other:
        async with admin.transaction():
            async with ada.provider.keeping() as answer:
                refreshing = asyncio.create_task(
                    other.refresh_connection(ada.tenant.caller, ada.connection)
                )
                await answer.come()
                await admin.execute("lock table vault.connection_tokens in exclusive mode")
            async with asyncio.timeout(60):
                while not spooled(tmp_path):  # noqa: ASYNC110 - a folder tells nobody
                    await asyncio.sleep(0.05)
            [file] = spooled(tmp_path)
            kept = file.read_bytes()
        await refreshing
        assert not spooled(tmp_path), "it is in the database now"
    found = await ada.token()
    assert found["generation"] == 2
    assert ada.lives_at_the_provider(found)
    file.write_bytes(kept)
    async with another(migrated, root_key_file, spool_dir=tmp_path) as other:
        assert await other.replay_spool() == 1
    assert not file.exists()
    assert await ada.token() | {"expires_in": 0} == found | {"expires_in": 0}


async def test_the_timeline_tells_the_whole_story(connect: Connect) -> None:
    ada = await connect()
    ada.provider.misbehave(Faults(status=400, body='{"error": "server_error"}', times=1))
    await ada.refresh()
    ada.provider.misbehave(None)
    await asyncio.sleep(1.2)  # longer than the first pause ever is
    assert (await ada.refresh()).status == 200
    told = await ada.timeline()
    assert [one["outcome"] for one in told["attempts"]] == ["refreshed", "transient"]
    assert told["attempts"][0]["generation"] == 2
    assert told["attempts"][1]["http_status"] == 400
    assert told["connection"]["state"] == "active"
    assert told["due_at"] is not None
    lines = await ada.api.get("/v1/audit-events?action=connection.refresh")
    assert [one["target"]["id"] for one in lines.json["data"]] == [ada.connection] * 2
