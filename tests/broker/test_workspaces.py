"""The operator's directory: workspaces made, listed, and deleted with all that is in them."""

import asyncio
import uuid

import asyncpg
from conftest import OPERATOR_KEY, Tenant
from support.api import Api

from broker.settings import Settings
from vault.bearer import generate, kind_of
from vault.embedded import Embedded
from vault.secret import Secret

TABLES = ("workspaces", "workspace_keys", "index_keys", "api_keys", "users", "user_keys")


async def rows_of(postgres: Embedded, workspace: str) -> dict[str, int]:
    connection = await asyncpg.connect(postgres.dsn().reveal())
    counts = {}
    for table in (*TABLES, "audit_events"):
        counts[table] = await connection.fetchval(
            f"select count(*) from vault.{table} where workspace_id = $1",  # noqa: S608 - our names
            workspace,
        )
    await connection.close()
    return counts


async def test_the_operator_makes_a_workspace_whose_key_has_every_scope_and_is_shown_once(
    operator: Api, anyone: Api
) -> None:
    name = f"Acme {uuid.uuid4().hex[:8]} Ω"
    made = await operator.post("/v1/workspaces", {"name": name})
    assert (made.status, made.json["name"]) == (201, name)
    assert made.headers["Cache-Control"] == "no-store"
    assert kind_of(made.json["api_key"]) == "api_key"
    inside = anyone.with_key(made.json["api_key"])
    assert (await inside.post("/v1/keys", {"name": "k", "scopes": ["tokens:read"]})).status == 201
    read = await operator.get(f"/v1/workspaces/{made.json['id']}")
    assert read.json == {key: made.json[key] for key in ("id", "name", "created_at")}


async def test_a_deleted_workspace_takes_its_keys_and_rows_and_leaves_its_record(
    operator: Api, anyone: Api, migrated: Embedded
) -> None:
    made = (await operator.post("/v1/workspaces", {"name": "doomed"})).json
    inside = anyone.with_key(made["api_key"])
    more = (await inside.post("/v1/keys", {"name": "k", "scopes": ["manage"]})).json
    await inside.put("/v1/users/ada", {"name": "Ada"})
    before = await rows_of(migrated, made["id"])
    assert all(before.values())
    assert (await operator.delete(f"/v1/workspaces/{made['id']}")).status == 204
    for key in (made["api_key"], more["key"]):
        assert (await anyone.with_key(key).get("/v1/users")).status == 401
    after = await rows_of(migrated, made["id"])
    assert {table: after[table] for table in TABLES} == dict.fromkeys(TABLES, 0)
    assert after["audit_events"] == before["audit_events"] + 1
    for method in ("GET", "DELETE"):
        again = await operator.call(method, f"/v1/workspaces/{made['id']}")
        assert (again.status, again.code) == (404, "not_found")


async def test_deleting_one_workspace_leaves_its_neighbours_alone(
    operator: Api, tenant: Tenant, stranger: Tenant
) -> None:
    await stranger.api.put("/v1/users/ada", {"name": "Ada"})
    assert (await operator.delete(f"/v1/workspaces/{tenant.id}")).status == 204
    assert (await stranger.api.get("/v1/users/ada")).json["name"] == "Ada"
    assert (await tenant.api.get("/v1/users")).status == 401


async def test_a_workspace_deleted_by_many_at_once_is_deleted_once(operator: Api) -> None:
    made = (await operator.post("/v1/workspaces", {"name": "storm"})).json
    replies = await asyncio.gather(
        *[operator.delete(f"/v1/workspaces/{made['id']}") for _ in range(10)]
    )
    assert sorted(reply.status for reply in replies) == [204, *[404] * 9]


async def test_the_directory_is_walked_to_its_end(operator: Api) -> None:
    names = [f"walk {uuid.uuid4().hex}" for _ in range(5)]
    made = [(await operator.post("/v1/workspaces", {"name": name})).json["id"] for name in names]
    seen: dict[str, str] = {}
    cursor = ""
    while True:  # however many others have been made before
        page = (await operator.get(f"/v1/workspaces?limit=2{cursor}")).json
        assert list(page["data"][0]) == ["id", "name", "created_at"]
        seen |= {one["id"]: one["name"] for one in page["data"]}
        if page["next_cursor"] is None:
            break
        cursor = f"&cursor={page['next_cursor']}"
    assert [seen[one] for one in made] == names


async def test_a_repeated_creation_makes_one_workspace_and_shows_no_key(operator: Api) -> None:
    headers = {"Idempotency-Key": uuid.uuid4().hex}
    body = {"name": f"once {uuid.uuid4().hex}"}
    replies = [await operator.post("/v1/workspaces", body, headers=headers) for _ in range(3)]
    assert [reply.status for reply in replies] == [201] * 3
    assert [reply.json["id"] for reply in replies] == [replies[0].json["id"]] * 3
    assert [reply.json["api_key"] is None for reply in replies] == [False, True, True]
    other = await operator.post("/v1/workspaces", {"name": "other"}, headers=headers)
    assert (other.status, other.code) == (422, "idempotency_mismatch")


async def test_a_refused_request_does_not_use_its_idempotency_key_up(operator: Api) -> None:
    headers = {"Idempotency-Key": uuid.uuid4().hex}
    refused = await operator.post("/v1/workspaces", {"name": ""}, headers=headers)
    assert refused.status == 422
    mended = await operator.post("/v1/workspaces", {"name": "good"}, headers=headers)
    assert (mended.status, mended.json["api_key"] is None) == (201, False)


async def test_two_callers_with_one_idempotency_key_do_not_meet(
    tenant: Tenant, stranger: Tenant
) -> None:
    headers = {"Idempotency-Key": "shared"}
    body = {"name": "k", "scopes": ["mint"]}
    mine = await tenant.api.post("/v1/keys", body, headers=headers)
    theirs = await stranger.api.post("/v1/keys", body, headers=headers)
    assert (mine.status, theirs.status) == (201, 201)
    assert mine.json["id"] != theirs.json["id"]
    assert None not in (mine.json["key"], theirs.json["key"])


async def test_no_key_of_a_workspace_reaches_the_directory(tenant: Tenant) -> None:
    for method, path, body in (
        ("GET", "/v1/workspaces", None),
        ("POST", "/v1/workspaces", {"name": "mine"}),
        ("GET", f"/v1/workspaces/{tenant.id}", None),
        ("DELETE", f"/v1/workspaces/{tenant.id}", None),
    ):
        refused = await tenant.api.call(method, path, body=body)
        assert (refused.status, refused.code) == (403, "forbidden")
    assert (await tenant.api.get("/v1/users")).status == 200


async def test_another_operator_key_is_unknown(anyone: Api) -> None:
    wrong = anyone.with_key(generate("operator").reveal())
    assert (await wrong.get("/v1/workspaces")).status == 401
    assert (await anyone.get("/v1/workspaces")).status == 401


async def test_the_operator_reads_nothing_inside_a_workspace_over_http(operator: Api) -> None:
    for path in ("/v1/users", "/v1/keys", "/v1/audit-events", "/v1/users/ada"):
        refused = await operator.get(path)
        assert (refused.status, refused.code) == (403, "forbidden")


def test_two_operator_keys_count_while_they_are_rotated() -> None:
    second = generate("operator").reveal()
    settings = Settings(operator_key=Secret(f"{OPERATOR_KEY} , {second}"))
    assert [key.reveal() for key in settings.operator_keys] == [OPERATOR_KEY, second]
