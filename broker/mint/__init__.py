"""The flow of minting: caller, user, agent and environment become what a conversation starts with.

* What there is, is asked for first; then tokens are made to last, and only then the runtime is
  asked. The conversation and its line in the record are durable before anything is answered.
* The tokens that an answer holds leave the vault for the conversation itself: its line in the
  record names their connections, and it holds them until it ends.
* ``relay`` and ``handle`` open nothing for the client: their values are read when the conversation
  asks for them.
* An Idempotency-Key makes one conversation. Asked again, its unused ticket, grant or handle is
  replaced, and the one before is dead.
"""

from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from typing import Final

import msgspec
from msgspec.structs import replace

from broker import conversations
from broker.admission import signed_url
from broker.agents import AgentRow, Agents
from broker.conversation import (
    CONNECTABLE,
    START_WITHIN,
    Conversation,
    Minted,
    Prepared,
    Wanted,
    as_conversation,
    as_it_was,
    chosen_delivery,
    environment_of,
    is_asked_for,
    min_ttl_of,
)
from broker.conversations import Bearers, NewConversation, Times
from broker.delivery import (
    Delivering,
    Issued,
    issue,
    person_of,
    redeemable,
    revealed,
    shown,
    spent_ones,
    usable,
)
from broker.mint.scenes import Found, Scene, promised
from broker.profile import Profile, Runtime
from broker.runtimes import elevenlabs
from broker.runtimes.elevenlabs import Place, Start
from broker.runtimes.livekit import Entry, join_token
from broker.runtimes.sealed import Contents, sealed_token
from broker.runtimes.signing import SigningKeys
from broker.upstreams import Upstreams
from broker.upstreams.livekit import Projects
from broker.upstreams.rows import Kind, UpstreamRow, every_in, missing_upstream
from broker.variables import Reason, Value, plan, refuse_collisions
from vault import access, idempotency
from vault.database import Transaction
from vault.errors import (
    ConnectionMissing,
    Forbidden,
    IdempotencyInProgress,
    IntegrityError,
    Missing,
    NotFound,
)
from vault.model import Caller, Once, new_id
from vault.secret import Secret
from vault.vault import Vault
from vault.vault.refreshing import Fresh, Hold
from vault.vault.surveys import Survey

# The runtimes that a workspace has an account at.
UPSTREAMS: Final[dict[Runtime, Kind]] = {"elevenlabs": "elevenlabs", "livekit": "livekit"}

# Makes a new conversation durable, with the hashes of what opens it.
Write = Callable[[NewConversation, Issued], Awaitable[Times | None]]


class Minting:
    """Makes conversations."""

    def __init__(
        self,
        vault: Vault,
        delivering: Delivering,
        signing: SigningKeys,
        agents: Agents,
        upstreams: Upstreams,
        projects: Projects,
    ) -> None:
        self._vault = vault
        self._delivering = delivering
        self._signing = signing
        self._agents = agents
        self._upstreams = upstreams
        self._projects = projects

    async def prepare(self, caller: Caller, wanted: Wanted) -> Prepared:
        """Begin to refresh what a conversation would need, and wait for none of it.

        What is fresh now is kept so until it is too late for that conversation to start.
        """
        access.permit(caller, "conversation.prepare")
        scene = await self._scene(caller, replace(wanted, max_wait_ms=0), "")
        found = await self._found(scene, looking=True)
        if ids := [one.connection_id for one in found.fresh.values()]:
            until = scene.survey.now + timedelta(seconds=START_WITHIN)
            asking = replace(caller, environments=scene.itself.environments)
            await self._vault.expect(asking, ids, until)
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
        return await self._mint(caller, wanted, once)

    async def mint_for_number(
        self, caller: Caller, wanted: Wanted, number: str, once: Once
    ) -> Minted:
        """The same for a user who calls, and was identified by this telephone number."""
        access.permit(caller, "call.receive")
        return await self._mint(caller, wanted, once, number)

    async def _mint(
        self, caller: Caller, wanted: Wanted, once: Once | None, number: str | None = None
    ) -> Minted:
        earlier = await self._earlier(caller, once)
        if earlier is not None:
            wanted = as_it_was(wanted, earlier)
        conversation_id = earlier.conversation_id if earlier else new_id("kcv")
        scene = await self._scene(caller, wanted, conversation_id)
        identified = earlier is not None or number is None
        if not identified and number not in scene.survey.profile.phone_numbers:
            # The index is not sealed; the profile is, and it has the last word.
            raise IntegrityError("A telephone number leads to somebody who does not have it.")
        if scene.runtime in UPSTREAMS and scene.upstream is None:
            # Before anything is refreshed for nothing.
            raise missing_upstream(UPSTREAMS[scene.runtime])
        try:
            found = await self._found(scene, looking=scene.looking)
            return await self.made(scene, found, self._writing(scene, once), earlier)
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
        read: list[tuple[AgentRow | None, dict[Kind, UpstreamRow]]] = []

        async def also(tx: Transaction) -> None:
            agent = await self._agents.row(tx, wanted.agent_id)
            needed = wanted.runtime is None or wanted.runtime in UPSTREAMS
            read[:] = [(agent, await every_in(tx) if needed else {})]

        asking = as_conversation(caller, conversation_id, [environment])
        survey = await self._vault.survey(asking, wanted.user_id, environment, also=also)
        [(agent, upstreams)] = read
        profile = await self._agents.profile_from(caller, agent)
        return self.scene(caller, wanted, conversation_id, environment, profile, survey, upstreams)

    def scene(
        self,
        caller: Caller,
        wanted: Wanted,
        conversation_id: str,
        environment: str,
        profile: Profile | None,
        survey: Survey | None,
        upstreams: Mapping[Kind, UpstreamRow],
    ) -> Scene:
        """Who asks for what; raises where that cannot be."""
        runtime, delivery = chosen_delivery(wanted, profile)
        if delivery == "inline" and "tokens:read" not in caller.scopes:
            raise Forbidden("Delivery 'inline' needs the scope tokens:read beside mint.")
        if survey is None:
            raise NotFound("There is no such user.")
        places = [environment, *[one.environment for one in survey.connections.values()]]
        return Scene(
            caller=caller,
            itself=as_conversation(caller, conversation_id, places),
            wanted=wanted,
            environment=environment,
            runtime=runtime,
            delivery=delivery,
            profile=profile,
            survey=survey,
            upstream=upstreams.get(UPSTREAMS[runtime]) if runtime in UPSTREAMS else None,
        )

    async def _found(self, scene: Scene, *, looking: bool) -> Found:
        """Make tokens last, and say which variable comes from where."""
        return self.planned(scene, *await self._fresh(scene, looking=looking))

    def planned(
        self, scene: Scene, fresh: Mapping[str, Fresh], unusable: Mapping[str, Reason]
    ) -> Found:
        """Say which variable comes from where."""
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
            if is_asked_for(one.integration, scene.profile, wanted)
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
            told_later=True,  # with the conversation, before anything is answered
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
            Missing(one.integration, one.reason, links.get(one.integration), one.required)
            for one in found.plan.missing
        )

    # What is made of it

    async def made(
        self, scene: Scene, found: Found, write: Write, earlier: Conversation | None = None
    ) -> Minted:
        """Make what was found into a conversation. ``write`` makes it durable."""
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
        new = self._new(scene, found, upstream_id)
        times = await write(new, issued)
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
            branch_id=scene.wanted.branch_id,
            runtime=scene.runtime,
            delivery=scene.delivery,
            upstream_id=upstream_id or (earlier.upstream_id if earlier else None),
            token=credential if is_token else None,
            signed_url=None if is_token else credential,
            server_url=start.server_url if start else None,
            start_by=known.start_by,
            expires_at=known.expires_at,
            variables=shown(values, scene.delivery)
            if issued.bearer or issued.ticket
            else spent_ones(values, scene.delivery),
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
        if scene.runtime not in UPSTREAMS or scene.delivery == "server":
            return None, issued
        if scene.upstream is None:
            raise missing_upstream(UPSTREAMS[scene.runtime])
        if scene.runtime == "livekit":
            return await self._joining(scene, scene.upstream, issued), issued
        client = await self._upstreams.client_of(scene.itself, scene.upstream)
        place = Place(
            agent_id=scene.wanted.agent_id,
            environment=scene.environment,
            branch_id=scene.wanted.branch_id,
        )
        if scene.wanted.channel == "webrtc":
            return await elevenlabs.conversation_token(client, place), issued
        return await elevenlabs.signed_url(client, place), issued

    async def _joining(self, scene: Scene, row: UpstreamRow, issued: Issued) -> Start:
        """The way into the conversation's own room, with its handle for the agent."""
        project = await self._projects.project(scene.itself, row)
        if issued.bearer is None:
            raise IntegrityError("A room is joined with a handle.")
        entry = Entry(
            conversation_id=scene.itself.actor_id,
            agent_id=scene.wanted.agent_id,
            user_id=scene.wanted.user_id,
            environment=scene.environment,
            handle=issued.bearer,
        )
        token = join_token(project, entry, scene.survey.now)
        return Start(credential=token, conversation_id=None, server_url=project.url)

    def _new(self, scene: Scene, found: Found, upstream_id: str | None) -> NewConversation:
        """What is written down of it."""
        itself, wanted = scene.itself, scene.wanted
        kept = promised(scene, found)
        context = conversations.context(itself.workspace, itself.actor_id)
        return NewConversation(
            conversation_id=itself.actor_id,
            agent_id=wanted.agent_id,
            user_id=wanted.user_id,
            environment=scene.environment,
            runtime=scene.runtime,
            channel=wanted.channel,
            delivery=scene.delivery,
            branch_id=wanted.branch_id,
            key_id=scene.caller.actor_id,
            connection_ids=[one.connection_id for one in kept.reached],
            handed=[] if scene.looking else [one.connection_id for one in found.fresh.values()],
            kept=self._vault.seal_owned(
                itself, scene.survey.owner, context, conversations.packed(kept)
            ),
            armed=wanted.armed,
            upstream_id=upstream_id,
            lasts=wanted.lasts,
        )

    def _writing(self, scene: Scene, once: Once | None) -> Write:
        """In a transaction of its own; ``None`` where an earlier one has been begun with."""

        async def write(new: NewConversation, issued: Issued) -> Times | None:
            bearers = self._delivering.bearers(issued)
            return await self._vault.within(scene.caller, lambda tx: work(tx, new, bearers))

        async def work(tx: Transaction, new: NewConversation, bearers: Bearers) -> Times | None:
            before = await idempotency.claim(tx, scene.caller, once)
            if before is None:
                made = await conversations.insert(
                    tx,
                    scene.caller,
                    new,
                    bearers,
                    user_ref=scene.survey.user_ref,
                    start_within=START_WITHIN,
                )
                await idempotency.settle(tx, scene.caller, once, new.conversation_id.encode())
                return made
            if before.decode() != new.conversation_id:
                raise IdempotencyInProgress
            ref = scene.survey.user_ref
            return await conversations.reissue(tx, scene.caller, new, bearers, ref)

        return write

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
