"""The OpenAPI document is true: a fuzzer that knows nothing else finds nothing; /docs shows it."""

import asyncio
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from support.api import Api, Running
from support.process import Alone, alone

from broker.api.problems import STATUS
from broker.settings import Settings
from broker.web import POLICY
from vault import __version__
from vault.embedded import Embedded
from vault.secret import Secret

SIGNED = {"/hooks/elevenlabs/{workspace_id}/post-call"}
NO_KEY_NEEDED = {"/livez", "/readyz", "/metrics", "/v1/jwks/{workspace_id}"} | SIGNED
# The routes whose bodies and errors are ElevenLabs'.
COMPATIBLE = ("/v1/convai/", "/v1/workspace/")
# What is right depends on what is stored, and on what is inside a configuration that is not ours
# to describe: here a refused request is no contradiction, and the fuzzer may get through nowhere.
FREE = (
    "^/hooks/|^/tokens/|^/v1/(convai/|workspace/|resolve|tools/|integrations|connect-sessions"
    "|connections|users/[^/]+/connections|event-endpoints|agents|upstreams|conversations)"
)
# Each line of these is answered by itself, within a 200; also one that breaks the schema.
LINES = "^/v1/connections/import$"
# Of these, what it gets through to all the same.
REACHED = {
    ("GET", "/v1/integrations"),
    ("GET", "/v1/connections"),
    ("GET", "/v1/agents"),
    ("GET", "/v1/event-endpoints"),
    ("GET", "/v1/conversations"),
    ("POST", "/v1/connections/import"),
}
METHODS = {"get", "put", "post", "delete", "patch"}
# What a schema cannot say: a cursor is one that we gave, a key expires in the future, and the
# fuzzer's own key must outlive the run.
HOOKS = """
import json

import schemathesis

def mend(container, name, good):
    value = container.get(name) if isinstance(container, dict) else None
    if isinstance(value, str) and 0 < len(value) <= 400 and value.isascii():
        container[name] = good

@schemathesis.serializer("application/x-ndjson")
def lines(context, value):
    return json.dumps(value).encode()

@schemathesis.hook
def before_call(context, case, kwargs):
    mend(case.query, "cursor", "a2V5XzAx")
    if isinstance(case.body, dict) and str(case.body.get("expires_at"))[:2] in ("19", "20"):
        case.body["expires_at"] = "2999-01-01T00:00:00Z"
    if (case.path_parameters or {}).get("key_id") == "OWN":
        case.path_parameters["key_id"] = "key_another"
"""
# allow_header_conformance: Litestar answers OPTIONS with the methods of one handler of the path.
# 405 answers, where it matters, name all of them (tests/broker/test_problems.py).
NOT_CHECKED = "allow_header_conformance"
ACCEPTANCE = "positive_data_acceptance"
REJECTION = "negative_data_rejection"
FEW = 6
# A long run also goes through every limit of every schema, some five thousand requests.
MANY = 300


async def fuzz(
    fuzzed: Alone, folder: Path, key: str, *words: str, unchecked: str = NOT_CHECKED
) -> None:
    """Run the fuzzer, which finds nothing."""
    (folder / "keyturn_hooks.py").write_text(HOOKS.replace("OWN", fuzzed.key_id))
    done = await asyncio.to_thread(
        subprocess.run,
        [
            str(Path(sys.executable).with_name("schemathesis")),
            *("run", f"{fuzzed.running.base}/schema/openapi.json"),
            *("--header", f"Authorization: Bearer {key}", "--checks", "all"),
            *("--exclude-checks", unchecked, "--seed", "1", "--generation-deterministic"),
            *("--request-timeout", "120", "--warnings", "off", "--no-color", *words),
        ],
        env={
            "PATH": "/usr/bin:/bin",
            "PYTHONPATH": str(folder),
            "SCHEMATHESIS_HOOKS": "keyturn_hooks",
        },
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[done.stdout.find("FAILURES") :] + done.stderr


def answered(service: Running) -> dict[tuple[str, str], set[str]]:
    """Which statuses each operation answered with, by the service's own count."""
    found: dict[tuple[str, str], set[str]] = {}
    line = re.compile(r'keyturn_http_requests_total{method="(\w+)",route="(.+)",status="(\d+)"}')
    for method, route, status in line.findall(service.service.metrics.text().decode()):
        found.setdefault((method, re.sub(r":\w+}", "}", route)), set()).add(status)
    return found


@pytest.mark.parametrize("examples", [FEW, pytest.param(MANY, marks=pytest.mark.soak)])
async def test_a_fuzzer_that_reads_the_document_finds_nothing(
    migrated: Embedded,
    fresh_database: Secret,
    root_key_file: Path,
    settings: Settings,
    tmp_path: Path,
    examples: int,
) -> None:
    operator_key = settings.operator_keys[0].reveal()
    phases = "examples,fuzzing,stateful" + (",coverage" if examples == MANY else "")
    size = ("--max-examples", str(examples), "--phases", phases)
    operators = "^/v1/workspaces"
    # Its own database: the fuzzer deletes whatever it finds.
    async with alone(migrated, fresh_database, root_key_file, settings) as fuzzed:
        ours = ("--exclude-path-regex", f"{operators}|{FREE}")
        await fuzz(fuzzed, tmp_path, fuzzed.key, *ours, *size)
        unchecked = f"{NOT_CHECKED},{ACCEPTANCE}"
        free = ("--include-path-regex", FREE, "--exclude-path-regex", LINES)
        await fuzz(fuzzed, tmp_path, fuzzed.key, *free, *size, unchecked=unchecked)
        lines, unchecked = ("--include-path-regex", LINES), f"{unchecked},{REJECTION}"
        await fuzz(fuzzed, tmp_path, fuzzed.key, *lines, *size, unchecked=unchecked)
        # The last one: it deletes workspaces, the fuzzer's own among them.
        await fuzz(fuzzed, tmp_path, operator_key, "--include-path-regex", operators, *size)
        statuses = answered(fuzzed.running)
    assert "500" not in set().union(*statuses.values())
    reached = {operation for operation, seen in statuses.items() if seen & {"200", "201", "204"}}
    document = fuzzed.running.service.app.openapi_schema.to_schema()
    every = {
        (method.upper(), path)
        for path, method, _ in operations(document)
        if not re.match(FREE, path) or (method.upper(), path) in REACHED
    }
    assert every > REACHED
    assert every <= reached, "the fuzzer got through to every operation"


@pytest.fixture(scope="module")
async def document(anyone: Api) -> dict[str, Any]:
    found: dict[str, Any] = (await anyone.get("/schema/openapi.json")).json
    return found


def operations(document: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    return [
        (path, method, operation)
        for path, item in document["paths"].items()
        for method, operation in item.items()
        if method in METHODS
    ]


def references(part: object) -> list[str]:
    if isinstance(part, dict):
        own = [part["$ref"]] if isinstance(part.get("$ref"), str) else []
        return own + [one for value in part.values() for one in references(value)]
    if isinstance(part, list):
        return [one for value in part for one in references(value)]
    return []


async def test_the_document_is_openapi_3_1_and_says_whose_it_is(document: dict[str, Any]) -> None:
    assert document["openapi"].startswith("3.1")
    assert (document["info"]["title"], document["info"]["version"]) == ("Keyturn", __version__)
    for reference in references(document):
        name = reference.removeprefix("#/components/schemas/")
        assert name in document["components"]["schemas"], reference


async def test_every_operation_says_what_it_is_and_what_may_go_wrong(
    document: dict[str, Any],
) -> None:
    tags = {tag["name"] for tag in document["tags"]}
    every = operations(document)
    identifiers = [operation["operationId"] for _, _, operation in every]
    assert len(identifiers) == len(set(identifiers))
    for path, method, operation in every:
        where = f"{method} {path}"
        assert operation["summary"], where
        assert set(operation["tags"]) <= tags, where
        assert len(operation["tags"]) == 1, where
        expected = {"503"} if path in NO_KEY_NEEDED else {"401", "403", "500", "503"}
        assert expected <= set(operation["responses"]), where
        if "requestBody" in operation:
            assert {"413", "422"} <= set(operation["responses"]), where
            assert "400" in operation["responses"] or path.startswith(COMPATIBLE), where


async def test_every_error_in_the_document_is_a_problem_with_known_codes(
    document: dict[str, Any],
) -> None:
    for path, method, operation in operations(document):
        for status, answer in operation["responses"].items():
            if int(status) < 400 or (path, status) == ("/readyz", "503"):
                continue
            if path.startswith(COMPATIBLE):
                continue
            where = f"{method} {path} {status}"
            assert list(answer["content"]) == ["application/problem+json"], where
            [media] = answer["content"].values()
            assert media["schema"] == {"$ref": "#/components/schemas/Problem"}, where
            for code, example in media["examples"].items():
                assert STATUS[code] == int(status), where
                assert example["value"]["code"] == code, where


async def test_every_error_of_the_compatible_routes_is_elevenlabs(document: dict[str, Any]) -> None:
    for path, method, operation in operations(document):
        for status, answer in operation["responses"].items():
            if int(status) < 400 or not path.startswith(COMPATIBLE):
                continue
            name = "BrokenRules" if status == "422" else "ErrorOut"
            reference = {"$ref": f"#/components/schemas/{name}"}
            assert answer["content"] == {"application/json": {"schema": reference}}, (
                f"{method} {path} {status}"
            )


async def test_what_is_received_is_strict_and_what_is_sent_is_not(
    document: dict[str, Any],
) -> None:
    schemas = document["components"]["schemas"]
    for name in ("CreateString", "Reference", "NewSecret", "CreateBasic", "UserIn"):
        assert schemas[name]["additionalProperties"] is False, name
    for name in ("VariableOut", "SecretOut", "AuthConnectionOut", "UserOut", "ErrorOut"):
        assert "additionalProperties" not in schemas[name], name


async def test_a_new_variables_values_are_those_of_its_type(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]

    def values(name: str) -> Any:
        return schemas[name]["properties"]["values"]["additionalProperties"]

    assert values("CreateString")["type"] == "string"
    for name, field in (("CreateSecret", "secret_id"), ("CreateAuth", "auth_connection_id")):
        assert (values(name)["type"], values(name)["required"]) == ("object", [field])
    [text] = [one for one in values("CreateString")["anyOf"] if one.get("type") == "string"]
    assert text["minLength"] == 1


async def test_every_operation_but_those_for_machines_needs_a_key(
    document: dict[str, Any],
) -> None:
    assert document["security"] == [{"bearer": []}, {"xi-api-key": []}]
    for path, method, operation in operations(document):
        free = operation.get("security") == [{}]
        assert free == (path in NO_KEY_NEEDED), f"{method} {path}"


async def test_an_operation_without_a_key_answers_401_and_those_for_machines_do_not(
    document: dict[str, Any], anyone: Api
) -> None:
    for path, method, _ in operations(document):
        answer = await anyone.call(method.upper(), re.sub(r"{\w+}", "some_id", path), body={})
        is_closed = path not in NO_KEY_NEEDED or path in SIGNED
        assert (answer.status == 401) == is_closed, f"{method} {path}"


class Seen(HTMLParser):
    """Everything in a page that makes a browser fetch or run something."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.tags: set[str] = set()
        self.inline: list[str] = []
        self.anchors: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attrs:
            if name in {"href", "src", "srcset", "action", "data", "poster"}:
                self.addresses.append(value or "")
            if name == "style" or name.startswith("on"):
                self.inline.append(name)
            if name == "id":
                self.anchors.add(value or "")


async def test_the_docs_page_works_without_a_network_and_under_its_policy(
    anyone: Api, document: dict[str, Any]
) -> None:
    page = await anyone.get("/docs")
    assert (page.status, page.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    policy = page.headers["Content-Security-Policy"]
    assert policy == POLICY
    rules = dict(rule.strip().partition(" ")[::2] for rule in policy.split(";"))
    assert (rules["default-src"], rules["style-src"]) == ("'none'", "'self'")
    assert (rules["frame-ancestors"], rules["base-uri"]) == ("'none'", "'none'")
    assert "unsafe" not in policy
    assert "http" not in policy
    seen = Seen()
    seen.feed(page.body.decode())
    assert not seen.tags & {"script", "style", "iframe", "object", "embed", "base", "form"}
    assert seen.inline == []
    assert [one for one in seen.addresses if not re.match(r"/(?!/)|#", one)] == []
    for address in seen.addresses:
        if address.startswith("/"):
            assert (await anyone.get(address)).status == 200, address
        else:
            assert address[1:] in seen.anchors, address
    for path, _, operation in operations(document):
        assert operation["operationId"] in seen.anchors, path
        assert path in page.body.decode(), path


async def test_the_style_sheet_fetches_nothing(anyone: Api) -> None:
    style = await anyone.get("/static/pico.min.css")
    assert (style.status, style.headers["Content-Type"]) == (200, "text/css; charset=utf-8")
    text = style.body.decode()
    assert "@import" not in text
    assert [one for one in re.findall(r"url\(([^)]*)\)", text) if "data:" not in one[:6]] == []
