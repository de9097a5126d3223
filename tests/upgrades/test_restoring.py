"""A backup that an older Keyturn took, with an older schema, is restored by this one.

The code of ``TAKEN_BY`` comes out of git, serves a workspace and backs it up. What happened after
that is lost with its database, and the end of the audit record that was anchored outside with it.
"""

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, Final

import aiohttp
import asyncpg
import pytest
from msgspec import Struct
from support.api import Api
from support.earlier import migrate_as, replica_of, run_as, unpacked
from support.process import PATIENCE, Deployment, deployment, keyturn

from broker.migrations import PARTS
from vault.migrations import newest_versions

# Its vault is today's and its broker is one migration behind (0007). Older ones take no backups.
TAKEN_BY: Final = "ff7adb4"
TOKEN: Final = "at-of-ada"
MADE: Final[tuple[tuple[str, Any], ...]] = (
    ("/v1/users/ada", {"name": "Ada"}),
    (
        "/v1/integrations/acme",
        {
            "provider": "oauth2",
            "client_id": "app",
            "client_secret": "app-secret",
            "variables": {
                "authorize_url": "https://id.example.com/authorize",
                "token_url": "https://id.example.com/token",
            },
        },
    ),
    (
        "/v1/users/ada/connections/acme",
        {"access_token": TOKEN, "expires_in": 36_000, "refresh": "caller"},
    ),
    ("/v1/agents/desk", {"runtime": "sealed"}),
)


class Taken(Struct, frozen=True):
    """An older backup, and the deployment that it is of, whose database is gone."""

    made: Deployment
    file: Path
    key: str
    schema: dict[str, int]


async def test_an_older_backup_is_restored_verifies_and_mints(taken: Taken) -> None:
    assert taken.schema != newest_versions(PARTS), "name a version whose schema is older"
    env = await empty(taken.made)
    restored = keyturn("restore", str(taken.file), env=env)
    assert restored.returncode == 0, restored.stderr
    verified = keyturn("audit", "verify", env=env)
    assert verified.returncode == 0, verified.stdout + verified.stderr
    doctor = keyturn("doctor", "--json", env=env)
    wrong = [one for one in json.loads(doctor.stdout) if not one["ok"]]
    assert (doctor.returncode, wrong) == (0, []), doctor.stderr
    opened = keyturn("rekey", "verify", env=env)
    assert opened.returncode == 0, opened.stdout + opened.stderr
    replica = taken.made.start(**database_of(env))
    await replica.ready()
    async with aiohttp.ClientSession() as session:
        await mint_for_ada(Api(session, replica.base, taken.key))


def database_of(env: Mapping[str, str]) -> dict[str, str]:
    return {
        name: env[f"KEYTURN_{name.upper()}"] for name in ("database_url", "worker_database_url")
    }


async def mint_for_ada(api: Api) -> None:
    once = {"Idempotency-Key": uuid.uuid4().hex}
    wanted = {"agent_id": "desk", "user_id": "ada"}
    minted = await api.post("/v1/conversations", wanted, headers=once)
    assert minted.status == 201, minted.body
    opened = await api.post("/v1/conversations/redeem", {"token": minted.json["token"]})
    assert opened.status == 200, opened.body
    assert opened.json["dynamic_variables"]["secret__user_acme_token"] == TOKEN


async def empty(made: Deployment) -> dict[str, str]:
    """The environment of another, empty database on the same server."""
    name = f"restored_{uuid.uuid4().hex}"
    admin = await asyncpg.connect(made.owner.reveal())
    await admin.execute(f"create database {name}")
    await admin.close()
    env = {**made.env, "KEYTURN_OWNER_DATABASE_URL": made.owner.reveal()}
    return {key: value.replace("/keyturn?", f"/{name}?") for key, value in env.items()}


@pytest.fixture
async def taken(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> AsyncIterator[Taken]:
    older = unpacked(TAKEN_BY, tmp_path_factory)
    spool = tmp_path / "spool"
    with deployment(spool_dir=spool) as made:
        migrate_as(made, older)
        replica = await replica_of(made, older).ready()
        try:
            assert replica.first_key is not None
            async with aiohttp.ClientSession() as session:
                api = Api(session, replica.base, replica.first_key)
                for path, body in MADE:
                    reply = await api.put(path, body)
                    assert reply.status in (200, 201), (path, reply.body)
                await mint_for_ada(api)
                file = tmp_path / "one.backup"
                schema = json.loads(run_as(made, older, "backup", str(file), "--json"))["schema"]
                anchored = await anchor_after(spool, 0)
                assert (await api.put("/v1/users/bob", {"name": "Bob"})).status in (200, 201)
                await anchor_after(spool, anchored)
        finally:
            replica.kill()
        yield Taken(made, file, replica.first_key, schema)


def anchored_in(spool: Path) -> int:
    """The number of the seal that is written down outside the database; 0: none yet."""
    files = spool.glob("audit-anchor-*.json")
    return max((int(json.loads(one.read_text())["seal"]) for one in files), default=0)


async def anchor_after(spool: Path, seal: int) -> int:
    """The number of the first seal after that one that is written down."""
    async with asyncio.timeout(PATIENCE):
        while (found := anchored_in(spool)) <= seal:  # noqa: ASYNC110 - another process tells nobody
            await asyncio.sleep(0.1)
    return found
