"""The flow of a call that goes out: what it starts with is put in here, server to server.

* Without a user a request goes to the workspace's account as it came. A key that is tied to
  environments writes its own into it, so that no number's setting leads anywhere else.
* With one a conversation is minted, and its variables go into the request. What the platform sends
  along keeps the rules of minting: it names nothing that is ours to give.
* The answer goes back as it is; what it repeats of a secret is masked.
* A call that was refused ends its conversation at once. Where nobody knows whether it was placed,
  the conversation stays until its time is over: the call may be ringing.
"""

import re
from collections.abc import Mapping
from typing import Any, Final, Literal

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from broker.conversation import Minted, Wanted, environment_of_call
from broker.delivery import revealed
from broker.grants import Grants
from broker.mint import Minting
from broker.resolve.masking import Masking, of_header
from broker.telephone.phone_numbers import PhoneNumbers
from broker.upstreams import Upstreams
from broker.variables import Scalar, Value
from vault import access
from vault.egress import Reply
from vault.errors import Invalid
from vault.model import Caller
from vault.secret import Secret

INITIATION: Final = "conversation_initiation_client_data"
MAX_ID: Final = 200

Line = Literal[
    "twilio/outbound-call",
    "twilio/register-call",
    "sip-trunk/outbound-call",
    "exotel/outbound-call",
    "whatsapp/outbound-call",
]

_OK: Final = range(200, 300)
_REFUSED: Final = range(300, 500)
# Where TwiML says which conversation its stream is.
_IN_TWIML: Final = re.compile(rb'name="conversation_id" value="([A-Za-z0-9_]{1,200})"')


class Outgoing(Struct, frozen=True, kw_only=True):
    """A call that is asked for. ``number_id`` or ``number``: the workspace's own."""

    line: Line
    agent_id: str
    body: bytes
    initiation: Mapping[str, Any]
    user_id: str | None = None
    environment: str | None = None
    branch_id: str | None = None
    given: Mapping[str, Scalar] = {}
    number_id: str = ""
    number: str = ""

    def __repr__(self) -> str:
        return f"Outgoing({self.line})"


class OutgoingCalls:
    """Places calls through the workspace's account."""

    def __init__(
        self, minting: Minting, grants: Grants, upstreams: Upstreams, numbers: PhoneNumbers
    ) -> None:
        self._minting = minting
        self._grants = grants
        self._upstreams = upstreams
        self._numbers = numbers

    async def place(self, caller: Caller, call: Outgoing) -> Reply:
        """Place it, and return what the account answers."""
        access.permit(caller, "conversation.mint")
        client = await self._upstreams.client(caller)
        path = f"/v1/convai/{call.line}"
        if call.user_id is None and not caller.environments:
            return await client.forward(path, method="POST", body=call.body)
        number = await self._numbers.of_call(caller, number_id=call.number_id, number=call.number)
        environment = environment_of_call(
            caller, call.environment, number.environment if number else None
        )
        user_id = call.user_id
        if user_id is None:
            body = _with(call, {"environment": environment})
            return await client.forward(path, method="POST", body=body)
        branch_id = call.branch_id or (number.branch_id if number else None) or ""
        call = replace(call, environment=environment, branch_id=branch_id)
        made = await self._mint(caller, call, user_id)
        reply = await client.forward(path, method="POST", body=_filled(call, made))
        await self._settle(caller, made, reply)
        return _masked(reply, made.variables)

    async def _mint(self, caller: Caller, call: Outgoing, user_id: str) -> Minted:
        wanted = Wanted(
            agent_id=call.agent_id,
            user_id=user_id,
            environment=call.environment,
            runtime="elevenlabs",
            channel="telephone",
            branch_id=call.branch_id or "",
            dynamic_variables=call.given,
        )
        return await self._minting.mint(caller, wanted)

    async def _settle(self, caller: Caller, made: Minted, reply: Reply) -> None:
        """Remember that it rings, or that it never will."""
        said = _decoded(reply.body)
        if reply.status in _OK and said.get("success", True):
            upstream_id = _id(said.get("conversation_id"), reply.body)
            await self._grants.began(caller, made.conversation_id, upstream_id)
        elif reply.status in _OK or reply.status in _REFUSED:
            await self._grants.end(caller, made.conversation_id)


def _filled(call: Outgoing, made: Minted) -> bytes:
    more: dict[str, Any] = {
        "user_id": made.user_id,
        "environment": made.environment,
        "dynamic_variables": revealed(made.variables),
    }
    if call.branch_id:
        more["branch_id"] = call.branch_id
    return _with(call, more)


def _with(call: Outgoing, more: Mapping[str, Any]) -> bytes:
    """The request as it came, with more in its initiation data."""
    try:
        body = msgspec.json.decode(call.body, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise Invalid("The body cannot be read.") from None
    return msgspec.json.encode({**body, INITIATION: {**call.initiation, **more}})


def _masked(reply: Reply, variables: Mapping[str, Value]) -> Reply:
    """A refusal likes to quote what it refuses."""
    secrets = [one.reveal() for one in variables.values() if isinstance(one, Secret)]
    masking = Masking(part for one in secrets for part in of_header(one))
    return replace(reply, body=masking.add(reply.body) + masking.end())


def _decoded(body: bytes) -> dict[str, Any]:
    try:
        return msgspec.json.decode(body, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return {}


def _id(said: object, body: bytes) -> str | None:
    if isinstance(said, str) and re.fullmatch(rf"[A-Za-z0-9_]{{1,{MAX_ID}}}", said):
        return said
    found = _IN_TWIML.search(body)
    return found[1].decode() if found else None
