"""/v1/convai/{twilio,sip-trunk,exotel,whatsapp}/outbound-call and twilio/register-call.

With ``user_id`` in the initiation data a call is that user's: a conversation is minted, and its
variables reach ElevenLabs without passing through anybody else. Such a call is placed once for one
Idempotency-Key.
"""

import re
from typing import Annotated, Any, Final, Literal

from litestar import Request, Response, Router, post
from litestar.di import NamedDependency
from litestar.handlers import HTTPRouteHandler
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import JSONBody
from msgspec import Meta, Struct

from broker.api.convai.errors import declared
from broker.api.convai.passing import passed_on
from broker.api.convai.sessions import UserId
from broker.api.requests import IdempotencyKey, once_of, requires
from broker.broker import Broker
from broker.profile import AGENT_PATTERN
from broker.telephone.outgoing import INITIATION, Line, Outgoing
from broker.variables import Scalar
from vault.errors import Invalid
from vault.model import ENVIRONMENT_PATTERN, USER_ID_PATTERN, Caller, Once
from vault.vault import Vault

AgentId = Annotated[str, Meta(pattern=AGENT_PATTERN)]
Named = Annotated[str, Meta(max_length=200)]

_BRANCH: Final = r"[A-Za-z0-9_-]{1,128}"


class OutboundCall(Struct, frozen=True, kw_only=True):
    """Passed on as it comes, with whatever else is in it."""

    agent_id: AgentId
    agent_phone_number_id: Named = ""
    conversation_initiation_client_data: dict[str, Any] | None = None


class RegisteredCall(Struct, frozen=True, kw_only=True):
    """Passed on as it comes, with whatever else is in it."""

    agent_id: AgentId
    from_number: Named
    to_number: Named
    direction: Literal["inbound", "outbound"] = "inbound"
    conversation_initiation_client_data: dict[str, Any] | None = None


class CallPlaced(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """As ElevenLabs answers; the id of the call is called as its line calls it."""

    success: bool
    message: str
    conversation_id: str | None = None
    callSid: str | None = None  # noqa: N815 - ElevenLabs' own spelling
    sip_call_id: str | None = None


_PROBLEMS: Final = (
    "not_found",
    "invalid",
    "too_large",
    "connection_missing",
    "upstream_missing",
    "delivery_not_possible",
    "unresolved",
    "upstream_failed",
)


def _answers(
    kind: type[Any], *more: str, media_type: str = "application/json"
) -> dict[int, ResponseSpec]:
    return {
        200: ResponseSpec(
            kind,
            generate_examples=False,
            description="As ElevenLabs answers",
            media_type=media_type,
        ),
        **declared(*_PROBLEMS, *more),
    }


def _calling(line: Line, by: str) -> HTTPRouteHandler:
    """The route of one line, which is called ``by`` in words."""

    async def call(
        data: JSONBody[OutboundCall],
        request: Request[Any, Any, Any],
        caller: NamedDependency[Caller],
        vault: NamedDependency[Vault],
        broker: NamedDependency[Broker],
        user_id: UserId = None,
        idempotency_key: IdempotencyKey = None,
    ) -> Response[Any]:
        """With a `user_id`, here or in the initiation data, the call starts with that user's
        variables, and is placed once for one Idempotency-Key.
        """
        once = await once_of(request, vault, idempotency_key, also=user_id or "")
        return await _placed(request, caller, broker, line, data, user_id, once)

    return post(
        f"/{line}",
        guards=requires("conversation.mint"),
        status_code=200,
        responses=_answers(CallPlaced, "idempotency_in_progress"),
        summary=f"Call somebody by {by}",
    )(call)


@post(
    "/twilio/register-call",
    guards=requires("conversation.mint"),
    status_code=200,
    responses=_answers(str, media_type="text/html"),
    summary="Register a call of one's own at Twilio",
)
async def register(
    data: JSONBody[RegisteredCall],
    request: Request[Any, Any, Any],
    caller: NamedDependency[Caller],
    broker: NamedDependency[Broker],
    user_id: UserId = None,
) -> Response[Any]:
    """Answers TwiML. With a `user_id`, here or in the initiation data, the call starts with that
    user's variables; whoever registers has made sure who that is.
    """
    return await _placed(request, caller, broker, "twilio/register-call", data, user_id)


async def _placed(
    request: Request[Any, Any, Any],
    caller: Caller,
    broker: Broker,
    line: Line,
    asked: OutboundCall | RegisteredCall,
    queried: str | None,
    once: Once | None = None,
) -> Response[Any]:
    initiation = asked.conversation_initiation_client_data or {}
    user_id = _text(initiation, "user_id", USER_ID_PATTERN) or queried
    if queried not in (None, user_id):
        raise Invalid("The query names another user.", pointer=f"/{INITIATION}/user_id")
    call = Outgoing(
        line=line,
        agent_id=asked.agent_id,
        body=await request.body(),
        initiation=initiation,
        user_id=user_id,
        environment=_text(initiation, "environment", ENVIRONMENT_PATTERN),
        branch_id=_text(initiation, "branch_id", _BRANCH) if user_id else None,
        given=_variables(initiation) if user_id else {},
        number_id=asked.agent_phone_number_id if isinstance(asked, OutboundCall) else "",
        number=_own_number(asked) if isinstance(asked, RegisteredCall) else "",
    )
    return passed_on(await broker.outgoing.place(caller, call, once))


def _own_number(asked: RegisteredCall) -> str:
    return asked.to_number if asked.direction == "inbound" else asked.from_number


def _text(initiation: dict[str, Any], name: str, pattern: str) -> str | None:
    found = initiation.get(name)
    if found is None:
        return None
    if not isinstance(found, str) or re.fullmatch(pattern, found) is None:
        raise Invalid(f"This is no {name}.", pointer=f"/{INITIATION}/{name}")
    return found


def _variables(initiation: dict[str, Any]) -> dict[str, Scalar]:
    found = initiation.get("dynamic_variables")
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise Invalid("Name and value.", pointer=f"/{INITIATION}/dynamic_variables")
    for name, value in found.items():
        place = f"/{INITIATION}/dynamic_variables/{name}"
        if not isinstance(value, str | bool | int | float):
            raise Invalid("Text, a number, or true or false.", pointer=place)
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise Invalid("This number is too large.", pointer=place)
    return found


router = Router(
    "/v1/convai",
    route_handlers=[
        _calling("twilio/outbound-call", "Twilio"),
        _calling("sip-trunk/outbound-call", "a SIP trunk"),
        _calling("exotel/outbound-call", "Exotel"),
        _calling("whatsapp/outbound-call", "WhatsApp"),
        register,
    ],
    tags=["telephone"],
)
