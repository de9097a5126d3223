"""What every part of the door stands on: database, seals, egress, catalogue, pepper."""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Final, TypeVar

from msgspec import Struct

from vault import bearer
from vault.database import Database
from vault.dialogue import Dialogue
from vault.dialogue.metadata import Metadata
from vault.egress import Egress
from vault.errors import Conflict, NotFound, NotReady, VaultError
from vault.keyring import Keyring
from vault.providers import Catalogue
from vault.refreshing.folder import Folder
from vault.secret import Secret
from vault.shredding.ledger import Ledger
from vault.sql import Query
from vault.store import Store
from vault.store.sealed_rows import GuestKinds

T = TypeVar("T")

WRITE_TRIES: Final = 5


class _Now(Struct, frozen=True):
    now: datetime


_now: Final = Query("deployment", "now", _Now)


class Deployment(Struct, frozen=True, kw_only=True):
    """What this deployment is. ``origin``: where people and providers reach us.

    ``loopback_returns``: may a person be sent back to this machine without a registration?
    ``sealed_by_guests``: what rotations of keys take along beside the vault's own rows. ``folder``:
    where an embedded database lies.
    """

    deployment_id: str
    pepper: bytes
    origin: str
    loopback_returns: bool
    sealed_by_guests: GuestKinds
    folder: Folder | None = None

    def __repr__(self) -> str:
        return f"Deployment({self.deployment_id})"


class Door:
    """The base of the door's parts."""

    def __init__(
        self,
        database: Database,
        keyring: Keyring,
        egress: Egress,
        catalogue: Catalogue,
        deployment: Deployment,
        worker: Database | None,
        spool_dir: Path | None = None,
        key_dir: Path | None = None,
    ) -> None:
        self.deployment_id = deployment.deployment_id
        self.origin = deployment.origin
        self._database = database
        self._keyring = keyring
        self._egress = egress
        self._catalogue = catalogue
        self._pepper = deployment.pepper
        self._fingerprints = bearer.Fingerprints(deployment.pepper)
        self._loopback_returns = deployment.loopback_returns
        self._worker = worker
        self._spool_dir = spool_dir
        self._key_dir = key_dir
        self._folder = deployment.folder
        self._sealed_by_guests = deployment.sealed_by_guests
        self._store = Store(database, keyring)

    @property
    def egress(self) -> Egress:
        """The one way out; what leaves by it is for its user to permit."""
        return self._egress

    @cached_property
    def _dialogue(self) -> Dialogue:
        return Dialogue(self._egress, self._metadata)

    @cached_property
    def _metadata(self) -> Metadata:
        return Metadata(self._egress)

    @cached_property
    def _kept_outside(self) -> list[Path]:
        """Folders that a restored database does not take back: beside root key and spool."""
        return [one for one in (self._key_dir, self._spool_dir) if one is not None]

    @cached_property
    def _ledger(self) -> Ledger:
        return Ledger(self._kept_outside, self.deployment_id)

    async def carry_ledger(self) -> int:
        """Bring what was deleted into the files outside of the database."""
        return await self._ledger.carry(self._database)

    async def _carried(self) -> None:
        """The same, right after a deed that is done, whether or not this can be."""
        with suppress(VaultError):
            await self.carry_ledger()

    async def now(self) -> datetime:
        """Now, by the database's clock: a machine's own may be wrong, and decides nothing."""
        return await self._time()

    async def _time(self) -> datetime:
        """Now, by the database's clock."""
        found = await _now.lookup(self._database)
        if found is None:
            raise NotReady("The database does not say what time it is.")
        return found.now

    def fingerprint(self, text: str | Secret | bytes) -> bytes:
        """A hash that only this deployment can make."""
        held = text.decode("latin-1") if isinstance(text, bytes) else text
        return self._fingerprints.of(held)


async def written(attempt: Callable[[], Awaitable[T | None]]) -> T:
    """Try a compare-and-set until it holds, within reason."""
    for _ in range(WRITE_TRIES):
        outcome = await attempt()
        if outcome is not None:
            return outcome
    raise Conflict("This is being written by many at once.")


def found(thing: T | None) -> T:
    """Return it, or say that there is no such thing."""
    if thing is None:
        raise NotFound
    return thing
