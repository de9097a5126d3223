"""Traces: what a collector gets to see of requests, statements, calls and refreshes; and no more.

A real replica, a provider of the sandbox, and a collector that takes OTLP over HTTP.
"""

import re
import secrets
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from flows.test_refreshing_processes import GRACE, House
from msgspec import Struct
from support.api import Reply
from support.collector import Collector, Span, collecting
from support.process import CHECKOUT, deployment, environment
from support.provider_file import graceful, write_providers
from support.sandbox import Provider, providing
from support.wire import wired

from broker.api import tracing
from broker.api.tracing import ATTRIBUTES
from broker.settings import collector, traces_go_to
from vault.egress import Endpoint
from vault.errors import Misconfigured

pytest.importorskip("opentelemetry.sdk", reason="the extra 'otel' is not installed")

CALLERS_TRACE = secrets.token_hex(16)
TRACEPARENT = f"00-{CALLERS_TRACE}-{secrets.token_hex(8)}-01"
SLOW = 60
# Longer than what the letters of a random id spell by chance.
USER = "ada-lovelace"


class Life(Struct, frozen=True):
    """Everything that one life of a replica left at the collector and at the provider."""

    collector: Collector
    spans: list[Span]
    replies: dict[str, Reply]
    provider_heard: bytes
    workspace: str
    connection: str

    def named(self, name: str) -> list[Span]:
        return [one for one in self.spans if one.name == name]

    def children(self, span: Span) -> list[Span]:
        return [one for one in self.spans if one.parent == span.id]


@pytest.fixture(scope="module")
async def life(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Life]:
    folder = tmp_path_factory.mktemp("traces")
    catalogue = write_providers(folder / "providers", {"graceful": graceful(GRACE)})
    replies: dict[str, Reply] = {}
    with (
        collecting() as found,
        deployment(providers_dir=catalogue, egress_allow="127.0.0.1") as made,
    ):
        made.env.update(found.environ)
        replica, key = await made.one_replica()
        async with (
            providing() as sandbox,
            wired(sandbox.base) as wire,
            aiohttp.ClientSession() as session,
        ):
            house = House(made, Provider(sandbox.state, wire.base), session, key)
            api = house.api(replica)
            connection = await house.connect(replica, user=USER)
            refreshed = await api.post(f"/v1/connections/{connection}/refresh", {})
            assert refreshed.status == 200, refreshed.body
            replies["linked"] = await api.get(
                f"/v1/users/{USER}?limit=7",
                headers={"traceparent": TRACEPARENT, "tracestate": "a=b"},
            )
            replies["missing"] = await api.get(f"/v1/users/{'canary' * 3}")
            replies["bad"] = await api.get("/v1/users", headers={"traceparent": "00-canary-x-01"})
            mint = {"agent_id": "agent_1", "user_id": USER, "runtime": "sealed"}
            replies["mint"] = await api.post("/v1/conversations", mint)
            heard = b"\n".join(wire.heard)
        assert await replica.stop() == 0
        spans = found.spans
        workspace = next(
            str(one.attributes["keyturn.workspace"])
            for one in spans
            if "keyturn.workspace" in one.attributes
        )
        yield Life(found, spans, replies, heard, workspace, connection)


def test_a_request_is_a_span_by_its_routes_template(life: Life) -> None:
    [found] = life.named("POST /v1/connections/{connection_id}/refresh")
    assert found.parent == b""
    assert found.kind == 2, "a server's"
    assert found.attributes["http.route"] == "/v1/connections/{connection_id}/refresh"
    assert found.attributes["http.request.method"] == "POST"
    assert found.attributes["http.response.status_code"] == 200
    assert re.fullmatch(r"req_\w+", found.attributes["keyturn.request_id"])
    assert life.workspace.startswith("ws_")


def test_what_a_request_does_stands_below_it(life: Life) -> None:
    [request] = life.named("POST /v1/connections/{connection_id}/refresh")
    [refresh] = [one for one in life.children(request) if one.name == "refresh"]
    assert refresh.attributes == {"keyturn.provider": "graceful", "keyturn.outcome": "refreshed"}
    [call] = life.children(refresh)
    assert call.name == "call provider"
    assert call.attributes == {
        "keyturn.purpose": "provider",
        "keyturn.provider": "graceful",
        "http.response.status_code": 200,
    }
    statements = {one.name for one in life.children(request)} - {"refresh"}
    assert "vault.api_keys.lookup" in statements
    assert {"begin", "commit"} <= statements


def test_a_mint_is_one_too(life: Life) -> None:
    [found] = life.named("POST /v1/conversations")
    assert found.attributes["http.response.status_code"] == life.replies["mint"].status


def test_statements_are_named_and_their_text_is_not_told(life: Life) -> None:
    every = [one for one in life.spans if "db.system.name" in one.attributes]
    assert len(every) > 20
    for one in every:
        assert one.attributes["db.query.summary"] == one.name
        assert one.name in {"begin", "commit", "rollback", "other"} or one.name.count(".") == 2


def test_only_what_is_on_the_list_is_told(life: Life) -> None:
    told = {name for one in life.spans for name in one.attributes}
    assert told <= ATTRIBUTES.keys()
    assert told >= ATTRIBUTES.keys() - {"db.response.status_code"}
    assert all(one.events == 0 and one.text == "" for one in life.spans)
    for one in life.collector.resources:
        assert one["service.name"] == "keyturn"
        assert {name.partition(".")[0] for name in one} == {"service", "telemetry"}


def test_a_callers_trace_is_linked_and_decides_nothing(life: Life) -> None:
    linked = [one for one in life.spans if one.links]
    assert [one.links for one in linked] == [[bytes.fromhex(CALLERS_TRACE)]]
    assert linked[0].name == "GET /v1/users/{user_id}"
    assert linked[0].parent == b""
    assert bytes.fromhex(CALLERS_TRACE) not in {one.trace for one in life.spans}
    assert life.replies["bad"].status == 200


def test_no_trace_goes_on_to_a_provider(life: Life) -> None:
    assert life.provider_heard
    heard = life.provider_heard.lower()
    assert b"grant_type=refresh_token" in heard
    for word in (b"traceparent", b"tracestate", b"baggage"):
        assert word not in heard
    assert not any(one.trace.hex().encode() in heard for one in life.spans)


def test_nothing_of_anybody_is_in_a_trace(life: Life) -> None:
    everything = b"".join(life.collector.bodies)
    for word in ("canary", USER, life.connection, "limit=7", "127.0.0.1"):
        assert word.encode() not in everything, word


def test_a_library_that_is_not_asked_for_is_not_loaded() -> None:
    code = (
        "import sys, broker.cli, broker.api.tracing\n"
        "with broker.api.tracing.tracing({}) as traces: assert traces is None\n"
        "assert not [one for one in sys.modules if one.split('.')[0] == 'opentelemetry']"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        env=environment(),
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=False,
        timeout=SLOW,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("environ", "found"),
    [
        ({}, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, "http://c:4318"),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "https://c/x"}, "https://c/x"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c", "OTEL_SDK_DISABLED": "TRUE"}, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c", "OTEL_TRACES_EXPORTER": "none"}, None),
    ],
)
def test_the_usual_variables_say_whether_there_are_traces(
    environ: dict[str, str], found: str | None
) -> None:
    assert traces_go_to(environ) == found


def test_no_url_of_a_workspace_leads_to_the_collector() -> None:
    assert collector({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}) == [Endpoint("c", 4318)]
    assert collector({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "https://c/x"}) == [Endpoint("c", 443)]
    assert collector({}) == []


def test_a_collector_without_the_extra_is_refused_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with (
        pytest.raises(Misconfigured, match="the extra 'otel' is not installed"),
        tracing.tracing({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}),
    ):
        pass


def test_every_attribute_is_documented() -> None:
    page = (Path(CHECKOUT) / "docs" / "howto" / "traces.md").read_text()
    rows = dict(re.findall(r"^\| `([a-z_.]+)` \| ([^|]+) \|$", page, re.MULTILINE))
    assert {name: rows.get(name) for name in ATTRIBUTES} == ATTRIBUTES
