"""The documentation says what there is, all of it, and nothing else; its commands are run."""

import asyncio
import base64
import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast, get_args

import asyncpg
import msgspec
import pytest
import rich_click as click
from conftest import Tenant
from support.api import Running
from support.journeys import Clock
from support.ports import free_port
from support.sandbox import providing
from support.states import edges

from broker.api import lights
from broker.api.problems import STATUS
from broker.app import Service, create_service
from broker.broker import Broker
from broker.cli import main as keyturn
from broker.events import request_of
from broker.settings import Settings
from vault import database, events
from vault.access import ACTIONS
from vault.audit import HAPPENINGS
from vault.embedded import Embedded
from vault.events.deliveries import Delivery
from vault.lifecycle.events import AnyEvent
from vault.lifecycle.life import State
from vault.model import SCOPES
from vault.oauth.replies import Outcome
from vault.providers import schema as provider_file
from vault.scheduler import Job, ticking
from vault.secret import Secret
from vault.settings import names
from vault.vault import Vault

ROOT = Path(__file__).resolve().parents[1]
REFERENCE = ROOT / "docs" / "reference"
BACKGROUND = {"OPTIONS", "HEAD"}
# Litestar's own, for what is not there: it answers 404.
NOT_OURS = {"/schema/{path}"}
# A route that takes all of these is documented once, as ANY.
ANY = {"GET", "POST", "PUT", "PATCH", "DELETE"}
# Where a page has a web server stand for the platform.
OF_THE_PLATFORM = "8431"
PATIENCE = 300.0
# The launcher reads this one and takes it away before the service starts.
OF_THE_LAUNCHER = {"KEYTURN_VENV"}

SETTING = re.compile(r"\bKEYTURN_[A-Z0-9_]*[A-Z0-9]")
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]\n]+\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
CODE = re.compile(r"`([^`\n]+)`")
OUR_FILE = re.compile(r"(?:tests|docs|vault|broker|bench|deploy|examples)/[\w./-]*")
MACHINE_PATH = re.compile(r"(?<![\w.])/(?:root|work|home|Users|opt|mnt|tmp)/|\b[A-Z]:\\")
REGISTRY = re.compile(r"\b(?:pypi|npmjs|crates|ghcr|docker|quay)\.(?:org|com|io)\b|pythonhosted")


def pages() -> list[Path]:
    """Every page that we wrote."""
    found = [
        *ROOT.glob("*.md"),
        *(
            page
            for folder in ("docs", "deploy", "examples")
            for page in ROOT.glob(f"{folder}/**/*.md")
        ),
    ]
    assert len(found) > 20
    return sorted(found)


def text_of(name: str) -> str:
    return (ROOT / name).read_text()


def prose(text: str) -> str:
    """A page without its blocks."""
    return FENCE.sub("", text)


def blocks(text: str) -> list[tuple[str, str]]:
    """The fenced blocks of a page: language and content, without the indentation of a list."""
    return [
        (language, "\n".join(line.removeprefix(indent) for line in body.splitlines()))
        for indent, language, body in FENCE.findall(text)
    ]


def rows(text: str) -> list[list[str]]:
    """The rows of all tables, without the lines that only rule them."""
    cells = [
        [cell.strip() for cell in line.strip().strip("|").split("|")]
        for line in text.splitlines()
        if line.strip().startswith("|")
    ]
    return [row for row in cells if not set("".join(row)) <= set("-: ")]


def first_codes(text: str) -> list[str]:
    """What stands in backticks in the first cells of all tables."""
    return [code for row in rows(text) for code in CODE.findall(row[0])]


def sections(text: str, level: str = "###") -> dict[str, str]:
    """What stands under each heading, up to the next one."""
    parts = re.split(r"^(#+) (.+)\n", text, flags=re.MULTILINE)
    found = zip(parts[1::3], parts[2::3], parts[3::3], strict=True)
    return {title: body for depth, title, body in found if depth == level}


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as the usual hosts make them."""
    titles = [title.lower().replace("`", "") for title in HEADING.findall(prose(page.read_text()))]
    return {re.sub(r"[^\w\- ]", "", title).replace(" ", "-") for title in titles}


def shown(value: object) -> str:
    """A default as the page writes it."""
    if value is None:
        return "none"
    return f"`{value}`" if value != "" else "empty"


def launcher() -> set[str]:
    """The commands of ``./dev``."""
    told = subprocess.run(
        [sys.executable, str(ROOT / "dev"), "--help"], capture_output=True, text=True, check=True
    ).stdout
    return set(re.findall(r"^  (\w+) ", told, re.MULTILINE))


# What there is


def nobodys_service() -> Service:
    """A service that says what it has. Nothing is asked of the vault for that."""
    return create_service(
        cast("Vault", SimpleNamespace(egress=None)),
        cast("Broker", None),
        Settings(mode="development"),
    )


def routes() -> set[str]:
    """Every method and address of the service."""
    found = set()
    for route in nobodys_service().app.routes:
        methods = set(getattr(route, "methods", ())) - BACKGROUND
        if route.path_format not in NOT_OURS:
            named = {"ANY"} if methods >= ANY else methods
            found |= {f"{method} {route.path_format}" for method in named}
    return found


def commands(command: click.Command, words: str = "keyturn") -> Iterator[tuple[str, click.Command]]:
    """Every command that does something, by its words."""
    children = getattr(command, "commands", {})
    if not children or getattr(command, "invoke_without_command", False):
        yield words, command
    for name, child in children.items():
        yield from commands(child, f"{words} {name}")


def options(command: click.Command) -> set[str]:
    return {
        name for one in command.params if isinstance(one, click.Option) for name in one.opts
    } - {"--help"}


# The reference is complete, and holds nothing that is gone


def test_every_setting_is_documented_with_its_default() -> None:
    page = text_of("docs/reference/settings.md")
    table = [row for row in rows(page) if SETTING.search(row[0])]
    documented = [name for row in table for name in CODE.findall(row[0])]
    assert sorted(documented) == sorted(names(Settings))
    defaults = {field.name: shown(field.default) for field in msgspec.structs.fields(Settings)}
    for row in table:
        field = CODE.findall(row[0])[0].removeprefix("KEYTURN_").lower()
        assert row[1] == defaults[field], row[0]


def test_no_page_names_a_setting_that_does_not_exist() -> None:
    known = {*names(Settings), *OF_THE_LAUNCHER}
    for page in pages():
        assert set(SETTING.findall(page.read_text())) <= known, page.name


def test_every_setting_of_the_launcher_is_documented() -> None:
    page = text_of("docs/reference/settings.md")
    assert set(SETTING.findall(text_of("dev"))) >= OF_THE_LAUNCHER
    assert set(SETTING.findall(page)) >= OF_THE_LAUNCHER


def test_every_route_is_documented() -> None:
    documented = sections(text_of("docs/reference/http.md"))
    assert set(documented) == routes()


def test_every_error_that_a_route_declares_is_named_with_it() -> None:
    schema = nobodys_service().app.openapi_schema
    documented = sections(text_of("docs/reference/http.md"))
    everywhere = {"unauthenticated", "forbidden", "internal", "not_ready"}
    for path, item in schema.to_schema()["paths"].items():
        for method in {"get", "put", "post", "delete", "patch"} & item.keys():
            declared = {
                code
                for answer in item[method]["responses"].values()
                for code in CODE.findall(answer.get("description", ""))
                if code in STATUS
            }
            said = set(CODE.findall(documented[f"{method.upper()} {path}"])) & STATUS.keys()
            assert said - everywhere == declared - everywhere, f"{method} {path}"


def test_every_scope_and_every_recorded_action_is_documented() -> None:
    page = text_of("docs/reference/http.md")
    for scope in SCOPES:
        assert f"`{scope}`" in page
    table = next(body for title, body in sections(page).items() if "audit-events" in title)
    documented = {code for code in first_codes(table) if "." in code}
    assert documented <= {*ACTIONS, *HAPPENINGS}
    code = "".join(
        file.read_text()
        for package in ("vault", "broker")
        for file in (ROOT / package).rglob("*.py")
    )
    recorded = set(re.findall(r'(?:audit\.record|_recorded)\(\s*tx,\s*[\w.]+,\s*"([\w.]+)"', code))
    recorded |= set(re.findall(r'\baction="(\w+\.\w+)"', code))
    # A statement that hands credentials out writes its own line.
    statements = "".join(file.read_text() for file in ROOT.glob("*/sql/*.sql"))
    recorded |= {action for action in ACTIONS if f"'{action}'" in statements}
    # One method resolves, for both; it is told which.
    assert documented == recorded | {"configuration.show", "configuration.use"}


def test_every_metric_is_documented() -> None:
    metrics = nobodys_service().metrics
    there = {
        family.name + ("_total" if family.type == "counter" else "")
        for family in metrics.registry.collect()
    }
    page = text_of("docs/reference/http.md")
    assert {code for code in first_codes(page) if code.startswith("keyturn_")} == there


def test_every_error_code_is_documented_with_its_status() -> None:
    table = [row for row in rows(prose(text_of("docs/reference/errors.md"))) if row[0] != "code"]
    assert {row[0].strip("`"): int(row[1]) for row in table} == STATUS


def test_every_command_and_option_is_documented() -> None:
    documented = sections(text_of("docs/reference/cli.md"))
    there = dict(commands(keyturn))
    assert set(documented) == {"keyturn", *there}
    assert set(first_codes(documented["keyturn"])) == options(keyturn)
    for words, command in there.items():
        assert set(first_codes(documented[words])) == options(command), words


def test_every_module_is_documented() -> None:
    there = {
        str(file.relative_to(ROOT))
        for package in ("vault", "broker")
        for file in (ROOT / package).rglob("*.py")
    }
    staircase = text_of("docs/architecture.md").partition("## The staircase")[2]
    named = [code for code in first_codes(staircase) if code.endswith(".py")]
    assert sorted(named) == sorted(there)


def test_every_field_of_a_providers_file_is_documented_with_its_default() -> None:
    documented = sections(text_of("docs/reference/provider-file.md"))
    parts = {
        name: part
        for name, part in vars(provider_file).items()
        if isinstance(part, type) and issubclass(part, provider_file.Part)
    }
    del parts["Part"]
    assert set(documented) == set(parts)
    for name, part in parts.items():
        there = {field.encode_name: field.default for field in msgspec.structs.fields(part)}
        table = [row for row in rows(documented[name]) if CODE.search(row[0])]
        assert first_codes(documented[name]) == list(there), name
        for row in table:
            default = there[row[0].strip("`")]
            if isinstance(default, str) and default.strip():
                assert row[1] == f"`{default}`", f"{name}: {row[0]}"
            if isinstance(default, bool):
                assert row[1] == f"`{str(default).lower()}`", f"{name}: {row[0]}"


def test_every_state_and_every_way_from_one_to_another_is_documented() -> None:
    page = text_of("docs/reference/states.md")
    parts = sections(page, "##")
    assert first_codes(parts["States"]) == list(get_args(State))
    [(_, drawing)] = blocks(page)
    for state in get_args(State):
        # No connection has this one today, and the page says so.
        assert (state in drawing) != (state == "revoking"), state
    shown = [[CODE.findall(cell) for cell in row] for row in rows(parts["Edges"])]
    ways = {(row[0][0], row[1][0]): set(row[2]) for row in shown if len(row) == 4 and row[0]}
    assert ways == edges()
    named = {code for row in shown if len(row) < 4 for code in row[0]}
    assert named == {*(one.__name__ for one in get_args(AnyEvent)), *get_args(Outcome)}


def test_every_event_that_a_platform_hears_of_is_documented() -> None:
    table = [row for row in rows(text_of("docs/reference/events.md")) if CODE.search(row[0])]
    types = [code for row in table for code in CODE.findall(row[0]) if "." in code]
    assert types == list(get_args(events.Type))
    fields = {code for row in table for code in CODE.findall(row[0]) if "." not in code}
    assert fields == set(events.News.__struct_fields__)


async def test_every_table_and_column_is_documented(migrated: Embedded) -> None:
    connection = await asyncpg.connect(migrated.dsn().reveal())
    found = await connection.fetch(
        "select c.relname, a.attname from pg_class c join pg_attribute a on a.attrelid = c.oid"
        " where c.relnamespace = 'vault'::regnamespace and c.relkind in ('r', 'p')"
        " and a.attnum > 0 and not a.attisdropped"
    )
    functions = await connection.fetch(
        "select proname from pg_proc where pronamespace = 'vault'::regnamespace"
    )
    await connection.close()
    page = text_of("docs/reference/database.md")
    documented = {
        (title.removeprefix("vault."), column)
        for title, body in sections(page).items()
        for column in first_codes(body)
    }
    assert documented == {tuple(row) for row in found}
    assert set(re.findall(r"`vault\.(\w+)\(", page)) == {name for [name] in functions}


def test_every_role_is_documented() -> None:
    there = set(re.findall(r"\bkeyturn_\w+", text_of("vault/migrations/roles.sql")))
    assert set(first_codes(sections(text_of("docs/reference/database.md"), "##")["Roles"])) == there


def test_every_dependency_has_its_reason() -> None:
    project = text_of("pyproject.toml").partition("dependencies = [")[2].partition("]")[0]
    there = set(re.findall(r'"([\w-]+)', project))
    assert set(first_codes(text_of("docs/decisions/0003-dependencies.md"))) == there


# The pages hold together


def test_every_link_leads_somewhere() -> None:
    for page in pages():
        for target in LINK.findall(prose(page.read_text())):
            if target.startswith("https://"):
                continue
            path, _, anchor = target.partition("#")
            file = (page.parent / path).resolve() if path else page
            assert file.is_relative_to(ROOT), f"{page.name}: {target} leaves the repository"
            assert file.exists(), f"{page.name}: {target} does not exist"
            assert not anchor or anchor in anchors(file), f"{page.name}: {target} has no such title"


def test_every_file_that_a_page_names_exists() -> None:
    # The guides show how to make new files; those are called things.
    for page in pages():
        for code in CODE.findall(prose(page.read_text())):
            if OUR_FILE.fullmatch(code) and "things" not in code and "NNNN" not in code:
                assert (ROOT / code).exists(), f"{page.name}: {code} does not exist"


def test_every_page_is_on_the_map() -> None:
    index = ROOT / "docs" / "index.md"
    linked = {(index.parent / target).resolve() for target in LINK.findall(index.read_text())}
    for page in (ROOT / "docs").rglob("*.md"):
        assert page in linked | {index}, f"{page.name} is not in docs/index.md"


def test_the_readme_shows_the_commands_to_begin_with() -> None:
    there = launcher()
    shown_lines = [line for _, body in blocks(text_of("README.md")) for line in body.splitlines()]
    for command in ("demo", "serve", "test"):
        assert f"$ ./dev {command}" in shown_lines
        assert command in there


def test_every_command_that_a_page_shows_exists() -> None:
    there = launcher()
    seen = 0
    for page in pages():
        for line in re.findall(
            r"^\$ (.+)$", "\n".join(body for _, body in blocks(page.read_text())), re.MULTILINE
        ):
            words = [
                word
                for word in shlex.split(line, comments=True)
                if "=" not in word or word.startswith("-")
            ]
            if words and words[0] == "./dev":
                assert words[1] in there, f"{page.name}: {line}"
                words = ["keyturn", *words[2:]] if words[1] == "run" else []
            if words and words[0] == "keyturn":
                understood(words[1:], f"{page.name}: {line}")
                seen += 1
    assert seen > 5


def understood(words: list[str], where: str) -> None:
    """Walk down the commands; every option has to be one of the last."""
    command: click.Command = keyturn
    for word in words:
        children = getattr(command, "commands", {})
        if word in children:
            command = children[word]
        elif word.startswith("-"):
            assert word in options(command), where
        else:
            assert not children, where


def test_no_page_names_a_place_of_one_machine_or_where_packages_come_from() -> None:
    for page in pages():
        assert not MACHINE_PATH.search(page.read_text()), page.name
        assert not REGISTRY.search(page.read_text()), page.name


# The pages that show commands are run


def likeness(value: object) -> object:
    """What an answer looks like: its fields, and how many; not its ids and times."""
    if isinstance(value, dict):
        fields = cast("dict[str, object]", value)
        kept = (
            "name",
            "code",
            "status",
            "detail",
            "action",
            "outcome",
            "scopes",
            "environments",
            "state",
            "revoked",
        )
        return {
            key: item if key in kept else likeness(item) for key, item in sorted(fields.items())
        }
    if isinstance(value, list):
        return [likeness(item) for item in cast("list[object]", value)]
    return type(value).__name__


def steps(page: str) -> list[tuple[str, Any]]:
    """The commands of a page, each with the answer that is printed below it."""
    found: list[tuple[str, Any]] = []
    for language, body in blocks(text_of(page)):
        if language == "sh":
            found.append((body, None))
        elif language == "json":
            assert found, "an answer follows its command"
            assert found[-1][1] is None, "a command has one answer"
            found[-1] = (found[-1][0], json.loads(body))
    return found


def test_the_receiver_of_the_page_believes_what_we_sign_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    [receiver] = [
        body
        for language, body in blocks(text_of("docs/howto/receive-events.md"))
        if language == "python"
    ]
    secret = "whsec_" + base64.b64encode(bytes(range(32))).decode()
    monkeypatch.setenv("EVENT_SECRET", secret)
    page: dict[str, Any] = {}
    exec(receiver, page)  # noqa: S102 - our own page
    now = datetime.now(UTC)
    body = b'{"type":"connection.connected","integration":"acme","environment":"production"}'
    delivery = Delivery("evt_1", "connection.connected", now, body.decode(), 0, now)
    other = Secret("whsec_" + base64.b64encode(bytes(32)).decode())

    def heard(*secrets: Secret, at: datetime = now, more: bytes = b"") -> Any:
        sent = request_of("https://app.acme.com/", secrets, delivery, at)
        assert isinstance(sent.body, bytes)
        return page["event_of"](dict(sent.headers), sent.body + more)

    assert heard(Secret(secret))["data"] == {"integration": "acme", "environment": "production"}
    assert heard(other, Secret(secret))["type"] == "connection.connected"
    for forged in (
        partial(heard, other),
        partial(heard, Secret(secret), more=b" "),
        partial(heard, Secret(secret), at=now - timedelta(minutes=6)),
        partial(heard, Secret(secret), at=now + timedelta(minutes=6)),
    ):
        with pytest.raises(ValueError, match="not from Keyturn"):
            forged()


async def nothing() -> int:
    """Find nothing to do."""
    return 0


@pytest.mark.skipif(shutil.which("curl") is None, reason="the pages use curl, which is not here")
@pytest.mark.parametrize(
    "page",
    [
        "README.md",
        "docs/getting-started.md",
        "docs/quickstart.md",
        "docs/howto/connect-accounts.md",
        "docs/howto/choose-workspaces.md",
    ],
)
async def test_the_commands_of_a_page_answer_as_printed(
    page: str,
    service: Running,
    settings: Settings,
    tenant: Tenant,
    clock: Clock,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # How long a machine may take that does much else, too, is not what a page is about.
    monkeypatch.setattr(lights, "CHECK_SECONDS", PATIENCE)
    monkeypatch.setattr(database, "PROBE_SECONDS", PATIENCE)
    told = steps(page)
    assert len(told) >= 3
    between = "---- next ----"
    script = f"\necho; echo '{between}'\n".join(command for command, _ in told)
    script += '\ntest -z "$(ls -A)" # a page cleans up behind itself'
    # Somebody else may run the same page on this machine.
    script = script.replace(OF_THE_PLATFORM, str(free_port()))
    async with providing() as sandbox, ticking([Job("nothing", 1.0, nothing)]) as ticks:
        # `keyturn serve` ticks; here what is due belongs to other tests.
        monkeypatch.setattr(service.service.app.state, "ticks", ticks)
        sandbox.state.elevenlabs.open_account("sandbox-grace")
        given = {
            "BASE": service.base,
            "KEY": tenant.key,
            "OPERATOR": settings.operator_keys[0].reveal(),
            "SANDBOX": sandbox.base,
            "UPSTREAM": sandbox.base,
        }
        # Where a page opens a browser, somebody has to sit in front of it.
        person = {
            "BROWSER": f"{sys.executable} -m support.person %s",
            "PYTHONPATH": str(ROOT / "tests"),
        }
        # Not a call that blocks: the service answers on this loop.
        shell = await asyncio.create_subprocess_exec(
            "bash",
            "-euo",
            "pipefail",
            "-c",
            script,
            env={"PATH": os.environ["PATH"], **given, **person},
            cwd=tmp_path,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        try:
            out, complaints = await asyncio.wait_for(shell.communicate(), PATIENCE)
        finally:
            # A page that breaks off leaves what it has started, and whose account it took.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(shell.pid, signal.SIGKILL)
            await clock.do("delete from vault.upstreams where base_url = $1", sandbox.base)
        monkeypatch.undo()
    assert (shell.returncode, complaints) == (0, b"")
    answers = out.decode().split(f"{between}\n")
    for (command, printed), answer in zip(told, answers, strict=True):
        said = json.loads(answer) if answer.strip() else None
        assert likeness(said) == likeness(printed), command
