"""How many refreshes go ahead at a time: a claim is made when its call can be sent at once."""

import asyncio

import asyncpg
import pytest
from conftest import Tenant
from support.api import Running
from support.connecting import integrate
from support.sandbox import Provider

from broker.sandbox import Faults, Issuing
from vault.embedded import Embedded
from vault.refreshing import room
from vault.vault import Vault

LEASED = """
select count(*) filter (where lease_owner is not null), min(generation)
  from vault.connection_lives where workspace_id = $1
"""


async def test_what_waits_for_its_turn_is_not_claimed_yet(
    tenant: Tenant,
    service: Running,
    vault: Vault,
    provider: Provider,
    migrated: Embedded,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(room.ALONE, "due", 2)
    monkeypatch.setitem(room.SHARED, "due", 2)
    provider.state.issuing = Issuing(rotation="strict", replay_revokes=True)
    callback = f"{service.base}/oauth/oidc/acme/callback"
    await integrate(tenant.api, provider, callback, refresh_policy="eager")
    for user in ("ada", "grace", "edith", "joan", "mary"):
        family = provider.state.ledger.open(realm="", client_id="app", account=user)
        pair = provider.state.ledger.give(family, provider.state.issuing, refresh=True, request=0)
        body = {"access_token": pair.access, "refresh_token": pair.refresh, "expires_in": 2}
        reply = await tenant.api.put(f"/v1/users/{user}/connections/acme", body)
        assert reply.status == 200, reply.body
    provider.misbehave(Faults(latency=0.5))
    await asyncio.sleep(1.1)  # due at half of so short a lifetime
    admin = await asyncpg.connect(migrated.dsn().reveal())
    sweeps = asyncio.create_task(_sweep(vault))
    most = generation = 0
    async with asyncio.timeout(30):
        while generation < 2:
            await asyncio.sleep(0.05)
            leased, generation = await admin.fetchrow(LEASED, tenant.id)
            most = max(most, leased)
    sweeps.cancel()
    await asyncio.wait([sweeps])
    await admin.close()
    assert most == 2
    assert len(provider.token_calls) == 5


async def _sweep(vault: Vault) -> None:
    while True:
        await vault.refresh_due()
        await asyncio.sleep(0.05)
