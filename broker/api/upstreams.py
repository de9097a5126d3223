"""/v1/upstreams: the workspace's own account at a runtime's maker."""

from litestar import Response, Router, delete, get, put
from litestar.di import NamedDependency
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import JSONBody

from broker.api.agent_messages import ProjectIn, ProjectOut, UpstreamIn, UpstreamOut
from broker.api.requests import requires
from broker.api.responses import guarded
from broker.broker import Broker
from vault.model import Caller


@put(
    "/elevenlabs",
    guards=requires("upstream.write"),
    responses={
        201: ResponseSpec(UpstreamOut, description="It is new.", generate_examples=False),
        **guarded("malformed", "conflict", "too_large", "invalid"),
    },
    summary="Name the workspace's ElevenLabs account",
)
async def write(
    data: JSONBody[UpstreamIn], caller: NamedDependency[Caller], broker: NamedDependency[Broker]
) -> Response[UpstreamOut]:
    """Replaces all of it. An account belongs to one workspace: `conflict` says that another has
    it.
    """
    known, is_new = await broker.upstreams.put(caller, data.upstream())
    return Response(UpstreamOut.of(known), status_code=201 if is_new else 200)


@get(
    "/elevenlabs",
    guards=requires("upstream.read"),
    responses=guarded("not_found"),
    summary="Get it, without its key",
)
async def read(caller: NamedDependency[Caller], broker: NamedDependency[Broker]) -> UpstreamOut:
    return UpstreamOut.of(await broker.upstreams.get(caller))


@delete(
    "/elevenlabs",
    guards=requires("upstream.delete"),
    responses=guarded("not_found"),
    summary="Forget it",
)
async def remove(caller: NamedDependency[Caller], broker: NamedDependency[Broker]) -> None:
    """What was made in the account stays there."""
    await broker.upstreams.delete(caller)


@put(
    "/livekit",
    guards=requires("upstream.write"),
    responses={
        201: ResponseSpec(ProjectOut, description="It is new.", generate_examples=False),
        **guarded("malformed", "conflict", "too_large", "invalid"),
    },
    summary="Name the workspace's LiveKit project",
)
async def write_project(
    data: JSONBody[ProjectIn], caller: NamedDependency[Caller], broker: NamedDependency[Broker]
) -> Response[ProjectOut]:
    """Replaces all of it. A project belongs to one workspace: `conflict` says that another has
    it.
    """
    known, is_new = await broker.projects.put(caller, data.project())
    return Response(ProjectOut.of(known), status_code=201 if is_new else 200)


@get(
    "/livekit",
    guards=requires("upstream.read"),
    responses=guarded("not_found"),
    summary="Get the LiveKit project, without its secret",
)
async def read_project(
    caller: NamedDependency[Caller], broker: NamedDependency[Broker]
) -> ProjectOut:
    return ProjectOut.of(await broker.projects.get(caller))


@delete(
    "/livekit",
    guards=requires("upstream.delete"),
    responses=guarded("not_found"),
    summary="Forget the LiveKit project",
)
async def remove_project(caller: NamedDependency[Caller], broker: NamedDependency[Broker]) -> None:
    """Who is in one of its rooms stays there."""
    await broker.projects.delete(caller)


router = Router(
    "/v1/upstreams",
    route_handlers=[write, read, remove, write_project, read_project, remove_project],
    tags=["upstreams"],
)
