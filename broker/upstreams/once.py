"""For one Idempotency-Key a workspace's account is asked once.

* The key is taken in a transaction of its own, before anything is prepared; it is turned once more
  right before the account is asked, and then to what that has led to.
* It is given back only where it is known that nothing was made.
* Whoever dies leaves the key as it was. One that was never asked with is anybody's after
  ``PATIENCE``, and who only was slow finds out before he asks. Of one that was asked with, nobody
  knows what it has led to.
* Of an answer its status and ids are remembered, and none of its words: they may quote a secret.
"""

import re
import secrets
from collections.abc import Sequence
from typing import Final, Literal

import msgspec
from msgspec import Struct

from broker.upstreams.client import OK, REFUSED, UpstreamClient, decoded, never_sent
from vault import idempotency
from vault.database import Transaction
from vault.egress import Reply
from vault.errors import IdempotencyInProgress, UpstreamFailed, VaultError
from vault.idempotency import Held
from vault.model import Caller, Once
from vault.vault import Vault

# What has become of a request.
Became = Literal["made", "refused", "unknown"]

PATIENCE: Final = 180.0  # seconds; more than all that comes before an answer may take together
MAX_ID: Final = 200

_BEGUN: Final = b"begun:"
_ASKED: Final = b"asked:"
_UNKNOWN: Final = b"unknown"
_PLAIN: Final = re.compile(rf"[!-~]{{1,{MAX_ID}}}")


class Done(Struct, frozen=True):
    """What is remembered of an answer."""

    status: int
    ids: dict[str, str | None]


class OnceAtAccount:
    """One request; without a key nothing is remembered of it. ``asked``: the account may have been,
    by this request.
    """

    def __init__(self, vault: Vault, caller: Caller, once: Once | None) -> None:
        self._vault = vault
        self._caller = caller
        self._once = once
        mine = secrets.token_hex(8).encode()
        self._begun, self._asked = _BEGUN + mine, _ASKED + mine
        self.asked = False

    async def before(self) -> Done | None:
        """Take the key, or say what the same request was answered."""
        once = self._once
        if once is None:
            return None
        held = await self._vault.within(self._caller, lambda tx: self._take(tx, once))
        return None if held is None else _answered(held)

    async def forward(self, client: UpstreamClient, path: str, body: bytes) -> Reply:
        """Ask the account, unless somebody else does so by now."""
        try:
            if not await self._turn(self._begun, self._asked):
                raise IdempotencyInProgress
            self.asked = True
            return await client.forward(path, method="POST", body=body)
        except VaultError as error:
            if self.asked and not never_sent(error):
                await self._turn(self._asked, _UNKNOWN)
            else:
                self.asked = False
                await self.free()
            raise

    async def settle(self, reply: Reply, ids: Sequence[str]) -> Became:
        """Remember what it has answered, and under which ``ids`` that is known."""
        answer = decoded(reply.body)
        said = answer if isinstance(answer, dict) else {}
        if reply.status in OK and said.get("success", True):
            kept = {name: _plain(said[name]) for name in ids if name in said}
            await self._turn(self._asked, msgspec.json.encode(Done(reply.status, kept)))
            return "made"
        if reply.status in OK or reply.status in REFUSED:
            await self.free()
            return "refused"
        await self._turn(self._asked, _UNKNOWN)
        return "unknown"

    async def free(self) -> None:
        """It has made nothing: the same request may try again."""
        caller, once = self._caller, self._once
        if once is None:
            return

        async def work(tx: Transaction) -> None:
            for mine in (self._begun, self._asked):
                await idempotency.let_go(tx, caller, once, mine)

        await self._vault.within(caller, work)

    async def _take(self, tx: Transaction, once: Once) -> Held | None:
        held = await idempotency.hold(tx, self._caller, once, self._begun)
        if held is None or held.age < PATIENCE or not held.result.startswith(_BEGUN):
            return held
        await idempotency.let_go(tx, self._caller, once, held.result)
        return await idempotency.hold(tx, self._caller, once, self._begun)

    async def _turn(self, before: bytes, after: bytes) -> bool:
        caller, once = self._caller, self._once
        if once is None:
            return True
        return await self._vault.within(
            caller, lambda tx: idempotency.turn(tx, caller, once, before, after)
        )


def _answered(held: Held) -> Done:
    if held.result.startswith(b"{"):
        return msgspec.json.decode(held.result, type=Done)
    if held.result != _UNKNOWN and held.age < PATIENCE:
        raise IdempotencyInProgress
    raise UpstreamFailed("Nobody knows whether this was done; it is not done again.")


def _plain(said: object) -> str | None:
    return said if isinstance(said, str) and _PLAIN.fullmatch(said) else None
