"""Signed URLs and conversation tokens: what a client starts a conversation with.

* Both know their conversation's id before it starts, and fix its environment and branch.
* Both are good for 15 minutes. A signed URL that was asked for with its conversation's id is good
  for one start.
* A token is a JWT for LiveKit. The sandbox carries no media: ``/rtc`` checks the token, notes who
  came to which room, and says goodbye.
"""

import re
import secrets
from typing import Any, Final
from urllib.parse import urlencode

from broker.sandbox.elevenlabs import agents
from broker.sandbox.elevenlabs.account import (
    MAX_CONVERSATIONS,
    Account,
    Stored,
    Ticket,
    World,
    new_id,
)
from broker.sandbox.elevenlabs.authorize import signed, verified
from broker.sandbox.elevenlabs.conversations import Conversation
from broker.sandbox.elevenlabs.wire import Answer, Plain, Request, Route

CONVERSATION: Final = "/v1/convai/conversation"
TOKEN: Final = CONVERSATION + "/token"

_ROOM = re.compile(r"conv_[a-zA-Z0-9]+")


async def make_signed_url(request: Request) -> Answer:
    account, world = request.account, request.world
    agent = agents.agent_of(account, request.needed("agent_id"))
    conversation = new_conversation(world, account, agent, "unknown")
    ticket = Ticket(
        conversation_id=conversation.id,
        agent_id=agent.id,
        until=world.now() + world.behaviour.start_within,
        single_use=request.flag("include_conversation_id"),
        environment=request.one("environment"),
        branch_id=request.one("branch_id"),
    )
    signature = secrets.token_urlsafe(32)
    while len(account.tickets) >= MAX_CONVERSATIONS:
        del account.tickets[next(iter(account.tickets))]
    account.tickets[signature] = ticket
    query = {"agent_id": agent.id, "conversation_signature": signature}
    if ticket.single_use:
        query["conversation_id"] = conversation.id
    return Answer({"signed_url": f"{request.socket_base()}{CONVERSATION}?{urlencode(query)}"})


async def make_token(request: Request) -> Answer:
    account, world = request.account, request.world
    agent = agents.agent_of(account, request.needed("agent_id"))
    conversation = new_conversation(world, account, agent, "unknown")
    conversation.environment = request.one("environment")
    conversation.branch_id = request.one("branch_id")
    issued = world.seconds()
    claims = {
        "iss": account.workspace_id,
        "sub": f"user_{conversation.id}",
        "name": request.one("participant_name") or "user",
        "nbf": issued,
        "exp": issued + int(world.behaviour.start_within),
        "video": {"room": f"room_{agent.id}_{conversation.id}", "roomJoin": True},
    }
    token = signed(claims, account.signing_key)
    return Answer({"token": token, "conversation_id": conversation.id})


async def validate_token(request: Request) -> Answer:
    """What LiveKit's client asks when its socket was refused."""
    if _joining(request) is None:
        raise Plain(401, "invalid token")
    return Answer(b"success", content_type="text/plain")


def join(request: Request) -> Conversation | None:
    """Note that somebody came to the signalling endpoint with a good token, and to which room."""
    if (joining := _joining(request)) is None:
        return None
    found, room = joining
    found.room = room
    return found


def new_conversation(world: World, account: Account, agent: Stored, source: str) -> Conversation:
    """Make a conversation that has not started."""
    while len(account.conversations) >= MAX_CONVERSATIONS:
        del account.conversations[next(iter(account.conversations))]
    made = Conversation(world, account, agent, new_id("conv"), source)
    account.conversations[made.id] = made
    return made


def _joining(request: Request) -> tuple[Conversation, str] | None:
    token = request.one("access_token") or ""
    for account in request.world.accounts.values():
        if (claims := verified(token, account.signing_key)) is not None:
            if claims["exp"] < request.world.now():
                return None
            room = str(claims["video"]["room"])
            named = _ROOM.search(room)
            found: Any = account.conversations.get(named[0]) if named else None
            return (found, room) if isinstance(found, Conversation) else None
    return None


ROUTES: Final = (
    Route("GET", TOKEN, make_token),
    Route("GET", CONVERSATION + "/get-signed-url", make_signed_url),
    Route("GET", CONVERSATION + "/get_signed_url", make_signed_url),
)
OPEN_ROUTES: Final = (
    Route("GET", "/rtc/validate", validate_token),
    Route("GET", "/rtc/v1/validate", validate_token),
)
