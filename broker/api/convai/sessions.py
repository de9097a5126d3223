"""/v1/convai/conversation/token and /get-signed-url: where a conversation at ElevenLabs starts.

* Without ``user_id`` the workspace's own account is asked, and its answer is passed on unchanged;
  only a refusal of the account's own key is not, because the caller's key is another one.
* With one the conversation is minted for that user: the signed URL is the relay's, and a token
  comes with the variables that its client has to pass on.
"""

from typing import Annotated, Any, Final

from litestar import Request, Response, Router, get
from litestar.di import NamedDependency
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import QueryParameter
from msgspec import Struct

from broker.api.convai.errors import declared
from broker.api.convai.passing import passed_on
from broker.api.requests import requires
from broker.broker import Broker
from broker.conversation import BRANCH_PATTERN, Wanted, environment_of
from broker.delivery import revealed
from broker.profile import AGENT_PATTERN
from broker.runtimes.elevenlabs import SIGNED_URL_PATH, TOKEN_PATH
from vault import access
from vault.errors import Invalid, UpstreamFailed
from vault.model import ENVIRONMENT_PATTERN, USER_ID_PATTERN, Caller

AgentId = Annotated[str, QueryParameter(pattern=AGENT_PATTERN)]
UserId = Annotated[
    str | None,
    QueryParameter(pattern=USER_ID_PATTERN, description="Mint for this user of ours."),
]
EnvironmentName = Annotated[str | None, QueryParameter(pattern=ENVIRONMENT_PATTERN)]
BranchId = Annotated[str | None, QueryParameter(pattern=BRANCH_PATTERN)]

# agent, user, environment, branch
_Asked = tuple[str, str | None, str | None, str | None]

_OURS: Final = frozenset({"user_id", "environment"})


class SignedUrlOut(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """``keyturn_conversation_id``: ours, where it was minted for a user."""

    signed_url: str
    keyturn_conversation_id: str | None = None


class SessionTokenOut(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """With a user ``dynamic_variables`` are what the client has to pass on."""

    token: str
    conversation_id: str
    dynamic_variables: dict[str, str | bool | int | float] | None = None
    keyturn_conversation_id: str | None = None


_PROBLEMS: Final = (
    "not_found",
    "invalid",
    "connection_missing",
    "upstream_missing",
    "delivery_not_possible",
    "delivery_needs_gateway",
    "unresolved",
    "upstream_failed",
)


def _answers(kind: type[Struct]) -> dict[int, ResponseSpec]:
    return {
        200: ResponseSpec(kind, generate_examples=False, description="As ElevenLabs answers"),
        **declared(*_PROBLEMS),
    }


@get(
    "/get-signed-url",
    guards=requires("conversation.mint"),
    responses=_answers(SignedUrlOut),
    summary="Get a signed URL",
)
async def signed_url(
    request: Request[Any, Any, Any],
    caller: NamedDependency[Caller],
    broker: NamedDependency[Broker],
    agent_id: AgentId,
    user_id: UserId = None,
    environment: EnvironmentName = None,
    branch_id: BranchId = None,
) -> Response[Any]:
    """For a conversation over WebSocket. With `user_id` the URL is the relay's."""
    return await _signed(request, caller, broker, (agent_id, user_id, environment, branch_id))


@get(
    "/get_signed_url",
    guards=requires("conversation.mint"),
    responses=_answers(SignedUrlOut),
    summary="Get a signed URL (the older address)",
)
async def older_signed_url(
    request: Request[Any, Any, Any],
    caller: NamedDependency[Caller],
    broker: NamedDependency[Broker],
    agent_id: AgentId,
    user_id: UserId = None,
    environment: EnvironmentName = None,
    branch_id: BranchId = None,
) -> Response[Any]:
    """The same as `get-signed-url`."""
    return await _signed(request, caller, broker, (agent_id, user_id, environment, branch_id))


async def _signed(
    request: Request[Any, Any, Any], caller: Caller, broker: Broker, asked: _Asked
) -> Response[Any]:
    agent_id, user_id, environment, branch_id = asked
    if user_id is None:
        return await _passed_on(request, caller, broker, SIGNED_URL_PATH)
    _refuse_version(request)
    wanted = Wanted(
        agent_id=agent_id,
        user_id=user_id,
        environment=environment,
        runtime="elevenlabs",
        delivery="relay",
        branch_id=branch_id or "",
    )
    made = await broker.minting.mint(caller, wanted)
    if made.signed_url is None:
        raise UpstreamFailed
    return Response(
        SignedUrlOut(
            signed_url=made.signed_url.reveal(), keyturn_conversation_id=made.conversation_id
        ),
        headers={"Cache-Control": "no-store"},
    )


@get(
    "/token",
    guards=requires("conversation.mint"),
    responses=_answers(SessionTokenOut),
    summary="Get a conversation token",
)
async def token(
    request: Request[Any, Any, Any],
    caller: NamedDependency[Caller],
    broker: NamedDependency[Broker],
    agent_id: AgentId,
    user_id: UserId = None,
    environment: EnvironmentName = None,
    branch_id: BranchId = None,
) -> Response[Any]:
    """For a conversation over WebRTC. With `user_id` its variables come along."""
    if user_id is None:
        return await _passed_on(request, caller, broker, TOKEN_PATH)
    _refuse_version(request)
    wanted = Wanted(
        agent_id=agent_id,
        user_id=user_id,
        environment=environment,
        runtime="elevenlabs",
        channel="webrtc",
        branch_id=branch_id or "",
    )
    made = await broker.minting.mint(caller, wanted)
    if made.token is None:
        raise UpstreamFailed
    return Response(
        SessionTokenOut(
            token=made.token.reveal(),
            conversation_id=made.upstream_id or "",
            dynamic_variables=revealed(made.variables),
            keyturn_conversation_id=made.conversation_id,
        ),
        headers={"Cache-Control": "no-store"},
    )


async def _passed_on(
    request: Request[Any, Any, Any], caller: Caller, broker: Broker, path: str
) -> Response[Any]:
    access.permit(caller, "conversation.mint")
    given = request.query_params.multi_items()
    query = [(name, str(value)) for name, value in given if name not in _OURS]
    asked = request.query_params.get("environment")
    environment = environment_of(caller, asked)
    if asked is not None or caller.environments:
        query.append(("environment", environment))
    client = await broker.upstreams.client(caller)
    return passed_on(await client.forward(path, query))


def _refuse_version(request: Request[Any, Any, Any]) -> None:
    """A conversation of a user runs in a branch as it is; a version could not be held to."""
    if "version_id" in request.query_params:
        raise Invalid("With a user_id name a branch, and no version.", pointer="/version_id")


router = Router(
    "/v1/convai/conversation",
    route_handlers=[signed_url, older_signed_url, token],
    tags=["conversations"],
)
