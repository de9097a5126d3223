"""/livez, /readyz, /metrics: for the machines around us; no key, and nothing about anybody."""

from litestar import Response, Router, get, head
from litestar.datastructures import State
from litestar.di import NamedDependency
from litestar.openapi.datastructures import ResponseSpec

from broker.api import lights
from broker.api.messages import Check, Liveness, Readiness
from broker.api.responses import problems
from broker.metrics import CONTENT_TYPE, Metrics
from vault.vault import Vault


@get("/livez", summary="Is the process alive?", responses=problems())
async def livez() -> Liveness:
    """Answers as long as the process can answer at all. Asks nobody else."""
    return Liveness(alive=True)


@get(
    "/readyz",
    summary="May this replica get requests?",
    responses={503: ResponseSpec(Readiness, description="Not now; `checks` says why.")},
)
async def readyz(
    vault: NamedDependency[Vault], metrics: NamedDependency[Metrics], state: State
) -> Response[Readiness]:
    """Database, schema, root key, what keeps tokens alive, and whether the replica stops.

    A root key's service is away for all replicas at once. While they still serve the workspaces
    whose keys they hold, a balancer that took all of them out would make an outage of it.
    """
    found = await _looked_around(vault, metrics, state)
    return Response(found, status_code=200 if found.ready else 503)


@head("/livez", include_in_schema=False)
async def livez_alone() -> None:
    """The same without a body, as some of what watches us asks."""


@head("/readyz", include_in_schema=False)
async def readyz_alone(
    vault: NamedDependency[Vault], metrics: NamedDependency[Metrics], state: State
) -> Response[None]:
    found = await _looked_around(vault, metrics, state)
    return Response(None, status_code=200 if found.ready else 503)


@get("/metrics", summary="Numbers for Prometheus", media_type=CONTENT_TYPE, responses=problems())
async def metrics(
    vault: NamedDependency[Vault], metrics: NamedDependency[Metrics], state: State
) -> bytes:
    """Counters and histograms of this replica, and what it last counted of all of them."""
    if state.ticks is not None:
        metrics.ticked(state.ticks.ages)
    idle, size = vault.connections()
    metrics.refreshing(vault.refreshes_under_way)
    metrics.connections.labels("idle").set(idle)
    metrics.connections.labels("busy").set(size - idle)
    return metrics.text()


async def _looked_around(vault: Vault, metrics: Metrics, state: State) -> Readiness:
    late_by = state.ticks.late_by if state.ticks is not None else None
    seen = await lights.of_vault(vault)
    seen += lights.of_process(late_by, draining=state.gate.draining)
    ready = all(one.ok or one.bearable for one in seen)
    found = Readiness(
        ready=ready,
        degraded=ready and any(one.bearable for one in seen),
        checks=[Check(name=one.name, ok=one.ok, reason=one.reason) for one in seen],
    )
    metrics.checked({one.name: one.ok for one in seen})
    return found


# The empty requirement says that no key is needed; without it the document's own would hold.
router = Router(
    "/",
    route_handlers=[livez, livez_alone, readyz, readyz_alone, metrics],
    security=[{}],
    tags=["health"],
)
