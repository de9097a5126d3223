"""What lets one client into one conversation over the relay: the seam between mint and relay. Pure.

* A ticket stands in the query of the signed URL, where ElevenLabs' own signature stands, because
  official clients pass that URL on untouched. It opens one socket, once.
* An ``Admission`` holds real credentials. Its repr names the conversation only, and it cannot be
  serialized: its ``url`` is a ``Secret``.
"""

from collections.abc import Mapping
from typing import Any, Final, Protocol
from urllib.parse import urlencode

from msgspec import Struct

from vault.model import Caller
from vault.secret import Secret

SOCKET_PATH: Final = "/v1/convai/conversation"
TICKET: Final = "conversation_signature"


class Admission(Struct, frozen=True, kw_only=True):
    """One client may come in, once, and this is what its conversation starts with.

    ``caller``             who acts from here on: the conversation itself, in its workspace
    ``url``                the upstream's signed URL, fetched just now (``wss://...``)
    ``first_frame``        a whole ``conversation_initiation_client_data``; real values inside
    ``client_variables``   the names that are open: what the client says replaces what
                           ``first_frame`` has there, which is the default. A name that the
                           platform's backend gave when it minted is no longer open.
    ``overrides``          dotted paths below ``conversation_config_override`` that the client may
                           set, as in ``agent.language``; a path opens what lies below it too
    ``seconds_left``       until the conversation is over, whoever is still talking: by the
                           database's clock, since this machine's may be wrong
    """

    conversation_id: str
    caller: Caller
    url: Secret
    first_frame: Mapping[str, Any]
    client_variables: frozenset[str] = frozenset()
    overrides: tuple[str, ...] = ()
    seconds_left: float

    def __repr__(self) -> str:
        return f"Admission({self.conversation_id})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("conversation_id", self.conversation_id)]


class Doorkeeper(Protocol):
    """Who admits, and is told what became of it. ``Broker`` is one."""

    async def admit(self, ticket: str) -> Admission:
        """Use the ticket up. Unknown, used and expired ones are all ``Unauthenticated``."""

    async def conversation_began(
        self, caller: Caller, conversation_id: str, upstream_id: str
    ) -> None:
        """Remember how the upstream calls this conversation."""

    async def has_ended(self, caller: Caller, conversation_id: str) -> bool:
        """Has somebody ended it, or deleted its user? How long it may be is in its admission."""

    async def end_conversation(self, caller: Caller, conversation_id: str) -> object:
        """Let grants and handles die. Ending what has ended changes nothing."""


def signed_url(origin: str, *, agent_id: str, ticket: Secret, conversation_id: str | None) -> str:
    """Write the URL that a client opens; ``origin`` is our public ``http(s)://`` address."""
    query = {"agent_id": agent_id, TICKET: ticket.reveal()}
    if conversation_id is not None:
        query["conversation_id"] = conversation_id
    return f"ws{origin.removeprefix('http')}{SOCKET_PATH}?{urlencode(query)}"
