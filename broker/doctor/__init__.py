"""What is configured, and what is wrong with it, in one sentence each; no secret is shown.

* What would make ``/readyz`` red is asked of the same lights, and said in the same words.
* A replica that runs here is asked, too: what only a process knows of itself is repeated.
"""

import asyncio
from collections.abc import Mapping
from typing import Final

import msgspec
from msgspec import Struct

from broker import boot, logs
from broker.api import lights
from broker.doctor import advice
from broker.doctor.advice import Finding
from broker.settings import Settings, load
from vault.errors import Misconfigured, VaultError
from vault.kms import kinds_of
from vault.secret import Secret
from vault.settings import PREFIX
from vault.shredding.ledger import LedgerFile
from vault.vault import Vault

LATE_SECONDS: Final = 60.0
REPLICA_SECONDS: Final = 5.0
MAX_ANSWER: Final = 64 * 1024
GOOD: Final = {
    "database": "it answers",
    "connections": "one is free",
    "roles": "the logins may do what they have to, and no more",
    "schema": "it is current",
    "root_key": "it works",
    "refreshing": "nothing stands in its way",
}
_EVERYWHERE: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - is replaced, not bound


class _Check(Struct, frozen=True):
    name: str
    ok: bool
    reason: str | None


class _Said(Struct, frozen=True):
    checks: list[_Check]


async def examine(environ: Mapping[str, str]) -> list[Finding]:
    """Look at everything that the service needs."""
    try:
        settings = load(environ)
    except Misconfigured as error:
        return [Finding("settings", ok=False, text=error.message)]
    logs.configure("error")
    found = [_settings(environ), *_configured(settings), *advice.of_settings(settings)]
    try:
        async with boot.house(settings) as house:
            found.append(Finding("deployment", ok=True, text=house.vault.deployment_id))
            found.append(_mark(settings))
            found.append(_deletions(settings, house.vault.deployment_id))
            seen = await lights.of_vault(house.vault)
            found += [_finding(one) for one in seen]
            if all(one.ok for one in seen):
                found.append(await _record(house.vault))
                found += await advice.of_deployment(house.vault, house.broker)
    except VaultError as error:
        found.append(Finding("start", ok=False, text=error.message))
    return found + await _replica(settings, {one.text for one in found if not one.ok})


def _finding(light: lights.Light) -> Finding:
    name = light.name.replace("_", " ")
    return Finding(name, ok=light.ok, text=light.reason or GOOD[light.name])


def _settings(environ: Mapping[str, str]) -> Finding:
    names = sorted(name for name in environ if name.startswith(PREFIX))
    return Finding("settings", ok=True, text=", ".join(names) or "none; all defaults")


def _configured(settings: Settings) -> list[Finding]:
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
    operator = "set" if settings.operator_keys else "not set: operator routes answer 403"
    found = [
        Finding("mode", ok=True, text=settings.mode),
        Finding("database address", ok=True, text=database),
        Finding("operator key", ok=True, text=operator),
        Finding("spool", ok=True, text=kept, warning=spool is None),
    ]
    if settings.kek is not None:
        found.append(Finding("root key address", ok=True, text=_root_keys(settings.kek)))
    return found


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


def _deletions(settings: Settings, deployment: str) -> Finding:
    """Without a list outside of the database, a backup that is restored has the deleted again."""
    folders = [one for one in (boot.key_dir(settings), boot.spool_dir(settings)) if one]
    files = [str(LedgerFile(one, deployment).path) for one in dict.fromkeys(folders)]
    kept = " and ".join(files)
    text = f"listed in {kept}" if kept else "listed in the database alone, which a restore replaces"
    return Finding("deletions", ok=True, text=text, warning=not kept)


def _root_keys(uris: Secret) -> str:
    try:
        wraps, *others = kinds_of(uris)
    except Misconfigured:
        return "cannot be read"  # opening it says why, and fails
    return f"{wraps}; {' and '.join(others)} still unwraps" if others else wraps


async def _replica(settings: Settings, known: set[str]) -> list[Finding]:
    """Ask the replica at our own address, if one is there, what it has not been said of already."""
    where = f"{settings.host}:{settings.port}"
    try:
        async with asyncio.timeout(REPLICA_SECONDS):
            answer = await _ask(_EVERYWHERE.get(settings.host, settings.host), settings.port)
    except OSError:
        return [Finding("replica", ok=True, text=f"none answers at {where}")]
    try:
        said = msgspec.json.decode(answer.partition(b"\r\n\r\n")[2], type=_Said)
    except msgspec.DecodeError:
        text = f"what answers at {where} is no replica of this version"
        return [Finding("replica", ok=True, text=text, warning=True)]
    reasons = [one.reason or "" for one in said.checks if not one.ok]
    if not reasons:
        return [Finding("replica", ok=True, text=f"the one at {where} is ready")]
    return [Finding("replica", ok=False, text=one) for one in reasons if one not in known]


async def _ask(host: str, port: int) -> bytes:
    # Not by egress, which never reaches our own address, and must not.
    reader, writer = await asyncio.open_connection(host, port, limit=MAX_ANSWER)
    try:
        writer.write(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        await writer.drain()
        answer = b""
        while len(answer) < MAX_ANSWER and (more := await reader.read(MAX_ANSWER)):
            answer += more
        return answer
    finally:
        writer.close()
