"""A LiveKit room to join, with a handle for the agent that is dispatched into it.

* The token is signed here (``HS256``, LiveKit's own form) with the API key of the workspace's
  LiveKit project. It lets one person into one room, and is good for starting within 15 minutes.
* Whoever carries the token can read it. So the agent's ``metadata`` holds a handle, which buys
  nothing without the runtime key; no credential, and nothing of the user but the id.
* The room is the conversation's own: nobody else's token names it, and the person may neither
  administrate nor list rooms, nor change its name or metadata.

Pure: keys and times come from the caller.
"""

import json
from datetime import datetime, timedelta
from typing import Any, Final

from joserfc import jws
from joserfc.jwk import OctKey
from msgspec import Struct

from vault.oauth.keys import quiet
from vault.secret import Secret

START_WITHIN: Final = timedelta(minutes=15)

_ALGORITHM: Final = "HS256"


class Project(Struct, frozen=True, kw_only=True):
    """A LiveKit project: its address, and the key pair that signs for it."""

    url: str
    api_key: str
    api_secret: Secret

    def __repr__(self) -> str:
        return f"Project({self.url})"


class Entry(Struct, frozen=True, kw_only=True):
    """Who goes into which conversation's room, and which agent is called in."""

    conversation_id: str
    agent_id: str
    user_id: str
    environment: str
    handle: Secret

    def __repr__(self) -> str:
        return f"Entry({self.conversation_id})"


def join_token(project: Project, entry: Entry, now: datetime) -> Secret:
    """Sign the way into the conversation's room."""
    issued = int(now.timestamp())
    claims: dict[str, Any] = {
        "iss": project.api_key,
        "sub": entry.user_id,
        "nbf": issued,
        "exp": issued + int(START_WITHIN.total_seconds()),
        "video": {
            "room": entry.conversation_id,
            "roomJoin": True,
            "canPublish": True,
            "canSubscribe": True,
            "canPublishData": True,
        },
        "roomConfig": {
            "agents": [{"agentName": entry.agent_id, "metadata": dispatch_metadata(entry)}]
        },
    }
    with quiet():  # LiveKit made the secret; how long it is we cannot choose
        key = OctKey.import_key(project.api_secret.reveal())
        payload = json.dumps(claims, separators=(",", ":"))
        header = {"alg": _ALGORITHM, "typ": "JWT"}
        return Secret(jws.serialize_compact(header, payload, key, algorithms=[_ALGORITHM]))


def dispatch_metadata(entry: Entry) -> str:
    """What the agent finds in ``ctx.job.metadata``."""
    return json.dumps(
        {
            "keyturn_conversation_id": entry.conversation_id,
            "keyturn_handle": entry.handle.reveal(),
            "environment": entry.environment,
        },
        separators=(",", ":"),
    )
