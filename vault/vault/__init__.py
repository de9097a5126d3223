"""The door: every way to what the vault keeps is a method of ``Vault``.

* Each method takes a ``Caller`` and asks ``access`` first. One that changes something, or gives a
  credential away, leaves its line in the audit record in the transaction of the deed.
* The caller decides the workspace. No argument can name another one; only the operator goes
  ``within`` a workspace, and that workspace's record shows it.
* Things of other workspaces do not exist: ``NotFound``, as for anything that never was.
"""

import asyncio
import hmac
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Self

from msgspec import Struct

from vault import access, audit, bearer
from vault.database import Database
from vault.egress import Egress
from vault.errors import Misconfigured, NotReady, Unauthenticated
from vault.keyring import Keyring, Observe
from vault.kms import RootKey, Wrapped
from vault.migrations import OWN, newest_versions
from vault.model import AuditEvent, Caller, KeyId, Page, Scope, UserId, WorkspaceId, new_id
from vault.providers import Catalogue
from vault.refreshing.folder import Folder
from vault.sql import Query
from vault.store.sealed_rows import GuestKinds
from vault.vault.authentication import Authentication
from vault.vault.backups import Backups
from vault.vault.calls import Calls
from vault.vault.catalogue import Providers
from vault.vault.connect import Connect
from vault.vault.counting import Counting
from vault.vault.door import Deployment
from vault.vault.events import Events
from vault.vault.guests import Guests
from vault.vault.looks import Looks
from vault.vault.provider_apis import ProviderApis
from vault.vault.rekeying import Rekeying
from vault.vault.secrets import Secrets
from vault.vault.tenants import Tenants
from vault.vault.variables import Variables

PEPPER_SIZE: Final = 32


class _DeploymentRow(Struct, frozen=True):
    deployment_id: str
    pepper: bytes
    root_key_id: str


class _SchemaVersion(Struct, frozen=True):
    part: str
    version: int | None
    needs: int | None


class _Bearer(Struct, frozen=True):
    workspace_id: WorkspaceId
    key_id: KeyId
    hash: bytes
    scopes: list[Scope]
    environments: list[str]
    expires_at: datetime | None


_deployment_get: Final = Query("deployment", "get", _DeploymentRow)
_deployment_insert: Final = Query("deployment", "insert", _DeploymentRow)
_schema_versions: Final = Query("deployment", "schema_versions", _SchemaVersion)
_bearer_lookup: Final = Query("api_keys", "lookup", _Bearer)


class Vault(
    Connect,
    ProviderApis,
    Looks,
    Counting,
    Rekeying,
    Backups,
    Events,
    Tenants,
    Variables,
    Secrets,
    Authentication,
    Calls,
    Providers,
    Guests,
):
    """Keeps credentials for many workspaces, and gives them to whom they belong."""

    @classmethod
    async def open(  # noqa: PLR0913 - the parts that a vault is made of
        cls,
        database: Database,
        root: RootKey,
        *,
        egress: Egress | None = None,
        catalogue: Catalogue | None = None,
        deployment_id: str | None = None,
        origin: str = "http://127.0.0.1",
        worker: Database | None = None,
        loopback_returns: bool = False,
        spool_dir: Path | None = None,
        key_dir: Path | None = None,
        folder: Folder | None = None,
        sealed_by_guests: GuestKinds | None = None,
    ) -> Self:
        """Open the vault of this database; the first process to come makes its pepper.

        Without an ``egress`` it calls public hosts only. ``origin`` is where people and providers
        reach us. ``worker`` is a second login, which finds what is due in all workspaces; without
        one nothing is done by itself. In ``spool_dir`` answers of providers survive a database that
        is away; there and in ``key_dir`` is the mark by which an older one is known, and
        the list of what was deleted for good. An embedded database lies in ``folder``.
        ``sealed_by_guests`` is what rotations take along beside the vault's own rows. ``close``
        closes what it was given, too.
        """
        found = await _deployment_get.lookup(database)
        if found is None:
            found = await _founded(database, root, deployment_id or new_id("dep"))
        if deployment_id not in (None, found.deployment_id):
            raise Misconfigured(
                "KEYTURN_DEPLOYMENT_ID is not what this database was made with. "
                "Is this the database of another deployment?"
            )
        keyring = Keyring(root, found.deployment_id)
        wrapped = Wrapped(found.pepper, found.root_key_id)
        pepper = await keyring.unwrap_deployment_secret("pepper", wrapped)
        return cls(
            database,
            keyring,
            egress or Egress(allow=()),
            catalogue or Catalogue(),
            Deployment(
                deployment_id=found.deployment_id,
                pepper=pepper,
                origin=origin,
                loopback_returns=loopback_returns,
                sealed_by_guests=sealed_by_guests or {},
                folder=folder,
            ),
            worker,
            spool_dir,
            key_dir,
        )

    async def close(self) -> None:
        await asyncio.gather(self.end_fetching(), self.end_refreshing())
        if self._worker is not None:
            await self._worker.close()
        await self._egress.aclose()
        await self._keyring.close()
        await self._database.close()

    # Who asks

    async def authenticate(self, unverified_bearer: str, *, request_id: str = "") -> Caller:
        """Find whose API key this is. The database is asked each time: a revoked key is dead."""
        if bearer.kind_of(unverified_bearer) != "api_key":
            raise Unauthenticated
        hashed = self.fingerprint(unverified_bearer)
        found = await _bearer_lookup.lookup(self._database, hash=hashed)
        if found is None or not hmac.compare_digest(found.hash, hashed):
            raise Unauthenticated
        return Caller(
            kind="key",
            actor_id=found.key_id,
            workspace=found.workspace_id,
            scopes=frozenset(found.scopes),
            environments=tuple(found.environments),
            expires_at=found.expires_at,
            request_id=request_id,
        )

    def operator_id(self, verified_bearer: str) -> str:
        """How the record names the holder of an operator key."""
        return "op_" + self.fingerprint(verified_bearer).hex()[:16]

    # The record

    async def audit_events(
        self, caller: Caller, page: Page, *, action: str = "", user_id: UserId | None = None
    ) -> list[AuditEvent]:
        """What was done in the workspace, newest first; of one user, by that user's pseudonym."""
        access.permit(caller, "audit.read")
        user_ref = ""
        if user_id is not None:
            user_ref = (await self._store.seal_of(caller.workspace)).user_ref(user_id)
        return await self._database.run(
            caller.workspace,
            lambda tx: audit.events(tx, page, action=action, user_ref=user_ref),
        )

    # Is it well?

    async def check_database(self) -> None:
        """Raise why the database cannot be used now."""
        await self._database.probe()

    async def check_connections(self) -> None:
        """Raise if no database connection of this process is free."""
        await self._database.probe_pool()

    async def check_roles(self) -> None:
        """Raise if a database login may do more, or less, than row-level security supposes."""
        logins = ((self._database, "keyturn_app"), (self._worker, "keyturn_worker"))
        for database, role in logins:
            if database is not None:
                await database.refuse_privileged_role()
                await database.refuse_other_role(role)

    async def check_schema(self, parts: Sequence[str] = OWN) -> None:
        """Raise if this code does not run on the schema. On a newer one it does, as a rule."""
        found = {one.part: one for one in await _schema_versions.lookup_all(self._database)}
        for part, known in newest_versions(parts).items():
            there = found.get(part)
            if there is None or (there.version or 0) < known:
                raise NotReady("Migrations are pending: run 'keyturn migrate'.")
            if (there.needs or 0) > known:
                raise NotReady(
                    "The database's schema has left this version behind: run the newer Keyturn."
                )

    def connections(self) -> tuple[int, int]:
        """Idle and open database connections of this process."""
        return self._database.idle_connections, self._database.open_connections

    def observe_root_key(self, observe: Observe) -> None:
        """Tell somebody of each call of the root key that has ended."""
        self._keyring.observe = observe

    async def clock_ahead(self) -> float:
        """Seconds by which this machine's clock is surely ahead of the database's; or behind."""
        before = datetime.now(UTC)
        theirs = await self._time()
        after = datetime.now(UTC)
        # The database answered somewhere between the two.
        ahead, behind = (before - theirs).total_seconds(), (theirs - after).total_seconds()
        return max(ahead, 0.0) - max(behind, 0.0)

    async def check_root_key(self) -> None:
        """Raise why the root key cannot be used now; ``Degraded``: cached workspaces go on."""
        self._announcements.check()
        await self._keyring.health()


async def _founded(database: Database, root: RootKey, deployment_id: str) -> _DeploymentRow:
    """Make what the deployment is, unless somebody else has just made it."""
    made = await Keyring(root, deployment_id).wrap_deployment_secret(
        "pepper", os.urandom(PEPPER_SIZE)
    )
    await _deployment_insert.lookup(
        database,
        deployment_id=deployment_id,
        pepper=made.blob,
        root_key_id=made.root_key_id,
    )
    found = await _deployment_get.lookup(database)
    if found is None:
        raise NotReady("The database lost what this deployment is.")
    return found
