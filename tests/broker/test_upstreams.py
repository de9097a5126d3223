"""/v1/upstreams over HTTP: a workspace's account, whose it is, and what is never shown of it."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
from conftest import MakeTenant, Tenant
from support.api import Api, Reply
from support.eleven import Outside, outside

from broker.broker import Broker
from broker.upstreams.client import Refused, UpstreamClient, segment
from vault.embedded import Embedded
from vault.errors import IntegrityError, Unreachable, UpstreamFailed, UpstreamMissing
from vault.secret import Secret
from vault.vault import Vault

PLACE = "/v1/upstreams/elevenlabs"
CANARY = "canary-7Q"


def account(key: str = "", **more: Any) -> dict[str, Any]:
    """An account that nobody else in this run has."""
    return {"base_url": "http://127.0.0.1:9", "api_key": key or f"xi-{uuid.uuid4().hex}", **more}


@pytest.fixture
async def maker() -> AsyncIterator[Outside]:
    async with outside() as found:
        yield found


def client(vault: Vault, maker: Outside) -> UpstreamClient:
    return UpstreamClient(vault.egress, f"{maker.base}/", Secret(CANARY))


def shown(reply: Reply) -> dict[str, Any]:
    return {name: reply.json[name] for name in ("base_url", "webhook_secrets", "runtime_key_id")}


async def test_an_account_is_named_shown_without_its_key_and_forgotten(tenant: Tenant) -> None:
    assert (await tenant.api.get(PLACE)).code == "not_found"
    body = account(webhook_secrets=[f"whsec-{CANARY}", "other"])
    made = await tenant.api.put(PLACE, body)
    assert made.status == 201, made.body
    read = await tenant.api.get(PLACE)
    assert read.json == made.json
    assert shown(read) == {
        "base_url": "http://127.0.0.1:9",
        "webhook_secrets": 2,
        "runtime_key_id": None,
    }
    assert body["api_key"] not in made.body.decode()
    assert CANARY not in made.body.decode()
    assert (await tenant.api.put(PLACE, {**body, "webhook_secrets": []})).status == 200
    assert (await tenant.api.delete(PLACE)).status == 204
    assert (await tenant.api.delete(PLACE)).code == "not_found"


async def test_an_account_belongs_to_one_workspace(tenant: Tenant, stranger: Tenant) -> None:
    body = account()
    await tenant.api.put(PLACE, body)
    for base in ("http://127.0.0.1:9", "http://127.0.0.1:9/", "http://127.0.0.1:9/prefix"):
        refused = await stranger.api.put(PLACE, {**body, "base_url": base})
        assert (refused.status, refused.code) == (409, "conflict")
        assert body["api_key"] not in refused.body.decode()
    assert (await stranger.api.get(PLACE)).status == 404
    assert (await tenant.api.put(PLACE, body)).status == 200, "one's own can be written again"
    assert (await tenant.api.delete(PLACE)).status == 204
    assert (await stranger.api.put(PLACE, body)).status == 201


async def test_who_wants_another_ones_account_keeps_its_own(
    tenant: Tenant, stranger: Tenant
) -> None:
    taken, own = account(), account()
    await tenant.api.put(PLACE, taken)
    before = await stranger.api.put(PLACE, own)
    assert (await stranger.api.put(PLACE, taken)).status == 409
    assert (await stranger.api.get(PLACE)).json["updated_at"] == before.json["updated_at"]


async def test_of_many_that_claim_an_account_at_once_one_gets_it_at_most(
    make_tenant: MakeTenant,
) -> None:
    tenants = [await make_tenant() for _ in range(4)]
    body = account()
    tried = await asyncio.gather(*(one.api.put(PLACE, body) for one in tenants))
    assert {one.status for one in tried} <= {201, 409}
    holders = [one for one in tenants if (await one.api.get(PLACE)).status == 200]
    assert len(holders) == [one.status for one in tried].count(201) <= 1


@pytest.mark.parametrize(
    "body",
    [
        account(base_url="ftp://api.elevenlabs.io"),
        account(base_url="https://user:pw@api.elevenlabs.io"),
        account(base_url="http://169.254.169.254"),
        account(base_url="https://api.elevenlabs.io/?x=1"),
        account(base_url=""),
        account(key="with space"),
        account(key="x" * 501),
        account(webhook_secrets=["s"] * 6),
        account(webhook_secrets=[""]),
        {"base_url": "https://api.elevenlabs.io"},
    ],
)
async def test_what_could_never_be_called_is_refused_without_being_repeated(
    tenant: Tenant, body: dict[str, Any]
) -> None:
    refused = await tenant.api.put(PLACE, body)
    assert (refused.status, refused.code) == (422, "invalid")
    assert str(body.get("api_key", "nothing")) not in refused.body.decode()
    assert (await tenant.api.get(PLACE)).status == 404


async def test_every_change_is_recorded_and_a_tied_key_may_make_none(
    tenant: Tenant, anyone: Api
) -> None:
    tied = {"name": "k", "scopes": ["manage"], "environments": ["staging"]}
    key = (await tenant.api.post("/v1/keys", tied)).json["key"]
    assert (await anyone.with_key(key).put(PLACE, account())).code == "forbidden"
    await tenant.api.put(PLACE, account())
    await tenant.api.delete(PLACE)
    found = (await tenant.api.get("/v1/audit-events?limit=2")).json["data"]
    assert [one["action"] for one in found] == ["upstream.delete", "upstream.write"]


async def test_a_key_does_not_open_for_another_address(
    tenant: Tenant, vault: Vault, migrated: Embedded
) -> None:
    """Whoever writes into the database cannot have the key sent to a server of theirs."""
    await tenant.api.put(PLACE, account())
    connection = await asyncpg.connect(migrated.dsn().reveal())
    await connection.execute(
        "update vault.upstreams set base_url = 'http://127.0.0.1:10' where workspace_id = $1",
        tenant.id,
    )
    await connection.close()
    with pytest.raises(IntegrityError):
        await Broker(vault, vault.egress).upstreams.client(tenant.caller)


async def test_without_an_account_there_is_nobody_to_speak_to(tenant: Tenant, vault: Vault) -> None:
    upstreams = Broker(vault, vault.egress).upstreams
    with pytest.raises(UpstreamMissing):
        await upstreams.client(tenant.caller)
    assert await upstreams.webhook_secrets(tenant.caller) == ()
    await tenant.api.put(PLACE, account(webhook_secrets=["one"]))
    assert await upstreams.webhook_secrets(tenant.caller) == (Secret("one"),)


# What is said to it


async def test_the_key_goes_in_its_header_and_the_answer_is_read(
    vault: Vault, maker: Outside
) -> None:
    maker.will({"token": "t", "more": 1})
    found = await client(vault, maker).get("/v1/x", dict[str, Any], agent_id="a b", branch=None)
    assert found["token"] == "t"
    [heard] = maker.heard
    assert (heard.method, heard.path) == ("GET", "/v1/x?agent_id=a+b")
    assert heard.headers["xi-api-key"] == CANARY
    assert segment("a/b?c") == "a%2Fb%3Fc"


async def test_a_body_is_sent_once_whatever_the_answer_is(vault: Vault, maker: Outside) -> None:
    maker.will({"detail": CANARY}, status=503)
    with pytest.raises(Refused) as refused:
        await client(vault, maker).post("/v1/x", {"a": 1}, dict[str, Any])
    assert refused.value.status == 503
    assert CANARY not in str(refused.value)
    assert [one.json for one in maker.heard] == [{"a": 1}]


@pytest.mark.parametrize("status", [301, 307, 400, 401, 403, 404, 409, 422, 429, 500])
async def test_no_answer_that_is_a_no_is_repeated_or_followed(
    vault: Vault, maker: Outside, status: int
) -> None:
    maker.will({"detail": {"message": CANARY}}, status=status)
    with pytest.raises(Refused) as refused:
        await client(vault, maker).patch("/v1/x", {}, dict[str, Any])
    assert (refused.value.status, refused.value.code) == (status, "upstream_failed")
    assert refused.value.action == ("fix_configuration" if status in (401, 403) else "retry")
    assert CANARY not in f"{refused.value} {refused.value.__cause__} {refused.value.__context__}"
    assert len(maker.heard) == 1


async def test_an_answer_that_cannot_be_read_is_not_repeated(vault: Vault, maker: Outside) -> None:
    for answer in (f"<html>{CANARY}".encode(), {"token": 1}, b"\xff"):
        maker.answers.clear()
        maker.will(answer)
        with pytest.raises(UpstreamFailed) as failed:
            await client(vault, maker).get("/v1/x", dict[str, str])
        assert CANARY not in f"{failed.value} {failed.value.__cause__} {failed.value.__context__}"


async def test_nobody_there_is_said(vault: Vault) -> None:
    nobody = UpstreamClient(vault.egress, "http://127.0.0.1:9", Secret(CANARY))
    with pytest.raises(Unreachable):
        await nobody.delete("/v1/x")
    assert CANARY not in repr(nobody)
