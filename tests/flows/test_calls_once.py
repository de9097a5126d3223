"""A user's call that goes out is placed once for one Idempotency-Key."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any, Final

import asyncpg
import pytest
from conftest import Tenant
from support.api import Reply
from support.eleven import Outside, outside
from support.loopback import listening, saying
from support.sandbox import Provider
from support.telephoning import Telephone, telephoning

from vault.embedded import Embedded

PLACED: Final = {
    "success": True,
    "message": "Success",
    "conversation_id": "conv_1",
    "callSid": "CA",
}
IDS: Final = ("conversation_id", "callSid", "sip_call_id")
LINES: Final[list[tuple[str, dict[str, Any]]]] = [
    ("twilio", {"agent_phone_number_id": "twilio"}),
    ("sip-trunk", {"agent_phone_number_id": "sip_trunk"}),
    ("exotel", {"agent_phone_number_id": "exotel"}),
    (
        "whatsapp",
        {
            "whatsapp_phone_number_id": "w1",
            "whatsapp_user_id": "u9",
            "whatsapp_call_permission_request_template_name": "t",
            "whatsapp_call_permission_request_template_language_code": "en",
        },
    ),
]


@pytest.fixture
async def phone(tenant: Tenant, provider: Provider) -> AsyncIterator[Telephone]:
    async with telephoning(tenant, provider) as found:
        await found.eleven.agent()
        yield found


@pytest.fixture
async def account(phone: Telephone) -> AsyncIterator[Outside]:
    """An account that answers as a test wants, and places no call by itself."""
    async with outside() as server:
        await leads_to(phone, server.base)
        yield server


@pytest.fixture
async def admin(migrated: Embedded) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(migrated.dsn().reveal())
    yield connection
    await connection.close()


async def kept(admin: Any, phone: Telephone) -> bytes:
    """What is remembered of the one key that was used."""
    query = "select result from vault.idempotency where workspace_id = $1"
    found = await admin.fetchval(query, phone.desk.tenant.id)
    return bytes(found or b"")


async def stands_at(admin: Any, phone: Telephone, result: bytes, age: float) -> None:
    """As if whoever used the key had come so far, and that were so long ago."""
    await admin.execute(
        "update vault.idempotency set result = $2, created_at = now() - make_interval(secs => $3)"
        " where workspace_id = $1",
        phone.desk.tenant.id,
        result,
        age,
    )


async def leads_to(phone: Telephone, base: str) -> None:
    body = {"base_url": base, "api_key": "another-key-of-mine"}
    assert (await phone.api.put("/v1/upstreams/elevenlabs", body)).status == 200


async def calling(phone: Telephone, **more: Any) -> Reply:
    asked = {"initiation": {"user_id": "ada"}, "agent_phone_number_id": "p", "key": "one", **more}
    return await phone.call(**asked)


def code(reply: Reply) -> tuple[int, str]:
    return reply.status, reply.json["detail"]["code"]


@pytest.mark.parametrize(("line", "named"), LINES)
async def test_the_same_request_is_one_call_and_answers_the_same_ids(
    phone: Telephone, line: str, named: dict[str, Any]
) -> None:
    await phone.desk.connect()
    if number := named.get("agent_phone_number_id"):
        named = {"agent_phone_number_id": await phone.number(provider=number)}
    every = [
        await phone.call(f"{line}/outbound-call", {"user_id": "ada"}, key="one", **named)
        for _ in range(3)
    ]
    assert {one.status for one in every} == {200}
    first, *others = [one.json for one in every]
    assert first["conversation_id"]
    for one in others:
        assert one.keys() == first.keys()
        assert [one.get(name) for name in IDS] == [first.get(name) for name in IDS]
        assert one["success"] is True
    assert len(phone.desk.asked("outbound-call")) == 1
    assert len(await phone.conversations()) == 1


async def test_another_body_is_refused(phone: Telephone, account: Outside) -> None:
    account.will(PLACED)
    assert (await calling(phone)).status == 200
    refused = await calling(phone, initiation={"user_id": "ada", "dynamic_variables": {"x": 1}})
    [rule] = refused.json["detail"]
    assert refused.status == 422
    assert (rule["loc"], rule["type"]) == (["header", "Idempotency-Key"], "idempotency_mismatch")
    assert len(account.heard) == 1


async def test_while_the_first_one_is_under_way_nobody_else_is_called(
    phone: Telephone, account: Outside
) -> None:
    placed = asyncio.Event()
    account.will(PLACED, when=placed)
    first = asyncio.create_task(calling(phone))
    async with asyncio.timeout(60):
        while not account.heard:  # noqa: ASYNC110 - nobody is told
            await asyncio.sleep(0.01)
    assert code(await calling(phone)) == (409, "idempotency_in_progress")
    placed.set()
    assert (await first).json == PLACED
    again = await calling(phone)
    assert (again.status, again.json["callSid"]) == (200, "CA")
    assert len(account.heard) == 1


async def test_those_who_come_at_once_place_one_call(phone: Telephone, account: Outside) -> None:
    account.will(PLACED)
    every = await asyncio.gather(*[calling(phone) for _ in range(6)])
    assert {one.status for one in every} <= {200, 409}
    assert len(account.heard) == 1
    assert len(await phone.conversations()) == 1


async def test_a_call_that_is_refused_may_be_tried_again(
    phone: Telephone, account: Outside
) -> None:
    said = {"success": False, "message": "The line is busy.", "conversation_id": None}
    for answer, status in ((said, 200), ({"detail": "no"}, 404), ({}, 401), (PLACED, 200)):
        account.will(answer, status)
    every = [await calling(phone) for _ in range(5)]
    assert [one.status for one in every] == [200, 404, 502, 200, 200]
    assert every[0].json == said
    assert len(account.heard) == 4
    states = [one["state"] for one in await phone.conversations()]
    assert states == ["started", "ended", "ended", "ended"]


async def test_what_was_missing_may_be_mended(phone: Telephone, account: Outside) -> None:
    account.will(PLACED)
    await phone.desk.profile(integrations=[{"integration": "google"}])
    assert code(await calling(phone)) == (409, "connection_missing")
    await phone.desk.connect()
    every = [await calling(phone) for _ in range(2)]
    assert [one.status for one in every] == [200, 200]
    assert len(account.heard) == 1


async def test_an_account_that_was_never_asked_may_be_asked_again(phone: Telephone) -> None:
    async with listening(saying(b"")) as listener:
        closed = f"http://127.0.0.1:{listener.port}"
    await leads_to(phone, closed)
    assert code(await calling(phone)) == (502, "upstream_failed")
    assert [one["state"] for one in await phone.conversations()] == ["ended"]
    async with outside() as server:
        server.will(PLACED)
        await leads_to(phone, server.base)
        every = [await calling(phone) for _ in range(2)]
        assert [one.status for one in every] == [200, 200]
        assert len(server.heard) == 1


@pytest.mark.parametrize("status", [500, 503])
async def test_a_call_of_which_nobody_knows_is_not_placed_again(
    phone: Telephone, account: Outside, status: int
) -> None:
    account.will({"detail": "?"}, status)
    account.will(PLACED)
    assert (await calling(phone)).status == status
    for _ in range(2):
        assert code(await calling(phone)) == (502, "upstream_failed")
    assert len(account.heard) == 1
    assert [one["state"] for one in await phone.conversations()] == ["prepared"]


@pytest.mark.parametrize("answer", [b"", b"no HTTP\r\n\r\n"], ids=["lost", "unreadable"])
async def test_a_call_whose_answer_is_lost_is_not_placed_again(
    phone: Telephone, answer: bytes
) -> None:
    async def hang_up(writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        with contextlib.suppress(OSError):
            await writer.drain()
        writer.close()

    async with listening(hang_up) as listener:
        await leads_to(phone, f"http://127.0.0.1:{listener.port}")
        for _ in range(3):
            assert code(await calling(phone)) == (502, "upstream_failed")
        assert len(listener.heard) == 1
    assert [one["state"] for one in await phone.conversations()] == ["prepared"]


async def test_a_request_that_died_while_it_was_prepared_may_be_made_again(
    phone: Telephone, account: Outside, admin: Any
) -> None:
    account.will(PLACED)
    assert (await calling(phone)).status == 200
    await stands_at(admin, phone, b"begun:0123456789abcdef", 150)
    assert code(await calling(phone)) == (409, "idempotency_in_progress")
    assert len(account.heard) == 1
    await stands_at(admin, phone, b"begun:0123456789abcdef", 200)
    assert (await calling(phone)).json == PLACED
    assert len(account.heard) == 2
    assert (await calling(phone)).json["callSid"] == "CA"
    assert len(account.heard) == 2


@pytest.mark.parametrize("stands", [b"asked:0123456789abcdef", b""], ids=["now", "before 0.2"])
async def test_what_became_of_a_request_that_died_while_the_account_was_asked_nobody_knows(
    phone: Telephone, account: Outside, admin: Any, stands: bytes
) -> None:
    account.will(PLACED)
    assert (await calling(phone)).status == 200
    for age, wanted in ((150, (409, "idempotency_in_progress")), (200, (502, "upstream_failed"))):
        await stands_at(admin, phone, stands, age)
        assert code(await calling(phone)) == wanted
    assert len(account.heard) == 1


async def test_who_was_taken_for_dead_while_he_prepared_asks_nobody(
    phone: Telephone, account: Outside, admin: Any, migrated: Embedded
) -> None:
    account.will(PLACED)
    await phone.desk.connect()
    lock = await asyncpg.connect(migrated.dsn().reveal())
    async with asyncio.timeout(60):
        async with lock.transaction():
            await lock.execute("lock table vault.conversations")  # no mint ends meanwhile
            slow = asyncio.create_task(calling(phone))
            while not (begun := await kept(admin, phone)):  # noqa: ASYNC110 - nobody is told
                await asyncio.sleep(0.01)
            await stands_at(admin, phone, begun, 200)
            quick = asyncio.create_task(calling(phone))
            while await kept(admin, phone) == begun:  # noqa: ASYNC110 - nobody is told
                await asyncio.sleep(0.01)
        await lock.close()
        every = await asyncio.gather(slow, quick)
    assert code(every[0]) == (409, "idempotency_in_progress")
    assert every[1].json == PLACED
    assert len(account.heard) == 1
    states = sorted(one["state"] for one in await phone.conversations())
    assert states == ["ended", "started"]
    assert (await calling(phone)).json["callSid"] == "CA"


async def test_a_number_is_imported_once_for_one_key(phone: Telephone, account: Outside) -> None:
    for answer, status in (
        ({"phone_number_id": "1"}, 200),
        ({}, 422),
        ({"phone_number_id": "2"}, 200),
    ):
        account.will(answer, status)
    body = {"phone_number": "+15550009999", "label": "desk", "provider": "twilio"}
    path, once = "/v1/convai/phone-numbers", {"Idempotency-Key": "one"}
    every = [await phone.api.post(path, body, headers=once) for _ in range(3)]
    assert [(one.status, one.json) for one in every] == [(200, {"phone_number_id": "1"})] * 3
    assert len(account.heard) == 1
    other = await phone.api.post(path, {**body, "label": "x"}, headers=once)
    assert other.status == 422
    assert other.json["detail"][0]["type"] == "idempotency_mismatch"
    once = {"Idempotency-Key": "two"}
    every = [await phone.api.post(path, body, headers=once) for _ in range(3)]
    assert [one.status for one in every] == [422, 200, 200], "what was refused may be mended"
    assert every[1].json == every[2].json == {"phone_number_id": "2"}
    assert len(account.heard) == 3


async def test_a_key_holds_for_its_own_caller_and_line(phone: Telephone, account: Outside) -> None:
    account.will(PLACED)
    other = await phone.desk.key("mint")
    for more in ({}, {"api": other}, {"line": "sip-trunk/outbound-call"}, {"key": "two"}):
        for _ in range(2):
            assert (await calling(phone, **more)).status == 200
    assert len(account.heard) == 4


async def test_without_a_user_each_request_is_a_call(phone: Telephone, account: Outside) -> None:
    account.will(PLACED)
    for _ in range(2):
        assert (await calling(phone, initiation=None)).json == PLACED
    assert len(account.heard) == 2


async def test_of_an_answer_its_ids_are_remembered_and_no_words(
    phone: Telephone, account: Outside, admin: Any
) -> None:
    token = await phone.desk.connect()
    account.will({**PLACED, "message": f"sentinel {token}", "callSid": token})
    assert token.encode() not in (await calling(phone)).body
    again = await calling(phone)
    assert again.headers["Cache-Control"] == "no-store"
    assert again.json["conversation_id"] == "conv_1"
    remembered = await kept(admin, phone)
    assert b"conv_1" in remembered
    assert token.encode() not in remembered
    assert b"sentinel" not in remembered
