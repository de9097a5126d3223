"""The real parts: one PostgreSQL a worker, migrated once; a test gets a workspace of its own."""

import os
import shutil
import socket
import tempfile
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import aiohttp
import hypothesis
import pytest
from msgspec import Struct
from support.abroad import Abroad, living_abroad
from support.alive import Alive, Replicas, leave_nothing_due, replicas, workspace_in
from support.api import Api, Running, running
from support.browser import MISSING, REASON, Browser, browsing
from support.databases import empty_database
from support.journeys import Clock
from support.recording import Record, recording
from support.sandbox import Provider, providing
from support.talking import Stage, api_listens
from support.visitor import Visitor, visiting
from support.wire import wired

from broker.migrations import PARTS
from broker.settings import Settings
from vault.bearer import generate
from vault.database import Database
from vault.egress import Egress, parse_allow
from vault.embedded import Embedded
from vault.kms import open_root_key
from vault.kms.file import create as create_root_key
from vault.migrations import Login, migrate
from vault.model import SCOPES, Caller, NewKey, WorkspaceId
from vault.secret import Secret
from vault.vault import Vault

OPERATOR_KEY = generate("operator").reveal()
# Speed for the tests' own data; the product's defaults are tested where they matter.
FAST = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


TOGETHER = "TESTS_FOLDER"

# What is drawn is the same in every run, so that a red one can be repeated; no test is about time.
hypothesis.settings.register_profile(
    "keyturn",
    deadline=None,
    derandomize=True,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
# Long runs look where no run has looked before.
hypothesis.settings.register_profile(
    "soak", hypothesis.settings.get_profile("keyturn"), derandomize=False
)


def pytest_configure(config: pytest.Config) -> None:
    """Make one folder for a run, where PostgreSQL's own account can reach its data."""
    short = config.getoption("markexpr") == "not soak"
    hypothesis.settings.load_profile("keyturn" if short else "soak")
    if not hasattr(config, "workerinput"):
        folder = tempfile.mkdtemp(prefix="keyturn-tests-", dir="/tmp")
        Path(folder).chmod(0o711)
        os.environ[TOGETHER] = folder


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest goes first: begun last, all other workers would wait for it."""
    items.sort(key=lambda item: item.get_closest_marker("first") is None)


def pytest_unconfigure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        shutil.rmtree(os.environ.pop(TOGETHER), ignore_errors=True)


@pytest.fixture(scope="session")
def own_folder() -> Path:
    """This worker's: sweeps go over all workspaces, and would take another worker's work."""
    folder = Path(os.environ[TOGETHER]) / os.environ.get("PYTEST_XDIST_WORKER", "alone")
    folder.mkdir(mode=0o711, exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def postgres(own_folder: Path) -> Iterator[Embedded]:
    """The embedded server of this worker."""
    embedded = Embedded(own_folder / "pg", settings=FAST)
    embedded.start()
    yield embedded
    embedded.stop()


@pytest.fixture(scope="session")
async def migrated(postgres: Embedded) -> Embedded:
    logins = [Login(postgres.dsn(role), role) for role in ("keyturn_app", "keyturn_worker")]
    await migrate(postgres.dsn(), logins, parts=PARTS)
    return postgres


@pytest.fixture(scope="session")
def root_key_file(own_folder: Path) -> Path:
    file = own_folder / "root.key"
    create_root_key(file)
    return file


@pytest.fixture(scope="session")
async def database(migrated: Embedded) -> AsyncIterator[Database]:
    opened = await Database.open(migrated.dsn("keyturn_app"), size=5, statement_cache=200)
    yield opened
    await opened.close()


@pytest.fixture(scope="session")
def listener() -> Iterator[socket.socket]:
    """Where the service will be: providers are told before it is there."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        yield found


@pytest.fixture(scope="session")
async def vault(
    migrated: Embedded, root_key_file: Path, listener: socket.socket
) -> AsyncIterator[Vault]:
    database = await Database.open(migrated.dsn("keyturn_app"), size=5, statement_cache=200)
    worker = await Database.open(migrated.dsn("keyturn_worker"), size=1, statement_cache=10)
    egress = Egress(allow=parse_allow("127.0.0.1,127.64.0.0/10,localhost", development=True))
    opened = await Vault.open(
        database,
        open_root_key(root_key_file.as_uri()),
        egress=egress,
        origin=f"http://127.0.0.1:{listener.getsockname()[1]}",
        worker=worker,
        loopback_returns=True,
    )
    yield opened
    await opened.close()


@pytest.fixture(scope="session")
def settings() -> Settings:
    return Settings(mode="development", operator_key=Secret(OPERATOR_KEY))


@pytest.fixture(scope="session")
async def service(
    vault: Vault, settings: Settings, listener: socket.socket
) -> AsyncIterator[Running]:
    async with running(vault, settings, listener) as found:
        yield found


@pytest.fixture(scope="session")
async def anyone(service: Running) -> AsyncIterator[Api]:
    """A client without a key."""
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session:
        yield Api(session, service.base)


@pytest.fixture(scope="session")
def operator(anyone: Api) -> Api:
    return anyone.with_key(OPERATOR_KEY)


@pytest.fixture(scope="session")
async def browser() -> AsyncIterator[Browser]:
    """Chromium; a test makes visitors of its own."""
    if MISSING:
        pytest.skip(REASON)
    async with browsing() as opened:
        yield opened


@pytest.fixture
async def provider() -> AsyncIterator[Provider]:
    """A sandbox of a test's own."""
    async with providing() as found:
        yield found


@pytest.fixture
async def ada() -> AsyncIterator[Visitor]:
    """A person with a browser that nobody has used."""
    async with visiting() as found:
        yield found


@pytest.fixture
async def grace() -> AsyncIterator[Visitor]:
    """Somebody else, at another browser."""
    async with visiting() as found:
        yield found


@pytest.fixture
def clock(migrated: Embedded) -> Clock:
    return Clock(migrated)


@pytest.fixture(scope="session")
async def abroad(
    migrated: Embedded, root_key_file: Path, settings: Settings
) -> AsyncIterator[Abroad]:
    """The sandbox over TLS, as the providers of the real catalogue, and a service that knows it."""
    with tempfile.TemporaryDirectory() as folder:
        async with living_abroad(Path(folder), migrated, root_key_file, settings) as found:
            yield found


class Tenant(Struct, frozen=True):
    """A workspace of a test's own, and a client that holds its widest key."""

    id: WorkspaceId
    key: str
    api: Api
    caller: Caller


MakeTenant = Callable[[], Awaitable[Tenant]]


@pytest.fixture(scope="session")
def make_tenant(vault: Vault, anyone: Api) -> MakeTenant:
    async def make() -> Tenant:
        made = await vault.create_workspace(
            Caller.operator("tests"),
            f"test {uuid.uuid4().hex[:8]}",
            first_key=NewKey(name="first", scopes=SCOPES),
        )
        assert made.bearer is not None
        key = made.bearer.reveal()
        return Tenant(
            made.workspace.workspace_id,
            key,
            anyone.with_key(key),
            await vault.authenticate(key),
        )

    return make


@pytest.fixture
async def tenant(make_tenant: MakeTenant) -> Tenant:
    """Ada's workspace."""
    return await make_tenant()


@pytest.fixture
async def stage(
    tenant: Tenant, anyone: Api, service: Running, provider: Provider
) -> AsyncIterator[Stage]:
    """Where Ada's workspace begins conversations."""
    async with api_listens() as listens:
        yield Stage(
            api=tenant.api,
            anyone=anyone,
            base=service.base,
            provider=provider,
            listens=listens,
        )


@pytest.fixture
async def stranger(make_tenant: MakeTenant) -> Tenant:
    """Another workspace, which must see nothing of the first."""
    return await make_tenant()


@pytest.fixture
async def fresh_database(postgres: Embedded) -> AsyncIterator[Secret]:
    """The superuser's address of an empty database."""
    async with empty_database(postgres) as found:
        yield found


@pytest.fixture
async def record(
    migrated: Embedded, fresh_database: Secret, tmp_path: Path
) -> AsyncIterator[Record]:
    """An audit record of a test's own, which it may tamper with."""
    async with recording(migrated, fresh_database, tmp_path) as found:
        yield found


@pytest.fixture
async def over(
    migrated: Embedded, fresh_database: Secret, tmp_path: Path
) -> AsyncIterator[Replicas]:
    """Two vaults over a database that a test may set back; their root key lies by itself."""
    keys = tmp_path / "keys"
    keys.mkdir(mode=0o700)
    create_root_key(keys / "root.key")
    async with replicas(migrated, fresh_database, keys / "root.key", tmp_path) as found:
        yield found


@pytest.fixture(scope="session")
async def two_replicas(postgres: Embedded, root_key_file: Path) -> AsyncIterator[Replicas]:
    """Two vaults over a database of their own, in which time can be moved."""
    with tempfile.TemporaryDirectory() as folder:
        async with (
            empty_database(postgres) as owner,
            replicas(postgres, owner, root_key_file, Path(folder)) as found,
        ):
            yield found


@pytest.fixture
async def alive(two_replicas: Replicas, provider: Provider) -> AsyncIterator[Alive]:
    """A workspace of a test's own at two replicas, at a provider over a wire."""
    caller = await workspace_in(two_replicas, f"alive {uuid.uuid4().hex[:8]}")
    async with wired(provider.base) as wire:
        found = Alive(two_replicas, caller, provider, wire)
        yield found
        await found.settled()
    await leave_nothing_due(two_replicas, [caller])
