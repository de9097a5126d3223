"""Opening without a wait and opening with one: the same plaintexts, and the same errors."""

import os
from collections.abc import Sequence
from typing import Final, Literal

import pytest
from conftest import Tenant
from hypothesis import strategies as st
from msgspec import Struct
from support.drawing import drawn

from vault.errors import VaultError
from vault.model import WorkspaceId, new_id
from vault.seal import KEY_ID_SIZE, KEY_SIZE, Context, SealingKey, seal
from vault.store import Store
from vault.store.connections import tokens_context
from vault.store.owners import user_key_context
from vault.vault import Vault

TOKENS: Final = b"what is sealed of a connection"
Sealer = Literal["the workspace's key", "a key that nobody knows"]


class Case(Struct, frozen=True):
    """Under what the user's key and the tokens lie, and what was done to either since.

    ``swapped``: which of the two are another user's. ``torn``: in which a byte differs, and where
    in it. ``cut``: how much of the tokens is left. ``known``: is the workspace's key at hand?
    """

    user_key: Sealer
    tokens: Sealer
    swapped: frozenset[int]
    torn: tuple[int, float] | None
    cut: float | None
    known: bool

    @property
    def is_well(self) -> bool:
        whole = self.torn is None and self.cut is None and not self.swapped
        return whole and {self.user_key, self.tokens} == {"the workspace's key"}


sealers = st.sampled_from(["the workspace's key"] * 4 + ["a key that nobody knows"])
cases = st.builds(
    Case,
    user_key=sealers,
    tokens=sealers,
    swapped=st.sampled_from([frozenset[int]()] * 4 + [frozenset({0}), frozenset({1})]),
    torn=st.none() | st.tuples(st.integers(0, 1), st.floats(0, 0.999)),
    cut=st.none() | st.none() | st.floats(0, 0.999),
    known=st.booleans(),
)


@pytest.fixture
def draw() -> list[Case]:
    return drawn(cases, 150)


class Sealed(Struct, frozen=True):
    """What lies in the rows of one user and one connection."""

    user_key: bytes
    tokens: bytes

    @classmethod
    def by(cls, keys: Sequence[SealingKey], places: Sequence[Context]) -> "Sealed":
        users_own = os.urandom(KEY_SIZE)
        return cls(
            seal(keys[0], places[0], users_own),
            seal(keys[1].for_user(users_own), places[1], TOKENS),
        )

    def after(self, case: Case, others: "Sealed") -> "Sealed":
        rows = [self.user_key, self.tokens]
        for which in case.swapped:
            rows[which] = (others.user_key, others.tokens)[which]
        if case.torn is not None:
            which, where = case.torn
            torn = bytearray(rows[which])
            torn[int(where * len(torn))] ^= 0x40
            rows[which] = bytes(torn)
        if case.cut is not None:
            rows[1] = rows[1][: int(case.cut * len(rows[1]))]
        return Sealed(*rows)


def at_hand(store: Store, workspace: WorkspaceId, rows: Sealed, place: Context) -> object:
    try:
        return store.open_owned_at_hand(workspace, "ada", rows.user_key, place, rows.tokens)
    except VaultError as error:
        return type(error), str(error)


async def with_a_wait(store: Store, workspace: WorkspaceId, rows: Sealed, place: Context) -> object:
    try:
        return await store.open_owned(workspace, "ada", rows.user_key, place, rows.tokens)
    except VaultError as error:
        return type(error), str(error)


async def test_both_ways_open_the_same_and_refuse_the_same(
    vault: Vault, tenant: Tenant, draw: list[Case]
) -> None:
    store, workspace = vault._store, WorkspaceId(tenant.id)  # noqa: SLF001 - below the door
    place = tokens_context(workspace, new_id("conn"), 3, "production")
    places = (user_key_context(workspace, "ada"), place)
    opened = waited = 0
    for case in draw:
        keys = {
            "the workspace's key": (await store.seal_of(workspace)).key,
            "a key that nobody knows": SealingKey.from_workspace_key(
                os.urandom(KEY_ID_SIZE), os.urandom(KEY_SIZE)
            ),
        }
        used = [keys[case.user_key], keys[case.tokens]]
        rows = Sealed.by(used, places).after(case, Sealed.by(used, places))
        if not case.known:
            vault._keyring.forget(workspace)  # noqa: SLF001 - as if it had never been asked for
        quick = at_hand(store, workspace, rows, place)
        slow = await with_a_wait(store, workspace, rows, place)
        assert slow == TOKENS if case.is_well else isinstance(slow, tuple), case
        if quick is None:
            waited += 1
            assert not (case.is_well and case.known)
        else:
            opened += 1
            assert quick == slow, case
    assert min(opened, waited) > len(draw) / 10
