"""Minting for LiveKit: a way into the conversation's own room, with a handle for its agent."""

import json
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest
from conftest import Tenant
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import OctKey
from support.minting import GATEWAY, Desk, minting
from support.sandbox import Provider

PLACE = "/v1/upstreams/livekit"
LIVEKIT = {"runtime": "livekit"}
URL = "wss://acme.livekit.cloud"
GRANT = "secret__keyturn_authorization"


def project(**more: Any) -> dict[str, Any]:
    """A project that nobody else in this run has."""
    pair = {"api_key": f"API{uuid.uuid4().hex}", "api_secret": uuid.uuid4().hex * 2}
    return {"url": URL, **pair, **more}


@pytest.fixture
async def desk(tenant: Tenant, provider: Provider) -> AsyncIterator[Desk]:
    async with minting(tenant, provider, upstream=False) as found:
        await found.user()
        await found.profile(**GATEWAY)
        yield found


async def named(desk: Desk, **more: Any) -> dict[str, Any]:
    body = project(**more)
    reply = await desk.api.put(PLACE, body)
    assert reply.status == 201, reply.body
    return body


def claims_of(token: str, secret: str) -> dict[str, Any]:
    return dict(jwt.decode(token, OctKey.import_key(secret), ["HS256"]).claims)


# The project


async def test_a_project_is_named_shown_without_its_secret_and_forgotten(tenant: Tenant) -> None:
    assert (await tenant.api.get(PLACE)).code == "not_found"
    body = project()
    made = await tenant.api.put(PLACE, body)
    assert made.status == 201, made.body
    read = await tenant.api.get(PLACE)
    assert read.json == made.json
    assert (read.json["url"], read.json["api_key"]) == (URL, body["api_key"])
    assert body["api_secret"] not in made.body.decode()
    again = await tenant.api.put(PLACE, {**body, "url": "wss://other.livekit.cloud/"})
    assert (again.status, again.json["url"]) == (200, "wss://other.livekit.cloud")
    assert (await tenant.api.delete(PLACE)).status == 204
    assert (await tenant.api.delete(PLACE)).code == "not_found"
    found = (await tenant.api.get("/v1/audit-events?limit=3")).json["data"]
    assert [(one["action"], one["target"]["id"]) for one in found] == [
        ("upstream.delete", "livekit"),
        ("upstream.write", "livekit"),
        ("upstream.write", "livekit"),
    ]


async def test_a_project_belongs_to_one_workspace_and_its_public_key_claims_nothing(
    tenant: Tenant, stranger: Tenant
) -> None:
    body = project()
    await tenant.api.put(PLACE, body)
    assert (await stranger.api.put(PLACE, body)).code == "conflict"
    # The API key stands in every token: who read it there is told nothing, and gets nothing.
    guessed = {**body, "api_secret": "a-guess"}
    assert (await stranger.api.put(PLACE, guessed)).status == 201
    assert (await tenant.api.get(PLACE)).json["url"] == URL


async def test_it_stands_beside_the_account_at_elevenlabs(tenant: Tenant) -> None:
    account = {"base_url": "http://127.0.0.1:9", "api_key": f"xi-{uuid.uuid4().hex}"}
    assert (await tenant.api.put("/v1/upstreams/elevenlabs", account)).status == 201
    assert (await tenant.api.put(PLACE, project())).status == 201
    assert (await tenant.api.delete("/v1/upstreams/elevenlabs")).status == 204
    assert (await tenant.api.get(PLACE)).status == 200


@pytest.mark.parametrize(
    "body",
    [
        project(url="https://acme.livekit.cloud"),
        project(url="wss://user:pw@acme.livekit.cloud"),
        project(url="ws://169.254.169.254"),
        project(url="wss://acme.livekit.cloud/?x=1"),
        project(url=""),
        project(api_secret="with space"),
        project(api_secret=""),
        {"url": URL, "api_key": "APIx"},
    ],
)
async def test_what_nobody_could_join_is_refused_without_being_repeated(
    tenant: Tenant, body: dict[str, Any]
) -> None:
    refused = await tenant.api.put(PLACE, body)
    assert (refused.status, refused.code) == (422, "invalid")
    assert (body.get("api_secret") or "nothing") not in refused.body.decode()


# Minting


async def test_a_room_is_joined_with_a_token_whose_metadata_holds_a_handle_alone(
    desk: Desk,
) -> None:
    access = await desk.connect(environment="staging")
    body = await named(desk)
    made = await desk.mint(**LIVEKIT, environment="staging")
    assert (made["runtime"], made["delivery"]) == ("livekit", "handle")
    assert (made["server_url"], made["signed_url"]) == (URL, None)
    claims = claims_of(made["token"], body["api_secret"])
    assert (claims["iss"], claims["sub"]) == (body["api_key"], "ada")
    assert claims["exp"] - claims["nbf"] == 900
    assert (claims["video"]["room"], claims["video"]["roomJoin"]) == (made["id"], True)
    [agent] = claims["roomConfig"]["agents"]
    assert agent["agentName"] == made["agent_id"]
    metadata = json.loads(agent["metadata"])
    assert metadata == {
        "keyturn_conversation_id": made["id"],
        "keyturn_handle": made["dynamic_variables"][GRANT].removeprefix("Bearer "),
        "environment": "staging",
    }
    assert access not in json.dumps([made, claims])


async def test_the_handle_in_the_metadata_is_honoured_beside_the_runtime_key_alone(
    desk: Desk,
) -> None:
    await desk.connect()
    body = await named(desk)
    made = await desk.mint(**LIVEKIT)
    [agent] = claims_of(made["token"], body["api_secret"])["roomConfig"]["agents"]
    handle = desk.api.with_key(json.loads(agent["metadata"])["keyturn_handle"])
    asked = {"integration": "google"}
    assert (await handle.post("/tokens/refresh", asked)).status == 401
    runtime = (await desk.api.post("/v1/keys", {"name": "r", "scopes": ["runtime"]})).json["key"]
    beside = {"X-Keyturn-Runtime": runtime}
    reply = await handle.post("/tokens/refresh", asked, headers=beside)
    assert (reply.status, reply.json["status"]) == (200, "current")
    assert (await desk.api.post(f"/v1/conversations/{made['id']}/end")).status == 200
    assert (await handle.post("/tokens/refresh", asked, headers=beside)).status == 401


async def test_the_runtime_may_be_the_profiles(desk: Desk) -> None:
    await desk.profile(**GATEWAY, **LIVEKIT)
    await named(desk)
    made = await desk.mint(channel="webrtc")
    assert made["token"]
    assert made["server_url"] == URL


async def test_without_a_project_nobody_can_sign(desk: Desk) -> None:
    assert await desk.refused(**LIVEKIT) == (409, "upstream_missing")
    account = {"base_url": "http://127.0.0.1:9", "api_key": f"xi-{uuid.uuid4().hex}"}
    assert (await desk.api.put("/v1/upstreams/elevenlabs", account)).status == 201
    refused = await desk.ask(runtime="livekit")
    assert (refused.status, refused.code) == (409, "upstream_missing")
    assert "PUT /v1/upstreams/livekit" in refused.json["detail"]
    assert "elevenlabs" not in refused.json["detail"]


async def test_another_workspaces_project_signs_for_nobody_here(
    desk: Desk, stranger: Tenant
) -> None:
    assert (await stranger.api.put(PLACE, project())).status == 201
    assert await desk.refused(**LIVEKIT) == (409, "upstream_missing")


async def test_a_repeated_request_gets_a_token_with_a_new_handle_for_the_same_room(
    desk: Desk,
) -> None:
    body = await named(desk)
    first, again = [(await desk.ask(runtime="livekit", key="once")).json for _ in range(2)]
    assert first["id"] == again["id"]
    one, two = (claims_of(made["token"], body["api_secret"]) for made in (first, again))
    assert one["video"] == two["video"]
    assert one["roomConfig"] != two["roomConfig"]


async def test_a_replaced_secret_signs_what_comes_next(desk: Desk) -> None:
    body = await named(desk)
    other = {**body, "api_secret": "another-secret-of-the-same-project-0123456789"}
    assert (await desk.api.put(PLACE, other)).status == 200
    token = (await desk.mint(**LIVEKIT))["token"]
    assert claims_of(token, other["api_secret"])["iss"] == body["api_key"]
    with pytest.raises(JoseError):
        claims_of(token, body["api_secret"])
