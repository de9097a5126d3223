"""Alarms and dashboard ask for numbers that the service shows, by labels that it gives them."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final, cast

import pytest
import yaml  # type: ignore[import-untyped] # it ships no types
from prometheus_client import CollectorRegistry
from prometheus_client.metrics import MetricWrapperBase

from broker.app import create_service
from broker.broker import Broker
from broker.settings import Settings
from vault.vault import Vault

CHECKOUT: Final = Path(__file__).resolve().parents[2]
DEPLOY: Final = CHECKOUT / "deploy"
RULES: Final = DEPLOY / "prometheus" / "rules.yml"
DASHBOARD: Final = DEPLOY / "grafana" / "dashboards" / "keyturn.json"
PAGE: Final = CHECKOUT / "docs" / "howto" / "monitoring.md"
# What Prometheus adds by itself; where a metric has one of these names, it gets another one.
OF_PROMETHEUS: Final = {"job", "instance"}
OWN: Final = {"up": OF_PROMETHEUS}

METRIC: Final = re.compile(r"\b(keyturn_\w+|up)\b(?:\{([^}]*)\})?")
MATCHER: Final = re.compile(r'(\w+)\s*(?:=~|!~|!=|=)\s*"([^"]*)"')
GROUPING: Final = re.compile(r"\b(?:by|on)\s*\(([^)]*)\)")
PROMTOOL: Final = shutil.which("promtool")


def series() -> dict[str, set[str]]:
    """Every series that the service shows, with its labels as Prometheus keeps them."""
    service = create_service(
        cast("Vault", SimpleNamespace(egress=None)),
        cast("Broker", None),
        Settings(mode="development"),
    )
    found = dict(OWN)
    for name, kind, labels in collectors(service.metrics.registry):
        renamed = {f"exported_{one}" if one in OF_PROMETHEUS else one for one in labels}
        kept = renamed | OF_PROMETHEUS
        found[name] = kept
        if kind == "histogram":
            found |= {f"{name}_sum": kept, f"{name}_count": kept, f"{name}_bucket": kept | {"le"}}
    return found


def collectors(registry: CollectorRegistry) -> list[tuple[str, str, set[str]]]:
    """Name, kind and labels of each metric, also of one that has no series yet."""
    found: list[tuple[str, str, set[str]]] = []
    for one in registry._collector_to_names:  # noqa: SLF001 - one without a series shows none
        if isinstance(one, MetricWrapperBase):
            found.append((one._name, str(one._type), set(one._labelnames)))  # noqa: SLF001 - as above
        else:
            families: Any = list(one.collect())
            found += [(each.name, each.type, set(each._labelnames)) for each in families]  # noqa: SLF001 - as above
    endings = {"counter": "_total"}
    return [(name + endings.get(kind, ""), kind, labels) for name, kind, labels in found]


def rules() -> list[dict[str, Any]]:
    return [
        rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]
    ]


def panels() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(DASHBOARD.read_text())["panels"]
    return found


def questions() -> list[tuple[str, str]]:
    """Every expression, and where it stands."""
    found = [(rule["alert"], rule["expr"]) for rule in rules()]
    found += [(one["title"], each["expr"]) for one in panels() for each in one.get("targets", [])]
    assert len(found) > 40
    return found


def complaints(expression: str, there: dict[str, set[str]]) -> list[str]:
    """What an expression asks for that there is not."""
    asked = METRIC.findall(expression)
    names = [name for name, _ in asked]
    found = [f"no metric {name}" for name in names if name not in there]
    if found or not names:
        return found or ["it asks for nothing"]
    for name, matchers in asked:
        found += [
            f"{name} has no label {label}"
            for label, _ in MATCHER.findall(matchers)
            if label not in there[name]
        ]
    every = set.union(*(there[name] for name in names))
    for group in GROUPING.findall(expression):
        labels = {label.strip() for label in group.split(",")}
        found += [f"nothing has the label {label}" for label in sorted(labels - every)]
    return found


def test_alarms_and_dashboard_ask_for_what_there_is() -> None:
    there = series()
    for where, expression in questions():
        assert complaints(expression, there) == [], where


@pytest.mark.parametrize(
    ("expression", "complaint"),
    [
        ("max(keyturn_refresh_oldest_seconds) > 1", "no metric keyturn_refresh_oldest_seconds"),
        ('keyturn_tick_age_seconds{work="x"}', "keyturn_tick_age_seconds has no label work"),
        ("sum by (reason) (keyturn_connections)", "nothing has the label reason"),
        ("keyturn_http_requests > 1", "no metric keyturn_http_requests"),
        ("vector(1)", "it asks for nothing"),
    ],
)
def test_what_there_is_not_is_found(expression: str, complaint: str) -> None:
    assert complaints(expression, series()) == [complaint]


def test_every_metric_is_looked_at_by_somebody() -> None:
    asked = {name for _, expression in questions() for name, _ in METRIC.findall(expression)}
    shown = {re.sub(r"_(?:bucket|sum|count)$", "", name) for name in asked}
    names = {name for name in series() if not re.search(r"_(?:bucket|sum|count)$", name)}
    assert names - shown == set()


def test_every_alarm_says_what_it_is_and_the_page_what_to_do() -> None:
    names = [rule["alert"] for rule in rules()]
    assert len(set(names)) == len(names)
    for rule in rules():
        assert rule["labels"]["severity"] in {"warning", "critical"}, rule["alert"]
        assert rule["annotations"]["summary"].endswith((".", "?")), rule["alert"]
    told = re.findall(r"`(Keyturn\w+)`", PAGE.read_text())
    assert sorted(told) == sorted(names)


def test_the_dashboard_holds_together() -> None:
    ids = [one["id"] for one in panels()]
    assert len(set(ids)) == len(ids)
    [source] = yaml.safe_load(
        (DEPLOY / "grafana" / "provisioning" / "datasources" / "prometheus.yml").read_text()
    )["datasources"]
    for one in panels():
        if one["type"] != "row":
            assert one["datasource"]["uid"] == source["uid"], one["title"]
            assert one["description"].endswith("."), one["title"]
            assert one["targets"], one["title"]


def test_the_scraped_processes_are_those_of_the_compose_file() -> None:
    asked = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    [job] = asked["scrape_configs"]
    assert job["job_name"] == "keyturn"
    compose = yaml.safe_load((CHECKOUT / "docker-compose.yml").read_text())
    serving = {
        f"{name}:8420"
        for name, service in compose["services"].items()
        if service.get("command", [""])[0] == "serve"
    }
    assert set(job["static_configs"][0]["targets"]) == serving


@pytest.mark.skipif(PROMTOOL is None, reason="promtool is not here (.ci/run installs it)")
def test_prometheus_itself_reads_them(tmp_path: Path) -> None:
    tool = PROMTOOL or ""
    config = (DEPLOY / "prometheus" / "prometheus.yml").read_text()
    (tmp_path / "prometheus.yml").write_text(
        config.replace("/etc/prometheus/rules.yml", str(RULES))
    )
    asked = [
        {"record": f"asked:{number}", "expr": expression.replace("$__rate_interval", "5m")}
        for number, (_, expression) in enumerate(questions())
    ]
    (tmp_path / "asked.yml").write_text(
        yaml.safe_dump({"groups": [{"name": "asked", "rules": asked}]})
    )
    for words in (
        ["check", "config", str(tmp_path / "prometheus.yml")],
        ["check", "rules", str(tmp_path / "asked.yml")],
        ["test", "rules", str(Path(__file__).with_name("alarms.yml"))],
    ):
        done = subprocess.run(
            [tool, *words], capture_output=True, text=True, check=False, timeout=60
        )
        assert done.returncode == 0, done.stdout + done.stderr
