"""What is configured, and what is wrong with it, in one sentence each; no secret is shown."""

from collections.abc import Awaitable, Mapping
from typing import Final

from msgspec import Struct

from broker import boot, logs
from broker.broker import Broker
from broker.migrations import PARTS
from broker.settings import Settings, load
from vault.errors import Misconfigured, VaultError
from vault.kms import kinds_of
from vault.model import Page
from vault.secret import Secret
from vault.settings import PREFIX
from vault.vault import Vault

MAX_WORKSPACES: Final = 1000
MAX_AGENTS: Final = 1000
LATE_SECONDS: Final = 60.0


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


async def examine(environ: Mapping[str, str]) -> list[Finding]:
    """Look at everything that the service needs."""
    try:
        settings = load(environ)
    except Misconfigured as error:
        return [Finding("settings", ok=False, text=error.message)]
    logs.configure("error")
    found = [_settings(environ), *_advice(settings)]
    try:
        async with boot.house(settings) as house:
            found.append(Finding("deployment", ok=True, text=house.vault.deployment_id))
            found.append(_mark(settings))
            found.append(await _check("database", house.vault.check_database(), "it answers"))
            found.append(await _check("schema", house.vault.check_schema(PARTS), "it is current"))
            found.append(await _check("root key", house.vault.check_root_key(), "it works"))
            alive = house.vault.check_refreshing()
            found.append(await _check("refreshing", alive, "nothing stands in its way"))
            found.append(await _record(house.vault))
            found += await _fallbacks(house.vault)
            found += await _trusting(house.vault, house.broker)
    except VaultError as error:
        found.append(Finding("start", ok=False, text=error.message))
    return found


def _settings(environ: Mapping[str, str]) -> Finding:
    names = sorted(name for name in environ if name.startswith(PREFIX))
    return Finding("settings", ok=True, text=", ".join(names) or "none; all defaults")


def _advice(settings: Settings) -> list[Finding]:
    database = "given by KEYTURN_DATABASE_URL" if settings.database_url else "embedded"
    default = boot.DEFAULT_DATA_DIR if settings.development else None
    spool = settings.spool_dir or settings.data_dir or default
    kept = (
        f"below {spool}; it has to outlive the process"
        if spool
        else (
            "none: set KEYTURN_SPOOL_DIR, or answers are lost with a process whose database is away"
        )
    )
    root_key = "made in the data folder" if settings.kek is None else _root_keys(settings.kek)
    operator = "set" if settings.operator_keys else "not set: operator routes answer 403"
    return [
        Finding("mode", ok=True, text=settings.mode),
        Finding("database address", ok=True, text=database),
        Finding("root key address", ok=True, text=root_key),
        Finding("operator key", ok=True, text=operator),
        Finding("spool", ok=True, text=kept, warning=spool is None),
    ]


def _mark(settings: Settings) -> Finding:
    folders = [one for one in (boot.key_dir(settings), boot.spool_dir(settings)) if one]
    kept = " and in ".join(str(one) for one in dict.fromkeys(folders))
    text = f"in {kept}" if kept else "nowhere: a database that was rolled back is not noticed"
    return Finding("high-water mark", ok=True, text=text, warning=not kept)


async def _record(vault: Vault) -> Finding:
    """Is the audit record sealed, and is its end written down where the database is not?"""
    try:
        waiting = await vault.check_chain()
    except VaultError as error:
        return Finding("audit record", ok=False, text=error.message)
    folders = " and in ".join(str(one) for one in vault.anchored_in)
    anchored = f"its end is written down in {folders}" if folders else "its end is in the log alone"
    late = waiting.seconds > LATE_SECONDS
    sealed = (
        f"lines that wait to be sealed: {waiting.lines}, for {waiting.seconds:.0f} seconds"
        if late
        else "it is sealed"
    )
    return Finding(
        "audit record", ok=True, text=f"{sealed}; {anchored}", warning=late or not folders
    )


def _root_keys(uris: Secret) -> str:
    try:
        wraps, *others = kinds_of(uris)
    except Misconfigured:
        return "cannot be read"  # opening it says why, and fails
    return f"{wraps}; {' and '.join(others)} still unwraps" if others else wraps


async def _fallbacks(vault: Vault) -> list[Finding]:
    """Where production's secrets would go to hosts of other environments."""
    operator = boot.terminal_operator()
    found = []
    for one in await vault.list_workspaces(operator, Page(MAX_WORKSPACES)):
        warnings = await vault.fallback_warnings(operator.within(one.workspace_id))
        if warnings:
            more = f" (and {len(warnings) - 1} more)" if len(warnings) > 1 else ""
            text = f"{one.workspace_id}: {warnings[0].text}{more}"
            found.append(Finding("fallback", ok=True, text=text, warning=True))
    return found


async def _trusting(vault: Vault, broker: Broker) -> list[Finding]:
    """Agents that hand out credentials for a number, which anybody can pretend to have."""
    operator = boot.terminal_operator()
    found = []
    for one in await vault.list_workspaces(operator, Page(MAX_WORKSPACES)):
        every = await broker.agents.list(operator.within(one.workspace_id), Page(MAX_AGENTS))
        names = [each.agent_id for each in every if each.profile.inbound_trust == "caller_id"]
        if names:
            more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
            text = (
                f"{one.workspace_id}: {names[0]}{more} gives a user's credentials to whoever calls"
                " with the user's number, and a number can be forged"
            )
            found.append(Finding("telephone", ok=True, text=text, warning=True))
    return found


async def _check(name: str, question: Awaitable[None], good: str) -> Finding:
    try:
        await question
    except VaultError as error:
        return Finding(name, ok=False, text=error.message)
    return Finding(name, ok=True, text=good)
