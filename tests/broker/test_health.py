"""/livez, /readyz, /metrics: true about this replica, and silent about everybody in it."""

import asyncio
import re
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import aiohttp
import asyncpg
import pytest
from conftest import Tenant
from msgspec.structs import replace
from support.api import Api, Running
from support.process import Alone, alone

from broker.settings import Settings
from vault.embedded import Embedded
from vault.kms.file import create as create_root_key
from vault.secret import Secret
from vault.vault import Vault


@pytest.fixture
def own_root_key(tmp_path: Path) -> Path:
    file = tmp_path / "root.key"
    create_root_key(file)
    return file


@pytest.fixture
async def own(
    migrated: Embedded, fresh_database: Secret, own_root_key: Path, settings: Settings
) -> AsyncIterator[Alone]:
    # Who drains goes on for longer than any test of it takes.
    long = replace(settings, drain_seconds=300)
    async with alone(migrated, fresh_database, own_root_key, long) as found:
        yield found


@pytest.fixture
async def mine(own: Alone) -> AsyncIterator[Api]:
    """A client of that service."""
    async with aiohttp.ClientSession() as session:
        yield Api(session, own.running.base)


async def checks(mine: Api) -> tuple[int, dict[str, str | None]]:
    """The status, and the reasons of what is not well."""
    reply = await mine.get("/readyz")
    assert reply.json["ready"] == (reply.status == 200)
    assert [one["name"] for one in reply.json["checks"]] == [
        "database",
        "connections",
        "roles",
        "schema",
        "refreshing",
        "root_key",
        "draining",
    ]
    return reply.status, {
        one["name"]: one["reason"] for one in reply.json["checks"] if not one["ok"]
    }


@contextmanager
def moved_away(file: Path) -> Iterator[None]:
    elsewhere = file.rename(file.with_suffix(".away"))
    try:
        yield
    finally:
        elsewhere.rename(file)


async def run_sql(address: Secret, statement: str) -> None:
    connection = await asyncpg.connect(address.reveal())
    await connection.execute(statement)
    await connection.close()


async def test_a_replica_that_is_well_says_so(mine: Api) -> None:
    assert await checks(mine) == (200, {})


async def test_a_schema_that_is_newer_is_ready_unless_it_has_left_this_version_behind(
    mine: Api, fresh_database: Secret
) -> None:
    newer = (
        "insert into vault.schema_migrations (part, version, name, sha256, app_version, needs)"
        " values ('vault', 9999, 'future', 'x', '99', {needs})"
    )
    await run_sql(fresh_database, newer.format(needs="null"))
    assert await checks(mine) == (200, {})
    await run_sql(fresh_database, "delete from vault.schema_migrations where version = 9999")
    await run_sql(fresh_database, newer.format(needs=9999))
    status, reasons = await checks(mine)
    assert (status, list(reasons)) == (503, ["schema"])
    assert "run the newer Keyturn" in str(reasons["schema"])
    await run_sql(fresh_database, "delete from vault.schema_migrations where version = 9999")
    assert await checks(mine) == (200, {})


async def test_a_root_key_that_went_away_is_not_ready_before_a_restart_shows_it(
    mine: Api, own_root_key: Path
) -> None:
    with moved_away(own_root_key):
        status, reasons = await checks(mine)
        assert (status, list(reasons)) == (503, ["root_key"])
    assert await checks(mine) == (200, {})


async def test_a_database_that_went_away_is_not_ready_and_the_process_lives(
    own: Alone, mine: Api, postgres: Embedded
) -> None:
    await run_sql(postgres.dsn(), f'drop database "{own.database_name}" with (force)')
    status, reasons = await asyncio.wait_for(checks(mine), 60)
    assert (status, reasons["database"]) == (503, "The database cannot be reached.")
    alive = await mine.get("/livez")
    assert (alive.status, alive.json) == (200, {"alive": True})
    await run_sql(postgres.dsn(), f'create database "{own.database_name}"')  # its end drops it


async def test_a_replica_that_drains_is_not_ready_and_asks_to_close(own: Alone, mine: Api) -> None:
    own.running.server.handle_exit(signal.SIGTERM, None)
    (status, reasons), reply = await asyncio.gather(checks(mine), mine.get("/livez"))
    assert (status, reasons) == (503, {"draining": "The replica stops."})
    assert (reply.status, reply.headers["Connection"]) == (200, "close")


async def test_a_watcher_that_wants_no_body_gets_the_status_alone(own: Alone, mine: Api) -> None:
    for path in ("/livez", "/readyz"):
        reply = await mine.call("HEAD", path)
        assert (reply.status, reply.body) == (200, b"")
    own.running.server.handle_exit(signal.SIGTERM, None)
    live, ready = await asyncio.gather(mine.call("HEAD", "/livez"), mine.call("HEAD", "/readyz"))
    assert (live.status, ready.status) == (200, 503)


async def test_nothing_of_anybody_is_in_what_needs_no_key(tenant: Tenant, anyone: Api) -> None:
    await tenant.api.put("/v1/users/canary-user", {"name": "canary-name"})
    await tenant.api.get("/v1/users/canary-other?limit=3")
    await tenant.api.get("/canary/path?canary=1")
    for path in ("/livez", "/readyz", "/metrics", "/schema/openapi.json", "/docs"):
        for reply in (await anyone.get(path), await tenant.api.get(path)):
            text = reply.body.decode()
            assert "canary" not in text, path
            assert tenant.id not in text, path
            assert tenant.key not in text, path
            assert tenant.caller.actor_id not in text, path


async def test_numbers_are_counted_by_the_routes_template_alone(
    tenant: Tenant, anyone: Api, service: Running, vault: Vault
) -> None:
    # Another test's service on this vault may have put itself in the place of this one.
    vault.observe_root_key(service.service.metrics.root_key_called)
    await anyone.get("/readyz")  # which asks the root key, too
    for number in range(5):
        await tenant.api.get(f"/v1/users/u{number}")
        await anyone.get(f"/nowhere/{number}")
        await anyone.call("GET", f"/v1/{number}")
    text = (await anyone.get("/metrics")).body.decode()
    routes = set(re.findall(r'route="([^"]*)"', text))
    # Other tests may have asked this process for anything that it has.
    templates = {re.sub(r":\w+}", "}", one.path) for one in service.service.app.routes}
    assert routes <= templates | {"unknown"}
    assert "/v1/users/{user_id}" in routes
    assert not re.search(r"u[0-4]\b|nowhere", text)
    assert re.search(
        r'keyturn_http_requests_total{method="GET",route="/v1/users/{user_id}",status="404"} \d',
        text,
    )
    # This one, and what another test may have left behind.
    assert re.search(r"keyturn_http_requests_in_flight [1-9]", text)
    for name in (
        "keyturn_http_request_duration_seconds_bucket",
        'keyturn_http_problems_total{code="not_found"}',
        'keyturn_db_pool_connections{state="busy"}',
        "keyturn_build_info{version=",
        'keyturn_root_key_calls_total{operation="health",outcome="ok"}',
        "keyturn_root_key_duration_seconds_bucket{",
    ):
        assert name in text


async def test_the_numbers_are_in_prometheus_own_format(anyone: Api) -> None:
    reply = await anyone.get("/metrics")
    assert reply.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    line = re.compile(r"#.*|[a-zA-Z_:][\w:]*({[^}]*(}[^}]*)*})? -?[\d.e+-]+(inf|nan)?|")
    assert [one for one in reply.body.decode().split("\n") if not line.fullmatch(one)] == []


async def test_labels_are_few_and_take_few_values(service: Running) -> None:
    """A closed list: a label that could grow with workspaces, users or requests is not on it."""
    known = {
        *("route", "method", "status", "code", "state", "version", "le", "operation"),
        *("provider", "outcome", "standing", "job", "by", "direction", "check"),
    }
    families = list(service.service.metrics.registry.collect())
    used = {label for family in families for one in family.samples for label in one.labels}
    assert used <= known
    assert all(one.name.startswith("keyturn_") for one in families)


async def test_a_root_key_that_is_away_is_counted(mine: Api, own_root_key: Path) -> None:
    with moved_away(own_root_key):
        await checks(mine)
    text = (await mine.get("/metrics")).body.decode()
    assert 'keyturn_root_key_calls_total{operation="health",outcome="failed"} 1.0' in text
