"""The stand-in for ElevenLabs behind a real port, a talk with it, and the tools that it calls."""

import asyncio
import contextlib
import json
from collections import deque
from collections.abc import AsyncIterator, Mapping
from typing import Any

import aiohttp
from msgspec import Struct, field

from broker.sandbox.elevenlabs.account import FIRST_KEY, World
from support.api import Api, Reply
from support.loopback import Listener, listening
from support.sandbox import Provider, providing

AGENT = "agent_desk"
SOCKET = "/v1/convai/conversation"
INITIATION = "conversation_initiation_client_data"
METADATA = "conversation_initiation_metadata"
WAIT = 60.0  # seconds; nothing takes as long but on a machine that stands still


class Heard(Struct, frozen=True):
    """One request, as whoever is called heard it."""

    method: str
    path: str
    headers: dict[str, str]  # by lower-case name
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Answering(Struct, frozen=True):
    content: Any = field(default_factory=dict)
    status: int = 200
    after: float = 0.0
    headers: Mapping[str, str] = field(default_factory=dict)
    when: asyncio.Event | None = None  # it is answered; at once, without one


class Outside:
    """A server of the platform's own: tools, webhooks, a token endpoint."""

    def __init__(self) -> None:
        self.answers: deque[Answering] = deque()  # the last one stays
        self.listener: Listener

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.listener.port}"

    @property
    def heard(self) -> list[Heard]:
        return [_read(one) for one in self.listener.heard]

    def will(
        self,
        content: Any = None,
        status: int = 200,
        *,
        after: float = 0.0,
        when: asyncio.Event | None = None,
        **headers: str,
    ) -> None:
        """Answer so, after what was said before."""
        more = {name.replace("_", "-"): value for name, value in headers.items()}
        content = {} if content is None else content
        self.answers.append(Answering(content, status, after, more, when))

    async def answer(self, writer: asyncio.StreamWriter) -> None:
        found = Answering()
        if self.answers:
            found = self.answers.popleft() if len(self.answers) > 1 else self.answers[0]
        await asyncio.sleep(found.after)
        if found.when is not None:
            await found.when.wait()
        content = found.content
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        head = f"HTTP/1.1 {found.status} X\r\nContent-Type: application/json\r\n"
        head += "".join(f"{name}: {value}\r\n" for name, value in found.headers.items())
        writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode("latin-1") + body)


def _read(raw: bytes) -> Heard:
    head, _, body = raw.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    method, path, _ = first.split(" ")
    pairs = (line.split(": ", 1) for line in lines)
    return Heard(method, path, {name.lower(): value for name, value in pairs}, body)


class Talk:
    """The client's side of one conversation."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = socket
        self.conversation_id = ""

    async def send(self, frame: Mapping[str, Any]) -> None:
        await self.socket.send_json(frame)

    async def say(self, text: str) -> None:
        await self.send({"type": "user_message", "text": text})

    async def frame(self) -> Any:
        """The next frame, whatever it is."""
        message = await self.socket.receive(WAIT)
        assert message.type == aiohttp.WSMsgType.TEXT, message
        return json.loads(message.data)

    async def next(self, kind: str) -> Any:
        """The next frame of this kind; others are passed over, and pings answered."""
        async with asyncio.timeout(WAIT):
            while True:
                frame = await self.frame()
                if frame["type"] == "ping" and kind != "ping":
                    await self.send({"type": "pong", "event_id": frame["ping_event"]["event_id"]})
                if frame["type"] == kind:
                    return frame

    async def response(self) -> str:
        frame = await self.next("agent_response")
        text: str = frame["agent_response_event"]["agent_response"]
        return text

    async def closed(self) -> tuple[int | None, str]:
        """Pass over what still comes; say how it was closed."""
        async with asyncio.timeout(WAIT):
            while True:
                message = await self.socket.receive()
                if message.type in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED):
                    return self.socket.close_code, str(message.extra or "")
                assert message.type == aiohttp.WSMsgType.TEXT, message


class Eleven:
    """A stand-in of one's own, and one of its workspaces."""

    def __init__(self, provider: Provider, session: aiohttp.ClientSession, key: str) -> None:
        self.base = provider.base
        self.key = key
        self._provider = provider
        self._session = session
        self._api = Api(session, provider.base)

    @property
    def world(self) -> World:
        return self._provider.state.elevenlabs

    def as_workspace(self, key: str) -> "Eleven":
        return Eleven(self._provider, self._session, key)

    async def call(
        self, method: str, path: str, body: Any = None, *, key: str | None = "", **more: Any
    ) -> Reply:
        """Ask with the workspace's key, another one, or (``None``) without."""
        headers = {} if key is None else {"xi-api-key": key or self.key}
        return await self._api.call(method, path, body=body, headers=headers, **more)

    async def get(self, path: str, **more: Any) -> Reply:
        return await self.call("GET", path, **more)

    async def post(self, path: str, body: Any = None, **more: Any) -> Reply:
        return await self.call("POST", path, body, **more)

    async def made(self, path: str, body: Any) -> Any:
        """Post, and say what was made."""
        reply = await self.post(path, body)
        assert reply.status == 200, reply.body
        return reply.json

    async def knob(self, method: str, path: str, body: Any = None) -> Reply:
        reply = await self.call(method, f"/_sandbox{path}", body)
        assert reply.status < 300, reply.body
        return reply

    async def agent(
        self,
        *,
        agent_id: str = AGENT,
        prompt: Mapping[str, Any] | None = None,
        first: str = "",
        platform: Mapping[str, Any] | None = None,
    ) -> str:
        """Put an agent there."""
        agent = {"first_message": first, "prompt": prompt or {}}
        config = {"conversation_config": {"agent": agent}, "platform_settings": platform or {}}
        await self.knob("PUT", f"/elevenlabs/agents/{agent_id}", config)
        return agent_id

    async def tool(self, **config: Any) -> str:
        """Make a webhook tool, and return its id."""
        whole = {"type": "webhook", "name": "orders", "description": "Orders.", **config}
        made = await self.made("/v1/convai/tools", {"tool_config": whole})
        return str(made["id"])

    async def call_tool(self, talk: Talk, tool: str = "orders", **arguments: Any) -> Any:
        asked = {"conversation_id": talk.conversation_id, "tool": tool, "arguments": arguments}
        return (await self.knob("POST", "/elevenlabs/tool-call", asked)).json

    async def signed_url(self, query: str = "", *, agent_id: str = AGENT) -> str:
        reply = await self.get(f"{SOCKET}/get-signed-url?agent_id={agent_id}{query}")
        assert reply.status == 200, reply.body
        url: str = reply.json["signed_url"]
        return url

    @contextlib.asynccontextmanager
    async def socket(
        self,
        url: str = "",
        *,
        protocols: tuple[str, ...] = (),
        headers: Mapping[str, str] | None = None,
    ) -> AsyncIterator[Talk]:
        """Open the conversation's socket; by default the agent's, without a signature."""
        where = url or f"{self.base}{SOCKET}?agent_id={AGENT}"
        async with self._session.ws_connect(where, protocols=protocols, headers=headers) as socket:
            yield Talk(socket)

    @contextlib.asynccontextmanager
    async def talking(
        self, url: str = "", variables: Mapping[str, Any] | None = None, **frame: Any
    ) -> AsyncIterator[Talk]:
        """Hold a conversation."""
        async with self.socket(url) as talk:
            given = {"dynamic_variables": {} if variables is None else variables, **frame}
            await talk.send({"type": INITIATION, **given})
            hello = await talk.frame()
            assert hello["type"] == METADATA, hello
            talk.conversation_id = hello[f"{METADATA}_event"]["conversation_id"]
            yield talk

    async def shown(self, conversation_id: str) -> Any:
        """What ElevenLabs' API shows of a conversation."""
        return (await self.get(f"/v1/convai/conversations/{conversation_id}")).json

    async def inside(self, conversation_id: str) -> Any:
        return (await self.knob("GET", f"/elevenlabs/conversations/{conversation_id}")).json

    async def leaks(self) -> list[Any]:
        """Where leaks were found, and of which variables."""
        found = (await self.knob("GET", "/elevenlabs/leaks")).json["leaks"]
        return [(one["where"], one["name"]) for one in found]


@contextlib.asynccontextmanager
async def pretending() -> AsyncIterator[Eleven]:
    """Run a stand-in of one's own."""
    async with (
        providing() as provider,
        aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session,
    ):
        yield Eleven(provider, session, FIRST_KEY)


@contextlib.asynccontextmanager
async def outside() -> AsyncIterator[Outside]:
    """Run a server that the stand-in calls."""
    server = Outside()
    async with listening(server.answer) as listener:
        server.listener = listener
        yield server
