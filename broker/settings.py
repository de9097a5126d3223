"""What the service needs to know beside the vault's settings."""

from collections.abc import Mapping
from ipaddress import ip_address, ip_network
from typing import Annotated, Final
from urllib.parse import urlsplit

from msgspec import Meta

from vault import bearer
from vault.egress import Endpoint, parse_allow
from vault.errors import Invalid, Misconfigured
from vault.secret import Secret
from vault.settings import VaultSettings, parse, refuse

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


def load(environ: Mapping[str, str], *, opens_vault: bool = True) -> Settings:
    """Read and check the settings of this process. Who only migrates needs no root key."""
    settings, problems = parse(Settings, environ)
    unread = {_name_of(one) for one in problems}
    if "KEYTURN_MODE" not in unread:  # what is asked of the others depends on it
        more = _problems(settings, environ, opens_vault=opens_vault)
        problems += [one for one in more if _name_of(one) not in unread]
    refuse(problems)
    return settings


def _name_of(problem: str) -> str:
    return problem.partition(":")[0].partition(",")[0]


def _problems(settings: Settings, environ: Mapping[str, str], *, opens_vault: bool) -> list[str]:
    """What each field alone cannot tell."""
    problems = _bearer_problems(settings)
    if not settings.development:
        if environ.get("KEYTURN_BOOTSTRAP_API_KEY"):
            # An environment is inherited, listed and dumped; a file is not.
            problems.append(
                "KEYTURN_BOOTSTRAP_API_KEY: in production give KEYTURN_BOOTSTRAP_API_KEY_FILE,"
                " not the key itself"
            )
        if opens_vault:
            problems += _production_problems(settings)
    if settings.public_url and not _is_origin(settings.public_url):
        problems.append(
            "KEYTURN_PUBLIC_URL: give scheme and host only, as in https://vault.acme.com"
        )
    if 0 < settings.audit_days < LEAST_AUDIT_DAYS:
        problems.append(f"KEYTURN_AUDIT_DAYS: {LEAST_AUDIT_DAYS} at the least, or 0 for ever")
    return problems + _proxy_problems(settings.trusted_proxies) + _egress_problems(settings)


def _proxy_problems(text: str) -> list[str]:
    """The server would take what is neither for a name, and believe nobody."""
    if text == "*":
        return []
    return [
        f"KEYTURN_TRUSTED_PROXIES, entry {number}: expected an address, a network without host"
        " bits, or * alone"
        for number, entry in enumerate(text.split(","), start=1)
        if not _is_address_or_network(entry.strip())
    ]


def _is_address_or_network(text: str) -> bool:
    try:
        ip_network(text) if "/" in text else ip_address(text)
    except ValueError:
        return False
    return True


def _egress_problems(settings: Settings) -> list[str]:
    try:
        parse_allow(settings.egress_allow, development=settings.development)
    except Misconfigured as problem:
        return [problem.message]
    return []


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
    try:
        parts = urlsplit(url)
        named = bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number, a bracket that does not close
        return False
    bare = not (parts.path.strip("/") or parts.query or parts.fragment or parts.username)
    return parts.scheme in ("http", "https") and named and bare


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
