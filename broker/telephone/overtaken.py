"""Calls whose end was told before we had heard that they began.

* ElevenLabs tells of an end by a request of its own, which may overtake the answer to the request
  that placed the call: that of a call which fails at once often would.
* Who tells of the end notes it, commits, and looks for the conversation once more. Who learns the
  call's name writes it down, commits, and looks whether the end was noted. So the one or the other
  sees it, in whatever order they come and at whichever replica.
* A note is the keyed hash of a name; it is kept for a day, as what is done once is.
"""

from contextlib import suppress

from vault import idempotency
from vault.errors import IdempotencyInProgress
from vault.model import Caller, Once
from vault.vault import Vault


async def note(vault: Vault, caller: Caller, upstream_id: str) -> None:
    """The call of this name is over, and nobody here knows it yet."""
    whose, once = _of(vault, caller, upstream_id)
    # Who notes the same at this moment looks for the conversation after that, as we do.
    with suppress(IdempotencyInProgress):
        await vault.within(whose, lambda tx: idempotency.claim(tx, whose, once))


async def was_noted(vault: Vault, caller: Caller, upstream_id: str) -> bool:
    """Is the call of this name over?"""
    whose, once = _of(vault, caller, upstream_id)
    found = await vault.within(whose, lambda tx: idempotency.earlier(tx, whose, once))
    return found is not None


def _of(vault: Vault, caller: Caller, upstream_id: str) -> tuple[Caller, Once]:
    name = vault.fingerprint(f"over\n{upstream_id}")
    whose = Caller(
        kind="worker",
        actor_id="post-call",
        workspace=caller.workspace,
        request_id=caller.request_id,
    )
    return whose, Once(key_hash=name, fingerprint=name)
