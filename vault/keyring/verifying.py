"""Does everything open, and under which keys? Every row is opened, and every key unwrapped.

Nothing is changed and nothing is shown but ids and numbers: a row's place, a key's version.
"""

from collections import Counter
from collections.abc import Collection
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from vault.database import Database
from vault.errors import IntegrityError, Misconfigured
from vault.keyring import Keyring
from vault.keyring.roots import PEPPER, pepper, versions
from vault.kms import Wrapped
from vault.model import WorkspaceId
from vault.store.sealed_rows import Kind, Orphan, SealedRow, SealedRows, sealed_under

KEYS: Final = "workspace_keys"
"""What a place is called where a wrapped key does not open."""
MAX_NAMED: Final = 100
"""Places that are named of those that do not open."""


class Place(Struct, frozen=True):
    """A value that does not open."""

    workspace: str
    kind: str
    id: str


class KeyUse(Struct, frozen=True):
    """A version of a workspace's key, and how many rows are under it."""

    version: int
    state: str
    root_key_id: str
    rows: int


class Left(Struct, frozen=True):
    """An older key of a workspace that is not retired, or that rows are under all the same."""

    workspace: str
    version: int
    state: str
    rows: int


class Verified(Struct, frozen=True):
    """One workspace: what opened, under which keys, and what did not open.

    ``orphans`` are answers of providers whose connections are gone; they go within a day.
    """

    workspace: str
    rows: int
    orphans: int
    keys: list[KeyUse]
    unopened: list[Place]
    under: Counter[bytes]

    @property
    def late(self) -> int:
        """Rows under older keys, beside those that nobody can seal again."""
        lost = sum(place.kind != KEYS for place in self.unopened)
        return max(0, _under_older(self) - self.orphans - lost)

    def with_retired(self, versions: Collection[int]) -> "Verified":
        """The same, after these versions were retired."""
        keys = [
            replace(key, state="retired") if key.version in versions else key for key in self.keys
        ]
        return replace(self, keys=keys)


class Report(Struct, frozen=True):
    """All workspaces, and the deployment's own secret."""

    workspaces: int
    rows: int
    orphans: int
    root_keys: dict[str, int]
    """How many wrapped keys each root key has."""
    wraps: str
    """The root key that wraps what is new."""
    states: dict[str, int]
    """How many versions of workspaces' keys are staged, active, retired."""
    under_older: int
    """Rows that are not under the newest key of their workspace."""
    left: list[Left]
    """Which older keys are not done with; the first ones."""
    unopened: list[Place]
    more_unopened: int

    @property
    def is_well(self) -> bool:
        return not self.unopened


class Verifier:
    """Opens everything."""

    def __init__(self, database: Database, keyring: Keyring, rows: SealedRows) -> None:
        self._database = database
        self._keyring = keyring
        self._rows = rows

    async def deployment(self) -> tuple[str, bool]:
        """Which root key wraps now, and does it give the deployment's secret back?"""
        found = await pepper(self._database)
        try:
            await self._keyring.unwrap_deployment_secret(
                PEPPER, Wrapped(found.pepper, found.root_key_id)
            )
        except (IntegrityError, Misconfigured):
            return found.root_key_id, False
        return found.root_key_id, True

    async def workspace(self, workspace: WorkspaceId) -> Verified:
        """Open all that a workspace has sealed, and unwrap its keys."""
        under: Counter[bytes] = Counter()
        unopened: list[Place] = []
        orphans = 0
        for kind in self._rows.kinds:
            after = ""
            while some := await self._rows.some(workspace, kind, after):
                after = some[-1].id
                for row in some:
                    under[sealed_under(row)] += 1
                    try:
                        await self._rows.opened(workspace, kind, row)
                    except Orphan:
                        orphans += 1
                    except (IntegrityError, Misconfigured):
                        unopened.append(_place(workspace, kind, row))
                if kind.name == "index_keys":
                    break
        keys = await self._keys(workspace, under, unopened)
        return Verified(workspace, under.total(), orphans, keys, unopened, under)

    async def _keys(
        self, workspace: WorkspaceId, under: Counter[bytes], unopened: list[Place]
    ) -> list[KeyUse]:
        found = await self._database.run(workspace, versions)
        for one in found:
            try:
                await self._keyring.check(workspace, one.stored())
            except (IntegrityError, Misconfigured):
                unopened.append(Place(workspace, KEYS, one.key_id.hex()))
        return [KeyUse(one.version, one.state, one.root_key_id, under[one.key_id]) for one in found]


class Tally:
    """Adds the workspaces up, however many there are."""

    def __init__(self) -> None:
        self._workspaces = self._rows = self._orphans = self._under_older = self._unopened = 0
        self._root_keys: Counter[str] = Counter()
        self._states: Counter[str] = Counter()
        self._named: list[Place] = []
        self._left: list[Left] = []

    def add(self, one: Verified) -> None:
        self._workspaces += 1
        self._rows += one.rows
        self._orphans += one.orphans
        self._under_older += _under_older(one)
        self._unopened += len(one.unopened)
        self._root_keys.update(key.root_key_id for key in one.keys)
        self._states.update(key.state for key in one.keys)
        self._named += one.unopened[: MAX_NAMED - len(self._named)]
        self._left += _left(one)[: MAX_NAMED - len(self._left)]

    def report(self, wraps: str, *, opens: bool) -> Report:
        named = self._named if opens else [Place("", "deployment", PEPPER), *self._named]
        return Report(
            workspaces=self._workspaces,
            rows=self._rows,
            orphans=self._orphans,
            root_keys=dict(self._root_keys),
            wraps=wraps,
            states=dict(self._states),
            under_older=self._under_older,
            left=self._left,
            unopened=named,
            more_unopened=self._unopened - len(self._named),
        )


def _left(one: Verified) -> list[Left]:
    newest = _newest(one)
    return [
        Left(one.workspace, key.version, key.state, key.rows)
        for key in one.keys
        if key.version < newest and (key.rows or key.state != "retired")
    ]


def _under_older(one: Verified) -> int:
    newest = _newest(one)
    return one.rows - sum(key.rows for key in one.keys if key.version >= newest)


def _newest(one: Verified) -> int:
    """The version that seals now."""
    return max((key.version for key in one.keys if key.state == "active"), default=0)


def _place(workspace: WorkspaceId, kind: Kind, row: SealedRow) -> Place:
    return Place(workspace, kind.name, row.id)
