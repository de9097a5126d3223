"""What is said to a workspace's account at ElevenLabs: typed requests, typed answers.

* Every byte goes through ``egress``, purpose ``upstream``; the key goes in ``xi-api-key``. No
  redirect is followed: it would take the key along.
* Nothing is sent twice: whether a creating request that failed was acted upon nobody knows.
* Whatever the other side answers wrongly becomes ``UpstreamFailed``, with its status and not a
  word of its body, which may repeat what was sent.
"""

from collections.abc import Sequence
from typing import Final, TypeVar
from urllib.parse import quote, urlencode

import msgspec

from vault.egress import Egress, Reply, Request, Timeouts
from vault.egress.waits import retry_after
from vault.errors import EgressDenied, Unreachable, UpstreamFailed, VaultError
from vault.secret import Secret

T = TypeVar("T")

TIMEOUT: Final = Timeouts(read=15.0, total=20.0)
MAX_ANSWER: Final = 1 << 20  # bytes
MAX_RETRY_AFTER: Final = 60  # seconds

# What it answers where the account's own key is meant, and not what was asked for.
KEY_REFUSED: Final = frozenset({401, 403})
OK: Final = range(200, 300)
# Whatever was asked for was not done.
REFUSED: Final = range(300, 500)
_MOVED: Final = range(300, 400)
_SAID: Final = {
    401: "The upstream does not know the API key that it was given.",
    403: "The upstream forbids this to the API key that it was given.",
    429: "The upstream is asked too often.",
}


class Refused(UpstreamFailed):
    """The upstream said no. ``status`` is its own."""

    def __init__(self, status: int, *, retry_after: int | None = None) -> None:
        said = _SAID.get(status, f"The upstream answered {status}.")
        if status in _MOVED:
            said = "The upstream answered with a redirect: name the address that it leads to."
        super().__init__(said, retry_after=retry_after)
        self.status = status


class KeyRefused(Refused):
    """It said no to the key that the workspace has named. Asking again changes nothing."""

    action = "fix_configuration"


class UpstreamClient:
    """One account, which the key decides."""

    def __init__(self, egress: Egress, base_url: str, api_key: Secret) -> None:
        self._egress = egress
        self.base_url = base_url.rstrip("/")
        self._api_key = api_key

    def __repr__(self) -> str:
        return "UpstreamClient(***)"

    async def get(self, path: str, kind: type[T], **query: str | None) -> T:
        given = {name: value for name, value in query.items() if value is not None}
        where = f"{path}?{urlencode(given)}" if given else path
        return _read(await self.send("GET", where), kind)

    async def post(self, path: str, body: object, kind: type[T]) -> T:
        """``body`` is what msgspec writes down; it may hold secrets that were revealed for it."""
        return _read(await self.send("POST", path, body), kind)

    async def patch(self, path: str, body: object, kind: type[T]) -> T:
        return _read(await self.send("PATCH", path, body), kind)

    async def delete(self, path: str) -> None:
        await self.send("DELETE", path)

    async def forward(
        self,
        path: str,
        query: Sequence[tuple[str, str]] = (),
        *,
        method: str = "GET",
        body: bytes | None = None,
    ) -> Reply:
        """Ask what a client asked, byte by byte, and return the answer whatever its status is."""
        where = f"{path}?{urlencode(query)}" if query else path
        return await self._call(method, where, None if body is None else msgspec.Raw(body))

    async def send(self, method: str, path: str, body: object = None) -> Reply:
        """Send one request; raises ``Refused`` unless the answer is a 2xx."""
        reply = await self._call(method, path, body)
        if reply.status in OK:
            return reply
        kind = KeyRefused if reply.status in KEY_REFUSED else Refused
        wait = retry_after(reply, now=None, at_most=MAX_RETRY_AFTER)
        raise kind(reply.status, retry_after=wait)

    async def _call(self, method: str, path: str, body: object = None) -> Reply:
        content = () if body is None else (("Content-Type", "application/json"),)
        return await self._egress.call(
            "upstream",
            Request(
                method=method,
                url=self.base_url + path,
                headers=(("xi-api-key", self._api_key), ("Accept", "application/json"), *content),
                body=None if body is None else Secret(msgspec.json.encode(body)),
                timeout=TIMEOUT,
                max_bytes=MAX_ANSWER,
            ),
        )


def never_sent(error: VaultError) -> bool:
    """Is it certain that the account was not asked?"""
    return isinstance(error, EgressDenied) or (isinstance(error, Unreachable) and not error.sent)


def decoded(body: bytes) -> object:
    """What an answer that is passed on says, if it is JSON."""
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def segment(text: str) -> str:
    """A text as one segment of a path."""
    return quote(text, safe="")


def _read(reply: Reply, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(reply.body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError):
        pass
    # Outside of the handler: the parser's text quotes what it read.
    raise UpstreamFailed("The upstream's answer cannot be read: is this the address of its API?")
