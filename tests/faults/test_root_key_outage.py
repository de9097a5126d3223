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

    check: dict[str, Any] = {}
    status = 200
    for _ in range(int(HEALTHY_FOR + 5) * 5):
        status, check = await scene.root_key()
        if status != 200:
            break
        await asyncio.sleep(0.2)  # the last good answer still holds
    assert (status, check["ok"]) == (503, False)
    assert SENTENCE in check["reason"]
    assert "cached go on" in check["reason"]

    await scene.wire.put(None)
    await scene.replica.ready(20)
    assert (await scene.operator.post("/v1/workspaces", {"name": "new"})).status == 201
    code, findings = await scene.doctor()
    assert (code, findings["root key"]["ok"]) == (0, True)
    assert (await scene.ada.get("/v1/users/ada")).json["name"] == "Ada L."
