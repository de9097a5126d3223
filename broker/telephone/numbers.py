"""The telephone numbers of a workspace's account: which environment and branch their calls run in.

They live in the account, and are known here as it last showed them.
"""

from typing import Final

from msgspec import Struct

from vault.database import Transaction
from vault.sql import Nothing, Query


class Number(Struct, frozen=True):
    """One number. ``environment`` ``None``: production; ``branch_id`` ``None``: the main one."""

    phone_number_id: str
    number: str
    environment: str | None
    branch_id: str | None


_keep: Final = Query("phone_numbers", "keep", Nothing, package="broker")
_get: Final = Query("phone_numbers", "get", Number, package="broker")
_dialled: Final = Query("phone_numbers", "dialled", Number, package="broker")
_forget: Final = Query("phone_numbers", "forget", Nothing, package="broker")
_forget_all: Final = Query("phone_numbers", "forget_all", Nothing, package="broker")


async def keep(tx: Transaction, number: Number) -> None:
    """Remember how it stands."""
    await _keep.run(
        tx,
        workspace_id=tx.workspace,
        phone_number_id=number.phone_number_id,
        number=number.number,
        environment=number.environment,
        branch_id=number.branch_id,
    )


async def get(tx: Transaction, phone_number_id: str) -> Number | None:
    return await _get.maybe(tx, workspace_id=tx.workspace, phone_number_id=phone_number_id)


async def dialled(tx: Transaction, number: str) -> Number | None:
    """By the number itself."""
    return await _dialled.maybe(tx, workspace_id=tx.workspace, number=number)


async def forget(tx: Transaction, phone_number_id: str) -> None:
    await _forget.run(tx, workspace_id=tx.workspace, phone_number_id=phone_number_id)


async def forget_all(tx: Transaction) -> None:
    """Forget all of them, with the account that they live in."""
    await _forget_all.run(tx, workspace_id=tx.workspace)
