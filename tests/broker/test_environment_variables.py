"""Environment variables and environments over HTTP: limits, refusals, and nothing half-written."""

import asyncio
from typing import Any

import asyncpg
import pytest
from conftest import Tenant
from support.api import Api, Reply

from vault.embedded import Embedded

VARIABLES = "/v1/convai/environment-variables"
ENVIRONMENTS = "/v1/convai/environments"


def text(label: str, **values: str) -> dict[str, Any]:
    return {"type": "string", "label": label, "values": {"production": "p"} | values}


def in_environment(name: str, value: object = "x") -> dict[str, Any]:
    return {"type": "string", "label": "a", "values": {"production": "p", name: value}}


def with_production(value: object) -> dict[str, Any]:
    return {"type": "string", "label": "a", "values": {"production": value}}


async def patch(api: Api, variable_id: str, values: dict[str, Any]) -> Reply:
    return await api.call("PATCH", f"{VARIABLES}/{variable_id}", body={"values": values})


async def labels(tenant: Tenant) -> list[str]:
    found = await tenant.api.get(VARIABLES)
    return [one["label"] for one in found.json["environment_variables"]]


def assert_elevenlabs_shape(reply: Reply) -> None:
    assert reply.headers["Content-Type"].startswith("application/json")
    assert reply.headers["x-request-id"]
    detail = reply.json["detail"]
    if reply.status == 422:
        assert detail
        assert all({"loc", "msg", "type"} <= one.keys() for one in detail)
    elif not isinstance(detail, str):
        assert {"type", "code", "status", "message", "request_id", "param"} <= detail.keys()
        assert detail["request_id"] == reply.headers["x-request-id"]


@pytest.mark.parametrize(
    ("method", "path", "body", "place", "kind"),
    [
        ("POST", VARIABLES, {"type": "string"}, ["body", "label"], "missing"),
        ("POST", VARIABLES, None, ["body"], "missing"),
        ("GET", f"{VARIABLES}?type=nothing", None, ["query", "type"], "value_error"),
        ("GET", "/v1/convai/conversation/token", None, ["query", "agent_id"], "missing"),
        ("GET", "/v1/convai/conversation/get-signed-url", None, ["query", "agent_id"], "missing"),
    ],
)
async def test_a_broken_rule_says_what_was_sent_where(
    tenant: Tenant, method: str, path: str, body: Any, place: list[str], kind: str
) -> None:
    refused = await tenant.api.call(method, path, body=body)
    assert refused.status == 422
    [rule] = refused.json["detail"]
    assert (rule["loc"], rule["type"]) == (place, kind)
    assert rule["msg"]


BAD_BODIES: list[tuple[str, Any, int]] = [
    ("no body at all", None, 422),
    ("a list", [], 422),
    ("no type", {"label": "a", "values": {"production": "p"}}, 422),
    ("an unknown type", {"type": "number", "label": "a", "values": {"production": "p"}}, 422),
    ("no label", {"type": "string", "values": {"production": "p"}}, 422),
    ("an empty label", text(""), 422),
    ("a label with a space", text("a b"), 422),
    ("a label with a dash", text("a-b"), 422),
    ("a label of 65 characters", text("a" * 65), 422),
    ("a Cyrillic look-alike in a label", text("\u0430pi_host"), 422),
    ("a full-width label", text("\uff41\uff42"), 422),
    ("a label with a line break at its end", text("api_host\n"), 422),
    ("a label that is a number", {**text("a"), "label": 5}, 422),
    ("no values", {"type": "string", "label": "a"}, 422),
    ("no production", {"type": "string", "label": "a", "values": {"staging": "s"}}, 400),
    ("production set to null", with_production(None), 400),
    ("another environment set to null", in_environment("staging", None), 400),
    ("an empty value", text("a", staging=""), 422),
    ("a value over the limit", text("a", staging="x" * 8_193), 422),
    ("a value that is a number", with_production(1), 422),
    ("a reference where text belongs", with_production({"secret_id": "s"}), 400),
    ("text where a secret belongs", {**text("a"), "type": "secret"}, 400),
    ("text where a connection belongs", {**text("a"), "type": "auth_connection"}, 400),
    (
        "a connection where a secret belongs",
        {**with_production({"auth_connection_id": "authconn_x"}), "type": "secret"},
        400,
    ),
    ("two references in one", with_production({"secret_id": "s", "auth_connection_id": "a"}), 422),
    ("a reference to nothing", {**with_production({}), "type": "secret"}, 422),
    ("an empty text where a secret belongs", {**with_production(""), "type": "secret"}, 422),
    (
        "a secret that nobody has",
        {"type": "secret", "label": "a", "values": {"production": {"secret_id": "secret_x"}}},
        400,
    ),
    (
        "an auth connection that nobody has",
        {
            "type": "auth_connection",
            "label": "a",
            "values": {"production": {"auth_connection_id": "authconn_x"}},
        },
        400,
    ),
    ("an environment with a slash", in_environment("a/b"), 422),
    ("an environment of 65 characters", in_environment("e" * 65), 422),
    ("an environment in Greek", in_environment("\u03c3taging"), 422),
    ("an unknown field", {**text("a"), "workspace_id": "ws_other"}, 422),
]  # fmt: skip


@pytest.mark.parametrize(("what", "body", "status"), BAD_BODIES, ids=lambda value: str(value)[:40])
async def test_a_bad_variable_is_refused_and_nothing_is_written(
    tenant: Tenant, what: str, body: object, status: int
) -> None:
    refused = await tenant.api.post(VARIABLES, body)
    assert refused.status == status, what
    assert_elevenlabs_shape(refused)
    assert await labels(tenant) == []
    environments = (await tenant.api.get(ENVIRONMENTS)).json["environments"]
    assert [one["name"] for one in environments] == ["production"]


@pytest.mark.parametrize(
    "values",
    [{"production": None}, {"production": "p", "staging": {"secret_id": "secret_x"}}],
    ids=["null for production", "another type's value"],
)
async def test_a_new_variables_value_is_refused_in_the_words_of_a_change(
    tenant: Tenant, values: dict[str, Any]
) -> None:
    body = {"type": "string", "label": "b", "values": values}
    made = (await tenant.api.post(VARIABLES, text("a"))).json
    told = [await tenant.api.post(VARIABLES, body), await patch(tenant.api, made["id"], values)]
    for reply in told:
        assert reply.status == 400
        detail = reply.json["detail"]
        assert (detail["type"], detail["code"]) == ("validation_error", "invalid_parameters")
        assert detail["param"] == "values"


async def test_values_and_names_at_their_limits_are_taken(tenant: Tenant) -> None:
    values = {"production": "x" * 8_192, "e" * 64: "\u00fc\U0001f511"}
    body = {"type": "string", "label": "A" * 64, "values": values}
    made = await tenant.api.post(VARIABLES, body)
    assert made.status == 200
    assert (await tenant.api.get(f"{VARIABLES}/{made.json['id']}")).json["values"] == values


async def test_a_value_of_a_megabyte_is_refused_whole(tenant: Tenant) -> None:
    refused = await tenant.api.post(VARIABLES, text("a", staging="x" * 1_000_000))
    assert refused.status == 413
    assert_elevenlabs_shape(refused)
    assert await labels(tenant) == []


BAD_CHANGES: list[tuple[dict[str, Any], int]] = [
    ({"production": None}, 400),
    ({"staging": {"secret_id": "secret_x"}}, 400),
    ({"staging": {"auth_connection_id": "authconn_x"}}, 400),
    ({"staging": {"secret_id": "s", "auth_connection_id": "a"}}, 422),
    ({"staging": {}}, 422),
    ({"staging": ""}, 422),
    ({"staging": 5}, 422),
    ({"a b": "x"}, 422),
    ({"staging": "kept?", "production": None}, 400),
]


@pytest.mark.parametrize(("values", "status"), BAD_CHANGES, ids=str)
async def test_a_bad_change_is_refused_and_nothing_changes(
    tenant: Tenant, values: dict[str, Any], status: int
) -> None:
    made = (await tenant.api.post(VARIABLES, text("a", staging="s"))).json
    refused = await patch(tenant.api, made["id"], values)
    assert refused.status == status
    assert_elevenlabs_shape(refused)
    assert (await tenant.api.get(f"{VARIABLES}/{made['id']}")).json["values"] == made["values"]


async def test_a_change_sets_removes_and_keeps(tenant: Tenant) -> None:
    made = (await tenant.api.post(VARIABLES, text("a", staging="s", dev="d"))).json
    changed = await patch(tenant.api, made["id"], {"staging": "new", "dev": None, "qa": "q"})
    assert changed.json["values"] == {"production": "p", "staging": "new", "qa": "q"}


async def test_fifty_changes_at_once_all_land(tenant: Tenant) -> None:
    made = (await tenant.api.post(VARIABLES, text("a"))).json
    pending = {f"e{number}": f"v{number}" for number in range(50)}
    while pending:
        replies = await asyncio.gather(
            *[patch(tenant.api, made["id"], {name: value}) for name, value in pending.items()]
        )
        assert {reply.status for reply in replies} <= {200, 409}
        landed = [reply.status == 200 for reply in replies]
        assert any(landed)
        pending = {
            name: value
            for (name, value), done in zip(pending.items(), landed, strict=True)
            if not done
        }
    values = (await tenant.api.get(f"{VARIABLES}/{made['id']}")).json["values"]
    assert values == {"production": "p"} | {f"e{n}": f"v{n}" for n in range(50)}


async def test_a_label_is_taken_once(tenant: Tenant) -> None:
    replies = await asyncio.gather(*[tenant.api.post(VARIABLES, text("same")) for _ in range(20)])
    assert sorted(reply.status for reply in replies) == [200] + [409] * 19
    assert await labels(tenant) == ["same"]


async def test_another_workspaces_variable_is_one_that_does_not_exist(
    tenant: Tenant, stranger: Tenant
) -> None:
    made = (await stranger.api.post(VARIABLES, text("theirs"))).json
    for method, body in (("GET", None), ("DELETE", None), ("PATCH", {"values": {"qa": "x"}})):
        foreign = await tenant.api.call(method, f"{VARIABLES}/{made['id']}", body=body)
        missing = await tenant.api.call(method, f"{VARIABLES}/envvar_none", body=body)
        assert (foreign.status, missing.status) == (404, 404)
        assert foreign.json["detail"]["message"] == missing.json["detail"]["message"]
    assert (await stranger.api.get(f"{VARIABLES}/{made['id']}")).json == made


async def test_another_workspaces_secret_cannot_be_referred_to(
    tenant: Tenant, stranger: Tenant
) -> None:
    theirs = await stranger.api.post(
        "/v1/convai/secrets", {"type": "new", "name": "n", "value": "v"}
    )
    body = {
        "type": "secret",
        "label": "a",
        "values": {"production": {"secret_id": theirs.json["secret_id"]}},
    }
    assert (await tenant.api.post(VARIABLES, body)).status == 400
    assert await labels(tenant) == []


async def test_a_key_of_one_environment_sees_and_writes_that_one_alone(
    tenant: Tenant, anyone: Api
) -> None:
    made = (await tenant.api.post(VARIABLES, text("a", staging="s", dev="d"))).json
    key = await tenant.api.post(
        "/v1/keys", {"name": "k", "scopes": ["manage"], "environments": ["staging"]}
    )
    staging = anyone.with_key(key.json["key"])
    one = f"{VARIABLES}/{made['id']}"
    assert (await staging.get(one)).json["values"] == {"staging": "s"}
    assert (await staging.get(f"{VARIABLES}?environment=dev")).status == 403
    assert (await patch(staging, made["id"], {"staging": "new"})).status == 200
    assert (await patch(staging, made["id"], {"dev": "new"})).status == 403
    assert (await patch(staging, made["id"], {"dev": None})).status == 403
    assert (await staging.delete(one)).status == 403
    assert (await staging.delete(f"{ENVIRONMENTS}/dev")).status == 403
    assert (await staging.post(VARIABLES, text("b", staging="s"))).status == 403
    assert (await tenant.api.get(one)).json["values"] == made["values"] | {"staging": "new"}


async def test_a_value_is_sealed_where_it_lies_and_opens_nowhere_else(
    tenant: Tenant, postgres: Embedded
) -> None:
    first = (await tenant.api.post(VARIABLES, text("a", staging="sentinel-value-one"))).json
    second = (await tenant.api.post(VARIABLES, text("b", staging="sentinel-value-two"))).json
    admin = await asyncpg.connect(postgres.dsn().reveal())
    rows = await admin.fetch(
        "select sealed from vault.environment_values where workspace_id = $1", tenant.id
    )
    assert not any(b"sentinel" in row["sealed"] for row in rows)
    await admin.execute(
        "update vault.environment_values a set sealed = b.sealed from vault.environment_values b"
        " where a.variable_id = $1 and b.variable_id = $2 and a.environment = 'staging'"
        " and b.environment = 'staging'",
        first["id"],
        second["id"],
    )
    await admin.close()
    swapped = await tenant.api.get(f"{VARIABLES}/{first['id']}")
    assert swapped.status == 500
    assert b"sentinel" not in swapped.body


async def test_deleting_an_environment_takes_its_values_and_leaves_the_rest(
    tenant: Tenant,
) -> None:
    made = (await tenant.api.post(VARIABLES, text("a", staging="s", dev="d"))).json
    assert (await tenant.api.delete(f"{ENVIRONMENTS}/staging")).status == 204
    left = (await tenant.api.get(f"{VARIABLES}/{made['id']}")).json["values"]
    assert left == {"production": "p", "dev": "d"}
    assert (await tenant.api.delete(f"{ENVIRONMENTS}/staging")).status == 404
    assert (await tenant.api.delete(f"{ENVIRONMENTS}/production")).status == 400


@pytest.mark.parametrize("name", ["", "a b", "a/b", "e" * 65, "st\u00e4ging", "a.b", 5, None])
async def test_a_bad_environment_name_is_refused(tenant: Tenant, name: object) -> None:
    refused = await tenant.api.post(ENVIRONMENTS, {"name": name})
    assert refused.status == 422
    assert_elevenlabs_shape(refused)


async def test_production_cannot_be_made_again(tenant: Tenant) -> None:
    assert (await tenant.api.post(ENVIRONMENTS, {"name": "production"})).status == 409


@pytest.mark.parametrize("path", [VARIABLES + "/", ENVIRONMENTS + "/", "/v1/convai/secrets/"])
async def test_no_address_answers_with_a_redirect(tenant: Tenant, path: str) -> None:
    for one in (path, path.rstrip("/"), path.upper()):
        assert not 300 <= (await tenant.api.get(one)).status < 400


async def test_a_wrong_key_and_an_unknown_address_answer_as_elevenlabs_does(
    tenant: Tenant, anyone: Api
) -> None:
    refused = await anyone.with_key("wrong").get(VARIABLES)
    assert refused.status == 401
    assert refused.json["detail"]["status"] == "invalid_api_key"
    assert (await tenant.api.get("/v1/convai/nothing")).json == {"detail": "Not Found"}


async def test_a_host_beside_a_secret_that_falls_back_is_warned_of(tenant: Tenant) -> None:
    secret = await tenant.api.post("/v1/convai/secrets", {"type": "new", "name": "n", "value": "v"})
    reference = {"secret_id": secret.json["secret_id"]}
    await tenant.api.post(VARIABLES, text("api_host", staging="staging.api"))
    key = {"type": "secret", "label": "api_key", "values": {"production": reference}}
    made = (await tenant.api.post(VARIABLES, key)).json
    [warning] = (await tenant.api.get("/v1/settings/warnings")).json
    assert (warning["environment"], warning["host"], warning["secret"]) == (
        "staging",
        "api_host",
        "api_key",
    )
    await patch(tenant.api, made["id"], {"staging": reference})
    assert (await tenant.api.get("/v1/settings/warnings")).json == []


async def test_a_workspace_that_lets_no_secret_fall_back_has_nothing_to_warn_of(
    tenant: Tenant,
) -> None:
    secret = await tenant.api.post("/v1/convai/secrets", {"type": "new", "name": "n", "value": "v"})
    await tenant.api.post(VARIABLES, text("api_host", staging="staging.api"))
    reference = {"secret_id": secret.json["secret_id"]}
    await tenant.api.post(
        VARIABLES, {"type": "secret", "label": "api_key", "values": {"production": reference}}
    )
    assert (await tenant.api.get("/v1/settings")).json == {
        "secret_fallback": True,
        "return_origins": [],
    }
    assert (await tenant.api.put("/v1/settings", {"secret_fallback": False})).status == 200
    assert (await tenant.api.get("/v1/settings/warnings")).json == []
