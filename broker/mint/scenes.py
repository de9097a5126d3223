"""Who asks for what, and what there is for it: between the two a mint is decided. Pure."""

from collections.abc import Mapping

from msgspec import Struct

from broker.conversation import Delivery, Kept, Ready, Wanted, min_ttl_of
from broker.delivery import reached_by
from broker.profile import Profile, Runtime
from broker.upstreams.rows import UpstreamRow
from broker.variables import Plan
from vault.model import Caller
from vault.vault.refreshing import Fresh
from vault.vault.surveys import Survey


class Scene(Struct, frozen=True, kw_only=True):
    """Who asks for what; ``itself``: the conversation that it is for."""

    caller: Caller
    itself: Caller
    wanted: Wanted
    environment: str
    runtime: Runtime
    delivery: Delivery
    profile: Profile | None
    survey: Survey
    upstream: UpstreamRow | None

    def __repr__(self) -> str:
        return f"Scene({self.itself.actor_id})"

    @property
    def looking(self) -> bool:
        """Is nothing of a token needed now?"""
        return self.delivery in ("relay", "handle") or not self.wanted.armed


class Found(Struct, frozen=True, kw_only=True):
    """What there is for it: the plan, and the connections that can be used, by integration."""

    plan: Plan
    fresh: Mapping[str, Fresh]

    def ready(self) -> tuple[Ready, ...]:
        names = self.plan.layout().by_integration
        return tuple(
            Ready(
                integration=integration,
                generation=one.generation,
                expires_at=one.expires_at,
                expires_in=one.expires_in,
                degraded=one.degraded,
                stale=one.stale,
                refresh_required=one.refresh_required,
                variables=names.get(integration, ()),
            )
            for integration, one in self.fresh.items()
            if integration in self.plan.connections
        )


def promised(scene: Scene, found: Found) -> Kept:
    """What is remembered of it."""
    return Kept(
        agent_id=scene.wanted.agent_id,
        environment=scene.environment,
        plan=found.plan,
        profile=scene.profile,
        reached=reached_by(scene.survey, found.plan),
        given=dict(scene.wanted.dynamic_variables),
        min_ttl=min_ttl_of(scene.wanted, scene.profile),
    )
