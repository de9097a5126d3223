"""Numbers for Prometheus: few labels, none of which names a workspace, a user or a path's ids."""

from bisect import bisect_left
from collections import Counter as Tally
from collections.abc import Iterator, Mapping
from itertools import accumulate
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from broker.events import Attempt
from vault import __version__
from vault.refreshing.observing import Observed
from vault.vault.counting import Counts

FREE_CODES: Final = 3000  # RFC 6455 section 7.4.2
CONTENT_TYPE: Final = "text/plain; version=0.0.4"  # Litestar adds the charset
SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class Metrics:
    """The registry of one application."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry(auto_describe=True)
        self.requests = Requests()
        self.registry.register(self.requests)
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
        self._checks = Gauge(
            "keyturn_ready_check_ok",
            "1 if what /readyz looks at was well when it last looked; 0 if not.",
            ("check",),
            registry=self.registry,
        )
        self.relays = Relays(self.registry)
        self._refreshes = _Refreshes(self.registry)
        self._deliveries = _Deliveries(self.registry)
        self._root_key = _RootKey(self.registry)
        self._ticks = Counter(
            "keyturn_ticks_total",
            "Turns of what is done in the background, by job and how they ended.",
            ("job", "outcome"),
            registry=self.registry,
        )
        self._deployment = _Deployment(self.registry)
        info = ("keyturn_build_info", "Always 1; the version.", ("version",))
        Gauge(*info, registry=self.registry).labels(__version__).set(1)

    def checked(self, found: Mapping[str, bool]) -> None:
        """Show what a look has found."""
        for name, ok in found.items():
            self._checks.labels(name).set(ok)

    def refreshed(self, seen: Observed) -> None:
        """Count a call of a token endpoint."""
        ended, seconds, lag = self._refreshes.of(seen.provider, seen.outcome)
        ended.inc()
        seconds.observe(seen.seconds)
        lag.observe(seen.late_by)

    def root_key_called(self, operation: str, outcome: str, seconds: float) -> None:
        """Count a call of the root key."""
        self._root_key.calls.labels(operation, outcome).inc()
        self._root_key.seconds.labels(operation).observe(seconds)

    def tick_ended(self, job: str, outcome: str) -> None:
        """Count a turn of what is done in the background."""
        self._ticks.labels(job, outcome).inc()

    def refreshing(self, under_way: int) -> None:
        """Show how many refreshes have not ended."""
        self._refreshes.under_way.set(under_way)

    def delivered(self, seen: Attempt) -> None:
        """Count an attempt to deliver an event."""
        self._deliveries.attempts.labels(seen.outcome).inc()
        self._deliveries.seconds.observe(seen.seconds)

    def counted(self, seen: Counts) -> None:
        """Show the deployment in the numbers that were just counted."""
        self._deployment.show(seen)

    def ticked(self, ages: Mapping[str, float]) -> None:
        """Show for how long what is done in the background has not been done."""
        for job, seconds in ages.items():
            self._deployment.tick_age.labels(job).set(seconds)

    def text(self) -> bytes:
        """Write all of it in Prometheus' format."""
        return generate_latest(self.registry)


class _Times:
    """How long some requests took: how many were within each bound and not within the one before,
    with those beyond all of them at the end.
    """

    __slots__ = ("numbers", "seconds")

    def __init__(self) -> None:
        self.numbers = [0] * (len(SECONDS) + 1)
        self.seconds = 0.0


class _Route:
    """How often a route has answered so, and how long it takes with whatever status."""

    __slots__ = ("number", "times")

    def __init__(self, times: _Times) -> None:
        self.number = 0
        self.times = times


class Requests(Collector):
    """What is counted of requests: by the one thread that answers them, so in plain numbers, and
    written as Prometheus wants it when it asks. The library's own counters take four times as long.
    """

    def __init__(self) -> None:
        self._routes: dict[tuple[str, str, int], _Route] = {}
        self._times: dict[tuple[str, str], _Times] = {}

    def ended(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count one; ``route`` is a template."""
        known = self._routes.get((route, method, status))
        if known is None:
            times = self._times.setdefault((route, method), _Times())
            known = self._routes[route, method, status] = _Route(times)
        known.number += 1
        times = known.times
        times.numbers[bisect_left(SECONDS, seconds)] += 1
        times.seconds += seconds

    def collect(self) -> Iterator[Metric]:
        numbers = CounterMetricFamily(
            "keyturn_http_requests",
            "Requests answered, by route template, method and status.",
            labels=("route", "method", "status"),
        )
        for (route, method, status), one in list(self._routes.items()):
            numbers.add_metric((route, method, str(status)), one.number)
        seconds = HistogramMetricFamily(
            "keyturn_http_request_duration_seconds",
            "Time from a request's arrival to the end of its answer.",
            labels=("route", "method"),
        )
        bounds = [*map(floatToGoString, SECONDS), "+Inf"]
        for labels, times in list(self._times.items()):
            within = list(zip(bounds, accumulate(times.numbers), strict=True))
            seconds.add_metric(labels, within, times.seconds)
        yield numbers
        yield seconds


class Relays:
    """What is counted of conversations that go through the relay."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.open = Gauge(
            "keyturn_relay_sockets_open",
            "Clients' sockets that are open in this process.",
            registry=registry,
        )
        self.opened = Counter(
            "keyturn_relay_conversations_total",
            "Conversations that a ticket admitted to.",
            registry=registry,
        )
        self._closed = Counter(
            "keyturn_relay_closed_total",
            "Sockets that have ended, by who ended them and the close code.",
            ("by", "code"),
            registry=registry,
        )
        self.started = Histogram(
            "keyturn_relay_start_duration_seconds",
            "Time from an admission to the first frame's departure to the upstream.",
            buckets=SECONDS,
            registry=registry,
        )
        carried = Counter(
            "keyturn_relay_bytes_total",
            "Payload carried, by direction; text counts by its characters.",
            ("direction",),
            registry=registry,
        )
        self.up, self.down = carried.labels("up"), carried.labels("down")

    def closed(self, by: str, code: int) -> None:
        """Count an end. Anybody may choose a code from 3000 on; those are one label."""
        self._closed.labels(by, str(code) if code < FREE_CODES else "private").inc()


class _RootKey:
    """What is counted of the root key, which may be at a service."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.calls = Counter(
            "keyturn_root_key_calls_total",
            "Calls of the root key that have ended, by operation and outcome.",
            ("operation", "outcome"),
            registry=registry,
        )
        self.seconds = Histogram(
            "keyturn_root_key_duration_seconds",
            "Time that a call of the root key took.",
            ("operation",),
            buckets=SECONDS,
            registry=registry,
        )


class _Refreshes:
    """What is counted of refreshes."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.ended = Counter(
            "keyturn_refreshes_total",
            "Calls of token endpoints that have ended, by provider and outcome.",
            ("provider", "outcome"),
            registry=registry,
        )
        self.seconds = Histogram(
            "keyturn_refresh_duration_seconds",
            "Time that a token endpoint took.",
            ("provider",),
            buckets=(*SECONDS, 30, 75),
            registry=registry,
        )
        self.lag = Histogram(
            "keyturn_refresh_lag_seconds",
            "How long after its due time a refresh began.",
            ("provider",),
            buckets=(0.5, 1, 2, 5, 10, 30, 60, 300, 1800),
            registry=registry,
        )
        self.under_way = Gauge(
            "keyturn_refreshes_under_way",
            "Refreshes of this process that have not ended.",
            registry=registry,
        )
        self._known: dict[tuple[str, str], tuple[Counter, Histogram, Histogram]] = {}

    def of(self, provider: str, outcome: str) -> tuple[Counter, Histogram, Histogram]:
        """What counts these calls. Kept: to find one by its labels costs more than to count."""
        known = self._known.get((provider, outcome))
        if known is None:
            known = self._known[provider, outcome] = (
                self.ended.labels(provider, outcome),
                self.seconds.labels(provider),
                self.lag.labels(provider),
            )
        return known


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


class _Deployment:
    """What is counted now and then: the same at every replica, but for its spool and its ticks."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(name, text, labels, registry=registry)

        self.connections = gauge(
            "keyturn_connections", "Connections, by provider and state.", "provider", "state"
        )
        self.endpoints = gauge(
            "keyturn_token_endpoints",
            "Token endpoints as app registrations reach them, by provider and standing.",
            "provider",
            "standing",
        )
        self.broken = gauge(
            "keyturn_token_endpoints_broken",
            "Token endpoints whose circuit is open, by provider.",
            "provider",
        )
        self.oldest_due = gauge(
            "keyturn_refresh_oldest_due_seconds",
            "For how long what is due has waited, at the most.",
        )
        self.spooled = gauge(
            "keyturn_spool_answers", "Answers that wait in this replica's spool for the database."
        )
        self.spool_writable = gauge(
            "keyturn_spool_writable", "1: this replica's spool can be written. 0: it cannot."
        )
        self.unsealed = gauge(
            "keyturn_audit_unsealed_lines", "Lines of the audit record that are in no batch yet."
        )
        self.unsealed_for = gauge(
            "keyturn_audit_unsealed_seconds",
            "For how long the oldest of them has been there; some seconds are usual.",
        )
        self.anchored = gauge(
            "keyturn_audit_anchored",
            "1: this replica has written the audit chain's end down outside. 0: it has not.",
        )
        self.tick_age = gauge(
            "keyturn_tick_age_seconds", "Time since a background job of this replica ended.", "job"
        )

    def show(self, seen: Counts) -> None:
        """Replace all of it: what there is none of any more is not shown as it was."""
        for gauge in (self.connections, self.endpoints, self.broken):
            gauge.clear()
        for one in seen.connections:
            self.connections.labels(one.provider, one.state).set(one.number)
        standing: Tally[tuple[str, str]] = Tally()
        for each in seen.endpoints:
            standing[each.provider, each.standing] += each.number
            self.broken.labels(each.provider).inc(each.number if each.broken else 0)
        for (provider, how), number in standing.items():
            self.endpoints.labels(provider, how).set(number)
        self.oldest_due.set(seen.oldest_due)
        self.spooled.set(seen.spooled)
        # Where there is none, it can be written no more than a full one.
        self.spool_writable.set(bool(seen.spool_writable))
        self.unsealed.set(seen.chain.waiting.lines)
        self.unsealed_for.set(seen.chain.waiting.seconds)
        self.anchored.set(bool(seen.chain.anchored))
