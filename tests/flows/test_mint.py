"""Minting: what a conversation starts with, by every delivery, through the service's own routes."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from conftest import Tenant
from support.eleven import AGENT
from support.minting import GATEWAY, SEALED, Desk, minting
from support.sandbox import Provider

from broker.sandbox import Faults

TOKEN = "secret__user_google_token"
HEADER = "secret__user_google_authorization"
GRANT = "secret__keyturn_authorization"


@pytest.fixture
async def desk(tenant: Tenant, provider: Provider) -> AsyncIterator[Desk]:
    async with minting(tenant, provider) as found:
        await found.user(attributes={"plan": "pro"})
        yield found


def secrets_of(made: Any) -> dict[str, str]:
    return {k: v for k, v in made["dynamic_variables"].items() if k.startswith("secret__")}


# inline


async def test_inline_gives_the_client_what_the_agent_needs(desk: Desk) -> None:
    token = await desk.connect()
    made = await desk.mint(delivery="inline")
    assert made["id"].startswith("kcv_")
    assert (made["agent_id"], made["user_id"]) == (AGENT, "ada")
    assert (made["environment"], made["runtime"], made["delivery"]) == (
        "production",
        "elevenlabs",
        "inline",
    )
    assert made["signed_url"].startswith("ws")
    assert made["token"] is None
    assert made["conversation_id"].startswith("conv_")
    variables = made["dynamic_variables"]
    assert variables[TOKEN] == token
    assert variables[HEADER] == f"Bearer {token}"
    assert variables["user_google_generation"] == 1
    assert (variables["user_id"], variables["user_name"], variables["plan"]) == (
        "ada",
        "Ada",
        "pro",
    )
    assert variables["keyturn_conversation_id"] == made["id"]
    assert variables[GRANT].startswith("Bearer ktg_")
    [google] = made["connections"]
    assert google["integration"] == "google"
    assert google["status"] == "ready"
    assert (google["degraded"], google["stale"], google["refresh_required"]) == (False,) * 3
    assert google["generation"] == 1
    assert 3500 < google["expires_in"] <= 3600
    assert set(google["variables"]) == {TOKEN, HEADER, "user_google_generation"}
    assert made["missing"] == []


@pytest.mark.parametrize("left", [1, 60, 890])
async def test_a_token_that_was_brought_along_with_little_left_is_refreshed_first(
    desk: Desk, left: int
) -> None:
    token = await desk.connect(expires_in=left)
    made = await desk.mint(delivery="inline")
    [google] = made["connections"]
    assert (google["generation"], google["refresh_required"]) == (2, False)
    assert made["dynamic_variables"][TOKEN] != token


async def test_one_with_little_left_that_nobody_can_refresh_is_degraded(desk: Desk) -> None:
    token = await desk.connect(expires_in=600, refresh=False)
    made = await desk.mint(delivery="inline")
    assert made["dynamic_variables"][TOKEN] == token
    assert made["connections"][0]["degraded"] is True


async def test_over_webrtc_inline_gives_a_token_and_no_address(desk: Desk) -> None:
    await desk.connect()
    made = await desk.mint(delivery="inline", channel="webrtc")
    assert made["signed_url"] is None
    assert made["token"].count(".") == 2
    assert made["conversation_id"].startswith("conv_")


async def test_the_runtime_is_told_environment_and_branch(desk: Desk) -> None:
    await desk.connect(environment="staging")
    await desk.mint(delivery="inline", environment="staging", branch_id="br_7")
    [asked] = desk.asked("get-signed-url")
    assert asked == {
        "agent_id": AGENT,
        "environment": "staging",
        "branch_id": "br_7",
        "include_conversation_id": "true",
    }


async def test_the_conversation_can_really_be_held(desk: Desk) -> None:
    await desk.connect()
    made = await desk.mint(delivery="inline")
    async with desk.eleven.talking(made["signed_url"], made["dynamic_variables"]) as talk:
        assert talk.conversation_id == made["conversation_id"]


async def test_a_configuration_is_resolved_as_either_name_of_the_conversation_says(
    desk: Desk, stranger: Tenant
) -> None:
    await desk.connect()
    made = await desk.mint(delivery="inline")
    header = {"X-User": {"variable_name": "user_name"}}
    schema = {"url": "https://api.example/me", "request_headers": header}
    config = {"type": "webhook", "name": "get", "description": "Gets.", "api_schema": schema}
    asked = {"kind": "server_tool", "config": config}
    shown = [
        await desk.api.post("/v1/resolve", {**asked, "conversation_id": named})
        for named in (made["id"], made["conversation_id"])
    ]
    assert {one.status for one in shown} == {200}, shown[1].body
    assert shown[0].json == shown[1].json
    assert shown[1].json["request"]["headers"]["X-User"] == "Ada"
    asked["conversation_id"] = made["conversation_id"]
    assert (await stranger.api.post("/v1/resolve", asked)).code == "not_found"
    asked["conversation_id"] = "conv_of_nobody"
    assert (await desk.api.post("/v1/resolve", asked)).code == "not_found"


async def test_inline_needs_tokens_read_beside_mint(desk: Desk) -> None:
    await desk.connect()
    minter = await desk.key("mint")
    assert await desk.refused(api=minter, delivery="inline") == (403, "forbidden")
    both = await desk.key("mint", "tokens:read")
    assert (await desk.ask(api=both, delivery="inline")).status == 201
    reader = await desk.key("tokens:read")
    assert await desk.refused(api=reader, delivery="inline") == (403, "forbidden")


# relay


async def test_relay_is_the_default_and_shows_no_secret(desk: Desk) -> None:
    token = await desk.connect()
    minter = await desk.key("mint")
    reply = await desk.ask(api=minter)
    made = reply.json
    assert made["delivery"] == "relay"
    assert made["token"] is None
    assert token.encode() not in reply.body
    assert b"ktg_" not in reply.body
    assert secrets_of(made) == {}
    url = urlsplit(made["signed_url"])
    assert url.path == "/v1/convai/conversation"
    assert parse_qs(url.query)["agent_id"] == [AGENT]
    assert made["dynamic_variables"]["user_name"] == "Ada"
    assert made["connections"][0]["variables"][0] == TOKEN


# handle


async def test_a_handle_needs_a_profile_that_sends_tools_through_the_gateway(desk: Desk) -> None:
    await desk.connect()
    assert await desk.refused(delivery="handle") == (422, "delivery_needs_gateway")
    await desk.profile(**GATEWAY)
    made = await desk.mint(delivery="handle", channel="webrtc")
    secrets = secrets_of(made)
    assert secrets.pop(GRANT).startswith("Bearer kth_")
    assert set(secrets.values()) == {"unavailable"}
    assert TOKEN in secrets
    assert made["dynamic_variables"]["user_google_generation"] == 1


async def test_over_webrtc_the_handle_is_the_default(desk: Desk) -> None:
    assert await desk.refused(channel="webrtc") == (422, "delivery_needs_gateway")
    await desk.profile(**GATEWAY)
    assert (await desk.mint(channel="webrtc"))["delivery"] == "handle"


# Which delivery is possible where


@pytest.mark.parametrize(
    ("runtime", "channel", "delivery"),
    [
        ("elevenlabs", "webrtc", "relay"),
        ("elevenlabs", "websocket", "sealed"),
        ("livekit", "websocket", "relay"),
        ("livekit", "webrtc", "inline"),
        ("sealed", "websocket", "relay"),
    ],
)
async def test_what_a_runtime_cannot_take_is_refused(
    desk: Desk, runtime: str, channel: str, delivery: str
) -> None:
    refused = await desk.refused(runtime=runtime, channel=channel, delivery=delivery)
    assert refused == (422, "delivery_not_possible")


async def test_server_is_no_delivery_that_anybody_can_ask_for(desk: Desk) -> None:
    for runtime in ("elevenlabs", "livekit", "sealed"):
        refused = await desk.refused(runtime=runtime, delivery="server")
        assert refused == (422, "delivery_not_possible")
    wanted = {"agent_id": AGENT, "user_id": "ada", "delivery": "server"}
    reply = await desk.api.post("/v1/conversations/prepare", wanted)
    assert (reply.status, reply.code) == (422, "delivery_not_possible")


async def test_the_sealed_runtime_needs_no_upstream(desk: Desk) -> None:
    token = await desk.connect()
    assert (await desk.api.delete("/v1/upstreams/elevenlabs")).status == 204
    refused = await desk.ask(delivery="inline")
    assert (refused.status, refused.code) == (409, "upstream_missing")
    assert "PUT /v1/upstreams/elevenlabs" in refused.json["detail"]
    made = await desk.mint(runtime="sealed", delivery="inline")
    assert made["dynamic_variables"][TOKEN] == token
    assert (made["token"], made["signed_url"], made["conversation_id"]) == (None, None, None)


async def test_a_sealed_token_without_a_public_key_is_redeemed_once(desk: Desk) -> None:
    token = await desk.connect()
    await desk.profile(**SEALED)
    made = await desk.mint()
    assert made["delivery"] == "sealed"
    assert secrets_of(made) == {}
    assert made["token"].startswith("kts_")
    redeemer = await desk.key("redeem")
    redeemed = await redeemer.post("/v1/conversations/redeem", {"token": made["token"]})
    assert redeemed.status == 200
    assert redeemed.headers["Cache-Control"] == "no-store"
    assert redeemed.json["dynamic_variables"][TOKEN] == token
    assert redeemed.json["id"] == made["id"]
    again = await redeemer.post("/v1/conversations/redeem", {"token": made["token"]})
    assert (again.status, again.code) == (404, "not_found")


# Who and where


async def test_an_unknown_user_is_not_found(desk: Desk) -> None:
    assert await desk.refused("nobody") == (404, "not_found")


async def test_a_key_that_is_tied_to_an_environment_means_that_one(desk: Desk) -> None:
    await desk.connect(environment="staging")
    tied = await desk.key("mint", "tokens:read", environments=["staging"])
    made = (await desk.ask(api=tied, delivery="inline")).json
    assert made["environment"] == "staging"
    assert len(made["connections"]) == 1
    refused = await desk.refused(api=tied, environment="production", delivery="inline")
    assert refused == (403, "forbidden")


async def test_connections_of_people_do_not_fall_back_unless_they_are_shared(desk: Desk) -> None:
    token = await desk.connect()
    made = await desk.mint(delivery="inline", environment="staging")
    assert made["connections"] == []
    assert TOKEN not in made["dynamic_variables"]
    given = (await desk.api.get("/v1/integrations/google")).json
    body = {
        "provider": "oidc",
        "client_id": given["client_id"],
        "client_secret": "the-secret-of-the-app",
        "variables": {"issuer": desk.provider.base},
        "share_connections": True,
    }
    assert (await desk.api.put("/v1/integrations/google", body)).status == 200
    shared = await desk.mint(delivery="inline", environment="staging")
    assert shared["dynamic_variables"][TOKEN] == token
    mine = await desk.connect(environment="staging")
    own = await desk.mint(delivery="inline", environment="staging")
    assert own["dynamic_variables"][TOKEN] == mine


# What is missing


async def test_what_the_profile_requires_stops_the_mint_and_says_why(desk: Desk) -> None:
    await desk.profile(integrations=[{"integration": "google"}, {"integration": "slack"}])
    await desk.connect()
    reply = await desk.ask(delivery="inline")
    assert (reply.status, reply.code) == (409, "connection_missing")
    assert reply.json["missing"] == [
        {"integration": "slack", "reason": "not_connected", "connect_url": None}
    ]
    assert reply.json["action"] == "reconnect"
    made = await desk.mint(delivery="inline", on_missing="omit")
    assert [one["integration"] for one in made["missing"]] == ["slack"]
    # Every declared variable is there: a missing one kills the call at its start.
    assert made["dynamic_variables"]["secret__user_slack_token"] == "unavailable"


async def test_what_is_to_be_done_is_what_mends_what_is_required(desk: Desk) -> None:
    optional = {"integration": "slack", "required": False}
    await desk.profile(integrations=[{"integration": "google"}, optional])
    await desk.connect(expires_in=1)
    await asyncio.sleep(1.1)
    desk.provider.misbehave(Faults(status=503))
    reply = await desk.ask(delivery="inline")
    assert [one["reason"] for one in reply.json["missing"]] == [
        "provider_unavailable",
        "not_connected",
    ]
    assert (reply.status, reply.json["action"], reply.json["retry_after"]) == (409, "retry", 2)
    assert reply.headers["Retry-After"] == "2"


async def test_who_set_an_integration_up_mends_one_that_is_paused(desk: Desk) -> None:
    await desk.profile(integrations=[{"integration": "google"}])
    await desk.connect(expires_in=1)
    await asyncio.sleep(1.1)
    desk.provider.state.clients.clear()
    reply = await desk.ask(delivery="inline")
    assert [one["reason"] for one in reply.json["missing"]] == ["integration_paused"]
    assert (reply.status, reply.json["action"]) == (409, "fix_configuration")


async def test_a_link_is_made_for_what_a_person_can_mend(desk: Desk) -> None:
    await desk.profile(integrations=[{"integration": "slack"}])
    reply = await desk.ask(connect_links=True)
    [missing] = reply.json["missing"]
    assert "/connect/ktc_" in missing["connect_url"]
    page = await desk.api.get(urlsplit(missing["connect_url"]).path)
    assert page.status == 200
    minter = await desk.key("mint")
    assert await desk.refused(api=minter, connect_links=True) == (403, "forbidden")


async def test_what_is_not_required_is_left_out_and_said(desk: Desk) -> None:
    await desk.profile(integrations=[{"integration": "slack", "required": False}])
    made = await desk.mint(delivery="inline")
    assert made["missing"] == [
        {"integration": "slack", "reason": "not_connected", "connect_url": None}
    ]


async def test_too_few_scopes_are_missing_ones(desk: Desk) -> None:
    await desk.profile(integrations=[{"integration": "google", "scopes": ["calendar"]}])
    await desk.connect(scopes=["email"])
    reply = await desk.ask(delivery="inline")
    assert reply.json["missing"][0]["reason"] == "scope_missing"
    await desk.connect(scopes=["email", "calendar"])
    assert (await desk.ask(delivery="inline")).status == 201


async def test_an_expired_token_that_nothing_renews_is_never_handed_out(
    desk: Desk,
) -> None:
    token = await desk.connect(expires_in=2, refresh=False)
    await asyncio.sleep(2.2)
    reply = await desk.ask(delivery="inline", integrations=["google"])
    assert reply.json["missing"][0]["reason"] == "expired"
    assert token.encode() not in reply.body


# Variables


async def test_a_caller_gives_variables_of_its_own_and_takes_no_name_of_ours(desk: Desk) -> None:
    await desk.connect()
    made = await desk.mint(delivery="inline", dynamic_variables={"topic": "bills", "n": 3})
    assert (made["dynamic_variables"]["topic"], made["dynamic_variables"]["n"]) == ("bills", 3)
    for name in (TOKEN, "secret__x", "system__time", "user_id", "user_google_generation", GRANT):
        refused = await desk.refused(delivery="inline", dynamic_variables={name: "mine"})
        assert refused == (422, "invalid"), name


async def test_a_profile_renames_narrows_and_adds(desk: Desk) -> None:
    token = await desk.connect()
    await desk.connect(integration="slack")
    await desk.profile(
        integrations=[{"integration": "google"}],
        variables={
            "secret__g": {"from": "connection", "integration": "google", "field": "token"},
            "tier": {"from": "user", "attribute": "plan"},
            "host": {"from": "environment", "label": "crm_host", "default": "none.example"},
            "lang": {"value": "de"},
        },
    )
    variables = (await desk.mint(delivery="inline"))["dynamic_variables"]
    assert variables["secret__g"] == token
    assert (variables["tier"], variables["host"], variables["lang"]) == (
        "pro",
        "none.example",
        "de",
    )
    assert TOKEN not in variables
    assert "secret__user_slack_token" not in variables


async def test_a_label_comes_from_the_environment_and_its_absence_is_said(desk: Desk) -> None:
    await desk.profile(variables={"host": {"from": "environment", "label": "crm_host"}})
    assert await desk.refused(delivery="inline") == (422, "unresolved")
    values = {"production": "crm.example", "staging": "crm.staging.example"}
    body = {"type": "string", "label": "crm_host", "values": values}
    await desk.api.post("/v1/convai/environment-variables", body)
    there = await desk.mint(delivery="inline", environment="staging")
    assert there["dynamic_variables"]["host"] == "crm.staging.example"


# Time


async def test_it_starts_within_a_quarter_of_an_hour_and_lasts_an_hour_unless_said(
    desk: Desk,
) -> None:
    now = datetime.now(UTC)
    made = await desk.mint()
    assert timedelta(minutes=14) < instant(made["start_by"]) - now < timedelta(minutes=16)
    assert timedelta(minutes=59) < instant(made["expires_at"]) - now < timedelta(minutes=61)
    long = await desk.mint(expires_in=8 * 3600)
    assert instant(long["expires_at"]) - now > timedelta(hours=7, minutes=59)
    assert await desk.refused(expires_in=8 * 3600 + 1) == (422, "invalid")


def instant(text: str) -> datetime:
    return datetime.fromisoformat(text)


# The record, and who may look


async def test_the_record_says_who_minted_and_what_the_conversation_took(desk: Desk) -> None:
    await desk.connect()
    made = await desk.mint(delivery="inline")
    [minted] = await desk.audited("conversation.mint")
    assert minted["target"]["id"] == made["id"] if "target" in minted else minted["target_id"]
    [connection] = (await desk.api.get("/v1/users/ada/connections")).json["data"]
    assert minted["connection_ids"] == [connection["id"]]
    await desk.mint()
    last, _ = await desk.audited("conversation.mint")
    assert last["connection_ids"] == []  # the relay has asked for nothing yet
    assert await desk.audited("connection.token") == []


async def test_conversations_are_listed_newest_first_and_narrowed(
    desk: Desk, stranger: Tenant
) -> None:
    await desk.user("bob")
    first, second = await desk.mint(), await desk.mint("bob", environment="staging")
    listed = (await desk.api.get("/v1/conversations")).json["data"]
    assert [one["id"] for one in listed] == [second["id"], first["id"]]
    for query, wanted in (
        ("user_id=ada", [first["id"]]),
        ("environment=staging", [second["id"]]),
        ("agent_id=another", []),
        (f"agent_id={AGENT}&user_id=bob", [second["id"]]),
    ):
        found = (await desk.api.get(f"/v1/conversations?{query}")).json["data"]
        assert [one["id"] for one in found] == wanted
    page = (await desk.api.get("/v1/conversations?limit=1")).json
    rest = (await desk.api.get(f"/v1/conversations?cursor={page['next_cursor']}")).json
    assert [one["id"] for one in rest["data"]] == [first["id"]]
    assert (await stranger.api.get("/v1/conversations")).json["data"] == []
    theirs = await stranger.api.get(f"/v1/conversations/{first['id']}")
    never = await stranger.api.get("/v1/conversations/kcv_01k9v7q3x8w2r5t6y7z8a9b0c1")
    assert theirs.status == never.status == 404


async def test_ending_is_done_once_and_may_be_asked_for_again(desk: Desk) -> None:
    made = await desk.mint()
    for _ in range(2):
        ended = await desk.api.post(f"/v1/conversations/{made['id']}/end")
        assert (ended.status, ended.json["state"]) == (200, "ended")
    assert len(await desk.audited("conversation.end")) == 1
