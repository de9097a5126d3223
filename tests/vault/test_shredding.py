"""The list of what was deleted: keyed hashes, in files that survive what the database does not."""

import asyncio
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

from conftest import Tenant

from vault.database import Database
from vault.model import Profile, UserId
from vault.shredding import Entry, hash_of, user_hash
from vault.shredding.ledger import Ledger, LedgerFile
from vault.vault import Vault

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
LINE = re.compile(r"[0-9T:.+-]{25,32} ([0-9a-f]{64}|complete)\n")


def entry(number: int, *, minutes: int = 0) -> Entry:
    return Entry(number.to_bytes(32, "big"), NOW + timedelta(minutes=minutes))


def test_a_hash_is_of_one_kind_one_name_one_deployment_and_one_life() -> None:
    pepper, other = b"p" * 32, b"q" * 32
    later = NOW + timedelta(microseconds=1)
    hashes = {
        hash_of(pepper, "user", "a", "b"),
        hash_of(pepper, "key", "a", "b"),
        hash_of(pepper, "user", "ab", ""),
        hash_of(other, "user", "a", "b"),
        user_hash(pepper, "a", "b", NOW),
        user_hash(pepper, "a", "b", later),
    }
    assert len(hashes) == 6
    zone = datetime.fromisoformat("2026-11-21T13:00:00+01:00")
    assert user_hash(pepper, "a", "b", zone) == user_hash(pepper, "a", "b", NOW)


def test_what_stands_there_is_not_added_again_by_the_next_process(tmp_path: Path) -> None:
    file = LedgerFile(tmp_path, "dep")
    file.add([entry(1), entry(2, minutes=1)])
    LedgerFile(tmp_path, "dep").add([entry(2, minutes=1), entry(3, minutes=2)])
    assert [one.hash[-1] for one in file.entries()] == [1, 2, 3]
    assert file.path.stat().st_mode & 0o777 == 0o600


def test_a_line_that_was_cut_off_is_none_and_spoils_no_other(tmp_path: Path) -> None:
    file = LedgerFile(tmp_path, "dep")
    file.add([entry(1), entry(2)])
    whole = file.path.read_bytes()
    file.path.write_bytes(whole[:-10] + b"")
    again = LedgerFile(tmp_path, "dep")
    again.add([entry(2), entry(3)])
    assert [one.hash[-1] for one in again.entries()] == [1, 2, 3]
    file.path.write_bytes(b"\xff rubbish\n" + file.path.read_bytes() + b"2026-11-21 00\n")
    assert [one.hash[-1] for one in again.entries()] == [1, 2, 3]


def test_it_says_up_to_when_nothing_is_missing(tmp_path: Path) -> None:
    file = LedgerFile(tmp_path, "dep")
    assert file.complete_until() is None
    file.add([entry(1)])
    file.complete(NOW + timedelta(hours=1))
    file.complete(NOW)
    assert file.complete_until() == NOW + timedelta(hours=1)
    assert [one.hash[-1] for one in file.entries()] == [1]


async def test_what_a_killed_process_could_not_write_is_brought_by_the_next(
    tenant: Tenant, vault: Vault, database: Database, tmp_path: Path
) -> None:
    """Its deed was committed; the files are brought up to date by anybody, once."""
    for user in ("ada", "bob"):
        await vault.put_user(tenant.caller, UserId(user), Profile(name=user))
        await vault.delete_user(tenant.caller, UserId(user))
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        await asyncio.to_thread(folder.mkdir)
    await Ledger(folders, "dep").carry(database)
    first = [LedgerFile(folder, "dep").path.read_text() for folder in folders]
    assert first[0] == first[1]
    assert first[0].count("\n") >= 2
    assert all(LINE.fullmatch(f"{line}\n") for line in first[0].splitlines()), "nothing else"
    await Ledger(folders, "dep").carry(database)
    again = LedgerFile(folders[0], "dep").path.read_text()
    assert again.startswith(first[0])
    lines = again.splitlines()
    assert len(lines) == len(set(lines))


async def test_a_folder_that_cannot_be_written_holds_up_neither_deeds_nor_other_folders(
    tenant: Tenant, vault: Vault, database: Database, tmp_path: Path
) -> None:
    await vault.put_user(tenant.caller, UserId("ada"), Profile(name="Ada"))
    await vault.delete_user(tenant.caller, UserId("ada"))
    assert await Ledger([tmp_path / "missing", tmp_path], "dep").carry(database) > 0
    assert LedgerFile(tmp_path, "dep").path.exists()
    assert not await asyncio.to_thread((tmp_path / "missing").exists)
