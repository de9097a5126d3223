"""Whoever owns an endpoint is not trusted: where it points to, what it answers, what it may learn.

``test_isolation.py`` takes each route to another workspace; this is the rest.
"""

import logging
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
import structlog
from conftest import MakeTenant, Tenant
from support.loopback import calling, listening, saying
from support.receiving import Receiver, receiving

from broker.events import MAX_ANSWER, Courier
from vault.egress import Egress
from vault.embedded import Embedded
from vault.errors import EgressDenied
from vault.events.deliveries import Attempted, Waiting
from vault.model import Page
from vault.vault import Vault

ENDPOINTS = "/v1/event-endpoints"
NEVER = (
    *("http://169.254.169.254/latest", "https://10.0.0.1/", "https://192.168.1.1/hook"),
    *("https://[::ffff:169.254.169.254]/", "https://2130706433/", "https://0x0a000001/"),
    *("https://user:password@a.example/", "ftp://a.example/", "https://a.example/#fragment"),
    *("https://a.example/\r\nX: y", "", "x"),
)


@pytest.fixture
async def platform() -> AsyncIterator[Receiver]:
    async with receiving() as found:
        yield found


async def listen(tenant: Tenant, url: str) -> dict[str, Any]:
    reply = await tenant.api.post(ENDPOINTS, {"url": url})
    assert reply.status == 201, reply.body
    made: dict[str, Any] = reply.json
    return made


async def happen(tenant: Tenant, user: str = "ada") -> None:
    await tenant.api.put("/v1/integrations/keys", {"provider": "api-key"})
    reply = await tenant.api.put(f"/v1/users/{user}/connections/keys", {"api_key": "a-sentinel"})
    assert reply.status == 200, reply.body


async def served(vault: Vault, egress: Egress, endpoint: str) -> None:
    """Give one endpoint a turn, whatever else waits."""
    for one in await vault.endpoints_waiting():
        if one.endpoint_id == endpoint:
            turn = await vault.begin_turn(one)
            assert turn is not None
            assert "whsec" not in repr(turn)
            await vault.end_turn(turn, await Courier(vault, egress).tried_in(turn))


async def delivered(vault: Vault, egress: Egress, tenant: Tenant, endpoint: str) -> Attempted:
    """The same, and what became of the one event."""
    await served(vault, egress, endpoint)
    [found] = await vault.event_deliveries(tenant.caller, endpoint, Page(10))
    return found


@pytest.mark.parametrize("url", NEVER)
async def test_an_endpoint_cannot_point_to_what_we_would_never_call(
    tenant: Tenant, url: str
) -> None:
    refused = await tenant.api.post(ENDPOINTS, {"url": url})
    assert (refused.status, refused.code) == (422, "invalid")
    made = await listen(tenant, "https://a.example/")
    changed = await tenant.api.call("PATCH", f"{ENDPOINTS}/{made['id']}", body={"url": url})
    assert (changed.status, changed.code) == (422, "invalid")
    shown = await tenant.api.get(f"{ENDPOINTS}/{made['id']}")
    assert shown.json["url"] == "https://a.example/"


@pytest.mark.parametrize("url", ["http://a.example/", "https://a.example:25/"])
def test_where_no_rule_says_otherwise_only_https_at_its_usual_ports_is_called(url: str) -> None:
    with pytest.raises(EgressDenied):
        Egress(allow=()).vet_url("event", url)


async def test_a_name_that_leads_inside_is_not_called(
    tenant: Tenant, platform: Receiver, vault: Vault
) -> None:
    """The name is public when the endpoint is made, and private when it is called."""
    made = await listen(tenant, "https://rebound.example/hook?key=of-the-address")
    await happen(tenant)
    async with calling("", {"rebound.example": ["127.0.0.1"]}) as egress:
        found = await delivered(vault, egress, tenant, made["id"])
    assert (found.state, found.status) == ("waiting", None)
    assert "not public" in (found.problem or "")
    assert "of-the-address" not in (found.problem or "")
    assert not platform.received


async def test_what_is_open_for_tools_is_not_open_for_events(
    tenant: Tenant, platform: Receiver, vault: Vault
) -> None:
    made = await listen(tenant, platform.url)
    await happen(tenant)
    async with calling("tool=127.0.0.1") as egress:
        found = await delivered(vault, egress, tenant, made["id"])
    assert found.state == "waiting"
    assert not platform.received


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s"
        % (MAX_ANSWER * 2, b"x" * MAX_ANSWER * 2),
        b"HTTP/1.1 200 OK\r\nX: %s\r\n\r\n" % (b"x" * 20_000),
        b"HTTP/1.1 500 a-text-of-theirs\r\nContent-Length: 14\r\n\r\na-text-of-theirs",
        b"HTTP/1.1 302 Found\r\nLocation: http://169.254.169.254/\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 503 X\r\nRetry-After: -1e999\r\nContent-Length: 0\r\n\r\n",
        b"a-text-of-theirs",
    ],
)
async def test_an_answer_that_is_no_yes_is_a_failure_and_not_kept(
    tenant: Tenant, vault: Vault, answer: bytes
) -> None:
    async with listening(saying(answer, b"")) as there, calling() as egress:
        made = await listen(tenant, f"http://127.0.0.1:{there.port}/")
        await happen(tenant)
        found = await delivered(vault, egress, tenant, made["id"])
    assert (found.state, found.attempts) == ("waiting", 1)
    assert found.problem
    assert "theirs" not in found.problem


async def test_no_secret_and_no_address_is_stored_or_logged_in_clear(
    tenant: Tenant,
    platform: Receiver,
    vault: Vault,
    migrated: Embedded,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    with structlog.testing.capture_logs() as lines:
        made = await listen(tenant, platform.url)
        rotated = await tenant.api.post(f"{ENDPOINTS}/{made['id']}/rotate-secret")
        for status in (500, 410):
            platform.status = status
            await happen(tenant, f"user{status}")
            async with calling() as egress:
                await served(vault, egress, made["id"])
            await _rested(migrated, made["id"])
    assert len(platform.received) >= 2
    logged = f"{lines} {caplog.text}"
    kept = await _stored(migrated) + (await tenant.api.get("/v1/audit-events")).body.decode()
    for hidden in (made["secret"], rotated.json["secret"], "of-the-address", "a-sentinel"):
        assert hidden.removeprefix("whsec_") not in logged + kept
    assert "a-sentinel" not in str(platform.received), "no credential is in an event"
    assert [one["why"] for one in lines if one["event"] == "event_endpoint_disabled"] == ["gone"]


async def _rested(migrated: Embedded, endpoint: str) -> None:
    admin = await asyncpg.connect(migrated.dsn().reveal())
    await admin.execute(
        "update vault.event_endpoints set rest_until = null where endpoint_id = $1", endpoint
    )
    await admin.close()


async def _stored(migrated: Embedded) -> str:
    """Everything that these tables hold, as the database would dump it; and what is sealed."""
    tables = ("event_endpoints", "event_deliveries", "outbox", "idempotency")
    admin = await asyncpg.connect(migrated.dsn().reveal())
    found = [
        str(row[0])
        for table in tables
        for row in await admin.fetch(f"select t::text from vault.{table} t")  # noqa: S608 - ours
    ]
    sealed = await admin.fetch("select sealed from vault.event_endpoint_secrets")
    results = await admin.fetch("select result from vault.idempotency where result is not null")
    await admin.close()
    return "\n".join([*found, *(bytes(row[0]).decode("latin-1") for row in (*sealed, *results))])


async def test_a_key_of_one_environment_neither_changes_nor_makes_an_endpoint(
    tenant: Tenant, platform: Receiver
) -> None:
    """An endpoint hears of every environment."""
    made = await listen(tenant, platform.url)
    body = {"name": "tied", "scopes": ["manage"], "environments": ["staging"]}
    tied = tenant.api.with_key((await tenant.api.post("/v1/keys", body)).json["key"])
    path = f"{ENDPOINTS}/{made['id']}"
    every = [
        await tied.post(ENDPOINTS, {"url": platform.url}),
        await tied.call("PATCH", path, body={"enabled": False}),
        await tied.delete(path),
        await tied.post(f"{path}/rotate-secret"),
        await tied.post(f"{path}/replay", {"since": "2026-01-01T00:00:00Z"}),
    ]
    assert [(one.status, one.code) for one in every] == [(403, "forbidden")] * 5


async def test_events_of_one_workspace_reach_no_other(
    make_tenant: MakeTenant, platform: Receiver, vault: Vault
) -> None:
    mine, other = await make_tenant(), await make_tenant()
    made = await listen(other, platform.url)
    await happen(mine, "ada")
    assert (await other.api.get(f"{ENDPOINTS}/{made['id']}/deliveries")).json["data"] == []
    assert made["id"] not in [one.endpoint_id for one in await vault.endpoints_waiting()]
    # Somebody who knew an endpoint's id gets no turn at it from another workspace.
    await happen(other, "grace")
    assert await vault.begin_turn(Waiting(mine.id, made["id"], 0)) is None
