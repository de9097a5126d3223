"""/v1/agents over HTTP: profiles written, read, listed, deleted, and refused."""

import asyncio
from typing import Any

import asyncpg
import pytest
from conftest import Tenant
from support.api import Api

from broker.broker import Broker
from vault.embedded import Embedded
from vault.errors import IntegrityError
from vault.vault import Vault

TOKEN = {"from": "connection", "integration": "google", "field": "authorization"}
PROFILE: dict[str, Any] = {
    "tools": "gateway",
    "min_ttl": 600,
    "integrations": [{"integration": "google", "scopes": ["mail"], "required": False}],
    "variables": {"secret__cal": TOKEN, "mood": {"from": "client", "default": "calm"}},
}
EMPTY: dict[str, Any] = {
    "runtime": None,
    "delivery": None,
    "min_ttl": None,
    "public_key": None,
    "tools": "direct",
    "inbound_trust": "identify",
    "integrations": None,
    "variables": {},
    "overrides": [],
    "stored_tools": {},
}


async def narrow(tenant: Tenant, anyone: Api, *scopes: str, **more: Any) -> Api:
    made = await tenant.api.post("/v1/keys", {"name": "k", "scopes": list(scopes), **more})
    return anyone.with_key(made.json["key"])


async def actions(tenant: Tenant) -> list[str]:
    found = await tenant.api.get("/v1/audit-events")
    return [f"{one['action']} {one['target']['id']}" for one in found.json["data"]]


async def test_a_profile_is_written_read_replaced_and_deleted(tenant: Tenant) -> None:
    api = tenant.api
    made = await api.put("/v1/agents/agent_1", PROFILE)
    assert made.status == 201, made.body
    assert made.json.items() >= {**EMPTY, **PROFILE, "id": "agent_1"}.items()
    assert (await api.get("/v1/agents/agent_1")).json == made.json
    replaced = await api.put("/v1/agents/agent_1", {})
    assert replaced.status == 200
    assert replaced.json.items() >= EMPTY.items()
    assert (await api.delete("/v1/agents/agent_1")).status == 204
    assert (await api.get("/v1/agents/agent_1")).code == "not_found"
    assert (await api.delete("/v1/agents/agent_1")).code == "not_found"


async def test_agents_are_listed_page_by_page(tenant: Tenant) -> None:
    for number in range(5):
        await tenant.api.put(f"/v1/agents/agent_{number}", {})
    first = (await tenant.api.get("/v1/agents?limit=3")).json
    assert [one["id"] for one in first["data"]] == ["agent_0", "agent_1", "agent_2"]
    rest = (await tenant.api.get(f"/v1/agents?limit=3&cursor={first['next_cursor']}")).json
    assert [one["id"] for one in rest["data"]] == ["agent_3", "agent_4"]
    assert rest["next_cursor"] is None


async def test_a_profile_that_breaks_a_rule_says_where_and_is_not_written(tenant: Tenant) -> None:
    body = {"variables": {"cal": TOKEN}}
    refused = await tenant.api.put("/v1/agents/agent_1", body)
    assert (refused.status, refused.code) == (422, "invalid")
    assert refused.json["errors"][0]["pointer"] == "/variables/cal"
    sealed = await tenant.api.put("/v1/agents/agent_1", {"delivery": "sealed"})
    assert (sealed.status, sealed.code) == (422, "delivery_not_possible")
    assert (await tenant.api.put("/v1/agents/agent_1", {"nothing": 1})).code == "invalid"
    assert (await tenant.api.get("/v1/agents/agent_1")).status == 404


async def test_an_agent_of_another_workspace_does_not_exist(
    tenant: Tenant, stranger: Tenant
) -> None:
    await tenant.api.put("/v1/agents/agent_1", PROFILE)
    assert (await stranger.api.get("/v1/agents/agent_1")).code == "not_found"
    assert (await stranger.api.delete("/v1/agents/agent_1")).code == "not_found"
    assert (await stranger.api.put("/v1/agents/agent_1", {})).status == 201
    assert (await tenant.api.get("/v1/agents/agent_1")).json["tools"] == "gateway"


async def test_every_change_is_recorded(tenant: Tenant) -> None:
    await tenant.api.put("/v1/agents/agent_1", {})
    await tenant.api.delete("/v1/agents/agent_1")
    assert (await actions(tenant))[:2] == ["agent.delete agent_1", "agent.write agent_1"]


async def test_a_key_that_is_tied_to_environments_leaves_agents_alone(
    tenant: Tenant, anyone: Api
) -> None:
    tied = await narrow(tenant, anyone, "manage", environments=["staging"])
    assert (await tied.put("/v1/agents/agent_1", {})).code == "forbidden"
    await tenant.api.put("/v1/agents/agent_1", {})
    assert (await tied.delete("/v1/agents/agent_1")).code == "forbidden"
    assert (await tied.get("/v1/agents/agent_1")).status == 200


async def test_many_writers_at_once_leave_one_whole_profile(tenant: Tenant) -> None:
    written = await asyncio.gather(
        *(tenant.api.put("/v1/agents/agent_1", {"min_ttl": number}) for number in range(4))
    )
    assert sorted({one.status for one in written}) in ([200, 201], [200, 201, 409])
    assert (await tenant.api.get("/v1/agents/agent_1")).json["min_ttl"] in range(4)


async def test_a_profile_that_was_swapped_in_the_database_does_not_open(
    tenant: Tenant, vault: Vault, migrated: Embedded
) -> None:
    """Whoever writes into the database cannot widen what an agent may do."""
    for name in ("agent_1", "agent_2"):
        await tenant.api.put(f"/v1/agents/{name}", {"min_ttl": 1 if name == "agent_1" else 2})
    connection = await asyncpg.connect(migrated.dsn().reveal())
    await connection.execute(
        "update vault.agents a set sealed = b.sealed from vault.agents b"
        " where a.workspace_id = $1 and b.workspace_id = $1"
        " and a.agent_id = 'agent_1' and b.agent_id = 'agent_2'",
        tenant.id,
    )
    await connection.close()
    assert (await tenant.api.get("/v1/agents/agent_1")).status == 500
    with pytest.raises(IntegrityError):
        await Broker(vault, vault.egress).agents.profile(tenant.caller, "agent_1")
