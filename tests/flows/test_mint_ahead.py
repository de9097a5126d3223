"""Before and beside a mint: preparing, readiness, and the routes of ElevenLabs that lead here."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from conftest import Tenant
from support.eleven import AGENT, Outside, outside
from support.journeys import Clock
from support.minting import GATEWAY, Desk, minting
from support.sandbox import Provider

from broker.admission import TICKET
from broker.broker import Broker
from broker.sandbox import Faults
from broker.upstreams.client import MAX_ANSWER
from vault.vault import Vault

CONVERSATION = "/v1/convai/conversation"
TOKEN = "secret__user_google_token"


@pytest.fixture
async def desk(tenant: Tenant, provider: Provider) -> AsyncIterator[Desk]:
    async with minting(tenant, provider) as found:
        await found.user()
        yield found


async def elsewhere(desk: Desk, server: Outside) -> None:
    """Name another account, which answers as it is told."""
    body = {"base_url": server.base, "api_key": f"xi-{uuid.uuid4().hex}"}
    assert (await desk.api.put("/v1/upstreams/elevenlabs", body)).status == 200


async def prepare(desk: Desk, user: str = "ada", **wanted: Any) -> Any:
    body = {"agent_id": AGENT, "user_id": user, **wanted}
    return await desk.api.post("/v1/conversations/prepare", body)


async def ready(desk: Desk, *users: str, **wanted: Any) -> Any:
    body = {"agent_id": AGENT, "user_ids": list(users), **wanted}
    reply = await desk.api.post("/v1/readiness", body)
    assert reply.status == 200, reply.body
    return reply.json


# Lasting


async def past_half(desk: Desk, clock: Clock) -> str:
    """A token of whose life more than half is over."""
    token = await desk.connect()
    await clock.leave((await desk.connection())["id"], seconds=600)
    return token


async def test_a_token_that_would_not_last_is_refreshed_before_it_is_handed_out(
    desk: Desk, clock: Clock
) -> None:
    token = await past_half(desk, clock)
    made = await desk.mint(delivery="inline")
    [google] = made["connections"]
    assert google["generation"] == 2
    assert not google["degraded"]
    assert made["dynamic_variables"][TOKEN] != token


async def test_a_provider_that_is_down_does_not_matter_while_the_token_lives(
    desk: Desk, clock: Clock
) -> None:
    token = await past_half(desk, clock)
    desk.provider.misbehave(Faults(status=503))
    made = await desk.mint(delivery="inline")
    [google] = made["connections"]
    assert google["degraded"]
    assert google["refresh_required"]
    assert made["dynamic_variables"][TOKEN] == token


async def test_a_slow_provider_is_waited_for_as_long_as_was_said(desk: Desk, clock: Clock) -> None:
    token = await past_half(desk, clock)
    async with desk.provider.keeping(unheard=True), asyncio.timeout(60):
        made = await desk.mint(delivery="inline", max_wait_ms=200)
    assert made["connections"][0]["degraded"]
    assert made["dynamic_variables"][TOKEN] == token


# Preparing


async def test_preparing_refreshes_and_makes_nothing(desk: Desk, clock: Clock) -> None:
    await past_half(desk, clock)
    await desk.profile(integrations=[{"integration": "google"}, {"integration": "slack"}])
    reply = await prepare(desk)
    assert reply.status == 202
    assert [one["integration"] for one in reply.json["missing"]] == ["slack"]
    async with asyncio.timeout(60):
        while (await desk.connection())["generation"] == 1:  # noqa: ASYNC110 - a refresh tells nobody
            await asyncio.sleep(0.05)
    assert (await desk.api.get("/v1/conversations")).json["data"] == []
    assert desk.asked("get-signed-url") == []
    assert await desk.audited("connection.token") == []


async def test_what_was_prepared_is_kept_fresh_until_a_conversation_could_start(
    desk: Desk,
) -> None:
    await desk.connect()
    await desk.connect("bob")
    assert (await prepare(desk)).status == 202
    told = await desk.audited("connection.expect")
    assert [one["target"]["id"] for one in told] == [(await desk.connection())["id"]]


async def test_a_key_of_one_environment_prepares_what_is_shared_with_it(desk: Desk) -> None:
    shared = {"provider": "api-key", "share_connections": True}
    shared["variables"] = {"api_base_url": "https://api.example.com"}
    assert (await desk.api.put("/v1/integrations/shared", shared)).status == 201
    kept = await desk.api.put("/v1/users/ada/connections/shared", {"api_key": "k"})
    assert kept.status == 200, kept.body
    narrow = await desk.key("mint", environments=["staging"])
    body = {"agent_id": AGENT, "user_id": "ada", "integrations": ["shared"]}
    assert (await narrow.post("/v1/conversations/prepare", body)).status == 202
    [told] = await desk.audited("connection.expect")
    assert told["target"]["id"] == (await desk.connection(integration="shared"))["id"]


async def test_preparing_for_nobody_is_not_found(desk: Desk) -> None:
    assert (await prepare(desk, "nobody")).status == 404


# Readiness


async def test_readiness_says_who_is_ready_and_what_the_others_lack(desk: Desk) -> None:
    await desk.profile(
        integrations=[
            {"integration": "google", "scopes": ["calendar"]},
            {"integration": "slack", "required": False},
        ]
    )
    for user, scopes in (("ada", ["calendar"]), ("bob", ["email"])):
        await desk.user(user)
        await desk.connect(user, scopes=scopes)
    await desk.user("eve")
    found = await ready(desk, "bob", "ada", "eve", "nobody")
    assert found["environment"] == "production"
    told = {one["user_id"]: one for one in found["data"]}
    assert list(told) == ["bob", "ada", "eve", "nobody"]
    assert [one["status"] for one in told.values()] == ["missing", "ready", "missing", "unknown"]
    assert told["ada"]["ready"] == ["google"]
    assert told["bob"]["missing"][0]["reason"] == "scope_missing"
    assert told["eve"]["missing"][0]["reason"] == "not_connected"
    assert (await ready(desk, "ada", environment="staging"))["data"][0]["status"] == "missing"


async def test_readiness_makes_a_link_for_each_who_lacks_something(desk: Desk) -> None:
    await desk.profile(integrations=[{"integration": "google"}, {"integration": "nowhere"}])
    await desk.user("bob")
    await desk.connect("bob")
    found = await ready(desk, "ada", "bob", "nobody", connect_links=True)
    told = {one["user_id"]: one for one in found["data"]}
    google, nowhere = told["ada"]["missing"]
    assert (await desk.api.get(urlsplit(google["connect_url"]).path)).status == 200
    assert nowhere["connect_url"] is None  # there is no such integration to connect
    assert [one["connect_url"] for one in told["bob"]["missing"]] == [None]
    assert told["nobody"]["missing"] == []
    sessions = (await desk.api.get("/v1/connect-sessions")).json["data"]
    assert [one["user_id"] for one in sessions] == ["ada"]
    assert len(await desk.audited("connect_session.write")) == 1
    minter = await desk.key("mint")
    body = {"agent_id": AGENT, "user_ids": ["ada"], "connect_links": True}
    assert (await minter.post("/v1/readiness", body)).status == 403


async def test_ten_thousand_at_once_are_few_statements(desk: Desk) -> None:
    users = [f"someone-with-a-long-id-{number:06}" for number in range(9_999)]
    found = await ready(desk, *users, "ada")
    assert len(found["data"]) == 10_000
    assert found["data"][-1]["status"] == "ready"
    body = {"agent_id": AGENT, "user_ids": [*users, "ada", "bob"]}
    assert (await desk.api.post("/v1/readiness", body)).code == "invalid"
    assert len(await desk.audited("readiness.read")) == 1


async def test_readiness_warns_of_a_host_beside_the_secret_of_another_environment(
    desk: Desk,
) -> None:
    secret = {"type": "new", "name": "crm", "value": "s3cret"}
    secret_id = (await desk.api.post("/v1/convai/secrets", secret)).json["secret_id"]
    for body in (
        {"type": "string", "label": "crm_host", "values": {"production": "a", "staging": "b"}},
        {"type": "secret", "label": "crm_key", "values": {"production": {"secret_id": secret_id}}},
    ):
        made = await desk.api.post("/v1/convai/environment-variables", body)
        assert made.status == 200, made.body
    told = (await ready(desk, "ada", environment="staging"))["warnings"]
    pairs = [(one["host"], one["secret"]) for one in told if one["host"]]
    assert pairs == [("crm_host", "crm_key")]
    told = (await ready(desk, "ada"))["warnings"]
    assert [one for one in told if one["host"]] == []


# The routes of ElevenLabs


async def test_without_a_user_the_answer_of_the_account_is_passed_on(desk: Desk) -> None:
    for path in ("get-signed-url", "get_signed_url"):
        reply = await desk.api.get(f"{CONVERSATION}/{path}?agent_id={AGENT}&environment=staging")
        assert reply.status == 200
        assert reply.headers["Cache-Control"] == "no-store"
        url = urlsplit(reply.json["signed_url"])
        assert f"http://{url.netloc}" == desk.provider.base
        assert desk.asked(path.replace("_", "-"))[-1]["environment"] == "staging"
    token = await desk.api.get(f"{CONVERSATION}/token?agent_id={AGENT}&participant_name=Ada")
    assert set(token.json) == {"token", "conversation_id"}
    assert desk.asked("token")[-1] == {"agent_id": AGENT, "participant_name": "Ada"}
    theirs = await desk.eleven.get(f"{CONVERSATION}/token?agent_id=agent_gone")
    ours = await desk.api.get(f"{CONVERSATION}/token?agent_id=agent_gone")
    assert ours.status == theirs.status == 404
    assert ours.json["detail"]["message"] == theirs.json["detail"]["message"]
    assert (await desk.api.get("/v1/conversations")).json["data"] == []


async def test_a_refusal_of_the_workspaces_own_key_is_not_the_callers(desk: Desk) -> None:
    body = {"base_url": desk.provider.base, "api_key": "xi-another"}
    assert (await desk.api.put("/v1/upstreams/elevenlabs", body)).status == 200
    reply = await desk.api.get(f"{CONVERSATION}/token?agent_id={AGENT}")
    assert (reply.status, reply.json["detail"]["code"]) == (502, "upstream_failed")
    assert b"xi-another" not in reply.body


async def test_when_to_ask_again_is_passed_on_if_it_looks_so(desk: Desk) -> None:
    async with outside() as server:
        await elsewhere(desk, server)
        date = "Sun, 22 Nov 2026 12:00:17 GMT"
        for said, told in (("7", "7"), (date, date), ("x" * 65, None), ("7 \xe9", None)):
            server.answers.clear()
            server.will({"detail": "slowly"}, 429, Retry_After=said, X_More="theirs")
            reply = await desk.api.get(f"{CONVERSATION}/token?agent_id={AGENT}")
            assert (reply.status, reply.json) == (429, {"detail": "slowly"})
            assert reply.headers.get("Retry-After") == told
            assert "X-More" not in reply.headers


@pytest.mark.parametrize("status", [401, 403])
async def test_a_key_that_the_account_refuses_is_for_its_owner_to_mend(
    desk: Desk, status: int
) -> None:
    async with outside() as server:
        await elsewhere(desk, server)
        server.will({}, status)
        reply = await desk.ask(delivery="inline")
    assert (reply.status, reply.code) == (502, "upstream_failed")
    assert reply.json["action"] == "fix_configuration"


async def test_an_answer_of_the_account_that_is_too_large_is_not_the_callers(desk: Desk) -> None:
    async with outside() as server:
        await elsewhere(desk, server)
        server.will(b"x" * (MAX_ANSWER + 1))
        minted = await desk.ask(delivery="inline")
        passed = await desk.api.get(f"{CONVERSATION}/token?agent_id={AGENT}")
    assert (minted.status, minted.code) == (502, "upstream_failed")
    assert minted.json["action"] == "retry"
    assert (passed.status, passed.json["detail"]["code"]) == (502, "upstream_failed")


async def test_a_key_that_is_tied_to_an_environment_cannot_leave_it(desk: Desk) -> None:
    tied = await desk.key("mint", environments=["staging"])
    assert (await tied.get(f"{CONVERSATION}/token?agent_id={AGENT}")).status == 200
    assert desk.asked("token")[-1]["environment"] == "staging"
    reply = await tied.get(f"{CONVERSATION}/token?agent_id={AGENT}&environment=production")
    assert reply.status == 403


async def test_with_a_user_the_signed_url_is_the_relays(desk: Desk, vault: Vault) -> None:
    token = await desk.connect()
    where = f"{CONVERSATION}/get-signed-url?agent_id={AGENT}&user_id=ada"
    reply = await desk.api.get(where)
    url = urlsplit(reply.json["signed_url"])
    assert f"http://{url.netloc}" == vault.origin
    admission = await Broker(vault, vault.egress).admit(parse_qs(url.query)[TICKET][0])
    assert admission.conversation_id == reply.json["keyturn_conversation_id"]
    assert admission.first_frame["dynamic_variables"][TOKEN] == token
    assert (await desk.api.get(f"{where}&version_id=v1")).status == 400
    missing = await desk.api.get(where.replace("user_id=ada", "user_id=nobody"))
    assert (missing.status, missing.json["detail"]["code"]) == (404, "not_found")


async def test_with_a_user_a_token_comes_with_what_its_client_passes_on(desk: Desk) -> None:
    token = await desk.connect()
    where = f"{CONVERSATION}/token?agent_id={AGENT}&user_id=ada"
    refused = await desk.api.get(where)
    assert refused.json["detail"]["code"] == "delivery_needs_gateway"
    await desk.profile(**GATEWAY)
    reply = await desk.api.get(where)
    assert reply.json["token"].count(".") == 2
    assert reply.json["dynamic_variables"]["secret__keyturn_authorization"].startswith("Bearer kth")
    assert token.encode() not in reply.body
    await desk.profile(delivery="inline")
    inline = await desk.api.get(where)
    assert inline.json["dynamic_variables"][TOKEN] == token
    assert (await (await desk.key("mint")).get(where)).status == 403
