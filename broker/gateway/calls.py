"""One call of a provider's API on behalf of a conversation, from the request line to the answer.

* Where it goes, and with which credential, comes from the conversation's own connection. A request
  chooses a path below that, as far as the profile allows it and the catalogue does not forbid it.
* A body of up to ``KEPT`` bytes is read before anything is sent, a larger one goes on as it comes;
  both ways there is a limit, and one for the time that all of it takes.
* A redirect is an answer, and is not followed.
* A 401 refreshes the token, once. The request is sent once more where that is harmless: by a method
  that may be repeated (RFC 9110 section 9.2.2), with a body that was kept.
* What an answer repeats of a credential is masked: some APIs echo what they were sent, and what
  they echo would reach the model.
"""

import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from msgspec import Struct

from broker.conversation import Held
from broker.gateway import headers, paths
from broker.gateway.limits import Limits, Rate
from broker.gateway.paths import Rule, Target
from broker.gateway.renewals import Renewals
from broker.resolve.masking import Masking, of_header
from vault import access
from vault.egress import Answer, Request, Timeouts, Upload
from vault.errors import (
    AnswerTooLarge,
    Conflict,
    Forbidden,
    NotFound,
    TooLarge,
    Unreachable,
    UpstreamFailed,
)
from vault.oauth.api import Api
from vault.vault import Vault
from vault.vault.refreshing import Fresh

KEPT: Final = 64 * 1024  # bytes of a body that can be sent a second time
MAX_UPLOAD: Final = 32 * 1024 * 1024
MAX_ANSWER: Final = 64 * 1024 * 1024
TIMEOUT: Final = Timeouts(read=30.0, total=120.0)
REPEATABLE: Final = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE"})
REFUSED: Final = 401
RATE: Final = Rate(burst=60, per_second=10)  # calls of one conversation
TOO_LARGE: Final = f"A body has at most {MAX_UPLOAD} bytes."

Pieces = AsyncIterator[bytes]


class Call(Struct, frozen=True, kw_only=True):
    """What came in; ``size`` is what the client says of the body. Nothing of it is believed."""

    method: str
    path: bytes
    query: bytes
    headers: Sequence[tuple[bytes, bytes]]
    body: Pieces
    size: int | None

    def __repr__(self) -> str:
        return f"Call({self.method})"


class Passed(Struct, frozen=True, kw_only=True):
    """An answer that may go back as it is; its body arrives."""

    status: int
    headers: tuple[tuple[str, str], ...]
    pieces: Callable[[], Pieces]


class Body:
    """A request's body: kept where it is small, passed on as it comes where it is not."""

    def __init__(self, pieces: Pieces, size: int | None) -> None:
        if size is not None and size > MAX_UPLOAD:
            raise TooLarge(TOO_LARGE)
        self._pieces = pieces
        self._size = size
        self._kept = b""
        self.whole = False
        self.too_large = False

    async def read(self) -> None:
        """Read as much as is kept."""
        async for piece in self._pieces:
            self._kept += piece
            if len(self._kept) > KEPT:
                return
        self.whole = True

    @property
    def content(self) -> bytes | None:
        """All of it, where it was kept and is not empty."""
        return (self._kept or None) if self.whole else None

    @property
    def upload(self) -> Upload | None:
        """All of it, as it comes, where it was not kept; once."""
        return None if self.whole else Upload(self._passed(), self._size)

    async def _passed(self) -> Pieces:
        count = len(self._kept)
        yield self._kept
        async for piece in self._pieces:
            count += len(piece)
            if count > MAX_UPLOAD:
                self.too_large = True
                raise TooLarge(TOO_LARGE)
            yield piece


class Gateway:
    """Calls providers for conversations."""

    def __init__(self, vault: Vault, renewals: Renewals) -> None:
        self._vault = vault
        self._renewals = renewals
        self._limits = Limits(RATE)

    @asynccontextmanager
    async def open(self, held: Held, integration: str, call: Call) -> AsyncIterator[Passed]:
        """Make the call, and give the answer while it arrives."""
        access.permit(held.caller, "gateway.use")
        self._limits.take(held.conversation.conversation_id, time.monotonic())
        reached = held.connection(integration)
        if reached is None:
            raise NotFound("This conversation has no such connection.")
        target = paths.read(call.path, call.query)
        if not paths.allows(rules_of(held, integration), call.method, target):
            raise Forbidden("The agent's profile does not allow this request.")
        body = Body(call.body, call.size)
        await body.read()
        fresh = await self._renewals.for_call(held, reached)
        async with AsyncExitStack() as stack:
            answer = await stack.enter_async_context(self._sent(held, call, target, body, fresh))
            secrets = list(answer.secrets)
            if answer.status == REFUSED:
                newer = await self._renewals.after_refusal(held, reached, fresh)
                if newer.generation > fresh.generation and body.whole and _may_repeat(call):
                    await stack.aclose()
                    again = self._sent(held, call, target, body, newer)
                    answer = await stack.enter_async_context(again)
                    secrets += answer.secrets
                    if answer.status == REFUSED:
                        await self._renewals.refused_at_once(held, reached, newer)
            yield _passed(answer, Masking(secrets))

    @asynccontextmanager
    async def _sent(
        self, held: Held, call: Call, target: Target, body: Body, fresh: Fresh
    ) -> AsyncIterator["_Sent"]:
        api = await self._vault.api_of(held.caller, fresh)
        if api is None:
            raise Conflict("Nobody knows where this provider's API is.")
        base = api.base_url.reveal().rstrip("/")
        if paths.is_forbidden(target, urlsplit(base).path, api.never):
            raise Forbidden("The gateway does not call this path of the provider.")
        request = Request(
            method=call.method,
            url=base + target.path + (f"?{target.query}" if target.query else ""),
            headers=(
                *headers.inbound(call.headers, [name for name, _ in api.headers]),
                *api.headers,
            ),
            body=body.content,
            timeout=TIMEOUT,
            max_bytes=MAX_ANSWER,
            peer=fresh.provider,
        )
        opened = self._vault.open_api(held.caller, request, body.upload)
        try:
            async with opened as answer:
                yield _Sent(answer, _secrets(api))
        except Unreachable:
            if body.too_large:
                raise TooLarge(TOO_LARGE) from None
            raise


class _Sent(NamedTuple):
    """An answer, and what it must not repeat."""

    answer: Answer
    secrets: list[str]

    @property
    def status(self) -> int:
        return self.answer.status


def rules_of(held: Held, integration: str) -> list[Rule] | None:
    """What the profile allows at an integration; ``None`` where it says nothing."""
    needed = held.kept.profile.needed(integration) if held.kept.profile else None
    if needed is None or needed.allow is None:
        return None
    return [Rule(methods=tuple(one.methods), path=one.path) for one in needed.allow]


def _may_repeat(call: Call) -> bool:
    return call.method in REPEATABLE


def _secrets(api: Api) -> list[str]:
    texts = [one.reveal() for one in api.secrets]
    for _, value in api.headers:
        texts += of_header(value.reveal())
    return texts


def _passed(sent: _Sent, masking: Masking) -> Passed:
    async def pieces() -> Pieces:
        try:
            async for piece in sent.answer.pieces():
                if ready := masking.add(piece):
                    yield ready
        except AnswerTooLarge:
            raise UpstreamFailed("The answer is too large to be passed on.") from None
        if rest := masking.end():
            yield rest

    given = sent.answer.headers
    passed = [(name, masking.text(value)) for name, value in headers.outbound(given)]
    return Passed(status=sent.status, headers=(*passed, *_length(given)), pieces=pieces)


def _length(given: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """How long the answer is, where it goes on as it came: masking changes no length."""
    known = {name.lower(): value for name, value in given}
    length = known.get("content-length", "")
    packed = known.get("content-encoding", "identity").lower() != "identity"
    return [("content-length", length)] if length.isdecimal() and not packed else []
