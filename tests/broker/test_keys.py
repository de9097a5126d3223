"""API keys over HTTP: made once, shown once, narrowed, revoked."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from conftest import Tenant
from support.api import Api
from support.journeys import Clock

from vault.bearer import kind_of
from vault.embedded import Embedded


async def test_a_key_is_shown_once_and_never_again(tenant: Tenant) -> None:
    made = await tenant.api.post("/v1/keys", {"name": "mint", "scopes": ["mint"]})
    assert made.status == 201
    assert kind_of(made.json["key"]) == "api_key"
    assert made.headers["Cache-Control"] == "no-store"
    read = await tenant.api.get(f"/v1/keys/{made.json['id']}")
    assert read.status == 200
    assert "key" not in read.json
    assert made.json["key"].encode() not in read.body


async def test_a_made_key_works_with_either_header(tenant: Tenant, anyone: Api) -> None:
    made = await tenant.api.post("/v1/keys", {"name": "k", "scopes": ["manage"]})
    key = made.json["key"]
    for headers in ({"Authorization": f"Bearer {key}"}, {"xi-api-key": key}):
        assert (await anyone.get("/v1/keys", headers=headers)).status == 200


async def test_two_different_keys_in_one_request_are_refused(
    tenant: Tenant, stranger: Tenant
) -> None:
    both = await tenant.api.get("/v1/keys", headers={"xi-api-key": stranger.key})
    assert (both.status, both.code) == (401, "unauthenticated")
    assert both.headers["WWW-Authenticate"] == "Bearer"


async def test_a_revoked_key_is_refused_by_the_next_request(tenant: Tenant, anyone: Api) -> None:
    made = await tenant.api.post("/v1/keys", {"name": "k", "scopes": ["manage"]})
    holder = anyone.with_key(made.json["key"])
    assert (await holder.get("/v1/keys")).status == 200
    assert (await tenant.api.delete(f"/v1/keys/{made.json['id']}")).status == 204
    assert (await holder.get("/v1/keys")).status == 401


async def test_a_key_is_refused_once_its_time_has_come(
    tenant: Tenant, anyone: Api, migrated: Embedded
) -> None:
    later = datetime.now(UTC) + timedelta(hours=1)
    made = await tenant.api.post(
        "/v1/keys", {"name": "k", "scopes": ["manage"], "expires_at": later.isoformat()}
    )
    holder = anyone.with_key(made.json["key"])
    assert (await holder.get("/v1/keys")).status == 200
    # Soon, by the clock that counts; how long the request takes that sees it does not.
    [ends] = await Clock(migrated).do(
        "update vault.api_keys set expires_at = clock_timestamp() + interval '0.5 seconds'"
        " where key_id = $1 returning expires_at, clock_timestamp() as now",
        made.json["id"],
    )
    assert ends["now"] < ends["expires_at"]
    await Clock(migrated).do(
        "select pg_sleep(greatest(0, extract(epoch from $1 - clock_timestamp()))::float8)",
        ends["expires_at"],
    )
    assert (await holder.get("/v1/keys")).status == 401


async def test_a_key_cannot_make_a_wider_one(tenant: Tenant, anyone: Api) -> None:
    later = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    made = await tenant.api.post(
        "/v1/keys",
        {
            "name": "narrow",
            "scopes": ["manage"],
            "environments": ["staging"],
            "expires_at": later,
        },
    )
    narrow = anyone.with_key(made.json["key"])
    wider = [
        {"name": "w", "scopes": ["manage", "tokens:read"]},
        {"name": "w", "scopes": ["manage"], "environments": ["production"]},
        {"name": "w", "scopes": ["manage"], "environments": ["staging", "production"]},
        {
            "name": "w",
            "scopes": ["manage"],
            "expires_at": (datetime.now(UTC) + timedelta(hours=2)).isoformat(),
        },
    ]
    for body in wider:
        refused = await narrow.post("/v1/keys", body)
        assert (refused.status, refused.code) == (403, "forbidden")
    same = await narrow.post("/v1/keys", {"name": "same", "scopes": ["manage"]})
    assert same.status == 201
    assert same.json["environments"] == ["staging"]
    assert same.json["expires_at"] == made.json["expires_at"]


async def test_a_key_of_one_environment_cannot_revoke_a_key_of_another(
    tenant: Tenant, anyone: Api
) -> None:
    staging = await tenant.api.post(
        "/v1/keys", {"name": "s", "scopes": ["manage"], "environments": ["staging"]}
    )
    everywhere = await tenant.api.post("/v1/keys", {"name": "e", "scopes": ["mint"]})
    refused = await anyone.with_key(staging.json["key"]).delete(f"/v1/keys/{everywhere.json['id']}")
    assert refused.status == 403
    assert (await tenant.api.get(f"/v1/keys/{everywhere.json['id']}")).status == 200


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"name": "", "scopes": ["mint"]}, "/name"),
        ({"name": "k"}, "/scopes"),
        ({"name": "k", "scopes": []}, "/scopes"),
        ({"name": "k", "scopes": ["root"]}, "/scopes/0"),
        ({"name": "k", "scopes": ["mint"], "workspace_id": "ws"}, "/workspace_id"),
        ({"name": "k", "scopes": ["mint"], "environments": ["a b"]}, "/environments/0"),
        ({"name": "k", "scopes": ["mint"], "expires_at": "2030-01-01T00:00:00"}, "/expires_at"),
        ({"name": "k", "scopes": ["mint"], "expires_at": "2001-01-01T00:00:00Z"}, "/expires_at"),
        ({"name": "a\nb", "scopes": ["mint"]}, "/name"),
        ({"name": "a\n", "scopes": ["mint"]}, "/name"),
        ({"name": "k", "scopes": ["mint"], "environments": ["qa\n"]}, "/environments/0"),
        ({"name": 5, "scopes": ["mint"]}, "/name"),
    ],
)
async def test_a_bad_body_is_refused_with_the_place_of_the_fault(
    tenant: Tenant, body: dict[str, object], pointer: str
) -> None:
    before = (await tenant.api.get("/v1/keys")).json["data"]
    refused = await tenant.api.post("/v1/keys", body)
    assert (refused.status, refused.code) == (422, "invalid")
    assert refused.headers["Content-Type"] == "application/problem+json"
    assert refused.json["errors"][0]["pointer"] == pointer
    assert len((await tenant.api.get("/v1/keys")).json["data"]) == len(before)


async def test_a_list_is_walked_to_its_end_by_its_cursors(tenant: Tenant) -> None:
    for number in range(6):
        await tenant.api.post("/v1/keys", {"name": f"k{number}", "scopes": ["mint"]})
    seen, cursor = [], ""
    while True:
        page = (await tenant.api.get(f"/v1/keys?limit=3{cursor}")).json
        seen += [key["id"] for key in page["data"]]
        if page["next_cursor"] is None:
            break
        cursor = f"&cursor={page['next_cursor']}"
    assert len(seen) == 7
    assert seen == sorted(set(seen))


async def test_a_repeated_request_makes_one_key_and_shows_no_secret(tenant: Tenant) -> None:
    headers = {"Idempotency-Key": "once-1"}
    body = {"name": "k", "scopes": ["mint"]}
    first = await tenant.api.post("/v1/keys", body, headers=headers)
    again = await tenant.api.post("/v1/keys", body, headers=headers)
    assert (first.status, again.status) == (201, 201)
    assert again.json == {**first.json, "key": None}
    other = await tenant.api.post("/v1/keys", {**body, "name": "other"}, headers=headers)
    assert (other.status, other.code) == (422, "idempotency_mismatch")
    names = [key["name"] for key in (await tenant.api.get("/v1/keys")).json["data"]]
    assert names.count("k") == 1
    assert "other" not in names


async def test_a_hundred_requests_at_once_with_one_key_make_one_thing(tenant: Tenant) -> None:
    body, headers = {"name": "storm", "scopes": ["mint"]}, {"Idempotency-Key": "storm"}
    replies = await asyncio.gather(
        *[tenant.api.post("/v1/keys", body, headers=headers) for _ in range(100)]
    )
    made = [reply for reply in replies if reply.status == 201]
    waiting = [reply for reply in replies if reply.status == 409]
    assert len(made) + len(waiting) == 100
    assert all(reply.code == "idempotency_in_progress" for reply in waiting)
    assert len({reply.json["id"] for reply in made}) == 1
    assert sum(reply.json["key"] is not None for reply in made) == 1
