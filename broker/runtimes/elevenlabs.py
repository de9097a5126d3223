"""How a conversation starts at ElevenLabs: a token for WebRTC, a signed URL for the WebSocket.

* Environment and branch are said here, by us; neither can be changed by who holds the answer,
  except that a browser may write ``&environment=`` behind a signed URL: only the relay rules that
  out, since it opens the URL itself.
* A signed URL is asked for with its conversation's id, which makes it good for one start.
* What comes back is a credential for one conversation: it is a ``Secret``, and no error repeats it.
"""

from typing import Final, TypeVar
from urllib.parse import parse_qs, urlsplit

from msgspec import Struct

from broker.upstreams.client import Refused, UpstreamClient
from vault.errors import Invalid, UpstreamFailed
from vault.secret import Secret

T = TypeVar("T")

TOKEN_PATH: Final = "/v1/convai/conversation/token"  # noqa: S105 - an address
SIGNED_URL_PATH: Final = "/v1/convai/conversation/get-signed-url"
MAX_CREDENTIAL: Final = 16_384

# What it answers when agent or branch are not there, or not so.
_WRONG: Final = frozenset({400, 404, 422})
MAX_ID: Final = 200


class Place(Struct, frozen=True, kw_only=True):
    """Which agent, where. An empty ``branch_id`` is the agent's main one."""

    agent_id: str
    environment: str
    branch_id: str = ""

    def query(self) -> dict[str, str | None]:
        return {
            "agent_id": self.agent_id,
            "environment": self.environment,
            "branch_id": self.branch_id or None,
        }


class Start(Struct, frozen=True, kw_only=True):
    """What one client starts with, and what the runtime calls the conversation.

    ``server_url``: where it is good, if whoever has it cannot know.
    """

    credential: Secret
    conversation_id: str | None
    server_url: str | None = None

    def __repr__(self) -> str:
        return f"Start({self.conversation_id})"


class _Token(Struct, frozen=True):
    token: str
    conversation_id: str | None = None


class _SignedUrl(Struct, frozen=True):
    signed_url: str
    conversation_id: str | None = None


async def conversation_token(client: UpstreamClient, place: Place) -> Start:
    """Ask for a token that lets one client into a conversation over WebRTC."""
    found = await _asked(client, TOKEN_PATH, _Token, place.query())
    return Start(credential=_checked(found.token), conversation_id=_id(found.conversation_id))


async def signed_url(client: UpstreamClient, place: Place) -> Start:
    """Ask for an address at which one client may start a conversation, once."""
    query = {**place.query(), "include_conversation_id": "true"}
    found = await _asked(client, SIGNED_URL_PATH, _SignedUrl, query)
    try:
        parts = urlsplit(found.signed_url)
        is_socket = parts.scheme in ("wss", "ws") and bool(parts.hostname)
    except ValueError:
        raise UpstreamFailed("The upstream's signed URL is no URL.") from None
    if not is_socket:
        raise UpstreamFailed("The upstream's signed URL is not one of a WebSocket.")
    named = parse_qs(parts.query).get("conversation_id", [found.conversation_id])[0]
    return Start(credential=_checked(found.signed_url), conversation_id=_id(named))


async def _asked(
    client: UpstreamClient, path: str, kind: type[T], query: dict[str, str | None]
) -> T:
    try:
        return await client.get(path, kind, **query)
    except Refused as refused:
        if refused.status not in _WRONG:
            raise
    raise Invalid("The upstream has no such agent, or no such branch of it.", pointer="/agent_id")


def _checked(credential: str) -> Secret:
    fits = credential.isascii() and credential.isprintable() and len(credential) <= MAX_CREDENTIAL
    if not credential or not fits:
        raise UpstreamFailed("The upstream's answer cannot be used.")
    return Secret(credential)


def _id(unverified: str | None) -> str | None:
    """An id is stored and shown; what does not look like one is none."""
    if unverified and len(unverified) <= MAX_ID and unverified.replace("_", "").isalnum():
        return unverified
    return None
