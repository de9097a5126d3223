"""The hot route of a token without its framework answers as the typed one does, and says no
through it.
"""

import json
import time
from collections.abc import AsyncIterator
from typing import Any, Final

import asyncpg
import pytest
from conftest import Tenant
from multidict import CIMultiDict
from support.api import Api, Reply, Running
from support.minting import Desk, minting
from support.sandbox import Provider
from support.typed import same, typed_alone

from vault.embedded import Embedded

TEMPLATE: Final = "/v1/connections/{connection_id}/token"
# What a connection may be like; nothing of it begins a refresh.
STATES: Final = {
    "well": "renewable = false",
    "without an end": "access_ends = null",
    "of a short life": "issued_at = now(), access_ends = now() + interval '59 seconds'",
    "ending": "renewable = false, access_ends = now() + interval '20 seconds'",
    "ended": "renewable = false, access_ends = now() - interval '1 second'",
    "called dead": "state = 'needs_reauth', verdict = 'refused'",
    "pending": "state = 'pending', generation = 0, issued_at = null, consented_at = null",
    "failing": "state = 'backoff', failures = 1, next_try_at = now() + interval '1 hour'",
    "revoked": "state = 'revoked', renewable = false",
}
WANTED: Final[tuple[dict[str, int] | None, ...]] = (
    None,
    {},
    {"min_ttl": 0},
    {"min_ttl": 30, "max_wait_ms": 0},
)


@pytest.fixture
async def typed(service: Running, anyone: Api, tenant: Tenant) -> AsyncIterator[Api]:
    """The same service with the typed route alone."""
    async with typed_alone(service, anyone) as found:
        yield found.with_key(tenant.key)


@pytest.fixture
async def admin(migrated: Embedded) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(migrated.dsn().reveal())
    yield connection
    await connection.close()


@pytest.fixture
async def desk(tenant: Tenant, provider: Provider) -> AsyncIterator[Desk]:
    async with minting(tenant, provider, upstream=False) as found:
        await found.user()
        await found.connect(scopes=["mail"])
        yield found


async def path_of(desk: Desk) -> str:
    found = await desk.connection()
    return f"/v1/connections/{found['id']}/token"


def told(answer: Any) -> Any:
    """Without the seconds that are left: they are fewer from one answer to the next."""
    left = answer.pop("expires_in", None)
    return answer, left is None


def left_of(reply: Reply) -> int:
    return json.loads(reply.body).get("expires_in") or 0


@pytest.mark.parametrize("state", STATES)
async def test_both_answer_the_same(desk: Desk, typed: Api, admin: Any, state: str) -> None:
    path = await path_of(desk)
    for wanted in WANTED:
        await admin.execute(  # each time: a life may be short
            f"update vault.connection_lives set {STATES[state]} where workspace_id = $1",  # noqa: S608 - our own words
            desk.tenant.id,
        )
        began = time.monotonic()
        raw, other = [await api.post(path, wanted) for api in (desk.api, typed)]
        passed = time.monotonic() - began + 1  # what is left is rounded
        assert 0 <= left_of(raw) - left_of(other) <= passed
        same(raw, other, told)
        assert json.loads(raw.body)["active"] is (state not in ("ended", "pending"))


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (b"{", {}),
        (b"\xff", {}),
        (b"null", {}),
        (b" ", {}),
        (b"[" * 800, {}),
        (b'{"min_ttl":"60"}', {}),
        (b'{"min_ttl":-1}', {}),
        (b'{"nothing":"known"}', {}),
        (b'{"min_ttl":60}' + b" " * 5_000, {}),
        (b"{}", {"Content-Type": "text/plain"}),
        (b"{}", {"Content-Type": "application/json; charset=utf-8"}),
        (b"{}", {"Authorization": "Bearer kt_wrong"}),
        (b"{}", {"Authorization": "Basic x"}),
        (b"{}", {"Idempotency-Key": "k"}),
        (b'{"x":"' + b"y" * 300_000 + b'"}', {}),
    ],
    ids=lambda one: repr(one)[:30],
)
async def test_both_say_the_same_to_what_is_not_plain(
    desk: Desk, typed: Api, body: bytes, headers: dict[str, str]
) -> None:
    path = await path_of(desk)
    raw, other = [await api.post(path, raw=body, headers=headers) for api in (desk.api, typed)]
    same(raw, other, told)


@pytest.mark.parametrize(
    "twice",
    [
        ("Authorization", "Bearer kt_wrong"),
        ("X-Request-Id", "another-than-that"),
        ("Content-Type", "text/plain"),
        ("Xi-Api-Key", "kt_wrong"),
        ("Accept", "*/*"),
    ],
    ids=lambda one: one[0],
)
async def test_both_say_the_same_where_a_header_is_there_twice(
    desk: Desk, typed: Api, twice: tuple[str, str]
) -> None:
    path, key = await path_of(desk), f"Bearer {desk.tenant.key}"
    for order in (1, -1):
        headers = [("Authorization", key), ("X-Request-Id", "ours-and-ours"), ("Accept", "a/b")]
        sent = CIMultiDict([*headers, twice][::order])
        raw, other = [await api.post(path, {}, headers=sent) for api in (desk.api, typed)]
        same(raw, other, told)
        assert raw.status == (401 if "kt_wrong" in twice[1] else other.status)


@pytest.mark.parametrize(
    "place",
    [
        "/v1/connections/conn_{0}/token",
        "/v1/connections/nothing/token",
        "/v1/connections/kt_{0}{0}/token",
        "/v1/connections//token",
        "/v1/connections/conn_{0}/token?x=1",
        "/v1/connections/conn_{0}/token/",
        "/v1/connections/conn_{0}%0A/token",
    ],
)
async def test_both_say_the_same_of_what_is_not_there(desk: Desk, typed: Api, place: str) -> None:
    path = place.format("0" * 26)
    raw, other = [await api.post(path) for api in (desk.api, typed)]
    same(raw, other, told)
    assert raw.status in (404, 405, 422)


@pytest.mark.parametrize(
    "key",
    [
        {"scopes": ["mint"]},
        {"scopes": ["tokens:read"], "environments": ["staging"]},
        {"scopes": ["tokens:read"], "environments": ["production", "staging"]},
    ],
    ids=["without the scope", "of another environment", "of this environment, too"],
)
async def test_both_let_the_same_keys_in(desk: Desk, typed: Api, key: dict[str, Any]) -> None:
    path = await path_of(desk)
    made = (await desk.api.post("/v1/keys", {"name": "k", **key})).json["key"]
    raw, other = [await api.with_key(made).post(path) for api in (desk.api, typed)]
    same(raw, other, told)
    assert raw.status == (200 if "production" in key.get("environments", ()) else other.status)


@pytest.mark.parametrize("end", ["revoked", "expired"])
async def test_a_key_that_is_dead_is_refused_from_then_on(
    desk: Desk, typed: Api, admin: Any, end: str
) -> None:
    path = await path_of(desk)
    made = (await desk.api.post("/v1/keys", {"name": "k", "scopes": ["tokens:read"]})).json
    key = desk.api.with_key(made["key"])
    assert (await key.post(path)).json["active"]
    if end == "revoked":
        assert (await desk.api.delete(f"/v1/keys/{made['id']}")).status == 204
    else:
        await admin.execute(
            "update vault.api_keys set expires_at = now() where workspace_id = $1 and key_id = $2",
            *(desk.tenant.id, made["id"]),
        )
    raw = await key.post(path)
    same(raw, await typed.with_key(made["key"]).post(path), told)
    assert raw.status == 401


async def test_what_was_tampered_with_is_refused_by_both(
    desk: Desk, typed: Api, admin: Any
) -> None:
    path = await path_of(desk)
    await admin.execute(
        "update vault.connection_tokens set sealed = set_byte(sealed, 100, 255 - get_byte(sealed,"
        " 100)) where workspace_id = $1",
        desk.tenant.id,
    )
    raw, other = [await api.post(path) for api in (desk.api, typed)]
    same(raw, other, told)
    assert raw.status == 500


async def test_a_token_that_a_client_calls_refused_takes_the_long_way(desk: Desk) -> None:
    path = await path_of(desk)
    first = (await desk.api.post(path)).json
    again = (await desk.api.post(path, {"rejected": True})).json
    assert again["active"]
    assert again["generation"] == first["generation"] + 1


async def test_it_is_counted_under_its_route(desk: Desk, typed: Api) -> None:
    path = await path_of(desk)

    async def counted() -> float:
        shown = (await desk.api.get("/metrics")).body.decode()
        label = f'method="POST",route="{TEMPLATE}",status="200"'
        return sum(float(line.rpartition(" ")[2]) for line in shown.splitlines() if label in line)

    before = await counted()
    for api in (desk.api, typed):
        assert (await api.post(path)).status == 200
    assert await counted() == before + 2


async def test_an_id_that_was_sent_stands_in_the_record(desk: Desk) -> None:
    path = await path_of(desk)
    reply = await desk.api.post(path, headers={"X-Request-Id": "ours-and-only-ours"})
    assert reply.headers["X-Request-Id"] == "ours-and-only-ours"
    [line] = await desk.audited("connection.token")
    assert line["request_id"] == "ours-and-only-ours"
    assert json.loads(reply.body)["access_token"] not in json.dumps(line)
