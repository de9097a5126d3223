"""Earlier versions of the product, out of git: unpacked into a folder, and run from there."""

import io
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from support.ports import free_port
from support.process import CHECKOUT, PATIENCE, Deployment, Replica


def archive(revision: str) -> bytes | None:
    """That revision's product; ``None`` where git does not know it."""
    done = subprocess.run(
        ["git", "archive", "--format=tar", revision, "vault", "broker"],  # noqa: S607 - git, wherever it is
        cwd=CHECKOUT,
        capture_output=True,
        check=False,
        timeout=PATIENCE,
    )
    return done.stdout if done.returncode == 0 else None


def unpacked(revision: str, folders: pytest.TempPathFactory) -> Path:
    """A folder with the code of that revision; skips where git does not know it."""
    try:
        packed = archive(revision)
    except FileNotFoundError:
        packed = None
    if packed is None:
        pytest.skip(
            f"git does not have {revision} here (a shallow clone, or no clone at all): "
            "the version before cannot be run"
        )
    folder = folders.mktemp("previous")
    folder.chmod(0o755)
    with tarfile.open(fileobj=io.BytesIO(packed)) as files:
        files.extractall(folder, filter="data")
    return folder


def replica_of(made: Deployment, folder: Path) -> Replica:
    """A replica of that version, which is stopped by whoever started it."""
    env = {
        **made.env,
        "PYTHONPATH": str(folder),
        "KEYTURN_PORT": str(free_port()),
        "KEYTURN_DRAIN_SECONDS": "2",
    }
    return Replica(made.folder, env)


def run_as(made: Deployment, folder: Path, *words: str) -> str:
    """What a command of that version prints, with the owner's login at hand."""
    env = {
        **made.env,
        "PYTHONPATH": str(folder),
        "KEYTURN_OWNER_DATABASE_URL": made.owner.reveal(),
    }
    done = subprocess.run(
        [sys.executable, "-P", "-m", "broker.cli", *words],
        env=env,
        cwd="/",
        check=True,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    return done.stdout


def migrate_as(made: Deployment, folder: Path) -> None:
    run_as(made, folder, "migrate")
