"""The broker's part for an agent's tools: shown to be pasted, or pushed to the workspace's account.

* A push makes the account hold what we would show: the tools, and the runtime key they name. It
  changes what it made before; it makes nothing twice, and touches nothing that is not its own.
* The runtime key is an API key of scope ``runtime``. It goes into the account's secret store and
  nowhere else: who pushes does not get to see it. As no key makes a wider one, the pushing key
  has that scope, too.
* The record has its line before anything leaves.
"""

from typing import Any, Final, Literal

from msgspec import Struct

from broker.agents import Agents, keep_tool
from broker.tools import Config, tools_for
from broker.tools.lint import Finding, lint
from broker.upstreams import Upstreams
from broker.upstreams.client import Refused, UpstreamClient, segment
from broker.upstreams.rows import UpstreamRow
from vault import access, audit
from vault.errors import Forbidden, NotFound, VaultError
from vault.model import Caller, KeyId, NewKey
from vault.vault import Vault

SECRETS: Final = "/v1/convai/secrets"
TOOLS: Final = "/v1/convai/tools"
RUNTIME_KEY_NAME: Final = "keyturn-runtime"

_NOT_FOUND: Final = 404


class Tool(Struct, frozen=True, kw_only=True):
    """A tool; ``tool_id``: where it is in the account, once it is there."""

    name: str
    tool_id: str | None
    config: Config


class Toolbox(Struct, frozen=True, kw_only=True):
    """An agent's tools, and what is wrong with them."""

    tools: list[Tool]
    runtime_secret_id: str | None
    findings: list[tuple[str, Finding]]  # the tool's name, and what it is


class Pushed(Struct, frozen=True, kw_only=True):
    """What a push did with one tool."""

    name: str
    tool_id: str
    action: Literal["created", "updated"]


class _Stored(Struct):
    secret_id: str


class _Made(Struct):
    id: str


class AgentTools:
    """An agent's tools."""

    def __init__(self, vault: Vault, agents: Agents, upstreams: Upstreams) -> None:
        self._vault = vault
        self._agents = agents
        self._upstreams = upstreams

    async def toolbox(self, caller: Caller, agent_id: str) -> Toolbox:
        """What serves this agent, ready to be pasted."""
        access.permit(caller, "agent.tools")
        secret_id = await self._upstreams.runtime_secret_id(caller)
        configs = await self._configs(caller, agent_id, secret_id)
        ids = await self._agents.pushed(caller, agent_id)
        return Toolbox(
            tools=[
                Tool(name=one["name"], tool_id=ids.get(one["name"]), config=one) for one in configs
            ],
            runtime_secret_id=secret_id,
            findings=[(one["name"], fault) for one in configs for fault in lint(one)],
        )

    async def push(self, caller: Caller, agent_id: str) -> tuple[str, list[Pushed]]:
        """Bring the account up to date; the first value is where the runtime key lies there."""
        access.permit(caller, "agent.push")
        access.permit_everywhere(caller)
        row = await self._upstreams.row(caller)
        client = await self._upstreams.client(caller)
        await self._vault.within(
            caller,
            lambda tx: audit.record(tx, caller, "agent.push", target=("agent", agent_id)),
        )
        secret_id = await self._runtime_key(caller, client, row)
        ids = await self._agents.pushed(caller, agent_id)
        return secret_id, [
            await self._pushed(caller, client, agent_id, config, ids.get(config["name"]))
            for config in await self._configs(caller, agent_id, secret_id)
        ]

    async def _configs(
        self, caller: Caller, agent_id: str, secret_id: str | None
    ) -> list[dict[str, Any]]:
        profile = await self._agents.profile(caller, agent_id)
        if profile is None or profile.integrations is None:
            names = await self._vault.integrations_for_guest(caller)
        else:
            names = [one.integration for one in profile.integrations]
        return tools_for(profile, names, origin=self._vault.origin, runtime_secret_id=secret_id)

    async def _pushed(
        self,
        caller: Caller,
        client: UpstreamClient,
        agent_id: str,
        config: Config,
        tool_id: str | None,
    ) -> Pushed:
        body = {"tool_config": config}
        name = str(config["name"])
        if tool_id is not None:
            try:
                await client.patch(f"{TOOLS}/{segment(tool_id)}", body, _Made)
            except Refused as refused:
                if refused.status != _NOT_FOUND:
                    raise
            else:
                return Pushed(name=name, tool_id=tool_id, action="updated")
        made = (await client.post(TOOLS, body, _Made)).id
        await self._vault.within(caller, lambda tx: keep_tool(tx, agent_id, name, made))
        return Pushed(name=name, tool_id=made, action="created")

    # The runtime key

    async def _runtime_key(self, caller: Caller, client: UpstreamClient, row: UpstreamRow) -> str:
        """Where the runtime key lies in the account; puts one there if need be."""
        there = await _is_there(client, row.runtime_secret_id)
        if there and await self._is_alive(caller, row.runtime_key_id):
            return str(row.runtime_secret_id)
        if caller.kind == "key" and "runtime" not in caller.scopes:
            raise Forbidden(
                "A push makes a runtime key, and no key makes a wider one: push with a key that"
                " has the scope runtime, too."
            )
        wanted = NewKey(name=RUNTIME_KEY_NAME, scopes=("runtime",))
        made = await self._vault.create_key(caller, wanted)
        value = made.bearer.reveal() if made.bearer else ""
        named = {"name": RUNTIME_KEY_NAME, "value": value}
        try:
            if there and row.runtime_secret_id is not None:
                place = f"{SECRETS}/{segment(row.runtime_secret_id)}"
                stored = await client.patch(place, {"type": "update", **named}, _Stored)
            else:
                stored = await client.post(SECRETS, {"type": "new", **named}, _Stored)
            await self._upstreams.keep_runtime_key(caller, row, made.key.key_id, stored.secret_id)
        except VaultError:
            await self._vault.delete_key(caller, made.key.key_id)  # it reached nobody, or too many
            raise
        if await self._is_alive(caller, row.runtime_key_id):
            await self._vault.delete_key(caller, KeyId(str(row.runtime_key_id)))
        return stored.secret_id

    async def _is_alive(self, caller: Caller, key_id: str | None) -> bool:
        if key_id is None:
            return False
        try:
            await self._vault.get_key(caller, KeyId(key_id))
        except NotFound:
            return False
        return True


async def _is_there(client: UpstreamClient, secret_id: str | None) -> bool:
    if secret_id is None:
        return False
    try:
        await client.get(f"{SECRETS}/{segment(secret_id)}", _Stored)
    except Refused as refused:
        if refused.status != _NOT_FOUND:
            raise
        return False
    return True
