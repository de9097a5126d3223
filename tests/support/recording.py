"""A deployment whose audit record is sealed, and who owns its database."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

import pytest
from msgspec import Struct, structs

from support.alive import Replicas, replicas
from vault.chain import rows
from vault.chain.verifying import Verdict
from vault.database import Database, Transaction
from vault.embedded import Embedded
from vault.kms.file import create as create_root_key
from vault.model import Caller, NewKey, WorkspaceId
from vault.secret import Secret
from vault.vault import Vault

OPERATOR: Final = Caller.operator("tests")
INSERT: Final = (
    "insert into vault.audit_events (workspace_id, event_id, actor_kind, actor_id, action,"
    " target_kind, target_id, user_ref, environment, outcome, request_id)"
    " values ($1, $2, 'key', 'key_1', 'user.write', '', '', '', '', 'ok', 'req_1')"
)


_CAN_BE_SEALED: Final = (
    "select coalesce(max(xact), 0) < (select shift + pg_snapshot_xmin(pg_current_snapshot())::text"
    "::bigint from vault.audit_sealing) from vault.audit_events"
)


class Record(Struct, frozen=True):
    """A deployment's record: two replicas that seal it, a workspace, and the database's owner."""

    over: Replicas
    caller: Caller

    @property
    def vault(self) -> Vault:
        return self.over.left

    @property
    def admin(self) -> Any:
        return self.over.admin

    @property
    def workspace(self) -> str:
        return self.caller.workspace

    async def another_workspace(self) -> Caller:
        first = NewKey(name="k", scopes=("manage",))
        made = await self.vault.create_workspace(OPERATOR, "another", first_key=first)
        return OPERATOR.within(made.workspace.workspace_id)

    async def write(self, number: int, caller: Caller | None = None) -> None:
        """Do so many things that leave a line."""
        for _ in range(number):
            await self.vault.create_key(caller or self.caller, NewKey(name="k", scopes=("mint",)))

    async def seal(self, vault: Vault | None = None) -> int:
        """Seal all that is committed: what other tests have under way on this server would hold it
        up, as it should.
        """
        await self.settled()
        return await (vault or self.vault).seal_audit()

    async def settled(self) -> None:
        """Wait until all that is committed can be sealed."""
        for _ in range(3000):
            if await self.admin.fetchval(_CAN_BE_SEALED):
                return
            await asyncio.sleep(0.01)

    async def logins(self) -> tuple[Database, Database]:
        """The application's and the worker's, for a sealer beside the vaults."""
        application, worker = (
            Secret(self.over.address(name)) for name in ("keyturn_app", "keyturn_worker")
        )
        return (
            await Database.open(application, size=2, statement_cache=10),
            await Database.open(worker, size=1, statement_cache=10),
        )

    async def batches_of(self, *sizes: int) -> None:
        """Make batches of so many lines, after the first one, of the workspace's making."""
        assert await self.seal()
        for size in sizes:
            await self.write(size)
            assert await self.seal() == size

    async def verify(self, workspace: str | None = None) -> Verdict:
        named = WorkspaceId(workspace) if workspace else None
        return await self.vault.verify_audit(OPERATOR, named)

    async def problems(self, workspace: str | None = None) -> list[tuple[str | None, int | None]]:
        found = await self.verify(workspace)
        return [(one.workspace, one.batch) for one in found.problems]

    async def execute(self, sql: str, *values: object) -> None:
        """As the owner, whom no policy and no missing right holds back; something is changed."""
        done = await self.admin.execute(sql, *values)
        assert done.rpartition(" ")[2] != "0", done

    async def event(self, batch: int, workspace: str | None = None) -> str:
        """The id of the first line in a batch."""
        found = await self.admin.fetchval(
            "select e.event_id from vault.audit_events e join vault.audit_batches b"
            " on b.workspace_id = e.workspace_id"
            ' and (e.xact, e.event_id collate "C") >= (b.from_xact, b.from_event)'
            ' and (e.xact, e.event_id collate "C") < (b.to_xact, b.to_event)'
            " where b.workspace_id = $1 and b.number = $2 order by e.xact, e.event_id limit 1",
            *(workspace or self.workspace, batch),
        )
        assert found
        return str(found)

    @property
    def anchor_file(self) -> Path:
        [file] = self.over.spool.glob("audit-anchor-*.json")
        return file

    def anchor(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.anchor_file.read_text())
        return found


@asynccontextmanager
async def recording(
    postgres: Embedded, fresh_database: Secret, folder: Path
) -> AsyncIterator[Record]:
    """A deployment of its own, with one workspace."""
    create_root_key(folder / "root.key")
    async with replicas(postgres, fresh_database, folder / "root.key", folder) as over:
        first = NewKey(name="first", scopes=("manage",))
        made = await over.left.create_workspace(OPERATOR, "first", first_key=first)
        yield Record(over, OPERATOR.within(made.workspace.workspace_id))


@contextmanager
def long_ago(days: int) -> Iterator[None]:
    """What is sealed now is sealed at another time, by the clock that sealing goes by."""
    hold, now = rows.hold, rows.now

    async def held(tx: Transaction, owner: str, seal: int) -> Any:
        found = await hold(tx, owner, seal)
        return found and structs.replace(found, now=found.now - timedelta(days=days))

    async def then(tx: Transaction) -> datetime:
        return await now(tx) - timedelta(days=days)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows, "hold", held)
        patch.setattr(rows, "now", then)
        yield


async def sealed_long_ago(record: Record, *sizes: int, days: int = 500) -> None:
    """Write lines and seal them, as if that had been so long ago."""
    for size in sizes:
        await record.write(size)
        await record.admin.execute(
            "update vault.audit_events e set at = at - $1 * interval '1 day'"
            " where xact >= (select sealed_to from vault.audit_sealing)",
            days,
        )
        with long_ago(days):
            assert await record.seal()
