"""Token fetches under concurrency, death, delay and change: one call, and no stale token."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from conftest import Tenant
from support.sandbox import Provider, providing

from broker.sandbox import Faults, Issuing
from vault import authenticate
from vault.auth_kinds import ClientCredentials
from vault.authenticate import Credentials
from vault.database import Database
from vault.egress import Egress, parse_allow
from vault.embedded import Embedded
from vault.errors import CredentialRefused, NotFound, NotReady, ProviderUnavailable
from vault.kms import open_root_key
from vault.secret import Secret
from vault.vault import Vault

SECRET = "a secret"


@pytest.fixture
async def provider() -> AsyncIterator[Provider]:
    async with providing() as found:
        found.register("client", secret=SECRET)
        yield found


async def opened(migrated: Embedded, root_key_file: Path, name: str = "replica") -> Vault:
    address = Secret(migrated.dsn("keyturn_app").reveal() + f"&application_name={name}")
    database = await Database.open(address, size=5, statement_cache=200)
    egress = Egress(allow=parse_allow("127.0.0.1", development=True))
    return await Vault.open(database, open_root_key(root_key_file.as_uri()), egress=egress)


@pytest.fixture
async def replicas(migrated: Embedded, root_key_file: Path) -> AsyncIterator[list[Vault]]:
    """Two processes' worth of vault on one database."""
    both = [await opened(migrated, root_key_file) for _ in range(2)]
    yield both
    for one in both:
        await one.close()


@pytest.fixture
async def superuser(postgres: Embedded) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(postgres.dsn().reveal())
    yield connection
    await connection.close()


@pytest.fixture
async def auth_id(vault: Vault, tenant: Tenant, provider: Provider) -> str:
    config = ClientCredentials(
        provider="p", client_id="client", client_secret=SECRET, token_url=provider.token_url
    )
    made = await vault.create_auth_connection(tenant.caller, "c", config, allowed_hosts=[])
    return made.auth_connection_id


async def status(vault: Vault, tenant: Tenant, auth_id: str) -> str:
    every = await vault.list_auth_connections(tenant.caller)
    return next(one.status for one in every if one.auth_connection_id == auth_id)


async def patch(vault: Vault, tenant: Tenant, auth_id: str, **changes: Any) -> None:
    await vault.update_auth_connection(tenant.caller, auth_id, None, changes)


async def age(superuser: asyncpg.Connection, auth_id: str, *columns: str) -> None:
    """Let these times of the token's row be past."""
    for column in columns:
        await superuser.execute(
            f"update vault.auth_connection_tokens set {column} = now() - interval '1 s'"  # noqa: S608 - the test's own words
            " where auth_connection_id = $1",
            auth_id,
        )


async def lease_of_another(
    superuser: asyncpg.Connection, tenant: Tenant, auth_id: str, seconds: float
) -> None:
    """What a process leaves behind that was killed in its call."""
    await superuser.execute(
        "insert into vault.auth_connection_tokens (workspace_id, auth_connection_id,"
        " config_generation, lease_owner, lease_until, fence)"
        " values ($1, $2, 1, 'dead', now() + make_interval(secs => $3), 1)",
        tenant.id,
        auth_id,
        seconds,
    )


def bearer(credentials: Credentials) -> str:
    assert credentials.yields_bearer is not None
    return credentials.yields_bearer.reveal()


async def test_fifty_callers_at_two_replicas_make_one_call(
    replicas: list[Vault], tenant: Tenant, provider: Provider, auth_id: str
) -> None:
    provider.misbehave(Faults(latency=0.3))
    got = await asyncio.gather(
        *[replicas[at % 2].credentials(tenant.caller, auth_id) for at in range(50)]
    )
    assert len(provider.token_calls) == 1
    assert len({bearer(one) for one in got}) == 1
    assert len({one.version for one in got}) == 1


async def test_renewal_makes_one_call_too_and_nobody_waits_for_it_twice(
    replicas: list[Vault],
    tenant: Tenant,
    provider: Provider,
    auth_id: str,
    superuser: asyncpg.Connection,
) -> None:
    old = await replicas[0].credentials(tenant.caller, auth_id)
    await age(superuser, auth_id, "refresh_at")
    provider.misbehave(Faults(latency=0.3))
    got = await asyncio.gather(
        *[replicas[at % 2].credentials(tenant.caller, auth_id) for at in range(50)]
    )
    assert len(provider.token_calls) == 2
    tokens = {bearer(one) for one in got}
    new = bearer(await replicas[1].credentials(tenant.caller, auth_id))
    assert new != bearer(old)
    assert tokens <= {bearer(old), new}


async def test_no_database_connection_is_held_during_a_call(
    replicas: list[Vault], tenant: Tenant, provider: Provider, auth_id: str
) -> None:
    vault = replicas[0]
    async with provider.keeping() as kept:
        waiting = asyncio.create_task(vault.credentials(tenant.caller, auth_id))
        await kept.come()
        idle, total = vault.connections()
        assert idle == total
    await waiting


async def test_a_caller_that_goes_away_takes_nothing_with_it(
    vault: Vault, tenant: Tenant, provider: Provider, auth_id: str
) -> None:
    async with provider.keeping() as kept:
        first = asyncio.create_task(vault.credentials(tenant.caller, auth_id))
        second = asyncio.create_task(vault.credentials(tenant.caller, auth_id))
        await kept.come()
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
    assert bearer(await second)
    assert len(provider.token_calls) == 1


async def test_a_call_outlives_every_caller(
    vault: Vault, tenant: Tenant, provider: Provider, auth_id: str
) -> None:
    async with provider.keeping() as kept:
        first = asyncio.create_task(vault.credentials(tenant.caller, auth_id))
        await kept.come()
        first.cancel()
        with pytest.raises(ProviderUnavailable) as caught:
            await vault.credentials(tenant.caller, auth_id, wait=0.1)
    assert caught.value.retry_after
    await vault.credentials(tenant.caller, auth_id)
    assert len(provider.token_calls) == 1


async def test_a_dead_holders_lease_ends_by_itself(
    vault: Vault,
    tenant: Tenant,
    provider: Provider,
    auth_id: str,
    superuser: asyncpg.Connection,
) -> None:
    await lease_of_another(superuser, tenant, auth_id, 3600)
    with pytest.raises(ProviderUnavailable):
        await vault.credentials(tenant.caller, auth_id, wait=0.3)
    assert provider.token_calls == []
    ends = await superuser.fetchval(
        "update vault.auth_connection_tokens set lease_until = now() + interval '1 s'"
        " where auth_connection_id = $1 returning lease_until",
        auth_id,
    )
    await vault.credentials(tenant.caller, auth_id)
    assert await superuser.fetchval("select clock_timestamp()") >= ends
    assert len(provider.token_calls) == 1


async def test_a_claim_whose_commit_was_not_heard_of_is_made_again_by_its_holder(
    vault: Vault,
    tenant: Tenant,
    provider: Provider,
    auth_id: str,
    superuser: asyncpg.Connection,
) -> None:
    await lease_of_another(superuser, tenant, auth_id, 60)
    await superuser.execute(
        "update vault.auth_connection_tokens set lease_owner = $2 where auth_connection_id = $1",
        auth_id,
        vault._tokens._owner,  # noqa: SLF001 - what the lost commit wrote
    )
    await vault.credentials(tenant.caller, auth_id)
    assert len(provider.token_calls) == 1


async def test_a_holder_that_was_overtaken_writes_nothing(
    replicas: list[Vault],
    tenant: Tenant,
    provider: Provider,
    auth_id: str,
    superuser: asyncpg.Connection,
) -> None:
    # The first call hangs (a paused process, say) until its lease is over and another has a token.
    async with provider.keeping(unheard=True, times=1) as kept:
        slow = asyncio.create_task(replicas[0].credentials(tenant.caller, auth_id))
        await kept.come()
        await age(superuser, auth_id, "lease_until")
        new = await replicas[1].credentials(tenant.caller, auth_id)
    late = await slow
    assert len(provider.token_calls) == 2
    assert bearer(late) == bearer(new)
    assert bearer(await replicas[0].credentials(tenant.caller, auth_id)) == bearer(new)


async def test_an_overtaken_failure_does_not_spoil_the_status(
    replicas: list[Vault],
    tenant: Tenant,
    provider: Provider,
    auth_id: str,
    superuser: asyncpg.Connection,
) -> None:
    provider.misbehave(Faults(status=500, times=1))
    async with provider.keeping(times=1) as kept:
        slow = asyncio.create_task(replicas[0].credentials(tenant.caller, auth_id))
        await kept.come()
        await age(superuser, auth_id, "lease_until")
        new = await replicas[1].credentials(tenant.caller, auth_id)
    assert bearer(await slow) == bearer(new)
    assert await status(replicas[0], tenant, auth_id) == "active"


async def test_a_live_token_is_served_while_its_endpoint_fails(
    vault: Vault,
    tenant: Tenant,
    provider: Provider,
    auth_id: str,
    superuser: asyncpg.Connection,
) -> None:
    old = bearer(await vault.credentials(tenant.caller, auth_id))
    await age(superuser, auth_id, "refresh_at")
    provider.misbehave(Faults(status=500))
    for _ in range(3):
        assert bearer(await vault.credentials(tenant.caller, auth_id)) == old
    assert await status(vault, tenant, auth_id) == "refresh_failed"
    provider.misbehave(None)
    await age(superuser, auth_id, "next_try_at")
    assert bearer(await vault.credentials(tenant.caller, auth_id)) != old
    assert await status(vault, tenant, auth_id) == "active"


async def test_a_live_token_is_served_while_its_endpoint_is_slow(
    vault: Vault,
    tenant: Tenant,
    provider: Provider,
    auth_id: str,
    superuser: asyncpg.Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(authenticate, "LIVE_WAIT_SECONDS", 0.2)
    old = bearer(await vault.credentials(tenant.caller, auth_id))
    await age(superuser, auth_id, "refresh_at")
    async with provider.keeping() as kept:
        assert bearer(await vault.credentials(tenant.caller, auth_id)) == old
        await kept.come()
        monkeypatch.setattr(authenticate, "LIVE_WAIT_SECONDS", 300)
        async with asyncio.timeout(60):  # somebody is at it already: nobody else waits
            assert bearer(await vault.credentials(tenant.caller, auth_id)) == old
    async with asyncio.timeout(60):
        while bearer(await vault.credentials(tenant.caller, auth_id)) == old:  # noqa: ASYNC110 - a fetch tells nobody
            await asyncio.sleep(0.05)
    assert len(provider.token_calls) == 2


async def test_an_expired_token_is_never_served(
    vault: Vault,
    tenant: Tenant,
    provider: Provider,
    auth_id: str,
    superuser: asyncpg.Connection,
) -> None:
    await vault.credentials(tenant.caller, auth_id)
    await age(superuser, auth_id, "refresh_at", "expires_at")
    provider.misbehave(Faults(status=500))
    for _ in range(2):
        with pytest.raises(ProviderUnavailable):
            await vault.credentials(tenant.caller, auth_id)


async def test_the_time_of_a_token_counts_from_the_request(
    vault: Vault,
    tenant: Tenant,
    provider: Provider,
    auth_id: str,
    superuser: asyncpg.Connection,
) -> None:
    provider.state.issuing = Issuing(lifetime=100)
    clock = "select clock_timestamp()"
    before = await superuser.fetchval(clock)
    async with provider.keeping(unheard=True) as kept:
        asked = asyncio.create_task(vault.credentials(tenant.caller, auth_id))
        await kept.come()
        sent = await superuser.fetchval(clock)
    await asked
    row = await superuser.fetchrow(
        "select * from vault.auth_connection_tokens where auth_connection_id = $1", auth_id
    )
    assert before <= row["obtained_at"] <= sent
    assert (row["expires_at"] - row["obtained_at"]).total_seconds() == 100
    assert (row["refresh_at"] - row["obtained_at"]).total_seconds() == 90


async def test_a_change_voids_the_token(
    vault: Vault, tenant: Tenant, provider: Provider, auth_id: str
) -> None:
    old = bearer(await vault.credentials(tenant.caller, auth_id))
    await patch(vault, tenant, auth_id, scopes=["new"])
    assert bearer(await vault.credentials(tenant.caller, auth_id)) != old
    assert provider.token_calls[-1].fields["scope"] == "new"
    await patch(vault, tenant, auth_id, client_secret="wrong")
    with pytest.raises(CredentialRefused):
        await vault.credentials(tenant.caller, auth_id)


async def test_a_change_during_a_call_voids_what_the_call_brings(
    replicas: list[Vault], tenant: Tenant, provider: Provider, auth_id: str
) -> None:
    async with provider.keeping(times=1) as kept:
        early = asyncio.create_task(replicas[0].credentials(tenant.caller, auth_id))
        await kept.come()
        await patch(replicas[1], tenant, auth_id, scopes=["new"])
        # Nobody waits for the old configuration's call.
        new = await replicas[1].credentials(tenant.caller, auth_id)
        assert not early.done()
    assert bearer(await early) == bearer(new)
    assert len(provider.token_calls) == 2


async def test_a_failure_of_the_old_configuration_is_not_the_new_ones(
    replicas: list[Vault], tenant: Tenant, provider: Provider, auth_id: str
) -> None:
    provider.misbehave(Faults(status=401, times=1))
    async with provider.keeping(times=1) as kept:
        early = asyncio.create_task(replicas[0].credentials(tenant.caller, auth_id))
        await kept.come()
        await patch(replicas[1], tenant, auth_id, scopes=["new"])
    assert bearer(await early)
    assert await status(replicas[0], tenant, auth_id) == "active"


async def test_deleting_during_a_call_leaves_nothing(
    vault: Vault,
    tenant: Tenant,
    provider: Provider,
    auth_id: str,
    superuser: asyncpg.Connection,
) -> None:
    async with provider.keeping() as kept:
        early = asyncio.create_task(vault.credentials(tenant.caller, auth_id))
        await kept.come()
        await vault.delete_auth_connection(tenant.caller, auth_id)
    with pytest.raises(NotFound):
        await early
    count = "select count(*) from vault.auth_connection_tokens where auth_connection_id = $1"
    assert await superuser.fetchval(count, auth_id) == 0


async def test_a_shutdown_waits_for_calls_and_gives_back_what_it_cannot_wait_for(
    migrated: Embedded,
    root_key_file: Path,
    vault: Vault,
    tenant: Tenant,
    provider: Provider,
    auth_id: str,
) -> None:
    leaving = await opened(migrated, root_key_file)
    async with provider.keeping() as kept:
        early = asyncio.create_task(leaving.credentials(tenant.caller, auth_id))
        await kept.come()
        drained = asyncio.create_task(leaving._tokens.drain(60))  # noqa: SLF001 - close, but for its length
        await asyncio.sleep(0.1)
        assert not drained.done()
    await drained
    assert bearer(await early)
    await patch(vault, tenant, auth_id, scopes=["x"])
    with pytest.raises(NotReady):
        await leaving.credentials(tenant.caller, auth_id)
    await leaving.close()

    leaving = await opened(migrated, root_key_file)
    async with provider.keeping(times=1) as kept:
        hung = asyncio.create_task(leaving.credentials(tenant.caller, auth_id))
        await kept.come()
        await leaving._tokens.drain(0.1)  # noqa: SLF001
        with pytest.raises(NotReady):
            await hung
        await leaving.close()
        # The lease, which is longer than this waits, was given back.
        await vault.credentials(tenant.caller, auth_id)


async def test_the_database_may_go_away_during_a_call(
    migrated: Embedded,
    root_key_file: Path,
    tenant: Tenant,
    provider: Provider,
    auth_id: str,
    superuser: asyncpg.Connection,
) -> None:
    vault = await opened(migrated, root_key_file, "unlucky")
    async with provider.keeping() as kept:
        waiting = asyncio.create_task(vault.credentials(tenant.caller, auth_id))
        await kept.come()
        await superuser.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where application_name = 'unlucky'"
        )
    got = await waiting
    assert bearer(await vault.credentials(tenant.caller, auth_id)) == bearer(got)
    assert len(provider.token_calls) == 1
    await vault.close()
