"""The flow of a call that comes in: ElevenLabs asks who that is, and what the agent starts with.

* No provider, and nobody else outside, is asked or waited for: what would not last is refreshed
  behind the answer. A call whose user cannot be served starts all the same, with placeholders.
* A number identifies, it does not authenticate. Unless the agent's profile says otherwise the
  answer holds no credential but a handle, which nobody honours until ``verify`` has armed it.
* A number that nobody has, or that two users share, is nobody's: the call starts without a user,
  without a conversation of ours, and without any secret.
* Asked again for the same call, the answer is the same conversation; for the same call with
  something else in it, there is none.
* The answer always names the environment that it was made for, so that what is handed out for one
  cannot be used with the hosts of another.
"""

import asyncio
import re
from collections.abc import Mapping
from typing import Final

import msgspec
from msgspec import Struct

from broker.agents import Agents
from broker.conversation import Minted, Wanted, as_conversation, environment_of_call
from broker.delivery import Delivering, nobodys
from broker.mint import Minting
from broker.profile import Profile
from broker.telephone.phone_numbers import PhoneNumbers
from broker.variables import Person, Value, plan
from vault import access
from vault.errors import IdempotencyInProgress
from vault.model import E164_PATTERN, Caller, Once, new_id
from vault.vault import Vault

TRIES: Final = 4
PAUSE: Final = 0.02  # seconds, until somebody who was asked the same has written it down

_E164: Final = re.compile(E164_PATTERN)


class Incoming(Struct, frozen=True, kw_only=True):
    """A call, as ElevenLabs says it. ``environment``: what the webhook's own address says.

    A number that is not said is empty. Two askings for a call are compared by what stands here.
    """

    caller_id: str
    agent_id: str
    called_number: str
    call_sid: str
    environment: str | None = None

    def __repr__(self) -> str:
        return f"Incoming({self.agent_id})"


class Initiation(Struct, frozen=True, kw_only=True):
    """What a call starts with; without a user where nobody is known to call."""

    user_id: str | None
    environment: str
    branch_id: str
    variables: Mapping[str, Value]

    def __repr__(self) -> str:
        return "Initiation(***)"


class IncomingCalls:
    """Answers the webhook before a call."""

    def __init__(
        self,
        vault: Vault,
        minting: Minting,
        delivering: Delivering,
        agents: Agents,
        numbers: PhoneNumbers,
    ) -> None:
        self._vault = vault
        self._minting = minting
        self._delivering = delivering
        self._agents = agents
        self._numbers = numbers

    async def receive(self, caller: Caller, call: Incoming) -> Initiation:
        """Say what a call starts with."""
        access.permit(caller, "call.receive")
        number = await self._numbers.of_call(caller, number=call.called_number)
        environment = environment_of_call(
            caller, call.environment, number.environment if number else None
        )
        branch_id = (number.branch_id if number else None) or ""
        profile = await self._agents.profile(caller, call.agent_id)
        user_id = None
        if _E164.fullmatch(call.caller_id):
            user_id = await self._vault.user_of_number(caller, call.caller_id)
        if user_id is None:
            return Initiation(
                user_id=None,
                environment=environment,
                branch_id=branch_id,
                variables=await self._strangers(caller, profile, environment),
            )
        wanted = Wanted(
            agent_id=call.agent_id,
            user_id=user_id,
            environment=environment,
            runtime="elevenlabs",
            channel="telephone",
            branch_id=branch_id,
            max_wait_ms=0,
            on_missing="omit",
            armed=profile is not None and profile.inbound_trust == "caller_id",
        )
        made = await self._minted(caller, wanted, call)
        return Initiation(
            user_id=made.user_id,
            environment=made.environment,
            branch_id=made.branch_id,
            variables=made.variables,
        )

    async def _minted(self, caller: Caller, wanted: Wanted, call: Incoming) -> Minted:
        once = self._once(call)
        for _ in range(TRIES - 1):
            try:
                return await self._minting.mint_for_number(caller, wanted, call.caller_id, once)
            except IdempotencyInProgress:
                await asyncio.sleep(PAUSE)
        return await self._minting.mint_for_number(caller, wanted, call.caller_id, once)

    async def _strangers(
        self, caller: Caller, profile: Profile | None, environment: str
    ) -> Mapping[str, Value]:
        """What the profile declares, with placeholders for all that is a user's or secret."""
        planned = plan(profile, Person(user_id=""), [])
        asking = as_conversation(caller, new_id("kcv"), [environment])
        labels = await self._delivering.labels(asking, planned, environment)
        return nobodys(planned, labels)

    def _once(self, call: Incoming) -> Once:
        hashed = self._vault.fingerprint
        return Once(
            key_hash=hashed(f"call\n{call.call_sid}"),
            fingerprint=hashed(b"call\n" + msgspec.json.encode(call)),
        )
