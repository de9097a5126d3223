"""Telephone: calls out, calls in, and numbers.

* A call's environment and branch: what the initiation data or the webhook says, else the
  number's, else ``production``.
* A call is answered at once. One that cannot start is accepted all the same, and fails: the
  conversation says why, and ``call_initiation_failure`` is sent to who asked for it.
* A batch that is scheduled keeps its variables until the sandbox's clock gets there.
"""

import secrets
from html import escape
from typing import Any, Final, Literal

from msgspec import Struct, field

from broker.sandbox.elevenlabs import agents
from broker.sandbox.elevenlabs.account import PRODUCTION, Account, Stored, World, new_id
from broker.sandbox.elevenlabs.conversations import Conversation, Failed
from broker.sandbox.elevenlabs.deliveries import PreCall, before_call, tell
from broker.sandbox.elevenlabs.sessions import new_conversation
from broker.sandbox.elevenlabs.wire import Answer, Request, Route, not_found

Provider = Literal["twilio", "sip_trunk", "exotel"]
Direction = Literal["inbound", "outbound"]

CALLING: Final = "The call was started."


class OutboundCall(Struct):
    agent_id: str
    agent_phone_number_id: str
    to_number: str
    conversation_initiation_client_data: dict[str, Any] | None = None


class RegisteredCall(Struct):
    agent_id: str
    from_number: str
    to_number: str
    direction: Direction = "inbound"
    conversation_initiation_client_data: dict[str, Any] | None = None


class WhatsAppCall(Struct):
    whatsapp_phone_number_id: str
    whatsapp_user_id: str
    whatsapp_call_permission_request_template_name: str
    whatsapp_call_permission_request_template_language_code: str
    agent_id: str
    conversation_initiation_client_data: dict[str, Any] | None = None


class WhatsAppMessage(Struct):
    whatsapp_phone_number_id: str
    whatsapp_user_id: str
    template_name: str
    template_language_code: str
    template_params: list[Any]
    agent_id: str
    conversation_initiation_client_data: dict[str, Any] | None = None


class Recipient(Struct):
    id: str | None = None
    phone_number: str | None = None
    whatsapp_user_id: str | None = None
    conversation_initiation_client_data: dict[str, Any] | None = None


class Batch(Struct):
    call_name: str
    agent_id: str
    recipients: list[Recipient]
    scheduled_time_unix: int | None = None
    agent_phone_number_id: str | None = None
    whatsapp_params: dict[str, Any] | None = None
    timezone: str | None = None
    branch_id: str | None = None
    environment: str | None = None
    target_concurrency_limit: int | None = None


class InboundCall(Struct, forbid_unknown_fields=True):
    """What a knob needs to know to let somebody call."""

    caller_id: str
    called_number: str
    call_sid: str = field(default_factory=lambda: "CA" + secrets.token_hex(16))


class Ringing(Struct, kw_only=True):
    """What is known of a call before the agent answers."""

    agent: Stored
    number: Stored | None
    provider: str
    direction: Direction
    external_number: str
    own_number: str
    call_sid: str


async def call_by_twilio(request: Request) -> Answer:
    conversation, sid = _called(request, "twilio")
    return Answer(_started(conversation) | {"callSid": sid})


async def call_by_exotel(request: Request) -> Answer:
    conversation, sid = _called(request, "exotel")
    return Answer(_started(conversation) | {"callSid": sid})


async def call_by_sip(request: Request) -> Answer:
    conversation, sid = _called(request, "sip_trunk")
    return Answer(_started(conversation) | {"sip_call_id": sid})


async def call_by_whatsapp(request: Request) -> Answer:
    asked = request.read(WhatsAppCall)
    given = asked.conversation_initiation_client_data
    return Answer(_started(_whatsapp(request, asked.agent_id, given)))


async def message_by_whatsapp(request: Request) -> Answer:
    asked = request.read(WhatsAppMessage)
    given = asked.conversation_initiation_client_data
    return Answer({"conversation_id": _whatsapp(request, asked.agent_id, given).id})


async def register_call(request: Request) -> Answer:
    """Answer TwiML, for who holds the Twilio call themselves."""
    asked = request.read(RegisteredCall)
    inbound = asked.direction == "inbound"
    ringing = Ringing(
        agent=agents.agent_of(request.account, asked.agent_id),
        number=None,
        provider="twilio",
        direction=asked.direction,
        external_number=asked.from_number if inbound else asked.to_number,
        own_number=asked.to_number if inbound else asked.from_number,
        call_sid="CA" + secrets.token_hex(16),
    )
    given = asked.conversation_initiation_client_data or {}
    conversation = _answered(request.world, request.account, ringing, given)
    url = f"{request.socket_base()}/v1/convai/conversation/twilio"
    twiml = (
        '<?xml version="1.0" encoding="UTF-8"?><Response><Connect>'
        f'<Stream url="{escape(url)}">'
        f'<Parameter name="conversation_id" value="{conversation.id}"/>'
        "</Stream></Connect></Response>"
    )
    return Answer(twiml.encode(), content_type="text/html; charset=utf-8")


async def submit_batch(request: Request) -> Answer:
    asked, world, account = request.read(Batch), request.world, request.account
    agent = agents.agent_of(account, asked.agent_id)
    number = account.phone_numbers.get(asked.agent_phone_number_id or "")
    now = world.seconds()
    due = asked.scheduled_time_unix is None or asked.scheduled_time_unix <= now
    made = Stored(
        id=new_id("btcal"),
        config={"asked": asked, "agent": agent, "number": number, "dialled": False},
        created_at=now,
        updated_at=now,
    )
    account.batches[made.id] = made
    if due:
        _dial(world, account, made)
    count = len(asked.recipients)
    return Answer(
        {
            "id": made.id,
            "phone_number_id": asked.agent_phone_number_id,
            "phone_provider": number.config["provider"] if number else None,
            "whatsapp_params": asked.whatsapp_params,
            "name": asked.call_name,
            "agent_id": agent.id,
            "branch_id": asked.branch_id,
            "environment": asked.environment,
            "created_at_unix": now,
            "scheduled_time_unix": asked.scheduled_time_unix or now,
            "timezone": asked.timezone,
            "total_calls_dispatched": count if due else 0,
            "total_calls_scheduled": count,
            "total_calls_finished": 0,
            "last_updated_at_unix": now,
            "status": "in_progress" if due else "pending",
            "retry_count": 0,
            "telephony_call_config": {},
            "target_concurrency_limit": asked.target_concurrency_limit,
            "agent_name": agent.config.get("name") or "Sandbox agent",
            "branch_name": None,
        }
    )


def dial_due(world: World) -> None:
    """Start the batches whose time has come."""
    for account in world.accounts.values():
        for batch in account.batches.values():
            due = batch.config["asked"].scheduled_time_unix
            if not batch.config["dialled"] and due is not None and due <= world.now():
                _dial(world, account, batch)


async def receive_call(
    world: World, account: Account, call: InboundCall
) -> tuple[Conversation, PreCall | None]:
    """Let somebody call one of the workspace's numbers."""
    number = next(
        (one for one in account.phone_numbers.values() if _number(one) == call.called_number), None
    )
    if number is None or not number.config.get("agent_id"):
        raise not_found("phone_number", call.called_number)
    agent = agents.agent_of(account, number.config["agent_id"])
    ringing = Ringing(
        agent=agent,
        number=number,
        provider=number.config["provider"],
        direction="inbound",
        external_number=call.caller_id,
        own_number=call.called_number,
        call_sid=call.call_sid,
    )
    said = {
        "caller_id": call.caller_id,
        "agent_id": agent.id,
        "called_number": call.called_number,
        "call_sid": call.call_sid,
    }
    environment = number.config.get("environment") or PRODUCTION
    asked = await before_call(world, account, agent, environment, said)
    given = asked.initiation if asked else None
    return _answered(world, account, ringing, given or {}), asked


def _called(request: Request, provider: Provider) -> tuple[Conversation, str]:
    asked = request.read(OutboundCall)
    agent = agents.agent_of(request.account, asked.agent_id)
    number = request.account.phone_numbers.get(asked.agent_phone_number_id)
    if number is None or number.config["provider"] != provider:
        raise not_found("phone_number", asked.agent_phone_number_id)
    sid = ("CA" if provider == "twilio" else "") + secrets.token_hex(16)
    ringing = Ringing(
        agent=agent,
        number=number,
        provider=provider,
        direction="outbound",
        external_number=asked.to_number,
        own_number=_number(number),
        call_sid=sid,
    )
    given = asked.conversation_initiation_client_data or {}
    return _answered(request.world, request.account, ringing, given), sid


def _answered(
    world: World, account: Account, ringing: Ringing, given: dict[str, Any]
) -> Conversation:
    """Pick up."""
    conversation = new_conversation(world, account, ringing.agent, ringing.provider)
    number = ringing.number
    conversation.phone_call = {
        "type": "sip_trunking" if ringing.provider == "sip_trunk" else ringing.provider,
        "direction": ringing.direction,
        "phone_number_id": number.id if number else "",
        "agent_number": ringing.own_number,
        "external_number": ringing.external_number,
        "stream_sid": "MZ" + secrets.token_hex(16),
        "call_sid": ringing.call_sid,
    }
    config = number.config if number else {}
    return _begun(conversation, given, config.get("environment"), config.get("branch_id"))


def _whatsapp(request: Request, agent_id: str, given: dict[str, Any] | None) -> Conversation:
    agent = agents.agent_of(request.account, agent_id)
    made = new_conversation(request.world, request.account, agent, "whatsapp")
    return _begun(made, given or {}, None, None)


def _begun(
    conversation: Conversation,
    given: dict[str, Any],
    environment: str | None,
    branch_id: str | None,
) -> Conversation:
    conversation.after_end = tell
    try:
        conversation.start(given, environment or PRODUCTION)
        conversation.branch_id = conversation.branch_id or branch_id
        conversation.greet()
    except Failed as failure:
        conversation.fail(failure)
    return conversation


def _dial(world: World, account: Account, batch: Stored) -> None:
    asked: Batch = batch.config["asked"]
    batch.config["dialled"] = True
    for one in asked.recipients:
        given = dict(one.conversation_initiation_client_data or {})
        for name, value in (("environment", asked.environment), ("branch_id", asked.branch_id)):
            if value is not None:
                given.setdefault(name, value)
        number: Stored | None = batch.config["number"]
        ringing = Ringing(
            agent=batch.config["agent"],
            number=number,
            provider=number.config["provider"] if number else "twilio",
            direction="outbound",
            external_number=one.phone_number or one.whatsapp_user_id or "",
            own_number=_number(number) if number else "",
            call_sid="CA" + secrets.token_hex(16),
        )
        _answered(world, account, ringing, given)


def _started(conversation: Conversation) -> dict[str, Any]:
    return {"success": True, "message": CALLING, "conversation_id": conversation.id}


def _number(number: Stored) -> str:
    return str(number.config["phone_number"])


_ROOT: Final = "/v1/convai"

ROUTES: Final = (
    Route("POST", _ROOT + "/twilio/outbound-call", call_by_twilio),
    Route("POST", _ROOT + "/twilio/register-call", register_call),
    Route("POST", _ROOT + "/exotel/outbound-call", call_by_exotel),
    Route("POST", _ROOT + "/sip-trunk/outbound-call", call_by_sip),
    Route("POST", _ROOT + "/whatsapp/outbound-call", call_by_whatsapp),
    Route("POST", _ROOT + "/whatsapp/outbound-message", message_by_whatsapp),
    Route("POST", _ROOT + "/batch-calling/submit", submit_batch),
)
