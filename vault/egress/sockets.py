"""Guarded outbound WebSockets: opened under every rule that an outbound call keeps.

* The URL (``wss://``, or ``ws://`` where plain http is open) is vetted, its name looked up and its
  addresses pinned as for a call. A handshake that is answered with a redirect, or with anything
  but 101, is a failure; it is never repeated, since a signed URL may open one socket only.
* A message is read whole, up to ``max_bytes``; a longer one closes the socket with 1009. Nothing is
  compressed. Both sides' pings are answered, and silence of ``heartbeat`` seconds meets a ping.
* Awaiting is the flow control. Whoever does not ``receive`` stops the other side from sending: what
  is read ahead is a few of aiohttp's buffers, whatever they send. ``send`` returns when the bytes
  are out, or in a buffer of bounded size.
* A failure's text holds no URL, no frame, and no reason that the other side gave.
"""

import asyncio
import contextlib
import ssl
from typing import Any, Final

import aiohttp
from msgspec import Struct

from vault.egress.address import VettedUrl
from vault.egress.messages import Timeouts
from vault.egress.sessions import guarded_session
from vault.errors import EgressDenied, Unreachable, UpstreamFailed
from vault.secret import Secret

NO_CODE: Final = 1005  # RFC 6455 section 7.1.5: a close frame without a code
LOST: Final = 1006  # no close frame at all
MAX_REASON: Final = 123  # bytes, of a close frame

HANDSHAKE: Final = Timeouts(connect=5.0, wait=5.0, read=10.0, total=15.0)


class Dial(Struct, frozen=True, kw_only=True):
    """What to open. Its repr shows nothing of it: a socket's URL is often its password."""

    url: Secret
    timeout: Timeouts = HANDSHAKE
    heartbeat: float = 20.0  # seconds of silence before a ping; half of it again for the pong
    goodbye: float = 5.0  # seconds to close in
    max_bytes: int = 1 << 20

    def http_url(self) -> str:
        """The URL as the handshake, which is an HTTP request, is addressed."""
        url = self.url.reveal()
        if not url.startswith(("wss://", "ws://")):
            raise EgressDenied("The URL of a socket begins with wss://")
        return f"http{url.removeprefix('ws')}"

    def __repr__(self) -> str:
        return "Dial()"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return []


class Closed(Struct, frozen=True):
    """How a socket ended. ``ours``: the other side broke the protocol, and we closed it."""

    code: int
    reason: str = ""
    ours: bool = False


class Socket:
    """One open WebSocket. One task may receive while another sends."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse, place: str, goodbye: float) -> None:
        self._socket = socket
        self._place = place
        self._goodbye = goodbye

    async def send(self, frame: str | bytes | Secret) -> None:
        """Send text, bytes, or text that is a secret; ``Unreachable`` when nobody is there."""
        try:
            if isinstance(frame, bytes):
                await self._socket.send_bytes(frame)
            else:
                await self._socket.send_str(frame if isinstance(frame, str) else frame.reveal())
        except (aiohttp.ClientError, OSError):
            gone = True
        else:
            gone = False
        if gone:
            raise Unreachable(f"{self._place}: the socket is closed.", sent=True)

    async def receive(self) -> str | bytes | Closed:
        """Wait for the next message, or learn how it ended; the same again from then on."""
        message = await self._socket.receive()
        if message.type is aiohttp.WSMsgType.TEXT:
            text: str = message.data
            return text
        if message.type is aiohttp.WSMsgType.BINARY:
            data: bytes = message.data
            return data
        if message.type is aiohttp.WSMsgType.CLOSE:
            return Closed(message.data or NO_CODE, str(message.extra or ""))
        if isinstance(message.data, aiohttp.WebSocketError):
            return Closed(int(message.data.code), ours=True)
        return Closed(LOST)

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Say goodbye; after ``goodbye`` seconds the connection is cut. Closing twice is fine."""
        with contextlib.suppress(TimeoutError, aiohttp.ClientError, OSError):
            async with asyncio.timeout(self._goodbye):
                await self._socket.close(code=code, message=shortened(reason))

    def __repr__(self) -> str:
        return f"Socket({self._place})"


class SocketLane:
    """One purpose's sockets. They do not use up the places of its calls."""

    def __init__(self, tls: ssl.SSLContext, limit: int) -> None:
        self._session = guarded_session(tls, repeats=False, limit=limit, force_close=True)

    async def open(self, url: VettedUrl, dial: Dial) -> Socket:
        socket: aiohttp.ClientWebSocketResponse | None = None
        status = 0
        try:
            socket = await self._session.ws_connect(
                url.url,
                timeout=aiohttp.ClientWSTimeout(ws_receive=None, ws_close=dial.goodbye),
                heartbeat=dial.heartbeat,
                max_msg_size=dial.max_bytes,
                compress=0,
            )
        except aiohttp.WSServerHandshakeError as error:
            status = error.status
        if socket is None:  # raised out here: not even its context leads to aiohttp's error
            raise UpstreamFailed(f"{url.place}: no WebSocket; the answer's status was {status}.")
        return Socket(socket, url.place, dial.goodbye)

    async def aclose(self) -> None:
        await self._session.close()


def shortened(reason: str) -> bytes:
    """Cut a reason to what a close frame carries, between two characters."""
    return reason.encode()[:MAX_REASON].decode("utf-8", "ignore").encode()
