"""Rows of what there is of users, before anything is handed out. Nothing here is opened."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final, Literal

from msgspec import Struct

from vault.consent import State
from vault.database import Transaction
from vault.lifecycle.clocks import Clocks
from vault.lifecycle.life import Verdict
from vault.sql import Nothing, Query


class UserSeals(Struct, frozen=True):
    """What is sealed of a user, and what seals in this workspace."""

    generation: int
    profile: bytes
    user_key: bytes
    key_id: bytes
    version: int
    wrapped: bytes
    root_key_id: str
    index_key: bytes


class UserRow(UserSeals, frozen=True):
    """The same, and in arrays of one order where he is connected."""

    now: datetime
    connection_ids: list[str]
    integrations: list[str]
    environments: list[str]
    states: list[str]


class StandingRow(Struct, frozen=True):
    """One connection of one user, as far as one can tell without opening it."""

    user_id: str
    connection_id: str
    integration: str
    environment: str
    scopes: list[str] | None
    state: State
    generation: int
    verdict: Verdict | None
    issued_at: datetime | None
    consented_at: datetime | None
    access_ends: datetime | None
    idle_ends: datetime | None
    consent_ends: datetime | None
    renewable: bool
    now: datetime
    standing: Literal["open", "held", "paused"]

    def clocks(self) -> Clocks | None:
        """When what ends; ``None`` before the first consent."""
        if self.issued_at is None or self.consented_at is None:
            return None
        return Clocks(
            issued_at=self.issued_at,
            consented_at=self.consented_at,
            access_ends=self.access_ends,
            idle_ends=self.idle_ends,
            consent_ends=self.consent_ends,
            renewable=self.renewable,
        )


_user: Final = Query("surveys", "user", UserRow)


class _UserId(Struct, frozen=True):
    user_id: str


_present: Final = Query("surveys", "present", _UserId)
_standings: Final = Query("surveys", "standings", StandingRow)
_release: Final = Query("surveys", "release", Nothing)


async def user(tx: Transaction, user_id: str, environment: str) -> UserRow | None:
    return await _user.maybe(
        tx, workspace_id=tx.workspace, user_id=user_id, environment=environment
    )


async def present(tx: Transaction, user_ids: Sequence[str]) -> list[str]:
    """Those of them who are there."""
    every = await _present.all(tx, workspace_id=tx.workspace, user_ids=list(user_ids))
    return [one.user_id for one in every]


async def standings(
    tx: Transaction, user_ids: Sequence[str], environment: str
) -> list[StandingRow]:
    return await _standings.all(
        tx, workspace_id=tx.workspace, user_ids=list(user_ids), environment=environment
    )


async def release(tx: Transaction, holder: str, connection_ids: Sequence[str]) -> None:
    """Whoever held these has let go: their tokens may be refreshed whenever that is best."""
    await _release.run(
        tx, workspace_id=tx.workspace, holder=holder, connection_ids=list(connection_ids)
    )
