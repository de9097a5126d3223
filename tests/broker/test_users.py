"""Users over HTTP: made, replaced, listed, deleted; every limit at its edge and one beyond."""

import asyncio
from typing import Any
from urllib.parse import quote

import asyncpg
import pytest
from conftest import Tenant
from support.api import Api, Reply

from vault.embedded import Embedded
from vault.model import MAX_ATTRIBUTES, MAX_PHONE_NUMBERS

ADA = {
    "name": "Ada Łøvelace 李 🦉",
    "phone_numbers": ["+15551234567", "+442071838750"],
    "attributes": {"tier": "gold", "seats": 3, "ratio": 0.5, "beta": True, "note": "ü\u2028x"},
}


def path_of(user_id: str) -> str:
    return "/v1/users/" + quote(user_id, safe="")


async def put(api: Api, user_id: str = "ada", **body: Any) -> Reply:
    return await api.put(path_of(user_id), body)


async def test_a_user_is_made_read_replaced_and_deleted(tenant: Tenant) -> None:
    made = await tenant.api.put("/v1/users/ada", ADA)
    assert made.status == 200
    assert made.json.items() >= {"id": "ada", **ADA}.items()
    read = await tenant.api.get("/v1/users/ada")
    assert read.json == made.json
    replaced = await tenant.api.put("/v1/users/ada", {"name": "Ada King"})
    assert replaced.json == {
        **made.json,
        "name": "Ada King",
        "phone_numbers": [],
        "attributes": {},
        "updated_at": replaced.json["updated_at"],
    }
    assert replaced.json["updated_at"] > made.json["updated_at"]
    assert (await tenant.api.get("/v1/users/ada")).json == replaced.json
    gone = await tenant.api.delete("/v1/users/ada")
    assert (gone.status, gone.json) == (200, {"connections": []})
    assert (await tenant.api.get("/v1/users/ada")).code == "not_found"
    assert (await tenant.api.delete("/v1/users/ada")).code == "not_found"


async def test_a_user_that_comes_back_is_a_new_one(tenant: Tenant) -> None:
    first = await tenant.api.put("/v1/users/ada", ADA)
    await tenant.api.delete("/v1/users/ada")
    again = await put(tenant.api, name="Another")
    assert again.json["created_at"] > first.json["created_at"]
    assert again.json["attributes"] == {}


async def test_a_user_of_one_workspace_does_not_exist_in_another(
    tenant: Tenant, stranger: Tenant
) -> None:
    await put(tenant.api, name="Ada")
    assert (await stranger.api.get("/v1/users/ada")).status == 404
    assert (await stranger.api.delete("/v1/users/ada")).status == 404
    await put(stranger.api, name="Another Ada")
    assert (await tenant.api.get("/v1/users/ada")).json["name"] == "Ada"


@pytest.mark.parametrize(
    "user_id",
    ["a", "A" * 255, "0", "auth0|5f7c8ec7c33c6c004bbafe82", "ada@acme.com", "a~!$*()',=:+"],
)
async def test_the_ids_that_platforms_use_are_taken_as_they_are(
    tenant: Tenant, user_id: str
) -> None:
    assert (await put(tenant.api, user_id, name="x")).json["id"] == user_id
    assert (await tenant.api.get(path_of(user_id))).json["id"] == user_id
    assert [one["id"] for one in (await tenant.api.get("/v1/users")).json["data"]] == [user_id]
    events = await tenant.api.get(f"/v1/audit-events?user_id={quote(user_id, safe='')}")
    assert [one["action"] for one in events.json["data"]] == ["user.write"]
    assert (await tenant.api.delete(path_of(user_id))).status == 200


@pytest.mark.parametrize(
    "user_id", ["A" * 256, " a", "a b", "ä", "a\n", "a\0", "-a", "a%b", "a#b", 'a"b', "<b>", "a\\b"]
)
async def test_other_ids_are_refused_without_being_repeated(tenant: Tenant, user_id: str) -> None:
    for method in ("GET", "PUT", "DELETE"):
        refused = await tenant.api.call(method, path_of(user_id), body={})
        assert (refused.status, refused.code) == (422, "invalid"), method
        assert refused.json["errors"][0]["pointer"] == "/user_id"
        assert user_id not in refused.json["detail"] or user_id == "-a"


GOOD: list[dict[str, Any]] = [
    {},
    {"name": None},
    {"name": "x"},
    {"name": "ж" * 200},
    {"phone_numbers": ["+1234567", "+123456789012345"]},
    {"phone_numbers": [f"+1555123{number:04}" for number in range(MAX_PHONE_NUMBERS)]},
    {"attributes": {"a": "", "a" * 48: "x" * 1000}},
    {"attributes": {f"a{number}": number for number in range(MAX_ATTRIBUTES)}},
    {"attributes": {"low": -(2**63), "high": 2**63 - 1, "small": 5e-324, "large": 1.7e308}},
]


@pytest.mark.parametrize("body", GOOD)
async def test_what_is_just_within_a_limit_is_kept_as_it_was_sent(
    tenant: Tenant, body: dict[str, Any]
) -> None:
    assert (await tenant.api.put("/v1/users/ada", body)).status == 200
    read = (await tenant.api.get("/v1/users/ada")).json
    assert read.items() >= body.items()


BAD: list[tuple[dict[str, Any], str]] = [
    ({"name": ""}, "/name"),
    ({"name": "x" * 201}, "/name"),
    ({"name": "a\tb"}, "/name"),
    ({"name": "a\x7f"}, "/name"),
    ({"name": 5}, "/name"),
    ({"phone_numbers": None}, "/phone_numbers"),
    ({"phone_numbers": "+15551234567"}, "/phone_numbers"),
    ({"phone_numbers": ["15551234567"]}, "/phone_numbers/0"),
    ({"phone_numbers": ["+15551234567", "+0555123456"]}, "/phone_numbers/1"),
    ({"phone_numbers": ["+123456"]}, "/phone_numbers/0"),
    ({"phone_numbers": ["+1234567890123456"]}, "/phone_numbers/0"),
    ({"phone_numbers": ["+1 555 123 4567"]}, "/phone_numbers/0"),
    ({"phone_numbers": ["+1555123456\n"]}, "/phone_numbers/0"),
    ({"phone_numbers": ["+١٢٣٤٥٦٧٨"]}, "/phone_numbers/0"),
    ({"phone_numbers": ["+15551234567"] * (MAX_PHONE_NUMBERS + 1)}, "/phone_numbers"),
    ({"attributes": {"A": 1}}, "/attributes"),
    ({"attributes": {"1a": 1}}, "/attributes"),
    ({"attributes": {"": 1}}, "/attributes"),
    ({"attributes": {"a" * 49: 1}}, "/attributes"),
    ({"attributes": {"a-b": 1}}, "/attributes"),
    ({"attributes": {"secret__x": None}}, "/attributes"),
    ({"attributes": {"a": [1]}}, "/attributes"),
    ({"attributes": {"a": {"b": 1}}}, "/attributes"),
    ({"attributes": {"a": "x" * 1001}}, "/attributes"),
    ({"attributes": {"a": 2**63}}, "/attributes"),
    ({"attributes": {"a": -(2**63) - 1}}, "/attributes"),
    ({"attributes": {"a": 10**30}}, "/attributes"),
    ({"attributes": {f"a{number}": 1 for number in range(MAX_ATTRIBUTES + 1)}}, "/attributes"),
    ({"id": "ada"}, "/"),
    ({"workspace_id": "ws"}, "/"),
]


@pytest.mark.parametrize(("body", "pointer"), BAD)
async def test_what_is_just_beyond_a_limit_is_refused_and_changes_nothing(
    tenant: Tenant, body: dict[str, Any], pointer: str
) -> None:
    before = await put(tenant.api, name="before")
    refused = await tenant.api.put("/v1/users/ada", body)
    assert (refused.status, refused.code) == (422, "invalid")
    assert refused.json["errors"][0]["pointer"].startswith(pointer)
    assert (await tenant.api.get("/v1/users/ada")).json == before.json


async def test_a_phone_number_that_is_given_twice_is_kept_once(tenant: Tenant) -> None:
    made = await put(tenant.api, phone_numbers=["+15551234567", "+15551234567"])
    assert made.json["phone_numbers"] == ["+15551234567"]


async def test_a_list_is_walked_in_order_and_without_a_gap(tenant: Tenant) -> None:
    ids = sorted(f"user-{number:02}" for number in range(25))
    await asyncio.gather(*[put(tenant.api, user_id, name=user_id) for user_id in ids])
    seen: list[str] = []
    cursor = ""
    for _ in range(10):
        page = (await tenant.api.get(f"/v1/users?limit=10{cursor}")).json
        seen += [one["id"] for one in page["data"]]
        assert [one["name"] for one in page["data"]] == [one["id"] for one in page["data"]]
        if page["next_cursor"] is None:
            break
        cursor = f"&cursor={page['next_cursor']}"
    assert seen == ids


async def test_an_exactly_full_page_is_the_last(tenant: Tenant) -> None:
    for user_id in ("a", "b", "c"):
        await put(tenant.api, user_id)
    assert (await tenant.api.get("/v1/users?limit=3")).json["next_cursor"] is None
    assert (await tenant.api.get("/v1/users?limit=2")).json["next_cursor"] is not None
    assert len((await tenant.api.get("/v1/users?limit=100")).json["data"]) == 3


@pytest.mark.parametrize(
    ("query", "pointer"),
    [
        ("limit=0", "/limit"),
        ("limit=101", "/limit"),
        ("limit=-1", "/limit"),
        ("limit=ten", "/limit"),
        ("limit=", "/limit"),
        ("cursor=", "/cursor"),
        ("cursor=%00", "/cursor"),
        ("cursor=!!!", "/cursor"),
        ("cursor=AAAA", "/cursor"),
        ("cursor=" + "A" * 401, "/cursor"),
    ],
)
async def test_a_bad_page_is_refused(tenant: Tenant, query: str, pointer: str) -> None:
    refused = await tenant.api.get(f"/v1/users?{query}")
    assert (refused.status, refused.code) == (422, "invalid")
    assert refused.json["errors"][0]["pointer"] == pointer


async def test_a_cursor_of_another_workspace_shows_nothing_of_it(
    tenant: Tenant, stranger: Tenant
) -> None:
    for user_id in ("a", "b", "c"):
        await put(tenant.api, user_id)
    await put(stranger.api, "z")
    cursor = (await tenant.api.get("/v1/users?limit=1")).json["next_cursor"]
    found = (await stranger.api.get(f"/v1/users?cursor={cursor}")).json["data"]
    assert [one["id"] for one in found] == ["z"]


async def stored_generation(postgres: Embedded, tenant: Tenant, user_id: str) -> int:
    connection = await asyncpg.connect(postgres.dsn().reveal())
    found: int = await connection.fetchval(
        "select generation from vault.users where workspace_id = $1 and user_id = $2",
        tenant.id,
        user_id,
    )
    await connection.close()
    return found


async def test_fifty_writers_at_once_leave_one_of_what_they_wrote(
    tenant: Tenant, migrated: Embedded
) -> None:
    replies = await asyncio.gather(
        *[put(tenant.api, name=f"n{number}", attributes={"n": number}) for number in range(50)]
    )
    assert {(reply.status, reply.json.get("code")) for reply in replies} <= {
        (200, None),
        (409, "conflict"),
    }
    written = [reply.json for reply in replies if reply.status == 200]
    assert written
    last = (await tenant.api.get("/v1/users/ada")).json
    assert last["name"] == f"n{last['attributes']['n']}"
    assert last in written
    assert await stored_generation(migrated, tenant, "ada") == len(written)
    events = await tenant.api.get("/v1/audit-events?action=user.write&limit=100")
    assert len(events.json["data"]) == len(written)


async def test_writers_and_deleters_at_once_leave_a_user_that_opens_or_none(
    tenant: Tenant,
) -> None:
    async def one(number: int) -> Reply:
        if number % 3:
            return await put(tenant.api, name=f"n{number}")
        return await tenant.api.delete("/v1/users/ada")

    for _ in range(3):
        replies = await asyncio.gather(*[one(number) for number in range(30)])
        assert {reply.status for reply in replies} <= {200, 404, 409}
        assert (await tenant.api.get("/v1/users/ada")).status in {200, 404}
        assert (await tenant.api.get("/v1/users")).status == 200


async def test_nothing_of_a_profile_lies_open_in_the_database(
    tenant: Tenant, migrated: Embedded
) -> None:
    await tenant.api.put("/v1/users/ada", {"name": "canary-name", "attributes": {"a": "canary-b"}})
    connection = await asyncpg.connect(migrated.dsn().reveal())
    rows = await connection.fetch("select * from vault.users where workspace_id = $1", tenant.id)
    rows += await connection.fetch(
        "select * from vault.audit_events where workspace_id = $1", tenant.id
    )
    await connection.close()
    stored = b"".join(
        value if isinstance(value, bytes) else str(value).encode()
        for row in rows
        for value in tuple(row)
    )
    assert len(rows) >= 2
    assert b"canary" not in stored
