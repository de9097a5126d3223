"""The flow of a call that goes out: what it starts with is put in here, server to server.

* Without a user a request goes to the workspace's account as it came. A key that is tied to
  environments writes its own into it, so that no number's setting leads anywhere else.
* With one a conversation is minted, and its variables go into the request. What the platform sends
  along keeps the rules of minting: it names nothing that is ours to give.
* The answer goes back as it is; what it repeats of a secret is masked.
* A call that was refused, or never asked for, ends its conversation at once. Where nobody knows
  whether it was placed, the conversation stays until its time is over: the call may be ringing.
* For one Idempotency-Key a user's call is placed once. The key is taken before anybody is asked, in
  a transaction of its own, and given back only where it is known that nobody was called. Of the
  answer its ids are remembered, and none of its words.
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
from broker.upstreams.client import UpstreamClient
from broker.variables import Scalar, Value
from vault import access, idempotency
from vault.egress import Reply
from vault.errors import (
    EgressDenied,
    IdempotencyInProgress,
    Invalid,
    Unreachable,
    UpstreamFailed,
    VaultError,
)
from vault.model import Caller, Once
from vault.secret import Secret
from vault.vault import Vault

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
# What is remembered of a call that may have been placed. While it is asked for, that is nothing.
_UNKNOWN: Final = b"unknown"
_IDS: Final = ("conversation_id", "callSid", "sip_call_id")
_PLAIN: Final = re.compile(rf"[!-~]{{1,{MAX_ID}}}")
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


class _Placed(Struct, frozen=True):
    """What is remembered of a call that was placed."""

    status: int
    ids: dict[str, str | None]


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
        if (before := await self._claimed(caller, once)) is not None:
            return _again(before)
        try:
            client = await self._upstreams.client(caller)
            call = await self._located(caller, call)
            made = await self._mint(caller, call, user_id)
            body = _filled(call, made)
        except Exception:
            await self._free(caller, once)
            raise
        reply = await self._asked(caller, client, call.line, body, made, once)
        reply = _masked(reply, made.variables)
        await self._settle(caller, made, reply, once)
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

    async def _asked(
        self,
        caller: Caller,
        client: UpstreamClient,
        line: Line,
        body: bytes,
        made: Minted,
        once: Once | None,
    ) -> Reply:
        try:
            return await client.forward(_path(line), method="POST", body=body)
        except VaultError as error:
            if _never_sent(error):
                await self._over(caller, made, once)
            else:
                await self._remember(caller, once, _UNKNOWN)
            raise

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

    async def _settle(self, caller: Caller, made: Minted, reply: Reply, once: Once | None) -> None:
        """Remember that it rings, or that it never will."""
        said = _decoded(reply.body)
        if reply.status in _OK and said.get("success", True):
            await self._remember(caller, once, _remembered(reply.status, said))
            upstream_id = _id(said.get("conversation_id"), reply.body)
            await self._grants.began(caller, made.conversation_id, upstream_id)
        elif reply.status in _OK or reply.status in _REFUSED:
            await self._over(caller, made, once)
        else:
            await self._remember(caller, once, _UNKNOWN)

    async def _over(self, caller: Caller, made: Minted, once: Once | None) -> None:
        """Nobody was called: the same request may try again."""
        await self._free(caller, once)
        await self._grants.end(caller, made.conversation_id)

    # For one Idempotency-Key

    async def _claimed(self, caller: Caller, once: Once | None) -> bytes | None:
        """Take the key for good, or say what it has led to: nothing yet, while that runs."""
        if once is None:
            return None
        return await self._vault.within(caller, lambda tx: idempotency.claim(tx, caller, once))

    async def _remember(self, caller: Caller, once: Once | None, result: bytes) -> None:
        if once is not None:
            await self._vault.within(
                caller, lambda tx: idempotency.settle(tx, caller, once, result)
            )

    async def _free(self, caller: Caller, once: Once | None) -> None:
        if once is not None:
            await self._vault.within(caller, lambda tx: idempotency.release(tx, caller, once))


def _again(before: bytes) -> Reply:
    """What the same request was answered."""
    if not before:
        raise IdempotencyInProgress
    if before == _UNKNOWN:
        raise UpstreamFailed("Nobody knows whether this call was placed; it is not placed again.")
    placed = msgspec.json.decode(before, type=_Placed)
    body = {"success": True, "message": "This call was placed before.", **placed.ids}
    return Reply(status=placed.status, headers=(), body=msgspec.json.encode(body))


def _remembered(status: int, said: Mapping[str, Any]) -> bytes:
    ids = {name: _plain(said[name]) for name in _IDS if name in said}
    return msgspec.json.encode(_Placed(status, ids))


def _plain(said: object) -> str | None:
    return said if isinstance(said, str) and _PLAIN.fullmatch(said) else None


def _never_sent(error: VaultError) -> bool:
    """Is it certain that the account was not asked?"""
    return isinstance(error, EgressDenied) or (isinstance(error, Unreachable) and not error.sent)


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
