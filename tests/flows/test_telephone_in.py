"""Somebody calls: who that is, where the call runs, and what it starts with."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from conftest import Tenant
from support.eleven import AGENT, outside
from support.journeys import Clock
from support.minting import GATEWAY
from support.sandbox import Provider
from support.telephoning import ADA, DESK, HANDLE, NUMBERS, TOKEN, Telephone, telephoning

from broker.broker import Broker
from broker.telephone.incoming import Incoming
from vault.errors import Forbidden, Unauthenticated
from vault.vault import Vault

TRUSTING: dict[str, Any] = {"inbound_trust": "caller_id"}
NEEDS: dict[str, Any] = {"integrations": [{"integration": "google"}]}


@pytest.fixture
async def phone(tenant: Tenant, provider: Provider) -> AsyncIterator[Telephone]:
    async with telephoning(tenant, provider) as found:
        yield found


async def test_a_call_starts_with_who_calls_and_without_a_credential(phone: Telephone) -> None:
    token = await phone.desk.connect()
    await phone.desk.profile(**NEEDS)
    await phone.number()
    await phone.asks_first(first="Hello {{user_name}}.")
    rung = await phone.ring()
    assert (rung["status"], rung["webhook"]["status"]) == ("in-progress", 200)
    shown = await phone.eleven.shown(rung["conversation_id"])
    assert shown["transcript"][0]["message"] == "Hello Ada."
    assert shown["user_id"] == "ada"
    variables = phone.started_with(rung["conversation_id"])
    assert variables["user_id"] == "ada"
    assert variables[TOKEN] == "unavailable"
    assert variables[HANDLE].startswith("Bearer kth_")
    assert token not in str(rung)
    [made] = await phone.conversations()
    assert made["id"] == variables["keyturn_conversation_id"]
    assert (made["delivery"], made["verified"]) == ("server", False)
    assert await phone.eleven.leaks() == []


async def test_its_handle_is_honoured_only_when_somebody_has_vouched(
    phone: Telephone, vault: Vault
) -> None:
    await phone.desk.connect()
    await phone.desk.profile(**NEEDS, **GATEWAY)
    broker = Broker(vault, vault.egress)
    made = (await phone.api.post("/v1/keys", {"name": "r", "scopes": ["runtime"]})).json["key"]
    started = (await phone.answer())["dynamic_variables"]
    handle = started[HANDLE].removeprefix("Bearer ")
    with pytest.raises(Forbidden):
        await broker.held(handle, made)
    where = f"/v1/conversations/{started['keyturn_conversation_id']}/verify"
    assert (await phone.hooks.post(where)).status == 403
    assert (await phone.api.post(where)).json["verified"] is True
    with pytest.raises(Unauthenticated):
        await broker.held(handle, None)
    held = await broker.held(handle, made)
    assert held.conversation.user_id == "ada"
    assert held.connection("google") is not None


async def test_a_profile_that_trusts_the_number_gives_credentials(phone: Telephone) -> None:
    token = await phone.desk.connect()
    await phone.desk.profile(**NEEDS, **TRUSTING)
    await phone.number()
    await phone.asks_first()
    rung = await phone.ring()
    variables = phone.started_with(rung["conversation_id"])
    assert variables[TOKEN] == token
    assert variables[HANDLE].startswith("Bearer ktg_")
    [made] = await phone.conversations()
    assert made["verified"] is True
    assert await phone.eleven.leaks() == []


@pytest.mark.parametrize(
    ("query", "known", "behind", "expected"),
    [
        ("?environment=staging", "qa", None, "staging"),  # the webhook
        ("", "qa", None, "qa"),  # the number
        ("", None, None, "production"),  # neither
        ("", None, "qa", "production"),  # a setting that we have not seen leads nowhere
    ],
)
async def test_where_a_call_runs(
    phone: Telephone, query: str, known: str | None, behind: str | None, expected: str
) -> None:
    for environment in ("staging", "qa"):
        await phone.api.post("/v1/convai/environments", {"name": environment})
    tokens = {
        one: await phone.desk.connect(environment=one) for one in ("production", "staging", "qa")
    }
    await _variable(phone, "greeting", production="hello", staging="hallo")
    await _variable(phone, "line", production="one")
    declared = {name: {"from": "environment", "label": name} for name in ("greeting", "line")}
    await phone.desk.profile(**NEEDS, **TRUSTING, variables=declared)
    where: dict[str, Any] = {"environment": known or behind} if known or behind else {}
    number = await phone.number(through_us=behind is None, **where)
    await phone.asks_first(query)
    rung = await phone.ring()
    assert rung["environment"] == expected
    variables = phone.started_with(rung["conversation_id"])
    assert variables[TOKEN] == tokens[expected]
    assert variables["greeting"] == ("hallo" if expected == "staging" else "hello")
    assert variables["line"] == "one"  # by fall back
    assert (await phone.conversations())[0]["environment"] == expected
    assert await phone.eleven.leaks() == []
    if behind:  # seen once it is looked at
        await phone.api.get(f"{NUMBERS}/{number}")
        assert (await phone.ring())["environment"] == behind


async def _variable(phone: Telephone, label: str, **values: str) -> None:
    body = {"type": "string", "label": label, "values": values}
    reply = await phone.api.post("/v1/convai/environment-variables", body)
    assert reply.status == 200, reply.body


async def test_a_hooks_key_that_is_tied_to_one_environment_means_that_one(
    phone: Telephone,
) -> None:
    await phone.number(environment="production")
    staging = await phone.desk.key("hooks", environments=["staging"])
    assert (await phone.ask(api=staging)).json["environment"] == "staging"
    asked = await staging.post(
        f"{phone.hook}/initiation?environment=production",
        {"caller_id": ADA, "agent_id": AGENT, "called_number": DESK, "call_sid": "CA2"},
    )
    assert (asked.status, asked.code) == (403, "forbidden")


async def test_the_branch_of_a_number_is_the_calls(phone: Telephone) -> None:
    await phone.number(branch_id="br_7")
    await phone.asks_first()
    rung = await phone.ring()
    inside = await phone.eleven.inside(rung["conversation_id"])
    assert inside["branch_id"] == "br_7"
    assert (await phone.answer())["branch_id"] == "br_7"


# Who calls


async def test_nobody_known_gets_every_variable_and_nothing_in_it(phone: Telephone) -> None:
    token = await phone.desk.connect()
    await phone.api.post(
        "/v1/convai/secrets", {"type": "new", "name": "s", "value": "workspace-secret-1"}
    )
    variables = {
        "tier": {"from": "user", "attribute": "tier"},
        "lang": {"value": "en"},
        "topic": {"from": "client", "default": "bills"},
    }
    await phone.desk.profile(**NEEDS, **TRUSTING, variables=variables)
    await phone.number()
    await phone.asks_first(first="Hello {{user_name}}, {{tier}}{{lang}}.")
    rung = await phone.ring("+15550999999")
    assert rung["status"] == "in-progress"
    found = phone.started_with(rung["conversation_id"])
    assert found == {
        "keyturn_conversation_id": "",
        "user_id": "",
        "user_name": "",
        HANDLE: "unavailable",
        TOKEN: "unavailable",
        "secret__user_google_authorization": "unavailable",
        "user_google_generation": 0,
        "tier": "",
        "lang": "en",
        "topic": "bills",
    }
    assert token not in str(rung)
    assert await phone.conversations() == []


async def test_a_secret_of_the_workspace_is_not_for_strangers(phone: Telephone) -> None:
    made = await phone.api.post(
        "/v1/convai/secrets", {"type": "new", "name": "s", "value": "workspace-secret-1"}
    )
    body = {
        "type": "secret",
        "label": "key",
        "values": {"production": {"secret_id": made.json["secret_id"]}},
    }
    assert (await phone.api.post("/v1/convai/environment-variables", body)).status == 200
    declared = {"secret__key": {"from": "environment", "label": "key"}}
    await phone.desk.profile(variables=declared)
    for caller in ("+15550999999", ADA):  # nor for whom nobody has vouched
        answer = await phone.answer(caller, call_sid=caller)
        assert answer["dynamic_variables"]["secret__key"] == "unavailable"
    await phone.desk.profile(variables=declared, **TRUSTING)
    assert "workspace-secret-1" in str(await phone.answer(call_sid="CA3"))


async def test_a_number_that_two_users_share_is_neithers(phone: Telephone) -> None:
    assert (await phone.answer())["user_id"] == "ada"
    await phone.desk.user("grace", phone_numbers=["+15550100002", ADA])
    for _ in range(2):
        answer = await phone.answer(call_sid="CA2")
        assert "user_id" not in answer
        assert answer["dynamic_variables"]["user_id"] == ""
    assert (await phone.answer("+15550100002", call_sid="CA3"))["user_id"] == "grace"
    await phone.desk.user("grace", phone_numbers=["+15550100002"])
    assert (await phone.answer(call_sid="CA4"))["user_id"] == "ada"


async def test_a_number_follows_its_user(phone: Telephone) -> None:
    await phone.desk.user(phone_numbers=["+15550100003"])
    assert "user_id" not in await phone.answer(call_sid="CA2")
    assert (await phone.answer("+15550100003", call_sid="CA3"))["user_id"] == "ada"
    assert (await phone.api.delete("/v1/users/ada")).status == 200
    assert "user_id" not in await phone.answer("+15550100003", call_sid="CA4")


@pytest.mark.parametrize(
    "caller", ["", "anonymous", "15550100001", "sip:+15550100001@a.example", "+1 555 010 0001"]
)
async def test_what_is_no_whole_number_is_nobodys(phone: Telephone, caller: str) -> None:
    assert "user_id" not in await phone.answer(caller)


# The same call again


@pytest.mark.parametrize(
    ("said", "environment"),
    [
        ({"caller_id": None, "called_number": DESK}, "staging"),
        ({"called_number": DESK}, "staging"),
        ({"caller_id": None, "called_number": None}, "production"),
        ({}, "production"),
    ],
)
async def test_a_call_that_does_not_say_who_calls_starts_as_a_strangers(
    phone: Telephone, said: dict[str, Any], environment: str
) -> None:
    await phone.desk.profile(**NEEDS, **TRUSTING)
    await phone.number(environment="staging")
    body = {**said, "agent_id": AGENT, "call_sid": "CA1"}
    reply = await phone.hooks.post(f"{phone.hook}/initiation", body)
    assert reply.status == 200, reply.body
    assert reply.json["environment"] == environment
    assert "user_id" not in reply.json
    assert reply.json["dynamic_variables"][TOKEN] == "unavailable"
    assert await phone.conversations() == []


async def test_a_number_that_is_null_missing_or_empty_makes_the_same_call(phone: Telephone) -> None:
    body = {"caller_id": ADA, "agent_id": AGENT, "call_sid": "CA1"}
    started = set()
    for said in ({}, {"called_number": None}, {"called_number": ""}):
        reply = await phone.hooks.post(f"{phone.hook}/initiation", {**body, **said})
        assert (reply.status, reply.json["user_id"]) == (200, "ada"), reply.body
        started.add(reply.json["dynamic_variables"]["keyturn_conversation_id"])
    assert len(started) == 1


def test_what_two_askings_are_compared_by_is_as_it_was() -> None:
    # A call that was asked for before an upgrade is asked for again after it.
    call = Incoming(caller_id=ADA, agent_id=AGENT, called_number=DESK, call_sid="CA1")
    assert msgspec.json.encode(call) == (
        b'{"caller_id":"+15550100001","agent_id":"agent_desk","called_number":"+15550200001",'
        b'"call_sid":"CA1","environment":null}'
    )


async def test_asked_again_it_is_the_same_conversation(phone: Telephone) -> None:
    await phone.desk.connect()
    first = (await phone.answer())["dynamic_variables"]
    again = (await phone.answer())["dynamic_variables"]
    assert first["keyturn_conversation_id"] == again["keyturn_conversation_id"]
    assert first[HANDLE] != again[HANDLE]  # and the former is dead
    assert len(await phone.conversations()) == 1


async def test_asked_many_times_at_once_it_is_one_conversation(phone: Telephone) -> None:
    replies = await asyncio.gather(*(phone.ask() for _ in range(4)))
    answers = [one.json["dynamic_variables"] for one in replies if one.status == 200]
    assert answers
    assert {one.status for one in replies} <= {200, 409}
    assert len({one["keyturn_conversation_id"] for one in answers}) == 1
    assert len(await phone.conversations()) == 1


async def test_the_same_call_is_the_same_persons_though_the_number_has_moved_on(
    phone: Telephone,
) -> None:
    token = await phone.desk.connect()
    await phone.desk.connect("bob")
    await phone.desk.profile(**NEEDS, **TRUSTING)
    first = await phone.answer()
    await phone.desk.user("ada", phone_numbers=[])
    await phone.desk.user("bob", phone_numbers=[ADA])
    again = await phone.answer()
    assert again["user_id"] == first["user_id"] == "ada"
    assert again["dynamic_variables"]["user_name"] == "Ada"
    assert again["dynamic_variables"][TOKEN] == token
    assert [made["user_id"] for made in await phone.conversations()] == ["ada"]
    assert (await phone.answer(call_sid="CA2"))["user_id"] == "bob"


async def test_the_same_call_stays_where_it_began(phone: Telephone, vault: Vault) -> None:
    await phone.api.post("/v1/convai/environments", {"name": "staging"})
    tokens = {one: await phone.desk.connect(environment=one) for one in ("production", "staging")}
    await phone.desk.profile(**NEEDS, **TRUSTING)
    number = await phone.number(environment="staging")
    first = await phone.answer()
    moved = {"agent_id": AGENT, "environment": "production"}
    assert (await phone.api.call("PATCH", f"{NUMBERS}/{number}", body=moved)).status == 200
    again = await phone.answer()
    assert (first["environment"], again["environment"]) == ("staging", "staging")
    assert again["dynamic_variables"][TOKEN] == tokens["staging"]
    grant = again["dynamic_variables"][HANDLE].removeprefix("Bearer ")
    held = await Broker(vault, vault.egress).held(grant)
    assert held.conversation.environment == "staging"


async def test_who_was_not_vouched_for_is_not_by_a_profile_that_came_later(
    phone: Telephone,
) -> None:
    token = await phone.desk.connect()
    await phone.desk.profile(**NEEDS)
    await phone.answer()
    await phone.desk.profile(**NEEDS, **TRUSTING)
    again = (await phone.answer())["dynamic_variables"]
    assert again[TOKEN] == "unavailable"
    assert again[HANDLE].startswith("Bearer kth_")
    assert token not in str(again)


async def test_after_its_end_the_same_call_holds_nothing(phone: Telephone) -> None:
    started = (await phone.answer())["dynamic_variables"]
    await phone.api.post(f"/v1/conversations/{started['keyturn_conversation_id']}/end")
    again = (await phone.answer())["dynamic_variables"]
    assert again[HANDLE] == "unavailable"
    assert len(await phone.conversations()) == 1


# Nobody is waited for


async def test_a_provider_that_hangs_keeps_no_call_waiting(
    phone: Telephone, provider: Provider, clock: Clock
) -> None:
    token = await phone.desk.connect()
    await phone.desk.connect(integration="slack")
    await phone.desk.profile(
        integrations=[{"integration": "google"}, {"integration": "slack"}], **TRUSTING
    )
    # More than half of its life is over, and the other's is.
    for integration, left in (("google", 600), ("slack", -1)):
        found = await phone.desk.connection(integration=integration)
        await clock.leave(found["id"], seconds=left)
    async with provider.keeping(unheard=True):
        # No measure of speed: whoever waits for the provider waits for ever.
        async with asyncio.timeout(60):
            variables = (await phone.answer())["dynamic_variables"]
    assert variables[TOKEN] == token  # still good
    assert variables["secret__user_slack_token"] == "unavailable"


async def test_an_account_that_hangs_keeps_no_call_waiting(phone: Telephone) -> None:
    async with outside() as server:
        server.will({}, after=300)
        body = {"base_url": server.base, "api_key": "another-key-of-mine"}
        assert (await phone.api.put("/v1/upstreams/elevenlabs", body)).status == 200
        async with asyncio.timeout(100):
            await phone.answer()
        assert server.heard == []


async def test_what_a_call_says_beside_is_passed_over(phone: Telephone) -> None:
    answer: dict[str, Any] = await phone.answer(conversation_id="conv_1", something={"new": [1]})
    assert answer.keys() == {"type", "dynamic_variables", "environment", "user_id"}
    assert answer["type"] == "conversation_initiation_client_data"
