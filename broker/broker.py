"""The broker's door: what turns credentials into conversations is a method of a part of ``Broker``.

* Each method takes a ``Caller`` and asks ``vault.access`` first. One that changes something leaves
  its line in the audit record in the transaction of the deed.
* It reaches a credential through the vault's door alone, and keeps its own rows as a guest there.
"""

from typing import Final

from broker.admission import Admission
from broker.agents import Agents
from broker.conversation import Conversation, Held
from broker.delivery import Delivering
from broker.gateway.calls import Gateway
from broker.gateway.renewals import Renewals
from broker.gateway.stored_calls import StoredCalls
from broker.gateway.tool_calls import ToolCalls
from broker.grants import Grants
from broker.mint import Minting
from broker.mint.quick import Quick
from broker.mint.reads import Reads
from broker.readiness import Readiness
from broker.runtimes.signing import SigningKeys
from broker.telephone.incoming import IncomingCalls
from broker.telephone.outgoing import OutgoingCalls
from broker.telephone.phone_numbers import PhoneNumbers
from broker.telephone.post_call import PostCall
from broker.tools.pushing import AgentTools
from broker.upstreams import Upstreams
from broker.upstreams.drift import Drifts
from broker.upstreams.livekit import Projects
from vault.egress import Egress
from vault.model import Caller
from vault.vault import Vault

MINT_BATCH: Final = 128


class Broker:
    """Gives each conversation the credentials that it needs."""

    def __init__(self, vault: Vault, egress: Egress, *, mint_batch: int = MINT_BATCH) -> None:
        self.agents = Agents(vault)
        self.upstreams = Upstreams(vault, egress)
        self.projects = Projects(vault, egress)
        self.tools = AgentTools(vault, self.agents, self.upstreams)
        delivering = Delivering(vault)
        self.signing = SigningKeys(vault)
        self.minting = Minting(
            vault, delivering, self.signing, self.agents, self.upstreams, self.projects
        )
        self.quick = Quick(vault, self.minting, self.agents, delivering, batch=mint_batch)
        self.reads = Reads(vault, batch=mint_batch)
        self.grants = Grants(vault, delivering, self.upstreams)
        self.readiness = Readiness(vault, self.agents, Drifts(vault, self.agents, self.upstreams))
        self.renewals = Renewals(vault)
        self.gateway = Gateway(vault, self.renewals)
        self.tool_calls = ToolCalls(vault, self.grants, delivering)
        self.stored_calls = StoredCalls(vault, self.agents, delivering, self.renewals)
        self.numbers = PhoneNumbers(vault, self.upstreams)
        self.incoming = IncomingCalls(vault, self.minting, delivering, self.agents, self.numbers)
        self.outgoing = OutgoingCalls(
            vault, self.minting, self.grants, self.upstreams, self.numbers
        )
        self.post_call = PostCall(vault, self.grants, self.upstreams)

    # For whoever carries a conversation: the relay, the gateway, the refresh tool

    async def held(
        self,
        unverified_bearer: str,
        runtime_key: str | None = None,
        *,
        request_id: str = "",
    ) -> Held:
        """Who and what a grant or a handle is. A handle is honoured only beside a runtime key."""
        return await self.grants.held(unverified_bearer, runtime_key, request_id=request_id)

    async def admit(self, ticket: str) -> Admission:
        """Let one client into the conversation that this ticket is for, once."""
        return await self.grants.admit(ticket)

    async def conversation_began(
        self, caller: Caller, conversation_id: str, upstream_id: str
    ) -> None:
        """Remember that it runs, and how the upstream calls it."""
        await self.grants.began(caller, conversation_id, upstream_id)

    async def has_ended(self, caller: Caller, conversation_id: str) -> bool:
        """Has somebody ended it, or deleted its user, through whichever replica?"""
        return await self.grants.has_ended(caller, conversation_id)

    async def end_conversation(self, caller: Caller, conversation_id: str) -> Conversation:
        """Let its grant or handle die."""
        return await self.grants.end(caller, conversation_id)
