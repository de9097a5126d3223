"""Numbers for Prometheus: few labels, none of which names a workspace, a user or a path's ids."""

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from broker.events import Attempt
from vault import __version__
from vault.refreshing.observing import Observed

CONTENT_TYPE: Final = "text/plain; version=0.0.4"  # Litestar adds the charset
SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class Metrics:
    """The registry of one application."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry(auto_describe=True)
        self.requests = Counter(
            "keyturn_http_requests_total",
            "Requests answered, by route template, method and status.",
            ("route", "method", "status"),
            registry=self.registry,
        )
        self.seconds = Histogram(
            "keyturn_http_request_duration_seconds",
            "Time from a request's arrival to the end of its answer.",
            ("route", "method"),
            buckets=SECONDS,
            registry=self.registry,
        )
        self.in_flight = Gauge(
            "keyturn_http_requests_in_flight",
            "Requests that are being answered now.",
            registry=self.registry,
        )
        self.problems = Counter(
            "keyturn_http_problems_total",
            "Errors answered, by code.",
            ("code",),
            registry=self.registry,
        )
        self.connections = Gauge(
            "keyturn_db_pool_connections",
            "Database connections of this process, by state.",
            ("state",),
            registry=self.registry,
        )
        self.refreshes = Counter(
            "keyturn_refreshes_total",
            "Calls of token endpoints that have ended, by provider and outcome.",
            ("provider", "outcome"),
            registry=self.registry,
        )
        self.refresh_seconds = Histogram(
            "keyturn_refresh_duration_seconds",
            "Time that a token endpoint took.",
            ("provider",),
            buckets=SECONDS,
            registry=self.registry,
        )
        self.refresh_lag = Histogram(
            "keyturn_refresh_lag_seconds",
            "How long after its due time a refresh began.",
            buckets=(0.5, 1, 2, 5, 10, 30, 60, 300, 1800),
            registry=self.registry,
        )
        self.refreshes_under_way = Gauge(
            "keyturn_refreshes_under_way",
            "Refreshes of this process that have not ended.",
            registry=self.registry,
        )
        self._deliveries = _Deliveries(self.registry)
        info = ("keyturn_build_info", "Always 1; the version.", ("version",))
        Gauge(*info, registry=self.registry).labels(__version__).set(1)

    def refreshed(self, seen: Observed) -> None:
        """Count a call of a token endpoint."""
        self.refreshes.labels(seen.provider, seen.outcome).inc()
        self.refresh_seconds.labels(seen.provider).observe(seen.seconds)
        self.refresh_lag.observe(seen.late_by)

    def delivered(self, seen: Attempt) -> None:
        """Count an attempt to deliver an event."""
        self._deliveries.attempts.labels(seen.outcome).inc()
        self._deliveries.seconds.observe(seen.seconds)

    def text(self) -> bytes:
        """Write all of it in Prometheus' format."""
        return generate_latest(self.registry)


class _Deliveries:
    """What is counted of events on their way."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.attempts = Counter(
            "keyturn_event_attempts_total",
            "Attempts to deliver an event that have ended, by outcome.",
            ("outcome",),
            registry=registry,
        )
        self.seconds = Histogram(
            "keyturn_event_attempt_duration_seconds",
            "Time that an attempt to deliver an event took.",
            buckets=SECONDS,
            registry=registry,
        )
