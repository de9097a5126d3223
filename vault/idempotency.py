"""A change that is asked for twice with the same Idempotency-Key is made once.

* Claim, change and outcome are one transaction: after a crash there is either all of it or none,
  so there is no half-done request to guess about. (Only what asks somebody else's server to act
  holds the key for longer than a transaction, and says in the outcome how far it has come.)
* Whoever meets a claim that is still at work is told so at once, and does not wait for it.
* What is remembered for a day is what the thing looks like, never a secret.
"""

import hmac
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

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
    age: float


class Held(Struct, frozen=True):
    """What a key stands at, and how many seconds ago it was taken."""

    result: bytes
    age: float


class _Setting(Struct, frozen=True):
    set_config: str


_impatient: Final = Query("idempotency", "impatient", _Setting)
_patient: Final = Query("idempotency", "patient", _Setting)
_claim: Final = Query("idempotency", "claim", _Claimed)
_get: Final = Query("idempotency", "get", _Remembered)
_settle: Final = Query("idempotency", "settle", Nothing)
_turn: Final = Query("idempotency", "turn", _Claimed)
_let_go: Final = Query("idempotency", "let_go", Nothing)
_forget_old: Final = Query("idempotency", "forget_old", Nothing)


async def claim(tx: Transaction, caller: Caller, once: Once | None) -> bytes | None:
    """Take the key for this transaction; return the earlier outcome if there is one."""
    if once is None:
        return None
    held = await _claimed(tx, caller, once)
    return held.result if held else None


async def earlier(tx: Transaction, caller: Caller, once: Once | None) -> bytes | None:
    """What the same request has led to before, without taking the key: whoever does much before
    his transaction asks first.
    """
    if once is None:
        return None
    remembered = await _get.maybe(tx, **_key(tx, caller, once))
    return _same(remembered, once).result if remembered else None


async def settle(tx: Transaction, caller: Caller, once: Once | None, result: bytes) -> None:
    """Remember the outcome, in the transaction that made it."""
    if once is not None:
        await _settle.run(tx, **_key(tx, caller, once), result=result)


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


# For what takes longer than a transaction


async def hold(tx: Transaction, caller: Caller, once: Once, result: bytes) -> Held | None:
    """Take the key and say how far it has come; or what it stands at, if it was taken before."""
    held = await _claimed(tx, caller, once)
    if held is None:
        await settle(tx, caller, once, result)
    return held


async def turn(tx: Transaction, caller: Caller, once: Once, before: bytes, after: bytes) -> bool:
    """Go on from ``before``, unless it stands at something else by now."""
    found = await _turn.maybe(tx, **_key(tx, caller, once), before=before, after=after)
    return found is not None


async def let_go(tx: Transaction, caller: Caller, once: Once, before: bytes) -> None:
    """Give the key back, if it still stands at ``before``: nothing was done for it."""
    await _let_go.run(tx, **_key(tx, caller, once), before=before)


async def _claimed(tx: Transaction, caller: Caller, once: Once) -> Held | None:
    await _forget_old.run(tx, workspace_id=tx.workspace, caller=caller.actor_id)
    if await _take(tx, caller, once):
        return None
    remembered = _same(await _get.one(tx, **_key(tx, caller, once)), once)
    return Held(remembered.result, remembered.age)


async def _take(tx: Transaction, caller: Caller, once: Once) -> bool:
    await _impatient.run(tx)
    try:
        taken = await _claim.maybe(tx, **_key(tx, caller, once), fingerprint=once.fingerprint)
    except Busy:
        raise IdempotencyInProgress from None
    await _patient.run(tx)
    return taken is not None


def _key(tx: Transaction, caller: Caller, once: Once) -> dict[str, Any]:
    return {"workspace_id": tx.workspace, "caller": caller.actor_id, "key_hash": once.key_hash}


def _same(remembered: _Remembered, once: Once) -> _Remembered:
    if not hmac.compare_digest(remembered.fingerprint, once.fingerprint):
        raise IdempotencyMismatch
    return remembered
