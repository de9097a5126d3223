"""The conversation's WebSocket, where official clients that were given our signed URL come to.

* Everybody is let in, and whoever may not stay is closed with a code after that: a browser shows
  its page the code of a close frame, and never the status of a handshake.
* The ticket stands in the query, as ElevenLabs' signature does. What else is there (agent,
  environment, branch, version) is the mint's to say, and is not read.
"""

from typing import Any, Final

from litestar import Router, WebSocket, websocket
from litestar.di import NamedDependency
from litestar.exceptions import WebSocketDisconnect

from broker.admission import SOCKET_PATH, TICKET
from broker.relay import Client, Relay

PROTOCOL: Final = "convai"
MAX_TICKET: Final = 200


@websocket(SOCKET_PATH)
async def conversation(socket: WebSocket[Any, Any, Any], relay: NamedDependency[Relay]) -> None:
    """Hold the conversation that the ticket admits to."""

    async def send(message: Any) -> None:  # noqa: ANN401 - an ASGI message
        try:
            await socket.send(message)
        except WebSocketDisconnect:
            raise BrokenPipeError from None

    offered = socket.scope["subprotocols"]
    await socket.accept(subprotocols=PROTOCOL if PROTOCOL in offered else None)
    await relay.serve(Client(socket.receive, send), _ticket(socket))


def _ticket(socket: WebSocket[Any, Any, Any]) -> str | None:
    """The one ticket of the query; two are none."""
    found = socket.query_params.getall(TICKET, [])
    return found[0] if len(found) == 1 and 0 < len(found[0]) <= MAX_TICKET else None


router = Router(path="/", route_handlers=[conversation])
