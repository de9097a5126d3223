"""Drift: where the workspace's account at ElevenLabs says otherwise than this Keyturn.

* Minting pushes nothing, so the account holds what was last applied to it, by whomever.
* The comparison is that of ``keyturn env plan``, for what a conversation in one environment finds:
  that environment's value, else production's. Secrets and auth connections are told by name.
* Which variables an agent's tools name only the account knows, so all of the workspace's count.
* What is said of it is labels: who may mint may ask, and reads no variable.
* An account that is slow or away fails nobody and holds nobody up for long.
"""

import asyncio
import re
from collections.abc import Iterable, Sequence
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from broker.agents import Agents
from broker.environment_file import Document, Named, State, Step, compare
from broker.environment_file.document import VariableSpec
from broker.environment_file.plan import KnownVariable
from broker.environment_file.tree import shown
from broker.upstreams import Upstreams
from broker.upstreams.rows import UpstreamRow
from vault import access
from vault.errors import UpstreamMissing, VaultError
from vault.model import LABEL_PATTERN, PRODUCTION, Caller
from vault.vault import Vault
from vault.vault.variables import Meant

COMPARING: Final = 3.0  # seconds
MAX_READ: Final = 8 << 20  # bytes, of all answers together
MAX_LABELS: Final = 20  # that are named

_COMMAND: Final = "`keyturn env plan FILE --target elevenlabs`"
_LABEL: Final = re.compile(LABEL_PATTERN)
_GROUPS: Final = (
    ("missing there", ("create",)),
    ("different there", ("update", "replace")),
    ("only there", ("delete",)),
)


class DriftWarning(Struct, frozen=True):
    """What a person should know of it."""

    environment: str
    text: str


class Drifts:
    """Compares."""

    def __init__(self, vault: Vault, agents: Agents, upstreams: Upstreams) -> None:
        self._vault = vault
        self._agents = agents
        self._upstreams = upstreams

    async def warnings(self, caller: Caller, agent_id: str, environment: str) -> list[DriftWarning]:
        """At most one; none for an agent that runs elsewhere, or where there is no account."""
        access.permit(caller, "readiness.read")
        access.permit_environment(caller, environment)
        profile = await self._agents.profile(caller, agent_id)
        if profile is not None and profile.runtime not in (None, "elevenlabs"):
            return []
        try:
            row = await self._upstreams.row(caller)
        except UpstreamMissing:
            return []
        here = await self._vault.meant_for(caller, environment)
        there = await self._there(caller, row)
        text = _not_compared() if there is None else _text(environment, here, there)
        return [DriftWarning(environment, text)] if text else []

    async def _there(self, caller: Caller, row: UpstreamRow) -> State | None:
        """What the account holds; ``None`` where it does not say, or not in time."""
        try:
            async with asyncio.timeout(COMPARING):
                target = await self._upstreams.target_of(caller, row, max_total=MAX_READ)
                return await target.read()
        # It may nest an answer as deeply as it likes.
        except (TimeoutError, RecursionError, VaultError):
            return None


def _not_compared() -> str:
    return (
        "The environment variables could not be compared with those of the account at ElevenLabs: "
        f"it did not answer as it should, or not in time. {_COMMAND} says more."
    )


def _text(environment: str, here: Sequence[Meant], there: State) -> str:
    """Empty where they are in step."""
    # To prune means to hear of what is only there. Secrets that no variable names do not count.
    plan = compare(_document(environment, here), _within(environment, there), prune=True)
    steps = [step for step in plan.steps if step.kind == "variable"]
    if not steps:
        return ""
    return (
        f"In '{environment}' the account at ElevenLabs is not in step with Keyturn: "
        f"{_differences(steps)}. {_COMMAND} shows how."
    )


def _document(environment: str, here: Iterable[Meant]) -> Document:
    return Document(
        environments=[environment],
        variables={
            one.label: VariableSpec(
                one.type,
                {environment: one.value if one.type == "string" else Named(one.type, one.value)},
            )
            for one in here
        },
    )


def _within(environment: str, there: State) -> State:
    """The account as this environment's conversations see it."""
    found = []
    for one in there.variables:
        value = one.values.get(environment, one.values.get(PRODUCTION))
        if value is not None:
            found.append(KnownVariable(one.id, one.label, one.type, {environment: value}))
    return replace(there, environments=[environment], variables=found)


def _differences(steps: Sequence[Step]) -> str:
    parts, named = [], 0
    for words, actions in _GROUPS:
        labels = [_name(step.name) for step in steps if step.action in actions]
        some = labels[: MAX_LABELS - named]
        named += len(some)
        if some:
            parts.append(f"{words}: {', '.join(some)}")
    if len(steps) > named:
        parts.append(f"and {len(steps) - named} more")
    return "; ".join(parts)


def _name(label: str) -> str:
    return label if _LABEL.fullmatch(label) else shown(label, 64)
