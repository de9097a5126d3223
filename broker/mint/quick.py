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
from functools import partial
from operator import attrgetter
from typing import Final

from msgspec import Struct

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
from broker.mint import Minting
from broker.mint.batches import Batches, Homes
from broker.mint.looking import (
    NOWHERE,
    SECOND,
    LookRow,
    Question,
    Stands,
    look_up,
    moment,
)
from broker.mint.patterns import Course, Pattern, Patterns, Told, Written, block, json
from broker.mint.scenes import Scene
from broker.mint.writing import Deed, write_down
from broker.profile import Profile
from broker.variables import are_free, refuse_collisions
from vault import access
from vault.egress import is_header_value
from vault.model import Caller, new_id
from vault.vault import Vault
from vault.vault.looks import Settled
from vault.vault.surveys import Opened, SealedTokens

GATHER: Final = 0.002  # seconds; a crowd of 32 then needs half as many statements

_extras_of: Final = attrgetter("extras")


class Changed(Exception):
    """What was looked at is not so any more."""


class _One(Struct, frozen=True):
    """One who mints, and what was found. ``stands``: how all connections do."""

    key_hash: bytes
    caller: Caller
    wanted: Wanted
    row: LookRow
    stands: Stands
    profile: Profile | None

    def __repr__(self) -> str:
        return f"_One({self.row})"


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
        self._looks = Batches(partial(look_up, vault), batch, gather=GATHER)
        self._writes = Batches(partial(write_down, vault), batch, gather=GATHER)
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
        return _One(key_hash, caller, wanted, row, row.stands(), profile)

    # By a pattern

    async def _by_pattern(self, one: _One, written: Written) -> bytes | None:
        """For users who are as many others are: open what is theirs, and put it into the gaps.

        It steps aside, and nothing has happened, where there is no pattern, and where a token is
        not good as it is, or not what a header can carry.
        """
        caller, wanted, row, stands = one.caller, one.wanted, one.row, one.stands
        course = await self._patterns.course(caller, wanted, row, stands.states, one.profile)
        if course is None:
            return None
        if not course.takes_all:
            stands = stands.at(course.asked)
        late = stands.are_late(row.now, course.min_ttl)
        if late is None:
            return None
        opened = await self._vault.opened(
            caller, wanted.user_id, row, _sealed_of(stands, course.environments)
        )
        texts = [tokens.access_token for tokens in opened.tokens]
        if not (course.looking or _can_be_carried(texts)):
            return None
        told = _told(course, wanted, opened, late)
        pattern = course.patterns.get(told) or await self._patterns.pattern(
            course, caller, wanted, opened, told, written
        )
        if pattern is None:
            return None
        given = block(wanted.dynamic_variables)
        if not are_free(pattern.plan, wanted.dynamic_variables, len(given)):
            refuse_collisions(pattern.plan, wanted.dynamic_variables)
        issued = issue(course.delivery, armed=wanted.armed)
        if course.delivery == "sealed":
            issued = redeemable(issued)
        conversation_id = new_id("kcv")
        values = [
            conversation_id.encode(),
            json(wanted.user_id)[1:-1],
            b"",
            b"",
            *worded(issued),
            given,
        ]
        values += _values(row.now, stands, opened, texts)
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
        stands: Stands,
        opened: Opened,
        conversation_id: str,
        issued: Issued,
    ) -> Deed:
        caller, wanted, ids = one.caller, one.wanted, stands.ids
        given = packed(wanted.dynamic_variables) if wanted.dynamic_variables else b""
        kept = pattern.kept.filled([*map(str.encode, ids), given])
        context = conversations.context(caller.workspace, conversation_id)
        bearers = self._delivering.bearers(issued)
        return Deed(
            hashes=one.key_hash,
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
            token_generations=" ".join(stands.generations),
            unnoticed=one.row.unnoticed(stands),
        )

    # The usual way

    async def _usually(self, one: _One) -> Minted | None:
        caller, wanted, row, profile = one.caller, one.wanted, one.row, one.profile
        environment = environment_of(caller, wanted.environment)
        survey = await self._vault.surveyed(
            caller, wanted.user_id, environment, row.user(one.stands)
        )
        scene = self._minting.scene(caller, wanted, new_id("kcv"), environment, profile, survey, {})
        if not row.is_ours_alone(scene.environment, scene.runtime, scene.delivery, profile):
            return None
        found = _settled(scene, row, one.stands)
        if found is None:
            return None
        settled, places = found
        unnoticed = row.unnoticed(one.stands.at(places))
        return await self._made(scene, one.key_hash, settled, unnoticed=unnoticed)

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


def _settled(scene: Scene, row: LookRow, stands: Stands) -> tuple[list[Settled], list[int]] | None:
    """What is asked for, with its places, if all of it can be handed out as it is."""
    min_ttl = timedelta(seconds=min_ttl_of(scene.wanted, scene.profile))
    found, places = [], []
    for one in scene.survey.connections.values():
        if is_asked_for(one.integration, scene.profile, scene.wanted):
            number = stands.ids.index(one.connection_id)
            tokens = row.tokens_of(stands, number)
            if tokens is None or not tokens.lasts(min_ttl, scene.survey.now):
                return None
            found.append(tokens)
            places.append(number)
    return found, places


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


def _sealed_of(stands: Stands, environments: Sequence[str]) -> list[SealedTokens]:
    generations = map(int, stands.tokens_generations)
    return list(map(SealedTokens, stands.ids, generations, environments, stands.sealed))


def _can_be_carried(tokens: Sequence[str | None]) -> bool:
    """Is each of them there, and can it stand in a header?"""
    texts = list(filter(None, tokens))
    if len(texts) < len(tokens) or texts != list(map(str.strip, texts)):
        return False
    return is_header_value("".join(texts).encode())


def _told(course: Course, wanted: Wanted, opened: Opened, late: tuple[bool, ...]) -> Told:
    given = wanted.dynamic_variables
    return Told(
        named=opened.profile.name is not None,
        attributes=tuple(opened.profile.attributes),
        extras=tuple(map(tuple, map(_extras_of, opened.tokens))),
        late=late,
        given=bool(given),
        clients=tuple([one for one in given if one in course.clients]) if course.clients else (),
    )


def _values(now: int, stands: Stands, opened: Opened, texts: Sequence[str | None]) -> list[bytes]:
    """What of a user and of the connections goes into an answer's gaps, in their order."""
    values = [json(opened.profile.name)]
    values += map(json, opened.profile.attributes.values())
    values += [json(text)[1:-1] for text in texts]
    values += map(str.encode, stands.generations)
    ends = [None if one == NOWHERE else int(one) for one in stands.ends]
    values += [b"null" if one is None else json(moment(one)) for one in ends]
    values += [b"null" if one is None else b"%d" % ((one - now) // SECOND) for one in ends]
    for tokens in opened.tokens:
        if tokens.extras:
            values += [json(extra)[1:-1] for extra in tokens.extras.values()]
    return values
