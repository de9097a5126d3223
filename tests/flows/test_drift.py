"""Readiness says where the account at ElevenLabs is not in step with this Keyturn."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from conftest import Tenant
from support.api import Api
from support.eleven import AGENT, Eleven
from support.minting import SEALED, Desk, minting
from support.sandbox import Provider

from broker.sandbox import Faults
from broker.upstreams import drift

VARIABLES = "/v1/convai/environment-variables"
SENTINEL = "sentinel-51d0c7"
NESTED = (
    '{"environment_variables": [{"id": "x", "label": "x", "type": "secret", "values": {"dev": {"x":'
    + "[" * 100_000
)


@pytest.fixture(autouse=True)
def in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is not slow on purpose is not late on a machine that is busy."""
    assert drift.COMPARING == 3.0
    monkeypatch.setattr(drift, "COMPARING", 60.0)


@pytest.fixture
async def desk(tenant: Tenant, provider: Provider) -> AsyncIterator[Desk]:
    async with minting(tenant, provider) as found:
        await found.user()
        yield found


async def put(side: Api | Eleven, path: str, body: Any) -> Any:
    reply = await side.post(path, body)
    assert reply.status in (200, 201), reply.body
    return reply.json


async def text(side: Api | Eleven, label: str, **values: str) -> None:
    await put(side, VARIABLES, {"type": "string", "label": label, "values": values})


async def secret(side: Api | Eleven, label: str, name: str, value: str) -> None:
    made = await put(side, "/v1/convai/secrets", {"type": "new", "name": name, "value": value})
    values = {"production": {"secret_id": made["secret_id"]}}
    await put(side, VARIABLES, {"type": "secret", "label": label, "values": values})


async def auth(side: Api | Eleven, label: str, name: str, token: str) -> None:
    body = {"name": name, "provider": "crm", "auth_type": "bearer_auth", "token": token}
    made = await put(side, "/v1/workspace/auth-connections", body)
    values = {"production": {"auth_connection_id": made["id"]}}
    await put(side, VARIABLES, {"type": "auth_connection", "label": label, "values": values})


async def drifted(desk: Desk, *, api: Api | None = None, **wanted: Any) -> list[str]:
    """What is said of the account; no answer holds a value, whoever asks."""
    body = {"agent_id": AGENT, "user_ids": ["ada"], **wanted}
    reply = await (api or desk.api).post("/v1/readiness", body)
    assert reply.status == 200, reply.body
    assert SENTINEL.encode() not in reply.body
    assert [one["status"] for one in reply.json["data"]] == ["ready"]
    return [one["text"] for one in reply.json["warnings"] if one["host"] is None]


async def test_an_account_that_is_in_step_is_no_warning(desk: Desk) -> None:
    for side, value in ((desk.api, f"{SENTINEL}-here"), (desk.eleven, f"{SENTINEL}-there")):
        await text(side, "region", production="eu", staging="us")
        # Ids differ, and values nobody can compare: their names are what counts.
        await secret(side, "crm_key", "crm", value)
        await auth(side, "crm_login", "crm login", value)
    await put(desk.eleven, "/v1/convai/secrets", {"type": "new", "name": "theirs", "value": "x"})
    assert await drifted(desk) == []
    assert await drifted(desk, environment="staging") == []
    assert await drifted(desk, environment="nowhere_yet") == []
    await text(desk.api, "new", production="x")
    assert len(await drifted(desk)) == 1


async def test_each_label_that_differs_is_named_with_how(desk: Desk) -> None:
    for side, name in ((desk.api, "here"), (desk.eleven, "there")):
        await text(side, "same", production="eu")
        await text(side, "host", production=f"{SENTINEL}-{name}")
        await secret(side, "crm_key", f"crm-{SENTINEL}-{name}", "x")
        await auth(side, "crm_login", f"login {name}", "x")
        await text(side, f"only_{name}", production=SENTINEL)
    await text(desk.api, "kind", production=SENTINEL)
    await secret(desk.eleven, "kind", "kind", "x")
    [told] = await drifted(desk)
    assert told == (
        "In 'production' the account at ElevenLabs is not in step with Keyturn: "
        "missing there: only_here; different there: crm_key, crm_login, host, kind; "
        "only there: only_there. `keyturn env plan FILE --target elevenlabs` shows how."
    )


async def test_what_counts_is_what_this_environments_conversations_find(desk: Desk) -> None:
    await text(desk.api, "host", production="a", staging="b")
    await text(desk.eleven, "host", production="a", staging=SENTINEL)
    await text(desk.api, "region", production="eu", dev="eu")
    await text(desk.eleven, "region", production="eu")
    assert await drifted(desk) == []
    assert await drifted(desk, environment="dev") == []
    [told] = await drifted(desk, environment="staging")
    assert "different there: host. " in told


async def test_twenty_labels_are_named_and_the_others_counted(desk: Desk) -> None:
    for number in range(15):
        await text(desk.api, f"here_{number:02}", production="x")
        await text(desk.eleven, f"there_{number:02}", production="x")
    [told] = await drifted(desk)
    assert told.count("here_") == 20  # as a part of "there_", too
    assert "; only there: there_00, there_01, there_02, there_03, there_04; and 10 more." in told


async def test_what_is_no_label_is_quoted_and_cut(desk: Desk) -> None:
    strange = {"id": "x", "label": "\x1b[2J" + "y" * 500, "type": "string"}
    body = {"environment_variables": [{**strange, "values": {"production": SENTINEL}}]}
    desk.provider.misbehave(Faults(status=200, body=json.dumps(body), path=VARIABLES))
    [told] = await drifted(desk)
    assert 'only there: "\\x1b[2Jyyy' in told
    assert len(told) < 300


async def test_a_key_that_may_only_mint_and_is_tied_hears_of_labels(desk: Desk) -> None:
    await text(desk.api, "host", production="a", staging=SENTINEL)
    tied = await desk.key("mint", environments=["staging"])
    await desk.connect(environment="staging")
    assert (await tied.get(VARIABLES)).status == 403
    [told] = await drifted(desk, api=tied)
    assert "missing there: host. " in told
    body = {"agent_id": AGENT, "user_ids": ["ada"], "environment": "production"}
    assert (await tied.post("/v1/readiness", body)).status == 403


@pytest.mark.parametrize(
    "faults",
    [
        Faults(status=503, path=VARIABLES),
        Faults(status=429, path=VARIABLES),
        Faults(status=401, body='{"detail": "sentinel-51d0c7"}', path="/v1/convai/secrets"),
        Faults(drop="before", path=VARIABLES),
        Faults(answer="truncated", path="/v1/workspace/auth-connections"),
        Faults(status=200, body=NESTED, path=VARIABLES),
        Faults(
            status=200,
            body='{"auth_connections": [{"id": [], "name": {}}]}',
            path="/v1/workspace/auth-connections",
        ),
    ],
    ids=["failing", "busy", "refusing", "gone", "truncated", "nested", "nonsense"],
)
async def test_an_account_that_is_away_is_one_warning(desk: Desk, faults: Faults) -> None:
    await text(desk.api, "host", production=SENTINEL)
    desk.provider.misbehave(faults)
    [told] = await drifted(desk)
    assert "could not be compared" in told
    desk.provider.misbehave(None)
    [told] = await drifted(desk)
    assert "missing there: host. " in told


async def test_a_slow_account_holds_nobody_up(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drift, "COMPARING", 0.2)
    desk.provider.misbehave(Faults(latency=300, path=VARIABLES))
    async with asyncio.timeout(100):
        [told] = await drifted(desk)
    assert "could not be compared" in told


async def test_an_account_that_says_more_than_is_read_is_not_compared(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        await text(desk.eleven, f"long_{number}", production="x" * 1_000)
    [told] = await drifted(desk)
    assert "only there" in told
    monkeypatch.setattr(drift, "MAX_READ", 3_000)
    [told] = await drifted(desk)
    assert "could not be compared" in told


async def test_an_agent_that_runs_elsewhere_has_no_account_to_be_in_step_with(desk: Desk) -> None:
    await text(desk.api, "host", production="a")
    assert len(await drifted(desk)) == 1
    await desk.profile(**SEALED)
    assert await drifted(desk) == []


async def test_without_an_account_nothing_is_compared(desk: Desk) -> None:
    await text(desk.api, "host", production="a")
    assert len(await drifted(desk)) == 1
    assert (await desk.api.delete("/v1/upstreams/elevenlabs")).status == 204
    assert await drifted(desk) == []
