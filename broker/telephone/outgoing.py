"""The flow of a call that goes out: what it starts with is put in here, server to server.

* Without a user a request goes to the workspace's account as it came. A key that is tied to
  environments writes its own into it, so that no number's setting leads anywhere else.
* With one a conversation is minted, and its variables go into the request. What the platform sends
  along keeps the rules of minting: it names nothing that is ours to give.
* The answer goes back as it is; what it repeats of a secret is masked.
* A call that was refused, or never asked for, ends its conversation at once. Where nobody knows
  whether it was placed, the conversation stays until its time is over: the call may be ringing.
  One whose end was told before the answer came ends with the answer.
* For one Idempotency-Key a user's call is placed once; see ``broker.upstreams.once``.
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
from broker.telephone import overtaken
from broker.telephone.phone_numbers import PhoneNumbers
from broker.upstreams import Upstreams
from broker.upstreams.once import MAX_ID, Done, OnceAtAccount
from broker.variables import Scalar, Value
from vault import access
from vault.egress import Reply
from vault.errors import Invalid, VaultError
from vault.model import Caller, Once
from vault.secret import Secret
from vault.vault import Vault

INITIATION: Final = "conversation_initiation_client_data"

Line = Literal[
    "twilio/outbound-call",
    "twilio/register-call",
    "sip-trunk/outbound-call",
    "exotel/outbound-call",
    "whatsapp/outbound-call",
]

_IDS: Final = ("conversation_id", "callSid", "sip_call_id")
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


class _Said(Struct, frozen=True):
    conversation_id: str | None = None


class OutgoingCalls:
    """Places calls through the workspace's account."""

    def __init__(
        self,
        vault: Vault,
        minting: Minting,
        grants: Grants,
        upstreams: Upstreams,
        numbers: PhoneNumbers,
    ) -> None:
        self._vault = vault
        self._minting = minting
        self._grants = grants
        self._upstreams = upstreams
        self._numbers = numbers

    async def place(self, caller: Caller, call: Outgoing, once: Once | None = None) -> Reply:
        """Place it, and return what the account answers; ``once``: for a user's call."""
        access.permit(caller, "conversation.mint")
        user_id = call.user_id
        if user_id is None:
            return await self._pass_on(caller, call)
        asking = OnceAtAccount(self._vault, caller, once)
        if (before := await asking.before()) is not None:
            return _again(before)
        try:
            client = await self._upstreams.client(caller)
            call = await self._located(caller, call)
            made = await self._mint(caller, call, user_id)
            body = _filled(call, made)
        except Exception:
            await asking.free()
            raise
        try:
            reply = await asking.forward(client, _path(call.line), body)
        except VaultError:
            if not asking.asked:
                await self._grants.end(caller, made.conversation_id)
            raise
        reply = _masked(reply, made.variables)
        became = await asking.settle(reply, _IDS)
        if became == "made":
            upstream_id = _id(reply.body)
            await self._grants.began(caller, made.conversation_id, upstream_id)
            if upstream_id and await overtaken.was_noted(self._vault, caller, upstream_id):
                await self._grants.end(caller, made.conversation_id)
        elif became == "refused":
            await self._grants.end(caller, made.conversation_id)
        return reply

    async def _pass_on(self, caller: Caller, call: Outgoing) -> Reply:
        client = await self._upstreams.client(caller)
        body = call.body
        if caller.environments:
            body = _with(call, {"environment": (await self._located(caller, call)).environment})
        return await client.forward(_path(call.line), method="POST", body=body)

    async def _located(self, caller: Caller, call: Outgoing) -> Outgoing:
        """The call, with where it runs: as it was asked for, or as its number does."""
        number = await self._numbers.of_call(caller, number_id=call.number_id, number=call.number)
        environment = environment_of_call(
            caller, call.environment, number.environment if number else None
        )
        branch_id = call.branch_id or (number.branch_id if number else None) or ""
        return replace(call, environment=environment, branch_id=branch_id)

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


def _again(before: Done) -> Reply:
    """What the same request was answered."""
    body = {"success": True, "message": "This call was placed before.", **before.ids}
    return Reply(status=before.status, headers=(), body=msgspec.json.encode(body))


def _path(line: Line) -> str:
    return f"/v1/convai/{line}"


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
    headers = [(name, masking.text(value)) for name, value in reply.headers]
    return replace(reply, headers=headers, body=masking.add(reply.body) + masking.end())


def _id(body: bytes) -> str | None:
    """The account's own id of a conversation."""
    try:
        said = msgspec.json.decode(body, type=_Said).conversation_id
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        said = None
    if said and re.fullmatch(rf"[A-Za-z0-9_]{{1,{MAX_ID}}}", said):
        return said
    found = _IN_TWIML.search(body)
    return found[1].decode() if found else None
