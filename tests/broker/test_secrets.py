"""Secrets and auth connections over HTTP: never returned, never deleted while in use."""

import asyncio
from typing import Any

import asyncpg
import pytest
from conftest import Tenant

from vault.embedded import Embedded

SECRETS = "/v1/convai/secrets"
CONNECTIONS = "/v1/workspace/auth-connections"
VARIABLES = "/v1/convai/environment-variables"
SENTINEL = "sentinel-3f9c1a"


def new(name: str = "n", value: str = SENTINEL, **more: Any) -> dict[str, Any]:
    return {"type": "new", "name": name, "value": value, **more}


def bearer(**more: Any) -> dict[str, Any]:
    return {"auth_type": "bearer_auth", "name": "n", "provider": "p", "token": SENTINEL, **more}


async def test_no_answer_ever_holds_a_secrets_value(tenant: Tenant) -> None:
    made = await tenant.api.post(SECRETS, new())
    one = f"{SECRETS}/{made.json['secret_id']}"
    connection = await tenant.api.post(CONNECTIONS, bearer())
    update = {"type": "update", "name": "m", "value": SENTINEL + "2"}
    replies = [
        made,
        connection,
        await tenant.api.get(SECRETS),
        await tenant.api.get(one),
        await tenant.api.call("PATCH", one, body=update),
        await tenant.api.call("PATCH", one, body={**update, "type": SENTINEL}),
        await tenant.api.call("PATCH", one, body={**update, SENTINEL: 1}),
        await tenant.api.post(SECRETS, new(name=SENTINEL * 20)),
        await tenant.api.get(CONNECTIONS),
        await tenant.api.call(
            "PATCH", f"{CONNECTIONS}/{connection.json['id']}", body={"username": SENTINEL}
        ),
        await tenant.api.delete(f"{SECRETS}/{SENTINEL}"),
        await tenant.api.delete(one),
    ]
    assert [reply.status for reply in replies[:5]] == [200] * 5
    assert not any(SENTINEL.encode() in reply.body for reply in replies)


async def test_values_are_sealed_where_they_lie(tenant: Tenant, postgres: Embedded) -> None:
    await tenant.api.post(SECRETS, new())
    await tenant.api.post(CONNECTIONS, bearer())
    admin = await asyncpg.connect(postgres.dsn().reveal())
    for table in ("secrets", "auth_connections"):
        [row] = await admin.fetch(
            f"select t::text as whole from vault.{table} t where workspace_id = $1",  # noqa: S608
            tenant.id,
        )
        assert SENTINEL not in row["whole"]
        assert SENTINEL.encode().hex() not in row["whole"]
    await admin.close()


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (None, 422),
        ({"name": "n", "value": "v"}, 422),
        ({"type": "update", "name": "n", "value": "v"}, 422),
        ({"type": "new", "name": "n"}, 422),
        ({"type": "new", "value": "v"}, 422),
        (new(name=""), 422),
        (new(name="a" * 201), 422),
        (new(name="a\nb"), 422),
        (new(value=""), 422),
        (new(value="x" * 32_769), 422),
        (new(value="x" * 1_000_000), 413),
        (new(value=5), 422),  # type: ignore[arg-type] # that is the test
        (new(secret_id="mine"), 422),
        (new(allowed_hosts=["https://a.example"]), 422),
        (new(allowed_hosts="a.example"), 422),
    ],
)
async def test_a_bad_secret_is_refused_and_nothing_is_written(
    tenant: Tenant, body: object, status: int
) -> None:
    refused = await tenant.api.post(SECRETS, body)
    assert refused.status == status
    assert "detail" in refused.json
    assert (await tenant.api.get(SECRETS)).json["secrets"] == []


async def test_a_value_at_its_limit_is_taken(tenant: Tenant) -> None:
    made = await tenant.api.post(SECRETS, new(value="x" * 32_768, name="a" * 200))
    assert made.status == 200


@pytest.mark.parametrize("kind", ["secret", "auth_connection"])
async def test_what_is_in_use_refuses_deletion_and_says_by_what(tenant: Tenant, kind: str) -> None:
    if kind == "secret":
        made = await tenant.api.post(SECRETS, new())
        address, reference = SECRETS, {"secret_id": made.json["secret_id"]}
    else:
        made = await tenant.api.post(CONNECTIONS, bearer())
        address, reference = CONNECTIONS, {"auth_connection_id": made.json["id"]}
    [identity] = reference.values()
    body = {
        "type": kind,
        "label": "creds",
        "values": {"production": reference, "qa": reference},
    }
    variable = (await tenant.api.post(VARIABLES, body)).json
    refused = await tenant.api.delete(f"{address}/{identity}")
    assert refused.status == 409
    assert "creds (production, qa)" in refused.json["detail"]["message"]
    if kind == "secret":
        shown = (await tenant.api.get(f"{address}/{identity}")).json
    else:
        [shown] = (await tenant.api.get(address)).json["auth_connections"]
    assert shown["used_by"]["environment_variables"] == [
        {"id": variable["id"], "label": "creds", "environments": ["production", "qa"]}
    ]
    await tenant.api.delete(f"{VARIABLES}/{variable['id']}")
    assert (await tenant.api.delete(f"{address}/{identity}")).status in (200, 204)
    assert (await tenant.api.delete(f"{address}/{identity}")).status == 404


async def test_a_reference_and_a_deletion_at_once_never_leave_a_dangling_one(
    tenant: Tenant,
) -> None:
    for number in range(15):
        made = (await tenant.api.post(SECRETS, new())).json
        body = {
            "type": "secret",
            "label": f"race_{number}",
            "values": {"production": {"secret_id": made["secret_id"]}},
        }
        created, deleted = await asyncio.gather(
            tenant.api.post(VARIABLES, body), tenant.api.delete(f"{SECRETS}/{made['secret_id']}")
        )
        assert (created.status == 200) != (deleted.status == 204)
        assert created.status in (200, 400, 409)
        assert deleted.status in (204, 409)


async def test_another_workspaces_secret_is_one_that_does_not_exist(
    tenant: Tenant, stranger: Tenant
) -> None:
    made = (await stranger.api.post(SECRETS, new())).json["secret_id"]
    update = {"type": "update", "name": "x", "value": "y"}
    for method, suffix, body in (
        ("GET", "", None),
        ("GET", "/dependencies/tools", None),
        ("PATCH", "", update),
        ("DELETE", "", None),
    ):
        foreign = await tenant.api.call(method, f"{SECRETS}/{made}{suffix}", body=body)
        missing = await tenant.api.call(method, f"{SECRETS}/secret_none{suffix}", body=body)
        assert (foreign.status, missing.status) == (404, 404)
    assert (await stranger.api.get(f"{SECRETS}/{made}")).json["name"] == "n"


async def test_a_key_that_is_tied_to_environments_leaves_secrets_alone(tenant: Tenant) -> None:
    made = (await tenant.api.post(SECRETS, new())).json["secret_id"]
    key = await tenant.api.post(
        "/v1/keys", {"name": "k", "scopes": ["manage"], "environments": ["staging"]}
    )
    staging = tenant.api.with_key(key.json["key"])
    update = {"type": "update", "name": "x", "value": "y"}
    assert (await staging.get(SECRETS)).status == 200
    assert (await staging.post(SECRETS, new())).status == 403
    assert (await staging.call("PATCH", f"{SECRETS}/{made}", body=update)).status == 403
    assert (await staging.delete(f"{SECRETS}/{made}")).status == 403
    assert (await staging.post(CONNECTIONS, bearer())).status == 403


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (bearer(auth_type="magic"), 422),
        ({"name": "n", "provider": "p", "token": "t"}, 422),
        (bearer(token=""), 422),
        (bearer(password="x"), 422),
        (bearer(provider=None), 422),
        (
            {
                "auth_type": "custom_header_auth",
                "name": "n",
                "provider": "p",
                "header_name": "X-A\r\nX-B",
                "token": "t",
            },
            422,
        ),
        (
            {
                "auth_type": "private_key_jwt",
                "name": "n",
                "provider": "p",
                "issuer": "i",
                "audience": "a",
                "subject": "s",
                "secret_key": "k" * 40,
                "expiration_seconds": 59,
            },
            422,
        ),
    ],
)
async def test_a_bad_auth_connection_is_refused_and_nothing_is_written(
    tenant: Tenant, body: dict[str, Any], status: int
) -> None:
    refused = await tenant.api.post(CONNECTIONS, body)
    assert refused.status == status
    assert "detail" in refused.json
    assert (await tenant.api.get(CONNECTIONS)).json["auth_connections"] == []


async def test_only_what_may_change_of_an_auth_connection_changes(tenant: Tenant) -> None:
    made = (await tenant.api.post(CONNECTIONS, bearer())).json
    one = f"{CONNECTIONS}/{made['id']}"
    changed = await tenant.api.call("PATCH", one, body={"provider": "new", "token": "t2"})
    assert (changed.status, changed.json["provider"]) == (200, "new")
    for body, status in (
        ({"auth_type": "basic_auth", "username": "u"}, 400),
        ({"username": "u"}, 400),
        ({"name": "other"}, 422),
        ({"token_url": "https://x.example"}, 422),
    ):
        assert (await tenant.api.call("PATCH", one, body=body)).status == status
    assert (await tenant.api.call("PATCH", f"{one}x", body={"token": "t"})).status == 404
