"""Tokens stay alive: through the service's own routes, at a provider that rotates strictly."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from conftest import Tenant
from support.api import Api, Running
from support.connecting import integrate
from support.sandbox import Provider, providing

from broker.sandbox import Issuing


@pytest.fixture
async def provider() -> AsyncIterator[Provider]:
    async with providing() as found:
        yield found


async def connected(
    tenant: Tenant, service: Running, provider: Provider, user: str = "ada", **more: Any
) -> str:
    """A connection whose tokens the sandbox gave; returns its id."""
    callback = f"{service.base}/oauth/oidc/acme/callback"
    await integrate(tenant.api, provider, callback)
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
    made: str = reply.json["id"]
    return made


async def token_of(api: Api, connection: str, **wanted: Any) -> dict[str, Any]:
    reply = await api.post(f"/v1/connections/{connection}/token", wanted)
    assert reply.status == 200, reply.body
    found: dict[str, Any] = reply.json
    return found


async def test_a_living_token_is_handed_out_as_it_is(
    tenant: Tenant, service: Running, provider: Provider
) -> None:
    connection = await connected(tenant, service, provider)
    found = await token_of(tenant.api, connection)
    assert found["active"]
    assert found["generation"] == 1
    assert not found["degraded"]
    assert 3500 < found["expires_in"] <= 3600
    assert provider.token_calls == []


async def test_a_token_that_would_not_last_is_refreshed_first(
    tenant: Tenant, service: Running, provider: Provider
) -> None:
    provider.state.issuing = Issuing(lifetime=30)
    connection = await connected(tenant, service, provider)
    first = await token_of(tenant.api, connection, min_ttl=10)
    assert first["generation"] == 1
    await asyncio.sleep(0)
    provider.state.issuing = Issuing(lifetime=3600)
    reply = await tenant.api.post(f"/v1/connections/{connection}/refresh")
    assert reply.status == 200, reply.body
    assert reply.json["generation"] == 2
    found = await token_of(tenant.api, connection)
    assert found["generation"] == 2
    assert found["access_token"] != first["access_token"]
    assert len(provider.token_calls) == 1
