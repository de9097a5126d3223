"""Every red light is driven, and says why in one sentence: at /readyz and from the doctor alike.

docs/reference/red-lights.md lists the sentences; one that is said and not listed fails here, and
so does one that is listed and that nobody has seen.
"""

import asyncio
import contextlib
import os
import re
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import pytest
from msgspec import Struct
from support.process import Deployment, Replica, deployment

from broker.api import lights
from broker.doctor import examine
from broker.doctor.advice import Finding
from vault.kms.file import new_line
from vault.scheduler import Job, Ticks

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "reference" / "red-lights.md"
ROW = re.compile(r"^\| (`[a-z_`, ]+`|any) \| ([^|]+) \|", re.MULTILINE)
SMALL = 512 * 1024
ROLE = (
    "… logs in as …: row-level security does not hold that back."
    " Use the application role: 'keyturn migrate' makes it."
)
NO_KEY = "There is no root key file at …. Make one with: keyturn key generate --root"
OLDER_KEK = (
    "This replica cannot open what the deployment's root key wraps by now:"
    " is KEYTURN_KEK older here than elsewhere?"
)
LEFT_BEHIND = "The database's schema has left this version behind: run the newer Keyturn."
GOES_ON = "'keyturn restore --accept' goes on from it."
ROLLED_BACK = (
    f"This database is older than what this deployment has done, so nothing is refreshed. {GOES_ON}"
)
COPIED = (
    "This database is a copy, or came back past 'keyturn restore', so nothing is refreshed."
    f" {GOES_ON}"
)
LAST_OF_THE_BROKER = (
    "part = 'broker' and version ="
    " (select max(version) from vault.schema_migrations where part = 'broker')"
)
# Which test drives which sentence; each of them fails if it did not hear it.
DRIVEN = {
    "The database cannot be reached.": "test_a_database_that_is_away",
    "It cannot be asked while the light '…' is red.": "test_a_database_that_is_away",
    "All database connections are busy.": "test_a_pool_with_nothing_left",
    ROLE: "test_a_login_that_looks_past_row_level_security",
    "… logs in without the role …: 'keyturn migrate' grants it.": "test_a_worker_without_its_role",
    "Migrations are pending: run 'keyturn migrate'.": "test_pending_migrations",
    LEFT_BEHIND: "test_a_schema_that_has_left_this_version_behind",
    NO_KEY: "test_a_root_key_that_went_away",
    OLDER_KEK: "test_a_replica_whose_root_keys_are_older_than_the_others",
    "The spool cannot be written: ….": "test_a_spool_on_a_full_disk",
    ROLLED_BACK: "test_a_database_that_was_rolled_back",
    lights.LATE: "test_ticks_that_do_not_come",
    lights.STOPS: "test_a_replica_that_stops",
}
# What is driven elsewhere, where there is what it takes.
ELSEWHERE = {
    "… does not answer (…). …": "tests/faults/test_root_key_outage.py",
    "The high-water mark cannot be written.": "tests/flows/test_refresh_rolled_back.py",
    "It did not answer in time.": "tests/faults/test_database.py",
    COPIED: "tests/flows/test_restore_guard.py",
}

Seen = set[str]


def listed() -> dict[str, re.Pattern[str]]:
    """The sentences of the page's first table."""
    table = PAGE.read_text().partition("## What the doctor warns of")[0]
    every = [text for _, text in ROW.findall(table) if text != "sentence"]
    return {one: re.compile(re.escape(one).replace("…", ".+")) for one in every}


class Said(Struct, frozen=True):
    """What is red: at /readyz by light, and from the doctor."""

    ready: dict[str, str]
    doctor: list[Finding]

    @property
    def bad(self) -> list[str]:
        return [one.text for one in self.doctor if not one.ok]


class Ward(Struct, frozen=True):
    """A replica that something is done to."""

    made: Deployment
    replica: Replica
    admin: Any
    key: str
    seen: Seen

    async def red(self) -> dict[str, str]:
        """The lights that are red, as /readyz says them."""
        async with (
            aiohttp.ClientSession() as session,
            session.get(self.replica.base + "/readyz") as reply,
        ):
            said = await reply.json()
        found = {one["name"]: one["reason"] for one in said["checks"] if not one["ok"]}
        assert said["ready"] == (not found) == (reply.status == 200)
        return found

    def at(self, replica: Replica) -> "Ward":
        """The same, at another replica."""
        return Ward(self.made, replica, self.admin, self.key, self.seen)

    async def doctor(self, **settings: object) -> list[Finding]:
        more = {f"KEYTURN_{name.upper()}": str(value) for name, value in settings.items()}
        port = {"KEYTURN_PORT": str(self.replica.port)}
        return await examine({**self.made.env, **port, **more})

    async def until_red(self, light: str, seconds: float = 60) -> Said:
        """Wait for a light to turn red, and hear what both say."""
        async with asyncio.timeout(seconds):
            while light not in (found := await self.red()):  # noqa: ASYNC110 - it tells nobody
                await asyncio.sleep(0.2)
        said = Said(found, await self.doctor())
        # Whatever /readyz says, the doctor says in the same words; and all of it is on the page.
        assert set(found.values()) <= set(said.bad), said
        self.note([*found.values(), *said.bad])
        return said

    def note(self, sentences: list[str]) -> None:
        page = listed()
        for one in sentences:
            known = [text for text, pattern in page.items() if pattern.fullmatch(one)]
            assert known, f"not on the page: {one}"
            self.seen.update(known)

    async def well(self) -> None:
        async with asyncio.timeout(60):
            while await self.red():  # noqa: ASYNC110 - it tells nobody
                await asyncio.sleep(0.2)


@pytest.fixture(scope="module")
def seen() -> Seen:
    return set()


@pytest.fixture(autouse=True)
def heard(seen: Seen, request: pytest.FixtureRequest) -> Iterator[None]:
    """Whoever is to drive a sentence hears it, or fails."""
    seen.clear()
    yield
    wanted = {sentence for sentence, test in DRIVEN.items() if test == request.node.name}
    assert wanted <= seen or not seen


@contextlib.asynccontextmanager
async def housed() -> AsyncIterator[tuple[Deployment, Replica, str]]:
    with deployment() as made:
        spool = made.folder / "spool"
        spool.mkdir()
        made.env["KEYTURN_SPOOL_DIR"] = str(spool)
        made.env["KEYTURN_DATABASE_POOL"] = "2"
        replica, key = await made.one_replica(drain_seconds=20)
        yield made, replica, key


@pytest.fixture(scope="module")
async def house() -> AsyncIterator[tuple[Deployment, Replica, str]]:
    async with housed() as found:
        yield found


@contextlib.asynccontextmanager
async def warded(made: Deployment, replica: Replica, key: str, seen: Seen) -> AsyncIterator[Ward]:
    admin = await asyncpg.connect(made.owner.reveal())
    yield Ward(made, replica, admin, key, seen)
    with contextlib.suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
        await admin.close()


@pytest.fixture
async def ward(house: tuple[Deployment, Replica, str], seen: Seen) -> AsyncIterator[Ward]:
    """In one house for all, which each leaves as it was: they may come in any order."""
    async with warded(*house, seen) as found:
        yield found


async def test_all_is_well_at_first(ward: Ward) -> None:
    assert await ward.red() == {}
    found = await ward.doctor()
    assert [one for one in found if not one.ok or one.warning] == []
    [replica] = [one.text for one in found if one.name == "replica"]
    assert replica == f"the one at 127.0.0.1:{ward.replica.port} is ready"


async def test_pending_migrations(ward: Ward) -> None:
    async with kept(ward, LAST_OF_THE_BROKER):
        assert (await ward.until_red("schema")).ready.keys() == {"schema"}
    await ward.well()


@contextlib.asynccontextmanager
async def kept(ward: Ward, which: str) -> AsyncIterator[None]:
    """Take a migration's record away for a while."""
    await ward.admin.execute(
        f"create table away as select * from vault.schema_migrations where {which}"  # noqa: S608 - ours
    )
    await ward.admin.execute(f"delete from vault.schema_migrations where {which}")  # noqa: S608 - ours
    yield
    await ward.admin.execute("insert into vault.schema_migrations select * from away")
    await ward.admin.execute("drop table away")


async def test_a_schema_that_has_left_this_version_behind(ward: Ward) -> None:
    await ward.admin.execute(
        "insert into vault.schema_migrations (part, version, name, sha256, app_version, needs)"
        " values ('vault', 9999, 'future', 'x', '99', 9999)"
    )
    assert (await ward.until_red("schema")).ready.keys() == {"schema"}
    await ward.admin.execute("delete from vault.schema_migrations where version = 9999")
    await ward.well()


async def test_a_login_that_looks_past_row_level_security(ward: Ward) -> None:
    await ward.admin.execute("alter role keyturn_app bypassrls")
    said = await ward.until_red("roles")
    assert said.ready.keys() == {"roles"}
    assert "KEYTURN_DATABASE_URL logs in as a role with BYPASSRLS" in said.ready["roles"]
    await ward.admin.execute("alter role keyturn_app nobypassrls")
    await ward.well()


async def test_a_worker_without_its_role(ward: Ward) -> None:
    application = ward.made.login("keyturn_app").reveal()
    found = await ward.doctor(worker_database_url=application)
    [bad] = [one.text for one in found if not one.ok]
    assert bad.startswith("KEYTURN_WORKER_DATABASE_URL logs in without the role keyturn_worker")
    ward.note([bad])


async def test_a_pool_with_nothing_left(ward: Ward) -> None:
    bearer = {"Authorization": f"Bearer {ward.key}"}
    url = ward.replica.base + "/v1/users"
    async with aiohttp.ClientSession() as session:
        async with ward.admin.transaction():
            await ward.admin.execute("lock table vault.api_keys in access exclusive mode")
            calls = [asyncio.create_task(session.get(url, headers=bearer)) for _ in range(4)]
            async with asyncio.timeout(12):  # then those who wait for the table are answered
                while "connections" not in (found := await ward.red()):  # noqa: ASYNC110 - it tells nobody
                    await asyncio.sleep(0.05)
        for one in await asyncio.gather(*calls):
            one.close()
    ward.note([*found.values()])
    assert found.pop("connections") == "All database connections are busy."
    assert found.keys() == {"roles", "schema", "refreshing"}
    await ward.well()


async def test_a_root_key_that_went_away(ward: Ward) -> None:
    away = ward.made.root_key.rename(ward.made.root_key.with_suffix(".away"))
    assert (await ward.until_red("root_key")).ready.keys() == {"root_key"}
    away.rename(ward.made.root_key)
    await ward.well()


def _run(*words: object) -> bool:
    done = subprocess.run([str(word) for word in words], check=False, capture_output=True)
    return done.returncode == 0


@pytest.fixture
def full_spool(ward: Ward) -> Iterator[None]:
    spool = ward.made.folder / "spool"
    mount = ("mount", "-t", "tmpfs", "-o", f"size={SMALL}", "tmpfs", spool)
    if os.geteuid() != 0 or not _run(*mount):
        pytest.skip("a small file system can only be mounted by root")
    try:
        (spool / "ballast").write_bytes(b"\0" * SMALL)
        yield
    finally:
        _run("umount", "-l", spool)


async def test_a_spool_on_a_full_disk(ward: Ward, full_spool: None) -> None:
    said = await ward.until_red("refreshing")
    assert said.ready["refreshing"] == "The spool cannot be written: No space left on device."
    [disk] = [one for one in said.doctor if one.name == "disk"]
    assert disk.warning
    assert "0 MiB are free" in disk.text


async def test_a_database_that_was_rolled_back(ward: Ward) -> None:
    deployment_id = await ward.admin.fetchval("select deployment_id from vault.deployment")
    mark = ward.made.folder / "spool" / f"high-water-{deployment_id}.json"
    mark.write_text(f'{{"deployment": "{deployment_id}", "mark": 1000000}}')
    later = ward.made.start()
    await answering(later)
    assert (await ward.at(later).until_red("refreshing")).ready.keys() == {"refreshing"}
    later.kill()
    for file in ward.made.folder.rglob("high-water-*.json"):
        file.unlink()


async def answering(replica: Replica) -> None:
    async with asyncio.timeout(60):
        while not await replica.readiness():  # noqa: ASYNC110 - a process tells nobody
            await asyncio.sleep(0.1)


async def test_ticks_that_do_not_come(ward: Ward) -> None:
    """A minute is not waited for: this tick has been due for one when it is made."""

    async def work() -> int:
        return 0

    ticks = Ticks([Job("late", -lights.MAX_LATE, work)])
    await asyncio.sleep(0.01)
    [late, _] = lights.of_process(ticks.late_by, draining=False)
    assert (late.name, late.ok) == ("scheduler", False)
    ward.note([str(late.reason)])
    [fine, _] = lights.of_process(Ticks([Job("fine", 1, work)]).late_by, draining=False)
    assert fine.ok


async def test_a_replica_that_stops(ward: Ward) -> None:
    one = await ward.made.start(drain_seconds=60).ready()
    one.process.terminate()
    said = await ward.at(one).until_red("draining")
    assert said.ready == {"draining": "The replica stops."}
    assert [each.name for each in said.doctor if not each.ok] == ["replica"]
    one.kill()


async def test_a_database_that_is_away(ward: Ward) -> None:
    await ward.admin.close()
    await asyncio.to_thread(ward.made.postgres.stop)
    said = await ward.until_red("database")
    assert said.ready.pop("database") == "The database cannot be reached."
    assert set(said.ready.values()) == {"It cannot be asked while the light 'database' is red."}
    await asyncio.to_thread(ward.made.postgres.start)
    await ward.well()


async def test_a_replica_whose_root_keys_are_older_than_the_others(seen: Seen) -> None:
    """In a house of its own: a root key that is announced is not taken back."""
    async with housed() as house, warded(*house, seen) as ward:
        await ward.admin.execute(
            "insert into vault.rotations"
            " (rotation, kind, root_key_id, probe, announced, switched_at)"
            " values (1, 'root', 'unknown', 'x', 1, now())"
        )
        assert (await ward.until_red("root_key")).ready.keys() == {"root_key"}


def test_every_sentence_on_the_page_is_driven_by_a_test() -> None:
    assert listed().keys() == DRIVEN.keys() | ELSEWHERE.keys()
    assert set(DRIVEN.values()) <= globals().keys()
    for place in ELSEWHERE.values():
        assert (ROOT / place).exists()


async def test_a_service_that_is_none_of_ours_at_our_address_is_told_apart(ward: Ward) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n\r\nhello")
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        found = await ward.doctor(port=port)
    [one] = [one for one in found if one.name == "replica"]
    assert (one.ok, one.warning) == (True, True)


async def test_the_doctor_shows_no_secret(ward: Ward) -> None:
    text = " ".join(one.text for one in await ward.doctor(kek=f"file:///nowhere/{new_line()[:8]}"))
    password = ward.made.env["KEYTURN_DATABASE_URL"].split(":")[2].split("@")[0]
    assert password not in text
