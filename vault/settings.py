"""Settings come from the environment, once, all problems at a time.

* Every name begins with ``KEYTURN_``; a name that nobody knows refuses the start, since a
  misspelt setting that is silently ignored is how people run without what they asked for.
* A secret may come as ``KEYTURN_X`` or, better, as ``KEYTURN_X_FILE``, never as both.
* No key has a default.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar, get_type_hints

import msgspec
from msgspec import Meta

from vault.errors import Misconfigured
from vault.secret import Secret

PREFIX: Final = "KEYTURN_"
MAX_SECRET_FILE: Final = 64 * 1024

Mode = Literal["production", "development"]
LogLevel = Literal["debug", "info", "warning", "error"]
S = TypeVar("S", bound=msgspec.Struct)


class VaultSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What the vault needs to know. docs/reference/settings.md explains each."""

    mode: Mode = "production"
    database_url: Secret | None = None
    owner_database_url: Secret | None = None
    worker_database_url: Secret | None = None
    data_dir: Path | None = None
    spool_dir: Path | None = None
    kek: Secret | None = None
    transit_token: Secret | None = None
    transit_secret_id: Secret | None = None
    pkcs11_pin: Secret | None = None
    deployment_id: Annotated[str, Meta(pattern=r"^[A-Za-z0-9._-]{1,64}(?!\n)$")] | None = None
    egress_allow: str = ""
    egress_ca_file: Path | None = None
    providers_dir: Path | None = None
    statement_cache: Annotated[int, Meta(ge=0, le=10_000)] = 200
    database_pool: Annotated[int, Meta(ge=1, le=200)] = 10
    pg_bindir: Path | None = None
    audit_days: Annotated[int, Meta(ge=0, le=36_500)] = 400
    log_level: LogLevel = "info"

    @property
    def development(self) -> bool:
        return self.mode == "development"


def read(kind: type[S], environ: Mapping[str, str]) -> S:
    """Read one settings struct, or refuse with all that is wrong with it."""
    settings, problems = parse(kind, environ)
    refuse(problems)
    return settings


def parse(kind: type[S], environ: Mapping[str, str]) -> tuple[S, list[str]]:
    """What can be used of the environment, the rest as if it were not set; and what is wrong, each
    beginning with its variable's name and a colon.
    """
    problems = _unknown_names(environ, kind)
    values: dict[str, Any] = {}
    for name, hint in get_type_hints(kind, include_extras=True).items():
        try:
            text = _text(environ, name, secret=is_secret(hint))
            if text is not None:
                values[name] = Secret(text) if is_secret(hint) else _convert(text, hint)
        except (Misconfigured, ValueError) as problem:
            problems.append(f"{PREFIX}{name.upper()}: {problem}")
    return kind(**values), problems


def refuse(problems: Sequence[str]) -> None:
    """Say all problems at once, if there are any."""
    if problems:
        raise Misconfigured("These settings cannot be used:\n  " + "\n  ".join(problems))


def names(kind: type[msgspec.Struct]) -> list[str]:
    """Every environment variable that a settings struct reads."""
    found = []
    for name, hint in get_type_hints(kind, include_extras=True).items():
        found.append(f"{PREFIX}{name.upper()}")
        if is_secret(hint):
            found.append(f"{PREFIX}{name.upper()}_FILE")
    return found


def is_secret(hint: Any) -> bool:
    """Is this field's value a secret, so that it may come from a file and is never shown?"""
    return hint is Secret or Secret in getattr(hint, "__args__", ())


def _unknown_names(environ: Mapping[str, str], kind: type[msgspec.Struct]) -> list[str]:
    valid = names(kind)
    return [
        f"{name}: there is no such setting (docs/reference/settings.md lists them)"
        for name in sorted(environ)
        if name.startswith(PREFIX) and name not in valid
    ]


def _text(environ: Mapping[str, str], name: str, *, secret: bool) -> str | None:
    variable = f"{PREFIX}{name.upper()}"
    text = environ.get(variable)
    file = environ.get(f"{variable}_FILE") if secret else None
    if text and file:
        raise Misconfigured(f"set it or {variable}_FILE, not both")
    if file:
        return _read_file(Path(file))
    return text or None  # a variable set to nothing is one that is not set, as in compose files


def _read_file(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_SECRET_FILE + 1)
    except OSError as error:
        raise Misconfigured(f"its file cannot be read: {error.strerror}") from None
    if len(content) > MAX_SECRET_FILE:
        raise Misconfigured(f"its file is larger than {MAX_SECRET_FILE} bytes")
    try:
        text = content.decode().strip()
    except UnicodeDecodeError:
        raise Misconfigured("its file is not text") from None
    if not text:
        raise Misconfigured("its file is empty")
    return text


def _convert(text: str, hint: Any) -> Any:
    if hint is Path or Path in getattr(hint, "__args__", ()):
        return Path(text)
    try:
        return msgspec.convert(text, hint, strict=False)
    except msgspec.ValidationError as error:
        # The parser quotes an invalid enum value; nothing else of what was set is repeated.
        reason = str(error).split(" - at ", 1)[0]
        if reason.startswith("Invalid enum value"):
            reason = "not one of the accepted values"
        raise Misconfigured(reason[0].lower() + reason[1:]) from None
