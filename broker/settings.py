"""What the service needs to know beside the vault's settings."""

from collections.abc import Mapping
from typing import Annotated, Final
from urllib.parse import urlsplit

from msgspec import Meta

from vault import bearer
from vault.egress import Endpoint
from vault.errors import Invalid, Misconfigured
from vault.secret import Secret
from vault.settings import VaultSettings, read

MAX_OPERATOR_KEYS: Final = 2
TRACES_TO: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
LEAST_AUDIT_DAYS: Final = 30  # the database lets nobody of ours delete younger lines
_PORTS: Final = {"http": 80, "https": 443}


class Settings(VaultSettings, frozen=True, kw_only=True):
    """Everything that the environment says. docs/reference/settings.md explains each."""

    host: str = "127.0.0.1"
    port: Annotated[int, Meta(ge=1, le=65535)] = 8420
    public_url: str | None = None
    operator_key: Secret | None = None
    bootstrap_api_key: Secret | None = None
    trusted_proxies: str = "127.0.0.1"
    drain_seconds: Annotated[float, Meta(ge=0, le=300)] | None = None
    mint_batch: Annotated[int, Meta(ge=1, le=1_000)] = 128
    relay_drain: Annotated[float, Meta(ge=0, le=8 * 3600)] | None = None
    relay_sockets: Annotated[int, Meta(ge=1, le=100_000)] = 1_000
    relay_workspace_sockets: Annotated[int, Meta(ge=1, le=100_000)] = 250

    @property
    def origin(self) -> str:
        """The address that people and providers reach us at."""
        return self.public_url or f"http://{self.host}:{self.port}"

    @property
    def operator_keys(self) -> tuple[Secret, ...]:
        """One key, or two while it is being rotated."""
        if self.operator_key is None:
            return ()
        return tuple(Secret(part.strip()) for part in self.operator_key.reveal().split(","))

    @property
    def seconds_to_drain(self) -> float:
        """How long after SIGTERM new requests are still taken, while load balancers look away."""
        if self.drain_seconds is not None:
            return self.drain_seconds
        return 0.5 if self.development else 5.0

    @property
    def seconds_for_conversations(self) -> float:
        """How long after SIGTERM conversations in the relay may go on."""
        if self.relay_drain is not None:
            return self.relay_drain
        return 1.0 if self.development else 20.0


def check(settings: Settings, *, opens_vault: bool) -> None:
    """Refuse what each field alone cannot refuse."""
    problems = _bearer_problems(settings)
    if opens_vault and not settings.development:
        problems += _production_problems(settings)
    if settings.public_url and not _is_origin(settings.public_url):
        problems.append(
            "KEYTURN_PUBLIC_URL: give scheme and host only, as in https://vault.acme.com"
        )
    if 0 < settings.audit_days < LEAST_AUDIT_DAYS:
        problems.append(f"KEYTURN_AUDIT_DAYS: {LEAST_AUDIT_DAYS} at the least, or 0 for ever")
    if problems:
        raise Misconfigured("These settings cannot be used:\n  " + "\n  ".join(problems))


def _bearer_problems(settings: Settings) -> list[str]:
    problems = []
    if len(settings.operator_keys) > MAX_OPERATOR_KEYS:
        problems.append("KEYTURN_OPERATOR_KEY: at most two keys, and only while rotating")
    for key in settings.operator_keys:
        problems += _not_a("operator", key, "KEYTURN_OPERATOR_KEY")
    if settings.bootstrap_api_key:
        problems += _not_a("api_key", settings.bootstrap_api_key, "KEYTURN_BOOTSTRAP_API_KEY")
    return problems


def _not_a(kind: bearer.Kind, key: Secret, name: str) -> list[str]:
    try:
        found = bearer.parse(key)
    except Invalid as reason:
        option = " --operator" if kind == "operator" else ""
        return [f"{name}: {reason.message} 'keyturn key generate{option}' makes one"]
    if found != kind:
        return [
            f"{name}: that is a key of another kind; this one begins with {bearer.PREFIXES[kind]}"
        ]
    return []


def _production_problems(settings: Settings) -> list[str]:
    problems = []
    if settings.kek is None:
        problems.append(
            "KEYTURN_KEK: production needs a root key, as in file:///run/secrets/root.key"
        )
    if settings.database_url is None and settings.data_dir is None:
        problems.append(
            "KEYTURN_DATABASE_URL: production needs a database (or KEYTURN_DATA_DIR for the "
            "embedded one)"
        )
    if settings.public_url and not settings.public_url.startswith("https://"):
        problems.append("KEYTURN_PUBLIC_URL: production is reached by https")
    return problems


def _is_origin(url: str) -> bool:
    parts = urlsplit(url)
    bare = not (parts.path.strip("/") or parts.query or parts.fragment or parts.username)
    return parts.scheme in ("http", "https") and bool(parts.hostname) and bare


def load(environ: Mapping[str, str], *, opens_vault: bool = True) -> Settings:
    """Read and check the settings of this process. Who only migrates needs no root key."""
    settings = read(Settings, environ)
    if not settings.development and environ.get("KEYTURN_BOOTSTRAP_API_KEY"):
        # An environment is inherited, listed and dumped; a file is not.
        raise Misconfigured(
            "In production give KEYTURN_BOOTSTRAP_API_KEY_FILE, not the key itself."
        )
    check(settings, opens_vault=opens_vault)
    return settings


def traces_go_to(environ: Mapping[str, str]) -> str | None:
    """Where spans are to go, by the variables that OpenTelemetry has everywhere; ``None``: nobody
    traces.
    """
    if environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return None
    if environ.get("OTEL_TRACES_EXPORTER", "otlp") != "otlp":
        return None
    return next((environ[name] for name in TRACES_TO if environ.get(name)), None)


def collector(environ: Mapping[str, str]) -> list[Endpoint]:
    """The collector's place, which no URL of a workspace may lead to."""
    found = urlsplit(traces_go_to(environ) or "")
    if not found.hostname:
        return []
    return [Endpoint(found.hostname, found.port or _PORTS.get(found.scheme, 443))]
