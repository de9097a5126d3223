"""The door's part for tokens that are alive: handing them out, and keeping them so.

* A token that lives is handed out whatever its provider does; one past its end by the database's
  clock never is. Who gets less than was asked for is told: ``degraded``, ``refresh_required``.
* Reading is one statement for all connections that are asked for, its line in the record included.
  A refresh is waited for as long as was said, and runs on when the wait is over.
* Who holds a generation until when is known, and no refresh in the background takes it away for
  nothing.
"""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from functools import cached_property
from math import ceil
from typing import Final, Literal, NamedTuple

from msgspec import Struct

from vault import access, audit, events
from vault.consent import Connection, Integration, Registration
from vault.database import Transaction
from vault.errors import (
    Conflict,
    Invalid,
    NotFound,
    VaultError,
)
from vault.events import News
from vault.keyring.announcing import Announcements
from vault.lifecycle import endpoint
from vault.lifecycle.handout import Ask, Handout, hand_out
from vault.lifecycle.schedule import is_expiring
from vault.lifecycle.terms import Terms, terms_of
from vault.model import Caller, new_ids
from vault.oauth.app import App, TokenSet
from vault.refreshing import DRAIN_SECONDS, Refresher
from vault.refreshing.marks import Marks
from vault.refreshing.observing import Observe
from vault.refreshing.page import Outcome
from vault.refreshing.page import Place as Lane
from vault.refreshing.replica import Replica
from vault.refreshing.spool import Spool
from vault.store import answers
from vault.store import connections as rows
from vault.store import refreshing as lives
from vault.store.answers import AttemptRow
from vault.store.owners import Owner
from vault.store.refreshing import ReadRow
from vault.vault.connections import Connections
from vault.vault.door import found
from vault.vault.explaining import Explanation, why, why_not

MIN_TTL: Final = timedelta(seconds=60)
MAX_WAIT: Final = 3.0  # seconds, where nobody says how long
REFRESH_WAIT: Final = 30.0
MAX_ATTEMPTS: Final = 100
MAX_AHEAD: Final = timedelta(days=7)

Reason = Literal[
    "not_connected",
    "pending",
    "needs_reauth",
    "expired",
    "refreshing",
    "integration_paused",
    "provider_unavailable",
]


class Hold(NamedTuple):
    """Somebody will have the tokens in hand until then."""

    holder: str
    until: datetime


class Fresh(Struct, frozen=True, kw_only=True):
    """What one connection gives now. Without ``tokens`` there is a ``reason``.

    ``degraded``: good, but what should be done for it cannot be done now. ``stale``: less fresh
    than was asked for, since a fresher one would kill what another conversation holds.
    ``refresh_required``: it will not last as long as was asked for. Who only looks gets no tokens.
    """

    connection_id: str
    user_id: str = ""
    integration: str = ""
    provider: str = ""
    environment: str = ""
    tokens: TokenSet | None = None
    extras: Mapping[str, str] = {}
    reason: Reason | None = None
    generation: int = 0
    expires_at: datetime | None = None
    expires_in: int | None = None
    degraded: bool = False
    stale: bool = False
    refresh_required: bool = False
    scopes: tuple[str, ...] | None = None
    missing_scopes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"Fresh({self.connection_id})"


class Refreshing(Connections):
    """Tokens that are refreshed before they expire."""

    @cached_property
    def _replica(self) -> Replica:
        marks = Marks(self._kept_outside, self.deployment_id)
        hears = self._announcements.listen
        return Replica(self._database, self.deployment_id, marks, hears, self._folder)

    @cached_property
    def _announcements(self) -> Announcements:
        return Announcements(self._database, self._keyring)

    async def join(self) -> None:
        """Be seen by the other replicas, and answer what they ask; bring the list of what was
        deleted up to date, so that one that is empty is there, too.
        """
        await self._carried()
        await self._refresher.replica.join()

    @cached_property
    def _refresher(self) -> Refresher:
        return Refresher(
            self._database,
            self._worker,
            self._store,
            self._dialogue,
            self._app_at,
            self._replica,
            Spool(self._spool_dir) if self._spool_dir else None,
            self.deployment_id,
        )

    async def fresh_tokens(
        self,
        caller: Caller,
        connection_ids: Sequence[str],
        *,
        min_ttl: timedelta = MIN_TTL,
        wait: float = MAX_WAIT,
        hold: Hold | None = None,
        rejected: bool = False,
        look: bool = False,
        told_later: bool = False,
    ) -> list[Fresh]:
        """Tokens that last ``min_ttl``, in the order asked for; refreshed first where needed.

        ``hold`` says who will have them and until when. ``rejected``: the provider's API did not
        take the present ones. ``look``: make sure that they are there, and hand nothing out.
        ``told_later``: the caller's own line in the record says whose tokens it was given, and is
        durable before any of them leaves.
        """
        access.permit(caller, "connection.token")
        ask = _Ask(caller, min_ttl, hold, rejected, look, told_later, {})
        read = await self._read(ask, connection_ids)
        decided = {one.connection_id: await self._decided(ask, one) for one in read.values()}
        wanted = [name for name, one in decided.items() if one.begin_refresh]
        outcomes = await self._refreshed(caller, [read[name] for name in wanted], wait)
        now = dict(read)
        if unsure := [name for name, one in read.items() if not _is_ready(one, decided[name])]:
            now |= await self._read(ask, unsure, any_that_lives=True)
        return [
            await self._fresh(ask, now[one], decided[one], read[one].generation, outcomes.get(one))
            if one in now and one in decided
            else Fresh(connection_id=one, reason="not_connected")
            for one in connection_ids
        ]

    async def expect(
        self, caller: Caller, connection_ids: Sequence[str], at: datetime
    ) -> list[str]:
        """Announce that these tokens will be needed then, so that they are fresh; which there are.

        It is for the policy ``active``: ``eager`` ones are fresh anyway, ``lazy`` ones never are.
        """
        access.permit(caller, "connection.expect")
        if at > await self._time() + MAX_AHEAD:
            raise Invalid("That is too far ahead: a week at the most.", pointer="/at")

        async def work(tx: Transaction) -> list[str]:
            every = await lives.expect(tx, connection_ids, at, caller.environments)
            for one in every:
                await audit.record(
                    tx,
                    caller,
                    "connection.expect",
                    target=("connection", one.connection_id),
                    user_ref=one.user_ref,
                    environment=one.environment,
                )
            return [one.connection_id for one in every]

        return await self._database.run(caller.workspace, work)

    async def refresh_connection(self, caller: Caller, connection_id: str) -> Connection:
        """Refresh now, whatever the clocks say; raises why there are no newer tokens."""
        access.permit(caller, "connection.refresh")
        connection = await self._connection(caller, connection_id)
        if connection.refresh_by == "caller":
            raise Conflict("This connection is refreshed by the platform that imported it.")

        async def work(tx: Transaction) -> None:
            row = found((await lives.lock_lives(tx, [connection_id])).get(connection_id))
            if not row.renewable:
                raise Conflict("There is nothing that this connection could be refreshed with.")
            target = ("connection", connection_id)
            await audit.record(
                tx,
                caller,
                "connection.refresh",
                target=target,
                user_ref=row.user_ref,
                environment=row.environment,
            )

        await self._database.run(caller.workspace, work)
        place = Lane(caller.workspace, connection.integration, connection.environment)
        outcome = await self._refresher.refresh(
            place, connection_id, connection.generation, wait=REFRESH_WAIT
        )
        after = await self._connection(caller, connection_id)
        if after.generation == connection.generation:
            raise await self._unrefreshed(caller, after, outcome)
        return after

    async def _unrefreshed(
        self, caller: Caller, connection: Connection, outcome: Outcome | None
    ) -> VaultError:
        """Why a refresh that was asked for brought nothing, and when it may bring something."""
        row, standing = await self._database.run(
            caller.workspace, lambda tx: _stands(tx, connection)
        )
        until = outcome.until if outcome and outcome.until else row.next_try_at
        left = timedelta() if until is None else until - await self._time()
        return why_not(outcome, standing, max(ceil(left.total_seconds()), 2))

    async def explain_connection(self, caller: Caller, connection_id: str) -> Explanation:
        """A connection's whole story: what it waits for, and how its calls ended."""
        access.permit(caller, "connection.read")
        connection = await self._connection(caller, connection_id)

        async def work(tx: Transaction) -> tuple[lives.LifeRow, str, list[AttemptRow]]:
            row, standing = await _stands(tx, connection)
            return row, standing, await answers.attempts(tx, connection_id, MAX_ATTEMPTS)

        row, standing, attempts = await self._database.run(caller.workspace, work)
        times = row.clocks()
        return Explanation(
            connection=connection,
            state=row.state,
            expiring=times is not None and is_expiring(times, await self._time()),
            why=why(row, standing),
            due_at=row.looked_at,
            next_try_at=row.next_try_at,
            idle_ends=row.idle_ends,
            consent_ends=row.consent_ends,
            failures=row.failures,
            held_until=row.held_until,
            attempts=attempts,
        )

    async def put_integration(
        self, caller: Caller, integration: str, registration: Registration
    ) -> tuple[Integration, bool]:
        """Make or replace an integration; calls that were stopped for its sake may begin again."""
        made = await super().put_integration(caller, integration, registration)
        self._refresher.forget(caller.workspace, integration)
        now = await self._time()

        async def work(tx: Transaction) -> None:
            await lives.set_policy(tx, integration, registration.refresh_policy)
            for row in await lives.endpoints_of(tx, integration):
                mended = endpoint.mended(lives.endpoint_from(row.learned), now)
                provider = registration.provider
                await lives.write_endpoint(
                    tx, integration, row.environment, provider, mended.endpoint
                )
                if mended.alert is not None:
                    news = News(
                        type="integration.resumed",
                        integration=integration,
                        environment=row.environment,
                    )
                    await events.record(tx, [news])

        await self._database.run(caller.workspace, work)
        return made

    # Is it well?

    async def check_refreshing(self) -> None:
        """Raise why nothing can be kept alive now."""
        await self._refresher.check()

    # For the scheduler

    async def refresh_due(self) -> int:
        """Begin to refresh what is due in all workspaces; returns how many were."""
        return await self._refresher.sweep()

    def observe_refreshes(self, observe: Observe) -> None:
        """Tell somebody of each call that has ended."""
        self._refresher.observe = observe

    async def replay_spool(self) -> int:
        """Bring answers that were spooled into the database."""
        return await self._refresher.replay()

    async def end_refreshing(self, seconds: float = DRAIN_SECONDS) -> None:
        """Begin no more refreshes; let those that are under way end, or spool what they brought."""
        if "_refresher" in self.__dict__:  # else there never was one
            await self._refresher.drain(seconds)
            await self._announcements.close()

    @property
    def refreshes_under_way(self) -> int:
        return self._refresher.under_way

    # Details

    async def _app_at(self, place: Lane) -> App:
        """An integration as it is used in one environment; asked for by nobody in particular."""
        caller = Caller(kind="worker", actor_id="refresher", workspace=place.workspace)
        row = await self._integration_row(place.workspace, place.integration)
        if row is None:
            raise NotFound("The integration is gone.")
        return await self._app(caller, row, place.environment)

    async def _read(
        self, ask: "_Ask", connection_ids: Sequence[str], *, any_that_lives: bool = False
    ) -> dict[str, ReadRow]:
        """One statement; with ``any_that_lives`` every token before its end is being handed out."""
        caller, hold = ask.caller, ask.hold
        arguments = {
            "connection_ids": list(connection_ids),
            "event_ids": new_ids("evt", len(connection_ids)),
            "environments": list(caller.environments),
            "any_that_lives": any_that_lives,
            "rejected": ask.rejected and not any_that_lives,
            "telling": not ask.look and not ask.told_later,
            "min_ttl": ask.min_ttl,
            "promised": int(ask.min_ttl.total_seconds()),
            "holder": hold.holder if hold else "",
            "hold_until": hold.until if hold else None,
            "actor_kind": caller.kind,
            "actor_id": caller.actor_id,
            "request_id": caller.request_id,
        }
        every = await self._database.run(
            caller.workspace,
            lambda tx: lives.read(tx, **arguments),
            planned_once=True,
            durable_later=ask.told_later,
        )
        return {row.connection_id: row for row in every}

    async def _decided(self, ask: "_Ask", row: ReadRow) -> Handout:
        times = row.clocks()
        if times is None:
            return Handout(kind="expired")
        held = Ask(min_ttl=ask.min_ttl, rejected=ask.rejected, held_until=row.others_hold_until)
        return hand_out(row.life(), times, await self._terms(row.provider), held, now=row.now)

    async def _refreshed(
        self, caller: Caller, wanted: Sequence[ReadRow], wait: float
    ) -> dict[str, Outcome | None]:
        """Refresh these side by side. A wait that is over changes nothing about the calls."""

        async def one(row: ReadRow) -> Outcome | None:
            place = Lane(caller.workspace, row.integration, row.environment)
            try:
                return await self._refresher.refresh(
                    place, row.connection_id, row.generation, wait=wait
                )
            except VaultError as error:
                return Outcome(why=error.code)

        outcomes = await asyncio.gather(*(one(row) for row in wanted))
        return {row.connection_id: outcome for row, outcome in zip(wanted, outcomes, strict=True)}

    async def _fresh(
        self,
        ask: "_Ask",
        row: ReadRow,
        handout: Handout,
        before: int,
        outcome: Outcome | None,
    ) -> Fresh:
        if not row.sure or row.sealed_tokens is None or row.tokens_generation is None:
            reason = _reason(row, handout, outcome)
            return Fresh(connection_id=row.connection_id, reason=reason, generation=row.generation)
        tokens = await self._tokens_of(ask, row)
        left = None if row.access_ends is None else row.access_ends - row.now
        missing = set(row.asked_scopes) - set(row.scopes) if row.scopes is not None else set()
        return Fresh(
            connection_id=row.connection_id,
            user_id=row.user_id,
            integration=row.integration,
            provider=row.provider,
            environment=row.environment,
            tokens=None if ask.look else tokens,
            extras=tokens.extras,
            generation=row.generation,
            expires_at=row.access_ends,
            expires_in=None if left is None else int(left.total_seconds()),
            degraded=handout.kind in ("degraded", "wait") and row.generation == before,
            stale=handout.kind == "stale" and row.generation == before,
            refresh_required=left is not None and left < ask.min_ttl,
            scopes=None if row.scopes is None else tuple(row.scopes),
            missing_scopes=tuple(sorted(missing)),
        )

    async def _tokens_of(self, ask: "_Ask", row: ReadRow) -> TokenSet:
        workspace = ask.caller.workspace
        owner = ask.owners.get(row.user_key)
        if owner is None:
            owner = await self._store.owner(workspace, row.user_id, row.user_key)
            ask.owners[row.user_key] = owner
        context = rows.tokens_context(
            workspace, row.connection_id, row.tokens_generation or 0, row.environment
        )
        return rows.held_from(await owner.open(context, row.sealed_tokens or b"")).tokens

    async def _terms(self, provider: str) -> Terms:
        if provider not in self._terms_of:
            facts = await asyncio.to_thread(self._catalogue.get, provider)
            self._terms_of[provider] = terms_of(facts)
        return self._terms_of[provider]

    @cached_property
    def _terms_of(self) -> dict[str, Terms]:
        return {}


class _Ask(NamedTuple):
    caller: Caller
    min_ttl: timedelta
    hold: Hold | None
    rejected: bool
    look: bool
    told_later: bool
    owners: dict[bytes, Owner]  # by the sealed key: mostly it is one user who is asked for


def _is_ready(row: ReadRow, handout: Handout) -> bool:
    return row.sure and handout.kind == "ready"


def _reason(row: ReadRow, handout: Handout, outcome: Outcome | None) -> Reason:
    """Why nothing is handed out: the first of these that holds."""
    ended = row.consent_ends is not None and row.consent_ends <= row.now
    unusable = outcome is not None and outcome.why == "integration_paused"
    under_way = row.lease_until is not None or (handout.begin_refresh and outcome is None)
    reasons: tuple[tuple[bool, Reason], ...] = (
        (row.generation == 0, "pending"),
        (row.verdict is not None, "needs_reauth"),
        (row.standing != "open" or unusable, "integration_paused"),
        (under_way, "refreshing"),
        (ended or not row.renewable, "expired"),
    )
    return next((reason for holds, reason in reasons if holds), "provider_unavailable")


async def _stands(tx: Transaction, connection: Connection) -> tuple[lives.LifeRow, str]:
    """A connection's life, and how its endpoint stands; locked in the order of a claim."""
    endpoints = await lives.endpoints_of(tx, connection.integration)
    connection_id = connection.connection_id
    row = found((await lives.lock_lives(tx, [connection_id])).get(connection_id))
    here = [one.standing for one in endpoints if one.environment == row.environment]
    return row, here[0] if here else "open"
