"""The flow of what a conversation may still do: its bearers, and its end.

* Who and what is decided by the bearer alone. It is asked for in the database each time, so that
  one whose conversation has ended, whose user is gone or whose key was revoked is dead at once.
* A handle buys nothing without a runtime key of the same workspace, which no client ever has.
* A ticket is used up before anything is done for whoever brings it.
* Every refusal of a bearer is the same one.
"""

import time
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final

from msgspec import Struct

from broker import conversations
from broker.admission import Admission
from broker.conversation import Conversation, Held, Kept, as_conversation
from broker.conversations import KeptRow, Lookup
from broker.delivery import Delivering, Issued, issue_grant, revealed
from broker.runtimes import elevenlabs
from broker.runtimes.elevenlabs import Place
from broker.upstreams import Upstreams
from broker.variables import Value
from vault import access, audit, bearer
from vault.database import Transaction
from vault.errors import (
    Conflict,
    Forbidden,
    IntegrityError,
    NotFound,
    Unauthenticated,
)
from vault.model import Caller, Page, UserId, WorkspaceId
from vault.store import surveys
from vault.vault import Vault
from vault.vault.door import found
from vault.vault.refreshing import Fresh, Hold
from vault.vault.surveys import Survey

KEPT_DAYS: Final = 30  # a conversation lasts eight hours at most: none that runs is forgotten
FORGET_ROWS: Final = 1_000  # in one transaction
FORGET_ROUNDS: Final = 10  # in one turn
MAX_WAIT: float = 3.0  # seconds; the person waits for the socket to open


class Opened(Struct, frozen=True, kw_only=True):
    """A conversation that lives, with what it was promised and whose it is."""

    row: KeptRow
    itself: Caller
    kept: Kept
    survey: Survey

    def __repr__(self) -> str:
        return f"Opened({self.row.conversation_id})"


class Grants:
    """What conversations hold."""

    def __init__(self, vault: Vault, delivering: Delivering, upstreams: Upstreams) -> None:
        self._vault = vault
        self._delivering = delivering
        self._upstreams = upstreams

    # Whose bearer it is

    async def held(
        self,
        unverified_bearer: str,
        runtime_key: str | None,
        *,
        request_id: str = "",
    ) -> Held:
        """Who and what a grant or a handle is; ``Unauthenticated`` where it is neither."""
        kind = bearer.kind_of(unverified_bearer)
        if kind not in ("grant", "handle"):
            raise Unauthenticated
        row, caller = await self._row(unverified_bearer, kind, request_id)
        if kind == "handle":
            await self._refuse_without_runtime(row, caller, runtime_key)
        if not row.armed:
            raise Forbidden("Nobody has vouched for this caller yet.")
        kept, itself = await self._opened(row, caller)
        return Held(caller=itself, conversation=row.conversation(), kind=kind, kept=kept)

    async def _row(self, unverified: str, kind: Lookup, request_id: str) -> tuple[KeptRow, Caller]:
        hashed = self._vault.fingerprint(unverified)
        whose = await conversations.look_up(self._vault, hashed, kind)
        if whose is None:
            raise Unauthenticated
        workspace, conversation_id = whose
        caller = _itself(workspace, conversation_id, request_id)
        row = await self._vault.within(caller, lambda tx: conversations.kept(tx, conversation_id))
        if row is None:
            raise Unauthenticated
        return row, caller

    async def _refuse_without_runtime(
        self, row: KeptRow, caller: Caller, runtime_key: str | None
    ) -> None:
        if runtime_key is None:
            raise Unauthenticated("This is honoured only beside a runtime key.")
        runtime = await self._vault.authenticate(runtime_key)
        access.permit_scope(runtime, "runtime")
        if runtime.workspace != caller.workspace:
            raise Unauthenticated
        access.permit_environment(runtime, row.environment)

    async def _opened(self, row: KeptRow, caller: Caller) -> tuple[Kept, Caller]:
        context = conversations.context(caller.workspace, row.conversation_id)
        kept = conversations.kept_from(
            await self._vault.open_owned(caller, row.user_id, row.user_key, context, row.kept)
        )
        if (kept.agent_id, kept.environment) != (row.agent_id, row.environment):
            raise IntegrityError("A conversation's row is not what was minted.")
        return kept, as_conversation(caller, row.conversation_id, kept.environments)

    # A ticket

    async def admit(self, ticket: str) -> Admission:
        """Use a ticket up: what the conversation starts with, real values inside."""
        row, caller, kept, issued, over_at = await self._used(ticket, "")
        itself = as_conversation(caller, row.conversation_id, kept.environments)
        client = await self._upstreams.client(itself)
        values = await self._values(row, itself, kept, issued)
        place = Place(agent_id=kept.agent_id, environment=kept.environment, branch_id=row.branch_id)
        start = await elevenlabs.signed_url(client, place)
        profile = kept.profile
        return Admission(
            conversation_id=row.conversation_id,
            caller=itself,
            url=start.credential,
            first_frame=_first_frame(row, kept, values),
            client_variables=frozenset(kept.plan.open_to_client(kept.given)),
            overrides=tuple(profile.overrides) if profile else (),
            seconds_left=over_at - time.monotonic(),
        )

    async def redeem(
        self, caller: Caller, unverified_token: str
    ) -> tuple[Conversation, Mapping[str, Value]]:
        """Open what a runtime was handed, once."""
        if bearer.kind_of(unverified_token) != "sealed":
            raise NotFound("There is no such token, or it has been used.")
        try:
            row, itself, kept, issued, _ = await self._used(
                unverified_token, caller.request_id, only=caller
            )
        except Unauthenticated:
            raise NotFound("There is no such token, or it has been used.") from None
        itself = as_conversation(itself, row.conversation_id, kept.environments)
        return row.conversation(), await self._values(row, itself, kept, issued)

    async def _used(
        self, ticket: str, request_id: str, *, only: Caller | None = None
    ) -> tuple[KeptRow, Caller, Kept, Issued, float]:
        """Use it up for the conversation's grant; ``only``: who redeems, and is no relay.

        The last is when the conversation is over, by the monotonic clock.
        """
        hashed = self._vault.fingerprint(ticket)
        row, caller = await self._row(ticket, "ticket", request_id)
        if only is not None:
            if only.workspace != caller.workspace:
                raise Unauthenticated
            access.permit_environment(only, row.environment)
        if (only is None) != (row.delivery == "relay"):
            raise Unauthenticated
        kept, itself = await self._opened(row, caller)
        issued = issue_grant()
        bearers = self._delivering.bearers(issued)
        user_ref = await self._vault.user_ref(caller, UserId(row.user_id))

        async def work(tx: Transaction) -> float | None:
            left = await conversations.use_ticket(tx, row.conversation_id, hashed, bearers)
            if left is not None and only:
                await conversations.began(tx, row.conversation_id, None)
                await _recorded(
                    tx, only, "conversation.redeem", row.conversation_id, row.environment, user_ref
                )
            elif left is not None:
                await _recorded(
                    tx, itself, "conversation.admit", row.conversation_id, row.environment, user_ref
                )
            return left

        left = await self._vault.within(caller, work)
        if left is None:
            raise Unauthenticated  # somebody was faster
        return row, caller, kept, issued, time.monotonic() + left

    # What it has

    async def opened(self, caller: Caller, named: str) -> Opened:
        """A conversation of this workspace that lives, by our id or by its runtime's."""

        async def work(tx: Transaction) -> KeptRow | None:
            if named.startswith("kcv_"):
                return await conversations.kept(tx, named)
            one = await conversations.find(tx, named)
            return await conversations.kept(tx, one.conversation_id) if one else None

        row = await self._vault.within(caller, work)
        if row is None or not access.within_environments(caller, [row.environment]):
            raise NotFound("There is no such conversation, or it is over.")
        itself = _itself(caller.workspace, row.conversation_id, caller.request_id)
        kept, itself = await self._opened(row, itself)
        survey = await self._vault.survey(itself, row.user_id, kept.environment)
        if survey is None:
            raise NotFound("There is no such conversation, or it is over.")
        return Opened(row=row, itself=itself, kept=kept, survey=survey)

    async def _values(
        self, row: KeptRow, itself: Caller, kept: Kept, issued: Issued
    ) -> dict[str, Value]:
        survey = await self._vault.survey(itself, row.user_id, kept.environment)
        if survey is None:
            raise Unauthenticated  # the user was deleted just now
        fresh = await self.fresh(Opened(row=row, itself=itself, kept=kept, survey=survey))
        return await self._delivering.values(
            itself,
            kept.plan,
            survey,
            fresh,
            environment=kept.environment,
            issued=issued,
            given=kept.given,
        )

    async def fresh(self, opened: Opened) -> dict[str, Fresh]:
        """What its connections give now, by integration; the conversation holds it."""
        row, kept = opened.row, opened.kept
        ids = {one.connection_id: one.integration for one in kept.reached}
        fresh: dict[str, Fresh] = {}
        if ids:
            every = await self._vault.fresh_tokens(
                opened.itself,
                list(ids),
                min_ttl=timedelta(seconds=kept.min_ttl),
                wait=MAX_WAIT,
                hold=Hold(row.conversation_id, row.expires_at),
            )
            fresh = {ids[one.connection_id]: one for one in every if one.reason is None}
        return fresh

    # A conversation's course

    async def began(self, caller: Caller, conversation_id: str, upstream_id: str | None) -> None:
        """Remember that it runs, and what its runtime calls it."""
        _refuse_others(caller, conversation_id)
        await self._vault.within(
            caller, lambda tx: conversations.began(tx, conversation_id, upstream_id)
        )

    async def has_ended(self, caller: Caller, conversation_id: str) -> bool:
        """Has somebody ended it, or deleted its user? One whose time is over nobody ended."""
        _refuse_others(caller, conversation_id)
        one = await self._vault.within(caller, lambda tx: conversations.get(tx, conversation_id))
        return one is None or one.ended_at is not None

    async def end(self, caller: Caller, conversation_id: str) -> Conversation:
        """Let grants and handles die. Ending what has ended changes nothing."""
        access.permit(caller, "conversation.end")
        _refuse_others(caller, conversation_id)
        before = await self.get(caller, conversation_id)
        user_ref = await self._vault.user_ref(caller, UserId(before.user_id))

        async def work(tx: Transaction) -> Conversation:
            ended = await conversations.finish(tx, conversation_id)
            if ended is not None:
                await surveys.release(tx, conversation_id, ended.connection_ids)
                await _recorded(
                    tx, caller, "conversation.end", conversation_id, ended.environment, user_ref
                )
            return found(await conversations.get(tx, conversation_id))

        return await self._vault.within(caller, work)

    async def verify(self, caller: Caller, conversation_id: str) -> Conversation:
        """Somebody has made sure who is calling: from now on its handle is honoured."""
        access.permit(caller, "conversation.verify")
        before = await self.get(caller, conversation_id)
        if not before.lives:
            raise Conflict("This conversation is over.")
        user_ref = await self._vault.user_ref(caller, UserId(before.user_id))

        async def work(tx: Transaction) -> Conversation:
            armed = await conversations.arm(tx, conversation_id)
            if armed is None:
                raise Conflict("This conversation is over.")
            await _recorded(
                tx, caller, "conversation.verify", conversation_id, armed.environment, user_ref
            )
            return found(await conversations.get(tx, conversation_id))

        return await self._vault.within(caller, work)

    async def get(self, caller: Caller, conversation_id: str) -> Conversation:
        """One, in the environments that this caller reaches."""
        one = found(
            await self._vault.within(caller, lambda tx: conversations.get(tx, conversation_id))
        )
        if not access.within_environments(caller, [one.environment]):
            raise NotFound
        return one

    async def listed(
        self,
        caller: Caller,
        page: Page,
        *,
        environment: str = "",
        user_id: str = "",
        agent_id: str = "",
    ) -> list[Conversation]:
        """Newest first, in the environments that this caller reaches."""
        access.permit(caller, "conversation.list")
        environments: tuple[str, ...] = caller.environments
        if environment:
            access.permit_environment(caller, environment)
            environments = (environment,)
        return await self._vault.within(
            caller,
            lambda tx: conversations.listed(
                tx, page, environments=environments, user_id=user_id, agent_id=agent_id
            ),
        )

    async def forget_old(self) -> int:
        """Delete conversations that have been kept for long enough; returns how many.

        The worker finds where there are some; each workspace's go as that workspace. The record of
        what was done stays.
        """
        forgotten = 0
        for _ in range(FORGET_ROUNDS):
            places = await conversations.with_old(self._vault, KEPT_DAYS, FORGET_ROWS)
            for workspace in places:
                nobody = Caller(kind="worker", actor_id="forgetting", workspace=workspace)
                forgotten += await self._vault.within(
                    nobody, lambda tx: conversations.forget(tx, KEPT_DAYS, FORGET_ROWS)
                )
            if not places:
                break
        return forgotten


def _first_frame(row: KeptRow, kept: Kept, values: Mapping[str, Value]) -> dict[str, Any]:
    frame: dict[str, Any] = {
        "type": "conversation_initiation_client_data",
        "dynamic_variables": revealed(values),
        "user_id": row.user_id,
        "environment": kept.environment,
    }
    if row.branch_id:
        frame["branch_id"] = row.branch_id
    return frame


def _itself(workspace: WorkspaceId, conversation_id: str, request_id: str) -> Caller:
    return Caller(
        kind="grant", actor_id=conversation_id, workspace=workspace, request_id=request_id
    )


def _refuse_others(caller: Caller, conversation_id: str) -> None:
    """What a conversation holds is good for itself."""
    if caller.kind == "grant" and caller.actor_id != conversation_id:
        raise NotFound


async def _recorded(
    tx: Transaction,
    caller: Caller,
    action: str,
    conversation_id: str,
    environment: str,
    user_ref: str,
) -> None:
    await audit.record(
        tx,
        caller,
        action,
        target=("conversation", conversation_id),
        user_ref=user_ref,
        environment=environment,
    )
