"""The launcher ``./dev``, as far as it gets without installing anything."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

DEV = Path(__file__).resolve().parents[1] / "dev"
OLD = [f"python3.{minor}" for minor in range(6, 11)]


def run(
    *words: str, python: str = sys.executable, dev: Path = DEV, **env: str
) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [python, str(dev), *words],
        env={"PATH": "/usr/bin:/bin", **env},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,  # an environment is made in it, which takes half a minute at the best of times
    )


def checkout(folder: Path) -> Path:
    """A checkout with nothing installed: the launcher and its lock files."""
    for name in ("dev", "requirements.lock", "requirements-dev.lock"):
        shutil.copy(DEV.with_name(name), folder)
    return folder / "dev"


def old_pythons() -> list[str]:
    folders = [Path(folder) for folder in os.get_exec_path()]
    folders += Path.home().glob(".pyenv/versions/3.*/bin")
    return [str(folder / name) for folder in folders for name in OLD if (folder / name).exists()]


def works(python: str) -> bool:
    done = subprocess.run([python, "-c", ""], capture_output=True, check=False)
    return done.returncode == 0


def test_help_has_a_line_for_every_command() -> None:
    done = run("--help")
    assert done.returncode == 0
    lines = [line.split()[0] for line in done.stdout.splitlines() if line.startswith("  ")]
    assert lines == ["serve", "demo", "run", "test", "check", "bench"]


def test_no_command_shows_the_help_and_fails() -> None:
    done = run()
    assert done.returncode == 2
    assert done.stdout == ""
    assert "usage: ./dev" in done.stderr


def test_an_unknown_command_is_named() -> None:
    done = run("sevre")
    assert done.returncode == 2
    assert "no command 'sevre'" in done.stderr


def test_an_old_python_is_told_so_in_one_sentence() -> None:
    python = next((python for python in old_pythons() if works(python)), None)
    if python is None:
        pytest.skip("no Python older than 3.11 on this machine")
    done = run("serve", python=python)
    assert done.returncode == 2
    assert done.stderr.startswith("Keyturn needs Python 3.11 or newer, and this is Python 3.")
    assert len(done.stderr.splitlines()) == 1


def test_a_python_without_pip_is_told_what_to_install(tmp_path: Path) -> None:
    # What Debian's python3 is like without python3-venv.
    (tmp_path / "without").mkdir()
    (tmp_path / "without" / "ensurepip.py").write_text("raise ImportError('taken away')\n")
    dev = checkout(tmp_path)
    done = run("serve", dev=dev, PYTHONPATH=str(tmp_path / "without"))
    assert done.returncode == 2
    assert "apt install python3-venv" in done.stderr
    assert "or install uv" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_checkout_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    dev = checkout(tmp_path)
    tmp_path.chmod(0o500)
    done = run("serve", dev=dev)
    tmp_path.chmod(0o700)
    assert done.returncode == 2
    assert "cannot be written to" in done.stderr


def test_a_failed_installation_is_not_taken_for_a_good_one(tmp_path: Path) -> None:
    dev = checkout(tmp_path)
    (tmp_path / "requirements.lock").write_text("keyturn-of-nowhere==0 --hash=sha256:" + "0" * 64)
    # No index and no wheels: the failure is the same with a network and without.
    done = run("serve", dev=dev, PIP_NO_INDEX="1", PIP_CONFIG_FILE=os.devnull)
    assert done.returncode == 2
    assert "Installing requirements.lock failed" in done.stderr
    assert not (tmp_path / ".venv" / "keyturn.json").exists()
