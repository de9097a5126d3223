"""Restoring as the operator does it: where things are, what has to be at hand, and the rehearsal.

* What was deleted since a backup stands in lists beside the root key, beside the spool and beside
  the backups. Without any of them nothing is restored, unless somebody says so.
* A rehearsal restores into a private PostgreSQL in a folder of its own, opens every row there, and
  leaves nothing behind: neither the deployment's database nor its files are touched.
"""

import asyncio
import tempfile
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Final

from msgspec import Struct

from broker import boot
from broker.migrations import PARTS
from broker.sealed_rows import SEALED
from broker.settings import Settings
from vault.backup import Manifest
from vault.backup.archive import Reader
from vault.backup.moving_on import repeatable
from vault.backup.restoring import Outside, Place, Restored, opened_secret, restore
from vault.database import Database
from vault.embedded import Embedded
from vault.errors import Misconfigured
from vault.keyring.rotations import Tell
from vault.keyring.verifying import Report
from vault.kms import RootKey
from vault.migrations import Login
from vault.providers import Catalogue
from vault.refreshing.marks import Level, Marks
from vault.shredding import Entry
from vault.shredding.ledger import LedgerFile
from vault.vault import Vault

# What is rehearsed is thrown away: the disk need not keep up.
_HASTY: Final = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


class Deletions(Struct, frozen=True):
    """The lists of what was deleted that are at hand."""

    files: tuple[LedgerFile, ...]

    @classmethod
    def of(
        cls, settings: Settings, deployment: str, folders: Sequence[Path], *, none: bool
    ) -> "Deletions":
        """Look for them; ``none``: whoever asks does not want any to be needed."""
        usual = [one for one in (boot.key_dir(settings), boot.spool_dir(settings)) if one]
        places = dict.fromkeys([*(one.resolve() for one in (*usual, *folders))])
        every = [LedgerFile(folder, deployment) for folder in places]
        found = tuple(one for one in every if one.path.is_file())
        if not found and not none:
            looked = ", ".join(str(one.path) for one in every)
            raise Misconfigured(
                "There is no list of what was deleted since, so deleted users would come back. "
                f"None of these is there: {looked}. Bring one (--ledger FOLDER), or say "
                "--without-ledger."
            )
        return cls(found)

    def entries(self) -> Iterator[Entry]:
        for file in self.files:
            yield from file.entries()

    def until(self) -> datetime | None:
        """Up to when something is known; what was deleted after that comes back."""
        known: list[datetime] = []
        for file in self.files:
            known += [one.at for one in file.entries()]
            if (until := file.complete_until()) is not None:
                known.append(until)
            known = [max(known)] if known else []
        return known[0] if known else None


class Rehearsed(Struct, frozen=True, kw_only=True):
    """What a backup turned out to be when everything in it was opened."""

    restored: Restored
    report: Report


def refuse_other(settings: Settings, manifest: Manifest) -> None:
    """Refuse a backup of another deployment than the settings name."""
    if settings.deployment_id not in (None, manifest.deployment_id):
        raise Misconfigured(
            f"This is a backup of the deployment {manifest.deployment_id}, and "
            f"KEYTURN_DEPLOYMENT_ID says {settings.deployment_id}."
        )


def root_key_at_hand(settings: Settings) -> RootKey:
    """Open the root key; never make one, since a new one opens no backup."""
    if settings.kek is None and settings.development:
        file = boot.data_dir(settings) / "root.key"
        if not file.exists():
            raise Misconfigured(f"The root key is missing: bring {file}, or set KEYTURN_KEK.")
    return boot.root_key(settings)


async def restored(
    settings: Settings, reader: Reader, deletions: Deletions, tell: Tell
) -> Restored:
    """Restore into the database that the settings name."""
    root = root_key_at_hand(settings)
    pepper = await opened_secret(reader, root)
    async with boot.database_addresses(settings) as addresses:
        if addresses.owner is None:
            raise Misconfigured("Set KEYTURN_OWNER_DATABASE_URL to restore into this database.")
        place = Place(addresses.owner, addresses.logins, PARTS)
        outside = Outside(
            level=_marks(settings, reader.manifest.deployment_id).read().level,
            deleted=deletions.entries(),
            repeatable=repeatable(Catalogue(settings.providers_dir)),
        )
        return await restore(reader, pepper, place, outside, tell)


async def rehearsed(
    settings: Settings, reader: Reader, deletions: Deletions, tell: Tell
) -> Rehearsed:
    """Restore into a database of its own, and open everything there."""
    root = root_key_at_hand(settings)
    pepper = await opened_secret(reader, root)
    with tempfile.TemporaryDirectory(prefix="keyturn-verify-") as name:
        folder = Path(name)
        await asyncio.to_thread(
            folder.chmod, 0o711
        )  # the account that runs PostgreSQL has to get through
        embedded = Embedded(folder / "postgres", bindir=settings.pg_bindir, settings=_HASTY)
        await asyncio.to_thread(embedded.start)
        try:
            application = embedded.dsn("keyturn_app")
            logins = [Login(application, "keyturn_app")]
            outside = Outside(
                level=Level(0, 0),
                deleted=deletions.entries(),
                repeatable=repeatable(Catalogue(settings.providers_dir)),
            )
            place = Place(embedded.dsn(), logins, PARTS)
            done = await restore(reader, pepper, place, outside, tell)
            database = await Database.open(application, size=5, statement_cache=100)
            vault = await Vault.open(database, root, sealed_by_guests=SEALED)
            try:
                report = await vault.verify_keys(boot.terminal_operator(), tell=tell)
            finally:
                await vault.close()
        finally:
            await asyncio.to_thread(embedded.stop)
    return Rehearsed(restored=done, report=report)


def _marks(settings: Settings, deployment: str) -> Marks:
    folders = [one for one in (boot.key_dir(settings), boot.spool_dir(settings)) if one]
    return Marks(folders, deployment)
