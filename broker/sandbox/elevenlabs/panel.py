"""``/_sandbox/elevenlabs``: the stand-in's knobs, and what there is to see.

Knobs of a workspace are for the one whose key ``xi-api-key`` holds; without it, for the first.
"""

import re
import secrets
from typing import Annotated, Any

import msgspec
from litestar import Request, Router, delete, get, post, put
from litestar.datastructures import State
from litestar.di import NamedDependency, Provide
from litestar.exceptions import ClientException, NotFoundException
from litestar.params import FromPath, JSONBody
from msgspec import Meta, Struct

from broker.sandbox.elevenlabs import agents, calls, deliveries, dialogue
from broker.sandbox.elevenlabs.account import Account, Seen, World
from broker.sandbox.elevenlabs.conversations import NORMAL, Conversation
from broker.sandbox.elevenlabs.deliveries import Delivered, Delivering, PreCall
from broker.sandbox.elevenlabs.history import source
from broker.sandbox.elevenlabs.knobs import Behaviour, Rule, SocketFaults
from broker.sandbox.elevenlabs.leaks import Leak
from broker.sandbox.elevenlabs.wire import Refused
from broker.sandbox.state import Sandbox

ORIGIN = re.compile(r"https?://[^/?#]+(?!\n)$")


class Asked(Struct, frozen=True, forbid_unknown_fields=True):
    """The base of what a knob takes."""


class NewWorkspace(Asked, frozen=True):
    api_key: Annotated[str, Meta(min_length=1, max_length=500)] | None = None


class Workspace(Struct, frozen=True):
    workspace_id: str
    api_key: str


class Forward(Asked, frozen=True):
    seconds: Annotated[float, Meta(gt=0)]


class ToolCall(Asked, frozen=True):
    conversation_id: str
    tool: str
    arguments: dict[str, Any] = {}


class Called(Struct, frozen=True):
    """What came of it; ``result`` is what the model sees, ``status`` what the tool answered."""

    called: bool
    is_error: bool
    error_type: str
    result: str
    status: int | None


class Said(Asked, frozen=True):
    conversation_id: str
    text: str


class Ended(Asked, frozen=True):
    conversation_id: str
    webhook: Delivering = Delivering()


class Deliveries(Struct, frozen=True):
    delivered: list[Delivered]


class Answered(Struct, frozen=True):
    """A call that came in. ``webhook`` null: the agent asks none."""

    conversation_id: str
    status: str
    environment: str | None
    webhook: PreCall | None


class Inside(Struct, frozen=True):
    """What the API does not show of a conversation. ``variables`` holds fingerprints."""

    conversation_id: str
    agent_id: str
    status: str
    source: str
    environment: str | None
    branch_id: str | None
    user_id: Any
    variables: dict[str, str]
    initiations: int
    joined: bool
    room: str | None
    heard_audio: int
    problem: str | None


class Leaks(Struct, frozen=True):
    leaks: list[Leak]


class Requests(Struct, frozen=True):
    requests: list[Seen]


Name = Annotated[str, Meta(max_length=200)]


def world_of(sandbox: NamedDependency[Sandbox]) -> World:
    """The stand-in's part of the sandbox."""
    return sandbox.elevenlabs


def account_of(request: Request[Any, Any, State], world: NamedDependency[World]) -> Account:
    """The workspace whose knob this is."""
    key = request.headers.get("xi-api-key") or next(iter(world.accounts))
    if (found := world.accounts.get(key)) is None:
        raise NotFoundException("No workspace has this key.")
    return found


@post("/workspaces", status_code=201)
async def open_workspace(data: JSONBody[NewWorkspace], world: NamedDependency[World]) -> Workspace:
    """Open a workspace; a key that is there already names its own."""
    found = world.open_account(data.api_key or "sk_" + secrets.token_hex(24))
    return Workspace(found.workspace_id, found.api_key)


@put("/agents/{agent_id:str}", status_code=204)
async def put_agent(
    agent_id: FromPath[str],
    data: JSONBody[agents.NewAgent],
    world: NamedDependency[World],
    account: NamedDependency[Account],
) -> None:
    """Keep an agent under an id of your choice."""
    try:
        agents.put_agent(world, account, agent_id, msgspec.to_builtins(data))
    except Refused as refused:
        raise ClientException(refused.message) from None


@put("/agents/{agent_id:str}/script", status_code=204)
async def put_script(
    agent_id: FromPath[str], data: JSONBody[list[Rule]], account: NamedDependency[Account]
) -> None:
    """Say what an agent does when it hears something."""
    for rule in data:
        try:
            re.compile(rule.when)
        except re.error as error:
            raise ClientException(f"'{rule.when}' is no pattern: {error}") from None
    account.scripts[agent_id] = data


@put("/behaviour", status_code=204)
async def put_behaviour(data: JSONBody[Behaviour], world: NamedDependency[World]) -> None:
    world.behaviour = data


@put("/socket-faults", status_code=204)
async def put_socket_faults(data: JSONBody[SocketFaults], world: NamedDependency[World]) -> None:
    world.socket_faults = data


@delete("/socket-faults")
async def heal_socket(world: NamedDependency[World]) -> None:
    world.socket_faults = None


@put("/reroutes", status_code=204)
async def put_reroutes(data: JSONBody[dict[str, str]], world: NamedDependency[World]) -> None:
    """Send what goes to an origin to another: a tool's https to a server of your machine."""
    for origin in (*data, *data.values()):
        if ORIGIN.match(origin) is None:
            raise ClientException("A reroute is from origin to origin, without a path.")
    world.reroutes = data


@put("/watched", status_code=204)
async def put_watched(data: JSONBody[dict[str, str]], world: NamedDependency[World]) -> None:
    """Name values that nobody may see but a tool's header and a ``secret__`` variable."""
    world.leaks.watched = data


@post("/clock", status_code=204)
async def forward(data: JSONBody[Forward], world: NamedDependency[World]) -> None:
    """Put the clock forward: tickets and tokens age, batches that are due are dialled."""
    world.put_clock_forward(data.seconds)
    calls.dial_due(world)


@post("/tool-call", status_code=200)
async def tool_call(data: JSONBody[ToolCall], world: NamedDependency[World]) -> Called:
    """Let the agent call a tool, now."""
    conversation = _living(world, data.conversation_id)
    done = await dialogue.act(conversation, data.tool, data.arguments)
    if done is None:
        problem = conversation.failure.reason if conversation.failure else ""
        return Called(called=False, is_error=True, error_type="failed", result=problem, status=None)
    return Called(
        called=done.called,
        is_error=done.is_error,
        error_type=done.error_type,
        result=done.result,
        status=done.status,
    )


@post("/say", status_code=204)
async def say(data: JSONBody[Said], world: NamedDependency[World]) -> None:
    """Let the user say something, and the agent do what its script says."""
    await dialogue.converse(_living(world, data.conversation_id), data.text, spoken=True)


@post("/inbound", status_code=200)
async def inbound(
    data: JSONBody[calls.InboundCall],
    world: NamedDependency[World],
    account: NamedDependency[Account],
) -> Answered:
    """Let somebody call one of the workspace's numbers."""
    try:
        conversation, asked = await calls.receive_call(world, account, data)
    except Refused as refused:
        raise NotFoundException(refused.message) from None
    return Answered(conversation.id, conversation.status, conversation.environment, asked)


@post("/end", status_code=200)
async def end(data: JSONBody[Ended], world: NamedDependency[World]) -> Deliveries:
    """End a conversation, and send its webhook so; once more for one that has ended."""
    conversation = _found(world, data.conversation_id)
    conversation.after_end = None
    conversation.finish(NORMAL, "The sandbox ended it")
    return Deliveries(await deliveries.after_call(conversation, data.webhook))


@post("/settle", status_code=204)
async def settle(world: NamedDependency[World]) -> None:
    """Wait until everything that follows from what was done is done."""
    await world.settle()


@get("/conversations/{conversation_id:str}")
async def inside(conversation_id: FromPath[str], world: NamedDependency[World]) -> Inside:
    found = _found(world, conversation_id)
    return Inside(
        conversation_id=found.id,
        agent_id=found.agent.id,
        status=found.status,
        source=source(found),
        environment=found.environment,
        branch_id=found.branch_id,
        user_id=found.initiation.get("user_id"),
        variables={n: world.fingerprint(str(value)) for n, value in found.variables.items()},
        initiations=found.initiations,
        joined=found.room is not None,
        room=found.room,
        heard_audio=found.heard_audio,
        problem=found.failure.reason if found.failure else None,
    )


@get("/leaks")
async def leaks(world: NamedDependency[World]) -> Leaks:
    """Every secret that was seen where it does not belong."""
    return Leaks(world.leaks.found)


@delete("/leaks")
async def forget_leaks(world: NamedDependency[World]) -> None:
    world.leaks.found.clear()


@get("/requests")
async def requests(world: NamedDependency[World], path: Name = "") -> Requests:
    """What was asked, oldest first."""
    return Requests([one for one in world.requests if path in ("", one.path)])


@delete("/requests")
async def forget_requests(world: NamedDependency[World]) -> None:
    world.requests.clear()


def _found(world: World, conversation_id: str) -> Conversation:
    for account in world.accounts.values():
        found = account.conversations.get(conversation_id)
        if isinstance(found, Conversation):
            return found
    raise NotFoundException("There is no conversation of this id.")


def _living(world: World, conversation_id: str) -> Conversation:
    found = _found(world, conversation_id)
    if found.status != "in-progress":
        raise ClientException(f"The conversation is {found.status}.")
    return found


panel = Router(
    "/_sandbox/elevenlabs",
    dependencies={
        "world": Provide(world_of, sync_to_thread=False),
        "account": Provide(account_of, sync_to_thread=False),
    },
    route_handlers=[
        open_workspace,
        put_agent,
        put_script,
        put_behaviour,
        put_socket_faults,
        heal_socket,
        put_reroutes,
        put_watched,
        forward,
        tool_call,
        say,
        inbound,
        end,
        settle,
        inside,
        leaks,
        forget_leaks,
        requests,
        forget_requests,
    ],
)
