"""Import: what a platform already holds comes in one by one or in bulk, checked where that goes."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from conftest import Tenant
from support.api import Api, Reply
from support.connecting import SECRET, integrate
from support.journeys import Clock, connection, connections, lines, made
from support.sandbox import Provider

from broker.api.connect_messages import MAX_TOKEN
from broker.api.connections import MAX_LINE, MAX_LINES
from broker.sandbox import Faults

PATH = "/v1/users/ada/connections/acme"
TOKENS = {"access_token": "at-1", "refresh_token": "rt-1", "expires_in": 3600}


@pytest.fixture(autouse=True)
async def acme(tenant: Tenant, provider: Provider) -> dict[str, Any]:
    made(
        await tenant.api.put(
            "/v1/integrations/typed",
            {"provider": "api-key", "variables": {"api_base_url": "https://api.example.com"}},
        )
    )
    made(await tenant.api.put("/v1/integrations/login", {"provider": "basic"}))
    return await integrate(tenant.api, provider, "http://127.0.0.1:9/callback")


def token_of(provider: Provider, account: str = "ada") -> str:
    """An access token that lives at the provider."""
    ledger = provider.state.ledger
    family = ledger.open(
        realm="", client_id="app", account=account, scopes=("openid", "email", "profile")
    )
    return ledger.give(family, provider.state.issuing, refresh=False, request=0).access


async def put(api: Api, body: dict[str, Any], path: str = PATH) -> Reply:
    return await api.put(path, body)


async def bulk(api: Api, *rows: dict[str, Any] | bytes) -> list[dict[str, Any]]:
    raw = b"\n".join(one if isinstance(one, bytes) else json.dumps(one).encode() for one in rows)
    headers = {"Content-Type": "application/x-ndjson"}
    reply = await api.post("/v1/connections/import", raw=raw, headers=headers)
    assert reply.status == 200, reply.body
    return lines(reply)


async def test_an_import_makes_the_user_and_an_active_connection(tenant: Tenant) -> None:
    found = made(await put(tenant.api, {**TOKENS, "scopes": ["openid"]}))
    assert (found["state"], found["generation"], found["refresh"]) == ("active", 1, "keyturn")
    assert found["scopes"] == ["openid"]
    assert found["missing_scopes"] == ["email"]
    left = datetime.fromisoformat(found["expires_at"]) - datetime.now(UTC)
    assert timedelta(minutes=59) < left <= timedelta(hours=1)
    assert (await tenant.api.get("/v1/users/ada")).status == 200


async def test_no_answer_holds_what_was_imported_and_no_row_holds_it_plainly(
    tenant: Tenant, clock: Clock
) -> None:
    imported = await put(
        tenant.api, {"access_token": "sentinel-at", "refresh_token": "sentinel-rt"}
    )
    shown = await tenant.api.get(PATH)
    for reply in (imported, shown, await tenant.api.get("/v1/connections")):
        assert b"sentinel" not in reply.body
    [row] = await clock.do(
        "select sealed from vault.connection_tokens where workspace_id = $1", tenant.id
    )
    assert b"sentinel" not in row["sealed"]


async def test_a_later_import_takes_the_place_of_the_earlier_one(tenant: Tenant) -> None:
    first = made(await put(tenant.api, TOKENS))
    second = made(await put(tenant.api, {**TOKENS, "access_token": "at-2"}))
    assert second["id"] == first["id"]
    assert second["generation"] == 2


async def test_what_is_verified_names_the_account(tenant: Tenant, provider: Provider) -> None:
    body = {"access_token": token_of(provider), "refresh": "caller", "verify": True}
    made(await put(tenant.api, body))
    found = await connection(tenant.api)
    assert found["account"] == {"id": "ada", "email": "ada@example.com", "label": "Ada Lovelace"}
    assert [one["id"] for one in await connections(tenant.api, "?account=ada")] == [found["id"]]


async def test_what_is_not_verified_asks_nobody(tenant: Tenant, provider: Provider) -> None:
    provider.state.requests.clear()
    made(await put(tenant.api, TOKENS))
    assert [one.path for one in provider.state.requests] == []
    assert (await connection(tenant.api))["account"] is None


async def test_a_token_that_the_provider_refuses_is_not_taken(
    tenant: Tenant, provider: Provider
) -> None:
    refused = await put(tenant.api, {**TOKENS, "verify": True})
    assert (refused.status, refused.code) == (409, "conflict")
    assert "does not accept" in refused.json["detail"]
    assert "at-1" not in refused.body.decode()
    assert await connections(tenant.api) == []


async def test_a_provider_that_cannot_be_asked_is_told_from_one_that_refuses(
    tenant: Tenant, provider: Provider
) -> None:
    body = {"access_token": token_of(provider), "refresh": "caller", "verify": True}
    provider.misbehave(Faults(status=503, path="/oauth/userinfo"))
    failed = await put(tenant.api, body)
    assert failed.status in (502, 503)
    assert await connections(tenant.api) == []


async def test_a_caller_that_refreshes_itself_says_so_and_updates_by_put(tenant: Tenant) -> None:
    body = {"access_token": "at-1", "expires_in": 60, "refresh": "caller"}
    assert made(await put(tenant.api, body))["refresh"] == "caller"
    ends = (datetime.now(UTC) + timedelta(hours=2)).isoformat()
    later = made(
        await put(tenant.api, {"access_token": "at-2", "expires_at": ends, "refresh": "caller"})
    )
    assert (later["refresh"], later["generation"]) == ("caller", 2)
    assert datetime.fromisoformat(later["expires_at"]) == datetime.fromisoformat(ends)


@pytest.mark.parametrize(
    ("body", "place"),
    [
        ({"refresh_token": "rt"}, "/access_token"),
        ({"access_token": "at", "expires_at": "2020-01-01T00:00:00Z"}, "/expires_at"),
        ({**TOKENS, "expires_at": "2030-01-01T00:00:00Z"}, "/expires_at"),
        ({**TOKENS, "expires_in": 0}, "/expires_in"),
        ({"access_token": ""}, "/access_token"),
        ({"access_token": "x" * 32_769}, "/access_token"),
        ({**TOKENS, "refresh": "somebody"}, "/refresh"),
        ({**TOKENS, "scopes": ["a b"]}, "/scopes/0"),
        ({**TOKENS, "extra": 1}, "/extra"),
        ({"access_token": "at", "api_key": "k"}, "/access_token"),
    ],
)
async def test_what_no_import_can_be_is_refused_by_its_place(
    tenant: Tenant, body: dict[str, Any], place: str
) -> None:
    refused = await put(tenant.api, body)
    assert refused.status == 422, refused.body
    assert place.rpartition("/")[2] in refused.body.decode()
    assert await connections(tenant.api) == []


async def test_a_key_and_a_password_come_in_by_their_names(tenant: Tenant) -> None:
    keyed = made(await put(tenant.api, {"api_key": "k-1"}, "/v1/users/ada/connections/typed"))
    assert (keyed["state"], keyed["expires_at"]) == ("active", None)
    body = {"username": "ada", "password": "p:w"}
    assert made(await put(tenant.api, body, "/v1/users/ada/connections/login"))["generation"] == 1


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("typed", {"username": "ada", "password": "x"}),
        ("typed", {"access_token": "at"}),
        ("typed", {}),
        ("login", {"username": "a:b", "password": "x"}),
        ("login", {"username": "ada"}),
        ("acme", {"api_key": "k"}),
        ("acme", {"values": {"issuer": "https://evil.example"}, **TOKENS}),
        ("nothing", TOKENS),
    ],
)
async def test_what_does_not_fit_the_provider_is_refused(
    tenant: Tenant, path: str, body: dict[str, Any]
) -> None:
    refused = await put(tenant.api, body, f"/v1/users/ada/connections/{path}")
    assert (refused.status, refused.code) == (422, "invalid")
    assert await connections(tenant.api) == []


async def test_an_import_into_an_environment_that_the_key_does_not_reach_is_refused(
    tenant: Tenant,
) -> None:
    body = {"name": "staging", "scopes": ["connect"], "environments": ["staging"]}
    tied = tenant.api.with_key(made(await tenant.api.post("/v1/keys", body))["key"])
    elsewhere = {**TOKENS, "environment": "production"}
    assert (await put(tied, elsewhere)).status == 403
    [result] = await bulk(tied, {"user_id": "ada", "integration": "acme", **elsewhere})
    assert (result["ok"], result["code"]) == (False, "forbidden")
    assert made(await put(tied, {**TOKENS, "environment": "staging"}))["environment"] == "staging"


async def test_a_key_of_one_environment_that_names_none_imports_reads_and_deletes_in_that_one(
    tenant: Tenant,
) -> None:
    production = made(await put(tenant.api, TOKENS))
    body = {"name": "staging", "scopes": ["connect", "manage"], "environments": ["staging"]}
    tied = tenant.api.with_key(made(await tenant.api.post("/v1/keys", body))["key"])
    assert (await tied.get(PATH)).status == 404
    staged = made(await put(tied, TOKENS))
    assert staged["environment"] == "staging"
    [result] = await bulk(tied, {"user_id": "ada", "integration": "acme", **TOKENS})
    assert (result["ok"], result["id"]) == (True, staged["id"])
    assert made(await tied.get(PATH))["id"] == staged["id"]
    assert made(await tied.delete(PATH))["id"] == staged["id"]
    assert [one["id"] for one in await connections(tenant.api)] == [production["id"]]


async def test_a_token_of_which_little_is_known_says_so_with_nulls(tenant: Tenant) -> None:
    held = made(await put(tenant.api, {"access_token": "at-1", "refresh": "caller"}))
    token = made(await tenant.api.post(f"/v1/connections/{held['id']}/token"))
    unknown = ("token_type", "expires_at", "expires_in", "scopes")
    assert {name: token[name] for name in unknown} == dict.fromkeys(unknown)
    assert (token["active"], token["access_token"], token["generation"]) == (True, "at-1", 1)
    assert (token["degraded"], token["missing_scopes"], "reason" in token) == (False, [], False)


async def test_a_key_of_several_environments_has_to_name_one(tenant: Tenant) -> None:
    body = {"name": "two", "scopes": ["connect"], "environments": ["staging", "dev"]}
    tied = tenant.api.with_key(made(await tenant.api.post("/v1/keys", body))["key"])
    refused = await put(tied, TOKENS)
    assert (refused.status, refused.code) == (422, "invalid")
    assert refused.json["errors"][0]["pointer"] == "/environment"


async def test_a_bulk_answers_line_by_line_and_a_bad_line_leaves_the_others_alone(
    tenant: Tenant, provider: Provider
) -> None:
    row = {"integration": "acme", **TOKENS}
    results = await bulk(
        tenant.api,
        {"user_id": "u1", **row},
        b"{ this is no json",
        {"user_id": "u2", **row, "integration": "nothing"},
        b"",
        {"user_id": "u3", "integration": "typed", "api_key": "k"},
        {"user_id": "u4", **row, "extra": 1},
        {"user_id": "u 5\n", **row},
        {"user_id": "u6", "integration": "acme", "access_token": "gone", "verify": True},
        {"user_id": "u7", "integration": "acme", "access_token": token_of(provider),
         "verify": True},
        b"[]",
        b"\xff\xfe",
        {"user_id": "u8", **row, "environment": "staging"},
    )  # fmt: skip
    assert [one["line"] for one in results] == [1, 2, 3, *range(5, 13)]  # the empty one is none
    told = [one["code"] or "ok" for one in results]
    assert told == [
        "ok", "malformed", "invalid", "ok", "invalid", "invalid",
        "conflict", "ok", "invalid", "malformed", "ok",
    ]  # fmt: skip
    assert all(one["detail"] for one in results if not one["ok"])
    assert {one["id"] for one in results if one["ok"]} == {
        one["id"] for one in await connections(tenant.api)
    }
    users = {one["user_id"] for one in await connections(tenant.api)}
    assert users == {"u1", "u3", "u7", "u8"}


async def test_no_line_of_an_answer_repeats_what_was_sent(tenant: Tenant) -> None:
    row = {"user_id": "ada", "integration": "acme", "access_token": "sentinel", "verify": True}
    results = await bulk(tenant.api, row, {**row, "scopes": ["sentinel sentinel"]}, b'"sentinel')
    assert [one["ok"] for one in results] == [False] * 3
    assert "sentinel" not in json.dumps(results)


async def test_the_same_bulk_again_changes_nothing_but_the_generation(tenant: Tenant) -> None:
    rows = [{"user_id": f"u{n}", "integration": "acme", **TOKENS} for n in range(3)]
    first = await bulk(tenant.api, *rows)
    again = await bulk(tenant.api, *rows)
    assert [one["id"] for one in first] == [one["id"] for one in again]
    assert {one["generation"] for one in await connections(tenant.api)} == {2}


async def test_one_user_many_times_in_a_bulk_ends_with_the_last_line(tenant: Tenant) -> None:
    row = {"user_id": "ada", "integration": "acme", "refresh": "caller"}
    await bulk(tenant.api, *({**row, "access_token": f"at-{n}"} for n in range(5)))
    [only] = await connections(tenant.api)
    assert only["generation"] == 5


async def test_a_bulk_has_limits(tenant: Tenant) -> None:
    long = json.dumps({"user_id": "ada", "integration": "acme", "access_token": "x" * MAX_LINE})
    [result] = await bulk(tenant.api, long.encode())
    assert (result["ok"], result["code"]) == (False, "too_large")
    results = await bulk(tenant.api, *([b"{}"] * (MAX_LINES + 5)))
    assert len(results) == MAX_LINES + 1
    assert (results[-1]["line"], results[-1]["code"]) == (MAX_LINES + 1, "too_large")
    headers = {"Content-Type": "application/x-ndjson"}
    huge = await tenant.api.post(
        "/v1/connections/import", raw=b" " * (16 * 1024 * 1024 + 1), headers=headers
    )
    assert huge.status == 413


@pytest.mark.parametrize(
    ("values", "code"),
    [
        ({"api_key": "k" * (MAX_TOKEN + 1)}, "invalid"),
        ({f"v{number}": "k" for number in range(21)}, "invalid"),
        ({f"v{number}": "k" * MAX_TOKEN for number in range(MAX_LINE // MAX_TOKEN)}, "too_large"),
        ({f"v{number}": "k" * 8_000 for number in range(20)}, "invalid"),
        ({"v" * 10_000: "k"}, "invalid"),
        ({"api_key": ""}, "invalid"),
        ({"api_key": "\ud800"}, "malformed"),
        ({"api_key": "a\x00b"}, "invalid"),
        ({"api_key": ["k"]}, "invalid"),
        ([["k"]] * 20, "invalid"),
    ],
)
async def test_values_that_are_too_long_or_no_values_fail_their_own_line(
    tenant: Tenant, values: Any, code: str
) -> None:
    line = {"user_id": "ada", "integration": "typed", "values": values}
    good = {"user_id": "bob", "integration": "acme", **TOKENS}
    first, second = await bulk(tenant.api, line, good)
    assert (first["ok"], first["code"], second["ok"]) == (False, code, True)
    one = await put(tenant.api, {"values": values}, "/v1/users/ada/connections/typed")
    assert one.status in (400, 413, 422)
    assert one.code in ("malformed", "too_large", "invalid")


async def test_a_bulk_that_is_called_something_else_is_refused(tenant: Tenant) -> None:
    reply = await tenant.api.post(
        "/v1/connections/import", raw=b"{}", headers={"Content-Type": "text/csv"}
    )
    assert reply.status in (400, 415, 422)


async def test_every_import_is_in_the_record(tenant: Tenant) -> None:
    await bulk(tenant.api, *({"user_id": f"u{n}", "integration": "acme", **TOKENS} for n in (1, 2)))
    await put(tenant.api, TOKENS)
    events = made(await tenant.api.get("/v1/audit-events?action=connection.import"))["data"]
    assert len(events) == 3
    assert SECRET not in json.dumps(events)
