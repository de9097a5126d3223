"""What is configured, and what is wrong with it, in one sentence each; no secret is shown."""

from collections.abc import Awaitable, Mapping

from msgspec import Struct

from broker import boot, logs
from broker.settings import Settings, load
from vault.errors import Misconfigured, VaultError
from vault.kms import kinds_of
from vault.secret import Secret
from vault.settings import PREFIX


class Finding(Struct, frozen=True):
    """One thing that was looked at."""

    name: str
    ok: bool
    text: str


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
            found.append(await _check("database", house.vault.check_database(), "it answers"))
            found.append(await _check("schema", house.vault.check_schema(), "it is current"))
            found.append(await _check("root key", house.vault.check_root_key(), "it works"))
    except VaultError as error:
        found.append(Finding("start", ok=False, text=error.message))
    return found


def _settings(environ: Mapping[str, str]) -> Finding:
    names = sorted(name for name in environ if name.startswith(PREFIX))
    return Finding("settings", ok=True, text=", ".join(names) or "none; all defaults")


def _advice(settings: Settings) -> list[Finding]:
    database = "given by KEYTURN_DATABASE_URL" if settings.database_url else "embedded"
    root_key = "made in the data folder" if settings.kek is None else _root_keys(settings.kek)
    operator = "set" if settings.operator_keys else "not set: operator routes answer 403"
    return [
        Finding("mode", ok=True, text=settings.mode),
        Finding("database address", ok=True, text=database),
        Finding("root key address", ok=True, text=root_key),
        Finding("operator key", ok=True, text=operator),
    ]


def _root_keys(uris: Secret) -> str:
    try:
        wraps, *others = kinds_of(uris)
    except Misconfigured:
        return "cannot be read"  # opening it says why, and fails
    return f"{wraps}; {' and '.join(others)} still unwraps" if others else wraps


async def _check(name: str, question: Awaitable[None], good: str) -> Finding:
    try:
        await question
    except VaultError as error:
        return Finding(name, ok=False, text=error.message)
    return Finding(name, ok=True, text=good)
