"""From settings to an open vault: database, migrations, root key, first workspace.

* ``house`` opens everything in order and closes it in the opposite one, whatever happens between.
* The embedded PostgreSQL is migrated by whoever starts it. Any other database is migrated by
  ``keyturn migrate`` alone, with the owner's login, which the service never has.
* Nothing is printed in production; in development the first start shows the first key, once.
"""

import asyncio
import ctypes
import getpass
import os
import resource
import sys
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import structlog
from msgspec import Struct

from broker.broker import Broker
from broker.events import Courier
from broker.metrics import Metrics
from broker.migrations import PARTS
from broker.sealed_rows import SEALED
from broker.settings import Settings, collector
from vault.database import Database
from vault.dsn import hosts_of
from vault.egress import Egress, Endpoint, parse_allow
from vault.embedded import Embedded
from vault.errors import IdempotencyInProgress, Misconfigured
from vault.kms import Credentials, RootKey, folder_of, open_root_key, own_services
from vault.kms.file import create as create_key_file
from vault.migrations import Login, migrate
from vault.model import SCOPES, Caller, NewKey, Once, Scope
from vault.providers import Catalogue
from vault.refreshing.folder import Folder
from vault.scheduler import Job
from vault.secret import Secret
from vault.tracing import UNTRACED, Tracing
from vault.vault import Vault

if TYPE_CHECKING:  # most commands have no use for the framework that this would load
    from broker.api.tracing import Traces

DEFAULT_DATA_DIR: Final = Path(".keyturn")
REFRESH_SECONDS: Final = 1.0
SPOOL_SECONDS: Final = 10.0
REVOCATION_SECONDS: Final = 30.0
ABANDONED_SECONDS: Final = 60.0
EVENT_SECONDS: Final = 1.0
NUMBER_SECONDS: Final = 15.0
AUDIT_SECONDS: Final = 5.0
OLD_AUDIT_SECONDS: Final = 600.0
FORGET_SECONDS: Final = 60.0
CONVERSATION_SECONDS: Final = 600.0
LEDGER_SECONDS: Final = 60.0
BOOTSTRAP_SCOPES: Final[tuple[Scope, ...]] = ("manage", "mint", "connect")

_PR_SET_DUMPABLE: Final = 4
FILES: Final = 65_536  # as many as deploy/systemd/keyturn.service allows

_log = structlog.get_logger("keyturn.boot")


class House(Struct, frozen=True):
    """What a running process holds."""

    settings: Settings
    vault: Vault
    egress: Egress
    courier: Courier
    broker: Broker


class Addresses(Struct, frozen=True):
    """Where the database is: for the owner, who migrates, the application, and its worker; and an
    embedded one's folder.
    """

    application: Secret | None
    worker: Secret | None
    owner: Secret | None
    logins: list[Login]
    folder: Folder | None = None


@asynccontextmanager
async def house(settings: Settings, traces: "Traces | None" = None) -> AsyncIterator[House]:
    """Open everything that the settings name. ``traces``: who writes down what takes how long."""
    catalogue = Catalogue(settings.providers_dir)  # a mistake in it stops the start at once
    async with database_addresses(settings) as addresses:
        if addresses.application is None:
            raise Misconfigured("KEYTURN_DATABASE_URL is not set.")
        if settings.database_url is None and addresses.owner:
            await migrate(addresses.owner, addresses.logins, parts=PARTS)
        database = await Database.open(
            addresses.application,
            size=settings.database_pool,
            statement_cache=settings.statement_cache,
            watch=traces.statement if traces else None,
        )
        worker: Database | None = None
        try:
            await database.refuse_other_schema()
            if addresses.worker is not None:
                worker = await Database.open(
                    addresses.worker,
                    size=2,
                    statement_cache=settings.statement_cache,
                    setting="KEYTURN_WORKER_DATABASE_URL",
                    watch=traces.statement if traces else None,
                )
            egress = open_egress(settings, traces)
            vault = await Vault.open(
                database,
                root_key(settings),
                egress=egress,
                catalogue=catalogue,
                deployment_id=settings.deployment_id,
                origin=settings.origin,
                worker=worker,
                loopback_returns=settings.development,
                spool_dir=spool_dir(settings),
                key_dir=key_dir(settings),
                folder=addresses.folder,
                sealed_by_guests=SEALED,
            )
        except BaseException:
            if worker is not None:
                await worker.close()
            await database.close()
            raise
        courier = Courier(vault, egress)
        try:
            broker = Broker(vault, egress, mint_batch=settings.mint_batch)
            yield House(settings, vault, egress, courier, broker)
        finally:
            await courier.drain()
            await vault.close()


@asynccontextmanager
async def database_addresses(settings: Settings) -> AsyncIterator[Addresses]:
    """Find the database, or run the embedded one for as long as this is open."""
    if settings.database_url is not None or settings.owner_database_url is not None:
        logins = [
            Login(address, role)
            for address, role in (
                (settings.database_url, "keyturn_app"),
                (settings.worker_database_url, "keyturn_worker"),
            )
            if address is not None
        ]
        yield Addresses(
            settings.database_url,
            settings.worker_database_url,
            settings.owner_database_url,
            logins,
        )
        return
    embedded = Embedded(data_dir(settings) / "postgres", bindir=settings.pg_bindir)
    starting = asyncio.ensure_future(asyncio.to_thread(embedded.start))
    try:
        await asyncio.shield(starting)
        application, worker = embedded.dsn("keyturn_app"), embedded.dsn("keyturn_worker")
        logins = [Login(application, "keyturn_app"), Login(worker, "keyturn_worker")]
        yield Addresses(application, worker, embedded.dsn(), logins, Folder.of(embedded.data))
    finally:
        await _to_its_end(_stopped(embedded, starting))


async def _stopped(embedded: Embedded, starting: asyncio.Future[Embedded]) -> None:
    # A thread goes on when the task that waits for it is cancelled: what it started is stopped.
    await asyncio.gather(starting, return_exceptions=True)
    await asyncio.to_thread(embedded.stop)


async def _to_its_end(work: Coroutine[Any, Any, None]) -> None:
    """Wait for it, whoever loses patience meanwhile, as by a second Ctrl-C."""
    task = asyncio.create_task(work)
    cancelled = False
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError:
            cancelled = True
    if cancelled:
        raise asyncio.CancelledError
    task.result()


def data_dir(settings: Settings) -> Path:
    """Where this deployment keeps its own files; made if it is not there, for us alone."""
    if settings.data_dir is None and not settings.development:
        raise Misconfigured("KEYTURN_DATA_DIR is not set.")
    folder = (settings.data_dir or DEFAULT_DATA_DIR).absolute()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise Misconfigured(f"The data folder {folder} cannot be made: {error.strerror}.") from None
    return folder


def spool_dir(settings: Settings) -> Path | None:
    """Where answers of providers survive a database that is away; it has to outlive the process."""
    if settings.spool_dir is None and settings.data_dir is None and not settings.development:
        return None
    folder = settings.spool_dir or data_dir(settings) / "spool"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise Misconfigured(f"The spool {folder} cannot be made: {error.strerror}.") from None
    return folder


def jobs(house: House) -> list[Job]:
    """What is done in the background."""
    vault = house.vault
    return [
        Job("refresh", REFRESH_SECONDS, vault.refresh_due),
        Job("spool", SPOOL_SECONDS, vault.replay_spool),
        Job("revocations", REVOCATION_SECONDS, vault.retry_revocations),
        Job("abandoned", ABANDONED_SECONDS, vault.end_abandoned),
        Job("events", EVENT_SECONDS, house.courier.deliver_due),
        Job("old_events", FORGET_SECONDS, vault.forget_events),
        Job("old_conversations", CONVERSATION_SECONDS, house.broker.grants.forget_old),
        Job("audit", AUDIT_SECONDS, vault.seal_audit),
        Job("old_audit", OLD_AUDIT_SECONDS, lambda: vault.forget_audit(house.settings.audit_days)),
        Job("deletions", LEDGER_SECONDS, vault.carry_ledger),
    ]


def counting(vault: Vault, metrics: Metrics) -> Job:
    """Numbers of the deployment, for the process that shows them."""

    async def count() -> int:
        if (counted := await vault.count()) is not None:
            metrics.counted(counted)
        return 0

    return Job("numbers", NUMBER_SECONDS, count)


def root_key(settings: Settings) -> RootKey:
    """Open the root key; development makes one on its first start."""
    if settings.kek is None and create_key_file(_own_root_key(settings)):
        _log.warning("development_root_key_made", hint="production needs a root key of its own")
    return open_root_key(_root_key_address(settings), root_key_credentials(settings))


def key_dir(settings: Settings) -> Path | None:
    """The root key's folder, where it has one that is ours to write to."""
    return folder_of(_root_key_address(settings))


def _root_key_address(settings: Settings) -> str | Secret:
    return settings.kek or _own_root_key(settings).as_uri()


def _own_root_key(settings: Settings) -> Path:
    if not settings.development:
        raise Misconfigured("KEYTURN_KEK is not set.")
    return data_dir(settings) / "root.key"


def root_key_credentials(settings: Settings) -> Credentials:
    """What the settings hold for key services whose libraries find no credential themselves."""
    return Credentials(
        transit_token=settings.transit_token,
        transit_secret_id=settings.transit_secret_id,
        pkcs11_pin=settings.pkcs11_pin,
    )


def open_egress(settings: Settings, tracing: Tracing | None = None) -> Egress:
    """The one way out; our own parts are never to be reached through it."""
    forbidden = [Endpoint(settings.host, settings.port)]
    for address in (settings.database_url, settings.owner_database_url):
        if address is not None:
            forbidden += [Endpoint(host, port) for host, port in hosts_of(address)]
    if settings.kek is not None:
        forbidden += [Endpoint(host, port) for host, port in own_services(settings.kek)]
    forbidden += collector(os.environ)
    return Egress(
        allow=parse_allow(settings.egress_allow, development=settings.development),
        forbidden=forbidden,
        ca_file=settings.egress_ca_file,
        tracing=tracing or UNTRACED,
    )


async def first_workspace(vault: Vault, settings: Settings) -> Secret | None:
    """On an empty database make the workspace ``default``; return its key where it may be shown."""
    given = settings.bootstrap_api_key
    if given is None and not settings.development:
        return None
    if not await vault.is_empty():
        return None
    scopes = SCOPES if settings.development else BOOTSTRAP_SCOPES
    with suppress(IdempotencyInProgress):  # another replica is just doing it
        made = await vault.create_workspace(
            Caller.operator("bootstrap"),
            "default",
            first_key=NewKey(name="bootstrap", scopes=scopes),
            first_bearer=given,
            once=Once(
                key_hash=vault.fingerprint("bootstrap"), fingerprint=vault.fingerprint("default")
            ),
        )
        return made.bearer if settings.development else None
    return None


def terminal_operator() -> Caller:
    """Who asks from a terminal: who can read the root key and the database is the operator."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):
        name = "unknown"
    return Caller.operator(f"terminal:{name}")


def allow_connections() -> None:
    """Have as many connections as the machine lets us: each is an open file, and shells begin
    programs with few.
    """
    few, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES if most == resource.RLIM_INFINITY else min(most, FILES)
    if few < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))


def harden_process() -> None:
    """Leave no core dump and no ``/proc/PID/mem`` to read: keys lie in this memory."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
