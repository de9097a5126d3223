"""Readiness: which of many users an agent can talk to now, and what the others lack.

* No credential is opened, refreshed or held. A statement reads thousands of users.
* ``ready``: a mint would not miss anything that is required. ``expiring``: neither, but before
  long only the person can keep it so. ``unknown``: there is no such user.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

from msgspec import Struct

from broker.agents import Agents
from broker.conversation import CONNECTABLE, environment_of
from broker.profile import Profile
from broker.upstreams.drift import Drifts, DriftWarning
from vault import access
from vault.environments import FallbackWarning
from vault.errors import Missing
from vault.model import Caller
from vault.secret import Secret
from vault.vault import Vault
from vault.vault.surveys import Standing

Status = Literal["ready", "expiring", "missing", "unknown"]


class ReadyUser(Struct, frozen=True, kw_only=True):
    """One user; the names are integrations."""

    user_id: str
    status: Status
    ready: tuple[str, ...] = ()
    expiring: tuple[str, ...] = ()
    missing: tuple[Missing, ...] = ()


class Readiness:
    """Looks ahead."""

    def __init__(self, vault: Vault, agents: Agents, drifts: Drifts) -> None:
        self._vault = vault
        self._agents = agents
        self._drifts = drifts

    async def of_users(
        self,
        caller: Caller,
        agent_id: str,
        user_ids: Sequence[str],
        asked: str | None,
        *,
        connect_links: bool,
    ) -> tuple[str, list[ReadyUser]]:
        """The environment that was meant, and each user in the order asked for."""
        environment = environment_of(caller, asked)
        profile = await self._agents.profile(caller, agent_id)
        standings = await self._vault.standings(caller, user_ids, environment)
        every = [
            _user(user_id, profile, standings.get(user_id)) for user_id in dict.fromkeys(user_ids)
        ]
        if connect_links:
            every = await self._with_links(caller, every, environment)
        return environment, every

    async def warnings(
        self, caller: Caller, agent_id: str, environment: str
    ) -> list[FallbackWarning | DriftWarning]:
        """Where a host of this environment stands beside a secret of another, and where the
        account at ElevenLabs is not in step.
        """
        access.permit(caller, "readiness.read")
        beside = [
            one
            for one in await self._vault.fallback_warnings_for(caller)
            if one.environment == environment
        ]
        return [*beside, *await self._drifts.warnings(caller, agent_id, environment)]

    async def _with_links(
        self, caller: Caller, every: list[ReadyUser], environment: str
    ) -> list[ReadyUser]:
        lacking = {
            one.user_id: some
            for one in every
            if one.status != "unknown"
            and (some := [lack.integration for lack in one.missing if lack.reason in CONNECTABLE])
        }
        links = await self._vault.invite_users(caller, lacking, environment) if lacking else {}
        return [_linked(one, links.get(one.user_id, {})) for one in every]


def _user(
    user_id: str, profile: Profile | None, standings: Mapping[str, Standing] | None
) -> ReadyUser:
    if standings is None:
        return ReadyUser(user_id=user_id, status="unknown")
    if profile is None or profile.integrations is None:
        needed = {integration: (False, frozenset[str]()) for integration in standings}
    else:
        needed = {
            one.integration: (one.required, frozenset(one.scopes)) for one in profile.integrations
        }
    ready, expiring, missing, lacks = [], [], [], False
    for integration, (required, scopes) in needed.items():
        one = standings.get(integration)
        reason = _reason(one, scopes)
        if reason is not None:
            missing.append(Missing(integration, reason))
            lacks = lacks or required
        else:
            ready.append(integration)
            if one is not None and one.expiring:
                expiring.append(integration)
    status: Status = "missing" if lacks else "expiring" if expiring else "ready"
    return ReadyUser(
        user_id=user_id,
        status=status,
        ready=tuple(ready),
        expiring=tuple(expiring),
        missing=tuple(missing),
    )


def _reason(one: Standing | None, scopes: frozenset[str]) -> str | None:
    if one is None:
        return "not_connected"
    if one.reason is None and one.scopes is not None and not scopes <= set(one.scopes):
        return "scope_missing"
    return one.reason


def _linked(one: ReadyUser, links: Mapping[str, Secret]) -> ReadyUser:
    return ReadyUser(
        user_id=one.user_id,
        status=one.status,
        ready=one.ready,
        expiring=one.expiring,
        missing=tuple(
            Missing(lack.integration, lack.reason, links.get(lack.integration))
            for lack in one.missing
        ),
    )
