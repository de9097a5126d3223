"""A deployment with connections at a fake provider, for what is measured about refreshing.

* Token sets are sealed as the product seals them, and written with COPY.
* The same names and tokens stand in the table of the pattern that is written by hand.
"""

import contextlib
import os
import random
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from cryptography.fernet import Fernet
from msgspec import Struct

from bench import load, processes
from bench.baselines import handwritten_rows, provider
from bench.refreshers import CLIENT_ID, CLIENT_SECRET, Settings
from broker import boot, logs, settings
from vault import bearer
from vault.consent import Held, Registration
from vault.database import Database, connect_as_owner
from vault.embedded import Embedded
from vault.keyring import Keyring
from vault.model import Caller, Profile, UserId, WorkspaceId, new_id
from vault.oauth.app import App, TokenSet
from vault.providers import Catalogue
from vault.seal import seal
from vault.secret import Secret
from vault.store import Store
from vault.store import connections as rows

ENVIRONMENT: Final = "production"
INTEGRATION: Final = "bench"
LONG: Final = timedelta(hours=12)

# An endpoint that may be called as fast as we can: else the rate that we learn is what is measured.
PROVIDER: Final = """
extends = "oauth2"
id = "bench"
name = "The benchmarks' own"
docs = "https://example.com"
as_of = 2026-11-21

[confidence]
endpoints = "memory"
client = "memory"
refresh = "memory"
lifetime = "memory"
identity = "memory"
scopes = "memory"
quirks = "memory"

[token]
budget = { requests = 1_000_000, seconds = 1, per = "client" }

[refresh]
issued = "always"
rotates = "always"
old_refresh_token = "strict"
old_access_token = "stays_valid"
"""


class World(Struct, frozen=True):
    """What is there. ``admin``: an owner's connection, to count with and to make time pass."""

    folder: Path
    key: str
    environ: Mapping[str, str]
    settings: Settings
    workspace: WorkspaceId
    postmaster: int
    provider_port: int
    admin: Any

    async def delay(self, milliseconds: int) -> None:
        """Let the provider answer after so long."""
        await self._provider("POST", f"/delay/{milliseconds}", b"granted")

    async def refuse_any_refusal(self) -> None:
        """Did somebody send a refresh token twice?"""
        await self._provider("GET", "/count", b'"refused":0')

    async def _provider(self, method: str, path: str, expected: bytes) -> None:
        request = load.request(method, path, expected=expected)
        answers = await load.closed_loop(
            self.provider_port, iter([request]), connections=1, seconds=5
        )
        answers.refuse_any_wrong(f"the provider, {path}")


@contextlib.asynccontextmanager
async def world(connections: int, *, lasting: bool = False) -> AsyncIterator[World]:
    """Start all of it; with ``lasting`` tokens nothing is due for a long time."""
    logs.configure("error")  # what is made here is nobody's first start
    key = bearer.generate("api_key").reveal()
    async with contextlib.AsyncExitStack() as stack:
        folder = stack.enter_context(processes.data_dir())
        embedded = stack.enter_context(processes.postgres(folder))
        port = await stack.enter_async_context(processes.provider())
        environ = _environ(folder, key)
        admin = await connect_as_owner(embedded.dsn())
        stack.push_async_callback(admin.close)
        names = [new_id("conn") for _ in range(connections)]
        given = Settings(
            token_url=f"http://{load.HOST}:{port}/token",
            dsn=embedded.dsn().reveal(),
            fernet_key=Fernet.generate_key().decode(),
            names=names,
        )
        workspace = await _made(environ, given, embedded, admin, lasting=lasting)
        await handwritten_rows.write(admin, given, datetime.now(UTC) + LONG)
        yield World(
            folder=folder,
            key=key,
            environ=environ,
            settings=given,
            workspace=workspace,
            postmaster=processes.postmaster(folder),
            provider_port=port,
            admin=admin,
        )


@contextlib.asynccontextmanager
async def opened_store(made: World) -> AsyncIterator[Store]:
    """What seals as the product does."""
    read = settings.load(made.environ)
    embedded = Embedded(made.folder / "postgres")
    async with boot.house(read) as house, _store(read, house, embedded) as store:
        yield store


@contextlib.asynccontextmanager
async def _store(
    read: settings.Settings, house: boot.House, embedded: Embedded
) -> AsyncIterator[Store]:
    database = await Database.open(embedded.dsn("keyturn_app"), size=2, statement_cache=200)
    keyring = Keyring(boot.root_key(read), house.vault.deployment_id)
    try:
        yield Store(database, keyring)
    finally:
        await keyring.close()
        await database.close()


def app_of(given: Settings) -> App:
    """The integration as it is used."""
    found = Catalogue(Path(os.environ["KEYTURN_PROVIDERS_DIR"])).get(INTEGRATION)
    return App(
        provider=found,
        client_id=CLIENT_ID,
        client_secrets=(Secret(CLIENT_SECRET),),
        values={"token_url": given.token_url},
    )


def _environ(folder: Path, key: str) -> dict[str, str]:
    providers = folder / "providers"
    providers.mkdir()
    (providers / "bench.toml").write_text(PROVIDER)
    return {
        "KEYTURN_MODE": "development",
        "KEYTURN_DATA_DIR": str(folder),
        "KEYTURN_PROVIDERS_DIR": str(providers),
        "KEYTURN_EGRESS_ALLOW": load.HOST,
        "KEYTURN_LOG_LEVEL": "warning",
        "KEYTURN_BOOTSTRAP_API_KEY": key,
    }


async def _made(
    environ: Mapping[str, str],
    given: Settings,
    embedded: Embedded,
    admin: Any,  # noqa: ANN401 - the driver has no types
    *,
    lasting: bool,
) -> WorkspaceId:
    read = settings.load(environ)
    async with boot.house(read) as house:
        await boot.first_workspace(house.vault, read)
        workspace = WorkspaceId(await admin.fetchval("select workspace_id from vault.workspaces"))
        registration = Registration(
            provider="bench",
            client_id=CLIENT_ID,
            client_secrets=[CLIENT_SECRET],
            variables={"token_url": given.token_url, "authorize_url": given.token_url},
            refresh_policy="eager",
        )
        caller = Caller.operator("bench").within(workspace)
        await house.vault.put_integration(caller, INTEGRATION, registration)
        async with _store(read, house, embedded) as store:
            await _connect(store, workspace, given.names, admin, lasting)
    await admin.execute("vacuum analyze")
    return workspace


async def _connect(
    store: Store,
    workspace: WorkspaceId,
    names: list[str],
    admin: Any,  # noqa: ANN401 - the driver has no types
    lasting: bool,  # noqa: FBT001 - of this module alone
) -> None:
    """Write a user and a connection for each name, as a consent would have left them."""
    luck, now = random.Random(7), datetime.now(UTC)  # noqa: S311 - scatters what is due over the pages
    ends = now + (LONG if lasting else timedelta())
    sealing = await store.seal_of(workspace)
    users, keys, token_sets, lives = [], [], [], []
    connections: list[tuple[object, ...]] = []
    for number, name in enumerate(names):
        user = UserId(f"user-{number}")
        made = await store.new_or_next(sealing, user, Profile())
        assert made.user_key is not None
        owner = await store.owner_key(sealing, user, made.user_key)
        held = Held(tokens=_token_set(name, now, ends))
        context = rows.tokens_context(workspace, name, 1, ENVIRONMENT)
        due_at = ends - timedelta(seconds=luck.random())
        users.append((workspace, user, made.generation, made.profile))
        keys.append((workspace, user, made.user_key))
        connections.append(
            (workspace, name, user, INTEGRATION, ENVIRONMENT, "bench", "keyturn", [])
        )
        token_sets.append((workspace, name, 1, seal(owner, context, rows.packed(held))))
        lives.append(
            (
                *(workspace, name, INTEGRATION, ENVIRONMENT, "bench", "active", 1, 1, 1, 1),
                *(now, now, ends, True, "eager", due_at, sealing.user_ref(user), user),
            )
        )
    await _copy(admin, "users", "workspace_id user_id generation profile", users)
    await _copy(admin, "user_keys", "workspace_id user_id sealed", keys)
    await _copy(
        admin,
        "connections",
        "workspace_id connection_id user_id integration environment provider refresh_by"
        " asked_scopes",
        connections,
    )
    await _copy(
        admin, "connection_tokens", "workspace_id connection_id generation sealed", token_sets
    )
    await _copy(
        admin,
        "connection_lives",
        "workspace_id connection_id integration environment provider state generation fence saved"
        " consented issued_at consented_at access_ends renewable policy due_at user_ref of_user",
        lives,
    )


def _token_set(name: str, now: datetime, ends: datetime) -> TokenSet:
    first = provider.tokens(name, 0)
    return TokenSet(
        access_token=Secret(first.access_token),
        refresh_token=Secret(first.refresh_token),
        token_type=first.token_type,
        obtained_at=now,
        expires_at=ends,
    )


async def _copy(admin: Any, table: str, columns: str, records: list[Any]) -> None:  # noqa: ANN401 - the driver has no types
    await admin.copy_records_to_table(
        table, schema_name="vault", columns=columns.split(), records=records
    )
