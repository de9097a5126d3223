"""OpenTelemetry: an extra, loaded only where a collector is named. The only user of its libraries.

* It is configured as everywhere, by ``OTEL_*`` variables, and is off without
  ``OTEL_EXPORTER_OTLP_ENDPOINT`` or ``OTEL_EXPORTER_OTLP_TRACES_ENDPOINT``.
* A span is a request (by its route's template), a statement (by its name), a call that leaves (by
  purpose and provider) or a refresh. What is written down of it is a closed list, ``ATTRIBUTES``:
  no path, query, header, value, address of a peer, or text of an error.
* A caller's ``traceparent`` becomes a link and never the parent: who holds some workspace's key
  must not decide what this deployment samples, nor write into a trace of somebody else. It goes
  no further; no call that leaves has one.
* Spans leave in the background, and are dropped rather than waited for. The collector is the
  operator's own, as a root key's service is, and no workspace's URL reaches it.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from litestar.enums import ScopeType
from litestar.types import ASGIApp, Message, Receive, Scope, Send

from broker.api.gate import method_of, route_of
from broker.settings import traces_go_to
from vault import __version__
from vault.errors import Misconfigured, VaultError
from vault.sql import every_query
from vault.tracing import Noted

ATTRIBUTES: Final = {
    "http.request.method": "of a request or a call, one of the usual ones",
    "http.route": "of a request: the route's template",
    "http.response.status_code": "of a request or a call",
    "keyturn.request_id": "of a request: the id that logs and the audit record have, too",
    "keyturn.workspace": "of a request with a key: whose key that is",
    "keyturn.purpose": "of a call that leaves: `provider`, `upstream`, `tool` or `event`",
    "keyturn.provider": "of a call or a refresh: the provider's name in the catalogue",
    "keyturn.outcome": "of a refresh: how it ended; of a call: how it failed, in a word of ours",
    "db.system.name": "of a statement: `postgresql`",
    "db.query.summary": "of a statement: its name, as in `vault.users.get`",
    "db.response.status_code": "of a statement that failed: its SQLSTATE",
}
FLUSH_MS: Final = 5_000


@contextmanager
def tracing(environ: Mapping[str, str]) -> Iterator["Traces | None"]:
    """Trace for as long as this is open, if the environment asks for it."""
    if traces_go_to(environ) is None:
        yield None
        return
    try:
        provider = _provider(environ)
    except ImportError:
        raise Misconfigured(
            "OTEL_EXPORTER_OTLP_ENDPOINT is set, and the extra 'otel' is not installed."
        ) from None
    try:
        yield Traces(provider.get_tracer("keyturn", __version__))
    finally:
        provider.force_flush(FLUSH_MS)
        provider.shutdown()


def _provider(environ: Mapping[str, str]) -> Any:  # noqa: ANN401 - an extra, without types here
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    named = "OTEL_SERVICE_NAME" in environ or "service.name=" in environ.get(
        "OTEL_RESOURCE_ATTRIBUTES", ""
    )
    known = {"service.version": __version__} | ({} if named else {"service.name": "keyturn"})
    provider = TracerProvider(resource=Resource.create(known), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider


class Traces:
    """Writes spans down."""

    def __init__(self, tracer: Any) -> None:  # noqa: ANN401 - as above
        from opentelemetry import trace
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._tracer = tracer
        self._trace = trace
        self._extract: Callable[[dict[str, str]], Any] = TraceContextTextMapPropagator().extract
        self._names: dict[str, str] = {}

    @contextmanager
    def span(self, name: str, **known: str) -> Iterator[Noted]:
        """A step within what is open. An error's class is its outcome, and never its text."""
        attributes = {f"keyturn.{word}": value for word, value in known.items() if value}
        with self._open(name, attributes, self._trace.SpanKind.CLIENT) as noted:
            try:
                yield noted
            except VaultError as error:
                noted.note("outcome", error.code)
                raise
            except BaseException as error:
                noted.note("outcome", type(error).__name__)
                raise

    def statement(self, sql: str, seconds: float, sqlstate: str | None) -> None:
        """A statement has ended, somewhere within what is open; by itself it is no trace."""
        if not self._trace.get_current_span().get_span_context().is_valid:
            return
        ended = time.time_ns()
        name = self._named(sql)
        attributes = {"db.system.name": "postgresql", "db.query.summary": name}
        span = self._tracer.start_span(
            name,
            kind=self._trace.SpanKind.CLIENT,
            attributes=attributes,
            start_time=ended - int(seconds * 1e9),
        )
        if sqlstate is not None:
            span.set_attribute("db.response.status_code", sqlstate)
            span.set_status(self._trace.StatusCode.ERROR)
        span.end(ended)

    def before(self, app: ASGIApp) -> ASGIApp:
        """Return the application with a span around each request."""

        async def traced(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == ScopeType.HTTP:
                await self._request(app, scope, receive, send)
            else:
                await app(scope, receive, send)

        return traced

    async def _request(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        status = 500

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        method = method_of(scope)
        kind, links = self._trace.SpanKind.SERVER, self._links(scope)
        with self._open(method, {"http.request.method": method}, kind, links) as noted:
            try:
                await app(scope, receive, noting)
            finally:
                noted.request(scope, status)

    def _links(self, scope: Scope) -> list[Any]:
        said = {
            name.decode("latin-1"): value.decode("latin-1")
            for name, value in scope["headers"]
            if name == b"traceparent"
        }
        if not said:
            return []
        context = self._trace.get_current_span(self._extract(said)).get_span_context()
        return [self._trace.Link(context)] if context.is_valid else []

    @contextmanager
    def _open(
        self,
        name: str,
        attributes: dict[str, str],
        kind: Any,  # noqa: ANN401 - as above
        links: list[Any] | None = None,
    ) -> Iterator["_Span"]:
        span = self._tracer.start_span(name, kind=kind, attributes=attributes, links=links)
        with self._trace.use_span(
            span, end_on_exit=True, record_exception=False, set_status_on_exception=False
        ):
            yield _Span(span, self._trace.StatusCode.ERROR)

    def _named(self, sql: str) -> str:
        if sql not in self._names:
            known = {one.sql: name for name, one in every_query().items()}
            # What has no name is the frame of a transaction, and holds a workspace's id.
            self._names = known | {one: one for one in ("commit", "rollback")}
        if sql in self._names:
            return self._names[sql]
        return "begin" if sql.startswith("begin") else "other"


class _Span:
    """An open span; takes only what is on the list."""

    def __init__(self, span: Any, failed: Any) -> None:  # noqa: ANN401 - as above
        self._span = span
        self._failed = failed

    def note(self, name: str, value: str | int) -> None:
        whole = "http.response.status_code" if name == "status" else f"keyturn.{name}"
        self._span.set_attribute(whole, value)
        if name == "outcome" and value != "refreshed":
            self._span.set_status(self._failed)

    def request(self, scope: Scope, status: int) -> None:
        """Say what became of a request."""
        route, state = route_of(scope), scope.get("state", {})
        self._span.update_name(f"{method_of(scope)} {route}")
        self._span.set_attribute("http.route", route)
        self._span.set_attribute("http.response.status_code", status)
        if request_id := state.get("request_id"):
            self._span.set_attribute("keyturn.request_id", request_id)
        if (caller := state.get("caller")) is not None and caller.workspace:
            self._span.set_attribute("keyturn.workspace", caller.workspace)
        if status >= 500:  # noqa: PLR2004 - as HTTP has it
            self._span.set_status(self._failed)
