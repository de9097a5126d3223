"""The root key's service is away: who is known goes on, nothing new starts, and everybody is told.

A real OpenBao server behind a wire that is cut, and the command in processes of their own.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from msgspec import Struct
from support.api import Api
from support.process import Deployment, Replica, deployment, keyturn
from support.wire import Wire, wired

from vault.bearer import generate
from vault.kms.remote import HEALTHY_FOR

pytest.importorskip("hvac", reason="the extra 'transit' is not installed")

from support import openbao

SENTENCE = "Transit does not answer"


class Scene(Struct, frozen=True):
    """A replica whose root key is at Transit, and the wire between them."""

    made: Deployment
    replica: Replica
    wire: Wire
    ada: Api
    operator: Api
    settings: dict[str, Any]

    async def root_key(self) -> tuple[int, dict[str, Any]]:
        """What /readyz says: its status, and the root key's check."""
        reply = await self.ada.get("/readyz")
        check = {one["name"]: one for one in reply.json["checks"]}["root_key"]
        assert reply.json["degraded"] == (reply.status == 200 and not check["ok"])
        return reply.status, {one["name"]: one for one in reply.json["checks"]}["root_key"]

    async def doctor(self) -> tuple[int, dict[str, Any]]:
        more = {f"KEYTURN_{name.upper()}": value for name, value in self.settings.items()}
        # In a thread: the wire is in this loop.
        done = await asyncio.to_thread(keyturn, "doctor", "--json", env={**self.made.env, **more})
        return done.returncode, {one["name"]: one for one in json.loads(done.stdout)}


@pytest.fixture(scope="module")
def bao(tmp_path_factory: pytest.TempPathFactory) -> Iterator[openbao.OpenBao]:
    with openbao.openbao(tmp_path_factory.mktemp("bao")) as found:
        yield found


@pytest.fixture
async def scene(bao: openbao.OpenBao, tmp_path: Path) -> AsyncIterator[Scene]:
    operator_key = generate("operator").reveal()
    token = tmp_path / "token"
    token.write_text(bao.new_token())
    with deployment(operator_key=operator_key) as made:
        async with wired(bao.base) as wire, aiohttp.ClientSession() as session:
            kek = f"transit://127.0.0.1:{wire.port}/transit/{bao.new_key()}?tls=off"
            settings = {"kek": kek, "transit_token_file": str(token)}
            replica, key = await made.one_replica(**settings)
            api = Api(session, replica.base)
            yield Scene(
                made, replica, wire, api.with_key(key), api.with_key(operator_key), settings
            )


async def until_noticed(scene: Scene, *, ok: bool) -> tuple[int, dict[str, Any]]:
    """Ask until the last answer of the key service, which holds for a while, is forgotten."""
    for _ in range(int(HEALTHY_FOR + 20) * 5):
        status, check = await scene.root_key()
        if check["ok"] == ok:
            return status, check
        await asyncio.sleep(0.2)
    raise AssertionError("nobody noticed")


async def test_cached_workspaces_go_on_and_nothing_new_starts_until_it_is_back(
    scene: Scene,
) -> None:
    assert (await scene.ada.put("/v1/users/ada", {"name": "Ada"})).status == 200
    assert await scene.root_key() == (200, {"name": "root_key", "ok": True, "reason": None})
    await scene.wire.put("refused")

    again = await scene.ada.put("/v1/users/ada", {"name": "Ada L."})
    assert (again.status, again.json["name"]) == (200, "Ada L.")
    assert (await scene.ada.get("/v1/users/ada")).json["name"] == "Ada L."

    new = await scene.operator.post("/v1/workspaces", {"name": "new"})
    assert (new.status, new.code) == (503, "not_ready")
    assert "Retry-After" in new.headers
    late = scene.made.start(**scene.settings)
    assert await late.ended() != 0
    assert SENTENCE in late.stderr
    code, findings = await scene.doctor()
    assert (code, findings["start"]["ok"]) == (3, False)
    assert SENTENCE in findings["start"]["text"]
    assert findings["root key address"]["text"] == "transit"

    status, check = await until_noticed(scene, ok=False)
    assert status == 200, "no balancer may take out what still serves"
    assert SENTENCE in check["reason"]
    assert "cached go on" in check["reason"]
    assert (await scene.ada.get("/v1/users/ada")).json["name"] == "Ada L."
    numbers = (await scene.ada.get("/metrics")).body.decode()
    assert 'keyturn_ready_check_ok{check="root_key"} 0.0' in numbers

    await scene.wire.put(None)
    assert await until_noticed(scene, ok=True) == (200, {**check, "ok": True, "reason": None})
    assert (await scene.operator.post("/v1/workspaces", {"name": "new"})).status == 201
    code, findings = await scene.doctor()
    assert (code, findings["root key"]["ok"]) == (0, True)
    assert (await scene.ada.get("/v1/users/ada")).json["name"] == "Ada L."


async def test_a_replica_that_holds_no_workspaces_key_is_not_ready_in_an_outage(
    scene: Scene,
) -> None:
    """It could serve nobody."""
    fresh = scene.made.start(**scene.settings)
    await fresh.ready()
    await scene.wire.put("refused")
    async with asyncio.timeout(HEALTHY_FOR + 20):
        while await fresh.readiness() == 200:  # noqa: ASYNC110 - another process tells nobody
            await asyncio.sleep(0.2)
    assert await fresh.readiness() == 503
