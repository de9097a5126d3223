"""The story: two people's accounts, two environments, one agent, and a token that ends too early.

A step goes on only where the one before did what it should; each tells one line.
"""

from typing import Any, Final

from msgspec import Struct

from broker.demo.browser import Browser, consent
from broker.demo.talk import Talk, talking
from broker.demo.transcript import Transcript
from broker.demo.world import Unexpected, World, expect, secrets_in
from broker.sandbox import Client
from broker.sandbox.elevenlabs.account import FIRST_KEY
from vault.secret import Secret

AGENT: Final = "agent_desk"
APP: Final = "acme"
TOOL: Final = "who_am_i"
REFRESH: Final = f"refresh_{APP}_access"
HEADER: Final = f"secret__user_{APP}_authorization"
GRANT: Final = "secret__keyturn_authorization"
HOSTS: Final = {"production": "api.acme.example", "staging": "staging.acme.example"}
PEOPLE: Final = {"ada": "production", "grace": "staging"}


class Call(Struct, frozen=True):
    """A conversation that somebody holds: as it was minted, and as its client knows it."""

    minted: Any
    talk: Talk


async def tell(world: World, transcript: Transcript) -> None:
    """From an empty database to the end of a call."""
    await world.anyone().get("/readyz")
    transcript.step(
        f"Keyturn runs at {world.service_url}", "with a PostgreSQL and a root key of its own"
    )
    await _set_up(world, transcript)
    for user, environment in PEOPLE.items():
        await _connect(world, transcript, user, environment)
    minted = {user: await _mint(world, transcript, user) for user in PEOPLE}
    await _refused(world, transcript)
    async with (
        talking(world, minted["ada"]["signed_url"]) as ada,
        talking(world, minted["grace"]["signed_url"]) as grace,
    ):
        calls = {"ada": Call(minted["ada"], ada), "grace": Call(minted["grace"], grace)}
        for user, call in calls.items():
            await _works(world, transcript, user, call)
        await _renewed(world, transcript, calls["ada"])
        await _unseen(world, transcript, list(calls.values()))
        grant = str(world.inside(ada.conversation_id).variables[GRANT])
    await _over(world, transcript, calls["ada"], grant)


# Before the first call


async def _set_up(world: World, transcript: Transcript) -> None:
    """What an operator and a developer do once."""
    secret = world.sandbox.random()
    callback = f"{world.service_url}/oauth/oidc/{APP}/callback"
    world.sandbox.clients["keyturn"] = Client(
        name="Acme agents", secret=secret, redirect_uris=[callback]
    )
    await world.platform.put(
        f"/v1/integrations/{APP}",
        {
            "provider": "oidc",
            "variables": {"issuer": world.sandbox_url},
            "client_id": "keyturn",
            "client_secret": secret,
            "scopes": ["openid", "email", "offline_access"],
        },
    )
    upstream = {"base_url": world.sandbox_url, "api_key": FIRST_KEY}
    await world.platform.put("/v1/upstreams/elevenlabs", upstream)
    transcript.step(
        "It knows an app at a provider, and an ElevenLabs account",
        f"played at {world.sandbox_url}; their secrets are sealed",
    )
    profile = {"integrations": [{"integration": APP}]}
    await world.platform.put(f"/v1/agents/{AGENT}", profile)
    await _agent(world, [])
    pushed = await world.platform.post(f"/v1/agents/{AGENT}/tools/push", {})
    await _agent(world, [one["tool_id"] for one in pushed["tools"]])
    expect("the tools that were pushed", [REFRESH], [one["name"] for one in pushed["tools"]])
    transcript.step(
        f"The agent got the tool {REFRESH}",
        "ready-made: what it brings goes past the model",
    )


async def _agent(world: World, tool_ids: list[str]) -> None:
    """Have the agent at ElevenLabs, with a tool of the platform's own beside ours."""
    if not tool_ids:
        values = {"type": "string", "label": "api_host", "values": HOSTS}
        await world.elevenlabs.post("/v1/convai/environment-variables", values)
        reroutes = {f"https://{host}": world.sandbox_url for host in HOSTS.values()}
        await world.elevenlabs.put("/_sandbox/elevenlabs/reroutes", reroutes)
    own = {
        "type": "webhook",
        "name": TOOL,
        "description": "Says whose account this is.",
        "api_schema": {
            "url": "https://{{system__env_api_host}}/whoami",
            "request_headers": {"Authorization": {"variable_name": HEADER}},
        },
    }
    prompt = {"tools": [own], "tool_ids": tool_ids}
    config = {"conversation_config": {"agent": {"prompt": prompt}}}
    await world.elevenlabs.put(f"/_sandbox/elevenlabs/agents/{AGENT}", config)


async def _connect(world: World, transcript: Transcript, user: str, environment: str) -> None:
    """Invite somebody, and let their browser go the whole way."""
    invited = {"user_id": user, "integrations": [APP], "environment": environment}
    link = await world.platform.post("/v1/connect-sessions", invited)
    await consent(Browser(world.egress), link["url"], user)
    found = await world.platform.get(
        f"/v1/users/{user}/connections/{APP}?environment={environment}"
    )
    expect(f"the connection of {user}", "active", found["state"])
    transcript.step(
        f"{user.title()} connected an account in {environment}",
        "through our pages; her tokens are sealed under her own key",
    )


# Minting


async def _mint(world: World, transcript: Transcript, user: str) -> Any:  # noqa: ANN401 - any JSON
    environment = PEOPLE[user]
    wanted = {"agent_id": AGENT, "user_id": user, "environment": environment}
    minted = await world.platform.post("/v1/conversations", wanted)
    expect("how secrets travel", "relay", minted["delivery"])
    expect("secrets in the answer", [], secrets_in(minted["dynamic_variables"]))
    transcript.step(
        f"A conversation was minted for {user.title()} in {environment}",
        "her client gets a URL for one start, and no secret",
    )
    return minted


async def _refused(world: World, transcript: Transcript) -> None:
    wanted = {"agent_id": AGENT, "user_id": "ada", "environment": "staging"}
    said = await world.platform.ask("POST", "/v1/conversations", wanted)
    expect("minting for Ada in staging", "409 connection_missing", repr(said))
    transcript.step(
        "Ada has no account in staging: 409 connection_missing",
        "what people connected in production stays there",
    )


# The calls


async def _works(world: World, transcript: Transcript, user: str, call: Call) -> None:
    """The agent's tool gets the token of the one who is talking, at the right host."""
    inside = world.inside(call.talk.conversation_id)
    environment = PEOPLE[user]
    expect("the environment of the call", environment, inside.environment)
    done = await _tool(world, call, TOOL)
    expect(f"{user}'s tool call", (200, user), (done["status"], _account(done)))
    expect("where it went", f"https://{HOSTS[environment]}/whoami", _last_url(world, call))
    transcript.step(
        f"{user.title()}'s agent called its tool: 200, as {user}",
        f"at {HOSTS[environment]}, with her token {world.mark(_token(world, call))}",
    )


async def _renewed(world: World, transcript: Transcript, call: Call) -> None:
    """A token ends in the middle of a call, and the call goes on."""
    before = _token(world, call)
    await world.elevenlabs.post("/_sandbox/expire", None)
    refused = await _tool(world, call, TOOL)
    expect("the tool call with an old token", 401, refused["status"])
    transcript.step(
        "Her token ended in mid-call: the same tool answers 401",
        "its provider ended it; nobody was told",
    )
    renewed = await _tool(world, call, REFRESH)
    expect("the refresh tool", 200, renewed["status"])
    after = _token(world, call)
    if after == before or after in renewed["result"]:
        raise Unexpected("the refresh tool: expected a new token that the model does not see")
    transcript.step(
        f"The refresh tool brought a new one: {world.mark(before)} -> {world.mark(after)}",
        "the call's grant says whose; the model reads no token",
    )
    again = await _tool(world, call, TOOL)
    expect("the tool call with the new token", (200, "ada"), (again["status"], _account(again)))
    transcript.step("The tool works again: 200, as ada", "nobody had to hang up")


async def _unseen(world: World, transcript: Transcript, calls: list[Call]) -> None:
    """Nothing secret reached a client, a model or a transcript."""
    heard = "".join(frame for call in calls for frame in call.talk.heard)
    for call in calls:
        for value in secrets_in(world.inside(call.talk.conversation_id).variables):
            expect("a secret in what a client heard", False, value in heard)  # noqa: FBT003
    leaks = await world.elevenlabs.get("/_sandbox/elevenlabs/leaks")
    expect("leaks that the sandbox's detector found", [], leaks["leaks"])
    frames = sum(len(call.talk.heard) for call in calls)
    transcript.step(
        f"Both clients heard {frames} messages, and no secret",
        "nor did a prompt, a transcript or a tool's answer hold one",
    )


async def _over(world: World, transcript: Transcript, call: Call, grant: str) -> None:
    """The end of a call is the end of what it held."""
    await world.platform.post(f"/v1/conversations/{call.minted['id']}/end", {})
    kept = world.anyone(("Authorization", Secret(grant)))
    said = await kept.ask("POST", "/tokens/refresh", {"integration": APP})
    expect("a grant after the call", "401 unauthenticated", repr(said))
    transcript.step(
        f"The call is over, and its grant {world.mark(grant)} is dead: 401",
        "whoever kept it has nothing",
    )


async def _tool(world: World, call: Call, name: str) -> Any:  # noqa: ANN401 - any JSON
    """Let the agent call a tool, as if the model had decided so."""
    asked = {"conversation_id": call.talk.conversation_id, "tool": name, "arguments": {}}
    return await world.elevenlabs.post("/_sandbox/elevenlabs/tool-call", asked)


def _account(done: Any) -> str:  # noqa: ANN401 - any JSON
    """Whom the tool's answer names."""
    for account in PEOPLE:
        if f'"account": "{account}"' in done["result"]:
            return account
    return "nobody"


def _last_url(world: World, call: Call) -> str:
    """Where the transcript says that the last tool call went."""
    transcript = world.inside(call.talk.conversation_id).transcript
    urls = [
        one["tool_details"]["url"] for turn in transcript for one in turn.get("tool_calls") or []
    ]
    return str(urls[-1])


def _token(world: World, call: Call) -> str:
    value: str = world.inside(call.talk.conversation_id).variables[HEADER]
    return value.removeprefix("Bearer ")
