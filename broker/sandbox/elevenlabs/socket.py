"""The conversation's WebSocket, as ElevenLabs speaks it, and the WebRTC signalling's door.

* The subprotocol ``convai`` is selected where it is offered; Python's SDK offers none.
* A signed URL opens it, or the workspace's key, or nothing where the agent is open to all.
  Whoever may not come in is closed with 1008 after the handshake, as there.
* The first frame is ``conversation_initiation_client_data``; the answer to it is
  ``conversation_initiation_metadata``. A second such frame changes nothing and is counted.
* Frames go out in order and as fast as the client takes them.
"""

import asyncio
import base64
import binascii
import contextlib
import json
from typing import Any, Final

from litestar.types import Receive, Send

from broker.sandbox.elevenlabs import agents
from broker.sandbox.elevenlabs.account import Account, Stored, Ticket, World
from broker.sandbox.elevenlabs.conversations import (
    AUDIO_FORMAT,
    NORMAL,
    Conversation,
    Failed,
    Hangup,
)
from broker.sandbox.elevenlabs.deliveries import tell
from broker.sandbox.elevenlabs.dialogue import converse
from broker.sandbox.elevenlabs.history import source
from broker.sandbox.elevenlabs.knobs import SocketFaults
from broker.sandbox.elevenlabs.sessions import join, new_conversation
from broker.sandbox.elevenlabs.wire import Request
from broker.sandbox.faults import EXTENSION

PROTOCOL: Final = "convai"
BEARER: Final = "bearer."
MAX_REASON: Final = 123  # bytes of a close frame's reason, RFC 6455 section 5.5
MAX_SECONDS: Final = 600
INITIATION: Final = "conversation_initiation_client_data"
METADATA: Final = "conversation_initiation_metadata"


class Gone(Exception):
    """The client went away."""


class Socket:
    """One WebSocket, from the handshake to the close."""

    def __init__(
        self,
        world: World,
        request: Request,
        offered: list[str],
        abort: Any,  # noqa: ANN401 - what the server lends, if it does
        receive: Receive,
        send: Send,
    ) -> None:
        self._world = world
        self._request = request
        self._offered = offered
        self._abort = abort
        self._receive = receive
        self._send = send
        self._faults = SocketFaults()

    async def signal(self) -> None:
        """Note who comes to the WebRTC signalling, and say goodbye: there is no media here."""
        await self._receive()
        if join(self._request) is None:
            await self._deny(401)
            return
        await self._send({"type": "websocket.accept", "subprotocol": None, "headers": []})
        await self._close(NORMAL, "This sandbox carries no media.")

    async def refuse(self, status: int) -> None:
        """Let nobody in."""
        await self._receive()
        await self._deny(status)

    async def serve(self) -> None:
        """Hold the conversation."""
        await self._receive()
        self._faults = self._world.take_socket_faults()
        if self._faults.refuse is not None:
            await self._deny(self._faults.refuse)
            return
        accept: Any = {"type": "websocket.accept", "subprotocol": None, "headers": []}
        if PROTOCOL in self._offered:
            accept["subprotocol"] = PROTOCOL
        await self._send(accept)
        try:
            conversation = self._admitted()
            first = await self._first_frame()
        except Failed as failure:
            await self._close(failure.code, failure.reason)
            return
        except Gone:
            return
        await self._begin(conversation, first)

    async def _begin(self, conversation: Conversation, first: dict[str, Any]) -> None:
        conversation.outbox = asyncio.Queue()
        conversation.after_end = tell
        try:
            conversation.start(first)
            conversation.source = source(conversation)
            await asyncio.sleep(self._faults.latency)
            if await self._misbehaved("initiation"):
                conversation.finish(failure=Failed("sandbox_fault", "A fault ended it", 1011))
                return
            if not self._faults.silent:
                self._say_hello(conversation)
        except Failed as failure:
            conversation.fail(failure)
        await self._converse(conversation)

    def _say_hello(self, conversation: Conversation) -> None:
        hello = {
            "conversation_id": conversation.id,
            "agent_output_audio_format": AUDIO_FORMAT,
            "user_input_audio_format": AUDIO_FORMAT,
        }
        assert conversation.outbox is not None
        if self._faults.garbled:
            conversation.outbox.put_nowait("{garbled")
        conversation.outbox.put_nowait({"type": METADATA, f"{METADATA}_event": hello})
        conversation.greet()

    async def _converse(self, conversation: Conversation) -> None:
        """Read, write and ping until one of us hangs up."""
        sides = [
            asyncio.create_task(self._listen(conversation)),
            asyncio.create_task(self._keep_time(conversation)),
        ]
        try:
            await self._write(conversation)
        finally:
            for side in sides:
                side.cancel()
            await asyncio.gather(*sides, return_exceptions=True)
            conversation.finish()
            conversation.outbox = None

    async def _write(self, conversation: Conversation) -> None:
        assert conversation.outbox is not None
        while True:
            frame = await conversation.outbox.get()
            if isinstance(frame, Hangup):
                await self._close(frame.code, frame.reason)
                return
            text = frame if isinstance(frame, str) else json.dumps(frame)
            try:
                await self._send({"type": "websocket.send", "text": text, "bytes": None})
            except OSError:
                return

    async def _listen(self, conversation: Conversation) -> None:
        try:
            while True:
                frame = await self._frame()
                spoke = frame.get("type") == "user_message" or "user_audio_chunk" in frame
                if spoke and await self._misbehaved("message"):
                    break
                self._heard(conversation, frame)
        except Failed as failure:
            conversation.fail(failure)
        except Gone:
            pass
        finally:
            conversation.finish(NORMAL, "The client left")

    async def _keep_time(self, conversation: Conversation) -> None:
        wanted = ("conversation_config", "conversation", "max_duration_seconds")
        longest = agents.within(conversation.agent, *wanted) or MAX_SECONDS
        while conversation.ended_at is None:
            await asyncio.sleep(self._world.behaviour.ping_interval)
            if conversation.seconds >= longest:
                conversation.finish(NORMAL, "Max conversation duration reached")
            conversation.emit("ping", {"ping_ms": 50 if conversation.pongs else None})

    def _heard(self, conversation: Conversation, frame: dict[str, Any]) -> None:
        """Act on one frame of the client."""
        if "user_audio_chunk" in frame:
            self._heard_audio(conversation, frame["user_audio_chunk"])
            return
        text = str(frame.get("text") or "")
        match frame.get("type"):
            case "pong":
                conversation.pongs += 1
            case "user_message" | "multimodal_message":
                talking = asyncio.create_task(converse(conversation, text))
                self._world.in_background(talking)
            case "contextual_update":
                conversation.look("transcript", text)
            case "client_tool_result":
                answered = conversation.waiting.get(str(frame.get("tool_call_id")))
                if answered is not None and not answered.done():
                    is_error = bool(frame.get("is_error"))
                    answered.set_result((str(frame.get("result")), is_error))
            case kind if kind == INITIATION:
                conversation.initiations += 1
            case _:  # feedback, activity, and whatever is new
                pass

    def _heard_audio(self, conversation: Conversation, encoded: object) -> None:
        try:
            audio = base64.b64decode(str(encoded), validate=True)
        except binascii.Error:
            raise Failed("invalid_message", "Invalid audio chunk") from None
        conversation.heard_audio += len(audio)
        if self._world.behaviour.echo_audio and not conversation.text_only:
            conversation.speak(audio)

    def _admitted(self) -> Conversation:
        """Find the conversation that this client may hold, or raise ``Failed``."""
        request, agent_id = self._request, self._request.one("agent_id")
        signature = request.one("conversation_signature")
        if signature is not None:
            return self._signed(signature, agent_id)
        for account in self._world.accounts.values():
            if (agent := account.agents.get(agent_id or "")) is None:
                continue
            if agents.needs_key(agent) and not self._has_key(account):
                raise Failed("unauthorized", "This agent has authentication enabled")
            conversation = new_conversation(self._world, account, agent, "unknown")
            conversation.environment = request.one("environment")
            conversation.branch_id = request.one("branch_id")
            return conversation
        raise Failed("not_found", "The AI agent you are trying to reach does not exist.")

    def _signed(self, signature: str, agent_id: str | None) -> Conversation:
        account, ticket = self._ticket(signature)
        if ticket.agent_id != agent_id or ticket.until < self._world.now():
            raise Failed("unauthorized", "Invalid or expired signature")
        agent: Stored | None = account.agents.get(ticket.agent_id)
        if agent is None:
            raise Failed("not_found", "The AI agent you are trying to reach does not exist.")
        found: Any = account.conversations.get(ticket.conversation_id)
        fresh = isinstance(found, Conversation) and found.status == "initiated"
        if ticket.single_use and not fresh:
            raise Failed("unauthorized", "Invalid or expired signature")
        if ticket.single_use:
            del account.tickets[signature]
        made = found if fresh else new_conversation(self._world, account, agent, "unknown")
        assert isinstance(made, Conversation)
        self._bind(made, ticket)
        return made

    def _bind(self, conversation: Conversation, ticket: Ticket) -> None:
        asked = (self._request.one("environment"), self._request.one("branch_id"))
        bound = (ticket.environment, ticket.branch_id)
        pairs = zip(asked, bound, strict=True)
        if self._world.behaviour.client_chooses_environment:
            conversation.environment, conversation.branch_id = [one or two for one, two in pairs]
        else:
            conversation.environment, conversation.branch_id = [two or one for one, two in pairs]

    def _ticket(self, signature: str) -> tuple[Account, Ticket]:
        for account in self._world.accounts.values():
            if (ticket := account.tickets.get(signature)) is not None:
                return account, ticket
        raise Failed("unauthorized", "Invalid or expired signature")

    def _has_key(self, account: Account) -> bool:
        bearers = [one.removeprefix(BEARER) for one in self._offered if one.startswith(BEARER)]
        return account.api_key in (self._request.headers.get("xi-api-key"), *bearers)

    async def _first_frame(self) -> dict[str, Any]:
        try:
            async with asyncio.timeout(self._world.behaviour.initiation_timeout):
                frame = await self._frame()
        except TimeoutError:
            raise Failed("missing_fields", "No conversation initiation data received") from None
        if frame.get("type") != INITIATION:
            raise Failed("missing_fields", f"The first message must be {INITIATION}")
        return frame

    async def _frame(self) -> dict[str, Any]:
        message = await self._receive()
        if message["type"] != "websocket.receive":
            raise Gone
        try:
            frame = json.loads(message.get("text") or message.get("bytes") or "")
        except (ValueError, RecursionError):
            raise Failed("invalid_message", "Invalid message received") from None
        if not isinstance(frame, dict):
            raise Failed("invalid_message", "Invalid message received")
        return frame

    async def _misbehaved(self, at: str) -> bool:
        """Do what the faults say; true where that ended the connection."""
        faults = self._faults
        if faults.at != at or not (faults.drop or faults.close):
            return False
        if faults.drop and self._abort is not None:
            await self._abort()
        else:
            await self._close(faults.close or 1011, faults.reason)
        return True

    async def _deny(self, status: int) -> None:
        start: Any = {"type": "websocket.http.response.start", "status": status, "headers": []}
        body: Any = {"type": "websocket.http.response.body", "body": b""}
        await self._send(start)
        await self._send(body)

    async def _close(self, code: int, reason: str) -> None:
        short = reason.encode()[:MAX_REASON].decode("utf-8", "ignore")
        with contextlib.suppress(OSError, RuntimeError):  # they were faster
            await self._send({"type": "websocket.close", "code": code, "reason": short})


def abort_of(scope: object) -> Any:  # noqa: ANN401 - as it is lent
    """What cuts the connection, where our own server runs us."""
    extensions = scope.get("extensions") if isinstance(scope, dict) else None
    lent = (extensions or {}).get(EXTENSION)
    return lent["abort"] if lent else None
