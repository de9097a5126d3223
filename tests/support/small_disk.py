"""A disk of its own, of a few megabytes, and what fills it."""

import contextlib
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@contextlib.contextmanager
def small_disk(size: int) -> Iterator[Path]:
    """Skips where nobody may mount one."""
    folder = Path(tempfile.mkdtemp(prefix="kt", dir="/tmp"))
    mounted = os.geteuid() == 0 and _run(
        "mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder
    )
    if not mounted:
        folder.rmdir()
        pytest.skip("a small file system can only be mounted by root")
    folder.chmod(0o711)
    try:
        yield folder
    finally:
        _run("umount", "-l", folder)
        folder.rmdir()


def _run(*words: object) -> bool:
    done = subprocess.run([str(word) for word in words], check=False, capture_output=True)
    return done.returncode == 0


def fill(disk: Path, leave: int) -> Path:
    """Fill the disk but for so many bytes."""
    ballast = disk / "ballast"
    free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        file.write(b"\0" * (free - leave))
        while leave == 0:  # what others take and give back meanwhile
            file.write(b"\0")
    return ballast
