"""``keyturn``: every command, as text and as JSON, with its exit codes and its one sentence."""

import asyncio
import json
import logging
import math
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import rich_click as click
import structlog
from click.testing import CliRunner
from msgspec import Struct
from support.process import Deployment, deployment, environment, keyturn

from broker.cli import main
from broker.doctor.advice import of_settings
from broker.settings import Settings
from vault import __version__
from vault.bearer import kind_of
from vault.secret import Secret

WORKSPACE_ID = re.compile(r"ws_[0-9a-z]{26}")
KEY_ID = re.compile(r"key_[0-9a-z]{26}")


class Said(Struct, frozen=True):
    """What a command printed, and how it ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()


Run = Callable[..., Awaitable[Said]]


@contextmanager
def logging_kept() -> Iterator[None]:
    """The commands set logging up for their own process; this one goes on with its own."""
    root = logging.getLogger()
    handlers, level, structured = root.handlers, root.level, structlog.get_config()
    try:
        yield
    finally:
        root.handlers = handlers
        root.setLevel(level)
        structlog.configure(**structured)


@pytest.fixture(scope="module")
async def made() -> AsyncIterator[Deployment]:
    with deployment() as one:
        await one.migrate()
        yield one


@pytest.fixture(scope="module")
def run(made: Deployment) -> Run:
    """Run a command of that deployment's operator; in this process, since Python starts slowly."""

    def invoke(words: tuple[str, ...], stdin: str, env: dict[str, str]) -> Said:
        kept = {name: None for name in os.environ if name.startswith("KEYTURN_")}
        with logging_kept():
            done = CliRunner().invoke(main, list(words), input=stdin, env={**kept, **env})
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        return Said(done.exit_code, done.stdout, done.stderr)

    async def runs(*words: str, stdin: str = "", **settings: str) -> Said:
        more = {f"KEYTURN_{name.upper()}": value for name, value in settings.items()}
        return await asyncio.to_thread(invoke, words, stdin, {**made.env, **more})

    return runs


@pytest.fixture(autouse=True)
def unsealed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody seals the record here; doctor would say so after a minute, however many tests ran."""
    monkeypatch.setattr("broker.doctor.LATE_SECONDS", math.inf)


class Place(Struct, frozen=True):
    """A workspace that a test made by the command."""

    id: str
    name: str
    key: str


@pytest.fixture
async def place(run: Run, request: pytest.FixtureRequest) -> AsyncIterator[Place]:
    name = f"place of {request.node.name}"
    done = await run("workspace", "create", name, "--json")
    yield Place(done.json["id"], name, done.json["api_key"])
    # Whatever a test leaves in it, doctor does not find in the next one.
    await run("workspace", "delete", done.json["id"], "--yes")


async def test_a_workspace_is_made_listed_and_deleted(run: Run) -> None:
    made = await run("workspace", "create", "Acme")
    assert (made.code, made.err) == (0, "")
    first, key = made.lines
    assert re.fullmatch(r"ws_[0-9a-z]{26}  Acme", first)
    assert kind_of(key) == "api_key"
    identifier = first.split()[0]
    listed = await run("workspace", "list", "--json")
    assert (identifier, "Acme") in {(one["id"], one["name"]) for one in listed.json}
    assert any(
        identifier in line and "Acme" in line for line in (await run("workspace", "list")).lines
    )
    kept = await run("workspace", "delete", "Acme", stdin="n\n")
    assert kept.code == 1
    gone = await run("workspace", "delete", identifier, "--yes")
    assert (gone.code, gone.lines[-1]) == (0, "deleted")
    assert identifier not in (await run("workspace", "list")).out


async def test_a_deletion_that_is_confirmed_is_done(run: Run, place: Place) -> None:
    done = await run("workspace", "delete", place.name, stdin="y\n")
    assert done.code == 0
    assert f"Delete '{place.name}' and every credential in it?" in done.out
    assert place.id not in (await run("workspace", "list")).out


async def test_a_key_is_made_listed_and_revoked(run: Run, place: Place) -> None:
    made = await run(
        *("key", "create", "ci", "--scope", "mint", "--scope", "connect", "-w", place.id),
        *("--environment", "staging", "--expires-at", "2099-01-01T00:00:00+0000", "--json"),
    )
    assert made.json.keys() == {"id", "key", "name"}
    assert kind_of(made.json["key"]) == "api_key"
    [found] = [
        one
        for one in (await run("key", "list", "-w", place.name, "--json")).json
        if one["id"] == made.json["id"]
    ]
    assert (found["scopes"], found["environments"]) == (["mint", "connect"], ["staging"])
    assert found["expires_at"].startswith("2099-01-01T00:00:00")
    text = await run("key", "list", "-w", place.id)
    assert made.json["key"] not in text.out
    assert KEY_ID.search(text.out)
    gone = await run("key", "delete", made.json["id"], "-w", place.id)
    assert (gone.code, gone.lines) == (0, ["revoked"])
    again = await run("key", "delete", made.json["id"], "-w", place.id)
    assert (again.code, again.err) == (1, "keyturn: There is no such thing here.\n")


ENDLESS = {"serve", "work", "sandbox"}


def test_every_command_that_comes_to_an_end_can_answer_in_json() -> None:
    def without(group: click.Group, names: tuple[str, ...]) -> Iterator[str]:
        for name, one in group.commands.items():
            if isinstance(one, click.Group):
                yield from without(one, (*names, name))
            elif "--json" not in [option for part in one.params for option in part.opts]:
                yield " ".join((*names, name))

    assert set(without(main, ())) == ENDLESS


async def test_what_makes_changes_and_deletes_answers_in_json_as_http_does(
    run: Run, place: Place
) -> None:
    here = ("-w", place.id, "--json")
    ada = (await run("user", "put", "ada", "--name", "Ada", *here)).json
    assert (ada["id"], ada["name"], ada["phone_numbers"]) == ("ada", "Ada", [])
    assert (await run("user", "delete", "ada", "--yes", *here)).json == {"connections": []}
    made = (await run("key", "create", "ci", "--scope", "mint", *here)).json
    gone = (await run("key", "delete", made["id"], *here)).json
    assert gone == {"id": made["id"], "deleted": True}
    profile = '{"tools":"gateway"}'
    agent = (await run("agent", "put", "desk", "-", *here, stdin=profile)).json
    assert (agent["id"], agent["tools"]) == ("desk", "gateway")
    assert (await run("agent", "delete", "desk", *here)).json == {"id": "desk", "deleted": True}
    app = '{"provider":"basic"}'
    basic = (await run("integration", "put", "login", "-", *here, stdin=app)).json
    assert (basic["id"], basic["provider"]) == ("login", "basic")
    assert (await run("integration", "delete", "login", *here)).json["deleted"]
    account = '{"base_url":"https://eleven.example.com","api_key":"xi-SECRET"}'
    named = await run("upstream", "put", "elevenlabs", "-", *here, stdin=account)
    assert named.json["base_url"] == "https://eleven.example.com"
    assert "SECRET" not in named.out
    assert (await run("upstream", "delete", "elevenlabs", *here)).json["id"] == "elevenlabs"
    url = "https://example.com/events"
    endpoint = (await run("event-endpoint", "add", url, *here)).json["id"]
    assert (await run("event-endpoint", "remove", endpoint, *here)).json["deleted"]
    key = (await run("key", "generate", "--operator", "--json")).json["key"]
    assert kind_of(key) == "operator"
    deleted = (await run("workspace", "delete", place.id, "--yes", "--json")).json
    assert deleted == {"id": place.id, "deleted": True}


async def test_a_key_as_text_stands_on_a_line_of_its_own(run: Run, place: Place) -> None:
    made = await run("key", "create", "ci", "--scope", "mint", "-w", place.id)
    first, key = made.lines
    assert first.endswith("  ci")
    assert kind_of(key) == "api_key"


async def test_users_are_put_listed_and_deleted(run: Run, place: Place) -> None:
    stored = await run(
        *("user", "put", "ada", "--name", "Ada", "--phone", "+15551234567", "-w", place.id)
    )
    assert (stored.code, stored.lines) == (0, ["stored"])
    [ada] = (await run("user", "list", "-w", place.id, "--json")).json
    assert (ada["id"], ada["name"], ada["phone_numbers"]) == ("ada", "Ada", ["+15551234567"])
    assert "+15551234567" in (await run("user", "list", "-w", place.id)).out
    assert (await run("user", "delete", "ada", "-w", place.id, stdin="n\n")).code == 1
    assert (await run("user", "delete", "ada", "-w", place.id, stdin="y\n")).code == 0
    assert (await run("user", "delete", "ada", "--yes", "-w", place.id)).code == 1
    assert (await run("user", "list", "-w", place.id)).out == ""


async def test_the_record_shows_the_operator_from_this_terminal(run: Run, place: Place) -> None:
    await run("user", "put", "ada", "-w", place.id)
    await run("user", "put", "bob", "-w", place.id)
    found = (await run("audit", "-w", place.id, "--json")).json
    assert [one["action"] for one in found] == [
        "user.write",
        "user.write",
        "key.create",
        "workspace.create",
    ]
    assert all(one["actor"]["kind"] == "operator" for one in found)
    assert all(one["actor"]["id"].startswith("terminal:") for one in found)
    assert len((await run("audit", "--limit", "1", "-w", place.id, "--json")).json) == 1
    [of_ada] = (await run("audit", "--user", "ada", "-w", place.id, "--json")).json
    assert of_ada["user"]
    assert of_ada["user"] in (await run("audit", "-w", place.id)).out


async def test_what_http_refuses_the_command_refuses_too(run: Run, place: Place) -> None:
    inside, key = ("-w", place.id), ("key", "create", "k", "--scope", "mint")
    for words in (
        ("workspace", "create", ""),
        ("workspace", "create", "a\nb"),
        ("workspace", "create", "x" * 201),
        ("key", "create", "", "--scope", "mint", *inside),
        (*key, "--environment", "a b", *inside),
        (
            "key",
            "create",
            "k",
            "--scope",
            "mint",
            "--expires-at",
            "2001-01-01T00:00:00+0000",
            *inside,
        ),
        ("user", "put", "a b", *inside),
        ("user", "put", "x" * 256, *inside),
        ("user", "put", "ada", "--name", "", *inside),
        ("user", "put", "ada", "--phone", "0555 123", *inside),
    ):
        done = await run(*words)
        assert done.code in {1, 2}, words
        assert done.err
        assert "Traceback" not in done.err
    assert (await run("user", "list", *inside)).out == ""


async def test_a_workspace_has_to_be_named_where_there_are_several(run: Run, place: Place) -> None:
    await run("workspace", "create", "another")
    several = await run("user", "list")
    assert (several.code, several.err) == (
        1,
        "keyturn: Several workspaces match: name one with --workspace ID.\n",
    )
    nobody = await run("user", "list", "-w", "nobody")
    assert (nobody.code, nobody.err) == (1, "keyturn: There is no such workspace.\n")


@pytest.mark.parametrize(
    "words",
    [
        ("nonsense",),
        ("key", "create", "k"),
        ("key", "create", "k", "--scope", "root"),
        ("key", "create", "k", "--scope", "mint", "--expires-at", "tomorrow"),
        ("key", "create", "k", "--scope", "mint", "--expires-at", "2099-01-01T00:00:00"),
        ("audit", "--limit", "0"),
        ("audit", "--limit", "1001"),
        ("serve", "--nonsense"),
        ("workspace", "create"),
    ],
)
async def test_wrong_usage_is_exit_code_2(run: Run, words: tuple[str, ...]) -> None:
    done = await run(*words)
    assert (done.code, done.out) == (2, "")
    assert "--help" in done.err or "Usage" in done.err


async def test_every_command_explains_itself(run: Run) -> None:
    for name, command in main.commands.items():
        assert (await run(name, "--help")).code == 0
        assert command.help, name
        for inner, one in getattr(command, "commands", {}).items():
            assert one.help, f"{name} {inner}"
    version = await run("--version")
    assert __version__ in version.out


async def test_doctor_says_that_all_is_well_and_shows_no_secret(run: Run, made: Deployment) -> None:
    done = await run("doctor", "--json")
    findings = {one["name"]: one for one in done.json}
    assert (done.code, [one for one in done.json if not one["ok"]]) == (0, [])
    assert {"settings", "mode", "database", "schema", "root key"} <= findings.keys()
    text = await run("doctor")
    assert [line for line in text.lines if not line.startswith("ok ")] == []
    password = made.env["KEYTURN_DATABASE_URL"].split(":")[2].split("@")[0]
    assert password not in done.out + text.out


async def test_doctor_warns_where_productions_secret_would_go_to_another_host(
    run: Run, tmp_path: Path
) -> None:
    workspace = (await run("workspace", "create", "leaky", "--json")).json["id"]
    file = tmp_path / "environments.yaml"
    file.write_text(
        "version: 1\nenvironments: [production, staging]\nsecrets: {key: {value_from: {file: s}}}\n"
        "variables:\n  api_host: {type: string, values: {production: a, staging: b}}\n"
        "  api_key: {type: secret, values: {production: {secret: key}}}\n"
    )
    (tmp_path / "s").write_text("canary-secret")
    applied = await run("env", "apply", str(file), "--yes", "--workspace", workspace)
    assert applied.code == 0, applied.err
    done = await run("doctor")
    await run("workspace", "delete", workspace, "--yes")
    assert done.code == 0
    [warning] = [line for line in done.lines if line.startswith("WARN")]
    assert all(word in warning for word in (workspace, "staging", "api_host", "api_key"))
    assert "canary" not in done.out
    assert "WARN" not in (await run("doctor")).out


async def test_doctor_warns_of_agents_that_trust_a_number(run: Run, tmp_path: Path) -> None:
    workspace = (await run("workspace", "create", "trusting", "--json")).json["id"]
    file = tmp_path / "profile.json"
    for agent, trust in (("agent_easy", "caller_id"), ("agent_wary", "identify")):
        file.write_text(json.dumps({"inbound_trust": trust}))
        put = await run("agent", "put", agent, str(file), "--workspace", workspace)
        assert put.code == 0, put.err
    done = await run("doctor")
    await run("workspace", "delete", workspace, "--yes")
    [warning] = [line for line in done.lines if line.startswith("WARN telephone")]
    assert all(word in warning for word in ("telephone", workspace, "agent_easy", "forged"))
    assert "agent_wary" not in warning


async def test_doctor_warns_of_agents_whose_account_nobody_has_named(
    run: Run, place: Place, tmp_path: Path
) -> None:
    file = tmp_path / "profile.json"
    file.write_text("{}")
    put = await run("agent", "put", "agent_there", str(file), "--workspace", place.id)
    assert put.code == 0, put.err
    done = await run("doctor")
    await run("workspace", "delete", place.id, "--yes")
    [warning] = [line for line in done.lines if line.startswith("WARN")]
    assert all(word in warning for word in ("upstream", place.id, "agent_there"))


async def test_doctor_warns_of_a_workspace_that_nobody_can_use(run: Run, place: Place) -> None:
    [key] = (await run("key", "list", "--workspace", place.id, "--json")).json
    await run("key", "delete", key["id"], "-w", place.id)
    done = await run("doctor")
    await run("workspace", "delete", place.id, "--yes")
    [warning] = [line for line in done.lines if line.startswith("WARN")]
    assert all(word in warning for word in ("keys", place.id, "no key that is alive"))


async def test_doctor_warns_of_what_is_paused_broken_late_or_not_delivered(
    run: Run, place: Place, made: Deployment
) -> None:
    added = await run(
        *("event-endpoint", "add", "https://example.com/hook", "--workspace", place.id)
    )
    assert added.code == 0, added.err
    admin = await asyncpg.connect(made.owner.reveal())
    await admin.execute("set session_replication_role = replica")  # no integrations are needed
    await admin.execute("update vault.event_endpoints set failures = 3, failing_since = now()")
    await admin.execute(
        "insert into vault.token_endpoints"
        " (workspace_id, integration, environment, provider, standing, broken, learned)"
        " values ($1, 'a', 'production', 'google', 'paused', false, '\\x'),"
        " ($1, 'b', 'production', 'google', 'held', false, '\\x'),"
        " ($1, 'c', 'production', 'slack', 'open', true, '\\x')",
        place.id,
    )
    done = await run("doctor", "--json")
    # Nothing takes them along, since they are of no integrations.
    await admin.execute("delete from vault.token_endpoints where workspace_id = $1", place.id)
    await admin.close()
    warned = {one["name"]: one["text"] for one in done.json if one["warning"]}
    texts = [one["text"] for one in done.json if one["warning"]]
    assert warned.keys() == {"integrations", "breaker", "events"}
    assert any(one.startswith("google: 1 app registrations are paused") for one in texts)
    assert any(one.startswith("google: 1 app registrations are held") for one in texts)
    assert warned["breaker"].startswith("slack: 1 token endpoints do not answer")
    assert place.id in warned["events"]
    assert done.code == 0


def test_doctor_says_what_the_settings_leave_out() -> None:
    development = of_settings(Settings(mode="development"))
    assert [one.name for one in development] == ["root key address"]
    theirs = Secret("postgresql://keyturn_app@/x")
    bare = of_settings(Settings(kek=Secret("file:///x"), database_url=theirs))
    assert [(one.name, one.warning) for one in bare] == [("worker", True)]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"port": "x"}, "KEYTURN_PORT"),
        ({"kek": "file:///nowhere/root.key"}, "/nowhere/root.key"),
        ({"database_url": "postgresql://a:hunter22@127.0.0.1:1/x"}, "cannot be reached"),
        ({"deployment_id": "another"}, "KEYTURN_DEPLOYMENT_ID"),
    ],
)
async def test_doctor_says_what_is_wrong_with_exit_code_3(
    run: Run, settings: dict[str, str], said: str
) -> None:
    done = await run("doctor", **settings)
    assert done.code == 3
    assert len([line for line in done.lines if line.startswith("BAD")]) == 1
    assert said in done.out
    assert "hunter22" not in done.out + done.err


async def test_what_stops_a_command_is_one_sentence_without_a_traceback(run: Run) -> None:
    for settings in (
        {"port": "x"},
        {"kek": "file:///nowhere/root.key"},
        {"database_url": "postgresql://a:hunter22@127.0.0.1:1/x"},
        {"deployment_id": "another"},
    ):
        done = await run("workspace", "list", **settings)
        assert (done.code, done.out) == (1, "")
        assert done.err.startswith("keyturn: ")
        assert "Traceback" not in done.err
        assert "hunter22" not in done.err


def test_keys_are_generated_with_no_configuration_at_all() -> None:
    bare = {"PATH": "/usr/bin:/bin", "PYTHONPATH": environment()["PYTHONPATH"]}
    for words, kind in (((), "api_key"), (("--operator",), "operator")):
        done = keyturn("key", "generate", *words, env=bare)
        assert (done.returncode, done.stderr) == (0, "")
        assert kind_of(done.stdout.removesuffix("\n")) == kind


async def test_an_agents_profile_is_written_shown_and_deleted(run: Run, place: Place) -> None:
    here = ("-w", place.id)
    stored = {"look": {"kind": "webhook", "config": {"url": "https://a.example/"}}}
    needed = {"tools": "gateway", "integrations": [{"integration": "google"}]}
    profile = json.dumps({**needed, "stored_tools": stored})
    assert (
        await run("agent", "put", "agent_1", "-", *here, stdin=profile)
    ).out == "agent_1: made\n"
    replaced = await run("agent", "put", "agent_1", "-", *here, stdin=profile)
    assert replaced.out == "agent_1: replaced\n"
    assert (await run("agent", "list", *here)).out.split() == ["agent_1", "google"]
    [listed] = (await run("agent", "list", "--json", *here)).json
    assert listed == (await run("agent", "show", "agent_1", "--json", *here)).json
    assert listed["stored_tools"] == stored
    assert 'tools: "gateway"' in (await run("agent", "show", "agent_1", *here)).lines
    tools = (await run("agent", "tools", "agent_1", *here)).json
    assert {one["rule"] for one in tools["findings"]} == {"no_runtime_key"}
    wrong = await run("agent", "put", "agent 1", "-", *here, stdin="{}")
    assert (wrong.code, wrong.err) == (1, "keyturn: This is no agent's id.\n")
    garbage = await run("agent", "put", "agent_1", "-", *here, stdin='{"nothing":"hunter22"}')
    assert garbage.code == 2
    assert "hunter22" not in garbage.err
    assert (await run("agent", "delete", "agent_1", *here)).out == "agent_1: deleted\n"
    assert (await run("agent", "delete", "agent_1", *here)).code == 1


async def test_upstreams_are_named_listed_and_forgotten_and_their_keys_never_shown(
    run: Run, place: Place
) -> None:
    here = ("-w", place.id)
    account = {"base_url": "https://api.elevenlabs.io", "api_key": "hunter22-account"}
    project = {"url": "wss://a.livekit.cloud", "api_key": "APIa", "api_secret": "hunter22-project"}
    assert (await run("upstream", "list", *here)).out == ""
    for kind, body in (("elevenlabs", account), ("livekit", project)):
        for said in ("made", "replaced"):
            put = await run("upstream", "put", kind, "-", *here, stdin=json.dumps(body))
            assert (put.code, put.out) == (0, f"{kind}: {said}\n")
    listed = await run("upstream", "list", *here)
    assert listed.out.split() == [
        *("elevenlabs", "https://api.elevenlabs.io", "livekit", "wss://a.livekit.cloud"),
    ]
    shown = await run("upstream", "list", "--json", *here)
    assert shown.json["elevenlabs"]["webhook_secrets"] == 0
    assert shown.json["livekit"]["api_key"] == "APIa"
    assert "hunter22" not in listed.out + shown.out
    wrong = [json.dumps({**project, "api_secret": "hunter22 with a space"}), "{hunter22", "[]"]
    for stdin in wrong:
        refused = await run("upstream", "put", "livekit", "-", *here, stdin=stdin)
        assert refused.code == 2
        assert "hunter22" not in refused.out + refused.err
    assert (await run("upstream", "put", "other", "-", *here, stdin="{}")).code == 2
    assert (await run("upstream", "delete", "livekit", *here)).out == "livekit: deleted\n"
    assert (await run("upstream", "delete", "livekit", *here)).code == 1
    assert [*(await run("upstream", "list", "--json", *here)).json] == ["elevenlabs"]


async def test_a_tools_configuration_is_linted_without_asking_anybody(run: Run) -> None:
    assignment: dict[str, Any] = {"dynamic_variable": "secret__x", "value_path": "x"}
    tool = {"tool_config": {"name": "mine", "assignments": [assignment]}}
    done = await run("agent", "lint", "-", stdin=json.dumps(tool), kek="file:///nowhere")
    assert done.code == 1
    assert done.out.startswith("/assignments/0/sanitize: secret_not_sanitized: ")
    [fault] = (await run("agent", "lint", "-", "--json", stdin=json.dumps(tool))).json
    assert (fault["tool"], fault["rule"]) == ("mine", "secret_not_sanitized")
    assignment["sanitize"] = True
    assert (await run("agent", "lint", "-", stdin=json.dumps(tool))).code == 0
    assert (await run("agent", "lint", "-", stdin="[1]")).code == 2


async def test_a_generated_root_key_opens_a_deployment(run: Run, made: Deployment) -> None:
    line = await run("key", "generate", "--root")
    assert re.fullmatch(r"[0-9A-Za-z+/]{43}=\n", line.out)
    # A new key above the old one wraps from now on, and what the old one wrapped still opens.
    kept = made.root_key.read_text()
    made.root_key.write_text(line.out + kept)
    try:
        assert (await run("workspace", "create", "after the rotation")).code == 0
        assert (await run("doctor")).code == 0
    finally:
        await run("workspace", "delete", "after the rotation", "--yes")
        made.root_key.write_text(kept)


def test_only_a_service_loads_the_framework_of_its_routes() -> None:
    loaded = "import sys, broker.cli; print('litestar' in sys.modules)"
    found = subprocess.run(
        [sys.executable, "-c", loaded], capture_output=True, text=True, check=True
    )
    assert found.stdout == "False\n", "every command would take half a second longer to start"


def test_the_command_runs_as_a_process_too(made: Deployment) -> None:
    done = made.command("workspace", "list", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert isinstance(json.loads(done.stdout), list)
    refused = made.command("user", "list", "-w", "nobody")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr == "keyturn: There is no such workspace.\n"
    assert WORKSPACE_ID.search(done.stdout) or done.stdout == "[]\n"
