"""The flow of minting: caller, user, agent and environment become what a conversation starts with.

* What there is, is asked for first; then tokens are made to last, and only then the runtime is
  asked. The conversation and its line in the record are durable before anything is answered.
* The tokens that an answer holds leave the vault for the conversation itself: the record names it,
  and it holds them until it ends.
* ``relay`` and ``handle`` open nothing for the client: their values are read when the conversation
  asks for them.
* An Idempotency-Key makes one conversation. Asked again, its unused ticket, grant or handle is
  replaced, and the one before is dead.
"""

from collections.abc import Mapping
from datetime import timedelta

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from broker import conversations
from broker.admission import signed_url
from broker.agents import AgentRow, Agents
from broker.conversation import (
    CONNECTABLE,
    START_WITHIN,
    Conversation,
    Delivery,
    Kept,
    Minted,
    Prepared,
    Reached,
    Ready,
    Wanted,
    as_conversation,
    chosen_delivery,
    environment_of,
    min_ttl_of,
)
from broker.conversations import NewConversation, Times
from broker.delivery import (
    Delivering,
    Issued,
    issue,
    person_of,
    redeemable,
    revealed,
    shown,
    usable,
    without_secrets,
)
from broker.profile import Profile, Runtime
from broker.runtimes import elevenlabs
from broker.runtimes.elevenlabs import Place, Start
from broker.runtimes.sealed import Contents, sealed_token
from broker.runtimes.signing import SigningKeys
from broker.upstreams import UpstreamRow, Upstreams
from broker.variables import Plan, Reason, Value, plan, refuse_collisions
from vault import access, idempotency
from vault.database import Transaction
from vault.errors import (
    ConnectionMissing,
    Forbidden,
    IdempotencyInProgress,
    Missing,
    NotFound,
    UpstreamMissing,
)
from vault.model import Caller, Once, new_id
from vault.secret import Secret
from vault.vault import Vault
from vault.vault.refreshing import Fresh, Hold
from vault.vault.surveys import Survey


class Scene(Struct, frozen=True, kw_only=True):
    """Who asks for what; ``itself``: the conversation that it is for."""

    caller: Caller
    itself: Caller
    wanted: Wanted
    environment: str
    runtime: Runtime
    delivery: Delivery
    profile: Profile | None
    survey: Survey
    upstream: UpstreamRow | None

    def __repr__(self) -> str:
        return f"Scene({self.itself.actor_id})"

    @property
    def looking(self) -> bool:
        """Is nothing of a token needed now?"""
        return self.delivery in ("relay", "handle") or not self.wanted.armed


class Found(Struct, frozen=True, kw_only=True):
    """What there is for it: the plan, and the connections that can be used, by integration."""

    plan: Plan
    fresh: Mapping[str, Fresh]

    def ready(self) -> tuple[Ready, ...]:
        return tuple(
            Ready(
                integration=integration,
                generation=one.generation,
                expires_at=one.expires_at,
                expires_in=one.expires_in,
                degraded=one.degraded,
                stale=one.stale,
                refresh_required=one.refresh_required,
                variables=tuple(self.plan.names_of(integration)),
            )
            for integration, one in self.fresh.items()
            if integration in self.plan.connections
        )


class Minting:
    """Makes conversations."""

    def __init__(
        self,
        vault: Vault,
        delivering: Delivering,
        signing: SigningKeys,
        agents: Agents,
        upstreams: Upstreams,
    ) -> None:
        self._vault = vault
        self._delivering = delivering
        self._signing = signing
        self._agents = agents
        self._upstreams = upstreams

    async def prepare(self, caller: Caller, wanted: Wanted) -> Prepared:
        """Begin to refresh what a conversation would need, and wait for none of it."""
        access.permit(caller, "conversation.prepare")
        scene = await self._scene(caller, replace(wanted, max_wait_ms=0), "")
        found = await self._found(scene, looking=True)
        return Prepared(
            agent_id=wanted.agent_id,
            user_id=wanted.user_id,
            environment=scene.environment,
            ready=found.ready(),
            missing=await self._missing(scene, found),
        )

    async def mint(self, caller: Caller, wanted: Wanted, once: Once | None = None) -> Minted:
        """Make a conversation, or answer once more what an Idempotency-Key has made."""
        access.permit(caller, "conversation.mint")
        earlier = await self._earlier(caller, once)
        conversation_id = earlier.conversation_id if earlier else new_id("kcv")
        scene = await self._scene(caller, wanted, conversation_id)
        if scene.runtime == "elevenlabs" and scene.upstream is None:
            raise UpstreamMissing  # before anything is refreshed for nothing
        try:
            found = await self._found(scene, looking=scene.looking)
            return await self._made(scene, found, once, earlier)
        except Exception:
            ids = [one.connection_id for one in scene.survey.connections.values()]
            await self._vault.release(scene.itself, ids)
            raise

    # What there is

    async def _earlier(self, caller: Caller, once: Once | None) -> Conversation | None:
        if once is None:
            return None

        async def work(tx: Transaction) -> Conversation | None:
            result = await idempotency.earlier(tx, caller, once)
            if result is None:
                return None
            found = await conversations.get(tx, result.decode())
            if found is None:
                raise NotFound("The conversation that this request made is gone.")
            return found

        return await self._vault.within(caller, work)

    async def _scene(self, caller: Caller, wanted: Wanted, conversation_id: str) -> Scene:
        environment = environment_of(caller, wanted.environment)
        read: list[tuple[AgentRow | None, UpstreamRow | None]] = []

        async def also(tx: Transaction) -> None:
            agent = await self._agents.row(tx, wanted.agent_id)
            needed = wanted.runtime in (None, "elevenlabs")
            read[:] = [(agent, await self._upstreams.row_in(tx) if needed else None)]

        survey = await self._vault.survey(caller, wanted.user_id, environment, also=also)
        [(agent, upstream)] = read
        profile = await self._agents.profile_from(caller, agent)
        runtime, delivery = chosen_delivery(wanted, profile)
        if delivery == "inline" and "tokens:read" not in caller.scopes:
            raise Forbidden("Delivery 'inline' needs the scope tokens:read beside mint.")
        if survey is None:
            raise NotFound("There is no such user.")
        places = [environment, *(one.environment for one in survey.connections.values())]
        return Scene(
            caller=caller,
            itself=as_conversation(caller, conversation_id, places),
            wanted=wanted,
            environment=environment,
            runtime=runtime,
            delivery=delivery,
            profile=profile,
            survey=survey,
            upstream=upstream,
        )

    async def _found(self, scene: Scene, *, looking: bool) -> Found:
        """Make tokens last, and say which variable comes from where."""
        fresh, unusable = await self._fresh(scene, looking=looking)
        planned = plan(
            scene.profile,
            person_of(scene.survey),
            [usable(one) for one in fresh.values()],
            unusable=unusable,
            only=scene.wanted.integrations,
        )
        refuse_collisions(planned, scene.wanted.dynamic_variables)
        return Found(plan=planned, fresh=fresh)

    async def _fresh(
        self, scene: Scene, *, looking: bool
    ) -> tuple[dict[str, Fresh], dict[str, Reason]]:
        """What can be used now, and why the rest cannot."""
        wanted = scene.wanted
        asked = [
            one
            for one in scene.survey.connections.values()
            if _is_asked_for(one.integration, scene.profile, wanted)
        ]
        unusable: dict[str, Reason] = {one.integration: "pending" for one in asked if one.pending}
        by_id = {one.connection_id: one.integration for one in asked if not one.pending}
        if not by_id:
            return {}, unusable
        until = scene.survey.now + timedelta(seconds=wanted.lasts)
        every = await self._vault.fresh_tokens(
            scene.itself,
            list(by_id),
            min_ttl=timedelta(seconds=min_ttl_of(wanted, scene.profile)),
            wait=wanted.max_wait_ms / 1000,
            hold=None if looking else Hold(scene.itself.actor_id, until),
            look=looking,
            durable_later=True,  # with the conversation, before anything is answered
        )
        fresh = {by_id[one.connection_id]: one for one in every if one.reason is None}
        for one in every:
            if one.reason is not None:
                unusable[by_id[one.connection_id]] = one.reason
        return fresh, unusable

    async def _missing(self, scene: Scene, found: Found) -> tuple[Missing, ...]:
        """What is not there; with a link, where one was asked for and helps."""
        lacking = [one for one in found.plan.missing if one.reason in CONNECTABLE]
        links: dict[str, Secret] = {}
        if scene.wanted.connect_links and lacking:
            user_id = scene.wanted.user_id
            asked = {user_id: [one.integration for one in lacking]}
            invited = await self._vault.invite_users(scene.caller, asked, scene.environment)
            links = invited.get(user_id, {})
        return tuple(
            Missing(one.integration, one.reason, links.get(one.integration))
            for one in found.plan.missing
        )

    # What is made of it

    async def _made(
        self, scene: Scene, found: Found, once: Once | None, earlier: Conversation | None
    ) -> Minted:
        missing = await self._missing(scene, found)
        if scene.wanted.on_missing == "fail" and found.plan.required_and_missing:
            raise ConnectionMissing(missing=missing)
        spent = earlier is not None and (earlier.state != "prepared" or not earlier.lives)
        issued = Issued() if spent else issue(scene.delivery, armed=scene.wanted.armed)
        values = await self._delivering.values(
            scene.itself,
            found.plan,
            scene.survey,
            found.fresh,
            environment=scene.environment,
            issued=issued,
            given=scene.wanted.dynamic_variables,
            handles_only=scene.looking,
        )
        start = None
        if not spent:
            start, issued = await self._started(scene, values, issued)
        upstream_id = start.conversation_id if start else None
        times = await self._kept(scene, found, once, issued, upstream_id)
        if times is None:  # somebody has begun with what was answered before
            start, issued = None, Issued()
        known = times or earlier
        if known is None:
            raise NotFound
        credential = start.credential if start else None
        is_token = scene.runtime != "elevenlabs" or scene.wanted.channel == "webrtc"
        return Minted(
            conversation_id=scene.itself.actor_id,
            agent_id=scene.wanted.agent_id,
            user_id=scene.wanted.user_id,
            environment=scene.environment,
            runtime=scene.runtime,
            delivery=scene.delivery,
            upstream_id=upstream_id or (earlier.upstream_id if earlier else None),
            token=credential if is_token else None,
            signed_url=None if is_token else credential,
            start_by=known.start_by,
            expires_at=known.expires_at,
            variables=shown(values, scene.delivery)
            if issued.bearer or issued.ticket
            else without_secrets(values),
            ready=found.ready(),
            missing=missing,
        )

    async def _started(
        self, scene: Scene, values: Mapping[str, Value], issued: Issued
    ) -> tuple[Start | None, Issued]:
        """What the client starts with. A sealed token that is too large becomes one to redeem."""
        if issued.ticket is not None:
            url = signed_url(
                self._vault.origin,
                agent_id=scene.wanted.agent_id,
                ticket=issued.ticket,
                conversation_id=None,
            )
            return Start(credential=Secret(url), conversation_id=None), issued
        if scene.delivery == "sealed":
            token = await self._sealed(scene, values)
            if token is None:
                issued = redeemable(issued)
                token = issued.ticket
            start = Start(credential=token, conversation_id=None) if token else None
            return start, issued
        if scene.runtime != "elevenlabs" or scene.delivery == "server":
            return None, issued
        if scene.upstream is None:
            raise UpstreamMissing
        client = await self._upstreams.client_of(scene.itself, scene.upstream)
        place = Place(
            agent_id=scene.wanted.agent_id,
            environment=scene.environment,
            branch_id=scene.wanted.branch_id,
        )
        if scene.wanted.channel == "webrtc":
            return await elevenlabs.conversation_token(client, place), issued
        return await elevenlabs.signed_url(client, place), issued

    async def _kept(
        self,
        scene: Scene,
        found: Found,
        once: Once | None,
        issued: Issued,
        upstream_id: str | None,
    ) -> Times | None:
        """Write it down; ``None`` where an earlier one has been begun with."""
        itself, wanted, survey = scene.itself, scene.wanted, scene.survey
        reached = _reached(survey, found.plan)
        kept = Kept(
            agent_id=wanted.agent_id,
            environment=scene.environment,
            plan=found.plan,
            profile=scene.profile,
            reached=reached,
            given=dict(wanted.dynamic_variables),
            min_ttl=min_ttl_of(wanted, scene.profile),
        )
        context = conversations.context(itself.workspace, itself.actor_id)
        new = NewConversation(
            conversation_id=itself.actor_id,
            agent_id=wanted.agent_id,
            user_id=wanted.user_id,
            environment=scene.environment,
            runtime=scene.runtime,
            channel=wanted.channel,
            delivery=scene.delivery,
            branch_id=wanted.branch_id,
            key_id=scene.caller.actor_id,
            connection_ids=[one.connection_id for one in reached],
            kept=self._vault.seal_owned(itself, survey.owner, context, conversations.packed(kept)),
            armed=wanted.armed,
            upstream_id=upstream_id,
            lasts=wanted.lasts,
        )
        bearers = self._delivering.bearers(issued)

        async def work(tx: Transaction) -> Times | None:
            before = await idempotency.claim(tx, scene.caller, once)
            if before is None:
                made = await conversations.insert(
                    tx,
                    scene.caller,
                    new,
                    bearers,
                    user_ref=survey.user_ref,
                    start_within=START_WITHIN,
                )
                await idempotency.settle(tx, scene.caller, once, itself.actor_id.encode())
                return made
            if before.decode() != itself.actor_id:
                raise IdempotencyInProgress
            return await conversations.reissue(tx, new, bearers)

        return await self._vault.within(scene.caller, work)

    async def _sealed(self, scene: Scene, values: Mapping[str, Value]) -> Secret | None:
        key = scene.profile.public_key if scene.profile else None
        if key is None:
            return None
        contents = Contents(
            issuer=f"{self._vault.origin}/v1/jwks/{scene.caller.workspace}",
            agent_id=scene.wanted.agent_id,
            user_id=scene.wanted.user_id,
            environment=scene.environment,
            variables=revealed(values),
        )
        signing = await self._signing.current(scene.itself)
        return sealed_token(contents, signing, msgspec.to_builtins(key), scene.survey.now)


def _is_asked_for(integration: str, profile: Profile | None, wanted: Wanted) -> bool:
    if wanted.integrations is not None and integration not in wanted.integrations:
        return False
    if profile is None or profile.integrations is None:
        return True
    return profile.needed(integration) is not None


def _reached(survey: Survey, planned: Plan) -> tuple[Reached, ...]:
    return tuple(
        Reached(
            integration=integration,
            connection_id=connection_id,
            environment=survey.connections[integration].environment,
        )
        for integration, connection_id in planned.connections.items()
    )
