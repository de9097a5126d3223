"""Minting where everything is plainly right: many at once, in two statements for all of them.

* The first reads, for a batch of mints of any workspaces, all that each has to know; the second
  writes, for a batch, conversations, lines in the record and holds, in one commit. A mint is
  written only if what it was read with still holds: the key lives, the user is there, every token
  is the present one. It is durable before anything is answered.
* Between the two lies what a statement cannot do: open what the user's own key seals, decide which
  variable comes from where, and seal that under the same key.
* ``None`` is no refusal. What has to be refreshed, waited for, asked of an upstream or linked, what
  changed meanwhile, and whoever is not let in, goes the long way, which has the last word. Nothing
  has happened by then.
* Nearly all users of an agent look alike, but for values: ``patterns`` knows how, and puts them in.
* What is made of the rows is ``Minting``'s, for both ways; ``tests/flows/test_mint_quick.py`` holds
  the two against each other.
"""

import hmac
from collections.abc import Sequence
from datetime import timedelta
from typing import NamedTuple

from broker import conversations
from broker.agents import Agents
from broker.conversation import (
    START_WITHIN,
    Minted,
    Wanted,
    environment_of,
    is_asked_for,
    min_ttl_of,
)
from broker.conversations import Bearers, NewConversation, Times, packed
from broker.delivery import Delivering, Issued, issue, redeemable, worded
from broker.mint import Minting, looking, writing
from broker.mint.batches import Batches, Homes, columns
from broker.mint.looking import (
    NOWHERE,
    SECOND,
    GoodOnes,
    Life,
    LookRow,
    Question,
    by_place,
    look,
    moment,
)
from broker.mint.patterns import Course, Pattern, Patterns, Told, Written, block, json
from broker.mint.scenes import Scene
from broker.mint.writing import Deed, write
from broker.profile import Profile
from broker.variables import refuse_collisions
from vault import access
from vault.egress import is_header_value
from vault.model import Caller, new_id
from vault.store.connections import BareTokens
from vault.vault import Vault
from vault.vault.looks import Settled
from vault.vault.surveys import Opened


class Changed(Exception):
    """What was looked at is not so any more."""


class _One(NamedTuple):
    """One who mints, and what was found."""

    key_hash: bytes
    caller: Caller
    wanted: Wanted
    row: LookRow
    profile: Profile | None


class Quick:
    """The short way to a conversation."""

    def __init__(
        self, vault: Vault, minting: Minting, agents: Agents, delivering: Delivering, *, batch: int
    ) -> None:
        self._vault = vault
        self._minting = minting
        self._agents = agents
        self._delivering = delivering
        self._patterns = Patterns(vault, minting)
        self._looks = Batches(self._look, batch)
        self._writes = Batches(self._write, batch)
        self._homes = Homes()

    async def answer(
        self, key_hash: bytes, request_id: str, wanted: Wanted, written: Written
    ) -> tuple[Caller, bytes] | None:
        """Make a conversation for the holder of this key, and write the answer; ``None``: that
        takes the long way. ``written`` is the same function each time.
        """
        one = await self._looked(key_hash, request_id, wanted)
        if one is None:
            return None
        try:
            answer = await self._by_pattern(one, written)
            if answer is None:
                made = await self._usually(one)
                answer = None if made is None else written(made)
        except Changed:
            return None
        return None if answer is None else (one.caller, answer)

    async def mint(
        self, key_hash: bytes, request_id: str, wanted: Wanted
    ) -> tuple[Caller, Minted] | None:
        """The same without a pattern, and before it is written."""
        one = await self._looked(key_hash, request_id, wanted)
        if one is None:
            return None
        try:
            made = await self._usually(one)
        except Changed:
            return None
        return None if made is None else (one.caller, made)

    async def _looked(self, key_hash: bytes, request_id: str, wanted: Wanted) -> _One | None:
        """What there is, and for whom; ``None`` where that is for the long way to say."""
        if wanted.connect_links:
            return None
        asked = Question(key_hash, wanted.user_id, wanted.environment or "", wanted.agent_id)
        row = await self._looks.ask(self._homes.of(key_hash), asked)
        if row is None or not hmac.compare_digest(row.hash, key_hash):
            return None
        self._homes.remember(key_hash, row.workspace_id)
        caller = row.caller(request_id)
        access.permit(caller, "conversation.mint")
        profile = None
        if row.agent_sealed is not None and row.agent_generation is not None:
            profile = await self._agents.profile_of(
                caller, wanted.agent_id, row.agent_generation, row.agent_sealed
            )
        return _One(key_hash, caller, wanted, row, profile)

    # By a pattern

    async def _by_pattern(self, one: _One, written: Written) -> bytes | None:
        """For users who are as many others are: open what is theirs, and put it into the gaps.

        It steps aside, and nothing has happened, where there is no pattern, and where a token is
        not good as it is, or not what a header can carry.
        """
        _, caller, wanted, row, profile = one
        course = await self._patterns.course(caller, wanted, row, profile)
        if course is None:
            return None
        stands = [row.stands[number] for number in course.asked]
        good = row.good_ones(list(zip(stands, course.places, strict=True)), course.min_ttl)
        if good is None:
            return None
        opened = await self._vault.opened(caller, wanted.user_id, row, good.tokens)
        if not (course.looking or all(map(_can_be_carried, opened.tokens))):
            return None
        told = _told(course, wanted, opened, good)
        pattern = course.patterns.get(told) or await self._patterns.pattern(
            course, caller, wanted, opened, told, written
        )
        if pattern is None:
            return None
        refuse_collisions(pattern.plan, wanted.dynamic_variables)
        issued = issue(course.delivery, armed=wanted.armed)
        if course.delivery == "sealed":
            issued = redeemable(issued)
        conversation_id = new_id("kcv")
        values = _values(one, stands, opened, conversation_id, issued)
        deed = self._deed_by(one, course, pattern, stands, opened, conversation_id, issued)
        times = await self._writes.ask(caller.workspace, deed)
        if times is None:
            raise Changed
        values[2:4] = json(times.start_by), json(times.expires_at)
        return pattern.answer.filled(values)

    def _deed_by(
        self,
        one: _One,
        course: Course,
        pattern: Pattern,
        stands: Sequence[Life],
        opened: Opened,
        conversation_id: str,
        issued: Issued,
    ) -> Deed:
        key_hash, caller, wanted, row, _ = one
        ids = [life.connection_id for life in stands]
        given = packed(wanted.dynamic_variables) if wanted.dynamic_variables else b""
        kept = pattern.kept.filled([*map(str.encode, ids), given])
        context = conversations.context(caller.workspace, conversation_id)
        bearers = self._delivering.bearers(issued)
        return Deed(
            hashes=key_hash,
            workspace_ids=caller.workspace,
            conversation_ids=conversation_id,
            event_ids=_event_of(conversation_id),
            user_ids=wanted.user_id,
            user_refs=opened.user_ref,
            agent_ids=wanted.agent_id,
            environments=course.environment,
            runtimes=course.runtime,
            channels=wanted.channel,
            deliveries=course.delivery,
            branch_ids=wanted.branch_id,
            reached=" ".join([ids[number] for number in pattern.reached]),
            kept=self._vault.seal_owned(caller, opened.owner, context, kept),
            armed=wanted.armed,
            bearer_kinds=bearers.kind or "",
            bearer_hashes=bearers.bearer,
            ticket_hashes=bearers.ticket,
            start_within=START_WITHIN,
            lasts=wanted.lasts,
            promised=course.min_ttl,
            request_ids=caller.request_id,
            looking=course.looking,
            token_ids=" ".join(ids),
            token_generations=" ".join([life.generation for life in stands]),
            unnoticed=row.unnoticed_of(ids),
        )

    # The usual way

    async def _usually(self, one: _One) -> Minted | None:
        key_hash, caller, wanted, row, profile = one
        environment = environment_of(caller, wanted.environment)
        survey = await self._vault.surveyed(caller, wanted.user_id, environment, row.user())
        scene = self._minting.scene(caller, wanted, new_id("kcv"), environment, profile, survey, {})
        if not row.is_ours_alone(scene.environment, scene.runtime, scene.delivery, profile):
            return None
        settled = _settled(scene, row)
        if settled is None:
            return None
        return await self._made(
            scene,
            key_hash,
            settled,
            unnoticed=row.unnoticed_of([life.connection_id for life in settled]),
        )

    async def _made(
        self, scene: Scene, key_hash: bytes, settled: Sequence[Settled], *, unnoticed: bool
    ) -> Minted:
        survey, min_ttl = scene.survey, min_ttl_of(scene.wanted, scene.profile)
        fresh = await self._vault.settled_tokens(
            scene.itself,
            survey.user_id,
            survey.opener,
            settled,
            now=survey.now,
            min_ttl=timedelta(seconds=min_ttl),
            look=scene.looking,
        )
        found = self._minting.planned(scene, {one.integration: one for one in fresh}, {})

        async def write(new: NewConversation, issued: Issued) -> Times:
            bearers = self._delivering.bearers(issued)
            deed = _deed(scene, key_hash, new, bearers, settled, unnoticed=unnoticed)
            times = await self._writes.ask(scene.caller.workspace, deed)
            if times is None:
                raise Changed
            return times

        return await self._minting.made(scene, found, write)

    # The two statements

    async def _look(self, questions: Sequence[Question]) -> list[LookRow | None]:
        rows = await self._vault.look_up_for_guest(
            look, **columns(Question._fields, questions, looking.ARRAYS)
        )
        return by_place(rows, len(questions))

    async def _write(self, deeds: Sequence[Deed]) -> list[Times | None]:
        rows = await self._vault.write_for_guest(
            write, **columns(Deed._fields, deeds, writing.ARRAYS)
        )
        times = {
            row.conversation_id: Times(row.created_at, row.start_by, row.expires_at) for row in rows
        }
        return [times.get(one.conversation_ids) for one in deeds]


def _settled(scene: Scene, row: LookRow) -> list[Settled] | None:
    """What is asked for, if all of it can be handed out as it is."""
    min_ttl = timedelta(seconds=min_ttl_of(scene.wanted, scene.profile))
    found = []
    for one in scene.survey.connections.values():
        if is_asked_for(one.integration, scene.profile, scene.wanted):
            tokens = row.tokens_of(one.connection_id)
            if tokens is None or not tokens.lasts(min_ttl, scene.survey.now):
                return None
            found.append(tokens)
    return found


def _deed(
    scene: Scene,
    key_hash: bytes,
    new: NewConversation,
    bearers: Bearers,
    settled: Sequence[Settled],
    *,
    unnoticed: bool,
) -> Deed:
    return Deed(
        hashes=key_hash,
        workspace_ids=scene.caller.workspace,
        conversation_ids=new.conversation_id,
        event_ids=new_id("evt"),
        user_ids=new.user_id,
        user_refs=scene.survey.user_ref,
        agent_ids=new.agent_id,
        environments=new.environment,
        runtimes=new.runtime,
        channels=new.channel,
        deliveries=new.delivery,
        branch_ids=new.branch_id,
        reached=" ".join(new.connection_ids),
        kept=new.kept,
        armed=new.armed,
        bearer_kinds=bearers.kind or "",
        bearer_hashes=bearers.bearer,
        ticket_hashes=bearers.ticket,
        start_within=START_WITHIN,
        lasts=new.lasts,
        promised=min_ttl_of(scene.wanted, scene.profile),
        request_ids=scene.caller.request_id,
        looking=scene.looking,
        token_ids=" ".join([one.connection_id for one in settled]),
        token_generations=" ".join([str(one.generation) for one in settled]),
        unnoticed=unnoticed,
    )


def _event_of(conversation_id: str) -> str:
    """The id of the line that says that this conversation was minted: one draw for both."""
    return "evt" + conversation_id[3:]


def _can_be_carried(one: BareTokens) -> bool:
    """Is there a token, and can it stand in a header?"""
    return bool(one.access_token) and is_header_value((one.access_token or "").encode())


def _told(course: Course, wanted: Wanted, opened: Opened, good: GoodOnes) -> Told:
    given = wanted.dynamic_variables
    return Told(
        named=opened.profile.name is not None,
        attributes=tuple(opened.profile.attributes),
        extras=tuple([tuple(one.extras) for one in opened.tokens]),
        late=good.late,
        given=bool(given),
        clients=tuple([one for one in given if one in course.clients]) if course.clients else (),
    )


def _values(
    one: _One, stands: Sequence[Life], opened: Opened, conversation_id: str, issued: Issued
) -> list[bytes]:
    """What goes into an answer's gaps, in their order; the two times are not known yet."""
    wanted, now, profile = one.wanted, one.row.now, opened.profile
    values = [conversation_id.encode(), json(wanted.user_id)[1:-1], b"", b"", *worded(issued)]
    values += (block(wanted.dynamic_variables), json(profile.name))
    values += map(json, profile.attributes.values())
    for life, tokens in zip(stands, opened.tokens, strict=True):
        values += (json(tokens.access_token)[1:-1], life.generation.encode())
        if life.ends == NOWHERE:
            values += (b"null", b"null")
        else:
            ends = int(life.ends)
            values += (json(moment(ends)), b"%d" % ((ends - now) // SECOND))
        values += [json(extra)[1:-1] for extra in tokens.extras.values()]
    return values
