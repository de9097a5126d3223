"""The client's side of a conversation: it opens the signed URL, and keeps what it hears."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any, Final

from broker.demo.world import Unexpected, World
from vault.egress import Dial, Socket
from vault.secret import Secret

INITIATION: Final = "conversation_initiation_client_data"
METADATA: Final = "conversation_initiation_metadata"
WAIT: Final = 15.0  # seconds for the first answer


class Talk:
    """What a client knows of its conversation. ``heard``: every frame that reached it."""

    def __init__(self, socket: Socket) -> None:
        self._socket = socket
        self.conversation_id = ""
        self.heard: list[str] = []

    async def begin(self) -> None:
        """Say that we are here, as every client does, and nothing else."""
        await self._socket.send(json.dumps({"type": INITIATION}))
        async with asyncio.timeout(WAIT):
            frame = await self._frame()
        if frame is None or frame["type"] != METADATA:
            raise Unexpected("the conversation's first message: expected its metadata")
        self.conversation_id = frame[f"{METADATA}_event"]["conversation_id"]

    async def listen(self) -> None:
        """Hear what is said, and answer pings, to the end."""
        while (frame := await self._frame()) is not None:
            if frame["type"] == "ping":
                pong = {"type": "pong", "event_id": frame["ping_event"]["event_id"]}
                await self._socket.send(json.dumps(pong))

    async def _frame(self) -> Any:  # noqa: ANN401 - any JSON
        heard = await self._socket.receive()
        if not isinstance(heard, str):
            return None
        self.heard.append(heard)
        return json.loads(heard)


@contextlib.asynccontextmanager
async def talking(world: World, signed_url: str) -> AsyncIterator[Talk]:
    """Hold a conversation for as long as this is open."""
    socket = await world.egress.socket("tool", Dial(url=Secret(signed_url)))
    talk = Talk(socket)
    listening: asyncio.Task[None] | None = None
    try:
        await talk.begin()
        listening = asyncio.create_task(talk.listen())
        yield talk
    finally:
        if listening is not None:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)
        await socket.close()
