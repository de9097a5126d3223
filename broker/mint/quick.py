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
* What is made of the rows is ``Minting``'s, for both ways; ``tests/flows/test_mint_quick.py`` holds
  the two against each other.
"""

import hmac
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final, NamedTuple

from msgspec import Struct

from broker.agents import Agents
from broker.conversation import (
    START_WITHIN,
    Minted,
    Wanted,
    environment_of,
    is_asked_for,
    min_ttl_of,
)
from broker.conversations import Bearers, NewConversation, Times
from broker.mint import Minting, Scene
from broker.mint.batches import Batches, Homes, columns
from broker.mint.looking import LookRow, Question, by_place, look
from vault import access
from vault.model import Caller, new_id
from vault.sql import Query
from vault.vault import Vault
from vault.vault.looks import Settled


class WrittenRow(Struct, frozen=True):
    conversation_id: str
    created_at: datetime
    start_by: datetime
    expires_at: datetime


class Deed(NamedTuple):
    """What the second statement is told to write, in the order of its parameters."""

    hashes: bytes
    workspace_ids: str
    conversation_ids: str
    event_ids: str
    user_ids: str
    user_refs: str
    agent_ids: str
    environments: str
    runtimes: str
    channels: str
    deliveries: str
    branch_ids: str
    reached: str
    kept: bytes
    armed: bool
    bearer_kinds: str | None
    bearer_hashes: bytes | None
    ticket_hashes: bytes | None
    start_within: int
    lasts: int
    promised: int
    request_ids: str
    looking: bool
    token_ids: str
    token_generations: str
    unnoticed: bool


class Changed(Exception):
    """What was looked at is not so any more."""


_write: Final = Query("batches", "write", WrittenRow, package="broker")


class Quick:
    """The short way to a conversation."""

    def __init__(self, vault: Vault, minting: Minting, agents: Agents, *, batch: int) -> None:
        self._vault = vault
        self._minting = minting
        self._agents = agents
        self._looks = Batches(self._look, batch)
        self._writes = Batches(self._write, batch)
        self._homes = Homes()

    async def mint(
        self, key_hash: bytes, request_id: str, wanted: Wanted
    ) -> tuple[Caller, Minted] | None:
        """Make a conversation for the holder of this key; ``None``: that takes the long way."""
        if wanted.connect_links:
            return None
        asked = Question(key_hash, wanted.user_id, wanted.environment or "", wanted.agent_id)
        row = await self._looks.ask(self._homes.of(key_hash), asked)
        if row is None or not hmac.compare_digest(row.hash, key_hash):
            return None
        self._homes.remember(key_hash, row.workspace_id)
        caller = row.caller(request_id)
        access.permit(caller, "conversation.mint")
        scene = await self._scene(caller, wanted, row)
        if not _is_ours_alone(scene, row):
            return None
        settled = _settled(scene, row)
        if settled is None:
            return None
        try:
            return caller, await self._made(
                scene, key_hash, settled, unnoticed=row.unnoticed_of(settled)
            )
        except Changed:
            return None

    async def _scene(self, caller: Caller, wanted: Wanted, row: LookRow) -> Scene:
        environment = environment_of(caller, wanted.environment)
        profile = None
        if row.agent_sealed is not None and row.agent_generation is not None:
            profile = await self._agents.profile_of(
                caller, wanted.agent_id, row.agent_generation, row.agent_sealed
            )
        survey = await self._vault.surveyed(caller, wanted.user_id, environment, row.user())
        return self._minting.scene(caller, wanted, new_id("kcv"), environment, profile, survey, {})

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

        async def write(new: NewConversation, bearers: Bearers) -> Times:
            deed = _deed(scene, key_hash, new, bearers, settled, unnoticed=unnoticed)
            times = await self._writes.ask(scene.caller.workspace, deed)
            if times is None:
                raise Changed
            return times

        return await self._minting.made(scene, found, write)

    # The two statements

    async def _look(self, questions: Sequence[Question]) -> list[LookRow | None]:
        rows = await self._vault.look_up_for_guest(look, **columns(Question._fields, questions))
        return by_place(rows, len(questions))

    async def _write(self, deeds: Sequence[Deed]) -> list[Times | None]:
        rows = await self._vault.write_for_guest(_write, **columns(Deed._fields, deeds))
        times = {
            row.conversation_id: Times(row.created_at, row.start_by, row.expires_at) for row in rows
        }
        return [times.get(one.conversation_ids) for one in deeds]


def _is_ours_alone(scene: Scene, row: LookRow) -> bool:
    """Does nobody have to be asked, and no other key be fetched?"""
    if row.environment != scene.environment:
        return False
    if scene.runtime == "elevenlabs":
        return scene.delivery == "relay" and row.has_upstream
    if scene.runtime == "livekit":
        return False  # its project signs, which the long way knows
    return scene.profile is None or scene.profile.public_key is None or scene.delivery != "sealed"


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
        bearer_kinds=bearers.kind,
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
