"""Attacks on the telephone: strangers at the webhooks, forged numbers and ends, greedy calls."""

import hashlib
import hmac
import time
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
from conftest import MakeTenant, Tenant
from support.eleven import AGENT
from support.sandbox import Provider
from support.telephoning import (
    ADA,
    DESK,
    HANDLE,
    TOKEN,
    Telephone,
    over,
    telephoning,
)

from vault.bearer import generate
from vault.embedded import Embedded
from vault.model import SCOPES, new_id

SECRET = "wsec_" + "0123456789abcdef" * 2
NEEDS: dict[str, Any] = {"integrations": [{"integration": "google"}]}


@pytest.fixture
async def phone(tenant: Tenant, provider: Provider) -> AsyncIterator[Telephone]:
    async with telephoning(tenant, provider) as found:
        await found.eleven.agent()
        yield found


def mac(body: bytes, at: int | str, secret: str = SECRET) -> str:
    signed = str(at).encode() + b"." + body
    return hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest()


def header(body: bytes, at: int | None = None, secret: str = SECRET) -> str:
    at = int(time.time()) if at is None else at
    return f"t={at},v0={mac(body, at, secret)}"


# Who posts before a call


async def test_a_stranger_at_the_webhook_gets_nothing(
    phone: Telephone, make_tenant: MakeTenant
) -> None:
    token = await phone.desk.connect()
    await phone.desk.profile(**NEEDS, inbound_trust="caller_id")
    other = await make_tenant()
    theirs = await other.api.post("/v1/keys", {"name": "k", "scopes": ["hooks"]})
    others = await phone.desk.key(*(one for one in SCOPES if one != "hooks"))
    for api, status in (
        (phone.api.with_key(None), 401),
        (phone.api.with_key(generate("api_key").reveal()), 401),
        (phone.api.with_key("x"), 401),
        (others, 403),
        (phone.api.with_key(theirs.json["key"]), 404),  # of another workspace
    ):
        reply = await phone.ask(api=api)
        assert reply.status == status
        assert token.encode() not in reply.body
    assert await phone.conversations() == []


async def test_another_workspaces_webhook_is_like_none_at_all(
    phone: Telephone, make_tenant: MakeTenant
) -> None:
    other = await make_tenant()
    body = {"caller_id": ADA, "agent_id": AGENT, "called_number": DESK, "call_sid": "CA1"}
    replies = [
        await phone.hooks.post(f"/hooks/elevenlabs/{workspace}/initiation", body)
        for workspace in (other.id, new_id("ws"))
    ]
    assert {one.status for one in replies} == {404}
    assert len({one.json["detail"] for one in replies}) == 1


async def test_a_revoked_key_takes_the_calls_handles_with_it(phone: Telephone) -> None:
    made = (await phone.api.post("/v1/keys", {"name": "h", "scopes": ["hooks"]})).json
    hooks = phone.api.with_key(made["key"])
    assert (await phone.ask(api=hooks)).status == 200
    assert (await phone.api.delete(f"/v1/keys/{made['id']}")).status == 204
    assert (await phone.ask(api=hooks)).status == 401


# Who calls


async def test_a_spoofed_number_gets_an_unarmed_call(phone: Telephone) -> None:
    token = await phone.desk.connect()
    await phone.desk.profile(**NEEDS)
    answer = await phone.answer()  # anybody can say that he is Ada
    assert answer["user_id"] == "ada"
    secrets = {
        name: one
        for name, one in answer["dynamic_variables"].items()
        if name.startswith("secret__") and name != HANDLE
    }
    assert set(secrets.values()) == {"unavailable"}
    assert token not in str(answer)
    bearer = answer["dynamic_variables"][HANDLE]
    runtime = await phone.api.post("/v1/keys", {"name": "r", "scopes": ["runtime"]})
    headers = {"Authorization": bearer, "X-Keyturn-Runtime": runtime.json["key"]}
    nobody = phone.api.with_key(None)
    for reply in (
        await nobody.post("/tokens/refresh", {"integration": "google"}, headers=headers),
        await nobody.get("/gateway/google/me", headers=headers),
    ):
        assert reply.status == 403
        assert token.encode() not in reply.body


async def test_nobody_arms_a_call_with_what_the_call_holds(phone: Telephone) -> None:
    answer = await phone.answer()
    where = f"/v1/conversations/{answer['dynamic_variables']['keyturn_conversation_id']}/verify"
    bearer = answer["dynamic_variables"][HANDLE].removeprefix("Bearer ")
    for api in (phone.api.with_key(bearer), phone.hooks, phone.api.with_key(None)):
        assert (await api.post(where)).status in (401, 403)
    assert (await phone.conversations())[0]["verified"] is False


async def test_a_call_that_is_said_again_with_somebody_else_in_it_is_refused(
    phone: Telephone,
) -> None:
    await phone.desk.user("grace", phone_numbers=["+15550100002"])
    first = await phone.answer()
    changes: tuple[dict[str, Any], ...] = (
        {"caller": "+15550100002"},
        {"agent_id": "agent_other"},
        {"called_number": "+15550200009"},
    )
    for changed in changes:
        caller = changed.pop("caller", ADA)
        reply = await phone.ask(caller, **changed)
        assert (reply.status, reply.code) == (422, "idempotency_mismatch")
    again = await phone.answer()
    assert again["user_id"] == first["user_id"] == "ada"
    assert len(await phone.conversations()) == 1


async def test_two_workspaces_know_the_same_number_and_each_its_own_user(
    phone: Telephone, make_tenant: MakeTenant
) -> None:
    other = await make_tenant()
    await other.api.put("/v1/users/eve", {"phone_numbers": [ADA]})
    answer = await phone.answer()
    assert answer["user_id"] == "ada"


async def test_who_writes_to_the_database_lends_nobodys_number(
    phone: Telephone, migrated: Embedded
) -> None:
    await phone.desk.user("grace", phone_numbers=["+15550100002"])
    admin = await asyncpg.connect(migrated.dsn().reveal())
    try:
        await admin.execute(
            "update vault.user_numbers set user_id = 'grace'"
            " where workspace_id = $1 and user_id = 'ada'",
            phone.desk.tenant.id,
        )
    finally:
        await admin.close()
    reply = await phone.ask()  # Ada's number leads to Grace, whose sealed profile lacks it
    assert (reply.status, reply.code) == (500, "internal")
    assert await phone.conversations() == []


@pytest.mark.parametrize(
    "change",
    [
        {"caller_id": 7},
        {"caller_id": "x" * 201},
        {"call_sid": ""},
        {"agent_id": "../x"},
        {"called_number": 7},
        {"agent_id": None},
        {"call_sid": None},
    ],
)
async def test_a_call_of_another_form_is_refused(phone: Telephone, change: Any) -> None:
    good = {"caller_id": ADA, "agent_id": AGENT, "called_number": DESK, "call_sid": "CA1"}
    body = {**good, **change}
    reply = await phone.hooks.post(f"{phone.hook}/initiation", body)
    assert (reply.status, reply.code) == (422, "invalid")
    assert await phone.conversations() == []


# Who says that a call is over


async def _placed(phone: Telephone) -> str:
    await phone.knows(SECRET)
    number = await phone.number()
    reply = await phone.call(initiation={"user_id": "ada"}, agent_phone_number_id=number)
    return str(reply.json["conversation_id"])


async def _state(phone: Telephone) -> str:
    return str((await phone.conversations())[0]["state"])


async def test_a_forged_end_ends_nothing(phone: Telephone) -> None:
    body = over(await _placed(phone))
    now = int(time.time())
    good = mac(body, now)
    forged = [
        "",
        "x",
        f"t={now}",
        f"v0={good}",
        f"t={now},v0=",
        f"t={now},v0={'0' * 64}",
        f"t={now},v0={good[:-1]}",
        f"t={now},v0={good.upper()}",
        f"t={now},v0={good}0",
        f"t={now},v1={good}",
        f"t={now - 1},v0={good}",  # another time than the signed one
        f"t={now},t={now},v0={good}",
        f"t={now},t={now - 9999},v0={good}",
        f"t=x{now},v0={mac(body, f'x{now}')}",  # a time that is no number, and signed
        f"t=-{now},v0={mac(body, f'-{now}')}",
        f"t={now}.0,v0={mac(body, f'{now}.0')}",
        f"t=٣,v0={mac(body, '٣')}".encode().decode("latin-1"),
        header(body, secret="another-secret-of-somebody"),
        header(body, now - 1900),  # older than half an hour
        header(body, now + 1900),  # and of the future
        f"t={now}," + ",".join(f"v0={'0' * 64}" for _ in range(6)) + f",v0={good}",
        f"t={now},v0={good}," + "x=" + "y" * 1000,
    ]
    for one in forged:
        reply = await phone.signed(body, one)
        assert (reply.status, reply.code) == (401, "unauthenticated"), one
    for changed in (body + b" ", body[:-1], body.replace(b"conv_", b"conv_x"), b""):
        assert (await phone.signed(changed, f"t={now},v0={good}")).status == 401
    assert await _state(phone) == "started"
    unsigned = await phone.api.with_key(None).call("POST", f"{phone.hook}/post-call", raw=body)
    assert unsigned.status == 401


@pytest.mark.parametrize(
    "shape",
    [
        "t={t},v0={mac}",
        "v0={mac},t={t}",
        "t={t}, v0={mac}",
        "t={t},v0={zero},v0={mac}",
        "t={t},v0={mac},v0={zero}",
    ],
)
async def test_a_true_signature_is_believed_in_every_form(phone: Telephone, shape: str) -> None:
    body = over(await _placed(phone))
    now = int(time.time()) - 1500
    signature = shape.format(t=now, mac=mac(body, now), zero="0" * 64)
    reply = await phone.signed(body, signature)
    assert (reply.status, reply.json) == (200, {"status": "received"})
    assert await _state(phone) == "ended"


async def test_both_secrets_are_believed_while_one_is_replaced(phone: Telephone) -> None:
    body = over(await _placed(phone))
    await phone.knows(SECRET, "the-next-secret-of-mine")
    for secret in (SECRET, "the-next-secret-of-mine"):
        assert (await phone.signed(body, header(body, secret=secret))).status == 200
    await phone.knows("the-next-secret-of-mine")
    assert (await phone.signed(body, header(body))).status == 401


async def test_a_workspace_ends_only_its_own(phone: Telephone, make_tenant: MakeTenant) -> None:
    conversation = await _placed(phone)
    body = over(conversation)
    other = await make_tenant()
    for workspace in (other.id, new_id("ws"), "x"):
        reply = await phone.signed(body, header(body), workspace=workspace)
        assert reply.status in (401, 422)
    theirs = "a-secret-of-the-other-workspace"
    account = {"base_url": phone.desk.provider.base, "api_key": "their-own-key-at-elevenlabs"}
    made = await other.api.put("/v1/upstreams/elevenlabs", {**account, "webhook_secrets": [theirs]})
    assert made.status == 201, made.body
    signature = header(body, secret=theirs)
    assert (await phone.signed(body, signature, workspace=other.id)).status == 200
    assert (await phone.signed(body, signature)).status == 401
    assert await _state(phone) == "started"


async def test_a_workspace_without_secrets_believes_nobody(phone: Telephone) -> None:
    body = over("conv_1")
    for secret in ("", "x", SECRET):
        assert (await phone.signed(body, header(body, secret=secret))).status == 401


async def test_a_client_cannot_end_somebody_elses_call_with_a_variable(phone: Telephone) -> None:
    started = (await phone.answer())["dynamic_variables"]
    await _placed(phone)
    every = [one["id"] for one in await phone.conversations()]
    ours = started["keyturn_conversation_id"]
    placed = next(one for one in every if one != ours)

    async def told(own_id: Any, **more: Any) -> None:
        client = {"dynamic_variables": {"keyturn_conversation_id": own_id}}
        body = over("conv_of_mallory", conversation_initiation_client_data=client, **more)
        assert (await phone.signed(body, header(body))).status == 200

    await told(placed)  # it has another name already
    await told(ours, agent_id="agent_other")
    await told([ours])
    await told({"x": ours})
    await told("kcv_" + "0" * 26)
    assert {one["state"] for one in await phone.conversations()} == {"started", "prepared"}
    await told(ours)  # its own
    states = {one["id"]: one["state"] for one in await phone.conversations()}
    assert states == {ours: "ended", placed: "started"}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"x",
        b"[]",
        b"null",
        b'{"type":["post_call_transcription"],"data":{}}',
        b'{"type":"post_call_transcription","data":[]}',
        b'{"type":"post_call_transcription","data":{"conversation_id":{"a":1}}}',
        b'{"type":"post_call_transcription","data":{"conversation_id":"\\u0000"}}',
        b"[" * 100_000,
        b'\xff{"type":1}',
    ],
)
async def test_whatever_is_signed_is_received_and_does_no_harm(
    phone: Telephone, body: bytes
) -> None:
    await _placed(phone)
    assert (await phone.signed(body, header(body))).status == 200
    assert await _state(phone) == "started"


async def test_what_comes_in_the_midst_of_a_call_ends_nothing(phone: Telephone) -> None:
    body = over(await _placed(phone), "answering_machine_detection")
    assert (await phone.signed(body, header(body))).status == 200
    assert await _state(phone) == "started"


async def test_a_body_without_end_is_cut_off(phone: Telephone) -> None:
    await phone.knows(SECRET)
    body = b" " * (8 * 1024 * 1024 + 1)
    reply = await phone.signed(body, header(body))
    assert (reply.status, reply.code) == (413, "too_large")


# What goes out with a call


@pytest.mark.parametrize(
    "given",
    [
        {TOKEN: "forged"},
        {"SECRET__x": "forged"},
        {"system__caller_id": "forged"},
        {"user_id": "grace"},
        {"keyturn_conversation_id": "kcv_1"},
        {HANDLE: "Bearer x"},
        {"user_google_generation": 7},
        {"x": {"y": 1}},
        {"x": None},
        {"a b": "x"},
        ["x"],
        "x",
    ],
)
async def test_a_call_gives_nothing_that_is_ours_to_give(phone: Telephone, given: Any) -> None:
    await phone.desk.connect()
    number = await phone.number()
    initiation = {"user_id": "ada", "dynamic_variables": given}
    reply = await phone.call(initiation=initiation, agent_phone_number_id=number)
    assert reply.status == 400, reply.body
    assert reply.json["detail"]["code"] == "invalid_parameters"
    assert b"forged" not in reply.body
    assert phone.desk.asked("outbound-call") == []
    assert await phone.conversations() == []


@pytest.mark.parametrize(
    "initiation",
    [
        {"user_id": 7},
        {"user_id": ""},
        {"user_id": "ada\n"},
        {"user_id": "ada", "environment": "a/b"},
        {"user_id": "ada", "environment": ["production"]},
        {"user_id": "ada", "branch_id": "a b"},
        {"environment": 7},
    ],
)
async def test_a_call_of_another_form_goes_nowhere(phone: Telephone, initiation: Any) -> None:
    reply = await phone.call(initiation=initiation, agent_phone_number_id=await phone.number())
    assert reply.status == 400
    assert phone.desk.asked("outbound-call") == []


async def test_another_workspaces_number_lends_no_environment(
    phone: Telephone, make_tenant: MakeTenant
) -> None:
    number = await phone.number(environment="staging")
    other = await make_tenant()
    body = {"base_url": phone.desk.provider.base, "api_key": "their-own-key-at-elevenlabs"}
    await other.api.put("/v1/upstreams/elevenlabs", body)
    await other.api.put("/v1/users/eve", {})
    phone.eleven.world.open_account("their-own-key-at-elevenlabs")
    await phone.eleven.as_workspace("their-own-key-at-elevenlabs").agent()
    reply = await phone.call(
        initiation={"user_id": "eve"}, api=other.api, agent_phone_number_id=number
    )
    assert reply.status == 404
    sent = phone.sent("outbound-call")["conversation_initiation_client_data"]
    assert sent["environment"] == "production"
    nobody = await phone.call(initiation={"user_id": "ada"}, api=other.api)
    assert nobody.status == 404
