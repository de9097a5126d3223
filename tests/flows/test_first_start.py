"""The first start, and every later one: what is printed, what is made, what is refused."""

import asyncio
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from urllib.parse import quote

import aiohttp
import asyncpg
import pytest
from support.api import Api
from support.ports import free_port
from support.process import (
    Deployment,
    Replica,
    backends,
    bearers_in,
    deployment,
    development,
    environment,
    keyturn,
    kill_dead,
    postmaster,
    short_folder,
)

from vault.bearer import generate, kind_of
from vault.model import SCOPES

BOOTSTRAP_SCOPES = {"manage", "mint", "connect"}


@pytest.fixture
def folder() -> Iterator[Path]:
    with short_folder() as made:
        yield made


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as opened:
        yield opened


@pytest.fixture(scope="module")
def server() -> Iterator[Deployment]:
    with deployment() as made:
        yield made


@pytest.fixture
async def external(server: Deployment) -> AsyncIterator[Deployment]:
    """An operator's empty database, that nobody has migrated yet."""
    made = await server.with_new_database()
    yield made
    made.close()


def serve_once(env: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    return keyturn("serve", env={"KEYTURN_PORT": str(free_port()), **env})


def owner_of(made: Deployment) -> dict[str, str]:
    return {"KEYTURN_OWNER_DATABASE_URL": made.owner.reveal()}


async def rows_of(made: Deployment, sql: str) -> list[tuple[object, ...]]:
    connection = await asyncpg.connect(made.owner.reveal())
    try:
        return [tuple(row) for row in await connection.fetch(sql)]
    finally:
        await connection.close()


def files_with(folder: Path, text: str) -> list[Path]:
    files = [file for file in folder.rglob("*") if file.is_file()]
    assert len(files) > 100, "the database is among them"
    return [file for file in files if text.encode() in content_of(file)]


def content_of(file: Path) -> bytes:
    """Nothing, where the file was another one's beginning and has its name by now."""
    try:
        return file.read_bytes()
    except FileNotFoundError:
        return b""


async def key_at_first_readiness(replica: Replica) -> str | None:
    """What stands in the output at the very moment when /readyz has first answered 200."""
    await replica.ready()
    return replica.first_key


async def test_the_first_start_prints_a_key_before_it_is_ready_and_a_second_none(
    folder: Path, session: aiohttp.ClientSession
) -> None:
    with development(folder) as replica:
        key = await key_at_first_readiness(replica)
        assert key is not None
        assert kind_of(key) == "api_key"
        api = Api(session, replica.base, key)
        [held] = (await api.get("/v1/keys")).json["data"]
        assert set(held["scopes"]) == set(SCOPES)
        assert replica.base in replica.stdout
        assert key not in replica.stderr
        assert files_with(folder / "data", key) == []
        assert (folder / "data/root.key").stat().st_mode & 0o077 == 0
        assert await replica.stop() == 0
    with development(folder) as again:
        await again.ready()
        assert again.first_key is None
        assert (await Api(session, again.base, key).get("/v1/keys")).status == 200
        assert await again.stop() == 0
        assert key not in again.stdout + again.stderr


async def test_a_bootstrap_key_opens_the_workspace_default(
    folder: Path, session: aiohttp.ClientSession
) -> None:
    given = generate("api_key").reveal()
    operator = generate("operator").reveal()
    with development(folder, bootstrap_api_key=given, operator_key=operator) as replica:
        assert await key_at_first_readiness(replica) == given
        [workspace] = (await Api(session, replica.base, operator).get("/v1/workspaces")).json[
            "data"
        ]
        assert workspace["name"] == "default"
        events = await Api(session, replica.base, given).get("/v1/audit-events")
        assert {event["actor"]["id"] for event in events.json["data"]} == {"bootstrap"}


async def test_nothing_is_lost_when_everything_is_killed(
    folder: Path, session: aiohttp.ClientSession
) -> None:
    with development(folder) as replica:
        key = await key_at_first_readiness(replica)
        api = Api(session, replica.base, key)
        made = await api.post("/v1/keys", {"name": "second", "scopes": ["manage"]})
        assert (await api.put("/v1/users/ada", {"name": "Ada"})).status == 200
        server = postmaster(folder / "data/postgres/data")
        kill_dead(replica.process.pid, server, *backends(server))
        replica.kill()
    with development(folder) as again:
        await again.ready()
        assert again.first_key is None
        for holder in (key, made.json["key"]):
            found = await Api(session, again.base, holder).get("/v1/users/ada")
            assert (found.status, found.json["name"]) == (200, "Ada")
        assert await again.stop() == 0


def test_malformed_keys_are_refused_with_the_reasons_and_without_the_values(folder: Path) -> None:
    whole = generate("operator").reveal()
    cut = generate("api_key").reveal()[:-1]
    env = environment(mode="development", data_dir=folder / "data", bootstrap_api_key=cut)
    done = serve_once({**env, "KEYTURN_OPERATOR_KEY": whole + "," + cut})
    assert done.returncode == 1
    for name in ("KEYTURN_OPERATOR_KEY", "KEYTURN_BOOTSTRAP_API_KEY"):
        assert f"{name}: This key has the wrong length: was it cut?" in done.stderr
    for value in (whole, cut):
        assert value[4:20] not in done.stdout + done.stderr
    assert not (folder / "data").exists()


def test_a_variable_that_nobody_knows_is_refused(folder: Path) -> None:
    env = environment(mode="development", data_dir=folder / "data", datadir="/nowhere")
    done = serve_once(env)
    assert done.returncode == 1
    assert "KEYTURN_DATADIR: there is no such setting" in done.stderr
    assert "/nowhere" not in done.stderr
    assert not (folder / "data").exists()


def test_production_does_not_start_without_a_root_key_and_a_database() -> None:
    done = serve_once(environment())
    assert done.returncode == 1
    assert "KEYTURN_KEK: production needs a root key" in done.stderr
    assert "KEYTURN_DATABASE_URL: production needs a database" in done.stderr


async def test_production_prints_no_key_and_its_bootstrap_key_cannot_read_tokens(
    external: Deployment, session: aiohttp.ClientSession
) -> None:
    await external.migrate()
    key = generate("api_key").reveal()
    file = external.folder / "bootstrap"
    file.write_text(key + "\n")
    replica = external.start(mode="production", bootstrap_api_key_file=file)
    await replica.ready()
    [held] = (await Api(session, replica.base, key).get("/v1/keys")).json["data"]
    assert set(held["scopes"]) == BOOTSTRAP_SCOPES
    assert replica.first_key is None
    assert key not in replica.stdout + replica.stderr
    refused = await Api(session, replica.base, key).get("/v1/audit-events")
    assert refused.status == 403


async def test_production_without_a_bootstrap_key_makes_no_workspace(
    external: Deployment,
) -> None:
    await external.migrate()
    replica = external.start(mode="production")
    await replica.ready()
    assert await rows_of(external, "select * from vault.workspaces") == []
    assert bearers_in(replica.stdout) == []


async def test_replicas_that_race_on_an_empty_database_make_one_workspace(
    external: Deployment, session: aiohttp.ClientSession
) -> None:
    await external.migrate()
    replicas = [external.start() for _ in range(3)]
    await asyncio.gather(*[replica.ready() for replica in replicas])
    assert len(await rows_of(external, "select * from vault.workspaces")) == 1
    assert len(await rows_of(external, "select * from vault.deployment")) == 1
    [key] = [replica.first_key for replica in replicas if replica.first_key]
    for replica in replicas:
        assert (await Api(session, replica.base, key).get("/v1/keys")).status == 200


async def test_replicas_that_race_with_a_bootstrap_key_all_know_it(
    external: Deployment, session: aiohttp.ClientSession
) -> None:
    await external.migrate()
    key = generate("api_key").reveal()
    replicas = [external.start(bootstrap_api_key=key) for _ in range(2)]
    await asyncio.gather(*[replica.ready() for replica in replicas])
    for replica in replicas:
        found = await Api(session, replica.base, key).get("/v1/keys")
        assert [one["name"] for one in found.json["data"]] == ["bootstrap"]
    assert len(await rows_of(external, "select * from vault.workspaces")) == 1


async def test_an_external_database_is_set_up_by_the_two_documented_variables(
    external: Deployment, session: aiohttp.ClientSession
) -> None:
    password = "p@ss/w:rd with%"
    address = external.owner.reveal()
    where = address.rpartition("@")[2]
    login = {"KEYTURN_DATABASE_URL": f"postgresql://acme:{quote(password, safe='')}@{where}"}
    kek = environment(kek=external.root_key.as_uri())
    unmigrated = serve_once({**kek, **login})
    assert unmigrated.returncode == 1
    assert password not in unmigrated.stderr
    done = keyturn("migrate", env={**kek, **login, **owner_of(external)})
    assert (done.returncode, done.stderr.count("Traceback")) == (0, 0)
    assert "The schema is current." in done.stdout
    replica = external.start(database_url=login["KEYTURN_DATABASE_URL"])
    await replica.ready()
    assert (await Api(session, replica.base, replica.first_key).get("/v1/keys")).status == 200
    everything = done.stdout + done.stderr + replica.stdout + replica.stderr
    assert password not in everything
    assert quote(password, safe="") not in everything


async def make_login(made: Deployment, user: str, more: str = "") -> str:
    """A login that exists before anything of ours does; returns its address."""
    address = made.login(user).reveal()
    password = address.split("//")[1].split("@")[0].split(":")[1]
    await run_sql(made, f"create role {user} login password '{password}' {more}")
    return address


async def run_sql(made: Deployment, statements: str) -> None:
    connection = await asyncpg.connect(made.owner.reveal())
    await connection.execute(statements)
    await connection.close()


async def test_a_database_without_our_schema_is_named_as_such(external: Deployment) -> None:
    address = await make_login(external, "early")
    done = serve_once({**external.env, "KEYTURN_DATABASE_URL": address})
    assert done.returncode == 1
    assert "run 'keyturn migrate'" in done.stderr


async def test_the_service_refuses_to_run_as_a_superuser_or_as_the_owner(
    external: Deployment,
) -> None:
    await external.migrate()
    said = {}
    superuser = external.owner.reveal()
    said["a superuser"] = serve_once({**external.env, "KEYTURN_DATABASE_URL": superuser})
    address = await make_login(external, "other", "in role keyturn_owner")
    said["the owner"] = serve_once({**external.env, "KEYTURN_DATABASE_URL": address})
    await run_sql(external, "revoke keyturn_owner from other; alter role other bypassrls")
    said["a role with BYPASSRLS"] = serve_once({**external.env, "KEYTURN_DATABASE_URL": address})
    for what, done in said.items():
        assert done.returncode == 1
        assert f"logs in as {what}" in done.stderr
        assert "keyturn migrate" in done.stderr


def test_a_database_that_is_not_there_is_said_in_one_sentence(folder: Path) -> None:
    address = f"postgresql://app:hunter22@127.0.0.1:{free_port()}/keyturn"
    env = environment(mode="development", data_dir=folder / "data", database_url=address)
    started = time.monotonic()
    done = serve_once(env)
    assert time.monotonic() - started < 50
    assert (done.returncode, done.stderr) == (1, "keyturn: The database cannot be reached.\n")
