"""Agents and tools: kept as they were configured, and read for what a conversation needs of them.

* A tool belongs to an agent by ``conversation_config.agent.prompt.tool_ids``, or stands in
  ``...prompt.tools`` itself.
* An agent is made by the API as there, or put by a knob under an id of your choice.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta, Struct

from broker.sandbox.elevenlabs.account import Account, Stored, World, new_id
from broker.sandbox.elevenlabs.wire import (
    Answer,
    Refused,
    Request,
    Route,
    merged,
    not_found,
    page,
    unprocessable,
)

TOOL_NAME: Final = r"^[a-zA-Z0-9_-]{1,64}(?!\n)$"
DEFAULT_TIMEOUT: Final = 20
ACCESS: Final = {
    "is_creator": True,
    "creator_name": "Sandbox",
    "creator_email": "sandbox@example.com",
    "role": "admin",
}
# As the real service does where a configuration says nothing of it.
TOOL_DEFAULTS: Final[dict[str, Any]] = {
    "response_timeout_secs": DEFAULT_TIMEOUT,
    "assignments": [],
    "tool_error_handling_mode": "auto",
    "execution_mode": "immediate",
    "follow_redirects": False,
}


class Assignment(Struct):
    dynamic_variable: str
    value_path: str
    source: Literal["response"] = "response"
    sanitize: bool = False
    preserve_native_type: bool = False


class ApiSchema(Struct):
    url: Annotated[str, Meta(pattern=r"^https?://")]
    method: Literal["GET", "POST", "PUT", "PATCH", "DELETE"] = "GET"
    request_headers: dict[str, Any] = {}
    path_params_schema: dict[str, dict[str, Any]] = {}
    query_params_schema: dict[str, Any] | None = None
    request_body_schema: dict[str, Any] | None = None
    response_filter: dict[str, Any] | None = None
    content_type: Literal["application/json", "application/x-www-form-urlencoded"] = (
        "application/json"
    )
    auth_connection: dict[str, str] | None = None


class WebhookTool(Struct):
    """What the sandbox reads of a webhook tool's configuration."""

    name: Annotated[str, Meta(pattern=TOOL_NAME)]
    description: str
    api_schema: ApiSchema
    response_timeout_secs: Annotated[int, Meta(ge=5, le=300)] = DEFAULT_TIMEOUT
    assignments: list[Assignment] = []
    tool_error_handling_mode: Literal["auto", "summarized", "passthrough", "hide"] = "auto"


class ClientTool(Struct):
    """What it reads of a tool that the client runs."""

    name: Annotated[str, Meta(pattern=TOOL_NAME)]
    description: str
    expects_response: bool = False
    response_timeout_secs: Annotated[int, Meta(ge=1, le=300)] = DEFAULT_TIMEOUT


class NewAgent(Struct):
    conversation_config: dict[str, Any]
    platform_settings: dict[str, Any] | None = None
    name: str | None = None
    tags: list[str] | None = None


class ChangedAgent(Struct, omit_defaults=True):
    conversation_config: dict[str, Any] | None = None
    platform_settings: dict[str, Any] | None = None
    name: str | None = None
    tags: list[str] | None = None


class NewTool(Struct):
    tool_config: dict[str, Any]
    response_mocks: list[Any] | None = None


Tool = WebhookTool | ClientTool


async def list_agents(request: Request) -> Answer:
    search = (request.one("search") or "").lower()
    found = [
        one
        for one in request.account.agents.values()
        if search in str(one.config.get("name", "")).lower()
    ]
    cut, cursor = page(request, found, lambda one: one.id)
    return Answer(
        {
            "agents": [_summary(one) for one in cut],
            "next_cursor": cursor,
            "has_more": cursor is not None,
        }
    )


async def make_agent(request: Request) -> Answer:
    asked = request.read(NewAgent)
    made = put_agent(request.world, request.account, new_id("agent"), msgspec.to_builtins(asked))
    return Answer({"agent_id": made.id})


async def get_agent(request: Request) -> Answer:
    return Answer(_shown_agent(agent_of(request.account, request.params["id"])))


async def change_agent(request: Request) -> Answer:
    found = agent_of(request.account, request.params["id"])
    config = merged(found.config, msgspec.to_builtins(request.read(ChangedAgent)))
    check_agent(request.account, config)
    found.config, found.updated_at = config, request.world.seconds()
    return Answer(_shown_agent(found))


async def delete_agent(request: Request) -> Answer:
    del request.account.agents[agent_of(request.account, request.params["id"]).id]
    return Answer({})


async def list_tools(request: Request) -> Answer:
    search = (request.one("search") or "").lower()
    found = [one for one in request.account.tools.values() if search in one.config["name"].lower()]
    cut, cursor = page(request, found, lambda one: one.id)
    return Answer(
        {
            "tools": [_shown_tool(one) for one in cut],
            "next_cursor": cursor,
            "has_more": cursor is not None,
        }
    )


async def make_tool(request: Request) -> Answer:
    config = _checked_tool(request.read(NewTool).tool_config)
    now = request.world.seconds()
    made = Stored(id=new_id("tool"), config=config, created_at=now, updated_at=now)
    request.account.tools[made.id] = made
    return Answer(_shown_tool(made))


async def get_tool(request: Request) -> Answer:
    return Answer(_shown_tool(_tool(request)))


async def change_tool(request: Request) -> Answer:
    found = _tool(request)
    found.config = _checked_tool(request.read(NewTool).tool_config)
    found.updated_at = request.world.seconds()
    return Answer(_shown_tool(found))


async def delete_tool(request: Request) -> Answer:
    found = _tool(request)
    users = [one for one in request.account.agents.values() if found.id in _tool_ids(one)]
    if users and not request.flag("force"):
        raise Refused(409, "in_use", f"The tool is used by {len(users)} agents.")
    del request.account.tools[found.id]
    return Answer({})


def put_agent(world: World, account: Account, agent_id: str, config: dict[str, Any]) -> Stored:
    """Keep an agent under this id."""
    check_agent(account, config)
    now = world.seconds()
    before = account.agents.get(agent_id)
    made = Stored(
        id=agent_id,
        config=config,
        created_at=before.created_at if before else now,
        updated_at=now,
    )
    account.agents[agent_id] = made
    return made


def agent_of(account: Account, agent_id: str) -> Stored:
    if (found := account.agents.get(agent_id)) is None:
        raise not_found("agent", agent_id)
    return found


def within(agent: Stored, *path: str) -> Any:  # noqa: ANN401 - any JSON
    """Return what stands at this place of an agent's configuration; None if nothing does."""
    found: Any = agent.config
    for name in path:
        found = found.get(name) if isinstance(found, dict) else None
    return found


def prompt_of(agent: Stored) -> tuple[str, str]:
    """Return the prompt and the first message."""
    prompt = within(agent, "conversation_config", "agent", "prompt", "prompt")
    first = within(agent, "conversation_config", "agent", "first_message")
    return prompt or "", first or ""


def needs_key(agent: Stored) -> bool:
    """Is the agent open to signed URLs and tokens only?"""
    return bool(within(agent, "platform_settings", "auth", "enable_auth"))


def tools_of(account: Account, agent: Stored) -> dict[str, dict[str, Any]]:
    """The agent's tools by name, as they are configured."""
    inline = within(agent, "conversation_config", "agent", "prompt", "tools") or []
    kept = [account.tools[one].config for one in _tool_ids(agent) if one in account.tools]
    return {one["name"]: one for one in (*kept, *inline) if one.get("type") != "system"}


def read_tool(config: Mapping[str, Any]) -> Tool:
    """Read a configuration; a tool of a kind that the sandbox cannot run raises."""
    kind = config.get("type", "webhook")
    if kind == "webhook":
        return msgspec.convert(config, WebhookTool)
    if kind == "client":
        return msgspec.convert(config, ClientTool)
    raise msgspec.ValidationError(f"The sandbox runs no tools of type '{kind}' - at `$.type`")


def check_agent(account: Account, config: dict[str, Any]) -> None:
    """Refuse an agent whose tools are not there or not right."""
    agent = Stored(id="", config=config, created_at=0, updated_at=0)
    for one in _tool_ids(agent):
        if one not in account.tools:
            raise Refused(404, "tool_not_found", f"No tool has the id '{one}'.", param="tool_ids")
    for one in within(agent, "conversation_config", "agent", "prompt", "tools") or []:
        if one.get("type") != "system":
            _checked_tool(one)


def _checked_tool(config: dict[str, Any]) -> dict[str, Any]:
    made = {"type": "webhook", **config}
    try:
        read_tool(made)
    except msgspec.ValidationError as error:
        raise unprocessable(str(error), "tool_config") from None
    return {**TOOL_DEFAULTS, **made} if made["type"] == "webhook" else made


def _tool(request: Request) -> Stored:
    name = request.params["id"]
    if (found := request.account.tools.get(name)) is None:
        raise not_found("tool", name)
    return found


def _tool_ids(agent: Stored) -> list[str]:
    return within(agent, "conversation_config", "agent", "prompt", "tool_ids") or []


def _name(agent: Stored) -> str:
    return agent.config.get("name") or "Sandbox agent"


def _summary(agent: Stored) -> dict[str, Any]:
    return {
        "agent_id": agent.id,
        "name": _name(agent),
        "voice_id": within(agent, "conversation_config", "tts", "voice_id") or "sandbox_voice",
        "tags": agent.config.get("tags") or [],
        "created_at_unix_secs": agent.created_at,
        "access_info": ACCESS,
        "last_call_time_unix_secs": None,
        "archived": False,
    }


def _shown_agent(agent: Stored) -> dict[str, Any]:
    return {
        "agent_id": agent.id,
        "name": _name(agent),
        "conversation_config": agent.config["conversation_config"],
        "metadata": {
            "created_at_unix_secs": agent.created_at,
            "updated_at_unix_secs": agent.updated_at,
        },
        "platform_settings": agent.config.get("platform_settings") or {},
        "phone_numbers": [],
        "access_info": ACCESS,
        "tags": agent.config.get("tags") or [],
    }


def _shown_tool(tool: Stored) -> dict[str, Any]:
    return {
        "id": tool.id,
        "tool_config": tool.config,
        "access_info": ACCESS,
        "usage_stats": {"total_calls": 0, "avg_latency_secs": 0.0},
    }


_AGENTS = "/v1/convai/agents"
_TOOLS = "/v1/convai/tools"

ROUTES: Final = (
    Route("GET", _AGENTS, list_agents),
    Route("POST", _AGENTS + "/create", make_agent),
    Route("GET", _AGENTS + "/{id}", get_agent),
    Route("PATCH", _AGENTS + "/{id}", change_agent),
    Route("DELETE", _AGENTS + "/{id}", delete_agent),
    Route("GET", _TOOLS, list_tools),
    Route("POST", _TOOLS, make_tool),
    Route("GET", _TOOLS + "/{id}", get_tool),
    Route("PATCH", _TOOLS + "/{id}", change_tool),
    Route("DELETE", _TOOLS + "/{id}", delete_tool),
)
