"""A POST whose body goes out in chunks, of no stated length: how ElevenLabs sends audio.

The guarded client states every length, so this one speaks HTTP/1.1 itself: one request, one status
line, no connection kept. A receiver that waits for ``Content-Length`` gets nothing here, as there.
"""

import asyncio
import ssl
from collections.abc import Iterable
from typing import Final
from urllib.parse import urlsplit

CHUNK: Final = 4_096  # bytes
MAX_LINE: Final = 8_192


class NotDelivered(Exception):
    """Nobody answered in HTTP."""


async def post(url: str, headers: Iterable[tuple[str, str]], body: bytes, *, seconds: float) -> int:
    """Send it, and return the answer's status."""
    parts = urlsplit(url)
    secure = parts.scheme == "https"
    context = ssl.create_default_context() if secure else None
    port = parts.port or (443 if secure else 80)
    try:
        async with asyncio.timeout(seconds):
            reader, writer = await asyncio.open_connection(
                parts.hostname, port, ssl=context, limit=MAX_LINE
            )
            try:
                writer.write(_head(parts.netloc, parts.path or "/", parts.query, headers))
                for at in range(0, len(body), CHUNK):
                    piece = body[at : at + CHUNK]
                    writer.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
                    await writer.drain()
                writer.write(b"0\r\n\r\n")
                return _status(await reader.readline())
            finally:
                writer.close()
    except (OSError, ValueError):  # TimeoutError is an OSError
        raise NotDelivered from None


def _head(host: str, path: str, query: str, headers: Iterable[tuple[str, str]]) -> bytes:
    lines = [f"POST {path}{'?' + query if query else ''} HTTP/1.1", f"Host: {host}"]
    lines += [f"{name}: {value}" for name, value in headers]
    lines += ["Transfer-Encoding: chunked", "Connection: close", "", ""]
    return "\r\n".join(lines).encode("latin-1")


def _status(line: bytes) -> int:
    version, _, rest = line.partition(b" ")
    if not version.startswith(b"HTTP/1."):
        raise NotDelivered
    return int(rest[:3])
