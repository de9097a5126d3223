"""Errors over HTTP: one shape, codes from a closed list, and never a word of what was sent."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import pytest
from conftest import Tenant
from support.api import Api, Reply, Running
from support.claiming import still_running
from support.process import alone

from broker.api.problems import STATUS, TITLES, problem_of
from broker.settings import Settings
from vault import errors
from vault.embedded import Embedded
from vault.errors import VaultError
from vault.oauth.replies import Failure, NoToken
from vault.secret import Secret
from vault.vault import Vault

CANARY = "canary-7Q"
CHECKOUT = Path(__file__).resolve().parents[2]
MEMBERS = {"type", "title", "status", "detail", "code", "request_id", "action"}
# The errors that cannot be made without saying more.
MADE: dict[type[VaultError], Callable[[], VaultError]] = {
    errors.Unreachable: lambda: errors.Unreachable(sent=True),
    NoToken: lambda: NoToken(Failure(outcome="transient", detail="It answers with 500.")),
}
ACTIONS = {"reconnect", "retry", "fix_configuration", "none"}


def assert_problem(reply: Reply, status: int, code: str) -> None:
    """RFC 9457, with our members, and nothing else."""
    assert (reply.status, reply.code) == (status, code), reply.body
    assert reply.headers["Content-Type"] == "application/problem+json"
    problem = reply.json
    assert MEMBERS <= set(problem) <= MEMBERS | {"retry_after", "errors"}
    assert problem["status"] == status
    assert (problem["type"], problem["title"]) == (f"/docs#{code}", TITLES[code])
    assert problem["detail"]
    assert problem["action"] in ACTIONS
    assert problem["request_id"] == reply.headers["X-Request-Id"]
    assert reply.headers["Cache-Control"] == "no-store"
    assert CANARY not in reply.body.decode()
    for error in problem.get("errors", []):
        assert set(error) == {"pointer", "message"}
        assert error["pointer"].startswith("/")


def every_error() -> list[type[VaultError]]:
    found = [VaultError]
    for kind in found:
        found += kind.__subclasses__()
    return [kind for kind in dict.fromkeys(found) if kind.__module__.startswith("vault.")]


@pytest.mark.parametrize("kind", every_error(), ids=lambda kind: kind.__name__)
def test_every_error_of_the_vault_has_a_status_and_a_sentence(kind: type[VaultError]) -> None:
    error = MADE[kind]() if kind in MADE else kind()
    problem = problem_of(error, "req_1")
    assert problem.status == STATUS[kind.code]
    assert problem.code == kind.code
    assert problem.detail.rstrip(".") != ""
    if problem.code == "internal":
        assert problem.detail == "Something went wrong on our side."


def test_every_code_has_a_title_and_is_documented() -> None:
    assert STATUS.keys() == TITLES.keys()
    page = (CHECKOUT / "docs/reference/errors.md").read_text()
    for code, status in STATUS.items():
        assert re.search(rf"^\| `{code}` \| {status} \|", page, re.MULTILINE), code


async def test_the_codes_that_a_request_can_cause(tenant: Tenant, anyone: Api) -> None:
    api, key = tenant.api, {"name": "k", "scopes": ["mint"]}
    narrow = await api.post("/v1/keys", key)
    mint_only = anyone.with_key(narrow.json["key"])
    assert_problem(await api.put("/v1/users/a", raw=b"{"), 400, "malformed")
    assert_problem(await anyone.get("/v1/users"), 401, "unauthenticated")
    assert_problem(await mint_only.get("/v1/users"), 403, "forbidden")
    assert_problem(await api.get("/v1/users/nobody"), 404, "not_found")
    assert_problem(await api.put("/v1/users/a", raw=b"x" * 300_000), 413, "too_large")
    assert_problem(await api.put("/v1/users/a", {"name": ""}), 422, "invalid")
    once = {"Idempotency-Key": "1"}
    await api.post("/v1/keys", key, headers=once)
    other = await api.post("/v1/keys", {**key, "name": "o"}, headers=once)
    assert_problem(other, 422, "idempotency_mismatch")


async def test_a_request_that_still_runs_is_said_to(
    tenant: Tenant, vault: Vault, migrated: Embedded
) -> None:
    body, once = {"name": "k", "scopes": ["mint"]}, {"Idempotency-Key": "slow"}
    async with still_running(migrated, tenant, vault.fingerprint("POST /v1/keys\nslow")):
        second = await tenant.api.post("/v1/keys", body, headers=once)
    assert_problem(second, 409, "idempotency_in_progress")
    assert second.json["action"] == "retry"
    assert (await tenant.api.post("/v1/keys", body, headers=once)).status == 201


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("PATCH", "/v1/keys", {"GET", "POST", "OPTIONS"}),
        ("POST", "/v1/users/ada", {"GET", "PUT", "DELETE", "OPTIONS"}),
        ("PUT", "/livez", {"GET", "HEAD", "OPTIONS"}),
        ("DELETE", "/docs", {"GET", "OPTIONS"}),
        ("TRACE", "/v1/users", {"GET", "OPTIONS"}),
    ],
)
async def test_a_method_that_an_address_does_not_know_is_405_with_those_it_does(
    tenant: Tenant, method: str, path: str, allow: set[str]
) -> None:
    reply = await tenant.api.call(method, path)
    assert_problem(reply, 405, "not_found")
    assert set(reply.headers["Allow"].split(", ")) == allow


@pytest.mark.parametrize("path", ["/", "/v1", f"/{CANARY}", f"/v1/users/a/{CANARY}", "/v1/%2e%2e"])
async def test_an_address_that_does_not_exist_is_404(tenant: Tenant, path: str) -> None:
    assert_problem(await tenant.api.get(f"{path}?token={CANARY}"), 404, "not_found")


@pytest.mark.parametrize(
    "media_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "x"]
)
async def test_what_is_not_called_json_is_not_read_as_json(tenant: Tenant, media_type: str) -> None:
    headers = {"Content-Type": media_type}
    reply = await tenant.api.put("/v1/users/ada", raw=b"{}", headers=headers)
    assert_problem(reply, 415, "malformed")
    assert reply.json["detail"] == "Send application/json."
    chunked = await tenant.api.put("/v1/users/ada", raw=_pieces(), headers=headers)
    assert_problem(chunked, 415, "malformed")
    bulk = await tenant.api.post("/v1/connections/import", raw=b"{}", headers=headers)
    assert_problem(bulk, 415, "malformed")
    assert bulk.json["detail"] == "Send application/x-ndjson."


async def _one_piece() -> AsyncIterator[bytes]:
    yield b"{}"


def _pieces() -> Any:
    return _one_piece()


@pytest.mark.parametrize("media_type", ["application/json", "application/json; charset=utf-8"])
async def test_json_is_read_whatever_its_parameters(tenant: Tenant, media_type: str) -> None:
    headers = {"Content-Type": media_type}
    assert (await tenant.api.put("/v1/users/ada", raw=b"{}", headers=headers)).status == 200


MALFORMED = [
    b"{",
    b"{]",
    b"\xff\xfe",
    b'{"name":"\\ud800"}',
    b'{"attributes":{"a":NaN}}',
    b'{"attributes":{"a":1e999}}',
    b"[" * 50_000,
    b'{"attributes":' + b"[" * 50_000 + b"]" * 50_000 + b"}",
    b'{"name":"%b",' % CANARY.encode(),
    b"\x00",
]


@pytest.mark.parametrize("body", MALFORMED, ids=range(len(MALFORMED)))
async def test_a_body_that_is_no_json_is_400(tenant: Tenant, body: bytes) -> None:
    assert_problem(await tenant.api.put("/v1/users/ada", raw=body), 400, "malformed")


async def test_a_body_that_is_not_there_is_400(tenant: Tenant) -> None:
    for raw in (None, b""):
        reply = await tenant.api.call("PUT", "/v1/users/ada", raw=raw)
        assert_problem(reply, 400, "malformed")
        assert reply.json["detail"] == "The body is missing."


@pytest.mark.parametrize(
    ("path", "pointer"),
    [
        ("/v1/connections?state=nowhere", "/state"),
        ("/v1/connections?limit=0", "/limit"),
        ("/v1/connections?account=", "/account"),
    ],
)
async def test_a_parameter_is_called_what_it_is_sent_as(
    tenant: Tenant, path: str, pointer: str
) -> None:
    refused = await tenant.api.get(path)
    assert_problem(refused, 422, "invalid")
    assert refused.json["errors"][0]["pointer"] == pointer


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"scopes": ["mint"]}, "/name"),
        ({"name": "k", "scopes": ["mint"], "nmae": "k"}, "/nmae"),
        ({"name": "k", "scopes": ["mint"], CANARY: "k"}, "/"),
    ],
)
async def test_a_field_that_is_missing_or_unknown_is_pointed_at(
    tenant: Tenant, body: dict[str, Any], pointer: str
) -> None:
    refused = await tenant.api.post("/v1/keys", body)
    assert_problem(refused, 422, "invalid")
    assert refused.json["errors"][0]["pointer"] == pointer


async def test_the_form_of_an_id_is_said(tenant: Tenant) -> None:
    refused = await tenant.api.get("/v1/users/a%20b")
    assert_problem(refused, 422, "invalid")
    assert "matching regex" in refused.json["detail"]


@pytest.mark.parametrize("time", ["9999-12-31T23:59:59-12:00", "0001-01-01T00:00:00+12:00"])
async def test_a_time_outside_of_the_calendar_is_refused(tenant: Tenant, time: str) -> None:
    endpoint = await tenant.api.post("/v1/event-endpoints", {"url": "https://example.com/"})
    key = {"name": "k", "scopes": ["mint"], "expires_at": time}
    for reply in (
        await tenant.api.post("/v1/keys", key),
        await tenant.api.put(
            "/v1/users/ada/connections/x", {"access_token": "t", "expires_at": time}
        ),
        await tenant.api.post(f"/v1/event-endpoints/{endpoint.json['id']}/replay", {"since": time}),
    ):
        assert_problem(reply, 422, "invalid")
        assert "outside of the years" in reply.json["detail"]


async def test_the_body_may_be_as_large_as_documented_and_no_larger(tenant: Tenant) -> None:
    def body(size: int) -> bytes:
        return b'{"name":"x"' + b" " * (size - 12) + b"}"

    assert (await tenant.api.put("/v1/users/ada", raw=body(256 * 1024))).status == 200
    assert_problem(
        await tenant.api.put("/v1/users/ada", raw=body(256 * 1024 + 1)), 413, "too_large"
    )


ECHOES: list[dict[str, Any]] = [
    {CANARY: 1},
    {CANARY.lower().replace("-", "_"): 1, "name": CANARY},
    {"name": CANARY, "phone_numbers": [CANARY]},
    {"phone_numbers": [[CANARY]]},
    {"attributes": {CANARY: 1}},
    {"attributes": {"a": {CANARY: CANARY}}},
    {"attributes": [CANARY]},
    {"name": [CANARY]},
]


@pytest.mark.parametrize("body", ECHOES, ids=range(len(ECHOES)))
async def test_no_problem_repeats_what_was_sent(tenant: Tenant, body: dict[str, Any]) -> None:
    assert_problem(await tenant.api.put("/v1/users/ada", body), 422, "invalid")


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        (f"/v1/users?limit={CANARY}", {}),
        (f"/v1/users?cursor=%21{CANARY}", {}),
        (f"/v1/audit-events?action={CANARY}", {}),
        (f"/v1/audit-events?user_id=%21{CANARY}", {}),
        (f"/v1/users/%21{CANARY}", {}),
        (f"/v1/keys/%21{CANARY}", {}),
        ("/v1/keys/%00", {}),
        ("/v1/keys/" + "k" * 65, {}),
    ],
)
async def test_no_parameter_is_repeated(tenant: Tenant, path: str, headers: dict[str, str]) -> None:
    assert_problem(await tenant.api.get(path, headers=headers), 422, "invalid")


@pytest.mark.parametrize("value", ["", "x" * 256, "a b", f"é{CANARY}"])
async def test_a_bad_idempotency_key_is_refused(tenant: Tenant, value: str) -> None:
    headers = {"Idempotency-Key": value}
    reply = await tenant.api.post("/v1/keys", {"name": "k", "scopes": ["mint"]}, headers=headers)
    assert_problem(reply, 422, "invalid")
    assert [one["pointer"] for one in reply.json["errors"]] == ["/Idempotency-Key"]


@pytest.mark.parametrize(
    "authorization",
    [
        f"Bearer {CANARY}",
        f"Basic {CANARY}",
        CANARY,
        "Bearer",
        "Bearer ",
        "Bearer kt_" + "0" * 49,
        "Bearer ktg_" + "0" * 49,
        "Bearer kto_" + "0" * 49,
        f"Bearer {'x' * 8000}",
    ],
)
async def test_what_is_no_key_is_401_and_never_repeated(anyone: Api, authorization: str) -> None:
    reply = await anyone.get("/v1/users", headers={"Authorization": authorization})
    assert_problem(reply, 401, "unauthenticated")
    assert reply.headers["WWW-Authenticate"] == "Bearer"


async def test_a_key_is_asked_for_before_anything_else_is_looked_at(anyone: Api) -> None:
    for method, path, raw in (
        ("PUT", "/v1/users/ada", b"{"),
        ("PUT", f"/v1/users/%21{CANARY}", b"{}"),
        ("POST", "/v1/keys", b"x" * 300_000),
        ("GET", "/v1/users?limit=0", None),
    ):
        assert_problem(await anyone.call(method, path, raw=raw), 401, "unauthenticated")


@pytest.mark.parametrize("given", ["12345678", "a.b_c-D9", "x" * 64])
async def test_a_harmless_request_id_is_kept(tenant: Tenant, given: str) -> None:
    for path in ("/v1/users", "/v1/users/nobody", "/livez", "/nowhere"):
        reply = await tenant.api.get(path, headers={"X-Request-Id": given})
        names = [name.lower() for name, _ in reply.headers.items()]
        assert (names.count("x-request-id"), reply.headers["X-Request-Id"]) == (1, given)


@pytest.mark.parametrize(
    "given",
    ["", "1234567", "x" * 65, "a b c d e", "<script>alert(1)</script>", "idé-idé-idé", "a;b=cdefg"],
)
async def test_another_request_id_is_replaced(tenant: Tenant, given: str) -> None:
    reply = await tenant.api.get("/v1/users/nobody", headers={"X-Request-Id": given})
    assert re.fullmatch(r"req_[0-9a-z]{26}", reply.headers["X-Request-Id"])
    assert reply.json["request_id"] == reply.headers["X-Request-Id"]


async def test_every_answer_has_the_headers_that_every_answer_has(
    tenant: Tenant, anyone: Api
) -> None:
    for api, path in (
        (tenant.api, "/v1/users"),
        (anyone, "/v1/users"),
        (anyone, "/nowhere"),
        (anyone, "/livez"),
        (anyone, "/docs"),
        (anyone, "/static/pico.min.css"),
        (anyone, "/schema/openapi.json"),
    ):
        reply = await api.get(path)
        assert reply.headers["X-Content-Type-Options"] == "nosniff"
        assert reply.headers["Referrer-Policy"] == "no-referrer"
        kept = path.startswith("/static/")
        assert (reply.headers["Cache-Control"] == "no-store") != kept, path
        assert "Server" not in reply.headers or reply.headers["Server"] == "uvicorn"


async def test_a_key_made_by_an_odd_spelling_of_the_address_is_not_cached(
    tenant: Tenant, service: Running
) -> None:
    # A client would mend the address, so it is sent by hand.
    host, _, port = service.base.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    body = json.dumps({"name": "k", "scopes": ["mint"]})
    writer.write(
        f"POST //v1/keys HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {tenant.key}\r\n"
        f"Connection: close\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()
    )
    answer = (await asyncio.wait_for(reader.read(), 60)).decode()
    writer.close()
    assert "201" in answer.splitlines()[0]
    assert "cache-control: no-store" in answer.lower()


async def test_what_breaks_inside_is_500_without_a_word_of_it(
    migrated: Embedded, fresh_database: Secret, root_key_file: Path, settings: Settings
) -> None:
    async with (
        alone(migrated, fresh_database, root_key_file, settings) as own,
        aiohttp.ClientSession() as session,
    ):
        api = Api(session, own.running.base, own.key)
        await api.put("/v1/users/ada", {"name": "Ada"})
        connection = await asyncpg.connect(fresh_database.reveal())
        await connection.execute("update vault.users set profile = profile || 'x'::bytea")
        forged = await api.get("/v1/users/ada")
        assert_problem(forged, 500, "internal")
        await connection.execute("alter table vault.users rename to canary_7Q")
        missing = await api.get("/v1/users/ada")
        assert_problem(missing, 500, "internal")
        await connection.close()
        for reply in (forged, missing):
            assert reply.json["detail"] == "Something went wrong on our side."
            assert "errors" not in reply.json


@pytest.mark.parametrize("error", [RuntimeError(CANARY), KeyError(CANARY), ZeroDivisionError()])
def test_an_error_that_nobody_expected_says_nothing(error: Exception) -> None:
    problem = problem_of(error, "req_1")
    assert (problem.status, problem.code) == (500, "internal")
    assert CANARY not in repr(problem)
