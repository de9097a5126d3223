"""The hot route without its framework answers as the typed one does, and says no through it."""

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
import uvicorn
from conftest import Tenant
from support.api import Api, Reply, Running
from support.minting import Desk, minting
from support.sandbox import Provider

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
    app = service.service.gate.before(service.service.app)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(app, loop="none", http="httptools", log_config=None, lifespan="off")
        server = uvicorn.Server(config)
        server.capture_signals = contextlib.nullcontext  # type: ignore[assignment] # the run has its own

        task = asyncio.create_task(server.serve([listener]))
        while not server.started:  # noqa: ASYNC110 - uvicorn tells nobody
            await asyncio.sleep(0.01)
        yield anyone.at(f"http://127.0.0.1:{listener.getsockname()[1]}")
        server.should_exit = True
        await task


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


def same(raw: Reply, typed: Reply) -> None:
    assert raw.status == typed.status
    left, right = raw.json, typed.json
    for one in (left, right):
        one.pop("request_id", None)
    assert told(left) == told(right)
    assert list(left) == list(right)
    names = {name.lower() for name in raw.headers} - {"date", "server"}
    assert names == {name.lower() for name in typed.headers} - {"date", "server"}
    for name in ("Content-Type", "Cache-Control", "X-Content-Type-Options", "Referrer-Policy"):
        assert raw.headers.get(name) == typed.headers.get(name)


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
    same(*answers)


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
