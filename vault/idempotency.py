"""A change that is asked for twice with the same Idempotency-Key is made once.

* Claim, change and outcome are one transaction: after a crash there is either all of it or none,
  so there is no half-done request to guess about. (Only what asks somebody else's server to act
  claims first, and settles or releases afterwards: meanwhile the outcome is empty.)
* Whoever meets a claim that is still at work is told so at once, and does not wait for it.
* What is remembered for a day is what the thing looks like, never a secret.
"""

import hmac
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import msgspec
from msgspec import Struct

from vault.database import Busy, Transaction
from vault.errors import IdempotencyInProgress, IdempotencyMismatch
from vault.model import Caller, Once
from vault.sql import Nothing, Query

T = TypeVar("T")


class _Claimed(Struct, frozen=True):
    key_hash: bytes


class _Remembered(Struct, frozen=True):
    fingerprint: bytes
    result: bytes


class _Setting(Struct, frozen=True):
    set_config: str


_impatient: Final = Query("idempotency", "impatient", _Setting)
_patient: Final = Query("idempotency", "patient", _Setting)
_claim: Final = Query("idempotency", "claim", _Claimed)
_get: Final = Query("idempotency", "get", _Remembered)
_settle: Final = Query("idempotency", "settle", Nothing)
_release: Final = Query("idempotency", "release", Nothing)
_forget_old: Final = Query("idempotency", "forget_old", Nothing)


async def claim(tx: Transaction, caller: Caller, once: Once | None) -> bytes | None:
    """Take the key for this transaction; return the earlier outcome if there is one."""
    if once is None:
        return None
    mine = {"workspace_id": tx.workspace, "caller": caller.actor_id}
    await _forget_old.run(tx, **mine)
    if await _take(tx, mine, once):
        return None
    remembered = await _get.one(tx, **mine, key_hash=once.key_hash)
    if not hmac.compare_digest(remembered.fingerprint, once.fingerprint):
        raise IdempotencyMismatch
    return remembered.result


async def earlier(tx: Transaction, caller: Caller, once: Once | None) -> bytes | None:
    """What the same request has led to before, without taking the key: whoever does much before
    his transaction asks first.
    """
    if once is None:
        return None
    remembered = await _get.maybe(
        tx, workspace_id=tx.workspace, caller=caller.actor_id, key_hash=once.key_hash
    )
    if remembered is None:
        return None
    if not hmac.compare_digest(remembered.fingerprint, once.fingerprint):
        raise IdempotencyMismatch
    return remembered.result


async def settle(tx: Transaction, caller: Caller, once: Once | None, result: bytes) -> None:
    """Remember the outcome, in the transaction that made it."""
    if once is not None:
        await _settle.run(
            tx,
            workspace_id=tx.workspace,
            caller=caller.actor_id,
            key_hash=once.key_hash,
            result=result,
        )


async def release(tx: Transaction, caller: Caller, once: Once | None) -> None:
    """Give a key back that was taken in an earlier transaction: nothing was done for it."""
    if once is not None:
        await _release.run(
            tx, workspace_id=tx.workspace, caller=caller.actor_id, key_hash=once.key_hash
        )


async def once_only(
    tx: Transaction,
    caller: Caller,
    once: Once | None,
    kind: type[T],
    make: Callable[[Transaction], Awaitable[T]],
) -> T:
    """What this makes, or what the same request has made before, as it was then."""
    if earlier := await claim(tx, caller, once):
        return msgspec.json.decode(earlier, type=kind)
    made = await make(tx)
    await settle(tx, caller, once, msgspec.json.encode(made))
    return made


async def _take(tx: Transaction, mine: dict[str, str], once: Once) -> bool:
    await _impatient.run(tx)
    try:
        taken = await _claim.maybe(tx, **mine, key_hash=once.key_hash, fingerprint=once.fingerprint)
    except Busy:
        raise IdempotencyInProgress from None
    await _patient.run(tx)
    return taken is not None
