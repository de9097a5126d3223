"""What works and may not be what was meant, and what only a person can mend: a sentence each.

* Everything here is looked at once, when ``keyturn doctor`` is run. It changes nothing.
* What is counted over all workspaces names providers; what is of one workspace names that.
* No credential is opened, and no value of a setting is shown.
"""

import shutil
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from msgspec import Struct

from broker import boot
from broker.broker import Broker
from broker.settings import Settings
from vault.errors import UpstreamMissing
from vault.model import Caller, Page
from vault.vault import Vault
from vault.vault.counting import Counts

MAX_WORKSPACES: Final = 1000
MAX_ROWS: Final = 1000
MIN_FREE: Final = 256 * 1024 * 1024
MAX_SKEW: Final = 5.0
MAX_DUE: Final = 60.0

STANDINGS: Final = {
    "paused": "the provider refuses them: see whether client id and secret are right",
    "held": "many of their grants were called dead at once: see 'keyturn connection'",
}


class Finding(Struct, frozen=True):
    """One thing that was looked at; with ``warning`` it works, and may not be what was meant."""

    name: str
    ok: bool
    text: str
    warning: bool = False

    @property
    def mark(self) -> str:
        if not self.ok:
            return "BAD "
        return "WARN" if self.warning else "ok  "


def of_settings(settings: Settings) -> list[Finding]:
    """Tell what the settings leave out, before anything is opened."""
    found = []
    if settings.kek is None:
        text = (
            "the first start made it in the data folder: keep a copy elsewhere, since without it "
            "nothing can be opened, and name one of your own in KEYTURN_KEK in production"
        )
        found.append(_warning("root key address", text))
    if settings.database_url is not None and settings.worker_database_url is None:
        text = "KEYTURN_WORKER_DATABASE_URL is not set: nothing is refreshed before somebody asks"
        found.append(_warning("worker", text))
    return found + list(_disks(settings))


async def of_deployment(vault: Vault, broker: Broker) -> list[Finding]:
    """Look at the clock, at what all workspaces' numbers say, and into each workspace."""
    found = await _clock(vault)
    if (counts := await vault.count()) is not None:
        found += _counted(counts)
    operator = boot.terminal_operator()
    every = await vault.list_workspaces(operator, Page(MAX_WORKSPACES))
    for one in every:
        caller = operator.within(one.workspace_id)
        found += [finding async for finding in _within(vault, broker, caller)]
    if len(every) == MAX_WORKSPACES:
        found.append(_warning("workspaces", f"only the first {MAX_WORKSPACES} were looked at"))
    return found


def _warning(name: str, text: str) -> Finding:
    return Finding(name, ok=True, text=text, warning=True)


def _disks(settings: Settings) -> Iterable[Finding]:
    for folder in dict.fromkeys((settings.data_dir, settings.spool_dir)):
        free = _free(folder) if folder is not None else None
        if free is not None and free < MIN_FREE:
            text = f"{free // 2**20} MiB are free on the disk of {folder}: an answer of a provider"
            yield _warning("disk", f"{text} that finds neither room here nor a database is lost")


def _free(folder: Path) -> int | None:
    try:
        return shutil.disk_usage(folder).free
    except OSError:  # it is not there yet, or not ours to see: opening it says so
        return None


async def _clock(vault: Vault) -> list[Finding]:
    ahead = await vault.clock_ahead()
    if abs(ahead) < MAX_SKEW:
        return []
    where = "ahead of" if ahead > 0 else "behind"
    text = (
        f"this machine's is {abs(ahead):.0f} s {where} the database's: tokens go by the database's,"
        " but certificates are judged and logs are dated by this one"
    )
    return [_warning("clock", text)]


def _counted(counts: Counts) -> list[Finding]:
    found = []
    standing: Counter[tuple[str, str]] = Counter()
    broken: Counter[str] = Counter()
    for one in counts.endpoints:
        standing[one.provider, one.standing] += one.number
        broken[one.provider] += one.number if one.broken else 0
    for (provider, how), number in sorted(standing.items()):
        if how in STANDINGS:
            text = f"{provider}: {number} app registrations are {how}, since {STANDINGS[how]}"
            found.append(_warning("integrations", text))
    for provider, number in sorted(broken.items()):
        if number:
            text = f"{provider}: {number} token endpoints do not answer, and are left alone for now"
            found.append(_warning("breaker", text))
    if counts.oldest_due > MAX_DUE:
        text = (
            f"what is due has waited for {counts.oldest_due:.0f} s: does 'keyturn serve' or "
            "'keyturn work' run, and is a provider slow?"
        )
        found.append(_warning("due", text))
    if counts.spooled:
        text = f"{counts.spooled} answers of providers wait for the database"
        found.append(_warning("spool", text))
    return found


async def _within(vault: Vault, broker: Broker, caller: Caller) -> AsyncIterator[Finding]:
    """Look into one workspace."""
    workspace = caller.workspace
    if warnings := await vault.fallback_warnings(caller):
        text = f"{workspace}: {warnings[0].text}{_and_more(warnings)}"
        yield _warning("fallback", text)
    now = datetime.now(UTC)
    keys = await vault.list_keys(caller, Page(MAX_ROWS))
    if not any(one.expires_at is None or one.expires_at > now for one in keys):
        text = f"{workspace}: it has no key that is alive, so nobody can use it"
        yield _warning("keys", text)
    failing = [
        one
        for one in await vault.list_event_endpoints(caller, Page(MAX_ROWS))
        if one.failing_since is not None or one.disabled_why in ("gone", "failing")
    ]
    if failing:
        first = f"{failing[0].endpoint_id}{_and_more(failing)}"
        text = f"{workspace}: {first} does not take events: 'keyturn event-endpoint' shows why"
        yield _warning("events", text)
    async for finding in _of_agents(broker, caller):
        yield finding


async def _of_agents(broker: Broker, caller: Caller) -> AsyncIterator[Finding]:
    every = await broker.agents.list(caller, Page(MAX_ROWS))
    # Credentials for a number, which anybody can pretend to have.
    trusting = [one.agent_id for one in every if one.profile.inbound_trust == "caller_id"]
    if trusting:
        text = (
            f"{caller.workspace}: {trusting[0]}{_and_more(trusting)} gives a user's credentials to "
            "whoever calls with the user's number, and a number can be forged"
        )
        yield _warning("telephone", text)
    there = [one.agent_id for one in every if one.profile.runtime in (None, "elevenlabs")]
    if there and not await _has_upstream(broker, caller):
        text = (
            f"{caller.workspace}: {there[0]}{_and_more(there)} runs at ElevenLabs, and the "
            "workspace has not said which account that is: PUT /v1/upstreams/elevenlabs"
        )
        yield _warning("upstream", text)


async def _has_upstream(broker: Broker, caller: Caller) -> bool:
    try:
        await broker.upstreams.row(caller)
    except UpstreamMissing:
        return False
    return True


def _and_more(found: Sequence[object]) -> str:
    return f" (and {len(found) - 1} more)" if len(found) > 1 else ""
