"""``keyturn demo`` as a newcomer runs it: it ends well, shows no secret, and leaves nothing."""

import contextlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.process import CHECKOUT, COMMAND, short_folder

from broker.demo import Lines

SECONDS = 120
WINDOW = 8  # characters of a secret that are too many
BEARER = re.compile(r"\bkt[a-z]{0,2}_[0-9A-Za-z]{8}")
LINE = re.compile(r"^ ?\d+  \S.*\S  +\S.*$")


def test_for_a_program_the_story_is_a_json_object_a_line() -> None:
    out = io.StringIO()
    told = Lines(out)
    told.note("Starting ...")
    told.step("Ada is connected", "so that she can call")
    told.failed("There is no answer.")
    assert [json.loads(line) for line in out.getvalue().splitlines()] == [
        {"note": "Starting ..."},
        {"step": 1, "what": "Ada is connected", "why": "so that she can call"},
        {"step": 2, "failed": "There is no answer."},
    ]


@pytest.fixture
def folder() -> Iterator[Path]:
    with short_folder() as made:
        yield made


def started(
    folder: Path, *command: str, user: str | int | None = None, **env: str
) -> "subprocess.Popen[str]":
    """Start the demo, with a temporary folder of its own to look into."""
    return subprocess.Popen(
        command or [*COMMAND, "demo"],
        env={
            "PATH": "/usr/bin:/bin",
            "PYTHONPATH": f"{CHECKOUT}:{CHECKOUT}/tests:{sysconfig.get_path('purelib')}",
            "TMPDIR": str(folder),
            **env,
        },
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        user=user,
        # A terminal's Ctrl-C goes to all of these; ours must not go to the tests.
        start_new_session=True,
    )


def python_for(user: str) -> str:
    """A Python of our version that this account can run; root's own may lie in a closed folder."""
    for python in (sys.executable, f"/usr/bin/python3.{sys.version_info.minor}"):
        with contextlib.suppress(OSError):
            if subprocess.run([python, "-c", ""], user=user, cwd="/", check=False).returncode == 0:
                return python
    pytest.skip("no Python of this version that a plain user can run")


def processes_of(folder: Path) -> list[str]:
    """What still runs and names this folder."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = file.read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
        except OSError:
            continue
        if str(folder) in words:
            found.append(words)
    return found


def assert_nothing_is_left(folder: Path) -> None:
    assert list(folder.iterdir()) == []
    assert processes_of(folder) == []


def alike(transcript: str) -> str:
    """A transcript without what differs from run to run: ports, marks, a count."""
    known = re.sub(r"127\.0\.0\.1:\d+|…[0-9a-f]{4}|\d+ messages", "?", transcript)
    return re.sub(r" +", " ", known)


def ended(demo: "subprocess.Popen[str]") -> tuple[str, str]:
    try:
        return demo.communicate(timeout=SECONDS)
    finally:
        demo.kill()


def test_it_tells_the_whole_story_a_line_a_step_and_leaves_nothing(folder: Path) -> None:
    demo = started(folder)
    out, complaints = ended(demo)
    assert (demo.returncode, complaints) == (0, "")
    assert "\x1b" not in out, "colours are for a terminal"
    first, *steps, last = out.splitlines()
    assert first.startswith("Starting")
    assert last == "That was all: everything is stopped, and removed."
    for line in steps:
        assert LINE.match(line), line
        assert len(line) <= 120, line
    for told in (
        "Ada connected",
        "Grace connected",
        "minted for Ada in production",
        "minted for Grace in staging",
        "Ada's agent called its tool: 200, as ada",
        "Grace's agent called its tool: 200, as grace",
        "the same tool answers 401",
        "The refresh tool brought a new one",
        "The tool works again: 200, as ada",
        "is dead: 401",
    ):
        assert told in out
    [shown] = re.findall(
        r"\$ ./dev demo\n(.*?)```", (CHECKOUT / "README.md").read_text(), re.DOTALL
    )
    assert alike(out) == alike(shown), "README.md shows another transcript"
    assert_nothing_is_left(folder)


def test_it_shows_no_part_of_any_secret_that_there_was(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "issued"
    demo = started(folder, sys.executable, "-m", "support.demo", str(file))
    out, complaints = ended(demo)
    assert (demo.returncode, complaints) == (0, ""), out
    secrets = file.read_text().splitlines()
    # A code, an access and a refresh token for each of two people, and what the refresh gave.
    assert sum(one.startswith("sandbox_") for one in secrets) >= 8
    assert sum(one.startswith("Bearer ktg_") for one in secrets) == 2
    for secret in secrets:
        bare = secret.split()[-1].removeprefix("sandbox_").removeprefix("ktg_")
        pieces = {bare[at : at + WINDOW] for at in range(len(bare) - WINDOW + 1)}
        assert not [one for one in pieces if one in out]
    assert not BEARER.search(out)
    assert "eyJ" not in out


def test_a_step_that_fails_says_what_was_expected(folder: Path, tmp_path: Path) -> None:
    demo = started(folder, sys.executable, "-m", "support.demo", str(tmp_path / "issued"), "deny")
    out, complaints = ended(demo)
    assert (demo.returncode, complaints) == (1, "")
    last = out.splitlines()[-1]
    assert "failed: a form: expected one, found" in last
    assert "That was all" not in out
    assert_nothing_is_left(folder)


@pytest.mark.parametrize(
    ("after", "with_signal"), [("Starting", signal.SIGINT), (" 4  ", signal.SIGTERM)]
)
def test_a_signal_ends_it_cleanly_whenever_it_comes(
    folder: Path, after: str, with_signal: signal.Signals
) -> None:
    demo = started(folder)
    assert demo.stdout
    for line in demo.stdout:
        if line.startswith(after):
            break
    # In the midst of making PostgreSQL, where a thread is at work that nobody can stop.
    while after == "Starting" and not [*folder.glob("*/postgres/data")]:
        assert demo.poll() is None, "it ended before PostgreSQL was being made"
        time.sleep(0.01)
    if with_signal == signal.SIGINT:
        # As a terminal does it, which PostgreSQL's programs hear; and as the impatient do it.
        for pause in (0, 0.05, 0.2):
            time.sleep(pause)
            os.killpg(demo.pid, with_signal)
    else:
        demo.send_signal(with_signal)
    out, complaints = ended(demo)
    assert (demo.returncode, complaints) == (130, "")
    assert out.endswith("Stopped: nothing is left running, and nothing on the disk.\n")
    assert_nothing_is_left(folder)


def test_a_reader_who_has_seen_enough_ends_it_quietly(folder: Path) -> None:
    demo = started(folder)
    assert demo.stdout
    demo.stdout.readline()
    demo.stdout.close()
    assert demo.stderr
    with demo.stderr as complaints:
        assert complaints.read() == ""
    assert demo.wait(SECONDS) == 1
    assert_nothing_is_left(folder)


def test_settings_of_the_terminal_change_nothing(folder: Path) -> None:
    mine = {"KEYTURN_DATABASE_URL": "postgresql://nowhere/none", "KEYTURN_MODE": "production"}
    demo = started(folder, **mine)
    out, complaints = ended(demo)
    assert (demo.returncode, complaints) == (0, "")
    assert "nowhere" not in out


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_somebody_without_any_rights_can_run_it(folder: Path) -> None:
    folder.chmod(0o1777)
    command = (python_for("nobody"), "-P", "-m", "broker.cli", "demo")
    demo = started(folder, *command, user="nobody", HOME="/nonexistent")
    _, complaints = ended(demo)
    assert (demo.returncode, complaints) == (0, "")
    assert_nothing_is_left(folder)


def test_the_service_loads_neither_the_demo_nor_the_sandbox() -> None:
    script = "import sys, broker.cli, broker.cli.serving; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=CHECKOUT, capture_output=True, text=True, check=True
    )
    assert "broker.server" in done.stdout.split()
    assert not re.search(r"\bbroker\.(demo|sandbox)\b", done.stdout)
