"""/v1/agents: what each agent needs of its users' connections, and the tools that serve it."""

from typing import Annotated

from litestar import Response, Router, delete, get, post, put
from litestar.di import NamedDependency
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import JSONBody, PathParameter

from broker.api import examples
from broker.api.agent_messages import AgentIn, AgentOut, PushedOut, ToolsOut
from broker.api.messages import Listing
from broker.api.requests import DEFAULT_LIMIT, Cursor, Limit, next_cursor, page_of, requires
from broker.api.responses import guarded
from broker.broker import Broker
from broker.profile import AGENT_PATTERN
from vault.model import Caller

Id = Annotated[
    str,
    PathParameter(
        pattern=AGENT_PATTERN,
        description="The id that the runtime knows it by.",
        examples=examples.named("agent_7101k5zvyjhmfg983brhmhkd98n6"),
    ),
]


@put(
    "/{agent_id:str}",
    guards=requires("agent.write"),
    responses={
        201: ResponseSpec(AgentOut, description="It is new.", generate_examples=False),
        **guarded("malformed", "conflict", "too_large", "invalid", "delivery_not_possible"),
    },
    summary="Make or replace an agent's profile",
)
async def write(
    agent_id: Id,
    data: JSONBody[AgentIn],
    caller: NamedDependency[Caller],
    broker: NamedDependency[Broker],
) -> Response[AgentOut]:
    """Replaces all of it. Integrations that it names may still have to be made."""
    made, is_new = await broker.agents.put(caller, agent_id, data.profile())
    return Response(AgentOut.of(made), status_code=201 if is_new else 200)


@get(guards=requires("agent.list"), responses=guarded("invalid"), summary="List them")
async def listing(
    caller: NamedDependency[Caller],
    broker: NamedDependency[Broker],
    limit: Limit = DEFAULT_LIMIT,
    cursor: Cursor = None,
) -> Listing[AgentOut]:
    found = await broker.agents.list(caller, page_of(limit, cursor))
    data = [AgentOut.of(one) for one in found[:limit]]
    return Listing(data=data, next_cursor=next_cursor([one.agent_id for one in found], limit))


@get(
    "/{agent_id:str}",
    guards=requires("agent.read"),
    responses=guarded("not_found", "invalid"),
    summary="Get an agent's profile",
)
async def read(
    agent_id: Id, caller: NamedDependency[Caller], broker: NamedDependency[Broker]
) -> AgentOut:
    return AgentOut.of(await broker.agents.get(caller, agent_id))


@delete(
    "/{agent_id:str}",
    guards=requires("agent.delete"),
    responses=guarded("not_found", "invalid"),
    summary="Delete an agent's profile",
)
async def remove(
    agent_id: Id, caller: NamedDependency[Caller], broker: NamedDependency[Broker]
) -> None:
    """From then on the agent is one without a profile."""
    await broker.agents.delete(caller, agent_id)


@get(
    "/{agent_id:str}/tools",
    guards=requires("agent.tools"),
    responses=guarded("invalid"),
    summary="Ready-made tools for an agent",
)
async def tools(
    agent_id: Id, caller: NamedDependency[Caller], broker: NamedDependency[Broker]
) -> ToolsOut:
    """An agent without a profile has the tools of every integration."""
    return ToolsOut.of(await broker.tools.toolbox(caller, agent_id))


@post(
    "/{agent_id:str}/tools/push",
    status_code=200,
    guards=requires("agent.push"),
    responses=guarded("conflict", "upstream_missing", "invalid", "upstream_failed"),
    summary="Bring the account's tools up to date",
)
async def push(
    agent_id: Id, caller: NamedDependency[Caller], broker: NamedDependency[Broker]
) -> PushedOut:
    """Makes the tools in the workspace's account, or changes those that an earlier push made, and
    puts a runtime key into its secret store. The key has to have the scope `runtime`, too.
    """
    return PushedOut.of(*await broker.tools.push(caller, agent_id))


router = Router(
    "/v1/agents", route_handlers=[write, listing, read, remove, tools, push], tags=["agents"]
)
