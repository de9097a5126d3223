"""Calls that go out, numbers that pass through, and the end of a call."""

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from conftest import Tenant
from support.eleven import AGENT, outside
from support.loopback import listening
from support.sandbox import Provider
from support.telephoning import (
    ADA,
    DESK,
    HANDLE,
    INITIATION,
    NUMBERS,
    TOKEN,
    Telephone,
    over,
    telephoning,
)

from broker.sandbox.elevenlabs.account import FIRST_KEY
from broker.sandbox.elevenlabs.deliveries import signature

NEEDS: dict[str, Any] = {"integrations": [{"integration": "google"}]}
LINES = [
    ("twilio", "twilio", "callSid"),
    ("sip-trunk", "sip_trunk", "sip_call_id"),
    ("exotel", "exotel", "callSid"),
]


@pytest.fixture
async def phone(tenant: Tenant, provider: Provider) -> AsyncIterator[Telephone]:
    async with telephoning(tenant, provider) as found:
        await found.eleven.agent()
        yield found


# With a user


@pytest.mark.parametrize(("line", "provider_name", "field"), LINES)
async def test_a_users_call_starts_with_the_users_variables(
    phone: Telephone, line: str, provider_name: str, field: str
) -> None:
    token = await phone.desk.connect(environment="staging")
    await phone.desk.profile(**NEEDS, variables={"topic": {"from": "client"}})
    reply = await phone.call(
        f"{line}/outbound-call",
        {
            "user_id": "ada",
            "environment": "staging",
            "branch_id": "br_1",
            "dynamic_variables": {"topic": "bills", "mine": 7},
            "custom_llm_extra_body": {"x": 1},
        },
        agent_phone_number_id=await phone.number(provider=provider_name),
    )
    assert reply.status == 200, reply.body
    assert reply.json.keys() == {"success", "message", "conversation_id", field}
    assert reply.headers["Cache-Control"] == "no-store"
    variables = phone.started_with(reply.json["conversation_id"])
    assert variables[TOKEN] == token
    assert variables[HANDLE].startswith("Bearer ktg_")
    assert (variables["topic"], variables["mine"]) == ("bills", 7)
    inside = await phone.eleven.inside(reply.json["conversation_id"])
    assert (inside["environment"], inside["branch_id"]) == ("staging", "br_1")
    assert inside["user_id"] == "ada"
    assert phone.sent("outbound-call")[INITIATION]["custom_llm_extra_body"] == {"x": 1}
    [made] = await phone.conversations()
    assert (made["state"], made["delivery"], made["channel"]) == ("started", "server", "telephone")
    assert made["conversation_id"] == reply.json["conversation_id"]
    assert variables["keyturn_conversation_id"] == made["id"]
    assert token.encode() not in reply.body
    assert await phone.eleven.leaks() == []


async def test_the_query_may_name_the_user_and_names_no_other_one(phone: Telephone) -> None:
    token = await phone.desk.connect()
    number = await phone.number()
    named = "twilio/outbound-call?user_id"
    reply = await phone.call(f"{named}=ada", agent_phone_number_id=number)
    assert reply.status == 200, reply.body
    variables = phone.started_with(reply.json["conversation_id"])
    assert (variables[TOKEN], variables["user_id"]) == (token, "ada")
    other = await phone.call(f"{named}=bob", {"user_id": "ada"}, agent_phone_number_id=number)
    assert other.status == 400
    assert len(await phone.conversations()) == 1


@pytest.mark.parametrize("number", [2**63, 2**64, -(2**63) - 1])
async def test_a_number_that_is_too_large_is_refused(phone: Telephone, number: int) -> None:
    given = {"user_id": "ada", "dynamic_variables": {"n": number}}
    called = await phone.number()
    reply = await phone.call(initiation=given, agent_phone_number_id=called)
    assert reply.status == 400
    assert await phone.conversations() == []


async def test_by_whatsapp_too(phone: Telephone) -> None:
    token = await phone.desk.connect()
    template = "whatsapp_call_permission_request_template"
    named: dict[str, Any] = {f"{template}_name": "t", f"{template}_language_code": "en"}
    reply = await phone.call(
        "whatsapp/outbound-call",
        {"user_id": "ada"},
        whatsapp_phone_number_id="w1",
        whatsapp_user_id="u9",
        **named,
    )
    assert reply.status == 200, reply.body
    assert phone.started_with(reply.json["conversation_id"])[TOKEN] == token
    inside = await phone.eleven.inside(reply.json["conversation_id"])
    assert inside["environment"] == "production"


async def test_a_registered_call_gets_them_and_answers_twiml(phone: Telephone) -> None:
    token = await phone.desk.connect(environment="qa")
    await phone.number(environment="qa")
    body: dict[str, Any] = {"from_number": ADA, "to_number": DESK, "direction": "inbound"}
    reply = await phone.call("twilio/register-call", {"user_id": "ada"}, **body)
    assert reply.status == 200, reply.body
    assert reply.headers["Content-Type"].startswith("text/html")
    found = re.search(r"conv_[a-z0-9]+", reply.body.decode())
    assert found is not None
    assert phone.started_with(found[0])[TOKEN] == token
    assert (await phone.eleven.inside(found[0]))["environment"] == "qa"
    assert (await phone.conversations())[0]["conversation_id"] == found[0]
    assert token.encode() not in reply.body


@pytest.mark.parametrize(
    ("asked", "of_number", "expected"),
    [("staging", "qa", "staging"), (None, "qa", "qa"), (None, None, "production")],
)
async def test_where_a_call_out_runs(
    phone: Telephone, asked: str | None, of_number: str | None, expected: str
) -> None:
    tokens = {
        one: await phone.desk.connect(environment=one) for one in ("production", "staging", "qa")
    }
    where: dict[str, Any] = {"environment": of_number} if of_number else {}
    number = await phone.number(**where)
    initiation = {"user_id": "ada", **({"environment": asked} if asked else {})}
    reply = await phone.call(initiation=initiation, agent_phone_number_id=number)
    inside = await phone.eleven.inside(reply.json["conversation_id"])
    assert inside["environment"] == expected
    assert phone.started_with(reply.json["conversation_id"])[TOKEN] == tokens[expected]


async def test_what_is_missing_is_said_and_nobody_is_called(phone: Telephone) -> None:
    await phone.desk.profile(**NEEDS)
    number = await phone.number()
    reply = await phone.call(initiation={"user_id": "ada"}, agent_phone_number_id=number)
    assert (reply.status, reply.json["detail"]["code"]) == (409, "connection_missing")
    nobody = await phone.call(initiation={"user_id": "nobody"}, agent_phone_number_id=number)
    assert (nobody.status, nobody.json["detail"]["code"]) == (404, "not_found")
    assert phone.desk.asked("outbound-call") == []


async def test_a_call_that_is_refused_ends_its_conversation(phone: Telephone) -> None:
    reply = await phone.call(initiation={"user_id": "ada"}, agent_phone_number_id="phnum_x")
    assert reply.status == 404
    assert [one["state"] for one in await phone.conversations()] == ["ended"]


async def test_an_answer_that_quotes_what_it_refuses_shows_no_secret(phone: Telephone) -> None:
    token = await phone.desk.connect()
    async with outside() as server:
        body = {"base_url": server.base, "api_key": "another-key-of-mine"}
        assert (await phone.api.put("/v1/upstreams/elevenlabs", body)).status == 200
        rule = {"loc": ["body"], "msg": "no", "type": "x"}
        for status in (422, 200, 500):
            server.answers.clear()
            server.will(
                {"detail": [{**rule, "input": {"a": token, "b": f"Bearer {token}"}}]},
                status,
                Retry_After=token,
            )
            reply = await phone.call(initiation={"user_id": "ada"}, agent_phone_number_id="p")
            assert reply.status == status
            assert token.encode() not in reply.body
            assert reply.json["detail"][0]["input"]["a"] == "*" * len(token)
            assert reply.headers["Retry-After"] == "*" * len(token)
        sent = server.heard[-1].json[INITIATION]["dynamic_variables"]
        assert sent[TOKEN] == token
    # Refused: over. Placed: running. Unknown: until its time is over.
    states = [one["state"] for one in await phone.conversations()]
    assert states == ["prepared", "started", "ended"]


async def test_a_success_that_is_none_ends_its_conversation(phone: Telephone) -> None:
    async with outside() as server:
        body = {"base_url": server.base, "api_key": "another-key-of-mine"}
        await phone.api.put("/v1/upstreams/elevenlabs", body)
        server.will({"success": False, "message": "The line is busy.", "conversation_id": None})
        reply = await phone.call(initiation={"user_id": "ada"}, agent_phone_number_id="p")
        assert (reply.status, reply.json["message"]) == (200, "The line is busy.")
    assert [one["state"] for one in await phone.conversations()] == ["ended"]


async def test_when_to_ask_again_is_passed_on(phone: Telephone) -> None:
    async with outside() as server:
        body = {"base_url": server.base, "api_key": "another-key-of-mine"}
        await phone.api.put("/v1/upstreams/elevenlabs", body)
        server.will({"said": "slowly"}, 429, Retry_After="7")
        for reply in (
            await phone.call(initiation={"user_id": "ada"}, agent_phone_number_id="p"),
            await phone.call(agent_phone_number_id="p"),
            await phone.api.get(NUMBERS),
            await phone.api.call("PATCH", f"{NUMBERS}/p", body={"agent_id": None}),
        ):
            assert (reply.status, reply.headers["Retry-After"]) == (429, "7")


# Without a user


async def test_without_a_user_a_call_goes_on_byte_by_byte(phone: Telephone) -> None:
    async with outside() as server:
        body = {"base_url": server.base, "api_key": "another-key-of-mine"}
        await phone.api.put("/v1/upstreams/elevenlabs", body)
        path = "/v1/convai/twilio/outbound-call"
        raw = b'{ "agent_id":"agent_desk","x":[1.0], "conversation_initiation_client_data":null }'
        for status in (200, 404, 422):
            server.answers.clear()
            server.will({"said": status}, status)
            reply = await phone.api.call("POST", path, raw=raw)
            assert (reply.status, reply.json) == (status, {"said": status})
            heard = server.heard[-1]
            assert (heard.method, heard.path, heard.body) == ("POST", path, raw)
            assert heard.headers["xi-api-key"] == "another-key-of-mine"
            assert "authorization" not in heard.headers
        for status in (401, 403, 302):
            server.answers.clear()
            server.will({"said": status}, status)
            refused = await phone.api.call("POST", path, raw=raw)
            assert (refused.status, refused.json["detail"]["code"]) == (502, "upstream_failed")
    assert await phone.conversations() == []


async def test_a_key_that_is_tied_to_environments_calls_in_those(phone: Telephone) -> None:
    staging = await phone.desk.key("mint", environments=["staging"])
    number = await phone.number(environment="production")
    inside: dict[str, Any] = {}
    for initiation in (None, {"dynamic_variables": {"x": "y"}}, {"user_id": "ada"}):
        reply = await phone.call(initiation=initiation, api=staging, agent_phone_number_id=number)
        assert reply.status == 200, reply.body
        inside = await phone.eleven.inside(reply.json["conversation_id"])
        assert inside["environment"] == "staging"
    assert inside["user_id"] == "ada"
    for initiation in ({"environment": "production"}, {"environment": "qa", "user_id": "ada"}):
        refused = await phone.call(initiation=initiation, api=staging, agent_phone_number_id=number)
        assert (refused.status, refused.json["detail"]["code"]) == (403, "missing_permissions")


# Numbers


async def test_numbers_pass_through_and_are_remembered(phone: Telephone) -> None:
    number = await phone.number(environment="staging", branch_id="br_2")
    [listed] = (await phone.api.get(f"{NUMBERS}?provider=twilio")).json
    assert listed == (await phone.api.get(f"{NUMBERS}/{number}")).json
    assert listed["assigned_agent"]["environment"] == "staging"
    assert (await phone.api.get(f"{NUMBERS}?provider=exotel")).json == []
    answer = await phone.answer()
    assert (answer["environment"], answer["branch_id"]) == ("staging", "br_2")
    await phone.api.call("PATCH", f"{NUMBERS}/{number}", body={"environment": None})
    assert (await phone.answer(call_sid="CA2"))["environment"] == "production"
    await phone.api.call(
        "PATCH", f"{NUMBERS}/{number}", body={"agent_id": None, "environment": "qa"}
    )
    assert (await phone.answer(call_sid="CA3"))["environment"] == "qa"  # as it was taken
    assert (await phone.api.delete(f"{NUMBERS}/{number}")).status == 200
    assert (await phone.answer(call_sid="CA4"))["environment"] == "production"
    written = await phone.desk.audited("phone_number.write")
    assert {one["target"]["id"] for one in written} == {number}
    assert len(written) == 5


async def test_a_change_that_was_refused_is_not_remembered(phone: Telephone) -> None:
    number = await phone.number(environment="staging")
    wrong = {"agent_id": "agent_nobody", "environment": "qa"}
    assert (await phone.api.call("PATCH", f"{NUMBERS}/{number}", body=wrong)).status == 404
    assert (await phone.answer())["environment"] == "staging"
    missing = await phone.api.call("PATCH", f"{NUMBERS}/phnum_x", body={"environment": "qa"})
    assert missing.status == 404


@pytest.mark.parametrize("name", ["branch_id", "environment"])
@pytest.mark.parametrize("value", ["\0", "", "a/b", "a\n", "x" * 129])
async def test_a_change_to_what_cannot_be_a_place_reaches_nobody(
    phone: Telephone, name: str, value: str
) -> None:
    number = await phone.number(environment="staging", branch_id="br_2")
    before = len(phone.eleven.world.requests)
    changed = {"agent_id": AGENT, name: value}
    refused = await phone.api.call("PATCH", f"{NUMBERS}/{number}", body=changed)
    assert (refused.status, refused.json["detail"][0]["loc"]) == (422, ["body", name])
    assert len(phone.eleven.world.requests) == before
    answer = await phone.answer()
    assert (answer["environment"], answer["branch_id"]) == ("staging", "br_2")


@pytest.mark.parametrize("odd", ["\0", "a/b", "a\n", "x" * 129])
async def test_what_the_account_shows_and_is_no_place_is_not_remembered(
    phone: Telephone, odd: str
) -> None:
    number = await phone.number(environment="staging", branch_id="br_2")
    for name in ("environment", "branch_id"):
        await phone.eleven.call("PATCH", f"{NUMBERS}/{number}", {name: odd})
    assert (await phone.api.get(f"{NUMBERS}/{number}")).json["assigned_agent"]["branch_id"] == odd
    assert len((await phone.api.get(NUMBERS)).json) == 1
    answer = await phone.answer()
    assert (answer["environment"], answer["branch_id"]) == ("staging", "br_2")


async def test_a_number_that_holds_no_text_is_passed_on_and_not_remembered(
    phone: Telephone,
) -> None:
    odd = {"phone_number": "+1\0", "label": "Odd", "provider": "twilio"}
    await phone.eleven.made(NUMBERS, odd)
    await phone.number(through_us=False, environment="staging")
    assert len((await phone.api.get(NUMBERS)).json) == 2
    assert (await phone.answer())["environment"] == "staging"


async def test_a_number_that_is_gone_behind_our_back_is_forgotten(phone: Telephone) -> None:
    number = await phone.number(environment="staging")
    await phone.eleven.call("DELETE", f"{NUMBERS}/{number}")
    assert (await phone.api.get(f"{NUMBERS}/{number}")).status == 404
    assert (await phone.answer())["environment"] == "production"


async def test_another_account_has_other_numbers(phone: Telephone) -> None:
    await phone.number(environment="staging")
    body = {"base_url": phone.desk.provider.base, "api_key": "another-key-of-mine"}
    assert (await phone.api.put("/v1/upstreams/elevenlabs", body)).status == 200
    assert (await phone.answer())["environment"] == "production"


async def test_a_key_that_is_tied_to_environments_leaves_numbers_alone(phone: Telephone) -> None:
    number = await phone.number()
    staging = await phone.desk.key("manage", environments=["staging"])
    changed = {"environment": "staging"}
    for reply in (
        await staging.get(NUMBERS),
        await staging.call("PATCH", f"{NUMBERS}/{number}", body=changed),
    ):
        assert (reply.status, reply.json["detail"]["code"]) == (403, "missing_permissions")


# The end


async def test_the_end_of_a_call_is_the_end_of_its_conversation(phone: Telephone) -> None:
    await phone.tells_us()
    number = await phone.number()
    placed = await phone.call(initiation={"user_id": "ada"}, agent_phone_number_id=number)
    await phone.asks_first()
    rung = await phone.ring()
    for conversation in (placed.json["conversation_id"], rung["conversation_id"]):
        assert await phone.hang_up(conversation) == [200]
    one, other = await phone.conversations()
    assert (one["state"], one["conversation_id"]) == ("ended", rung["conversation_id"])
    assert (other["state"], other["conversation_id"]) == ("ended", placed.json["conversation_id"])
    assert len(await phone.desk.audited("conversation.end")) == 2
    # Once more, and nothing happens.
    assert await phone.hang_up(rung["conversation_id"], copies=3) == [200] * 3
    assert len(await phone.desk.audited("conversation.end")) == 2
    assert await phone.eleven.leaks() == []


async def test_a_call_that_could_not_begin_ends_its_conversation(phone: Telephone) -> None:
    await phone.tells_us("transcript", "call_initiation_failure")
    await phone.eleven.agent(first="Hello {{nobody_gives_this}}.")
    number = await phone.number()
    placed = await phone.call(initiation={"user_id": "ada"}, agent_phone_number_id=number)
    assert placed.status == 200
    await phone.eleven.knob("POST", "/elevenlabs/settle")
    [made] = await phone.conversations()
    assert made["state"] == "ended"


@pytest.mark.parametrize("told", ["conv_early", "conv_other"])
async def test_an_end_that_overtakes_the_answer_to_who_placed_the_call_ends_its_conversation(
    phone: Telephone, told: str
) -> None:
    secret, statuses = "retired-" + "0" * 24, []

    async def overtaken(writer: asyncio.StreamWriter) -> None:
        for _ in range(2):
            end = over(told, "call_initiation_failure")
            reply = await phone.signed(end, signature(secret, end, int(time.time())))
            statuses.append(reply.status)
        placed = json.dumps({"success": True, "conversation_id": "conv_early"}).encode()
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(placed)}\r\n\r\n"
        writer.write(head.encode() + placed)

    async with listening(overtaken) as server:
        base = f"http://127.0.0.1:{server.port}"
        account = {"base_url": base, "api_key": "another-key-of-mine", "webhook_secrets": [secret]}
        assert (await phone.api.put("/v1/upstreams/elevenlabs", account)).status == 200
        reply = await phone.call(initiation={"user_id": "ada"}, agent_phone_number_id="p")
        assert (reply.status, statuses) == (200, [200, 200])
    [made] = await phone.conversations()
    assert made["conversation_id"] == "conv_early"
    assert made["state"] == ("ended" if told == "conv_early" else "started")


async def test_a_recording_in_pieces_is_received(phone: Telephone) -> None:
    await phone.tells_us("audio")
    number = await phone.number()
    placed = await phone.call(initiation={"user_id": "ada"}, agent_phone_number_id=number)
    assert await phone.hang_up(placed.json["conversation_id"]) == [200]
    assert [one["state"] for one in await phone.conversations()] == ["ended"]


async def test_conversations_that_nobody_minted_are_received_alike(phone: Telephone) -> None:
    await phone.tells_us()
    number = await phone.number()
    placed = await phone.call(agent_phone_number_id=number)
    assert await phone.hang_up(placed.json["conversation_id"]) == [200]
    assert await phone.conversations() == []


async def test_no_log_and_no_error_of_a_call_holds_a_secret(
    phone: Telephone, capfd: pytest.CaptureFixture[str]
) -> None:
    token = await phone.desk.connect()
    number = await phone.number()
    placed = await phone.call(initiation={"user_id": "ada"}, agent_phone_number_id=number)
    started = phone.started_with(placed.json["conversation_id"])
    refused = await phone.call(
        initiation={"user_id": "ada", "dynamic_variables": {TOKEN: "sentinel-of-a-token"}}
    )
    assert refused.status == 400
    shown = "".join(capfd.readouterr()) + json.dumps(refused.json)
    audited: list[Any] = (await phone.api.get("/v1/audit-events")).json["data"]
    for secret in (token, started[HANDLE], FIRST_KEY + "-key", "sentinel-of-a-token", ADA):
        assert secret not in shown
        assert secret not in json.dumps(audited)
    assert AGENT not in shown
