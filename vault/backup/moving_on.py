"""An older state of the database becomes the deployment's present one.

* What was deleted since then is deleted again, before anything else is done with it.
* Connections whose tokens have probably been refreshed since are in doubt: what lives is handed
  out, and a refresh token that may be used up is sent once, slowly where nobody waits for it.
* Last of all the epoch grows: from then on it may be refreshed, and no other state may.
"""

from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from datetime import datetime
from itertools import islice
from typing import Final

from msgspec import Struct

from vault import shredding, store
from vault.database import Transaction
from vault.lifecycle.terms import terms_of
from vault.model import Page, WorkspaceId
from vault.providers import Catalogue
from vault.refreshing.marks import Level
from vault.shredding import Entry
from vault.sql import Nothing, Query
from vault.store import environments

PAGE: Final = 500
# Above every fence that the former state can have reached since.
FENCES: Final = 1_000_000_000


class _User(Struct, frozen=True):
    user_id: str
    created_at: datetime


class _Key(Struct, frozen=True):
    key_id: str


class _Number(Struct, frozen=True):
    number: int


class _Level(Struct, frozen=True):
    epoch: int
    mark: int


_users: Final = Query("restoring", "users", _User)
_keys: Final = Query("restoring", "keys", _Key)
_delete_answers: Final = Query("restoring", "delete_answers", Nothing)
_delete_users: Final = Query("restoring", "delete_users", Nothing)
_delete_keys: Final = Query("restoring", "delete_keys", Nothing)
_forget_revocations: Final = Query("restoring", "forget_old_revocations", Nothing)
_forget_answers: Final = Query("restoring", "forget_old_answers", Nothing)
_settle: Final = Query("restoring", "settle", Nothing)
_in_doubt: Final = Query("restoring", "in_doubt", _Number)
_level: Final = Query("restoring", "level", _Level)
_advance: Final = Query("restoring", "advance", _Level)


class Moved(Struct, frozen=True, kw_only=True):
    """What was found on the way."""

    workspaces: int = 0
    shredded_workspaces: int = 0
    shredded_users: int = 0
    revoked_keys: int = 0
    in_doubt: int = 0

    def __add__(self, other: "Moved") -> "Moved":
        return Moved(
            workspaces=self.workspaces + other.workspaces,
            shredded_workspaces=self.shredded_workspaces + other.shredded_workspaces,
            shredded_users=self.shredded_users + other.shredded_users,
            revoked_keys=self.revoked_keys + other.revoked_keys,
            in_doubt=self.in_doubt + other.in_doubt,
        )


class State(Struct, frozen=True, kw_only=True):
    """The older state. ``repeatable``: providers where no refresh token is ever used up."""

    pepper: bytes
    taken_at: datetime
    repeatable: Sequence[str]

    def __repr__(self) -> str:
        return f"State({self.taken_at})"


def repeatable(catalogue: Catalogue) -> list[str]:
    """The providers where no refresh token is ever used up."""
    return [one.id for one in catalogue.all() if terms_of(one).repeatable]


def pages(entries: Iterable[Entry]) -> Iterator[list[Entry]]:
    """A long list in pieces, for ``shredding.merge``."""
    rest = iter(entries)
    while page := list(islice(rest, PAGE)):
        yield page


async def workspaces(tx: Transaction, after: str) -> list[WorkspaceId]:
    """The next ones."""
    return [one.workspace_id for one in await store.list_workspaces(tx, Page(PAGE, after))]


async def settle(tx: Transaction, state: State) -> Moved:
    """See to the transaction's workspace; doing it twice does no harm."""
    hashed = shredding.hash_of(state.pepper, "workspace", tx.workspace)
    if await shredding.known(tx, [hashed]):
        await environments.delete_every_variable(tx)
        await store.delete_workspace(tx, WorkspaceId(tx.workspace))
        return Moved(shredded_workspaces=1)
    users = await _shred_users(tx, state.pepper)
    keys = await _revoke_keys(tx, state.pepper)
    mine = {"workspace_id": tx.workspace}
    await _forget_revocations.run(tx, **mine)
    await _forget_answers.run(tx, **mine)
    await _settle.run(
        tx,
        **mine,
        fences=FENCES,
        repeatable=list(state.repeatable),
        taken_at=state.taken_at,
    )
    in_doubt = (await _in_doubt.one(tx, **mine)).number
    return Moved(workspaces=1, shredded_users=users, revoked_keys=keys, in_doubt=in_doubt)


async def advance(tx: Transaction, outside: Level) -> Level:
    """Begin an epoch above all that is known here and outside."""
    here = await _level.one(tx)
    after = await _advance.one(
        tx, epoch=max(here.epoch, outside.epoch) + 1, mark=max(here.mark, outside.mark)
    )
    return Level(after.epoch, after.mark)


async def _shred_users(tx: Transaction, pepper: bytes) -> int:
    async def page(after: str) -> dict[str, bytes]:
        rows = await _users.all(tx, workspace_id=tx.workspace, after=after, limit=PAGE)
        return {
            row.user_id: shredding.user_hash(pepper, tx.workspace, row.user_id, row.created_at)
            for row in rows
        }

    async def delete(ids: list[str]) -> None:
        await _delete_answers.run(tx, workspace_id=tx.workspace, user_ids=ids)
        await _delete_users.run(tx, workspace_id=tx.workspace, user_ids=ids)

    return await _again(tx, page, delete)


async def _revoke_keys(tx: Transaction, pepper: bytes) -> int:
    async def page(after: str) -> dict[str, bytes]:
        rows = await _keys.all(tx, workspace_id=tx.workspace, after=after, limit=PAGE)
        return {
            row.key_id: shredding.hash_of(pepper, "key", tx.workspace, row.key_id) for row in rows
        }

    async def delete(ids: list[str]) -> None:
        await _delete_keys.run(tx, workspace_id=tx.workspace, key_ids=ids)

    return await _again(tx, page, delete)


async def _again(
    tx: Transaction,
    page: Callable[[str], Awaitable[dict[str, bytes]]],
    delete: Callable[[list[str]], Awaitable[None]],
) -> int:
    """Delete again what is known to be deleted, page by page; return how much that was."""
    gone, after = 0, ""
    while hashes := await page(after):
        known = await shredding.known(tx, list(hashes.values()))
        if ids := [one for one, hashed in hashes.items() if hashed in known]:
            await delete(ids)
            gone += len(ids)
        after = max(hashes)
    return gone
