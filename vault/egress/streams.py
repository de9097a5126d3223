"""Answers that are read while they arrive, and bodies that are sent while they come in: aiohttp's.

They use up no places of the calls that are read whole, nor these of them.
"""

import ssl
from collections.abc import AsyncIterable, AsyncIterator
from contextlib import AbstractAsyncContextManager
from functools import lru_cache

import aiohttp
from msgspec import Struct
from multidict import CIMultiDict

from vault.egress.address import VettedUrl
from vault.egress.deadline import Deadline
from vault.egress.failures import explained
from vault.egress.messages import Request, Timeouts, checked
from vault.egress.pool import KEEP_ALIVE
from vault.egress.sessions import guarded_session
from vault.egress.unpacking import Unpacking
from vault.errors import AnswerTooLarge, VaultError


class Upload(Struct, frozen=True):
    """A body that is sent while it comes in; ``size`` is ``None`` where nobody has said it."""

    pieces: AsyncIterable[bytes]
    size: int | None

    def __repr__(self) -> str:
        return "Upload(***)"


class Answer:
    """An answer that has begun: its status and headers are there, its body arrives."""

    def __init__(
        self, response: aiohttp.ClientResponse, request: Request, url: VettedUrl, deadline: Deadline
    ) -> None:
        self.status = response.status
        self.headers: tuple[tuple[str, str], ...] = tuple(response.headers.items())
        self._response = response
        self._request = request
        self._url = url
        self._deadline = deadline
        deadline.heard()

    async def pieces(self) -> AsyncIterator[bytes]:
        """Read the body piece by piece; ``AnswerTooLarge`` at the limit."""
        limit = self._request.max_bytes
        unpacking = Unpacking(self._response.headers.get("Content-Encoding", ""), limit)
        announced = self._response.content_length or 0
        fits = self._request.method == "HEAD" or announced <= limit
        while fits and (packed := await self._next()):
            self._deadline.heard()
            piece = unpacking.add(packed)
            fits = piece is not None
            if piece:
                yield piece
        if not fits:
            self._response.close()
            raise AnswerTooLarge(f"{self._url.place}: the answer is larger than {limit} bytes.")
        unpacking.end()

    async def _next(self) -> bytes:
        failure: VaultError
        try:
            piece: bytes = await self._response.content.readany()
        except Exception as error:  # noqa: BLE001 - whatever it is, its text may hold the request
            failure = explained(error, self._url, sent=True)
        else:
            return piece
        raise failure


class Outbound(Struct, frozen=True):
    """What is sent, as aiohttp takes it."""

    headers: CIMultiDict[str]
    content: bytes | AsyncIterable[bytes] | None


def outbound(request: Request, upload: Upload | None) -> Outbound:
    """Check what the caller wants to send; ``upload`` instead of a body."""
    pairs, body = checked(request)
    headers = CIMultiDict((name, value.decode("ascii")) for name, value in pairs)
    if upload is None:
        return Outbound(headers, body)
    if upload.size is not None:  # many servers take nothing else
        headers["Content-Length"] = str(upload.size)
    return Outbound(headers, upload.pieces)


class StreamLane:
    """One purpose's connections for these."""

    def __init__(self, tls: ssl.SSLContext, max_connections: int, max_per_host: int) -> None:
        self._session = guarded_session(
            tls,
            repeats=True,
            limit=max_connections,
            limit_per_host=max_per_host,
            keepalive_timeout=KEEP_ALIVE,
        )

    def exchange(
        self, request: Request, url: VettedUrl, outbound: Outbound
    ) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        return self._session.request(
            request.method,
            url.url,
            headers=outbound.headers,
            data=outbound.content,
            allow_redirects=False,
            timeout=_of_aiohttp(request.timeout),
            ssl=request.tls or True,
        )

    async def aclose(self) -> None:
        await self._session.close()


@lru_cache(64)
def _of_aiohttp(limits: Timeouts) -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(
        total=None,  # the deadline keeps it, from before the look-up
        connect=limits.wait,
        sock_connect=limits.connect,
        sock_read=None,  # so does it this, for those who sleep
    )
