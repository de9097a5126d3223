"""Conversations that are over: those that nobody began, and those that are forgotten."""

from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import asyncpg
import pytest
from conftest import Tenant
from support.minting import SEALED, Desk, minting
from support.sandbox import Provider

from broker.broker import Broker
from broker.grants import KEPT_DAYS
from vault.embedded import Embedded
from vault.errors import Unauthenticated
from vault.vault import Vault


@pytest.fixture
async def desk(tenant: Tenant, provider: Provider) -> AsyncIterator[Desk]:
    async with minting(tenant, provider) as found:
        await found.user()
        await found.connect()
        yield found


@pytest.fixture
async def admin(migrated: Embedded) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(migrated.dsn().reveal())
    yield connection
    await connection.close()


@pytest.fixture
def broker(vault: Vault) -> Broker:
    return Broker(vault, vault.egress)


async def later(admin: Any, made: Any, minutes: int) -> None:
    """As if it had been minted so many minutes ago."""
    await admin.execute(
        "update vault.conversations"
        "   set created_at = created_at - $2 * interval '1 minute',"
        "       start_by = start_by - $2 * interval '1 minute',"
        "       expires_at = expires_at - $2 * interval '1 minute'"
        " where conversation_id = $1",
        made["id"],
        minutes,
    )


@pytest.mark.parametrize("wanted", [{}, SEALED])
async def test_what_nobody_began_in_time_is_expired(
    desk: Desk, admin: Any, wanted: dict[str, Any]
) -> None:
    made = await desk.mint(**wanted)
    assert (await desk.shown(made["id"]))["state"] == "prepared"
    await later(admin, made, 16)
    assert (await desk.shown(made["id"]))["state"] == "expired"
    [listed] = (await desk.api.get("/v1/conversations")).json["data"]
    assert listed["state"] == "expired"
    assert (await desk.api.post(f"/v1/conversations/{made['id']}/verify")).code == "conflict"


async def test_a_ticket_that_is_too_late_opens_nothing(
    desk: Desk, admin: Any, broker: Broker
) -> None:
    made = await desk.mint()
    await later(admin, made, 16)
    [ticket] = parse_qs(urlsplit(made["signed_url"]).query)["conversation_signature"]
    with pytest.raises(Unauthenticated):
        await broker.admit(ticket)


async def test_asking_again_too_late_revives_nothing(desk: Desk, admin: Any) -> None:
    made = (await desk.ask(key="once")).json
    await later(admin, made, 16)
    again = await desk.ask(key="once")
    assert again.status == 201, again.body
    assert (again.json["id"], again.json["signed_url"]) == (made["id"], None)
    assert (await desk.shown(made["id"]))["state"] == "expired"


async def test_what_needs_no_ticket_may_have_begun_without_us(desk: Desk, admin: Any) -> None:
    made = await desk.mint(delivery="inline")
    await later(admin, made, 16)
    assert (await desk.shown(made["id"]))["state"] == "prepared"
    grant = made["dynamic_variables"]["secret__keyturn_authorization"].removeprefix("Bearer ")
    asked = {"integration": "google"}
    assert (await desk.api.with_key(grant).post("/tokens/refresh", asked)).status == 200
    await later(admin, made, 60)
    assert (await desk.api.with_key(grant).post("/tokens/refresh", asked)).status == 401


async def test_after_thirty_days_a_conversation_is_forgotten_and_the_record_is_not(
    desk: Desk, admin: Any, broker: Broker
) -> None:
    old, ended, kept = [await desk.mint(**SEALED, delivery="inline") for _ in range(3)]
    grant = old["dynamic_variables"]["secret__keyturn_authorization"].removeprefix("Bearer ")
    refused = {"integration": "google", "rejected": True}
    assert (await desk.api.with_key(grant).post("/tokens/refresh", refused)).status == 200
    assert (await desk.api.post(f"/v1/conversations/{ended['id']}/end")).status == 200
    for one in (old, ended):
        await later(admin, one, KEPT_DAYS * 24 * 60 + 1)
    await later(admin, kept, KEPT_DAYS * 24 * 60 - 60)
    assert await broker.grants.forget_old() >= 2
    listed = (await desk.api.get("/v1/conversations")).json["data"]
    assert [one["id"] for one in listed] == [kept["id"]]
    assert await desk.shown(old["id"]) == 404
    left = "select count(*) from vault.token_rejections where workspace_id = $1"
    assert await admin.fetchval(left, desk.tenant.id) == 0
    minted = {one["target"]["id"] for one in await desk.audited("conversation.mint")}
    assert {kept["id"], old["id"], ended["id"]} <= minted


async def test_what_still_runs_is_kept_however_old_its_row_says_it_is(
    desk: Desk, admin: Any, broker: Broker
) -> None:
    made = await desk.mint(**SEALED, delivery="inline")
    await admin.execute(
        "update vault.conversations set created_at = now() - interval '40 days'"
        " where conversation_id = $1",
        made["id"],
    )
    await broker.grants.forget_old()
    assert (await desk.shown(made["id"]))["state"] == "prepared"


async def test_every_workspace_with_old_ones_is_found_and_no_other_is_touched(
    desk: Desk, stranger: Tenant, admin: Any, provider: Provider, broker: Broker
) -> None:
    async with minting(stranger, provider, upstream=False) as other:
        await other.user()
        theirs = await other.mint(**SEALED)
        mine = await desk.mint(**SEALED)
        await later(admin, mine, KEPT_DAYS * 24 * 60 + 1)
        await broker.grants.forget_old()
        assert await desk.shown(mine["id"]) == 404
        assert (await other.shown(theirs["id"]))["id"] == theirs["id"]
