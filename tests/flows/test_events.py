"""Events reach the platform: told through the service's own routes, with a server that receives."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest
from conftest import Tenant
from msgspec import Struct
from standardwebhooks import WebhookVerificationError
from support.api import Api, Running
from support.connecting import integrate
from support.receiving import Received, Receiver, receiving
from support.sandbox import Provider, providing

from broker.events import Attempt, Courier
from broker.sandbox import Faults, Issuing
from vault.egress import Egress, parse_allow
from vault.embedded import Embedded
from vault.events.deliveries import Tried, Waiting
from vault.vault import Vault

ENDPOINTS = "/v1/event-endpoints"


@pytest.fixture
async def provider() -> AsyncIterator[Provider]:
    async with providing() as found:
        found.state.issuing = Issuing(rotation="strict")
        yield found


@pytest.fixture
async def admin(migrated: Embedded) -> AsyncIterator[Any]:
    """A superuser, who can make time pass."""
    connection = await asyncpg.connect(migrated.dsn().reveal())
    yield connection
    await connection.close()


@pytest.fixture
async def platform() -> AsyncIterator[Receiver]:
    async with receiving() as found:
        yield found


@asynccontextmanager
async def delivering(vault: Vault) -> AsyncIterator[Courier]:
    """One replica's courier, ticking all the time."""
    egress = Egress(allow=parse_allow("127.0.0.1", development=True))
    courier = Courier(vault, egress)

    async def tick() -> None:
        while True:
            await courier.deliver_due()
            await asyncio.sleep(0.02)

    ticking = asyncio.create_task(tick())
    try:
        yield courier
    finally:
        ticking.cancel()
        await asyncio.gather(ticking, return_exceptions=True)
        await courier.drain()
        await egress.aclose()


@pytest.fixture
async def courier(vault: Vault) -> AsyncIterator[Courier]:
    async with delivering(vault) as found:
        yield found


# Says when to come again, so that nothing is tried twice before a test lets time pass.
LATER = b"Retry-After: 3600\r\n"


async def until(happened: Callable[[], Any]) -> None:
    """Wait for a condition."""
    async with asyncio.timeout(60):
        while True:
            found = happened()
            if await found if isinstance(found, Awaitable) else found:
                return
            await asyncio.sleep(0.02)


class Endpoint(Struct, frozen=True):
    """An endpoint of a workspace, and its secret."""

    api: Api
    id: str
    secret: str

    @property
    def path(self) -> str:
        return f"{ENDPOINTS}/{self.id}"

    async def shown(self) -> dict[str, Any]:
        reply = await self.api.get(self.path)
        assert reply.status == 200, reply.body
        found: dict[str, Any] = reply.json
        return found

    async def deliveries(self, query: str = "") -> list[dict[str, Any]]:
        reply = await self.api.get(f"{self.path}/deliveries{query}")
        assert reply.status == 200, reply.body
        found: list[dict[str, Any]] = reply.json["data"]
        return found

    async def states(self) -> list[str]:
        return [one["state"] for one in await self.deliveries()]

    async def is_done(self) -> bool:
        return "waiting" not in await self.states()


async def listen(tenant: Tenant, url: str, *types: str) -> Endpoint:
    reply = await tenant.api.post(ENDPOINTS, {"url": url, "events": list(types)})
    assert reply.status == 201, reply.body
    return Endpoint(tenant.api, reply.json["id"], reply.json["secret"])


async def happen(tenant: Tenant, *users: str) -> list[str]:
    """Something to tell: each of these users connects."""
    await tenant.api.put("/v1/integrations/keys", {"provider": "api-key"})
    made = []
    for user in users:
        path = f"/v1/users/{user}/connections/keys"
        reply = await tenant.api.put(path, {"api_key": "key-of-the-user"})
        assert reply.status == 200, reply.body
        made.append(reply.json["id"])
    return made


class Ada(Struct, frozen=True):
    """A user whose account at the sandbox is connected, and a platform that hears of it."""

    tenant: Tenant
    provider: Provider
    endpoint: Endpoint
    platform: Receiver
    connection: str
    admin: Any

    async def refresh(self) -> int:
        return (await self.tenant.api.post(f"/v1/connections/{self.connection}/refresh")).status

    async def no_more_waiting(self) -> None:
        """Let the time pass after which the next call may be made."""
        await self.admin.execute(
            "update vault.connection_lives set next_try_at = now() where connection_id = $1",
            self.connection,
        )

    async def heard(self, kind: str) -> dict[str, Any]:
        """What the platform was told of this type, its signature checked."""
        await until(lambda: kind in self.platform.types)
        place = self.platform.types.index(kind)
        told = self.platform.received[place].verified(self.endpoint.secret)
        assert told.keys() == {"type", "timestamp", "data"}
        data = told["data"]
        assert (data["user_id"], data["connection_id"]) == ("ada", self.connection)
        assert (data["integration"], data["environment"]) == ("acme", "production")
        assert isinstance(data["generation"], int)
        found: dict[str, Any] = data
        return found


@pytest.fixture
async def ada(
    tenant: Tenant,
    service: Running,
    provider: Provider,
    platform: Receiver,
    admin: Any,
    courier: Courier,
) -> Ada:
    assert courier is not None
    endpoint = await listen(tenant, platform.url)
    await integrate(tenant.api, provider, f"{service.base}/oauth/oidc/acme/callback")
    family = provider.state.ledger.open(realm="", client_id="app", account="ada")
    pair = provider.state.ledger.give(family, provider.state.issuing, refresh=True, request=0)
    body = {"access_token": pair.access, "refresh_token": pair.refresh, "expires_in": 3600}
    reply = await tenant.api.put("/v1/users/ada/connections/acme", body)
    assert reply.status == 200, reply.body
    return Ada(tenant, provider, endpoint, platform, reply.json["id"], admin)


# Each type of event, where it belongs


async def test_connecting_refreshing_and_revoking_are_told(ada: Ada) -> None:
    assert (await ada.heard("connection.connected"))["generation"] == 1
    assert await ada.refresh() == 200
    assert (await ada.heard("connection.refreshed"))["generation"] == 2
    await ada.tenant.api.delete(f"/v1/connections/{ada.connection}")
    await ada.heard("connection.revoked")
    assert len(ada.platform.received) == 3


async def test_trouble_is_told_when_it_lasts_and_once_and_so_is_its_end(ada: Ada) -> None:
    ada.provider.misbehave(Faults(status=400, body='{"error": "server_error"}'))
    for _ in range(5):
        assert await ada.refresh() == 503
        await ada.no_more_waiting()
    assert (await ada.heard("connection.degraded"))["reason"] == "transient"
    ada.provider.misbehave(None)
    assert await ada.refresh() == 200
    assert (await ada.heard("connection.recovered"))["generation"] == 2
    await until(ada.endpoint.is_done)
    told = sorted(one for one in ada.platform.types if one != "connection.connected")
    assert told == ["connection.degraded", "connection.recovered", "connection.refreshed"]
    assert (await ada.heard("connection.refreshed"))["generation"] == 2


async def test_a_dead_grant_is_told_once_it_is_sure(ada: Ada) -> None:
    for family in ada.provider.state.ledger.families():
        ada.provider.state.ledger.end_consent(family, "withdrawn")
    await ada.refresh()
    await ada.heard("connection.degraded")
    await ada.admin.execute(
        "update vault.connection_lives set suspect_since = suspect_since - interval '2 minutes',"
        " next_try_at = now() where connection_id = $1",
        ada.connection,
    )
    assert await ada.refresh() == 409
    assert (await ada.heard("connection.needs_reauth"))["reason"] == "refused"


async def test_an_end_that_comes_is_told_ahead_of_it(ada: Ada, vault: Vault) -> None:
    await ada.admin.execute(
        "update vault.connection_lives set consented_at = now() - interval '60 days',"
        " consent_ends = now() + interval '10 days', due_at = now() where connection_id = $1",
        ada.connection,
    )

    async def swept() -> bool:
        """Others' connections that are due, too, may come first."""
        await vault.refresh_due()
        return "connection.expiring" in ada.platform.types

    await until(swept)
    await ada.heard("connection.expiring")
    await ada.admin.execute(
        "update vault.connection_lives set due_at = now() where connection_id = $1", ada.connection
    )
    await vault.refresh_due()
    await until(lambda: not vault.refreshes_under_way)
    await until(ada.endpoint.is_done)
    assert ada.platform.types.count("connection.expiring") == 1


# Signatures


async def test_another_secret_or_another_body_verifies_nothing(
    tenant: Tenant, platform: Receiver, courier: Courier
) -> None:
    assert courier is not None
    mine, other = await listen(tenant, platform.url), await listen(tenant, platform.url)
    await happen(tenant, "ada")
    await until(lambda: len(platform.received) == 2)
    for one in platform.received:
        verifying = [end for end in (mine, other) if _verifies(one, end.secret)]
        assert len(verifying) == 1, "each endpoint has a secret of its own"
        changed = Received(one.headers, one.body.replace(b"ada", b"bob"))
        assert not _verifies(changed, verifying[0].secret)


def _verifies(one: Received, secret: str) -> bool:
    try:
        one.verified(secret)
    except WebhookVerificationError:
        return False
    return True


async def test_a_replaced_secret_signs_beside_the_new_one(
    tenant: Tenant, platform: Receiver, courier: Courier
) -> None:
    assert courier is not None
    endpoint = await listen(tenant, platform.url)
    reply = await tenant.api.post(f"{endpoint.path}/rotate-secret")
    assert reply.status == 200, reply.body
    assert reply.json["secret"].startswith("whsec_")
    assert reply.json["secret"] != endpoint.secret
    await happen(tenant, "ada")
    await until(lambda: platform.received)
    [one] = platform.received
    assert len(one.signatures) == 2
    assert one.verified(endpoint.secret) == one.verified(reply.json["secret"])
    assert (await endpoint.shown())["former_secret_signs_until"]
    assert (await tenant.api.post(f"{endpoint.path}/rotate-secret")).status == 200
    refused = await tenant.api.post(f"{endpoint.path}/rotate-secret")
    assert (refused.status, refused.code) == (409, "conflict")


# What goes wrong


async def test_what_fails_is_sent_again_under_its_own_id(
    tenant: Tenant, platform: Receiver, courier: Courier, admin: Any
) -> None:
    assert courier is not None
    platform.status, platform.extra = 500, LATER
    endpoint = await listen(tenant, platform.url)
    await happen(tenant, "ada")
    await until(lambda: platform.received)
    await until(lambda: _attempts(endpoint, 1))
    [failed] = await endpoint.deliveries("?state=waiting")
    assert (failed["status"], failed["problem"]) == (500, "The endpoint answered 500.")
    shown = await endpoint.shown()
    assert (shown["failures"], shown["enabled"]) == (1, True)
    assert shown["failing_since"]
    platform.status = 200
    await _rested(admin, endpoint)
    await until(lambda: _attempts(endpoint, 2))
    first, second = platform.received
    assert (first.id, first.body) == (second.id, second.body)
    assert second.verified(endpoint.secret)
    assert await endpoint.states() == ["delivered"]
    assert (await endpoint.shown())["failing_since"] is None


@pytest.mark.parametrize(
    "said",
    [
        b"Retry-After: 600\r\n",
        b"Date: Thu, 01 Jan 2026 00:00:00 GMT\r\nRetry-After: Thu, 01 Jan 2026 00:10:00 GMT\r\n",
    ],
    ids=["seconds", "date"],
)
async def test_an_endpoint_is_left_alone_for_as_long_as_it_asks(
    tenant: Tenant, platform: Receiver, courier: Courier, admin: Any, said: bytes
) -> None:
    assert courier is not None
    platform.status, platform.extra = 503, said
    endpoint = await listen(tenant, platform.url)
    await happen(tenant, "ada")
    await until(lambda: _attempts(endpoint, 1))
    left = await admin.fetchval(
        "select extract(epoch from rest_until - now())::float8 from vault.event_endpoints"
        " where endpoint_id = $1",
        endpoint.id,
    )
    assert 540 < left <= 600


async def test_who_changes_an_endpoint_does_not_wait_for_the_next_try(
    tenant: Tenant, platform: Receiver, courier: Courier
) -> None:
    assert courier is not None
    platform.status, platform.extra = 503, LATER
    endpoint = await listen(tenant, platform.url)
    await happen(tenant, "ada")
    await until(lambda: _attempts(endpoint, 1))
    platform.status, platform.extra = 200, b""
    changed = await tenant.api.call("PATCH", endpoint.path, body={"url": platform.url + "/anew"})
    assert changed.status == 200, changed.body
    await until(endpoint.is_done)
    assert await endpoint.states() == ["delivered"]


async def test_what_a_turn_finds_out_of_a_former_address_puts_nothing_off(
    tenant: Tenant, platform: Receiver, vault: Vault
) -> None:
    """Changed in the middle of an attempt, which then fails."""
    endpoint = await listen(tenant, platform.url)
    await happen(tenant, "ada")
    turn = await vault.begin_turn(Waiting(tenant.id, endpoint.id, 0))
    assert turn is not None
    assert (await tenant.api.call("PATCH", endpoint.path, body={"enabled": True})).status == 200
    [delivery] = turn.deliveries
    tried = Tried(delivery=delivery, status=503, problem="It failed.", retry_after=3600)
    await vault.end_turn(turn, [tried])
    platform.status = 200
    async with delivering(vault):
        await until(endpoint.is_done)
    assert await endpoint.states() == ["delivered"]


async def _attempts(endpoint: Endpoint, number: int) -> bool:
    return all(one["attempts"] == number for one in await endpoint.deliveries())


async def _rested(admin: Any, endpoint: Endpoint, days: int = 0) -> None:
    """Let the pause be over, and so many days with it."""
    await admin.execute(
        "update vault.event_endpoints set rest_until = null,"
        " failing_since = failing_since - $2::integer * interval '1 day' where endpoint_id = $1",
        endpoint.id,
        days,
    )
    await admin.execute(
        "update vault.event_deliveries set due_at = now(),"
        " queued_at = queued_at - $2::integer * interval '1 day'"
        " where endpoint_id = $1 and due_at is not null",
        endpoint.id,
        days,
    )


async def test_after_a_day_of_failures_an_endpoint_is_disabled_and_can_come_back(
    tenant: Tenant, platform: Receiver, courier: Courier, admin: Any
) -> None:
    assert courier is not None
    platform.status, platform.extra = 503, LATER
    endpoint = await listen(tenant, platform.url)
    await happen(tenant, "ada")
    await until(lambda: _attempts(endpoint, 1))
    await _rested(admin, endpoint, days=1)
    await until(endpoint.is_done)
    assert await endpoint.states() == ["failed"]
    shown = await endpoint.shown()
    assert (shown["enabled"], shown["disabled_why"]) == (False, "failing")
    audited = await tenant.api.get("/v1/audit-events?action=event_endpoint.disable")
    assert [one["outcome"] for one in audited.json["data"]] == ["failing"]
    await happen(tenant, "grace")
    assert await endpoint.states() == ["failed"], "nothing is queued for it any more"
    again = {"since": "2026-01-01T00:00:00Z"}
    assert (await tenant.api.post(f"{endpoint.path}/replay", again)).code == "conflict"
    platform.status = 200
    back = await tenant.api.call("PATCH", endpoint.path, body={"enabled": True})
    assert (back.status, back.json["enabled"], back.json["disabled_why"]) == (200, True, None)
    replayed = await tenant.api.post(f"{endpoint.path}/replay", again)
    assert replayed.json == {"queued": 2, "next_event_id": None}
    await until(lambda: len(platform.received) == 4)
    await until(endpoint.is_done)
    assert await endpoint.states() == ["delivered", "delivered"]


async def test_an_endpoint_that_is_gone_is_not_asked_again(
    tenant: Tenant, platform: Receiver, courier: Courier
) -> None:
    assert courier is not None
    platform.status = 410
    endpoint = await listen(tenant, platform.url)
    await happen(tenant, "ada")
    await until(endpoint.is_done)
    assert (await endpoint.shown())["disabled_why"] == "gone"
    assert len(platform.received) == 1


async def test_a_redirect_is_not_followed(
    tenant: Tenant, platform: Receiver, courier: Courier
) -> None:
    assert courier is not None
    async with receiving() as elsewhere:
        platform.status = 307
        platform.extra = f"Location: {elsewhere.url}\r\n".encode() + LATER
        endpoint = await listen(tenant, platform.url)
        await happen(tenant, "ada")
        await until(lambda: _attempts(endpoint, 1))
        assert not elsewhere.received


async def test_an_event_that_is_refused_holds_up_no_other(
    tenant: Tenant, platform: Receiver, vault: Vault, admin: Any
) -> None:
    platform.status, platform.extra = 400, LATER
    endpoint = await listen(tenant, platform.url)
    await happen(tenant, "ada")
    async with delivering(vault):
        await until(lambda: _attempts(endpoint, 1))
    platform.status = 200
    await happen(tenant, "grace")
    await admin.execute(
        "update vault.event_endpoints set rest_until = null where endpoint_id = $1", endpoint.id
    )
    await admin.execute(
        "update vault.event_deliveries set due_at = now() + interval '1 hour'"
        " where endpoint_id = $1 and attempts > 0",
        endpoint.id,
    )
    async with delivering(vault):
        await until(lambda: len(platform.received) == 2)
        await asyncio.sleep(0.1)
    assert sorted(await endpoint.states()) == ["delivered", "waiting"]


async def test_a_slow_endpoint_holds_up_itself_alone(
    tenant: Tenant, stranger: Tenant, platform: Receiver, courier: Courier
) -> None:
    async with receiving() as slow:
        slow.seconds = 60  # longer than an attempt may take
        waiting = [await listen(tenant, slow.url) for _ in range(6)]
        await happen(tenant, *(f"user{number}" for number in range(10)))
        await until(lambda: slow.busy)
        quick = await listen(stranger, platform.url)
        await happen(stranger, "ada")
        await until(quick.is_done)
        assert [await _attempts(one, 0) for one in waiting] == [True] * 6, "none has ended yet"
        assert slow.busiest <= 16, "of one workspace four endpoints are served, each four times"


# Several replicas, and how they end


async def test_two_replicas_deliver_each_event_once(
    tenant: Tenant, platform: Receiver, vault: Vault
) -> None:
    platform.seconds = 0.05
    endpoint = await listen(tenant, platform.url)
    await happen(tenant, *(f"user{number}" for number in range(60)))
    async with delivering(vault), delivering(vault), delivering(vault):
        await until(endpoint.is_done)
    ids = [one.id for one in platform.received]
    assert len(ids) == len(set(ids)) == 60
    assert platform.busiest <= 4, "one replica at a time has the turn"


async def test_a_turn_whose_replica_died_is_taken_over(
    tenant: Tenant, platform: Receiver, vault: Vault, admin: Any
) -> None:
    endpoint = await listen(tenant, platform.url)
    await happen(tenant, "ada")
    turn = await vault.begin_turn(Waiting(tenant.id, endpoint.id, 0))
    assert turn is not None
    assert await vault.begin_turn(Waiting(tenant.id, endpoint.id, 0)) is None
    assert endpoint.id not in [one.endpoint_id for one in await vault.endpoints_waiting()]
    await admin.execute(
        "update vault.event_endpoints set claimed_until = now() where endpoint_id = $1",
        endpoint.id,
    )
    async with delivering(vault):
        await until(endpoint.is_done)
    assert [one.id for one in platform.received] == [one.event_id for one in turn.deliveries]
    # The dead one comes back, and its word about the endpoint counts no more.
    await vault.end_turn(turn, [])
    assert (await endpoint.shown())["delivered_at"]


async def test_what_is_under_way_at_the_end_is_finished_and_nothing_begun(
    tenant: Tenant, platform: Receiver, vault: Vault
) -> None:
    platform.seconds = 0.5
    endpoint = await listen(tenant, platform.url)
    await happen(tenant, *(f"user{number}" for number in range(12)))
    async with delivering(vault) as courier:
        await until(lambda: platform.busy)
        await courier.drain()
        assert courier.under_way == 0
        received = len(platform.received)
        assert received <= 4
        assert (await endpoint.states()).count("delivered") == received
        assert await courier.deliver_due() == 0


async def test_attempts_are_counted_by_outcome(
    tenant: Tenant, platform: Receiver, vault: Vault, service: Running
) -> None:
    seen: list[str] = []

    def observe(one: Attempt) -> None:
        seen.append(one.outcome)
        service.service.metrics.delivered(one)

    await listen(tenant, platform.url)
    async with delivering(vault) as courier:
        courier.observe = observe
        await happen(tenant, "ada")
        await until(lambda: "delivered" in seen)
    text = (await tenant.api.get("/metrics")).body.decode()
    assert 'keyturn_event_attempts_total{outcome="delivered"}' in text


# Endpoints


async def test_an_endpoint_hears_of_what_it_asked_for(
    tenant: Tenant, platform: Receiver, courier: Courier
) -> None:
    assert courier is not None
    endpoint = await listen(tenant, platform.url, "connection.revoked")
    [connection] = await happen(tenant, "ada")
    await tenant.api.delete(f"/v1/connections/{connection}")
    await until(lambda: platform.received)
    await until(endpoint.is_done)
    assert platform.types == ["connection.revoked"]
    changed = {"events": ["connection.connected"]}
    assert (await tenant.api.call("PATCH", endpoint.path, body=changed)).status == 200
    await happen(tenant, "grace")
    await until(lambda: len(platform.types) == 2)
    assert platform.types[1] == "connection.connected"
    unknown = await tenant.api.post(ENDPOINTS, {"url": platform.url, "events": ["all.of.it"]})
    assert (unknown.status, unknown.code) == (422, "invalid")


async def test_events_are_replayed_from_one_on(
    tenant: Tenant, platform: Receiver, courier: Courier
) -> None:
    assert courier is not None
    endpoint = await listen(tenant, platform.url)
    await happen(tenant, "ada", "bob", "eve")
    await until(lambda: len(platform.received) == 3)
    await until(endpoint.is_done)
    ids = [one["event_id"] for one in reversed(await endpoint.deliveries())]
    reply = await tenant.api.post(f"{endpoint.path}/replay", {"from_event_id": ids[1]})
    assert reply.json == {"queued": 2, "next_event_id": None}
    await until(lambda: len(platform.received) == 5)
    assert sorted(one.id for one in platform.received[3:]) == ids[1:]
    for body in ({}, {"since": "2026-01-01T00:00:00Z", "from_event_id": ids[0]}):
        assert (await tenant.api.post(f"{endpoint.path}/replay", body)).code == "invalid"
    never = {"from_event_id": "evt_" + "0" * 26}
    assert (await tenant.api.post(f"{endpoint.path}/replay", never)).code == "not_found"


async def test_a_secret_is_shown_once_and_never_again(tenant: Tenant, platform: Receiver) -> None:
    body, headers = {"url": platform.url}, {"Idempotency-Key": "the-same"}
    first = await tenant.api.post(ENDPOINTS, body, headers=headers)
    again = await tenant.api.post(ENDPOINTS, body, headers=headers)
    assert (again.status, again.json["id"]) == (201, first.json["id"])
    assert again.json["secret"] is None
    secret = first.json["secret"]
    for path in (ENDPOINTS, f"{ENDPOINTS}/{first.json['id']}"):
        reply = await tenant.api.get(path)
        assert reply.status == 200
        assert secret not in reply.body.decode()
    assert len((await tenant.api.get(ENDPOINTS)).json["data"]) == 1


async def test_a_workspace_has_a_bounded_number_of_endpoints(
    tenant: Tenant, platform: Receiver
) -> None:
    for _ in range(20):
        await listen(tenant, platform.url)
    assert (await tenant.api.post(ENDPOINTS, {"url": platform.url})).code == "conflict"


async def test_a_deleted_endpoint_takes_what_waits_with_it(
    tenant: Tenant, platform: Receiver, vault: Vault, admin: Any
) -> None:
    endpoint = await listen(tenant, platform.url)
    await happen(tenant, "ada")
    assert (await tenant.api.delete(endpoint.path)).status == 204
    assert (await tenant.api.get(endpoint.path)).status == 404
    left = "select count(*) from vault.event_deliveries where endpoint_id = $1"
    assert await admin.fetchval(left, endpoint.id) == 0
    assert endpoint.id not in [one.endpoint_id for one in await vault.endpoints_waiting()]


async def test_old_events_are_forgotten_with_their_deliveries(
    tenant: Tenant, platform: Receiver, vault: Vault, admin: Any
) -> None:
    endpoint = await listen(tenant, platform.url)
    await happen(tenant, "ada", "grace")
    oldest = (await endpoint.deliveries())[-1]["event_id"]
    await admin.execute(
        "update vault.outbox set at = now() - interval '4 days' where event_id = $1", oldest
    )
    assert await vault.forget_events() >= 1
    assert oldest not in [one["event_id"] for one in await endpoint.deliveries()]
    assert len(await endpoint.deliveries()) == 1


async def test_what_is_done_to_an_endpoint_is_recorded(tenant: Tenant, platform: Receiver) -> None:
    endpoint = await listen(tenant, platform.url)
    await tenant.api.call("PATCH", endpoint.path, body={"enabled": False})
    await tenant.api.call("PATCH", endpoint.path, body={"enabled": True})
    await tenant.api.post(f"{endpoint.path}/replay", {"since": "2026-01-01T00:00:00Z"})
    await tenant.api.post(f"{endpoint.path}/rotate-secret")
    await tenant.api.delete(endpoint.path)
    every = (await tenant.api.get("/v1/audit-events")).json["data"]
    mine = [one for one in every if (one["target"] or {}).get("id") == endpoint.id]
    assert [one["action"].partition(".")[2] for one in reversed(mine)] == [
        *("write", "write", "write", "replay", "rotate", "delete")
    ]
