"""A Docker engine of a test's own, and images under public names for machines without a registry.

* The engine is the real one, started in a folder of the test's and ended by its process id.
* No image is downloaded: one Debian is put together from packages and stands in for the images
  that the compose file names, with the programs of the same major version inside.
* That Debian is unpacked and not configured, without what no container of ours looks at
  (``tests/deploy/bases``): half of the time, and a third of the size that is copied about.
* ``MISSING`` says in one sentence why this machine cannot do it, if it cannot.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

CHECKOUT: Final = Path(__file__).resolve().parents[2]
BASES: Final = CHECKOUT / "tests" / "deploy" / "bases"
PROGRAMS: Final = ("dockerd", "docker", "docker-compose", "mmdebstrap", "iptables")
PACKAGES: Final = (
    "base-files,base-passwd,coreutils,dash,findutils,passwd,util-linux,"
    "python3,python3-venv,postgresql-17,haproxy"
)
CERTIFICATES: Final = Path("/etc/ssl/certs/ca-certificates.crt")
START_SECONDS: Final = 120
BUILD_SECONDS: Final = 600

IMAGES: Final = {"python:3.13-slim": "python", "postgres:17": "postgres", "haproxy:3.0": "haproxy"}


def _missing() -> str | None:
    if os.geteuid() != 0:
        return "a Docker engine is started by root alone, and this is somebody else"
    absent = [name for name in PROGRAMS if shutil.which(name) is None]
    if absent:
        return f"there is no {', '.join(absent)} (.ci/run installs it)"
    return None


MISSING: Final = _missing()


class Engine:
    """A running engine."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.env = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "DOCKER_HOST": f"unix://{folder}/docker.sock",
            # The classic builder: the newer one is not on every machine.
            "DOCKER_BUILDKIT": "0",
            "COMPOSE_DOCKER_CLI_BUILD": "0",
        }

    def run(
        self, *words: str, seconds: float = 60, check: bool = True, cwd: Path = CHECKOUT
    ) -> "subprocess.CompletedProcess[str]":
        """Run a client of the engine to its end."""
        done = subprocess.run(
            words,
            env=self.env,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=seconds,
        )
        assert not check or done.returncode == 0, f"{words}: {done.stdout[-2000:]}{done.stderr}"
        return done

    def docker(self, *words: str, seconds: float = 60) -> str:
        return self.run("docker", *words, seconds=seconds).stdout.strip()

    def inspect(self, name: str) -> Any:
        [found] = json.loads(self.docker("inspect", name))
        return found

    def process(self, container: str) -> int:
        """The process of a container, as this machine numbers it."""
        number: int = self.inspect(container)["State"]["Pid"]
        assert number > 0
        return number


@contextlib.contextmanager
def engine() -> Iterator[Engine]:
    """Run an engine in a folder of its own, of which nothing stays; skips where it cannot run."""
    # Not pytest's folder: its path is long for a socket.
    folder = Path(tempfile.mkdtemp(prefix="kt", dir="/tmp")).resolve()
    try:
        with _engine_in(folder) as found:
            yield found
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _engine_in(folder: Path) -> Iterator[Engine]:
    log = folder / "dockerd.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [  # noqa: S607 - wherever this machine has it
                "dockerd",
                *("--data-root", str(folder / "data"), "--exec-root", str(folder / "exec")),
                *("--pidfile", str(folder / "pid"), "--host", f"unix://{folder}/docker.sock"),
                *("--storage-driver", "overlay2", "--cgroup-parent", "/keyturn-tests"),
                # The usual limit is more than a machine in a sandbox may give.
                *("--default-ulimit", "nofile=8192:8192"),
                *("--default-address-pool", "base=10.213.0.0/16,size=24"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
        )
    found = Engine(folder)
    try:
        _wait_for(found, process, log)
        yield found
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait(10)


def _wait_for(found: Engine, process: "subprocess.Popen[bytes]", log: Path) -> None:
    until = time.monotonic() + START_SECONDS
    while found.run("docker", "version", check=False).returncode != 0:
        if process.poll() is not None or time.monotonic() > until:
            reason = (log.read_text().strip().splitlines() or ["it says nothing"])[-1]
            pytest.skip(f"this machine cannot run containers: {reason[-300:]}")
        time.sleep(0.2)


def make_bases(found: Engine) -> None:
    """Make the images that ours and the compose file are built on, without a registry."""
    rootfs = found.folder / "debian.tar"
    made = found.run(
        *("mmdebstrap", "--quiet", "--mode=root", "--variant=extract", "--include", PACKAGES),
        *("--setup-hook", str(BASES / "pretend.sh"), "--extract-hook", str(BASES / "finish.sh")),
        *("trixie", str(rootfs)),
        seconds=BUILD_SECONDS,
        check=False,
    )
    if made.returncode != 0:
        pytest.skip(f"this machine cannot make images out of packages: {made.stderr[-300:]}")
    found.docker("import", str(rootfs), "debian:trixie-slim", seconds=BUILD_SECONDS)
    rootfs.unlink()
    context = found.folder / "bases"
    shutil.copytree(BASES, context)
    shutil.copy(CERTIFICATES, context / "ca-certificates.crt")
    index = os.environ.get("PIP_INDEX_URL")
    (context / "pip.conf").write_text(f"[global]\nindex-url = {index}\n" if index else "")
    for name, kind in IMAGES.items():
        file = str(context / f"{kind}.Dockerfile")
        found.docker("build", "-q", "-t", name, "-f", file, str(context), seconds=BUILD_SECONDS)
