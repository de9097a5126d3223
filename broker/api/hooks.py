"""/hooks/elevenlabs/{workspace_id}: what ElevenLabs calls before and after a telephone call.

* Before: a key of scope ``hooks``, which the webhook's ``request_headers`` send from the account's
  own secret store. The answer is exactly what ElevenLabs starts the call with.
* After: no key, but the account's signature over the body.
* A workspace that is not the key's is answered like one that never was.
"""

from typing import Annotated, Any, Final, Self

from litestar import Request, Response, Router, post
from litestar.di import NamedDependency
from litestar.params import JSONBody, QueryParameter
from msgspec import Meta, Struct

from broker.api import examples
from broker.api.messages import Message
from broker.api.requests import requires
from broker.api.responses import guarded, problems
from broker.broker import Broker
from broker.delivery import revealed
from broker.profile import AGENT_PATTERN
from broker.telephone.incoming import Incoming, Initiation
from broker.variables import Scalar
from vault.errors import NotFound, Unauthenticated
from vault.model import ENVIRONMENT_PATTERN, Caller

MAX_NOTICE: Final = 8 * 1024 * 1024  # a long transcript; recordings are for somebody else
SIGNATURE: Final = "elevenlabs-signature"

WorkspaceIn = Annotated[str, examples.path("ws_01k9v7q3x8w2r5t6y7z8a9b0c1")]
Said = Annotated[str, Meta(max_length=200)]


class CallIn(Struct, frozen=True, kw_only=True):
    """A call that comes in. What ElevenLabs may add to it one day does no harm.

    A number that is withheld, or that the line does not know, is empty, null or not there.
    """

    caller_id: Said | None = None
    agent_id: Annotated[str, Meta(pattern=AGENT_PATTERN)]
    called_number: Said | None = None
    call_sid: Annotated[str, Meta(min_length=1, max_length=200)]


class InitiationOut(Message, frozen=True, kw_only=True, omit_defaults=True):
    """What a call starts with. Without `user_id`: nobody is known to call."""

    type: str
    dynamic_variables: dict[str, Scalar]
    environment: str
    user_id: str | None = None
    branch_id: str | None = None

    @classmethod
    def of(cls, initiation: Initiation) -> Self:
        return cls(
            type="conversation_initiation_client_data",
            dynamic_variables=revealed(initiation.variables),
            environment=initiation.environment,
            user_id=initiation.user_id,
            branch_id=initiation.branch_id or None,
        )


class ReceivedOut(Message, frozen=True, kw_only=True):
    """The same for whatever was signed."""

    status: str = "received"


@post(
    "/initiation",
    guards=requires("call.receive"),
    status_code=200,
    responses=guarded(
        "malformed",
        "not_found",
        "upstream_missing",
        "idempotency_in_progress",
        "too_large",
        "invalid",
        "unresolved",
        "idempotency_mismatch",
    ),
    summary="Say what a call starts with",
)
async def initiation(
    workspace_id: WorkspaceIn,
    data: JSONBody[CallIn],
    caller: NamedDependency[Caller],
    broker: NamedDependency[Broker],
    environment: Annotated[
        str | None,
        QueryParameter(
            pattern=ENVIRONMENT_PATTERN,
            description="Where the calls of this webhook run, whatever their number says.",
        ),
    ] = None,
) -> Response[InitiationOut]:
    """ElevenLabs' pre-call webhook. A number identifies a caller and proves nothing: unless the
    agent's profile says otherwise, the answer holds no credential.
    """
    if workspace_id != caller.workspace:
        raise NotFound
    call = Incoming(
        caller_id=data.caller_id or "",
        agent_id=data.agent_id,
        called_number=data.called_number or "",
        call_sid=data.call_sid,
        environment=environment,
    )
    made = InitiationOut.of(await broker.incoming.receive(caller, call))
    return Response(made, headers={"Cache-Control": "no-store"})


@post(
    "/post-call",
    status_code=200,
    request_max_body_size=MAX_NOTICE,
    responses=problems("unauthenticated", "too_large", "invalid"),
    security=[{}],
    summary="Hear that a call is over",
)
async def post_call(
    workspace_id: WorkspaceIn, request: Request[Any, Any, Any], broker: NamedDependency[Broker]
) -> ReceivedOut:
    """ElevenLabs' post-call webhook, signed with one of the upstream's `webhook_secrets`. The
    conversation ends, and with it what it held.
    """
    signatures = request.headers.getall(SIGNATURE, [])
    if len(signatures) != 1:
        raise Unauthenticated
    await broker.post_call.receive(
        workspace_id,
        signatures[0],
        await request.body(),
        request_id=request.scope["state"].get("request_id", ""),
    )
    return ReceivedOut()


router = Router(
    "/hooks/elevenlabs/{workspace_id:str}",
    route_handlers=[initiation, post_call],
    tags=["telephone"],
)
