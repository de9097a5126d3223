"""The hot route without its framework answers as the typed one does, and says no through it."""

import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from conftest import Tenant
from support.api import Api, Reply, Running
from support.minting import Desk, minting
from support.sandbox import Provider
from support.typed import same, typed_alone

PATH = "/v1/conversations"
SEALED = {"agent_id": "a", "user_id": "ada", "runtime": "sealed", "delivery": "inline"}
# What differs from one conversation to the next.
OF_ONE = {
    *("id", "start_by", "expires_at", "expires_in", "token"),
    *("keyturn_conversation_id", "secret__keyturn_authorization"),
}


@pytest.fixture
async def typed(service: Running, anyone: Api) -> AsyncIterator[Api]:
    """The same service with the typed route alone."""
    async with typed_alone(service, anyone) as found:
        yield found


@pytest.fixture
async def desk(tenant: Tenant, provider: Provider) -> AsyncIterator[Desk]:
    async with minting(tenant, provider, upstream=False) as found:
        await found.user()
        await found.connect()
        yield found


def told(value: Any) -> Any:
    """An answer without what differs from one conversation to the next."""
    if isinstance(value, dict):
        return {name: told(one) for name, one in value.items() if name not in OF_ONE}
    return [told(one) for one in value] if isinstance(value, list) else value


BODIES: list[dict[str, Any]] = [
    {},
    {"dynamic_variables": {"topic": "Grüße ✓", "n": 1.5, "yes": True}},
    {"environment": "staging"},
    {"delivery": "sealed"},
    {"delivery": "relay"},
    {"runtime": "elevenlabs"},
    {"user_id": "nobody"},
    {"user_id": 7},
    {"nothing": "known"},
    {"integrations": ["slack"]},
    {"min_ttl": "60"},
    {"dynamic_variables": {"secret__x": "y"}},
]


@pytest.mark.parametrize("more", BODIES, ids=lambda more: json.dumps(more)[:40])
async def test_both_answer_the_same(desk: Desk, typed: Api, more: dict[str, Any]) -> None:
    typed = typed.with_key(desk.tenant.key)
    body = json.dumps({**SEALED, **more}).encode()
    headers = {"Content-Type": "application/json", "Content-Length": str(len(body))}
    async with aiohttp.ClientSession() as session:
        answers = []
        for api in (desk.api, typed):
            key = {"Authorization": f"Bearer {desk.tenant.key}"}
            async with session.post(api.base + PATH, data=body, headers={**headers, **key}) as got:
                answers.append(Reply(got.status, got.headers.copy(), await got.read()))
    raw, plain = answers
    same(raw, plain, told)


@pytest.mark.parametrize(
    ("raw", "headers"),
    [
        (b"{", {}),
        (b"\xff", {}),
        (b"[" * 5_000, {}),
        (b"", {}),
        (b"{}", {"Content-Type": "text/plain"}),
        (json.dumps(SEALED).encode(), {"Idempotency-Key": "a b"}),
        (json.dumps(SEALED).encode(), {"Authorization": "Bearer kt_wrong"}),
        (b'{"x":"' + b"y" * 300_000 + b'"}', {}),
    ],
    ids=["cut", "no text", "deep", "empty", "other media", "bad key", "nobody", "too large"],
)
async def test_both_refuse_the_same(
    desk: Desk, typed: Api, raw: bytes, headers: dict[str, str]
) -> None:
    typed = typed.with_key(desk.tenant.key)
    same(
        await desk.api.post(PATH, raw=raw, headers=headers),
        await typed.post(PATH, raw=raw, headers=headers),
        told,
    )


async def test_a_request_that_one_began_is_repeated_by_the_other(desk: Desk, typed: Api) -> None:
    typed = typed.with_key(desk.tenant.key)
    headers = {"Idempotency-Key": "k1"}
    first = await desk.api.post(PATH, SEALED, headers=headers)
    again = await typed.post(PATH, SEALED, headers=headers)
    assert first.json["id"] == again.json["id"]
    assert first.json["dynamic_variables"] != again.json["dynamic_variables"]


async def test_it_is_counted_and_logged_under_its_route(desk: Desk) -> None:
    await desk.api.post(PATH, SEALED)
    shown = (await desk.api.get("/metrics")).body.decode()
    assert f'method="POST",route="{PATH}",status="201"' in shown
