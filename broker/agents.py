"""The broker's part for agents: each with its profile.

* A profile is checked when it is written. What it names may still be missing then.
* An agent serves every environment, so a key that is tied to some leaves it alone.
* The tools that a profile stores are read when one is called: who mints carries none of them.
* A runtime may know agents that nobody has told us of; those have no profile, and that is fine.
"""

import re
from collections import OrderedDict
from datetime import datetime
from typing import Final

import msgspec
from msgspec import Struct

from broker.profile import AGENT_PATTERN, Profile, StoredTool, check
from broker.tools import stored
from vault import access, audit
from vault.database import Transaction
from vault.errors import Invalid
from vault.model import Caller, Page, WorkspaceId
from vault.seal import Context
from vault.sql import Nothing, Query
from vault.vault import Vault
from vault.vault.door import found, written


class AgentRow(Struct, frozen=True):
    """An agent as its row has it."""

    agent_id: str
    generation: int
    sealed: bytes
    created_at: datetime
    updated_at: datetime
    created_by: str


class _Id(Struct, frozen=True):
    id: str


class PushedTool(Struct, frozen=True):
    """A tool that was made at the runtime's maker for an agent."""

    name: str
    tool_id: str
    pushed_at: datetime


class Agent(Struct, frozen=True, kw_only=True):
    """An agent with its profile."""

    agent_id: str
    profile: Profile
    created_at: datetime
    updated_at: datetime
    created_by: str


_put: Final = Query("agents", "put", AgentRow, package="broker")
_get: Final = Query("agents", "get", AgentRow, package="broker")
_list: Final = Query("agents", "list", AgentRow, package="broker")
_delete: Final = Query("agents", "delete", _Id, package="broker")
_tools: Final = Query("agents", "tools", PushedTool, package="broker")
_keep_tool: Final = Query("agents", "keep_tool", Nothing, package="broker")
_forget_tools: Final = Query("agents", "forget_tools", Nothing, package="broker")

MAX_READ: Final = 1_000  # profiles that are remembered, by their sealed bytes

_ID: Final = re.compile(AGENT_PATTERN)
_bytes: Final = msgspec.msgpack.Encoder().encode
_profile_from: Final = msgspec.msgpack.Decoder(Profile).decode


class Agents:
    """Profiles: written, read, and looked up by who mints."""

    def __init__(self, vault: Vault) -> None:
        self._vault = vault
        self._read: OrderedDict[bytes, tuple[WorkspaceId, str, int, Profile]] = OrderedDict()

    async def put(self, caller: Caller, agent_id: str, profile: Profile) -> tuple[Agent, bool]:
        """Make or replace an agent's profile; the second value says whether it is new."""
        access.permit(caller, "agent.write")
        access.permit_everywhere(caller)
        if _ID.fullmatch(agent_id) is None:
            raise Invalid("This is no agent's id.", pointer="/agent_id")
        check(profile)
        stored.check(profile)

        async def attempt() -> tuple[Agent, bool] | None:
            before = await self._row(caller, agent_id)
            generation = before.generation + 1 if before else 1
            context = agent_context(caller.workspace, agent_id, generation)
            sealed = await self._vault.seal_for_guest(caller, context, _bytes(profile))

            async def work(tx: Transaction) -> AgentRow | None:
                row = await _put.maybe(
                    tx,
                    workspace_id=tx.workspace,
                    agent_id=agent_id,
                    generation=generation,
                    sealed=sealed,
                    created_by=caller.actor_id,
                )
                if row:
                    await audit.record(tx, caller, "agent.write", target=("agent", agent_id))
                return row

            row = await self._vault.within(caller, work)
            return (_agent(row, profile), before is None) if row else None

        return await written(attempt)

    async def get(self, caller: Caller, agent_id: str) -> Agent:
        access.permit(caller, "agent.read")
        return await self._opened(caller, found(await self._row(caller, agent_id)))

    async def list(self, caller: Caller, page: Page) -> list[Agent]:
        access.permit(caller, "agent.list")
        rows = await self._vault.within(
            caller,
            lambda tx: _list.all(tx, workspace_id=tx.workspace, after=page.after, limit=page.limit),
        )
        return [await self._opened(caller, row) for row in rows]

    async def delete(self, caller: Caller, agent_id: str) -> None:
        access.permit(caller, "agent.delete")
        access.permit_everywhere(caller)

        async def work(tx: Transaction) -> None:
            found(await _delete.maybe(tx, workspace_id=tx.workspace, agent_id=agent_id))
            await audit.record(tx, caller, "agent.delete", target=("agent", agent_id))

        await self._vault.within(caller, work)

    # For the broker's other parts, which have permitted what they do

    async def profile(self, caller: Caller, agent_id: str) -> Profile | None:
        """The agent's profile without its tools; ``None`` where nobody wrote one."""
        return await self.profile_from(caller, await self._row(caller, agent_id))

    async def row(self, tx: Transaction, agent_id: str) -> AgentRow | None:
        """An agent's row, in a transaction that asks for more."""
        return await _get.maybe(tx, workspace_id=tx.workspace, agent_id=agent_id)

    async def profile_from(self, caller: Caller, row: AgentRow | None) -> Profile | None:
        """What it says."""
        if row is None:
            return None
        return await self.profile_of(caller, row.agent_id, row.generation, row.sealed)

    async def profile_of(
        self, caller: Caller, agent_id: str, generation: int, sealed: bytes
    ) -> Profile:
        """What these bytes say, but for tools. What they said a moment ago, they still say."""
        place = (caller.workspace, agent_id, generation)
        known = self._read.get(sealed)
        if known is not None and known[:3] == place:
            self._read.move_to_end(sealed)
            return known[3]
        context = agent_context(*place)
        opened = await self._vault.open_for_guest(caller, context, sealed)
        profile = _profile_from(opened).without_tools()
        self._read[sealed] = (*place, profile)
        if len(self._read) > MAX_READ:
            self._read.popitem(last=False)
        return profile

    async def stored_tool(self, caller: Caller, agent_id: str, name: str) -> StoredTool | None:
        """A tool that the agent's profile stores now; ``None`` where there is none of this name."""
        row = await self._row(caller, agent_id)
        if row is None:
            return None
        return (await self._opened(caller, row)).profile.stored_tools.get(name)

    async def pushed(self, caller: Caller, agent_id: str) -> dict[str, str]:
        """The ids of the tools that were made for an agent, by name."""
        rows = await self._vault.within(
            caller, lambda tx: _tools.all(tx, workspace_id=tx.workspace, agent_id=agent_id)
        )
        return {one.name: one.tool_id for one in rows}

    async def _row(self, caller: Caller, agent_id: str) -> AgentRow | None:
        return await self._vault.within(caller, lambda tx: self.row(tx, agent_id))

    async def _opened(self, caller: Caller, row: AgentRow) -> Agent:
        context = agent_context(caller.workspace, row.agent_id, row.generation)
        opened = await self._vault.open_for_guest(caller, context, row.sealed)
        return _agent(row, _profile_from(opened))


async def keep_tool(tx: Transaction, agent_id: str, name: str, tool_id: str) -> None:
    """Remember a tool that was made."""
    await _keep_tool.run(
        tx, workspace_id=tx.workspace, agent_id=agent_id, name=name, tool_id=tool_id
    )


async def forget_tools(tx: Transaction) -> None:
    """Forget all of them, with the account that they are in."""
    await _forget_tools.run(tx, workspace_id=tx.workspace)


def agent_context(workspace: WorkspaceId, agent_id: str, generation: int) -> Context:
    """What binds the seal of a profile to it."""
    return Context(
        workspace=workspace,
        table="broker.agents",
        row=agent_id,
        field="profile",
        generation=generation,
    )


def _agent(row: AgentRow, profile: Profile) -> Agent:
    return Agent(
        agent_id=row.agent_id,
        profile=profile,
        created_at=row.created_at,
        updated_at=row.updated_at,
        created_by=row.created_by,
    )
