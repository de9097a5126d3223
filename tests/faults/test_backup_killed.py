"""A backup and a restore that are killed in the middle leave nothing half done.

The real commands on a real PostgreSQL, with enough rows that the middle can be hit.
"""

import asyncio
import shutil
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from msgspec import Struct
from support.databases import address, name_in
from support.process import COMMAND, environment, keyturn

from broker.migrations import PARTS
from vault.embedded import Embedded
from vault.kms.file import create
from vault.migrations import Login, migrate
from vault.secret import Secret

pytestmark = pytest.mark.soak

ROWS = 100_000
# A line of the record is about as long as one that somebody made.
FILL = """
insert into vault.audit_events (workspace_id, event_id, actor_kind, actor_id, action, target_kind,
       target_id, user_ref, environment, outcome, request_id)
select 'operator', 'evt_' || n, 'operator', md5(n::text), 'workspace.create', 'workspace',
       md5((n + 1)::text), '', '', 'ok', md5((n + 2)::text)
  from generate_series(1, $1) n
"""


class Place(Struct, frozen=True):
    """A database, and the environment of commands on it."""

    admin: Any
    env: dict[str, str]


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    folder = tmp_path / "keys"
    folder.mkdir(mode=0o700)
    create(folder / "root.key")
    return folder / "root.key"


async def place(postgres: Embedded, owner: Secret, keys: Path, spool: Path) -> Place:
    name = name_in(owner)
    roles = ("keyturn_app", "keyturn_worker")
    app, worker = (address(postgres, name, role).reveal() for role in roles)
    env = environment(
        mode="development",
        database_url=app,
        worker_database_url=worker,
        owner_database_url=owner.reveal(),
        kek=keys.as_uri(),
        spool_dir=spool,
    )
    return Place(await asyncpg.connect(owner.reveal()), env)


@pytest.fixture
async def full(
    migrated: Embedded, fresh_database: Secret, keys: Path, tmp_path: Path
) -> AsyncIterator[Place]:
    name = name_in(fresh_database)
    roles = ("keyturn_app", "keyturn_worker")
    logins = [Login(address(migrated, name, role), role) for role in roles]
    await migrate(fresh_database, logins, parts=PARTS)
    found = await place(migrated, fresh_database, keys, tmp_path / "spool")
    made = await asyncio.to_thread(keyturn, "workspace", "create", "acme", env=found.env)
    assert made.returncode == 0, made.stderr
    await found.admin.execute(FILL, ROWS)
    yield found
    await found.admin.close()


@pytest.fixture
def empty_one(migrated: Embedded) -> Iterator[Secret]:
    """The owner's address of one more empty database."""
    name = f"killed_{time.monotonic_ns()}"

    async def run(statement: str) -> None:
        server = await asyncpg.connect(migrated.dsn().reveal())
        await server.execute(statement)
        await server.close()

    with asyncio.Runner() as runner:
        runner.run(run(f'create database "{name}"'))
        yield address(migrated, name)
        runner.run(run(f'drop database "{name}" with (force)'))


async def killed(place: Place, *words: str, when: Callable[[], Any]) -> None:
    """Run a command, and kill it as soon as it is in the middle."""
    process = subprocess.Popen(  # noqa: ASYNC220 - a start takes a moment
        [*COMMAND, *words],
        env=place.env,
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(60):
            while not await when():
                assert process.poll() is None, "it ended before it could be killed"
                await asyncio.sleep(0.002)
    finally:
        process.send_signal(signal.SIGKILL)
        assert await asyncio.to_thread(process.wait) == -signal.SIGKILL


async def copying(admin: Any, verb: str) -> bool:
    """Is the largest table just being read, or written?"""
    found = await admin.fetchval(
        "select exists (select from pg_stat_progress_copy c where command = $1"
        " and tuples_processed > 1000)",
        verb,
    )
    return bool(found)


async def test_a_killed_backup_is_not_there_and_the_next_one_is(
    full: Place, tmp_path: Path
) -> None:
    folder = tmp_path / "backups"
    await asyncio.to_thread(folder.mkdir)
    file = str(folder / "one.backup")
    await killed(full, "backup", file, when=lambda: copying(full.admin, "COPY TO"))
    names = [one.name for one in await asyncio.to_thread(lambda: list(folder.iterdir()))]
    assert [name.rpartition(".")[2] for name in names] == ["unfinished"]
    done = await asyncio.to_thread(keyturn, "backup", file, env=full.env)
    assert done.returncode == 0, done.stderr
    left = sorted(one.suffix for one in await asyncio.to_thread(lambda: list(folder.iterdir())))
    assert left == [".backup", ".txt"]


async def test_a_killed_restore_leaves_an_empty_database_and_may_be_repeated(
    full: Place, migrated: Embedded, empty_one: Secret, keys: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "backups"
    await asyncio.to_thread(folder.mkdir)
    file = str(folder / "one.backup")
    taken = await asyncio.to_thread(keyturn, "backup", file, env=full.env)
    assert taken.returncode == 0, taken.stderr
    there = await place(migrated, empty_one, keys, tmp_path / "another-spool")
    for _ in range(2):
        await killed(there, "restore", file, when=lambda: copying(there.admin, "COPY FROM"))
        counts = "select (select count(*) from {}), (select count(*) from {})"
        tables = ("vault.audit_events", "vault.deployment")
        row = await there.admin.fetchrow(counts.format(*tables))
        assert tuple(row) == (0, 0)
    done = await asyncio.to_thread(keyturn, "restore", file, env=there.env)
    assert done.returncode == 0, done.stderr
    assert await there.admin.fetchval("select count(*) from vault.audit_events") >= ROWS
    epoch = await there.admin.fetchval("select epoch from vault.high_water")
    assert epoch == 1
    again = await asyncio.to_thread(keyturn, "restore", file, env=there.env)
    assert again.returncode == 1
    assert "not empty" in again.stderr
    await there.admin.close()


PEAK = """
import resource, sys
from broker.cli import main
sys.argv[0] = "keyturn"
try:
    main()
finally:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)
"""


async def test_memory_does_not_grow_with_the_rows(full: Place, tmp_path: Path) -> None:
    """The same backup of ten times as many rows takes no more memory, within noise."""
    folder = tmp_path / "backups"
    await asyncio.to_thread(folder.mkdir)

    def peak(name: str) -> int:
        done = subprocess.run(
            [*COMMAND[:-2], "-c", PEAK, "backup", str(folder / name)],
            env=full.env,
            cwd="/",
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        return int(done.stderr.split()[-1])

    large = await asyncio.to_thread(peak, "large.backup")
    cut = "delete from vault.audit_events where event_id like 'evt_%' and length(event_id) < 30"
    await full.admin.execute(cut)
    small = await asyncio.to_thread(peak, "small.backup")
    sizes = [(folder / name).stat().st_size for name in ("small.backup", "large.backup")]
    assert sizes[1] > 20 * sizes[0]
    assert large - small < 16 * 1024, "kB"
    shutil.rmtree(folder)
