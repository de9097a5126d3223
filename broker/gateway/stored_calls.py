"""A tool that an agent's profile stores, called by its name with what one conversation has.

* Who asks chooses a name and fills in arguments. What is called, in which environment, as whom and
  with whose credential is decided by the profile and by what was minted.
* It is the profile as it stands now: a tool that was taken out of it is called no more.
* Only what the tool names is read: of the connections, and of the environment variables.
* A user's credential goes to its connection's own API alone, as ``tool_calls.permit`` has it.
* A 401 to it refreshes the token, once; the request is sent once more where its method may be
  repeated (RFC 9110 section 9.2.2).
"""

import time
from collections.abc import Mapping
from typing import Any, Final

from msgspec import Struct
from msgspec.structs import replace

from broker import invoke
from broker.agents import Agents
from broker.conversation import Held, Reached
from broker.delivery import Delivering, Issued, revealed
from broker.gateway.limits import Limits, Rate
from broker.gateway.renewals import Renewals
from broker.gateway.tool_calls import permit
from broker.invoke import REJECTED, REPEATABLE, Answer, Question
from broker.resolve import plan
from broker.variables import Authorization, Plan, Token
from vault import access
from vault.errors import NotFound, Unauthenticated
from vault.oauth.api import Api
from vault.vault import Vault
from vault.vault.refreshing import Fresh

RATE: Final = Rate(burst=60, per_second=10)  # calls of one conversation


class _Call(Struct, frozen=True, kw_only=True):
    """One call: the tool, what of the conversation it names, and what the model filled in."""

    held: Held
    question: Question
    method: str
    planned: Plan
    reached: tuple[Reached, ...]
    arguments: Mapping[str, Any]
    body: object

    def __repr__(self) -> str:
        return f"_Call({self.held!r})"


class StoredCalls:
    """Calls stored tools for conversations."""

    def __init__(
        self, vault: Vault, agents: Agents, delivering: Delivering, renewals: Renewals
    ) -> None:
        self._vault = vault
        self._agents = agents
        self._delivering = delivering
        self._renewals = renewals
        self._limits = Limits(RATE)

    async def invoke(
        self, held: Held, name: str, *, arguments: Mapping[str, Any], body: object = None
    ) -> Answer:
        """Call a tool of the conversation's agent, and answer what came back."""
        access.permit(held.caller, "configuration.use")
        self._limits.take(held.conversation.conversation_id, time.monotonic())
        call = await self._call(held, name, arguments, body)
        fresh = {one.integration: await self._renewals.for_call(held, one) for one in call.reached}
        answer = await self._sent(call, fresh)
        if answer.status != REJECTED:
            return answer
        newer = await self._after_refusal(call, fresh)
        if newer == fresh or call.method not in REPEATABLE:
            return answer
        answer = await self._sent(call, newer)
        if answer.status == REJECTED:
            for one in _carried(call):
                await self._renewals.refused_at_once(held, one, newer[one.integration])
        return answer

    async def _call(
        self, held: Held, name: str, arguments: Mapping[str, Any], body: object
    ) -> _Call:
        tool = await self._agents.stored_tool(held.caller, held.kept.agent_id, name)
        if tool is None:
            raise NotFound("The agent's profile stores no such tool.")
        made = plan(tool.kind, tool.config)
        planned = _narrowed(held.kept.plan, made.variables)
        question = Question(
            kind=tool.kind,
            config=tool.config,
            environment=held.kept.environment,
            variables={},
            name=name,
        )
        return _Call(
            held=held,
            question=question,
            method=made.method,
            planned=planned,
            reached=_reached(held, planned),
            arguments=arguments,
            body=body,
        )

    async def _sent(self, call: _Call, fresh: Mapping[str, Fresh]) -> Answer:
        itself = call.held.caller
        apis: dict[str, Api | None] = {
            name: await self._vault.api_of(itself, one) for name, one in fresh.items()
        }
        return await invoke.invoke(
            self._vault,
            itself,
            replace(call.question, variables=await self._variables(call, fresh)),
            arguments=call.arguments,
            body=call.body,
            permit=lambda outgoing: permit(self._vault, outgoing, call.planned, apis),
        )

    async def _variables(self, call: _Call, fresh: Mapping[str, Fresh]) -> dict[str, Any]:
        held = call.held
        survey = await self._vault.survey(
            held.caller, held.conversation.user_id, held.kept.environment
        )
        if survey is None:
            raise Unauthenticated  # the user was deleted just now
        values = await self._delivering.values(
            held.caller,
            call.planned,
            survey,
            fresh,
            environment=held.kept.environment,
            issued=Issued(),
            given=held.kept.given,
        )
        return dict(revealed(values))

    async def _after_refusal(self, call: _Call, fresh: Mapping[str, Fresh]) -> dict[str, Fresh]:
        """What there is after a 401 to these."""
        newer = dict(fresh)
        for one in _carried(call):
            refused = fresh[one.integration]
            newer[one.integration] = await self._renewals.after_refusal(call.held, one, refused)
        return newer


def _narrowed(planned: Plan, names: set[str]) -> Plan:
    """The part of a conversation's plan that a tool names."""
    variables = {name: one for name, one in planned.variables.items() if name in names}
    drawn = {getattr(one.source, "integration", None) for one in variables.values()}
    connections = {name: one for name, one in planned.connections.items() if name in drawn}
    return Plan(variables, connections)


def _reached(held: Held, planned: Plan) -> tuple[Reached, ...]:
    """The connections that a tool draws upon; raises where a credential of one is not there."""
    for name in sorted(_credentials(planned)):
        if held.connection(name) is None:
            raise NotFound("This conversation has no such connection.")
    return tuple(one for one in held.kept.reached if one.integration in planned.connections)


def _carried(call: _Call) -> list[Reached]:
    """The connections whose credentials the request carries."""
    named = _credentials(call.planned)
    return [one for one in call.reached if one.integration in named]


def _credentials(planned: Plan) -> set[str]:
    sources = [one.source for one in planned.variables.values()]
    return {one.integration for one in sources if isinstance(one, Token | Authorization)}
