"""One app registration in one environment: who may call its token endpoint, and how calls end.

* A claim and an ending are a transaction each; many go together. The endpoint's row is locked
  first, then the lives in one order, so two of them never wait for each other in a circle.
* What follows from what is decided by ``vault.lifecycle``; here it is read, written and announced
  in one transaction, so that what is stored and what is done cannot differ.
* Everything that seals is at hand before the call: sealing an answer asks nobody.
"""

import random
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Final

from msgspec.structs import replace

from vault.consent import Held
from vault.database import Database, Transaction
from vault.errors import IntegrityError
from vault.lifecycle import endpoint as endpoints
from vault.lifecycle import standing
from vault.lifecycle.clocks import Clocks, clocks
from vault.lifecycle.endpoint import Endpoint
from vault.lifecycle.events import Answered, AnyEvent, Claimed, Failed, Released
from vault.lifecycle.intents import (
    AnyIntent,
    Call,
    GiveBack,
    KeepOrphan,
    NotNow,
    Save,
    TellIntegration,
)
from vault.lifecycle.life import GONE, Life
from vault.lifecycle.machine import step
from vault.model import new_id, new_ids
from vault.oauth.app import TokenSet
from vault.oauth.renewing import can_refresh
from vault.refreshing import resting
from vault.refreshing.batches import Batches
from vault.refreshing.page import (
    Ending,
    Granted,
    Outlet,
    Page,
    Place,
    Refused,
    Settled,
    Wanted,
    attempt_of,
    scheduled,
)
from vault.refreshing.replica import NOBODY, Moment, Peers, Replica
from vault.refreshing.spool import Spooled
from vault.seal import Context, seal
from vault.store import Store, answers, calls
from vault.store import connections as connection_rows
from vault.store import refreshing as rows
from vault.store.answers import Attempt
from vault.store.calls import Refreshable
from vault.store.refreshing import LifeRow, LockedEndpoint

# A page of ciphertext has room for one row's next version, until the transaction ends that makes
# it: the more rows at a time, the more of them move to another page.
ENDINGS: Final = 100


class Lane:
    """The claims and endings of one place, in this process. ``flights``: who is on it; ``calls``:
    claims of which nobody knows yet how their call ends.

    ``is_spooled``: does the answer to a connection's call, by its fence, wait in the spool?
    """

    def __init__(
        self,
        place: Place,
        database: Database,
        store: Store,
        replica: Replica,
        is_spooled: Callable[[str, int], bool] | None = None,
    ) -> None:
        self._is_spooled = is_spooled
        self.place = place
        self._database = database
        self._store = store
        self._replica = replica
        self.flights = 0
        self.calls = 0
        self.claims: Batches[Wanted, Granted | Refused] = Batches(self._claim)
        self.endings: Batches[Ending, Settled] = Batches(self._end, ENDINGS)

    @property
    def idle(self) -> bool:
        return not self.flights and self.claims.idle and self.endings.idle

    async def _claim(self, wanted: Sequence[Wanted]) -> Sequence[Granted | Refused]:
        begun = time.monotonic()
        found, endpoint = await self._database.run(
            self.place.workspace,
            lambda tx: self._claimed(tx, wanted, begun),
            planned_once=True,
            ahead=True,
        )
        self._replica.moves(self.place, endpoint)
        return found

    async def _claimed(
        self, tx: Transaction, wanted: Sequence[Wanted], begun: float
    ) -> tuple[list[Granted | Refused], Endpoint]:
        at = await self._replica.moment_in(tx)
        page = Page(self.place, wanted[0].outlet, at.now, begun=begun)
        page.attempt_ids = iter(new_ids("try", len(wanted)))
        known = (await self._endpoint(tx, wanted[0].outlet, at.now)).endpoint
        self._replica.check_place(self.place, known)
        page.endpoint = replace(known, claims=known.claims + 1)
        results: dict[str, Granted | Refused] = {
            **await resting.claim(tx, page, wanted, self._replica.id)
        }
        if others := [one for one in wanted if one.connection_id not in results]:
            results |= await self._looked_at(tx, page, others, at)
        await page.write(tx)
        return [results[one.connection_id] for one in wanted], page.endpoint

    async def _looked_at(
        self, tx: Transaction, page: Page, wanted: Sequence[Wanted], at: Moment
    ) -> dict[str, Granted | Refused]:
        """The long way: whatever state they are in."""
        asked = [one.connection_id for one in wanted if one.waiting or one.left]
        locked = await rows.lock_lives(tx, asked) if asked else {}
        if len(asked) < len(wanted):
            others = [one.connection_id for one in wanted if not (one.waiting or one.left)]
            locked |= await rows.lock_due(tx, others)
        more = await calls.refreshable(tx, list(locked))
        leased = any(row.lease_owner not in (None, self._replica.id) for row in locked.values())
        peers = await self._replica.peers_in(tx) if leased else NOBODY
        # Who is waited for comes first, while there is room.
        return {
            one.connection_id: self._decided(page, one, locked, more, at, peers)
            for one in sorted(wanted, key=lambda one: not one.waiting)
        }

    def _decided(
        self,
        page: "Page",
        one: Wanted,
        locked: dict[str, LifeRow],
        more: dict[str, Refreshable],
        at: Moment,
        peers: Peers,
    ) -> Granted | Refused:
        row, stored = locked.get(one.connection_id), more.get(one.connection_id)
        if row is None or stored is None:
            return page.without(row, waiting=one.waiting)
        life = row.life()
        holder = life.claim.owner if life.claim is not None else self._replica.id
        dead = holder != self._replica.id and holder not in peers.living
        if not (one.waiting or dead) and (refused := page.not_due(row, life, stored, one.outlet)):
            return refused
        if refused := self._spooled(life, one) or _nothing_to_do(page, one, row, stored):
            return refused
        event = Claimed(
            at=at.now,
            owner=self._replica.id,
            attempt=next(page.attempt_ids),
            holder_alive=not dead,
            # Of its own calls a replica knows: this one is over, and did not say how it ended.
            holder_seen=holder != self._replica.id and holder in peers.seen,
            database_started_at=at.server_started_at,
            held_until=standing.last_held(page.endpoint.standing, at.now),
        )
        after, intents = step(life, event, one.outlet.terms)
        call = next((intent for intent in intents if isinstance(intent, Call)), None)
        if call is not None and (refused := page.admit(call, row, waiting=one.waiting)):
            return refused
        if life.claim is not None and after.claim != life.claim:
            page.attempts.append(attempt_of(one.connection_id, life.claim, "lost"))
        if call is None or after.claim is None:
            fresh = row.after(after)
            page.announce(intents, fresh, stored.user_id)
            page.put(scheduled(fresh, after, one.outlet.terms, at.now))
            return _refused(intents)
        page.grant(row, after.claim, after.doubt)
        return Granted(begun=page.begun, claim=after.claim, due_at=row.due_at, refreshable=stored)

    def _spooled(self, life: Life, one: Wanted) -> Refused | None:
        """Whether its holder is gone or not: a call whose answer is in the spool has ended."""
        if life.claim is None or self._is_spooled is None:
            return None
        waits = self._is_spooled(one.connection_id, life.claim.fence)
        return Refused(why="busy") if waits else None

    async def _endpoint(
        self, tx: Transaction, outlet: Outlet, first_at: datetime
    ) -> LockedEndpoint:
        """Lock it, and tell the time. ``first_at``: when it was called, if never before."""
        _, integration, environment = self.place
        fresh = endpoints.begun(first_at, ceiling=outlet.ceiling)
        provider = outlet.app.provider.id
        return await rows.lock_endpoint(tx, integration, environment, provider, fresh)

    # Endings

    async def _end(self, ended: Sequence[Ending]) -> Sequence[Settled]:
        return await self._database.run(
            self.place.workspace,
            lambda tx: self._ended(tx, ended),
            planned_once=True,
            ahead=True,
        )

    async def _ended(self, tx: Transaction, ended: Sequence[Ending]) -> list[Settled]:
        outlet, first_at = ended[0].outlet, ended[0].attempt.began_at
        endpoint, now, heard = await self._endpoint(tx, outlet, first_at)
        page = Page(self.place, outlet, now, heard=heard)
        page.endpoint = endpoint
        renewed = await resting.end(tx, page, ended, self._replica.id)
        others = [one.connection_id for one in ended if one.connection_id not in renewed]
        locked = await rows.lock_lives(tx, others) if others else {}
        results = [
            renewed.get(one.connection_id)
            or await self._settled(tx, page, one, locked.get(one.connection_id))
            for one in ended
        ]
        await page.write(tx)
        return results

    async def _settled(
        self, tx: Transaction, page: "Page", one: Ending, row: LifeRow | None
    ) -> Settled:
        page.hear(one)
        row = page.changed.get(one.connection_id, row)
        before = row.life() if row is not None else GONE
        after, intents = step(before, _event(one, page), one.outlet.terms)
        if one.tokens is not None and not intents:
            return Settled(before.generation)  # it is there already: this is a replay
        generation, times = 0, None
        for intent in intents:
            if isinstance(intent, Save) and row is not None:
                generation, times = await self._save(tx, page, one, intent, row)
            elif isinstance(intent, KeepOrphan) and one.tokens is not None:
                await answers.keep_answer(
                    tx, one.connection_id, one.fence, "tokens", self._sealed_answer(one, one.tokens)
                )
            elif isinstance(intent, GiveBack) and one.tokens is not None:
                await self._give_back(tx, one)
            elif isinstance(intent, TellIntegration):
                page.learn(intent, one)
        if row is None:
            return Settled(0)
        if one.unread is not None:
            context = self._answer_context(one)
            sealed = seal(one.outlet.sealing.key, context, one.unread.reveal_bytes())
            await answers.keep_answer(tx, one.connection_id, one.fence, "raw", sealed)
        fresh = row.after(after, times)
        page.announce(intents, fresh, one.user_id)
        page.note_ended(one, generation)
        page.put(scheduled(fresh, after, one.outlet.terms, page.now))
        return Settled(generation)

    async def _save(
        self, tx: Transaction, page: "Page", one: Ending, save: Save, row: LifeRow
    ) -> tuple[int, Clocks | None]:
        """Seal the answer as the generation that it becomes."""
        tokens, before = one.tokens, one.held
        if before is None or one.owner_key is None:
            raise IntegrityError("An answer came without what it was asked with.")
        if save.fence != one.fence or tokens is None:
            # An answer that was put aside, for which the present tokens turned out to be dead.
            tokens = await self._orphan(tx, one, save.fence)
            if tokens is None:
                return 0, None
            await answers.forget_answer(tx, one.connection_id, save.fence)
        context = connection_rows.tokens_context(
            self.place.workspace, one.connection_id, save.generation, self.place.environment
        )
        held = replace(before, tokens=tokens)
        sealed = seal(one.owner_key, context, connection_rows.packed(held))
        page.tokens[one.connection_id] = sealed
        scopes = None if tokens.scopes is None else sorted(set(tokens.scopes))
        if tokens.scopes != before.tokens.scopes:
            await rows.set_scopes(tx, one.connection_id, scopes)
            if scopes is not None and set(before.tokens.scopes or ()) - set(scopes):
                page.scope_reduced(row, one.user_id)
        return save.generation, clocks(
            one.outlet.terms,
            issued_at=tokens.obtained_at,
            consented_at=row.consented_at or tokens.obtained_at,
            access_ends=tokens.expires_at,
            refresh_ends=tokens.refresh_expires_at,
            renewable=row.renewable and can_refresh(one.outlet.app.provider, tokens),
        )

    async def _orphan(self, tx: Transaction, one: Ending, fence: int) -> TokenSet | None:
        sealed = await answers.kept_answer(tx, one.connection_id, fence)
        if sealed is None:
            return None
        context = answers.answer_context(
            self.place.workspace, one.connection_id, fence, self.place.environment
        )
        # Its key is the one of a moment ago, and so at hand.
        opened = await self._store.open(self.place.workspace, context, sealed)
        return connection_rows.held_from(opened).tokens

    async def _give_back(self, tx: Transaction, one: Ending) -> None:
        """The connection is gone: its new tokens go where those of deleted connections go."""
        if one.held is None or one.tokens is None or one.outlet.app.provider.revoke is None:
            return
        revocation_id = new_id("rvk")
        context = connection_rows.revocation_context(self.place.workspace, revocation_id)
        sealed = seal(
            one.outlet.sealing.key,
            context,
            connection_rows.packed(replace(one.held, tokens=one.tokens)),
        )
        await connection_rows.insert_revocation(
            tx,
            revocation_id,
            one.connection_id,
            self.place.integration,
            self.place.environment,
            sealed,
        )

    def _answer_context(self, one: Ending) -> Context:
        return answers.answer_context(
            self.place.workspace, one.connection_id, one.fence, self.place.environment
        )

    def _sealed_answer(self, one: Ending, tokens: TokenSet) -> bytes:
        held = replace(one.held, tokens=tokens) if one.held else Held(tokens=tokens)
        packed = connection_rows.packed(held)
        return seal(one.outlet.sealing.key, self._answer_context(one), packed)


def _event(one: Ending, page: Page) -> AnyEvent:
    if one.tokens is not None:
        return Answered(at=page.now, fence=one.fence)
    if one.failure is None:
        return Released(at=page.now, fence=one.fence)
    return Failed(
        at=page.now,
        fence=one.fence,
        outcome=one.failure.outcome,
        luck=random.random(),  # noqa: S311 - spreads load, hides nothing
        retry_after=one.failure.retry_after,
        held=page.endpoint.standing.why == "held",
    )


def to_spool(deployment: str, place: Place, ending: Ending, tokens: TokenSet) -> Spooled:
    """An answer as it is kept on the disk; sealing it asks nobody."""
    held = replace(ending.held, tokens=tokens) if ending.held else Held(tokens=tokens)
    context = answers.answer_context(
        place.workspace, ending.connection_id, ending.fence, place.environment
    )
    return Spooled(
        deployment=deployment,
        workspace=place.workspace,
        connection_id=ending.connection_id,
        user_id=ending.user_id,
        integration=place.integration,
        environment=place.environment,
        fence=ending.fence,
        sealed=seal(ending.outlet.sealing.key, context, connection_rows.packed(held)),
    )


def replay_of(connection_id: str, fence: int, owner: str, held: Held) -> Attempt:
    """The same, of an answer that was spooled."""
    return Attempt(
        connection_id=connection_id,
        fence=fence,
        owner=owner,
        attempt="replay",
        began_at=held.tokens.obtained_at,
        outcome="",
    )


def _nothing_to_do(page: Page, one: Wanted, row: LifeRow, stored: Refreshable) -> Refused | None:
    if stored.refresh_by == "caller" or not row.renewable:
        page.put(replace(row, due_at=None))
        return Refused(why="not_ours")
    if one.generation is not None and row.generation > one.generation:
        return Refused(why="current")
    return None


def _refused(intents: Sequence[AnyIntent]) -> Refused:
    """What the machine said instead of a call; nothing but the news means that it is over."""
    found = next((one for one in intents if isinstance(one, NotNow)), None)
    return Refused(why=found.why, until=found.until) if found else Refused(why="needs_reauth")
