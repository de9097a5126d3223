"""A conversation renews the tokens that it holds: one refresh where one is called for.

* Reading is one statement. Only what does not last, or was refused, is refreshed, and that is
  waited for no longer than a caller on the telephone would wait; the refresh itself runs on.
* In one conversation one connection is renewed by one request at a time: who comes second finds
  what the first has brought, and forces nothing.
* Who holds a handle, or only tries, is given no credential: it is not even read for them.
"""

import asyncio
import time
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Final
from weakref import WeakValueDictionary

from msgspec import Struct

from broker.conversation import Held, Reached
from broker.delivery import without_secrets
from broker.gateway import renewal_rules
from broker.gateway.limits import Limits, Rate
from broker.gateway.renewal_rules import Asked, Status
from broker.variables import Person, Value
from broker.variables.filling import Credential, Values, fill
from vault import access
from vault.database import Transaction
from vault.errors import NotFound, RateLimited
from vault.secret import Secret
from vault.sql import Query
from vault.vault import Vault
from vault.vault.refreshing import Fresh, Hold

WAIT: Final = 8.0  # seconds; a tool's own limit is 20 unless somebody set another
GATEWAY_WAIT: Final = 5.0
RATE: Final = Rate(burst=60, per_second=1)  # calls of one conversation
FORCED: Final = Rate(burst=3, per_second=1 / 60)  # of one connection, by answers of its API

_AS_IT_IS: Final = timedelta()
_LASTS: Final = timedelta(seconds=renewal_rules.LASTS)


class Renewed(Struct, frozen=True, kw_only=True):
    """What a refresh tool answers. Its repr shows no variable."""

    status: Status
    integration: str
    generation: int
    expires_at: datetime | None
    expires_in: int | None
    variables: Mapping[str, Value]

    def __repr__(self) -> str:
        return f"Renewed({self.status}, {self.integration}, {self.generation})"


class _Generation(Struct, frozen=True):
    generation: int


_first: Final = Query("token_rejections", "first", _Generation, package="broker")


class Renewals:
    """Keeps what conversations hold alive."""

    def __init__(self, vault: Vault) -> None:
        self._vault = vault
        self._limits = Limits(RATE)
        self._forced = Limits(FORCED)
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def renew(self, held: Held, asked: Asked, *, dry_run: bool = False) -> Renewed:
        """Answer one call of the refresh tool."""
        access.permit(held.caller, "grant.refresh")
        self._limits.take(held.conversation.conversation_id, time.monotonic())
        one = held.conversation
        names = {one.conversation_id, one.upstream_id} if one.upstream_id else set()
        renewal_rules.refuse_others(
            asked, user_id=one.user_id, conversations={name for name in names if name}
        )
        look = dry_run or held.kind == "handle"
        reached = await self._chosen(held, asked)
        async with self._turn(held, reached):
            before = await self._read(held, reached, look=look)
            wants = renewal_rules.wants_refresh(asked, before)
            after = before
            if wants != "no":
                force = wants == "if_first" and await self._is_first(held, reached, before)
                if force or wants == "yes":
                    after = await self._refreshed(held, reached, rejected=force, look=look)
        if after.reason is not None:
            raise renewal_rules.why_not(after)
        return Renewed(
            status=renewal_rules.status(before, after, refused=wants == "if_first"),
            integration=reached.integration,
            generation=after.generation,
            expires_at=after.expires_at,
            expires_in=after.expires_in,
            variables=await self._variables(held, reached, after),
        )

    async def for_call(self, held: Held, reached: Reached) -> Fresh:
        """A token for one call of the provider's API; raises why there is none."""
        [found] = await self._vault.fresh_tokens(
            held.caller,
            [reached.connection_id],
            min_ttl=_LASTS,
            wait=GATEWAY_WAIT,
            hold=_hold(held),
        )
        if found.tokens is None:
            raise renewal_rules.why_not(found)
        return found

    async def after_refusal(self, held: Held, reached: Reached, refused: Fresh) -> Fresh:
        """What there is after the provider's API refused this one: a newer one, or the same."""
        async with self._turn(held, reached):
            now = await self._read(held, reached, look=False)
            if now.generation > refused.generation and now.tokens is not None:
                return now
            if not (
                self._may_force(held, reached) and await self._is_first(held, reached, refused)
            ):
                return refused
            found = await self._refreshed(held, reached, rejected=True, look=False)
            return found if found.tokens is not None else refused

    async def refused_at_once(self, held: Held, reached: Reached, fresh: Fresh) -> None:
        """It was new, and refused like the one before: another one would be, too."""
        await self._is_first(held, reached, fresh)

    async def _chosen(self, held: Held, asked: Asked) -> Reached:
        if asked.integration is None:
            every = [one.connection_id for one in held.kept.reached]
            found = await self._vault.fresh_tokens(
                held.caller, every, min_ttl=_AS_IT_IS, wait=0, look=True
            )
            providers = {
                one.integration: seen.provider
                for one, seen in zip(held.kept.reached, found, strict=True)
            }
        else:
            providers = {one.integration: "" for one in held.kept.reached}
        reached = held.connection(renewal_rules.chosen(asked, providers))
        if reached is None:
            raise NotFound
        return reached

    async def _read(self, held: Held, reached: Reached, *, look: bool) -> Fresh:
        """What is there, as it is. A refresh that is under way is not waited for."""
        [found] = await self._vault.fresh_tokens(
            held.caller,
            [reached.connection_id],
            min_ttl=_AS_IT_IS,
            wait=0,
            hold=_hold(held),
            look=look,
        )
        return found

    async def _refreshed(
        self, held: Held, reached: Reached, *, rejected: bool, look: bool
    ) -> Fresh:
        [found] = await self._vault.fresh_tokens(
            held.caller,
            [reached.connection_id],
            min_ttl=_LASTS,
            wait=WAIT,
            hold=_hold(held),
            rejected=rejected,
            look=look,
        )
        return found

    async def _is_first(self, held: Held, reached: Reached, refused: Fresh) -> bool:
        """Has nobody in this conversation said so of this generation?"""

        async def work(tx: Transaction) -> bool:
            row = await _first.maybe(
                tx,
                workspace_id=tx.workspace,
                conversation_id=held.conversation.conversation_id,
                connection_id=reached.connection_id,
                generation=refused.generation,
            )
            return row is not None

        return await self._vault.within(held.caller, work)

    async def _variables(self, held: Held, reached: Reached, found: Fresh) -> dict[str, Value]:
        """The variables that draw upon this connection; without tokens, those that are plain."""
        token: Secret | None = None
        authorization: Secret | None = None
        if found.tokens is not None:
            token = found.tokens.access_token
            authorization = await self._vault.authorization(held.caller, found)
        values = Values(
            person=Person(user_id=held.conversation.user_id),
            conversation_id=held.conversation.conversation_id,
            credentials={
                reached.integration: Credential(
                    token=token,
                    authorization=authorization,
                    generation=found.generation,
                    extras=found.extras,
                )
            },
        )
        filled = fill(held.kept.plan, values)
        drawn = {name: filled[name] for name in held.kept.plan.names_of(reached.integration)}
        return drawn if found.tokens is not None else without_secrets(drawn)

    def _may_force(self, held: Held, reached: Reached) -> bool:
        """An API that says 401 to whatever it is asked is not to cost a refresh for each call."""
        try:
            self._forced.take(_name(held, reached), time.monotonic())
        except RateLimited:
            return False
        return True

    def _turn(self, held: Held, reached: Reached) -> asyncio.Lock:
        name = _name(held, reached)
        lock = self._turns.get(name)
        if lock is None:
            lock = self._turns[name] = asyncio.Lock()
        return lock


def _name(held: Held, reached: Reached) -> str:
    return f"{held.conversation.conversation_id}/{reached.connection_id}"


def _hold(held: Held) -> Hold:
    return Hold(held.conversation.conversation_id, held.conversation.expires_at)
