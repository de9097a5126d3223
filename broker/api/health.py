"""/livez, /readyz, /metrics: for the machines around us; no key, and nothing about anybody."""

import asyncio
from collections.abc import Awaitable
from typing import Final

from litestar import Response, Router, get
from litestar.datastructures import State
from litestar.di import NamedDependency
from litestar.openapi.datastructures import ResponseSpec
from msgspec import Struct

from broker.api.messages import Check, CheckName, Liveness, Readiness
from broker.api.responses import problems
from broker.metrics import CONTENT_TYPE, Metrics
from broker.migrations import PARTS
from vault.errors import VaultError
from vault.keyring import Degraded
from vault.vault import Vault

CHECK_SECONDS: Final = 3.0
# A tick comes every second; a replica whose ticks are so late keeps nothing alive.
MAX_LATE: Final = 60.0


class _Look(Struct, frozen=True):
    """A check, and may the replica get requests although it is not well?"""

    check: Check
    bearable: bool = False


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
    looked = list(
        await asyncio.gather(
            _check("database", vault.check_database()),
            _check("schema", vault.check_schema(PARTS)),
            _check("root_key", vault.check_root_key()),
            _check("refreshing", vault.check_refreshing()),
        )
    )
    if (ticks := state.ticks) is not None:
        late = ticks.late_by > MAX_LATE
        reason = "What is done in the background is not done." if late else None
        looked.append(_Look(Check(name="scheduler", ok=not late, reason=reason)))
    draining = state.gate.draining
    reason = "The replica stops." if draining else None
    looked.append(_Look(Check(name="draining", ok=not draining, reason=reason)))
    ready = all(one.check.ok or one.bearable for one in looked)
    found = Readiness(
        ready=ready,
        degraded=ready and any(one.bearable for one in looked),
        checks=[one.check for one in looked],
    )
    metrics.checked({one.check.name: one.check.ok for one in looked})
    return Response(found, status_code=200 if ready else 503)


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


async def _check(name: CheckName, question: Awaitable[None]) -> _Look:
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            await question
    except VaultError as error:
        bad = Check(name=name, ok=False, reason=error.message)
        return _Look(bad, bearable=isinstance(error, Degraded))
    except TimeoutError:
        return _Look(Check(name=name, ok=False, reason="It did not answer in time."))
    return _Look(Check(name=name, ok=True, reason=None))


# The empty requirement says that no key is needed; without it the document's own would hold.
router = Router("/", route_handlers=[livez, readyz, metrics], security=[{}], tags=["health"])
