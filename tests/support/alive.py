"""Replicas over a database of their own, a workspace at a provider that misbehaves, and time that
passes when a test says so.

* The database is a test worker's own: what is due in it is only what its tests have made.
* Time is the database's, and passes by moving a workspace's rows: its connections', and what all
  replicas have learned of its token endpoints.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

import asyncpg
import msgspec
from msgspec import Struct
from msgspec.structs import replace

from broker.migrations import PARTS
from broker.sandbox import Client, Issuing
from broker.sandbox.grants import Family
from broker.sandbox.history import tally
from broker.sealed_rows import SEALED
from support.connecting import SECRET
from support.databases import address, name_in
from support.provider_file import STRICT, graceful, write_providers
from support.sandbox import Provider
from support.wire import Wire
from vault.consent import Import, Registration
from vault.database import Database
from vault.egress import Egress, parse_allow
from vault.embedded import Embedded
from vault.kms import RootKey, open_root_key
from vault.migrations import Login, migrate
from vault.model import SCOPES, Caller, NewKey
from vault.providers import Catalogue
from vault.secret import Secret
from vault.store.refreshing import endpoint_from
from vault.store.sealed_rows import GuestKinds
from vault.tracing import UNTRACED, Tracing
from vault.vault import Vault
from vault.vault.explaining import Explanation
from vault.vault.refreshing import Fresh

# What is said of a provider's refresh tokens, by the provider's name.
PROVIDERS: Final[dict[str, str]] = {
    "strict": STRICT,
    "grace": graceful(30),
    "steady": 'rotates = "never"',
    "idle": 'rotates = "never"\nidle_seconds = 604_800',
    "killer": 'rotates = "always"\nold_refresh_token = "strict"\nold_access_token = "revoked"',
    "ending": 'rotates = "never"\nend_seconds = 2_592_000\nslides = false',
    "paced": 'rotates = "never"',
}
_MORE: Final = {"paced": "[token.budget]\nrequests = 5\nseconds = 1\nper = 'client'\n"}
# How the sandbox has to behave to be that provider.
ISSUING: Final[dict[str, Issuing]] = {
    "strict": Issuing(rotation="strict", replay_revokes=True),
    "grace": Issuing(rotation="grace", grace=30, replay_revokes=True),
    "killer": Issuing(rotation="strict", replay_revokes=True, old_access="dies"),
}
_packed: Final = msgspec.msgpack.Encoder().encode


class Replicas(Struct, frozen=True):
    """What replicas share: the database, the root key, the spool and the catalogue."""

    postgres: Embedded
    name: str
    root_key_file: Path
    folder: Path
    admin: Any
    left: Vault
    right: Vault

    @property
    def spool(self) -> Path:
        return self.folder / "spool"

    @contextlib.asynccontextmanager
    async def another(self, **more: Any) -> AsyncIterator[Vault]:
        """One more."""
        vault = await opened(self.postgres, self.name, self.root_key_file, self.folder, **more)
        try:
            yield vault
        finally:
            await vault.close()

    def address(self, user: str) -> str:
        return address(self.postgres, self.name, user).reveal()

    def spooled(self) -> list[Path]:
        return list(self.spool.glob("*.answer"))


async def opened(  # noqa: PLR0913 - what replicas of one test differ in
    postgres: Embedded,
    name: str,
    root_key_file: Path,
    folder: Path,
    *,
    root: RootKey | None = None,
    size: int = 5,
    spool: Path | None = None,
    key_dir: Path | None = None,
    sealed_by_guests: GuestKinds = SEALED,
    tracing: Tracing = UNTRACED,
) -> Vault:
    """Open one replica's vault."""
    application = address(postgres, name, "keyturn_app")
    worker = address(postgres, name, "keyturn_worker")
    return await Vault.open(
        await Database.open(application, size=size, statement_cache=200),
        root or open_root_key(root_key_file.as_uri()),
        egress=Egress(allow=parse_allow("127.0.0.1", development=True), tracing=tracing),
        catalogue=Catalogue(folder / "providers"),
        worker=await Database.open(worker, size=1, statement_cache=10),
        spool_dir=spool or folder / "spool",
        key_dir=key_dir,
        sealed_by_guests=sealed_by_guests,
    )


@contextlib.asynccontextmanager
async def replicas(
    postgres: Embedded, owner: Secret, root_key_file: Path, folder: Path
) -> AsyncIterator[Replicas]:
    """Two of them, over the empty database that ``owner`` is the superuser's address of."""
    name = name_in(owner)
    roles = ("keyturn_app", "keyturn_worker")
    await migrate(
        owner, [Login(address(postgres, name, role), role) for role in roles], parts=PARTS
    )
    write_providers(folder / "providers", PROVIDERS, _MORE)
    admin = await asyncpg.connect(owner.reveal())
    left = await opened(postgres, name, root_key_file, folder)
    right = await opened(postgres, name, root_key_file, folder)
    try:
        yield Replicas(postgres, name, root_key_file, folder, admin, left, right)
    finally:
        await left.close()
        await right.close()
        await admin.close()


class Alive:
    """A workspace whose integration ``acme`` is at a sandbox, over a wire that can be cut."""

    def __init__(self, over: Replicas, caller: Caller, sandbox: Provider, wire: Wire) -> None:
        self.over = over
        self.left, self.right = over.left, over.right
        self.caller = caller
        self.sandbox = sandbox
        self.wire = wire
        self.families: dict[str, Family] = {}

    # What there is

    async def integrate(self, provider: str = "strict", **more: Any) -> None:
        """Register the app at a provider of ``PROVIDERS``, as which the sandbox behaves."""
        state = self.sandbox.state
        state.clients["app"] = Client(secret=SECRET)
        state.issuing = ISSUING.get(provider, Issuing(rotation="none"))
        await self.left.put_integration(
            self.caller,
            "acme",
            Registration(
                provider=provider,
                client_id="app",
                client_secrets=[SECRET],
                variables={"base": self.wire.base},
                **more,
            ),
        )

    async def connect(self, user: str = "ada", **more: Any) -> str:
        """Import what a person's consent gave; the connection."""
        ledger = self.sandbox.state.ledger
        family = ledger.open(realm="", client_id="app", account=user)
        pair = ledger.give(family, self.sandbox.state.issuing, refresh=True, request=0)
        wanted: dict[str, Any] = {"environment": "production", "expires_in": 3600, **more}
        assert pair.refresh is not None
        made = await self.left.import_connection(
            self.caller,
            user,  # type: ignore[arg-type] # a user's id is a word
            "acme",
            Import(access_token=Secret(pair.access), refresh_token=Secret(pair.refresh), **wanted),
        )
        self.families[made.connection_id] = family
        return made.connection_id

    async def people(self, number: int, **more: Any) -> list[str]:
        return [await self.connect(f"user{n}", **more) for n in range(number)]

    # What is asked for

    async def token(self, connection: str, *, at: Vault | None = None, **asked: Any) -> Fresh:
        asked.setdefault("wait", 10.0)
        [found] = await (at or self.left).fresh_tokens(self.caller, [connection], **asked)
        return found

    async def sweep(self, *vaults: Vault) -> None:
        """Let every replica look for what is due, and finish what it begins."""
        every = vaults or (self.left, self.right)
        for _ in range(20):
            begun = [await vault.refresh_due() for vault in every]
            await self.settled(*every)
            if not any(begun):
                return

    async def settled(self, *vaults: Vault) -> None:
        """Wait until no refresh is under way."""
        async with asyncio.timeout(30):
            while any(one.refreshes_under_way for one in vaults or (self.left, self.right)):  # noqa: ASYNC110 - a flight tells who waits for it alone
                await asyncio.sleep(0.01)

    # What became of it

    @property
    def calls(self) -> int:
        """Requests to the token endpoint that came as far as the wire."""
        return self.wire.asked

    async def told(self, connection: str) -> Explanation:
        return await self.left.explain_connection(self.caller, connection)

    async def state(self, connection: str) -> str:
        return (await self.told(connection)).state

    async def generation(self, connection: str) -> int:
        return (await self.told(connection)).connection.generation

    async def outcomes(self, connection: str) -> list[str]:
        """How the calls for it ended, oldest first."""
        return [one.outcome for one in reversed((await self.told(connection)).attempts)]

    def lives(self, found: Fresh) -> bool:
        """Does the provider know this access token?"""
        assert found.tokens is not None
        access = found.tokens.access_token
        assert access is not None
        token = self.sandbox.state.ledger.alive(access.reveal(), "")
        return token is not None

    def well(self) -> bool:
        """Was no refresh token used twice, and no consent ended for it?"""
        counted = tally(self.sandbox.state.history.events())
        return not (counted.used_twice or counted.bought_twice or counted.ended_by_replay)

    async def events(self, connection: str | None = None) -> list[str]:
        """The types of all news, oldest first; of one connection, or of none."""
        rows = await self.over.admin.fetch(
            "select type from vault.outbox where workspace_id = $1"
            " and body::json ->> 'connection_id' is not distinct from $2 order by event_id",
            self.caller.workspace,
            connection,
        )
        return [row["type"] for row in rows]

    async def column(self, connection: str, name: str) -> Any:
        """One fact of a connection's life."""
        return await self.over.admin.fetchval(
            f"select {name} from vault.connection_lives where connection_id = $1",  # noqa: S608 - a test's own
            connection,
        )

    # Time

    async def now(self) -> datetime:
        found: datetime = await self.over.admin.fetchval("select now()")
        return found

    async def passes(self, **how_long: float) -> None:
        """Let time pass for the whole workspace."""
        by = timedelta(**how_long)
        await self.settled()
        admin, workspace = self.over.admin, self.caller.workspace
        async with admin.transaction():
            for table in ("connection_lives", "claims", "holds", "token_endpoints"):
                times = await admin.fetch(
                    "select attname from pg_attribute where attrelid = $1::text::regclass"
                    " and atttypid = 'timestamptz'::regtype",
                    f"vault.{table}",
                )
                moved = ", ".join(f"{one[0]} = {one[0]} - $2::interval" for one in times)
                await admin.execute(
                    f"update vault.{table} set {moved} where workspace_id = $1",  # noqa: S608 - names of the catalogue
                    workspace,
                    by,
                )
            rows = await admin.fetch(
                "select environment, integration, learned from vault.token_endpoints"
                " where workspace_id = $1",
                workspace,
            )
            for row in rows:
                await admin.execute(
                    "update vault.token_endpoints set learned = $4"
                    " where workspace_id = $1 and environment = $2 and integration = $3",
                    workspace,
                    row["environment"],
                    row["integration"],
                    _packed(_earlier(endpoint_from(row["learned"]), by)),
                )

    async def comes(self, connection: str, column: str = "next_try_at") -> None:
        """Let time pass until then."""
        at = await self.column(connection, column)
        if at is not None and (left := at - await self.now()) > timedelta():
            await self.passes(seconds=left.total_seconds() + 0.01)

    async def end_access(self, *connections: str) -> None:
        """Let the access tokens of these end, and nothing else pass."""
        await self.over.admin.execute(
            "update vault.connection_lives set access_ends = now() - interval '1 second',"
            " issued_at = now() - interval '1 hour', due_at = now() - interval '1 second'"
            " where connection_id = any($1::text[])",
            list(connections),
        )


def _earlier(value: Any, by: timedelta) -> Any:
    if isinstance(value, datetime):
        return value - by
    if isinstance(value, Struct):
        names = value.__struct_fields__
        return replace(value, **{name: _earlier(getattr(value, name), by) for name in names})
    return value


async def workspace_in(over: Replicas, name: str) -> Caller:
    made = await over.left.create_workspace(
        Caller.operator("tests"), name, first_key=NewKey(name="first", scopes=SCOPES)
    )
    assert made.bearer is not None
    return await over.left.authenticate(made.bearer.reveal())


async def leave_nothing_due(over: Replicas, callers: Sequence[Caller]) -> None:
    """The next test's sweeps and counts find what it made, and no more."""
    for table in ("connection_lives", "token_endpoints"):
        await over.admin.execute(
            f"delete from vault.{table} where workspace_id = any($1::text[])",  # noqa: S608 - two names
            [caller.workspace for caller in callers],
        )
