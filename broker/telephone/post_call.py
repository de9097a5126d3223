"""The flow of a call's end: what ElevenLabs tells after it, believed only where it is signed.

* The signature is our own to check: over the bytes as they came, by each of the workspace's
  secrets, in constant time, before anything of them is read. The official library compares
  otherwise, believes times in the future, and falls over a time that is no number.
* Whatever is signed is received: an unknown conversation is answered like a known one, and one
  that has ended already ends no second time.
* A call that we were never told the id of is found by its own variable ``keyturn_conversation_id``,
  and only while nobody else has that name: no client can end somebody else's conversation.
* One that is not found at all may be about to be: ``overtaken``.
"""

import hashlib
import hmac
import re
from typing import Any, Final

import msgspec
from msgspec import Struct

from broker import conversations
from broker.conversation import Conversation, as_conversation
from broker.grants import Grants
from broker.profile import CONVERSATION_ID
from broker.telephone import overtaken
from broker.upstreams import Upstreams
from vault.database import Transaction
from vault.errors import Unauthenticated
from vault.model import Caller, WorkspaceId
from vault.secret import Secret
from vault.vault import Vault

TOLERANCE: Final = 30 * 60  # seconds, as ElevenLabs has it: a repetition carries the first time
MAX_HEADER: Final = 1000
MAX_SIGNATURES: Final = 5
MAX_ID: Final = 200

# What says that a call is over. Others come in its midst, or are not for us.
ENDINGS: Final = frozenset(
    {"post_call_transcription", "post_call_audio", "call_initiation_failure"}
)

_WORKSPACE: Final = re.compile(r"ws_[0-9a-z]{26}")
_TIME: Final = re.compile(r"[0-9]{1,12}")
_MAC: Final = re.compile(r"[0-9a-f]{64}")


class Notice(Struct, frozen=True):
    """What of a webhook is read. Of any form: it is signed, but not ours."""

    type: Any = None
    data: Any = None


_notice: Final = msgspec.json.Decoder(Notice).decode


def is_signed(header: str, body: bytes, secrets: tuple[Secret, ...], now: float) -> bool:
    """Was this body signed with one of these secrets, and not long ago?"""
    parts = [part.strip().partition("=") for part in header[:MAX_HEADER].split(",")]
    times = [value for name, _, value in parts if name == "t"]
    macs = [value for name, _, value in parts if name == "v0"]
    if len(header) > MAX_HEADER or len(times) != 1 or not 0 < len(macs) <= MAX_SIGNATURES:
        return False
    if not _TIME.fullmatch(times[0]) or not all(_MAC.fullmatch(mac) for mac in macs):
        return False
    if abs(now - int(times[0])) > TOLERANCE:
        return False
    signed = times[0].encode() + b"." + body
    # Every secret is tried on every signature, whatever the first comparison says.
    matches = [
        hmac.compare_digest(
            hmac.new(secret.reveal_bytes(), signed, hashlib.sha256).hexdigest(), mac
        )
        for secret in secrets
        for mac in macs
    ]
    return any(matches)


class PostCall:
    """Ends conversations whose call is over."""

    def __init__(self, vault: Vault, grants: Grants, upstreams: Upstreams) -> None:
        self._vault = vault
        self._grants = grants
        self._upstreams = upstreams

    async def receive(
        self, unverified_workspace: str, header: str, body: bytes, *, request_id: str = ""
    ) -> None:
        """Take a webhook in; raises ``Unauthenticated`` unless the workspace's account signed."""
        if not _WORKSPACE.fullmatch(unverified_workspace):
            raise Unauthenticated
        workspace = WorkspaceId(unverified_workspace)
        nobody = Caller(
            kind="worker", actor_id="post-call", workspace=workspace, request_id=request_id
        )
        secrets = await self._upstreams.webhook_secrets(nobody)
        now = (await self._vault.now()).timestamp()
        if not is_signed(header, body, secrets, now):
            raise Unauthenticated
        data = _over(body)
        if data is not None:
            await self._end(nobody, data)

    async def _end(self, nobody: Caller, data: dict[str, Any]) -> None:
        upstream_id = _id(data.get("conversation_id"))
        if not upstream_id:
            return
        own_id = _own_id(data)

        async def work(tx: Transaction) -> Conversation | None:
            one = await conversations.find(tx, upstream_id)
            if one is not None or not own_id:
                return one
            one = await conversations.get(tx, own_id)
            return one if one and _may_be(one, data) else None

        one = await self._vault.within(nobody, work)
        if one is None:
            await overtaken.note(self._vault, nobody, upstream_id)
            one = await self._vault.within(nobody, work)
        if one is None:
            return
        itself = as_conversation(nobody, one.conversation_id, [one.environment])
        if one.upstream_id is None:
            await self._grants.began(itself, one.conversation_id, upstream_id)
        await self._grants.end(itself, one.conversation_id)


def _may_be(one: Conversation, data: dict[str, Any]) -> bool:
    """A call of this agent that nothing else was said of yet."""
    return (
        one.channel == "telephone"
        and one.upstream_id is None
        and one.agent_id == data.get("agent_id")
    )


def _own_id(data: dict[str, Any]) -> str:
    """What our own variable says in it."""
    found: Any = data
    for name in ("conversation_initiation_client_data", "dynamic_variables", CONVERSATION_ID):
        found = found.get(name) if isinstance(found, dict) else None
    return _id(found)


def _id(unverified: object) -> str:
    fits = isinstance(unverified, str) and re.fullmatch(rf"[A-Za-z0-9_]{{1,{MAX_ID}}}", unverified)
    return str(unverified) if fits else ""


def _over(body: bytes) -> dict[str, Any] | None:
    """What is said of a call that is over; ``None`` where something else is said."""
    try:
        notice = _notice(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    is_end = isinstance(notice.type, str) and notice.type in ENDINGS
    return notice.data if is_end and isinstance(notice.data, dict) else None
