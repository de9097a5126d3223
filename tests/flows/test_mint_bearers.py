"""What a conversation holds, and how it dies: tickets, grants, handles."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from conftest import OPERATOR_KEY, Tenant
from support.api import Api
from support.eleven import AGENT
from support.minting import GATEWAY, Desk, minting
from support.sandbox import Provider

from broker.admission import TICKET
from broker.broker import Broker
from vault.errors import Forbidden, NotFound, Unauthenticated, VaultError
from vault.vault import Vault

TOKEN = "secret__user_google_token"
GRANT = "secret__keyturn_authorization"


@pytest.fixture
async def desk(tenant: Tenant, provider: Provider) -> AsyncIterator[Desk]:
    async with minting(tenant, provider) as found:
        await found.user()
        yield found


@pytest.fixture
def broker(vault: Vault) -> Broker:
    return Broker(vault, vault.egress)


def ticket_of(made: Any) -> str:
    return parse_qs(urlsplit(str(made["signed_url"])).query)[TICKET][0]


def bearer_of(made: Any) -> str:
    return str(made["dynamic_variables"][GRANT]).removeprefix("Bearer ")


async def is_dead(broker: Broker, bearer: str, runtime: str | None = None) -> bool:
    try:
        await broker.held(bearer, runtime)
    except Unauthenticated:
        return True
    return False


# Tickets


async def test_a_ticket_opens_the_conversation_with_real_values(desk: Desk, broker: Broker) -> None:
    token = await desk.connect()
    await desk.profile(
        variables={"topic": {"from": "client"}, "lang": {"from": "client", "default": "en"}},
        overrides=["agent.language"],
    )
    made = await desk.mint(dynamic_variables={"topic": "bills"}, branch_id="br_7")
    admission = await broker.admit(ticket_of(made))
    assert admission.conversation_id == made["id"]
    assert admission.caller.kind == "grant"
    frame = admission.first_frame
    assert frame["type"] == "conversation_initiation_client_data"
    assert frame["dynamic_variables"][TOKEN] == token
    assert frame["dynamic_variables"][GRANT].startswith("Bearer ktg_")
    assert (frame["user_id"], frame["environment"], frame["branch_id"]) == (
        "ada",
        "production",
        "br_7",
    )
    # What the backend gave is no longer the client's to say.
    assert frame["dynamic_variables"]["topic"] == "bills"
    assert admission.client_variables == {"lang"}
    assert admission.overrides == ("agent.language",)
    url = urlsplit(admission.url.reveal())
    assert parse_qs(url.query)["agent_id"] == [AGENT]
    assert token not in repr(admission)
    [asked] = desk.asked("get-signed-url")
    assert (asked["environment"], asked["branch_id"]) == ("production", "br_7")


async def test_a_ticket_is_good_once_however_many_bring_it(desk: Desk, broker: Broker) -> None:
    await desk.connect()
    ticket = ticket_of(await desk.mint())
    outcomes = await asyncio.gather(
        *(broker.admit(ticket) for _ in range(8)), return_exceptions=True
    )
    refused = [one for one in outcomes if isinstance(one, Unauthenticated)]
    assert len(refused) == 7
    with pytest.raises(Unauthenticated):
        await broker.admit(ticket)


@pytest.mark.parametrize("ticket", ["", "x", "kt_" + "0" * 49, "\ud800", "a" * 5000])
async def test_what_is_no_ticket_opens_nothing(broker: Broker, ticket: str) -> None:
    with pytest.raises(Unauthenticated):
        await broker.admit(ticket)


async def test_a_grant_is_no_ticket_and_a_ticket_no_grant(desk: Desk, broker: Broker) -> None:
    await desk.connect()
    grant = bearer_of(await desk.mint(delivery="inline"))
    with pytest.raises(Unauthenticated):
        await broker.admit(grant)
    assert await is_dead(broker, ticket_of(await desk.mint()))


async def test_a_token_that_ended_meanwhile_is_not_handed_out_by_the_ticket(
    desk: Desk, broker: Broker
) -> None:
    token = await desk.connect(expires_in=2, refresh=False)
    made = await desk.mint()
    await asyncio.sleep(2.2)
    frame = (await broker.admit(ticket_of(made))).first_frame
    assert frame["dynamic_variables"][TOKEN] == "unavailable"
    assert token not in str(frame)


# Grants and handles


async def test_a_grant_says_who_and_what(desk: Desk, broker: Broker) -> None:
    await desk.connect()
    await desk.connect(integration="slack")
    await desk.profile(
        integrations=[{"integration": "google", "allow": [{"methods": ["GET"], "path": "/a"}]}]
    )
    made = await desk.mint(delivery="inline")
    held = await broker.held(bearer_of(made))
    assert held.kind == "grant"
    assert held.conversation.conversation_id == made["id"]
    assert (held.conversation.user_id, held.kept.environment) == ("ada", "production")
    assert held.connection("google") is not None
    assert held.connection("slack") is None  # connected, and not for this agent
    assert held.kept.profile is not None
    assert held.caller.actor_id == made["id"]


async def test_a_handle_is_honoured_only_beside_a_runtime_key_of_its_workspace(
    desk: Desk, broker: Broker, stranger: Tenant
) -> None:
    await desk.profile(**GATEWAY)
    handle = bearer_of(await desk.mint(delivery="handle"))
    runtime = (await desk.api.post("/v1/keys", {"name": "r", "scopes": ["runtime"]})).json["key"]
    body = {"name": "r", "scopes": ["runtime"]}
    theirs = (await stranger.api.post("/v1/keys", body)).json["key"]
    staging = {**body, "environments": ["staging"]}
    elsewhere = (await desk.api.post("/v1/keys", staging)).json["key"]
    minter = (await desk.api.post("/v1/keys", {"name": "m", "scopes": ["mint"]})).json["key"]
    assert (await broker.held(handle, runtime)).kind == "handle"
    for wrong in (None, "", theirs, handle, OPERATOR_KEY):
        with pytest.raises(Unauthenticated):
            await broker.held(handle, wrong)
    for narrow in (elsewhere, minter):
        with pytest.raises(Forbidden):
            await broker.held(handle, narrow)


async def test_no_route_of_ours_takes_a_grant_for_a_key(desk: Desk) -> None:
    await desk.connect()
    grant = bearer_of(await desk.mint(delivery="inline"))
    for path in ("/v1/conversations", "/v1/keys", "/v1/users/ada/connections"):
        reply = await desk.api.with_key(grant).get(path)
        assert reply.status == 401


# How they die


async def test_all_of_it_is_dead_when_the_conversation_ends(desk: Desk, broker: Broker) -> None:
    await desk.connect()
    inline, relayed = await desk.mint(delivery="inline"), await desk.mint()
    for made in (inline, relayed):
        await desk.api.post(f"/v1/conversations/{made['id']}/end")
    assert await is_dead(broker, bearer_of(inline))
    with pytest.raises(Unauthenticated):
        await broker.admit(ticket_of(relayed))


async def test_all_of_it_is_dead_when_the_user_is_deleted(desk: Desk, broker: Broker) -> None:
    await desk.connect()
    inline, relayed = await desk.mint(delivery="inline"), await desk.mint()
    assert (await desk.api.delete("/v1/users/ada")).status == 200
    assert await is_dead(broker, bearer_of(inline))
    with pytest.raises(Unauthenticated):
        await broker.admit(ticket_of(relayed))
    assert await desk.shown(inline["id"]) == 404


async def test_all_of_it_is_dead_when_the_key_that_minted_is_revoked(
    desk: Desk, broker: Broker
) -> None:
    await desk.connect()
    body = {"name": "m", "scopes": ["mint", "tokens:read"]}
    key = (await desk.api.post("/v1/keys", body)).json
    api = desk.api.with_key(key["key"])
    inline = (await desk.ask(api=api, delivery="inline")).json
    relayed = (await desk.ask(api=api)).json
    assert not await is_dead(broker, bearer_of(inline))
    assert (await desk.api.delete(f"/v1/keys/{key['id']}")).status == 204
    assert await is_dead(broker, bearer_of(inline))
    with pytest.raises(Unauthenticated):
        await broker.admit(ticket_of(relayed))


async def test_all_of_it_is_dead_when_its_time_is_over(
    desk: Desk, broker: Broker, admin: Any
) -> None:
    await desk.connect()
    inline, relayed = await desk.mint(delivery="inline"), await desk.mint()
    await admin.execute(
        "update vault.conversations set start_by = now(), expires_at = now()"
        " where workspace_id = $1",
        desk.tenant.id,
    )
    assert await is_dead(broker, bearer_of(inline))
    with pytest.raises(Unauthenticated):
        await broker.admit(ticket_of(relayed))
    assert (await desk.shown(inline["id"]))["state"] == "expired"


async def test_a_ticket_dies_after_a_quarter_of_an_hour_and_a_grant_lives_on(
    desk: Desk, broker: Broker, admin: Any
) -> None:
    await desk.connect()
    inline, relayed = await desk.mint(delivery="inline"), await desk.mint()
    await admin.execute(
        "update vault.conversations set start_by = now() where workspace_id = $1", desk.tenant.id
    )
    with pytest.raises(Unauthenticated):
        await broker.admit(ticket_of(relayed))
    assert not await is_dead(broker, bearer_of(inline))


async def test_all_of_it_is_dead_when_the_workspace_is_deleted(
    desk: Desk, broker: Broker, operator: Api
) -> None:
    await desk.connect()
    inline = await desk.mint(delivery="inline")
    assert (await operator.delete(f"/v1/workspaces/{desk.tenant.id}")).status == 204
    assert await is_dead(broker, bearer_of(inline))


@pytest.fixture
async def admin(migrated: Any) -> AsyncIterator[Any]:
    """A superuser, who can make time pass."""
    import asyncpg

    connection = await asyncpg.connect(migrated.dsn().reveal())
    yield connection
    await connection.close()


# Its course


async def test_a_conversation_ends_itself_and_no_other(desk: Desk, broker: Broker) -> None:
    await desk.connect()
    one, other = await desk.mint(), await desk.mint()
    admission = await broker.admit(ticket_of(one))
    await broker.conversation_began(admission.caller, one["id"], "conv_upstream")
    assert (await desk.shown(one["id"]))["state"] == "started"
    assert (await desk.shown(one["id"]))["conversation_id"] == "conv_upstream"
    for deed in (
        broker.end_conversation(admission.caller, other["id"]),
        broker.conversation_began(admission.caller, other["id"], "conv_x"),
    ):
        with pytest.raises(NotFound):
            await deed
    await broker.end_conversation(admission.caller, one["id"])
    await broker.end_conversation(admission.caller, one["id"])
    assert (await desk.shown(one["id"]))["state"] == "ended"
    assert (await desk.shown(other["id"]))["state"] == "prepared"


async def test_what_it_holds_is_held_until_it_ends(desk: Desk, admin: Any) -> None:
    await desk.connect()
    made = await desk.mint(delivery="inline")
    held = "select held_until > now() + interval '50 minutes' from vault.holds"
    of = f"{held} where workspace_id = $1 and holder = $2"
    assert await admin.fetchval(of, desk.tenant.id, made["id"]) is True
    await desk.api.post(f"/v1/conversations/{made['id']}/end")
    assert await admin.fetchval(of, desk.tenant.id, made["id"]) is None


async def test_a_mint_that_fails_holds_nothing(desk: Desk, admin: Any) -> None:
    await desk.connect()
    await desk.profile(integrations=[{"integration": "google"}, {"integration": "slack"}])
    assert (await desk.ask(delivery="inline")).status == 409
    count = "select count(*) from vault.holds where workspace_id = $1"
    assert await admin.fetchval(count, desk.tenant.id) == 0
    assert (await desk.api.get("/v1/conversations")).json["data"] == []


# Idempotency


async def test_a_repeated_request_is_the_same_conversation_with_new_bearers(
    desk: Desk, broker: Broker
) -> None:
    await desk.connect()
    first = await desk.mint(delivery="inline", key="k1")
    again = await desk.mint(delivery="inline", key="k1")
    assert again["id"] == first["id"]
    assert bearer_of(again) != bearer_of(first)
    assert await is_dead(broker, bearer_of(first))
    assert not await is_dead(broker, bearer_of(again))
    relayed, relayed_again = await desk.mint(key="k2"), await desk.mint(key="k2")
    assert relayed_again["id"] == relayed["id"] != first["id"]
    with pytest.raises(Unauthenticated):
        await broker.admit(ticket_of(relayed))
    assert (await broker.admit(ticket_of(relayed_again))).conversation_id == relayed["id"]
    assert len((await desk.api.get("/v1/conversations")).json["data"]) == 2
    told = [
        one for one in await desk.audited("conversation.mint") if one["target"]["id"] == first["id"]
    ]
    assert [one["outcome"] for one in told] == ["again", "ok"]
    assert told[0]["connection_ids"] == told[1]["connection_ids"] != []


async def test_what_has_begun_is_answered_without_its_bearers(desk: Desk, broker: Broker) -> None:
    await desk.connect()
    made = await desk.mint(key="k1")
    admission = await broker.admit(ticket_of(made))
    replayed = await desk.mint(key="k1")
    assert (replayed["id"], replayed["signed_url"], replayed["token"]) == (made["id"], None, None)
    grant = admission.first_frame["dynamic_variables"][GRANT].removeprefix("Bearer ")
    assert not await is_dead(broker, grant)


async def test_a_repeated_request_gets_what_the_first_one_got_whatever_the_profile_says_by_now(
    desk: Desk, broker: Broker
) -> None:
    await desk.connect()
    await desk.profile(**GATEWAY, delivery="inline")
    first = await desk.mint(key="k1")
    await desk.profile(**GATEWAY, delivery="handle")
    again = await desk.mint(key="k1")
    assert (again["id"], again["delivery"]) == (first["id"], "inline")
    assert bearer_of(again).startswith("ktg_")
    assert await is_dead(broker, bearer_of(first))
    assert not await is_dead(broker, bearer_of(again))


async def test_another_body_under_the_same_key_is_a_mismatch(desk: Desk) -> None:
    await desk.mint(key="k1")
    assert await desk.refused(key="k1", environment="staging") == (422, "idempotency_mismatch")


async def test_many_at_once_with_one_key_make_one_conversation(desk: Desk) -> None:
    await desk.connect()
    replies = await asyncio.gather(*(desk.ask(key="k1") for _ in range(10)))
    codes = {one.status for one in replies}
    assert codes <= {201, 409}
    ids = {one.json["id"] for one in replies if one.status == 201}
    assert len(ids) == 1
    assert len((await desk.api.get("/v1/conversations")).json["data"]) == 1


# Told apart by nothing


async def test_every_refusal_of_a_bearer_is_the_same(desk: Desk, broker: Broker) -> None:
    await desk.connect()
    made = await desk.mint(delivery="inline")
    await desk.api.post(f"/v1/conversations/{made['id']}/end")
    said = set()
    for bearer in (bearer_of(made), "ktg_" + "0" * 49, "nothing"):
        try:
            await broker.held(bearer)
        except VaultError as error:
            said.add((type(error), error.message))
    assert len(said) == 1
