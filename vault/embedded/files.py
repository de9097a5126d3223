"""Files, folders and locks that belong to one account, made so that no other can be tricked in.

* A file or folder is opened without following a link, and changed by its descriptor: root works
  here in folders of a lesser account.
* A folder that belongs to somebody else is refused, not repaired.
* A lock is the kernel's (``flock``): it ends with the process that holds it, however that ends.
"""

import contextlib
import fcntl
import hashlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

from vault.embedded.programs import Account
from vault.errors import Misconfigured, NotReady


def open_private(path: Path, flags: int) -> int:
    """Open a file of our own, mode 0600 when this makes it."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def write_private(path: Path, text: str, *, owner: Account | None = None) -> None:
    """Write a file that only its owner can read, and have it on the disk."""
    descriptor = open_private(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    try:
        os.fchmod(descriptor, 0o600)
        if owner is not None and owner.uid != os.geteuid():
            os.fchown(descriptor, owner.uid, owner.gid)
        os.write(descriptor, text.encode())
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def own_folder(path: Path, owner: Account) -> None:
    """Make or check a folder that only ``owner`` can enter."""
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        raise Misconfigured(_not_ours(path)) from None
    try:
        found = os.fstat(descriptor).st_uid
        if found not in {owner.uid, os.geteuid()}:
            raise Misconfigured(_not_ours(path))
        if found != owner.uid:
            os.fchown(descriptor, owner.uid, owner.gid)
        os.fchmod(descriptor, 0o700)
    finally:
        os.close(descriptor)


def _not_ours(path: Path) -> str:
    return f"{path} is not a folder of our own; somebody else may have put it there. Remove it."


def sync_folder(path: Path) -> None:
    """Have a rename in this folder on the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def open_to_read(folder: Path) -> None:
    """Let everybody read a copy that was made under a strict umask."""
    for path in (folder, *folder.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or os.access(path, os.X_OK) else 0o644)


def first_line(path: Path) -> str | None:
    """Return the first line of a file that may be missing or gone the next moment."""
    try:
        descriptor = open_private(path, os.O_RDONLY | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    with os.fdopen(descriptor, errors="replace") as file:
        return file.readline().strip() or None


def digest(path: Path) -> str:
    """Name a path shortly, the same in every process."""
    return hashlib.sha256(os.fsencode(path)).hexdigest()[:16]


def try_lock(descriptor: int) -> bool:
    """Take the lock alone, if nobody else holds it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextlib.contextmanager
def locked(path: Path, deadline: float) -> Iterator[None]:
    """Hold a lock alone; wait for it until ``deadline`` on the monotonic clock."""
    descriptor = open_private(path, os.O_RDWR | os.O_CREAT)
    try:
        while not try_lock(descriptor):
            if time.monotonic() > deadline:
                raise NotReady(f"Another process holds {path} for too long. Try again.")
            time.sleep(0.03)
        yield
    finally:
        os.close(descriptor)
